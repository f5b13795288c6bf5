//! Rewriting text before added tokens are looked for a second time and before it is cut into pieces.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Anchored, Input, MatchKind, StartKind};
use unicode_normalization::UnicodeNormalization;

use super::charsmap::Charsmap;
use crate::{Error, Result};

/// Stands for a space in SentencePiece vocabularies.
pub(super) const SPACE: char = '\u{2581}';

/// Longest text after rewriting, in bytes.
const MAX_TEXT_BYTES: usize = 1 << 28;

/// One rewriting step: a normalizer of `tokenizer.json`, or that of a SentencePiece file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rewrite {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    /// Every `from` becomes `to`.
    Replace {
        from: String,
        to: String,
    },
    /// Text that is not empty gets this in front.
    Prepend(String),
    /// The whole normalizer of a SentencePiece file that does more than to mark spaces.
    SentencePiece(Box<Normalizer>),
}

/// SentencePiece's normalizer: text becomes units, and of white space between them little stays.
#[derive(Clone, Debug)]
pub(super) struct Normalizer {
    charsmap: Charsmap,
    /// Texts that are units as they are, whatever the table says: user-defined tokens.
    kept: Vec<String>,
    find_kept: AhoCorasick,
    /// The text begins with a space of its own (`add_dummy_prefix`).
    prefix: bool,
    /// Spaces at both ends go, a unit that follows a space begins with none (`remove_extra_whitespaces`).
    collapse: bool,
}

impl PartialEq for Normalizer {
    fn eq(&self, other: &Self) -> bool {
        (&self.charsmap, &self.kept, self.prefix, self.collapse)
            == (&other.charsmap, &other.kept, other.prefix, other.collapse)
    }
}

impl Normalizer {
    /// # Errors
    /// [`Error::Tokenizer`] when `kept` cannot be searched for.
    pub fn new(charsmap: Charsmap, kept: Vec<String>, prefix: bool, collapse: bool) -> Result<Self> {
        let find_kept = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .start_kind(StartKind::Anchored)
            .build(&kept)
            .map_err(|err| Error::Tokenizer(format!("the user-defined tokens cannot be searched for: {err}")))?;
        Ok(Self { charsmap, kept, find_kept, prefix, collapse })
    }

    /// The unit that `text` begins with: its length, and what becomes of it.
    fn unit<'t>(&'t self, text: &'t str) -> (usize, &'t str) {
        if let Some(kept) = self.find_kept.find(Input::new(text).anchored(Anchored::Yes)) {
            return (kept.end(), &text[..kept.end()]);
        }
        self.charsmap.longest(text.as_bytes()).filter(|(length, _)| text.is_char_boundary(*length)).unwrap_or_else(
            || {
                let length = text.chars().next().map_or(0, char::len_utf8);
                (length, &text[..length])
            },
        )
    }

    fn apply(&self, text: &str, out: &mut Builder<'_>) -> Result<()> {
        let mark = SPACE.encode_utf8(&mut [0; 4]).to_owned();
        let mut at = 0;
        while self.collapse && at < text.len() {
            let (length, unit) = self.unit(&text[at..]);
            if unit != " " {
                break;
            }
            at += length;
        }
        if at == text.len() {
            return Ok(());
        }
        if self.prefix {
            out.put(&mark, at..at)?;
        }
        let mut after_space = self.collapse;
        while at < text.len() {
            let (length, unit) = self.unit(&text[at..]);
            let unit = if after_space { unit.trim_start_matches(' ') } else { unit };
            if !unit.is_empty() {
                out.put(&unit.replace(' ', &mark), at..at + length)?;
                after_space = self.collapse && unit.ends_with(' ');
            }
            at += length;
        }
        if self.collapse {
            let kept = out.built.text.trim_end_matches(SPACE).len();
            out.built.text.truncate(kept);
            out.built.typed.truncate(kept);
        }
        Ok(())
    }
}

/// Text on its way through the steps, and which of its bytes a user typed, where that matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text {
    pub text: String,
    /// One entry per byte; empty where no byte was typed by a user, or it does not matter.
    pub typed: Vec<bool>,
}

impl Text {
    /// Applies `steps` one after the other.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the text grows too long.
    pub fn rewritten(self, steps: &[Rewrite]) -> Result<Self> {
        steps.iter().try_fold(self, |text, step| text.step(step))
    }

    fn step(self, step: &Rewrite) -> Result<Self> {
        let mut out = Builder::new(&self);
        match step {
            Rewrite::Nfc => in_parts(&self.text, |part| part.nfc().collect(), &mut out)?,
            Rewrite::Nfd => in_parts(&self.text, |part| part.nfd().collect(), &mut out)?,
            Rewrite::Nfkc => in_parts(&self.text, |part| part.nfkc().collect(), &mut out)?,
            Rewrite::Nfkd => in_parts(&self.text, |part| part.nfkd().collect(), &mut out)?,
            Rewrite::Replace { from, to } => {
                let mut done = 0;
                for (at, hit) in self.text.match_indices(from.as_str()) {
                    out.keep(done..at)?;
                    done = at + hit.len();
                    out.put(to, at..done)?;
                }
                out.keep(done..self.text.len())?;
            }
            Rewrite::Prepend(front) => {
                if !self.text.is_empty() {
                    out.put(front, 0..0)?;
                }
                out.keep(0..self.text.len())?;
            }
            Rewrite::SentencePiece(normalizer) => normalizer.apply(&self.text, &mut out)?,
        }
        Ok(out.built)
    }
}

/// Collects the output of one step.
struct Builder<'a> {
    source: &'a Text,
    built: Text,
}

impl<'a> Builder<'a> {
    fn new(source: &'a Text) -> Self {
        Self { source, built: Text { text: String::with_capacity(source.text.len()), typed: Vec::new() } }
    }

    /// These bytes as they are.
    fn keep(&mut self, range: Range<usize>) -> Result<()> {
        self.built.text.push_str(&self.source.text[range.clone()]);
        if !self.source.typed.is_empty() {
            self.built.typed.extend_from_slice(&self.source.typed[range]);
        }
        check_length(self.built.text.len())
    }

    /// `text` in place of these bytes.
    fn put(&mut self, text: &str, range: Range<usize>) -> Result<()> {
        self.built.text.push_str(text);
        if !self.source.typed.is_empty() {
            let typed = self.source.typed[range].contains(&true);
            self.built.typed.resize(self.built.text.len(), typed);
        }
        check_length(self.built.text.len())
    }
}

/// Rewrites every stretch of other than ASCII characters, together with the ASCII character before it: Unicode's normal
/// forms join nothing across any other boundary.
fn in_parts(text: &str, normal: impl Fn(&str) -> String, out: &mut Builder<'_>) -> Result<()> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(other) = bytes[at..].iter().position(|byte| !byte.is_ascii()).map(|found| at + found) {
        let start = if other > at { other - 1 } else { at };
        let end = bytes[other..].iter().position(u8::is_ascii).map_or(text.len(), |found| other + found);
        out.keep(at..start)?;
        let part = normal(&text[start..end]);
        if part == text[start..end] {
            out.keep(start..end)?;
        } else {
            out.put(&part, start..end)?;
        }
        at = end;
    }
    out.keep(at..text.len())
}

/// Every space becomes [`SPACE`].
pub(super) fn spaces_marked(text: &str) -> Result<String> {
    let marked = text.replace(' ', SPACE.encode_utf8(&mut [0; 4]));
    check_length(marked.len())?;
    Ok(marked)
}

pub(super) fn check_length(bytes: usize) -> Result<()> {
    if bytes > MAX_TEXT_BYTES {
        return Err(Error::Tokenizer(format!("text of {bytes} bytes, more than {MAX_TEXT_BYTES}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(steps: &[Rewrite], text: &str) -> String {
        Text { text: text.into(), typed: Vec::new() }.rewritten(steps).unwrap().text
    }

    #[test]
    fn normal_forms_in_parts_equal_those_of_the_whole() {
        let parts = ["a", "e", "\u{301}", "\u{327}", "é", "ﬁ", "Å", "\u{1100}", "\u{1161}", "\u{11a8}", " ", "각", "Ⅷ"];
        let mut state = 7usize;
        for _ in 0..3000 {
            let mut text = String::new();
            for _ in 0..state % 9 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(parts[(state >> 33) % parts.len()]);
            }
            state = state.wrapping_add(1);
            assert_eq!(rewritten(&[Rewrite::Nfc], &text), text.nfc().collect::<String>(), "{text:?}");
            assert_eq!(rewritten(&[Rewrite::Nfd], &text), text.nfd().collect::<String>(), "{text:?}");
            assert_eq!(rewritten(&[Rewrite::Nfkc], &text), text.nfkc().collect::<String>(), "{text:?}");
            assert_eq!(rewritten(&[Rewrite::Nfkd], &text), text.nfkd().collect::<String>(), "{text:?}");
        }
    }

    #[test]
    fn steps_follow_one_another() {
        let steps = [
            Rewrite::Prepend("_".into()),
            Rewrite::Replace { from: "a".into(), to: "bb".into() },
            Rewrite::Replace { from: "b".into(), to: String::new() },
        ];
        assert_eq!(rewritten(&steps, "xay"), "_xy");
        assert_eq!(rewritten(&steps, ""), "");
        let normalizer = Normalizer::new(Charsmap::default(), vec!["  ".into()], true, true).unwrap();
        let steps = [Rewrite::SentencePiece(Box::new(normalizer))];
        assert_eq!(rewritten(&steps, " a b   \n c  "), "_a_b__\n_c".replace('_', "\u{2581}"));
        assert_eq!(rewritten(&steps, " "), "");
    }

    #[test]
    fn typed_bytes_stay_typed() {
        let source = Text { text: "ae\u{301} b".into(), typed: vec![false, true, true, true, false, true] };
        let steps =
            [Rewrite::Nfc, Rewrite::Replace { from: " ".into(), to: SPACE.into() }, Rewrite::Prepend("_".into())];
        let out = source.rewritten(&steps).unwrap();
        assert_eq!(out.text, "_aé\u{2581}b");
        assert_eq!(out.typed, [false, false, true, true, false, false, false, true]);
        // A character that was typed in part counts as typed.
        let source = Text { text: "e\u{301}".into(), typed: vec![false, true, true] };
        assert_eq!(source.rewritten(&[Rewrite::Nfc]).unwrap().typed, [true, true]);
    }
}
