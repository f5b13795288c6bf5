//! Which of the special variables a body reads before it sets them: `caller`, `kwargs`, `varargs`, `self`, `super`.

use super::ast::*;
use super::symbols::{each_name, each_name_in_call};

/// Names that are looked for, with what was met first.
struct Uses<const N: usize> {
    names: [&'static str; N],
    /// `None`: not met; else whether it was read.
    read: [Option<bool>; N],
}

/// Which of `names` the body reads, if reading is the first that happens to it. Blocks inside do not count.
pub(super) fn reads<const N: usize>(body: &Body, names: [&'static str; N]) -> [bool; N] {
    let mut uses = Uses { names, read: [None; N] };
    uses.body(body);
    uses.read.map(|read| read == Some(true))
}

impl<const N: usize> Uses<N> {
    fn met(&mut self, name: &str, read: bool) {
        if let Some(at) = self.names.iter().position(|other| *other == name) {
            self.read[at].get_or_insert(read);
        }
    }

    fn expr(&mut self, expr: &Expr) {
        each_name(expr, &mut |name| self.met(name, true));
    }

    fn target(&mut self, target: &Target) {
        match target {
            Target::Variable(variable, _) => self.met(&variable.name, false),
            Target::Attribute(..) => {}
            Target::Tuple(items) => items.iter().for_each(|item| self.target(item)),
        }
    }

    fn body(&mut self, body: &Body) {
        for statement in body {
            if self.read.iter().all(Option::is_some) {
                return;
            }
            self.statement(&statement.kind);
        }
    }

    /// In the order in which Jinja2 looks at the parts of a statement.
    fn statement(&mut self, statement: &StatementKind) {
        match statement {
            StatementKind::Output(pieces) => {
                for piece in pieces {
                    if let Piece::Print(value, ..) = piece {
                        self.expr(value);
                    }
                }
            }
            StatementKind::For(node) => {
                self.target(&node.target);
                self.expr(&node.iterable);
                self.body(&node.body);
                self.body(&node.otherwise);
                node.condition.iter().for_each(|condition| self.expr(&condition.test));
            }
            StatementKind::If(branches, otherwise) => {
                for (test, body) in branches {
                    self.expr(test);
                    self.body(body);
                }
                self.body(otherwise);
            }
            StatementKind::Set(target, value) => {
                self.target(target);
                self.expr(value);
            }
            StatementKind::SetBlock(node) => {
                self.target(&node.target);
                node.filter.iter().for_each(|filter| self.expr(filter));
                self.body(&node.body);
            }
            StatementKind::With(node) => {
                node.targets.iter().for_each(|target| self.target(target));
                node.values.iter().for_each(|value| self.expr(value));
                self.body(&node.body);
            }
            StatementKind::Macro(node) | StatementKind::Generation(node) => self.function(node),
            StatementKind::Call(node) => {
                each_name_in_call(&node.call, &mut |name| self.met(name, true));
                self.function(&node.block);
            }
            StatementKind::Filter(node) => {
                self.body(&node.body);
                self.expr(&node.filter);
            }
            StatementKind::Autoescape(node) => {
                self.expr(&node.enabled);
                self.body(&node.body);
            }
            StatementKind::Load(_, value, _) => self.expr(value),
            StatementKind::Block(_) | StatementKind::Break | StatementKind::Continue => {}
        }
    }

    fn function(&mut self, node: &Macro) {
        node.parameters.iter().for_each(|parameter| self.met(&parameter.name, false));
        node.defaults.iter().for_each(|value| self.expr(value));
        self.body(&node.body);
    }
}
