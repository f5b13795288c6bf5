//! Causal attention with grouped heads, in blocks of queries.
//!
//! Forward keeps, besides the output, one number per query (the log of the sum of exponentials); backward computes the
//! probabilities again from it, block by block, so no `length x length` matrix is ever stored (FlashAttention,
//! arXiv 2205.14135, without the tiling over keys: a block of queries against all its keys fits the cache here).

use rayon::prelude::*;
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use super::rope::Heads;
use crate::simd;

/// Queries per block.
const BLOCK: usize = 64;

/// `out` (rows of `heads * head_dim` per token) and `lse` (`[batch][heads][length]`) from `qkv` as
/// [`rope::forward`](super::rope::forward) lays it out. `scratch` holds `tokens * heads * head_dim`.
pub fn forward(out: &mut [f32], lse: &mut [f32], qkv: &[f32], scratch: &mut [f32], scale: f32, shape: Heads) {
    let (group, length, dim) = (shape.group(), shape.length, shape.head_dim);
    let head = shape.head_len();
    scratch
        .par_chunks_mut(group * head)
        .zip(lse.par_chunks_mut(group * length).zip(qkv.par_chunks((group + 2) * head)))
        .for_each_init(
            || vec![0.0f32; BLOCK * length],
            |scores, (out, (lse, qkv))| {
                let (queries, kv) = qkv.split_at(group * head);
                let (keys, values) = kv.split_at(head);
                let heads = out.chunks_exact_mut(head).zip(lse.chunks_exact_mut(length));
                for ((out, lse), queries) in heads.zip(queries.chunks_exact(head)) {
                    for start in (0..length).step_by(BLOCK) {
                        let rows = BLOCK.min(length - start);
                        let seen = start + rows;
                        let q = Mat::new(&queries[start * dim..], rows, dim, dim);
                        let k = Mat::new(keys, seen, dim, dim);
                        matmul(MatMut::new(scores, rows, seen, seen), Old::Replace, scale, q, k.t(), 1);
                        let out = &mut out[start * dim..][..rows * dim];
                        softmax(&mut scores[..rows * seen], &mut lse[start..seen], start, seen);
                        let p = Mat::new(scores, rows, seen, seen);
                        let v = Mat::new(values, seen, dim, dim);
                        matmul(MatMut::new(out, rows, dim, dim), Old::Replace, 1.0, p, v, 1);
                    }
                }
            },
        );
    let row = shape.q_dim();
    out.par_chunks_mut(row).enumerate().for_each(|(token, out)| {
        let (sequence, position) = (token / length, token % length);
        for (h, out) in out.chunks_exact_mut(dim).enumerate() {
            out.copy_from_slice(&scratch[((sequence * shape.heads + h) * length + position) * dim..][..dim]);
        }
    });
}

/// Rows of scores become probabilities; what lies after a query's own position becomes zero.
fn softmax(scores: &mut [f32], lse: &mut [f32], start: usize, seen: usize) {
    simd::with(
        #[inline(always)]
        || {
            for (r, (row, lse)) in scores.chunks_exact_mut(seen).zip(lse).enumerate() {
                let (past, future) = row.split_at_mut(start + r + 1);
                let top = simd::max(past);
                for x in past.iter_mut() {
                    *x = simd::exp(*x - top);
                }
                let sum = simd::sum(past);
                let inverse = 1.0 / sum;
                for x in past.iter_mut() {
                    *x *= inverse;
                }
                future.fill(0.0);
                *lse = top + sum.ln();
            }
        },
    );
}

/// `d_qkv` (layout of `qkv`, overwritten) from `d_out` (rows per token), with `out` and `lse` of [`forward`].
///
/// With `P` the probabilities: `dV = P^T dO`, `dS = P * (dO V^T - rowsum(dO * O))`, `dQ = scale dS K`,
/// `dK = scale dS^T Q`.
pub fn backward(d_qkv: &mut [f32], d_out: &[f32], out: &[f32], lse: &[f32], qkv: &[f32], scale: f32, shape: Heads) {
    let (group, length, dim) = (shape.group(), shape.length, shape.head_dim);
    let (head, row) = (shape.head_len(), shape.q_dim());
    d_qkv
        .par_chunks_mut((group + 2) * head)
        .zip(qkv.par_chunks((group + 2) * head).zip(lse.par_chunks(group * length)))
        .enumerate()
        .for_each_init(
            || (vec![0.0f32; BLOCK * length], vec![0.0f32; BLOCK * length]),
            |(p, ds), (index, (d_qkv, (qkv, lse)))| {
                let (sequence, kv_head) = (index / shape.kv_heads, index % shape.kv_heads);
                let (queries, kv) = qkv.split_at(group * head);
                let (keys, values) = kv.split_at(head);
                let (d_queries, d_kv) = d_qkv.split_at_mut(group * head);
                d_kv.fill(0.0);
                let (d_keys, d_values) = d_kv.split_at_mut(head);
                for g in 0..group {
                    let lse = &lse[g * length..][..length];
                    for start in (0..length).step_by(BLOCK) {
                        let rows = BLOCK.min(length - start);
                        let seen = start + rows;
                        let q = Mat::new(&queries[g * head + start * dim..], rows, dim, dim);
                        let k = Mat::new(keys, seen, dim, dim);
                        let v = Mat::new(values, seen, dim, dim);
                        let at = (sequence * length + start) * row + (kv_head * group + g) * dim;
                        let (o, d_o) = (&out[at..], &d_out[at..]);
                        let go = Mat::new(d_o, rows, dim, row);
                        matmul(MatMut::new(p, rows, seen, seen), Old::Replace, scale, q, k.t(), 1);
                        matmul(MatMut::new(ds, rows, seen, seen), Old::Replace, 1.0, go, v.t(), 1);
                        simd::with(
                            #[inline(always)]
                            || {
                                for r in 0..rows {
                                    let o = &o[r * row..][..dim];
                                    let delta = simd::dot(o, &d_o[r * row..][..dim]);
                                    let lse = lse[start + r];
                                    let (p, ds) = (&mut p[r * seen..][..seen], &mut ds[r * seen..][..seen]);
                                    let past = start + r + 1;
                                    for (p, ds) in p[..past].iter_mut().zip(&mut ds[..past]) {
                                        *p = simd::exp(*p - lse);
                                        *ds = *p * (*ds - delta);
                                    }
                                    p[past..].fill(0.0);
                                    ds[past..].fill(0.0);
                                }
                            },
                        );
                        let (p, ds) = (Mat::new(p, rows, seen, seen), Mat::new(ds, rows, seen, seen));
                        matmul(MatMut::new(d_values, seen, dim, dim), Old::Add, 1.0, p.t(), go, 1);
                        let d_q = MatMut::new(&mut d_queries[g * head + start * dim..], rows, dim, dim);
                        matmul(d_q, Old::Replace, scale, ds, k, 1);
                        matmul(MatMut::new(d_keys, seen, dim, dim), Old::Add, scale, ds.t(), q, 1);
                    }
                }
            },
        );
}
