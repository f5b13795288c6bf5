//! Tokens to expressions. Jinja2's grammar, with its precedences.

use num_traits::ToPrimitive;

use super::super::text::Text;
use super::super::{Fault, Result};
use super::ast::*;
use super::lexer::Token;
use super::parser::Parser;

/// Deepest nesting of an expression. Jinja2 writes each level as Python in parentheses, of which Python allows as many.
const MAX_DEPTH: usize = 200;
/// Most parentheses, brackets and braces inside each other. Jinja2's parser runs out of stack at some seventy.
const MAX_BRACKETS: usize = 100;

/// An expression with how deep it is nested.
type Deep = (Expr, usize);

/// What holds something that is `deepest` deep.
fn over<T>(expr: T, deepest: usize) -> Result<(T, usize)> {
    if deepest >= MAX_DEPTH {
        return Err(Fault::new(format!("an expression is nested more than {MAX_DEPTH} deep")));
    }
    Ok((expr, deepest + 1))
}

impl Constant {
    fn text(text: String) -> Expr {
        Expr::Const(Self::Text(Text::constant(text)))
    }

    fn int(value: num_bigint::BigInt) -> Expr {
        Expr::Const(value.to_i64().map_or(Self::Big(value), Self::Int))
    }
}

impl Parser {
    pub fn expression(&mut self) -> Result<Expr> {
        Ok(self.conditional()?.0)
    }

    /// One expression, or several with commas between them.
    pub fn tuple(&mut self, conditional: bool, ends: &[&str]) -> Result<Expr> {
        Ok(self.deep_tuple(conditional, ends, false)?.0)
    }

    /// What stands in parentheses.
    pub fn parenthesized(&mut self) -> Result<Expr> {
        Ok(self.primary()?.0)
    }

    /// The filters of a `filter` or `set` block; the first one has no `|` if `inline`.
    pub fn captured_filter(&mut self, inline: bool) -> Result<Expr> {
        Ok(self.pipes((Expr::Captured, 1), inline)?.0)
    }

    pub fn at_tuple_end(&mut self, ends: &[&str]) -> bool {
        match self.peek() {
            Some(Token::PrintEnd | Token::BlockEnd | Token::Sign(")")) => true,
            Some(Token::Name(name)) => ends.contains(&name.as_str()),
            _ => false,
        }
    }

    fn bracketed<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.brackets += 1;
        if self.brackets > MAX_BRACKETS {
            return Err(Fault::new(format!("brackets are nested more than {MAX_BRACKETS} deep")));
        }
        let value = read(self)?;
        self.brackets -= 1;
        Ok(value)
    }

    fn deep_tuple(&mut self, conditional: bool, ends: &[&str], parentheses: bool) -> Result<Deep> {
        let (mut items, mut deepest, mut is_tuple) = (Vec::new(), 0, false);
        loop {
            if !items.is_empty() {
                self.expect_sign(",")?;
            }
            if self.at_tuple_end(ends) {
                break;
            }
            let (item, depth) = if conditional { self.conditional()? } else { self.or()? };
            deepest = deepest.max(depth);
            items.push(item);
            if !self.at_sign(",") {
                break;
            }
            is_tuple = true;
        }
        if !is_tuple && let Some(item) = items.pop() {
            return Ok((item, deepest));
        }
        if !is_tuple && !parentheses {
            return Err(self.unexpected("expected an expression"));
        }
        over(Expr::Tuple(items), deepest)
    }

    fn conditional(&mut self) -> Result<Deep> {
        self.conditional_behind(0)
    }

    /// A conditional expression behind so many `else`.
    fn conditional_behind(&mut self, others: usize) -> Result<Deep> {
        let (mut value, mut depth) = self.or()?;
        while self.word("if") {
            let (condition, deeper) = self.or()?;
            depth = depth.max(deeper);
            let mut otherwise = None;
            if self.word("else") {
                over((), others)?;
                let (other, deeper) = self.conditional_behind(others + 1)?;
                depth = depth.max(deeper);
                otherwise = Some(other);
            }
            (value, depth) = over(Expr::Conditional(Box::new((value, condition, otherwise))), depth)?;
        }
        Ok((value, depth))
    }

    fn or(&mut self) -> Result<Deep> {
        let (mut left, mut depth) = self.and()?;
        while self.word("or") {
            let (right, deeper) = self.and()?;
            (left, depth) = over(Expr::Or(Box::new((left, right))), depth.max(deeper))?;
        }
        Ok((left, depth))
    }

    fn and(&mut self) -> Result<Deep> {
        let (mut left, mut depth) = self.not()?;
        while self.word("and") {
            let (right, deeper) = self.not()?;
            (left, depth) = over(Expr::And(Box::new((left, right))), depth.max(deeper))?;
        }
        Ok((left, depth))
    }

    fn not(&mut self) -> Result<Deep> {
        let mut count = 0;
        while self.word("not") {
            count += 1;
        }
        let (mut value, mut depth) = self.compare()?;
        for _ in 0..count {
            (value, depth) = over(Expr::Not(Box::new(value)), depth)?;
        }
        Ok((value, depth))
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let found = match self.peek()? {
            Token::Sign("==") => Comparison::Equal,
            Token::Sign("!=") => Comparison::NotEqual,
            Token::Sign("<") => Comparison::Less,
            Token::Sign("<=") => Comparison::LessEqual,
            Token::Sign(">") => Comparison::Greater,
            Token::Sign(">=") => Comparison::GreaterEqual,
            Token::Name(name) if name == "in" => Comparison::In,
            Token::Name(name) if name == "not" => {
                if !matches!(self.peek_second(), Some(Token::Name(name)) if name == "in") {
                    return None;
                }
                self.next();
                Comparison::NotIn
            }
            _ => return None,
        };
        self.next();
        Some(found)
    }

    fn compare(&mut self) -> Result<Deep> {
        let (first, mut depth) = self.sum()?;
        let mut rest = Vec::new();
        while let Some(comparison) = self.comparison() {
            let (value, deeper) = self.sum()?;
            depth = depth.max(deeper);
            rest.push((comparison, value));
        }
        if rest.is_empty() { Ok((first, depth)) } else { over(Expr::Compare(Box::new(first), rest), depth) }
    }

    /// One of these operators, taken.
    fn operator(&mut self, operators: &[Operator]) -> Option<Operator> {
        let Some(Token::Sign(found)) = self.peek() else { return None };
        let operator = operators.iter().copied().find(|operator| operator.sign() == *found)?;
        self.next();
        Some(operator)
    }

    fn binary(&mut self, operators: &[Operator], part: impl Fn(&mut Self) -> Result<Deep>) -> Result<Deep> {
        let (mut left, mut depth) = part(self)?;
        while let Some(operator) = self.operator(operators) {
            let (right, deeper) = part(self)?;
            (left, depth) = over(Expr::Binary(operator, Box::new((left, right))), depth.max(deeper))?;
        }
        Ok((left, depth))
    }

    fn sum(&mut self) -> Result<Deep> {
        self.binary(&[Operator::Add, Operator::Subtract], Self::concat)
    }

    fn concat(&mut self) -> Result<Deep> {
        let (first, mut depth) = self.product()?;
        if !self.at_sign("~") {
            return Ok((first, depth));
        }
        let mut parts = vec![first];
        while self.sign("~") {
            let (part, deeper) = self.product()?;
            depth = depth.max(deeper);
            parts.push(part);
        }
        over(Expr::Concat(parts, Escape::No), depth)
    }

    fn product(&mut self) -> Result<Deep> {
        let operators = [Operator::Multiply, Operator::Divide, Operator::FloorDivide, Operator::Modulo];
        self.binary(&operators, |parser| parser.binary(&[Operator::Power], |parser| parser.unary()))
    }

    fn unary(&mut self) -> Result<Deep> {
        let mut signs = Vec::new();
        while let Some(sign) = self.operator(&[Operator::Add, Operator::Subtract]) {
            signs.push(sign);
        }
        let value = self.primary()?;
        let (mut value, mut depth) = self.postfix(value)?;
        for sign in signs.into_iter().rev() {
            let value_of = if sign == Operator::Subtract { Expr::Negative } else { Expr::Positive };
            (value, depth) = over(value_of(Box::new(value)), depth)?;
        }
        self.filters_and_tests((value, depth))
    }

    fn primary(&mut self) -> Result<Deep> {
        match self.peek() {
            Some(Token::Name(_) | Token::Text(_) | Token::Int(_) | Token::Float(_) | Token::Sign("(" | "[" | "{")) => {}
            _ => return Err(self.unexpected("expected a value")),
        }
        let constant = |constant| Ok((Expr::Const(constant), 1));
        match self.next() {
            Some(Token::Text(mut text)) => {
                // Adjacent strings are one.
                while let Some(Token::Text(more)) = self.peek() {
                    text.push_str(more);
                    self.next();
                }
                Ok((Constant::text(text), 1))
            }
            Some(Token::Int(value)) => Ok((Constant::int(value), 1)),
            Some(Token::Float(value)) => constant(Constant::Float(value)),
            Some(Token::Name(name)) => match name.as_str() {
                "true" | "True" => constant(Constant::Bool(true)),
                "false" | "False" => constant(Constant::Bool(false)),
                "none" | "None" => constant(Constant::None),
                _ => Ok((Expr::Variable(Variable::new(name)), 1)),
            },
            Some(Token::Sign("(")) => self.bracketed(|parser| {
                let value = parser.deep_tuple(true, &[], true)?;
                parser.expect_sign(")")?;
                Ok(value)
            }),
            Some(Token::Sign("[")) => self.bracketed(Self::list),
            _ => self.bracketed(Self::dict),
        }
    }

    fn list(&mut self) -> Result<Deep> {
        let (mut items, mut deepest) = (Vec::new(), 0);
        while !self.at_sign("]") {
            let (item, depth) = self.conditional()?;
            items.push(item);
            deepest = deepest.max(depth);
            if !self.sign(",") {
                break;
            }
        }
        self.expect_sign("]")?;
        over(Expr::List(items), deepest)
    }

    fn dict(&mut self) -> Result<Deep> {
        let (mut entries, mut deepest) = (Vec::new(), 0);
        while !self.at_sign("}") {
            let (key, depth) = self.conditional()?;
            self.expect_sign(":")?;
            let (value, deeper) = self.conditional()?;
            deepest = deepest.max(depth).max(deeper);
            entries.push((key, value));
            if !self.sign(",") {
                break;
            }
        }
        self.expect_sign("}")?;
        over(Expr::Dict(entries), deepest)
    }

    /// Attributes, items and calls.
    fn postfix(&mut self, (mut value, mut depth): Deep) -> Result<Deep> {
        loop {
            if self.sign(".") {
                let attribute = match self.next() {
                    Some(Token::Name(name)) => Expr::Attribute(Box::new(value), name),
                    Some(Token::Int(index)) => Expr::Item(Box::new(value), Box::new(Constant::int(index))),
                    _ => return Err(Fault::new("expected a name or a number behind the dot")),
                };
                (value, depth) = over(attribute, depth)?;
            } else if self.sign("[") {
                (value, depth) = self.bracketed(|parser| parser.subscript(value, depth))?;
            } else if self.at_sign("(") {
                (value, depth) = self.call((value, depth))?;
            } else {
                return Ok((value, depth));
            }
        }
    }

    fn call(&mut self, (callee, depth): Deep) -> Result<Deep> {
        let (arguments, deeper) = self.arguments()?;
        over(Expr::Call(Box::new(Call { callee, arguments })), depth.max(deeper))
    }

    /// Filters, tests and calls of what they give.
    fn filters_and_tests(&mut self, mut value: Deep) -> Result<Deep> {
        loop {
            if self.at_sign("|") {
                value = self.pipes(value, false)?;
            } else if self.word("is") {
                value = self.test(value)?;
            } else if self.at_sign("(") {
                value = self.call(value)?;
            } else {
                return Ok(value);
            }
        }
    }

    /// A name that may have dots.
    fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.name()?;
        while self.sign(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Ok(name)
    }

    fn pipes(&mut self, (mut value, mut depth): Deep, mut inline: bool) -> Result<Deep> {
        while inline || self.sign("|") {
            inline = false;
            let name = self.dotted_name()?;
            let (arguments, deeper) = if self.at_sign("(") { self.arguments()? } else { (Arguments::default(), 0) };
            let filter = Filter { name, value, arguments };
            (value, depth) = over(Expr::Filter(Box::new(filter)), depth.max(deeper))?;
        }
        Ok((value, depth))
    }

    fn test(&mut self, (value, depth): Deep) -> Result<Deep> {
        let negated = self.word("not");
        let name = self.dotted_name()?;
        let takes_value = match self.peek() {
            Some(Token::Name(name)) => !matches!(name.as_str(), "else" | "or" | "and"),
            Some(Token::Text(_) | Token::Int(_) | Token::Float(_) | Token::Sign("[" | "{")) => true,
            _ => false,
        };
        let (arguments, deeper) = if self.at_sign("(") {
            self.arguments()?
        } else if takes_value {
            if self.at_word("is") {
                return Err(Fault::new("tests cannot be chained with \"is\""));
            }
            let argument = self.primary()?;
            let (argument, depth) = self.postfix(argument)?;
            (Arguments { positional: vec![argument], ..Arguments::default() }, depth)
        } else {
            (Arguments::default(), 0)
        };
        let test = Expr::Test(Box::new(Filter { name, value, arguments }));
        let (test, depth) = over(test, depth.max(deeper))?;
        if negated { over(Expr::Not(Box::new(test)), depth) } else { Ok((test, depth)) }
    }

    /// What is between `[` and `]`.
    fn subscript(&mut self, value: Expr, mut deepest: usize) -> Result<Deep> {
        let mut keys = Vec::new();
        while !self.at_sign("]") {
            if !keys.is_empty() {
                self.expect_sign(",")?;
            }
            let mut parts: [Option<Expr>; 3] = [None, None, None];
            let mut colons = 0;
            loop {
                if self.at_sign("]") || self.at_sign(",") {
                    break;
                }
                if colons < 2 && self.sign(":") {
                    colons += 1;
                } else if parts[colons].is_none() {
                    let (part, depth) = self.conditional()?;
                    deepest = deepest.max(depth);
                    parts[colons] = Some(part);
                } else {
                    return Err(self.unexpected("expected \"]\""));
                }
            }
            match (colons, parts) {
                (0, [Some(key), _, _]) => keys.push(Ok(key)),
                (0, _) => return Err(self.unexpected("expected an expression")),
                (_, parts) => keys.push(Err(parts)),
            }
        }
        self.expect_sign("]")?;
        if keys.len() == 1
            && let Some(key) = keys.pop()
        {
            return match key {
                Ok(key) => over(Expr::Item(Box::new(value), Box::new(key)), deepest),
                Err(parts) => over(Expr::Slice(Box::new(value), Box::new(parts)), deepest),
            };
        }
        let keys: std::result::Result<Vec<Expr>, _> = keys.into_iter().collect();
        let keys = keys.map_err(|_| Fault::new("a slice among other keys"))?;
        let (key, depth) = over(Expr::Tuple(keys), deepest)?;
        over(Expr::Item(Box::new(value), Box::new(key)), depth)
    }

    /// Arguments of a call, and how deep they are nested.
    fn arguments(&mut self) -> Result<(Arguments, usize)> {
        self.bracketed(|parser| {
            let (mut arguments, mut deepest) = (Arguments::default(), 0);
            let mut first = true;
            parser.expect_sign("(")?;
            while !parser.at_sign(")") {
                if !first {
                    parser.expect_sign(",")?;
                    if parser.at_sign(")") {
                        break;
                    }
                }
                first = false;
                let last = |ok: bool| if ok { Ok(()) } else { Err(Fault::new("arguments in the wrong order")) };
                if parser.sign("*") {
                    last(arguments.more.is_none() && arguments.more_named.is_none())?;
                    let (value, depth) = parser.conditional()?;
                    deepest = deepest.max(depth);
                    arguments.more = Some(value);
                } else if parser.sign("**") {
                    last(arguments.more_named.is_none())?;
                    let (value, depth) = parser.conditional()?;
                    deepest = deepest.max(depth);
                    arguments.more_named = Some(value);
                } else if matches!(parser.peek(), Some(Token::Name(_)))
                    && matches!(parser.peek_second(), Some(Token::Sign("=")))
                {
                    last(arguments.more_named.is_none())?;
                    let name = Text::constant(parser.name()?);
                    parser.next();
                    let (value, depth) = parser.conditional()?;
                    deepest = deepest.max(depth);
                    arguments.named.push((name, value));
                } else {
                    last(arguments.more.is_none() && arguments.more_named.is_none() && arguments.named.is_empty())?;
                    let (value, depth) = parser.conditional()?;
                    deepest = deepest.max(depth);
                    arguments.positional.push(value);
                }
            }
            parser.expect_sign(")")?;
            all_different(arguments.named.iter().map(|(name, _)| name.as_str()))?;
            Ok((arguments, deepest))
        })
    }
}

/// Refuses a name that is given twice.
pub(super) fn all_different<'n>(names: impl Iterator<Item = &'n str>) -> Result<()> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Fault::new(format!("the name {:?} is given twice", pair[0]))),
        None => Ok(()),
    }
}
