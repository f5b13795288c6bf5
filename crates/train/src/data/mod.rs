//! Text becomes one long sequence of tokens, cut into windows, visited in a shuffled order.
//!
//! Documents follow each other with a separator after each; nothing is thrown away: a document may span windows, and
//! the last window of the stream is filled up with padding that no loss sees. Every token but the first is a target
//! exactly once per pass over the data.

mod cache;
mod documents;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use sherry::Progress;
use sherry::model::Checkpoint;
use sherry::tokenizer::Tokenizer;

use crate::error::{Error, Result};
use crate::loss::IGNORED;
use crate::rng::Rng;

/// Text to tokens.
pub enum Coder {
    /// Every byte is a token; 256 separates documents.
    Bytes,
    /// A model's tokenizer.
    Model {
        /// The tokenizer.
        tokenizer: Box<Tokenizer>,
        /// Ends every document.
        separator: u32,
        /// Hash of the tokenizer's files.
        fingerprint: [u8; 32],
        /// The files, to go with every checkpoint.
        files: Vec<(String, Vec<u8>)>,
    },
}

/// Files of a folder that belong to its tokenizer.
const TOKENIZER_FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

impl Coder {
    /// The coder that `path` names: "bytes", a folder with a tokenizer, a `tokenizer.json`, or a model file.
    ///
    /// # Errors
    /// When there is none, or it has no end-of-text token to separate documents with.
    pub fn open(path: &Path) -> Result<Self> {
        if path == Path::new("bytes") {
            return Ok(Self::Bytes);
        }
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        if path.is_dir() || is_json {
            let folder = if is_json { path.parent().unwrap_or(Path::new("")) } else { path };
            let mut files = Vec::new();
            for name in TOKENIZER_FILES {
                // A file named on its own comes alone; beside it may lie another tokenizer's files.
                let file = folder.join(name);
                let file = if is_json && name == TOKENIZER_FILES[0] { path } else { &file };
                if file.is_file() && (!is_json || name == TOKENIZER_FILES[0]) {
                    let bytes = std::fs::read(file).map_err(sherry::Error::io(file, "read"))?;
                    files.push((name.to_owned(), bytes));
                }
            }
            let tokenizer = if is_json {
                let json = files.first().map_or(&[][..], |(_, bytes)| bytes);
                Tokenizer::from_json(json, None, None).map_err(|error| Error::data(path, error.to_string()))?
            } else {
                Tokenizer::from_folder(folder)?
            };
            return Self::model(path, tokenizer, files);
        }
        let checkpoint = Checkpoint::open(path, sherry::io::ReadMode::Map)?;
        Self::of_checkpoint(&checkpoint)
    }

    /// The tokenizer that comes with a model.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let files = checkpoint.companion_files()?.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        Self::model(checkpoint.path(), checkpoint.tokenizer()?, files)
    }

    fn model(path: &Path, tokenizer: Tokenizer, files: Vec<(String, Vec<u8>)>) -> Result<Self> {
        let separator = tokenizer.eos().or(tokenizer.bos());
        let separator = separator.or_else(|| ["<|endoftext|>", "</s>"].iter().find_map(|t| tokenizer.token_to_id(t)));
        let Some(separator) = separator else {
            return Err(Error::data(path, "the tokenizer has no end-of-text token to separate documents with"));
        };
        let mut hash = Sha256::new();
        for (name, bytes) in &files {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        Ok(Self::Model { tokenizer: Box::new(tokenizer), separator, fingerprint: hash.finalize().into(), files })
    }

    /// Ids there are.
    pub fn vocab(&self) -> usize {
        match self {
            Self::Bytes => 257,
            Self::Model { tokenizer, .. } => tokenizer.vocab_size(),
        }
    }

    /// The tokenizer's files.
    pub fn files(&self) -> &[(String, Vec<u8>)] {
        match self {
            Self::Bytes => &[],
            Self::Model { files, .. } => files,
        }
    }

    /// Tokens of `text` and the separator. Control tokens are not recognised in text.
    fn encode(&self, text: &str) -> sherry::Result<Vec<u32>> {
        match self {
            Self::Bytes => Ok(text.bytes().map(u32::from).chain([256]).collect()),
            Self::Model { tokenizer, separator, .. } => {
                let mut ids = tokenizer.encode(text, false, false)?;
                ids.push(*separator);
                Ok(ids)
            }
        }
    }

    fn fingerprint(&self) -> [u8; 32] {
        match self {
            Self::Bytes => *b"one token per byte, 256 between.",
            Self::Model { fingerprint, .. } => *fingerprint,
        }
    }
}

/// Tokenized text in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    tokens: Vec<u32>,
    length: usize,
    hash: [u8; 32],
    /// Name of the file in the cache that holds the tokens; empty when they came from elsewhere.
    file: String,
}

/// Documents tokenized at a time, in parallel.
const DOCUMENTS: usize = 256;

impl Dataset {
    /// The tokens of `files` in windows of `length`. What was tokenized once is kept in the folder `cache` under a name
    /// made from the contents of the files and the tokenizer, so a changed file is never mistaken for the old one.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file (and line): unreadable, truncated, not UTF-8, not JSON, without text, or too
    /// little of it.
    pub fn open(
        files: &[PathBuf],
        text_field: &str,
        coder: &Coder,
        length: usize,
        cache: &Path,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let key = source_key(files, text_field, coder)?;
        let file = format!("{}.tokens", hex(&key[..8]));
        let path = cache.join(&file);
        let tokens = match cache::read(&path, &key) {
            Ok(Some(tokens)) => tokens,
            other => {
                if let Err(problem) = other {
                    progress.note(&format!("{problem}; tokenizing again"));
                }
                let tokens = tokenize(files, text_field, coder, progress)?;
                std::fs::create_dir_all(cache).map_err(sherry::Error::io(cache, "create"))?;
                cache::write(&path, &key, &tokens)?;
                tokens
            }
        };
        let data = Self::new(tokens, length).ok_or_else(|| {
            let first = files.first().map_or(Path::new(""), PathBuf::as_path);
            Error::data(first, "holds fewer than two tokens of text")
        })?;
        Ok(Self { file, ..data })
    }

    /// A dataset of these tokens; `None` for fewer than two.
    pub fn new(tokens: Vec<u32>, length: usize) -> Option<Self> {
        if tokens.len() < 2 || length == 0 {
            return None;
        }
        let mut hash = Sha256::new();
        for token in &tokens {
            hash.update(token.to_le_bytes());
        }
        Some(Self { tokens, length, hash: hash.finalize().into(), file: String::new() })
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Windows.
    pub fn windows(&self) -> usize {
        (self.tokens.len() - 1).div_ceil(self.length)
    }

    /// Identifies the tokens.
    pub fn hash(&self) -> String {
        hex(&self.hash)
    }

    /// Where the tokens lie in the cache, for programs that read them from there (`python/sherry_torch`).
    pub fn describe(&self) -> serde_json::Value {
        serde_json::json!({ "file": self.file, "tokens": self.tokens(), "hash": self.hash() })
    }

    /// Appends window `index`: inputs to `tokens`, the token after each to `targets`; padding is ignored.
    pub fn push_window(&self, index: usize, tokens: &mut Vec<u32>, targets: &mut Vec<u32>) {
        let start = index * self.length;
        let end = (start + self.length).min(self.tokens.len() - 1);
        let padding = self.length - (end - start);
        tokens.extend(&self.tokens[start..end]);
        tokens.extend(std::iter::repeat_n(0, padding));
        targets.extend(&self.tokens[start + 1..=end]);
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

fn tokenize(files: &[PathBuf], text_field: &str, coder: &Coder, progress: &dyn Progress) -> Result<Vec<u32>> {
    let mut tokens = Vec::new();
    progress.start("tokenize", files.len() as u64);
    for file in files {
        let mut batch: Vec<String> = Vec::new();
        let mut documents = 0usize;
        let mut flush = |batch: &mut Vec<String>| -> Result<()> {
            let encoded: Vec<_> = batch.par_iter().map(|text| coder.encode(text)).collect();
            for ids in encoded {
                tokens.extend(ids.map_err(|error| Error::data(file, error.to_string()))?);
            }
            batch.clear();
            if progress.is_cancelled() { Err(sherry::Error::Interrupted.into()) } else { Ok(()) }
        };
        documents::read(file, text_field, |text| {
            documents += 1;
            batch.push(text);
            if batch.len() == DOCUMENTS { flush(&mut batch) } else { Ok(()) }
        })?;
        flush(&mut batch)?;
        if documents == 0 {
            return Err(Error::data(file, "holds no text"));
        }
        progress.advance(1);
    }
    progress.finish();
    Ok(tokens)
}

/// Hash of everything that the tokens depend on.
fn source_key(files: &[PathBuf], text_field: &str, coder: &Coder) -> Result<[u8; 32]> {
    let mut key = Sha256::new();
    key.update(coder.fingerprint());
    key.update((text_field.len() as u64).to_le_bytes());
    key.update(text_field);
    for file in files {
        key.update(crate::checkpoint::file_hash(file)?);
        // The name decides how the contents are read.
        key.update([documents::is_jsonl(file) as u8]);
    }
    Ok(key.finalize().into())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
