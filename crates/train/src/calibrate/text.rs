//! The text that a model is calibrated on: sequences of equal length, drawn at random from files.

use std::path::Path;

use sherry::Progress;

use super::spaced::spaced;
use crate::data::{Coder, Excerpts, Sources};
use crate::error::{Error, Result};
use crate::rng::Rng;

/// Bytes of an excerpt per token of a sequence: a sequence of usual text has few excerpts, and most of each is used.
const EXCERPT: usize = 5;
/// Bytes drawn per token that is wanted: more than any but degenerate text has.
const DRAWN: usize = 8;

/// Sequences of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// Tokens per sequence.
    pub length: usize,
    /// All sequences, one after the other.
    pub tokens: Vec<u32>,
}

impl Text {
    /// Sequences there are.
    pub fn sequences(&self) -> usize {
        self.tokens.len() / self.length.max(1)
    }

    /// These sequences in a random order that depends on the seed.
    pub fn shuffled<'a>(sequences: impl Iterator<Item = &'a [u32]>, length: usize, seed: u64) -> Self {
        let all: Vec<&[u32]> = sequences.collect();
        let order = Rng::new(seed, SHUFFLE).permutation(all.len());
        Self { length, tokens: order.iter().flat_map(|&i| all[i as usize]).copied().collect() }
    }
}

/// Streams of random numbers of a seed.
const SHUFFLE: u64 = 1 << 40;
const EXCERPTS: u64 = 2 << 40;

/// `needed` sequences of `length` tokens from these files, and up to `more` as there is text for: excerpts of documents, drawn
/// with equal chances over all of it and begun at a word, each sequence after the begin-of-text token of models that have
/// one. Documents follow each other with a separator between them. The share `share` of the excerpts is written as
/// [`spaced()`] has it. Who asks for more gets the same and more.
///
/// # Errors
/// [`Error::Data`] naming the file: unreadable, or with too little text.
pub fn draw(
    sources: &Sources,
    coder: &Coder,
    length: usize,
    (needed, more): (usize, usize),
    share: f64,
    seed: u64,
    progress: &dyn Progress,
) -> Result<Text> {
    let sequences = needed.saturating_add(more);
    let room = DRAWN.saturating_mul(length).saturating_mul(sequences);
    let mut excerpts = Excerpts::new(EXCERPT.saturating_mul(length), room, Rng::new(seed, EXCERPTS));
    let path = sources.each_excerpt(&mut excerpts, progress)?;
    let mut text = Text { length, tokens: Vec::new() };
    let mut open = Vec::new();
    'drawing: for (i, mut excerpt) in excerpts.in_order().enumerate() {
        // As evenly spread as it can be: where the sum of the shares becomes another whole number.
        if (share * (i + 1) as f64).floor() > (share * i as f64).floor() {
            excerpt = spaced(&excerpt);
        }
        let mut ids = &coder.encode(&excerpt, progress).map_err(|error| Error::data(&path, error.to_string()))?[..];
        while !ids.is_empty() {
            if text.sequences() == sequences {
                break 'drawing;
            }
            if open.is_empty() {
                open.extend(coder.opening());
            }
            let (now, rest) = ids.split_at(ids.len().min(length - open.len()));
            open.extend(now);
            ids = rest;
            if open.len() == length {
                text.tokens.append(&mut open);
            }
        }
    }
    if text.sequences() < needed {
        return Err(too_little(&path, text.sequences() * length, needed * length));
    }
    Ok(text)
}

fn too_little(path: &Path, found: usize, wanted: usize) -> Error {
    let problem = format!(
        "has text for {found} tokens of calibration only, {wanted} are to come from it; --tokens asks for fewer"
    );
    Error::data(path, problem)
}
