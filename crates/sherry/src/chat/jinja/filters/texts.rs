//! Filters about texts.

use super::super::call::{Args, int, required, text as text_argument};
use super::super::interpreter::Interpreter;
use super::super::iterate::sized;
use super::super::json::Style;
use super::super::meter::Meter;
use super::super::methods::pad::{Side, pad};
use super::super::methods::{casing, replace, split};
use super::super::text::{Builder, Text};
use super::super::value::Value;
use super::super::{Fault, Result, chars, html};

pub(super) fn apply<'t>(
    interpreter: &mut Interpreter<'t>,
    name: &str,
    value: Value<'t>,
    arguments: Args<'t>,
) -> Result<Value<'t>> {
    let meter = interpreter.meter;
    let changed = match name {
        "upper" => casing::upper,
        "lower" => casing::lower,
        "capitalize" => casing::capitalize,
        "title" => casing::title_words,
        "string" => |_: &Meter, text: &Text| Ok(text.clone()),
        "safe" => |meter: &Meter, text: &Text| text.with_markup(meter, true),
        "e" | "escape" => html::escape,
        "forceescape" => |meter: &Meter, text: &Text| html::escape(meter, &text.with_markup(meter, false)?),
        "striptags" => html::striptags,
        _ => return other(interpreter, name, value, arguments),
    };
    arguments.none(name)?;
    let text = interpreter.soft_text_of(&value)?;
    changed(meter, &text).map(Value::Text)
}

fn other<'t>(
    interpreter: &mut Interpreter<'t>,
    name: &str,
    value: Value<'t>,
    arguments: Args<'t>,
) -> Result<Value<'t>> {
    let meter = interpreter.meter;
    match name {
        "trim" => {
            let [chars] = arguments.bind(name, ["chars"])?;
            let chars = chars.filter(|chars| !matches!(chars, Value::None));
            let chars = chars.as_ref().map(|chars| text_argument(chars, name)).transpose()?.map(Text::as_str);
            let text = interpreter.soft_text_of(&value)?;
            meter.read(text.len())?;
            let range = split::strip(text.as_str(), chars, true, true);
            Ok(Value::Text(text.slice(meter, range)?))
        }
        "replace" => {
            let [old, new, count] = arguments.bind(name, ["old", "new", "count"])?;
            let count = count.filter(|count| !matches!(count, Value::None));
            let count = count.map_or(Ok(-1), |count| int(&count, name))?;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            let (old, new) = (required(old, name, "old")?, required(new, name, "new")?);
            let mut text = interpreter.soft_text_of(&value)?;
            let (old, mut new) = (interpreter.soft_text_of(&old)?, interpreter.soft_text_of(&new)?);
            if interpreter.autoescape {
                if old.is_markup() || (new.is_markup() && !text.is_markup()) {
                    text = html::escape(meter, &text)?;
                }
                if text.is_markup() {
                    new = html::escape(meter, &new)?;
                }
            } else {
                text = text.with_markup(meter, false)?;
            }
            Ok(Value::Text(replace(meter, &text, old.as_str(), &new, count)?))
        }
        "center" => {
            let [width] = arguments.bind(name, ["width"])?;
            let width = width.map_or(Ok(80), |width| int(&width, name))?;
            let text = interpreter.soft_text_of(&value)?;
            Ok(Value::Text(pad(meter, &text, width, None, Side::Center)?))
        }
        "wordcount" => {
            arguments.none(name)?;
            let text = interpreter.soft_text_of(&value)?;
            meter.read(text.len())?;
            let words = text.as_str().split(|c| !chars::is_word(c)).filter(|word| !word.is_empty());
            Ok(Value::index(words.count()))
        }
        "indent" => indent(meter, &value, arguments),
        "truncate" => truncate(meter, &value, arguments),
        "format" => {
            let text = interpreter.soft_text_of(&value)?;
            if !arguments.positional.is_empty() && !arguments.named.is_empty() {
                return Err(Fault::new("can't handle positional and keyword arguments at the same time"));
            }
            let values = if arguments.named.is_empty() {
                Value::tuple(arguments.positional)?
            } else {
                Value::Dict(interpreter.dict(arguments)?.into())
            };
            interpreter.percent_format(&text, &values)
        }
        "urlencode" => {
            arguments.none(name)?;
            urlencode(interpreter, &value)
        }
        _ => xmlattr(interpreter, &value, arguments),
    }
}

fn indent<'t>(meter: &Meter, value: &Value<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
    let [width, first, blank] = arguments.bind("indent", ["width", "first", "blank"])?;
    let is_true = |value: Option<Value<'t>>| value.is_some_and(|value| value.is_true());
    let (first, blank) = (is_true(first), is_true(blank));
    let text = match value {
        Value::Undefined(missing) => return Err(missing.fault()),
        _ => text_argument(value, "indent")?,
    };
    let mut indentation = match width {
        None => Text::constant("    "),
        Some(Value::Text(text)) => text,
        Some(width) => {
            let width = usize::try_from(int(&width, "indent")?).unwrap_or(0);
            let mut spaces = Builder::new(meter)?;
            spaces.fill(' ', width, false)?;
            spaces.finish(false)
        }
    };
    if text.is_markup() {
        indentation = indentation.with_markup(meter, true)?;
    } else if indentation.is_markup() {
        return Err(Fault::new("indenting by Markup is not supported"));
    }
    // One more line end makes a last, empty line a line.
    let mut whole = Builder::new(meter)?;
    whole.push(text)?;
    whole.push_str("\n", false)?;
    let whole = whole.finish(false);
    let mut builder = Builder::new(meter)?;
    if first {
        builder.push(&indentation)?;
    }
    for (at, line) in split::line_ranges(meter, whole.as_str(), false)?.into_iter().enumerate() {
        if at > 0 {
            builder.push_str("\n", false)?;
            if blank || !line.is_empty() {
                builder.push(&indentation)?;
            }
        }
        builder.push_range(&whole, line)?;
    }
    Ok(Value::Text(builder.finish(text.is_markup())))
}

fn truncate<'t>(meter: &Meter, value: &Value<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
    let [length, kill, end, leeway] = arguments.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let length = length.map_or(Ok(255), |length| int(&length, "truncate"))?;
    let end = end.unwrap_or_else(|| Value::Text(Text::constant("...")));
    let end = text_argument(&end, "truncate")?;
    let leeway = leeway.filter(|leeway| !matches!(leeway, Value::None));
    let leeway = leeway.map_or(Ok(5), |leeway| int(&leeway, "truncate"))?;
    let shown = length.saturating_sub(end.chars(meter)? as i64);
    if shown < 0 || leeway < 0 {
        return Err(Fault::new("truncate: length or leeway too small"));
    }
    let size = sized(meter, value)?.ok_or_else(|| Fault::new(format!("truncate: '{}' has no length", value.kind())))?;
    if size as i64 <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let text = text_argument(value, "truncate")?;
    let mut cut = text.offset(meter, shown as usize)?;
    if !kill.is_some_and(|kill| kill.is_true()) {
        cut = text.as_str()[..cut].rfind(' ').unwrap_or(cut);
    }
    let mut builder = Builder::new(meter)?;
    builder.push_range(text, 0..cut)?;
    if text.is_markup() {
        builder.push(&html::escape(meter, end)?)?;
    } else {
        builder.push(end)?;
    }
    Ok(Value::Text(builder.finish(text.is_markup() || end.is_markup())))
}

fn quote(meter: &Meter, text: &Text, query: bool, out: &mut Builder<'_>) -> Result<()> {
    meter.read(text.len())?;
    for (at, byte) in text.as_str().bytes().enumerate() {
        let marked = text.marked_at(at);
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                out.push_char(char::from(byte), marked)?;
            }
            b'/' if !query => out.push_char('/', marked)?,
            b' ' if query => out.push_char('+', marked)?,
            _ => out.push_str(&format!("%{byte:02X}"), marked)?,
        }
    }
    Ok(())
}

fn urlencode<'t>(interpreter: &mut Interpreter<'t>, value: &Value<'t>) -> Result<Value<'t>> {
    let meter = interpreter.meter;
    let mut builder = Builder::new(meter)?;
    let pairs = match value {
        Value::Dict(dict) => Some(interpreter.iterate(&Value::View(super::super::value::View::Items, dict.clone()))?),
        Value::Text(_) => None,
        _ => interpreter.iterate(value).ok(),
    };
    let Some(mut pairs) = pairs else {
        quote(meter, &interpreter.text_of(value)?, false, &mut builder)?;
        return Ok(Value::Text(builder.finish(false)));
    };
    let mut first = true;
    while let Some(pair) = interpreter.advance(&mut pairs)? {
        let pair = interpreter.items(&pair)?;
        let [key, value] = &pair[..] else { return Err(Fault::new("urlencode needs pairs")) };
        if !std::mem::take(&mut first) {
            builder.push_str("&", false)?;
        }
        quote(meter, &interpreter.text_of(key)?, true, &mut builder)?;
        builder.push_str("=", false)?;
        quote(meter, &interpreter.text_of(value)?, true, &mut builder)?;
    }
    Ok(Value::Text(builder.finish(false)))
}

fn xmlattr<'t>(interpreter: &mut Interpreter<'t>, value: &Value<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
    let [autospace] = arguments.bind("xmlattr", ["autospace"])?;
    let autospace = autospace.is_none_or(|autospace| autospace.is_true());
    let Value::Dict(dict) = value else {
        return Err(match value {
            Value::Undefined(missing) => missing.fault(),
            _ => Fault::new(format!("xmlattr: a mapping is needed, not {}", value.kind())),
        });
    };
    let mut builder = Builder::new(interpreter.meter)?;
    for (key, value) in dict.iter() {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let name = text_argument(key, "xmlattr")?;
        if name.as_str().contains([' ', '\t', '\n', '\r', '\x0b', '\x0c', '/', '>', '=']) {
            return Err(Fault::new(format!("invalid character in attribute name: {:?}", name.as_str())));
        }
        if builder.len() > 0 || autospace {
            builder.push_str(" ", false)?;
        }
        builder.push(&html::escape(interpreter.meter, name)?)?;
        builder.push_str("=\"", false)?;
        builder.push(&interpreter.escape_value(value)?)?;
        builder.push_str("\"", false)?;
    }
    Ok(Value::Text(builder.finish(interpreter.autoescape)))
}

/// `tojson` as `transformers` has it: Python's `json.dumps`.
pub(super) fn tojson<'t>(
    interpreter: &mut Interpreter<'t>,
    value: &Value<'t>,
    arguments: Args<'t>,
) -> Result<Value<'t>> {
    let meter = interpreter.meter;
    let [ascii, indent, separators, sort_keys] =
        arguments.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let is_true = |value: Option<Value<'t>>| value.is_some_and(|value| value.is_true());
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Text(text)) => Some(text),
        Some(width) => {
            let mut spaces = Builder::new(meter)?;
            spaces.fill(' ', usize::try_from(int(&width, "tojson")?).unwrap_or(0), false)?;
            Some(spaces.finish(false))
        }
    };
    let constant = |text: &str| Value::Text(Text::constant(text));
    let separators = match separators {
        None | Some(Value::None) => [constant(if indent.is_some() { "," } else { ", " }), constant(": ")],
        Some(separators) => interpreter
            .items(&separators)?
            .try_into()
            .map_err(|_| Fault::new("tojson: separators must be two strings"))?,
    };
    let style = Style { ascii: is_true(ascii), sort_keys: is_true(sort_keys), indent, separators };
    Ok(Value::Text(interpreter.json_text(value, &style)?))
}
