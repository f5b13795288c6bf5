//! The text that a model is calibrated on: sequences of equal length, drawn at random from files.

use std::path::Path;

use sherry::Progress;

use crate::data::{Coder, Excerpts, Sources};
use crate::error::{Error, Result};
use crate::rng::Rng;

/// Bytes of an excerpt per token that is wanted of it: more than any but degenerate text has.
const BYTES_PER_TOKEN: usize = 8;

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

    /// The sequences of `parts` in a random order that depends on the seed.
    pub fn shuffled(parts: &[Self], length: usize, seed: u64) -> Self {
        let all: Vec<&[u32]> = parts.iter().flat_map(|part| part.tokens.chunks_exact(length)).collect();
        let order = Rng::new(seed, SHUFFLE).permutation(all.len());
        Self { length, tokens: order.iter().flat_map(|&i| all[i as usize]).copied().collect() }
    }
}

/// Streams of random numbers of a seed.
const SHUFFLE: u64 = 1 << 40;
const EXCERPTS: u64 = 2 << 40;

/// `sequences` sequences of `length` tokens from the file `path`: excerpts of documents, drawn with equal chances over the
/// whole file and begun at a word. Short documents follow each other with a separator between them.
///
/// # Errors
/// [`Error::Data`] naming the file: unreadable, or with too little text.
pub fn draw(
    sources: &Sources,
    coder: &Coder,
    length: usize,
    sequences: usize,
    seed: u64,
    progress: &dyn Progress,
) -> Result<Text> {
    let bytes = length.saturating_mul(BYTES_PER_TOKEN);
    // Short documents fill less than a sequence each.
    let mut excerpts = Excerpts::new(bytes, sequences.saturating_mul(4), Rng::new(seed, EXCERPTS));
    let path = sources.each_excerpt(&mut excerpts, progress)?;
    let mut text = Text { length, tokens: Vec::new() };
    let mut open = Vec::new();
    for excerpt in excerpts.shuffled() {
        if text.sequences() == sequences {
            break;
        }
        let ids = coder.encode(&excerpt).map_err(|error| Error::data(&path, error.to_string()))?;
        if open.is_empty() && ids.len() > length {
            text.tokens.extend(&ids[..length]);
            continue;
        }
        open.extend(ids);
        if open.len() >= length {
            text.tokens.extend(&open[..length]);
            open.clear();
        }
    }
    if text.sequences() < sequences {
        return Err(too_little(&path, text.sequences() * length, sequences * length));
    }
    Ok(text)
}

fn too_little(path: &Path, found: usize, wanted: usize) -> Error {
    let problem = format!(
        "has text for {found} tokens of calibration only, {wanted} are to come from it; --tokens asks for fewer"
    );
    Error::data(path, problem)
}
