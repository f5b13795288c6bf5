//! Attention over the key and value caches.

use super::{Engine, partition};
use crate::generic::attention::AttendHead;
use crate::pool::SharedPtr;

/// Keys or values of one kv head: positions x head_dim, contiguous.
#[derive(Clone, Copy, Debug)]
pub enum KvRows<'a> {
    /// f16 bits.
    F16(&'a [u16]),
    /// f32.
    F32(&'a [f32]),
}

impl KvRows<'_> {
    /// Values.
    pub fn len(&self) -> usize {
        match self {
            Self::F16(rows) => rows.len(),
            Self::F32(rows) => rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one token sees of one kv head.
#[derive(Clone, Copy, Debug)]
pub enum KvHead<'a> {
    /// Floats.
    Rows {
        /// Keys, positions x head_dim.
        k: KvRows<'a>,
        /// Values, positions x head_dim, of the same type.
        v: KvRows<'a>,
        /// Absolute position of the first row: 0, or the start of the token's sliding window.
        first: usize,
    },
    /// 8-bit values.
    Tiles {
        /// [Tiles](crate::KvTiles) of the head from position 0 on.
        tiles: &'a [u8],
        /// The first position seen: 0, or the start of the token's sliding window.
        first: usize,
        /// The end of the positions seen.
        end: usize,
    },
}

impl KvHead<'_> {
    /// Positions seen.
    fn positions(&self, head_dim: usize) -> usize {
        match self {
            Self::Rows { k, .. } => k.len() / head_dim,
            Self::Tiles { first, end, .. } => end.saturating_sub(*first),
        }
    }
}

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads, a multiple of `kv_heads`; heads `g k .. g (k + 1)` share kv head `k`, `g = heads / kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Components per head.
    pub head_dim: usize,
    /// Factor on the scores, normally 1 / sqrt(head_dim).
    pub scale: f32,
}

impl Engine {
    /// Attention of all tokens of a batch, spread over the workers. `q` and `out`: tokens x heads x head_dim.
    /// `kv(token, kv_head)` gives the positions that the token sees, itself included; it is called from all workers, and
    /// tokens may belong to different sequences.
    ///
    /// All tokens have the same kind of cache. Positions are reduced in tiles of 32 (8-bit: chunks of 256) counted from
    /// absolute position 0, so the result for a token does not depend on the other tokens of the batch, on how a prompt
    /// was cut into batches, or on the number of threads.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn attention<'kv>(
        &self,
        shape: AttentionShape,
        q: &[f32],
        kv: impl Fn(usize, usize) -> KvHead<'kv> + Sync,
        out: &mut [f32],
    ) {
        let AttentionShape { heads, kv_heads, head_dim, scale } = shape;
        assert!(heads > 0 && kv_heads > 0 && head_dim > 0 && heads.is_multiple_of(kv_heads));
        assert!(q.len() == out.len() && q.len().is_multiple_of(heads * head_dim));
        let group = heads / kv_heads;
        let items = q.len() / head_dim;
        if items == 0 {
            return;
        }
        if let KvHead::Tiles { .. } = kv(0, 0) {
            return self.attention_tiles(shape, q, &kv, out);
        }
        // An item is a query head of a token; a worker takes a run of them, the heads of a kv head together.
        let cost = |item: usize| 16 + kv(item / heads, item % heads / group).positions(head_dim) as u64;
        let bounds = partition((0..items).map(cost), self.pool.threads());
        let out = SharedPtr(out.as_mut_ptr());
        self.pool.run(&|worker| {
            let (mut item, end) = (bounds[worker], bounds[worker + 1]);
            while item < end {
                let head = item % heads;
                let next = end.min(item - head % group + group);
                let KvHead::Rows { k, v, first } = kv(item / heads, head / group) else {
                    panic!("caches of different kinds");
                };
                let q = &q[item * head_dim..next * head_dim];
                // SAFETY: items below `items` lie inside `out`, every item belongs to one worker, and `out` is borrowed
                // mutably for the whole call.
                let out =
                    unsafe { std::slice::from_raw_parts_mut(out.get().add(item * head_dim), (next - item) * head_dim) };
                self.attend(q, k, v, head_dim, first, scale, out);
                item = next;
            }
        });
    }

    /// Attention of one token for one kv head and the `group` query heads that share it, over the positions of `k` and
    /// `v` (positions x head_dim, the same type), the first of which is absolute position `first`. `q` and `out`: group x
    /// head_dim. Without positions the result is 0. Runs on the calling thread; see [`attention`](Self::attention).
    ///
    /// # Panics
    /// When a shape does not fit.
    #[allow(clippy::too_many_arguments)] // two inputs of a product, and its shape
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
        assert!(head_dim > 0 && q.len() == out.len() && q.len().is_multiple_of(head_dim));
        assert!(k.len() == v.len() && k.len().is_multiple_of(head_dim), "keys and values are of different shapes");
        let positions = k.len() / head_dim;
        let (attend, k, v) = match (k, v) {
            (KvRows::F16(k), KvRows::F16(v)) => (self.kernels.attend_f16, k.as_ptr().cast(), v.as_ptr().cast()),
            (KvRows::F32(k), KvRows::F32(v)) => (self.kernels.attend_f32, k.as_ptr().cast(), v.as_ptr().cast()),
            _ => panic!("keys and values are of different types"),
        };
        let mut head = AttendHead { q, k, v, head_dim, positions, first, scale, out };
        // SAFETY: `new` has checked the instruction set; k and v cover positions x head_dim values of the kernel's type.
        unsafe { attend(&mut head) };
    }
}
