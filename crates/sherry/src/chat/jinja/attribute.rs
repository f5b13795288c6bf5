//! Attributes, items and slices, as Jinja2's sandbox gives them.

use std::rc::Rc;

use super::interpreter::Interpreter;
use super::text::Builder;
use super::value::{Function, Missing, Range, Value, View};
use super::{Fault, Result};

/// Attributes that every object has in Python and that templates may not use.
const OF_ALL: [&str; 23] = [
    "__class__",
    "__delattr__",
    "__dir__",
    "__doc__",
    "__eq__",
    "__format__",
    "__ge__",
    "__getattribute__",
    "__getstate__",
    "__gt__",
    "__hash__",
    "__init__",
    "__init_subclass__",
    "__le__",
    "__lt__",
    "__ne__",
    "__new__",
    "__reduce__",
    "__reduce_ex__",
    "__repr__",
    "__setattr__",
    "__sizeof__",
    "__str__",
];

const TEXT: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const MARKUP: [&str; 3] = ["escape", "striptags", "unescape"];
const LIST: [&str; 3] = ["copy", "count", "index"];
const TUPLE: [&str; 2] = ["count", "index"];
const DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
const INT: [&str; 7] =
    ["as_integer_ratio", "bit_count", "bit_length", "conjugate", "is_integer", "to_bytes", "from_bytes"];
const FLOAT: [&str; 5] = ["as_integer_ratio", "conjugate", "fromhex", "hex", "is_integer"];
const LOOP: [&str; 2] = ["changed", "cycle"];
const CYCLER: [&str; 2] = ["next", "reset"];

/// What would change a value: templates may look, but the result is unusable.
const CHANGES_LIST: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const CHANGES_DICT: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// Whether `name` is one of the attributes of a type that hold or compare or calculate.
fn is_special(value: &Value<'_>, name: &str) -> bool {
    let container = ["__contains__", "__getitem__", "__iter__", "__len__"];
    match value {
        Value::Text(_) | Value::List(_) | Value::Tuple(_) => {
            container.contains(&name) || ["__add__", "__mul__", "__rmul__"].contains(&name)
        }
        Value::Dict(_) => container.contains(&name) || ["__or__", "__reversed__", "__setitem__"].contains(&name),
        Value::Range(_) | Value::View(..) | Value::Loop(_) => container.contains(&name),
        _ => false,
    }
}

impl<'t> Interpreter<'t> {
    /// `value.name`: an attribute or, failing that, an item.
    pub fn attribute(&mut self, value: &Value<'t>, name: &'t str) -> Result<Value<'t>> {
        match value {
            // What messages mostly consist of, first: an item, unless it is called like a method.
            Value::Dict(dict) if !name.starts_with("__") && !DICT.contains(&name) && !CHANGES_DICT.contains(&name) => {
                return Ok(match dict.get_str(self.meter, name)? {
                    Some(found) => found.clone(),
                    None => Value::Undefined(Missing::Attribute("dict", name)),
                });
            }
            Value::Undefined(missing) if !(name.starts_with('_') && self.attribute_of(value, name)?.is_some()) => {
                return Err(missing.fault());
            }
            _ => {}
        }
        if let Some(found) = self.attribute_of(value, name)? {
            return Ok(found);
        }
        let found = match value {
            Value::Dict(dict) => dict.get_str(self.meter, name)?.cloned(),
            Value::This(visible) => {
                let index = self.template.blocks.iter().position(|block| block.name == name);
                index.map(|index| Value::Block(index, visible.clone()))
            }
            _ => None,
        };
        Ok(found.unwrap_or(Value::Undefined(Missing::Attribute(value.kind(), name))))
    }

    /// As [`Self::attribute`], of a name that is not in the template's source.
    pub fn attribute_named(&mut self, value: &Value<'t>, name: &str) -> Result<Value<'t>> {
        if let Some(found) = self.attribute_of(value, name)? {
            return Ok(found);
        }
        let found = match value {
            Value::Undefined(missing) => return Err(missing.fault()),
            Value::Dict(dict) => dict.get_str(self.meter, name)?.cloned(),
            _ => None,
        };
        match found {
            Some(found) => Ok(found),
            None => Ok(Value::Undefined(self.told(format!("'{} object' has no attribute '{name}'", value.kind()))?)),
        }
    }

    /// `value[key]`: an item or, failing that, an attribute.
    pub fn item(&mut self, value: &Value<'t>, key: &Value<'t>) -> Result<Value<'t>> {
        let index = match key {
            Value::Bool(_) | Value::Int(_) => key.as_int(),
            _ => None,
        };
        let found = match value {
            Value::Undefined(missing) => return Err(missing.fault()),
            Value::Dict(dict) => match key {
                Value::List(_) | Value::Dict(_) | Value::View(View::Keys | View::Items, _) => None,
                _ => dict.get(self.meter, key)?.cloned(),
            },
            Value::List(sequence) | Value::Tuple(sequence) => {
                let at = index.and_then(|index| position(index, sequence.items.len()));
                at.map(|at| sequence.items[at].clone())
            }
            Value::Text(text) => {
                let length = text.chars(self.meter)?;
                match index.and_then(|index| position(index, length)) {
                    None => None,
                    Some(at) => {
                        let start = text.offset(self.meter, at)?;
                        let width = text.as_str()[start..].chars().next().map_or(0, char::len_utf8);
                        Some(Value::Text(text.slice(self.meter, start..start + width)?))
                    }
                }
            }
            Value::Range(range) => {
                index.and_then(|index| position(index, range.length)).map(|at| Value::Int(range.get(at)))
            }
            Value::This(visible) => {
                let name = key.as_str().unwrap_or_default();
                let index = self.template.blocks.iter().position(|block| block.name == name);
                index.map(|index| Value::Block(index, visible.clone()))
            }
            _ => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if let Some(name) = key.as_str()
            && let Some(found) = self.attribute_of(value, name)?
        {
            return Ok(found);
        }
        let kind = value.kind();
        let message = match key.as_text() {
            Some(name) => {
                format!("'{kind} object' has no attribute {}", self.repr(&Value::Text(name.clone()))?.as_str())
            }
            None => format!("{kind} object has no element {}", self.repr_or_kind(key)),
        };
        Ok(Value::Undefined(self.told(message)?))
    }

    fn repr_or_kind(&mut self, value: &Value<'t>) -> String {
        match value {
            Value::Int(value) => value.to_string(),
            other => format!("of type {}", other.kind()),
        }
    }

    /// The method of `value` with that name.
    pub fn method_name(&self, value: &Value<'t>, name: &str) -> Option<&'static str> {
        let methods: &[&'static str] = match value {
            Value::Text(text) if text.is_markup() && MARKUP.contains(&name) => &MARKUP,
            Value::Text(_) => &TEXT,
            Value::List(_) => &LIST,
            Value::Tuple(_) | Value::Range(_) => &TUPLE,
            Value::Dict(_) => &DICT,
            Value::Bool(_) | Value::Int(_) | Value::Big(_) => &INT,
            Value::Float(_) => &FLOAT,
            Value::Loop(_) => &LOOP,
            Value::Cycler(_) => &CYCLER,
            Value::View(View::Keys | View::Items, _) => &["isdisjoint"],
            Value::Function(Function::Dict) => &["fromkeys"],
            _ => &[],
        };
        methods.iter().copied().find(|method| *method == name)
    }

    /// An attribute of an object, not an item.
    pub fn attribute_of(&mut self, value: &Value<'t>, name: &str) -> Result<Option<Value<'t>>> {
        if let Some(method) = self.method_name(value, name) {
            self.meter.bytes(64)?;
            return Ok(Some(Value::Method(Rc::new((value.clone(), method)))));
        }
        if let Value::Namespace(number) = value
            && name != "__class__"
        {
            let meter = self.meter;
            let found = self.namespace(*number).borrow().get_str(meter, name)?.cloned();
            return match found {
                Some(_) if name.starts_with('_') => self.unsafe_attribute(value, name).map(Some),
                found => Ok(found),
            };
        }
        let changes: &[&str] = match value {
            Value::List(_) => &CHANGES_LIST,
            Value::Dict(_) => &CHANGES_DICT,
            _ => &[],
        };
        let internal = match value {
            Value::Undefined(_) => name.starts_with("_undefined_") || name == "_fail_with_undefined_error",
            Value::Generator(_) => matches!(name, "gi_frame" | "gi_code"),
            _ => false,
        };
        if changes.contains(&name) || internal || OF_ALL.contains(&name) || is_special(value, name) {
            return self.unsafe_attribute(value, name).map(Some);
        }
        self.data_attribute(value, name)
    }

    fn unsafe_attribute(&mut self, value: &Value<'t>, name: &str) -> Result<Value<'t>> {
        let message = format!("access to attribute '{name}' of '{}' object is unsafe.", value.kind());
        self.meter.bytes(message.len() + 16)?;
        Ok(Value::Undefined(Missing::Unsafe(message.into())))
    }

    /// Attributes that are values.
    fn data_attribute(&mut self, value: &Value<'t>, name: &str) -> Result<Option<Value<'t>>> {
        Ok(match (value, name) {
            (Value::Loop(state), _) => {
                let state = state.clone();
                return self.loop_attribute(&state, name);
            }
            (Value::Bool(_) | Value::Int(_) | Value::Big(_), "real" | "numerator") => {
                Some(value.as_big().map_or(Ok(Value::None), |value| Value::int(self.meter, value))?)
            }
            (Value::Bool(_) | Value::Int(_) | Value::Big(_), "imag") => Some(Value::Int(0)),
            (Value::Bool(_) | Value::Int(_) | Value::Big(_), "denominator") => Some(Value::Int(1)),
            (Value::Float(_), "real") => Some(value.clone()),
            (Value::Float(_), "imag") => Some(Value::Float(0.0)),
            (Value::Range(range), "start") => Some(Value::Int(range.start)),
            (Value::Range(range), "stop") => Some(Value::Int(range.stop)),
            (Value::Range(range), "step") => Some(Value::Int(range.step)),
            (Value::Tuple(pair), "grouper") if pair.grouped => pair.items.first().cloned(),
            (Value::Tuple(pair), "list") if pair.grouped => pair.items.get(1).cloned(),
            (Value::Cycler(cycler), "items") => Some(Value::Tuple(cycler.items.clone())),
            (Value::Cycler(cycler), "pos") => Some(Value::index(cycler.position.get())),
            (Value::Cycler(cycler), "current") => cycler.items.items.get(cycler.position.get()).cloned(),
            (Value::Joiner(joiner), "sep") => Some(joiner.0.clone()),
            (Value::Joiner(joiner), "used") => Some(Value::Bool(joiner.1.get())),
            (Value::Block(..), "super") => Some(Value::hint("there is no parent block")),
            (Value::Block(index, _), "name") => Some(Value::plain(self.meter, &self.template.blocks[*index].name)?),
            (Value::Macro(closure), _) => {
                let definition = closure.definition;
                match name {
                    "name" => Some(match &definition.name {
                        Some(name) => Value::plain(self.meter, name)?,
                        None => Value::None,
                    }),
                    "arguments" => {
                        self.meter.slots(definition.parameters.len())?;
                        let names = definition.parameters.iter();
                        let names = names.map(|parameter| Value::plain(self.meter, &parameter.name));
                        Some(Value::tuple(names.collect::<Result<_>>()?)?)
                    }
                    "catch_kwargs" => Some(Value::Bool(definition.kwargs.is_some())),
                    "catch_varargs" => Some(Value::Bool(definition.varargs.is_some())),
                    "caller" => Some(Value::Bool(definition.caller.is_some())),
                    "explicit_caller" => {
                        Some(Value::Bool(definition.parameters.iter().any(|parameter| parameter.name == "caller")))
                    }
                    _ => None,
                }
            }
            _ => None,
        })
    }

    /// `value[start:stop:step]`
    pub fn slice(&mut self, value: &Value<'t>, bounds: [Option<Value<'t>>; 3]) -> Result<Value<'t>> {
        if let Value::Undefined(missing) = value {
            return Err(missing.fault());
        }
        let mut numbers = [None; 3];
        for (number, bound) in numbers.iter_mut().zip(&bounds) {
            *number = match bound {
                None | Some(Value::None) => None,
                Some(bound) => {
                    Some(bound.as_int().ok_or_else(|| Fault::new("slice indices must be integers or None"))?)
                }
            };
        }
        let [start, stop, step] = numbers;
        let step = step.unwrap_or(1);
        if step == 0 {
            return Err(Fault::new("slice step cannot be zero"));
        }
        match value {
            Value::List(sequence) | Value::Tuple(sequence) => {
                let picked = Slice::new(sequence.items.len(), start, stop, step);
                self.meter.slots(picked.count)?;
                let items = picked.positions().map(|at| sequence.items[at].clone()).collect();
                if matches!(value, Value::List(_)) { Value::list(items) } else { Value::tuple(items) }
            }
            Value::Text(text) => {
                let picked = Slice::new(text.chars(self.meter)?, start, stop, step);
                if step == 1 {
                    let start = text.offset(self.meter, picked.start)?;
                    let end = text.offset(self.meter, picked.start + picked.count)?;
                    return Ok(Value::Text(text.slice(self.meter, start..end)?));
                }
                // The byte at which each character begins.
                self.meter.bytes(text.len().saturating_mul(size_of::<usize>()))?;
                let starts: Vec<usize> = text.as_str().char_indices().map(|(at, _)| at).collect();
                let mut builder = Builder::new(self.meter)?;
                for at in picked.positions() {
                    builder.push_range(text, starts[at]..starts.get(at + 1).copied().unwrap_or(text.len()))?;
                }
                Ok(Value::Text(builder.finish(text.is_markup())))
            }
            Value::Range(range) => {
                let picked = Slice::new(range.length, start, stop, step);
                let at = |position: i64| {
                    let value = i128::from(range.start) + i128::from(position) * i128::from(range.step);
                    i64::try_from(value).map_err(|_| Fault::new("ranges beyond 64 bits are not supported"))
                };
                let step = range
                    .step
                    .checked_mul(step)
                    .ok_or_else(|| Fault::new("ranges beyond 64 bits are not supported"))?;
                let range = Range::new(at(picked.start as i64)?, at(picked.stop)?, step);
                self.meter.bytes(64)?;
                Ok(Value::Range(Rc::new(range.ok_or_else(|| Fault::new("ranges beyond 64 bits are not supported"))?)))
            }
            _ => Err(Fault::new(format!("'{}' object cannot be sliced", value.kind()))),
        }
    }
}

/// The place that a Python index means, if it exists.
pub(super) fn position(index: i64, length: usize) -> Option<usize> {
    let length_signed = i64::try_from(length).ok()?;
    let at = if index < 0 { index.checked_add(length_signed)? } else { index };
    usize::try_from(at).ok().filter(|at| *at < length)
}

/// What a Python slice picks.
struct Slice {
    start: usize,
    /// May be -1.
    stop: i64,
    step: i64,
    count: usize,
}

impl Slice {
    /// `step` is not 0.
    fn new(length: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> Self {
        let length = length as i64;
        let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let clamp = |bound: i64| (if bound < 0 { bound.saturating_add(length) } else { bound }).clamp(low, high);
        let (first, last) = if step > 0 { (low, high) } else { (high, low) };
        let start = start.map_or(first, clamp);
        let stop = stop.map_or(last, clamp);
        let distance = if step > 0 { stop - start } else { start - stop };
        let count = if distance > 0 { (distance - 1) as u64 / step.unsigned_abs() + 1 } else { 0 };
        Self { start: start.max(0) as usize, stop, step, count: count as usize }
    }

    fn positions(&self) -> impl Iterator<Item = usize> {
        let (start, step) = (self.start as i64, self.step);
        // Within the length, so this does not overflow.
        (0..self.count as i64).map(move |index| (start + index * step) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_do_not_overflow() {
        let picked = |length, start, stop, step| Slice::new(length, start, stop, step).positions().collect::<Vec<_>>();
        assert_eq!(picked(4, Some(1), None, 1), [1, 2, 3]);
        assert_eq!(picked(4, None, None, -1), [3, 2, 1, 0]);
        assert_eq!(picked(4, Some(-2), Some(i64::MAX), 1), [2, 3]);
        assert_eq!(picked(4, Some(i64::MIN), Some(i64::MAX), i64::MAX), [0]);
        assert_eq!(picked(4, Some(i64::MAX), Some(i64::MIN), i64::MIN), [3]);
        assert_eq!(picked(0, None, None, -1), [0usize; 0]);
        assert_eq!(picked(5, Some(3), Some(0), -2), [3, 1]);
    }
}
