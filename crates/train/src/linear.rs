//! The quantized linear map: one or more matrices that share their input, as one matrix product.

use rayon::prelude::*;
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use crate::methods::{Matrix, Method, Quantizer};

/// Matrices stacked by rows, their weights consecutive in the flat parameters.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The matrices, top to bottom.
    pub parts: Vec<Matrix>,
    /// Out features of all of them.
    pub rows: usize,
    /// In features.
    pub cols: usize,
}

/// Buffers that every linear map reuses: effective weights are computed when needed and not kept.
#[derive(Debug, Default)]
pub struct Scratch {
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// Parameters and how to read them.
#[derive(Clone, Copy, Debug)]
pub struct Latent<'a> {
    /// All parameters.
    pub params: &'a [f32],
    /// How weights are quantized.
    pub quantizer: &'a Quantizer,
    /// Strength of the Arenas residual.
    pub lambda: f32,
}

impl Linear {
    /// Stacks `parts`, which must be consecutive and of equal width.
    pub fn new(parts: Vec<Matrix>) -> Self {
        let cols = parts.first().map_or(0, |part| part.cols);
        let rows = parts.iter().map(|part| part.rows).sum();
        Self { parts, rows, cols }
    }

    /// `W_eff` of all parts: the latent weights themselves, or computed into the scratch.
    pub fn weights<'a>(&self, latent: Latent<'a>, scratch: &'a mut Scratch) -> &'a [f32] {
        let (start, len) = (self.parts.first().map_or(0, |part| part.weights), self.rows * self.cols);
        if latent.quantizer.method == Method::None {
            return &latent.params[start..][..len];
        }
        if scratch.weights.len() < len {
            scratch.weights.resize(len, 0.0);
        }
        for part in &self.parts {
            let out = &mut scratch.weights[part.weights - start..][..part.count()];
            latent.quantizer.effective(*part, latent.params, latent.lambda, out);
        }
        &scratch.weights[..len]
    }

    /// `y = x W_eff^T (+ bias)`, or added to `y`; `x` rows of `cols`, `y` rows of `rows`.
    pub fn forward(&self, y: &mut [f32], old: Old, x: &[f32], latent: Latent<'_>, scratch: &mut Scratch) {
        let tokens = x.len() / self.cols;
        let threads = rayon::current_num_threads();
        let mut bias = std::mem::take(&mut scratch.bias);
        let w = self.weights(latent, scratch);
        let out = MatMut::new(y, tokens, self.rows, self.rows);
        matmul(
            out,
            old,
            1.0,
            Mat::new(x, tokens, self.cols, self.cols),
            Mat::new(w, self.rows, self.cols, self.cols).t(),
            threads,
        );
        if latent.quantizer.method == Method::Tequila {
            bias.resize(self.rows, 0.0);
            let mut start = 0;
            for part in &self.parts {
                latent.quantizer.bias(*part, latent.params, &mut bias[start..start + part.rows]);
                start += part.rows;
            }
            y.par_chunks_mut(self.rows).for_each(|y| y.iter_mut().zip(&bias).for_each(|(y, b)| *y += b));
        }
        scratch.bias = bias;
    }

    /// `dx = dy W_eff` (overwritten), and the gradients of the parameters added to `grads`.
    pub fn backward(
        &self,
        dx: &mut [f32],
        dy: &[f32],
        x: &[f32],
        latent: Latent<'_>,
        grads: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let tokens = x.len() / self.cols;
        let threads = rayon::current_num_threads();
        let w = self.weights(latent, scratch);
        let g = Mat::new(dy, tokens, self.rows, self.rows);
        let x = Mat::new(x, tokens, self.cols, self.cols);
        let w = Mat::new(w, self.rows, self.cols, self.cols);
        matmul(MatMut::new(dx, tokens, self.cols, self.cols), Old::Replace, 1.0, g, w, threads);
        let start = self.parts.first().map_or(0, |part| part.weights);
        if latent.quantizer.is_straight_through() {
            let pass = if latent.quantizer.method == Method::None { 1.0 } else { 1.0 + latent.lambda };
            let dw = MatMut::new(&mut grads[start..], self.rows, self.cols, self.cols);
            matmul(dw, Old::Add, pass, g.t(), x, threads);
            return;
        }
        // The effective weights are no longer needed: their place takes their gradient.
        matmul(
            MatMut::new(&mut scratch.weights, self.rows, self.cols, self.cols),
            Old::Replace,
            1.0,
            g.t(),
            x,
            threads,
        );
        let mut d_bias = vec![0.0f32; self.rows];
        if latent.quantizer.method == Method::Tequila {
            for dy in dy.chunks_exact(self.rows) {
                d_bias.iter_mut().zip(dy).for_each(|(d, g)| *d += g);
            }
        }
        let mut row = 0;
        for part in &self.parts {
            let g = &scratch.weights[part.weights - start..][..part.count()];
            latent.quantizer.add_gradient(*part, latent.params, grads, g, &d_bias[row..], latent.lambda);
            row += part.rows;
        }
    }
}
