//! Gives every variable its place, and checks what Jinja2 checks when it compiles.

use std::collections::{HashMap, VecDeque};

use super::super::{Dialect, Fault, Result, checks, filters};
use super::ast::*;
use super::parser::parse;
use super::symbols::Table;
use super::uses::reads;

/// Most variables that all `scoped` blocks of a template hand on together.
const MAX_VISIBLE: usize = 1 << 16;

/// A template, ready to be rendered.
pub(in super::super) fn compile(source: &str, dialect: Dialect) -> Result<Template> {
    let mut body = parse(source, dialect)?;
    let mut compiler = Compiler::default();
    let root = compiler.table.function(None);
    let this = reads(&body, ["self"])[0].then(|| compiler.table.parameter(root, "self"));
    compiler.table.body(root, &body);
    compiler.body(&mut body, Frame { scope: root, global: true, soft: false })?;
    let function = compiler.function(root);
    let mut blocks = Vec::new();
    while let Some((name, mut body, loops)) = compiler.blocks.pop_front() {
        let scope = compiler.table.function(None);
        let [this, parent] = reads(&body, ["self", "super"]);
        let this = this.then(|| compiler.table.parameter(scope, "self"));
        let parent = parent.then(|| compiler.table.parameter(scope, "super"));
        compiler.table.body(scope, &body);
        compiler.loops = loops;
        compiler.body(&mut body, Frame { scope, global: false, soft: false })?;
        blocks.push(Block { name, body, function: compiler.function(scope), this, parent });
    }
    let globals = compiler.table.globals();
    Ok(Template { body, blocks, function, this, globals })
}

#[derive(Default)]
struct Compiler {
    table: Table,
    /// Blocks that are still to be compiled, with how many loops are around them.
    blocks: VecDeque<(String, Body, usize)>,
    block_names: HashMap<String, usize>,
    /// How many loops are around what is compiled.
    loops: usize,
    escape: Escape,
    visible: usize,
}

/// Where a statement or an expression stands.
#[derive(Clone, Copy)]
struct Frame {
    scope: usize,
    /// Variables that are set here are global.
    global: bool,
    /// In a condition: unknown filters and tests count when they are reached.
    soft: bool,
}

impl Frame {
    fn inner(scope: usize) -> Self {
        Self { scope, global: false, soft: false }
    }

    fn soft(self) -> Self {
        Self { soft: true, ..self }
    }
}

impl Compiler {
    fn function(&self, scope: usize) -> Function {
        Function { scope: self.table.finish(scope), slots: self.table.slots(scope) }
    }

    fn body(&mut self, body: &mut Body, frame: Frame) -> Result<()> {
        for statement in body {
            self.statement(&mut statement.kind, frame).map_err(|fault| fault.in_line(statement.line))?;
        }
        Ok(())
    }

    fn statement(&mut self, statement: &mut StatementKind, frame: Frame) -> Result<()> {
        match statement {
            StatementKind::Output(pieces) => {
                for piece in pieces {
                    if let Piece::Print(value, line, escape) = piece {
                        *escape = self.escape;
                        self.expr(value, frame).map_err(|fault| fault.in_line(*line))?;
                    }
                }
                Ok(())
            }
            StatementKind::For(node) => self.for_loop(node, frame),
            StatementKind::If(branches, otherwise) => {
                for (test, body) in branches {
                    self.expr(test, frame.soft())?;
                    self.body(body, frame.soft())?;
                }
                self.body(otherwise, frame.soft())
            }
            StatementKind::Set(target, value) => {
                self.target(target, frame)?;
                self.expr(value, frame)
            }
            StatementKind::SetBlock(node) => {
                let scope = self.table.inner(frame.scope);
                self.table.body(scope, &node.body);
                self.body(&mut node.body, Frame::inner(scope))?;
                self.target(&mut node.target, frame)?;
                node.filter.iter_mut().try_for_each(|filter| self.expr(filter, Frame::inner(scope)))?;
                (node.scope, node.escape) = (self.table.finish(scope), self.escape);
                Ok(())
            }
            StatementKind::With(node) => {
                let scope = self.table.inner(frame.scope);
                node.targets.iter().for_each(|target| self.table.parameters(scope, target));
                self.table.body(scope, &node.body);
                for (target, value) in node.targets.iter_mut().zip(&mut node.values) {
                    self.place(target, scope)?;
                    self.expr(value, frame)?;
                }
                self.body(&mut node.body, Frame::inner(scope))?;
                node.scope = self.table.finish(scope);
                Ok(())
            }
            StatementKind::Macro(node) => {
                self.macro_body(node, frame)?;
                if let Target::Variable(variable, exported) = &mut node.target {
                    *exported = frame.global;
                    self.variable(variable, frame.scope)?;
                }
                Ok(())
            }
            StatementKind::Generation(node) => self.macro_body(node, frame),
            StatementKind::Call(node) => {
                self.macro_body(&mut node.block, frame)?;
                node.escape = self.escape;
                self.call(&mut node.call, frame)
            }
            StatementKind::Filter(node) => {
                let scope = self.table.inner(frame.scope);
                self.table.body(scope, &node.body);
                self.table.expr(scope, &node.filter);
                self.body(&mut node.body, Frame::inner(scope))?;
                (node.scope, node.escape) = (self.table.finish(scope), self.escape);
                self.expr(&mut node.filter, Frame::inner(scope))
            }
            StatementKind::Autoescape(node) => self.autoescape(node, frame),
            StatementKind::Block(node) => self.block(node, frame),
            StatementKind::Load("extends", ..) if !frame.global => Err(Fault::new("\"extends\" inside of another tag")),
            StatementKind::Load(_, source, _) => self.expr(source, frame),
            StatementKind::Break | StatementKind::Continue => Ok(()),
        }
    }

    fn for_loop(&mut self, node: &mut For, frame: Frame) -> Result<()> {
        self.loops += 1;
        let outer = if node.recursive { self.table.function(Some(frame.scope)) } else { frame.scope };
        let scope = if node.recursive { outer } else { self.table.inner(frame.scope) };
        node.state = self.table.parameter(scope, "loop");
        self.table.parameters(scope, &node.target);
        self.table.body(scope, &node.body);
        let otherwise = if node.recursive { self.table.sibling(scope) } else { self.table.inner(frame.scope) };
        self.table.body(otherwise, &node.otherwise);
        if let Some(condition) = &mut node.condition {
            let scope = self.table.function(Some(frame.scope));
            self.table.parameters(scope, &condition.target);
            self.table.expr(scope, &condition.test);
            self.place(&mut condition.target, scope)?;
            self.expr(&mut condition.test, Frame::inner(scope))?;
            condition.function = self.function(scope);
        }
        self.place(&mut node.target, scope)?;
        self.stores_no_loop(&node.target)?;
        self.expr(&mut node.iterable, frame)?;
        self.body(&mut node.body, Frame::inner(scope))?;
        self.body(&mut node.otherwise, Frame::inner(otherwise))?;
        (node.scope, node.otherwise_scope) = (self.table.finish(scope), self.table.finish(otherwise));
        node.function = Function { scope: Scope::default(), slots: self.table.slots(scope) };
        node.escape = self.escape;
        self.loops -= 1;
        Ok(())
    }

    /// A macro, or the body of a block that is one.
    fn macro_body(&mut self, node: &mut Macro, frame: Frame) -> Result<()> {
        let scope = self.table.function(Some(frame.scope));
        for parameter in &mut node.parameters {
            parameter.place.slot = self.table.parameter(scope, &parameter.name);
        }
        let is_parameter = |name: &str| node.parameters.iter().position(|parameter| parameter.name == name);
        let [caller, kwargs, varargs] = reads(&node.body, ["caller", "kwargs", "varargs"]);
        match is_parameter("caller") {
            Some(at) if caller && at + node.defaults.len() < node.parameters.len() => {
                return Err(Fault::new("the parameter \"caller\" needs a default"));
            }
            None if caller => node.caller = Some(self.table.parameter(scope, "caller")),
            _ => {}
        }
        if kwargs && is_parameter("kwargs").is_none() {
            node.kwargs = Some(self.table.parameter(scope, "kwargs"));
        }
        if varargs && is_parameter("varargs").is_none() {
            node.varargs = Some(self.table.parameter(scope, "varargs"));
        }
        node.defaults.iter().for_each(|value| self.table.expr(scope, value));
        self.table.body(scope, &node.body);
        node.defaults.iter_mut().try_for_each(|value| self.expr(value, Frame::inner(scope)))?;
        self.body(&mut node.body, Frame::inner(scope))?;
        node.function = self.function(scope);
        Ok(())
    }

    fn autoescape(&mut self, node: &mut Autoescape, frame: Frame) -> Result<()> {
        let scope = self.table.inner(frame.scope);
        self.table.expr(scope, &node.enabled);
        self.table.body(scope, &node.body);
        self.expr(&mut node.enabled, Frame::inner(scope))?;
        let outside = self.escape;
        self.escape = match (outside, &node.enabled) {
            (Escape::Runtime, _) => Escape::Runtime,
            (_, Expr::Const(Constant::Bool(enabled))) => {
                if *enabled {
                    Escape::Yes
                } else {
                    Escape::No
                }
            }
            _ => Escape::Runtime,
        };
        self.body(&mut node.body, Frame::inner(scope))?;
        self.escape = outside;
        node.scope = self.table.finish(scope);
        Ok(())
    }

    fn block(&mut self, node: &mut BlockCall, frame: Frame) -> Result<()> {
        let next = self.block_names.len();
        if self.block_names.insert(node.name.clone(), next).is_some() {
            return Err(Fault::new(format!("two blocks are called {:?}", node.name)));
        }
        node.index = next;
        self.blocks.push_back((node.name.clone(), std::mem::take(&mut node.contents), self.loops));
        if let Some(visible) = &mut node.visible {
            let names = self.table.visible(frame.scope);
            self.visible += names.len();
            if self.visible > MAX_VISIBLE {
                return Err(Fault::new("scoped blocks with too many variables around them"));
            }
            *visible = names.into_iter().map(Variable::new).collect();
            visible.iter_mut().try_for_each(|variable| self.variable(variable, frame.scope))?;
        }
        Ok(())
    }

    fn variable(&mut self, variable: &mut Variable, scope: usize) -> Result<()> {
        let found = self.table.find(scope, &variable.name);
        let found = found.ok_or_else(|| Fault::new(format!("the name {:?} is not known here", variable.name)))?;
        variable.place = self.table.place(scope, found);
        Ok(())
    }

    /// The places of a target that is set in `scope`.
    fn place(&mut self, target: &mut Target, scope: usize) -> Result<()> {
        match target {
            Target::Variable(variable, _) | Target::Attribute(variable, _) => self.variable(variable, scope),
            Target::Tuple(items) => items.iter_mut().try_for_each(|item| self.place(item, scope)),
        }
    }

    /// The target of an assignment.
    fn target(&mut self, target: &mut Target, frame: Frame) -> Result<()> {
        self.stores_no_loop(target)?;
        self.place(target, frame.scope)?;
        target.export(frame.global);
        Ok(())
    }

    fn stores_no_loop(&self, target: &Target) -> Result<()> {
        match target {
            Target::Variable(variable, _) if variable.name == "loop" && self.loops > 0 => {
                Err(Fault::new("cannot assign to \"loop\" inside of a loop"))
            }
            Target::Tuple(items) => items.iter().try_for_each(|item| self.stores_no_loop(item)),
            _ => Ok(()),
        }
    }

    fn call(&mut self, call: &mut Call, frame: Frame) -> Result<()> {
        self.expr(&mut call.callee, frame)?;
        self.arguments(&mut call.arguments, frame)
    }

    fn arguments(&mut self, arguments: &mut Arguments, frame: Frame) -> Result<()> {
        let named = arguments.named.iter_mut().map(|(_, value)| value);
        let all = arguments.positional.iter_mut().chain(named);
        let mut all = all.chain(&mut arguments.more).chain(&mut arguments.more_named);
        all.try_for_each(|value| self.expr(value, frame))
    }

    fn expr(&mut self, expr: &mut Expr, frame: Frame) -> Result<()> {
        match expr {
            Expr::Const(_) | Expr::Captured => Ok(()),
            Expr::Variable(variable) => self.variable(variable, frame.scope),
            Expr::Concat(items, escape) => {
                *escape = self.escape;
                items.iter_mut().try_for_each(|item| self.expr(item, frame))
            }
            Expr::Tuple(items) | Expr::List(items) => items.iter_mut().try_for_each(|item| self.expr(item, frame)),
            Expr::Dict(entries) => entries.iter_mut().try_for_each(|(key, value)| {
                self.expr(key, frame)?;
                self.expr(value, frame)
            }),
            Expr::Attribute(value, _) | Expr::Negative(value) | Expr::Positive(value) | Expr::Not(value) => {
                self.expr(value, frame)
            }
            Expr::Item(value, key) => {
                self.expr(value, frame)?;
                self.expr(key, frame)
            }
            Expr::Slice(value, parts) => {
                self.expr(value, frame)?;
                parts.iter_mut().flatten().try_for_each(|part| self.expr(part, frame))
            }
            Expr::Call(call) => self.call(call, frame),
            Expr::Filter(filter) => {
                if !frame.soft && !filters::exists(&filter.name) {
                    return Err(Fault::new(format!("there is no filter {:?}", filter.name)));
                }
                self.expr(&mut filter.value, frame)?;
                self.arguments(&mut filter.arguments, frame)
            }
            Expr::Test(test) => {
                if !frame.soft && !checks::exists(&test.name) {
                    return Err(Fault::new(format!("there is no test {:?}", test.name)));
                }
                self.expr(&mut test.value, frame)?;
                self.arguments(&mut test.arguments, frame)
            }
            Expr::Binary(_, pair) | Expr::And(pair) | Expr::Or(pair) => {
                self.expr(&mut pair.0, frame)?;
                self.expr(&mut pair.1, frame)
            }
            Expr::Compare(first, rest) => {
                self.expr(first, frame)?;
                rest.iter_mut().try_for_each(|(_, value)| self.expr(value, frame))
            }
            Expr::Conditional(parts) => {
                let (value, condition, otherwise) = &mut **parts;
                self.expr(value, frame.soft())?;
                self.expr(condition, frame.soft())?;
                otherwise.iter_mut().try_for_each(|value| self.expr(value, frame.soft()))
            }
        }
    }
}

impl Target {
    fn export(&mut self, global: bool) {
        match self {
            Self::Variable(_, exported) => *exported = global,
            Self::Attribute(..) => {}
            Self::Tuple(items) => items.iter_mut().for_each(|item| item.export(global)),
        }
    }
}
