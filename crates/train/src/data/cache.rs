//! Tokens on disk: a header of [`HEADER`] bytes, then one little-endian u16 or u32 per token.

use std::io;
use std::ops::Range;
use std::path::Path;

use sha2::{Digest, Sha256};
use sherry::Progress;
use sherry::io::{AtomicFile, FileBytes, ReadMode};
use sherry_kernels::Bytes;

use crate::error::{Result, uninterrupted};

const MAGIC: &[u8; 8] = b"SHRYTOK1";
/// Magic, bytes per token (u64), tokens (u64), key of the sources, SHA-256 of the tokens as stored.
const HEADER: usize = 8 + 8 + 8 + 32 + 32;

/// Tokens of a mapped file, or in memory.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    bytes: Bytes,
    width: usize,
    /// SHA-256 of the tokens as stored.
    pub hash: [u8; 32],
}

impl Tokens {
    /// Of a vector.
    pub fn of(tokens: &[u32]) -> Self {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        Self { hash: Sha256::digest(&bytes).into(), bytes: bytes.into(), width: 4 }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / self.width
    }

    /// Appends the tokens of `range` to `out`.
    pub fn extend(&self, range: Range<usize>, out: &mut Vec<u32>) {
        let bytes = &self.bytes[range.start * self.width..range.end * self.width];
        if self.width == 2 {
            out.extend(bytes.as_chunks::<2>().0.iter().map(|bytes| u32::from(u16::from_le_bytes(*bytes))));
        } else {
            out.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)));
        }
    }
}

/// A token file being written.
pub(super) struct Writer {
    file: AtomicFile,
    width: usize,
    count: u64,
    hash: Sha256,
}

impl Writer {
    /// Starts the file `path` for tokens below `vocab`.
    pub fn create(path: &Path, vocab: usize) -> Result<Self> {
        let mut file = AtomicFile::create(path)?;
        file.write(&[0; HEADER])?;
        Ok(Self { file, width: if vocab <= 1 << 16 { 2 } else { 4 }, count: 0, hash: Sha256::new() })
    }

    /// Tokens written so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn write(&mut self, tokens: &[u32]) -> Result<()> {
        let mut bytes = Vec::with_capacity(tokens.len() * self.width);
        for token in tokens {
            bytes.extend(&token.to_le_bytes()[..self.width]);
        }
        self.hash.update(&bytes);
        self.count += tokens.len() as u64;
        Ok(self.file.write(&bytes)?)
    }

    /// Makes the file whole: tokens of the sources that `key` identifies.
    pub fn finish(mut self, key: &[u8; 32]) -> Result<()> {
        let mut header = Vec::with_capacity(HEADER);
        header.extend(MAGIC);
        header.extend((self.width as u64).to_le_bytes());
        header.extend(self.count.to_le_bytes());
        header.extend(key);
        header.extend(self.hash.finalize());
        self.file.overwrite(0, &header)?;
        Ok(self.file.commit()?)
    }
}

/// Bytes hashed between two looks at whether to stop.
const PIECE: usize = 1 << 24;

/// The tokens in `path`, mapped and checked; `None` when there is no such file. The inner error says why it cannot be used.
///
/// # Errors
/// [`sherry::Error::Interrupted`].
pub(super) fn open(path: &Path, key: &[u8; 32], progress: &dyn Progress) -> Result<Result<Option<Tokens>, String>> {
    let file = match FileBytes::open(path, ReadMode::Map) {
        Ok(file) => file,
        Err(sherry::Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(Ok(None)),
        Err(error) => return Ok(Err(error.to_string())),
    };
    let bytes = file.bytes();
    let mut hash = Sha256::new();
    for piece in bytes.get(HEADER..).unwrap_or_default().chunks(PIECE) {
        uninterrupted(progress)?;
        hash.update(piece);
    }
    Ok(checked(bytes, key, hash.finalize().into()).ok_or_else(|| format!("{}: damaged", path.display())).map(Some))
}

/// The tokens in `bytes`, a whole file whose tokens have this hash; `None` when the header says otherwise.
fn checked(bytes: &Bytes, key: &[u8; 32], hash: [u8; 32]) -> Option<Tokens> {
    let (header, payload) = bytes.split_at_checked(HEADER)?;
    let number = |at: usize| header[at..at + 8].iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
    let (width, count) = (number(8), number(16));
    let whole = width.checked_mul(count) == Some(payload.len() as u64) && (width == 2 || width == 4);
    if header[..8] != *MAGIC || header[24..56] != *key || !whole || header[56..88] != hash {
        return None;
    }
    Some(Tokens { bytes: bytes.slice(HEADER..bytes.len())?, width: width as usize, hash })
}
