//! YAML as the reference harness reads it: version 1.1 as in PyYAML, where `no` is false and `012` is ten. What tasks have no
//! use for (anchors, tags, several documents, keys that come twice) is refused by line.

use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Value};

use sherry::io::read_regular;
use sherry::{Error, Result};

/// The largest file read.
const MAX_BYTES: u64 = 1 << 20;
/// Deepest nesting.
const MAX_DEPTH: usize = 64;

/// The mapping that the file at `path` is.
///
/// # Errors
/// Not there, too large, not YAML, no mapping, or something that is refused: with the line.
pub fn read(path: &Path) -> Result<Map<String, Value>> {
    let bytes = read_regular(path, MAX_BYTES)?;
    let text = String::from_utf8(bytes)
        .map_err(|error| Error::malformed(path, format!("byte {}", error.utf8_error().valid_up_to()), "not UTF-8"))?;
    parse(&text).map_err(|(line, problem)| Error::malformed(path, format!("line {line}"), problem))
}

type Parsed<T> = std::result::Result<T, (usize, String)>;

/// What is open while the events come: a list, or a mapping with the key that waits for its value.
enum Open {
    List(Vec<Value>),
    Mapping(Map<String, Value>, Option<String>),
}

/// The mapping that `text` is, or a line and what is wrong there.
pub fn parse(text: &str) -> Parsed<Map<String, Value>> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| (error.marker().line(), format!("not YAML ({})", error.info())))?;
        let line = line_of(&span);
        let refused = |what: &str| Err((line, format!("{what} are not understood here")));
        let value = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return refused("several documents");
                }
                continue;
            }
            Event::Alias(_) => return refused("aliases (*name)"),
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                return refused("anchors (&name)");
            }
            Event::Scalar(_, _, _, Some(ref tag))
            | Event::SequenceStart(_, Some(ref tag))
            | Event::MappingStart(_, Some(ref tag))
                if !is_core(tag) =>
            {
                let tag = format!("{}{}", tag.handle, tag.suffix);
                return Err((
                    line,
                    format!("'{tag}' is not understood here: functions and other tags of Python are code"),
                ));
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                if open.len() >= MAX_DEPTH {
                    return Err((line, format!("nested deeper than {MAX_DEPTH}")));
                }
                open.push(match event {
                    Event::SequenceStart(..) => Open::List(Vec::new()),
                    _ => Open::Mapping(Map::new(), None),
                });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Value::Array(items),
                Some(Open::Mapping(fields, _)) => Value::Object(fields),
                None => return Err((line, "not YAML".to_owned())),
            },
            Event::Scalar(text, style, _, tag) => match open.last_mut() {
                // Keys are text whatever they look like; the merge key would take in other mappings.
                Some(Open::Mapping(fields, key @ None)) => {
                    if text == "<<" {
                        return refused("merge keys (<<)");
                    }
                    if fields.contains_key(text.as_ref()) {
                        return Err((line, format!("'{text}' is there twice")));
                    }
                    *key = Some(text.into_owned());
                    continue;
                }
                _ => match tag {
                    Some(tag) if tag.suffix == "str" => Value::String(text.into_owned()),
                    None if style != ScalarStyle::Plain => Value::String(text.into_owned()),
                    _ => plain(&text),
                },
            },
        };
        match open.last_mut() {
            None => root = Some((line, value)),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Mapping(fields, key)) => match key.take() {
                Some(key) => drop(fields.insert(key, value)),
                None => return refused("keys that are no text"),
            },
        }
    }
    match root {
        Some((_, Value::Object(fields))) => Ok(fields),
        Some((line, _)) => Err((line, "expected a mapping: lines of KEY: VALUE".to_owned())),
        None => Err((1, "holds nothing".to_owned())),
    }
}

/// Whether a tag names one of YAML's own types: `!!str`, `!!int`.
fn is_core(tag: &Tag) -> bool {
    let is_known = ["str", "int", "float", "bool", "null", "seq", "map"].contains(&tag.suffix.as_str());
    tag.handle == "tag:yaml.org,2002:" && is_known
}

fn line_of(span: &Span) -> usize {
    span.start.line()
}

/// What a word without quotes stands for, by the rules of YAML 1.1 as PyYAML has them.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    integer(text).or_else(|| float(text)).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn integer(text: &str) -> Option<Value> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let in_base = |digits: &str, base: u32| {
        let plain = digits.replace('_', "");
        let legal = !plain.is_empty() && plain.chars().all(|c| c.is_digit(base));
        legal.then(|| i64::from_str_radix(&plain, base).ok()).flatten().map(|number| Value::from(sign * number))
    };
    if digits == "0" {
        return Some(Value::from(0));
    }
    if let Some(rest) = digits.strip_prefix("0x") {
        return in_base(rest, 16);
    }
    if let Some(rest) = digits.strip_prefix("0b") {
        return in_base(rest, 2);
    }
    if let Some(rest) = digits.strip_prefix('0') {
        return in_base(rest, 8);
    }
    digits.starts_with(|c: char| c.is_ascii_digit()).then(|| in_base(digits, 10))?
}

/// Numbers with a point: `1.5`, `-.5`, `1.0e+3`. Without a point, or without a sign in the exponent, PyYAML reads text.
fn float(text: &str) -> Option<Value> {
    let plain = text.replace('_', "");
    let digits = plain.strip_prefix(['-', '+']).unwrap_or(&plain);
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (digits, None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let are_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_exponent =
        |part: &str| part.strip_prefix(['-', '+']).is_some_and(|part| !part.is_empty() && are_digits(part));
    let legal = are_digits(whole)
        && are_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(is_exponent);
    let number: f64 = if legal { plain.parse().ok()? } else { return None };
    serde_json::Number::from_f64(number).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What PyYAML 6 makes of the same text.
    #[test]
    fn words_are_what_pyyaml_reads() {
        let text = "a: [no, 'no', Yes, on, ~, null, 012, 0x1F, 1_000, 1.5, -.5, 1e3, 1.0e+3, 1.0e3, 08, v1.0, '']\n\
                    b:\n  - |\n    two\n    lines\n  - \"tab\\tand \\u00e9\"\nc: {d: plain words, 1: one}\ne:\nf: [!!str 1, !!float \"2.0\"]\n";
        let expected = json!({
            "a": [false, "no", true, true, null, null, 10, 31, 1000, 1.5, -0.5, "1e3", 1000.0, "1.0e3", "08", "v1.0", ""],
            "b": ["two\nlines\n", "tab\tand \u{e9}"], "c": { "d": "plain words", "1": "one" }, "e": null, "f": ["1", 2.0],
        });
        assert_eq!(Value::Object(parse(text).unwrap()), expected);
    }

    #[test]
    fn what_is_refused_is_named_with_its_line() {
        for (text, line, words) in [
            ("a: 1\nb: !function x.y", 2, "!function"),
            ("a: &x 1", 1, "anchors"),
            ("a: 1\na: 2", 2, "twice"),
            ("- 1", 1, "mapping"),
            ("", 1, "nothing"),
            ("a: [1", 1, "not YAML"),
            ("a: 1\n---\nb: 2", 2, "several documents"),
            ("<<: {a: 1}", 1, "merge keys"),
        ] {
            let (at, problem) = parse(text).unwrap_err();
            assert!(at >= line && at <= line + 1 && problem.contains(words), "{text:?}: {at} {problem}");
        }
        assert!(parse(&format!("a: {}", "[".repeat(100_000))).is_err());
    }
}
