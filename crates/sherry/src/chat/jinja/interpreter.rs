//! The state of a rendering: variables, output, and what is left of the budget.

use std::cell::RefCell;
use std::collections::HashMap;

use super::dict::Dict;
use super::json::from_json;
use super::meter::Meter;
use super::syntax::ast::{Body, Function, Load, Place, Scope, Target, Template};
use super::text::{Builder, Text};
use super::value::{self, Missing, Namespace, Value, Visible};
use super::{Dialect, Fault, Globals, Result};

/// Deepest nesting of statements, expressions and calls: bounds the stack that a rendering takes, to half a megabyte in
/// an optimised build. A macro can call itself some 200 times, as often as in Python.
const MAX_DEPTH: usize = 1200;
/// What the call of a function counts for: it takes as much stack as so many expressions inside each other.
const CALL_DEPTH: usize = 3;

/// What each call of a macro costs besides its variables.
const CALL_BYTES: usize = 128;

/// Variables of one call of a function: a macro, a block, a recursive loop, or the template as a whole.
struct Activation<'t> {
    variables: Vec<Option<Value<'t>>>,
    /// The call in which the function was defined.
    parent: usize,
    /// A macro was defined here, which may use the variables when the call is over.
    captured: bool,
    visible: Visible<'t>,
}

pub(super) struct Interpreter<'t> {
    pub meter: &'t Meter,
    pub template: &'t Template,
    pub strftime: &'t dyn Fn(&str) -> std::result::Result<String, String>,
    /// What the template was given.
    globals: HashMap<&'t str, Value<'t>>,
    /// What it set itself, outside of loops and macros.
    exported: HashMap<&'t str, Value<'t>>,
    activations: Vec<Activation<'t>>,
    free: Vec<usize>,
    current: usize,
    namespaces: Vec<Namespace<'t>>,
    /// The output and, inside of it, texts that are being captured.
    output: Vec<Builder<'t>>,
    /// The text of a block, for its filters.
    pub captured: Option<Value<'t>>,
    /// Whether escaping for HTML is switched on.
    pub autoescape: bool,
    depth: usize,
    /// What is not there is an error.
    pub is_strict: bool,
}

impl<'t> Interpreter<'t> {
    pub fn new(template: &'t Template, meter: &'t Meter, given: &'t Globals<'t>, dialect: Dialect) -> Result<Self> {
        let mut globals: HashMap<&'t str, Value<'t>> = [
            ("range", value::Function::Range),
            ("dict", value::Function::Dict),
            ("namespace", value::Function::Namespace),
            ("cycler", value::Function::Cycler),
            ("joiner", value::Function::Joiner),
            ("lipsum", value::Function::Lipsum),
            ("raise_exception", value::Function::RaiseException),
            ("strftime_now", value::Function::StrftimeNow),
        ]
        .map(|(name, function)| (name, Value::Function(function)))
        .into();
        for variable in given.variables {
            globals.insert(variable.name, from_json(meter, variable.value, variable.marked)?);
        }
        Ok(Self {
            meter,
            template,
            strftime: given.strftime,
            globals,
            exported: HashMap::new(),
            activations: Vec::new(),
            free: Vec::new(),
            current: 0,
            namespaces: Vec::new(),
            output: vec![Builder::new(meter)?],
            captured: None,
            autoescape: false,
            depth: 0,
            is_strict: dialect == Dialect::Strict,
        })
    }

    /// Renders the template.
    pub fn run(mut self) -> Result<Text> {
        let template = self.template;
        self.activate(&template.function, 0, None, |this| {
            if let Some(slot) = template.this {
                this.set_slot(slot, Some(Value::This(None)));
            }
            this.enter(&template.function.scope);
            this.body(&template.body)
        })?;
        let output = self.output.pop().ok_or_else(|| Fault::new("the output is lost"))?;
        Ok(output.finish(false))
    }

    /// Goes one level deeper.
    pub fn nested<R>(&mut self, run: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        self.deeper(1)?;
        let result = run(self);
        self.depth -= 1;
        result
    }

    fn deeper(&mut self, levels: usize) -> Result<()> {
        self.depth += levels;
        if self.depth > MAX_DEPTH { Err(Fault::limit("is nested or calls itself too deep")) } else { Ok(()) }
    }

    // ---- output ----

    pub fn out(&mut self) -> Result<&mut Builder<'t>> {
        self.output.last_mut().ok_or_else(|| Fault::new("the output is lost"))
    }

    /// What `run` would print.
    pub fn capture<R>(&mut self, run: impl FnOnce(&mut Self) -> Result<R>) -> Result<(R, Text)> {
        self.output.push(Builder::new(self.meter)?);
        let result = run(self)?;
        let captured = self.output.pop().ok_or_else(|| Fault::new("the output is lost"))?;
        Ok((result, captured.finish(false)))
    }

    /// What `body` prints, in `variables` of a function of its own.
    pub fn capture_function(
        &mut self,
        function: &'t Function,
        parent: usize,
        prepare: impl FnOnce(&mut Self) -> Result<()>,
        body: &'t Body,
    ) -> Result<Text> {
        let visible = self.activations[parent].visible.clone();
        let (_, text) = self.activate(function, parent, visible, |this| {
            prepare(this)?;
            this.capture(|this| this.nested(|this| this.body(body)))
        })?;
        Ok(text)
    }

    // ---- variables ----

    /// Runs a function with new variables; `parent` is the call in which it was defined.
    pub fn activate<R>(
        &mut self,
        function: &Function,
        parent: usize,
        visible: Visible<'t>,
        run: impl FnOnce(&mut Self) -> Result<R>,
    ) -> Result<R> {
        self.deeper(CALL_DEPTH)?;
        let id = self.allocate(function, parent, visible)?;
        let result = self.within(id, run);
        self.release(id);
        self.depth -= CALL_DEPTH;
        result
    }

    /// Variables of a call that has not begun.
    pub fn allocate(&mut self, function: &Function, parent: usize, visible: Visible<'t>) -> Result<usize> {
        let slots = function.slots as usize;
        self.meter.bytes(CALL_BYTES + slots * size_of::<Value<'t>>())?;
        let activation = Activation { variables: vec![None; slots], parent, captured: false, visible };
        Ok(match self.free.pop() {
            Some(id) => {
                self.activations[id] = activation;
                id
            }
            None => {
                self.activations.push(activation);
                self.activations.len() - 1
            }
        })
    }

    /// Forgets the variables of a call that is over, unless a macro may still use them.
    pub fn release(&mut self, id: usize) {
        if !self.activations[id].captured {
            self.activations[id].variables.clear();
            self.free.push(id);
        }
    }

    /// Runs with the variables of a call that was allocated.
    pub fn within<R>(&mut self, id: usize, run: impl FnOnce(&mut Self) -> R) -> R {
        let outside = std::mem::replace(&mut self.current, id);
        let result = run(self);
        self.current = outside;
        result
    }

    pub fn current(&self) -> usize {
        self.current
    }

    /// The call at hand, whose variables must be kept.
    pub fn capture_variables(&mut self) -> usize {
        self.activations[self.current].captured = true;
        // Macros inside of macros reach further out.
        let mut at = self.current;
        while at != 0 && !self.activations[self.activations[at].parent].captured {
            at = self.activations[at].parent;
            self.activations[at].captured = true;
        }
        self.current
    }

    pub fn visible(&self) -> Visible<'t> {
        self.activations[self.current].visible.clone()
    }

    fn owner(&self, place: Place) -> usize {
        (0..place.hops).fold(self.current, |at, _| self.activations[at].parent)
    }

    pub fn variable(&self, place: Place) -> Option<&Value<'t>> {
        self.activations[self.owner(place)].variables.get(place.slot as usize)?.as_ref()
    }

    fn set_variable(&mut self, place: Place, value: Option<Value<'t>>) {
        let owner = self.owner(place);
        if let Some(variable) = self.activations[owner].variables.get_mut(place.slot as usize) {
            *variable = value;
        }
    }

    /// Sets a variable of the call at hand.
    pub fn set_slot(&mut self, slot: u32, value: Option<Value<'t>>) {
        self.set_variable(Place { hops: 0, slot }, value);
    }

    pub fn has_slot(&self, slot: u32) -> bool {
        self.variable(Place { hops: 0, slot }).is_some()
    }

    pub fn resolve(&self, name: &str) -> Option<Value<'t>> {
        let visible = self.activations[self.current].visible.as_ref();
        let found = visible.and_then(|visible| visible.get(name));
        found.or_else(|| self.exported.get(name)).or_else(|| self.globals.get(name)).cloned()
    }

    /// The variables of a scope that is entered.
    pub fn enter(&mut self, scope: &'t Scope) {
        for (slot, load) in &scope.loads {
            let value = match load {
                Load::Resolve(name) => self.resolve(name),
                Load::Alias(place) => self.variable(*place).cloned(),
                Load::Undefined => None,
            };
            self.set_slot(*slot, value);
        }
    }

    pub fn leave(&mut self, scope: &'t Scope) {
        for slot in &scope.slots {
            self.set_slot(*slot, None);
        }
    }

    /// `target = value`
    pub fn assign(&mut self, target: &'t Target, value: Value<'t>) -> Result<()> {
        match target {
            Target::Variable(variable, exported) => {
                if *exported {
                    self.exported.insert(&variable.name, value.clone());
                }
                self.set_variable(variable.place, Some(value));
                Ok(())
            }
            Target::Attribute(variable, name) => {
                let Some(Value::Namespace(number)) = self.variable(variable.place) else {
                    return Err(Fault::new("cannot assign attribute on non-namespace object"));
                };
                let fields = &self.namespaces[*number];
                fields.borrow_mut().insert_str(self.meter, name, value)
            }
            Target::Tuple(targets) => {
                let mut items = self.iterate(&value)?;
                let mut values = Vec::new();
                // One more than there are targets shows that there are too many.
                while values.len() <= targets.len()
                    && let Some(item) = self.advance(&mut items)?
                {
                    self.meter.slots(1)?;
                    values.push(item);
                }
                if values.len() != targets.len() {
                    let few = if values.len() < targets.len() { "not enough" } else { "too many" };
                    return Err(Fault::new(format!("{few} values to unpack, expected {}", targets.len())));
                }
                targets.iter().zip(values).try_for_each(|(target, value)| self.assign(target, value))
            }
        }
    }

    /// Whether all namespaces that `target` sets attributes of are there.
    pub fn check_namespaces(&self, target: &'t Target) -> Result<()> {
        match target {
            Target::Variable(..) => Ok(()),
            Target::Attribute(variable, _) => match self.variable(variable.place) {
                Some(Value::Namespace(_)) => Ok(()),
                _ => Err(Fault::new("cannot assign attribute on non-namespace object")),
            },
            Target::Tuple(targets) => targets.iter().try_for_each(|target| self.check_namespaces(target)),
        }
    }

    pub fn undefined(&self, name: &'t str) -> Value<'t> {
        Value::Undefined(Missing::Variable(name))
    }

    pub fn add_namespace(&mut self, fields: Dict<'t>) -> Result<Value<'t>> {
        self.meter.bytes(CALL_BYTES)?;
        self.namespaces.push(RefCell::new(fields));
        Ok(Value::Namespace(self.namespaces.len() - 1))
    }

    pub fn namespace(&self, number: usize) -> &Namespace<'t> {
        &self.namespaces[number]
    }
}
