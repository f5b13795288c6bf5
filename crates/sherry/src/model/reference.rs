//! The forward pass written for reading: the oracle that the decoder is tested against. Never optimised.
//!
//! Weights are used as they are stored (dequantized a row at a time); everything else is f64, so that its own rounding
//! does not show. There is no cache: every call computes all positions.

use sherry_kernels::Matrix;

use super::rope::Frequencies;
use super::{Activation, ArchConfig, Model, QkNorm, RopeLayout};

/// Logits of every position, tokens x vocab, for one sequence starting at position 0.
///
/// # Panics
/// When a token is not in the vocabulary.
pub fn logits(model: &Model, tokens: &[u32]) -> Vec<Vec<f64>> {
    let (config, weights) = (&model.config, &model.weights);
    let frequencies = Frequencies::new(config);

    // x: tokens x hidden
    let mut x: Vec<Vec<f64>> = tokens
        .iter()
        .map(|&token| row(&weights.embed, token as usize).map(|e| e * f64::from(config.embed_scale)).collect())
        .collect();

    for (index, layer) in weights.layers.iter().enumerate() {
        // Attention. q: tokens x heads x head_dim; k, v: tokens x kv_heads x head_dim
        let sliding = config.is_sliding(index);
        let mut q = Vec::new();
        let mut k = Vec::new();
        let mut v = Vec::new();
        for (position, x) in x.iter().enumerate() {
            let h = rms_norm(config, x, &layer.attn_norm);
            let own = |weight: &Option<Vec<f32>>| input_norm(config, &h, weight);
            let rotated =
                |w: &Matrix, h: &[f64], bias: &Option<Vec<f32>>, weight: &Option<Vec<f32>>| -> Vec<Vec<f64>> {
                    let heads = linear(w, bias.as_deref(), h);
                    heads
                        .chunks(config.head_dim)
                        .map(|head| {
                            let mut head = head.to_vec();
                            if let (Some(QkNorm::BeforeRope), Some(weight)) = (config.qk_norm, weight) {
                                head = rms_norm(config, &head, weight);
                            }
                            head =
                                rope(config, &head, position, frequencies.of(sliding), frequencies.magnitude(sliding));
                            if let (Some(QkNorm::AfterRope), Some(weight)) = (config.qk_norm, weight) {
                                head = rms_norm(config, &head, weight);
                            }
                            head
                        })
                        .collect()
                };
            q.push(rotated(&layer.q, &own(&layer.q_input_norm), &layer.q_bias, &layer.q_norm));
            k.push(rotated(&layer.k, &own(&layer.k_input_norm), &layer.k_bias, &layer.k_norm));
            let values = linear(&layer.v, layer.v_bias.as_deref(), &own(&layer.v_input_norm));
            v.push(values.chunks(config.head_dim).map(<[f64]>::to_vec).collect::<Vec<_>>());
        }
        for position in 0..tokens.len() {
            let first = match config.window {
                Some(window) if sliding => (position + 1).saturating_sub(window),
                _ => 0,
            };
            let mut attended = Vec::new(); // heads * head_dim
            for head in 0..config.heads {
                let shared = head / (config.heads / config.kv_heads);
                let score = |p: usize| f64::from(config.attn_scale) * dot(&q[position][head], &k[p][shared]);
                let scores: Vec<f64> = (first..=position).map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..config.head_dim {
                    let sum: f64 = weights.iter().zip(first..).map(|(w, p)| w * v[p][shared][i]).sum();
                    attended.push(sum / total);
                }
            }
            if let Some(weight) = &layer.attn_sub_norm {
                attended = rms_norm(config, &attended, weight);
            }
            let attended = input_norm(config, &attended, &layer.o_input_norm);
            let mut out = linear(&layer.o, layer.o_bias.as_deref(), &attended);
            if let Some(weight) = &layer.post_attn_norm {
                out = rms_norm(config, &out, weight);
            }
            add(&mut x[position], &out, config.residual_scale);
        }

        // Feed-forward.
        for x in &mut x {
            let h = rms_norm(config, x, &layer.ffn_norm);
            let gate = linear(&layer.gate, None, &input_norm(config, &h, &layer.gate_input_norm));
            let up = linear(&layer.up, None, &input_norm(config, &h, &layer.up_input_norm));
            let mut inner: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| activate(config.activation, *g) * u).collect();
            if let Some(weight) = &layer.ffn_sub_norm {
                inner = rms_norm(config, &inner, weight);
            }
            let inner = input_norm(config, &inner, &layer.down_input_norm);
            let mut out = linear(&layer.down, None, &inner);
            if let Some(weight) = &layer.post_ffn_norm {
                out = rms_norm(config, &out, weight);
            }
            add(x, &out, config.residual_scale);
        }
    }

    let last = |x: &Vec<f64>| -> Vec<f64> {
        let normed = rms_norm(config, x, &weights.output_norm);
        normed.iter().map(|x| x / f64::from(config.logit_divisor)).collect()
    };
    x.iter().map(|x| linear(weights.head(), None, &last(x))).collect()
}

/// Row `r` of `w`, dequantized.
fn row(w: &Matrix, r: usize) -> impl Iterator<Item = f64> {
    let mut values = vec![0.0; w.cols()];
    w.row_f32(r, &mut values);
    values.into_iter().map(f64::from)
}

/// `y = w x + bias`
fn linear(w: &Matrix, bias: Option<&[f32]>, x: &[f64]) -> Vec<f64> {
    let bias = |r: usize| bias.map_or(0.0, |bias| f64::from(bias[r]));
    (0..w.rows()).map(|r| row(w, r).zip(x).map(|(w, x)| w * x).sum::<f64>() + bias(r)).collect()
}

/// The RMSNorm of the model.
fn rms_norm(config: &ArchConfig, x: &[f64], w: &[f32]) -> Vec<f64> {
    norm(x, w, config.norm_eps, if config.norm_plus_one { 1.0 } else { 0.0 })
}

/// The input of one linear layer, which may have a norm for it.
fn input_norm(config: &ArchConfig, x: &[f64], w: &Option<Vec<f32>>) -> Vec<f64> {
    match (w, config.input_norms) {
        (Some(w), Some(eps)) => norm(x, w, eps, 0.0),
        _ => x.to_vec(),
    }
}

/// `x / sqrt(mean(x^2) + eps) * (w + plus)`
fn norm(x: &[f64], w: &[f32], eps: f32, plus: f64) -> Vec<f64> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(w).map(|(x, w)| x * scale * (f64::from(*w) + plus)).collect()
}

/// Rotates pair `i` of a head by `position * frequencies[i]`, times `magnitude`.
fn rope(config: &ArchConfig, head: &[f64], position: usize, frequencies: &[f64], magnitude: f64) -> Vec<f64> {
    let half = head.len() / 2;
    let mut out = vec![0.0; head.len()];
    for i in 0..half {
        let (a, b) = match config.rope.layout {
            RopeLayout::Halves => (i, i + half),
            RopeLayout::Interleaved => (2 * i, 2 * i + 1),
        };
        let (sin, cos) = (position as f64 * frequencies[i]).sin_cos();
        out[a] = magnitude * (head[a] * cos - head[b] * sin);
        out[b] = magnitude * (head[b] * cos + head[a] * sin);
    }
    out
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::ReluSquared => x.max(0.0) * x.max(0.0),
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `x += scale * y`
fn add(x: &mut [f64], y: &[f64], scale: f32) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += f64::from(scale) * y);
}
