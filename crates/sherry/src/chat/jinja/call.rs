//! Calls and their arguments.

use std::cell::Cell;
use std::rc::Rc;

use super::dict::Dict;
use super::interpreter::Interpreter;
use super::meter::Meter;
use super::syntax::ast::Macro;
use super::text::Text;
use super::value::{Closure, Cycler, Function, Missing, Range, Sequence, Value};
use super::{Fault, Result};

/// Longest range, as Jinja2's sandbox has it.
const MAX_RANGE: usize = 100_000;

/// Arguments of a call.
#[derive(Default)]
pub(super) struct Args<'t> {
    pub positional: Vec<Value<'t>>,
    pub named: Vec<(Text, Value<'t>)>,
}

impl<'t> Args<'t> {
    /// The values of parameters with these names, which can be given by place or by name.
    pub fn bind<const N: usize>(self, what: &str, names: [&str; N]) -> Result<[Option<Value<'t>>; N]> {
        if self.positional.len() > N {
            return Err(Fault::new(format!("{what} takes at most {N} arguments, not {}", self.positional.len())));
        }
        let mut values = [const { None }; N];
        for (value, given) in values.iter_mut().zip(self.positional) {
            *value = Some(given);
        }
        for (name, given) in self.named {
            let at = names.iter().position(|other| *other == name.as_str());
            let Some(at) = at else {
                return Err(Fault::new(format!("{what} got an unexpected keyword argument '{}'", name.as_str())));
            };
            if values[at].replace(given).is_some() {
                return Err(Fault::new(format!("{what} got multiple values for argument '{}'", name.as_str())));
            }
        }
        Ok(values)
    }

    /// The values of parameters that are given by place only; the first `required` are there.
    pub fn positional<const N: usize>(self, what: &str, required: usize) -> Result<[Option<Value<'t>>; N]> {
        if let Some((name, _)) = self.named.first() {
            return Err(Fault::new(format!("{what} takes no keyword argument '{}'", name.as_str())));
        }
        if self.positional.len() < required || self.positional.len() > N {
            return Err(Fault::new(format!("{what} takes {required} to {N} arguments, not {}", self.positional.len())));
        }
        self.bind(what, [""; N])
    }

    pub fn values(&self) -> impl Iterator<Item = &Value<'t>> {
        self.positional.iter().chain(self.named.iter().map(|(_, value)| value))
    }

    pub fn copy(&self, meter: &Meter) -> Result<Self> {
        meter.slots(self.positional.len() + 2 * self.named.len())?;
        Ok(Self { positional: self.positional.clone(), named: self.named.clone() })
    }

    /// No arguments.
    pub fn none(self, what: &str) -> Result<()> {
        self.positional::<0>(what, 0).map(|_| ())
    }

    /// One argument, given by place.
    pub fn one(self, what: &str) -> Result<Value<'t>> {
        let [value] = self.positional(what, 1)?;
        required(value, what, "an argument")
    }
}

/// An argument that must be there.
pub(super) fn required<'t>(value: Option<Value<'t>>, what: &str, name: &str) -> Result<Value<'t>> {
    value.ok_or_else(|| Fault::new(format!("{what} needs {name}")))
}

/// An argument that must be an integer.
pub(super) fn int(value: &Value<'_>, what: &str) -> Result<i64> {
    match value {
        Value::Undefined(missing) => Err(missing.fault()),
        _ => value
            .as_int()
            .ok_or_else(|| Fault::new(format!("{what}: '{}' cannot be interpreted as an integer", value.kind()))),
    }
}

/// An argument that must be a text.
pub(super) fn text<'v>(value: &'v Value<'_>, what: &str) -> Result<&'v Text> {
    value.as_text().ok_or_else(|| Fault::new(format!("{what}: a string is needed, not {}", value.kind())))
}

impl<'t> Interpreter<'t> {
    pub fn call_value(&mut self, callee: Value<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
        match callee {
            Value::Macro(closure) => self.call_macro(&closure, arguments),
            Value::Function(function) => self.call_function(function, arguments),
            Value::Method(method) => self.call_method(&method.0, method.1, arguments),
            Value::Loop(state) => {
                let [iterable] = arguments.bind("loop", ["iterable"])?;
                let iterable = required(iterable, "loop", "an iterable")?;
                let Some((node, parent)) = state.recursion else {
                    return Err(Fault::new("the loop must be marked \"recursive\" to be called"));
                };
                let text = self.nested(|this| this.recursive_loop(node, parent, iterable, state.depth0 + 1))?;
                Ok(Value::Text(text))
            }
            Value::Joiner(joiner) => {
                arguments.none("joiner")?;
                Ok(if joiner.1.replace(true) { joiner.0.clone() } else { Value::Text(Text::constant("")) })
            }
            Value::Block(index, visible) => {
                arguments.none("a block")?;
                let (_, text) = self.nested(|this| this.capture(|this| this.run_block(index, visible)))?;
                Ok(Value::Text(self.markup_if(text, self.autoescape)?))
            }
            Value::Undefined(missing) => Err(missing.fault()),
            other => Err(Fault::new(format!("'{}' object is not callable", other.kind()))),
        }
    }

    fn call_macro(&mut self, closure: &Closure<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
        let definition = closure.definition;
        let prepare = |this: &mut Self| this.bind_macro(definition, arguments);
        let text = self.capture_function(&definition.function, closure.activation, prepare, &definition.body)?;
        Ok(Value::Text(self.markup_if(text, self.autoescape)?))
    }

    /// Sets the parameters of a macro that is called.
    fn bind_macro(&mut self, definition: &'t Macro, arguments: Args<'t>) -> Result<()> {
        let name = definition.name.as_deref().unwrap_or("a block");
        let Args { mut positional, mut named } = arguments;
        let rest = positional.split_off(positional.len().min(definition.parameters.len()));
        let mut given = positional.into_iter();
        for parameter in &definition.parameters {
            let mut value = given.next();
            if value.is_none() {
                self.meter.steps(named.len())?;
                let at = named.iter().position(|(name, _)| name.as_str() == parameter.name);
                value = at.map(|at| named.remove(at).1);
            }
            self.set_slot(parameter.place.slot, value);
        }
        if let Some(slot) = definition.caller {
            let at = named.iter().position(|(name, _)| name.as_str() == "caller");
            let caller = at.map(|at| named.remove(at).1).filter(|caller| !matches!(caller, Value::None));
            self.set_slot(slot, Some(caller.unwrap_or(Value::hint("No caller defined"))));
        }
        if let Some(slot) = definition.kwargs {
            let mut kwargs = Dict::default();
            for (name, value) in named {
                kwargs.insert(self.meter, Value::Text(name), value)?;
            }
            self.set_slot(slot, Some(Value::Dict(Rc::new(kwargs))));
        } else if let Some((unknown, _)) = named.first() {
            return Err(Fault::new(format!("macro '{name}' takes no keyword argument '{}'", unknown.as_str())));
        }
        if let Some(slot) = definition.varargs {
            self.set_slot(slot, Some(Value::tuple(rest)?));
        } else if !rest.is_empty() {
            let count = definition.parameters.len();
            return Err(Fault::new(format!("macro '{name}' takes not more than {count} argument(s)")));
        }
        self.enter(&definition.function.scope);
        let required = definition.parameters.len() - definition.defaults.len();
        for (at, parameter) in definition.parameters.iter().enumerate() {
            if !self.has_slot(parameter.place.slot) {
                let value = match at.checked_sub(required) {
                    Some(at) => self.eval(&definition.defaults[at])?,
                    None => Value::Undefined(Missing::Parameter(&parameter.name)),
                };
                self.set_slot(parameter.place.slot, Some(value));
            }
        }
        Ok(())
    }

    fn call_function(&mut self, function: Function, arguments: Args<'t>) -> Result<Value<'t>> {
        match function {
            Function::Range => self.range(arguments),
            Function::Dict => Ok(Value::Dict(Rc::new(self.dict(arguments)?))),
            Function::Namespace => {
                let fields = self.dict(arguments)?;
                self.add_namespace(fields)
            }
            Function::Cycler => {
                if let Some((name, _)) = arguments.named.first() {
                    return Err(Fault::new(format!("cycler takes no keyword argument '{}'", name.as_str())));
                }
                if arguments.positional.is_empty() {
                    return Err(Fault::new("at least one item has to be provided"));
                }
                let items = Sequence::new(arguments.positional)?;
                self.meter.bytes(64)?;
                Ok(Value::Cycler(Rc::new(Cycler { items, position: Cell::new(0) })))
            }
            Function::Joiner => {
                let [separator] = arguments.bind("joiner", ["sep"])?;
                self.meter.bytes(64)?;
                let separator = separator.unwrap_or_else(|| Value::Text(Text::constant(", ")));
                Ok(Value::Joiner(Rc::new((separator, Cell::new(false)))))
            }
            Function::Lipsum => Err(Fault::new("lipsum makes random text, which is not supported")),
            Function::RaiseException => {
                let [message] = arguments.bind("raise_exception", ["message"])?;
                let message = self.text_of(&required(message, "raise_exception", "a message")?)?;
                Err(Fault::raised(message.as_str()))
            }
            Function::StrftimeNow => {
                let [format] = arguments.bind("strftime_now", ["format"])?;
                let format = required(format, "strftime_now", "a format")?;
                let format = text(&format, "strftime_now")?;
                let now = (self.strftime)(format.as_str()).map_err(Fault::new)?;
                Ok(Value::Text(Text::new(self.meter, &now, format.is_marked())?))
            }
        }
    }

    fn range(&mut self, arguments: Args<'t>) -> Result<Value<'t>> {
        let [first, second, third] = arguments.positional("range", 1)?;
        let number = |value: Option<Value<'t>>, default: i64| match value {
            None => Ok(default),
            Some(Value::Big(_)) => Err(Fault::new("ranges of integers above 64 bits are not supported")),
            Some(value) => int(&value, "range"),
        };
        let (start, stop) = match (first, second) {
            (stop, None) => (0, number(stop, 0)?),
            (start, stop) => (number(start, 0)?, number(stop, 0)?),
        };
        let step = number(third, 1)?;
        if step == 0 {
            return Err(Fault::new("range() arg 3 must not be zero"));
        }
        let range = Range::new(start, stop, step).filter(|range| range.length <= MAX_RANGE);
        let range = range.ok_or_else(|| Fault::new(format!("range too big: more than {MAX_RANGE} items")))?;
        self.meter.bytes(64)?;
        Ok(Value::Range(Rc::new(range)))
    }

    /// Python's `dict(...)`: a mapping or pairs, and names.
    pub fn dict(&mut self, arguments: Args<'t>) -> Result<Dict<'t>> {
        let Args { positional, named } = arguments;
        if positional.len() > 1 {
            return Err(Fault::new(format!("dict expected at most 1 argument, got {}", positional.len())));
        }
        let mut dict = Dict::default();
        match positional.into_iter().next() {
            None => {}
            Some(Value::Dict(from)) => dict = from.copy(self.meter)?,
            Some(Value::Undefined(missing)) => return Err(missing.fault()),
            Some(from) => {
                let mut pairs = self.iterate(&from)?;
                while let Some(pair) = self.advance(&mut pairs)? {
                    let mut items = self.items(&pair)?.into_iter();
                    let (Some(key), Some(value), None) = (items.next(), items.next(), items.next()) else {
                        return Err(Fault::new("dict needs pairs"));
                    };
                    dict.insert(self.meter, key, value)?;
                }
            }
        }
        for (name, value) in named {
            dict.insert(self.meter, Value::Text(name), value)?;
        }
        Ok(dict)
    }
}
