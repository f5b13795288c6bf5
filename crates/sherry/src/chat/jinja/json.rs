//! JSON in and out.

use std::rc::Rc;

use num_bigint::BigInt;

use super::dict::Dict;
use super::interpreter::Interpreter;
use super::meter::Meter;
use super::number;
use super::text::{Builder, Text};
use super::value::{MAX_DEPTH, Value};
use super::{Fault, Result};

/// A value that the template is given; all strings in it are marked or none.
pub(super) fn from_json<'t>(meter: &Meter, value: &serde_json::Value, marked: bool) -> Result<Value<'t>> {
    convert(meter, value, marked, 0)
}

fn convert<'t>(meter: &Meter, value: &serde_json::Value, marked: bool, depth: u16) -> Result<Value<'t>> {
    if depth >= MAX_DEPTH {
        return Err(Fault::limit(&format!("is given values nested more than {MAX_DEPTH} deep")));
    }
    Ok(match value {
        serde_json::Value::Null => Value::None,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(small), _, _) => Value::Int(small),
            (None, Some(large), _) => Value::int(meter, BigInt::from(large))?,
            (None, None, Some(float)) => Value::Float(float),
            (None, None, None) => return Err(Fault::new(format!("{number} is not a number"))),
        },
        serde_json::Value::String(text) => Value::Text(Text::new(meter, text, marked)?),
        serde_json::Value::Array(items) => {
            meter.slots(items.len())?;
            Value::list(items.iter().map(|item| convert(meter, item, marked, depth + 1)).collect::<Result<_>>()?)?
        }
        serde_json::Value::Object(entries) => {
            let mut dict = Dict::default();
            for (key, value) in entries {
                let key = Value::Text(Text::new(meter, key, marked)?);
                dict.insert(meter, key, convert(meter, value, marked, depth + 1)?)?;
            }
            Value::Dict(Rc::new(dict))
        }
    })
}

/// How `tojson` writes.
pub(super) struct Style<'t> {
    pub ascii: bool,
    pub sort_keys: bool,
    /// What each level is indented by, if lines are broken.
    pub indent: Option<Text>,
    /// Between items and behind keys.
    pub separators: [Value<'t>; 2],
}

impl<'t> Interpreter<'t> {
    /// Python's `json.dumps`.
    pub fn json_text(&mut self, value: &Value<'t>, style: &Style<'t>) -> Result<Text> {
        let [Value::Text(item), Value::Text(key)] = &style.separators else {
            return Err(Fault::new("tojson: separators must be strings"));
        };
        let mut builder = Builder::new(self.meter)?;
        Writer { meter: self.meter, style, item, key, out: &mut builder }.write(value, 0)?;
        Ok(builder.finish(false))
    }
}

struct Writer<'w, 't> {
    meter: &'t Meter,
    style: &'w Style<'t>,
    item: &'w Text,
    key: &'w Text,
    out: &'w mut Builder<'t>,
}

impl<'t> Writer<'_, 't> {
    fn line(&mut self, depth: usize) -> Result<()> {
        if let Some(indent) = &self.style.indent {
            self.out.push_str("\n", false)?;
            for _ in 0..depth {
                self.out.push(indent)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, value: &Value<'t>, depth: usize) -> Result<()> {
        self.meter.step()?;
        match value {
            Value::Text(text) => self.string(text),
            Value::List(items) | Value::Tuple(items) => {
                self.out.push_str("[", false)?;
                for (at, item) in items.items.iter().enumerate() {
                    if at > 0 {
                        self.out.push(self.item)?;
                    }
                    self.line(depth + 1)?;
                    self.write(item, depth + 1)?;
                }
                if !items.items.is_empty() {
                    self.line(depth)?;
                }
                self.out.push_str("]", false)
            }
            Value::Dict(dict) => self.object(dict, depth),
            _ => match scalar(self.meter, value)? {
                Some(text) => self.out.push_str(&text, false),
                None => Err(Fault::new(format!("object of type {} is not JSON serializable", value.kind()))),
            },
        }
    }

    fn object(&mut self, dict: &Dict<'t>, depth: usize) -> Result<()> {
        self.meter.slots(dict.len())?;
        let mut entries: Vec<_> = dict.iter().collect();
        if self.style.sort_keys {
            let keys = entries.iter().map(|(key, _)| (*key).clone()).collect();
            let order = super::filters::sorted_positions(self.meter, keys, false)?;
            entries = order.into_iter().map(|at| entries[at]).collect();
        }
        self.out.push_str("{", false)?;
        for (at, (key, value)) in entries.iter().enumerate() {
            if at > 0 {
                self.out.push(self.item)?;
            }
            self.line(depth + 1)?;
            match key {
                Value::Text(text) => self.string(text)?,
                key => {
                    let text = scalar(self.meter, key)?.ok_or_else(|| {
                        Fault::new(format!("keys must be str, int, float, bool or None, not {}", key.kind()))
                    })?;
                    self.out.push_str(&format!("\"{text}\""), false)?;
                }
            }
            self.out.push(self.key)?;
            self.write(value, depth + 1)?;
        }
        if !entries.is_empty() {
            self.line(depth)?;
        }
        self.out.push_str("}", false)
    }

    fn string(&mut self, text: &Text) -> Result<()> {
        self.out.push_str("\"", false)?;
        for (at, c) in text.as_str().char_indices() {
            let marked = text.marked_at(at);
            match c {
                '"' => self.out.push_str("\\\"", marked)?,
                '\\' => self.out.push_str("\\\\", marked)?,
                '\n' => self.out.push_str("\\n", marked)?,
                '\r' => self.out.push_str("\\r", marked)?,
                '\t' => self.out.push_str("\\t", marked)?,
                '\x08' => self.out.push_str("\\b", marked)?,
                '\x0c' => self.out.push_str("\\f", marked)?,
                c if c < ' ' => self.out.push_str(&format!("\\u{:04x}", u32::from(c)), marked)?,
                c if self.style.ascii && !matches!(c, ' '..='~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"), marked)?;
                    }
                }
                c => self.out.push_char(c, marked)?,
            }
        }
        self.out.push_str("\"", false)
    }
}

/// What is not a string and holds nothing.
fn scalar(meter: &Meter, value: &Value<'_>) -> Result<Option<String>> {
    Ok(Some(match value {
        Value::None => "null".into(),
        Value::Bool(true) => "true".into(),
        Value::Bool(false) => "false".into(),
        Value::Int(value) => value.to_string(),
        Value::Big(value) => number::int_text(meter, value)?,
        Value::Float(value) if value.is_nan() => "NaN".into(),
        Value::Float(value) if value.is_infinite() => (if *value > 0.0 { "Infinity" } else { "-Infinity" }).into(),
        Value::Float(value) => number::float_repr(*value),
        _ => return Ok(None),
    }))
}
