//! Checksums of files.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};
use sherry::io::open_regular;
use sherry::{Error, Progress, Result};

/// Bytes that are hashed between two looks at whether to stop.
const PIECE: usize = 1 << 20;

/// SHA-256 of the contents of the file `path`.
///
/// # Errors
/// [`Error::Io`]; [`Error::Interrupted`] when `progress` says so.
pub fn file_sha256(path: &Path, progress: &dyn Progress) -> Result<[u8; 32]> {
    let mut file = open_regular(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; PIECE]);
    loop {
        if progress.is_cancelled() {
            return Err(Error::Interrupted);
        }
        match file.read(&mut buffer).map_err(Error::io(path, "read"))? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&buffer[..read]),
        }
    }
}
