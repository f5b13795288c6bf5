//! `text % values`

use num_bigint::BigInt;
use num_traits::Signed;

use super::super::interpreter::Interpreter;
use super::super::number::{Number, float_to_int, int_digits, int_text};
use super::super::text::{Builder, Text};
use super::super::value::{Sequence, Value};
use super::super::{Fault, Result, html, print};
use super::floats::{self, Float};

/// The values that are left.
enum Values<'t> {
    Tuple(std::rc::Rc<Sequence<'t>>, usize),
    One(Value<'t>),
    Used,
}

/// One conversion of a format.
#[derive(Default)]
struct Conversion {
    left: bool,
    plus: bool,
    blank: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

impl<'t> Interpreter<'t> {
    /// Python's `format % values`. A format that is `Markup` escapes the values.
    pub fn percent_format(&mut self, format: &Text, values: &Value<'t>) -> Result<Value<'t>> {
        let meter = self.meter;
        let mapping = match values {
            Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_) | Value::This(_) => {
                Some(values.clone())
            }
            _ => None,
        };
        let mut left = match values {
            Value::Tuple(tuple) => Values::Tuple(tuple.clone(), 0),
            one => Values::One(one.clone()),
        };
        let mut out = Builder::new(meter)?;
        let whole = format.as_str();
        let mut at = 0;
        while let Some(start) = whole[at..].find('%').map(|start| at + start) {
            meter.step()?;
            out.push_range(format, at..start)?;
            if whole[start + 1..].starts_with('%') {
                out.push_str("%", format.marked_at(start))?;
                at = start + 2;
                continue;
            }
            let mut rest = Rest { text: whole, at: start + 1 };
            if rest.peek() == Some('(') {
                let key = rest.key()?;
                let mapping = mapping.as_ref().ok_or_else(|| Fault::new("format requires a mapping"))?;
                left = Values::One(self.format_key(mapping, key)?);
            }
            let conversion = self.conversion(&mut rest, &mut left)?;
            let kind = rest.next().ok_or_else(|| Fault::new("incomplete format"))?;
            at = rest.at;
            let value = take(&mut left)?;
            self.convert(&mut out, kind, &conversion, &value, format.is_markup())?;
        }
        out.push_range(format, at..whole.len())?;
        let unused = match &left {
            Values::Tuple(tuple, at) => *at < tuple.items.len(),
            Values::One(_) => mapping.is_none(),
            Values::Used => false,
        };
        if unused {
            return Err(Fault::new("not all arguments converted during string formatting"));
        }
        Ok(Value::Text(out.finish(format.is_markup())))
    }

    fn format_key(&mut self, mapping: &Value<'t>, key: &str) -> Result<Value<'t>> {
        match mapping {
            Value::Undefined(missing) => Err(missing.fault()),
            Value::Dict(dict) => {
                let found = dict.get_str(self.meter, key)?.cloned();
                found.ok_or_else(|| Fault::new(format!("the mapping has no key {key:?}")))
            }
            other => Err(Fault::new(format!("'{}' indices must be integers", other.kind()))),
        }
    }

    /// Flags, width and precision.
    fn conversion(&mut self, rest: &mut Rest<'_>, left: &mut Values<'t>) -> Result<Conversion> {
        let mut conversion = Conversion::default();
        while let Some(flag) = rest.peek() {
            match flag {
                '-' => conversion.left = true,
                '+' => conversion.plus = true,
                ' ' => conversion.blank = true,
                '#' => conversion.alternate = true,
                '0' => conversion.zero = true,
                _ => break,
            }
            rest.next();
        }
        if rest.peek() == Some('*') {
            rest.next();
            let width = star(&take(left)?)?;
            conversion.left |= width < 0;
            conversion.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
        } else {
            conversion.width = rest.digits()?;
        }
        if rest.peek() == Some('.') {
            rest.next();
            conversion.precision = Some(if rest.peek() == Some('*') {
                rest.next();
                usize::try_from(star(&take(left)?)?).unwrap_or(0)
            } else {
                rest.digits()?
            });
        }
        if matches!(rest.peek(), Some('h' | 'l' | 'L')) {
            rest.next();
        }
        Ok(conversion)
    }

    fn convert(
        &mut self,
        out: &mut Builder<'t>,
        kind: char,
        conversion: &Conversion,
        value: &Value<'t>,
        escape: bool,
    ) -> Result<()> {
        let meter = self.meter;
        match kind {
            's' | 'r' | 'a' => {
                let mut text = match kind {
                    's' if escape => self.escape_value(value)?.with_markup(meter, false)?,
                    's' => self.text_of(value)?,
                    _ => self.repr(value)?,
                };
                if kind == 'a' {
                    text = print::ascii(meter, &text)?;
                }
                if kind != 's' && escape {
                    text = html::escape(meter, &text)?;
                }
                if let Some(precision) = conversion.precision {
                    let end = text.offset(meter, precision)?;
                    text = text.slice(meter, 0..end)?;
                }
                padded(out, &text, conversion)
            }
            'c' => {
                let c = match value {
                    Value::Text(text) if text.chars(meter)? == 1 => text.clone(),
                    _ => {
                        let code = value.as_int().and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32);
                        let c = code.ok_or_else(|| Fault::new("%c requires int or char"))?;
                        Text::plain(meter, c.to_string())?
                    }
                };
                padded(out, &c, conversion)
            }
            'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
                let value = match Number::of(value) {
                    Some(Number::Int(value)) => value,
                    Some(Number::Float(value)) if matches!(kind, 'd' | 'i' | 'u') => float_to_int(value)?,
                    _ => return Err(unformattable(kind, value)),
                };
                let (prefix, digits) = integer(self.meter, kind, &value, conversion)?;
                number(out, value.is_negative(), prefix, &digits, conversion)
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let value = match value {
                    Value::Undefined(missing) => return Err(missing.fault()),
                    _ => Number::of(value).ok_or_else(|| unformattable(kind, value))?.float()?,
                };
                let how = Float {
                    kind: kind.to_ascii_lowercase(),
                    precision: conversion.precision.unwrap_or(6),
                    alternate: conversion.alternate,
                    upper: kind.is_ascii_uppercase(),
                };
                let digits = floats::write(meter, value.abs(), how)?;
                number(out, value.is_sign_negative() && !value.is_nan(), "", &digits, conversion)
            }
            _ => Err(Fault::new(format!("unsupported format character {kind:?}"))),
        }
    }
}

fn unformattable(kind: char, value: &Value<'_>) -> Box<Fault> {
    match value {
        Value::Undefined(missing) => missing.fault(),
        _ => Fault::new(format!("%{kind} format: a number is required, not {}", value.kind())),
    }
}

/// The next value.
fn take<'t>(left: &mut Values<'t>) -> Result<Value<'t>> {
    let not_enough = || Fault::new("not enough arguments for format string");
    match left {
        Values::Tuple(tuple, at) => {
            *at += 1;
            tuple.items.get(*at - 1).cloned().ok_or_else(not_enough)
        }
        Values::One(value) => {
            let value = value.clone();
            *left = Values::Used;
            Ok(value)
        }
        Values::Used => Err(not_enough()),
    }
}

fn star(value: &Value<'_>) -> Result<i64> {
    value.as_int().ok_or_else(|| Fault::new("* wants int"))
}

fn integer(
    meter: &super::super::meter::Meter,
    kind: char,
    value: &BigInt,
    conversion: &Conversion,
) -> Result<(&'static str, String)> {
    let magnitude = value.abs();
    let (prefix, mut digits) = match kind {
        'o' => ("0o", int_digits(&magnitude, 8)),
        'x' => ("0x", int_digits(&magnitude, 16)),
        'X' => ("0X", int_digits(&magnitude, 16).to_uppercase()),
        _ => ("", int_text(meter, &magnitude)?),
    };
    if let Some(precision) = conversion.precision {
        let missing = precision.saturating_sub(digits.len());
        meter.bytes(missing)?;
        digits.insert_str(0, &"0".repeat(missing));
    }
    Ok((if conversion.alternate { prefix } else { "" }, digits))
}

fn padded(out: &mut Builder<'_>, text: &Text, conversion: &Conversion) -> Result<()> {
    let missing = conversion.width.saturating_sub(text.as_str().chars().count());
    out.fill(' ', if conversion.left { 0 } else { missing }, false)?;
    out.push(text)?;
    out.fill(' ', if conversion.left { missing } else { 0 }, false)
}

fn number(out: &mut Builder<'_>, negative: bool, prefix: &str, digits: &str, conversion: &Conversion) -> Result<()> {
    let sign = match (negative, conversion.plus, conversion.blank) {
        (true, _, _) => "-",
        (false, true, _) => "+",
        (false, false, true) => " ",
        (false, false, false) => "",
    };
    let missing = conversion.width.saturating_sub(sign.len() + prefix.len() + digits.len());
    let (before, inside, behind) = match (conversion.left, conversion.zero) {
        (true, _) => (0, 0, missing),
        (false, true) => (0, missing, 0),
        (false, false) => (missing, 0, 0),
    };
    out.fill(' ', before, false)?;
    out.push_str(sign, false)?;
    out.push_str(prefix, false)?;
    out.fill('0', inside, false)?;
    out.push_str(digits, false)?;
    out.fill(' ', behind, false)
}

/// What is left of a format.
struct Rest<'f> {
    text: &'f str,
    at: usize,
}

impl<'f> Rest<'f> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn digits(&mut self) -> Result<usize> {
        let rest = &self.text[self.at..];
        let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        self.at += length;
        if length == 0 {
            return Ok(0);
        }
        rest[..length].parse().map_err(|_| Fault::new("width or precision too big"))
    }

    /// A key in parentheses, which may hold parentheses.
    fn key(&mut self) -> Result<&'f str> {
        let start = self.at + 1;
        let mut open = 0;
        while let Some(c) = self.next() {
            match c {
                '(' => open += 1,
                ')' => open -= 1,
                _ => {}
            }
            if open == 0 {
                return Ok(&self.text[start..self.at - 1]);
            }
        }
        Err(Fault::new("incomplete format key"))
    }
}
