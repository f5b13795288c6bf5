//! Running statements.

use std::rc::Rc;

use super::interpreter::Interpreter;
use super::iterate::LoopState;
use super::syntax::ast::*;
use super::text::Text;
use super::value::{Closure, Value};
use super::{Fault, Result};

/// How a statement ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

impl<'t> Interpreter<'t> {
    pub fn body(&mut self, body: &'t Body) -> Result<Flow> {
        for statement in body {
            self.meter.step()?;
            let flow = self.statement(&statement.kind).map_err(|fault| fault.in_line(statement.line))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    /// A body with the variables of `scope`.
    fn scoped_body(&mut self, scope: &'t Scope, body: &'t Body) -> Result<Flow> {
        self.enter(scope);
        let flow = self.nested(|this| this.body(body))?;
        self.leave(scope);
        Ok(flow)
    }

    fn statement(&mut self, statement: &'t StatementKind) -> Result<Flow> {
        match statement {
            StatementKind::Output(pieces) => self.print(pieces)?,
            StatementKind::For(node) => return self.for_statement(node),
            StatementKind::If(branches, otherwise) => return self.condition(branches, otherwise),
            StatementKind::Set(target, value) => {
                self.check_namespaces(target)?;
                let value = self.eval(value)?;
                self.assign(target, value)?;
            }
            StatementKind::SetBlock(node) => return self.set_block(node),
            StatementKind::With(node) => return self.with(node),
            StatementKind::Macro(node) => {
                let closure = self.closure(node)?;
                self.assign(&node.target, closure)?;
            }
            StatementKind::Call(node) => self.call_block(node)?,
            StatementKind::Generation(node) => {
                let closure = self.closure(node)?;
                let value = self.call_value(closure, super::call::Args::default())?;
                self.print_text(value)?;
            }
            StatementKind::Filter(node) => return self.filter_block(node),
            StatementKind::Autoescape(node) => return self.autoescape(node),
            StatementKind::Block(node) => self.block(node)?,
            StatementKind::Load(tag, source, _) => {
                self.eval(source)?;
                return Err(Fault::new(format!("{tag:?}: a chat template cannot use other templates")));
            }
            StatementKind::Break => return Ok(Flow::Break),
            StatementKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn print(&mut self, pieces: &'t [Piece]) -> Result<()> {
        for piece in pieces {
            match piece {
                Piece::Data(text) => self.out()?.push(text)?,
                Piece::Print(value, line, escape) => {
                    self.print_value(value, *escape).map_err(|fault| fault.in_line(*line))?;
                }
            }
        }
        Ok(())
    }

    fn print_value(&mut self, value: &'t Expr, escape: Escape) -> Result<()> {
        let value = self.eval(value)?;
        let text = if self.escapes(escape) { self.escape_value(&value)? } else { self.text_of(&value)? };
        self.out()?.push(&text)
    }

    /// What the body of a block came to, which must be text.
    fn print_text(&mut self, value: Value<'t>) -> Result<()> {
        match value {
            Value::Text(text) => self.out()?.push(&text),
            other => Err(Fault::new(format!("a block that is {}, not text", other.kind()))),
        }
    }

    pub fn escapes(&self, escape: Escape) -> bool {
        match escape {
            Escape::No => false,
            Escape::Yes => true,
            Escape::Runtime => self.autoescape,
        }
    }

    /// A text as `Markup`, if so.
    pub fn markup_if(&self, text: Text, markup: bool) -> Result<Text> {
        if markup { text.with_markup(self.meter, true) } else { Ok(text) }
    }

    fn condition(&mut self, branches: &'t [(Expr, Body)], otherwise: &'t Body) -> Result<Flow> {
        for (test, body) in branches {
            if self.eval(test)?.is_true() {
                return self.nested(|this| this.body(body));
            }
        }
        self.nested(|this| this.body(otherwise))
    }

    fn for_statement(&mut self, node: &'t For) -> Result<Flow> {
        let iterable = self.eval(&node.iterable)?;
        if !node.recursive {
            return self.for_loop(node, iterable, None, 0);
        }
        let text = self.recursive_loop(node, self.current(), iterable, 0)?;
        self.out()?.push(&text)?;
        Ok(Flow::Next)
    }

    /// What a recursive loop prints; `parent` is the call in which it stands.
    pub fn recursive_loop(&mut self, node: &'t For, parent: usize, iterable: Value<'t>, depth: usize) -> Result<Text> {
        let visible = self.visible();
        let (_, text) = self.activate(&node.function, parent, visible, |this| {
            this.capture(|this| this.for_loop(node, iterable, Some(parent), depth))
        })?;
        self.markup_if(text, self.escapes(node.escape))
    }

    fn for_loop(&mut self, node: &'t For, iterable: Value<'t>, recursion: Option<usize>, depth: usize) -> Result<Flow> {
        let outside = recursion.unwrap_or(self.current());
        let source = self.iterate(&iterable)?;
        let (source, whole) = match &node.condition {
            None => (source, iterable),
            Some(condition) => (self.choose(source, condition, outside)?, Value::None),
        };
        let recursion = recursion.map(|parent| (node, parent));
        let state = Rc::new(LoopState::new(self.meter, source, whole, recursion, depth)?);
        let result = self.nested(|this| this.rounds(node, &state));
        // What a loop remembers for `changed` may hold the loop itself.
        state.forget();
        if result? { Ok(Flow::Next) } else { self.scoped_body(&node.otherwise_scope, &node.otherwise) }
    }

    /// All rounds of a loop; whether any of them came to its end.
    fn rounds(&mut self, node: &'t For, state: &Rc<LoopState<'t>>) -> Result<bool> {
        let mut finished = false;
        while let Some(item) = self.next_round(state)? {
            self.meter.step()?;
            self.assign(&node.target, item)?;
            self.set_slot(node.state, Some(Value::Loop(state.clone())));
            self.enter(&node.scope);
            match self.body(&node.body)? {
                Flow::Next => finished = true,
                Flow::Continue => {}
                Flow::Break => break,
            }
        }
        self.leave(&node.scope);
        Ok(finished)
    }

    fn set_block(&mut self, node: &'t SetBlock) -> Result<Flow> {
        self.enter(&node.scope);
        let (flow, text) = self.capture(|this| this.nested(|this| this.body(&node.body)))?;
        if flow != Flow::Next {
            return Ok(flow);
        }
        let mut value = match &node.filter {
            None => Value::Text(text),
            Some(filter) => self.filtered(filter, text, node.escape)?,
        };
        if self.autoescape {
            value = Value::Text(self.text_of(&value)?.with_markup(self.meter, true)?);
        }
        self.assign(&node.target, value)?;
        self.leave(&node.scope);
        Ok(flow)
    }

    /// The filter of a block, applied to the block's text.
    fn filtered(&mut self, filter: &'t Expr, text: Text, escape: Escape) -> Result<Value<'t>> {
        let text = self.markup_if(text, self.escapes(escape))?;
        let outside = self.captured.replace(Value::Text(text));
        let value = self.eval(filter)?;
        self.captured = outside;
        Ok(value)
    }

    fn filter_block(&mut self, node: &'t FilterBlock) -> Result<Flow> {
        self.enter(&node.scope);
        let (flow, text) = self.capture(|this| this.nested(|this| this.body(&node.body)))?;
        if flow == Flow::Next {
            let value = self.filtered(&node.filter, text, node.escape)?;
            self.print_text(value)?;
        }
        self.leave(&node.scope);
        Ok(flow)
    }

    fn with(&mut self, node: &'t With) -> Result<Flow> {
        self.enter(&node.scope);
        for (target, value) in node.targets.iter().zip(&node.values) {
            let value = self.eval(value)?;
            self.assign(target, value)?;
        }
        let flow = self.nested(|this| this.body(&node.body))?;
        self.leave(&node.scope);
        Ok(flow)
    }

    fn autoescape(&mut self, node: &'t Autoescape) -> Result<Flow> {
        self.enter(&node.scope);
        let enabled = self.eval(&node.enabled)?.is_true();
        let outside = std::mem::replace(&mut self.autoescape, enabled);
        let flow = self.nested(|this| this.body(&node.body))?;
        // Jinja2 also leaves the setting as it is when the block is left for another round of a loop.
        if flow == Flow::Next {
            self.autoescape = outside;
        }
        self.leave(&node.scope);
        Ok(flow)
    }

    /// A macro with the variables around it.
    pub fn closure(&mut self, definition: &'t Macro) -> Result<Value<'t>> {
        self.meter.bytes(size_of::<Closure<'t>>() + 32)?;
        let activation = self.capture_variables();
        Ok(Value::Macro(Rc::new(Closure { definition, activation })))
    }

    fn call_block(&mut self, node: &'t CallBlock) -> Result<()> {
        let caller = self.closure(&node.block)?;
        let value = self.eval_call(&node.call, Some(caller))?;
        self.print_text(value)
    }

    fn block(&mut self, node: &'t BlockCall) -> Result<()> {
        if node.required {
            return Err(Fault::new(format!("required block {:?} not found", node.name)));
        }
        let mut visible = self.visible();
        if let Some(variables) = &node.visible {
            self.meter.slots(2 * variables.len())?;
            let mut all = visible.map_or_else(Default::default, |visible| (*visible).clone());
            for variable in variables {
                if let Some(value) = self.variable(variable.place) {
                    all.insert(&variable.name, value.clone());
                }
            }
            visible = Some(Rc::new(all));
        }
        self.run_block(node.index, visible)
    }

    /// Prints the contents of a block.
    pub fn run_block(&mut self, index: usize, visible: super::value::Visible<'t>) -> Result<()> {
        let block = &self.template.blocks[index];
        self.activate(&block.function, 0, visible.clone(), |this| {
            if let Some(slot) = block.this {
                this.set_slot(slot, Some(Value::This(visible)));
            }
            if let Some(slot) = block.parent {
                this.set_slot(slot, Some(Value::hint("there is no parent block")));
            }
            this.enter(&block.function.scope);
            this.nested(|this| this.body(&block.body))
        })?;
        Ok(())
    }
}
