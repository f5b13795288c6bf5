//! Evaluating expressions.

use std::rc::Rc;

use super::call::Args;
use super::dict::Dict;
use super::interpreter::Interpreter;
use super::number;
use super::syntax::ast::*;
use super::text::{Builder, Text};
use super::value::{Missing, Value};
use super::{Fault, Result, checks, filters};

impl<'t> Interpreter<'t> {
    pub fn eval(&mut self, expr: &'t Expr) -> Result<Value<'t>> {
        match self.eval_any(expr)? {
            Value::Undefined(missing) if self.is_strict => Err(missing.fault()),
            value => Ok(value),
        }
    }

    fn eval_any(&mut self, expr: &'t Expr) -> Result<Value<'t>> {
        self.meter.step()?;
        match expr {
            Expr::Const(constant) => self.constant(constant),
            Expr::Variable(variable) => Ok(match self.variable(variable.place) {
                Some(value) => value.clone(),
                None => self.undefined(&variable.name),
            }),
            Expr::Captured => self.captured.clone().ok_or_else(|| Fault::new("a filter without a value")),
            _ => self.nested(|this| this.eval_nested(expr)),
        }
    }

    fn eval_nested(&mut self, expr: &'t Expr) -> Result<Value<'t>> {
        match expr {
            Expr::Attribute(value, name) => {
                let value = self.eval(value)?;
                self.attribute(&value, name)
            }
            Expr::Item(value, key) => {
                let value = self.eval(value)?;
                let key = self.eval(key)?;
                self.item(&value, &key)
            }
            Expr::Call(call) => self.eval_call(call, None),
            Expr::Filter(filter) => self.eval_filter(filter),
            Expr::Test(test) => self.eval_test(test),
            Expr::Compare(first, rest) => self.eval_compare(first, rest),
            Expr::And(pair) => {
                let left = self.eval(&pair.0)?;
                if left.is_true() { self.eval(&pair.1) } else { Ok(left) }
            }
            Expr::Or(pair) => {
                let left = self.eval(&pair.0)?;
                if left.is_true() { Ok(left) } else { self.eval(&pair.1) }
            }
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value)?.is_true())),
            Expr::Conditional(parts) => {
                if self.eval(&parts.1)?.is_true() {
                    return self.eval(&parts.0);
                }
                match &parts.2 {
                    Some(otherwise) => self.eval(otherwise),
                    None => Ok(Value::hint("the condition is false and there is no else")),
                }
            }
            Expr::Binary(operator, pair) => {
                let left = self.eval(&pair.0)?;
                let right = self.eval(&pair.1)?;
                self.binary(*operator, &left, &right)
            }
            Expr::Concat(parts, escape) => self.eval_concat(parts, *escape),
            Expr::Negative(value) | Expr::Positive(value) => self.eval_sign(value, matches!(expr, Expr::Negative(_))),
            Expr::Tuple(items) => Value::tuple(self.eval_all(items)?),
            Expr::List(items) => Value::list(self.eval_all(items)?),
            Expr::Dict(entries) => self.eval_dict(entries),
            Expr::Slice(value, parts) => self.eval_slice(value, parts),
            Expr::Const(_) | Expr::Variable(_) | Expr::Captured => self.eval(expr),
        }
    }

    fn constant(&mut self, constant: &'t Constant) -> Result<Value<'t>> {
        Ok(match constant {
            Constant::None => Value::None,
            Constant::Bool(value) => Value::Bool(*value),
            Constant::Int(value) => Value::Int(*value),
            Constant::Big(value) => Value::int(self.meter, value.clone())?,
            Constant::Float(value) => Value::Float(*value),
            Constant::Text(text) => Value::Text(text.clone()),
        })
    }

    fn eval_all(&mut self, items: &'t [Expr]) -> Result<Vec<Value<'t>>> {
        self.meter.slots(items.len())?;
        items.iter().map(|item| self.eval(item)).collect()
    }

    fn eval_dict(&mut self, entries: &'t [(Expr, Expr)]) -> Result<Value<'t>> {
        let mut dict = Dict::default();
        for (key, value) in entries {
            let key = self.eval(key)?;
            let value = self.eval(value)?;
            dict.insert(self.meter, key, value)?;
        }
        Ok(Value::Dict(Rc::new(dict)))
    }

    fn eval_compare(&mut self, first: &'t Expr, rest: &'t [(Comparison, Expr)]) -> Result<Value<'t>> {
        let mut left = self.eval(first)?;
        for (comparison, right) in rest {
            let right = self.eval(right)?;
            if !self.compare(*comparison, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn eval_concat(&mut self, parts: &'t [Expr], escape: Escape) -> Result<Value<'t>> {
        let mut values = Vec::with_capacity(parts.len());
        for part in parts {
            self.meter.slots(1)?;
            values.push(self.eval(part)?);
        }
        // Where escaping is known to be on, one part that is fit for HTML makes all of them so.
        let markup = escape == Escape::Yes && values.iter().any(|value| value.as_text().is_some_and(Text::is_markup));
        let mut builder = Builder::new(self.meter)?;
        for value in &values {
            let text = if markup { self.escape_value(value)? } else { self.text_of(value)? };
            builder.push(&text)?;
        }
        Ok(Value::Text(builder.finish(markup)))
    }

    fn eval_sign(&mut self, value: &'t Expr, negative: bool) -> Result<Value<'t>> {
        let value = self.eval(value)?;
        if let Value::Undefined(missing) = &value {
            return Err(missing.fault());
        }
        let signed = match number::negate(self.meter, &value)? {
            Some(negated) if negative => Some(negated),
            // Twice negated, `+true` is 1.
            Some(negated) => number::negate(self.meter, &negated)?,
            None => None,
        };
        signed.ok_or_else(|| Fault::new(format!("bad operand type for a sign: '{}'", value.kind())))
    }

    fn eval_slice(&mut self, value: &'t Expr, parts: &'t [Option<Expr>; 3]) -> Result<Value<'t>> {
        let value = self.eval(value)?;
        let mut bounds = [None, None, None];
        for (bound, part) in bounds.iter_mut().zip(parts) {
            *bound = match part {
                Some(part) => Some(self.eval(part)?),
                None => None,
            };
        }
        self.slice(&value, bounds)
    }

    pub fn arguments(&mut self, arguments: &'t Arguments) -> Result<Args<'t>> {
        let mut positional = self.eval_all(&arguments.positional)?;
        let mut named = Vec::new();
        for (name, value) in &arguments.named {
            self.meter.slots(2)?;
            named.push((name.clone(), self.eval(value)?));
        }
        if let Some(more) = &arguments.more {
            let more = self.eval(more)?;
            positional.extend(self.items(&more)?);
        }
        if let Some(more) = &arguments.more_named {
            match self.eval(more)? {
                Value::Dict(dict) => {
                    for (key, value) in dict.iter() {
                        let key = key.as_text().ok_or_else(|| Fault::new("keywords must be strings"))?;
                        let mut names = named.iter().map(|(name, _): &(Text, Value<'t>)| name.as_str());
                        self.meter.steps(named.len())?;
                        if names.any(|name| name == key.as_str()) {
                            return Err(Fault::new(format!("the argument '{}' is given twice", key.as_str())));
                        }
                        self.meter.slots(2)?;
                        named.push((key.clone(), value.clone()));
                    }
                }
                Value::Undefined(missing) => return Err(missing.fault()),
                other => return Err(Fault::new(format!("argument after ** must be a mapping, not {}", other.kind()))),
            }
        }
        Ok(Args { positional, named })
    }

    /// Calls something; in a `call` block with the block's body as `caller`.
    pub fn eval_call(&mut self, call: &'t Call, caller: Option<Value<'t>>) -> Result<Value<'t>> {
        // Methods need no value of their own just to be called.
        if let Expr::Attribute(object, name) = &call.callee {
            let object = self.eval(object)?;
            if let Some(method) = self.method_name(&object, name) {
                let arguments = self.arguments_with(call, caller)?;
                return self.call_method(&object, method, arguments);
            }
            let callee = self.attribute(&object, name)?;
            let arguments = self.arguments_with(call, caller)?;
            return self.call_value(callee, arguments);
        }
        let callee = self.eval(&call.callee)?;
        let arguments = self.arguments_with(call, caller)?;
        self.call_value(callee, arguments)
    }

    fn arguments_with(&mut self, call: &'t Call, caller: Option<Value<'t>>) -> Result<Args<'t>> {
        let mut arguments = self.arguments(&call.arguments)?;
        if let Some(caller) = caller {
            if arguments.named.iter().any(|(name, _)| name.as_str() == "caller") {
                return Err(Fault::new("the argument 'caller' is given twice"));
            }
            arguments.named.push((Text::plain(self.meter, "caller")?, caller));
        }
        Ok(arguments)
    }

    fn eval_filter(&mut self, filter: &'t Filter) -> Result<Value<'t>> {
        let value = self.eval(&filter.value)?;
        let arguments = self.arguments(&filter.arguments)?;
        filters::apply(self, &filter.name, value, arguments)
    }

    fn eval_test(&mut self, test: &'t Filter) -> Result<Value<'t>> {
        let value = self.eval(&test.value)?;
        let arguments = self.arguments(&test.arguments)?;
        checks::apply(self, &test.name, &value, arguments)
    }

    /// An undefined value that says so in these words.
    pub fn told(&self, message: String) -> Result<Missing<'t>> {
        self.meter.bytes(message.len() + 16)?;
        Ok(Missing::Told(message.into()))
    }
}
