//! Template text to tokens, with Jinja's rules for white space around tags.

use super::{Fault, Result};

/// Part of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text outside of tags.
    Data(String),
    /// `{%`
    BlockStart,
    /// `%}`
    BlockEnd,
    /// `{{`
    PrintStart,
    /// `}}`
    PrintEnd,
    Name(String),
    Text(String),
    Int(i64),
    Float(f64),
    /// Operators and brackets.
    Sign(&'static str),
}

/// Longest first.
const SIGNS: [&str; 27] = [
    "//", "**", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ".",
    ",", ":", "|", ";", "!",
];

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: u32,
    tokens: Vec<(Token, u32)>,
}

/// Tokens with their line.
pub(super) fn lex(source: &str) -> Result<Vec<(Token, u32)>> {
    let source = source.replace("\r\n", "\n");
    // One line end at the very end does not count.
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, tokens: Vec::new() };
    lexer.template().map_err(|fault| Fault { line: lexer.line, ..fault })?;
    Ok(lexer.tokens)
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.matches('\n').count() as u32;
        self.at += bytes;
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    /// Text and tags in turn.
    fn template(&mut self) -> Result<()> {
        let mut at_line_start = true;
        loop {
            let rest = self.rest();
            let tag = ["{%", "{{", "{#"].into_iter().filter_map(|tag| rest.find(tag).map(|at| (at, tag))).min();
            let Some((length, tag)) = tag else {
                if !rest.is_empty() {
                    self.push(Token::Data(rest.into()));
                }
                return Ok(());
            };
            let mut data = &rest[..length];
            match rest[length + 2..].chars().next() {
                Some('-') => data = data.trim_end(),
                Some('+') => {}
                // lstrip_blocks: blanks between the start of the line and a block or comment go.
                _ if tag != "{{" => {
                    let line = data.rfind('\n').map_or(0, |end| end + 1);
                    if (line > 0 || at_line_start) && data[line..].chars().all(char::is_whitespace) {
                        data = &data[..line];
                    }
                }
                _ => {}
            }
            if !data.is_empty() {
                self.push(Token::Data(data.into()));
            }
            self.advance(length + 2);
            if self.rest().starts_with(['-', '+']) && tag != "{{" || self.rest().starts_with('-') {
                self.advance(1);
            }
            let before = self.at;
            match tag {
                "{#" => self.comment()?,
                "{{" => {
                    self.push(Token::PrintStart);
                    self.expression("}}")?;
                    self.push(Token::PrintEnd);
                }
                _ => {
                    if self.raw()? {
                        at_line_start = self.source[..self.at].ends_with('\n');
                        continue;
                    }
                    self.push(Token::BlockStart);
                    self.expression("%}")?;
                    self.push(Token::BlockEnd);
                }
            }
            at_line_start = self.source[before..self.at].ends_with('\n');
        }
    }

    /// Behind a tag's `-`, `+` or nothing: the white space that the tag takes along.
    fn after_tag(&mut self, mark: Option<char>, trims_line_end: bool) {
        match mark {
            Some('-') => self.advance(self.rest().len() - self.rest().trim_start().len()),
            Some('+') => {}
            _ if trims_line_end && self.rest().starts_with('\n') => self.advance(1),
            _ => {}
        }
    }

    fn comment(&mut self) -> Result<()> {
        let end = self.rest().find("#}").ok_or_else(|| Fault::new("a comment does not end"))?;
        let mark = self.rest()[..end].chars().next_back();
        self.advance(end + 2);
        self.after_tag(mark, true);
        Ok(())
    }

    /// `raw %} ... {% endraw %}`, if that is what comes.
    fn raw(&mut self) -> Result<bool> {
        let Some(rest) = self.rest().trim_start().strip_prefix("raw") else { return Ok(false) };
        let rest = rest.trim_start();
        let (mark, body) = match rest.strip_prefix("-%}") {
            Some(body) => (Some('-'), body),
            None => match rest.strip_prefix("%}") {
                Some(body) => (None, body),
                None => return Ok(false),
            },
        };
        self.advance(self.rest().len() - body.len());
        self.after_tag(mark, true);
        let body = self.rest();
        for (at, _) in body.match_indices("{%") {
            let tag = &body[at + 2..];
            let inner = tag.trim_start_matches(['-', '+']).trim_start();
            let Some(close) = inner.strip_prefix("endraw").map(str::trim_start) else { continue };
            let Some(end) = close.strip_prefix("-%}").or_else(|| close.strip_prefix("%}")) else { continue };
            let mut data = &body[..at];
            if tag.starts_with('-') {
                data = data.trim_end();
            } else if !tag.starts_with('+') {
                let line = data.rfind('\n').map_or(0, |end| end + 1);
                if line > 0 && data[line..].chars().all(char::is_whitespace) {
                    data = &data[..line];
                }
            }
            self.push(Token::Data(data.into()));
            let mark = close.starts_with('-').then_some('-');
            self.advance(body.len() - end.len());
            self.after_tag(mark, true);
            return Ok(true);
        }
        Err(Fault::new("raw without endraw"))
    }

    /// The inside of a tag up to `end` and what it takes along.
    fn expression(&mut self, end: &str) -> Result<()> {
        let mut open = 0u32;
        loop {
            let blanks = self.rest().len() - self.rest().trim_start().len();
            self.advance(blanks);
            let rest = self.rest();
            let Some(first) = rest.chars().next() else { return Err(Fault::new("a tag does not end")) };
            if open == 0 {
                let mark = rest.strip_prefix(['-', '+']).filter(|rest| rest.starts_with(end)).map(|_| first);
                if mark.is_some() || rest.starts_with(end) {
                    self.advance(end.len() + usize::from(mark.is_some()));
                    self.after_tag(mark, end == "%}");
                    return Ok(());
                }
            }
            if first == '"' || first == '\'' {
                self.text(first)?;
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first.is_alphabetic() || first == '_' {
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                self.advance(name.len());
                self.push(Token::Name(name));
            } else {
                let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
                let sign = sign.ok_or_else(|| Fault::new(format!("unexpected character {first:?}")))?;
                match sign {
                    "(" | "[" | "{" => open += 1,
                    ")" | "]" | "}" => {
                        open = open.checked_sub(1).ok_or_else(|| Fault::new(format!("unexpected {sign:?}")))?;
                    }
                    _ => {}
                }
                self.advance(sign.len());
                self.push(Token::Sign(sign));
            }
        }
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_').len();
        let whole = digits(rest);
        let fraction = rest[whole..].strip_prefix('.').map(digits).filter(|digits| *digits > 0);
        let mut length = whole + fraction.map_or(0, |digits| digits + 1);
        let exponent = rest[length..].strip_prefix(['e', 'E']).map(|rest| {
            let sign = usize::from(rest.starts_with(['+', '-']));
            (sign, digits(&rest[sign..]))
        });
        if let Some((sign, digits @ 1..)) = exponent {
            length += 1 + sign + digits;
        }
        let text = rest[..length].replace('_', "");
        let bad = || Fault::new(format!("{text} is not a number that fits"));
        let token = if text.bytes().all(|byte| byte.is_ascii_digit()) {
            Token::Int(text.parse().map_err(|_| bad())?)
        } else {
            Token::Float(text.parse().map_err(|_| bad())?)
        };
        self.advance(length);
        self.push(token);
        Ok(())
    }

    /// A quoted text with Python's escapes.
    fn text(&mut self, quote: char) -> Result<()> {
        let line = self.line;
        let rest = &self.rest()[1..];
        let mut text = String::new();
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.advance(at + 2);
                self.tokens.push((Token::Text(text), line));
                return Ok(());
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            let Some((at, escape)) = chars.next() else { break };
            let hex = match escape {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            if hex > 0 {
                let code = rest.get(at + 1..at + 1 + hex).and_then(|digits| u32::from_str_radix(digits, 16).ok());
                text.push(code.and_then(char::from_u32).ok_or_else(|| Fault::new("a bad escape in a string"))?);
                chars.nth(hex - 1);
                continue;
            }
            match escape {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                '0' => text.push('\0'),
                '\\' | '\'' | '"' => text.push(escape),
                '\n' => {}
                other => text.extend(['\\', other]),
            }
        }
        Err(Fault::new("a string does not end"))
    }
}
