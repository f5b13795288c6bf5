//! Memory in cache lines: bytes that start at a multiple of 64.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::huge;

/// A cache line.
const LINE: usize = 64;
/// Asked of the allocator. With more, Rust's allocator would write the zeros itself instead of taking fresh pages from
/// the system, which are touched for the first time by the worker that fills them.
const ALIGN: usize = 16;

/// A byte buffer aligned to cache lines; its length is a whole number of lines.
#[derive(Default)]
pub(crate) struct Lines {
    memory: Option<Memory>,
}

/// Zeroed bytes of one allocation, which begins less than a line before `start`.
struct Memory {
    allocation: NonNull<u8>,
    layout: Layout,
    /// From the start of the allocation to that of the first line.
    offset: usize,
    /// Bytes from the first line on, a whole number of lines.
    len: usize,
}

/// Memory has run out.
#[derive(Debug)]
pub(crate) struct OutOfMemory;

// SAFETY: the allocation is owned by this value alone, as that of a vector is, and may be freed by any thread.
unsafe impl Send for Memory {}
// SAFETY: with a shared reference the memory is only read (`Lines::bytes`); writing takes a unique one (`bytes_mut`).
unsafe impl Sync for Memory {}

impl Memory {
    fn zeroed(bytes: usize) -> Result<Self, OutOfMemory> {
        let len = bytes.checked_next_multiple_of(LINE).ok_or(OutOfMemory)?;
        let size = len.checked_add(LINE).ok_or(OutOfMemory)?;
        let layout = Layout::from_size_align(size, ALIGN).map_err(|_| OutOfMemory)?;
        // SAFETY: the size of the layout is at least a line, so it is not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(OutOfMemory)?;
        let offset = allocation.as_ptr().addr().wrapping_neg() % LINE;
        // SAFETY: `size` bytes were just allocated, which may be uninitialised for this type and are not referred to otherwise;
        // `advise` does not keep the slice.
        huge::advise(unsafe { std::slice::from_raw_parts(allocation.as_ptr().cast::<MaybeUninit<u8>>(), size) });
        Ok(Self { allocation, layout, offset, len })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `zeroed` allocated it with this layout, and slices of it borrow the `Lines` that own this value.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) };
    }
}

impl Lines {
    /// `bytes` zero bytes, rounded up to whole lines.
    ///
    /// # Errors
    /// When memory runs out.
    pub(crate) fn zeroed(bytes: usize) -> Result<Self, OutOfMemory> {
        let mut lines = Self::default();
        lines.grow(bytes)?;
        Ok(lines)
    }

    /// Makes the buffer at least `bytes` long; what it held is kept, the rest is zero.
    ///
    /// # Errors
    /// When memory runs out.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), OutOfMemory> {
        let old = self.bytes().len();
        if bytes > old {
            let mut grown = Self { memory: Some(Memory::zeroed(bytes)?) };
            grown.bytes_mut()[..old].copy_from_slice(self.bytes());
            *self = grown;
        }
        Ok(())
    }

    /// The first `bytes` bytes, for which memory is found. For buffers of a few MiB: as with `Vec`, not finding it is fatal.
    pub(crate) fn at_least(&mut self, bytes: usize) -> &mut [u8] {
        if self.grow(bytes).is_err() {
            std::alloc::handle_alloc_error(Layout::new::<[u8; LINE]>());
        }
        &mut self.bytes_mut()[..bytes]
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        let Some(memory) = &self.memory else { return &[] };
        // SAFETY: `offset` is below a line and the allocation a line longer than `len`; its bytes were zeroed when it was
        // made. The borrow of self keeps them alive.
        unsafe { std::slice::from_raw_parts(memory.allocation.as_ptr().add(memory.offset), memory.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let Some(memory) = &mut self.memory else { return &mut [] };
        // SAFETY: the same bytes as in `bytes`; the borrow of self is unique, so that nobody else has a slice of them.
        unsafe { std::slice::from_raw_parts_mut(memory.allocation.as_ptr().add(memory.offset), memory.len) }
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lines({} x 64 bytes)", self.bytes().len() / LINE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_zero_and_keep_what_they_held() {
        let mut lines = Lines::default();
        assert!(lines.bytes().is_empty() && lines.bytes_mut().is_empty());
        for bytes in [1, 64, 65, 1000, 100_000] {
            lines.grow(bytes).unwrap();
            assert_eq!(lines.bytes().len(), bytes.next_multiple_of(64));
            assert_eq!(lines.bytes().as_ptr().addr() % 64, 0);
            let first = lines.bytes()[0];
            assert!(lines.bytes()[1..].iter().all(|&byte| byte == 0));
            lines.bytes_mut()[0] = first + 1;
            assert_eq!(lines.bytes()[0], first + 1);
        }
        lines.grow(3).unwrap();
        assert_eq!((lines.bytes()[0], lines.bytes().len()), (5, 100_032));
        assert!(Lines::zeroed(usize::MAX).is_err());
        // A quarter of the 32-bit addresses may well be there.
        #[cfg(target_pointer_width = "64")]
        assert!(Lines::zeroed(usize::MAX / 4).is_err());
    }
}
