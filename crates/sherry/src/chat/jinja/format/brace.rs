//! `text.format(...)`, as the sandbox has it.

use super::super::call::Args;
use super::super::interpreter::Interpreter;
use super::super::text::{Builder, Text};
use super::super::value::Value;
use super::super::{Fault, Result, html, print};

/// Formats inside of formats.
const MAX_NESTED: usize = 2;

/// What a format can refer to.
struct Given<'t> {
    arguments: Args<'t>,
    /// Of `format_map`.
    mapping: Option<Value<'t>>,
    /// The next argument without a name; `None` once numbers are used.
    next: Option<usize>,
    escape: bool,
}

impl<'t> Interpreter<'t> {
    pub fn format_method(&mut self, format: &Text, map: bool, arguments: Args<'t>) -> Result<Value<'t>> {
        let (arguments, mapping) =
            if map { (Args::default(), Some(arguments.one("format_map")?)) } else { (arguments, None) };
        let mut given = Given { arguments, mapping, next: Some(0), escape: format.is_markup() };
        let text = self.format_pieces(format, &mut given, MAX_NESTED)?;
        Ok(Value::Text(self.markup_if(text, format.is_markup())?))
    }

    fn format_pieces(&mut self, format: &Text, given: &mut Given<'t>, nested: usize) -> Result<Text> {
        let mut out = Builder::new(self.meter)?;
        let whole = format.as_str();
        let mut at = 0;
        while let Some(start) = whole[at..].find(['{', '}']).map(|start| at + start) {
            self.meter.step()?;
            out.push_range(format, at..start)?;
            let brace = &whole[start..start + 1];
            if whole[start + 1..].starts_with(brace) {
                out.push_str(brace, format.marked_at(start))?;
                at = start + 2;
                continue;
            }
            if brace == "}" {
                return Err(Fault::new("Single '}' encountered in format string"));
            }
            let end = start + 1 + field_length(&whole[start + 1..])?;
            let field = format.slice(self.meter, start + 1..end)?;
            let text = self.format_field(&field, given, nested)?;
            out.push(&text)?;
            at = end + 1;
        }
        out.push_range(format, at..whole.len())?;
        Ok(out.finish(false))
    }

    fn format_field(&mut self, field: &Text, given: &mut Given<'t>, nested: usize) -> Result<Text> {
        let whole = field.as_str();
        let name_end = name_length(whole);
        let mut rest = &whole[name_end..];
        let mut conversion = None;
        if let Some(behind) = rest.strip_prefix('!') {
            let mut chars = behind.chars();
            conversion = Some(chars.next().ok_or_else(|| Fault::new("unmatched '{' in format spec"))?);
            rest = chars.as_str();
            if !rest.is_empty() && !rest.starts_with(':') {
                return Err(Fault::new("expected ':' after conversion specifier"));
            }
        }
        let mut value = self.format_lookup(&whole[..name_end], given)?;
        match conversion {
            None => {}
            Some('s') => value = Value::Text(self.text_of(&value)?),
            Some('r') => value = Value::Text(self.repr(&value)?),
            Some('a') => value = Value::Text(print::ascii(self.meter, &self.repr(&value)?)?),
            Some(other) => return Err(Fault::new(format!("unknown conversion specifier {other:?}"))),
        }
        let nested = nested.checked_sub(1).ok_or_else(|| Fault::new("formats nested too deep"))?;
        let spec = match rest.strip_prefix(':') {
            None | Some("") => Text::constant(""),
            Some(spec) => {
                let spec = field.slice(self.meter, whole.len() - spec.len()..whole.len())?;
                self.format_pieces(&spec, given, nested)?
            }
        };
        if !given.escape {
            return self.format_value(&value, spec.as_str());
        }
        match &value {
            Value::Text(text) if text.is_markup() => {
                if !spec.is_empty() {
                    return Err(Fault::new("unsupported format specification for Markup"));
                }
                Ok(text.clone())
            }
            _ => html::escape(self.meter, &self.format_value(&value, spec.as_str())?),
        }
    }

    fn format_lookup(&mut self, name: &str, given: &mut Given<'t>) -> Result<Value<'t>> {
        let first = &name[..name.find(['.', '[']).unwrap_or(name.len())];
        let number =
            |text: &str| if text.bytes().all(|c| c.is_ascii_digit()) { text.parse::<usize>().ok() } else { None };
        let mixed = "cannot switch between manual field specification and automatic field numbering";
        let index = if name.is_empty() {
            let at = given.next.ok_or_else(|| Fault::new(mixed))?;
            given.next = Some(at + 1);
            Some(at)
        } else {
            let index = number(first);
            if first.len() == name.len() && index.is_some() {
                if given.next.is_some_and(|next| next > 0) {
                    return Err(Fault::new(mixed));
                }
                given.next = None;
            }
            index
        };
        let mut value = match index {
            Some(index) => given.arguments.positional.get(index).cloned(),
            None => match &given.mapping {
                Some(mapping) => match mapping {
                    Value::Dict(dict) => dict.get_str(self.meter, first)?.cloned(),
                    Value::Undefined(missing) => return Err(missing.fault()),
                    other => return Err(Fault::new(format!("format_map: a mapping is needed, not {}", other.kind()))),
                },
                None => {
                    self.meter.steps(given.arguments.named.len())?;
                    let mut named = given.arguments.named.iter();
                    named.find(|(other, _)| other.as_str() == first).map(|(_, value)| value.clone())
                }
            },
        }
        .ok_or_else(|| Fault::new(format!("the format refers to {name:?}, which is not given")))?;
        let mut rest = &name[first.len()..];
        while !rest.is_empty() {
            if let Some(behind) = rest.strip_prefix('.') {
                let attribute = &behind[..behind.find(['.', '[']).unwrap_or(behind.len())];
                if attribute.is_empty() {
                    return Err(Fault::new("empty attribute in format string"));
                }
                value = self.attribute_named(&value, attribute)?;
                rest = &behind[attribute.len()..];
            } else if let Some(behind) = rest.strip_prefix('[') {
                let end = behind.find(']').ok_or_else(|| Fault::new("missing ']' in format string"))?;
                let key = &behind[..end];
                if key.is_empty() {
                    return Err(Fault::new("empty attribute in format string"));
                }
                let key = match number(key) {
                    Some(index) => Value::index(index),
                    None => Value::plain(self.meter, key)?,
                };
                value = self.item(&value, &key)?;
                rest = &behind[end + 1..];
            } else {
                return Err(Fault::new("only '.' or '[' may follow ']' in format field specifier"));
            }
        }
        Ok(value)
    }
}

/// The length of a field name: up to `:` or `!`, but brackets may hold both.
fn name_length(field: &str) -> usize {
    let mut in_brackets = false;
    for (at, c) in field.char_indices() {
        match c {
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            ':' | '!' if !in_brackets => return at,
            _ => {}
        }
    }
    field.len()
}

/// The length of a field, up to the brace that closes it.
fn field_length(rest: &str) -> Result<usize> {
    let mut open = 1;
    let mut in_brackets = false;
    let mut in_name = true;
    for (at, c) in rest.char_indices() {
        match c {
            '[' if in_name => in_brackets = true,
            ']' if in_name => in_brackets = false,
            _ if in_brackets => {}
            ':' | '!' => in_name = false,
            '{' if in_name => return Err(Fault::new("unexpected '{' in field name")),
            '{' => open += 1,
            '}' => {
                open -= 1;
                if open == 0 {
                    return Ok(at);
                }
            }
            _ => {}
        }
    }
    Err(Fault::new("expected '}' before end of string"))
}
