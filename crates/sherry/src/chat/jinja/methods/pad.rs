//! Filling texts up to a width.

use super::super::meter::Meter;
use super::super::text::{Builder, Text};
use super::super::{Fault, Result, html};

/// Where the text stands in the padded one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Side {
    Left,
    Right,
    Center,
}

/// `ljust`, `rjust` and `center`.
pub(in super::super) fn pad(meter: &Meter, text: &Text, width: i64, fill: Option<&Text>, side: Side) -> Result<Text> {
    let mut fill_char = (' ', false);
    if let Some(fill) = fill {
        let fill = if text.is_markup() { html::escape(meter, fill)? } else { fill.clone() };
        let mut chars = fill.as_str().chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => fill_char = (c, fill.is_marked()),
            _ => return Err(Fault::new("the fill character must be exactly one character long")),
        }
    }
    let length = text.chars(meter)?;
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(length);
    if missing == 0 {
        return Ok(text.clone());
    }
    let before = match side {
        Side::Left => 0,
        Side::Right => missing,
        Side::Center => missing / 2 + (missing & width as usize & 1),
    };
    let mut builder = Builder::new(meter)?;
    builder.fill(fill_char.0, before, fill_char.1)?;
    builder.push(text)?;
    builder.fill(fill_char.0, missing - before, fill_char.1)?;
    Ok(builder.finish(text.is_markup()))
}

/// `zfill`: zeros behind the sign.
pub(in super::super) fn zfill(meter: &Meter, text: &Text, width: i64) -> Result<Text> {
    let length = text.chars(meter)?;
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(length);
    let sign = usize::from(text.as_str().starts_with(['+', '-']));
    let mut builder = Builder::new(meter)?;
    builder.push_range(text, 0..sign)?;
    builder.fill('0', missing, false)?;
    builder.push_range(text, sign..text.len())?;
    Ok(builder.finish(text.is_markup()))
}

/// `expandtabs`
pub(in super::super) fn expandtabs(meter: &Meter, text: &Text, size: i64) -> Result<Text> {
    let size = usize::try_from(size).unwrap_or(0);
    meter.read(text.len())?;
    let mut builder = Builder::new(meter)?;
    let mut column = 0;
    for (at, c) in text.as_str().char_indices() {
        match c {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                builder.fill(' ', spaces, text.marked_at(at))?;
                column += spaces;
            }
            '\t' => {}
            c => {
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                builder.push_char(c, text.marked_at(at))?;
            }
        }
    }
    Ok(builder.finish(text.is_markup()))
}
