//! What distinguishes one decoder from another, as data.

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
    /// Normalisation of query and key heads.
    pub qk_norm: Option<QkNorm>,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// Rotary embedding.
    pub rope: Rope,
    /// The gate's non-linearity.
    pub activation: Activation,
    /// Factor on embeddings (Gemma: sqrt(hidden)).
    pub embed_scale: f32,
    /// Factor on attention scores, normally 1/sqrt(head_dim).
    pub attn_scale: f32,
    /// Sliding window in positions, for layers where `is_sliding` says so.
    pub window: Option<usize>,
    /// Every `n`-th layer is global, the others use the window (Gemma 3: 6). 0: no layer slides; 1: none slides.
    pub window_pattern: usize,
    /// The head is the embedding.
    pub tied: bool,
}

impl ArchConfig {
    /// Whether layer `layer` attends only within the window.
    pub fn is_sliding(&self, layer: usize) -> bool {
        self.window.is_some() && self.window_pattern > 1 && !(layer + 1).is_multiple_of(self.window_pattern)
    }
}
