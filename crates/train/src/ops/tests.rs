//! Every operation against a plain f64 program of its formula: the forward values, and the gradients by central
//! differences of that program.

use sherry::NoProgress;
use sherry::model::{Activation, RopeLayout};

use super::attention::{self, Scoring};
use super::headnorm::{self, Order};
use super::rope::{Heads, Rotation};
use super::{gated, rmsnorm, rope};
use crate::rng::Rng;

fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut x = vec![0.0; len];
    Rng::new(seed, 0).fill_normal(&mut x, 1.0);
    x
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// `d/dx` of `sum weights * f(x)` by central differences.
fn differences(x: &[f64], weights: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let total = |x: &[f64]| f(x).iter().zip(weights).map(|(y, &w)| y * f64::from(w)).sum::<f64>();
    let h = 1e-5;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let old = x[i];
            x[i] = old + h;
            let up = total(&x);
            x[i] = old - h;
            let down = total(&x);
            x[i] = old;
            (up - down) / (2.0 * h)
        })
        .collect()
}

#[track_caller]
fn close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    // Inputs are of size one: results near zero are differences of numbers that are not.
    let top = expected.iter().fold(0.1f64, |m, x| m.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*found) - expected).abs() < 3e-6 * top, "{what} {i}: {found}, expected {expected}");
    }
}

#[test]
fn rmsnorm_and_its_gradients() {
    for (rows, cols) in [(1, 1), (3, 5), (70, 20), (2, 64)] {
        let (x, w, dy) = (numbers(rows * cols, 1), numbers(cols, 2), numbers(rows * cols, 3));
        let norm = |x: &[f64], w: &[f64]| -> Vec<f64> {
            let row = |x: &[f64]| {
                let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / cols as f64 + 1e-3).sqrt();
                x.iter().zip(w).map(|(x, w)| x * r * w).collect::<Vec<_>>()
            };
            x.chunks(cols).flat_map(row).collect()
        };
        let mut y = vec![9.0; x.len()];
        rmsnorm::forward(&mut y, &x, &w, 1e-3);
        close(&y, &norm(&wide(&x), &wide(&w)), "y");
        rmsnorm::forward_add(&mut y, &x, &w, 1e-3);
        close(&y, &norm(&wide(&x), &wide(&w)).iter().map(|y| 2.0 * y).collect::<Vec<_>>(), "2y");
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; cols]);
        rmsnorm::backward(&mut dx, &mut dw, &dy, &x, &w, 1e-3);
        close(&dx, &differences(&wide(&x), &dy, |x| norm(x, &wide(&w))), "dx");
        close(&dw, &differences(&wide(&w), &dy, |w| norm(&wide(&x), w)), "dw");
        rmsnorm::backward(&mut dx, &mut dw, &dy, &x, &w, 1e-3);
        close(
            &dw,
            &differences(&wide(&w), &dy, |w| norm(&wide(&x), w)).iter().map(|d| 2.0 * d).collect::<Vec<_>>(),
            "2dw",
        );
    }
}

#[test]
fn head_norms_and_their_gradients() {
    let shape = Heads { batch: 2, length: 37, heads: 4, kv_heads: 2, head_dim: 6 };
    let (len, dim) = (shape.batch * shape.length * shape.qkv_dim(), shape.head_dim);
    let (x, dy) = (numbers(len, 1), numbers(len, 2));
    let w = [numbers(dim, 3), numbers(dim, 4)];
    for order in [Order::Rows, Order::Heads] {
        // 0: query, 1: key, 2: value, written out for four heads in two groups.
        let which = |index: usize| match order {
            Order::Rows => [0, 0, 0, 0, 1, 1, 2, 2][index % 8],
            Order::Heads => [0, 0, 1, 2][index / shape.length % 4],
        };
        let norm = |x: &[f64], w: [&[f64]; 2]| -> Vec<f64> {
            let vector = |(index, x): (usize, &[f64])| {
                let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / dim as f64 + 1e-3).sqrt();
                let factor = |j: usize| if which(index) < 2 { r * w[which(index)][j] } else { 1.0 };
                x.iter().enumerate().map(|(j, x)| x * factor(j)).collect::<Vec<_>>()
            };
            x.chunks(dim).enumerate().flat_map(vector).collect()
        };
        let wide_w = [wide(&w[0]), wide(&w[1])];
        let mut y = vec![9.0; len];
        headnorm::forward(&mut y, &x, [&w[0], &w[1]], 1e-3, order, shape);
        close(&y, &norm(&wide(&x), [&wide_w[0], &wide_w[1]]), "y");
        let mut d = dy.clone();
        let dw = headnorm::backward(&mut d, &x, [&w[0], &w[1]], 1e-3, order, shape);
        close(&d, &differences(&wide(&x), &dy, |x| norm(x, [&wide_w[0], &wide_w[1]])), "dx");
        close(&dw[0], &differences(&wide_w[0], &dy, |w| norm(&wide(&x), [w, &wide_w[1]])), "dwq");
        close(&dw[1], &differences(&wide_w[1], &dy, |w| norm(&wide(&x), [&wide_w[0], w])), "dwk");
    }
}

#[test]
fn gated_activations_and_their_gradients() {
    let (rows, ffn) = (67, 19);
    // Five times unit size: the bends of both activations and what lies flat on either side.
    let x: Vec<f32> = numbers(rows * 2 * ffn, 1).iter().map(|x| 5.0 * x).collect();
    let dh = numbers(rows * ffn, 2);
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::ReluSquared] {
        let act = |x: f64| match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::ReluSquared => x.max(0.0).powi(2),
        };
        let gated = |x: &[f64]| -> Vec<f64> {
            let row = |x: &[f64]| {
                let (g, u) = x.split_at(ffn);
                g.iter().zip(u).map(|(g, u)| act(*g) * u).collect::<Vec<_>>()
            };
            x.chunks(2 * ffn).flat_map(row).collect()
        };
        let mut h = vec![9.0; rows * ffn];
        gated::forward(&mut h, &x, ffn, activation);
        close(&h, &gated(&wide(&x)), "h");
        let mut dx = x.clone();
        gated::backward(&mut dx, &dh, ffn, activation);
        close(&dx[..ffn * 4], &differences(&wide(&x[..ffn * 4]), &dh, gated), "dx");
        let (mut h, mut extreme) = ([9.0; 3], [-200.0, 200.0, -1e30, 3.0, 2.0, 1e12]);
        gated::forward(&mut h, &extreme, 3, activation);
        gated::backward(&mut extreme, &[1.0; 3], 3, activation);
        assert!(h.iter().chain(&extreme).all(|x| x.is_finite()), "{activation:?}: {h:?} {extreme:?}");
        let mut broken = [f32::NAN, 1.0];
        gated::backward(&mut broken, &[1.0], 1, activation);
        assert!(broken[0].is_nan() && broken[1].is_nan(), "{activation:?} hides what is not a number");
    }
}

fn rotated(x: &[f64], frequencies: &[f64], position: usize, layout: RopeLayout) -> Vec<f64> {
    let half = x.len() / 2;
    let mut y = vec![0.0; x.len()];
    for (i, f) in frequencies.iter().enumerate() {
        let (a, b) = if layout == RopeLayout::Halves { (i, i + half) } else { (2 * i, 2 * i + 1) };
        let (sin, cos) = (position as f64 * f).sin_cos();
        (y[a], y[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
    }
    y
}

#[test]
fn rotation_and_its_gradient() {
    for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
        let shape = Heads { batch: 2, length: 3, heads: 4, kv_heads: 2, head_dim: 6 };
        let frequencies = [1.0, 0.3, 0.01];
        let rotation = Rotation::new(&frequencies, 3, layout);
        let rows = 6 * shape.qkv_dim();
        let (x, dy) = (numbers(rows, 1), numbers(rows, 2));
        // [batch][kv][slot][length][dim] from rows of [q | k | v].
        let moved = |x: &[f64]| -> Vec<f64> {
            let mut y = Vec::new();
            for (b, kv) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                for head in [2 * kv, 2 * kv + 1, 4 + kv, 6 + kv] {
                    for position in 0..3 {
                        let part = &x[(b * 3 + position) * 48 + head * 6..][..6];
                        match head {
                            6.. => y.extend(part),
                            _ => y.extend(rotated(part, &frequencies, position, layout)),
                        }
                    }
                }
            }
            y
        };
        let mut y = vec![9.0; rows];
        rope::forward(&mut y, &x, &rotation, shape);
        close(&y, &moved(&wide(&x)), "rotated");
        let mut dx = vec![9.0; rows];
        rope::backward(&mut dx, &dy, &rotation, shape);
        close(&dx, &differences(&wide(&x), &dy, moved), "dx");
    }
}

#[test]
fn attention_and_its_gradients() {
    // Blocks are of 64 queries: windows within one, across two, and wider than everything; then documents that begin at
    // every so many tokens of the batch, so that sequences are cut at different places.
    for (length, heads, kv_heads, head_dim, window, documents) in [
        (1, 1, 1, 2, usize::MAX, 0),
        (5, 4, 2, 4, usize::MAX, 0),
        (67, 2, 1, 2, usize::MAX, 0),
        (130, 1, 1, 2, usize::MAX, 0),
        (5, 4, 2, 4, 2, 0),
        (67, 2, 1, 2, 1, 0),
        (67, 2, 1, 2, 66, 0),
        (67, 2, 1, 2, 67, 0),
        (130, 1, 1, 2, 7, 0),
        (130, 1, 1, 2, 70, 0),
        (5, 4, 2, 4, usize::MAX, 1),
        (5, 4, 2, 4, usize::MAX, 3),
        (67, 2, 1, 2, usize::MAX, 40),
        (67, 4, 2, 2, 9, 23),
        (130, 1, 1, 2, usize::MAX, 99),
    ] {
        let shape = Heads { batch: 2, length, heads, kv_heads, head_dim };
        let (group, head, scale) = (heads / kv_heads, length * head_dim, 0.7);
        let start_of = |token: usize| {
            let own = token.checked_div(documents).unwrap_or(0) * documents;
            own.max(token / length * length) - token / length * length
        };
        let starts: Vec<u32> = (0..2 * length).map(|token| start_of(token) as u32).collect();
        let attend = |x: &[f64]| -> Vec<f64> {
            let mut out = vec![0.0; 2 * length * heads * head_dim];
            for (index, x) in x.chunks((group + 2) * head).enumerate() {
                let (b, kv) = (index / kv_heads, index % kv_heads);
                let at = |slot: usize, t: usize| &x[slot * head + t * head_dim..][..head_dim];
                for g in 0..group {
                    for t in 0..length {
                        let dot = |s: usize| at(g, t).iter().zip(at(group, s)).map(|(a, b)| a * b).sum::<f64>();
                        let seen = |s: &usize| t - s < window && *s >= start_of(b * length + t);
                        let weight = |s: usize| (s, (f64::from(scale) * dot(s)).exp());
                        let weights: Vec<(usize, f64)> = (0..=t).filter(seen).map(weight).collect();
                        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
                        let row = ((b * length + t) * heads + kv * group + g) * head_dim;
                        for (s, weight) in &weights {
                            for (i, v) in at(group + 1, *s).iter().enumerate() {
                                out[row + i] += weight / total * v;
                            }
                        }
                    }
                }
            }
            out
        };
        let len = 2 * kv_heads * (group + 2) * head;
        let out_len = 2 * length * heads * head_dim;
        let (x, d_out) = (numbers(len, 1), numbers(out_len, 2));
        let (mut out, mut lse) = (vec![9.0; out_len], vec![9.0; 2 * heads * length]);
        let how = Scoring { scale, window, starts: if documents == 0 { &[] } else { &starts } };
        attention::forward(&mut out, &mut lse, &x, &mut vec![9.0; out_len], how, shape, &NoProgress).unwrap();
        close(&out, &attend(&wide(&x)), "attention");
        let mut dx = vec![9.0; len];
        attention::backward(&mut dx, &d_out, &out, &lse, &x, how, shape, &NoProgress).unwrap();
        close(&dx, &differences(&wide(&x), &d_out, attend), "d attention");
    }
}
