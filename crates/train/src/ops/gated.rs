//! The gated feed-forward non-linearity: `h = act(gate) * up`.
//!
//! SiLU and GELU are `x s(z(x))` with the sigmoid `s(z) = 1 / (1 + e^-z)`: SiLU has `z = x`, the tanh approximation of
//! GELU, `0.5 x (1 + tanh y)`, has `z = 2 y = 2 sqrt(2 / pi) (x + 0.044715 x^3)`.

use rayon::prelude::*;
use sherry::model::Activation;
use sherry_kernels::plain::exp;

use crate::simd::{self, ROWS_PER_TASK};

/// `z(x)` and `x dz/dx` of SiLU.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    (x, x)
}

/// `z(x)` and `x dz/dx` of GELU.
#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    const LINEAR: f32 = 1.595_769;
    const CUBIC: f32 = 0.044_715;
    // The sigmoid is 0 or 1 long before 16; the square of what is larger could overflow.
    let x = x.clamp(-16.0, 16.0);
    let square = CUBIC * x * x;
    (LINEAR * x * (1.0 + square), LINEAR * x * (1.0 + 3.0 * square))
}

/// `h` (rows of `ffn`) from `gate_up` (rows of `[gate; up]`, `2 * ffn`).
pub fn forward(h: &mut [f32], gate_up: &[f32], ffn: usize, activation: Activation) {
    match activation {
        Activation::Silu => forward_with(h, gate_up, ffn, silu),
        Activation::GeluTanh => forward_with(h, gate_up, ffn, gelu),
        Activation::ReluSquared => {
            h.par_chunks_mut(ffn).zip(gate_up.par_chunks(2 * ffn)).for_each(|(h, gate_up)| {
                let (gate, up) = gate_up.split_at(ffn);
                for ((h, g), u) in h.iter_mut().zip(gate).zip(up) {
                    *h = positive(*g) * positive(*g) * u;
                }
            });
        }
    }
}

/// `max(x, 0)`, and what is not a number as it is.
fn positive(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

fn forward_with(h: &mut [f32], gate_up: &[f32], ffn: usize, z: impl Fn(f32) -> (f32, f32) + Sync) {
    h.par_chunks_mut(ROWS_PER_TASK * ffn).zip(gate_up.par_chunks(ROWS_PER_TASK * 2 * ffn)).for_each(|(h, gate_up)| {
        simd::with(
            #[inline(always)]
            || {
                for (h, gate_up) in h.chunks_exact_mut(ffn).zip(gate_up.chunks_exact(2 * ffn)) {
                    let (gate, up) = gate_up.split_at(ffn);
                    for i in 0..ffn {
                        h[i] = gate[i] / (1.0 + exp(-z(gate[i]).0)) * up[i];
                    }
                }
            },
        );
    });
}

/// Overwrites `gate_up` with its gradient, given `dh`.
pub fn backward(gate_up: &mut [f32], dh: &[f32], ffn: usize, activation: Activation) {
    match activation {
        Activation::Silu => backward_with(gate_up, dh, ffn, silu),
        Activation::GeluTanh => backward_with(gate_up, dh, ffn, gelu),
        Activation::ReluSquared => {
            gate_up.par_chunks_mut(2 * ffn).zip(dh.par_chunks(ffn)).for_each(|(gate_up, dh)| {
                let (gate, up) = gate_up.split_at_mut(ffn);
                for ((g, u), d) in gate.iter_mut().zip(up).zip(dh) {
                    let x = positive(*g);
                    (*g, *u) = (d * *u * 2.0 * x, d * x * x);
                }
            });
        }
    }
}

/// With `s = s(z(x))`: `d (x s) / dx = s (1 + (1 - s) x dz/dx)`.
fn backward_with(gate_up: &mut [f32], dh: &[f32], ffn: usize, z: impl Fn(f32) -> (f32, f32) + Sync) {
    let pieces = gate_up.par_chunks_mut(ROWS_PER_TASK * 2 * ffn).zip(dh.par_chunks(ROWS_PER_TASK * ffn));
    pieces.for_each(|(gate_up, dh)| {
        simd::with(
            #[inline(always)]
            || {
                for (gate_up, dh) in gate_up.chunks_exact_mut(2 * ffn).zip(dh.chunks_exact(ffn)) {
                    let (gate, up) = gate_up.split_at_mut(ffn);
                    for i in 0..ffn {
                        let (g, u, d) = (gate[i], up[i], dh[i]);
                        let (z, slope) = z(g);
                        let s = 1.0 / (1.0 + exp(-z));
                        gate[i] = d * u * s * (1.0 + slope * (1.0 - s));
                        up[i] = d * g * s;
                    }
                }
            },
        );
    });
}
