//! How latent weights become the weights that the forward pass uses, and how their gradient comes back.
//!
//! `W_eff = Q(W) + lambda W` (Arenas, arXiv 2601.07892, section 3.2): `Q` by one of the methods below, `lambda` by the
//! schedule. Gradients pass straight through `Q` unless said otherwise, so `dW = (1 + lambda) dW_eff`.
//! Scales are rounded to f16 as they are stored, so that at `lambda = 0` the forward pass uses exactly the weights
//! that an export writes.

mod learned;
mod projection;
#[cfg(test)]
mod tests;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sherry_kernels::format::QuadOrder;
use sherry_kernels::format::half::{f16_to_f32, f32_to_f16};

use crate::simd;

/// A way to quantize weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Not quantized: the control.
    None,
    /// 3:4-sparse ternary, Sparse-AbsMean (arXiv 2601.07892, Eq. 4-5).
    Sherry,
    /// BitNet b1.58 (arXiv 2402.17764): scale = mean |w|, threshold half of it.
    AbsMean,
    /// Scale = median |w|, threshold half of it.
    AbsMedian,
    /// Ternary weight networks (arXiv 1605.04711): threshold 0.75 mean |w|, scale = mean of the kept.
    Twn,
    /// Signs times mean |w|.
    Binary,
    /// Learned step size (arXiv 1902.08153): `a clip(round(w/a), -1, 1)`, one `a` per row.
    Lsq,
    /// Stretched elastic quantization (ParetoQ, arXiv 2502.02631) with three levels, one learned range per row.
    Seq,
    /// Dual learnable ternarization (TernaryLLM, arXiv 2406.07177): `a T + shift`, both learned per scale group.
    Dlt,
    /// Tequila (arXiv 2509.23809): AbsMean, the weights it zeroes add up to a small bias of their row.
    Tequila,
    /// Codes times a learned scale: the weights hold the codes. For post-training; no choice of a configuration.
    #[serde(skip)]
    Codes,
}

impl Method {
    /// Learned numbers beside each weight matrix: suffixes of their names.
    pub fn learned(self) -> &'static [&'static str] {
        match self {
            Self::Lsq | Self::Seq | Self::Codes => &["scale"],
            Self::Dlt => &["scale", "shift"],
            _ => &[],
        }
    }
}

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// The weights of one output.
    Row,
    /// Runs of `group_size` weights along a row.
    Group,
    /// All weights of the matrix.
    Tensor,
}

/// Method and granularity.
///
/// ```
/// use sherry_train::methods::{MatrixPlace, Method, Quantizer};
///
/// let quantizer = Quantizer { method: Method::Sherry, ..Quantizer::FULL };
/// let matrix = MatrixPlace { weights: 0, rows: 1, cols: 4, learned: 0 };
/// let mut effective = [0.0; 4];
/// quantizer.effective(matrix, &[0.5, -1.0, 0.1, 1.5], 0.0, &mut effective);
/// assert_eq!(effective, [1.0, -1.0, 0.0, 1.0]); // the smallest of four is zero, the others share a scale
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantizer {
    /// The method.
    pub method: Method,
    /// Who shares a scale.
    pub scale: Scale,
    /// Weights per group for [`Scale::Group`].
    pub group_size: usize,
    /// Which inputs form a quad ([`Method::Sherry`]).
    pub quads: QuadOrder,
    /// Weight of the zeroed weights in Tequila's bias.
    pub tequila: f32,
}

/// Which parameters get gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learn {
    /// All of them.
    Everything,
    /// What blocks consist of, and the last norm; neither the embedding nor the head.
    Blocks,
    /// Norms and the learned numbers of the quantizer; no gradient of a weight is computed.
    ScalesAndNorms,
}

/// Where one matrix and its learned numbers lie in the flat parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixPlace {
    /// Offset of the weights.
    pub weights: usize,
    /// Out features.
    pub rows: usize,
    /// In features.
    pub cols: usize,
    /// Offset of the learned numbers, where the method has them.
    pub learned: usize,
}

impl MatrixPlace {
    /// Weights.
    pub fn count(&self) -> usize {
        self.rows * self.cols
    }

    /// Its weights in the flat parameters `params`.
    pub fn slice<'a>(&self, params: &'a [f32]) -> &'a [f32] {
        &params[self.weights..][..self.count()]
    }
}

/// The nearest f16.
pub(crate) fn stored(scale: f32) -> f32 {
    f16_to_f32(f32_to_f16(scale))
}

/// Writes the codes of 3:4-sparse weights, -1, 0 and 1, whatever their scale.
pub(crate) fn sparse_codes(w: &[f32], quads: QuadOrder, out: &mut [f32]) {
    simd::with(
        #[inline(always)]
        || projection::codes(w, out, quads),
    );
}

/// Weights that one task works on, at least.
const TASK: usize = 1 << 14;

impl Quantizer {
    /// Not quantized.
    pub const FULL: Self =
        Self { method: Method::None, scale: Scale::Row, group_size: 0, quads: QuadOrder::Contiguous, tequila: 0.0 };

    /// Weights of a `rows x cols` matrix that share a scale.
    pub fn unit(&self, rows: usize, cols: usize) -> usize {
        match (self.method, self.scale) {
            (Method::Lsq | Method::Seq, _) | (_, Scale::Row) => cols,
            (_, Scale::Group) => self.group_size,
            (_, Scale::Tensor) => rows * cols,
        }
    }

    /// Numbers of each learned kind beside a `rows x cols` matrix.
    pub fn learned_len(&self, rows: usize, cols: usize) -> usize {
        rows * cols / self.unit(rows, cols)
    }

    /// Why matrices of `cols` inputs cannot be quantized so; `None` when they can.
    pub fn problem(&self, cols: usize) -> Option<String> {
        let multiple = match (self.method, self.quads) {
            (Method::Sherry, QuadOrder::Contiguous) => 4,
            (Method::Sherry, QuadOrder::Stride16) => 64,
            _ => 1,
        };
        if !cols.is_multiple_of(multiple) {
            return Some(format!("{cols} inputs are not a multiple of {multiple}"));
        }
        if self.method != Method::None && self.scale == Scale::Group {
            if ![32, 64, 128, 256].contains(&self.group_size) {
                return Some(format!("group_size is {}, must be 32, 64, 128 or 256", self.group_size));
            }
            if !cols.is_multiple_of(self.group_size) || !self.group_size.is_multiple_of(multiple) {
                return Some(format!("{cols} inputs are no whole groups of {} with such quads", self.group_size));
            }
        }
        None
    }

    /// Writes `Q(W) + lambda W` of `matrix` to `out`.
    pub fn effective(&self, matrix: MatrixPlace, params: &[f32], lambda: f32, out: &mut [f32]) {
        let (w, unit) = (matrix.slice(params), self.unit(matrix.rows, matrix.cols));
        let learned_len = self.learned_len(matrix.rows, matrix.cols);
        let learned = |kind: usize, i: usize| params[matrix.learned + kind * learned_len + i];
        let units = TASK.div_ceil(unit);
        out.par_chunks_mut(unit * units).zip(w.par_chunks(unit * units)).enumerate().for_each(|(task, (out, w))| {
            simd::with(
                #[inline(always)]
                || {
                    for (i, (out, w)) in out.chunks_exact_mut(unit).zip(w.chunks_exact(unit)).enumerate() {
                        let index = task * units + i;
                        match self.method {
                            Method::None => out.copy_from_slice(w),
                            Method::Lsq => learned::lsq(w, out, learned(0, index)),
                            Method::Seq => learned::seq(w, out, learned(0, index)),
                            Method::Dlt => learned::dlt(w, out, learned(0, index), learned(1, index)),
                            Method::Codes => learned::codes(w, out, learned(0, index)),
                            Method::Sherry => projection::sherry(w, out, self.quads),
                            Method::AbsMean | Method::Tequila => projection::abs_mean(w, out),
                            Method::AbsMedian => projection::abs_median(w, out),
                            Method::Twn => projection::twn(w, out),
                            Method::Binary => projection::binary(w, out),
                        }
                        if lambda != 0.0 {
                            for (out, w) in out.iter_mut().zip(w) {
                                *out += lambda * w;
                            }
                        }
                    }
                },
            );
        });
    }

    /// Whether `dW` is `(1 + lambda) dW_eff` and nothing else, so that one matrix product can add it in place.
    pub fn is_straight_through(&self) -> bool {
        use Method::{Codes, Dlt, Lsq, Seq, Tequila};
        !matches!(self.method, Lsq | Seq | Dlt | Tequila | Codes)
    }

    /// Whether the gradients of the scales follow from the outputs of a linear layer, without the product of its inputs and
    /// the gradients of its outputs: they are those of codes and of whole rows.
    pub fn learns_from_outputs(&self) -> bool {
        self.method == Method::Codes && self.scale == Scale::Row
    }

    /// Whether a matrix has anything that `learn` names.
    pub fn learns(&self, learn: Learn) -> bool {
        !self.method.learned().is_empty() || learn != Learn::ScalesAndNorms
    }

    /// For methods that are not [straight through](Self::is_straight_through): adds the gradients of the weights and of the
    /// learned numbers, as far as `learn` names them and they do not [follow from outputs](Self::learns_from_outputs), given
    /// `g = dW_eff` and, for Tequila, the gradient of the row biases.
    #[allow(clippy::too_many_arguments)] // a matrix, its gradient, and where parameters and gradients lie
    pub fn add_gradient(
        &self,
        matrix: MatrixPlace,
        params: &[f32],
        learn: Learn,
        grads: &mut [f32],
        g: &[f32],
        d_bias: &[f32],
        lambda: f32,
    ) {
        let (w, unit) = (matrix.slice(params), self.unit(matrix.rows, matrix.cols));
        let count = self.learned_len(matrix.rows, matrix.cols);
        let learned = |kind: usize, i: usize| params[matrix.learned + kind * count + i];
        // LSQ and its kin damp the gradient of the scale by 1/sqrt(weights * levels).
        let damping = 1.0 / (matrix.count() as f32).sqrt();
        let mut unwanted = Vec::new();
        let dw = match learn {
            Learn::Everything | Learn::Blocks => &mut grads[matrix.weights..][..matrix.count()],
            Learn::ScalesAndNorms => {
                unwanted.resize(matrix.count(), 0.0);
                &mut unwanted[..]
            }
        };
        let rows = dw.par_chunks_mut(unit).zip(w.par_chunks(unit).zip(g.par_chunks(unit)));
        let sums: Vec<[f32; 2]> = rows
            .enumerate()
            .map(|(i, (dw, (w, g)))| {
                simd::with(
                    #[inline(always)]
                    || match self.method {
                        Method::Lsq => [learned::lsq_gradient(w, g, dw, learned(0, i), lambda) * damping, 0.0],
                        Method::Seq => [learned::seq_gradient(w, g, dw, learned(0, i), lambda) * damping, 0.0],
                        Method::Dlt => learned::dlt_gradient(w, g, dw, learned(0, i), learned(1, i), lambda),
                        Method::Codes => {
                            learned::codes_gradient(g, dw, learned(0, i));
                            [if self.learns_from_outputs() { 0.0 } else { simd::dot(w, g) }, 0.0]
                        }
                        _ => {
                            let row = i * unit / matrix.cols;
                            projection::tequila_gradient(
                                w,
                                g,
                                dw,
                                1.0 + lambda,
                                matrix.cols,
                                self.tequila,
                                &d_bias[row..],
                            );
                            [0.0; 2]
                        }
                    },
                )
            })
            .collect();
        for kind in 0..self.method.learned().len() {
            for (i, sum) in sums.iter().enumerate() {
                grads[matrix.learned + kind * count + i] += sum[kind];
            }
        }
    }

    /// For scales that [learn from outputs](Self::learns_from_outputs): adds their gradient,
    /// `da[r] = sum over tokens of dy[r] y[r] / a[r]`. Rows of `dy` and `y` begin with those of `matrix` and lie `stride`
    /// apart.
    pub fn add_scale_gradient(
        &self,
        matrix: MatrixPlace,
        params: &[f32],
        grads: &mut [f32],
        dy: &[f32],
        y: &[f32],
        stride: usize,
    ) {
        let partial: Vec<Vec<f32>> = dy
            .par_chunks(simd::ROWS_PER_TASK * stride)
            .zip(y.par_chunks(simd::ROWS_PER_TASK * stride))
            .map(|(dy, y)| {
                let mut sums = vec![0.0f32; matrix.rows];
                simd::with(
                    #[inline(always)]
                    || {
                        for (dy, y) in dy.chunks(stride).zip(y.chunks(stride)) {
                            for (sum, (dy, y)) in sums.iter_mut().zip(dy.iter().zip(y)) {
                                *sum += dy * y;
                            }
                        }
                    },
                );
                sums
            })
            .collect();
        let (scales, grads) = (&params[matrix.learned..], &mut grads[matrix.learned..]);
        for (row, (scale, grad)) in scales.iter().zip(grads).take(matrix.rows).enumerate() {
            *grad += partial.iter().map(|sums| sums[row]).sum::<f32>() / learned::used(*scale);
        }
    }

    /// Tequila's row biases: `bias[r] = tequila * sum of the zeroed weights of row r`.
    pub fn bias(&self, matrix: MatrixPlace, params: &[f32], bias: &mut [f32]) {
        let (w, unit) = (matrix.slice(params), self.unit(matrix.rows, matrix.cols));
        bias.fill(0.0);
        for (i, w) in w.chunks_exact(unit).enumerate() {
            let threshold = projection::mean(w) / 2.0;
            for (j, row) in w.chunks(matrix.cols.min(unit)).enumerate() {
                let dead = row.iter().filter(|w| f64::from(w.abs()) <= threshold);
                bias[i * unit / matrix.cols + j] += self.tequila * dead.sum::<f32>();
            }
        }
    }

    /// Initial values of the learned numbers of a matrix (all scales, then all shifts).
    pub fn init_learned(&self, rows: usize, cols: usize, w: &[f32], out: &mut [f32]) {
        let (unit, count) = (self.unit(rows, cols), self.learned_len(rows, cols));
        for (i, w) in w.chunks_exact(unit).enumerate() {
            match self.method {
                Method::Lsq => out[i] = 2.0 * projection::mean(w) as f32,
                Method::Codes => out[i] = 1.0,
                Method::Seq => out[i] = w.iter().fold(0.0, |m: f32, w| m.max(w.abs())),
                Method::Dlt => {
                    out[i] = projection::mean(w) as f32;
                    out[count + i] = (w.iter().map(|&w| f64::from(w)).sum::<f64>() / unit as f64) as f32;
                }
                _ => {}
            }
        }
    }
}
