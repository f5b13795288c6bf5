//! Sixteen rows of a matrix side by side: the unit in which rounding works.
//!
//! Rows are independent of each other, columns are not; so vectors run over rows.

use super::grid::{Grid, PATTERNS};

/// Rows side by side.
pub(super) const LANES: usize = 16;
/// One column of as many rows.
pub(super) type Lane = [f32; LANES];

/// Columns `columns` of the rows of `matrix` (`stride` apart) from `row` on, one lane per column. Rows beyond the matrix
/// are filled with `beyond`.
#[inline(always)]
pub(super) fn load(
    tile: &mut [Lane],
    matrix: &[f32],
    stride: usize,
    row: usize,
    columns: std::ops::Range<usize>,
    beyond: f32,
) {
    let rows = matrix.len() / stride;
    for lane in 0..LANES {
        if row + lane < rows {
            let values = &matrix[(row + lane) * stride..][columns.clone()];
            tile.iter_mut().zip(values).for_each(|(tile, value)| tile[lane] = *value);
        } else {
            tile.iter_mut().for_each(|tile| tile[lane] = beyond);
        }
    }
}

/// The inverse of [`load`].
#[inline(always)]
pub(super) fn store(tile: &[Lane], matrix: &mut [f32], stride: usize, row: usize, columns: std::ops::Range<usize>) {
    let rows = matrix.len() / stride;
    for lane in 0..LANES.min(rows.saturating_sub(row)) {
        let values = &mut matrix[(row + lane) * stride..][columns.clone()];
        tile.iter().zip(values).for_each(|(tile, value)| *value = tile[lane]);
    }
}

/// What the patterns of one quad cost: pattern `p` with scale `a` costs `a^2 square[p] - 2 a |linear[p] . y|`, where `y`
/// depends on the row.
pub(super) struct Costs {
    pub linear: [[f32; 4]; 16],
    pub square: [f32; 16],
}

/// The best pattern for every row, as signed values. What is in `t` counts as taken: it is left only for something better.
#[inline(always)]
pub(super) fn choose(costs: &Costs, y: &[Lane; 4], scale: &Lane, start: &Lane, t: &mut [Lane; 4]) {
    let (mut best, mut index, mut sign) = (*start, [-1.0f32; LANES], [1.0f32; LANES]);
    for p in 0..16 {
        let (v, square) = (costs.linear[p], costs.square[p]);
        for l in 0..LANES {
            let dot = (v[0] * y[0][l] + v[1] * y[1][l]) + (v[2] * y[2][l] + v[3] * y[3][l]);
            // Divided by the scale, which is positive.
            let cost = scale[l] * square - 2.0 * dot.abs();
            let better = cost < best[l];
            best[l] = if better { cost } else { best[l] };
            index[l] = if better { p as f32 } else { index[l] };
            sign[l] = if better { dot } else { sign[l] };
        }
    }
    for l in 0..LANES {
        if index[l] >= 0.0 {
            let pattern = PATTERNS[index[l] as usize];
            for i in 0..4 {
                t[i][l] = if sign[l] < 0.0 { -pattern[i] } else { pattern[i] };
            }
        }
    }
}

/// The nearest grid values of `x / scale`.
#[inline(always)]
pub(super) fn nearest(grid: Grid, x: &Lane, scale: &Lane) -> Lane {
    let mut t = [0.0; LANES];
    for l in 0..LANES {
        t[l] = grid.nearest(x[l] / scale[l]);
    }
    t
}
