//! Operators and comparisons, as Python has them.

use std::cmp::Ordering;

use super::html;
use super::interpreter::Interpreter;
use super::meter::Meter;
use super::number;
use super::syntax::ast::{Comparison, Operator};
use super::text::{Builder, Text};
use super::value::{Sequence, Value, View};
use super::{Fault, Result};

impl<'t> Interpreter<'t> {
    pub fn binary(&mut self, operator: Operator, left: &Value<'t>, right: &Value<'t>) -> Result<Value<'t>> {
        for value in [left, right] {
            if let Value::Undefined(missing) = value {
                // Formatting takes any value, also an undefined one.
                if !(operator == Operator::Modulo && matches!(left, Value::Text(_))) {
                    return Err(missing.fault());
                }
            }
        }
        let meter = self.meter;
        if let Some(result) = number::arithmetic(meter, operator, left, right)? {
            return Ok(result);
        }
        match (operator, left, right) {
            (Operator::Add, Value::Text(left), Value::Text(right)) => Ok(Value::Text(concat(meter, left, right)?)),
            (Operator::Add, Value::List(left), Value::List(right)) => joined(meter, left, right).and_then(Value::list),
            (Operator::Add, Value::Tuple(left), Value::Tuple(right)) => {
                joined(meter, left, right).and_then(Value::tuple)
            }
            (Operator::Multiply, Value::Text(text), count) | (Operator::Multiply, count, Value::Text(text))
                if count.as_int().is_some() =>
            {
                let count = usize::try_from(count.as_int().unwrap_or(0)).unwrap_or(0);
                meter.read(text.len().saturating_mul(count))?;
                let mut builder = Builder::new(meter)?;
                for _ in 0..if text.is_empty() { 0 } else { count } {
                    builder.push(text)?;
                }
                Ok(Value::Text(builder.finish(text.is_markup())))
            }
            (Operator::Multiply, Value::List(list), count) | (Operator::Multiply, count, Value::List(list))
                if count.as_int().is_some() =>
            {
                repeated(meter, list, count).and_then(Value::list)
            }
            (Operator::Multiply, Value::Tuple(list), count) | (Operator::Multiply, count, Value::Tuple(list))
                if count.as_int().is_some() =>
            {
                repeated(meter, list, count).and_then(Value::tuple)
            }
            (Operator::Modulo, Value::Text(format), values) => self.percent_format(format, values),
            (Operator::Subtract, Value::View(View::Keys | View::Items, _), _)
            | (Operator::Subtract, _, Value::View(View::Keys | View::Items, _)) => {
                Err(Fault::new("sets are not supported"))
            }
            _ => Err(Fault::new(format!(
                "unsupported operand types for {}: '{}' and '{}'",
                operator.sign(),
                left.kind(),
                right.kind()
            ))),
        }
    }

    pub fn compare(&mut self, comparison: Comparison, left: &Value<'t>, right: &Value<'t>) -> Result<bool> {
        match comparison {
            Comparison::Equal => equal(self.meter, left, right),
            Comparison::NotEqual => Ok(!equal(self.meter, left, right)?),
            Comparison::In => self.contains(right, left),
            Comparison::NotIn => Ok(!self.contains(right, left)?),
            Comparison::Less => Ok(order(self.meter, left, right)? == Some(Ordering::Less)),
            Comparison::LessEqual => Ok(order(self.meter, left, right)?.is_some_and(Ordering::is_le)),
            Comparison::Greater => Ok(order(self.meter, left, right)? == Some(Ordering::Greater)),
            Comparison::GreaterEqual => Ok(order(self.meter, left, right)?.is_some_and(Ordering::is_ge)),
        }
    }

    /// Python's `item in of`.
    pub fn contains(&mut self, of: &Value<'t>, item: &Value<'t>) -> Result<bool> {
        match of {
            Value::Text(text) => {
                let Value::Text(part) = item else {
                    return Err(Fault::new(format!("'in <string>' requires string, not {}", item.kind())));
                };
                self.meter.read(text.len())?;
                Ok(text.as_str().contains(part.as_str()))
            }
            Value::Dict(dict) | Value::View(View::Keys, dict) => Ok(dict.get(self.meter, item)?.is_some()),
            Value::Range(range) if matches!(item, Value::Bool(_) | Value::Int(_)) => {
                Ok(item.as_int().is_some_and(|item| range.find(item).is_some()))
            }
            _ => {
                let mut source = self
                    .iterate(of)
                    .map_err(|_| Fault::new(format!("argument of type '{}' is not iterable", of.kind())))?;
                while let Some(other) = self.advance(&mut source)? {
                    if other.same(item) || equal(self.meter, &other, item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}

/// `left + right` of two texts. What is added to `Markup` is escaped.
fn concat(meter: &Meter, left: &Text, right: &Text) -> Result<Text> {
    let markup = left.is_markup() || right.is_markup();
    let (left, right) =
        if markup { (html::escape(meter, left)?, html::escape(meter, right)?) } else { (left.clone(), right.clone()) };
    let mut builder = Builder::new(meter)?;
    builder.push(&left)?;
    builder.push(&right)?;
    Ok(builder.finish(markup))
}

fn joined<'t>(meter: &Meter, left: &Sequence<'t>, right: &Sequence<'t>) -> Result<Vec<Value<'t>>> {
    meter.slots(left.items.len() + right.items.len())?;
    Ok([&left.items[..], &right.items[..]].concat())
}

fn repeated<'t>(meter: &Meter, list: &Sequence<'t>, count: &Value<'t>) -> Result<Vec<Value<'t>>> {
    let count = usize::try_from(count.as_int().unwrap_or(0)).unwrap_or(0);
    let count = if list.items.is_empty() { 0 } else { count };
    meter.slots(list.items.len().saturating_mul(count))?;
    Ok(std::iter::repeat_n(&list.items, count).flatten().cloned().collect())
}

/// Python's `==`. Every pair of parts is paid for.
pub(super) fn equal<'t>(meter: &Meter, left: &Value<'t>, right: &Value<'t>) -> Result<bool> {
    meter.step()?;
    match (left, right) {
        (Value::Undefined(_), Value::Undefined(_)) => Ok(true),
        (Value::Text(left), Value::Text(right)) => {
            if left.len() != right.len() {
                return Ok(false);
            }
            meter.read(left.len())?;
            Ok(left.as_str() == right.as_str())
        }
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            if left.items.len() != right.items.len() {
                return Ok(false);
            }
            for (left, right) in left.items.iter().zip(&right.items) {
                if !equal(meter, left, right)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Dict(left), Value::Dict(right)) => {
            if left.len() != right.len() {
                return Ok(false);
            }
            for (key, value) in left.iter() {
                match right.get(meter, key)? {
                    Some(other) if equal(meter, value, other)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Value::View(View::Keys | View::Items, _), Value::View(View::Keys | View::Items, _)) => {
            Ok(order(meter, left, right)? == Some(Ordering::Equal))
        }
        (Value::Range(left), Value::Range(right)) => {
            let same_start = left.start == right.start || left.length == 0;
            Ok(left.length == right.length && same_start && (left.step == right.step || left.length < 2))
        }
        (Value::Method(left), Value::Method(right)) => Ok(left.1 == right.1 && left.0.same(&right.0)),
        _ => match number::compare(left, right) {
            Some(ordering) => Ok(ordering == Some(Ordering::Equal)),
            None => Ok(left.same(right)),
        },
    }
}

/// Which of two values is smaller; `None` for NaN.
pub(super) fn order<'t>(meter: &Meter, left: &Value<'t>, right: &Value<'t>) -> Result<Option<Ordering>> {
    meter.step()?;
    if let Some(ordering) = number::compare(left, right) {
        return Ok(ordering);
    }
    match (left, right) {
        (Value::Undefined(missing), _) | (_, Value::Undefined(missing)) => Err(missing.fault()),
        (Value::Text(left), Value::Text(right)) => {
            meter.read(left.len().min(right.len()))?;
            Ok(Some(left.as_str().cmp(right.as_str())))
        }
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            for (left, right) in left.items.iter().zip(&right.items) {
                if !equal(meter, left, right)? {
                    return order(meter, left, right);
                }
            }
            Ok(Some(left.items.len().cmp(&right.items.len())))
        }
        (Value::View(View::Keys | View::Items, _), Value::View(View::Keys | View::Items, _)) => {
            order_as_sets(meter, left, right)
        }
        _ => Err(Fault::new(format!("'{}' and '{}' have no order", left.kind(), right.kind()))),
    }
}

/// The smaller of two views of keys or entries is part of the other one; `None` where neither is.
fn order_as_sets<'t>(meter: &Meter, left: &Value<'t>, right: &Value<'t>) -> Result<Option<Ordering>> {
    let (Value::View(left_view, left), Value::View(right_view, right)) = (left, right) else { return Ok(None) };
    if left_view != right_view {
        // Entries are pairs, so that a key is one only if somebody made pairs keys.
        return Err(Fault::new("sets are not supported"));
    }
    let ordering = left.len().cmp(&right.len());
    let (small, large) = if ordering == Ordering::Greater { (right, left) } else { (left, right) };
    for (key, value) in small.iter() {
        match large.get(meter, key)? {
            Some(other) if *left_view == View::Keys || equal(meter, value, other)? => {}
            _ => return Ok(None),
        }
    }
    Ok(Some(ordering))
}
