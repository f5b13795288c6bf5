//! The parameters: one flat vector of f32 latent weights, and what lies where in it.

use std::ops::Range;

use sherry::model::ArchConfig;
use sherry::model::names::{Naming, Part, Role};

use crate::methods::{Matrix, Quantizer};
use crate::rng::Rng;

/// The projections of a block.
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

    const fn path(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    fn shape(self, arch: &ArchConfig) -> [usize; 2] {
        let (q, kv) = (arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim);
        match self {
            Self::Q => [q, arch.hidden],
            Self::K | Self::V => [kv, arch.hidden],
            Self::O => [arch.hidden, q],
            Self::Gate | Self::Up => [arch.ffn, arch.hidden],
            Self::Down => [arch.hidden, arch.ffn],
        }
    }
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Token embedding (and head, when tied).
    Embedding,
    /// Weight of a norm.
    Norm,
    /// Quantized projection of a block.
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

/// Offsets of one block.
#[derive(Clone, Debug)]
pub struct Block {
    /// Norm before attention.
    pub attn_norm: Range<usize>,
    /// Projections in the order of [`Kind::ALL`].
    pub linears: [Matrix; 7],
    /// Norm before the feed-forward.
    pub ffn_norm: Range<usize>,
    /// Norms of query and key heads, where the architecture has them.
    pub qk_norms: Option<[Range<usize>; 2]>,
}

/// Where everything lies.
#[derive(Clone, Debug)]
pub struct Layout {
    /// All tensors in order.
    pub tensors: Vec<Tensor>,
    /// Embedding table.
    pub embedding: Range<usize>,
    /// Blocks.
    pub blocks: Vec<Block>,
    /// Last norm.
    pub final_norm: Range<usize>,
    /// Head; the embedding when tied.
    pub head: Range<usize>,
    /// Parameters in all.
    pub len: usize,
}

impl Layout {
    /// The layout of a model. Projections that share an input follow each other, so that they are one matrix.
    pub fn new(arch: &ArchConfig, quantizer: &Quantizer) -> Self {
        let mut tensors: Vec<Tensor> = Vec::new();
        let mut len = 0;
        let mut add = |name: String, shape: &[usize], purpose: Purpose| {
            let tensor = Tensor { name, shape: shape.to_vec(), offset: len, purpose };
            let range = tensor.range();
            len = range.end;
            tensors.push(tensor);
            range
        };
        let table = [arch.vocab, arch.hidden];
        let embedding = add("model.embed_tokens.weight".into(), &table, Purpose::Embedding);
        let mut blocks = Vec::new();
        for layer in 0..arch.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let mut matrices = Vec::new();
            let attn_norm = add(name("input_layernorm"), &[arch.hidden], Purpose::Norm);
            let (mut ffn_norm, mut qk_norms) = (0..0, None);
            for kind in Kind::ALL {
                if kind == Kind::O && arch.qk_norm.is_some() {
                    // The one part whose name depends on the family.
                    let norm = |part: Part, usual: &str| {
                        Role::Layer(layer, part).name(arch.family, Naming::HuggingFace).unwrap_or_else(|| name(usual))
                    };
                    qk_norms = Some([
                        add(norm(Part::QNorm, "self_attn.q_norm"), &[arch.head_dim], Purpose::Norm),
                        add(norm(Part::KNorm, "self_attn.k_norm"), &[arch.head_dim], Purpose::Norm),
                    ]);
                }
                if kind == Kind::Gate {
                    ffn_norm = add(name("post_attention_layernorm"), &[arch.hidden], Purpose::Norm);
                }
                let [rows, cols] = kind.shape(arch);
                let weights = add(name(kind.path()), &[rows, cols], Purpose::Linear(layer, kind)).start;
                matrices.push(Matrix { weights, rows, cols, learned: 0 });
            }
            if let Ok(linears) = matrices.try_into() {
                blocks.push(Block { attn_norm, linears, ffn_norm, qk_norms });
            }
        }
        let final_norm = add("model.norm.weight".into(), &[arch.hidden], Purpose::Norm);
        let head = if arch.tied { embedding.clone() } else { add("lm_head.weight".into(), &table, Purpose::Head) };
        for (layer, block) in blocks.iter_mut().enumerate() {
            for (kind, matrix) in Kind::ALL.into_iter().zip(&mut block.linears) {
                for (i, what) in quantizer.method.learned().iter().enumerate() {
                    let count = quantizer.learned_len(matrix.rows, matrix.cols);
                    let name = format!("model.layers.{layer}.{}.weight_{what}", kind.path());
                    let start = add(name, &[count], Purpose::Learned).start;
                    if i == 0 {
                        matrix.learned = start;
                    }
                }
            }
        }
        Self { tensors, embedding, blocks, final_norm, head, len }
    }

    /// Fresh parameters: normal with standard deviation 0.02, the projections back into the residual stream
    /// 0.02 / sqrt(2 layers) (GPT-2), norms one. The same seed gives the same parameters.
    pub fn init(&self, quantizer: &Quantizer, seed: u64) -> Vec<f32> {
        let mut params = vec![0.0f32; self.len];
        let back = 0.02 / (2.0 * self.blocks.len().max(1) as f64).sqrt();
        for (stream, tensor) in self.tensors.iter().enumerate() {
            let out = &mut params[tensor.range()];
            let std = match tensor.purpose {
                Purpose::Norm => {
                    out.fill(1.0);
                    continue;
                }
                Purpose::Learned => continue,
                Purpose::Linear(_, Kind::O | Kind::Down) => back,
                _ => 0.02,
            };
            Rng::new(seed, stream as u64).fill_normal(out, std);
        }
        self.init_learned(quantizer, &mut params);
        params
    }

    /// Sets the learned numbers of the quantizer from the weights.
    pub fn init_learned(&self, quantizer: &Quantizer, params: &mut [f32]) {
        let kinds = quantizer.method.learned().len();
        if kinds == 0 {
            return;
        }
        for matrix in self.blocks.iter().flat_map(|block| &block.linears) {
            let mut learned = vec![0.0; kinds * quantizer.learned_len(matrix.rows, matrix.cols)];
            quantizer.init_learned(matrix.rows, matrix.cols, matrix.slice(params), &mut learned);
            params[matrix.learned..][..learned.len()].copy_from_slice(&learned);
        }
    }
}
