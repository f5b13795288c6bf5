//! Finding added tokens (control and user-defined) in text, longest first.

use std::ops::Range;

use crate::{Error, Result};

/// Longest text of an added token, in bytes: bounds the work per position of a prompt.
const MAX_BYTES: usize = 512;

/// A token that is recognised in text as a whole, before any splitting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Added {
    pub text: String,
    pub id: u32,
    /// Recognised only when asked for (`parse_special`).
    pub control: bool,
    /// Takes the whitespace before it along.
    pub lstrip: bool,
    /// Takes the whitespace behind it along.
    pub rstrip: bool,
    /// Not inside a word.
    pub single_word: bool,
}

impl Added {
    pub fn new(text: &str, id: u32, control: bool) -> Self {
        Self { text: text.into(), id, control, lstrip: false, rstrip: false, single_word: false }
    }
}

/// One found token: its id and the bytes it covers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub id: u32,
    pub range: Range<usize>,
}

/// All added tokens, sorted by text.
pub(crate) struct Specials {
    sorted: Vec<Added>,
    first_byte: [bool; 256],
}

impl Specials {
    /// Empty texts are ignored: they would match everywhere.
    pub fn new(mut added: Vec<Added>) -> Result<Self> {
        added.retain(|token| !token.text.is_empty());
        if let Some(long) = added.iter().find(|token| token.text.len() > MAX_BYTES) {
            return Err(Error::Tokenizer(format!(
                "added token {} has {} bytes, more than {MAX_BYTES}",
                long.id,
                long.text.len()
            )));
        }
        added.sort_by(|a, b| a.text.as_bytes().cmp(b.text.as_bytes()));
        added.dedup_by(|b, a| a.text == b.text);
        let mut first_byte = [false; 256];
        for token in &added {
            first_byte[usize::from(token.text.as_bytes()[0])] = true;
        }
        Ok(Self { sorted: added, first_byte })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Added> {
        self.sorted.iter()
    }

    /// The longest token that starts at byte `at`; control tokens only if `control` allows the byte they end with.
    fn longest(&self, text: &[u8], at: usize, control: impl Fn(usize) -> bool) -> Option<&Added> {
        let mut candidates = &self.sorted[..];
        let mut best = None;
        for depth in 0.. {
            // All candidates share the first `depth` bytes with the text; a shorter one sorts first.
            if let Some(first) = candidates.first()
                && first.text.len() == depth
            {
                if !first.control || control(at + depth - 1) {
                    best = Some(first);
                }
                candidates = &candidates[1..];
            }
            let (Some(byte), false) = (text.get(at + depth), candidates.is_empty()) else { break };
            let low = candidates.partition_point(|token| token.text.as_bytes()[depth] < *byte);
            let high = candidates.partition_point(|token| token.text.as_bytes()[depth] <= *byte);
            candidates = &candidates[low..high];
        }
        best
    }

    /// The first token at or after `from`; control tokens only if `control`, and none that begins or ends in a byte of
    /// `literal` (sorted ranges).
    pub fn find(&self, text: &str, from: usize, control: bool, literal: &[Range<usize>]) -> Option<Found> {
        let bytes = text.as_bytes();
        let is_literal = |at: usize| {
            let next = literal.partition_point(|range| range.end <= at);
            literal.get(next).is_some_and(|range| range.start <= at)
        };
        for at in from..bytes.len() {
            if !self.first_byte[usize::from(bytes[at])] {
                continue;
            }
            let begins = control && !is_literal(at);
            let Some(token) = self.longest(bytes, at, |last| begins && !is_literal(last)) else { continue };
            let end = at + token.text.len();
            let (before, behind) = (&text[from..at], &text[end..]);
            let in_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            if token.single_word && (in_word(text[..at].chars().next_back()) || in_word(behind.chars().next())) {
                continue;
            }
            let start = if token.lstrip { from + before.trim_end().len() } else { at };
            let end = if token.rstrip { text.len() - behind.trim_start().len() } else { end };
            return Some(Found { id: token.id, range: start..end });
        }
        None
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
mod tests {
    use super::*;

    fn specials() -> Specials {
        Specials::new(vec![
            Added::new("<a>", 1, true),
            Added::new("<a><b>", 2, true),
            Added::new("", 3, true),
            Added::new("<a", 4, false),
            Added { rstrip: true, lstrip: true, ..Added::new("<s>", 5, true) },
        ])
        .unwrap()
    }

    fn found(text: &str, control: bool, literal: &[Range<usize>]) -> Vec<(u32, Range<usize>)> {
        let specials = specials();
        let mut at = 0;
        let mut all = Vec::new();
        while let Some(hit) = specials.find(text, at, control, literal) {
            at = hit.range.end;
            all.push((hit.id, hit.range));
        }
        all
    }

    #[test]
    fn longest_wins_and_empty_is_ignored() {
        assert_eq!(found("x<a><b>y<a><a", true, &[]), [(2, 1..7), (1, 8..11), (4, 11..13)]);
        assert_eq!(found("x<a><b>y", false, &[]), [(4, 1..3)]);
        assert_eq!(found("é <s>  z", true, &[]), [(5, 2..8)]);
        assert_eq!(found("<a", true, &[]), [(4, 0..2)]);
    }

    #[test]
    fn control_tokens_neither_begin_nor_end_in_literal_text() {
        assert_eq!(found("<a><a>", true, &[0..3]), [(4, 0..2), (1, 3..6)]);
        assert_eq!(found("<a><a>", true, &[2..3]), [(4, 0..2), (1, 3..6)]);
        assert_eq!(found("<a><a>", true, &[0..1, 5..6]), [(4, 0..2), (4, 3..5)]);
        assert_eq!(found("<a>", true, &[1..2]), [(1, 0..3)]);
        // The longest one ends in literal text, a shorter one does not.
        assert_eq!(found("<a><b>", true, &[5..6]), [(1, 0..3)]);
    }

    #[test]
    fn overlong_tokens_are_refused() {
        assert!(Specials::new(vec![Added::new(&"x".repeat(513), 0, true)]).is_err());
    }
}
