//! A factor per input: what quantized weights are multiplied by, column by column.
//!
//! It costs nothing at run time where it can be folded into what makes the inputs: the norm before, or the rows of the
//! matrix before.

use rayon::prelude::*;
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use super::Shape;
use super::factor::Factor;

/// Weight of the present factors in the next, as a share of the diagonal of the equations.
const INERTIA: f64 = 0.02;
/// How far one fit may move a factor.
const RANGE: f64 = 5.0;

/// Which inputs share a factor: input `c` has that of `owner[c]`, below `count`.
#[derive(Clone, Debug)]
pub struct Sharing {
    owner: Vec<usize>,
    count: usize,
}

impl Sharing {
    /// Every input has its own.
    pub fn none(cols: usize) -> Self {
        Self { owner: (0..cols).collect(), count: cols }
    }

    /// The outputs of attention: query heads that share a value head share its factors.
    pub fn heads(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        let group = heads / kv_heads;
        let owner = (0..heads * head_dim).map(|c| c / head_dim / group * head_dim + c % head_dim).collect();
        Self { owner, count: kv_heads * head_dim }
    }

    /// The same of inputs in another order: the one now at `i` was at `order[i]`.
    pub fn reordered(&self, order: &[usize]) -> Self {
        Self { owner: order.iter().map(|&old| self.owner[old]).collect(), count: self.count }
    }

    /// Factors there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// One value per factor from one per input that is equal within each.
    pub fn reduce(&self, inputs: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.count];
        self.owner.iter().zip(inputs).for_each(|(&owner, &value)| out[owner] = value);
        out
    }

    fn spread(&self, factors: &[f64]) -> Vec<f32> {
        self.owner.iter().map(|&owner| factors[owner] as f32).collect()
    }

    fn sums(&self, inputs: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut out = vec![0.0; self.count];
        self.owner.iter().zip(inputs).for_each(|(&owner, value)| out[owner] += value);
        out
    }

    /// Means within each factor.
    fn means(&self, inputs: impl Iterator<Item = f64>) -> Vec<f64> {
        let counts = self.sums(std::iter::repeat(1.0));
        self.sums(inputs).iter().zip(counts).map(|(sum, count)| sum / count).collect()
    }
}

/// Factors to begin with: the root of the size of the weights of each column, 1 on average.
pub(super) fn first(w: &[f32], sharing: &Sharing) -> Vec<f32> {
    let cols = sharing.owner.len();
    let mut squares = vec![0.0f64; cols];
    for row in w.chunks_exact(cols) {
        squares.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(*w) * f64::from(*w));
    }
    let rows = (w.len() / cols) as f64;
    let factors = sharing.means(squares.iter().map(|sum| (sum / rows).sqrt().sqrt()));
    let mean = factors.iter().sum::<f64>() / factors.len() as f64;
    if mean.is_nan() || mean <= 0.0 {
        return vec![1.0; cols];
    }
    // A column of zeros has no size; its factor must still be one that can be divided by.
    sharing.spread(&factors.iter().map(|f| (f / mean).max(0.05)).collect::<Vec<_>>())
}

/// The factors that fit best: least squares over all rows of `(w - f * m) H (w - f * m)^T`, where `m` (`rows x cols`) are
/// the quantized weights without factors.
pub(super) fn fit(w: &[f32], hessian: &[f32], m: &[f32], old: &[f32], sharing: &Sharing, shape: Shape) -> Vec<f32> {
    let Shape { rows, cols, .. } = shape;
    let threads = rayon::current_num_threads();
    let h = Mat::new(hessian, cols, cols, cols);
    let mut wh = vec![0.0f32; rows * cols];
    matmul(MatMut::new(&mut wh, rows, cols, cols), Old::Replace, 1.0, Mat::new(w, rows, cols, cols), h, threads);
    let mut mm = vec![0.0f32; cols * cols];
    let mat = Mat::new(m, rows, cols, cols);
    matmul(MatMut::new(&mut mm, cols, cols, cols), Old::Replace, 1.0, mat.t(), mat, threads);
    let mut right = vec![0.0f64; cols];
    for (m, wh) in m.chunks_exact(cols).zip(wh.chunks_exact(cols)) {
        for c in 0..cols {
            right[c] += f64::from(m[c]) * f64::from(wh[c]);
        }
    }
    let n = sharing.count;
    let mut right = sharing.sums(right.into_iter());
    let mut left = vec![0.0f64; n * n];
    for i in 0..cols {
        let row = &mut left[sharing.owner[i] * n..][..n];
        for j in 0..cols {
            row[sharing.owner[j]] += f64::from(mm[i * cols + j]) * f64::from(hessian[i * cols + j]);
        }
    }
    let old = sharing.means(old.iter().map(|&x| f64::from(x)));
    for i in 0..n {
        let weight = INERTIA * left[i * n + i];
        left[i * n + i] += weight;
        right[i] += weight * old[i];
    }
    left.reverse();
    let Some(factor) = Factor::of(left, n) else { return sharing.spread(&old) };
    let mut solved: Vec<f32> = right.iter().map(|&x| x as f32).collect();
    factor.solve(&mut solved);
    let bounded = solved.iter().zip(&old).map(|(&new, &old)| {
        let new = f64::from(new);
        if new.is_finite() { new.clamp(old / RANGE, old * RANGE) } else { old }
    });
    sharing.spread(&bounded.collect::<Vec<_>>())
}

/// `w / f` and `f H f`: the same objective for weights without factors.
pub(super) fn divide(w: &[f32], hessian: &[f32], factors: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let cols = factors.len();
    let mut scaled_w = w.to_vec();
    scaled_w.par_chunks_mut(cols).for_each(|row| row.iter_mut().zip(factors).for_each(|(w, f)| *w /= f));
    let mut scaled_h = hessian.to_vec();
    scaled_h.par_chunks_mut(cols).zip(factors).for_each(|(row, f)| {
        row.iter_mut().zip(factors).for_each(|(h, g)| *h *= f * g);
    });
    (scaled_w, scaled_h)
}
