//! Coordinate descent: every quad, in turn, is chosen again given all others; scales follow in closed form.
//!
//! The objective of one row is `(w - q) H (w - q)^T` with `q = scale * t`. With `g = (w - q) H`, a change of `q` by `d` in
//! some columns changes it by `d H d^T - 2 g d^T`, and `g` by `-d H`. No step makes it larger.

use rayon::prelude::*;
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use super::grid::{Grid, PATTERNS, signed, usable};
use super::tile::{self, Costs, LANES, Lane};
use super::{ROWS, Shape};
use crate::simd;

/// Columns chosen before the rest of `g` follows by a matrix product, unless a group is wider.
const BLOCK: usize = 64;
/// A sweep that lowers the objective by less than this share is the last.
const ENOUGH: f64 = 3e-4;

/// A quadratic objective per row.
#[derive(Clone, Copy)]
pub(super) struct Objective<'a> {
    /// `rows x cols`.
    pub w: &'a [f32],
    /// `cols x cols`.
    pub hessian: &'a [f32],
    pub shape: Shape,
    pub grid: Grid,
}

/// Improves `t` and `scales` by at most `sweeps` sweeps and returns the objective summed over the rows.
///
/// With no sweeps only the scales are fitted.
pub(super) fn descend(objective: Objective<'_>, scales: &mut [f32], t: &mut [f32], sweeps: usize) -> f64 {
    let Objective { w, hessian, shape, grid } = objective;
    let (cols, groups) = (shape.cols, shape.groups());
    let quads = if grid == Grid::Sparse34 { cols / 4 } else { 0 };
    let costs: Vec<Costs> = (0..quads)
        .map(|quad| {
            let mut square = [0.0; 16];
            for (square, pattern) in square.iter_mut().zip(PATTERNS) {
                for i in 0..4 {
                    for j in 0..4 {
                        *square += pattern[i] * pattern[j] * hessian[(4 * quad + i) * cols + 4 * quad + j];
                    }
                }
            }
            Costs { linear: PATTERNS, square }
        })
        .collect();
    let parts: Vec<f64> = t
        .par_chunks_mut(ROWS * cols)
        .zip(w.par_chunks(ROWS * cols).zip(scales.par_chunks_mut(ROWS * groups)))
        .map(|(t, (w, scales))| Rows::new(w, hessian, &costs, scales, t, grid, shape).run(sweeps))
        .collect();
    parts.iter().sum()
}

/// Some rows in work.
struct Rows<'a> {
    w: &'a [f32],
    hessian: &'a [f32],
    costs: &'a [Costs],
    scales: &'a mut [f32],
    t: &'a mut [f32],
    /// `(w - scale t) H`.
    g: Vec<f32>,
    grid: Grid,
    shape: Shape,
    rows: usize,
}

impl<'a> Rows<'a> {
    fn new(
        w: &'a [f32],
        hessian: &'a [f32],
        costs: &'a [Costs],
        scales: &'a mut [f32],
        t: &'a mut [f32],
        grid: Grid,
        shape: Shape,
    ) -> Self {
        let rows = w.len() / shape.cols;
        Self { w, hessian, costs, scales, t, g: vec![0.0; w.len()], grid, shape, rows }
    }

    fn run(mut self, sweeps: usize) -> f64 {
        let wh = if self.shape.groups() == 1 { self.product(self.w) } else { Vec::new() };
        if self.shape.groups() == 1 {
            self.fit_row_scales(&wh);
        } else {
            self.restart();
            if sweeps == 0 {
                self.sweep(false);
                self.restart();
            }
        }
        let mut value = self.value();
        for _ in 0..sweeps {
            self.sweep(true);
            if self.shape.groups() == 1 {
                self.fit_row_scales(&wh);
            }
            let now = self.value();
            let done = value - now < ENOUGH * value;
            value = now;
            if done {
                break;
            }
        }
        value
    }

    /// `x H`.
    fn product(&self, x: &[f32]) -> Vec<f32> {
        let cols = self.shape.cols;
        let mut out = vec![0.0; x.len()];
        let (x, h) = (Mat::new(x, self.rows, cols, cols), Mat::new(self.hessian, cols, cols, cols));
        matmul(MatMut::new(&mut out, self.rows, cols, cols), Old::Replace, 1.0, x, h, 1);
        out
    }

    /// Computes `g` afresh.
    fn restart(&mut self) {
        let (cols, groups) = (self.shape.cols, self.shape.groups());
        let mut error = self.w.to_vec();
        let rows = error.chunks_exact_mut(cols).zip(self.t.chunks_exact(cols)).zip(self.scales.chunks_exact(groups));
        for ((error, t), scales) in rows {
            for (c, (error, t)) in error.iter_mut().zip(t).enumerate() {
                *error -= scales[self.shape.group_of(c)] * t;
            }
        }
        self.g = self.product(&error);
    }

    /// The best scale of every row, `(w H t^T) / (t H t^T)`, and `g` computed afresh.
    fn fit_row_scales(&mut self, wh: &[f32]) {
        let cols = self.shape.cols;
        self.g = self.product(self.t);
        let rows = self.g.chunks_exact_mut(cols).zip(self.t.chunks_exact(cols)).zip(wh.chunks_exact(cols));
        for (((g, t), wh), scale) in rows.zip(self.scales.iter_mut()) {
            let [above, below] = simd::with(
                #[inline(always)]
                || [simd::dot(wh, t), simd::dot(g, t)],
            );
            if above > 0.0 && below > 0.0 {
                *scale = usable(above / below);
            }
            g.iter_mut().zip(wh).for_each(|(g, wh)| *g = wh - *scale * *g);
        }
    }

    /// `sum (w - q) g`.
    fn value(&self) -> f64 {
        let (cols, groups) = (self.shape.cols, self.shape.groups());
        let rows = self.w.chunks_exact(cols).zip(self.t.chunks_exact(cols)).zip(self.g.chunks_exact(cols));
        let value = rows.zip(self.scales.chunks_exact(groups)).map(|(((w, t), g), scales)| {
            (0..cols).map(|c| f64::from(w[c] - scales[self.shape.group_of(c)] * t[c]) * f64::from(g[c])).sum::<f64>()
        });
        value.sum()
    }

    /// Goes over all columns once: grid values when `choosing`, and the scales of groups.
    fn sweep(&mut self, choosing: bool) {
        let (cols, rows) = (self.shape.cols, self.rows);
        let block = if self.shape.groups() == 1 { BLOCK } else { BLOCK.div_ceil(self.shape.group) * self.shape.group };
        let mut change = vec![0.0f32; rows * block];
        let mut tiles = vec![[0.0f32; LANES]; 3 * block];
        for start in (0..cols).step_by(block) {
            let width = block.min(cols - start);
            for row in (0..rows).step_by(LANES) {
                simd::with(
                    #[inline(always)]
                    || {
                        let (g, rest) = tiles.split_at_mut(block);
                        let (t, d) = rest.split_at_mut(block);
                        let (g, t, d) = (&mut g[..width], &mut t[..width], &mut d[..width]);
                        tile::load(g, &self.g, cols, row, start..start + width, 0.0);
                        tile::load(t, self.t, cols, row, start..start + width, 0.0);
                        d.fill([0.0; LANES]);
                        self.sweep_tile(g, t, d, row, start, choosing);
                        tile::store(t, self.t, cols, row, start..start + width);
                        tile::store(d, &mut change[..rows * width], width, row, 0..width);
                    },
                );
            }
            let change = Mat::new(&change, rows, width, width);
            let h = Mat::new(&self.hessian[start * cols..], width, cols, cols);
            matmul(MatMut::new(&mut self.g, rows, cols, cols), Old::Add, -1.0, change, h, 1);
        }
    }

    /// One tile: its `g`, `t` and the change of `q`.
    #[inline(always)]
    fn sweep_tile(&mut self, g: &mut [Lane], t: &mut [Lane], d: &mut [Lane], row: usize, start: usize, choosing: bool) {
        let (cols, groups, width) = (self.shape.cols, self.shape.groups(), g.len());
        let hessian = self.hessian;
        // Row `from` of the Hessian, the columns of this tile.
        let h = |from: usize| &hessian[(start + from) * cols + start..][..width];
        let mut scale = [1.0; LANES];
        for first in (0..width).step_by(4) {
            let group = self.shape.group_of(start + first);
            if first == 0 || self.shape.begins_group(start + first) {
                tile::load(std::slice::from_mut(&mut scale), self.scales, groups, row, group..group + 1, 1.0);
            }
            let quad = first..(first + 4).min(width);
            if choosing && self.grid == Grid::Sparse34 {
                let costs = &self.costs[(start + first) / 4];
                let old = [t[first], t[first + 1], t[first + 2], t[first + 3]];
                // The quad taken out: y = g + q H over its own columns.
                let mut y = [[0.0; LANES]; 4];
                let mut cost = [0.0; LANES];
                for k in 0..4 {
                    let mut own = [0.0; LANES];
                    for j in 0..4 {
                        let h = h(first + j)[first + k];
                        for l in 0..LANES {
                            own[l] += old[j][l] * h;
                        }
                    }
                    for l in 0..LANES {
                        y[k][l] = g[first + k][l] + scale[l] * own[l];
                        cost[l] += old[k][l] * (scale[l] * own[l] - 2.0 * y[k][l]);
                    }
                }
                let mut new = old;
                tile::choose(costs, &y, &scale, &cost, &mut new);
                for k in 0..4 {
                    let mut by = [0.0; LANES];
                    for l in 0..LANES {
                        by[l] = scale[l] * (new[k][l] - old[k][l]);
                        d[first + k][l] += by[l];
                    }
                    t[first + k] = new[k];
                    subtract(g, &by, h(first + k));
                }
            } else if choosing {
                for k in quad.clone() {
                    let own = h(k)[k];
                    let mut x = [0.0; LANES];
                    for l in 0..LANES {
                        x[l] = scale[l] * t[k][l] + g[k][l] / own;
                    }
                    let new = tile::nearest(self.grid, &x, &scale);
                    let mut by = [0.0; LANES];
                    for l in 0..LANES {
                        by[l] = scale[l] * (new[l] - t[k][l]);
                        d[k][l] += by[l];
                    }
                    t[k] = new;
                    subtract(g, &by, h(k));
                }
            }
            if groups > 1 && self.shape.ends_group(start + quad.end) {
                let members = quad.end - self.shape.group..quad.end;
                self.fit_group(g, t, d, &mut scale, members, start);
                tile::store(std::slice::from_ref(&scale), self.scales, groups, row, group..group + 1);
            }
        }
    }

    /// The best scale of the group in columns `members` of the tile, given everything else.
    #[inline(always)]
    fn fit_group(
        &self,
        g: &mut [Lane],
        t: &[Lane],
        d: &mut [Lane],
        scale: &mut Lane,
        members: std::ops::Range<usize>,
        start: usize,
    ) {
        let (mut above, mut below) = ([0.0; LANES], [0.0; LANES]);
        for k in members.clone() {
            let h = &self.hessian[(start + k) * self.shape.cols + start..];
            for l in 0..LANES {
                above[l] += g[k][l] * t[k][l];
            }
            for j in members.clone() {
                for l in 0..LANES {
                    below[l] += t[k][l] * t[j][l] * h[j];
                }
            }
        }
        let mut by = [0.0; LANES];
        for l in 0..LANES {
            let next = scale[l] + above[l] / below[l];
            if above[l].is_finite() && below[l] > 0.0 && next * scale[l] > 0.0 {
                by[l] = signed(next) - scale[l];
                scale[l] += by[l];
            }
        }
        for k in members {
            let mut change = [0.0; LANES];
            for l in 0..LANES {
                change[l] = by[l] * t[k][l];
                d[k][l] += change[l];
            }
            let h = &self.hessian[(start + k) * self.shape.cols + start..][..g.len()];
            subtract(g, &change, h);
        }
    }
}

/// `g -= by * h`, a column of the tile each.
#[inline(always)]
fn subtract(g: &mut [Lane], by: &Lane, h: &[f32]) {
    for (g, h) in g.iter_mut().zip(h) {
        for l in 0..LANES {
            g[l] -= by[l] * h;
        }
    }
}
