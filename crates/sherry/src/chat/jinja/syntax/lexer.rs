//! Template text to tokens, with Jinja's rules for white space around tags. One pass: time is linear in the length.

use num_bigint::BigInt;

use super::super::chars::{decimal, is_identifier, is_name_part, is_space};
use super::super::{Dialect, Fault, Result};

/// Part of a template.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Token {
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
    Int(BigInt),
    Float(f64),
    /// Operators and brackets.
    Sign(&'static str),
}

/// Longest first.
const SIGNS: [&str; 26] = [
    "//", "**", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ".",
    ",", ":", "|", ";",
];

/// Longest integer, in digits. Python's own limit for numbers written out.
const MAX_DIGITS: usize = 4300;

struct Lexer<'s> {
    dialect: Dialect,
    source: &'s str,
    at: usize,
    line: u32,
    tokens: Vec<(Token, u32)>,
}

/// Tokens with their line.
pub(super) fn lex(source: &str, dialect: Dialect) -> Result<Vec<(Token, u32)>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    // One line end at the very end does not count.
    let source = source.strip_suffix('\n').filter(|_| dialect == Dialect::Chat).unwrap_or(&source);
    let mut lexer = Lexer { dialect, source, at: 0, line: 1, tokens: Vec::new() };
    lexer.template().map_err(|fault| fault.in_line(lexer.line))?;
    Ok(lexer.tokens)
}

/// Bytes of white space at the start.
fn blanks(text: &str) -> usize {
    text.len() - text.trim_start_matches(is_space).len()
}

/// lstrip_blocks: without the blanks between the start of the last line and a tag behind it, if there is nothing else.
fn without_indentation(data: &str, begins_line: bool) -> &str {
    let line = data.rfind('\n').map_or(0, |end| end + 1);
    let only_blanks = data[line..].chars().all(is_space);
    if (line > 0 || begins_line) && only_blanks { &data[..line] } else { data }
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
        let mut begins_line = true;
        loop {
            let rest = self.rest();
            let is_tag = |at: &usize| matches!(rest.as_bytes().get(at + 1), Some(b'%' | b'{' | b'#'));
            let Some(length) = rest.match_indices('{').map(|(at, _)| at).find(is_tag) else {
                if !rest.is_empty() {
                    self.push(Token::Data(rest.into()));
                }
                return Ok(());
            };
            let kind = rest.as_bytes()[length + 1];
            let mark = rest.as_bytes().get(length + 2).copied().filter(|mark| matches!(mark, b'-' | b'+'));
            let data = match mark {
                Some(b'-') => rest[..length].trim_end_matches(is_space),
                None if kind != b'{' && self.dialect == Dialect::Chat => {
                    without_indentation(&rest[..length], begins_line)
                }
                _ => &rest[..length],
            };
            if !data.is_empty() {
                self.push(Token::Data(data.into()));
            }
            self.advance(length + 2 + usize::from(mark.is_some()));
            match kind {
                b'#' => self.comment()?,
                b'{' => {
                    self.push(Token::PrintStart);
                    self.inside("}}")?;
                    self.push(Token::PrintEnd);
                }
                _ => {
                    if !self.raw()? {
                        self.push(Token::BlockStart);
                        self.inside("%}")?;
                        self.push(Token::BlockEnd);
                    }
                }
            }
            begins_line = self.source[..self.at].ends_with('\n');
        }
    }

    /// Behind a tag's `-`, `+` or nothing: the white space that a block or comment takes along (trim_blocks).
    fn after_tag(&mut self, mark: Option<u8>) {
        match mark {
            Some(b'-') => self.advance(blanks(self.rest())),
            None if self.dialect == Dialect::Chat && self.rest().starts_with('\n') => self.advance(1),
            _ => {}
        }
    }

    fn comment(&mut self) -> Result<()> {
        let end = self.rest().find("#}").ok_or_else(|| Fault::new("a comment does not end"))?;
        let mark = self.rest()[..end].bytes().next_back().filter(|mark| matches!(mark, b'-' | b'+'));
        self.advance(end + 2);
        self.after_tag(mark);
        Ok(())
    }

    /// `raw %} ... {% endraw %}`, if that is what comes.
    fn raw(&mut self) -> Result<bool> {
        let Some(rest) = self.rest().trim_start_matches(is_space).strip_prefix("raw") else { return Ok(false) };
        let rest = rest.trim_start_matches(is_space);
        let body = match (rest.strip_prefix("-%}"), rest.strip_prefix("%}")) {
            (Some(body), _) => body.trim_start_matches(is_space),
            (None, Some(body)) => body,
            (None, None) => return Ok(false),
        };
        self.advance(self.rest().len() - body.len());
        for (at, _) in body.match_indices("{%") {
            let tag = &body[at + 2..];
            let inner = tag.strip_prefix(['-', '+']).unwrap_or(tag).trim_start_matches(is_space);
            let Some(close) = inner.strip_prefix("endraw").map(|close| close.trim_start_matches(is_space)) else {
                continue;
            };
            let mark = close.bytes().next().filter(|mark| matches!(mark, b'-' | b'+'));
            let Some(behind) = close[usize::from(mark.is_some())..].strip_prefix("%}") else { continue };
            let data = match tag.as_bytes().first() {
                Some(b'-') => body[..at].trim_end_matches(is_space),
                Some(b'+') => &body[..at],
                // The opening tag does not end with a line end: the body's first line is not a whole line.
                _ if self.dialect == Dialect::Chat => {
                    without_indentation(&body[..at], self.source[..self.at].ends_with('\n'))
                }
                _ => &body[..at],
            };
            self.push(Token::Data(data.into()));
            self.advance(body.len() - behind.len());
            self.after_tag(mark);
            return Ok(true);
        }
        Err(Fault::new("raw without endraw"))
    }

    /// The inside of a tag up to `end` and what it takes along.
    fn inside(&mut self, end: &str) -> Result<()> {
        let mut open = Vec::new();
        loop {
            self.advance(blanks(self.rest()));
            let rest = self.rest();
            let Some(first) = rest.chars().next() else { return Err(Fault::new("a tag does not end")) };
            if open.is_empty() {
                let marks: &[char] = if end == "%}" { &['-', '+'] } else { &['-'] };
                let mark = rest.strip_prefix(marks).filter(|rest| rest.starts_with(end)).map(|_| first as u8);
                if mark.is_some() || rest.starts_with(end) {
                    self.advance(end.len() + usize::from(mark.is_some()));
                    if end == "%}" || mark.is_some() {
                        self.after_tag(mark);
                    }
                    return Ok(());
                }
            }
            if first.is_ascii_digit() {
                self.number()?;
            } else if is_name_part(first) {
                self.name()?;
            } else if first == '"' || first == '\'' {
                self.text(first)?;
            } else {
                let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
                let sign = sign.ok_or_else(|| Fault::new(format!("unexpected character {first:?}")))?;
                match sign {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" if open.pop() != Some(sign) => {
                        return Err(Fault::new(format!("unexpected {sign:?}")));
                    }
                    _ => {}
                }
                self.advance(sign.len());
                self.push(Token::Sign(sign));
            }
        }
    }

    fn name(&mut self) -> Result<()> {
        let rest = self.rest();
        let name = &rest[..rest.find(|c| !is_name_part(c)).unwrap_or(rest.len())];
        if !is_identifier(name) {
            return Err(Fault::new(format!("invalid character in the name {name:?}")));
        }
        self.advance(name.len());
        self.push(Token::Name(name.into()));
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        // A number behind a dot is an index, not the fraction of a float.
        if !self.source[..self.at].ends_with('.')
            && let Some(length) = float_length(rest)
        {
            let value = rest[..length].replace('_', "").parse();
            self.push(Token::Float(value.map_err(|_| Fault::new("not a number"))?));
            self.advance(length);
            return Ok(());
        }
        let prefix = rest.get(..2).unwrap_or_default().to_ascii_lowercase();
        let radix = match prefix.as_str() {
            "0b" => 2,
            "0o" => 8,
            "0x" => 16,
            _ => 10,
        };
        let mut length = 0;
        if radix != 10 {
            let run = digits(&rest[2..], true, |c| c.is_digit(radix));
            length = if run == 0 { 0 } else { run + 2 };
        }
        let radix = if length == 0 { 10 } else { radix };
        if length == 0 {
            let zero = rest.starts_with('0');
            length = digits(rest, false, |c| if zero { c == '0' } else { decimal(c).is_some() });
        }
        if length > MAX_DIGITS {
            return Err(Fault::new(format!("a number of {length} digits, more than {MAX_DIGITS}")));
        }
        let start = if radix == 10 { 0 } else { 2 };
        let text: String = rest[start..length]
            .chars()
            .filter(|c| *c != '_')
            .map(|c| decimal(c).and_then(|digit| char::from_digit(digit, 10)).unwrap_or(c))
            .collect();
        let value = BigInt::parse_bytes(text.as_bytes(), radix).ok_or_else(|| Fault::new("not a number"))?;
        self.push(Token::Int(value));
        self.advance(length);
        Ok(())
    }

    /// A quoted text with Python's escapes.
    fn text(&mut self, quote: char) -> Result<()> {
        let line = self.line;
        let rest = &self.rest()[1..];
        let mut text = String::new();
        let mut chars = rest.char_indices().peekable();
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
            let code = |digits: usize, radix: u32| {
                let digits = rest.get(at + 1..at + 1 + digits)?;
                digits.chars().all(|c| c.is_digit(radix)).then(|| u32::from_str_radix(digits, radix).ok())?
            };
            let bad = || Fault::new(format!("a bad escape in a string: \\{escape}"));
            match escape {
                'x' | 'u' | 'U' => {
                    let digits = match escape {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    text.push(code(digits, 16).and_then(char::from_u32).ok_or_else(bad)?);
                    chars.nth(digits - 1);
                }
                '0'..='7' => {
                    let mut value = escape as u32 - '0' as u32;
                    for _ in 0..2 {
                        let Some((_, digit)) = chars.next_if(|(_, c)| ('0'..='7').contains(c)) else { break };
                        value = value * 8 + (digit as u32 - '0' as u32);
                    }
                    text.push(char::from_u32(value).ok_or_else(bad)?);
                }
                'N' => return Err(Fault::new("characters by their name (\\N) are not supported")),
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'a' => text.push('\x07'),
                'b' => text.push('\x08'),
                'f' => text.push('\x0c'),
                'v' => text.push('\x0b'),
                '\\' | '\'' | '"' => text.push(escape),
                '\n' => {}
                // Jinja2 escapes what is not ASCII before it unescapes everything: the backslash meets another one.
                c if (c as u32) < 0x80 => text.extend(['\\', c]),
                c if (c as u32) < 0x100 => text.push_str(&format!("\\x{:02x}", c as u32)),
                c if (c as u32) < 0x10000 => text.push_str(&format!("\\u{:04x}", c as u32)),
                c => text.push_str(&format!("\\U{:08x}", c as u32)),
            }
        }
        Err(Fault::new("a string does not end"))
    }
}

/// Length of a run of digits with single underscores between them; also before the first if `leading`.
fn digits(text: &str, leading: bool, is_digit: impl Fn(char) -> bool) -> usize {
    let mut length = 0;
    let mut after_digit = leading;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if is_digit(c) {
            after_digit = true;
            length = at + c.len_utf8();
        } else if c == '_' && after_digit && chars.peek().is_some_and(|(_, c)| is_digit(*c)) {
            after_digit = false;
        } else {
            break;
        }
    }
    length
}

/// Length of the float that `text` begins with: it has a fraction, an exponent or both.
fn float_length(text: &str) -> Option<usize> {
    let run = |text: &str| digits(text, false, |c| c.is_ascii_digit());
    let whole = run(text);
    let fraction = text[whole..].strip_prefix('.').map(run).filter(|length| *length > 0);
    let length = whole + fraction.map_or(0, |length| length + 1);
    let exponent = text[length..].strip_prefix(['e', 'E']).and_then(|rest| {
        let sign = usize::from(rest.starts_with(['+', '-']));
        Some(run(&rest[sign..])).filter(|length| *length > 0).map(|length| 1 + sign + length)
    });
    (fraction.is_some() || exponent.is_some()).then_some(length + exponent.unwrap_or(0))
}
