//! What distinguishes one decoder from another, as data.

use std::path::Path;

use crate::{Error, Result};

/// Model families with known tensor names and metadata keys. All run through the same decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// LLaMA 1/2/3/3.1/3.2, SmolLM2 and everything shaped like them.
    Llama,
    /// Qwen3 dense.
    Qwen3,
    /// Hunyuan dense (Hy-MT translation models).
    HunyuanDense,
    /// Gemma 3, text only.
    Gemma3,
    /// BitNet b1.58: ternary weights, norms inside the block before its two output projections.
    BitNet,
    /// MiniCPM 1, 2 and 4 (BitCPM): a LLaMA with constant factors on embedding, residual stream and logits.
    MiniCpm,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Llama, Self::Qwen3, Self::HunyuanDense, Self::Gemma3, Self::BitNet, Self::MiniCpm];
}

/// Where the normalisation of query and key heads sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Before the rotation (Qwen3, Gemma 3).
    BeforeRope,
    /// After the rotation (Hunyuan).
    AfterRope,
}

/// Which components of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Component `i` with `i + head_dim/2` (safetensors world).
    Halves,
    /// Component `2i` with `2i + 1` (GGUF files of the llama architecture store Q and K rows permuted for it).
    Interleaved,
}

/// Frequency scaling for contexts longer than the trained one.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// LLaMA 3.1: low frequencies divided by `factor`, high kept, a ramp between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Wavelengths longer than `original_context / low` are divided.
        low_freq_factor: f32,
        /// Wavelengths shorter than `original_context / high` are kept.
        high_freq_factor: f32,
        /// Trained context.
        original_context: usize,
    },
    /// YaRN (arXiv 2309.00071): pairs that turn often within the trained context are kept, those that hardly turn divided by
    /// `factor`, a ramp between; cosines and sines are multiplied by `magnitude`.
    Yarn {
        /// The divisor of low frequencies.
        factor: f32,
        /// Trained context.
        original_context: usize,
        /// Pairs that turn more often than this are kept.
        beta_fast: f32,
        /// Pairs that turn less often than this are divided.
        beta_slow: f32,
        /// Multiplies cosines and sines.
        magnitude: f32,
    },
    /// LongRoPE (arXiv 2402.13753): a divisor per pair, one set for runs within the trained context, another for longer
    /// ones; cosines and sines are multiplied by `magnitude`.
    LongRope {
        /// Divisors while a run has at most `original_context` positions, one per rotated pair.
        short: Vec<f32>,
        /// Divisors of longer runs.
        long: Vec<f32>,
        /// Trained context.
        original_context: usize,
        /// Multiplies cosines and sines.
        magnitude: f32,
    },
    /// One divisor per rotated pair, read from the `rope_freqs` tensor of a GGUF file.
    Factors(Vec<f32>),
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// Base used by sliding-window layers, where it differs (Gemma 3).
    pub local_theta: Option<f32>,
    /// Scaling of the frequencies (global layers only where `local_theta` is set).
    pub scaling: RopeScaling,
    /// Pairing of components.
    pub layout: RopeLayout,
}

/// The gate's non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// tanh approximation of GELU (Gemma).
    GeluTanh,
    /// max(x, 0)^2 (BitNet).
    ReluSquared,
}

/// Everything the decoder needs to know about a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchConfig {
    /// Family, for tensor names and file keys only; the decoder never looks at it.
    pub family: Family,
    /// Tokens in the vocabulary (rows of embedding and head).
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward intermediate.
    pub ffn: usize,
    /// Decoder blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Components per head.
    pub head_dim: usize,
    /// Longest context the model was made for.
    pub context: usize,
    /// Epsilon of every RMSNorm.
    pub norm_eps: f32,
    /// RMSNorm multiplies by `1 + w` instead of `w` (Gemma safetensors; GGUF files store `1 + w`).
    pub norm_plus_one: bool,
    /// Extra norms after attention and after the feed-forward (Gemma 3).
    pub post_norms: bool,
    /// Norms of what goes into the output projections of attention and feed-forward (BitNet).
    pub sub_norms: bool,
    /// Every linear layer of a block has a norm of its own for its input; this is their epsilon (`use_rms_norm` of
    /// transformers' BitNet).
    pub input_norms: Option<f32>,
    /// Normalisation of query and key heads.
    pub qk_norm: Option<QkNorm>,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the attention output.
    pub o_bias: bool,
    /// Rotary embedding.
    pub rope: Rope,
    /// The gate's non-linearity.
    pub activation: Activation,
    /// Factor on embeddings (Gemma: sqrt(hidden)).
    pub embed_scale: f32,
    /// Factor on what attention and feed-forward add to the residual stream (MiniCPM: scale_depth / sqrt(layers)).
    pub residual_scale: f32,
    /// What the input of the head is divided by (MiniCPM: hidden / dim_model_base).
    pub logit_divisor: f32,
    /// Factor on attention scores, normally 1/sqrt(head_dim).
    pub attn_scale: f32,
    /// Sliding window in positions, for layers where `is_sliding` says so.
    pub window: Option<usize>,
    /// Every `n`-th layer is global, the others use the window (Gemma 3: 6). 0: no layer slides; 1: none slides.
    pub window_pattern: usize,
    /// The head is the embedding.
    pub tied: bool,
    /// Linear layers were trained on inputs rounded to int8 with one scale per token (BitNet), and get them so.
    pub int8_per_token: bool,
}

impl ArchConfig {
    /// Whether layer `layer` attends only within the window.
    pub fn is_sliding(&self, layer: usize) -> bool {
        self.window.is_some() && self.window_pattern > 1 && !(layer + 1).is_multiple_of(self.window_pattern)
    }

    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Parameters of the model: every linear, norm and bias once, a tied head not again.
    pub fn parameters(&self) -> u64 {
        super::names::Role::all(self).map(|role| role.elements(self)).sum()
    }

    /// Checks every hyper-parameter against bounds no real model exceeds, so that no later size computation can
    /// overflow and no loop can run away. `file` is named in the message; fields are named as in `config.json`.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the field, its value and what is allowed.
    pub fn validate(&self, file: &Path) -> Result<()> {
        self.validate_named(file, |field| format!("field '{field}'"))
    }

    /// [`validate`](Self::validate) with `place` turning a `config.json` field into what the file at hand calls it.
    pub(super) fn validate_named(&self, file: &Path, place: impl Fn(&'static str) -> String) -> Result<()> {
        let bad = |field, problem: String| Err(Error::malformed(file, place(field), problem));
        let sizes = [
            ("vocab_size", self.vocab, MAX_VOCAB),
            ("hidden_size", self.hidden, MAX_WIDTH),
            ("intermediate_size", self.ffn, MAX_WIDTH),
            ("num_hidden_layers", self.layers, MAX_LAYERS),
            ("num_attention_heads", self.heads, MAX_HEADS),
            ("num_key_value_heads", self.kv_heads, MAX_HEADS),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("max_position_embeddings", self.context, MAX_CONTEXT),
        ];
        for (field, value, max) in sizes {
            if value == 0 || value > max {
                return bad(field, format!("must be between 1 and {max}, found {value}"));
            }
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad("head_dim", format!("must be even for rotary embedding, found {}", self.head_dim));
        }
        if self.kv_heads > self.heads || !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv_heads) = (self.heads, self.kv_heads);
            return bad("num_key_value_heads", format!("must divide the {heads} query heads, found {kv_heads}"));
        }
        if self.q_dim() > MAX_WIDTH {
            let (heads, head_dim) = (self.heads, self.head_dim);
            return bad("num_attention_heads", format!("{heads} heads of {head_dim} are wider than {MAX_WIDTH}"));
        }
        if !self.norm_eps.is_finite() || self.norm_eps < 0.0 || self.norm_eps >= 1.0 {
            return bad("rms_norm_eps", format!("must be between 0 and 1, found {}", self.norm_eps));
        }
        if self.input_norms.is_some_and(|eps| !eps.is_finite() || !(0.0..1.0).contains(&eps)) {
            return bad("quantization_config.rms_norm_eps", "must be between 0 and 1".to_owned());
        }
        let scales = [
            ("scale_depth", self.residual_scale),
            ("dim_model_base", self.logit_divisor),
            ("rope_theta", self.rope.theta),
            ("rope_local_base_freq", self.rope.local_theta.unwrap_or(1.0)),
            ("query_pre_attn_scalar", self.attn_scale),
            ("embedding_multiplier", self.embed_scale),
        ];
        for (field, value) in scales {
            if !value.is_finite() || value <= 0.0 {
                return bad(field, format!("must be a positive number, found {value}"));
            }
        }
        if self.window == Some(0) {
            return bad("sliding_window", "must be at least 1, found 0".to_owned());
        }
        let positive = |value: f32| value.is_finite() && value > 0.0;
        let check_context = |context: usize| match context {
            1..=MAX_CONTEXT => Ok(()),
            _ => bad("rope_scaling", format!("original context must be 1 to {MAX_CONTEXT}, found {context}")),
        };
        match &self.rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => {
                if !positive(*factor) {
                    return bad("rope_scaling", format!("factor must be a positive number, found {factor}"));
                }
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                if !positive(*factor) || !positive(*low_freq_factor) || !positive(*high_freq_factor) {
                    return bad("rope_scaling", "factors must be positive numbers".to_owned());
                }
                if low_freq_factor >= high_freq_factor {
                    return bad("rope_scaling", "low_freq_factor must be below high_freq_factor".to_owned());
                }
                check_context(*original_context)?;
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, magnitude } => {
                if ![factor, beta_fast, beta_slow, magnitude].into_iter().all(|value| positive(*value)) {
                    return bad("rope_scaling", "factors must be positive numbers".to_owned());
                }
                if beta_fast < beta_slow {
                    return bad("rope_scaling", "beta_fast must not be below beta_slow".to_owned());
                }
                check_context(*original_context)?;
            }
            RopeScaling::LongRope { short, long, original_context, magnitude } => {
                let pairs = self.head_dim / 2;
                if [short, long].into_iter().any(|list| list.len() != pairs || !list.iter().all(|&f| positive(f))) {
                    let problem = format!("short_factor and long_factor must be {pairs} positive numbers each");
                    return bad("rope_scaling", problem);
                }
                if !positive(*magnitude) {
                    return bad("rope_scaling", format!("attention_factor must be positive, found {magnitude}"));
                }
                check_context(*original_context)?;
            }
            RopeScaling::Factors(factors) => {
                if factors.len() != self.head_dim / 2 || !factors.iter().all(|&f| positive(f)) {
                    let problem = format!("needs {} positive frequency factors", self.head_dim / 2);
                    return bad("rope_scaling", problem);
                }
            }
        }
        Ok(())
    }
}

/// Every how many layers one has no window, if they are that regular: 1 when none has one, more than there are layers
/// when all have.
pub(super) fn window_pattern(layers: usize, sliding: impl Fn(usize) -> bool) -> Option<usize> {
    let pattern = (0..layers).find(|&layer| !sliding(layer)).map_or(layers + 1, |layer| layer + 1);
    (0..layers).all(|layer| sliding(layer) != (layer + 1).is_multiple_of(pattern)).then_some(pattern)
}

// Bounds well above every published decoder (2026: 262,400 tokens, width 53,248, 126 layers, 128 heads, 10 M context)
// and low enough that every product of a few of them fits in 64 bits.
const MAX_VOCAB: usize = 1 << 24;
const MAX_WIDTH: usize = 1 << 20;
const MAX_LAYERS: usize = 4096;
const MAX_HEADS: usize = 4096;
pub(super) const MAX_HEAD_DIM: usize = 4096;
const MAX_CONTEXT: usize = 1 << 28;
