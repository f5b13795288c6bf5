//! Q8_0 weights in two parts: the upper 6 bits of every code, which alone tell most rows from the largest ones, and the
//! lower 2 bits. Together they are the same weights, in the same number of bytes.
//!
//! Panels of 16 rows as in [`panel`](crate::panel), with the code as `4 upper + lower - 128`. The upper part of a panel:
//! scales (f16, 16 per 32 inputs), then 384 bytes per 32 inputs in the order of Q6_K's codes. The lower part: 128 bytes
//! per 32 inputs in the order of Q6_K's two upper bits.
//!
//! What a row is at most, from its upper part alone: with `r = lower - 1.5` and the inputs `x_scale q`,
//!
//! ```text
//! y        = sum over blocks of d x_scale (4 upper + 1.5 - 128) . q   +   sum over blocks of d x_scale r . q
//! |second| <= sum over blocks of |d| x_scale |r| |q| <= (largest |r| of the row) * sum |d| x_scale |q|
//! ```
//!
//! (Cauchy-Schwarz per block of 32). The bound that is kept per row is that largest norm plus what rounding can do: both
//! sums have one term per block and three roundings more, each relative to at most `128 sqrt(32) |d| x_scale |q|`.

use std::fmt;
use std::sync::Arc;

use crate::Pool;
use crate::format::TensorType;
use crate::format::half::f16_to_f32;
use crate::panel::{BLOCK, Line, Panels, ROWS, as_bytes, as_bytes_mut};

/// Bytes of 16 scales.
pub(crate) const SCALES: usize = 2 * ROWS;
/// Bytes of the upper codes of 32 inputs.
pub(crate) const UPPER: usize = 384;
/// Bytes of the lower codes of 32 inputs.
pub(crate) const LOWER: usize = 128;

/// A matrix in two parts.
#[derive(Clone)]
pub(crate) struct Split {
    pub rows: usize,
    pub cols: usize,
    upper: Arc<Vec<Line>>,
    lower: Arc<Vec<Line>>,
    /// Per row (of whole panels): by how much its product can differ from the estimate, per unit of `sum |d| x_scale |q|`.
    bounds: Arc<Vec<f32>>,
}

impl Split {
    /// Takes Q8_0 panels apart; `None` for other types, for a scale that is not finite, and for nothing.
    pub fn new(panels: &Panels, pool: &Pool) -> Option<Self> {
        let shape = panels.shape;
        let (rows, cols) = (shape.rows, shape.cols);
        if shape.ty != TensorType::Q8_0 || rows == 0 || cols == 0 {
            return None;
        }
        let blocks = cols / BLOCK;
        let mut split = Self { rows, cols, upper: Arc::default(), lower: Arc::default(), bounds: Arc::default() };
        let mut upper = vec![Line([0; 64]); split.upper_bytes() / 64 * shape.panels()];
        let mut lower = vec![Line([0; 64]); split.lower_bytes() / 64 * shape.panels()];
        let mut bounds = vec![0.0f32; ROWS * shape.panels()];
        let panel = |index: usize| &panels.bytes()[index * shape.panel_bytes..][..shape.panel_bytes];
        // Twice 128 sqrt(32), for estimate and product, times the number of roundings, each of 2^-24 (and a bit).
        let rounding = 2.0 * 725.0 * (blocks + 8) as f32 / (1 << 23) as f32;
        pool.for_chunks(&mut upper, split.upper_bytes() / 64, |index, lines| {
            let out = as_bytes_mut(lines);
            let (scales, codes) = out.split_at_mut(split.code_start());
            scales[..blocks * SCALES].copy_from_slice(&panel(index)[..blocks * SCALES]);
            let from = panel(index)[shape.code_start..].chunks_exact(shape.code_bytes);
            for (from, to) in from.zip(codes.chunks_exact_mut(UPPER)) {
                for (g, plane) in from.chunks_exact(64).enumerate() {
                    for (at, code) in plane.iter().enumerate() {
                        let six = code.wrapping_add(128) >> 2;
                        to[64 * (g % 4) + at] |= (six & 15) << (4 * (g / 4));
                        to[256 + 64 * (g / 4) + at] |= (six >> 4) << (2 * (g % 4));
                    }
                }
            }
        });
        pool.for_chunks(&mut lower, split.lower_bytes() / 64, |index, lines| {
            let from = panel(index)[shape.code_start..].chunks_exact(shape.code_bytes);
            for (from, to) in from.zip(as_bytes_mut(lines).chunks_exact_mut(LOWER)) {
                for (g, plane) in from.chunks_exact(64).enumerate() {
                    for (at, code) in plane.iter().enumerate() {
                        to[64 * (g / 4) + at] |= (code & 3) << (2 * (g % 4));
                    }
                }
            }
        });
        pool.for_chunks(&mut bounds, ROWS, |index, bounds| {
            for codes in panel(index)[shape.code_start..].chunks_exact(shape.code_bytes) {
                for (r, bound) in bounds.iter_mut().enumerate() {
                    let squares = (0..8).flat_map(|g| &codes[64 * g + 4 * r..][..4]);
                    // A multiple of a quarter: exact.
                    let square: f32 = squares.map(|code| (f32::from(code & 3) - 1.5).powi(2)).sum();
                    *bound = bound.max(square);
                }
            }
            for bound in bounds {
                *bound = (bound.sqrt() + rounding) * (1.0 + 1e-5);
            }
        });
        let finite = (0..shape.panels()).all(|index| {
            let scales = panel(index)[..blocks * SCALES].chunks_exact(2);
            scales.map(|x| f16_to_f32(u16::from_le_bytes([x[0], x[1]]))).all(f32::is_finite)
        });
        (split.upper, split.lower, split.bounds) = (Arc::new(upper), Arc::new(lower), Arc::new(bounds));
        finite.then_some(split)
    }

    /// Panels of 16 rows.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// From the start of an upper panel to its codes.
    pub fn code_start(&self) -> usize {
        (self.cols / BLOCK * SCALES).next_multiple_of(64)
    }

    /// Bytes of an upper panel.
    pub fn upper_bytes(&self) -> usize {
        self.code_start() + self.cols / BLOCK * UPPER
    }

    /// Bytes of a lower panel.
    pub fn lower_bytes(&self) -> usize {
        self.cols / BLOCK * LOWER
    }

    /// Upper parts of all panels.
    pub fn upper(&self) -> &[u8] {
        as_bytes(&self.upper)
    }

    /// Lower parts of all panels.
    pub fn lower(&self) -> &[u8] {
        as_bytes(&self.lower)
    }

    /// Per row of whole panels.
    pub fn bounds(&self) -> &[f32] {
        &self.bounds
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.upper().len() + self.lower().len() + 4 * self.bounds.len()
    }

    /// Row `row` as f32.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols);
        let (panel, r) = (row / ROWS, row % ROWS);
        let (scales, upper) =
            self.upper()[panel * self.upper_bytes()..][..self.upper_bytes()].split_at(self.code_start());
        let lower = &self.lower()[panel * self.lower_bytes()..][..self.lower_bytes()];
        for (b, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let scale = &scales[b * SCALES + 2 * r..][..2];
            let scale = f16_to_f32(u16::from_le_bytes([scale[0], scale[1]]));
            let (upper, lower) = (&upper[b * UPPER..][..UPPER], &lower[b * LOWER..][..LOWER]);
            for (i, out) in out.iter_mut().enumerate() {
                let (g, at) = (i / 4, 4 * r + i % 4);
                let nibble = upper[64 * (g % 4) + at] >> (4 * (g / 4)) & 15;
                let two = |bits: &[u8]| bits[64 * (g / 4) + at] >> (2 * (g % 4)) & 3;
                let code = i32::from(two(&upper[256..]) << 6 | nibble << 2 | two(lower)) - 128;
                *out = scale * code as f32;
            }
        }
    }
}

impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Split(Q8_0 {}x{})", self.rows, self.cols)
    }
}
