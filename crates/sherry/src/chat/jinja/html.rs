//! Texts fit for HTML: what `markupsafe` does.

use super::meter::Meter;
use super::text::{Builder, Text};
use super::{Fault, Result, chars};

/// `markupsafe.escape`: what is `Markup` already stays.
pub(super) fn escape(meter: &Meter, text: &Text) -> Result<Text> {
    if text.is_markup() {
        return Ok(text.clone());
    }
    let escaped = text.map_chars(meter, |c, out| match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '\'' => out.push_str("&#39;"),
        '"' => out.push_str("&#34;"),
        c => out.push(c),
    })?;
    escaped.with_markup(meter, true)
}

/// `Markup.striptags`: without tags and comments, white space as single spaces, entities as characters.
pub(super) fn striptags(meter: &Meter, text: &Text) -> Result<Text> {
    meter.read(text.len())?;
    let whole = text.as_str();
    let mut bare = Builder::new(meter)?;
    let mut at = 0;
    while let Some(start) = whole[at..].find('<').map(|start| at + start) {
        let end = match whole[start..].strip_prefix("<!--") {
            Some(comment) => comment.find("-->").map(|end| start + 4 + end + 3),
            None => whole[start..].find('>').map(|end| start + end + 1),
        };
        let Some(end) = end else { break };
        bare.push_range(text, at..start)?;
        at = end;
    }
    bare.push_range(text, at..whole.len())?;
    let bare = bare.finish(false);
    let mut single = Builder::new(meter)?;
    let mut in_word = false;
    for (at, c) in bare.as_str().char_indices() {
        if chars::is_space(c) {
            in_word = false;
            continue;
        }
        if !std::mem::replace(&mut in_word, true) && single.len() > 0 {
            single.push_char(' ', bare.marked_at(at))?;
        }
        single.push_char(c, bare.marked_at(at))?;
    }
    unescape(meter, &single.finish(false))
}

/// Python's `html.unescape`, with the entities that escaping makes, a few more and numbers. Others are refused.
pub(super) fn unescape(meter: &Meter, text: &Text) -> Result<Text> {
    let whole = text.as_str();
    let mut builder = Builder::new(meter)?;
    let mut at = 0;
    while let Some(start) = whole[at..].find('&').map(|start| at + start) {
        builder.push_range(text, at..start)?;
        let rest = &whole[start + 1..];
        let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '#')).unwrap_or(rest.len());
        let (name, semicolon) = (&rest[..length], rest[length..].starts_with(';'));
        let end = start + 1 + length + usize::from(semicolon);
        let marked = text.marked_at(start);
        match name {
            "amp" | "AMP" => builder.push_char('&', marked)?,
            "lt" | "LT" => builder.push_char('<', marked)?,
            "gt" | "GT" => builder.push_char('>', marked)?,
            "quot" | "QUOT" => builder.push_char('"', marked)?,
            "nbsp" => builder.push_char('\u{a0}', marked)?,
            "apos" if semicolon => builder.push_char('\'', marked)?,
            _ => match name.strip_prefix('#').map(numeric) {
                Some(Some(Some(c))) => builder.push_char(c, marked)?,
                Some(Some(None)) => {}
                None if name.is_empty() || name.starts_with(|c: char| !c.is_ascii_alphabetic()) => {
                    builder.push_range(text, start..end)?;
                }
                _ => return Err(Fault::new(format!("the HTML entity &{name}; is not supported"))),
            },
        }
        at = end;
    }
    builder.push_range(text, at..whole.len())?;
    Ok(builder.finish(false))
}

/// The character of a numeric entity; the outer option is empty if it is not one, the inner if it stands for nothing.
fn numeric(number: &str) -> Option<Option<char>> {
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => number.parse().ok()?,
    };
    match code {
        0 | 0xd800..=0xdfff | 0x11_0000.. => Some(Some('\u{fffd}')),
        0x0d => Some(Some('\r')),
        0x80..=0x9f => None,
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => Some(None),
        code if code & 0xfffe == 0xfffe => Some(None),
        code => Some(char::from_u32(code)),
    }
}
