//! Methods of texts.

use std::ops::Range;
use std::rc::Rc;

use super::super::call::{Args, int, required, text as text_argument};
use super::super::chars::*;
use super::super::dict::Dict;
use super::super::interpreter::Interpreter;
use super::super::meter::Meter;
use super::super::text::{Builder, Text};
use super::super::value::Value;
use super::super::{Fault, Result, html};
use super::pad::{Side, expandtabs, pad, zfill};
use super::{casing, split};

/// How often something is done at most, from a number that may be negative.
fn limit(count: i64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl<'t> Interpreter<'t> {
    pub(super) fn text_method(&mut self, text: &Text, name: &'static str, arguments: Args<'t>) -> Result<Value<'t>> {
        let meter = self.meter;
        let changed = match name {
            "upper" => casing::upper,
            "lower" => casing::lower,
            "capitalize" => casing::capitalize,
            "title" => casing::title,
            "swapcase" => casing::swapcase,
            "casefold" => casing::casefold,
            "format" | "format_map" => return self.format_method(text, name == "format_map", arguments),
            "join" => return self.join_method(text, arguments),
            "split" | "rsplit" | "splitlines" | "partition" | "rpartition" => {
                return split_method(meter, text, name, arguments);
            }
            "find" | "rfind" | "index" | "rindex" | "count" | "startswith" | "endswith" => {
                return search_method(meter, text, name, arguments);
            }
            "maketrans" => return maketrans(meter, arguments),
            "escape" => return Ok(Value::Text(self.escape_value(&arguments.one(name)?)?)),
            "striptags" => {
                arguments.none(name)?;
                return Ok(Value::Text(html::striptags(meter, text)?));
            }
            "unescape" => {
                arguments.none(name)?;
                return Ok(Value::Text(html::unescape(meter, text)?));
            }
            "encode" => return Err(Fault::new("encode makes bytes, which are not supported")),
            name if name.starts_with("is") => {
                arguments.none(name)?;
                meter.read(text.len())?;
                return Ok(Value::Bool(is(name, text.as_str())));
            }
            _ => return other_method(meter, text, name, arguments).map(Value::Text),
        };
        arguments.none(name)?;
        Ok(Value::Text(changed(meter, text)?))
    }

    fn join_method(&mut self, separator: &Text, arguments: Args<'t>) -> Result<Value<'t>> {
        let mut items = self.iterate(&arguments.one("join")?)?;
        let mut builder = Builder::new(self.meter)?;
        let mut first = true;
        while let Some(item) = self.advance(&mut items)? {
            if !std::mem::take(&mut first) {
                builder.push(separator)?;
            }
            match item {
                item if separator.is_markup() => builder.push(&self.escape_value(&item)?)?,
                Value::Text(text) => builder.push(&text)?,
                other => return Err(Fault::new(format!("join: a string is expected, {} found", other.kind()))),
            }
        }
        Ok(Value::Text(builder.finish(separator.is_markup())))
    }
}

/// Methods that give a changed text.
fn other_method(meter: &Meter, text: &Text, name: &'static str, arguments: Args<'_>) -> Result<Text> {
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = arguments.positional(name, 0)?;
            let chars = chars.filter(|chars| !matches!(chars, Value::None));
            let chars = chars.as_ref().map(|chars| text_argument(chars, name)).transpose()?.map(Text::as_str);
            meter.read(text.len())?;
            let range = split::strip(text.as_str(), chars, name != "rstrip", name != "lstrip");
            text.slice(meter, range)
        }
        "replace" => {
            let [old, new, count] = if arguments.named.is_empty() {
                arguments.positional(name, 2)?
            } else {
                arguments.bind(name, ["", " ", "count"])?
            };
            let (old, new) = (required(old, name, "old")?, required(new, name, "new")?);
            let (old, mut new) = (text_argument(&old, name)?, text_argument(&new, name)?.clone());
            let count = count.map_or(Ok(-1), |count| int(&count, name))?;
            if text.is_markup() {
                new = html::escape(meter, &new)?;
            }
            replace(meter, text, old.as_str(), &new, limit(count))
        }
        "removeprefix" | "removesuffix" => {
            let part = arguments.one(name)?;
            let part = text_argument(&part, name)?.as_str();
            let whole = text.as_str();
            let range = if name == "removeprefix" {
                whole.len() - whole.strip_prefix(part).unwrap_or(whole).len()..whole.len()
            } else {
                0..whole.strip_suffix(part).unwrap_or(whole).len()
            };
            text.slice(meter, range)
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = arguments.positional(name, 1)?;
            let width = int(&required(width, name, "width")?, name)?;
            let side = match name {
                "center" => Side::Center,
                "ljust" => Side::Left,
                _ => Side::Right,
            };
            pad(meter, text, width, fill.as_ref().map(|fill| text_argument(fill, name)).transpose()?, side)
        }
        "zfill" => zfill(meter, text, int(&arguments.one(name)?, name)?),
        "expandtabs" => {
            let [size] = arguments.bind(name, ["tabsize"])?;
            expandtabs(meter, text, size.map_or(Ok(8), |size| int(&size, name))?)
        }
        "translate" => translate(meter, text, &arguments.one(name)?),
        _ => Err(Fault::new(format!("'str' object has no method '{name}'"))),
    }
}

/// `replace`: the first `limit` places where `old` stands.
pub(in super::super) fn replace(meter: &Meter, text: &Text, old: &str, new: &Text, limit: usize) -> Result<Text> {
    meter.read(text.len())?;
    let mut builder = Builder::new(meter)?;
    let mut at = 0;
    for (start, _) in text.as_str().match_indices(old).take(limit) {
        meter.step()?;
        builder.push_range(text, at..start)?;
        builder.push(new)?;
        at = start + old.len();
    }
    builder.push_range(text, at..text.len())?;
    Ok(builder.finish(text.is_markup()))
}

fn split_method<'t>(meter: &Meter, text: &Text, name: &'static str, arguments: Args<'t>) -> Result<Value<'t>> {
    match name {
        "split" | "rsplit" => {
            let [separator, count] = arguments.bind(name, ["sep", "maxsplit"])?;
            let separator = separator.filter(|separator| !matches!(separator, Value::None));
            let separator = separator.as_ref().map(|separator| text_argument(separator, name)).transpose()?;
            let separator = separator.map(Text::as_str);
            if separator == Some("") {
                return Err(Fault::new("empty separator"));
            }
            let count = limit(count.map_or(Ok(-1), |count| int(&count, name))?);
            if name == "split" {
                split::split(meter, text, separator, count)
            } else {
                split::rsplit(meter, text, separator, count)
            }
        }
        "splitlines" => {
            let [keep] = arguments.bind(name, ["keepends"])?;
            split::lines(meter, text, keep.is_some_and(|keep| keep.is_true()))
        }
        _ => {
            let separator = arguments.one(name)?;
            let separator = text_argument(&separator, name)?;
            if separator.is_empty() {
                return Err(Fault::new("empty separator"));
            }
            split::partition(meter, text, separator, name == "rpartition")
        }
    }
}

/// The bytes of `text[start:stop]` and the number of the first character; `None` if it begins behind the end.
fn part(meter: &Meter, text: &Text, start: Option<i64>, stop: Option<i64>) -> Result<Option<(Range<usize>, usize)>> {
    let length = text.chars(meter)? as i64;
    let adjust = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
    let stop = stop.map_or(length, adjust).min(length);
    let start = start.map_or(0, adjust);
    if start > stop {
        return Ok(None);
    }
    let bytes = text.offset(meter, start as usize)?..text.offset(meter, stop as usize)?;
    Ok(Some((bytes, start as usize)))
}

fn search_method<'t>(meter: &Meter, text: &Text, name: &'static str, arguments: Args<'t>) -> Result<Value<'t>> {
    let [wanted, start, stop] = arguments.positional(name, 1)?;
    let wanted = required(wanted, name, "a string")?;
    let bound = |value: Option<Value<'t>>| match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => int(&value, name).map(Some),
    };
    let found = part(meter, text, bound(start)?, bound(stop)?)?;
    meter.read(text.len())?;
    let within = found.as_ref().map(|(range, _)| &text.as_str()[range.clone()]);
    if matches!(name, "startswith" | "endswith") {
        let matches = |wanted: &Value<'t>| {
            let wanted = text_argument(wanted, name)?.as_str();
            let matches =
                |text: &str| if name == "startswith" { text.starts_with(wanted) } else { text.ends_with(wanted) };
            Ok(within.is_some_and(matches))
        };
        let Value::Tuple(all) = &wanted else { return matches(&wanted).map(Value::Bool) };
        for wanted in &all.items {
            meter.step()?;
            if matches(wanted)? {
                return Ok(Value::Bool(true));
            }
        }
        return Ok(Value::Bool(false));
    }
    let wanted = text_argument(&wanted, name)?.as_str();
    if name == "count" {
        return Ok(Value::index(within.map_or(0, |within| within.matches(wanted).count())));
    }
    let position =
        within.and_then(|within| if name.starts_with('r') { within.rfind(wanted) } else { within.find(wanted) });
    match (position, found) {
        (Some(at), Some((range, first))) => {
            let before = &text.as_str()[range.start..range.start + at];
            Ok(Value::index(first + before.chars().count()))
        }
        _ if name.ends_with("find") => Ok(Value::Int(-1)),
        _ => Err(Fault::new("substring not found")),
    }
}

/// The methods that say whether all characters are of some kind.
fn is(name: &str, text: &str) -> bool {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    let cased = |wanted: fn(char) -> bool, other: fn(char) -> bool| {
        text.chars().any(wanted) && !text.chars().any(|c| other(c) || is_title(c))
    };
    match name {
        "isalnum" => all(is_alphanumeric),
        "isalpha" => all(is_letter),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(|c| decimal(c).is_some()),
        "isdigit" => all(is_digit),
        "isidentifier" => is_identifier(text),
        "islower" => cased(char::is_lowercase, char::is_uppercase),
        "isnumeric" => all(is_numeric),
        "isprintable" => text.chars().all(is_printable),
        "isspace" => all(is_space),
        "isupper" => cased(char::is_uppercase, char::is_lowercase),
        _ => {
            let (mut any, mut in_word) = (false, false);
            for c in text.chars() {
                let starts = c.is_uppercase() || is_title(c);
                if (starts && in_word) || (c.is_lowercase() && !in_word) {
                    return false;
                }
                in_word = starts || c.is_lowercase();
                any |= in_word;
            }
            any
        }
    }
}

/// `str.maketrans`: what each character is translated to.
fn maketrans<'t>(meter: &Meter, arguments: Args<'t>) -> Result<Value<'t>> {
    let [first, second, third] = arguments.positional("maketrans", 1)?;
    let first = required(first, "maketrans", "a table")?;
    let mut table = Dict::default();
    let code = |c: char| Value::Int(i64::from(u32::from(c)));
    let Some(second) = second else {
        let Value::Dict(from) = first else {
            return Err(Fault::new("if you give only one argument to maketrans it must be a dict"));
        };
        for (key, value) in from.iter() {
            let key = match key {
                Value::Text(text) => {
                    let mut chars = text.as_str().chars();
                    match (chars.next(), chars.next()) {
                        (Some(c), None) => code(c),
                        _ => return Err(Fault::new("string keys in translate table must be of length 1")),
                    }
                }
                Value::Bool(_) | Value::Int(_) | Value::Big(_) => key.clone(),
                _ => return Err(Fault::new("keys in translate table must be strings or integers")),
            };
            table.insert(meter, key, value.clone())?;
        }
        return Ok(Value::Dict(Rc::new(table)));
    };
    let (from, to) = (text_argument(&first, "maketrans")?, text_argument(&second, "maketrans")?);
    if from.chars(meter)? != to.chars(meter)? {
        return Err(Fault::new("the first two maketrans arguments must have equal length"));
    }
    for (from, to) in from.as_str().chars().zip(to.as_str().chars()) {
        table.insert(meter, code(from), code(to))?;
    }
    if let Some(third) = &third {
        for c in text_argument(third, "maketrans")?.as_str().chars() {
            table.insert(meter, code(c), Value::None)?;
        }
    }
    Ok(Value::Dict(Rc::new(table)))
}

fn translate(meter: &Meter, text: &Text, table: &Value<'_>) -> Result<Text> {
    let Value::Dict(table) = table else {
        return Err(Fault::new(format!("translate: a table that is {} is not supported", table.kind())));
    };
    let mut builder = Builder::new(meter)?;
    for (at, c) in text.as_str().char_indices() {
        let marked = text.marked_at(at);
        match table.get(meter, &Value::Int(i64::from(u32::from(c))))? {
            None => builder.push_char(c, marked)?,
            Some(Value::None) => {}
            Some(Value::Text(replacement)) if marked => builder.push_str(replacement.as_str(), true)?,
            Some(Value::Text(replacement)) => builder.push(replacement)?,
            Some(code) => {
                let code = u32::try_from(int(code, "translate")?).ok().and_then(char::from_u32);
                let c = code.ok_or_else(|| Fault::new("character mapping must be in range(0x110000)"))?;
                builder.push_char(c, marked)?;
            }
        }
    }
    Ok(builder.finish(text.is_markup()))
}
