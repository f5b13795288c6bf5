//! Filters that look at all items of a value.

use std::cmp::Ordering;

use super::super::call::{Args, required};
use super::super::interpreter::Interpreter;
use super::super::iterate::Generator;
use super::super::meter::Meter;
use super::super::operators::{equal, order};
use super::super::syntax::ast::Operator;
use super::super::text::Builder;
use super::super::value::{Sequence, Value};
use super::super::{Fault, Result};
use super::select::Getter;
use std::rc::Rc;

pub(super) fn apply<'t>(
    interpreter: &mut Interpreter<'t>,
    name: &str,
    value: Value<'t>,
    arguments: Args<'t>,
) -> Result<Value<'t>> {
    match name {
        "first" => {
            arguments.none(name)?;
            let mut source = interpreter.iterate(&value)?;
            let first = interpreter.advance(&mut source)?;
            Ok(first.unwrap_or(Value::hint("No first item, sequence was empty.")))
        }
        "last" => {
            arguments.none(name)?;
            let source = interpreter.reversed(&value);
            let mut source =
                source.ok_or_else(|| Fault::new(format!("'{}' object is not reversible", value.kind())))?;
            let last = interpreter.advance(&mut source)?;
            Ok(last.unwrap_or(Value::hint("No last item, sequence was empty.")))
        }
        "length" | "count" => {
            arguments.none(name)?;
            Ok(Value::index(interpreter.length(&value)?))
        }
        "list" => {
            arguments.none(name)?;
            Value::list(interpreter.items(&value)?)
        }
        "reverse" => {
            arguments.none(name)?;
            reverse(interpreter, &value)
        }
        "join" => join(interpreter, &value, arguments),
        "sort" => {
            let [reverse, case, attribute] = arguments.bind(name, ["reverse", "case_sensitive", "attribute"])?;
            let items = interpreter.items(&value)?;
            let getters = getters(interpreter, attribute.as_ref(), !is_true(case.as_ref()))?;
            let mut keys = Vec::with_capacity(items.len());
            for item in &items {
                interpreter.meter.slots(1 + getters.len())?;
                let parts = getters.iter().map(|getter| getter.get(interpreter, item));
                keys.push(Value::list(parts.collect::<Result<_>>()?)?);
            }
            Value::list(in_order(interpreter.meter, items, keys, is_true(reverse.as_ref()))?)
        }
        "dictsort" => dictsort(interpreter, &value, arguments),
        "groupby" => groupby(interpreter, &value, arguments),
        "min" | "max" => {
            let [case, attribute] = arguments.bind(name, ["case_sensitive", "attribute"])?;
            extreme(interpreter, &value, name == "max", !is_true(case.as_ref()), attribute.as_ref())
        }
        _ => sum(interpreter, &value, arguments),
    }
}

fn is_true(value: Option<&Value<'_>>) -> bool {
    value.is_some_and(Value::is_true)
}

fn reverse<'t>(interpreter: &mut Interpreter<'t>, value: &Value<'t>) -> Result<Value<'t>> {
    if let Value::Text(text) = value {
        let meter = interpreter.meter;
        meter.read(text.len())?;
        let mut builder = Builder::new(meter)?;
        for (at, c) in text.as_str().char_indices().rev() {
            builder.push_range(text, at..at + c.len_utf8())?;
        }
        return Ok(Value::Text(builder.finish(text.is_markup())));
    }
    match interpreter.reversed(value) {
        Some(source) => Generator::running(interpreter.meter, source, value),
        None => {
            let mut items = interpreter.items(value).map_err(|_| Fault::new("argument must be iterable"))?;
            items.reverse();
            Value::list(items)
        }
    }
}

fn join<'t>(interpreter: &mut Interpreter<'t>, value: &Value<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
    let [separator, attribute] = arguments.bind("join", ["d", "attribute"])?;
    let attribute = attribute.filter(|attribute| !matches!(attribute, Value::None));
    let getter = Getter::new(interpreter, attribute.as_ref(), false)?;
    let separator = separator.map_or_else(|| Value::plain(interpreter.meter, ""), Ok)?;
    let mut texts = Vec::new();
    let mut source = interpreter.iterate(value)?;
    while let Some(item) = interpreter.advance(&mut source)? {
        let item = getter.get(interpreter, &item)?;
        interpreter.meter.slots(1)?;
        texts.push(interpreter.soft_text_of(&item)?);
    }
    let mut separator = interpreter.soft_text_of(&separator)?;
    // With escaping on, a part that is fit for HTML makes all of them so.
    let markup = interpreter.autoescape && (separator.is_markup() || texts.iter().any(|text| text.is_markup()));
    if markup {
        separator = super::super::html::escape(interpreter.meter, &separator)?;
    }
    let mut builder = Builder::new(interpreter.meter)?;
    for (at, text) in texts.iter().enumerate() {
        if at > 0 {
            builder.push(&separator)?;
        }
        builder.push(&if markup { super::super::html::escape(interpreter.meter, text)? } else { text.clone() })?;
    }
    Ok(Value::Text(builder.finish(markup)))
}

/// One or more attributes with commas between them.
fn getters<'t>(interpreter: &Interpreter<'t>, attribute: Option<&Value<'t>>, lower: bool) -> Result<Vec<Getter<'t>>> {
    let Some(Value::Text(text)) = attribute else { return Ok(vec![Getter::new(interpreter, attribute, lower)?]) };
    let mut getters = Vec::new();
    for part in text.as_str().split(',') {
        interpreter.meter.slots(1)?;
        getters.push(Getter::new(interpreter, Some(&Value::plain(interpreter.meter, part)?), lower)?);
    }
    Ok(getters)
}

/// Lists up to this length are sorted by insertion, as Python does it: seen where items have no order, like NaN.
const SHORT: usize = 63;

/// The places of `keys` in sorted order; equal ones stay in theirs.
pub(in super::super) fn sorted_positions(meter: &Meter, keys: Vec<Value<'_>>, reverse: bool) -> Result<Vec<usize>> {
    meter.slots(keys.len())?;
    let less = |a: usize, b: usize| Ok::<bool, Box<Fault>>(order(meter, &keys[a], &keys[b])? == Some(Ordering::Less));
    let mut positions: Vec<usize> = (0..keys.len()).collect();
    // Equal items keep their order in both directions.
    if reverse {
        positions.reverse();
    }
    if positions.len() <= SHORT {
        insertion_sort(&mut positions, less)?;
    } else {
        let mut width = 1;
        while width < positions.len() {
            let mut merged = Vec::with_capacity(positions.len());
            for pair in positions.chunks(2 * width) {
                let (mut left, mut right) = pair.split_at(width.min(pair.len()));
                while let (Some(a), Some(b)) = (left.first(), right.first()) {
                    if less(*b, *a)? {
                        merged.push(*b);
                        right = &right[1..];
                    } else {
                        merged.push(*a);
                        left = &left[1..];
                    }
                }
                merged.extend(left);
                merged.extend(right);
            }
            positions = merged;
            width *= 2;
        }
    }
    if reverse {
        positions.reverse();
    }
    Ok(positions)
}

/// Puts each item behind the run that the list begins with, by halving.
fn insertion_sort(positions: &mut [usize], less: impl Fn(usize, usize) -> Result<bool>) -> Result<()> {
    if positions.len() < 2 {
        return Ok(());
    }
    let falls = less(positions[1], positions[0])?;
    let mut sorted = 2;
    while sorted < positions.len() && less(positions[sorted], positions[sorted - 1])? == falls {
        sorted += 1;
    }
    if falls {
        positions[..sorted].reverse();
    }
    for at in sorted..positions.len() {
        let item = positions[at];
        let (mut low, mut high) = (0, at);
        while low < high {
            let middle = (low + high) / 2;
            if less(item, positions[middle])? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        positions[low..=at].rotate_right(1);
    }
    Ok(())
}

fn in_order<'t>(meter: &Meter, items: Vec<Value<'t>>, keys: Vec<Value<'t>>, reverse: bool) -> Result<Vec<Value<'t>>> {
    Ok(sorted_positions(meter, keys, reverse)?.into_iter().map(|at| items[at].clone()).collect())
}

fn dictsort<'t>(interpreter: &mut Interpreter<'t>, value: &Value<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
    let [case, by, reverse] = arguments.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let by_value = match by.as_ref().map(Value::as_str) {
        None | Some(Some("key")) => false,
        Some(Some("value")) => true,
        _ => return Err(Fault::new("you can only sort by either \"key\" or \"value\"")),
    };
    let Value::Dict(dict) = value else {
        return Err(match value {
            Value::Undefined(missing) => missing.fault(),
            _ => Fault::new(format!("'{}' object has no attribute 'items'", value.kind())),
        });
    };
    let lower = Getter::new(interpreter, None, !is_true(case.as_ref()))?;
    let (mut items, mut keys) = (Vec::new(), Vec::new());
    for (key, value) in dict.iter() {
        interpreter.meter.slots(2)?;
        items.push(Value::pair(interpreter.meter, key.clone(), value.clone())?);
        keys.push(lower.get(interpreter, if by_value { value } else { key })?);
    }
    Value::list(in_order(interpreter.meter, items, keys, is_true(reverse.as_ref()))?)
}

fn groupby<'t>(interpreter: &mut Interpreter<'t>, value: &Value<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
    let [attribute, default, case] = arguments.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let attribute = required(attribute, "groupby", "attribute")?;
    let sensitive = is_true(case.as_ref());
    let default = default.filter(|default| !matches!(default, Value::None));
    let getter = Getter::new(interpreter, Some(&attribute), !sensitive)?.with_default(default.clone());
    let exact = Getter::new(interpreter, Some(&attribute), false)?.with_default(default);
    let items = interpreter.items(value)?;
    let mut keys = Vec::with_capacity(items.len());
    for item in &items {
        interpreter.meter.slots(1)?;
        keys.push(getter.get(interpreter, item)?);
    }
    let positions = sorted_positions(interpreter.meter, keys.clone(), false)?;
    let mut groups: Vec<(usize, Vec<Value<'t>>)> = Vec::new();
    for at in positions {
        interpreter.meter.slots(3)?;
        match groups.last_mut() {
            Some((first, group)) if equal(interpreter.meter, &keys[*first], &keys[at])? => {
                group.push(items[at].clone())
            }
            _ => groups.push((at, vec![items[at].clone()])),
        }
    }
    let mut pairs = Vec::with_capacity(groups.len());
    for (first, group) in groups {
        let key = if sensitive { keys[first].clone() } else { exact.get(interpreter, &items[first])? };
        interpreter.meter.slots(2)?;
        let pair = Sequence::new(vec![key, Value::list(group)?])?;
        pairs.push(Value::Tuple(Rc::new(Sequence { items: pair.items.clone(), grouped: true, depth: pair.depth })));
    }
    Value::list(pairs)
}

fn extreme<'t>(
    interpreter: &mut Interpreter<'t>,
    value: &Value<'t>,
    largest: bool,
    lower: bool,
    attribute: Option<&Value<'t>>,
) -> Result<Value<'t>> {
    let mut source = interpreter.iterate(value)?;
    let Some(mut best) = interpreter.advance(&mut source)? else {
        return Ok(Value::hint("No aggregated item, sequence was empty."));
    };
    let getter = Getter::new(interpreter, attribute, lower)?;
    let mut best_key = getter.get(interpreter, &best)?;
    while let Some(item) = interpreter.advance(&mut source)? {
        let key = getter.get(interpreter, &item)?;
        let wanted = if largest { Ordering::Greater } else { Ordering::Less };
        if order(interpreter.meter, &key, &best_key)? == Some(wanted) {
            (best, best_key) = (item, key);
        }
    }
    Ok(best)
}

fn sum<'t>(interpreter: &mut Interpreter<'t>, value: &Value<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
    let [attribute, start] = arguments.bind("sum", ["attribute", "start"])?;
    let attribute = attribute.filter(|attribute| !matches!(attribute, Value::None));
    let getter = Getter::new(interpreter, attribute.as_ref(), false)?;
    let mut total = start.unwrap_or(Value::Int(0));
    if matches!(total, Value::Text(_)) {
        return Err(Fault::new("sum() can't sum strings"));
    }
    let mut source = interpreter.iterate(value)?;
    while let Some(item) = interpreter.advance(&mut source)? {
        let item = getter.get(interpreter, &item)?;
        total = interpreter.binary(Operator::Add, &total, &item)?;
    }
    Ok(total)
}
