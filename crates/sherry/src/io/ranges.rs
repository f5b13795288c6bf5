//! Files that are read a range at a time, where nobody can map them and the whole would take too much memory: in a browser,
//! or out of an app's archive.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sherry_kernels::Bytes;

use super::{FileBytes, ReadMode};
use crate::{Error, Result};

/// Something that reads ranges of one file.
pub trait RangeRead: fmt::Debug + Send + Sync {
    /// Bytes of the file.
    fn len(&self) -> usize;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`, which lies within the file. All of them, or an error.
    ///
    /// # Errors
    /// Whatever keeps them away.
    fn read(&self, range: Range<usize>) -> io::Result<Bytes>;

    /// Says that the bytes of `range` will not be asked for again soon.
    fn release(&self, range: Range<usize>);
}

/// The contents of one file, at hand or read as they are needed.
#[derive(Clone, Debug)]
pub enum FileData {
    /// At hand.
    Whole(FileBytes),
    /// Read range by range.
    Ranges(Arc<dyn RangeRead>),
}

impl FileData {
    /// Opens `path`.
    ///
    /// # Errors
    /// As [`FileBytes::open`].
    pub fn open(path: &Path, mode: ReadMode) -> Result<Self> {
        FileBytes::open(path, mode).map(Self::Whole)
    }

    /// Bytes of the file.
    pub fn len(&self) -> usize {
        match self {
            Self::Whole(file) => file.bytes().len(),
            Self::Ranges(file) => file.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the file ends before; [`Error::Io`] when it cannot be read.
    pub fn slice(&self, path: &Path, range: Range<usize>) -> Result<Bytes> {
        let len = self.len();
        if range.start > range.end || range.end > len {
            let problem = format!("has {len} bytes, too few for bytes {} to {}", range.start, range.end);
            return Err(Error::malformed(path, "file", problem));
        }
        match self {
            Self::Whole(file) => Ok(file.bytes().slice(range).expect("it lies inside, as was just checked")),
            Self::Ranges(file) => file.read(range).map_err(Error::io(path, "read")),
        }
    }

    /// At least the first `len` bytes, as far as the file has them: all bytes where they are at hand anyway.
    ///
    /// # Errors
    /// As [`slice`](Self::slice).
    pub fn head(&self, path: &Path, len: usize) -> Result<Bytes> {
        match self {
            Self::Whole(file) => Ok(file.bytes().clone()),
            Self::Ranges(file) => self.slice(path, 0..len.min(file.len())),
        }
    }

    /// Says that the bytes of `range` will not be read again soon.
    pub fn release(&self, range: Range<usize>) {
        match self {
            Self::Whole(file) => file.release(range),
            Self::Ranges(file) => file.release(range),
        }
    }
}

impl From<Bytes> for FileData {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes.into())
    }
}

/// A file whose ranges are brought by whoever uses it: what is not there yet is an error, and [`missing`](Self::missing) then
/// says what it was. So reading can be pulled where nothing may be waited for or called back, as in a browser's worker.
///
/// ```
/// use sherry::io::{PulledFile, RangeRead};
/// let file = PulledFile::new(10);
/// assert!(file.read(2..5).is_err());
/// assert_eq!(file.missing(), Some(2..5));
/// file.give(2, vec![1, 2, 3].into());
/// assert_eq!(file.read(3..5).unwrap()[..], [2, 3]);
/// file.release(0..10);
/// assert!(file.read(3..5).is_err());
/// ```
#[derive(Debug)]
pub struct PulledFile {
    len: usize,
    state: Mutex<Pulled>,
}

#[derive(Debug, Default)]
struct Pulled {
    /// Where bytes begin, and they.
    held: Vec<(usize, Bytes)>,
    missing: Option<Range<usize>>,
}

impl PulledFile {
    /// A file of `len` bytes, none of which is there.
    pub fn new(len: usize) -> Self {
        Self { len, state: Mutex::default() }
    }

    /// The range that was asked for last and was not there, once.
    pub fn missing(&self) -> Option<Range<usize>> {
        self.state().missing.take()
    }

    /// Whether [`missing`](Self::missing) has something to say.
    pub fn is_missing(&self) -> bool {
        self.state().missing.is_some()
    }

    /// Brings the bytes that begin at `start`.
    pub fn give(&self, start: usize, bytes: Bytes) {
        self.state().held.push((start, bytes));
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Pulled> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RangeRead for PulledFile {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, range: Range<usize>) -> io::Result<Bytes> {
        if range.is_empty() {
            return Ok(Vec::new().into());
        }
        let mut state = self.state();
        let found = state
            .held
            .iter()
            .find_map(|(start, bytes)| bytes.slice(range.start.checked_sub(*start)?..range.end.checked_sub(*start)?));
        found.ok_or_else(|| {
            state.missing = Some(range);
            io::ErrorKind::WouldBlock.into()
        })
    }

    fn release(&self, range: Range<usize>) {
        self.state().held.retain(|(start, bytes)| *start < range.start || start + bytes.len() > range.end);
    }
}
