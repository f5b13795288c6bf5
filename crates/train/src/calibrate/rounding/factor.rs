//! The triangular factor of a Hessian, in double precision.

use rayon::prelude::*;
use sherry_sgemm::{Mat, MatMut, Old, matmul};

/// Columns that are factored or solved at a time; the rest is matrix products.
const BLOCK: usize = 64;
/// Right-hand sides per task.
const ROWS: usize = 64;

/// `H = R R^T` with `R` upper triangular, of a symmetric positive definite `H`.
///
/// Kept as the lower Cholesky factor of `H` with rows and columns in reverse order.
#[derive(Clone, Debug)]
pub struct Factor {
    n: usize,
    /// `n x n`, lower triangular.
    lower: Vec<f64>,
}

impl Factor {
    /// Factors `h` (`n x n`, symmetric); `None` when it is not positive definite, or not finite.
    pub fn new(h: &[f32], n: usize) -> Option<Self> {
        Self::of(h.iter().rev().map(|&x| f64::from(x)).collect(), n)
    }

    /// As [`new`](Self::new), of numbers that are given in reverse order.
    pub(super) fn of(mut a: Vec<f64>, n: usize) -> Option<Self> {
        assert_eq!(a.len(), n * n);
        let mut panel = Vec::new();
        for start in (0..n).step_by(BLOCK) {
            let end = (start + BLOCK).min(n);
            for j in start..end {
                let row = &a[j * n + start..j * n + j];
                let pivot = a[j * n + j] - row.iter().map(|x| x * x).sum::<f64>();
                if !(pivot > 0.0 && pivot.is_finite()) {
                    return None;
                }
                let root = pivot.sqrt();
                a[j * n + j] = root;
                for i in j + 1..end {
                    let (above, below) = a.split_at_mut(i * n);
                    let dot = dot(&above[j * n + start..j * n + j], &below[start..j]);
                    below[j] = (below[j] - dot) / root;
                }
            }
            let (head, tail) = a.split_at_mut(end * n);
            tail.par_chunks_mut(n).for_each(|row| {
                for j in start..end {
                    let dot = dot(&head[j * n + start..j * n + j], &row[start..j]);
                    row[j] = (row[j] - dot) / head[j * n + j];
                }
            });
            let width = end - start;
            panel.clear();
            tail.chunks_exact(n).for_each(|row| panel.extend_from_slice(&row[start..end]));
            // The lower triangle only, in strips of columns.
            let rest = n - end;
            const STRIP: usize = 256;
            for from in (0..rest).step_by(STRIP) {
                let (strip, rows) = (STRIP.min(rest - from), rest - from);
                let below = Mat::new(&panel[from * width..], rows, width, width);
                let beside = Mat::new(&panel[from * width..], strip, width, width);
                let out = MatMut::new(&mut tail[from * n + end + from..], rows, strip, n);
                matmul(out, Old::Add, -1.0, below, beside.t(), rayon::current_num_threads());
            }
        }
        for i in 0..n {
            a[i * n + i + 1..(i + 1) * n].fill(0.0);
        }
        Some(Self { n, lower: a })
    }

    /// Replaces every row `b` (of `n`) of `rows` by the `x` with `x H = b`.
    pub fn solve(&self, rows: &mut [f32]) {
        let (n, lower) = (self.n, &self.lower);
        rows.par_chunks_mut(ROWS * n).for_each(|rows| {
            let count = rows.len() / n;
            let mut x: Vec<f64> =
                rows.chunks_exact(n).flat_map(|row| row.iter().rev().map(|&x| f64::from(x))).collect();
            let mut block = vec![0.0f64; count * BLOCK];
            // x L^T = b, then x L = that.
            for transposed in [true, false] {
                let starts: Vec<usize> = (0..n).step_by(BLOCK).collect();
                let order: Vec<usize> = if transposed { starts } else { starts.into_iter().rev().collect() };
                for start in order {
                    let width = BLOCK.min(n - start);
                    let end = start + width;
                    for (block, row) in block.chunks_exact_mut(width).zip(x.chunks_exact(n)) {
                        block.copy_from_slice(&row[start..end]);
                    }
                    let out = MatMut::new(&mut block, count, width, width);
                    if transposed {
                        let (done, l) = (Mat::new(&x, count, start, n), Mat::new(&lower[start * n..], width, start, n));
                        matmul(out, Old::Add, -1.0, done, l.t(), 1);
                    } else if end < n {
                        let done = Mat::new(&x[end..], count, n - end, n);
                        let l = Mat::new(&lower[end * n + start..], n - end, width, n);
                        matmul(out, Old::Add, -1.0, done, l, 1);
                    }
                    for (block, row) in block.chunks_exact_mut(width).zip(x.chunks_exact_mut(n)) {
                        solve_small(block, &lower[start * n + start..], n, transposed);
                        row[start..end].copy_from_slice(block);
                    }
                }
            }
            for (row, x) in rows.chunks_exact_mut(n).zip(x.chunks_exact(n)) {
                row.iter_mut().zip(x.iter().rev()).for_each(|(row, x)| *row = *x as f32);
            }
        });
    }

    /// `R = U D^(1/2)` with ones on the diagonal of `U`: the strictly upper part of `U` (`n x n`) and `D`.
    pub(super) fn unit(&self) -> (Vec<f32>, Vec<f32>) {
        let (n, last) = (self.n, self.n * self.n - 1);
        // Element (i, j) of R is element (n - 1 - i, n - 1 - j) of the lower factor: the array read from its end.
        let pivot = |j: usize| self.lower[last - (j * n + j)];
        let pivots: Vec<f64> = (0..n).map(pivot).collect();
        let mut unit = vec![0.0f32; n * n];
        unit.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            for j in i + 1..n {
                row[j] = (self.lower[last - (i * n + j)] / pivots[j]) as f32;
            }
        });
        (unit, pivots.iter().map(|p| (p * p) as f32).collect())
    }
}

/// Solves `x L^T = b`, or `x L = b`, for one row and the small lower triangle at the start of `l`.
fn solve_small(x: &mut [f64], l: &[f64], stride: usize, transposed: bool) {
    let n = x.len();
    if transposed {
        for j in 0..n {
            let dot = dot(&l[j * stride..][..j], &x[..j]);
            x[j] = (x[j] - dot) / l[j * stride + j];
        }
    } else {
        for j in (0..n).rev() {
            x[j] /= l[j * stride + j];
            let value = x[j];
            for (x, l) in x[..j].iter_mut().zip(&l[j * stride..]) {
                *x -= value * l;
            }
        }
    }
}

/// Dot product in eight interleaved chains.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    let mut lanes = [0.0f64; 8];
    for (a, b) in xs.iter().zip(ys) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f64>() + x_tail.iter().zip(y_tail).map(|(a, b)| a * b).sum::<f64>()
}
