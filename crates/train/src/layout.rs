//! The parameters: one flat vector of f32 latent weights, and what lies where in it.

use std::ops::Range;

use sherry::model::ArchConfig;
use sherry::model::names::{Naming, Part, Role};
use sherry::{Progress, Result};

use crate::error::uninterrupted;
pub use crate::methods::Learn;
use crate::methods::{MatrixPlace, Quantizer};
use crate::rng::Rng;

/// Random numbers drawn between two looks at whether to stop; even, since they come in pairs.
const PIECE: usize = 1 << 20;

/// The linear layers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the names of the field
pub enum Kind {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Kind {
    /// All kinds in the order of the parameters.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Short name, for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// Out and in features of this linear layer in any block of a model.
    pub fn shape(self, arch: &ArchConfig) -> [usize; 2] {
        let shape = Role::Layer(0, self.part()).shape(arch);
        [shape[0], shape[1]]
    }

    /// What the library calls it.
    pub const fn part(self) -> Part {
        match self {
            Self::Q => Part::Q,
            Self::K => Part::K,
            Self::V => Part::V,
            Self::O => Part::O,
            Self::Gate => Part::Gate,
            Self::Up => Part::Up,
            Self::Down => Part::Down,
        }
    }
}

/// The parts of a block in the order of the parameters. Linear layers that share an input follow each other, so that they
/// are one matrix.
pub(crate) const PARTS: [Part; 13] = [
    Part::AttnNorm,
    Part::Q,
    Part::K,
    Part::V,
    Part::QNorm,
    Part::KNorm,
    Part::O,
    Part::PostAttnNorm,
    Part::FfnNorm,
    Part::Gate,
    Part::Up,
    Part::Down,
    Part::PostFfnNorm,
];

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Token embedding (and head, when tied).
    Embedding,
    /// Weight of a norm.
    Norm,
    /// Quantized linear layer of a block.
    Linear(usize, Kind),
    /// Output head.
    Head,
    /// Learned scale or shift of a quantizer.
    Learned,
}

/// One named tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Hugging Face name.
    pub name: String,
    /// Dimensions in PyTorch order.
    pub shape: Vec<usize>,
    /// First element in the flat parameters.
    pub offset: usize,
    /// What it is for.
    pub purpose: Purpose,
}

impl Tensor {
    /// Its elements in the flat parameters.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.shape.iter().product::<usize>()
    }

    /// Whether weight decay applies: to matrices, not to norms and scales.
    pub fn decays(&self) -> bool {
        !matches!(self.purpose, Purpose::Norm | Purpose::Learned)
    }
}

impl Learn {
    /// Whether tensors of this purpose get gradients.
    pub fn includes(self, purpose: Purpose) -> bool {
        match self {
            Self::Everything => true,
            Self::Blocks => !matches!(purpose, Purpose::Embedding | Purpose::Head),
            Self::ScalesAndNorms => matches!(purpose, Purpose::Norm | Purpose::Learned),
        }
    }
}

/// Offsets of one block.
#[derive(Clone, Debug)]
pub struct BlockLayout {
    /// Norm before attention.
    pub attn_norm: Range<usize>,
    /// Linear layers in the order of [`Kind::ALL`].
    pub linears: [MatrixPlace; 7],
    /// Norm before the feed-forward.
    pub ffn_norm: Range<usize>,
    /// Norms of query and key heads, where the architecture has them.
    pub qk_norms: Option<[Range<usize>; 2]>,
    /// Norm of what attention adds to the residual stream, where the architecture has it.
    pub post_attn_norm: Option<Range<usize>>,
    /// The same of the feed-forward.
    pub post_ffn_norm: Option<Range<usize>>,
}

/// Where everything lies.
#[derive(Clone, Debug)]
pub struct Layout {
    /// All tensors in order.
    pub tensors: Vec<Tensor>,
    /// Embedding table.
    pub embedding: Range<usize>,
    /// Blocks.
    pub blocks: Vec<BlockLayout>,
    /// Last norm.
    pub final_norm: Range<usize>,
    /// Head; the embedding when tied.
    pub head: Range<usize>,
    /// Parameters in all.
    pub len: usize,
    /// The weight of a norm that multiplies by one.
    fresh_norm: f32,
}

impl Layout {
    /// The layout of a model.
    pub fn new(arch: &ArchConfig, quantizer: &Quantizer) -> Self {
        Self::of(arch, quantizer, 0..arch.layers, true)
    }

    /// The layout of block `layer` alone: the only one in `blocks`; embedding, last norm and head are empty. Names are
    /// those in the model.
    pub fn of_block(arch: &ArchConfig, quantizer: &Quantizer, layer: usize) -> Self {
        Self::of(arch, quantizer, layer..layer + 1, false)
    }

    fn of(arch: &ArchConfig, quantizer: &Quantizer, layers: Range<usize>, whole: bool) -> Self {
        let name = |role: Role| role.name(arch.family, Naming::HuggingFace).unwrap_or_default();
        let mut tensors: Vec<Tensor> = Vec::new();
        let mut len = 0;
        let mut add = |name: String, shape: Vec<usize>, purpose: Purpose| {
            let tensor = Tensor { name, shape, offset: len, purpose };
            let range = tensor.range();
            len = range.end;
            tensors.push(tensor);
            range
        };
        let mut add_role = |role: Role, purpose: Purpose| add(name(role), role.shape(arch), purpose);
        let embedding = if whole { add_role(Role::Embed, Purpose::Embedding) } else { 0..0 };
        let mut blocks = Vec::new();
        for layer in layers.clone() {
            let mut places = Vec::new();
            for part in PARTS.into_iter().filter(|part| part.is_in(arch)) {
                let kind = Kind::ALL.into_iter().find(|kind| kind.part() == part);
                let purpose = kind.map_or(Purpose::Norm, |kind| Purpose::Linear(layer, kind));
                places.push((part, add_role(Role::Layer(layer, part), purpose)));
            }
            let find = |part| places.iter().find(|(other, _)| *other == part).map(|(_, range)| range.clone());
            let place = |part| find(part).unwrap_or_default();
            blocks.push(BlockLayout {
                attn_norm: place(Part::AttnNorm),
                linears: Kind::ALL.map(|kind| {
                    let shape = Role::Layer(layer, kind.part()).shape(arch);
                    MatrixPlace { weights: place(kind.part()).start, rows: shape[0], cols: shape[1], learned: 0 }
                }),
                ffn_norm: place(Part::FfnNorm),
                qk_norms: find(Part::QNorm).zip(find(Part::KNorm)).map(Into::into),
                post_attn_norm: find(Part::PostAttnNorm),
                post_ffn_norm: find(Part::PostFfnNorm),
            });
        }
        let final_norm = if whole { add_role(Role::OutputNorm, Purpose::Norm) } else { 0..0 };
        let head = if arch.tied || !whole { embedding.clone() } else { add_role(Role::Head, Purpose::Head) };
        for (layer, block) in layers.zip(&mut blocks) {
            for (kind, matrix) in Kind::ALL.into_iter().zip(&mut block.linears) {
                for (i, what) in quantizer.method.learned().iter().enumerate() {
                    let count = quantizer.learned_len(matrix.rows, matrix.cols);
                    let name = format!("{}_{what}", name(Role::Layer(layer, kind.part())));
                    let start = add(name, vec![count], Purpose::Learned).start;
                    if i == 0 {
                        matrix.learned = start;
                    }
                }
            }
        }
        let fresh_norm = if arch.norm_plus_one { 0.0 } else { 1.0 };
        Self { tensors, embedding, blocks, final_norm, head, len, fresh_norm }
    }

    /// Fresh parameters: normal with standard deviation 0.02, the linear layers back into the residual stream
    /// 0.02 / sqrt(2 layers) (GPT-2), norms such that they multiply by one. The same seed gives the same parameters.
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`].
    pub fn init(&self, quantizer: &Quantizer, seed: u64, progress: &dyn Progress) -> Result<Vec<f32>> {
        let mut params = vec![0.0f32; self.len];
        let back = 0.02 / (2.0 * self.blocks.len().max(1) as f64).sqrt();
        for (stream, tensor) in self.tensors.iter().enumerate() {
            let out = &mut params[tensor.range()];
            let std = match tensor.purpose {
                Purpose::Norm => {
                    out.fill(self.fresh_norm);
                    continue;
                }
                Purpose::Learned => continue,
                Purpose::Linear(_, Kind::O | Kind::Down) => back,
                _ => 0.02,
            };
            let mut rng = Rng::new(seed, stream as u64);
            for out in out.chunks_mut(PIECE) {
                uninterrupted(progress)?;
                rng.fill_normal(out, std);
            }
        }
        self.init_learned(quantizer, &mut params, progress)?;
        Ok(params)
    }

    /// Sets the learned numbers of the quantizer from the weights.
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`].
    pub fn init_learned(&self, quantizer: &Quantizer, params: &mut [f32], progress: &dyn Progress) -> Result<()> {
        let kinds = quantizer.method.learned().len();
        if kinds == 0 {
            return Ok(());
        }
        for matrix in self.blocks.iter().flat_map(|block| &block.linears) {
            uninterrupted(progress)?;
            let mut learned = vec![0.0; kinds * quantizer.learned_len(matrix.rows, matrix.cols)];
            quantizer.init_learned(matrix.rows, matrix.cols, matrix.slice(params), &mut learned);
            params[matrix.learned..][..learned.len()].copy_from_slice(&learned);
        }
        Ok(())
    }
}
