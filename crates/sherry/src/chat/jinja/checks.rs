//! Tests: what stands behind `is`.

use super::call::Args;
use super::interpreter::Interpreter;
use super::iterate::sized;
use super::operators::equal;
use super::syntax::ast::{Comparison, Operator};
use super::value::Value;
use super::{Fault, Result, filters};

/// All tests of Jinja2.
const NAMES: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// The parameter of tests that compare, by whatever name they take it.
fn parameter(name: &str) -> Option<&'static str> {
    match name {
        "divisibleby" => Some("num"),
        "sameas" => Some("other"),
        "in" => Some("seq"),
        _ => None,
    }
}

/// Applies a test.
pub(super) fn apply<'t>(
    interpreter: &mut Interpreter<'t>,
    name: &str,
    value: &Value<'t>,
    arguments: Args<'t>,
) -> Result<Value<'t>> {
    let comparison = match name {
        "==" | "eq" | "equalto" => Some(Comparison::Equal),
        "!=" | "ne" => Some(Comparison::NotEqual),
        ">" | "gt" | "greaterthan" => Some(Comparison::Greater),
        ">=" | "ge" => Some(Comparison::GreaterEqual),
        "<" | "lt" | "lessthan" => Some(Comparison::Less),
        "<=" | "le" => Some(Comparison::LessEqual),
        _ => None,
    };
    if let Some(comparison) = comparison {
        let other = arguments.one(name)?;
        return Ok(Value::Bool(interpreter.compare(comparison, value, &other)?));
    }
    if let Some(parameter) = parameter(name) {
        let [other] = arguments.bind(name, [parameter])?;
        let other = super::call::required(other, name, parameter)?;
        return Ok(Value::Bool(match name {
            "divisibleby" => is_zero(interpreter, value, &other)?,
            "sameas" => value.same(&other),
            _ => interpreter.contains(&other, value)?,
        }));
    }
    arguments.none(name)?;
    Ok(Value::Bool(plain(interpreter, name, value)?))
}

/// Whether `value % by == 0`.
fn is_zero<'t>(interpreter: &mut Interpreter<'t>, value: &Value<'t>, by: &Value<'t>) -> Result<bool> {
    let rest = interpreter.binary(Operator::Modulo, value, by)?;
    equal(interpreter.meter, &rest, &Value::Int(0))
}

fn plain<'t>(interpreter: &mut Interpreter<'t>, name: &str, value: &Value<'t>) -> Result<bool> {
    Ok(match name {
        "odd" | "even" => {
            let rest = interpreter.binary(Operator::Modulo, value, &Value::Int(2))?;
            equal(interpreter.meter, &rest, &Value::Int(i64::from(name == "odd")))?
        }
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "filter" | "test" => {
            // Looking something up needs a value that can be a key.
            super::dict::hash(interpreter.meter, value)?;
            value.as_str().is_some_and(if name == "filter" { filters::exists } else { exists })
        }
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "integer" => matches!(value, Value::Int(_) | Value::Big(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Bool(_) | Value::Int(_) | Value::Big(_) | Value::Float(_)),
        "string" => matches!(value, Value::Text(_)),
        "escaped" => value.as_text().is_some_and(super::text::Text::is_markup),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => match value {
            Value::View(..) => false,
            _ => sized(interpreter.meter, value)?.is_some(),
        },
        "iterable" => interpreter.iterate(value).is_ok(),
        "callable" => matches!(
            value,
            Value::Undefined(_)
                | Value::Macro(_)
                | Value::Function(_)
                | Value::Method(_)
                | Value::Loop(_)
                | Value::Joiner(_)
                | Value::Block(..)
        ),
        "lower" | "upper" => {
            let text = interpreter.text_of(value)?;
            interpreter.meter.read(text.len())?;
            let (wanted, other) = match name {
                "lower" => (char::is_lowercase as fn(char) -> bool, char::is_uppercase as fn(char) -> bool),
                _ => (char::is_uppercase as _, char::is_lowercase as _),
            };
            let text = text.as_str();
            text.chars().any(wanted) && !text.chars().any(|c| other(c) || super::chars::is_title(c))
        }
        _ => return Err(Fault::new(format!("there is no test {name:?}"))),
    })
}
