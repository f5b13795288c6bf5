//! Rotary positions, and the change between the layouts of the linear layer and of attention.
//!
//! The joint linear layer gives rows `[q heads | k heads | v heads]` per token. Attention wants, for each sequence and each
//! key-value head, the query heads that share it, the key head and the value head, each as a contiguous
//! `length x head_dim` matrix. Rotating and moving are one pass.

use rayon::prelude::*;
use sherry::model::RopeLayout;

use crate::simd;

/// Sizes of the attention of one layer for one batch.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Sequences of the batch.
    pub batch: usize,
    /// Positions per sequence.
    pub length: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Components per head.
    pub head_dim: usize,
}

impl Heads {
    /// Query heads per key-value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Width of all query heads.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of a row of the joint linear layer.
    pub fn qkv_dim(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Elements of one head of one sequence.
    pub fn head_len(&self) -> usize {
        self.length * self.head_dim
    }

    /// Column in a joint row of slot `slot` of key-value head `kv`: `group` query heads, then key, then value.
    fn column(&self, kv: usize, slot: usize) -> usize {
        let group = self.group();
        match slot.checked_sub(group) {
            None => (kv * group + slot) * self.head_dim,
            Some(which) => (self.heads + which * self.kv_heads + kv) * self.head_dim,
        }
    }
}

/// Cosines and sines of every position and pair.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `length x head_dim/2`.
    cos: Vec<f32>,
    sin: Vec<f32>,
    layout: RopeLayout,
}

impl Rotation {
    /// The table for `length` positions; `frequencies[i]` is the angle per position of pair `i`.
    pub fn new(frequencies: &[f64], length: usize, layout: RopeLayout) -> Self {
        let angles = (0..length).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let (sin, cos) = angles.map(|a| (a.sin() as f32, a.cos() as f32)).unzip();
        Self { cos, sin, layout }
    }

    /// `y = rotate(x)` at `position`, or the inverse rotation (the gradient) with `sign` -1.
    #[inline(always)]
    fn rotate(&self, y: &mut [f32], x: &[f32], position: usize, sign: f32) {
        let half = x.len() / 2;
        let (cos, sin) = (&self.cos[position * half..][..half], &self.sin[position * half..][..half]);
        match self.layout {
            RopeLayout::Halves => {
                let (x0, x1) = x.split_at(half);
                let (y0, y1) = y.split_at_mut(half);
                for i in 0..half {
                    let s = sign * sin[i];
                    y0[i] = x0[i] * cos[i] - x1[i] * s;
                    y1[i] = x1[i] * cos[i] + x0[i] * s;
                }
            }
            RopeLayout::Interleaved => {
                for i in 0..half {
                    let s = sign * sin[i];
                    y[2 * i] = x[2 * i] * cos[i] - x[2 * i + 1] * s;
                    y[2 * i + 1] = x[2 * i + 1] * cos[i] + x[2 * i] * s;
                }
            }
        }
    }
}

/// `heads` (`[batch][kv_heads][group + 2][length][head_dim]`) from the rows of `qkv`, query and key rotated.
pub fn forward(heads: &mut [f32], qkv: &[f32], rotation: &Rotation, shape: Heads) {
    let slots = shape.group() + 2;
    heads.par_chunks_mut(slots * shape.head_len()).enumerate().for_each(|(index, heads)| {
        let (sequence, kv) = (index / shape.kv_heads, index % shape.kv_heads);
        simd::with(
            #[inline(always)]
            || {
                for (slot, head) in heads.chunks_exact_mut(shape.head_len()).enumerate() {
                    let column = shape.column(kv, slot);
                    for (position, y) in head.chunks_exact_mut(shape.head_dim).enumerate() {
                        let row = (sequence * shape.length + position) * shape.qkv_dim();
                        let x = &qkv[row + column..][..shape.head_dim];
                        if slot + 1 == slots {
                            y.copy_from_slice(x);
                        } else {
                            rotation.rotate(y, x, position, 1.0);
                        }
                    }
                }
            },
        );
    });
}

/// Gradient of the rows of `qkv` from that of `heads`; overwrites `d_qkv`.
pub fn backward(d_qkv: &mut [f32], d_heads: &[f32], rotation: &Rotation, shape: Heads) {
    let slots = shape.group() + 2;
    d_qkv.par_chunks_mut(shape.qkv_dim()).enumerate().for_each(|(row, d_row)| {
        let (sequence, position) = (row / shape.length, row % shape.length);
        simd::with(
            #[inline(always)]
            || {
                for kv in 0..shape.kv_heads {
                    for slot in 0..slots {
                        let head = (sequence * shape.kv_heads + kv) * slots + slot;
                        let g = &d_heads[head * shape.head_len() + position * shape.head_dim..][..shape.head_dim];
                        let d = &mut d_row[shape.column(kv, slot)..][..shape.head_dim];
                        if slot + 1 == slots {
                            d.copy_from_slice(g);
                        } else {
                            rotation.rotate(d, g, position, -1.0);
                        }
                    }
                }
            },
        );
    });
}
