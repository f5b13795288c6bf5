//! A matrix at 3 bits a weight, kept beside the matrix itself, that tells which of its rows can be the largest.
//!
//! Rows are multiplied by random signs and [rotated](crate::rotation::rotate) first. That changes no product with an input
//! treated alike, and makes weights, inputs and rounding errors look normally distributed, whatever outliers they had. Then
//! a row is `scale * (code - 3.5)`, codes 0 to 7, with the scale that makes the error orthogonal to the row
//! (`scale * (code - 3.5) . w = w . w`). So for an input `x` the estimate is `y + e`, where `e` is a product with a vector of
//! known length `n` that has nothing to do with `w`: of mean 0 and standard deviation `n |x| / sqrt(cols)`.
//!
//! Panels of 16 rows, each one ascending stream:
//!
//! | lines of 64 bytes | content |
//! |---|---|
//! | 1 | scales, f32 |
//! | 1 | standard deviations of the error per `|x|`, f32 |
//! | 3 per 32 inputs | codes |
//!
//! The 32 inputs are 8 groups of 4; byte `4 r + j` of a line belongs to row `r`, input `j` of its groups, joined to three lines by
//! [`join_threes`].

use std::fmt;

use crate::lines::Lines;
use crate::panel::{BLOCK, ROWS, join_threes};
use crate::{Pool, SplitMix64};

/// Bytes of the codes of 32 inputs.
pub(crate) const CODES: usize = 192;
/// Bytes from the start of a panel to its codes.
pub(crate) const CODE_START: usize = 128;
/// Beyond this sums of eightfold products might not fit i32.
const MOST_COLS: usize = 1 << 17;

/// The coarse copy of a matrix.
pub(crate) struct Coarse {
    pub rows: usize,
    pub cols: usize,
    lines: Lines,
    /// What rows and inputs are multiplied by before they are rotated: 1 or -1.
    pub signs: Vec<f32>,
}

impl Coarse {
    /// The coarse copy of `rows` x `cols` weights. `code_row(row, signs, codes)` gives the codes of a row and its factors, as
    /// [`coarse_row`](crate::generic::coarse::coarse_row) makes them. `None` when there are no weights, when one is not
    /// finite or too large, when `cols` is not a multiple of 32, and when the system refuses the memory.
    pub fn new(
        rows: usize,
        cols: usize,
        pool: &Pool,
        code_row: impl Fn(usize, &[f32], &mut [u8]) -> [f32; 2] + Sync,
    ) -> Option<Self> {
        if rows == 0 || cols == 0 || !cols.is_multiple_of(BLOCK) || cols > MOST_COLS {
            return None;
        }
        let mut lines = Lines::zeroed(Self::bytes_needed(rows, cols)?).ok()?;
        // Signs that no model was trained with.
        let mut random = SplitMix64(0);
        let signs: Vec<f32> = (0..cols).map(|_| if random.bits() >> 63 == 0 { 1.0 } else { -1.0 }).collect();
        pool.for_chunks(lines.bytes_mut(), panel_bytes(cols), |panel, out| {
            let mut codes = vec![0u8; cols];
            for r in 0..ROWS.min(rows - panel * ROWS) {
                let factors = code_row(panel * ROWS + r, &signs, &mut codes);
                out[4 * r..][..4].copy_from_slice(&factors[0].to_le_bytes());
                out[64 + 4 * r..][..4].copy_from_slice(&factors[1].to_le_bytes());
                for (codes, out) in codes.chunks_exact(BLOCK).zip(out[CODE_START..].chunks_exact_mut(CODES)) {
                    let (groups, _) = codes.as_chunks::<4>();
                    let planes = join_threes(std::array::from_fn(|group| u32::from_le_bytes(groups[group])));
                    for (plane, four) in planes.into_iter().enumerate() {
                        out[64 * plane + 4 * r..][..4].copy_from_slice(&four.to_le_bytes());
                    }
                }
            }
        });
        let coarse = Self { rows, cols, lines, signs };
        let finite = |panel: &[u8]| {
            let (values, _) = panel[..CODE_START].as_chunks::<4>();
            values.iter().all(|value| f32::from_le_bytes(*value).is_finite())
        };
        coarse.bytes().chunks_exact(coarse.panel_bytes()).all(finite).then_some(coarse)
    }

    /// Bytes of a copy; `None` when they overflow.
    pub fn bytes_needed(rows: usize, cols: usize) -> Option<usize> {
        (cols / BLOCK).checked_mul(CODES)?.checked_add(CODE_START)?.checked_mul(rows.div_ceil(ROWS))
    }

    /// Panels of 16 rows.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Bytes of a panel, a multiple of 64.
    pub fn panel_bytes(&self) -> usize {
        panel_bytes(self.cols)
    }

    /// The panels, one after the other.
    pub fn bytes(&self) -> &[u8] {
        self.lines.bytes()
    }
}

#[cfg(test)]
impl Coarse {
    /// The copy of the weights that `row` gives as f32, made by the best instruction set.
    pub fn of_rows(rows: usize, cols: usize, pool: &Pool, row: impl Fn(usize, &mut [f32]) + Sync) -> Option<Self> {
        Self::new(rows, cols, pool, |index, signs, codes| {
            let (mut values, mut factors) = (vec![0.0; cols], [0.0; 2]);
            row(index, &mut values);
            crate::arch::dispatch::best().coarse_row(&mut values, signs, codes, &mut factors);
            factors
        })
    }
}

/// Bytes of a panel of `cols` columns, of which there are not too many.
const fn panel_bytes(cols: usize) -> usize {
    CODE_START + cols / BLOCK * CODES
}

impl fmt::Debug for Coarse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Coarse({}x{})", self.rows, self.cols)
    }
}
