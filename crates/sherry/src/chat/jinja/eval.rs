//! Running a template.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::parser::{Arguments, Constant, Expr, Macro, Node, NodeKind, Target};
use super::value::{Function, Loop, Value};
use super::{Budget, Fault, Globals, Result};

/// Deepest nesting of evaluations, macro calls included: bounds the stack.
const MAX_DEPTH: usize = 300;
/// What one slot of a list costs, in bytes.
pub(super) const SLOT: usize = 32;

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Normal,
    Break,
    Continue,
}

/// Evaluated arguments.
pub(super) struct Values<'t> {
    pub positional: Vec<Value<'t>>,
    pub named: Vec<(&'t str, Value<'t>)>,
}

/// State of one rendering.
pub(super) struct Interpreter<'t, 'g> {
    globals: &'g Globals<'g>,
    left: Budget,
    depth: usize,
    line: u32,
    variables: HashMap<&'g str, Value<'t>>,
    /// Innermost last; the first belongs to the template as a whole.
    scopes: Vec<HashMap<&'t str, Value<'t>>>,
    /// Texts being written, innermost last.
    output: Vec<String>,
}

impl<'t, 'g> Interpreter<'t, 'g> {
    pub fn new(globals: &'g Globals<'g>, budget: Budget) -> Result<Self> {
        let mut interpreter = Self {
            globals,
            left: budget,
            depth: 0,
            line: 0,
            variables: HashMap::new(),
            scopes: vec![HashMap::new()],
            output: vec![String::new()],
        };
        for (name, value) in globals.variables {
            let value = interpreter.convert(value)?;
            interpreter.variables.insert(name, value);
        }
        Ok(interpreter)
    }

    pub fn run(mut self, body: &'t [Node]) -> Result<String> {
        match self.body(body) {
            Ok(_) => Ok(self.output.pop().unwrap_or_default()),
            Err(fault) => Err(Fault { line: self.line, ..fault }),
        }
    }

    // ---- paying ----

    /// Pays for `steps` steps.
    pub fn steps(&mut self, steps: usize) -> Result<()> {
        self.left.steps =
            self.left.steps.checked_sub(steps as u64).ok_or_else(|| Fault::new("takes too many steps"))?;
        Ok(())
    }

    /// Pays for `bytes` bytes, before they are made.
    pub fn bytes(&mut self, bytes: usize) -> Result<()> {
        self.left.bytes = self.left.bytes.checked_sub(bytes as u64).ok_or_else(|| Fault::new("makes too much text"))?;
        self.steps(bytes / 64)
    }

    /// A text that was paid for only now: for results not much larger than something that exists.
    pub fn text(&mut self, text: String) -> Result<Value<'t>> {
        self.bytes(text.len())?;
        Ok(Value::text(text))
    }

    /// A list, paid for.
    pub fn list(&mut self, items: Vec<Value<'t>>) -> Result<Value<'t>> {
        self.bytes(items.len().saturating_mul(SLOT))?;
        Value::list(items, false)
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(Fault::new(format!("nested more than {MAX_DEPTH} deep (a macro that calls itself?)")));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn convert(&mut self, value: &serde_json::Value) -> Result<Value<'t>> {
        self.steps(1)?;
        Ok(match value {
            serde_json::Value::Null => Value::None,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(number) => Value::Int(number),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => self.text(text.clone())?,
            serde_json::Value::Array(items) => {
                let items = items.iter().map(|item| self.convert(item)).collect::<Result<Vec<_>>>()?;
                self.list(items)?
            }
            serde_json::Value::Object(entries) => {
                self.bytes(entries.len().saturating_mul(2 * SLOT))?;
                let entries = entries
                    .iter()
                    .map(|(key, value)| Ok((self.text(key.clone())?, self.convert(value)?)))
                    .collect::<Result<Vec<_>>>()?;
                Value::map(entries)?
            }
        })
    }

    // ---- statements ----

    fn body(&mut self, nodes: &'t [Node]) -> Result<Flow> {
        self.nested(|this| {
            for node in nodes {
                this.line = node.line;
                let flow = this.node(node)?;
                if flow != Flow::Normal {
                    return Ok(flow);
                }
            }
            Ok(Flow::Normal)
        })
    }

    fn node(&mut self, node: &'t Node) -> Result<Flow> {
        self.steps(1)?;
        match &node.kind {
            NodeKind::Data(text) => self.emit(text)?,
            NodeKind::Print(value) => {
                let value = self.eval(value)?;
                match value.as_text() {
                    Some(text) => self.emit(text)?,
                    None => {
                        let text = self.text_of(&value)?;
                        self.emit(&text)?;
                    }
                }
            }
            NodeKind::If(branches) => {
                for (condition, body) in branches {
                    let taken = match condition {
                        Some(condition) => self.eval(condition)?.is_true(),
                        None => true,
                    };
                    if taken {
                        return self.body(body);
                    }
                }
            }
            NodeKind::For { targets, items, filter, body, otherwise } => {
                return self.run_loop(targets, items, filter.as_ref(), body, otherwise);
            }
            NodeKind::Set(target, value) => {
                let value = self.eval(value)?;
                match target {
                    Target::Names(names) => self.assign(names, value)?,
                    Target::Attribute(name, attribute) => self.set_attribute(name, attribute, value)?,
                }
            }
            NodeKind::SetBlock(name, body) => {
                let text = self.captured(body)?;
                self.assign(std::slice::from_ref(name), text)?;
            }
            NodeKind::Macro(definition) => self.set(&definition.name, Value::Macro(definition)),
            NodeKind::Break => return Ok(Flow::Break),
            NodeKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Normal)
    }

    fn emit(&mut self, text: &str) -> Result<()> {
        self.bytes(text.len())?;
        if let Some(output) = self.output.last_mut() {
            output.push_str(text);
        }
        Ok(())
    }

    /// What `body` writes, as a value.
    fn captured(&mut self, body: &'t [Node]) -> Result<Value<'t>> {
        self.output.push(String::new());
        let result = self.body(body);
        let text = self.output.pop().unwrap_or_default();
        result?;
        self.text(text)
    }

    fn set(&mut self, name: &'t str, value: Value<'t>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, value);
        }
    }

    fn assign(&mut self, names: &'t [String], value: Value<'t>) -> Result<()> {
        if let [name] = names {
            self.set(name, value);
            return Ok(());
        }
        let parts = self.items(&value)?;
        if parts.len() != names.len() {
            return Err(Fault::new(format!("cannot unpack {} values into {} names", parts.len(), names.len())));
        }
        for (name, part) in names.iter().zip(parts.iter()) {
            self.set(name, part.clone());
        }
        Ok(())
    }

    fn set_attribute(&mut self, name: &str, attribute: &str, value: Value<'t>) -> Result<()> {
        let Value::Namespace(namespace) = self.lookup(name) else {
            return Err(Fault::new(format!("cannot set an attribute of {name:?}, which is not a namespace")));
        };
        if value.depth().is_none() {
            return Err(Fault::new(format!("{} cannot be put into a namespace", value.kind())));
        }
        let mut fields = namespace.borrow_mut();
        self.steps(fields.len() / 4)?;
        match fields.iter_mut().find(|(field, _)| field == attribute) {
            Some((_, slot)) => *slot = value,
            None => {
                self.bytes(attribute.len() + SLOT)?;
                fields.push((attribute.to_string(), value));
            }
        }
        Ok(())
    }

    fn run_loop(
        &mut self,
        targets: &'t [String],
        items: &'t Expr,
        filter: Option<&'t Expr>,
        body: &'t [Node],
        otherwise: &'t [Node],
    ) -> Result<Flow> {
        let items = self.eval(items)?;
        let mut items = self.items(&items)?;
        if let Some(filter) = filter {
            let mut kept = Vec::new();
            for item in items.iter() {
                self.steps(1)?;
                self.scopes.push(HashMap::new());
                let keep = self.assign(targets, item.clone()).and_then(|()| self.eval(filter));
                self.scopes.pop();
                if keep?.is_true() {
                    kept.push(item.clone());
                }
            }
            items = kept.into();
        }
        if items.is_empty() {
            return self.body(otherwise);
        }
        for index in 0..items.len() {
            self.steps(1)?;
            self.scopes.push(HashMap::new());
            self.set("loop", Value::Loop(Rc::new(Loop { items: items.clone(), index })));
            let flow = self.assign(targets, items[index].clone()).and_then(|()| self.body(body));
            self.scopes.pop();
            if flow? == Flow::Break {
                break;
            }
        }
        Ok(Flow::Normal)
    }

    // ---- expressions ----

    fn lookup(&self, name: &str) -> Value<'t> {
        if let Some(value) = self.scopes.iter().rev().find_map(|scope| scope.get(name)) {
            return value.clone();
        }
        if let Some(value) = self.variables.get(name) {
            return value.clone();
        }
        match name {
            "namespace" => Value::Function(Function::Namespace),
            "range" => Value::Function(Function::Range),
            "dict" => Value::Function(Function::Dict),
            "raise_exception" => Value::Function(Function::RaiseException),
            "strftime_now" => Value::Function(Function::StrftimeNow),
            _ => Value::Undefined,
        }
    }

    pub fn eval(&mut self, expr: &'t Expr) -> Result<Value<'t>> {
        self.steps(1)?;
        self.nested(|this| this.eval_inner(expr))
    }

    fn eval_inner(&mut self, expr: &'t Expr) -> Result<Value<'t>> {
        match expr {
            Expr::Constant(constant) => self.constant(constant),
            Expr::Name(name) => Ok(self.lookup(name)),
            Expr::List(items, tuple) => {
                self.bytes(items.len() * SLOT)?;
                Value::list(items.iter().map(|item| self.eval(item)).collect::<Result<_>>()?, *tuple)
            }
            Expr::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|(key, value)| Ok((self.eval(key)?, self.eval(value)?)))
                    .collect::<Result<Vec<_>>>()?;
                self.map(entries)
            }
            Expr::Attribute(value, name) => {
                let of = self.eval(value)?;
                self.attribute(&of, name, value)
            }
            Expr::Item(value, key) => {
                let of = self.eval(value)?;
                let key = self.eval(key)?;
                self.item(&of, &key, value)
            }
            Expr::Slice(value, parts) => self.slice(value, parts),
            Expr::Call(callee, arguments) => self.call(callee, arguments),
            Expr::Filter(value, filter, arguments) => {
                let value = self.eval(value)?;
                let arguments = self.arguments(arguments)?;
                self.filter(*filter, value, arguments)
            }
            Expr::Test(value, test, arguments, negated) => {
                let value = self.eval(value)?;
                let arguments = arguments.iter().map(|argument| self.eval(argument)).collect::<Result<Vec<_>>>()?;
                Ok(Value::Bool(self.test(*test, &value, &arguments)? != *negated))
            }
            Expr::Binary(operator, left, right) => {
                let left = self.eval(left)?;
                let right = self.eval(right)?;
                self.binary(*operator, &left, &right)
            }
            Expr::Compare(first, rest) => {
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
            Expr::Negate(value) => match self.eval(value)? {
                Value::Float(value) => Ok(Value::Float(-value)),
                value => match value.as_int().and_then(i64::checked_neg) {
                    Some(value) => Ok(Value::Int(value)),
                    None => Err(Fault::new(format!("cannot negate {}", value.kind()))),
                },
            },
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value)?.is_true())),
            Expr::And(left, right) => {
                let left = self.eval(left)?;
                if left.is_true() { self.eval(right) } else { Ok(left) }
            }
            Expr::Or(left, right) => {
                let left = self.eval(left)?;
                if left.is_true() { Ok(left) } else { self.eval(right) }
            }
            Expr::Conditional(value, condition, otherwise) => {
                if self.eval(condition)?.is_true() {
                    return self.eval(value);
                }
                otherwise.as_ref().map_or(Ok(Value::Undefined), |otherwise| self.eval(otherwise))
            }
        }
    }

    fn constant(&mut self, constant: &Constant) -> Result<Value<'t>> {
        Ok(match constant {
            Constant::None => Value::None,
            Constant::Bool(value) => Value::Bool(*value),
            Constant::Int(value) => Value::Int(*value),
            Constant::Float(value) => Value::Float(*value),
            Constant::Text(text) => {
                self.bytes(text.len())?;
                Value::text(text.as_str())
            }
        })
    }

    /// A map; of entries with the same key the last counts.
    pub fn map(&mut self, entries: Vec<(Value<'t>, Value<'t>)>) -> Result<Value<'t>> {
        self.bytes(entries.len().saturating_mul(2 * SLOT))?;
        let mut unique: Vec<(Value<'t>, Value<'t>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let mut found = None;
            for (at, (other, _)) in unique.iter().enumerate() {
                if self.equal(other, &key)? {
                    found = Some(at);
                    break;
                }
            }
            match found {
                Some(at) => unique[at].1 = value,
                None => unique.push((key, value)),
            }
        }
        Value::map(unique)
    }

    pub fn arguments(&mut self, arguments: &'t Arguments) -> Result<Values<'t>> {
        Ok(Values {
            positional: arguments.positional.iter().map(|value| self.eval(value)).collect::<Result<_>>()?,
            named: arguments
                .named
                .iter()
                .map(|(name, value)| Ok((name.as_str(), self.eval(value)?)))
                .collect::<Result<_>>()?,
        })
    }

    fn attribute(&mut self, of: &Value<'t>, name: &str, expr: &Expr) -> Result<Value<'t>> {
        match of {
            Value::Undefined => Err(Fault::new(format!("{} is undefined", describe(expr)))),
            Value::Map(_) => self.item(of, &Value::text(name), expr),
            Value::Namespace(fields) => {
                let fields = fields.borrow();
                self.steps(fields.len() / 4)?;
                Ok(fields.iter().find(|(field, _)| field == name).map_or(Value::Undefined, |(_, value)| value.clone()))
            }
            Value::Loop(state) => {
                let (index, length) = (state.index as i64, state.items.len() as i64);
                let neighbour =
                    |at: Option<usize>| at.and_then(|at| state.items.get(at)).cloned().unwrap_or(Value::Undefined);
                Ok(match name {
                    "index" => Value::Int(index + 1),
                    "index0" => Value::Int(index),
                    "revindex" => Value::Int(length - index),
                    "revindex0" => Value::Int(length - index - 1),
                    "first" => Value::Bool(index == 0),
                    "last" => Value::Bool(index + 1 == length),
                    "length" => Value::Int(length),
                    "previtem" => neighbour(state.index.checked_sub(1)),
                    "nextitem" => neighbour(Some(state.index + 1)),
                    _ => Value::Undefined,
                })
            }
            _ => Ok(Value::Undefined),
        }
    }

    /// `of[key]`; `expr` is what `of` was written as.
    fn item(&mut self, of: &Value<'t>, key: &Value<'t>, expr: &Expr) -> Result<Value<'t>> {
        match (of, key) {
            (Value::Undefined, _) => Err(Fault::new(format!("{} is undefined", describe(expr)))),
            (Value::Map(map), _) => {
                for (other, value) in &map.entries {
                    if self.equal(other, key)? {
                        return Ok(value.clone());
                    }
                }
                Ok(Value::Undefined)
            }
            (Value::List(list), _) => {
                let at = key.as_int().and_then(|at| position(at, list.items.len()));
                Ok(at.and_then(|at| list.items.get(at)).cloned().unwrap_or(Value::Undefined))
            }
            (Value::Text(text), _) => {
                self.steps(text.len() / 16)?;
                let at = key.as_int().and_then(|at| position(at, text.chars().count()));
                match at.and_then(|at| text.chars().nth(at)) {
                    Some(c) => self.text(c.to_string()),
                    None => Ok(Value::Undefined),
                }
            }
            (Value::Namespace(_) | Value::Loop(_), Value::Text(name)) => self.attribute(of, name, expr),
            _ => Ok(Value::Undefined),
        }
    }

    fn slice(&mut self, value: &'t Expr, parts: &'t [Option<Box<Expr>>; 3]) -> Result<Value<'t>> {
        let of = self.eval(value)?;
        let mut bounds = [None; 3];
        for (bound, part) in bounds.iter_mut().zip(parts) {
            if let Some(part) = part {
                let part = self.eval(part)?;
                if !matches!(part, Value::None) {
                    let number =
                        part.as_int().ok_or_else(|| Fault::new(format!("a slice bound is {}", part.kind())))?;
                    *bound = Some(number);
                }
            }
        }
        let step = bounds[2].unwrap_or(1);
        if step == 0 {
            return Err(Fault::new("a slice of step 0"));
        }
        match &of {
            Value::List(list) => {
                let picked: Vec<usize> = slice_positions(list.items.len(), bounds, step);
                self.bytes(picked.len() * SLOT)?;
                Value::list(picked.into_iter().map(|at| list.items[at].clone()).collect(), list.tuple)
            }
            Value::Text(text) => {
                self.bytes(text.len() * 5)?;
                let chars: Vec<char> = text.chars().collect();
                let picked = slice_positions(chars.len(), bounds, step);
                self.text(picked.into_iter().map(|at| chars[at]).collect())
            }
            Value::Undefined => Err(Fault::new(format!("{} is undefined", describe(value)))),
            other => Err(Fault::new(format!("cannot slice {}", other.kind()))),
        }
    }

    fn call(&mut self, callee: &'t Expr, arguments: &'t Arguments) -> Result<Value<'t>> {
        if let Expr::Attribute(object, name) = callee {
            let of = self.eval(object)?;
            if matches!(of, Value::Undefined) {
                return Err(Fault::new(format!("{} is undefined", describe(object))));
            }
            let arguments = self.arguments(arguments)?;
            return self.method(&of, name, arguments);
        }
        let function = self.eval(callee)?;
        let arguments = self.arguments(arguments)?;
        match function {
            Value::Macro(definition) => self.call_macro(definition, arguments),
            Value::Function(function) => self.call_function(function, arguments),
            other => Err(Fault::new(format!("{} is {}, not a function", describe(callee), other.kind()))),
        }
    }

    fn call_macro(&mut self, definition: &'t Macro, arguments: Values<'t>) -> Result<Value<'t>> {
        let Values { positional, mut named } = arguments;
        if positional.len() > definition.parameters.len() {
            return Err(Fault::new(format!("{} takes {} arguments", definition.name, definition.parameters.len())));
        }
        // A macro sees the template's variables, not those of where it is called.
        let hidden = self.scopes.split_off(1);
        self.scopes.push(HashMap::new());
        let line = self.line;
        let mut positional = positional.into_iter();
        let result = self.nested(|this| {
            for (name, default) in &definition.parameters {
                let given = positional.next().or_else(|| {
                    let at = named.iter().position(|(other, _)| other == name)?;
                    Some(named.remove(at).1)
                });
                let value = match (given, default) {
                    (Some(value), _) => value,
                    (None, Some(default)) => this.eval(default)?,
                    (None, None) => Value::Undefined,
                };
                this.set(name, value);
            }
            if let Some((name, _)) = named.first() {
                return Err(Fault::new(format!("{} has no parameter {name:?}", definition.name)));
            }
            this.captured(&definition.body)
        });
        if result.is_ok() {
            self.line = line;
        }
        self.scopes.truncate(1);
        self.scopes.extend(hidden);
        result
    }

    fn call_function(&mut self, function: Function, arguments: Values<'t>) -> Result<Value<'t>> {
        let Values { positional, named } = arguments;
        match function {
            Function::Namespace => {
                let mut fields = Vec::with_capacity(named.len());
                for (name, value) in named {
                    if value.depth().is_none() {
                        return Err(Fault::new(format!("{} cannot be put into a namespace", value.kind())));
                    }
                    self.bytes(name.len() + SLOT)?;
                    fields.push((name.to_string(), value));
                }
                Ok(Value::Namespace(Rc::new(RefCell::new(fields))))
            }
            Function::Dict => {
                let entries = named.into_iter().map(|(name, value)| (Value::text(name), value)).collect();
                self.map(entries)
            }
            Function::Range => {
                let numbers: Option<Vec<i64>> = positional.iter().map(Value::as_int).collect();
                let (start, stop, step) = match numbers.as_deref() {
                    Some([stop]) => (0, *stop, 1),
                    Some([start, stop]) => (*start, *stop, 1),
                    Some([start, stop, step]) if *step != 0 => (*start, *stop, *step),
                    _ => return Err(Fault::new("range takes one to three integers")),
                };
                let distance =
                    if step > 0 { i128::from(stop) - i128::from(start) } else { i128::from(start) - i128::from(stop) };
                let step_size = i128::from(step).abs();
                let count = if distance > 0 { (distance + step_size - 1) / step_size } else { 0 };
                self.bytes(usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(SLOT))?;
                Value::list((0..count as i64).map(|n| Value::Int(start + n * step)).collect(), false)
            }
            Function::RaiseException => {
                let message = match positional.first() {
                    Some(message) => self.text_of(message)?,
                    None => String::new(),
                };
                Err(Fault { raised: true, ..Fault::new(message) })
            }
            Function::StrftimeNow => {
                let format = positional.first().and_then(Value::as_text);
                let format = format.ok_or_else(|| Fault::new("strftime_now takes a format"))?;
                let text = (self.globals.strftime)(format).map_err(Fault::new)?;
                self.text(text)
            }
        }
    }
}

/// The place that a Python index means, if it exists.
fn position(index: i64, length: usize) -> Option<usize> {
    let length_signed = i64::try_from(length).ok()?;
    let at = if index < 0 { index.checked_add(length_signed)? } else { index };
    usize::try_from(at).ok().filter(|at| *at < length)
}

/// The places that a Python slice picks; `step` is not 0.
fn slice_positions(length: usize, bounds: [Option<i64>; 3], step: i64) -> Vec<usize> {
    let length = length as i64;
    let clamp = |bound: i64, low: i64, high: i64| {
        let bound = if bound < 0 { bound.saturating_add(length) } else { bound };
        bound.clamp(low, high)
    };
    let (mut at, stop) = if step > 0 {
        (
            bounds[0].map_or(0, |bound| clamp(bound, 0, length)),
            bounds[1].map_or(length, |bound| clamp(bound, 0, length)),
        )
    } else {
        (
            bounds[0].map_or(length - 1, |bound| clamp(bound, -1, length - 1)),
            bounds[1].map_or(-1, |bound| clamp(bound, -1, length - 1)),
        )
    };
    let mut picked = Vec::new();
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        picked.push(at as usize);
        at = at.saturating_add(step);
    }
    picked
}

/// An expression as it was written, roughly, for messages.
fn describe(expr: &Expr) -> String {
    match expr {
        Expr::Name(name) => format!("'{name}'"),
        Expr::Attribute(_, name) => format!("'{name}'"),
        Expr::Item(_, key) => match key.as_ref() {
            Expr::Constant(Constant::Text(text)) => format!("'{text}'"),
            _ => "an item".into(),
        },
        _ => "a value".into(),
    }
}
