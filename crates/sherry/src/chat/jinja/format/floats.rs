//! Floats as text, in the ways that `%` and `format` know.

use super::super::Result;
use super::super::meter::Meter;
use super::super::number::float_repr;

/// Digits behind which a float has only zeros.
const LAST_DIGIT: usize = 1100;

/// How a float is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Float {
    /// `e`, `f`, `g`, `r` (as `repr`) or `%`.
    pub kind: char,
    pub precision: usize,
    /// Keeps the point and zeros behind it.
    pub alternate: bool,
    pub upper: bool,
}

/// The digits of a number that is not negative.
pub(super) fn write(meter: &Meter, value: f64, how: Float) -> Result<String> {
    meter.bytes(how.precision.saturating_add(400))?;
    let text = match how.kind {
        _ if value.is_finite() => finite(value, how),
        '%' => float_repr(value) + "%",
        _ => float_repr(value),
    };
    Ok(if how.upper { text.to_uppercase() } else { text })
}

fn finite(value: f64, how: Float) -> String {
    let Float { kind, precision, alternate, .. } = how;
    match kind {
        'f' => fixed(value, precision, alternate),
        '%' => fixed(value * 100.0, precision, alternate) + "%",
        'e' => scientific(value, precision, alternate),
        'g' => general(value, precision.max(1), alternate, false),
        _ => float_repr(value),
    }
}

/// As `g`, but as a float if it is a whole number.
pub(super) fn general_float(meter: &Meter, value: f64, how: Float) -> Result<String> {
    meter.bytes(how.precision.saturating_add(400))?;
    Ok(if value.is_finite() { general(value, how.precision.max(1), how.alternate, true) } else { float_repr(value) })
}

fn zeros(mut text: String, count: usize) -> String {
    text.extend(std::iter::repeat_n('0', count));
    text
}

fn fixed(value: f64, precision: usize, alternate: bool) -> String {
    let shown = precision.min(LAST_DIGIT);
    let text = zeros(format!("{value:.shown$}"), precision - shown);
    if precision == 0 && alternate { text + "." } else { text }
}

/// Digits and exponent of the scientific form.
fn parts(value: f64, precision: usize) -> (String, i32) {
    let shown = precision.min(LAST_DIGIT);
    let text = format!("{value:.shown$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (zeros(digits.to_owned(), precision - shown), exponent.parse().unwrap_or(0))
}

fn exponent_text(exponent: i32) -> String {
    format!("e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.unsigned_abs())
}

fn scientific(value: f64, precision: usize, alternate: bool) -> String {
    let (digits, exponent) = parts(value, precision);
    let point = if precision == 0 && alternate { "." } else { "" };
    digits + point + &exponent_text(exponent)
}

fn general(value: f64, precision: usize, alternate: bool, float: bool) -> String {
    let (digits, exponent) = parts(value, precision - 1);
    // What must look like a float needs a place for the digit behind the point.
    let fits = i64::from(exponent) < precision as i64 - i64::from(float);
    if exponent < -4 || !fits {
        let digits = if alternate { with_point(digits) } else { trimmed(digits) };
        return digits + &exponent_text(exponent);
    }
    let behind = (precision as i64 - 1 - i64::from(exponent)).max(0) as usize;
    let text = fixed(value, behind, alternate);
    let text = if alternate { text } else { trimmed(text) };
    if float && !text.contains('.') { text + ".0" } else { text }
}

fn with_point(digits: String) -> String {
    if digits.contains('.') { digits } else { digits + "." }
}

/// Without zeros at the end of the fraction.
fn trimmed(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
