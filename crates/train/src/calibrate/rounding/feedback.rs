//! Error feedback: columns in order, each rounded together with what the rounding of those before it asks for.
//!
//! With `H = U D U^T`, `U` unit upper triangular, `e H e^T = sum_k D_k (e_k + sum_(j<k) e_j U_jk)^2`: what column `k`
//! rounds is `w_k` and the errors of the columns before it, weighted by `U` (GPTQ, arXiv 2210.17323, in the form of LDLQ,
//! arXiv 2307.13304). Four columns of a quad are chosen together, by all four terms of the sum.

use rayon::prelude::*;
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use super::grid::{Grid, PATTERNS};
use super::tile::{self, Costs, LANES, Lane};
use super::{ROWS, Shape};
use crate::simd;

/// Columns whose errors are passed on one by one; to those further on they go by a matrix product.
const BLOCK: usize = 64;

/// `U` and `D` of a Hessian, and what follows from them for every quad.
pub(super) struct Feedback {
    /// Strictly upper part, `cols x cols`.
    unit: Vec<f32>,
    costs: Vec<Costs>,
}

impl Feedback {
    /// For the factor `U`, `D`.
    pub fn new((unit, diagonal): (Vec<f32>, Vec<f32>), grid: Grid) -> Self {
        let cols = diagonal.len();
        let quads = if grid == Grid::Sparse34 { cols / 4 } else { 0 };
        let costs = (0..quads).map(|quad| {
            let mut costs = Costs { linear: [[0.0; 4]; 16], square: [0.0; 16] };
            for (p, pattern) in PATTERNS.iter().enumerate() {
                for k in 0..4 {
                    let column = 4 * quad + k;
                    let before: f32 = (0..k).map(|j| pattern[j] * unit[(4 * quad + j) * cols + column]).sum();
                    let term = pattern[k] + before;
                    costs.linear[p][k] = diagonal[column] * term;
                    costs.square[p] += diagonal[column] * term * term;
                }
            }
            costs
        });
        let costs = costs.collect();
        Self { unit, costs }
    }

    /// Rounds `w` (rows of `shape.cols`) to `scales` times `t`. Scales are given, `t` is overwritten.
    pub fn round(&self, w: &[f32], scales: &[f32], t: &mut [f32], grid: Grid, shape: Shape) {
        let (cols, groups) = (shape.cols, shape.groups());
        t.par_chunks_mut(ROWS * cols)
            .zip(w.par_chunks(ROWS * cols).zip(scales.par_chunks(ROWS * groups)))
            .for_each(|(t, (w, scales))| self.round_rows(w, scales, t, grid, shape));
    }

    fn round_rows(&self, w: &[f32], scales: &[f32], t: &mut [f32], grid: Grid, shape: Shape) {
        let cols = shape.cols;
        let rows = w.len() / cols;
        // Errors w - scale t of the columns done, and w with what they ask for.
        let mut errors = vec![0.0f32; rows * cols];
        let mut target = vec![0.0f32; rows * BLOCK];
        for start in (0..cols).step_by(BLOCK) {
            let width = BLOCK.min(cols - start);
            for (target, w) in target.chunks_exact_mut(width).zip(w.chunks_exact(cols)) {
                target.copy_from_slice(&w[start..start + width]);
            }
            let done = Mat::new(&errors, rows, start, cols);
            let unit = Mat::new(&self.unit[start..], start, width, cols);
            matmul(MatMut::new(&mut target, rows, width, width), Old::Add, 1.0, done, unit, 1);
            for row in (0..rows).step_by(LANES) {
                simd::with(
                    #[inline(always)]
                    || {
                        let (mut x, mut e) = ([[0.0; LANES]; BLOCK], [[0.0; LANES]; BLOCK]);
                        let mut chosen = [[0.0; LANES]; BLOCK];
                        tile::load(&mut x[..width], &target[..rows * width], width, row, 0..width, 0.0);
                        tile::load(&mut e[..width], w, cols, row, start..start + width, 0.0);
                        self.round_tile(&mut x[..width], &mut e, &mut chosen, scales, row, start, grid, shape);
                        tile::store(&chosen[..width], t, cols, row, start..start + width);
                        tile::store(&e[..width], &mut errors, cols, row, start..start + width);
                    },
                );
            }
        }
    }

    /// The columns of one tile: `x` are their targets, `e` the weights and then the errors, `t` the grid values.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    fn round_tile(
        &self,
        x: &mut [Lane],
        e: &mut [Lane; BLOCK],
        t: &mut [Lane; BLOCK],
        scales: &[f32],
        row: usize,
        start: usize,
        grid: Grid,
        shape: Shape,
    ) {
        let (cols, width) = (shape.cols, x.len());
        for first in (0..width).step_by(4) {
            let quad = first..(first + 4).min(width);
            let mut scale = [1.0; LANES];
            let group = shape.group_of(start + first);
            tile::load(std::slice::from_mut(&mut scale), scales, shape.groups(), row, group..group + 1, 1.0);
            let unit = |from: usize, to: usize| self.unit[(start + from) * cols + start + to];
            if grid == Grid::Sparse34 {
                // What the quad's own weights add to the columns after them in it; the patterns' part is in the costs.
                let mut y = [[0.0; LANES]; 4];
                for k in 0..4 {
                    y[k] = x[first + k];
                    for j in 0..k {
                        for l in 0..LANES {
                            y[k][l] += e[first + j][l] * unit(first + j, first + k);
                        }
                    }
                }
                let mut q = [[0.0; LANES]; 4];
                tile::choose(&self.costs[(start + first) / 4], &y, &scale, &[f32::INFINITY; LANES], &mut q);
                t[first..first + 4].copy_from_slice(&q);
                for k in quad.clone() {
                    for l in 0..LANES {
                        e[k][l] -= scale[l] * t[k][l];
                    }
                }
            } else {
                for k in quad.clone() {
                    let mut y = x[k];
                    for j in first..k {
                        for l in 0..LANES {
                            y[l] += e[j][l] * unit(j, k);
                        }
                    }
                    t[k] = tile::nearest(grid, &y, &scale);
                    for l in 0..LANES {
                        e[k][l] -= scale[l] * t[k][l];
                    }
                }
            }
            for k in quad.clone() {
                let unit = &self.unit[(start + k) * cols + start..][..width];
                let error = e[k];
                for c in quad.end..width {
                    for l in 0..LANES {
                        x[c][l] += error[l] * unit[c];
                    }
                }
            }
        }
    }
}
