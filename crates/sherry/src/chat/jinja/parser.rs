//! Tokens to a tree.

use super::lexer::Token;
use super::library::{Filter, Test};
use super::{Fault, Result};

/// Deepest nesting of statements and expressions.
const MAX_DEPTH: usize = 50;
/// Most operands of one chain of operators, filters or attributes.
const MAX_CHAIN: usize = 100;

/// A statement with its line.
#[derive(Debug)]
pub(super) struct Node {
    pub kind: NodeKind,
    pub line: u32,
}

#[derive(Debug)]
pub(super) enum NodeKind {
    Data(String),
    Print(Expr),
    /// Condition and body, in turn; the last may have no condition.
    If(Vec<(Option<Expr>, Vec<Node>)>),
    For {
        targets: Vec<String>,
        items: Expr,
        filter: Option<Expr>,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Set(Target, Expr),
    SetBlock(String, Vec<Node>),
    Macro(Macro),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) enum Target {
    Names(Vec<String>),
    Attribute(String, String),
}

#[derive(Debug)]
pub(super) struct Macro {
    pub name: String,
    pub parameters: Vec<(String, Option<Expr>)>,
    pub body: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(super) enum Constant {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
    Concatenate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

#[derive(Debug)]
pub(super) enum Expr {
    Constant(Constant),
    Name(String),
    /// Items, and whether it is a tuple.
    List(Vec<Expr>, bool),
    Map(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, String),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
    Call(Box<Expr>, Arguments),
    Filter(Box<Expr>, Filter, Arguments),
    /// Value, test, arguments, negated.
    Test(Box<Expr>, Test, Vec<Expr>, bool),
    Binary(Operator, Box<Expr>, Box<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    Negate(Box<Expr>),
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    /// Value, condition, other value.
    Conditional(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(String, Expr)>,
}

struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    depth: usize,
    loops: usize,
}

/// The statements of a template.
pub(super) fn parse(tokens: Vec<(Token, u32)>) -> Result<Vec<Node>> {
    let mut parser = Parser { tokens, at: 0, depth: 0, loops: 0 };
    let line = |parser: &Parser| parser.line();
    match parser.block(&[]) {
        Ok((body, _)) => Ok(body),
        Err(fault) => Err(Fault { line: line(&parser), ..fault }),
    }
}

impl Parser {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |(_, line)| *line)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get_mut(self.at).map(|(token, _)| std::mem::replace(token, Token::Int(0)));
        self.at += 1;
        token
    }

    fn sign(&mut self, sign: &str) -> bool {
        let here = matches!(self.peek(), Some(Token::Sign(other)) if *other == sign);
        self.at += usize::from(here);
        here
    }

    fn word(&mut self, word: &str) -> bool {
        let here = matches!(self.peek(), Some(Token::Name(other)) if other == word);
        self.at += usize::from(here);
        here
    }

    fn expect_sign(&mut self, sign: &str) -> Result<()> {
        if self.sign(sign) { Ok(()) } else { Err(self.unexpected(&format!("expected {sign:?}"))) }
    }

    fn unexpected(&self, expected: &str) -> Fault {
        let found = match self.peek() {
            None => "the end of the template".into(),
            Some(Token::Name(name)) => format!("{name:?}"),
            Some(Token::Sign(sign)) => format!("{sign:?}"),
            Some(Token::BlockEnd | Token::PrintEnd) => "the end of the tag".into(),
            Some(_) => "something else".into(),
        };
        Fault::new(format!("{expected}, found {found}"))
    }

    fn name(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Name(_)) => match self.next() {
                Some(Token::Name(name)) => Ok(name),
                _ => Err(Fault::new("expected a name")),
            },
            _ => Err(self.unexpected("expected a name")),
        }
    }

    fn block_end(&mut self) -> Result<()> {
        match self.peek() {
            Some(Token::BlockEnd) => {
                self.at += 1;
                Ok(())
            }
            _ => Err(self.unexpected("expected the end of the tag")),
        }
    }

    /// Runs `inner` one level deeper.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(Fault::new(format!("nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Statements up to a tag that starts with one of `ends`; that word, with the rest of the tag still to be read.
    fn block(&mut self, ends: &[&str]) -> Result<(Vec<Node>, String)> {
        self.nested(|parser| {
            let mut nodes = Vec::new();
            loop {
                let line = parser.line();
                let kind = match parser.next() {
                    None if ends.is_empty() => return Ok((nodes, String::new())),
                    None => {
                        return Err(Fault::new(format!(
                            "expected {{% {} %}}, found the end of the template",
                            ends.join(" or ")
                        )));
                    }
                    Some(Token::Data(text)) => NodeKind::Data(text),
                    Some(Token::PrintStart) => {
                        let value = parser.tuple_or_expression()?;
                        match parser.peek() {
                            Some(Token::PrintEnd) => parser.at += 1,
                            _ => return Err(parser.unexpected("expected the end of the expression")),
                        }
                        NodeKind::Print(value)
                    }
                    Some(Token::BlockStart) => {
                        let word = parser.name()?;
                        if ends.contains(&word.as_str()) {
                            return Ok((nodes, word));
                        }
                        match parser.statement(&word, &mut nodes)? {
                            Some(kind) => kind,
                            None => continue,
                        }
                    }
                    Some(_) => return Err(Fault::new("unexpected tag")),
                };
                nodes.push(Node { kind, line });
            }
        })
    }

    /// The body of a statement and its end tag.
    fn body(&mut self, end: &str) -> Result<Vec<Node>> {
        let (body, _) = self.block(&[end])?;
        // `{% endmacro name %}` is allowed.
        if matches!(self.peek(), Some(Token::Name(_))) {
            self.at += 1;
        }
        self.block_end()?;
        Ok(body)
    }

    fn statement(&mut self, word: &str, outer: &mut Vec<Node>) -> Result<Option<NodeKind>> {
        Ok(Some(match word {
            "if" => self.if_statement()?,
            "for" => self.for_statement()?,
            "set" => self.set_statement()?,
            "macro" => {
                let name = self.name()?;
                self.expect_sign("(")?;
                let mut parameters: Vec<(String, Option<Expr>)> = Vec::new();
                while !self.sign(")") {
                    let parameter = self.name()?;
                    let default = if self.sign("=") { Some(self.expression()?) } else { None };
                    parameters.push((parameter, default));
                    if !self.sign(",") {
                        self.expect_sign(")")?;
                        break;
                    }
                }
                self.block_end()?;
                let loops = std::mem::take(&mut self.loops);
                let body = self.body("endmacro")?;
                self.loops = loops;
                NodeKind::Macro(Macro { name, parameters, body })
            }
            "break" | "continue" => {
                self.block_end()?;
                if self.loops == 0 {
                    return Err(Fault::new(format!("{word} outside of a loop")));
                }
                if word == "break" { NodeKind::Break } else { NodeKind::Continue }
            }
            // Marks the assistant's words for training; the text is the same.
            "generation" => {
                self.block_end()?;
                outer.extend(self.body("endgeneration")?);
                return Ok(None);
            }
            other => return Err(Fault::new(format!("the tag {other:?} is not supported"))),
        }))
    }

    fn if_statement(&mut self) -> Result<NodeKind> {
        let mut branches = Vec::new();
        let mut condition = Some(self.tuple_or_expression()?);
        loop {
            self.block_end()?;
            let ends: &[&str] = if condition.is_some() { &["elif", "else", "endif"] } else { &["endif"] };
            let (body, end) = self.block(ends)?;
            branches.push((condition.take(), body));
            match end.as_str() {
                "elif" => condition = Some(self.tuple_or_expression()?),
                "else" => {}
                _ => {
                    self.block_end()?;
                    return Ok(NodeKind::If(branches));
                }
            }
        }
    }

    fn for_statement(&mut self) -> Result<NodeKind> {
        let targets = self.targets()?;
        if !self.word("in") {
            return Err(self.unexpected("expected \"in\""));
        }
        let items = self.or()?;
        let filter = if self.word("if") { Some(self.or()?) } else { None };
        self.block_end()?;
        self.loops += 1;
        let (body, end) = self.block(&["else", "endfor"])?;
        self.loops -= 1;
        self.block_end()?;
        let otherwise = if end == "else" { self.body("endfor")? } else { Vec::new() };
        Ok(NodeKind::For { targets, items, filter, body, otherwise })
    }

    /// One name or several with commas, perhaps in parentheses.
    fn targets(&mut self) -> Result<Vec<String>> {
        let wrapped = self.sign("(");
        let mut names = vec![self.name()?];
        while self.sign(",") {
            names.push(self.name()?);
        }
        if wrapped {
            self.expect_sign(")")?;
        }
        Ok(names)
    }

    fn set_statement(&mut self) -> Result<NodeKind> {
        let mut names = self.targets()?;
        let target = match (names.len(), self.sign(".")) {
            (1, true) => Target::Attribute(names.remove(0), self.name()?),
            (_, true) => return Err(Fault::new("set: attributes are set one at a time")),
            _ => Target::Names(names),
        };
        if self.sign("=") {
            let value = self.tuple_or_expression()?;
            self.block_end()?;
            return Ok(NodeKind::Set(target, value));
        }
        match target {
            Target::Names(mut names) if names.len() == 1 => {
                self.block_end()?;
                Ok(NodeKind::SetBlock(names.remove(0), self.body("endset")?))
            }
            _ => Err(self.unexpected("expected \"=\"")),
        }
    }

    // ---- expressions, loosest first ----

    /// An expression, or several with commas: a tuple.
    fn tuple_or_expression(&mut self) -> Result<Expr> {
        let first = self.expression()?;
        if !matches!(self.peek(), Some(Token::Sign(","))) {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.sign(",") {
            if matches!(self.peek(), Some(Token::BlockEnd | Token::PrintEnd)) {
                break;
            }
            items.push(self.expression()?);
        }
        Ok(Expr::List(items, true))
    }

    fn expression(&mut self) -> Result<Expr> {
        self.nested(|parser| {
            let value = parser.or()?;
            if !parser.word("if") {
                return Ok(value);
            }
            let condition = parser.or()?;
            let otherwise = if parser.word("else") { Some(Box::new(parser.expression()?)) } else { None };
            Ok(Expr::Conditional(Box::new(value), Box::new(condition), otherwise))
        })
    }

    /// `first`, then what `more` adds, up to a bounded number of times.
    fn chain(&mut self, first: Expr, mut more: impl FnMut(&mut Self, Expr) -> Result<(Expr, bool)>) -> Result<Expr> {
        let mut value = first;
        for _ in 0..MAX_CHAIN {
            let (next, again) = more(self, value)?;
            if !again {
                return Ok(next);
            }
            value = next;
        }
        Err(Fault::new(format!("an expression of more than {MAX_CHAIN} parts")))
    }

    fn or(&mut self) -> Result<Expr> {
        let first = self.and()?;
        self.chain(first, |parser, left| {
            if !parser.word("or") {
                return Ok((left, false));
            }
            Ok((Expr::Or(Box::new(left), Box::new(parser.and()?)), true))
        })
    }

    fn and(&mut self) -> Result<Expr> {
        let first = self.not()?;
        self.chain(first, |parser, left| {
            if !parser.word("and") {
                return Ok((left, false));
            }
            Ok((Expr::And(Box::new(left), Box::new(parser.not()?)), true))
        })
    }

    fn not(&mut self) -> Result<Expr> {
        if self.word("not") {
            return self.nested(|parser| Ok(Expr::Not(Box::new(parser.not()?))));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.peek() {
                Some(Token::Sign("==")) => Comparison::Equal,
                Some(Token::Sign("!=")) => Comparison::NotEqual,
                Some(Token::Sign("<")) => Comparison::Less,
                Some(Token::Sign("<=")) => Comparison::LessEqual,
                Some(Token::Sign(">")) => Comparison::Greater,
                Some(Token::Sign(">=")) => Comparison::GreaterEqual,
                Some(Token::Name(name)) if name == "in" => Comparison::In,
                Some(Token::Name(name)) if name == "not" => {
                    let in_follows =
                        matches!(self.tokens.get(self.at + 1), Some((Token::Name(name), _)) if name == "in");
                    if !in_follows {
                        break;
                    }
                    self.at += 1;
                    Comparison::NotIn
                }
                _ => break,
            };
            self.at += 1;
            rest.push((comparison, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    fn binary(&mut self, operand: fn(&mut Self) -> Result<Expr>, operators: &[(&str, Operator)]) -> Result<Expr> {
        let first = operand(self)?;
        self.chain(first, |parser, left| {
            let Some((_, operator)) = operators.iter().find(|(sign, _)| parser.sign(sign)) else {
                return Ok((left, false));
            };
            Ok((Expr::Binary(*operator, Box::new(left), Box::new(operand(parser)?)), true))
        })
    }

    fn sum(&mut self) -> Result<Expr> {
        self.binary(Self::concatenation, &[("+", Operator::Add), ("-", Operator::Subtract)])
    }

    fn concatenation(&mut self) -> Result<Expr> {
        self.binary(Self::product, &[("~", Operator::Concatenate)])
    }

    fn product(&mut self) -> Result<Expr> {
        let operators = [
            ("*", Operator::Multiply),
            ("//", Operator::FloorDivide),
            ("/", Operator::Divide),
            ("%", Operator::Modulo),
        ];
        self.binary(Self::power, &operators)
    }

    fn power(&mut self) -> Result<Expr> {
        self.binary(|parser| parser.unary(true), &[("**", Operator::Power)])
    }

    /// A sign and what it applies to; filters bind looser than signs, so only the outermost level takes them.
    fn unary(&mut self, filters: bool) -> Result<Expr> {
        let negative = self.sign("-");
        let value = if negative || self.sign("+") {
            let value = self.nested(|parser| parser.unary(false))?;
            if negative { Expr::Negate(Box::new(value)) } else { value }
        } else {
            let value = self.primary()?;
            self.postfix(value)?
        };
        if filters { self.filters(value) } else { Ok(value) }
    }

    fn primary(&mut self) -> Result<Expr> {
        let found = self.unexpected("expected a value");
        match self.next() {
            Some(Token::Text(mut text)) => {
                // Adjacent strings are one.
                while let Some(Token::Text(more)) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                Ok(Expr::Constant(Constant::Text(text)))
            }
            Some(Token::Int(value)) => Ok(Expr::Constant(Constant::Int(value))),
            Some(Token::Float(value)) => Ok(Expr::Constant(Constant::Float(value))),
            Some(Token::Name(name)) => Ok(match name.as_str() {
                "true" | "True" => Expr::Constant(Constant::Bool(true)),
                "false" | "False" => Expr::Constant(Constant::Bool(false)),
                "none" | "None" => Expr::Constant(Constant::None),
                "and" | "or" | "not" | "if" | "else" | "in" | "is" => return Err(found),
                _ => Expr::Name(name),
            }),
            Some(Token::Sign("(")) => {
                if self.sign(")") {
                    return Ok(Expr::List(Vec::new(), true));
                }
                let first = self.expression()?;
                if self.sign(")") {
                    return Ok(first);
                }
                let mut items = vec![first];
                while self.sign(",") {
                    if matches!(self.peek(), Some(Token::Sign(")"))) {
                        break;
                    }
                    items.push(self.expression()?);
                }
                self.expect_sign(")")?;
                Ok(Expr::List(items, true))
            }
            Some(Token::Sign("[")) => {
                let mut items = Vec::new();
                while !self.sign("]") {
                    items.push(self.expression()?);
                    if !self.sign(",") {
                        self.expect_sign("]")?;
                        break;
                    }
                }
                Ok(Expr::List(items, false))
            }
            Some(Token::Sign("{")) => {
                let mut entries = Vec::new();
                while !self.sign("}") {
                    let key = self.expression()?;
                    self.expect_sign(":")?;
                    entries.push((key, self.expression()?));
                    if !self.sign(",") {
                        self.expect_sign("}")?;
                        break;
                    }
                }
                Ok(Expr::Map(entries))
            }
            _ => {
                self.at -= 1;
                Err(found)
            }
        }
    }

    /// Attributes, items and calls.
    fn postfix(&mut self, first: Expr) -> Result<Expr> {
        self.chain(first, |parser, value| {
            let value = Box::new(value);
            Ok((
                if parser.sign(".") {
                    match parser.peek() {
                        Some(Token::Int(index)) => {
                            let index = Expr::Constant(Constant::Int(*index));
                            parser.at += 1;
                            Expr::Item(value, Box::new(index))
                        }
                        _ => Expr::Attribute(value, parser.name()?),
                    }
                } else if parser.sign("[") {
                    parser.subscript(value)?
                } else if parser.sign("(") {
                    Expr::Call(value, parser.arguments()?)
                } else {
                    return Ok((*value, false));
                },
                true,
            ))
        })
    }

    /// Filters and tests.
    fn filters(&mut self, first: Expr) -> Result<Expr> {
        self.chain(first, |parser, value| {
            if parser.sign("|") {
                let name = parser.name()?;
                let filter =
                    Filter::named(&name).ok_or_else(|| Fault::new(format!("the filter {name:?} is not supported")))?;
                let arguments = if parser.sign("(") { parser.arguments()? } else { Arguments::default() };
                return Ok((Expr::Filter(Box::new(value), filter, arguments), true));
            }
            if parser.word("is") {
                let negated = parser.word("not");
                let name = parser.name()?;
                let test =
                    Test::named(&name).ok_or_else(|| Fault::new(format!("the test {name:?} is not supported")))?;
                let mut arguments = Vec::new();
                if parser.sign("(") {
                    arguments = parser.arguments()?.positional;
                } else if test.takes_argument() {
                    let value = parser.primary()?;
                    arguments.push(parser.postfix(value)?);
                }
                return Ok((Expr::Test(Box::new(value), test, arguments, negated), true));
            }
            // A call or an attribute of a filtered value needs parentheses in Jinja too.
            Ok((value, false))
        })
    }

    /// What is between `[` and `]`.
    fn subscript(&mut self, value: Box<Expr>) -> Result<Expr> {
        let mut parts: [Option<Box<Expr>>; 3] = [None, None, None];
        let mut colons = 0;
        loop {
            if self.sign("]") {
                break;
            }
            if self.sign(":") {
                colons += 1;
                if colons > 2 {
                    return Err(self.unexpected("expected \"]\""));
                }
                continue;
            }
            if parts[colons].is_some() {
                return Err(self.unexpected("expected \"]\""));
            }
            parts[colons] = Some(Box::new(self.expression()?));
        }
        match (colons, parts) {
            (0, [Some(index), _, _]) => Ok(Expr::Item(value, index)),
            (0, _) => Err(Fault::new("an empty subscript")),
            (_, parts) => Ok(Expr::Slice(value, parts)),
        }
    }

    /// Arguments after the opening parenthesis.
    fn arguments(&mut self) -> Result<Arguments> {
        let mut arguments = Arguments::default();
        while !self.sign(")") {
            let named = matches!(
                (self.peek(), self.tokens.get(self.at + 1)),
                (Some(Token::Name(_)), Some((Token::Sign("="), _)))
            );
            if named {
                let name = self.name()?;
                self.expect_sign("=")?;
                arguments.named.push((name, self.expression()?));
            } else {
                if !arguments.named.is_empty() {
                    return Err(Fault::new("a positional argument behind a named one"));
                }
                arguments.positional.push(self.expression()?);
            }
            if !self.sign(",") {
                self.expect_sign(")")?;
                break;
            }
        }
        Ok(arguments)
    }
}
