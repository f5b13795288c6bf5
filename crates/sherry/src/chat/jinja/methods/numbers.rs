//! Methods of numbers.

use num_bigint::BigInt;
use num_traits::FromPrimitive;

use super::super::call::Args;
use super::super::interpreter::Interpreter;
use super::super::number::Number;
use super::super::value::Value;
use super::super::{Fault, Result};

impl<'t> Interpreter<'t> {
    pub(super) fn number_method(
        &mut self,
        value: &Value<'t>,
        name: &'static str,
        arguments: Args<'t>,
    ) -> Result<Value<'t>> {
        if matches!(name, "to_bytes" | "from_bytes" | "fromhex" | "hex") {
            return Err(Fault::new(format!("the method {name:?} of numbers is not supported")));
        }
        arguments.none(name)?;
        match (Number::of(value), name) {
            (Some(Number::Int(value)), "bit_length") => Ok(Value::Int(value.bits() as i64)),
            (Some(Number::Int(value)), "bit_count") => {
                Ok(Value::Int(value.magnitude().iter_u64_digits().map(|digit| i64::from(digit.count_ones())).sum()))
            }
            (Some(Number::Int(_)), "is_integer") => Ok(Value::Bool(true)),
            (Some(Number::Float(value)), "is_integer") => Ok(Value::Bool(value.is_finite() && value.fract() == 0.0)),
            (Some(Number::Int(value)), "as_integer_ratio") => {
                let value = Value::int(self.meter, value)?;
                Value::pair(self.meter, value, Value::Int(1))
            }
            (Some(Number::Float(value)), "as_integer_ratio") => {
                let (top, bottom) = ratio(value)?;
                let (top, bottom) = (Value::int(self.meter, top)?, Value::int(self.meter, bottom)?);
                Value::pair(self.meter, top, bottom)
            }
            // conjugate
            (Some(Number::Int(value)), _) => Value::int(self.meter, value),
            (Some(Number::Float(value)), _) => Ok(Value::Float(value)),
            (None, _) => Err(Fault::new("not a number")),
        }
    }
}

/// A float as a fraction in lowest terms.
fn ratio(value: f64) -> Result<(BigInt, BigInt)> {
    let mut scaled = value;
    let mut shift = 0u32;
    while scaled.is_finite() && scaled.fract() != 0.0 {
        scaled *= 2.0;
        shift += 1;
    }
    let top = BigInt::from_f64(scaled).filter(|_| value.is_finite());
    let top = top.ok_or_else(|| Fault::new("cannot convert a float without a value to an integer ratio"))?;
    Ok((top, BigInt::from(1) << shift))
}
