//! Cutting text into the pieces that byte-pair encoding works on.
//!
//! Patterns run on finite automata (`regex-automata`): no backtracking, so no pattern in a tokenizer file can make it
//! blow up and none gives up half way. The one look-ahead that real tokenizers use, `\s+(?!\S)|\s+` at the end of the
//! pattern, is done by hand: a run of white space that something follows leaves its last character to what follows.

use std::ops::Range;

use regex_automata::meta::Regex;
use regex_automata::util::syntax;
use regex_automata::{Input, PatternID};

use crate::progress::Watch;
use crate::{Error, NoProgress, Result};

/// Size limit of one compiled pattern.
const MAX_AUTOMATON_BYTES: usize = 8 << 20;
/// Longest pattern text.
const MAX_PATTERN_BYTES: usize = 16 << 10;

/// GPT-2's pattern.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Each digit alone.
pub(super) const DIGIT: &str = r"\p{N}";
/// Runs of digits.
pub(super) const DIGITS: &str = r"\p{N}+";

/// What becomes of the text a pattern matched (Hugging Face's `SplitDelimiterBehavior`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behavior {
    Isolated,
    Removed,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

impl Behavior {
    pub const NAMES: [(&'static str, Self); 5] = [
        ("Isolated", Self::Isolated),
        ("Removed", Self::Removed),
        ("MergedWithPrevious", Self::MergedWithPrevious),
        ("MergedWithNext", Self::MergedWithNext),
        ("Contiguous", Self::Contiguous),
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, behavior)| *behavior == self).map_or("", |(name, _)| name)
    }
}

/// The pattern of a [`Split`], as written in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Regex(String),
    Literal(String),
}

/// One pass that cuts pieces into smaller ones. Two are equal when they are written alike.
#[derive(Debug)]
pub(super) struct Split {
    pub pattern: Pattern,
    pub behavior: Behavior,
    pub invert: bool,
    automaton: Automaton,
}

impl PartialEq for Split {
    fn eq(&self, other: &Self) -> bool {
        (&self.pattern, self.behavior, self.invert) == (&other.pattern, other.behavior, other.invert)
    }
}

#[derive(Debug)]
enum Automaton {
    Literal,
    Regex { regex: Regex, space_run: Option<PatternID> },
}

/// The end of a pattern that asks for the look-ahead.
const SPACE_RUN: &str = r"\s+(?!\S)|\s+";

impl Split {
    /// Cuts around every match of `pattern`, keeping the matches.
    pub fn isolated(pattern: &str) -> Result<Self> {
        Self::new(Pattern::Regex(pattern.into()), Behavior::Isolated, false)
    }

    pub fn new(pattern: Pattern, behavior: Behavior, invert: bool) -> Result<Self> {
        let pattern = match pattern {
            // Files write line ends in classes both raw and escaped.
            Pattern::Regex(text) => Pattern::Regex(text.replace('\r', r"\r").replace('\n', r"\n")),
            literal => literal,
        };
        let automaton = match &pattern {
            Pattern::Literal(_) => Automaton::Literal,
            Pattern::Regex(text) => compile(text)?,
        };
        Ok(Self { pattern, behavior, invert, automaton })
    }

    /// Appends the parts of `piece` (a range of `text`) to `out`.
    pub fn apply(&self, text: &str, piece: Range<usize>, out: &mut Vec<Range<usize>>, watch: &Watch<'_>) -> Result<()> {
        let (base, piece) = (piece.start, &text[piece]);
        let mut parts: Vec<(Range<usize>, bool)> = Vec::new();
        let mut done = 0;
        self.each_match(piece, |found| {
            if found.start > done {
                parts.push((done..found.start, self.invert));
            }
            done = found.end;
            parts.push((found, !self.invert));
            watch.step()
        })?;
        if done < piece.len() {
            parts.push((done..piece.len(), self.invert));
        }
        let shifted = |part: &Range<usize>| part.start + base..part.end + base;
        // `started`: the last of `out` is a part of this piece and may grow.
        let (mut started, mut after_match) = (false, false);
        match self.behavior {
            Behavior::Isolated => out.extend(parts.iter().map(|(part, _)| shifted(part))),
            Behavior::Removed => {
                out.extend(parts.iter().filter(|(_, matched)| !matched).map(|(part, _)| shifted(part)));
            }
            Behavior::MergedWithPrevious => {
                for (part, matched) in &parts {
                    match out.last_mut() {
                        Some(last) if started && *matched && !after_match => {
                            last.end = part.end + base;
                        }
                        _ => out.push(shifted(part)),
                    }
                    (started, after_match) = (true, *matched);
                }
            }
            Behavior::MergedWithNext => {
                let mut reversed: Vec<Range<usize>> = Vec::new();
                for (part, matched) in parts.iter().rev() {
                    match reversed.last_mut() {
                        Some(last) if *matched && !after_match => last.start = part.start + base,
                        _ => reversed.push(shifted(part)),
                    }
                    after_match = *matched;
                }
                out.extend(reversed.into_iter().rev());
            }
            Behavior::Contiguous => {
                for (part, matched) in &parts {
                    match out.last_mut() {
                        Some(last) if started && *matched == after_match => {
                            last.end = part.end + base;
                        }
                        _ => out.push(shifted(part)),
                    }
                    (started, after_match) = (true, *matched);
                }
            }
        }
        Ok(())
    }

    /// Calls `found` with every non-empty match in `piece`, left to right.
    fn each_match(&self, piece: &str, mut found: impl FnMut(Range<usize>) -> Result<()>) -> Result<()> {
        let (regex, space_run) = match (&self.automaton, &self.pattern) {
            (Automaton::Regex { regex, space_run }, _) => (regex, space_run),
            (Automaton::Literal, Pattern::Literal(text) | Pattern::Regex(text)) => {
                for (at, hit) in piece.match_indices(text.as_str()) {
                    found(at..at + hit.len())?;
                }
                return Ok(());
            }
        };
        let mut at = 0;
        while at < piece.len() {
            let Some(hit) = regex.search(&Input::new(piece).range(at..)) else { break };
            let (start, mut end) = (hit.start(), hit.end());
            if Some(hit.pattern()) == *space_run && end < piece.len() {
                // Something follows the run (it is as long as can be): its last character goes with that.
                let last = piece[start..end].chars().next_back().map_or(0, char::len_utf8);
                if end - last > start {
                    end -= last;
                }
            }
            if end > start {
                found(start..end)?;
                at = end;
            } else {
                at = end + piece[end..].chars().next().map_or(1, char::len_utf8);
            }
        }
        Ok(())
    }
}

fn compile(pattern: &str) -> Result<Automaton> {
    let shown = || pattern.chars().take(120).collect::<String>();
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(Error::Tokenizer(format!(
            "a pre-tokenizer pattern has {} bytes, more than {MAX_PATTERN_BYTES}",
            pattern.len()
        )));
    }
    if has_possessive(pattern) {
        return Err(Error::Tokenizer(format!(
            "pre-tokenizer pattern {:?}: possessive quantifiers (?+, *+, ++) are not supported",
            shown()
        )));
    }
    let head = pattern.strip_suffix(SPACE_RUN).and_then(|head| head.strip_suffix('|'));
    let patterns = head.map_or(vec![pattern], |head| vec![head, r"\s+"]);
    let config = Regex::config()
        .nfa_size_limit(Some(MAX_AUTOMATON_BYTES))
        .onepass(false)
        .hybrid_cache_capacity(MAX_AUTOMATON_BYTES);
    // In Oniguruma, which Hugging Face uses, ^ and $ are the ends of lines.
    let syntax = syntax::Config::new().multi_line(true);
    let regex = Regex::builder().syntax(syntax).configure(config).build_many(&patterns).map_err(|err| {
        let reason = err.syntax_error().map_or_else(
            || err.to_string(),
            |syntax| syntax.to_string().lines().last().unwrap_or_default().to_string(),
        );
        Error::Tokenizer(format!(
            "pre-tokenizer pattern {:?}: {reason} (look-around is supported only as a final `{SPACE_RUN}`)",
            shown()
        ))
    })?;
    Ok(Automaton::Regex { regex, space_run: head.map(|_| PatternID::must(1)) })
}

/// Whether a pattern has a possessive quantifier, which regex-automata would read as a repetition of a repetition.
fn has_possessive(pattern: &str) -> bool {
    let mut chars = pattern.chars();
    let (mut in_class, mut quantified) = (0u32, false);
    while let Some(c) = chars.next() {
        let quantifier = in_class == 0 && matches!(c, '?' | '*' | '+');
        if c == '+' && in_class == 0 && quantified {
            return true;
        }
        match c {
            '\\' => drop(chars.next()),
            '[' => in_class += 1,
            ']' => in_class = in_class.saturating_sub(1),
            _ => {}
        }
        // A quantifier behind a quantifier is the mark of a lazy one; a ? behind ( begins a group's options.
        quantified = quantifier && !quantified;
        if c == '(' && in_class == 0 && chars.as_str().starts_with('?') {
            chars.next();
        }
    }
    false
}

/// All passes, applied one after the other to the whole text: the pieces.
pub(super) fn split_all(splits: &[Split], text: &str) -> Result<Vec<Range<usize>>> {
    let whole = 0..text.len();
    let mut pieces = vec![whole];
    let mut next = Vec::new();
    for split in splits {
        next.clear();
        for piece in &pieces {
            split.apply(text, piece.clone(), &mut next, &Watch::new(&NoProgress))?;
        }
        std::mem::swap(&mut pieces, &mut next);
    }
    pieces.retain(|piece| !piece.is_empty());
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_around_is_refused() {
        for pattern in [r"(?=a)b", r"(?<!x)y", r"\s+(?!\S)", r"(a)\1", "(", r"(?:\p{L}{1000}){1000}"] {
            assert!(Split::isolated(pattern).is_err(), "{pattern}");
        }
        assert!(Split::isolated(&"a".repeat(1 << 20)).is_err());
    }

    #[test]
    fn possessive_quantifiers_are_refused_and_nothing_else() {
        for pattern in [r"[^\r\n]?+\p{L}+", r"a++b", r"(?:a|b)*+b", r"[+]?+a", r"\]++"] {
            assert!(Split::isolated(pattern).err().unwrap().to_string().contains("possessive"), "{pattern}");
        }
        for pattern in [r"a+?+b", r"[?+*+]a", r"\?+", r"\p{L}+", r"a{1,2}+", r"(?i:a)+", r"[\[+]+", r"[[:alpha:]++]+"] {
            assert!(Split::isolated(pattern).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn anchors_are_the_ends_of_lines() {
        let split = Split::isolated(r"\s+$").unwrap();
        let text = "a  \nb  ";
        let pieces: Vec<&str> = split_all(&[split], text).unwrap().into_iter().map(|range| &text[range]).collect();
        assert_eq!(pieces, ["a", "  ", "\nb", "  "]);
    }

    #[test]
    fn patterns_famous_for_backtracking_are_linear() {
        let text = format!("{}!", "a".repeat(100_000));
        for pattern in [r"(a+)+$", r"(a|aa)+$", r"(?:a*)*b", r"(x+x+)+y"] {
            let split = Split::isolated(pattern).unwrap();
            let parts = split_all(&[split], &text).unwrap();
            assert_eq!(parts.first().unwrap().start, 0);
            assert_eq!(parts.last().unwrap().end, text.len());
        }
    }

    #[test]
    fn behaviours_follow_hugging_face() {
        let cut = |behavior, invert| {
            let split = Split::new(Pattern::Literal("-".into()), behavior, invert).unwrap();
            let text = "the-final--countdown";
            split_all(&[split], text).unwrap().into_iter().map(|range| &text[range]).collect::<Vec<_>>()
        };
        // The examples of the tokenizers documentation.
        assert_eq!(cut(Behavior::Removed, false), ["the", "final", "countdown"]);
        assert_eq!(cut(Behavior::Isolated, false), ["the", "-", "final", "-", "-", "countdown"]);
        assert_eq!(cut(Behavior::MergedWithPrevious, false), ["the-", "final-", "-", "countdown"]);
        assert_eq!(cut(Behavior::MergedWithNext, false), ["the", "-final", "-", "-countdown"]);
        assert_eq!(cut(Behavior::Contiguous, false), ["the", "-", "final", "--", "countdown"]);
        assert_eq!(cut(Behavior::Removed, true), ["-", "-", "-"]);
    }
}
