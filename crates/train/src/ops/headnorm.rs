//! RMSNorm of every query and key head by itself, before the rotation (Qwen3) or after it (Hunyuan).
//!
//! Both places hold vectors of `head_dim` numbers, query, key and value heads mixed in a fixed pattern: rows
//! `[q heads | k heads | v heads]` per token before the rotation, `length` positions of each head after it.

use rayon::prelude::*;

use super::rope::Heads;
use crate::simd;

/// Vectors per task. Fixed, since sums over tasks are added in their order.
const VECTORS: usize = 256;

/// Where the heads lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A row of the joint linear layer per token.
    Rows,
    /// As [`rope::forward`](super::rope::forward) lays them out.
    Heads,
}

/// Which weight the vector `index` is multiplied by: 0 query, 1 key; values stay as they are.
#[inline(always)]
fn weight_of(order: Order, shape: Heads, index: usize) -> Option<usize> {
    let (at, queries, keys) = match order {
        Order::Rows => (index % (shape.heads + 2 * shape.kv_heads), shape.heads, shape.kv_heads),
        Order::Heads => (index / shape.length % (shape.group() + 2), shape.group(), 1),
    };
    if at < queries {
        Some(0)
    } else if at < queries + keys {
        Some(1)
    } else {
        None
    }
}

/// `y`: the heads of `x`, queries and keys normalised and multiplied by `weights`.
pub fn forward(y: &mut [f32], x: &[f32], weights: [&[f32]; 2], eps: f32, order: Order, shape: Heads) {
    let dim = shape.head_dim;
    y.par_chunks_mut(VECTORS * dim).zip(x.par_chunks(VECTORS * dim)).enumerate().for_each(|(task, (y, x))| {
        simd::with(
            #[inline(always)]
            || {
                for (i, (y, x)) in y.chunks_exact_mut(dim).zip(x.chunks_exact(dim)).enumerate() {
                    let Some(which) = weight_of(order, shape, task * VECTORS + i) else {
                        y.copy_from_slice(x);
                        continue;
                    };
                    let (r, w) = (1.0 / (simd::dot(x, x) / dim as f32 + eps).sqrt(), weights[which]);
                    for j in 0..dim {
                        y[j] = x[j] * r * w[j];
                    }
                }
            },
        );
    });
}

/// `d`, the gradient of `y`, becomes that of `x`; the gradients of the weights are returned, queries' first. See
/// [`rmsnorm::backward`](super::rmsnorm::backward) for the formula.
pub fn backward(d: &mut [f32], x: &[f32], weights: [&[f32]; 2], eps: f32, order: Order, shape: Heads) -> [Vec<f32>; 2] {
    let dim = shape.head_dim;
    let partial: Vec<[Vec<f32>; 2]> = d
        .par_chunks_mut(VECTORS * dim)
        .zip(x.par_chunks(VECTORS * dim))
        .enumerate()
        .map(|(task, (d, x))| {
            let mut dw = [vec![0.0f32; dim], vec![0.0f32; dim]];
            simd::with(
                #[inline(always)]
                || {
                    for (i, (d, x)) in d.chunks_exact_mut(dim).zip(x.chunks_exact(dim)).enumerate() {
                        let Some(which) = weight_of(order, shape, task * VECTORS + i) else { continue };
                        let (w, dw) = (weights[which], &mut dw[which]);
                        let r = 1.0 / (simd::dot(x, x) / dim as f32 + eps).sqrt();
                        let c = simd::dot3(d, w, x) / dim as f32 * r * r * r;
                        for j in 0..dim {
                            dw[j] += d[j] * x[j] * r;
                            d[j] = d[j] * w[j] * r - x[j] * c;
                        }
                    }
                },
            );
            dw
        })
        .collect();
    let mut sums = [vec![0.0f32; dim], vec![0.0f32; dim]];
    for partial in partial {
        for (sum, partial) in sums.iter_mut().zip(partial) {
            sum.iter_mut().zip(partial).for_each(|(sum, p)| *sum += p);
        }
    }
    sums
}
