//! Operators, and values as text.

use std::fmt::Write as _;
use std::rc::Rc;

use super::eval::{Interpreter, SLOT};
use super::parser::{Comparison, Operator};
use super::value::Value;
use super::{Fault, Result};

impl<'t> Interpreter<'t, '_> {
    pub fn binary(&mut self, operator: Operator, left: &Value<'t>, right: &Value<'t>) -> Result<Value<'t>> {
        let failed = || {
            let sign = match operator {
                Operator::Add => "+",
                Operator::Subtract => "-",
                Operator::Multiply => "*",
                Operator::Divide => "/",
                Operator::FloorDivide => "//",
                Operator::Modulo => "%",
                Operator::Power => "**",
                Operator::Concatenate => "~",
            };
            Fault::new(format!("cannot compute {} {sign} {}", left.kind(), right.kind()))
        };
        match (operator, left, right) {
            (Operator::Concatenate, _, _) => {
                let mut text = self.text_of(left)?;
                self.write_text(right, &mut text)?;
                Ok(Value::text(text))
            }
            (Operator::Add, Value::Text(left), Value::Text(right)) => {
                self.bytes(left.len() + right.len())?;
                Ok(Value::text([left.as_ref(), right.as_ref()].concat()))
            }
            (Operator::Add, Value::List(left), Value::List(right)) if left.tuple == right.tuple => {
                self.bytes((left.items.len() + right.items.len()) * SLOT)?;
                Value::list([&left.items[..], &right.items[..]].concat(), left.tuple)
            }
            (Operator::Multiply, Value::Text(text), Value::Int(count))
            | (Operator::Multiply, Value::Int(count), Value::Text(text)) => {
                let count = usize::try_from(*count).unwrap_or(0);
                self.bytes(text.len().saturating_mul(count))?;
                Ok(Value::text(text.repeat(count)))
            }
            (Operator::Multiply, Value::List(list), Value::Int(count)) => {
                let count = usize::try_from(*count).unwrap_or(0);
                self.bytes(list.items.len().saturating_mul(count).saturating_mul(SLOT))?;
                let count = if list.items.is_empty() { 0 } else { count };
                let items = std::iter::repeat_n(&list.items, count).flatten().cloned().collect();
                Value::list(items, list.tuple)
            }
            _ => arithmetic(operator, left, right).ok_or_else(failed),
        }
    }

    pub fn compare(&mut self, comparison: Comparison, left: &Value<'t>, right: &Value<'t>) -> Result<bool> {
        use std::cmp::Ordering;
        let ordering = match comparison {
            Comparison::Equal => return self.equal(left, right),
            Comparison::NotEqual => return Ok(!self.equal(left, right)?),
            Comparison::In => return self.contains(right, left),
            Comparison::NotIn => return Ok(!self.contains(right, left)?),
            _ => self.order(left, right)?,
        };
        Ok(match comparison {
            Comparison::Less => ordering == Some(Ordering::Less),
            Comparison::LessEqual => ordering.is_some_and(Ordering::is_le),
            Comparison::Greater => ordering == Some(Ordering::Greater),
            _ => ordering.is_some_and(Ordering::is_ge),
        })
    }

    /// Which of two numbers or two texts is smaller; `None` for NaN.
    pub fn order(&mut self, left: &Value<'t>, right: &Value<'t>) -> Result<Option<std::cmp::Ordering>> {
        if let (Some(left), Some(right)) = (left.as_int(), right.as_int()) {
            return Ok(Some(left.cmp(&right)));
        }
        if let (Some(left), Some(right)) = (left.as_number(), right.as_number()) {
            return Ok(left.partial_cmp(&right));
        }
        match (left.as_text(), right.as_text()) {
            (Some(left), Some(right)) => {
                self.steps(left.len().min(right.len()) / 64)?;
                Ok(Some(left.cmp(right)))
            }
            _ => Err(Fault::new(format!("cannot compare {} with {}", left.kind(), right.kind()))),
        }
    }

    /// Python's `==`. Every pair of parts is paid for.
    pub fn equal(&mut self, left: &Value<'t>, right: &Value<'t>) -> Result<bool> {
        self.steps(1)?;
        match (left, right) {
            (Value::Undefined, Value::Undefined) | (Value::None, Value::None) => Ok(true),
            (Value::Text(left), Value::Text(right)) => {
                self.steps(left.len().min(right.len()) / 64)?;
                Ok(left == right)
            }
            (Value::List(left), Value::List(right)) => {
                if left.tuple != right.tuple || left.items.len() != right.items.len() {
                    return Ok(false);
                }
                for (left, right) in left.items.iter().zip(&right.items) {
                    if !self.equal(left, right)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Value::Map(left), Value::Map(right)) => {
                if left.entries.len() != right.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &left.entries {
                    let mut same = false;
                    for (other, other_value) in &right.entries {
                        if self.equal(key, other)? {
                            same = self.equal(value, other_value)?;
                            break;
                        }
                    }
                    if !same {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Value::Namespace(left), Value::Namespace(right)) => Ok(Rc::ptr_eq(left, right)),
            _ => match (left.as_int(), right.as_int()) {
                (Some(left), Some(right)) => Ok(left == right),
                _ => Ok(left.as_number().is_some() && left.as_number() == right.as_number()),
            },
        }
    }

    /// Python's `item in of`.
    pub fn contains(&mut self, of: &Value<'t>, item: &Value<'t>) -> Result<bool> {
        match of {
            Value::Undefined => Ok(false),
            Value::Text(text) => {
                let item =
                    item.as_text().ok_or_else(|| Fault::new(format!("cannot look for {} in a string", item.kind())))?;
                self.steps(text.len() / 16)?;
                Ok(text.contains(item))
            }
            Value::List(list) => {
                for other in &list.items {
                    if self.equal(other, item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::Map(map) => {
                for (key, _) in &map.entries {
                    if self.equal(key, item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            other => Err(Fault::new(format!("cannot look into {}", other.kind()))),
        }
    }

    /// What iterating over `value` yields, paid for.
    pub fn items(&mut self, value: &Value<'t>) -> Result<Rc<[Value<'t>]>> {
        match value {
            Value::Undefined => Ok(Rc::new([])),
            Value::List(list) => {
                self.bytes(list.items.len() * SLOT)?;
                Ok(list.items.as_slice().into())
            }
            Value::Map(map) => {
                self.bytes(map.entries.len() * SLOT)?;
                Ok(map.entries.iter().map(|(key, _)| key.clone()).collect())
            }
            Value::Text(text) => {
                self.bytes(text.len().saturating_mul(2 * SLOT))?;
                Ok(text.chars().map(|c| Value::text(c.to_string())).collect())
            }
            other => Err(Fault::new(format!("cannot go through {}", other.kind()))),
        }
    }

    // ---- to text ----

    /// Python's `str(value)`; undefined is nothing.
    pub fn text_of(&mut self, value: &Value<'t>) -> Result<String> {
        let mut text = String::new();
        self.write_text(value, &mut text)?;
        Ok(text)
    }

    /// Appends [`Self::text_of`] to `out`, paying as it goes (for what is in `out` already, the caller paid).
    pub fn write_text(&mut self, value: &Value<'t>, out: &mut String) -> Result<()> {
        match value {
            Value::Text(text) => {
                self.bytes(text.len())?;
                out.push_str(text);
                Ok(())
            }
            Value::Undefined => Ok(()),
            _ => self.write_repr(value, out),
        }
    }

    /// Python's `repr(value)`.
    fn write_repr(&mut self, value: &Value<'t>, out: &mut String) -> Result<()> {
        self.bytes(24)?;
        match value {
            Value::Undefined => out.push_str("Undefined"),
            Value::None => out.push_str("None"),
            Value::Bool(value) => out.push_str(if *value { "True" } else { "False" }),
            Value::Int(value) => drop(write!(out, "{value}")),
            Value::Float(value) => out.push_str(&float_text(*value)),
            Value::Text(text) => {
                self.bytes(text.len().saturating_mul(2))?;
                let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
                out.push(quote);
                for c in text.chars() {
                    match c {
                        '\n' => out.push_str("\\n"),
                        '\r' => out.push_str("\\r"),
                        '\t' => out.push_str("\\t"),
                        '\\' => out.push_str("\\\\"),
                        c if c == quote => out.extend(['\\', c]),
                        c => out.push(c),
                    }
                }
                out.push(quote);
            }
            Value::List(list) => {
                out.push(if list.tuple { '(' } else { '[' });
                for (at, item) in list.items.iter().enumerate() {
                    if at > 0 {
                        out.push_str(", ");
                    }
                    self.write_repr(item, out)?;
                }
                if list.tuple && list.items.len() == 1 {
                    out.push(',');
                }
                out.push(if list.tuple { ')' } else { ']' });
            }
            Value::Map(map) => {
                out.push('{');
                for (at, (key, value)) in map.entries.iter().enumerate() {
                    if at > 0 {
                        out.push_str(", ");
                    }
                    self.write_repr(key, out)?;
                    out.push_str(": ");
                    self.write_repr(value, out)?;
                }
                out.push('}');
            }
            other => return Err(Fault::new(format!("cannot print {}", other.kind()))),
        }
        Ok(())
    }
}

/// Numbers; `None` where there is no result.
fn arithmetic<'t>(operator: Operator, left: &Value<'t>, right: &Value<'t>) -> Option<Value<'t>> {
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        let floor = |quotient: i64, remainder: i64| {
            if remainder != 0 && (remainder < 0) != (b < 0) { quotient - 1 } else { quotient }
        };
        let int = match operator {
            Operator::Add => a.checked_add(b)?,
            Operator::Subtract => a.checked_sub(b)?,
            Operator::Multiply => a.checked_mul(b)?,
            Operator::FloorDivide => floor(a.checked_div(b)?, a.checked_rem(b)?),
            Operator::Modulo => a.checked_sub(floor(a.checked_div(b)?, a.checked_rem(b)?).checked_mul(b)?)?,
            Operator::Power => a.checked_pow(u32::try_from(b).ok()?)?,
            Operator::Divide => {
                return (b != 0).then(|| Value::Float(a as f64 / b as f64));
            }
            Operator::Concatenate => return None,
        };
        return Some(Value::Int(int));
    }
    let (a, b) = (left.as_number()?, right.as_number()?);
    if b == 0.0 && matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Modulo) {
        return None;
    }
    Some(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::FloorDivide => (a / b).floor(),
        Operator::Modulo => a - (a / b).floor() * b,
        Operator::Power => a.powf(b),
        Operator::Concatenate => return None,
    }))
}

/// Python's shortest text of a float.
pub(super) fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    let text = format!("{value:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, digits_of) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{}e{sign}{digits_of:0>2}", digits.strip_suffix(".0").unwrap_or(digits))
        }
        None => text,
    }
}
