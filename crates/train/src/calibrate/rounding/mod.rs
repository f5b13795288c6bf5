//! Rounding of one matrix to a grid so that its outputs change least.
//!
//! Given weights `W` and the second moments `H` of their inputs, finds `Q = diag(scales) T diag(columns)` with `T` on a
//! grid and small `tr((W - Q) H (W - Q)^T)`: error feedback in the order of the columns gives a start, coordinate descent
//! improves it, scales and column factors are fitted in closed form in between.
//!
//! Pure functions of their arguments: the same numbers for any number of threads.

mod blocks;
mod columns;
mod descent;
mod factor;
mod feedback;
mod grid;
#[cfg(test)]
mod tests;
mod tile;

use sherry_sgemm::{Mat, MatMut, Old, matmul};

pub use blocks::{Blocks, round_to_type};
pub use columns::Sharing;
pub use factor::Factor;
pub use grid::{Grid, usable as stored_scale};

use descent::Objective;
use feedback::Feedback;

/// Rows that one task works on. Fixed, so that results do not depend on the number of threads.
const ROWS: usize = 64;

/// Dimensions of a matrix, and who shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Out features.
    pub rows: usize,
    /// In features; a multiple of `group`.
    pub cols: usize,
    /// Weights along a row that share a scale: `cols`, or a multiple of four below.
    pub group: usize,
}

impl Shape {
    /// Scales per row.
    pub fn groups(&self) -> usize {
        self.cols / self.group
    }

    fn group_of(&self, column: usize) -> usize {
        column / self.group
    }

    fn begins_group(&self, column: usize) -> bool {
        column.is_multiple_of(self.group)
    }

    fn ends_group(&self, end: usize) -> bool {
        end.is_multiple_of(self.group)
    }
}

/// How much work to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Largest number of sweeps of coordinate descent at a time.
    pub sweeps: usize,
    /// Fits of column factors, each followed by a descent; 0: no column factors.
    pub column_fits: usize,
}

/// A rounded matrix, `Q[r][c] = scales[r][c / group] * values[r][c] * columns[c]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounded {
    /// Grid values, `rows x cols`.
    pub values: Vec<f32>,
    /// f16 values, `rows x groups`.
    pub scales: Vec<f32>,
    /// Factor of every input, equal where the inputs share one; ones without column fits.
    pub columns: Vec<f32>,
    /// The objective.
    pub error: f64,
}

impl Rounded {
    /// `scales * values`, without column factors.
    pub fn weights(&self, shape: Shape) -> Vec<f32> {
        scaled(&self.values, &self.scales, shape)
    }
}

/// How far a latent weight lies from the value that it decides on, at most: half a step would be between two.
const FARTHEST: f32 = 0.45;

impl Rounded {
    /// Weights in units of their scales whose nearest values of `grid` these are, as near to `w` as that allows: those that
    /// rounding was nearly indifferent about lie near to where they would change.
    pub fn latents(&self, w: &[f32], grid: Grid, shape: Shape) -> Vec<f32> {
        let mut out = self.values.clone();
        for (row, (out, w)) in out.chunks_exact_mut(shape.cols).zip(w.chunks_exact(shape.cols)).enumerate() {
            for (col, (value, w)) in out.iter_mut().zip(w).enumerate() {
                let scale = self.scales[row * shape.groups() + shape.group_of(col)] * self.columns[col];
                let x = if scale == 0.0 { *value } else { w / scale };
                // Of the weights of a quad all that are kept lie further from zero than the one that is not, and no further than
                // they need.
                let sign = value.signum();
                *value = if grid == Grid::Sparse34 && *value != 0.0 {
                    sign * (x * sign).clamp(1.0 - FARTHEST, 1.0)
                } else {
                    x.clamp(*value - FARTHEST, *value + FARTHEST)
                };
            }
        }
        out
    }
}

fn scaled(values: &[f32], scales: &[f32], shape: Shape) -> Vec<f32> {
    let groups = values.chunks_exact(shape.group).zip(scales);
    groups.flat_map(|(values, scale)| values.iter().map(move |value| scale * value)).collect()
}

/// Rounds `w` for inputs of second moments `hessian` (`cols x cols`, symmetric), whose factor is `factor`.
///
/// # Panics
/// When the dimensions do not go together.
pub fn round(
    w: &[f32],
    hessian: &[f32],
    factor: &Factor,
    sharing: &Sharing,
    grid: Grid,
    shape: Shape,
    effort: Effort,
) -> Rounded {
    let Shape { rows, cols, group } = shape;
    assert_eq!((w.len(), hessian.len()), (rows * cols, cols * cols), "weights and Hessian of {shape:?}");
    assert!(group > 0 && cols % group == 0 && (group == cols || group % 4 == 0), "groups of {shape:?}");
    assert!(grid != Grid::Sparse34 || cols % 4 == 0, "quads of {shape:?}");
    let mut columns = if effort.column_fits > 0 { columns::first(w, sharing) } else { vec![1.0; cols] };
    let (mut target, mut metric) = columns::divide(w, hessian, &columns);
    let mut values = vec![0.0; w.len()];
    let mut scales = vec![0.0; rows * shape.groups()];
    for ((w, t), scale) in target.chunks_exact(group).zip(values.chunks_exact_mut(group)).zip(&mut scales) {
        *scale = grid.project(w, t);
    }
    // With H = U D U^T the divided Hessian has the factors f U f^-1 and f D f.
    let (mut unit, mut diagonal) = factor.unit();
    for (i, row) in unit.chunks_exact_mut(cols).enumerate() {
        row.iter_mut().zip(&columns).for_each(|(u, f)| *u *= columns[i] / f);
        diagonal[i] *= columns[i] * columns[i];
    }
    let feedback = Feedback::new((unit, diagonal), grid);
    // The scales of the plain projection are too small for what feedback makes of the weights.
    feedback.round(&target, &scales, &mut values, grid, shape);
    descent::descend(Objective { w: &target, hessian: &metric, shape, grid }, &mut scales, &mut values, 0);
    feedback.round(&target, &scales, &mut values, grid, shape);
    drop(feedback);
    let objective = Objective { w: &target, hessian: &metric, shape, grid };
    let mut error = descent::descend(objective, &mut scales, &mut values, effort.sweeps);
    for _ in 0..effort.column_fits {
        columns = columns::fit(w, hessian, &scaled(&values, &scales, shape), &columns, sharing, shape);
        (target, metric) = columns::divide(w, hessian, &columns);
        let objective = Objective { w: &target, hessian: &metric, shape, grid };
        error = descent::descend(objective, &mut scales, &mut values, effort.sweeps);
    }
    Rounded { values, scales, columns, error }
}

/// `tr(E H E^T)` of `E = w - q`, in double precision over the rows.
pub fn output_error(w: &[f32], q: &[f32], hessian: &[f32], cols: usize) -> f64 {
    let error: Vec<f32> = w.iter().zip(q).map(|(w, q)| w - q).collect();
    let rows = error.len() / cols;
    let mut product = vec![0.0f32; error.len()];
    let (e, h) = (Mat::new(&error, rows, cols, cols), Mat::new(hessian, cols, cols, cols));
    matmul(MatMut::new(&mut product, rows, cols, cols), Old::Replace, 1.0, e, h, rayon::current_num_threads());
    error.iter().zip(&product).map(|(e, p)| f64::from(*e) * f64::from(*p)).sum()
}
