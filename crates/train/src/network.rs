//! The decoder: forward and backward of a batch, written out.
//!
//! Per block: `x += o(attention(rope(qkv(norm(x)))))`, `x += down(gated(gate_up(norm(x))))`; where the architecture has
//! them, norms of query and key heads before or after the rotation, and of what is added to `x`.
//! Kept for backward: the residual stream at two places per block, the rotated heads, the attention output with one
//! number per query, gate and up, and the inputs of the norms that not every architecture has. The other norms, the gated
//! non-linearity, probabilities and effective weights are computed again.

use std::borrow::Cow;
use std::ops::Range;

use sherry::model::{ArchConfig, Frequencies, QkNorm};
use sherry_sgemm::Old;

use crate::layout::{Kind, Layout};
use crate::linear::{Latent, Linear, Scratch};
use crate::loss::{self, Mix, Side, Sums};
use crate::methods::{Matrix, Quantizer};
use crate::ops::attention::{self, Scoring};
use crate::ops::headnorm::{self, Order};
use crate::ops::rope::{Heads, Rotation};
use crate::ops::{embedding, gated, rmsnorm, rope};

/// A decoder and how it is quantized; parameters live outside.
#[derive(Clone, Debug)]
pub struct Network {
    /// The architecture.
    pub arch: ArchConfig,
    /// The quantizer of the blocks' projections.
    pub quantizer: Quantizer,
    /// What lies where in the parameters.
    pub layout: Layout,
    blocks: Vec<BlockLinears>,
}

#[derive(Clone, Debug)]
struct BlockLinears {
    qkv: Linear,
    o: Linear,
    gate_up: Linear,
    down: Linear,
}

/// What one block keeps for its backward pass.
#[derive(Debug, Default)]
struct Kept {
    /// `[batch][kv_heads][group + 2][length][head_dim]`, rotated.
    heads: Vec<f32>,
    /// Query and key heads before their norms, where there are such, in the order that the norms see.
    raw: Vec<f32>,
    /// `tokens x q_dim`.
    attended: Vec<f32>,
    /// `[batch][heads][length]`.
    lse: Vec<f32>,
    /// Residual stream after attention, `tokens x hidden`.
    middle: Vec<f32>,
    /// `tokens x 2 ffn`; becomes its own gradient.
    gate_up: Vec<f32>,
    /// What attention adds to the residual stream before it is normed, where it is; `tokens x hidden`.
    attn_out: Vec<f32>,
    /// The same of the feed-forward.
    ffn_out: Vec<f32>,
}

/// Buffers for batches of one shape, made once.
#[derive(Debug)]
pub struct Workspace {
    batch: usize,
    length: usize,
    recompute: bool,
    /// Of layers that attend to everything, and of those with a window.
    rotations: [Rotation; 2],
    /// Residual stream before each block and after the last, `tokens x hidden` each.
    stream: Vec<Vec<f32>>,
    /// One per block, or one for all when recomputing.
    kept: Vec<Kept>,
    normed: Vec<f32>,
    /// The widest intermediate: joint projections, output of the gate, heads.
    wide: [Vec<f32>; 2],
    scratch: Scratch,
}

/// What a training step sees of one linear map's backward pass; for metrics.
pub trait Probe {
    /// `dy` (`tokens x rows`, `stride` apart) is the gradient of the output of `kind` in `layer`, `weights` are its
    /// effective weights (`rows x cols`).
    fn output_gradient(&mut self, layer: usize, kind: Kind, dy: &[f32], stride: usize, weights: &[f32], matrix: Matrix);
}

impl Network {
    /// A network of this architecture.
    pub fn new(arch: ArchConfig, quantizer: Quantizer) -> Self {
        let layout = Layout::new(&arch, &quantizer);
        let blocks = layout.blocks.iter().map(|block| {
            let [q, k, v, o, gate, up, down] = block.linears;
            BlockLinears {
                qkv: Linear::new(vec![q, k, v]),
                o: Linear::new(vec![o]),
                gate_up: Linear::new(vec![gate, up]),
                down: Linear::new(vec![down]),
            }
        });
        let blocks = blocks.collect();
        Self { arch, quantizer, layout, blocks }
    }

    fn heads(&self, batch: usize, length: usize) -> Heads {
        let arch = &self.arch;
        Heads { batch, length, heads: arch.heads, kv_heads: arch.kv_heads, head_dim: arch.head_dim }
    }

    fn scoring(&self, layer: usize) -> Scoring {
        let window = self.arch.window.filter(|_| self.arch.is_sliding(layer));
        Scoring { scale: self.arch.attn_scale, window: window.unwrap_or(usize::MAX) }
    }

    /// What a norm multiplies by: its weights, or one more than those. The gradient of both is the same.
    fn gains<'a>(&self, params: &'a [f32], norm: &Range<usize>) -> Cow<'a, [f32]> {
        let weights = &params[norm.clone()];
        match self.arch.norm_plus_one {
            true => weights.iter().map(|w| 1.0 + w).collect(),
            false => Cow::Borrowed(weights),
        }
    }

    /// `y = norm(x)`.
    fn normalize(&self, y: &mut [f32], x: &[f32], params: &[f32], norm: &Range<usize>) {
        rmsnorm::forward(y, x, &self.gains(params, norm), self.arch.norm_eps);
    }

    /// Adds to `dx` and to the gradient of the norm's weights what [`normalize`](Self::normalize) makes of `dy`.
    fn normalize_backward(
        &self,
        dx: &mut [f32],
        dy: &[f32],
        x: &[f32],
        params: &[f32],
        norm: &Range<usize>,
        grads: &mut [f32],
    ) {
        rmsnorm::backward(dx, &mut grads[norm.clone()], dy, x, &self.gains(params, norm), self.arch.norm_eps);
    }

    /// Buffers for `batch` sequences of `length` tokens. With `recompute` a block's intermediates are computed a
    /// second time in backward instead of being kept (activation checkpointing).
    pub fn workspace(&self, batch: usize, length: usize, recompute: bool) -> Workspace {
        let (arch, tokens, heads) = (&self.arch, batch * length, self.heads(batch, length));
        let kept = (0..if recompute { 1 } else { arch.layers }).map(|_| Kept {
            heads: vec![0.0; tokens * heads.qkv_dim()],
            raw: vec![0.0; if arch.qk_norm.is_some() { tokens * heads.qkv_dim() } else { 0 }],
            attended: vec![0.0; tokens * heads.q_dim()],
            lse: vec![0.0; tokens * arch.heads],
            middle: vec![0.0; tokens * arch.hidden],
            gate_up: vec![0.0; tokens * 2 * arch.ffn],
            attn_out: vec![0.0; if arch.post_norms { tokens * arch.hidden } else { 0 }],
            ffn_out: vec![0.0; if arch.post_norms { tokens * arch.hidden } else { 0 }],
        });
        let frequencies = Frequencies::new(arch);
        let rotation = |sliding| Rotation::new(frequencies.of(sliding), length, arch.rope.layout);
        let widest = heads.qkv_dim().max(arch.ffn).max(arch.hidden);
        Workspace {
            batch,
            length,
            recompute,
            rotations: [rotation(false), rotation(true)],
            stream: (0..=arch.layers).map(|_| vec![0.0; tokens * arch.hidden]).collect(),
            kept: kept.collect(),
            normed: vec![0.0; tokens * arch.hidden],
            wide: [vec![0.0; tokens * widest], vec![0.0; tokens * widest]],
            scratch: Scratch::default(),
        }
    }

    fn latent<'a>(&'a self, params: &'a [f32], lambda: f32) -> Latent<'a> {
        Latent { params, quantizer: &self.quantizer, lambda }
    }

    /// Runs block `layer` from `x` to `y`, keeping what backward needs.
    fn block_forward(
        &self,
        layer: usize,
        latent: Latent<'_>,
        x: &[f32],
        y: &mut [f32],
        kept: &mut Kept,
        work: &mut Work<'_>,
    ) {
        let (arch, params, maps, heads) = (&self.arch, latent.params, &self.blocks[layer], work.heads);
        let block = &self.layout.blocks[layer];
        let tokens = heads.batch * heads.length;
        let rotation = &work.rotations[usize::from(arch.is_sliding(layer))];
        self.normalize(work.normed, x, params, &block.attn_norm);
        let qkv = &mut work.wide[0][..tokens * heads.qkv_dim()];
        let gains = block.qk_norms.as_ref().map(|norms| norms.each_ref().map(|norm| self.gains(params, norm)));
        let gains = gains.as_ref().map(|gains| gains.each_ref().map(|gains| &**gains));
        match arch.qk_norm.zip(gains) {
            Some((QkNorm::BeforeRope, gains)) => {
                maps.qkv.forward(&mut kept.raw, Old::Replace, work.normed, latent, work.scratch);
                headnorm::forward(qkv, &kept.raw, gains, arch.norm_eps, Order::Rows, heads);
                rope::forward(&mut kept.heads, qkv, rotation, heads);
            }
            Some((QkNorm::AfterRope, gains)) => {
                maps.qkv.forward(qkv, Old::Replace, work.normed, latent, work.scratch);
                rope::forward(&mut kept.raw, qkv, rotation, heads);
                headnorm::forward(&mut kept.heads, &kept.raw, gains, arch.norm_eps, Order::Heads, heads);
            }
            None => {
                maps.qkv.forward(qkv, Old::Replace, work.normed, latent, work.scratch);
                rope::forward(&mut kept.heads, qkv, rotation, heads);
            }
        }
        let scratch = &mut work.wide[0][..tokens * heads.q_dim()];
        attention::forward(&mut kept.attended, &mut kept.lse, &kept.heads, scratch, self.scoring(layer), heads);
        let (norm, out) = (block.post_attn_norm.as_ref(), &mut kept.attn_out);
        kept.middle.copy_from_slice(x);
        self.add_branch(&mut kept.middle, &maps.o, &kept.attended, norm, out, latent, work.scratch);
        self.normalize(work.normed, &kept.middle, params, &block.ffn_norm);
        maps.gate_up.forward(&mut kept.gate_up, Old::Replace, work.normed, latent, work.scratch);
        let h = &mut work.wide[0][..tokens * arch.ffn];
        gated::forward(h, &kept.gate_up, arch.ffn, arch.activation);
        let (norm, out) = (block.post_ffn_norm.as_ref(), &mut kept.ffn_out);
        y.copy_from_slice(&kept.middle);
        self.add_branch(y, &maps.down, h, norm, out, latent, work.scratch);
    }

    /// `y += map(x)`, or `y += norm(map(x))` with `map(x)` kept in `out`.
    #[allow(clippy::too_many_arguments)]
    fn add_branch(
        &self,
        y: &mut [f32],
        map: &Linear,
        x: &[f32],
        norm: Option<&Range<usize>>,
        out: &mut [f32],
        latent: Latent<'_>,
        scratch: &mut Scratch,
    ) {
        let Some(norm) = norm else { return map.forward(y, Old::Add, x, latent, scratch) };
        map.forward(out, Old::Replace, x, latent, scratch);
        rmsnorm::forward_add(y, out, &self.gains(latent.params, norm), self.arch.norm_eps);
    }

    /// The gradient of `out` in [`add_branch`](Self::add_branch), given that of `y`: `d` itself without a norm, else computed
    /// in `d_out`.
    fn branch_gradient<'a>(
        &self,
        d: &'a [f32],
        norm: Option<&Range<usize>>,
        out: &[f32],
        params: &[f32],
        grads: &mut [f32],
        d_out: &'a mut [f32],
    ) -> &'a [f32] {
        let Some(norm) = norm else { return d };
        d_out.fill(0.0);
        self.normalize_backward(d_out, d, out, params, norm, grads);
        d_out
    }

    /// Final hidden states, after the last norm, of `tokens` (`batch * length` ids below the vocabulary).
    pub fn forward<'a>(&self, params: &[f32], lambda: f32, tokens: &[u32], space: &'a mut Workspace) -> &'a [f32] {
        let latent = self.latent(params, lambda);
        let heads = self.heads(space.batch, space.length);
        embedding::forward(&mut space.stream[0], &params[self.layout.embedding.clone()], tokens, self.arch.hidden);
        if self.arch.embed_scale != 1.0 {
            space.stream[0].iter_mut().for_each(|x| *x *= self.arch.embed_scale);
        }
        for layer in 0..self.arch.layers {
            let kept = &mut space.kept[if space.recompute { 0 } else { layer }];
            let (before, after) = space.stream.split_at_mut(layer + 1);
            let mut work = Work {
                heads,
                rotations: &space.rotations,
                normed: &mut space.normed,
                wide: &mut space.wide,
                scratch: &mut space.scratch,
            };
            self.block_forward(layer, latent, &before[layer], &mut after[0], kept, &mut work);
        }
        self.normalize(&mut space.normed, &space.stream[self.arch.layers], params, &self.layout.final_norm);
        &space.normed
    }

    /// Loss sums of a batch without gradients.
    pub fn evaluate(
        &self,
        params: &[f32],
        lambda: f32,
        tokens: &[u32],
        targets: &[u32],
        space: &mut Workspace,
    ) -> Sums {
        let hidden = self.forward(params, lambda, tokens, space);
        loss::head_loss(self.side(params, hidden), None, targets, &Mix::CROSS_ENTROPY, None)
    }

    /// The head and these hidden states as one side of a loss.
    pub fn side<'a>(&self, params: &'a [f32], hidden: &'a [f32]) -> Side<'a> {
        Side { hidden, head: &params[self.layout.head.clone()], width: self.arch.hidden }
    }

    /// Forward and backward: adds the gradients of `scale` times the summed loss to `grads` (as long as `params`).
    #[allow(clippy::too_many_arguments)] // one call site; a struct would only rename them
    pub fn train(
        &self,
        params: &[f32],
        lambda: f32,
        tokens: &[u32],
        targets: &[u32],
        teacher: Option<Side<'_>>,
        mix: &Mix,
        scale: f32,
        grads: &mut [f32],
        space: &mut Workspace,
        mut probe: Option<&mut dyn Probe>,
    ) -> Sums {
        self.forward(params, lambda, tokens, space);
        let (arch, latent, layers) = (&self.arch, self.latent(params, lambda), self.arch.layers);
        let heads = self.heads(space.batch, space.length);
        let count = heads.batch * heads.length;
        // The gradient of the normed hidden states goes to a wide buffer, then through the norm into the last stream
        // buffer's place, which from here on carries the gradient of the residual stream.
        let d_hidden = &mut space.wide[1][..count * arch.hidden];
        let head_grads = &mut grads[self.layout.head.clone()];
        let gradients = loss::Gradients { hidden: d_hidden, head: head_grads, scale };
        let sums = loss::head_loss(self.side(params, &space.normed), teacher, targets, mix, Some(gradients));
        let mut d = vec![0.0f32; count * arch.hidden];
        self.normalize_backward(&mut d, d_hidden, &space.stream[layers], params, &self.layout.final_norm, grads);
        for layer in (0..layers).rev() {
            let kept = &mut space.kept[if space.recompute { 0 } else { layer }];
            let mut work = Work {
                heads,
                rotations: &space.rotations,
                normed: &mut space.normed,
                wide: &mut space.wide,
                scratch: &mut space.scratch,
            };
            let (before, after) = space.stream.split_at_mut(layer + 1);
            if space.recompute {
                self.block_forward(layer, latent, &before[layer], &mut after[0], kept, &mut work);
            }
            self.block_backward(layer, latent, &before[layer], &mut d, grads, kept, &mut work, &mut probe);
        }
        if arch.embed_scale != 1.0 {
            d.iter_mut().for_each(|x| *x *= arch.embed_scale);
        }
        embedding::backward(&mut grads[self.layout.embedding.clone()], &d, tokens, arch.hidden);
        sums
    }

    /// `d`, the gradient of the block's output, becomes that of its input `x`.
    #[allow(clippy::too_many_arguments)]
    fn block_backward(
        &self,
        layer: usize,
        latent: Latent<'_>,
        x: &[f32],
        d: &mut [f32],
        grads: &mut [f32],
        kept: &mut Kept,
        work: &mut Work<'_>,
        probe: &mut Option<&mut dyn Probe>,
    ) {
        let (arch, params, maps, heads) = (&self.arch, latent.params, &self.blocks[layer], work.heads);
        let block = &self.layout.blocks[layer];
        let tokens = heads.batch * heads.length;
        let [wide0, wide1] = work.wide;

        let (h, dh) = (&mut wide0[..tokens * arch.ffn], &mut wide1[..tokens * arch.ffn]);
        gated::forward(h, &kept.gate_up, arch.ffn, arch.activation);
        let norm = block.post_ffn_norm.as_ref();
        let d_down = self.branch_gradient(d, norm, &kept.ffn_out, params, grads, work.normed);
        show(probe, layer, &[Kind::Down], &maps.down, d_down, latent, work.scratch);
        maps.down.backward(dh, d_down, h, latent, grads, work.scratch);
        gated::backward(&mut kept.gate_up, dh, arch.ffn, arch.activation);
        self.normalize(work.normed, &kept.middle, params, &block.ffn_norm);
        let d_normed = &mut wide1[..tokens * arch.hidden];
        show(probe, layer, &[Kind::Gate, Kind::Up], &maps.gate_up, &kept.gate_up, latent, work.scratch);
        maps.gate_up.backward(d_normed, &kept.gate_up, work.normed, latent, grads, work.scratch);
        self.normalize_backward(d, d_normed, &kept.middle, params, &block.ffn_norm, grads);

        let d_attended = &mut wide0[..tokens * heads.q_dim()];
        let norm = block.post_attn_norm.as_ref();
        let d_o = self.branch_gradient(d, norm, &kept.attn_out, params, grads, work.normed);
        show(probe, layer, &[Kind::O], &maps.o, d_o, latent, work.scratch);
        maps.o.backward(d_attended, d_o, &kept.attended, latent, grads, work.scratch);
        let d_heads = &mut wide1[..tokens * heads.qkv_dim()];
        attention::backward(d_heads, d_attended, &kept.attended, &kept.lse, &kept.heads, self.scoring(layer), heads);
        let mut through_norms = |d: &mut [f32], place: QkNorm, order: Order| {
            let Some(norms) = block.qk_norms.as_ref().filter(|_| arch.qk_norm == Some(place)) else { return };
            let gains = norms.each_ref().map(|norm| self.gains(params, norm));
            let gains = gains.each_ref().map(|gains| &**gains);
            let dw = headnorm::backward(d, &kept.raw, gains, arch.norm_eps, order, heads);
            for (norm, dw) in norms.iter().zip(dw) {
                grads[norm.clone()].iter_mut().zip(dw).for_each(|(sum, d)| *sum += d);
            }
        };
        through_norms(d_heads, QkNorm::AfterRope, Order::Heads);
        let d_qkv = &mut wide0[..tokens * heads.qkv_dim()];
        rope::backward(d_qkv, d_heads, &work.rotations[usize::from(arch.is_sliding(layer))], heads);
        through_norms(d_qkv, QkNorm::BeforeRope, Order::Rows);
        self.normalize(work.normed, x, params, &block.attn_norm);
        let d_normed = &mut wide1[..tokens * arch.hidden];
        show(probe, layer, &[Kind::Q, Kind::K, Kind::V], &maps.qkv, d_qkv, latent, work.scratch);
        maps.qkv.backward(d_normed, d_qkv, work.normed, latent, grads, work.scratch);
        self.normalize_backward(d, d_normed, x, params, &block.attn_norm, grads);
    }
}

/// Buffers that all blocks share.
struct Work<'a> {
    heads: Heads,
    rotations: &'a [Rotation; 2],
    normed: &'a mut Vec<f32>,
    wide: &'a mut [Vec<f32>; 2],
    scratch: &'a mut Scratch,
}

/// Shows the output gradients of the parts of a linear map to the probe.
fn show(
    probe: &mut Option<&mut dyn Probe>,
    layer: usize,
    kinds: &[Kind],
    map: &Linear,
    dy: &[f32],
    latent: Latent<'_>,
    scratch: &mut Scratch,
) {
    let Some(probe) = probe else { return };
    let weights = map.weights(latent, scratch);
    let mut row = 0;
    for (&kind, part) in kinds.iter().zip(&map.parts) {
        let weights = &weights[row * map.cols..][..part.count()];
        probe.output_gradient(layer, kind, &dy[row..], map.rows, weights, *part);
        row += part.rows;
    }
}
