//! Tokens to statements. Jinja2's grammar.

use super::super::{Dialect, Fault, Result};
use super::ast::*;
use super::expressions::all_different;
use super::lexer::{Token, lex};

/// Deepest nesting of statements. Jinja2 writes them as Python, which has the same limit.
const MAX_NESTED: usize = 100;

pub(super) struct Parser {
    tokens: std::vec::IntoIter<(Token, u32)>,
    /// The tokens at hand: the current one and, where the grammar needs it, the next.
    ahead: std::collections::VecDeque<(Token, u32)>,
    pub line: u32,
    nested: usize,
    /// How many parentheses, brackets and braces are open.
    pub brackets: usize,
    /// How many loops are open in the function at hand.
    loops: usize,
}

/// The statements of a template.
pub(super) fn parse(source: &str, dialect: Dialect) -> Result<Body> {
    let tokens = lex(source, dialect)?.into_iter();
    let ahead = std::collections::VecDeque::new();
    let mut parser = Parser { tokens, ahead, line: 1, nested: 0, brackets: 0, loops: 0 };
    parser.body(&[]).map_err(|fault| fault.in_line(parser.line))
}

/// For messages.
fn describe(token: Option<&Token>) -> String {
    match token {
        None => "the end of the template".into(),
        Some(Token::Data(_)) => "text".into(),
        Some(Token::BlockStart) => "{%".into(),
        Some(Token::BlockEnd) => "%}".into(),
        Some(Token::PrintStart) => "{{".into(),
        Some(Token::PrintEnd) => "}}".into(),
        Some(Token::Name(name)) => format!("{name:?}"),
        Some(Token::Text(_)) => "a string".into(),
        Some(Token::Int(_) | Token::Float(_)) => "a number".into(),
        Some(Token::Sign(sign)) => format!("{sign:?}"),
    }
}

impl Parser {
    fn fill(&mut self, count: usize) {
        while self.ahead.len() < count {
            let Some(token) = self.tokens.next() else { break };
            self.ahead.push_back(token);
        }
    }

    pub fn peek(&mut self) -> Option<&Token> {
        self.fill(1);
        self.ahead.front().map(|(token, line)| {
            self.line = *line;
            token
        })
    }

    pub fn peek_second(&mut self) -> Option<&Token> {
        self.fill(2);
        self.ahead.get(1).map(|(token, _)| token)
    }

    pub fn next(&mut self) -> Option<Token> {
        self.peek();
        self.ahead.pop_front().map(|(token, _)| token)
    }

    pub fn unexpected(&mut self, wanted: &str) -> Box<Fault> {
        let found = describe(self.peek());
        Fault::new(format!("{wanted}, found {found}"))
    }

    pub fn at_sign(&mut self, sign: &str) -> bool {
        matches!(self.peek(), Some(Token::Sign(found)) if *found == sign)
    }

    pub fn at_word(&mut self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == word)
    }

    /// Takes `sign` if it is there.
    pub fn sign(&mut self, sign: &str) -> bool {
        let found = self.at_sign(sign);
        if found {
            self.next();
        }
        found
    }

    /// Takes `word` if it is there.
    pub fn word(&mut self, word: &str) -> bool {
        let found = self.at_word(word);
        if found {
            self.next();
        }
        found
    }

    pub fn expect_sign(&mut self, sign: &str) -> Result<()> {
        if self.sign(sign) { Ok(()) } else { Err(self.unexpected(&format!("expected {sign:?}"))) }
    }

    fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.word(word) { Ok(()) } else { Err(self.unexpected(&format!("expected {word:?}"))) }
    }

    pub fn name(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Name(_)) => {}
            _ => return Err(self.unexpected("expected a name")),
        }
        let Some(Token::Name(name)) = self.next() else { unreachable!("just seen") };
        Ok(name)
    }

    fn block_end(&mut self) -> Result<()> {
        match self.peek() {
            Some(Token::BlockEnd) => drop(self.next()),
            _ => return Err(self.unexpected("expected \"%}\"")),
        }
        Ok(())
    }

    /// Statements up to a tag with one of these names, which stays; up to the end of the template if there are none.
    fn body(&mut self, ends: &[&str]) -> Result<Body> {
        let mut body = Body::new();
        let mut pieces = Vec::new();
        let mut first_line = 0;
        loop {
            let token = self.next();
            if pieces.is_empty() {
                first_line = self.line;
            }
            match token {
                Some(Token::Data(text)) => {
                    if !text.is_empty() {
                        pieces.push(Piece::Data(super::super::text::Text::constant(text)));
                    }
                    continue;
                }
                Some(Token::PrintStart) => {
                    let line = self.line;
                    let value = self.tuple(true, &[])?;
                    match self.next() {
                        Some(Token::PrintEnd) => pieces.push(Piece::Print(value, line, Escape::No)),
                        other => {
                            return Err(Fault::new(format!("expected \"}}}}\", found {}", describe(other.as_ref()))));
                        }
                    }
                    continue;
                }
                _ => {}
            }
            if !pieces.is_empty() {
                let kind = StatementKind::Output(std::mem::take(&mut pieces));
                body.push(Statement { line: first_line, kind });
            }
            match token {
                Some(Token::BlockStart) => {}
                None if ends.is_empty() => return Ok(body),
                None => return Err(Fault::new(format!("the template ends, expected {}", ends.join(" or ")))),
                other => return Err(Fault::new(format!("unexpected {}", describe(other.as_ref())))),
            }
            if let Some(Token::Name(name)) = self.peek()
                && ends.contains(&name.as_str())
            {
                return Ok(body);
            }
            let line = self.line;
            let kind = self.statement()?;
            self.block_end()?;
            body.push(Statement { line, kind });
        }
    }

    /// Behind a tag's head: its end, and the statements up to one of `ends`.
    fn inner(&mut self, ends: &[&str]) -> Result<Body> {
        self.sign(":");
        self.block_end()?;
        self.nested += 1;
        if self.nested > MAX_NESTED {
            return Err(Fault::new(format!("statements are nested more than {MAX_NESTED} deep")));
        }
        let body = self.body(ends)?;
        self.nested -= 1;
        Ok(body)
    }

    /// [`Self::inner`] and the tag that ends it.
    fn inner_to(&mut self, end: &str) -> Result<Body> {
        let body = self.inner(&[end])?;
        self.next();
        Ok(body)
    }

    /// [`Self::inner_to`] of a body that is a function: loops around it cannot be left from inside.
    fn function_to(&mut self, end: &str) -> Result<Body> {
        let loops = std::mem::take(&mut self.loops);
        let body = self.inner_to(end)?;
        self.loops = loops;
        Ok(body)
    }

    fn statement(&mut self) -> Result<StatementKind> {
        let tag = self.name()?;
        Ok(match tag.as_str() {
            "for" => StatementKind::For(Box::new(self.for_loop()?)),
            "if" => self.condition()?,
            "set" => self.set()?,
            "with" => StatementKind::With(Box::new(self.with()?)),
            "macro" => {
                let name = self.name()?;
                let target = Target::Variable(Variable::new(assignable(name.clone())?), false);
                let (parameters, defaults) = self.signature()?;
                let body = self.function_to("endmacro")?;
                StatementKind::Macro(Box::new(Macro::new(Some(name), target, parameters, defaults, body)))
            }
            "call" => StatementKind::Call(Box::new(self.call_block()?)),
            "filter" => {
                let filter = self.captured_filter(true)?;
                let body = self.inner_to("endfilter")?;
                let scope = Scope::default();
                StatementKind::Filter(Box::new(FilterBlock { filter, body, scope, escape: Escape::No }))
            }
            "autoescape" => {
                let enabled = self.expression()?;
                let body = self.inner_to("endautoescape")?;
                StatementKind::Autoescape(Box::new(Autoescape { enabled, body, scope: Scope::default() }))
            }
            "generation" => {
                let body = self.function_to("endgeneration")?;
                let target = Target::Tuple(Vec::new());
                StatementKind::Generation(Box::new(Macro::new(None, target, Vec::new(), Vec::new(), body)))
            }
            "print" => {
                let mut pieces = Vec::new();
                while !matches!(self.peek(), Some(Token::BlockEnd)) {
                    if !pieces.is_empty() {
                        self.expect_sign(",")?;
                    }
                    let line = self.line;
                    pieces.push(Piece::Print(self.expression()?, line, Escape::No));
                }
                StatementKind::Output(pieces)
            }
            "block" => StatementKind::Block(Box::new(self.block()?)),
            "extends" => StatementKind::Load("extends", self.expression()?, Vec::new()),
            "include" => self.include()?,
            "import" => {
                let source = self.expression()?;
                self.expect_word("as")?;
                let name = assignable(self.name()?)?;
                self.import_context();
                StatementKind::Load("import", source, vec![name])
            }
            "from" => self.import_from()?,
            "break" | "continue" if self.loops == 0 => return Err(Fault::new(format!("{tag:?} outside of a loop"))),
            "break" => StatementKind::Break,
            "continue" => StatementKind::Continue,
            _ => return Err(Fault::new(format!("the tag {tag:?} is not known, or does not belong here"))),
        })
    }

    fn for_loop(&mut self) -> Result<For> {
        let target = self.target(&["in"], false)?;
        self.expect_word("in")?;
        let iterable = self.tuple(false, &["recursive"])?;
        let test = if self.word("if") { Some(self.expression()?) } else { None };
        let recursive = self.word("recursive");
        let condition = test.map(|test| Condition { test, target: target.duplicate(), function: Function::default() });
        let outer = if recursive { std::mem::take(&mut self.loops) } else { self.loops };
        self.loops += 1;
        let body = self.inner(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if self.name()? == "else" { self.inner_to("endfor")? } else { Body::new() };
        self.loops = outer;
        Ok(For {
            target,
            iterable,
            condition,
            body,
            otherwise,
            recursive,
            scope: Scope::default(),
            otherwise_scope: Scope::default(),
            state: 0,
            function: Function::default(),
            escape: Escape::No,
        })
    }

    fn condition(&mut self) -> Result<StatementKind> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, &[])?;
            branches.push((test, self.inner(&["elif", "else", "endif"])?));
            match self.name()?.as_str() {
                "elif" => {}
                "else" => return Ok(StatementKind::If(branches, self.inner_to("endif")?)),
                _ => return Ok(StatementKind::If(branches, Body::new())),
            }
        }
    }

    fn set(&mut self) -> Result<StatementKind> {
        let target = self.target(&[], true)?;
        if self.sign("=") {
            return Ok(StatementKind::Set(target, self.tuple(true, &[])?));
        }
        let filter = if self.at_sign("|") { Some(self.captured_filter(false)?) } else { None };
        let body = self.inner_to("endset")?;
        let scope = Scope::default();
        Ok(StatementKind::SetBlock(Box::new(SetBlock { target, filter, body, scope, escape: Escape::No })))
    }

    fn with(&mut self) -> Result<With> {
        let (mut targets, mut values) = (Vec::new(), Vec::new());
        while !matches!(self.peek(), Some(Token::BlockEnd)) {
            if !targets.is_empty() {
                self.expect_sign(",")?;
            }
            targets.push(self.target(&[], false)?);
            self.expect_sign("=")?;
            values.push(self.expression()?);
        }
        Ok(With { targets, values, body: self.inner_to("endwith")?, scope: Scope::default() })
    }

    fn call_block(&mut self) -> Result<CallBlock> {
        let (parameters, defaults) = if self.at_sign("(") { self.signature()? } else { (Vec::new(), Vec::new()) };
        let Expr::Call(call) = self.expression()? else { return Err(Fault::new("\"call\" needs a call")) };
        let body = self.function_to("endcall")?;
        let block = Macro::new(None, Target::Tuple(Vec::new()), parameters, defaults, body);
        Ok(CallBlock { call: *call, block, escape: Escape::No })
    }

    /// The parameters of a macro, and the defaults of the last ones.
    fn signature(&mut self) -> Result<(Vec<Variable>, Vec<Expr>)> {
        let (mut parameters, mut defaults) = (Vec::<Variable>::new(), Vec::new());
        self.expect_sign("(")?;
        while !self.at_sign(")") {
            if !parameters.is_empty() {
                self.expect_sign(",")?;
            }
            let name = assignable(self.name()?)?;
            if self.sign("=") {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return Err(Fault::new("a parameter without a default behind one with"));
            }
            parameters.push(Variable::new(name));
        }
        self.expect_sign(")")?;
        all_different(parameters.iter().map(|parameter| parameter.name.as_str()))?;
        Ok((parameters, defaults))
    }

    fn block(&mut self) -> Result<BlockCall> {
        let name = self.name()?;
        let scoped = self.word("scoped");
        let required = self.word("required");
        let contents = self.function_to("endblock")?;
        self.word(&name);
        let blank = |piece: &Piece| matches!(piece, Piece::Data(text) if text.as_str().trim().is_empty());
        let blank = |statement: &Statement| matches!(&statement.kind, StatementKind::Output(pieces) if pieces.iter().all(blank));
        if required && !contents.iter().all(blank) {
            return Err(Fault::new("a required block with contents"));
        }
        Ok(BlockCall { name, contents, index: 0, visible: scoped.then(Vec::new), required })
    }

    fn include(&mut self) -> Result<StatementKind> {
        let source = self.expression()?;
        if self.at_word("ignore") && matches!(self.peek_second(), Some(Token::Name(name)) if name == "missing") {
            self.next();
            self.next();
        }
        self.import_context();
        Ok(StatementKind::Load("include", source, Vec::new()))
    }

    /// `with context` or `without context`, which makes no difference here.
    fn import_context(&mut self) -> bool {
        let found = (self.at_word("with") || self.at_word("without"))
            && matches!(self.peek_second(), Some(Token::Name(name)) if name == "context");
        if found {
            self.next();
            self.next();
        }
        found
    }

    fn import_from(&mut self) -> Result<StatementKind> {
        let source = self.expression()?;
        self.expect_word("import")?;
        let mut names = Vec::new();
        loop {
            if !names.is_empty() {
                self.expect_sign(",")?;
            }
            if self.import_context() {
                break;
            }
            let mut name = assignable(self.name()?)?;
            if name.starts_with('_') {
                return Err(Fault::new(format!("{name:?} cannot be imported: it begins with an underscore")));
            }
            if self.word("as") {
                name = assignable(self.name()?)?;
            }
            names.push(name);
            if self.import_context() || !self.at_sign(",") {
                break;
            }
        }
        Ok(StatementKind::Load("from", source, names))
    }

    /// What stands before `=` or `in`.
    fn target(&mut self, ends: &[&str], namespaces: bool) -> Result<Target> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() {
                self.expect_sign(",")?;
            }
            if self.at_tuple_end(ends) {
                break;
            }
            items.push(self.single_target(namespaces)?);
            if !self.at_sign(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            None => Err(self.unexpected("expected a name")),
            Some(item) if !is_tuple => Ok(item),
            Some(item) => {
                items.push(item);
                Ok(Target::Tuple(items))
            }
        }
    }

    fn single_target(&mut self, namespaces: bool) -> Result<Target> {
        if self.at_sign("(") {
            return into_target(self.parenthesized()?);
        }
        let name = assignable(self.name()?)?;
        if namespaces && self.sign(".") {
            return Ok(Target::Attribute(Variable::new(name), self.name()?));
        }
        Ok(Target::Variable(Variable::new(name), false))
    }
}

/// Refuses the names of constants.
fn assignable(name: String) -> Result<String> {
    match name.as_str() {
        "true" | "false" | "none" | "True" | "False" | "None" => Err(Fault::new(format!("cannot assign to {name:?}"))),
        _ => Ok(name),
    }
}

/// A tuple that was read as an expression, as a target.
fn into_target(value: Expr) -> Result<Target> {
    match value {
        Expr::Variable(variable) => Ok(Target::Variable(Variable::new(assignable(variable.name)?), false)),
        Expr::Tuple(items) => Ok(Target::Tuple(items.into_iter().map(into_target).collect::<Result<_>>()?)),
        _ => Err(Fault::new("expected names to assign to")),
    }
}

impl Variable {
    pub fn new(name: String) -> Self {
        Self { name, place: Place::default() }
    }
}

impl Target {
    fn duplicate(&self) -> Self {
        match self {
            Self::Variable(variable, exported) => Self::Variable(Variable::new(variable.name.clone()), *exported),
            Self::Attribute(variable, name) => Self::Attribute(Variable::new(variable.name.clone()), name.clone()),
            Self::Tuple(items) => Self::Tuple(items.iter().map(Self::duplicate).collect()),
        }
    }
}

impl Macro {
    fn new(name: Option<String>, target: Target, parameters: Vec<Variable>, defaults: Vec<Expr>, body: Body) -> Self {
        let function = Function::default();
        Self { name, target, parameters, defaults, caller: None, kwargs: None, varargs: None, body, function }
    }
}
