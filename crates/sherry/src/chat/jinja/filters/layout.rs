//! Filters that break lines: wordwrap and pprint.

use std::cmp::Ordering;
use std::ops::Range;

use super::super::call::{Args, int, text as text_argument};
use super::super::chars::{decimal, is_space, is_word};
use super::super::dict::Dict;
use super::super::interpreter::Interpreter;
use super::super::meter::Meter;
use super::super::methods::split;
use super::super::operators::order;
use super::super::print::write_string;
use super::super::text::{Builder, Text};
use super::super::value::Value;
use super::super::{Fault, Result};

/// White space as Python's `textwrap` has it.
fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\x0b' | '\x0c' | '\r' | ' ')
}

pub(super) fn wordwrap<'t>(
    interpreter: &mut Interpreter<'t>,
    value: &Value<'t>,
    arguments: Args<'t>,
) -> Result<Value<'t>> {
    let meter = interpreter.meter;
    let [width, break_long, separator, hyphens] =
        arguments.bind("wordwrap", ["width", "break_long_words", "wrapstring", "break_on_hyphens"])?;
    let width = width.map_or(Ok(79), |width| int(&width, "wordwrap"))?;
    let break_long = break_long.is_none_or(|wanted| wanted.is_true());
    let hyphens = hyphens.is_none_or(|wanted| wanted.is_true());
    let separator = separator.filter(|separator| !matches!(separator, Value::None));
    let separator = separator.unwrap_or_else(|| Value::Text(Text::constant("\n")));
    let separator = text_argument(&separator, "wordwrap")?;
    let text = match value {
        Value::Undefined(missing) => return Err(missing.fault()),
        _ => text_argument(value, "wordwrap")?,
    };
    let mut out = Builder::new(meter)?;
    for (number, range) in split::line_ranges(meter, text.as_str(), false)?.into_iter().enumerate() {
        let width = usize::try_from(width).ok().filter(|width| *width > 0);
        let width = width.ok_or_else(|| Fault::new("invalid width (must be > 0)"))?;
        if number > 0 {
            out.push(separator)?;
        }
        let line = text.slice(meter, range)?;
        // Positions in characters, as widths are.
        meter.bytes(line.len().saturating_mul(8))?;
        let chars: Vec<char> = line.as_str().chars().collect();
        let offsets: Vec<usize> = line.as_str().char_indices().map(|(at, _)| at).chain([line.len()]).collect();
        for (number, words) in wrap(meter, &chars, width, break_long, hyphens)?.into_iter().enumerate() {
            if number > 0 {
                out.push(separator)?;
            }
            for word in words {
                out.push_range(&line, offsets[word.start]..offsets[word.end])?;
            }
        }
    }
    Ok(Value::Text(out.finish(separator.is_markup())))
}

/// The words of each line.
fn wrap(
    meter: &Meter,
    chars: &[char],
    width: usize,
    break_long: bool,
    hyphens: bool,
) -> Result<Vec<Vec<Range<usize>>>> {
    let mut chunks = chunks(chars, hyphens);
    meter.slots(chunks.len())?;
    chunks.reverse();
    let blank = |chunk: &Range<usize>| chars[chunk.clone()].iter().all(|c| is_space(*c));
    let mut lines: Vec<Vec<Range<usize>>> = Vec::new();
    while let Some(first) = chunks.last() {
        meter.slots(2)?;
        if !lines.is_empty() && blank(first) {
            chunks.pop();
        }
        let (mut line, mut length) = (Vec::new(), 0);
        while let Some(chunk) = chunks.last()
            && length + chunk.len() <= width
        {
            length += chunk.len();
            line.extend(chunks.pop());
        }
        if let Some(chunk) = chunks.last_mut()
            && chunk.len() > width
        {
            if break_long {
                let mut end = chunk.start + (width - length);
                let within = &chars[chunk.start..end];
                if let Some(hyphen) = within.iter().rposition(|c| *c == '-').filter(|_| hyphens)
                    && within[..hyphen].iter().any(|c| *c != '-')
                {
                    end = chunk.start + hyphen + 1;
                }
                line.push(chunk.start..end);
                chunk.start = end;
            } else if line.is_empty() {
                line.extend(chunks.pop());
            }
        }
        if line.last().is_some_and(blank) {
            line.pop();
        }
        if !line.is_empty() {
            lines.push(line);
        }
    }
    Ok(lines)
}

/// White space, words and parts of words with hyphens.
fn chunks(chars: &[char], hyphens: bool) -> Vec<Range<usize>> {
    let at = |at: usize| chars.get(at).copied();
    let letter = |c: Option<char>| c.is_some_and(|c| is_word(c) && decimal(c).is_none());
    let punctuation = |c: Option<char>| c.is_some_and(|c| is_word(c) || "!\"'&.,?".contains(c));
    // How many hyphens end with the character at each place, and where the run they belong to ends.
    let dashes_to = |from: usize| {
        let run = chars[from..].iter().take_while(|c| **c == '-').count();
        (run >= 2 && at(from + run).is_some_and(is_word)).then_some(from + run)
    };
    let mut found = Vec::new();
    let mut start = 0;
    while start < chars.len() {
        let mut end = start;
        if is_blank(chars[start]) {
            while at(end).is_some_and(is_blank) {
                end += 1;
            }
        } else if !hyphens {
            while at(end).is_some_and(|c| !is_blank(c)) {
                end += 1;
            }
        } else if let Some(behind) = (start > 0 && punctuation(at(start - 1))).then(|| dashes_to(start)).flatten() {
            end = behind;
        } else {
            let mut in_dashes = false;
            loop {
                end += 1;
                let Some(next) = at(end).filter(|c| !is_blank(*c)) else { break };
                if next != '-' {
                    in_dashes = false;
                    continue;
                }
                let two_letters = end >= 2 && letter(at(end - 1)) && letter(at(end - 2));
                let letter_and_hyphen =
                    end >= 3 && punctuation(at(end - 1)) && at(end - 2) == Some('-') && letter(at(end - 3));
                let behind =
                    letter(at(end + 1)) && (letter(at(end + 2)) || (at(end + 2) == Some('-') && letter(at(end + 3))));
                if (two_letters || letter_and_hyphen) && behind {
                    end += 1;
                    break;
                }
                // A run of hyphens is looked at once, where it begins behind a word.
                if !std::mem::replace(&mut in_dashes, true) && punctuation(at(end - 1)) && dashes_to(end).is_some() {
                    break;
                }
            }
        }
        found.push(start..end);
        start = end;
    }
    found
}

/// Width of a line for `pprint`.
const WIDTH: i64 = 80;

pub(super) fn pprint<'t>(
    interpreter: &mut Interpreter<'t>,
    value: &Value<'t>,
    arguments: Args<'t>,
) -> Result<Value<'t>> {
    arguments.none("pprint")?;
    let mut out = Builder::new(interpreter.meter)?;
    Printer { interpreter, out: &mut out }.format(value, 0, 0, 0)?;
    Ok(Value::Text(out.finish(false)))
}

struct Printer<'p, 't> {
    interpreter: &'p mut Interpreter<'t>,
    out: &'p mut Builder<'t>,
}

impl<'t> Printer<'_, 't> {
    /// Prints `value` at column `indent`; `allowance` more characters follow on its last line.
    fn format(&mut self, value: &Value<'t>, indent: i64, allowance: i64, level: u32) -> Result<()> {
        let repr = self.repr(value)?;
        let fits = repr.chars(self.interpreter.meter)? as i64 <= WIDTH - indent - allowance;
        match value {
            _ if fits => self.out.push(&repr),
            Value::Dict(dict) => {
                self.out.push_str("{", false)?;
                let entries = sorted_entries(self.interpreter.meter, dict)?;
                let last = entries.len().saturating_sub(1);
                for (at, (key, value)) in entries.iter().enumerate() {
                    let key = self.repr(key)?;
                    self.out.push(&key)?;
                    self.out.push_str(": ", false)?;
                    let column = indent + 3 + key.chars(self.interpreter.meter)? as i64;
                    let allowance = if at == last { allowance + 1 } else { 1 };
                    self.format(value, column, allowance, level + 1)?;
                    if at < last {
                        self.next_line(",", indent + 1)?;
                    }
                }
                self.out.push_str("}", false)
            }
            Value::List(items) => self.items(["[", "]"], &items.items, indent, allowance, level),
            Value::Tuple(items) if items.grouped => self.out.push(&repr),
            Value::Tuple(items) if items.items.len() == 1 => {
                self.items(["(", ",)"], &items.items, indent, allowance, level)
            }
            Value::Tuple(items) => self.items(["(", ")"], &items.items, indent, allowance, level),
            Value::Text(text) if !text.is_markup() && !text.is_empty() => {
                self.string(text, indent, allowance, level + 1)
            }
            _ => self.out.push(&repr),
        }
    }

    fn next_line(&mut self, before: &str, indent: i64) -> Result<()> {
        self.out.push_str(before, false)?;
        self.out.push_str("\n", false)?;
        self.out.fill(' ', usize::try_from(indent).unwrap_or(0), false)
    }

    fn items(
        &mut self,
        brackets: [&str; 2],
        items: &[Value<'t>],
        indent: i64,
        allowance: i64,
        level: u32,
    ) -> Result<()> {
        self.out.push_str(brackets[0], false)?;
        for (at, item) in items.iter().enumerate() {
            let last = at + 1 == items.len();
            let allowance = if last { allowance + brackets[1].len() as i64 } else { 1 };
            self.format(item, indent + 1, allowance, level + 1)?;
            if !last {
                self.next_line(",", indent + 1)?;
            }
        }
        self.out.push_str(brackets[1], false)
    }

    /// A long string in parts: lines, and words where lines are too long.
    fn string(&mut self, text: &Text, mut indent: i64, mut allowance: i64, level: u32) -> Result<()> {
        let meter = self.interpreter.meter;
        if level == 1 {
            indent += 1;
            allowance += 1;
        }
        let width = WIDTH - indent;
        let mut parts = Vec::new();
        let lines = split::line_ranges(meter, text.as_str(), true)?;
        for (at, line) in lines.iter().enumerate() {
            let last_line = at + 1 == lines.len();
            let room = if last_line { width - allowance } else { width };
            if repr_length(meter, text, line.clone())? <= room {
                meter.slots(1)?;
                parts.push(line.clone());
                continue;
            }
            let mut current = line.start..line.start;
            while current.end < line.end {
                let rest = &text.as_str()[current.end..line.end];
                let word = rest.find(is_space).unwrap_or(rest.len());
                let blanks = rest[word..].find(|c| !is_space(c)).unwrap_or(rest.len() - word);
                let end = current.end + word + blanks;
                let room = if last_line && end == line.end { width - allowance } else { width };
                if repr_length(meter, text, current.start..end)? > room {
                    if !current.is_empty() {
                        meter.slots(1)?;
                        parts.push(current.clone());
                    }
                    current.start = current.end;
                }
                current.end = end;
            }
            if !current.is_empty() {
                meter.slots(1)?;
                parts.push(current);
            }
        }
        let in_parentheses = level == 1 && parts.len() > 1;
        if in_parentheses {
            self.out.push_str("(", false)?;
        }
        for (at, part) in parts.into_iter().enumerate() {
            if at > 0 {
                self.next_line("", indent)?;
            }
            write_string(&text.slice(meter, part)?, self.out)?;
        }
        if in_parentheses { self.out.push_str(")", false) } else { Ok(()) }
    }

    /// `repr` with the keys of mappings sorted.
    fn repr(&mut self, value: &Value<'t>) -> Result<Text> {
        let value = sorted(self.interpreter.meter, value)?;
        self.interpreter.repr(&value)
    }
}

fn repr_length(meter: &Meter, text: &Text, range: Range<usize>) -> Result<i64> {
    let mut repr = Builder::new(meter)?;
    write_string(&text.slice(meter, range)?, &mut repr)?;
    Ok(repr.finish(false).chars(meter)? as i64)
}

/// A value with the keys of all mappings in it sorted.
fn sorted<'t>(meter: &Meter, value: &Value<'t>) -> Result<Value<'t>> {
    meter.step()?;
    let all = |items: &[Value<'t>]| {
        meter.slots(items.len())?;
        items.iter().map(|item| sorted(meter, item)).collect::<Result<Vec<_>>>()
    };
    match value {
        Value::List(items) => Value::list(all(&items.items)?),
        Value::Tuple(items) if !items.grouped => Value::tuple(all(&items.items)?),
        Value::Dict(dict) => {
            let mut copy = Dict::default();
            for (key, value) in sorted_entries(meter, dict)? {
                copy.insert(meter, key, sorted(meter, &value)?)?;
            }
            Ok(Value::Dict(copy.into()))
        }
        _ => Ok(value.clone()),
    }
}

/// The entries of a mapping, sorted by key; keys that have no order by the name of their type.
fn sorted_entries<'t>(meter: &Meter, dict: &Dict<'t>) -> Result<Vec<(Value<'t>, Value<'t>)>> {
    meter.slots(2 * dict.len())?;
    let mut entries: Vec<_> = dict.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let class = |value: &Value<'_>| if matches!(value, Value::None) { "NoneType" } else { value.kind() };
    // Mixed keys need not have a total order: inserted one by one.
    for at in 1..entries.len() {
        let mut place = at;
        while place > 0 {
            let (before, key) = (&entries[place - 1].0, &entries[at].0);
            meter.step()?;
            let ordering = match order(meter, key, before) {
                Ok(ordering) => ordering,
                Err(fault) if fault.limit => return Err(fault),
                Err(_) => Some(class(key).cmp(class(before))),
            };
            if ordering != Some(Ordering::Less) {
                break;
            }
            place -= 1;
        }
        entries[place..=at].rotate_right(1);
    }
    Ok(entries)
}
