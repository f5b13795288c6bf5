//! Methods of values.

pub(super) mod casing;
mod containers;
mod numbers;
pub(super) mod pad;
pub(super) mod split;
mod text;

pub(super) use text::replace;

use super::call::Args;
use super::interpreter::Interpreter;
use super::value::Value;
use super::{Fault, Result};

impl<'t> Interpreter<'t> {
    /// Calls one of the methods that [`Self::method_name`] knows.
    pub fn call_method(&mut self, value: &Value<'t>, name: &'static str, arguments: Args<'t>) -> Result<Value<'t>> {
        match value {
            Value::Text(text) => self.text_method(text, name, arguments),
            Value::Dict(_) | Value::View(..) | Value::Function(_) => self.dict_method(value, name, arguments),
            Value::List(_) | Value::Tuple(_) | Value::Range(_) => self.sequence_method(value, name, arguments),
            Value::Bool(_) | Value::Int(_) | Value::Big(_) | Value::Float(_) => {
                self.number_method(value, name, arguments)
            }
            Value::Loop(state) if name == "cycle" => self.loop_cycle(state, arguments),
            Value::Loop(state) => self.loop_changed(state, arguments),
            Value::Cycler(cycler) => {
                arguments.none(name)?;
                let position = cycler.position.get();
                if name == "reset" {
                    cycler.position.set(0);
                    return Ok(Value::None);
                }
                cycler.position.set((position + 1) % cycler.items.items.len());
                Ok(cycler.items.items[position].clone())
            }
            _ => Err(Fault::new(format!("'{}' object has no method '{name}'", value.kind()))),
        }
    }
}
