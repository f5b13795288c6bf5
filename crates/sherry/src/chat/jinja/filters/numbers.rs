//! Filters about numbers.

use num_traits::Signed;

use super::super::call::{Args, int};
use super::super::interpreter::Interpreter;
use super::super::number::{Number, float_to_int, int_to_float, parse_float, parse_int, round_float, round_int};
use super::super::syntax::ast::Operator;
use super::super::value::Value;
use super::super::{Fault, Result};

pub(super) fn apply<'t>(
    interpreter: &mut Interpreter<'t>,
    name: &str,
    value: Value<'t>,
    arguments: Args<'t>,
) -> Result<Value<'t>> {
    match name {
        "abs" => {
            arguments.none(name)?;
            match number(&value, name)? {
                Number::Int(value) => Value::int(interpreter.meter, value.abs()),
                Number::Float(value) => Ok(Value::Float(value.abs())),
            }
        }
        "int" => {
            let [default, base] = arguments.bind(name, ["default", "base"])?;
            let base = base.map_or(Ok(10), |base| int(&base, name))?;
            to_int(interpreter, &value, default.unwrap_or(Value::Int(0)), base)
        }
        "float" => {
            let [default] = arguments.bind(name, ["default"])?;
            interpreter.meter.read(value.as_str().map_or(0, str::len))?;
            match to_float(&value)? {
                Some(float) => Ok(Value::Float(float)),
                None => Ok(default.unwrap_or(Value::Float(0.0))),
            }
        }
        "round" => round(interpreter, &value, arguments),
        _ => filesize(interpreter, &value, arguments),
    }
}

fn number(value: &Value<'_>, what: &str) -> Result<Number> {
    match value {
        Value::Undefined(missing) => Err(missing.fault()),
        _ => Number::of(value).ok_or_else(|| Fault::new(format!("{what}: '{}' is not a number", value.kind()))),
    }
}

/// Python's `float(value)`; `None` if it is no number.
fn to_float(value: &Value<'_>) -> Result<Option<f64>> {
    match value {
        Value::Text(text) => Ok(parse_float(text.as_str())),
        Value::Undefined(missing) => Err(missing.fault()),
        _ => Number::of(value).map(|number| number.float()).transpose(),
    }
}

fn to_int<'t>(
    interpreter: &mut Interpreter<'t>,
    value: &Value<'t>,
    default: Value<'t>,
    base: i64,
) -> Result<Value<'t>> {
    let whole = match value {
        Value::Undefined(missing) => return Err(missing.fault()),
        Value::Text(text) => {
            // Reading digits takes time quadratic in their number, which is limited.
            interpreter.meter.read(text.len())?;
            interpreter.meter.steps(text.len().min(1 << 16) / 16)?;
            let base = u32::try_from(base).ok().filter(|base| matches!(base, 0 | 2..=36));
            base.and_then(|base| parse_int(text.as_str(), base))
        }
        Value::Float(value) if value.is_infinite() => {
            return Err(Fault::new("cannot convert float infinity to integer"));
        }
        Value::Float(value) => float_to_int(*value).ok(),
        _ => value.as_big(),
    };
    // "42.23" is 42.
    let whole = match whole {
        Some(whole) => Some(whole),
        None => to_float(value).ok().flatten().and_then(|float| float_to_int(float).ok()),
    };
    whole.map_or(Ok(default), |whole| Value::int(interpreter.meter, whole))
}

fn round<'t>(interpreter: &mut Interpreter<'t>, value: &Value<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
    let [precision, method] = arguments.bind("round", ["precision", "method"])?;
    let precision = precision.unwrap_or(Value::Int(0));
    let method = match method.as_ref().map(Value::as_str) {
        None => "common",
        Some(Some(method @ ("common" | "ceil" | "floor"))) => method,
        _ => return Err(Fault::new("method must be common, ceil or floor")),
    };
    if method != "common" {
        let scale = interpreter.binary(Operator::Power, &Value::Int(10), &precision)?;
        let scaled = match interpreter.binary(Operator::Multiply, value, &scale)? {
            Value::Float(scaled) => {
                let whole = if method == "ceil" { scaled.ceil() } else { scaled.floor() };
                Value::int(interpreter.meter, float_to_int(whole)?)?
            }
            whole if whole.as_big().is_some() => whole,
            other => return Err(Fault::new(format!("round: '{}' is not a number", other.kind()))),
        };
        return interpreter.binary(Operator::Divide, &scaled, &scale);
    }
    let whole_number = matches!(precision, Value::None);
    let digits = if whole_number { 0 } else { int(&precision, "round")? };
    match number(value, "round")? {
        Number::Float(value) if whole_number => Value::int(interpreter.meter, float_to_int(round_float(value, 0)?)?),
        Number::Float(value) => Ok(Value::Float(round_float(value, digits)?)),
        Number::Int(value) if digits >= 0 => Value::int(interpreter.meter, value),
        Number::Int(value) => Value::int(interpreter.meter, round_int(&value, digits, 0.0)),
    }
}

fn filesize<'t>(interpreter: &mut Interpreter<'t>, value: &Value<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
    let [binary] = arguments.bind("filesizeformat", ["binary"])?;
    let binary = binary.is_some_and(|binary| binary.is_true());
    let bytes = to_float(value)?.ok_or_else(|| Fault::new("filesizeformat: not a number"))?;
    let base = if binary { 1024.0 } else { 1000.0 };
    let text = if bytes == 1.0 {
        "1 Byte".to_owned()
    } else if bytes < base {
        format!("{} Bytes", float_to_int(bytes)?)
    } else {
        let units = if binary {
            ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]
        } else {
            ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
        };
        // Python has these powers as integers and turns them into floats for the division.
        let power = |at: usize| int_to_float(&num_bigint::BigInt::from(base as i64).pow(at as u32 + 2));
        let mut at = 0;
        while at + 1 < units.len() && bytes >= power(at)? {
            at += 1;
        }
        let shown = base * bytes / power(at)?;
        format!(
            "{} {}",
            if shown.is_finite() { format!("{shown:.1}") } else { super::super::number::float_repr(shown) },
            units[at]
        )
    };
    Value::plain(interpreter.meter, text)
}
