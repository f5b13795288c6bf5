//! Causal attention with grouped heads, in blocks of queries, over everything before, within a sliding window, or within
//! the query's document.
//!
//! Forward keeps, besides the output, one number per query (the log of the sum of exponentials); backward computes the
//! probabilities again from it, block by block, so no `length x length` matrix is ever stored (FlashAttention,
//! arXiv 2205.14135, without the tiling over keys: a block of queries against all its keys fits the cache here).

use std::ops::Range;

use rayon::prelude::*;
use sherry::{Progress, Result};
use sherry_kernels::plain::exp;
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use super::rope::Heads;
use crate::error::uninterrupted;
use crate::simd;

/// Queries per block.
pub(crate) const BLOCK: usize = 64;

/// How queries score keys.
#[derive(Clone, Copy, Debug)]
pub struct Scoring<'a> {
    /// Factor on their products.
    pub scale: f32,
    /// Positions that a query sees, its own included; `usize::MAX`: all up to its own.
    pub window: usize,
    /// For every token of the batch the position in its sequence at which its document begins, before which it sees
    /// nothing; empty: a sequence is one document.
    pub starts: &'a [u32],
}

impl Scoring<'_> {
    /// The same for one of the sequences of `length` tokens.
    fn of_sequence(mut self, sequence: usize, length: usize) -> Self {
        if !self.starts.is_empty() {
            self.starts = &self.starts[sequence * length..][..length];
        }
        self
    }

    /// The keys that the query at `position` sees.
    #[inline(always)]
    fn seen(self, position: usize) -> Range<usize> {
        let start = self.starts.get(position).map_or(0, |start| *start as usize);
        start.max((position + 1).saturating_sub(self.window))..position + 1
    }

    /// The keys that any of `rows` queries from `start` on sees.
    fn seen_by_block(self, start: usize, rows: usize) -> Range<usize> {
        self.seen(start).start..start + rows
    }
}

/// `out` (rows of `heads * head_dim` per token) and `lse` (`[batch][heads][length]`) from `qkv` as
/// [`rope::forward`](super::rope::forward) lays it out. `scratch` holds `tokens * heads * head_dim`.
///
/// # Errors
/// [`sherry::Error::Interrupted`]; `out` is then not whole.
pub fn forward(
    out: &mut [f32],
    lse: &mut [f32],
    qkv: &[f32],
    scratch: &mut [f32],
    how: Scoring<'_>,
    shape: Heads,
    progress: &dyn Progress,
) -> Result<()> {
    let (group, length, dim) = (shape.group(), shape.length, shape.head_dim);
    let head = shape.head_len();
    scratch
        .par_chunks_mut(group * head)
        .zip(lse.par_chunks_mut(group * length).zip(qkv.par_chunks((group + 2) * head)))
        .enumerate()
        .try_for_each_init(
            || vec![0.0f32; BLOCK * length],
            |scores, (index, (out, (lse, qkv)))| -> Result<()> {
                let how = how.of_sequence(index / shape.kv_heads, length);
                let (queries, kv) = qkv.split_at(group * head);
                let (keys, values) = kv.split_at(head);
                let heads = out.chunks_exact_mut(head).zip(lse.chunks_exact_mut(length));
                for ((out, lse), queries) in heads.zip(queries.chunks_exact(head)) {
                    for start in (0..length).step_by(BLOCK) {
                        uninterrupted(progress)?;
                        let rows = BLOCK.min(length - start);
                        let keys_seen = how.seen_by_block(start, rows);
                        let (first, seen) = (keys_seen.start, keys_seen.len());
                        let q = Mat::new(&queries[start * dim..], rows, dim, dim);
                        let k = Mat::new(&keys[first * dim..], seen, dim, dim);
                        matmul(MatMut::new(scores, rows, seen, seen), Old::Replace, how.scale, q, k.t(), 1);
                        let out = &mut out[start * dim..][..rows * dim];
                        softmax(&mut scores[..rows * seen], &mut lse[start..][..rows], how, start);
                        let p = Mat::new(scores, rows, seen, seen);
                        let v = Mat::new(&values[first * dim..], seen, dim, dim);
                        matmul(MatMut::new(out, rows, dim, dim), Old::Replace, 1.0, p, v, 1);
                    }
                }
                Ok(())
            },
        )?;
    let row = shape.q_dim();
    out.par_chunks_mut(row).enumerate().for_each(|(token, out)| {
        let (sequence, position) = (token / length, token % length);
        for (h, out) in out.chunks_exact_mut(dim).enumerate() {
            out.copy_from_slice(&scratch[((sequence * shape.heads + h) * length + position) * dim..][..dim]);
        }
    });
    Ok(())
}

/// Rows of scores of the queries from `start` on become probabilities; what a query does not see becomes zero.
fn softmax(scores: &mut [f32], lse: &mut [f32], how: Scoring<'_>, start: usize) {
    let block = how.seen_by_block(start, lse.len());
    simd::with(
        #[inline(always)]
        || {
            for (r, (row, lse)) in scores.chunks_exact_mut(block.len()).zip(lse).enumerate() {
                let seen = how.seen(start + r);
                let (row, future) = row.split_at_mut(seen.end - block.start);
                let (past, row) = row.split_at_mut(seen.start - block.start);
                let top = simd::max(row);
                for x in row.iter_mut() {
                    *x = exp(*x - top);
                }
                let sum = simd::sum(row);
                let inverse = 1.0 / sum;
                for x in row.iter_mut() {
                    *x *= inverse;
                }
                past.fill(0.0);
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
///
/// # Errors
/// [`sherry::Error::Interrupted`]; `d_qkv` is then not whole.
#[allow(clippy::too_many_arguments)] // what forward was given and gave
pub fn backward(
    d_qkv: &mut [f32],
    d_out: &[f32],
    out: &[f32],
    lse: &[f32],
    qkv: &[f32],
    how: Scoring<'_>,
    shape: Heads,
    progress: &dyn Progress,
) -> Result<()> {
    let (group, length, dim) = (shape.group(), shape.length, shape.head_dim);
    let (head, row) = (shape.head_len(), shape.q_dim());
    d_qkv
        .par_chunks_mut((group + 2) * head)
        .zip(qkv.par_chunks((group + 2) * head).zip(lse.par_chunks(group * length)))
        .enumerate()
        .try_for_each_init(
            || (vec![0.0f32; BLOCK * length], vec![0.0f32; BLOCK * length]),
            |(p, ds), (index, (d_qkv, (qkv, lse)))| -> Result<()> {
                let (sequence, kv_head) = (index / shape.kv_heads, index % shape.kv_heads);
                let how = how.of_sequence(sequence, length);
                let (queries, kv) = qkv.split_at(group * head);
                let (keys, values) = kv.split_at(head);
                let (d_queries, d_kv) = d_qkv.split_at_mut(group * head);
                d_kv.fill(0.0);
                let (d_keys, d_values) = d_kv.split_at_mut(head);
                for g in 0..group {
                    let lse = &lse[g * length..][..length];
                    for start in (0..length).step_by(BLOCK) {
                        uninterrupted(progress)?;
                        let rows = BLOCK.min(length - start);
                        let keys_seen = how.seen_by_block(start, rows);
                        let (first, seen) = (keys_seen.start, keys_seen.len());
                        let q = Mat::new(&queries[g * head + start * dim..], rows, dim, dim);
                        let k = Mat::new(&keys[first * dim..], seen, dim, dim);
                        let v = Mat::new(&values[first * dim..], seen, dim, dim);
                        let at = (sequence * length + start) * row + (kv_head * group + g) * dim;
                        let (o, d_o) = (&out[at..], &d_out[at..]);
                        let go = Mat::new(d_o, rows, dim, row);
                        matmul(MatMut::new(p, rows, seen, seen), Old::Replace, how.scale, q, k.t(), 1);
                        matmul(MatMut::new(ds, rows, seen, seen), Old::Replace, 1.0, go, v.t(), 1);
                        simd::with(
                            #[inline(always)]
                            || {
                                for r in 0..rows {
                                    let o = &o[r * row..][..dim];
                                    let delta = simd::dot(o, &d_o[r * row..][..dim]);
                                    let lse = lse[start + r];
                                    let (p, ds) = (&mut p[r * seen..][..seen], &mut ds[r * seen..][..seen]);
                                    let own = how.seen(start + r);
                                    let (from, to) = (own.start - first, own.end - first);
                                    for (p, ds) in p[from..to].iter_mut().zip(&mut ds[from..to]) {
                                        *p = exp(*p - lse);
                                        *ds = *p * (*ds - delta);
                                    }
                                    for unseen in [0..from, to..seen] {
                                        p[unseen.clone()].fill(0.0);
                                        ds[unseen].fill(0.0);
                                    }
                                }
                            },
                        );
                        let (p, ds) = (Mat::new(p, rows, seen, seen), Mat::new(ds, rows, seen, seen));
                        let d_v = MatMut::new(&mut d_values[first * dim..], seen, dim, dim);
                        matmul(d_v, Old::Add, 1.0, p.t(), go, 1);
                        let d_q = MatMut::new(&mut d_queries[g * head + start * dim..], rows, dim, dim);
                        matmul(d_q, Old::Replace, how.scale, ds, k, 1);
                        let d_k = MatMut::new(&mut d_keys[first * dim..], seen, dim, dim);
                        matmul(d_k, Old::Add, how.scale, ds.t(), q, 1);
                    }
                }
                Ok(())
            },
        )
}
