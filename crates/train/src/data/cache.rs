//! Tokens on disk: header, then one little-endian u16 or u32 per token.

use std::path::Path;

use sha2::{Digest, Sha256};
use sherry::io::AtomicFile;

use crate::error::Result;

const MAGIC: &[u8; 8] = b"SHRYTOK1";
/// Magic, bytes per token, tokens (u64), source key, hash of the tokens.
const HEADER: usize = 8 + 8 + 8 + 32 + 32;

/// Writes `tokens` to `path`.
pub(super) fn write(path: &Path, key: &[u8; 32], tokens: &[u32]) -> Result<()> {
    let narrow = tokens.iter().all(|&token| token <= u32::from(u16::MAX));
    let mut payload = Vec::with_capacity(tokens.len() * if narrow { 2 } else { 4 });
    for token in tokens {
        let bytes = token.to_le_bytes();
        payload.extend(if narrow { &bytes[..2] } else { &bytes[..] });
    }
    let mut file = AtomicFile::create(path)?;
    file.write(MAGIC)?;
    file.write(&(if narrow { 2u64 } else { 4 }).to_le_bytes())?;
    file.write(&(tokens.len() as u64).to_le_bytes())?;
    file.write(key)?;
    file.write(&Sha256::digest(&payload))?;
    file.write(&payload)?;
    file.commit()?;
    Ok(())
}

/// The tokens in `path`; `None` when there is no such file. The error says why the file cannot be used.
pub(super) fn read(path: &Path, key: &[u8; 32]) -> Result<Option<Vec<u32>>, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let damaged = || format!("{}: damaged", path.display());
    let (header, payload) = bytes.split_at_checked(HEADER).ok_or_else(damaged)?;
    let number = |at: usize| header[at..at + 8].iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
    let (width, count) = (number(8), number(16));
    let whole = width.checked_mul(count) == Some(payload.len() as u64) && (width == 2 || width == 4);
    let hash: [u8; 32] = Sha256::digest(payload).into();
    if header[..8] != *MAGIC || header[24..56] != *key || !whole || header[56..88] != hash {
        return Err(damaged());
    }
    let token = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |n, &byte| n << 8 | u32::from(byte));
    Ok(Some(payload.chunks_exact(width as usize).map(token).collect()))
}
