//! Which variables a scope has, and what they are when it is entered: the rules of Jinja2's compiler.
//!
//! A scope is looked through as a whole before it is compiled. A name that is only read is looked up outside; one that
//! is set anywhere in the scope is the scope's own from its start. It begins with the value of the scope around, if that
//! has the name. If not, it begins without a value; but one that is read before, or that is set in a branch of a
//! condition, which may not be taken, begins as what the template was given.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::ast::*;

/// A variable: the function it belongs to, and its slot there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ref {
    pub function: usize,
    pub slot: u32,
}

/// What a variable is when its scope is entered.
#[derive(Clone, Debug)]
pub(super) enum Begin {
    /// The caller sets it.
    Parameter,
    Resolve(String),
    Alias(Ref),
    Undefined,
}

/// The names of one scope.
#[derive(Debug, Default)]
struct Symbols {
    parent: Option<usize>,
    level: u32,
    function: usize,
    refs: HashMap<String, Ref>,
    begins: HashMap<Ref, Begin>,
    stores: HashSet<String>,
}

/// A function: scopes of the same level in one function share their variables by name.
#[derive(Debug, Default)]
struct Slots {
    depth: u32,
    by_name: HashMap<(u32, String), u32>,
}

/// All scopes of a template.
#[derive(Default)]
pub(super) struct Table {
    scopes: Vec<Symbols>,
    functions: Vec<Slots>,
    /// How many branches of conditions are around what is looked at.
    branches: usize,
}

impl Table {
    /// A scope inside of `parent`, in the same function.
    pub fn inner(&mut self, parent: usize) -> usize {
        let (level, function) = (self.scopes[parent].level + 1, self.scopes[parent].function);
        self.add(Some(parent), level, function)
    }

    /// A function inside of `parent`, or one without surroundings.
    pub fn function(&mut self, parent: Option<usize>) -> usize {
        let level = parent.map_or(0, |parent| self.scopes[parent].level + 1);
        let depth = parent.map_or(0, |parent| self.functions[self.scopes[parent].function].depth + 1);
        self.functions.push(Slots { depth, by_name: HashMap::new() });
        self.add(parent, level, self.functions.len() - 1)
    }

    /// Another scope in the function that `scope` is the outermost of.
    pub fn sibling(&mut self, scope: usize) -> usize {
        let (parent, level, function) =
            (self.scopes[scope].parent, self.scopes[scope].level, self.scopes[scope].function);
        self.add(parent, level, function)
    }

    fn add(&mut self, parent: Option<usize>, level: u32, function: usize) -> usize {
        self.scopes.push(Symbols { parent, level, function, ..Symbols::default() });
        self.scopes.len() - 1
    }

    pub fn find(&self, scope: usize, name: &str) -> Option<Ref> {
        let mut at = Some(scope);
        while let Some(scope) = at {
            let symbols = &self.scopes[scope];
            if let Some(found) = symbols.refs.get(name) {
                return Some(*found);
            }
            at = symbols.parent;
        }
        None
    }

    /// Where `variable` is, seen from `scope`.
    pub fn place(&self, scope: usize, variable: Ref) -> Place {
        let depth = |function: usize| self.functions[function].depth;
        Place { hops: depth(self.scopes[scope].function) - depth(variable.function), slot: variable.slot }
    }

    /// Names that are set in `scope` or around it.
    pub fn visible(&self, scope: usize) -> Vec<String> {
        let mut names = Vec::new();
        let mut at = Some(scope);
        while let Some(scope) = at {
            names.extend(self.scopes[scope].stores.iter().cloned());
            at = self.scopes[scope].parent;
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// How a finished scope begins.
    pub fn finish(&self, scope: usize) -> Scope {
        let mut finished = Scope::default();
        for (variable, begin) in &self.scopes[scope].begins {
            finished.slots.push(variable.slot);
            let load = match begin {
                Begin::Parameter => continue,
                Begin::Resolve(name) => Load::Resolve(name.clone()),
                Begin::Alias(outer) => Load::Alias(self.place(scope, *outer)),
                Begin::Undefined => Load::Undefined,
            };
            finished.loads.push((variable.slot, load));
        }
        finished.slots.sort_unstable();
        finished.loads.sort_unstable_by_key(|(slot, _)| *slot);
        finished
    }

    /// How many variables the function of `scope` has.
    pub fn slots(&self, scope: usize) -> u32 {
        self.functions[self.scopes[scope].function].by_name.len() as u32
    }

    /// Names that are looked up outside of the template.
    pub fn globals(&self) -> BTreeSet<String> {
        let begins = self.scopes.iter().flat_map(|scope| scope.begins.values());
        let name = |begin: &Begin| if let Begin::Resolve(name) = begin { Some(name.clone()) } else { None };
        begins.filter_map(name).collect()
    }

    fn define(&mut self, scope: usize, name: &str, begin: Begin) -> Ref {
        let symbols = &mut self.scopes[scope];
        let slots = &mut self.functions[symbols.function].by_name;
        let next = slots.len() as u32;
        let slot = *slots.entry((symbols.level, name.to_owned())).or_insert(next);
        let variable = Ref { function: symbols.function, slot };
        symbols.refs.insert(name.to_owned(), variable);
        symbols.begins.insert(variable, begin);
        variable
    }

    pub fn parameter(&mut self, scope: usize, name: &str) -> u32 {
        self.scopes[scope].stores.insert(name.to_owned());
        self.define(scope, name, Begin::Parameter).slot
    }

    fn load(&mut self, scope: usize, name: &str) {
        if self.find(scope, name).is_none() {
            self.define(scope, name, Begin::Resolve(name.to_owned()));
        }
    }

    fn store(&mut self, scope: usize, name: &str) {
        self.scopes[scope].stores.insert(name.to_owned());
        if !self.scopes[scope].refs.contains_key(name) {
            let begin = match self.scopes[scope].parent.and_then(|parent| self.find(parent, name)) {
                Some(outer) => Begin::Alias(outer),
                None if self.branches > 0 => Begin::Resolve(name.to_owned()),
                None => Begin::Undefined,
            };
            self.define(scope, name, begin);
        }
    }

    // ---- what a scope's statements do to its names; statements with scopes of their own are not entered ----

    pub fn body(&mut self, scope: usize, body: &Body) {
        for statement in body {
            self.statement(scope, &statement.kind);
        }
    }

    fn statement(&mut self, scope: usize, statement: &StatementKind) {
        match statement {
            StatementKind::Output(pieces) => {
                for piece in pieces {
                    if let Piece::Print(value, ..) = piece {
                        self.expr(scope, value);
                    }
                }
            }
            StatementKind::For(node) => self.expr(scope, &node.iterable),
            StatementKind::If(branches, otherwise) => {
                self.branches += 1;
                for (test, body) in branches {
                    self.expr(scope, test);
                    self.body(scope, body);
                }
                self.body(scope, otherwise);
                self.branches -= 1;
            }
            StatementKind::Set(target, value) => {
                self.expr(scope, value);
                self.target(scope, target);
            }
            StatementKind::SetBlock(node) => self.target(scope, &node.target),
            StatementKind::With(node) => node.values.iter().for_each(|value| self.expr(scope, value)),
            StatementKind::Macro(node) => self.target(scope, &node.target),
            StatementKind::Call(node) => self.call(scope, &node.call),
            StatementKind::Filter(node) => self.expr(scope, &node.filter),
            StatementKind::Load(_, value, names) => {
                self.expr(scope, value);
                names.iter().for_each(|name| self.store(scope, name));
            }
            StatementKind::Autoescape(_)
            | StatementKind::Generation(_)
            | StatementKind::Block(_)
            | StatementKind::Break
            | StatementKind::Continue => {}
        }
    }

    pub fn target(&mut self, scope: usize, target: &Target) {
        match target {
            Target::Variable(variable, _) => self.store(scope, &variable.name),
            Target::Attribute(variable, _) => self.load(scope, &variable.name),
            Target::Tuple(items) => items.iter().for_each(|item| self.target(scope, item)),
        }
    }

    /// A target that the statement itself sets.
    pub fn parameters(&mut self, scope: usize, target: &Target) {
        match target {
            Target::Variable(variable, _) => {
                self.parameter(scope, &variable.name);
            }
            Target::Attribute(..) => {}
            Target::Tuple(items) => items.iter().for_each(|item| self.parameters(scope, item)),
        }
    }

    pub fn expr(&mut self, scope: usize, expr: &Expr) {
        each_name(expr, &mut |name| self.load(scope, name));
    }

    fn call(&mut self, scope: usize, call: &Call) {
        each_name_in_call(call, &mut |name| self.load(scope, name));
    }
}

/// The variables that an expression reads.
pub(super) fn each_name(expr: &Expr, found: &mut dyn FnMut(&str)) {
    match expr {
        Expr::Const(_) | Expr::Captured => {}
        Expr::Variable(variable) => found(&variable.name),
        Expr::Tuple(items) | Expr::List(items) | Expr::Concat(items, _) => {
            items.iter().for_each(|item| each_name(item, found));
        }
        Expr::Dict(entries) => {
            for (key, value) in entries {
                each_name(key, found);
                each_name(value, found);
            }
        }
        Expr::Attribute(value, _) | Expr::Negative(value) | Expr::Positive(value) | Expr::Not(value) => {
            each_name(value, found);
        }
        Expr::Item(value, key) => {
            each_name(value, found);
            each_name(key, found);
        }
        Expr::Slice(value, parts) => {
            each_name(value, found);
            parts.iter().flatten().for_each(|part| each_name(part, found));
        }
        Expr::Call(call) => each_name_in_call(call, found),
        Expr::Filter(filter) | Expr::Test(filter) => {
            each_name(&filter.value, found);
            each_name_in_arguments(&filter.arguments, found);
        }
        Expr::Binary(_, pair) | Expr::And(pair) | Expr::Or(pair) => {
            each_name(&pair.0, found);
            each_name(&pair.1, found);
        }
        Expr::Compare(first, rest) => {
            each_name(first, found);
            rest.iter().for_each(|(_, value)| each_name(value, found));
        }
        Expr::Conditional(parts) => {
            each_name(&parts.1, found);
            each_name(&parts.0, found);
            parts.2.iter().for_each(|value| each_name(value, found));
        }
    }
}

pub(super) fn each_name_in_call(call: &Call, found: &mut dyn FnMut(&str)) {
    each_name(&call.callee, found);
    each_name_in_arguments(&call.arguments, found);
}

fn each_name_in_arguments(arguments: &Arguments, found: &mut dyn FnMut(&str)) {
    let named = arguments.named.iter().map(|(_, value)| value);
    let all = arguments.positional.iter().chain(named).chain(&arguments.more).chain(&arguments.more_named);
    all.for_each(|value| each_name(value, found));
}
