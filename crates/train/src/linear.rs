//! The quantized linear layer: one or more matrices that share their input, as one matrix product.

use rayon::prelude::*;
use sherry::{Progress, Result};
use sherry_sgemm::{Mat, MatMut, MatmulPrecision, Old, matmul_by};

use crate::error::uninterrupted;
use crate::layout::Learn;
use crate::methods::{MatrixPlace, Method, Quantizer};

/// Matrices stacked by rows, their weights consecutive in the flat parameters.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The matrices, top to bottom.
    pub parts: Vec<MatrixPlace>,
    /// Out features of all of them.
    pub rows: usize,
    /// In features.
    pub cols: usize,
    quantizer: Quantizer,
}

/// Buffers that every linear layer reuses: effective weights are computed when needed and not kept.
#[derive(Debug, Default)]
pub struct Scratch {
    /// How exact products are to be.
    pub precision: MatmulPrecision,
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

/// Multiplications of a piece of a product: some tenths of a second on one core.
const PIECE: u64 = 1 << 33;

/// Lines of the result that are computed between two looks at whether to stop, each of `inner * width` multiplications.
/// The cut depends on the shapes only, so equal calls give equal bits.
fn piece(lines: usize, inner: usize, width: usize) -> usize {
    let line = (inner as u64).saturating_mul(width as u64).max(1);
    usize::try_from(PIECE / line).unwrap_or(usize::MAX).clamp(1, lines.max(1))
}

impl Linear {
    /// Stacks `parts`, which must be consecutive and of equal width.
    pub fn new(parts: Vec<MatrixPlace>, quantizer: Quantizer) -> Self {
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
        uninterrupted(pass.progress)?;
        let (rows, cols, tokens) = (self.rows, self.cols, x.len() / self.cols);
        let (threads, precision) = (rayon::current_num_threads(), scratch.precision);
        let mut bias = std::mem::take(&mut scratch.bias);
        let w = Mat::new(self.weights(pass, scratch), rows, cols, cols).t();
        let piece = piece(tokens, rows, cols);
        for (y, x) in y.chunks_mut(piece * rows).zip(x.chunks(piece * cols)) {
            uninterrupted(pass.progress)?;
            let tokens = x.len() / cols;
            let (y, x) = (MatMut::new(y, tokens, rows, rows), Mat::new(x, tokens, cols, cols));
            matmul_by(precision, y, old, 1.0, x, w, threads);
        }
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
        uninterrupted(pass.progress)?;
        let (rows, cols, tokens) = (self.rows, self.cols, x.len() / self.cols);
        let (threads, precision) = (rayon::current_num_threads(), scratch.precision);
        let w = Mat::new(self.weights(pass, scratch), rows, cols, cols);
        let tokens_at_once = piece(tokens, rows, cols);
        for (dx, dy) in dx.chunks_mut(tokens_at_once * cols).zip(dy.chunks(tokens_at_once * rows)) {
            uninterrupted(pass.progress)?;
            let tokens = dy.len() / rows;
            let (dx, dy) = (MatMut::new(dx, tokens, cols, cols), Mat::new(dy, tokens, rows, rows));
            matmul_by(precision, dx, Old::Replace, 1.0, dy, w, threads);
        }
        if self.quantizer.learns_from_outputs() {
            let mut row = 0;
            for part in &self.parts {
                self.quantizer.add_scale_gradient(*part, pass.params, grads, &dy[row..], &y[row..], rows);
                row += part.rows;
            }
            if learn == Learn::ScalesAndNorms {
                return Ok(());
            }
        }
        if !self.quantizer.learns(learn) {
            return Ok(());
        }
        let start = self.parts.first().map_or(0, |part| part.weights);
        let (x, rows_at_once) = (Mat::new(x, tokens, cols, cols), piece(rows, tokens, cols));
        let add_products = |dw: &mut [f32], old: Old, factor: f32| -> Result<()> {
            for (i, dw) in dw.chunks_mut(rows_at_once * cols).enumerate() {
                uninterrupted(pass.progress)?;
                let count = dw.len() / cols;
                let g = Mat::new(&dy[i * rows_at_once..], tokens, count, rows).t();
                matmul_by(precision, MatMut::new(dw, count, cols, cols), old, factor, g, x, threads);
            }
            Ok(())
        };
        if self.quantizer.is_straight_through() {
            let through = if self.quantizer.method == Method::None { 1.0 } else { 1.0 + pass.lambda };
            return add_products(&mut grads[start..][..rows * cols], Old::Add, through);
        }
        // The effective weights are no longer needed: their place takes their gradient.
        add_products(&mut scratch.weights[..rows * cols], Old::Replace, 1.0)?;
        let mut d_bias = vec![0.0f32; rows];
        if self.quantizer.method == Method::Tequila {
            for dy in dy.chunks_exact(rows) {
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
