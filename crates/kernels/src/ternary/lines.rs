//! Memory in cache lines: bytes that start at a multiple of 64.

use std::collections::TryReserveError;

use crate::huge;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A byte buffer aligned to cache lines; its length is a whole number of lines.
#[derive(Clone, Default)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    /// `bytes` zero bytes, rounded up to whole lines.
    ///
    /// # Errors
    /// When memory runs out.
    pub(crate) fn zeroed(bytes: usize) -> Result<Self, TryReserveError> {
        let mut lines = Self::default();
        lines.grow(bytes)?;
        Ok(lines)
    }

    /// Makes the buffer at least `bytes` long; what it held is kept, the rest is zero.
    ///
    /// # Errors
    /// When memory runs out.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), TryReserveError> {
        let lines = bytes.div_ceil(64);
        if lines > self.0.len() {
            self.0.try_reserve_exact(lines - self.0.len())?;
            if self.0.is_empty() {
                huge::advise(self.0.spare_capacity_mut());
            }
            self.0.resize(lines, Line([0; 64]));
        }
        Ok(())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: a Line is 64 initialised bytes without padding (size = align = 64), so the vector's elements are
        // `64 * len` initialised bytes; u8 has no alignment needs, and the borrow of self keeps them alive.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 64) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; any byte pattern is a valid Line, and the borrow of self is unique.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 64) }
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lines({} x 64 bytes)", self.0.len())
    }
}
