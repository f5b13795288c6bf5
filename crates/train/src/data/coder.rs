//! Text to tokens.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use sherry::Progress;
use sherry::io::{AtomicFile, hex};
use sherry::model::Checkpoint;
use sherry::tokenizer::{Learner, Tokenizer};
use sherry_kernels::Pool;

use super::Sources;
use super::bytes;
use super::documents::Batches;
use crate::error::{Error, Result};

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
        /// Hash of the tokenizer's files and the separator.
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
                    let bytes = sherry::io::read_regular(file, 512 << 20)?;
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

    /// The coder that goes with the checkpoint folder of a run.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_run(checkpoint: &Path) -> Result<Self> {
        // A run on bytes may come without tokenizer files.
        if checkpoint.join(TOKENIZER_FILES[0]).is_file() { Self::open(checkpoint) } else { Ok(Self::Bytes) }
    }

    /// The tokenizer that comes with a model.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let files = checkpoint.companion_files()?.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        Self::model(checkpoint.path(), checkpoint.tokenizer()?, files)
    }

    /// A byte-level BPE of at most `vocab` tokens learned from `sources`, kept in a folder in `cache` whose name is
    /// made from both.
    ///
    /// # Errors
    /// As reading the sources and [`Learner::learn`].
    pub fn learned(sources: &Sources, vocab: usize, cache: &Path, progress: &dyn Progress) -> Result<Self> {
        let mut key = Sha256::new();
        key.update(b"byte-level BPE, version 1");
        key.update((vocab as u64).to_le_bytes());
        sources.identify(&mut key);
        let folder = cache.join(format!("tokenizer-{}", hex(&key.finalize()[..8])));
        if folder.join(TOKENIZER_FILES[0]).exists() {
            match Self::open(&folder) {
                Ok(coder) => return Ok(coder),
                Err(error) => progress.note(&format!("{error}; learning it again")),
            }
        }
        let tokenizer = learn(sources, vocab, progress)?;
        let found = tokenizer.vocab_size();
        if found < vocab {
            progress.note(&format!("the text has patterns for {found} tokens only, not {vocab}"));
        }
        save_tokenizer(&tokenizer, &folder, true)?;
        Self::open(&folder)
    }

    fn model(path: &Path, tokenizer: Tokenizer, files: Vec<(String, Vec<u8>)>) -> Result<Self> {
        let Some(separator) = separator(&tokenizer) else {
            return Err(Error::data(path, "the tokenizer has no end-of-text token to separate documents with"));
        };
        if files.iter().any(|(name, json)| name == TOKENIZER_FILES[0] && bytes::is(json)) {
            return Ok(Self::Bytes);
        }
        let mut hash = Sha256::new();
        for (name, bytes) in &files {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        hash.update(separator.to_le_bytes());
        Ok(Self::Model { tokenizer: Box::new(tokenizer), separator, fingerprint: hash.finalize().into(), files })
    }

    /// Ids there are.
    pub fn vocab(&self) -> usize {
        match self {
            Self::Bytes => bytes::SEPARATOR as usize + 1,
            Self::Model { tokenizer, .. } => tokenizer.vocab_size(),
        }
    }

    /// What follows every document.
    pub fn separator(&self) -> u32 {
        match self {
            Self::Bytes => bytes::SEPARATOR,
            Self::Model { separator, .. } => *separator,
        }
    }

    /// The tokenizer's files.
    pub fn files(&self) -> &[(String, Vec<u8>)] {
        match self {
            Self::Bytes => bytes::files(),
            Self::Model { files, .. } => files,
        }
    }

    /// What every text begins with where the model was trained so: its begin-of-text token.
    pub(crate) fn opening(&self) -> Option<u32> {
        match self {
            Self::Bytes => None,
            Self::Model { tokenizer, .. } => tokenizer.bos().filter(|_| tokenizer.adds_bos()),
        }
    }

    /// Tokens of `text` and the separator. Control tokens are not recognised in text.
    pub(crate) fn encode(&self, text: &str, progress: &dyn Progress) -> sherry::Result<Vec<u32>> {
        match self {
            Self::Bytes => Ok(text.bytes().map(u32::from).chain([bytes::SEPARATOR]).collect()),
            Self::Model { tokenizer, separator, .. } => {
                let mut ids = tokenizer.encode_long(text, false, false, progress)?;
                ids.push(*separator);
                Ok(ids)
            }
        }
    }

    pub(super) fn fingerprint(&self) -> [u8; 32] {
        match self {
            Self::Bytes => *b"one token per byte, 256 between.",
            Self::Model { fingerprint, .. } => *fingerprint,
        }
    }
}

/// Tokens that separate documents in pretraining wherever a vocabulary has them.
const SEPARATORS: [&str; 2] = ["<|endoftext|>", "<|end_of_text|>"];

/// The token that separated documents when the model of this tokenizer was pretrained: one of that name, or the end of
/// text, or its beginning.
///
/// The name counts for more than the tokenizer's own end of text, since a model tuned to follow instructions comes with the
/// end of a turn there (`<|im_end|>` of SmolLM2-Instruct and of Qwen), which no document ended with.
pub(crate) fn separator(tokenizer: &Tokenizer) -> Option<u32> {
    let named = SEPARATORS.iter().filter_map(|name| tokenizer.token_to_id(name)).find(|id| tokenizer.is_control(*id));
    named.or(tokenizer.eos()).or(tokenizer.bos()).or_else(|| tokenizer.token_to_id("</s>"))
}

/// Learns a byte-level BPE of at most `vocab` tokens from `sources`.
///
/// # Errors
/// As reading the sources and [`Learner::learn`].
pub fn learn(sources: &Sources, vocab: usize, progress: &dyn Progress) -> Result<Tokenizer> {
    let mut learner = Learner::new()?;
    let pool = Pool::new(rayon::current_num_threads());
    Batches::of(sources, "read the text").each(progress, |file, texts| {
        learner.add(texts, &pool).map_err(|error| Error::data(file, error.to_string()))?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(learner.learn(vocab, progress)?)
}

/// Writes `tokenizer` as `tokenizer.json` and `tokenizer_config.json` into `folder`, which is created if need be.
///
/// # Errors
/// [`sherry::Error::Io`]; one of the files exists, and `replace` is not set.
pub fn save_tokenizer(tokenizer: &Tokenizer, folder: &Path, replace: bool) -> Result<[PathBuf; 2]> {
    std::fs::create_dir_all(folder).map_err(sherry::Error::io(folder, "create"))?;
    let paths = [folder.join(TOKENIZER_FILES[0]), folder.join(TOKENIZER_FILES[1])];
    let write = |path: &Path, text: String| {
        let mut file = AtomicFile::create(path)?;
        file.set_replace(replace);
        file.write(text.as_bytes())?;
        file.commit()
    };
    // The tokenizer last: where it is, the folder is complete. Of several that write at once, one gets past the first.
    write(&paths[1], tokenizer.to_config_json())?;
    write(&paths[0], tokenizer.to_json()?)?;
    Ok(paths)
}
