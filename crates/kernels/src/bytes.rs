//! Shared, immutable bytes: a range of something that owns memory (a file mapping, a vector).

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Memory that can be taken back for a while without losing what is in it, such as the mapping of a file.
pub trait Memory: AsRef<[u8]> + Send + Sync {
    /// Says that nobody will read `range` soon. Reading it later is slower and gives the same bytes.
    fn release(&self, range: Range<usize>);
}

/// Memory that stays where it is.
struct Kept(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl Memory for Kept {
    fn release(&self, _: Range<usize>) {}
}

/// A cheap-to-clone view of bytes kept alive by their owner.
///
/// ```
/// use sherry_kernels::Bytes;
///
/// let bytes = Bytes::from(vec![1, 2, 3]);
/// assert_eq!(bytes.slice(1..3).unwrap()[..], [2, 3]);
/// assert!(bytes.slice(2..4).is_none());
/// ```
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn Memory>,
    start: usize,
    len: usize,
}

impl Bytes {
    /// The whole of `owner`.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        Self::releasable(Arc::new(Kept(owner)))
    }

    /// The whole of `owner`, parts of which can be [released](Self::release).
    pub fn releasable(owner: Arc<dyn Memory>) -> Self {
        let len = (*owner).as_ref().len();
        Self { owner, start: 0, len }
    }

    /// Says that nobody will read the part `range` of these bytes soon, so that their owner may give the memory back where it
    /// can. What lies outside of these bytes is left alone.
    pub fn release(&self, range: Range<usize>) {
        let (start, end) = (range.start.min(self.len), range.end.min(self.len));
        if start < end {
            self.owner.release(self.start + start..self.start + end);
        }
    }

    /// A part of these bytes, or `None` when `range` does not lie inside them.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        Some(Self { owner: Arc::clone(&self.owner), start: self.start + range.start, len: range.end - range.start })
    }
}

/// Bytes that are read before they are [released](Bytes::release), where all of them are read once: few enough that no second
/// copy of them comes about, many enough that releasing costs nothing beside reading.
pub(crate) const STRETCH: usize = 1 << 20;

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(Arc::new(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.start..self.start + self.len]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} bytes)", self.len)
    }
}
