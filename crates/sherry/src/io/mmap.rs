//! Whole files as bytes: mapped, or read into memory.
#![allow(unsafe_code)] // the one file of the library that maps memory

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
#[cfg(feature = "mmap")]
use std::sync::Arc;

#[cfg(feature = "mmap")]
use memmap2::Mmap;
use sherry_kernels::Bytes;

use crate::{Error, Result};

/// How to get at a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReadMode {
    /// Map it: loads lazily, shares pages between processes. A file that another process truncates while it is mapped
    /// ends this process with SIGBUS. Without the feature `mmap`, and in WebAssembly, files are read.
    #[default]
    Map,
    /// Read it into memory at once: slower to start, safe from truncation.
    Read,
}

/// Files up to this size are read rather than mapped, so that headers, tokenizers and small models cannot cause SIGBUS.
#[cfg(feature = "mmap")]
const ALWAYS_READ: u64 = 1 << 20;

/// The contents of one file.
#[derive(Clone, Debug)]
pub struct FileBytes {
    bytes: Bytes,
    #[cfg(feature = "mmap")]
    map: Option<Arc<Mmap>>,
}

impl FileBytes {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened, mapped or read; [`Error::Malformed`] when it is not a regular file.
    pub fn open(path: &Path, mode: ReadMode) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let meta = file.metadata().map_err(Error::io(path, "read the size of"))?;
        if !meta.is_file() {
            return Err(Error::malformed(path, "file", "not a regular file"));
        }
        #[cfg(feature = "mmap")]
        if mode == ReadMode::Map && !cfg!(target_family = "wasm") && meta.len() > ALWAYS_READ {
            // SAFETY: the mapping is private and read-only; the documented hazard (another process changing or truncating
            // the file) is inherent to mapping and can be avoided with `ReadMode::Read`.
            let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
            let map = Arc::new(map);
            return Ok(Self { bytes: Bytes::new(Arc::<Mmap>::clone(&map)), map: Some(map) });
        }
        let _ = mode; // without mappings both are the same
        let mut bytes = Vec::new();
        let size = usize::try_from(meta.len()).unwrap_or(usize::MAX);
        if bytes.try_reserve_exact(size).is_err() {
            return Err(Error::malformed(path, "file", format!("{size} bytes do not fit into memory")));
        }
        file.read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
        Ok(Self::from(Bytes::from(bytes)))
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Lets the system drop the resident pages that hold `range`; reading them again is slower but still correct. Does
    /// nothing where nothing is mapped.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(all(unix, feature = "mmap"))]
        if let Some(map) = &self.map {
            let end = range.end.min(map.len());
            if range.start < end {
                let (start, len) = (range.start, end - range.start);
                // SAFETY: for a private read-only file mapping DONTNEED only drops clean pages, neighbours of the range that
                // share a page with it included; the next access reads the file again, so no reference into the mapping
                // ever sees other contents. The range lies in the mapping, and `memmap2` makes it whole pages, whatever
                // their size. Failure is harmless.
                let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
            }
        }
        let _ = range;
    }
}

impl From<Bytes> for FileBytes {
    /// Contents that did not come from a file of their own.
    fn from(bytes: Bytes) -> Self {
        Self {
            bytes,
            #[cfg(feature = "mmap")]
            map: None,
        }
    }
}
