//! The gated feed-forward non-linearity: `h = silu(gate) * up`, `silu(x) = x / (1 + e^-x)`.

use rayon::prelude::*;

use crate::simd::{self, ROWS_PER_TASK};

/// `h` (rows of `ffn`) from `gate_up` (rows of `[gate; up]`, `2 * ffn`).
pub fn forward(h: &mut [f32], gate_up: &[f32], ffn: usize) {
    h.par_chunks_mut(ROWS_PER_TASK * ffn).zip(gate_up.par_chunks(ROWS_PER_TASK * 2 * ffn)).for_each(|(h, gate_up)| {
        simd::with(
            #[inline(always)]
            || {
                for (h, gate_up) in h.chunks_exact_mut(ffn).zip(gate_up.chunks_exact(2 * ffn)) {
                    let (gate, up) = gate_up.split_at(ffn);
                    for i in 0..ffn {
                        h[i] = gate[i] / (1.0 + simd::exp(-gate[i])) * up[i];
                    }
                }
            },
        );
    });
}

/// Overwrites `gate_up` with its gradient, given `dh`.
pub fn backward(gate_up: &mut [f32], dh: &[f32], ffn: usize) {
    let pieces = gate_up.par_chunks_mut(ROWS_PER_TASK * 2 * ffn).zip(dh.par_chunks(ROWS_PER_TASK * ffn));
    pieces.for_each(|(gate_up, dh)| {
        simd::with(
            #[inline(always)]
            || {
                for (gate_up, dh) in gate_up.chunks_exact_mut(2 * ffn).zip(dh.chunks_exact(ffn)) {
                    let (gate, up) = gate_up.split_at_mut(ffn);
                    for i in 0..ffn {
                        let (g, u, d) = (gate[i], up[i], dh[i]);
                        let s = 1.0 / (1.0 + simd::exp(-g));
                        gate[i] = d * u * s * (1.0 + g * (1.0 - s));
                        up[i] = d * g * s;
                    }
                }
            },
        );
    });
}
