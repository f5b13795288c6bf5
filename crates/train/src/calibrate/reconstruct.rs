//! Reconstruction of one block: its codes, scales and norms, after rounding, are trained together to give what the original's
//! block gives.
//!
//! Rounding takes one linear map at a time and measures its errors at its own outputs; here errors count where the block ends,
//! after attention and the gate. Codes stay, or follow latent weights by straight-through estimate, with or without the residual
//! path of Arenas (arXiv 2601.07892), which fades.

use std::sync::Arc;

use sherry::model::names::{Naming, Part, Role};
use sherry_kernels::format::QuadOrder;

use super::adam::{Adam, Rates, Weights, fading, schedule};
use super::block::{Formats, QuantizedBlock};
use super::latent::Latents;
use super::stream::{BlockWeights, Drift, Layer, Shard};
use crate::block::{Block, Buffers, Kept};
use crate::error::Result;
use crate::layout::{Layout, Purpose, Tensor};
use crate::linear::Pass;
use crate::methods::{Method, Quantizer, Scale};
use crate::rng::Rng;

/// How blocks are reconstructed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reconstruction {
    /// Passes over the text; 0: none.
    pub epochs: usize,
    /// Sequences per step.
    pub batch: usize,
    /// Largest relative step of scales and norms.
    pub rate: f64,
    /// Largest step of a latent weight that decides a code, in units of the scale; 0: codes stay.
    pub code_rate: f64,
    /// Where codes do not stay: strength of the residual path at the beginning, which falls to zero over half of the steps.
    pub residual: f32,
}

/// Sequences at a time where nothing is learned.
const SEQUENCES: usize = 4;
/// Streams of random numbers of a seed.
const ORDER: u64 = 4 << 40;

/// A block in training.
struct Training<'a> {
    layer: Layer<'a>,
    block: Block,
    layout: Layout,
    params: Vec<f32>,
    /// What decides codes that are learned; none where all stay.
    latents: Latents,
    /// What the residual stream of the quantized model was before the block, per shard.
    before: &'a [Vec<f32>],
    kept: Kept,
    buffers: Buffers,
    batch: usize,
}

/// Trains `block`, the rounded form of `original` of these formats, on the shards that are not held out: they hold the original's
/// stream after the block, `before` the quantized one's before it. Returns the block and how far the streams are apart after it
/// (on text fitted to and held out); the quantized streams of the shards follow.
///
/// # Errors
/// [`sherry::Error::Interrupted`].
pub fn reconstruct(
    layer: Layer<'_>,
    original: &BlockWeights,
    (block, formats): (&QuantizedBlock, &Formats),
    before: &[Vec<f32>],
    shards: &mut [Shard],
    how: &Reconstruction,
    seed: u64,
) -> Result<(QuantizedBlock, [Drift; 2])> {
    let width = layer.length * layer.arch.hidden;
    let places: Vec<(usize, usize)> = shards
        .iter()
        .enumerate()
        .filter(|(_, shard)| !shard.held_out)
        .flat_map(|(i, shard)| (0..shard.original.len() / width).map(move |at| (i, at)))
        .collect();
    let batch = how.batch.clamp(1, places.len().max(1));
    let formats = (how.code_rate > 0.0).then_some(formats);
    let mut training = Training::new(layer, original, (block, formats), before, batch);
    let learned = training.learned();
    let mut adam = Adam::new(learned.iter().map(|tensor| tensor.range().len()).sum());
    let mut grads = vec![0.0; training.layout.len];
    let steps = (how.epochs * (places.len() / batch)) as u64;
    let mut rng = Rng::new(seed, ORDER + layer.index as u64);
    let mut order = Vec::new();
    for step in 1..=steps {
        if order.len() < batch {
            order = rng.permutation(places.len());
        }
        let chosen: Vec<_> = order.drain(..batch).map(|i| places[i as usize]).collect();
        let lambda = fading(how.residual, step, steps);
        grads.fill(0.0);
        training.latents.apply(lambda, &mut training.params);
        training.gradients(&chosen, shards, &mut grads)?;
        let rates = Rates { weights: Weights::Latent(how.code_rate), scales: how.rate }.times(schedule(step, steps));
        training.latents.step(&mut training.params, &mut grads, |params, grads| {
            adam.step(learned.iter(), params, grads, rates);
        });
    }
    // As they are kept, so that codes are those that follow from the file.
    training.latents.round();
    training.latents.apply(0.0, &mut training.params);
    let drifts = training.advance(shards)?;
    Ok((training.quantized(block), drifts))
}

impl<'a> Training<'a> {
    fn new(
        layer: Layer<'a>,
        original: &BlockWeights,
        (quantized, formats): (&QuantizedBlock, Option<&Formats>),
        before: &'a [Vec<f32>],
        batch: usize,
    ) -> Self {
        let arch = layer.arch;
        let shape = quantized.linears[0].shape;
        let group = (shape.group < shape.cols).then_some(shape.group);
        let quantizer = Quantizer {
            method: Method::Codes,
            scale: if group.is_some() { Scale::Group } else { Scale::Row },
            group_size: group.unwrap_or(0),
            quads: QuadOrder::Contiguous,
            tequila: 0.0,
        };
        let (block, layout) = Block::alone(Arc::new(arch.clone()), &quantizer, layer.index);
        let mut params = vec![0.0; layout.len];
        for tensor in &layout.tensors {
            let out = &mut params[tensor.range()];
            let Some(Role::Layer(_, part)) = Role::parse(&tensor.name, arch.family, Naming::HuggingFace) else {
                continue;
            };
            let gains = match (part, tensor.purpose, &original.qk_norms) {
                (_, Purpose::Linear(_, kind), _) => {
                    let codes = &quantized.linears[kind as usize].codes;
                    out.iter_mut().zip(codes).for_each(|(out, code)| *out = 0.5 * f32::from(*code));
                    continue;
                }
                (Part::AttnNorm, ..) => &quantized.attn_norm,
                (Part::FfnNorm, ..) => &quantized.ffn_norm,
                (Part::QNorm, _, Some([q, _])) => q,
                (Part::KNorm, _, Some([_, k])) => k,
                (Part::PostAttnNorm, ..) => original.post_attn_norm.as_ref().unwrap_or(&quantized.attn_norm),
                (Part::PostFfnNorm, ..) => original.post_ffn_norm.as_ref().unwrap_or(&quantized.ffn_norm),
                _ => continue,
            };
            out.copy_from_slice(&quantized.norm_weights(arch, gains));
        }
        let mut latents = Latents::default();
        for (kind, (matrix, linear)) in layout.blocks[0].linears.iter().zip(&quantized.linears).enumerate() {
            params[matrix.learned..][..linear.scales.len()].copy_from_slice(&linear.scales);
            if let Some(Formats { of, quads }) = formats {
                latents.add(*matrix, of[kind], *quads, &linear.latents, linear.blocks.as_ref());
            }
        }
        let (kept, buffers) = (block.kept(batch, layer.length), block.buffers(batch, layer.length));
        Self { layer, block, layout, params, latents, before, kept, buffers, batch }
    }

    /// What a quantized block holds.
    fn learned(&self) -> Vec<Tensor> {
        let places = &self.layout.blocks[0];
        let norms = [&places.attn_norm, &places.ffn_norm];
        let is_held = |tensor: &&Tensor| match tensor.purpose {
            Purpose::Norm => norms.contains(&&tensor.range()),
            _ => self.latents.includes(tensor),
        };
        self.layout.tensors.iter().filter(is_held).cloned().collect()
    }

    /// Adds the gradients of the mean over tokens of the squared distance between the streams after the block, in units of the
    /// original's mean square, for the sequences `chosen` (shard and place in it).
    fn gradients(&mut self, chosen: &[(usize, usize)], shards: &[Shard], grads: &mut [f32]) -> Result<()> {
        let hidden = self.layer.arch.hidden;
        let width = self.layer.length * hidden;
        let part = |at: usize| at * width..(at + 1) * width;
        let x: Vec<f32> = chosen.iter().flat_map(|(shard, at)| &self.before[*shard][part(*at)]).copied().collect();
        let mut d = vec![0.0; x.len()];
        let pass = Pass { params: &self.params, lambda: 0.0, progress: self.layer.progress };
        self.block.forward(pass, &x, &mut d, &mut self.kept, &mut self.buffers)?;
        let targets = chosen.iter().flat_map(|(shard, at)| shards[*shard].original[part(*at)].chunks_exact(hidden));
        let tokens = (x.len() / hidden) as f32;
        for (d, target) in d.chunks_exact_mut(hidden).zip(targets) {
            let square = target.iter().map(|x| x * x).sum::<f32>() + hidden as f32 * self.layer.arch.norm_eps;
            let factor = 2.0 / (square * tokens);
            d.iter_mut().zip(target).for_each(|(d, target)| *d = factor * (*d - target));
        }
        self.block.backward(pass, self.latents.learn(), &x, &mut d, grads, &mut self.kept, &mut self.buffers, None)?;
        Ok(())
    }

    /// Takes the quantized streams of all shards through the block and measures.
    fn advance(&mut self, shards: &mut [Shard]) -> Result<[Drift; 2]> {
        let width = self.layer.length * self.layer.arch.hidden;
        let mut drifts = [Drift::default(); 2];
        for (shard, before) in shards.iter_mut().zip(self.before) {
            let step = SEQUENCES * width;
            for at in (0..before.len()).step_by(step) {
                let whole = at..before.len().min(at + step);
                if whole.len() != self.batch * width {
                    self.batch = whole.len() / width;
                    self.kept = self.block.kept(self.batch, self.layer.length);
                    self.buffers = self.block.buffers(self.batch, self.layer.length);
                }
                let y = &mut shard.quantized[whole.clone()];
                let pass = Pass { params: &self.params, lambda: 0.0, progress: self.layer.progress };
                self.block.forward(pass, &before[whole.clone()], y, &mut self.kept, &mut self.buffers)?;
                let drift = &mut drifts[usize::from(shard.held_out)];
                *drift = drift.plus(self.layer.drift(y, &shard.original[whole]));
            }
        }
        Ok(drifts)
    }

    /// The block as it is now.
    fn quantized(&self, rounded: &QuantizedBlock) -> QuantizedBlock {
        let mut block = rounded.clone();
        let places = &self.layout.blocks[0];
        for (matrix, linear) in places.linears.iter().zip(&mut block.linears) {
            linear.learn(self.latents.learned(*matrix), &self.params[matrix.learned..][..linear.scales.len()]);
        }
        let plus = if self.layer.arch.norm_plus_one { 1.0 } else { 0.0 };
        let gains = |range: &std::ops::Range<usize>| self.params[range.clone()].iter().map(|w| w + plus).collect();
        block.attn_norm = gains(&places.attn_norm);
        block.ffn_norm = gains(&places.ffn_norm);
        block
    }
}
