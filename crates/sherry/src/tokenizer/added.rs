//! Finding added tokens (control and user-defined) in text.
//!
//! An Aho-Corasick automaton over all their texts finds them in one pass, leftmost first and of those the longest, as
//! the Hugging Face `tokenizers` crate does: a token that has to stand alone (`single_word`) and does not is passed
//! over with its text. A control token neither begins nor ends in text that a user typed: there the next shorter token is
//! tried, then the next place. Ordinary added tokens are found in it like anywhere else.

use std::iter;
use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use regex_automata::meta::Regex;

use crate::{Error, Result};

/// Longest text of an added token, in bytes.
const MAX_BYTES: usize = 512;
/// Longest texts of all added tokens together, in bytes: bounds the automaton.
const MAX_TOTAL_BYTES: usize = 4 << 20;

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
    /// Looked for after the normalizers have rewritten the text, as its own text is rewritten by them.
    pub normalized: bool,
}

impl Added {
    /// A token without further flags.
    pub fn new(text: &str, id: u32, control: bool) -> Self {
        let (lstrip, rstrip, single_word, normalized) = (false, false, false, false);
        Self { text: text.into(), id, control, lstrip, rstrip, single_word, normalized }
    }
}

/// A stretch of text: an added token, or what lies between two.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The token; `None` for text between tokens.
    pub id: Option<u32>,
    /// Its bytes. Stretches follow one another; a token may reach back over whitespace of the one before.
    pub range: Range<usize>,
}

/// Added tokens and the automata that find them.
pub(crate) struct Specials {
    tokens: Vec<Added>,
    all: Finder,
    /// Without control tokens.
    plain: Finder,
}

struct Finder {
    automaton: AhoCorasick,
    /// Token of every pattern, and how long the pattern is.
    tokens: Vec<(u32, usize)>,
    /// Of every pattern the longest other one that its text begins with.
    shorter: Vec<Option<u32>>,
}

impl Finder {
    /// `texts` are those searched for, one per token.
    fn new(tokens: &[Added], texts: &[String], take: impl Fn(&Added) -> bool) -> Result<Self> {
        let chosen: Vec<u32> = (0..tokens.len() as u32)
            .filter(|at| take(&tokens[*at as usize]) && !texts[*at as usize].is_empty())
            .collect();
        let text = |pattern: usize| texts[chosen[pattern] as usize].as_bytes();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build((0..chosen.len()).map(text))
            .map_err(|err| Error::Tokenizer(format!("the added tokens cannot be searched for: {err}")))?;
        // In sorted order the prefixes of a text are on the stack of those before it.
        let mut sorted: Vec<usize> = (0..chosen.len()).collect();
        sorted.sort_by(|a, b| text(*a).cmp(text(*b)).then(b.cmp(a)));
        let mut shorter = vec![None; chosen.len()];
        let mut stack: Vec<usize> = Vec::new();
        for pattern in sorted {
            while stack.pop_if(|top| !text(pattern).starts_with(text(*top))).is_some() {}
            // Of equal texts the automaton reports the first, so only that one is ever asked for its prefix.
            while stack.pop_if(|top| text(pattern).len() == text(*top).len()).is_some() {}
            shorter[pattern] = stack.last().map(|top| *top as u32);
            stack.push(pattern);
        }
        let tokens = chosen.iter().map(|at| (*at, texts[*at as usize].len())).collect();
        Ok(Self { automaton, tokens, shorter })
    }
}

impl Specials {
    /// The added tokens, of which those with an empty text are never found.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] naming the token whose text is too long.
    pub fn new(added: Vec<Added>) -> Result<Self> {
        let texts: Vec<String> = added.iter().map(|token| token.text.clone()).collect();
        Self::searched_as(added, &texts)
    }

    /// [`new`](Self::new) with other texts to search for, one per token.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn searched_as(added: Vec<Added>, texts: &[String]) -> Result<Self> {
        if let Some((token, text)) = added.iter().zip(texts).find(|(_, text)| text.len() > MAX_BYTES) {
            let (id, bytes) = (token.id, text.len());
            return Err(Error::Tokenizer(format!("added token {id} has {bytes} bytes, more than {MAX_BYTES}")));
        }
        let total: usize = texts.iter().map(String::len).sum();
        if total > MAX_TOTAL_BYTES {
            return Err(Error::Tokenizer(format!(
                "the {} added tokens have {total} bytes of text, more than {MAX_TOTAL_BYTES}",
                added.len()
            )));
        }
        Ok(Self {
            all: Finder::new(&added, texts, |_| true)?,
            plain: Finder::new(&added, texts, |token| !token.control)?,
            tokens: added,
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Added> {
        self.tokens.iter()
    }

    /// Whether nothing would ever be found.
    pub fn is_empty(&self) -> bool {
        self.all.tokens.is_empty()
    }

    /// Whether control tokens are among them.
    pub fn have_control(&self) -> bool {
        self.tokens.iter().any(|token| token.control)
    }

    /// All of `text` as tokens and what lies between them; control tokens only if `control`, and none that begins or ends
    /// in a byte of `typed` (sorted, disjoint ranges: text that a user typed).
    pub fn split(&self, text: &str, control: bool, typed: &[Range<usize>]) -> Vec<Stretch> {
        let mut any = Search::new(if control { &self.all } else { &self.plain }, text);
        let mut plain = Search::new(&self.plain, text);
        let typed = if control { typed } else { &[] };
        let mut stretches = Vec::new();
        let (mut from, mut done) = (0, 0);
        while from < text.len() {
            let (is_typed, end) = run(typed, from);
            let search = if is_typed { &mut plain } else { &mut any };
            let hit = search.next(from);
            let Some((start, longest)) = hit.filter(|(start, _)| *start < end) else {
                from = end;
                continue;
            };
            let finder = search.finder;
            let found = iter::successors(Some(longest), |pattern| finder.shorter[*pattern as usize])
                .map(|pattern| finder.tokens[pattern as usize])
                .map(|(token, length)| (&self.tokens[token as usize], start + length))
                .find(|(token, end)| !token.control || !run(typed, end - 1).0);
            let Some((token, end)) = found else {
                from = start + 1;
                continue;
            };
            from = end;
            if token.single_word && (ends_with_word(&text[..start]) || starts_with_word(&text[end..])) {
                continue;
            }
            let blank = text[..start].len() - text[..start].trim_end().len();
            let first = if token.lstrip { done.max(start - blank) } else { start };
            let last = if token.rstrip { text.len() - text[end..].trim_start().len() } else { end };
            if done < first {
                stretches.push(Stretch { id: None, range: done..first });
            }
            // A token whose text went with the one before, as white space, is none.
            if first < last {
                stretches.push(Stretch { id: Some(token.id), range: first..last });
            }
            done = last;
        }
        if done < text.len() {
            stretches.push(Stretch { id: None, range: done..text.len() });
        }
        stretches
    }
}

/// Hits of one automaton in one text, asked for with growing beginnings: no part of the text is searched twice for the
/// same hit.
struct Search<'f, 't> {
    finder: &'f Finder,
    text: &'t str,
    /// Where the last hit begins, and its pattern. [`None`] before the first search.
    hit: Option<(usize, u32)>,
    /// There are no more.
    over: bool,
}

impl<'f, 't> Search<'f, 't> {
    fn new(finder: &'f Finder, text: &'t str) -> Self {
        Self { finder, text, hit: None, over: false }
    }

    /// The first hit at or after `from`, the longest there: where it begins, and its pattern.
    fn next(&mut self, from: usize) -> Option<(usize, u32)> {
        if !self.over && self.hit.is_none_or(|(start, _)| start < from) {
            let hit = self.finder.automaton.find(Input::new(self.text).range(from..));
            self.hit = hit.map(|hit| (hit.start(), hit.pattern().as_u32()));
            self.over = self.hit.is_none();
        }
        self.hit
    }
}

/// Whether the byte at `at` lies in one of `ranges`, which are sorted and disjoint, and where that ends.
fn run(ranges: &[Range<usize>], at: usize) -> (bool, usize) {
    match ranges.get(ranges.partition_point(|range| range.end <= at)) {
        Some(range) if range.start <= at => (true, range.end),
        Some(range) => (false, range.start),
        None => (false, usize::MAX),
    }
}

/// Whether a character is part of a word, `\w` as Unicode defines it.
fn is_word(c: char) -> bool {
    static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\A\w").ok());
    let unicode = || WORD.as_ref().is_some_and(|word| word.is_match(&*c.encode_utf8(&mut [0; 4])));
    c == '_' || c.is_ascii_alphanumeric() || (!c.is_ascii() && unicode())
}

fn starts_with_word(text: &str) -> bool {
    text.chars().next().is_some_and(is_word)
}

fn ends_with_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials() -> Specials {
        Specials::new(vec![
            Added::new("<a>", 1, true),
            Added::new("<a><b>", 2, true),
            Added::new("", 3, true),
            Added::new("<a", 4, false),
            Added { rstrip: true, lstrip: true, ..Added::new("<s>", 5, true) },
            Added { single_word: true, ..Added::new("tool", 6, false) },
            Added::new("to", 7, false),
        ])
        .unwrap()
    }

    fn found(text: &str, control: bool, typed: &[Range<usize>]) -> Vec<(u32, Range<usize>)> {
        let stretches = specials().split(text, control, typed);
        stretches.into_iter().filter_map(|stretch| Some((stretch.id?, stretch.range))).collect()
    }

    #[test]
    fn longest_wins_and_empty_is_ignored() {
        assert_eq!(found("x<a><b>y<a><a", true, &[]), [(2, 1..7), (1, 8..11), (4, 11..13)]);
        assert_eq!(found("x<a><b>y", false, &[]), [(4, 1..3)]);
        assert_eq!(found("é <s>  z", true, &[]), [(5, 2..8)]);
        assert_eq!(found("<a", true, &[]), [(4, 0..2)]);
        assert_eq!(found("", true, &[]), []);
    }

    #[test]
    fn control_tokens_neither_begin_nor_end_in_typed_text() {
        let at = |range| [range];
        assert_eq!(found("<a><a>", true, &at(0..3)), [(4, 0..2), (1, 3..6)]);
        assert_eq!(found("<a><a>", true, &at(2..3)), [(4, 0..2), (1, 3..6)]);
        assert_eq!(found("<a><a>", true, &[0..1, 5..6]), [(4, 0..2), (4, 3..5)]);
        // A template wrote it around a word of the user.
        assert_eq!(found("<a>", true, &at(1..2)), [(1, 0..3)]);
        // The longest token ends in typed text, a shorter one does not.
        assert_eq!(found("<a><b>", true, &at(3..6)), [(1, 0..3)]);
        assert_eq!(found("<a><b>", true, &at(5..6)), [(1, 0..3)]);
    }

    #[test]
    fn typed_text_holds_ordinary_tokens() {
        assert_eq!(found("<a><b> tool <s>", true, &[Range { start: 0, end: 15 }]), [(4, 0..2), (6, 7..11)]);
        assert_eq!(found("tool<a>", true, &[Range { start: 0, end: 4 }]), [(6, 0..4), (1, 4..7)]);
        assert_eq!(found("to<a>to", true, &[0..2, 5..7]), [(7, 0..2), (1, 2..5), (7, 5..7)]);
    }

    #[test]
    fn words_stand_alone() {
        assert_eq!(found("a tool, tool", false, &[]), [(6, 2..6), (6, 8..12)]);
        // As in the Hugging Face crate the whole text of a rejected token is passed over, "to" in it included.
        assert_eq!(found("tools toot étool tool\u{301} tool_", false, &[]), [(7, 6..8)]);
    }

    #[test]
    fn overlong_tokens_are_refused() {
        assert!(Specials::new(vec![Added::new(&"x".repeat(513), 0, true)]).is_err());
        let many = (0..20_000).map(|id| Added::new(&format!("{id:0>500}"), id, true)).collect();
        assert!(Specials::new(many).err().unwrap().to_string().contains("20000 added tokens"));
    }

    #[test]
    fn typed_text_full_of_tokens_takes_linear_time() {
        let specials = |plain: bool| {
            let long = Added::new(&"a".repeat(512), 0, true);
            Specials::new(vec![long, Added::new("a", 1, !plain)]).unwrap()
        };
        let text = "a".repeat(1 << 20);
        let typed = [Range { start: 0, end: 1 << 20 }];
        let none = specials(false).split(&text, true, &typed);
        assert_eq!(none, [Stretch { id: None, range: 0..1 << 20 }]);
        assert_eq!(specials(true).split(&text, true, &typed).len(), 1 << 20);
    }
}
