//! The safe entry points: shapes are checked once, then the functions of an instruction set run.

pub(crate) mod attention;
pub(crate) mod matmul;
mod ternary;
#[cfg(test)]
mod tests;
pub(crate) mod top;

use crate::arch::dispatch;
use crate::table::Table;
use crate::{Isa, Matrix, Pool};
use attention::{AttentionShape, KvHead};
use matmul::{Precision, Product};
use top::{Largest, Top};

/// Kernels, threads and scratch space of one running model.
///
/// ```
/// use sherry_kernels::{AttentionShape, Engine, Isa, KvHead, KvTiles, KvType, Precision};
///
/// let engine = Engine::new(Isa::best(), 1, Precision::Int8);
/// let mut x = [1.0, 2.0];
/// engine.add(&mut x, &[0.5, 0.5]);
/// assert_eq!(x, [1.5, 2.5]);
///
/// // One head that has seen one position.
/// let layout = KvTiles::new(KvType::F32, 2);
/// let mut slab = vec![0; layout.bytes(KvTiles::CHUNK)];
/// layout.write(&mut slab, 0, &[1.0, 0.0], &[3.0, 4.0]);
/// let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 2, kv: KvType::F32, scale: 1.0 };
/// let see = |_token, _head| KvHead { slab: &slab, chunks: &[0], offset: 0, first: 0, end: 1 };
/// let mut out = [0.0; 2];
/// engine.attention(shape, &x, see, &mut out);
/// assert_eq!(out, [3.0, 4.0]);
/// ```
#[derive(Debug)]
pub struct Engine {
    isa: Isa,
    pool: Pool,
    precision: Precision,
    table: &'static Table,
    matmul: matmul::Scratch,
    attention: attention::Scratch,
    top: top::Scratch,
}

impl Engine {
    /// An engine on `isa` (must be available) with `threads` workers.
    ///
    /// # Panics
    /// When `isa` is not available on this processor; check [`Isa::is_available`] first.
    pub fn new(isa: Isa, threads: usize, precision: Precision) -> Self {
        let table = dispatch::expect(isa);
        let pool = Pool::new(threads);
        let workers = pool.threads();
        Self {
            isa,
            pool,
            precision,
            table,
            matmul: matmul::Scratch::new(workers),
            attention: attention::Scratch::new(workers),
            top: top::Scratch::default(),
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

    /// Changes how activations enter products with packed weights.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
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
            self.table.rms_norm(x, w, eps, plus, out);
        }
    }

    /// `gate = silu(gate) * up`, `silu(g) = g / (1 + e^-g)`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len());
        self.table.silu_mul(gate, up);
    }

    /// `gate = gelu(gate) * up`, gelu by its tanh approximation.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn gelu_mul(&self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len());
        self.table.gelu_mul(gate, up);
    }

    /// `x += y`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        self.table.add(x, y);
    }

    /// Rotates components `i` and `i + n` of every head by the angle with `cos[i]` and `sin[i]`, `n = cos.len()`, at most
    /// half of `head_dim`. `x`: the heads of one token, heads x head_dim.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn rope_halves(&self, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        check_rope(x, head_dim, cos, sin);
        self.table.rope_halves(x, head_dim, cos, sin);
    }

    /// Rotates components `2 i` and `2 i + 1` of every head by the angle with `cos[i]` and `sin[i]`; otherwise like
    /// [`rope_halves`](Self::rope_halves).
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn rope_interleaved(&self, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        check_rope(x, head_dim, cos, sin);
        self.table.rope_interleaved(x, head_dim, cos, sin);
    }

    /// Several products of the same input `x` (tokens x cols), in one parallel region per kind of weights. The result for a
    /// token does not depend on the number of tokens, of threads, or on which other products are in the group.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn matmul(&mut self, x: &[f32], tokens: usize, products: &mut [Product<'_>]) {
        matmul::matmul(self.table, &self.pool, self.precision, &mut self.matmul, x, tokens, products);
    }

    /// Of the products `w x` of each token the largest, as many as are asked for, and some more: `x` is tokens x cols, `asked`
    /// has an entry per token, and `y` (tokens x rows) gets the bits that [`matmul`](Self::matmul) would give, or -inf where the
    /// coarse copy of the matrix says that a product is not asked for. It is wrong about one of these once in 10^9 times, if
    /// the inputs know nothing of the random signs that the copy was made with. Returns how many products of each token are
    /// exact.
    ///
    /// `None`, and the token's part of `y` holds nothing of use, when the matrix has no [coarse copy](Matrix::with_coarse_on),
    /// when more than a third of it would have to be computed, when `k` is 0 or anything is not finite; use `matmul` then.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn top(&mut self, x: &[f32], w: &Matrix, asked: &[Largest], y: &mut [f32]) -> Vec<Option<usize>> {
        if self.precision == Precision::F32 {
            return vec![None; asked.len()];
        }
        let Self { table, pool, matmul, top, .. } = self;
        Top { table, pool, inputs: &mut matmul.inputs, scratch: top }.top(x, w, asked, y)
    }

    /// Attention of all tokens of a batch, spread over the workers. `q` and `out`: tokens x heads x head_dim.
    /// `kv(token, kv_head)` gives the positions that the token sees, itself included; tokens may belong to different
    /// sequences. Without positions the result is 0.
    ///
    /// Units of tokens x kv head are spread over the workers; when they are few (decoding), their chunks of positions are,
    /// and the partial results are folded afterwards in the same order. Chunks are counted from absolute position 0, so the
    /// result for a token does not depend on the other tokens of the batch, on how a prompt was cut into batches, or on the
    /// number of threads.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn attention<'kv>(
        &self,
        shape: AttentionShape,
        q: &[f32],
        kv: impl Fn(usize, usize) -> KvHead<'kv>,
        out: &mut [f32],
    ) {
        attention::attention(self.table, &self.pool, &self.attention, shape, q, kv, out);
    }
}

fn check_rope(x: &[f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    assert!(head_dim > 0 && x.len().is_multiple_of(head_dim), "x is not a whole number of heads");
    assert!(cos.len() == sin.len() && 2 * cos.len() <= head_dim, "more rotated pairs than a head has");
}
