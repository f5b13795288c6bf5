//! Filters that make their items one by one, when they are asked for: map, select, unique, batch and the like.

use super::super::call::{Args, required};
use super::super::dict::Dict;
use super::super::interpreter::Interpreter;
use super::super::iterate::{Generator, Source};
use super::super::methods::casing;
use super::super::operators::{equal, order};
use super::super::text::Text;
use super::super::value::{Sequence, Value, View};
use super::super::{Fault, Result, checks};
use std::rc::Rc;

/// A filter with its arguments, before it is asked for an item.
pub(in super::super) enum Recipe<'t> {
    Map(Args<'t>),
    /// Whether items are kept that pass the test, whether an attribute is tested, and the test.
    Select(bool, bool, Args<'t>),
    /// Whether case counts, and of which attribute.
    Unique(bool, Option<Value<'t>>),
    /// How many items, and what fills the last batch.
    Batch(Value<'t>, Option<Value<'t>>),
    /// How many slices, and what fills the shorter ones.
    Slice(Value<'t>, Option<Value<'t>>),
    Items,
}

impl<'t> Recipe<'t> {
    pub fn values(&self) -> Vec<&Value<'t>> {
        match self {
            Self::Map(arguments) | Self::Select(_, _, arguments) => arguments.values().collect(),
            Self::Unique(_, attribute) => attribute.iter().collect(),
            Self::Batch(count, fill) | Self::Slice(count, fill) => [count].into_iter().chain(fill).collect(),
            Self::Items => Vec::new(),
        }
    }
}

/// A filter at work.
pub(in super::super) enum Running<'t> {
    Attribute(Source<'t>, Getter<'t>),
    Filter(Source<'t>, Text, Args<'t>),
    Select { source: Source<'t>, keep: bool, attribute: Option<Getter<'t>>, test: Option<(Text, Args<'t>)> },
    Unique(Source<'t>, Getter<'t>, Dict<'t>),
    Batch { source: Source<'t>, count: Value<'t>, fill: Option<Value<'t>>, batch: Vec<Value<'t>> },
    Slices { items: Rc<Sequence<'t>>, count: usize, fill: Option<Value<'t>>, number: usize },
}

/// Looks up an attribute of an attribute of an item.
pub(in super::super) struct Getter<'t> {
    parts: Vec<Value<'t>>,
    default: Option<Value<'t>>,
    /// Whether texts are compared without case.
    lower: bool,
}

impl<'t> Getter<'t> {
    /// `attribute` as filters take it: names and numbers with dots between them.
    pub fn new(interpreter: &Interpreter<'t>, attribute: Option<&Value<'t>>, lower: bool) -> Result<Self> {
        let parts = match attribute {
            None | Some(Value::None) => Vec::new(),
            Some(Value::Text(text)) => {
                let mut parts = Vec::new();
                for part in text.as_str().split('.') {
                    interpreter.meter.slots(1)?;
                    let is_number = !part.is_empty() && part.chars().all(super::super::chars::is_digit);
                    parts.push(match super::super::number::parse_int(part, 10) {
                        Some(index) if is_number => Value::int(interpreter.meter, index)?,
                        None if is_number => return Err(Fault::new(format!("invalid literal for int(): '{part}'"))),
                        _ => Value::plain(interpreter.meter, part)?,
                    });
                }
                parts
            }
            Some(other) => vec![other.clone()],
        };
        Ok(Self { parts, default: None, lower })
    }

    /// What an item has that lacks the attribute.
    pub fn with_default(self, default: Option<Value<'t>>) -> Self {
        Self { default, ..self }
    }

    /// The attribute of `item`.
    pub fn get(&self, interpreter: &mut Interpreter<'t>, item: &Value<'t>) -> Result<Value<'t>> {
        let mut value = item.clone();
        for part in &self.parts {
            value = interpreter.item(&value, part)?;
            if let (Value::Undefined(_), Some(default)) = (&value, &self.default) {
                value = default.clone();
            }
        }
        match value {
            Value::Text(text) if self.lower => Ok(Value::Text(casing::lower(interpreter.meter, &text)?)),
            value => Ok(value),
        }
    }
}

pub(super) fn apply<'t>(
    interpreter: &mut Interpreter<'t>,
    name: &str,
    value: Value<'t>,
    arguments: Args<'t>,
) -> Result<Value<'t>> {
    let recipe = match name {
        "map" => Recipe::Map(arguments),
        "select" => Recipe::Select(true, false, arguments),
        "reject" => Recipe::Select(false, false, arguments),
        "selectattr" => Recipe::Select(true, true, arguments),
        "rejectattr" => Recipe::Select(false, true, arguments),
        "unique" => {
            let [case, attribute] = arguments.bind(name, ["case_sensitive", "attribute"])?;
            Recipe::Unique(case.is_some_and(|case| case.is_true()), attribute)
        }
        "batch" => {
            let [count, fill] = arguments.bind(name, ["linecount", "fill_with"])?;
            Recipe::Batch(required(count, name, "linecount")?, fill.filter(|fill| !matches!(fill, Value::None)))
        }
        "slice" => {
            let [count, fill] = arguments.bind(name, ["slices", "fill_with"])?;
            Recipe::Slice(required(count, name, "slices")?, fill.filter(|fill| !matches!(fill, Value::None)))
        }
        _ => {
            arguments.none(name)?;
            Recipe::Items
        }
    };
    Generator::waiting(interpreter.meter, recipe, value)
}

/// Starts to go through `value`.
pub(in super::super) fn begin<'t>(
    interpreter: &mut Interpreter<'t>,
    recipe: Recipe<'t>,
    value: &Value<'t>,
) -> Result<Source<'t>> {
    let running = match recipe {
        Recipe::Map(_) | Recipe::Select(..) if !value.is_true() => return Ok(Source::Empty),
        Recipe::Map(arguments) => begin_map(interpreter, arguments, value)?,
        Recipe::Select(keep, of_attribute, mut arguments) => {
            let mut attribute = None;
            if of_attribute {
                if arguments.positional.is_empty() {
                    return Err(Fault::new("missing parameter for attribute name"));
                }
                attribute = Some(Getter::new(interpreter, Some(&arguments.positional.remove(0)), false)?);
            }
            let test = if arguments.positional.is_empty() {
                None
            } else {
                Some((name_of(arguments.positional.remove(0), "test")?, arguments))
            };
            Running::Select { source: interpreter.iterate(value)?, keep, attribute, test }
        }
        Recipe::Unique(case, attribute) => {
            let getter = Getter::new(interpreter, attribute.as_ref(), !case)?;
            Running::Unique(interpreter.iterate(value)?, getter, Dict::default())
        }
        Recipe::Batch(count, fill) => {
            Running::Batch { source: interpreter.iterate(value)?, count, fill, batch: Vec::new() }
        }
        Recipe::Slice(count, fill) => {
            let items = Sequence::new(interpreter.items(value)?)?;
            let count = super::super::call::int(&count, "slice")?;
            if count == 0 {
                return Err(Fault::new("integer division or modulo by zero"));
            }
            Running::Slices { items, count: usize::try_from(count).unwrap_or(0), fill, number: 0 }
        }
        Recipe::Items => {
            return match value {
                Value::Undefined(_) => Ok(Source::Empty),
                Value::Dict(dict) => Ok(Source::Dict(View::Items, dict.clone(), 0)),
                _ => Err(Fault::new("can only get item pairs from a mapping")),
            };
        }
    };
    Ok(Source::Filter(Box::new(running)))
}

fn name_of(value: Value<'_>, what: &str) -> Result<Text> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(Fault::new(format!("there is no {what} called by a value of type {}", other.kind()))),
    }
}

fn begin_map<'t>(interpreter: &mut Interpreter<'t>, mut arguments: Args<'t>, value: &Value<'t>) -> Result<Running<'t>> {
    let is_attribute = arguments.named.iter().any(|(name, _)| name.as_str() == "attribute");
    if arguments.positional.is_empty() && is_attribute {
        let [attribute, default] = arguments.bind("map", ["attribute", "default"])?;
        let default = default.filter(|default| !matches!(default, Value::None));
        let getter = Getter::new(interpreter, attribute.as_ref(), false)?.with_default(default);
        return Ok(Running::Attribute(interpreter.iterate(value)?, getter));
    }
    if arguments.positional.is_empty() {
        return Err(Fault::new("map requires a filter argument"));
    }
    let name = name_of(arguments.positional.remove(0), "filter")?;
    Ok(Running::Filter(interpreter.iterate(value)?, name, arguments))
}

/// The next item.
pub(in super::super) fn advance<'t>(
    interpreter: &mut Interpreter<'t>,
    running: &mut Running<'t>,
) -> Result<Option<Value<'t>>> {
    match running {
        Running::Attribute(source, getter) => match interpreter.advance(source)? {
            Some(item) => getter.get(interpreter, &item).map(Some),
            None => Ok(None),
        },
        Running::Filter(source, name, arguments) => match interpreter.advance(source)? {
            Some(item) => {
                let arguments = arguments.copy(interpreter.meter)?;
                super::apply(interpreter, name.as_str(), item, arguments).map(Some)
            }
            None => Ok(None),
        },
        Running::Select { source, keep, attribute, test } => {
            while let Some(item) = interpreter.advance(source)? {
                let value = match attribute {
                    Some(getter) => getter.get(interpreter, &item)?,
                    None => item.clone(),
                };
                let passes = match test {
                    None => value.is_true(),
                    Some((name, arguments)) => {
                        let arguments = arguments.copy(interpreter.meter)?;
                        checks::apply(interpreter, name.as_str(), &value, arguments)?.is_true()
                    }
                };
                if passes == *keep {
                    return Ok(Some(item));
                }
            }
            Ok(None)
        }
        Running::Unique(source, getter, seen) => {
            while let Some(item) = interpreter.advance(source)? {
                let key = getter.get(interpreter, &item)?;
                if seen.get(interpreter.meter, &key)?.is_none() {
                    seen.insert(interpreter.meter, key, Value::None)?;
                    return Ok(Some(item));
                }
            }
            Ok(None)
        }
        Running::Batch { source, count, fill, batch } => {
            let meter = interpreter.meter;
            while let Some(item) = interpreter.advance(source)? {
                meter.slots(1)?;
                if equal(meter, &Value::index(batch.len()), count)? {
                    return Value::list(std::mem::replace(batch, vec![item])).map(Some);
                }
                batch.push(item);
            }
            if batch.is_empty() {
                return Ok(None);
            }
            let mut batch = std::mem::take(batch);
            if let Some(fill) = fill
                && order(meter, &Value::index(batch.len()), count)? == Some(std::cmp::Ordering::Less)
            {
                let missing = super::super::call::int(count, "batch")? as usize - batch.len();
                meter.slots(missing)?;
                batch.extend(std::iter::repeat_n(&*fill, missing).cloned());
            }
            Value::list(batch).map(Some)
        }
        Running::Slices { items, count, fill, number } => {
            if *number >= *count {
                return Ok(None);
            }
            let (size, extra) = (items.items.len() / *count, items.items.len() % *count);
            let start = *number * size + extra.min(*number);
            let longer = *number < extra;
            let end = start + size + usize::from(longer);
            *number += 1;
            interpreter.meter.slots(end - start + 1)?;
            let mut slice = items.items[start..end].to_vec();
            if let (Some(fill), false) = (fill, longer) {
                slice.push(fill.clone());
            }
            Value::list(slice).map(Some)
        }
    }
}
