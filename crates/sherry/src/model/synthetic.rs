//! Models with random weights: for tests and for measuring speed and memory at a given shape without a download.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use sherry_kernels::format::TensorType;
use sherry_kernels::{Bytes, Pool, SplitMix64};

use super::names::{Naming, Part, Role};
use super::{Activation, ArchConfig, Family, Model, QkNorm, Rope, RopeLayout, RopeScaling, TensorMap, Weights};
use crate::io::safetensors::Writer;
use crate::io::{TensorInfo, TensorSource};
use crate::{Error, NoProgress, Result};

/// Tensors in memory.
#[derive(Clone, Debug)]
pub struct MemorySource {
    path: PathBuf,
    tensors: Vec<TensorInfo>,
    data: HashMap<String, Bytes>,
}

impl MemorySource {
    /// An empty source that calls itself `path` in messages.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), tensors: Vec::new(), data: HashMap::new() }
    }

    /// Adds a tensor, or replaces the one of that name.
    pub fn insert(&mut self, name: &str, ty: TensorType, shape: &[usize], bytes: Bytes) {
        let info = TensorInfo { name: name.to_owned(), ty, shape: shape.to_vec(), bytes: bytes.len() };
        if self.data.insert(name.to_owned(), bytes).is_some() {
            self.tensors.retain(|t| t.name != name);
        }
        self.tensors.push(info);
    }

    /// Adds an f32 tensor, or replaces the one of that name.
    pub fn insert_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.insert(name, TensorType::F32, shape, bytes.into());
    }

    /// Writes the tensors to the safetensors file `path`.
    ///
    /// # Errors
    /// As those of [`Writer`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut writer = Writer::create(path, &self.tensors, &BTreeMap::new())?;
        for info in &self.tensors {
            writer.write(&info.name, &self.data(&info.name)?)?;
        }
        writer.finish()
    }

    /// Removes a tensor.
    pub fn remove(&mut self, name: &str) {
        self.data.remove(name);
        self.tensors.retain(|t| t.name != name);
    }
}

impl TensorSource for MemorySource {
    fn path(&self) -> &Path {
        &self.path
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }

    fn data(&self, name: &str) -> Result<Bytes> {
        let missing = || Error::malformed(&self.path, format!("tensor '{name}'"), "missing");
        self.data.get(name).cloned().ok_or_else(missing)
    }

    fn release(&self, _: &str) {}
}

/// A tiny configuration with every peculiarity of `family`: grouped queries, its norms, windows shorter than a test
/// prompt.
pub fn tiny(family: Family) -> ArchConfig {
    let gemma = family == Family::Gemma3;
    let bitnet = family == Family::BitNet;
    let head_dim = if matches!(family, Family::Llama | Family::MiniCpm) { 8 } else { 16 };
    ArchConfig {
        family,
        vocab: 61,
        hidden: 32,
        ffn: 56,
        layers: if gemma { 3 } else { 2 },
        heads: 4,
        kv_heads: 2,
        head_dim,
        context: 64,
        norm_eps: 1e-5,
        norm_plus_one: gemma,
        post_norms: gemma,
        sub_norms: bitnet,
        input_norms: None,
        qk_norm: match family {
            Family::Llama | Family::BitNet | Family::MiniCpm => None,
            Family::Qwen3 | Family::Gemma3 => Some(QkNorm::BeforeRope),
            Family::HunyuanDense => Some(QkNorm::AfterRope),
        },
        qkv_bias: false,
        o_bias: false,
        rope: Rope {
            theta: 10_000.0,
            local_theta: gemma.then_some(100.0),
            scaling: RopeScaling::None,
            layout: RopeLayout::Halves,
        },
        activation: match family {
            Family::Gemma3 => Activation::GeluTanh,
            Family::BitNet => Activation::ReluSquared,
            _ => Activation::Silu,
        },
        embed_scale: match family {
            Family::Gemma3 => 32f32.sqrt(),
            Family::MiniCpm => 1.5,
            _ => 1.0,
        },
        residual_scale: if family == Family::MiniCpm { 0.75 } else { 1.0 },
        logit_divisor: if family == Family::MiniCpm { 0.5 } else { 1.0 },
        attn_scale: if gemma { 0.3 } else { 1.0 / (head_dim as f32).sqrt() },
        window: gemma.then_some(5),
        window_pattern: if gemma { 3 } else { 0 },
        tied: family != Family::Llama,
        int8_per_token: bitnet,
    }
}

/// [`tiny`] as a GGUF file sees a family: norms stored with 1 added, LLaMA interleaved.
#[cfg(test)]
pub(crate) fn gguf_like(family: Family) -> ArchConfig {
    let mut config = tiny(family);
    config.norm_plus_one = false;
    config.attn_scale = 1.0 / (config.head_dim as f32).sqrt();
    if matches!(family, Family::Llama | Family::MiniCpm) {
        config.rope.layout = RopeLayout::Interleaved;
    }
    config
}

/// The published shapes that [`shape`] knows, and `tiny` for tests.
pub const SHAPES: [&str; 7] =
    ["llama-3.2-1b", "llama-3.2-3b", "llama-3-8b", "smollm2-135m", "bitnet-b1.58-2b", "bonsai-1.7b", "tiny"];

/// The configuration called `name`, one of [`SHAPES`].
pub fn shape(name: &str) -> Option<ArchConfig> {
    let llama3 = |hidden, ffn, layers, heads, head_dim, factor| ArchConfig {
        vocab: 128_256,
        hidden,
        ffn,
        layers,
        heads,
        kv_heads: 8,
        head_dim,
        context: 131_072,
        rope: Rope {
            theta: 500_000.0,
            local_theta: None,
            scaling: RopeScaling::Llama3 {
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192,
            },
            layout: RopeLayout::Halves,
        },
        attn_scale: 1.0 / (head_dim as f32).sqrt(),
        tied: true,
        ..tiny(Family::Llama)
    };
    Some(match name {
        "llama-3.2-1b" => llama3(2048, 8192, 16, 32, 64, 32.0),
        "llama-3.2-3b" => llama3(3072, 8192, 28, 24, 128, 32.0),
        "llama-3-8b" => ArchConfig {
            context: 8192,
            tied: false,
            rope: Rope { theta: 500_000.0, ..tiny(Family::Llama).rope },
            ..llama3(4096, 14_336, 32, 32, 128, 8.0)
        },
        "smollm2-135m" => ArchConfig {
            vocab: 49_152,
            hidden: 576,
            ffn: 1536,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            context: 8192,
            rope: Rope { theta: 100_000.0, ..tiny(Family::Llama).rope },
            attn_scale: 0.125,
            tied: true,
            ..tiny(Family::Llama)
        },
        "bitnet-b1.58-2b" => ArchConfig {
            vocab: 128_256,
            hidden: 2560,
            ffn: 6912,
            layers: 30,
            heads: 20,
            kv_heads: 5,
            head_dim: 128,
            context: 4096,
            rope: Rope { theta: 500_000.0, ..tiny(Family::BitNet).rope },
            attn_scale: 1.0 / 128f32.sqrt(),
            tied: true,
            ..tiny(Family::BitNet)
        },
        // Those of Qwen3-1.7B.
        "bonsai-1.7b" => ArchConfig {
            vocab: 151_669,
            hidden: 2048,
            ffn: 6144,
            layers: 28,
            heads: 16,
            kv_heads: 8,
            head_dim: 128,
            context: 32_768,
            rope: Rope { theta: 1_000_000.0, ..tiny(Family::Qwen3).rope },
            attn_scale: 1.0 / 128f32.sqrt(),
            tied: true,
            ..tiny(Family::Qwen3)
        },
        // Every axis a multiple of 256, so that every format can hold it.
        "tiny" => ArchConfig {
            vocab: 512,
            hidden: 256,
            ffn: 512,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            context: 4096,
            attn_scale: 0.125,
            tied: true,
            ..tiny(Family::Llama)
        },
        _ => return None,
    })
}

/// A source with every tensor `config` asks for, f32, under the names of `naming`: matrices uniform with the variance
/// that keeps activations at unit scale, norms around 1 (around 0 where the model adds 1), biases small. The same seed
/// gives the same bytes on every machine.
pub fn source(config: &ArchConfig, naming: Naming, seed: u64) -> MemorySource {
    let mut random = SplitMix64(seed);
    let mut source = MemorySource::new("synthetic");
    for role in Role::all(config) {
        let Some(name) = role.name(config.family, naming) else { continue };
        let shape = role.shape(config);
        let (center, spread) = match role {
            Role::Embed | Role::Head => (0.0, 1.0),
            Role::Layer(_, part) if part.is_linear() => (0.0, (3.0 / shape[1] as f32).sqrt()),
            Role::Layer(_, Part::QBias | Part::KBias | Part::VBias | Part::OBias) => (0.0, 0.3),
            Role::Layer(_, part) if part.is_input_norm() => (1.0, 0.3),
            _ if config.norm_plus_one => (0.0, 0.3),
            _ => (1.0, 0.3),
        };
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| center + spread * (2.0 * random.uniform_f32() - 1.0)).collect();
        source.insert_f32(&name, &shape, &values);
    }
    source
}

/// A model with the weights of [`source`], ready to run.
///
/// # Errors
/// [`Error::OutOfMemory`] for a configuration too large.
pub fn model(config: &ArchConfig, seed: u64) -> Result<Model> {
    let source = source(config, Naming::HuggingFace, seed);
    let tensors = TensorMap::new(&source, config, Naming::HuggingFace, None)?;
    let weights = Weights::load(&source, &tensors, config, &Pool::new(1), &NoProgress)?;
    Ok(Model { config: config.clone(), weights })
}
