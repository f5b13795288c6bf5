//! SentencePiece's unigram model: of all ways to cut a text into tokens the one with the largest sum of scores (Kudo,
//! arXiv 1804.10959), by dynamic programming over the places where a token may end.
//!
//! Scores are added in f32 from left to right and compared strictly, as SentencePiece does it, so that ties fall alike.

use std::collections::HashMap;

use super::bpe::Unknown;
use super::vocab::{TokenKind, Vocab};
use crate::progress::Watch;
use crate::{Error, Result};

/// What a character without a token costs more than the worst token.
const UNKNOWN_PENALTY: f32 = 10.0;
/// Longest token that is looked for, in bytes: bounds the work per character.
const MAX_TOKEN_BYTES: usize = 512;

/// The tokens and their scores.
pub(super) struct Unigram {
    /// Id and score of every token that the model may choose.
    tokens: HashMap<Box<str>, (u32, f32)>,
    /// Lengths of tokens in bytes, by their first byte: only these are tried.
    lengths: Vec<Vec<u16>>,
    unknown_score: f32,
    pub unknown: Unknown,
}

/// The best way to one place in the text.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    /// Where its last token starts; the place itself where nothing ends there.
    start: u32,
    /// Its last token; `None` for a character without one.
    id: Option<u32>,
}

impl Unigram {
    /// # Errors
    /// [`Error::Tokenizer`] for scores that are not numbers and tokens that are too long.
    pub fn new(vocab: &Vocab, scores: &[f32], unknown: Unknown) -> Result<Self> {
        if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
            return Err(Error::Tokenizer(format!("the score of token {at} is {}", scores[at])));
        }
        let normal = || vocab.iter().filter(|(_, _, kind)| *kind == TokenKind::Normal);
        let score = |id: u32| scores.get(id as usize).copied().unwrap_or_default();
        // SentencePiece starts the search for the largest score from the smallest positive f32.
        let (low, high) = normal()
            .fold((f32::MAX, f32::MIN_POSITIVE), |(low, high), (id, ..)| (low.min(score(id)), high.max(score(id))));
        let mut tokens = HashMap::with_capacity(vocab.len());
        let mut lengths = vec![Vec::new(); 256];
        for (id, text, kind) in vocab.iter().filter(|(id, ..)| vocab.is_normal(*id)) {
            let Some(first) = text.as_bytes().first() else { continue };
            if text.len() > MAX_TOKEN_BYTES {
                let bytes = text.len();
                return Err(Error::Tokenizer(format!("token {id} has {bytes} bytes, more than {MAX_TOKEN_BYTES}")));
            }
            // User-defined tokens are worth more than anything of their length.
            let value = match kind {
                TokenKind::UserDefined => text.len() as f32 * high - 0.1,
                _ => score(id),
            };
            tokens.entry(text.into()).or_insert((id, value));
            lengths[usize::from(*first)].push(text.len() as u16);
        }
        for list in &mut lengths {
            list.sort_unstable();
            list.dedup();
        }
        Ok(Self { tokens, lengths, unknown_score: low - UNKNOWN_PENALTY, unknown })
    }

    /// Appends the tokens of `piece` to `out`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for a character that the vocabulary cannot express; [`Error::Interrupted`] when `watch` says so.
    pub fn encode(&self, piece: &str, out: &mut Vec<u32>, watch: &Watch<'_>) -> Result<()> {
        let none = Best { score: 0.0, start: u32::MAX, id: None };
        let mut best = vec![none; piece.len() + 1];
        for (start, c) in piece.char_indices() {
            watch.step()?;
            let here = best[start].score;
            let mut single = false;
            for length in &self.lengths[usize::from(piece.as_bytes()[start])] {
                let end = start + usize::from(*length);
                let Some((id, score)) = piece.get(start..end).and_then(|text| self.tokens.get(text)) else { continue };
                single |= end - start == c.len_utf8();
                best[end].improve(score + here, start, Some(*id));
            }
            if !single {
                best[start + c.len_utf8()].improve(self.unknown_score + here, start, None);
            }
        }
        let mut cuts = Vec::new();
        let mut end = piece.len();
        while end > 0 {
            let start = best[end].start as usize;
            cuts.push((start..end, best[end].id));
            end = start;
        }
        let mut after_unknown = false;
        for (range, id) in cuts.into_iter().rev() {
            match id {
                Some(id) => {
                    out.push(id);
                    after_unknown = false;
                }
                None => after_unknown = self.unknown.push(&piece[range], after_unknown, out)?,
            }
        }
        Ok(())
    }
}

impl Best {
    fn improve(&mut self, score: f32, start: usize, id: Option<u32>) {
        if self.start == u32::MAX || score > self.score {
            *self = Self { score, start: start as u32, id };
        }
    }
}
