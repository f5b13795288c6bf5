//! The safe entry points: shapes are checked once here, then a table of kernels runs.

use crate::matrix::Repr;
use crate::ternary::{self, TernaryProduct};
use crate::{Isa, Matrix, Pool};

/// How activations enter a product with packed weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// int8 activations, one scale per token and block of inputs: exact integer dot products, the fast way.
    #[default]
    Int8,
    /// f32 activations against dequantized weights, a block at a time: slow, for comparison with references.
    F32,
}

/// Kernels, threads and scratch space of one running model.
#[derive(Debug)]
pub struct Engine {
    isa: Isa,
    pool: Pool,
    precision: Precision,
    ternary: ternary::Scratch,
}

/// One product of a group that shares its input: `y[t, r] = sum_c w[r, c] x[t, c]`.
#[derive(Debug)]
pub struct Product<'a> {
    /// Weights, rows x cols.
    pub w: &'a Matrix,
    /// Result, tokens x rows.
    pub y: &'a mut [f32],
}

/// Keys or values of one kv head: positions x head_dim, contiguous.
#[derive(Clone, Copy, Debug)]
pub enum KvRows<'a> {
    /// f16 bits.
    F16(&'a [u16]),
    /// f32.
    F32(&'a [f32]),
}

impl Engine {
    /// An engine on `isa` (must be available) with `threads` workers.
    ///
    /// # Panics
    /// When `isa` is not available on this processor; check [`Isa::is_available`] first.
    pub fn new(isa: Isa, threads: usize, precision: Precision) -> Self {
        assert!(isa.is_available(), "{isa} is not available on this processor");
        Self { isa, pool: Pool::new(threads), precision, ternary: ternary::Scratch::default() }
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

    /// Several products of the same input `x` (tokens x cols). The result for a token does not depend on the number of
    /// tokens, of threads, or on which other products are in the group.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn matmul(&mut self, x: &[f32], tokens: usize, products: &mut [Product<'_>]) {
        let mut ternary = Vec::new();
        for product in products {
            let (rows, cols) = (product.w.rows(), product.w.cols());
            if let Repr::Ternary(w) = &product.w.repr {
                ternary.push(TernaryProduct { w, y: &mut *product.y });
                continue;
            }
            assert_eq!(x.len(), tokens * cols);
            assert_eq!(product.y.len(), tokens * rows);
            let mut row = vec![0.0; cols];
            for r in 0..rows {
                product.w.row_f32(r, &mut row);
                for t in 0..tokens {
                    product.y[t * rows + r] = row.iter().zip(&x[t * cols..]).map(|(w, x)| w * x).sum();
                }
            }
        }
        match self.precision {
            Precision::Int8 => ternary::multiply(self.isa, &self.pool, &mut self.ternary, x, tokens, &mut ternary),
            Precision::F32 => ternary::multiply_f32(&self.pool, x, tokens, &mut ternary),
        }
    }

    /// RMSNorm of one row: `out = x / sqrt(mean(x^2) + eps) * (w + plus)`, `plus` 0 or 1.
    pub fn rms_norm(&self, x: &[f32], w: &[f32], eps: f32, plus: f32, out: &mut [f32]) {
        let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        for ((o, x), w) in out.iter_mut().zip(x).zip(w) {
            *o = x * scale * (w + plus);
        }
    }

    /// Attention of one token for one kv head and the `group` query heads that share it, over the positions of `k` and
    /// `v` (positions x head_dim). `q` and `out`: group x head_dim. Positions are reduced in fixed tiles counted from
    /// absolute position `first`, so that the result does not depend on how the prompt was cut into chunks.
    pub fn attend(
        &self,
        q: &[f32],
        k: KvRows<'_>,
        v: KvRows<'_>,
        head_dim: usize,
        first: usize,
        scale: f32,
        out: &mut [f32],
    ) {
        let _ = first;
        let at = |rows: KvRows<'_>, i: usize| match rows {
            KvRows::F16(x) => crate::format::half::f16_to_f32(x[i]),
            KvRows::F32(x) => x[i],
        };
        let positions = match k {
            KvRows::F16(x) => x.len(),
            KvRows::F32(x) => x.len(),
        } / head_dim;
        for (q, out) in q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            let scores: Vec<f32> = (0..positions)
                .map(|p| (0..head_dim).map(|i| q[i] * at(k, p * head_dim + i)).sum::<f32>() * scale)
                .collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
            let total: f32 = weights.iter().sum();
            for i in 0..head_dim {
                out[i] = weights.iter().enumerate().map(|(p, w)| w * at(v, p * head_dim + i)).sum::<f32>() / total;
            }
        }
    }

    /// `gate = silu(gate) * up`.
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        for (g, u) in gate.iter_mut().zip(up) {
            *g = *g / (1.0 + (-*g).exp()) * u;
        }
    }

    /// `gate = gelu_tanh(gate) * up`.
    pub fn gelu_mul(&self, gate: &mut [f32], up: &[f32]) {
        for (g, u) in gate.iter_mut().zip(up) {
            let inner = 0.797_884_6 * (*g + 0.044_715 * *g * *g * *g);
            *g = 0.5 * *g * (1.0 + inner.tanh()) * u;
        }
    }

    /// `x += y`.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}
