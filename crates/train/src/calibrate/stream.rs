//! Two streams through one block: the original model's, and that of the model quantized so far.
//!
//! The text is held in shards. A shard is worked on by one task at a time and has sums of its own, so that results do not
//! depend on the number of threads. Linear layers of the block are quantized one after the other, each for the inputs that
//! those before it leave behind; the streams advance in between.

use std::ops::Range;

use sherry::Progress;
use sherry::model::{ArchConfig, QkNorm};
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use super::moments::Moments;
use crate::error::Result;
use crate::ops::attention::{self, Scoring};
use crate::ops::headnorm::{self, Order};
use crate::ops::rope::{self, Heads, Rotation};
use crate::ops::{gated, rmsnorm};

/// Weights of one block as f32; norms as what they multiply by.
#[derive(Clone, Debug)]
pub struct BlockWeights {
    /// Before attention, `hidden`.
    pub attn_norm: Vec<f32>,
    /// Query, key and value rows, `(q_dim + 2 kv_dim) x hidden`.
    pub qkv: Vec<f32>,
    /// Of query and key heads, `head_dim` each.
    pub qk_norms: Option<[Vec<f32>; 2]>,
    /// `hidden x q_dim`.
    pub o: Vec<f32>,
    /// Of what attention adds, `hidden`.
    pub post_attn_norm: Option<Vec<f32>>,
    /// Before the feed-forward, `hidden`.
    pub ffn_norm: Vec<f32>,
    /// Gate and up rows, `2 ffn x hidden`.
    pub gate_up: Vec<f32>,
    /// `hidden x ffn`.
    pub down: Vec<f32>,
    /// Of what the feed-forward adds, `hidden`.
    pub post_ffn_norm: Option<Vec<f32>>,
}

/// Some sequences of text on their way through the model.
#[derive(Clone, Debug, Default)]
pub struct Shard {
    /// Whether its tokens only measure, and are not fitted to.
    pub held_out: bool,
    /// Residual stream of the original model, `tokens x hidden`.
    pub original: Vec<f32>,
    /// Of the quantized model.
    pub quantized: Vec<f32>,
    /// What the quantized model's attention gives, or its gated feed-forward: the inputs of the map in work.
    pub inputs: Vec<f32>,
}

impl Shard {
    /// Sums to fit to; none of text that is held out.
    fn moments(&self, cols: usize, targets: usize) -> Option<Moments> {
        (!self.held_out).then(|| Moments::new(cols, targets))
    }
}

/// Sums of squared differences between the two streams, each token scaled to a root mean square of one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drift {
    sum: f64,
    tokens: u64,
}

impl Drift {
    /// The mean over components and tokens: 0 where the streams agree, 2 where they have nothing in common.
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens.max(1) as f64
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self { sum: self.sum + other.sum, tokens: self.tokens + other.tokens }
    }
}

/// One layer of a model, and how text is cut.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// The architecture.
    pub arch: &'a ArchConfig,
    /// Its index, which decides about windows.
    pub index: usize,
    /// Rotations of positions, of layers that attend to everything and of those with a window.
    pub rotations: &'a [Rotation; 2],
    /// Tokens per sequence.
    pub length: usize,
    /// Asked between products whether to stop.
    pub progress: &'a dyn Progress,
}

/// Tokens worked on at a time: enough for products at full speed, little enough for the cache and many threads.
const TOKENS: usize = 1024;

impl Layer<'_> {
    /// Ranges of whole sequences of `tokens` tokens, in tokens.
    fn chunks(&self, tokens: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let step = (TOKENS / self.length).max(1) * self.length;
        (0..tokens).step_by(step).map(move |start| start..(start + step).min(tokens))
    }

    fn tokens(&self, shard: &Shard) -> usize {
        shard.original.len() / self.arch.hidden
    }

    fn norm(&self, x: &[f32], gains: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        rmsnorm::forward(&mut y, x, gains, self.arch.norm_eps);
        y
    }

    /// What attention gives for the normed inputs `x`, `tokens x q_dim`.
    fn attend(&self, weights: &BlockWeights, x: &[f32]) -> Result<Vec<f32>> {
        let arch = self.arch;
        let tokens = x.len() / arch.hidden;
        let shape = Heads {
            batch: tokens / self.length,
            length: self.length,
            heads: arch.heads,
            kv_heads: arch.kv_heads,
            head_dim: arch.head_dim,
        };
        let rotation = &self.rotations[usize::from(arch.is_sliding(self.index))];
        let mut qkv = product(x, &weights.qkv, arch.hidden);
        let mut heads = vec![0.0; qkv.len()];
        let gains = weights.qk_norms.as_ref().map(|norms| norms.each_ref().map(|norm| &norm[..]));
        match arch.qk_norm.zip(gains) {
            Some((QkNorm::BeforeRope, gains)) => {
                let raw = qkv.clone();
                headnorm::forward(&mut qkv, &raw, gains, arch.norm_eps, Order::Rows, shape);
                rope::forward(&mut heads, &qkv, rotation, shape);
            }
            Some((QkNorm::AfterRope, gains)) => {
                rope::forward(&mut heads, &qkv, rotation, shape);
                let raw = heads.clone();
                headnorm::forward(&mut heads, &raw, gains, arch.norm_eps, Order::Heads, shape);
            }
            None => rope::forward(&mut heads, &qkv, rotation, shape),
        }
        let window = arch.window.filter(|_| arch.is_sliding(self.index));
        let how = Scoring { scale: arch.attn_scale, window: window.unwrap_or(usize::MAX), starts: &[] };
        let mut attended = vec![0.0; tokens * shape.q_dim()];
        let mut scratch = vec![0.0; tokens * shape.q_dim()];
        let mut lse = vec![0.0; tokens * arch.heads];
        attention::forward(&mut attended, &mut lse, &heads, &mut scratch, how, shape, self.progress)?;
        Ok(attended)
    }

    fn gated(&self, weights: &BlockWeights, x: &[f32]) -> Vec<f32> {
        let gate_up = product(x, &weights.gate_up, self.arch.hidden);
        let mut h = vec![0.0; gate_up.len() / 2];
        gated::forward(&mut h, &gate_up, self.arch.ffn, self.arch.activation);
        h
    }

    /// `x += map(inputs)`, normed where the architecture says so.
    fn add_branch(&self, x: &mut [f32], inputs: &[f32], map: &[f32], norm: Option<&[f32]>) {
        let cols = map.len() / self.arch.hidden;
        let out = product(inputs, map, cols);
        match norm {
            Some(gains) => rmsnorm::forward_add(x, &out, gains, self.arch.norm_eps),
            None => x.iter_mut().zip(&out).for_each(|(x, out)| *x += out),
        }
    }

    /// Moments of the inputs of query, key and value; the targets are the original's inputs.
    pub fn before_qkv(&self, shard: &Shard, original: &BlockWeights, quantized: &BlockWeights) -> Option<Moments> {
        self.before_crossed(shard, &original.attn_norm, &quantized.attn_norm)
    }

    fn before_crossed(&self, shard: &Shard, original: &[f32], quantized: &[f32]) -> Option<Moments> {
        let hidden = self.arch.hidden;
        let mut moments = shard.moments(hidden, hidden)?;
        for chunk in self.chunks(self.tokens(shard)) {
            let at = chunk.start * hidden..chunk.end * hidden;
            let z = self.norm(&shard.original[at.clone()], original);
            moments.add(&self.norm(&shard.quantized[at], quantized), &z, &z);
        }
        Some(moments)
    }

    /// Runs attention of both streams, lets the original's residual stream pass it, and returns moments of the inputs of the
    /// output map.
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`].
    pub fn before_o(
        &self,
        shard: &mut Shard,
        original: &BlockWeights,
        quantized: &BlockWeights,
    ) -> Result<Option<Moments>> {
        let (hidden, q_dim) = (self.arch.hidden, self.arch.q_dim());
        let mut moments = shard.moments(q_dim, hidden);
        shard.inputs.clear();
        for chunk in self.chunks(self.tokens(shard)) {
            let at = chunk.start * hidden..chunk.end * hidden;
            let x = &mut shard.original[at.clone()];
            let z = self.attend(original, &self.norm(x, &original.attn_norm))?;
            let inputs = self.attend(quantized, &self.norm(&shard.quantized[at.clone()], &quantized.attn_norm))?;
            let norm = original.post_attn_norm.as_deref();
            let target = self.pass(x, &shard.quantized[at], &z, &original.o, norm);
            if let Some(moments) = &mut moments {
                self.add_weighted(moments, &inputs, target, &z, x, norm.is_none());
            }
            shard.inputs.extend_from_slice(&inputs);
        }
        Ok(moments)
    }

    /// Lets the quantized residual stream pass attention, whose output map has been quantized.
    pub fn after_o(&self, shard: &mut Shard, quantized: &BlockWeights) {
        let (hidden, q_dim) = (self.arch.hidden, self.arch.q_dim());
        for chunk in self.chunks(self.tokens(shard)) {
            let x = &mut shard.quantized[chunk.start * hidden..chunk.end * hidden];
            let inputs = &shard.inputs[chunk.start * q_dim..chunk.end * q_dim];
            self.add_branch(x, inputs, &quantized.o, quantized.post_attn_norm.as_deref());
        }
    }

    /// Moments of the inputs of gate and up; the targets are the original's inputs.
    pub fn before_gate_up(&self, shard: &Shard, original: &BlockWeights, quantized: &BlockWeights) -> Option<Moments> {
        self.before_crossed(shard, &original.ffn_norm, &quantized.ffn_norm)
    }

    /// Runs the gated feed-forward of both streams, lets the original's residual stream pass it, and returns moments of the
    /// inputs of the down map.
    pub fn before_down(&self, shard: &mut Shard, original: &BlockWeights, quantized: &BlockWeights) -> Option<Moments> {
        let (hidden, ffn) = (self.arch.hidden, self.arch.ffn);
        let mut moments = shard.moments(ffn, hidden);
        shard.inputs.clear();
        for chunk in self.chunks(self.tokens(shard)) {
            let at = chunk.start * hidden..chunk.end * hidden;
            let x = &mut shard.original[at.clone()];
            let z = self.gated(original, &self.norm(x, &original.ffn_norm));
            let inputs = self.gated(quantized, &self.norm(&shard.quantized[at.clone()], &quantized.ffn_norm));
            let norm = original.post_ffn_norm.as_deref();
            let target = self.pass(x, &shard.quantized[at], &z, &original.down, norm);
            if let Some(moments) = &mut moments {
                self.add_weighted(moments, &inputs, target, &z, x, norm.is_none());
            }
            shard.inputs.extend_from_slice(&inputs);
        }
        moments
    }

    /// Lets the quantized residual stream pass the feed-forward, whose down map has been quantized, and returns how far the
    /// streams are apart.
    pub fn after_down(&self, shard: &mut Shard, quantized: &BlockWeights) -> Drift {
        let (hidden, ffn) = (self.arch.hidden, self.arch.ffn);
        let mut drift = Drift::default();
        for chunk in self.chunks(self.tokens(shard)) {
            let at = chunk.start * hidden..chunk.end * hidden;
            let x = &mut shard.quantized[at.clone()];
            let inputs = &shard.inputs[chunk.start * ffn..chunk.end * ffn];
            self.add_branch(x, inputs, &quantized.down, quantized.post_ffn_norm.as_deref());
            drift = drift.plus(self.drift(x, &shard.original[at]));
        }
        drift
    }

    /// How far tokens of two streams are apart.
    pub fn drift(&self, x: &[f32], y: &[f32]) -> Drift {
        let hidden = self.arch.hidden;
        let ones = vec![1.0; hidden];
        let (a, b) = (self.norm(x, &ones), self.norm(y, &ones));
        let sum: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(a - b) * f64::from(a - b)).sum();
        Drift { sum: sum / hidden as f64, tokens: (x.len() / hidden) as u64 }
    }

    /// Lets the original's stream `x` pass a branch of inputs `z`. Returns what the quantized map is to give: what takes the
    /// quantized stream to where the original's now is, or, where a norm follows the map, what the original gives.
    fn pass(&self, x: &mut [f32], quantized: &[f32], z: &[f32], map: &[f32], norm: Option<&[f32]>) -> Vec<f32> {
        match norm {
            None => {
                self.add_branch(x, z, map, None);
                x.iter().zip(quantized).map(|(x, quantized)| x - quantized).collect()
            }
            Some(gains) => {
                let out = product(z, map, map.len() / self.arch.hidden);
                rmsnorm::forward_add(x, &out, gains, self.arch.norm_eps);
                out
            }
        }
    }

    /// Adds tokens to `moments`, weighted by one over the root mean square of the residual stream `x` where what they add is
    /// not normed: the norms after it look at directions, not at lengths.
    fn add_weighted(
        &self,
        moments: &mut Moments,
        inputs: &[f32],
        mut target: Vec<f32>,
        z: &[f32],
        x: &[f32],
        weighted: bool,
    ) {
        if !weighted {
            return moments.add(inputs, &target, z);
        }
        let hidden = self.arch.hidden;
        let (mut inputs, cols) = (inputs.to_vec(), inputs.len() / (x.len() / hidden));
        let rows = x.chunks_exact(hidden).zip(inputs.chunks_exact_mut(cols)).zip(target.chunks_exact_mut(hidden));
        for ((x, inputs), target) in rows {
            let square = x.iter().map(|x| x * x).sum::<f32>() / hidden as f32;
            let weight = 1.0 / (square + self.arch.norm_eps).sqrt();
            inputs.iter_mut().for_each(|x| *x *= weight);
            target.iter_mut().for_each(|y| *y *= weight);
        }
        moments.add(&inputs, &target, z);
    }
}

/// `x W^T` for rows of `cols`, on one thread.
pub fn product(x: &[f32], w: &[f32], cols: usize) -> Vec<f32> {
    let (tokens, rows) = (x.len() / cols, w.len() / cols);
    let mut y = vec![0.0; tokens * rows];
    let out = MatMut::new(&mut y, tokens, rows, rows);
    matmul(out, Old::Replace, 1.0, Mat::new(x, tokens, cols, cols), Mat::new(w, rows, cols, cols).t(), 1);
    y
}
