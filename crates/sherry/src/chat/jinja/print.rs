//! Values as text: Python's `str` and `repr`.

use super::chars::is_printable;
use super::interpreter::Interpreter;
use super::number;
use super::text::{Builder, Text};
use super::value::{Sequence, Value, View};
use super::{Fault, Result};

impl<'t> Interpreter<'t> {
    /// Python's `str(value)`.
    pub fn text_of(&mut self, value: &Value<'t>) -> Result<Text> {
        match value {
            Value::Text(text) => text.with_markup(self.meter, false),
            Value::Undefined(_) => Ok(Text::constant("")),
            _ => self.repr(value),
        }
    }

    /// `str(value)`, but a text stays `Markup` if it is.
    pub fn soft_text_of(&mut self, value: &Value<'t>) -> Result<Text> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            _ => self.text_of(value),
        }
    }

    /// `markupsafe.escape(value)`.
    pub fn escape_value(&mut self, value: &Value<'t>) -> Result<Text> {
        let text = self.soft_text_of(value)?;
        super::html::escape(self.meter, &text)
    }

    /// Python's `repr(value)`.
    pub fn repr(&mut self, value: &Value<'t>) -> Result<Text> {
        let mut builder = Builder::new(self.meter)?;
        self.write_repr(value, &mut builder, &mut Vec::new())?;
        Ok(builder.finish(false))
    }

    fn write_repr(&mut self, value: &Value<'t>, out: &mut Builder<'t>, open: &mut Vec<usize>) -> Result<()> {
        self.meter.step()?;
        match value {
            Value::Undefined(_) => out.push_str("Undefined", false),
            Value::None => out.push_str("None", false),
            Value::Bool(true) => out.push_str("True", false),
            Value::Bool(false) => out.push_str("False", false),
            Value::Int(value) => out.push_str(&value.to_string(), false),
            Value::Big(value) => out.push_str(&number::int_text(self.meter, value)?, false),
            Value::Float(value) => out.push_str(&number::float_repr(*value), false),
            Value::Text(text) if text.is_markup() => {
                out.push_str("Markup(", false)?;
                write_string(text, out)?;
                out.push_str(")", false)
            }
            Value::Text(text) => write_string(text, out),
            Value::List(items) => self.write_items(["[", "]"], items, out, open),
            Value::Tuple(items) if items.items.len() == 1 => self.write_items(["(", ",)"], items, out, open),
            Value::Tuple(items) => self.write_items(["(", ")"], items, out, open),
            Value::Dict(dict) => {
                out.push_str("{", false)?;
                for (at, (key, value)) in dict.iter().enumerate() {
                    if at > 0 {
                        out.push_str(", ", false)?;
                    }
                    self.nested(|this| this.write_repr(key, out, open))?;
                    out.push_str(": ", false)?;
                    self.nested(|this| this.write_repr(value, out, open))?;
                }
                out.push_str("}", false)
            }
            Value::View(view, dict) => {
                out.push_str(value.kind(), false)?;
                out.push_str("([", false)?;
                for (at, (key, value)) in dict.iter().enumerate() {
                    if at > 0 {
                        out.push_str(", ", false)?;
                    }
                    let item = match view {
                        View::Keys => key.clone(),
                        View::Values => value.clone(),
                        View::Items => Value::pair(self.meter, key.clone(), value.clone())?,
                    };
                    self.nested(|this| this.write_repr(&item, out, open))?;
                }
                out.push_str("])", false)
            }
            Value::Range(range) if range.step == 1 => {
                out.push_str(&format!("range({}, {})", range.start, range.stop), false)
            }
            Value::Range(range) => {
                out.push_str(&format!("range({}, {}, {})", range.start, range.stop, range.step), false)
            }
            Value::Namespace(number) if open.contains(number) => out.push_str("<Namespace {...}>", false),
            Value::Namespace(number) => {
                let fields = self.namespace(*number).borrow().copy(self.meter)?;
                out.push_str("<Namespace ", false)?;
                open.push(*number);
                self.meter.steps(open.len())?;
                let fields = Value::Dict(fields.into());
                self.nested(|this| this.write_repr(&fields, out, open))?;
                open.pop();
                out.push_str(">", false)
            }
            Value::Loop(state) => {
                let index = state.index();
                let length = self.length(value)?;
                out.push_str(&format!("<LoopContext {index}/{length}>"), false)
            }
            Value::Macro(closure) => match &closure.definition.name {
                Some(name) => out.push_str(&format!("<Macro '{name}'>"), false),
                None => out.push_str("<Macro anonymous>", false),
            },
            Value::This(_) => out.push_str("<TemplateReference None>", false),
            Value::Generator(_)
            | Value::Function(_)
            | Value::Method(_)
            | Value::Cycler(_)
            | Value::Joiner(_)
            | Value::Block(..) => {
                Err(Fault::new(format!("a {} cannot be printed: Jinja2 prints where it lies in memory", value.kind())))
            }
        }
    }

    fn write_items(
        &mut self,
        brackets: [&str; 2],
        items: &Sequence<'t>,
        out: &mut Builder<'t>,
        open: &mut Vec<usize>,
    ) -> Result<()> {
        out.push_str(brackets[0], false)?;
        for (at, item) in items.items.iter().enumerate() {
            if at > 0 {
                out.push_str(", ", false)?;
            }
            self.nested(|this| this.write_repr(item, out, open))?;
        }
        out.push_str(brackets[1], false)
    }
}

/// A text in quotes, with escapes.
pub(super) fn write_string(text: &Text, out: &mut Builder<'_>) -> Result<()> {
    let whole = text.as_str();
    let quote = if whole.contains('\'') && !whole.contains('"') { '"' } else { '\'' };
    out.push_char(quote, false)?;
    for (at, c) in whole.char_indices() {
        let marked = text.marked_at(at);
        match c {
            '\\' => out.push_str("\\\\", marked)?,
            '\t' => out.push_str("\\t", marked)?,
            '\n' => out.push_str("\\n", marked)?,
            '\r' => out.push_str("\\r", marked)?,
            c if c == quote => {
                out.push_char('\\', marked)?;
                out.push_char(c, marked)?;
            }
            c if is_printable(c) => out.push_char(c, marked)?,
            c => out.push_str(&escaped(c), marked)?,
        }
    }
    out.push_char(quote, false)
}

/// Python's numeric escape of a character.
pub(super) fn escaped(c: char) -> String {
    match u32::from(c) {
        code @ ..0x100 => format!("\\x{code:02x}"),
        code @ ..0x10000 => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// Python's `ascii`: a `repr` with escapes for everything that is not ASCII.
pub(super) fn ascii(meter: &super::meter::Meter, repr: &Text) -> Result<Text> {
    repr.map_chars(meter, |c, out| if c.is_ascii() { out.push(c) } else { out.push_str(&escaped(c)) })
}
