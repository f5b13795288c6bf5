//! Python's `format(value, specification)`.

use num_bigint::BigInt;
use num_traits::{Signed, ToPrimitive};

use super::super::interpreter::Interpreter;
use super::super::meter::Meter;
use super::super::number::{Number, float_repr, int_digits, int_text, int_to_float};
use super::super::text::{Builder, Text};
use super::super::value::Value;
use super::super::{Fault, Result};
use super::floats::{self, Float};

/// `[[fill]align][sign][z][#][0][width][grouping][.precision][type]`
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    no_negative_zero: bool,
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Spec {
    fn parse(text: &str) -> Result<Self> {
        let chars: Vec<char> = text.chars().collect();
        let mut at = 0;
        let is_align = |c: Option<&char>| matches!(c, Some('<' | '>' | '=' | '^'));
        let (mut fill, mut align) = (None, None);
        if is_align(chars.get(1)) {
            (fill, align) = (Some(chars[0]), Some(chars[1]));
            at = 2;
        } else if is_align(chars.first()) {
            align = Some(chars[0]);
            at = 1;
        }
        let mut take = |wanted: &[char]| {
            let found = chars.get(at).copied().filter(|c| wanted.contains(c));
            at += usize::from(found.is_some());
            found
        };
        let sign = take(&['+', '-', ' ']);
        let no_negative_zero = take(&['z']).is_some();
        let alternate = take(&['#']).is_some();
        if fill.is_none() && take(&['0']).is_some() {
            fill = Some('0');
            align = align.or(Some('\0'));
        }
        let mut digits = || {
            let mut number = String::new();
            while let Some(digit) = take(&['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
                number.push(digit);
            }
            let too_many = |_| Fault::new("too many decimal digits in format string");
            if number.is_empty() { Ok(None) } else { number.parse().map(Some).map_err(too_many) }
        };
        let width = digits()?.unwrap_or(0);
        let grouping = take(&[',', '_']);
        let mut precision = None;
        if take(&['.']).is_some() {
            let mut number = String::new();
            while let Some(digit) = take(&['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
                number.push(digit);
            }
            let bad = |_| Fault::new("format specifier missing precision");
            precision = Some(number.parse().map_err(bad)?);
        }
        let rest = &chars[at..];
        if rest.len() > 1 {
            return Err(Fault::new(format!("invalid format specifier {text:?}")));
        }
        let kind = rest.first().copied();
        Ok(Self { fill, align, sign, no_negative_zero, alternate, width, grouping, precision, kind })
    }

    /// Unknown types, and what a type does not go with.
    fn unknown(&self, value: &Value<'_>) -> Box<Fault> {
        let kind = self.kind.unwrap_or(' ');
        Fault::new(format!("format code {kind:?} does not fit an object of type '{}'", value.kind()))
    }
}

impl<'t> Interpreter<'t> {
    pub(super) fn format_value(&mut self, value: &Value<'t>, spec: &str) -> Result<Text> {
        if spec.is_empty() {
            return self.text_of(value);
        }
        self.meter.read(spec.len())?;
        let parsed = Spec::parse(spec)?;
        match (value, Number::of(value)) {
            (Value::Text(text), _) => format_text(self.meter, text, &parsed, value),
            (_, Some(Number::Int(number))) => format_int(self.meter, &number, &parsed, value),
            (_, Some(Number::Float(number))) => format_float(self.meter, number, &parsed, value),
            _ => Err(Fault::new(format!("unsupported format string passed to {}.__format__", value.kind()))),
        }
    }
}

fn format_text(meter: &Meter, text: &Text, spec: &Spec, value: &Value<'_>) -> Result<Text> {
    let wrong = spec.sign.is_some() || spec.no_negative_zero || spec.alternate || spec.grouping.is_some();
    if wrong || spec.align == Some('=') || !matches!(spec.kind, None | Some('s')) {
        return Err(spec.unknown(value));
    }
    let end = match spec.precision {
        Some(precision) => text.offset(meter, precision)?,
        None => text.len(),
    };
    let text = text.slice(meter, 0..end)?;
    let missing = spec.width.saturating_sub(text.chars(meter)?);
    let before = match spec.align {
        Some('>') => missing,
        Some('^') => missing / 2,
        _ => 0,
    };
    let fill = spec.fill.unwrap_or(' ');
    let mut out = Builder::new(meter)?;
    out.fill(fill, before, false)?;
    out.push(&text)?;
    out.fill(fill, missing - before, false)?;
    Ok(out.finish(false))
}

fn format_int(meter: &Meter, number: &BigInt, spec: &Spec, value: &Value<'_>) -> Result<Text> {
    if matches!(spec.kind, Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) {
        return format_float(meter, int_to_float(number)?, spec, value);
    }
    if spec.precision.is_some() || spec.no_negative_zero {
        return Err(Fault::new("precision not allowed in integer format specifier"));
    }
    let magnitude = number.abs();
    let (prefix, digits, group) = match spec.kind {
        None | Some('d') => ("", int_text(meter, &magnitude)?, 3),
        Some('n') if spec.grouping.is_none() => ("", int_text(meter, &magnitude)?, 3),
        Some('b') => ("0b", int_digits(&magnitude, 2), 4),
        Some('o') => ("0o", int_digits(&magnitude, 8), 4),
        Some('x') => ("0x", int_digits(&magnitude, 16), 4),
        Some('X') => ("0X", int_digits(&magnitude, 16).to_uppercase(), 4),
        Some('c') if spec.sign.is_none() && !spec.alternate && spec.grouping.is_none() => {
            let c =
                number.to_u32().and_then(char::from_u32).ok_or_else(|| Fault::new("%c arg not in range(0x110000)"))?;
            return grouped(meter, spec, "", &c.to_string(), "", 3);
        }
        _ => return Err(spec.unknown(value)),
    };
    if spec.grouping == Some(',') && group == 4 {
        return Err(spec.unknown(value));
    }
    let prefix = if spec.alternate { prefix } else { "" };
    let sign = sign(number.is_negative(), spec);
    grouped(meter, spec, &format!("{sign}{prefix}"), &digits, "", group)
}

fn sign(negative: bool, spec: &Spec) -> &'static str {
    match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    }
}

fn format_float(meter: &Meter, number: f64, spec: &Spec, value: &Value<'_>) -> Result<Text> {
    let kind = match spec.kind {
        None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => spec.kind,
        Some('n') if spec.grouping.is_none() => Some('g'),
        _ => return Err(spec.unknown(value)),
    };
    let how = Float {
        kind: kind.map_or('r', |kind| kind.to_ascii_lowercase()),
        precision: spec.precision.unwrap_or(6),
        alternate: spec.alternate,
        upper: kind.is_some_and(|kind| kind.is_ascii_uppercase()),
    };
    let text = match (kind, spec.precision) {
        (None, Some(_)) => floats::general_float(meter, number.abs(), how)?,
        (None, None) => float_repr(number.abs()),
        _ => floats::write(meter, number.abs(), how)?,
    };
    let mut negative = number.is_sign_negative() && !number.is_nan();
    if spec.no_negative_zero && !text.contains(|c: char| matches!(c, '1'..='9')) && number.is_finite() {
        negative = false;
    }
    let whole = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    grouped(meter, spec, sign(negative, spec), &text[..whole], &text[whole..], 3)
}

/// A number with separators between groups of digits, if wanted.
fn grouped(meter: &Meter, spec: &Spec, before: &str, digits: &str, behind: &str, group: usize) -> Result<Text> {
    let align = spec.align.map_or('>', |align| if align == '\0' { '=' } else { align });
    let Some(separator) = spec.grouping else { return lay_out(meter, spec, align, before, digits, behind) };
    // Zeros that fill up to the width are grouped as well.
    let mut digits: Vec<char> = digits.chars().rev().collect();
    if align == '=' && spec.fill == Some('0') && !digits.is_empty() {
        let width = spec.width.saturating_sub(before.chars().count() + behind.chars().count());
        meter.bytes(width.saturating_mul(8))?;
        while digits.len() + (digits.len() - 1) / group < width {
            digits.push('0');
        }
    }
    meter.bytes(digits.len() * 8)?;
    let mut out = Vec::with_capacity(digits.len() * 2);
    for (at, digit) in digits.into_iter().enumerate() {
        if at > 0 && at % group == 0 {
            out.push(separator);
        }
        out.push(digit);
    }
    let digits: String = out.into_iter().rev().collect();
    lay_out(meter, spec, align, before, &digits, behind)
}

fn lay_out(meter: &Meter, spec: &Spec, align: char, before: &str, digits: &str, behind: &str) -> Result<Text> {
    let length = before.chars().count() + digits.chars().count() + behind.chars().count();
    let missing = spec.width.saturating_sub(length);
    let fill = spec.fill.unwrap_or(' ');
    let (left, inside) = match align {
        '<' => (0, 0),
        '^' => (missing / 2, 0),
        '=' => (0, missing),
        _ => (missing, 0),
    };
    let mut out = Builder::new(meter)?;
    out.fill(fill, left, false)?;
    out.push_str(before, false)?;
    out.fill(fill, inside, false)?;
    out.push_str(digits, false)?;
    out.push_str(behind, false)?;
    out.fill(fill, missing - left - inside, false)?;
    Ok(out.finish(false))
}
