//! The quantized linear map: one or more matrices that share their input, as one matrix product.

use rayon::prelude::*;
use sherry::{Progress, Result};
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use crate::layout::Learn;
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
    quantizer: Quantizer,
}

/// Buffers that every linear map reuses: effective weights are computed when needed and not kept.
#[derive(Debug, Default)]
pub struct Scratch {
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// What a pass through the network is computed with.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// All parameters.
    pub params: &'a [f32],
    /// Strength of the Arenas residual.
    pub lambda: f32,
    /// Asked before every product whether to stop.
    pub progress: &'a dyn Progress,
}

impl Pass<'_> {
    fn check(&self) -> Result<()> {
        if self.progress.is_cancelled() { Err(sherry::Error::Interrupted) } else { Ok(()) }
    }
}

impl Linear {
    /// Stacks `parts`, which must be consecutive and of equal width.
    pub fn new(parts: Vec<Matrix>, quantizer: Quantizer) -> Self {
        let cols = parts.first().map_or(0, |part| part.cols);
        let rows = parts.iter().map(|part| part.rows).sum();
        Self { parts, rows, cols, quantizer }
    }

    /// `W_eff` of all parts: the latent weights themselves, or computed into the scratch.
    pub fn weights<'a>(&self, pass: Pass<'a>, scratch: &'a mut Scratch) -> &'a [f32] {
        let (start, len) = (self.parts.first().map_or(0, |part| part.weights), self.rows * self.cols);
        if self.quantizer.method == Method::None {
            return &pass.params[start..][..len];
        }
        if scratch.weights.len() < len {
            scratch.weights.resize(len, 0.0);
        }
        for part in &self.parts {
            let out = &mut scratch.weights[part.weights - start..][..part.count()];
            self.quantizer.effective(*part, pass.params, pass.lambda, out);
        }
        &scratch.weights[..len]
    }

    /// `y = x W_eff^T (+ bias)`, or added to `y`; `x` rows of `cols`, `y` rows of `rows`.
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`]; `y` is then not whole.
    pub fn forward(&self, y: &mut [f32], old: Old, x: &[f32], pass: Pass<'_>, scratch: &mut Scratch) -> Result<()> {
        pass.check()?;
        let tokens = x.len() / self.cols;
        let threads = rayon::current_num_threads();
        let mut bias = std::mem::take(&mut scratch.bias);
        let w = self.weights(pass, scratch);
        let out = MatMut::new(y, tokens, self.rows, self.rows);
        matmul(
            out,
            old,
            1.0,
            Mat::new(x, tokens, self.cols, self.cols),
            Mat::new(w, self.rows, self.cols, self.cols).t(),
            threads,
        );
        if self.quantizer.method == Method::Tequila {
            bias.resize(self.rows, 0.0);
            let mut start = 0;
            for part in &self.parts {
                self.quantizer.bias(*part, pass.params, &mut bias[start..start + part.rows]);
                start += part.rows;
            }
            y.par_chunks_mut(self.rows).for_each(|y| y.iter_mut().zip(&bias).for_each(|(y, b)| *y += b));
        }
        scratch.bias = bias;
        Ok(())
    }

    /// `dx = dy W_eff` (overwritten), and the gradients of the parameters that `learn` names added to `grads`. `y` is what
    /// [`forward`](Self::forward) gave for `x`; it is read only where scales
    /// [learn from it](Quantizer::learns_from_outputs).
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`]; `dx` and `grads` are then not whole.
    #[allow(clippy::too_many_arguments)] // inputs, outputs and the gradients of both
    pub fn backward(
        &self,
        dx: &mut [f32],
        dy: &[f32],
        x: &[f32],
        y: &[f32],
        pass: Pass<'_>,
        learn: Learn,
        grads: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<()> {
        pass.check()?;
        let tokens = x.len() / self.cols;
        let threads = rayon::current_num_threads();
        let w = self.weights(pass, scratch);
        let g = Mat::new(dy, tokens, self.rows, self.rows);
        let x = Mat::new(x, tokens, self.cols, self.cols);
        let w = Mat::new(w, self.rows, self.cols, self.cols);
        matmul(MatMut::new(dx, tokens, self.cols, self.cols), Old::Replace, 1.0, g, w, threads);
        if self.quantizer.learns_from_outputs() {
            let mut row = 0;
            for part in &self.parts {
                self.quantizer.add_scale_gradient(*part, pass.params, grads, &dy[row..], &y[row..], self.rows);
                row += part.rows;
            }
            return Ok(());
        }
        if !self.quantizer.learns(learn) {
            return Ok(());
        }
        pass.check()?;
        let start = self.parts.first().map_or(0, |part| part.weights);
        if self.quantizer.is_straight_through() {
            let through = if self.quantizer.method == Method::None { 1.0 } else { 1.0 + pass.lambda };
            let dw = MatMut::new(&mut grads[start..], self.rows, self.cols, self.cols);
            matmul(dw, Old::Add, through, g.t(), x, threads);
            return Ok(());
        }
        // The effective weights are no longer needed: their place takes their gradient.
        let dw = MatMut::new(&mut scratch.weights, self.rows, self.cols, self.cols);
        matmul(dw, Old::Replace, 1.0, g.t(), x, threads);
        let mut d_bias = vec![0.0f32; self.rows];
        if self.quantizer.method == Method::Tequila {
            for dy in dy.chunks_exact(self.rows) {
                d_bias.iter_mut().zip(dy).for_each(|(d, g)| *d += g);
            }
        }
        let mut row = 0;
        for part in &self.parts {
            let g = &scratch.weights[part.weights - start..][..part.count()];
            self.quantizer.add_gradient(*part, pass.params, learn, grads, g, &d_bias[row..], pass.lambda);
            row += part.rows;
        }
        Ok(())
    }
}
