//! Text becomes one long sequence of tokens, cut into windows, visited in a shuffled order.
//!
//! Documents follow each other with a separator after each; nothing is thrown away: a document may span windows, and
//! the last window of the stream is filled up with padding that no loss sees. Every token but the first is a target
//! exactly once per pass over the data.

mod bytes;
mod cache;
mod coder;
mod documents;
mod evaluation_sets;
mod excerpts;
mod sources;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use sherry::Progress;
use sherry::io::hex;

use cache::Tokens;
use documents::Batches;

pub(crate) use coder::separator;
pub use coder::{Coder, learn, save_tokenizer};
pub use excerpts::Excerpts;
pub use sources::{Sources, Split};

use crate::error::{Error, Result, uninterrupted};
use crate::loss::IGNORED;
use crate::rng::Rng;

/// Tokenized text.
///
/// ```
/// use sherry_train::data::Dataset;
/// use sherry_train::loss::IGNORED;
///
/// let data = Dataset::of_tokens(&[1, 2, 3, 4, 5], 3).unwrap();
/// let (mut tokens, mut targets) = (Vec::new(), Vec::new());
/// (0..data.windows()).for_each(|window| data.push_window(window, &mut tokens, &mut targets));
/// assert_eq!(tokens, [1, 2, 3, 4, 0, 0]);
/// assert_eq!(targets, [2, 3, 4, 5, IGNORED, IGNORED]);
/// ```
#[derive(Clone, Debug)]
pub struct Dataset {
    tokens: Tokens,
    length: usize,
    /// Name of the file in the cache that holds the tokens; empty when they came from elsewhere.
    file: String,
    separator: Option<u32>,
}

impl Dataset {
    /// The tokens of `sources` in windows of `length`, mapped from a file in the folder `cache`. What was tokenized once
    /// is kept there under a name made from the contents of the sources and the tokenizer, so a changed file is never
    /// mistaken for the old one.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file (and line): unreadable, truncated, not UTF-8, not JSON, without text, or too
    /// little of it.
    pub fn open(
        sources: &Sources,
        coder: &Coder,
        length: usize,
        cache: &Path,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut key = Sha256::new();
        key.update(coder.fingerprint());
        sources.identify(&mut key);
        if let Some(limit) = sources.max_tokens {
            key.update(b"at most");
            key.update(limit.to_le_bytes());
        }
        let key: [u8; 32] = key.finalize().into();
        let file = format!("{}.tokens", hex(&key[..8]));
        let path = cache.join(&file);
        let tokens = match cache::open(&path, &key, progress)? {
            Ok(Some(tokens)) => tokens,
            other => {
                if let Err(problem) = other {
                    progress.note(&format!("{problem}; tokenizing again"));
                }
                std::fs::create_dir_all(cache).map_err(sherry::Error::io(cache, "create"))?;
                sherry::io::sweep(cache); // what killed runs left of other texts
                let mut writer = cache::Writer::create(&path, coder.vocab())?;
                tokenize(sources, coder, &mut writer, progress)?;
                writer.finish(&key)?;
                let written = cache::open(&path, &key, progress)?.map_err(|problem| Error::data(&path, problem))?;
                written.ok_or_else(|| Error::data(&path, "vanished"))?
            }
        };
        let first = sources.files.first().map_or(Path::new(""), PathBuf::as_path);
        let data = Self::new(tokens, length).ok_or_else(|| Error::data(first, sources.too_little()))?;
        Ok(Self { file, separator: Some(coder.separator()), ..data })
    }

    /// A dataset of these tokens; `None` for fewer than two.
    pub fn of_tokens(tokens: &[u32], length: usize) -> Option<Self> {
        Self::new(Tokens::of(tokens), length)
    }

    fn new(tokens: Tokens, length: usize) -> Option<Self> {
        (tokens.len() >= 2 && length > 0).then_some(Self { tokens, length, file: String::new(), separator: None })
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Windows.
    pub fn windows(&self) -> usize {
        (self.tokens.len() - 1).div_ceil(self.length)
    }

    /// Identifies the tokens: SHA-256 of the tokens as stored.
    pub fn hash(&self) -> String {
        hex(&self.tokens.hash)
    }

    /// The token that follows every document, where it is known.
    pub fn separator(&self) -> Option<u32> {
        self.separator
    }

    /// Where the tokens lie in the cache, for programs that read them from there (`python/sherry_torch`).
    pub fn describe(&self) -> serde_json::Value {
        let (tokens, hash) = (self.tokens(), self.hash());
        serde_json::json!({ "file": self.file, "tokens": tokens, "hash": hash, "separator": self.separator })
    }

    /// Targets of window `index` that count.
    pub fn targets(&self, index: usize) -> usize {
        self.length.min(self.tokens.len() - 1 - index * self.length)
    }

    /// Appends window `index`: inputs to `tokens`, the token after each to `targets`; padding is ignored.
    pub fn push_window(&self, index: usize, tokens: &mut Vec<u32>, targets: &mut Vec<u32>) {
        let start = index * self.length;
        let end = start + self.targets(index);
        let padding = self.length - (end - start);
        self.tokens.extend(start..end, tokens);
        tokens.extend(std::iter::repeat_n(0, padding));
        self.tokens.extend(start + 1..end + 1, targets);
        targets.extend(std::iter::repeat_n(IGNORED, padding));
    }
}

/// The order in which windows are visited: every pass over the data in its own random order. The cursor says it all.
#[derive(Debug)]
pub struct Order {
    seed: u64,
    windows: usize,
    pass: u64,
    permutation: Vec<u32>,
    cursor: u64,
}

impl Order {
    /// Continues after `cursor` windows.
    pub fn new(seed: u64, windows: usize, cursor: u64) -> Self {
        let pass = cursor / windows as u64;
        Self { seed, windows, pass, permutation: Self::permutation(seed, windows, pass), cursor }
    }

    fn permutation(seed: u64, windows: usize, pass: u64) -> Vec<u32> {
        Rng::new(seed, pass.wrapping_add(1 << 32)).permutation(windows)
    }

    /// Windows visited so far.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The next window.
    pub fn next_window(&mut self) -> usize {
        let (pass, at) = (self.cursor / self.windows as u64, (self.cursor % self.windows as u64) as usize);
        if pass != self.pass {
            self.pass = pass;
            self.permutation = Self::permutation(self.seed, self.windows, pass);
        }
        self.cursor += 1;
        self.permutation[at] as usize
    }
}

fn tokenize(sources: &Sources, coder: &Coder, out: &mut cache::Writer, progress: &dyn Progress) -> Result<()> {
    Batches::of(sources, "tokenize").each(progress, |file, texts| {
        let encode = |text: &String| uninterrupted(progress).and_then(|()| coder.encode(text, progress));
        let encoded: Vec<_> = texts.par_iter().map(encode).collect();
        for ids in encoded {
            out.write(&ids.map_err(|error| match error {
                sherry::Error::Interrupted => error.into(),
                error => Error::data(file, error.to_string()),
            })?)?;
            if sources.max_tokens.is_some_and(|limit| out.count() >= limit) {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}
