//! The decoder: an embedding, a loop over [blocks](crate::block), a norm and a head.

use std::sync::Arc;

use sherry::Result;
use sherry::model::ArchConfig;
use sherry_sgemm::MatmulPrecision;

use crate::block::{Block, Buffers, Kept, Probe};
use crate::layout::{Layout, Learn};
use crate::linear::Pass;
use crate::loss::{self, Mix, Side, Sums};
use crate::methods::Quantizer;
use crate::norm::Norm;
use crate::ops::embedding;

/// A decoder and how it is quantized; parameters live outside.
///
/// ```
/// use sherry::NoProgress;
/// use sherry::model::{Family, synthetic};
/// use sherry_train::{linear::Pass, methods::Quantizer, network::Network};
///
/// let network = Network::new(synthetic::tiny(Family::Llama), Quantizer::FULL);
/// let params = network.layout.init(&network.quantizer, 1, &NoProgress)?;
/// let pass = Pass { params: &params, lambda: 0.0, progress: &NoProgress };
/// let mut space = network.forward_workspace(1, 3);
/// let sums = network.evaluate(pass, &[3, 1, 4], &[1, 4, 1], &mut space)?;
/// assert_eq!(sums.tokens, 3);
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Network {
    /// The architecture.
    pub arch: Arc<ArchConfig>,
    /// The quantizer of the blocks' linear layers.
    pub quantizer: Quantizer,
    /// What lies where in the parameters.
    pub layout: Layout,
    blocks: Vec<Block>,
    final_norm: Norm,
}

/// Buffers for batches of one shape, made once.
#[derive(Debug)]
pub struct Workspace {
    /// Residual stream before each block and after the last, `tokens x hidden` each; two that take turns when there is no
    /// backward.
    stream: Vec<Vec<f32>>,
    /// One per block, or one for all where it is computed again or not needed.
    kept: Vec<Kept>,
    buffers: Buffers,
    separator: Option<u32>,
}

impl Workspace {
    /// Keeps attention within documents, each of which begins with the token `separator`, in batches of tokens that are
    /// computed here; `None`, as in a new workspace: a sequence is one document.
    pub fn mask_documents(&mut self, separator: Option<u32>) {
        self.separator = separator;
    }

    /// How exact products of activations and weights are to be: at first f32 throughout.
    pub fn set_precision(&mut self, precision: MatmulPrecision) {
        self.buffers.scratch.precision = precision;
    }

    fn precision(&self) -> MatmulPrecision {
        self.buffers.scratch.precision
    }
}

/// Where a batch enters a network.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// At the embedding: `batch * length` ids below the vocabulary.
    Tokens(&'a [u32]),
    /// Before the block of this index: the residual stream there, `tokens x hidden`.
    Stream(usize, &'a [f32]),
}

impl Input<'_> {
    /// The first block that it goes through.
    fn first(self) -> usize {
        match self {
            Self::Tokens(_) => 0,
            Self::Stream(block, _) => block,
        }
    }
}

/// A batch and what is to be learned from it.
#[derive(Clone, Copy, Debug)]
pub struct Examples<'a> {
    /// What the network computes from.
    pub input: Input<'a>,
    /// The token after each, or [`IGNORED`](loss::IGNORED).
    pub targets: &'a [u32],
    /// Final hidden states and head of a teacher.
    pub teacher: Option<Side<'a>>,
    /// The mix of losses.
    pub mix: &'a Mix,
    /// Factor on every token's loss: one over the tokens of the step that count.
    pub scale: f32,
}

impl Network {
    /// A network of this architecture.
    pub fn new(arch: impl Into<Arc<ArchConfig>>, quantizer: Quantizer) -> Self {
        let arch = arch.into();
        let layout = Layout::new(&arch, &quantizer);
        let block = |(layer, places)| Block::new(Arc::clone(&arch), &quantizer, layer, places);
        let blocks = layout.blocks.iter().enumerate().map(block).collect();
        let final_norm = Norm::new(&arch, layout.final_norm.clone());
        Self { arch, quantizer, layout, blocks, final_norm }
    }

    /// The blocks, which read the same parameters as the network.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Buffers for `batch` sequences of `length` tokens. With `recompute` a block's intermediates are computed a
    /// second time in backward instead of being kept (activation checkpointing).
    pub fn workspace(&self, batch: usize, length: usize, recompute: bool) -> Workspace {
        self.workspace_of(batch, length, self.arch.layers + 1, if recompute { 1 } else { self.arch.layers })
    }

    /// The same for forward passes alone.
    pub fn forward_workspace(&self, batch: usize, length: usize) -> Workspace {
        self.workspace_of(batch, length, 2, 1)
    }

    fn workspace_of(&self, batch: usize, length: usize, streams: usize, kept: usize) -> Workspace {
        let width = batch * length * self.arch.hidden;
        Workspace {
            stream: (0..streams).map(|_| vec![0.0; width]).collect(),
            kept: self.blocks.iter().take(kept).map(|block| block.kept(batch, length)).collect(),
            buffers: self.blocks[0].buffers(batch, length),
            separator: None,
        }
    }

    /// Final hidden states, after the last norm, of `tokens` (`batch * length` ids below the vocabulary).
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`].
    pub fn forward<'a>(&self, pass: Pass<'_>, tokens: &[u32], space: &'a mut Workspace) -> Result<&'a [f32]> {
        self.forward_from(pass, Input::Tokens(tokens), space)
    }

    /// The same of a batch that may enter further up.
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`].
    pub fn forward_from<'a>(&self, pass: Pass<'_>, input: Input<'_>, space: &'a mut Workspace) -> Result<&'a [f32]> {
        let Workspace { stream, kept, buffers, separator } = space;
        let at = input.first() % stream.len();
        match input {
            Input::Tokens(tokens) => {
                if let Some(separator) = *separator {
                    buffers.separate(tokens, separator);
                }
                let table = &pass.params[self.layout.embedding.clone()];
                embedding::forward(&mut stream[at], table, tokens, self.arch.hidden);
                if self.arch.embed_scale != 1.0 {
                    stream[at].iter_mut().for_each(|x| *x *= self.arch.embed_scale);
                }
            }
            Input::Stream(_, x) => stream[at].copy_from_slice(x),
        }
        for (layer, block) in self.blocks.iter().enumerate().skip(input.first()) {
            let at = layer.min(kept.len() - 1);
            let (x, y) = around(stream, layer);
            block.forward(pass, x, y, &mut kept[at], buffers)?;
        }
        self.final_norm.forward(&mut buffers.normed, &stream[self.arch.layers % stream.len()], pass.params);
        Ok(&buffers.normed)
    }

    /// Loss sums of a batch without gradients.
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`].
    pub fn evaluate(&self, pass: Pass<'_>, tokens: &[u32], targets: &[u32], space: &mut Workspace) -> Result<Sums> {
        let precision = space.precision();
        let hidden = self.forward(pass, tokens, space)?;
        let student = self.side(pass.params, hidden);
        loss::head_loss(student, None, targets, &Mix::CROSS_ENTROPY, None, precision, pass.progress)
    }

    /// The head and these hidden states as one side of a loss.
    pub fn side<'a>(&self, params: &'a [f32], hidden: &'a [f32]) -> Side<'a> {
        Side { hidden, head: &params[self.layout.head.clone()], width: self.arch.hidden }
    }

    /// Forward and backward: adds the gradients of the scaled and summed loss of `examples` to `grads` (as long as the
    /// parameters), those of the parameters that `learn` names, as far as the batch goes through them.
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`]; `grads` are then not whole.
    ///
    /// # Panics
    /// With a [workspace for forward passes alone](Self::forward_workspace).
    pub fn train(
        &self,
        pass: Pass<'_>,
        examples: Examples<'_>,
        learn: Learn,
        grads: &mut [f32],
        space: &mut Workspace,
        mut probe: Option<&mut dyn Probe>,
    ) -> Result<Sums> {
        self.forward_from(pass, examples.input, space)?;
        let (arch, params, layers) = (&self.arch, pass.params, self.arch.layers);
        let precision = space.precision();
        let Workspace { stream, kept, buffers, .. } = space;
        assert!(stream.len() > layers, "the workspace keeps nothing for backward");
        let (count, recompute) = (examples.targets.len(), kept.len() < layers);
        // The gradient of the normed hidden states goes to a wide buffer, from there through the norm into `d`, which
        // carries the gradient of the residual stream down through the blocks.
        let d_hidden = &mut buffers.wide[1][..count * arch.hidden];
        let everything = learn == Learn::Everything;
        let head = everything.then(|| &mut grads[self.layout.head.clone()]);
        let gradients = loss::Gradients { hidden: d_hidden, head, scale: examples.scale };
        let student = self.side(params, &buffers.normed);
        let Examples { teacher, targets, mix, .. } = examples;
        let sums = loss::head_loss(student, teacher, targets, mix, Some(gradients), precision, pass.progress)?;
        let mut d = vec![0.0f32; count * arch.hidden];
        self.final_norm.backward(&mut d, d_hidden, &stream[layers], params, grads);
        for (layer, block) in self.blocks.iter().enumerate().skip(examples.input.first()).rev() {
            let kept = &mut kept[if recompute { 0 } else { layer }];
            let (x, y) = around(stream, layer);
            if recompute {
                block.forward(pass, x, y, kept, buffers)?;
            }
            block.backward(pass, learn, x, &mut d, grads, kept, buffers, probe.as_deref_mut())?;
        }
        if let (true, Input::Tokens(tokens)) = (everything, examples.input) {
            if arch.embed_scale != 1.0 {
                d.iter_mut().for_each(|x| *x *= arch.embed_scale);
            }
            embedding::backward(&mut grads[self.layout.embedding.clone()], &d, tokens, arch.hidden);
        }
        Ok(sums)
    }
}

#[cfg(test)]
impl Workspace {
    pub(crate) fn floats(&self) -> usize {
        let Self { stream, kept, buffers, .. } = self;
        stream.iter().map(Vec::len).sum::<usize>() + kept.iter().map(Kept::floats).sum::<usize>() + buffers.floats()
    }
}

/// The streams before and after block `layer`.
fn around(stream: &mut [Vec<f32>], layer: usize) -> (&[f32], &mut [f32]) {
    let (x, y) = (layer % stream.len(), (layer + 1) % stream.len());
    let (low, high) = stream.split_at_mut(x.max(y));
    if x < y { (&low[x], &mut high[0]) } else { (&high[0], &mut low[y]) }
}
