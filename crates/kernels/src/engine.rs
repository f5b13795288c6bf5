//! The safe entry points: shapes are checked once here, then a table of kernels runs.

mod attention;
mod matmul;
#[cfg(test)]
mod tests;
mod top;

use std::sync::Mutex;

use crate::kernels::Kernels;
use crate::ternary;
use crate::{Isa, Matrix, Pool};

pub use attention::{AttentionShape, KvHead};
pub(crate) use matmul::WIDEN_TOKENS;

/// How activations enter a product with packed weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// int8 activations, one scale per token and block of inputs: exact integer dot products, the fast way. Dense
    /// weights, and block-quantized ones that were not [repacked](Matrix::repacked_on), are multiplied in f32.
    #[default]
    Int8,
    /// f32 activations against dequantized weights: slow, for comparison with references.
    F32,
}

/// Kernels, threads and scratch space of one running model.
#[derive(Debug)]
pub struct Engine {
    isa: Isa,
    pool: Pool,
    precision: Precision,
    ternary: ternary::Scratch,
    kernels: &'static Kernels,
    /// int8 activations of the current product.
    inputs: matmul::Inputs,
    /// Per worker: rows as f32.
    rows: Vec<Mutex<Vec<f32>>>,
    attention: attention::Scratch,
    top: top::Scratch,
}

/// One product of a group that shares its input: `y[t, r] = sum_c w[r, c] x[t, c]`.
#[derive(Debug)]
pub struct Product<'a> {
    /// Weights, rows x cols.
    pub w: &'a Matrix,
    /// Result, tokens x rows.
    pub y: &'a mut [f32],
}

impl Engine {
    /// An engine on `isa` (must be available) with `threads` workers.
    ///
    /// # Panics
    /// When `isa` is not available on this processor; check [`Isa::is_available`] first.
    pub fn new(isa: Isa, threads: usize, precision: Precision) -> Self {
        assert!(isa.is_available(), "{isa} is not available on this processor");
        let pool = Pool::new(threads);
        let rows: Vec<_> = (0..pool.threads()).map(|_| Mutex::default()).collect();
        Self {
            isa,
            pool,
            precision,
            kernels: Kernels::of(isa),
            inputs: matmul::Inputs::default(),
            attention: attention::Scratch::new(rows.len()),
            top: top::Scratch::default(),
            rows,
            ternary: ternary::Scratch::default(),
        }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The workers.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// How activations enter products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// RMSNorm of every row: `out = x / sqrt(mean(x^2) + eps) * (w + plus)`, `plus` 0 or 1. `x` and `out`: rows x width,
    /// `w`: width.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn rms_norm(&self, x: &[f32], w: &[f32], eps: f32, plus: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        if w.is_empty() {
            assert!(x.is_empty());
            return;
        }
        assert!(x.len().is_multiple_of(w.len()), "x is not a whole number of rows");
        for (x, out) in x.chunks_exact(w.len()).zip(out.chunks_exact_mut(w.len())) {
            // SAFETY: `new` has checked the instruction set.
            unsafe { (self.kernels.rms_norm)(x, w, eps, plus, out) };
        }
    }

    /// `gate = silu(gate) * up`, `silu(g) = g / (1 + e^-g)`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len());
        // SAFETY: `new` has checked the instruction set.
        unsafe { (self.kernels.silu_mul)(gate, up) };
    }

    /// `gate = gelu(gate) * up`, gelu by its tanh approximation.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn gelu_mul(&self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len());
        // SAFETY: `new` has checked the instruction set.
        unsafe { (self.kernels.gelu_mul)(gate, up) };
    }

    /// `x += y`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        // SAFETY: `new` has checked the instruction set.
        unsafe { (self.kernels.add)(x, y) };
    }

    /// Rotates components `i` and `i + n` of every head by the angle with `cos[i]` and `sin[i]`, `n = cos.len()`, at most
    /// half of `head_dim`. `x`: the heads of one token, heads x head_dim.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn rope_halves(&self, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        check_rope(x, head_dim, cos, sin);
        // SAFETY: `new` has checked the instruction set.
        unsafe { (self.kernels.rope_halves)(x, head_dim, cos, sin) };
    }

    /// Rotates components `2 i` and `2 i + 1` of every head by the angle with `cos[i]` and `sin[i]`; otherwise like
    /// [`rope_halves`](Self::rope_halves).
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn rope_interleaved(&self, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        check_rope(x, head_dim, cos, sin);
        // SAFETY: `new` has checked the instruction set.
        unsafe { (self.kernels.rope_interleaved)(x, head_dim, cos, sin) };
    }
}

fn check_rope(x: &[f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    assert!(head_dim > 0 && x.len().is_multiple_of(head_dim), "x is not a whole number of heads");
    assert!(cos.len() == sin.len() && 2 * cos.len() <= head_dim, "more rotated pairs than a head has");
}

/// Where each of `parts` workers starts in `costs.len()` items, so that their costs are about equal; `parts + 1` bounds.
fn partition(costs: impl Iterator<Item = u64> + Clone, parts: usize) -> Vec<usize> {
    let total: u64 = costs.clone().sum();
    let mut bounds = vec![0];
    let (mut items, mut before) = (0, 0);
    for cost in costs {
        // An item belongs to the part in which its middle lies.
        let middle = before + cost / 2;
        while bounds.len() < parts && u128::from(middle) * parts as u128 >= u128::from(total) * bounds.len() as u128 {
            bounds.push(items);
        }
        before += cost;
        items += 1;
    }
    bounds.resize(parts + 1, items);
    bounds
}
