//! Where the rows of products with ternary weights go.

use crate::ternary::block::{BLOCK_ROWS, Rows};
use crate::ternary::matrix::TernaryMatrix;

/// Where the rows of a product go, for several threads that write disjoint rows.
pub(super) struct Output<'a> {
    pub(super) w: &'a TernaryMatrix,
    y: *mut f32,
    len: usize,
}

// SAFETY: a shared reference gives access to `y` through `rows` alone, whose condition is that no other thread uses the same
// rows; f32 may be written by any thread. The matrix is only read.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    pub(super) fn new(w: &'a TernaryMatrix, y: &'a mut [f32]) -> Self {
        Self { w, y: y.as_mut_ptr(), len: y.len() }
    }

    /// The values of `n` rows from `row` on, for `token`.
    ///
    /// # Safety
    /// No other thread uses these rows meanwhile, and the caller holds no other slice of them.
    ///
    /// # Panics
    /// When they do not lie in the result.
    #[allow(clippy::mut_from_ref)] // that is what it is for
    unsafe fn rows(&self, token: usize, row: usize, n: usize) -> &mut [f32] {
        let at = token * self.w.layout().rows + row;
        assert!(at.checked_add(n).is_some_and(|end| end <= self.len));
        // SAFETY: inside the slice this was made from (asserted just above), which is borrowed mutably for 'a and so by nobody
        // else; of those who have this value, nobody uses these rows meanwhile (this function's condition).
        unsafe { std::slice::from_raw_parts_mut(self.y.add(at), n) }
    }

    /// Lets `compute` write the rows of block `index` for `token`; rows past the last go nowhere.
    ///
    /// # Safety
    /// As for [`rows`](Self::rows).
    pub(super) unsafe fn write(&self, token: usize, index: usize, compute: impl FnOnce(&mut Rows)) {
        let row = index * BLOCK_ROWS;
        let rows = BLOCK_ROWS.min(self.w.layout().rows - row);
        // SAFETY: the condition of `rows` for the rows of a block is this function's.
        let y = unsafe { self.rows(token, row, rows) };
        match y.as_mut_array() {
            Some(y) => compute(y),
            None => {
                let mut padded = [0.0; BLOCK_ROWS];
                compute(&mut padded);
                y.copy_from_slice(&padded[..rows]);
            }
        }
    }
}
