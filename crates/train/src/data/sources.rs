//! Which files and which of their documents a text consists of.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use sherry::Progress;
use sherry_measure::file_sha256;

use super::documents::Kind;
use crate::config::Data;
use crate::error::{Error, Result};

/// Files with text, and what identifies their contents.
#[derive(Clone, Debug)]
pub struct Sources {
    pub(super) files: Vec<PathBuf>,
    hashes: Vec<[u8; 32]>,
    pub(super) text_field: String,
    pub(super) split: Option<Split>,
    /// The text ends with the document that reaches so many tokens.
    pub(super) max_tokens: Option<u64>,
}

/// One of the two parts of some documents.
///
/// A document belongs to the validation part when the first eight bytes of the SHA-256 of its text, as a little-endian
/// number, lie below the fraction of 2^64. So it does not depend on the order of the documents or on which others there
/// are, and equal documents stay together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// The share of documents in the validation part.
    pub fraction: f64,
    /// Whether this is the validation part.
    pub is_valid: bool,
}

impl Split {
    /// Whether a document belongs to this part.
    pub fn takes(&self, text: &str) -> bool {
        let hash = Sha256::digest(text);
        let number = hash[..8].iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
        // A fraction times 2^64 is exact, and so is the conversion, which rounds towards zero.
        (number < (self.fraction * 2f64.powi(64)) as u64) == self.is_valid
    }
}

impl Sources {
    /// These files, or those that patterns such as `shards/*.parquet` stand for, by name; `text_field` of a JSONL line or a
    /// Parquet row holds the text.
    ///
    /// # Errors
    /// [`Error::Data`] for a pattern that nothing matches; [`sherry::Error::Io`] for a file that cannot be read;
    /// [`sherry::Error::Interrupted`].
    pub fn open(files: &[PathBuf], text_field: &str, progress: &dyn Progress) -> Result<Self> {
        let files: Vec<PathBuf> =
            files.iter().map(|file| expanded(file)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let hashes = files.par_iter().map(|file| file_sha256(file, progress)).collect::<sherry::Result<_>>()?;
        Ok(Self { files, hashes, text_field: text_field.to_owned(), split: None, max_tokens: None })
    }

    /// Training and validation text of a run.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_run(data: &Data, progress: &dyn Progress) -> Result<(Self, Option<Self>)> {
        if let Some(path) = data.train.iter().chain(&data.valid).find(|path| !is_pattern(path) && !path.exists()) {
            let problem = "no such file; data.train and data.valid name texts, as seen from where the command was \
                           started, and a recipe says above [data] where its text comes from";
            return Err(Error::data(path, problem));
        }
        let open = |files: &[PathBuf]| Self::open(files, &data.text_field, progress);
        let train = open(&data.train)?;
        let (train, valid) = match (data.valid_fraction, &data.valid[..]) {
            (0.0, []) => (train, None),
            (0.0, files) => (train, Some(open(files)?)),
            (fraction, _) => {
                let part = |is_valid| train.part(Split { fraction, is_valid });
                (part(false), Some(part(true)))
            }
        };
        Ok((Self { max_tokens: data.max_tokens, ..train }, valid))
    }

    /// One part of the documents of these files.
    #[must_use]
    pub fn part(&self, split: Split) -> Self {
        Self { split: Some(split), ..self.clone() }
    }

    /// A file of these that is also, under whatever name, one of `other`: both names.
    pub fn shared_with<'a>(&'a self, other: &'a Self) -> Option<(&'a Path, &'a Path)> {
        self.files.iter().zip(&self.hashes).find_map(|(file, hash)| {
            let at = other.hashes.iter().position(|other| other == hash)?;
            Some((file.as_path(), other.files[at].as_path()))
        })
    }

    /// Adds all that the documents depend on.
    pub(super) fn identify(&self, key: &mut Sha256) {
        key.update((self.text_field.len() as u64).to_le_bytes());
        key.update(&self.text_field);
        for (file, hash) in self.files.iter().zip(&self.hashes) {
            key.update(hash);
            // The name decides how the contents are read.
            key.update([Kind::of(file).tag()]);
        }
        if let Some(Split { fraction, is_valid }) = self.split {
            key.update([u8::from(is_valid)]);
            key.update(fraction.to_le_bytes());
        }
    }

    /// What to say of fewer than two tokens.
    pub(super) fn too_little(&self) -> String {
        match self.split {
            None => "holds fewer than two tokens of text".to_owned(),
            Some(Split { fraction, is_valid }) => {
                let part = if is_valid { "validation" } else { "training" };
                format!(
                    "the documents leave no text for {part} with data.valid_fraction {fraction}: give more documents, or \
                     validation text of its own in data.valid (a plain text file is one document)"
                )
            }
        }
    }
}

/// Whether `path` has characters that stand for others.
fn is_pattern(path: &Path) -> bool {
    path.to_str().is_some_and(|name| name.contains(['*', '?', '[']))
}

/// The files that `path` stands for: itself, if there is a file of that name or it is no pattern.
fn expanded(path: &Path) -> Result<Vec<PathBuf>> {
    let Some(pattern) = path.to_str().filter(|_| is_pattern(path) && !path.exists()) else {
        return Ok(vec![path.to_path_buf()]);
    };
    let bad = |problem: String| Error::data(path, problem);
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let found = glob::glob_with(pattern, options).map_err(|error| bad(format!("is no pattern: {error}")))?;
    let found: Vec<PathBuf> = found.collect::<Result<_, _>>().map_err(|error| bad(error.to_string()))?;
    let files: Vec<PathBuf> = found.into_iter().filter(|path| path.is_file()).collect();
    if files.is_empty() {
        return Err(bad("no file has a name of this pattern".to_owned()));
    }
    Ok(files)
}
