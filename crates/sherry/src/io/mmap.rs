//! Whole files as bytes: mapped, or read into memory.
#![allow(unsafe_code)] // the one file of the library that maps memory

use std::io::Read;
use std::ops::Range;
use std::path::Path;
#[cfg(feature = "mmap")]
use std::sync::Arc;

#[cfg(feature = "mmap")]
use memmap2::Mmap;
use sherry_kernels::Bytes;
#[cfg(feature = "mmap")]
use sherry_kernels::Memory;

use super::open_regular;
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
}

/// A file's mapping.
#[cfg(feature = "mmap")]
struct Mapping(Mmap);

#[cfg(feature = "mmap")]
impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(feature = "mmap")]
impl Memory for Mapping {
    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if range.start < range.end && range.end <= self.0.len() {
            // SAFETY: of a read-only mapping of a file DONTNEED only drops clean pages, neighbours of the range that share a
            // page with it included; the next access reads the file again, so no reference into the mapping ever sees other
            // contents. The range lies in the mapping, and `memmap2` makes it whole pages, whatever their size. Failure is
            // harmless.
            let _ =
                unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
        let _ = range;
    }
}

impl FileBytes {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened, mapped or read; [`Error::Malformed`] when it is not a regular file.
    pub fn open(path: &Path, mode: ReadMode) -> Result<Self> {
        let mut file = open_regular(path)?;
        let meta = file.metadata().map_err(Error::io(path, "read the size of"))?;
        #[cfg(feature = "mmap")]
        if mode == ReadMode::Map && !cfg!(target_family = "wasm") && meta.len() > ALWAYS_READ {
            // SAFETY: the mapping is read-only and nobody in this process writes the file while it is mapped: outputs are
            // written beside a file and renamed over it, which leaves what is mapped alone. What another process does to
            // the file cannot be checked; `ReadMode` says so, and `ReadMode::Read` avoids it.
            let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
            return Ok(Self { bytes: Bytes::releasable(Arc::new(Mapping(map))) });
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
        self.bytes.release(range);
    }
}

impl From<Bytes> for FileBytes {
    /// Contents that did not come from a file of their own.
    fn from(bytes: Bytes) -> Self {
        Self { bytes }
    }
}

#[cfg(all(test, feature = "mmap"))]
mod tests {
    use super::*;

    /// KiB of the mapping that holds `at` which are in memory now.
    #[cfg(target_os = "linux")]
    fn resident(at: *const u8) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let bounds = range.map(|(start, end)| [start, end].map(|n| usize::from_str_radix(n, 16)));
            !matches!(bounds, Some([Ok(start), Ok(end)]) if (start..end).contains(&at.addr()))
        });
        let line = lines.find_map(|line| line.strip_prefix("Rss:")).expect("the mapping is listed");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Whatever the size of a page.
    #[test]
    fn releasing_drops_pages_and_changes_no_contents() {
        let contents: Vec<u8> = (0..3 << 20u32).map(|i| (i ^ i >> 11) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &contents).unwrap();
        let bytes = FileBytes::open(file.path(), ReadMode::Map).unwrap();
        assert!(bytes.bytes().iter().eq(&contents));
        #[cfg(target_os = "linux")]
        {
            let held = resident(bytes.bytes().as_ptr());
            assert!(held >= 3 << 10, "{held} KiB of 3 MiB");
            bytes.release(0..1 << 20);
            let held = resident(bytes.bytes().as_ptr());
            assert!(held <= 2 << 10, "{held} KiB of 2 MiB");
            bytes.release(0..contents.len());
            assert_eq!(resident(bytes.bytes().as_ptr()), 0);
        }
        for range in [0..0, 1..2, 4095..4097, 70_000..1_000_001, 5..usize::MAX, usize::MAX..usize::MAX] {
            bytes.release(range.clone());
            assert!(bytes.bytes().iter().eq(&contents), "{range:?}");
        }
    }
}
