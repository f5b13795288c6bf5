//! Arithmetic and numbers as text, as Python has them.

use std::cmp::Ordering;

use num_bigint::{BigInt, Sign};
use num_integer::Integer as _;
use num_traits::{FromPrimitive, One, Signed, ToPrimitive, Zero};

use super::chars::{decimal, is_space};
use super::meter::Meter;
use super::syntax::ast::Operator;
use super::value::Value;
use super::{Fault, Result};

/// Longest integer that is read or printed, in digits: Python's own limit.
const MAX_DIGITS: usize = 4300;
/// Largest result of a power, in bits.
const MAX_POWER_BITS: u64 = 1 << 16;

/// A number; booleans are integers.
pub(super) enum Number {
    Int(BigInt),
    Float(f64),
}

impl Number {
    pub fn of(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Float(value) => Some(Self::Float(*value)),
            _ => value.as_big().map(Self::Int),
        }
    }

    /// As a float; an error if it is too large.
    pub fn float(&self) -> Result<f64> {
        match self {
            Self::Float(value) => Ok(*value),
            Self::Int(value) => int_to_float(value),
        }
    }
}

/// The nearest float, to even if two are equally near.
pub(super) fn int_to_float(value: &BigInt) -> Result<f64> {
    let bits = value.bits();
    let float = if bits <= 64 {
        value.to_f64().unwrap_or(f64::NAN)
    } else {
        // 64 bits and whether anything is below them are enough to round once.
        let shift = bits - 64;
        let magnitude = value.magnitude();
        let mut top = (magnitude >> shift).to_u64().unwrap_or(u64::MAX);
        if magnitude.trailing_zeros().is_some_and(|zeros| zeros < shift) {
            top |= 1;
        }
        let float = top as f64 * 2f64.powi(i32::try_from(shift).unwrap_or(i32::MAX));
        if value.is_negative() { -float } else { float }
    };
    if float.is_finite() { Ok(float) } else { Err(Fault::new("int too large to convert to float")) }
}

/// The integer part of a float.
pub(super) fn float_to_int(value: f64) -> Result<BigInt> {
    let whole = value.is_finite().then(|| BigInt::from_f64(value.trunc())).flatten();
    whole.ok_or_else(|| Fault::new(format!("cannot convert float {} to integer", float_repr(value))))
}

/// `left operator right` of two numbers; `None` if they are not.
pub(super) fn arithmetic<'t>(
    meter: &Meter,
    operator: Operator,
    left: &Value<'t>,
    right: &Value<'t>,
) -> Result<Option<Value<'t>>> {
    if let (Value::Int(a), Value::Int(b)) = (left, right)
        && let Some(result) = small(operator, *a, *b)
    {
        return Ok(Some(Value::Int(result)));
    }
    let (Some(left), Some(right)) = (Number::of(left), Number::of(right)) else { return Ok(None) };
    let (left, right) = match (left, right) {
        (Number::Int(left), Number::Int(right)) => return whole(meter, operator, &left, &right).map(Some),
        (left, right) => (left.float()?, right.float()?),
    };
    Ok(Some(Value::Float(floats(operator, left, right)?)))
}

fn small(operator: Operator, a: i64, b: i64) -> Option<i64> {
    match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::FloorDivide if b != 0 => {
            a.checked_div(b).map(|q| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q })
        }
        Operator::Modulo if b != 0 => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        _ => None,
    }
}

fn whole<'t>(meter: &Meter, operator: Operator, a: &BigInt, b: &BigInt) -> Result<Value<'t>> {
    meter.read((a.bits() + b.bits()) as usize)?;
    let divisible = |what: &str| if b.is_zero() { Err(Fault::new(format!("{what} by zero"))) } else { Ok(()) };
    let result = match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::FloorDivide => {
            divisible("integer division or modulo")?;
            a.div_floor(b)
        }
        Operator::Modulo => {
            divisible("integer modulo")?;
            a.mod_floor(b)
        }
        Operator::Divide => {
            divisible("division")?;
            return Ok(Value::Float(quotient(a, b)?));
        }
        Operator::Power if b.is_negative() => {
            let (a, b) = (int_to_float(a)?, int_to_float(b)?);
            return Ok(Value::Float(floats(operator, a, b)?));
        }
        Operator::Power => {
            let trivial = a.magnitude().is_one() || a.is_zero();
            let exponent = if trivial {
                u32::from(b.is_odd()) + 2 * u32::from(!b.is_zero())
            } else {
                b.to_u32().unwrap_or(u32::MAX)
            };
            if a.bits().saturating_mul(exponent.into()) > MAX_POWER_BITS {
                return Err(Fault::new(format!("a power of more than {MAX_POWER_BITS} bits")));
            }
            a.pow(exponent)
        }
    };
    Value::int(meter, result)
}

/// The float nearest to `a / b`.
fn quotient(a: &BigInt, b: &BigInt) -> Result<f64> {
    let exact = |value: &BigInt| value.bits() <= 53;
    if exact(a) && exact(b) {
        return Ok(a.to_f64().unwrap_or(0.0) / b.to_f64().unwrap_or(1.0));
    }
    // A quotient of 64 bits and whether there is a rest are enough to round once.
    let shift = 64 + b.bits() as i64 - a.bits() as i64;
    let (mut top, mut bottom) = (a.abs(), b.abs());
    if shift > 0 {
        top <<= shift;
    } else {
        bottom <<= -shift;
    }
    let (mut quotient, rest) = top.div_rem(&bottom);
    if !rest.is_zero() {
        quotient |= BigInt::one();
    }
    let scale =
        |value: f64, by: i64| value * 2f64.powi(i32::try_from(by).unwrap_or(if by > 0 { i32::MAX } else { i32::MIN }));
    let float = scale(scale(int_to_float(&quotient)?, -shift / 2), -shift - -shift / 2);
    if !float.is_finite() {
        return Err(Fault::new("integer division result too large for a float"));
    }
    Ok(if a.is_negative() == b.is_negative() { float } else { -float })
}

fn floats(operator: Operator, a: f64, b: f64) -> Result<f64> {
    let divisible = |what: &str| if b == 0.0 { Err(Fault::new(format!("{what} by zero"))) } else { Ok(()) };
    Ok(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => {
            divisible("float division")?;
            a / b
        }
        Operator::FloorDivide => {
            divisible("float floor division")?;
            // As Python does it, so that quotient and rest fit together.
            let rest = a % b;
            let opposite = rest != 0.0 && (rest < 0.0) != (b < 0.0);
            let quotient = (a - rest) / b - if opposite { 1.0 } else { 0.0 };
            let below = quotient.floor();
            match quotient {
                0.0 => 0f64.copysign(a / b),
                _ if quotient - below > 0.5 => below + 1.0,
                _ => below,
            }
        }
        Operator::Modulo => {
            divisible("float modulo")?;
            modulo(a, b)
        }
        Operator::Power => {
            if a == 0.0 && b < 0.0 {
                return Err(Fault::new("0.0 cannot be raised to a negative power"));
            }
            if a < 0.0 && a.is_finite() && b.is_finite() && b.fract() != 0.0 {
                return Err(Fault::new("complex numbers are not supported"));
            }
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(Fault::new("the result of a power is too large"));
            }
            power
        }
    })
}

/// Python's `%`: the sign is that of `b`.
fn modulo(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest == 0.0 {
        0f64.copysign(b)
    } else if (rest < 0.0) != (b < 0.0) {
        rest + b
    } else {
        rest
    }
}

pub(super) fn negate<'t>(meter: &Meter, value: &Value<'t>) -> Result<Option<Value<'t>>> {
    Ok(match Number::of(value) {
        None => None,
        Some(Number::Float(value)) => Some(Value::Float(-value)),
        Some(Number::Int(value)) => Some(Value::int(meter, -value)?),
    })
}

/// Which of two numbers is larger, exactly; `None` for NaN. The outer one if they are not numbers.
pub(super) fn compare(left: &Value<'_>, right: &Value<'_>) -> Option<Option<Ordering>> {
    if let (Value::Int(left), Value::Int(right)) = (left, right) {
        return Some(Some(left.cmp(right)));
    }
    let mixed = |whole: &BigInt, float: f64| {
        if float.is_nan() {
            return None;
        }
        if float.is_infinite() {
            return Some(if float > 0.0 { Ordering::Less } else { Ordering::Greater });
        }
        let below = BigInt::from_f64(float.floor())?;
        Some(whole.cmp(&below).then(if float.fract() == 0.0 { Ordering::Equal } else { Ordering::Less }))
    };
    Some(match (Number::of(left)?, Number::of(right)?) {
        (Number::Int(left), Number::Int(right)) => Some(left.cmp(&right)),
        (Number::Float(left), Number::Float(right)) => left.partial_cmp(&right),
        (Number::Int(left), Number::Float(right)) => mixed(&left, right),
        (Number::Float(left), Number::Int(right)) => mixed(&right, left).map(Ordering::reverse),
    })
}

/// Python's `str(int)`.
pub(super) fn int_text(meter: &Meter, value: &BigInt) -> Result<String> {
    // Printing takes time quadratic in the length.
    let too_long = || Fault::new(format!("an integer of more than {MAX_DIGITS} digits cannot be printed"));
    let digits = value.bits() as usize * 3 / 10;
    if digits > MAX_DIGITS {
        return Err(too_long());
    }
    meter.read(digits * digits / 16)?;
    let text = value.to_string();
    if text.len() - usize::from(value.is_negative()) > MAX_DIGITS { Err(too_long()) } else { Ok(text) }
}

/// Python's `repr(float)`: the shortest digits that give the number back.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// Python's `int(text, base)`.
pub(super) fn parse_int(text: &str, base: u32) -> Option<BigInt> {
    let text = text.trim_matches(is_space);
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixed = |text: &str| {
        let radix = match text.get(..2)?.to_ascii_lowercase().as_str() {
            "0b" => 2,
            "0o" => 8,
            "0x" => 16,
            _ => return None,
        };
        Some(radix)
    };
    let (radix, text, mut after_digit) = match (base, prefixed(text)) {
        (0, Some(radix)) => (radix, &text[2..], true),
        (base, Some(radix)) if base == radix => (radix, &text[2..], true),
        (0, None) => (10, text, false),
        (base, _) => (base, text, false),
    };
    let mut digits = String::new();
    let mut ends_with_digit = false;
    for c in text.chars() {
        let digit = decimal(c).or_else(|| c.to_digit(36)).filter(|digit| *digit < radix);
        match digit.and_then(|digit| char::from_digit(digit, radix)) {
            Some(digit) => {
                digits.push(digit);
                (after_digit, ends_with_digit) = (true, true);
            }
            None if c == '_' && after_digit => (after_digit, ends_with_digit) = (false, false),
            None => return None,
        }
    }
    // Of decimal numbers in source form only zero may begin with zero.
    let leading_zero = base == 0 && radix == 10 && digits.starts_with('0') && digits.bytes().any(|c| c != b'0');
    if !ends_with_digit || leading_zero || (digits.len() > MAX_DIGITS && !radix.is_power_of_two()) {
        return None;
    }
    let value = BigInt::parse_bytes(digits.as_bytes(), radix)?;
    Some(if negative { -value } else { value })
}

/// Python's `float(text)`.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let mut plain = String::with_capacity(text.len());
    let mut after_digit = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if let Some(digit) = decimal(c) {
            plain.extend(char::from_digit(digit, 10));
            after_digit = true;
        } else if c == '_' {
            if !after_digit || chars.peek().is_none_or(|c| decimal(*c).is_none()) {
                return None;
            }
            after_digit = false;
        } else {
            plain.push(c);
            after_digit = false;
        }
    }
    let word = plain.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let is_word = word.starts_with(|c: char| c.is_ascii_alphabetic());
    if is_word && !matches!(word.as_str(), "inf" | "infinity" | "nan") {
        return None;
    }
    plain.parse().ok()
}

/// `round(value, digits)` of a float: the exact value, rounded to even if two results are equally near.
pub(super) fn round_float(value: f64, digits: i64) -> Result<f64> {
    if !value.is_finite() || digits > 323 {
        return Ok(value);
    }
    if digits < -308 {
        return Ok(0f64.copysign(value));
    }
    if digits >= 0 {
        return Ok(format!("{value:.*}", digits as usize).parse().unwrap_or(value));
    }
    let whole = round_int(&float_to_int(value)?, digits, value.fract());
    let rounded = int_to_float(&whole).map_err(|_| Fault::new("rounded value too large to represent"))?;
    Ok(if rounded == 0.0 { 0f64.copysign(value) } else { rounded })
}

/// `whole + fraction`, rounded to a multiple of 10 to the power `-digits`.
pub(super) fn round_int(whole: &BigInt, digits: i64, fraction: f64) -> BigInt {
    let unit = BigInt::from(10).pow(u32::try_from(-digits).unwrap_or(u32::MAX).min(20_000));
    let (quotient, rest) = whole.div_mod_floor(&unit);
    let fraction = fraction.partial_cmp(&0.0).unwrap_or(Ordering::Equal);
    let half = (rest * 2i32).cmp(&unit).then(fraction);
    let up = match half {
        Ordering::Greater => true,
        Ordering::Equal => quotient.is_odd(),
        Ordering::Less => false,
    };
    (quotient + BigInt::from(u8::from(up))) * unit
}

/// Digits of an integer in `radix`, without sign.
pub(super) fn int_digits(value: &BigInt, radix: u32) -> String {
    match value.sign() {
        Sign::NoSign => "0".into(),
        _ => value.magnitude().to_str_radix(radix),
    }
}
