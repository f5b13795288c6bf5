//! One decoder block: forward and backward of a batch, written out.
//!
//! `x += o(attention(rope(qkv(norm(x)))))`, `x += down(gated(gate_up(norm(x))))`; where the architecture has them, norms
//! of query and key heads before or after the rotation, and of what is added to `x`.
//! Kept for backward: the rotated heads, the attention output with one number per query, the residual stream after
//! attention, gate and up, and the inputs of the norms that not every architecture has. The other norms, the gated
//! non-linearity, probabilities and effective weights are computed again.
//!
//! A block reads its parameters from a slice and adds their gradients to another of the same length; where they lie
//! there its layout says. [`Network`](crate::network::Network) is a loop over blocks that share one slice;
//! [`Block::alone`] is a block with a slice of its own, for training it against given outputs:
//!
//! ```no_run
//! # use std::{path::Path, sync::Arc};
//! # use sherry::{NoProgress, io::ReadMode, model::Checkpoint};
//! # use sherry_train::{block::Block, layout::Learn, linear::Pass, methods::{Method, Quantizer}, pretrained};
//! # fn main() -> sherry_train::Result<()> {
//! # let (x, target): (Vec<f32>, Vec<f32>) = Default::default();
//! let checkpoint = Checkpoint::open(Path::new("model"), ReadMode::Map)?;
//! let arch = Arc::new(pretrained::architecture(&checkpoint)?);
//! let quantizer = Quantizer { method: Method::Sherry, ..Quantizer::FULL };
//! let (block, layout) = Block::alone(arch, &quantizer, 3);
//! let params = pretrained::parameters(&checkpoint, &layout, &quantizer, &NoProgress)?;
//! let mut buffers = block.buffers(4, 512); // four sequences of 512 tokens
//! let mut kept = block.kept(4, 512);
//! let mut y = vec![0.0; x.len()]; // tokens x hidden, like x and the target
//! let pass = Pass { params: &params, lambda: 0.0, progress: &NoProgress };
//! block.forward(pass, &x, &mut y, &mut kept, &mut buffers)?;
//! let mut d: Vec<f32> = y.iter().zip(&target).map(|(y, t)| 2.0 * (y - t) / y.abs().max(1.0)).collect();
//! let mut grads = vec![0.0; layout.len];
//! block.backward(pass, Learn::Everything, &x, &mut d, &mut grads, &mut kept, &mut buffers, None)?;
//! # Ok(()) }
//! ```

use std::sync::Arc;

use sherry::Result;
use sherry::model::{ArchConfig, Frequencies, QkNorm};
use sherry_sgemm::Old;

use crate::layout::{BlockLayout, Kind, Layout, Learn};
use crate::linear::{Linear, Pass, Scratch};
use crate::methods::{MatrixPlace, Quantizer};
use crate::norm::Norm;
use crate::ops::attention::{self, Scoring};
use crate::ops::headnorm::{self, Order};
use crate::ops::rope::{Heads, Rotation};
use crate::ops::{gated, rope};

/// A block and where its parameters lie.
#[derive(Clone, Debug)]
pub struct Block {
    arch: Arc<ArchConfig>,
    layer: usize,
    keeps_outputs: bool,
    attn_norm: Norm,
    qkv: Linear,
    qk_norms: Option<(QkNorm, [Norm; 2])>,
    o: Linear,
    post_attn_norm: Option<Norm>,
    ffn_norm: Norm,
    gate_up: Linear,
    down: Linear,
    post_ffn_norm: Option<Norm>,
}

/// What one block keeps of a forward pass for its backward pass.
#[derive(Debug)]
pub struct Kept {
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
    /// What `o` gives, where backward needs it (a norm follows, or scales are learned); `tokens x hidden`.
    attn_out: Vec<f32>,
    /// The same of `down`.
    ffn_out: Vec<f32>,
}

/// Buffers for batches of one shape that all blocks of a model may share: nothing in them outlives a call.
#[derive(Debug)]
pub struct Buffers {
    heads: Heads,
    /// Of layers that attend to everything, and of those with a window.
    rotations: [Rotation; 2],
    /// `tokens x hidden`.
    pub(crate) normed: Vec<f32>,
    /// The widest intermediate: joint linear layers, output of the gate, heads.
    pub(crate) wide: [Vec<f32>; 2],
    /// Outputs of joint linear layers, where scales are learned from them.
    outputs: Vec<f32>,
    /// Where the document of each token begins in its sequence, when attention stays within documents.
    starts: Vec<u32>,
    pub(crate) scratch: Scratch,
}

/// What a training step sees of one linear layer's backward pass; for metrics.
pub trait Probe {
    /// `dy` (`tokens x rows`, `stride` apart) is the gradient of the output of `kind` in `layer`, `weights` are its
    /// effective weights (`rows x cols`).
    fn output_gradient(
        &mut self,
        layer: usize,
        kind: Kind,
        dy: &[f32],
        stride: usize,
        weights: &[f32],
        matrix: MatrixPlace,
    );
}

impl Block {
    /// Block `layer` of a model of this architecture, its parameters at `places`.
    pub fn new(arch: Arc<ArchConfig>, quantizer: &Quantizer, layer: usize, places: &BlockLayout) -> Self {
        let [q, k, v, o, gate, up, down] = places.linears;
        let linear = |parts| Linear::new(parts, *quantizer);
        let norm = |range: &_| Norm::new(&arch, Clone::clone(range));
        let qk_norms = places.qk_norms.as_ref().map(|norms| norms.each_ref().map(norm));
        Self {
            layer,
            keeps_outputs: quantizer.learns_from_outputs(),
            attn_norm: norm(&places.attn_norm),
            qkv: linear(vec![q, k, v]),
            qk_norms: arch.qk_norm.zip(qk_norms),
            o: linear(vec![o]),
            post_attn_norm: places.post_attn_norm.as_ref().map(norm),
            ffn_norm: norm(&places.ffn_norm),
            gate_up: linear(vec![gate, up]),
            down: linear(vec![down]),
            post_ffn_norm: places.post_ffn_norm.as_ref().map(norm),
            arch,
        }
    }

    /// Block `layer` of a model of this architecture with parameters of its own, and their layout.
    pub fn alone(arch: Arc<ArchConfig>, quantizer: &Quantizer, layer: usize) -> (Self, Layout) {
        let layout = Layout::of_block(&arch, quantizer, layer);
        (Self::new(arch, quantizer, layer, &layout.blocks[0]), layout)
    }

    fn heads(&self, batch: usize, length: usize) -> Heads {
        let arch = &self.arch;
        Heads { batch, length, heads: arch.heads, kv_heads: arch.kv_heads, head_dim: arch.head_dim }
    }

    fn scoring<'a>(&self, starts: &'a [u32]) -> Scoring<'a> {
        let window = self.arch.window.filter(|_| self.arch.is_sliding(self.layer));
        Scoring { scale: self.arch.attn_scale, window: window.unwrap_or(usize::MAX), starts }
    }

    /// Room for what a batch of `batch` sequences of `length` tokens leaves for backward.
    pub fn kept(&self, batch: usize, length: usize) -> Kept {
        let (arch, tokens, heads) = (&self.arch, batch * length, self.heads(batch, length));
        let zeros = |is_used: bool, width: usize| vec![0.0; if is_used { tokens * width } else { 0 }];
        Kept {
            heads: zeros(true, heads.qkv_dim()),
            raw: zeros(self.qk_norms.is_some(), heads.qkv_dim()),
            attended: zeros(true, heads.q_dim()),
            lse: zeros(true, arch.heads),
            middle: zeros(true, arch.hidden),
            gate_up: zeros(true, 2 * arch.ffn),
            attn_out: zeros(self.post_attn_norm.is_some() || self.keeps_outputs, arch.hidden),
            ffn_out: zeros(self.post_ffn_norm.is_some() || self.keeps_outputs, arch.hidden),
        }
    }

    /// Buffers for batches of `batch` sequences of `length` tokens, good for every block of the model.
    pub fn buffers(&self, batch: usize, length: usize) -> Buffers {
        let (arch, tokens, heads) = (&self.arch, batch * length, self.heads(batch, length));
        let frequencies = Frequencies::new(arch);
        let rotation = |sliding| Rotation::new(frequencies.of(sliding), length, arch.rope.layout);
        let widest = heads.qkv_dim().max(arch.ffn).max(arch.hidden);
        let outputs = if self.keeps_outputs { heads.qkv_dim().max(2 * arch.ffn) } else { 0 };
        Buffers {
            heads,
            rotations: [rotation(false), rotation(true)],
            normed: vec![0.0; tokens * arch.hidden],
            wide: [vec![0.0; tokens * widest], vec![0.0; tokens * widest]],
            outputs: vec![0.0; tokens * outputs],
            starts: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Computes the block's output `y` for its input `x` (both `tokens x hidden`) and keeps what backward needs.
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`]; `y` is then not whole.
    pub fn forward(
        &self,
        pass: Pass<'_>,
        x: &[f32],
        y: &mut [f32],
        kept: &mut Kept,
        buffers: &mut Buffers,
    ) -> Result<()> {
        let (arch, params, heads) = (&self.arch, pass.params, buffers.heads);
        let Buffers { rotations, normed, wide, starts, scratch, .. } = buffers;
        let tokens = heads.batch * heads.length;
        let rotation = &rotations[usize::from(arch.is_sliding(self.layer))];
        self.attn_norm.forward(normed, x, params);
        let qkv = &mut wide[0][..tokens * heads.qkv_dim()];
        let gains = self.qk_norms.as_ref().map(|(place, norms)| (*place, norms.each_ref().map(|n| n.gains(params))));
        match gains.as_ref().map(|(place, gains)| (place, gains.each_ref().map(|gains| &**gains))) {
            Some((QkNorm::BeforeRope, gains)) => {
                self.qkv.forward(&mut kept.raw, Old::Replace, normed, pass, scratch)?;
                headnorm::forward(qkv, &kept.raw, gains, arch.norm_eps, Order::Rows, heads);
                rope::forward(&mut kept.heads, qkv, rotation, heads);
            }
            Some((QkNorm::AfterRope, gains)) => {
                self.qkv.forward(qkv, Old::Replace, normed, pass, scratch)?;
                rope::forward(&mut kept.raw, qkv, rotation, heads);
                headnorm::forward(&mut kept.heads, &kept.raw, gains, arch.norm_eps, Order::Heads, heads);
            }
            None => {
                self.qkv.forward(qkv, Old::Replace, normed, pass, scratch)?;
                rope::forward(&mut kept.heads, qkv, rotation, heads);
            }
        }
        let by_heads = &mut wide[0][..tokens * heads.q_dim()];
        let (out, lse) = (&mut kept.attended, &mut kept.lse);
        attention::forward(out, lse, &kept.heads, by_heads, self.scoring(starts), heads, pass.progress)?;
        kept.middle.copy_from_slice(x);
        let norm = self.post_attn_norm.as_ref();
        add_branch(&mut kept.middle, &self.o, &kept.attended, norm, &mut kept.attn_out, pass, scratch)?;
        self.ffn_norm.forward(normed, &kept.middle, params);
        self.gate_up.forward(&mut kept.gate_up, Old::Replace, normed, pass, scratch)?;
        let h = &mut wide[0][..tokens * arch.ffn];
        gated::forward(h, &kept.gate_up, arch.ffn, arch.activation);
        y.copy_from_slice(&kept.middle);
        add_branch(y, &self.down, h, self.post_ffn_norm.as_ref(), &mut kept.ffn_out, pass, scratch)
    }

    /// Given what [`forward`](Self::forward) kept of `x`: `d`, the gradient of the block's output, becomes that of `x`,
    /// and the gradients of the parameters that `learn` names are added to `grads`. Uses up what was kept.
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`]; `d` and `grads` are then not whole.
    #[allow(clippy::too_many_arguments)] // two passes, two gradients, two kinds of buffers
    pub fn backward(
        &self,
        pass: Pass<'_>,
        learn: Learn,
        x: &[f32],
        d: &mut [f32],
        grads: &mut [f32],
        kept: &mut Kept,
        buffers: &mut Buffers,
        mut probe: Option<&mut (dyn Probe + '_)>,
    ) -> Result<()> {
        let (arch, params, heads) = (&self.arch, pass.params, buffers.heads);
        let Buffers { rotations, normed, wide: [wide0, wide1], outputs, starts, scratch, .. } = buffers;
        let tokens = heads.batch * heads.length;
        let rotation = &rotations[usize::from(arch.is_sliding(self.layer))];
        let mut show = |kinds: &[Kind], map: &Linear, dy: &[f32], scratch: &mut Scratch| {
            let Some(probe) = probe.as_deref_mut() else { return };
            let weights = map.weights(pass, scratch);
            let mut row = 0;
            for (&kind, part) in kinds.iter().zip(&map.parts) {
                let weights = &weights[row * map.cols..][..part.count()];
                probe.output_gradient(self.layer, kind, &dy[row..], map.rows, weights, *part);
                row += part.rows;
            }
        };

        let (h, dh) = (&mut wide0[..tokens * arch.ffn], &mut wide1[..tokens * arch.ffn]);
        gated::forward(h, &kept.gate_up, arch.ffn, arch.activation);
        let d_down = branch_gradient(d, self.post_ffn_norm.as_ref(), &kept.ffn_out, params, grads, normed);
        show(&[Kind::Down], &self.down, d_down, scratch);
        self.down.backward(dh, d_down, h, &kept.ffn_out, pass, learn, grads, scratch)?;
        if self.keeps_outputs {
            outputs[..kept.gate_up.len()].copy_from_slice(&kept.gate_up);
        }
        gated::backward(&mut kept.gate_up, dh, arch.ffn, arch.activation);
        self.ffn_norm.forward(normed, &kept.middle, params);
        let d_normed = &mut wide1[..tokens * arch.hidden];
        show(&[Kind::Gate, Kind::Up], &self.gate_up, &kept.gate_up, scratch);
        self.gate_up.backward(d_normed, &kept.gate_up, normed, outputs, pass, learn, grads, scratch)?;
        self.ffn_norm.backward(d, d_normed, &kept.middle, params, grads);

        let d_attended = &mut wide0[..tokens * heads.q_dim()];
        let d_o = branch_gradient(d, self.post_attn_norm.as_ref(), &kept.attn_out, params, grads, normed);
        show(&[Kind::O], &self.o, d_o, scratch);
        self.o.backward(d_attended, d_o, &kept.attended, &kept.attn_out, pass, learn, grads, scratch)?;
        let d_heads = &mut wide1[..tokens * heads.qkv_dim()];
        let (out, lse) = (&kept.attended, &kept.lse);
        attention::backward(d_heads, d_attended, out, lse, &kept.heads, self.scoring(starts), heads, pass.progress)?;
        let mut through_norms = |d: &mut [f32], place: QkNorm, order: Order| {
            let Some((_, norms)) = self.qk_norms.as_ref().filter(|(own, _)| *own == place) else { return };
            let gains = norms.each_ref().map(|norm| norm.gains(params));
            let gains = gains.each_ref().map(|gains| &**gains);
            let dw = headnorm::backward(d, &kept.raw, gains, arch.norm_eps, order, heads);
            for (norm, dw) in norms.iter().zip(dw) {
                grads[norm.range()].iter_mut().zip(dw).for_each(|(sum, d)| *sum += d);
            }
        };
        through_norms(d_heads, QkNorm::AfterRope, Order::Heads);
        let d_qkv = &mut wide0[..tokens * heads.qkv_dim()];
        rope::backward(d_qkv, d_heads, rotation, heads);
        through_norms(d_qkv, QkNorm::BeforeRope, Order::Rows);
        let qkv: &[f32] = match &self.qk_norms {
            _ if !self.keeps_outputs => &[],
            Some((QkNorm::BeforeRope, _)) => &kept.raw,
            // The gradient of a rotation is its inverse.
            norms => {
                let rotated = if norms.is_some() { &kept.raw } else { &kept.heads };
                rope::backward(&mut outputs[..tokens * heads.qkv_dim()], rotated, rotation, heads);
                outputs
            }
        };
        self.attn_norm.forward(normed, x, params);
        let d_normed = &mut wide1[..tokens * arch.hidden];
        show(&[Kind::Q, Kind::K, Kind::V], &self.qkv, d_qkv, scratch);
        self.qkv.backward(d_normed, d_qkv, normed, qkv, pass, learn, grads, scratch)?;
        self.attn_norm.backward(d, d_normed, x, params, grads);
        Ok(())
    }
}

impl Buffers {
    /// Lets attention end where documents do: in each sequence of `tokens` one begins at every `separator`.
    pub(crate) fn separate(&mut self, tokens: &[u32], separator: u32) {
        self.starts.clear();
        for sequence in tokens.chunks(self.heads.length) {
            let mut start = 0;
            self.starts.extend(sequence.iter().enumerate().map(|(position, &token)| {
                if token == separator {
                    start = position as u32;
                }
                start
            }));
        }
    }
}

#[cfg(test)]
impl Kept {
    pub(crate) fn floats(&self) -> usize {
        let Self { heads, raw, attended, lse, middle, gate_up, attn_out, ffn_out } = self;
        [heads, raw, attended, lse, middle, gate_up, attn_out, ffn_out].map(Vec::len).iter().sum()
    }
}

#[cfg(test)]
impl Buffers {
    pub(crate) fn floats(&self) -> usize {
        let Self { rotations, normed, wide: [wide0, wide1], outputs, heads, .. } = self;
        let vectors = [normed, wide0, wide1, outputs].map(Vec::len).iter().sum::<usize>();
        vectors + rotations.len() * heads.length * heads.head_dim
    }
}

/// `y += map(x)`, or `y += norm(map(x))`; `map(x)` is kept in `out`, where there is room for it.
fn add_branch(
    y: &mut [f32],
    map: &Linear,
    x: &[f32],
    norm: Option<&Norm>,
    out: &mut [f32],
    pass: Pass<'_>,
    scratch: &mut Scratch,
) -> Result<()> {
    if out.is_empty() {
        return map.forward(y, Old::Add, x, pass, scratch);
    }
    map.forward(out, Old::Replace, x, pass, scratch)?;
    match norm {
        Some(norm) => norm.forward_add(y, out, pass.params),
        None => y.iter_mut().zip(out).for_each(|(y, out)| *y += *out),
    }
    Ok(())
}

/// The gradient of `out` in [`add_branch`], given that of `y`: `d` itself without a norm, else computed in `d_out`.
fn branch_gradient<'a>(
    d: &'a [f32],
    norm: Option<&Norm>,
    out: &[f32],
    params: &[f32],
    grads: &mut [f32],
    d_out: &'a mut [f32],
) -> &'a [f32] {
    let Some(norm) = norm else { return d };
    d_out.fill(0.0);
    norm.backward(d_out, d, out, params, grads);
    d_out
}
