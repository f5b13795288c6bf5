//! Methods of lists, tuples, ranges and mappings. Those that would change one do not exist.

use std::rc::Rc;

use super::super::attribute::position;
use super::super::call::{Args, int, required};
use super::super::dict::Dict;
use super::super::interpreter::Interpreter;
use super::super::operators::equal;
use super::super::value::{Value, View};
use super::super::{Fault, Result};

impl<'t> Interpreter<'t> {
    pub(super) fn dict_method(
        &mut self,
        value: &Value<'t>,
        name: &'static str,
        arguments: Args<'t>,
    ) -> Result<Value<'t>> {
        if name == "fromkeys" {
            let [keys, default] = arguments.positional(name, 1)?;
            let mut keys = self.iterate(&required(keys, name, "keys")?)?;
            let default = default.unwrap_or(Value::None);
            let mut dict = Dict::default();
            while let Some(key) = self.advance(&mut keys)? {
                dict.insert(self.meter, key, default.clone())?;
            }
            return Ok(Value::Dict(Rc::new(dict)));
        }
        if name == "isdisjoint" {
            let mut others = self.iterate(&arguments.one(name)?)?;
            while let Some(other) = self.advance(&mut others)? {
                if self.contains(value, &other)? {
                    return Ok(Value::Bool(false));
                }
            }
            return Ok(Value::Bool(true));
        }
        let Value::Dict(dict) = value else {
            return Err(Fault::new(format!("'{}' object has no method '{name}'", value.kind())));
        };
        match name {
            "get" => {
                let [key, default] = arguments.positional(name, 1)?;
                let found = dict.get(self.meter, &required(key, name, "a key")?)?;
                Ok(found.cloned().or(default).unwrap_or(Value::None))
            }
            "copy" => {
                arguments.none(name)?;
                Ok(Value::Dict(Rc::new(dict.copy(self.meter)?)))
            }
            _ => {
                arguments.none(name)?;
                let view = match name {
                    "keys" => View::Keys,
                    "values" => View::Values,
                    _ => View::Items,
                };
                Ok(Value::View(view, dict.clone()))
            }
        }
    }

    pub(super) fn sequence_method(
        &mut self,
        value: &Value<'t>,
        name: &'static str,
        arguments: Args<'t>,
    ) -> Result<Value<'t>> {
        let items = self.items(value)?;
        if name == "copy" {
            arguments.none(name)?;
            return Value::list(items);
        }
        let [wanted, start, stop] = arguments.positional(name, 1)?;
        let wanted = required(wanted, name, "a value")?;
        if name == "count" {
            if start.is_some() {
                return Err(Fault::new("count() takes exactly one argument"));
            }
            let mut count = 0;
            for item in &items {
                count += i64::from(item.same(&wanted) || equal(self.meter, item, &wanted)?);
            }
            return Ok(Value::Int(count));
        }
        let bound = |value: Option<Value<'t>>, default: usize| match value {
            None => Ok::<usize, Box<Fault>>(default),
            Some(value) => {
                let at = int(&value, name)?;
                Ok(position(at, items.len()).unwrap_or(if at < 0 { 0 } else { items.len() }))
            }
        };
        let (start, stop) = (bound(start, 0)?, bound(stop, items.len())?);
        for (at, item) in items.iter().enumerate().take(stop).skip(start) {
            if item.same(&wanted) || equal(self.meter, item, &wanted)? {
                return Ok(Value::index(at));
            }
        }
        Err(Fault::new(format!("the {} does not contain the value", value.kind())))
    }
}
