//! GGUF metadata to and from [`ArchConfig`].

use std::path::Path;

use sherry_kernels::Matrix;
use sherry_kernels::format::TensorType;

use super::config::window_pattern;
use super::keys::{check_metadata, instead_of};
use super::names::{Naming, Part, Role};
use super::rope::{ROPE_FREQS, ROPE_LONG, ROPE_SHORT};
use super::{Activation, ArchConfig, Family, QkNorm, Rope, RopeLayout, RopeScaling};
use crate::io::TensorSource;
use crate::io::gguf::{Array, Metadata, Value};
use crate::io::json::shown;
use crate::{Error, Result};

/// Architectures read and written, as `general.architecture` names them.
const ARCHITECTURES: [(&str, Family); 8] = [
    ("llama", Family::Llama),
    ("qwen3", Family::Qwen3),
    ("hunyuan-dense", Family::HunyuanDense),
    ("gemma3", Family::Gemma3),
    ("bitnet", Family::BitNet),
    ("bitnet-b1.58", Family::BitNet),
    ("bitnet-25", Family::BitNet),
    ("minicpm", Family::MiniCpm),
];

/// Epsilon of the norms that single linear layers have for their input, where it is not the model's; see FORMAT.md.
const INPUT_NORM_KEY: &str = "sherry.input_norm_epsilon";
/// Base of the sliding-window layers of every Gemma 3; files need not say it.
const GEMMA3_LOCAL_THETA: f32 = 10_000.0;
/// Every how many layers of a Gemma 3 one is global; files need not say it.
const GEMMA3_WINDOW_PATTERN: usize = 6;
/// The one Gemma 3 whose attention is scaled by hidden / heads instead of the head's width, known by its layers.
const GEMMA3_27B_LAYERS: usize = 62;

/// The configuration that the metadata and the tensors of a GGUF file describe.
///
/// # Errors
/// [`Error::Unsupported`] for architectures and features this program does not run (naming those it does);
/// [`Error::Malformed`] for missing, mistyped or absurd keys.
pub fn parse(meta: &Metadata, tensors: &dyn TensorSource) -> Result<ArchConfig> {
    let path = tensors.path();
    let name = meta.get_str("general.architecture")?;
    let Some((arch, family)) = ARCHITECTURES.into_iter().find(|(known, _)| *known == name) else {
        let known = ARCHITECTURES.map(|(name, _)| name).join(", ");
        let instead = instead_of(name);
        let what = format!("architecture '{}' is not supported{instead}; known are {known}", shown(name));
        return Err(Error::unsupported(path, what));
    };
    check_metadata(meta, path, arch)?;
    if let Some((key, _)) = meta.entries().iter().find(|(key, _)| key.starts_with("prism.hadamard.")) {
        let what =
            format!("key '{}': weights stored rotated are not supported; take the file without rotation", shown(key));
        return Err(Error::unsupported(path, what));
    }
    let keys = Keys { meta, path, arch };
    let gemma = family == Family::Gemma3;
    let has = |role: Role| role.name(family, Naming::Gguf).is_some_and(|name| tensors.find(&name).is_some());

    let hidden = keys.usize("embedding_length")?;
    let heads = keys.usize("attention.head_count")?;
    let layers = keys.usize("block_count")?;
    let head_dim = match keys.find_usize("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => match hidden.checked_rem(heads) {
            Some(0) => hidden / heads,
            _ => {
                let problem = format!("embedding_length {hidden} is not a multiple of {heads} heads");
                return Err(keys.error("attention.head_count", problem));
            }
        },
    };
    for other in [
        "attention.value_length",
        "attention.key_length_swa",
        "attention.value_length_swa",
        "rope.dimension_count",
        "rope.dimension_count_swa",
    ] {
        if let Some(n) = keys.find_usize(other)?
            && n != head_dim
        {
            return Err(keys.unsupported(other, format!("{n} differs from the {head_dim} components of a head")));
        }
    }
    if let Some(n) = keys.find_usize("embedding_length_out")?.filter(|n| *n != hidden) {
        return Err(keys.unsupported("embedding_length_out", format!("{n} differs from embedding_length {hidden}")));
    }
    let vocab = match keys.find_usize("vocab_size")? {
        Some(vocab) => vocab,
        None => vocab_of_tensor(tensors)?,
    };
    let window = window(&keys, gemma, layers)?;
    // Files made before there were these keys mean constants of one model, which readers take differently.
    let minicpm_factor = |key: &str| match (family, keys.find_f32(key)?) {
        (Family::MiniCpm, Some(factor)) if factor.is_finite() && factor > 0.0 => Ok(factor),
        (Family::MiniCpm, Some(factor)) => Err(keys.error(key, format!("must be a positive number, found {factor}"))),
        (Family::MiniCpm, None) => Err(keys.error(key, "missing; a newer conversion of the model has it")),
        _ => Ok(1.0),
    };
    let config = ArchConfig {
        family,
        vocab,
        hidden,
        ffn: keys.usize("feed_forward_length")?,
        layers,
        heads,
        kv_heads: keys.find_usize("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        context: keys.usize("context_length")?,
        norm_eps: keys.f32("attention.layer_norm_rms_epsilon")?,
        norm_plus_one: false, // converters add the 1 to the stored weights
        post_norms: gemma,
        sub_norms: family == Family::BitNet,
        input_norms: match has(Role::Layer(0, Part::QInputNorm)) {
            true => Some(meta.find_f32(INPUT_NORM_KEY)?.unwrap_or(keys.f32("attention.layer_norm_rms_epsilon")?)),
            false => None,
        },
        qk_norm: match family {
            Family::Llama | Family::BitNet | Family::MiniCpm => None,
            Family::HunyuanDense => has(Role::Layer(0, Part::QNorm)).then_some(QkNorm::AfterRope),
            Family::Qwen3 | Family::Gemma3 => Some(QkNorm::BeforeRope),
        },
        qkv_bias: has(Role::Layer(0, Part::QBias)),
        o_bias: has(Role::Layer(0, Part::OBias)),
        rope: Rope {
            theta: theta(&keys, family, head_dim)?,
            local_theta: match window {
                Some(_) => Some(
                    keys.find_first_f32(["rope.freq_base_swa", "rope.local.freq_base"])?.unwrap_or(GEMMA3_LOCAL_THETA),
                ),
                None => None,
            },
            scaling: scaling(&keys, tensors, head_dim)?,
            layout: match family {
                Family::Llama | Family::MiniCpm => RopeLayout::Interleaved,
                _ => RopeLayout::Halves,
            },
        },
        activation: activation(&keys, family, layers, hidden)?,
        embed_scale: match family {
            Family::Gemma3 => (hidden as f32).sqrt(),
            _ => minicpm_factor("embedding_scale")?,
        },
        residual_scale: minicpm_factor("residual_scale")?,
        logit_divisor: minicpm_factor("logit_scale")?,
        attn_scale: attn_scale(family, layers, hidden, heads, head_dim),
        window: window.map(|(window, _)| window),
        window_pattern: window.map_or(0, |(_, pattern)| pattern),
        tied: !has(Role::Head),
        int8_per_token: family == Family::BitNet || {
            let q = Role::Layer(0, Part::Q).name(family, Naming::Gguf).unwrap_or_default();
            tensors.find(&q).is_some_and(|info| info.ty == TensorType::I2_S)
        },
    };
    for (key, here) in [("attention.scale", config.attn_scale), ("embedding_scale", config.embed_scale)] {
        // 0 means "not set".
        if let Some(scale) = keys.find_f32(key)?
            && scale != 0.0
            && (scale - here).abs() > 1e-5 * here
        {
            return Err(keys.unsupported(key, format!("{scale} is not supported, only {here}")));
        }
    }
    config.validate_named(path, |field| format!("key '{arch}.{}'", key_of(field)))?;
    Ok(config)
}

/// Typed access to the keys of one architecture.
struct Keys<'a> {
    meta: &'a Metadata,
    path: &'a Path,
    arch: &'static str,
}

impl Keys<'_> {
    fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::malformed(self.path, format!("key '{}.{key}'", self.arch), problem)
    }

    fn unsupported(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::unsupported(self.path, format!("key '{}.{key}': {problem}", self.arch))
    }

    /// A size; a list with one entry per layer counts as one when all are alike.
    fn find_usize(&self, key: &str) -> Result<Option<usize>> {
        let name = format!("{}.{key}", self.arch);
        let value = match self.meta.find(&name) {
            Some(Value::Array(_)) => {
                let list = self.meta.find_i64s(&name)?.unwrap_or_default();
                match list.first() {
                    Some(first) if list.iter().all(|n| n == first) => {
                        Some(u64::try_from(*first).map_err(|_| self.error(key, format!("{first} is negative")))?)
                    }
                    _ => return Err(self.unsupported(key, "differs from layer to layer, which is not supported")),
                }
            }
            _ => self.meta.find_u64(&name)?,
        };
        value.map(|n| usize::try_from(n).map_err(|_| self.error(key, format!("{n} is too large")))).transpose()
    }

    fn usize(&self, key: &str) -> Result<usize> {
        self.find_usize(key)?.ok_or_else(|| self.error(key, "missing"))
    }

    fn find_f32(&self, key: &str) -> Result<Option<f32>> {
        self.meta.find_f32(&format!("{}.{key}", self.arch))
    }

    /// The value of the first of these spellings that is there.
    fn find_first_f32<const N: usize>(&self, spellings: [&str; N]) -> Result<Option<f32>> {
        for key in spellings {
            if let Some(value) = self.find_f32(key)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    fn f32(&self, key: &str) -> Result<f32> {
        self.find_f32(key)?.ok_or_else(|| self.error(key, "missing"))
    }
}

fn vocab_of_tensor(tensors: &dyn TensorSource) -> Result<usize> {
    let name = "token_embd.weight";
    let missing = || Error::malformed(tensors.path(), format!("tensor '{name}'"), "missing");
    let info = tensors.find(name).ok_or_else(missing)?;
    Ok(info.shape.first().copied().unwrap_or(0))
}

/// What queries are multiplied by. No key says it: readers derive it from the sizes.
fn attn_scale(family: Family, layers: usize, hidden: usize, heads: usize, head_dim: usize) -> f32 {
    let width = match family == Family::Gemma3 && layers == GEMMA3_27B_LAYERS {
        true => hidden as f32 / heads as f32,
        false => head_dim as f32,
    };
    1.0 / width.sqrt()
}

/// By how much the scale of the queries of `config` exceeds the one that readers of GGUF derive. The weights of the norm of
/// the queries are multiplied by it, which comes to the same.
pub fn query_scale(config: &ArchConfig) -> f32 {
    let derived = attn_scale(config.family, config.layers, config.hidden, config.heads, config.head_dim);
    if config.attn_scale == derived { 1.0 } else { config.attn_scale / derived }
}

/// The gate's non-linearity.
fn activation(keys: &Keys<'_>, family: Family, layers: usize, hidden: usize) -> Result<Activation> {
    const KEY: &str = "hidden_activation";
    let known: &[(&str, Activation)] = match family {
        Family::Gemma3 => &[("gelu_pytorch_tanh", Activation::GeluTanh)],
        Family::BitNet => &[("relu2", Activation::ReluSquared), ("silu", Activation::Silu)],
        _ => &[("silu", Activation::Silu), ("swish", Activation::Silu)],
    };
    let name = keys.meta.find_str(&format!("{}.{KEY}", keys.arch))?;
    match (name, family) {
        (Some(name), _) => known.iter().find(|(known, _)| *known == name).map(|(_, found)| *found).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            keys.unsupported(KEY, format!("'{}' is not supported, only {}", shown(name), names.join(", ")))
        }),
        (None, Family::BitNet) => match (keys.arch, layers, hidden) {
            // Files made before there was this key; both meanings are in use, so only published models are taken for known.
            ("bitnet-25", ..) | (_, 30, 2560) => Ok(Activation::ReluSquared),
            (_, 24, 1536 | 2048) | (_, 26, 3200) => Ok(Activation::Silu),
            _ => {
                let problem = "missing, and some models of this architecture use 'relu2', others 'silu'; a newer conversion of \
                               the model says which";
                Err(keys.unsupported(KEY, problem))
            }
        },
        (None, _) => Ok(known[0].1),
    }
}

/// Base of the rotation. Files of Hunyuan hold either the base that its `alpha` leads to, or both numbers.
fn theta(keys: &Keys<'_>, family: Family, head_dim: usize) -> Result<f32> {
    let theta = keys.find_first_f32(["rope.freq_base", "rope.global.freq_base"])?.unwrap_or(10_000.0);
    match keys.find_f32("rope.scaling.alpha")? {
        None | Some(0.0) => Ok(theta),
        Some(alpha) if family == Family::HunyuanDense && head_dim > 2 => {
            let d = head_dim as f64;
            Ok((f64::from(theta) * f64::from(alpha).powf(d / (d - 2.0))) as f32)
        }
        Some(alpha) => Err(keys.unsupported("rope.scaling.alpha", format!("{alpha} is supported for Hunyuan only"))),
    }
}

/// The window and every how many layers one does without it; `None` where no layer has one.
fn window(keys: &Keys<'_>, gemma: bool, layers: usize) -> Result<Option<(usize, usize)>> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let window = keys.find_usize("attention.sliding_window")?.filter(|window| *window > 0);
    let Some(window) = window else { return Ok(None) };
    if !gemma {
        // A window that the context does not outgrow changes nothing.
        return match keys.usize("context_length")? <= window {
            true => Ok(None),
            false => Err(keys.unsupported("attention.sliding_window", "supported for Gemma 3 only")),
        };
    }
    let name = format!("{}.{PATTERN}", keys.arch);
    let pattern = match keys.meta.find(&name) {
        Some(Value::Array(Array::Bool(sliding))) => {
            let pattern = window_pattern(layers, |layer| sliding.get(layer) == Some(&true));
            let problem = "only a layer without window after every n with one is supported";
            pattern.filter(|_| sliding.len() == layers).ok_or_else(|| keys.unsupported(PATTERN, problem))?
        }
        _ => keys.find_usize(PATTERN)?.unwrap_or(GEMMA3_WINDOW_PATTERN),
    };
    Ok((pattern > 1).then_some((window, pattern)))
}

fn scaling(keys: &Keys<'_>, tensors: &dyn TensorSource, head_dim: usize) -> Result<RopeScaling> {
    let kind = keys.meta.find_str(&format!("{}.rope.scaling.type", keys.arch))?;
    let factor = keys.find_first_f32(["rope.scaling.factor", "rope.scale_linear"])?;
    // As in llama.cpp: without a type a factor divides the frequencies, and 0 means none.
    let linear = match (kind, factor) {
        (Some("yarn"), factor) => yarn(keys, factor.filter(|factor| *factor != 0.0).unwrap_or(1.0))?,
        (Some("longrope"), None | Some(0.0 | 1.0)) => return longrope(keys, tensors, head_dim),
        (Some("longrope"), Some(factor)) => {
            let problem = format!("{factor} beside longrope is not supported, only 1");
            return Err(keys.unsupported("rope.scaling.factor", problem));
        }
        (None | Some("linear"), Some(factor)) if factor != 0.0 && factor != 1.0 => RopeScaling::Linear { factor },
        (None | Some("none" | "linear"), _) => RopeScaling::None,
        (Some(other), _) => {
            let problem = format!("'{}' is not supported; known are none, linear, yarn, longrope", shown(other));
            return Err(keys.unsupported("rope.scaling.type", problem));
        }
    };
    for other in [ROPE_LONG, ROPE_SHORT] {
        if tensors.find(other).is_some() {
            let what =
                format!("tensor '{other}': supported with the key '{}.rope.scaling.type' 'longrope' only", keys.arch);
            return Err(Error::unsupported(tensors.path(), what));
        }
    }
    match divisors(tensors, ROPE_FREQS, head_dim)? {
        None => Ok(linear),
        Some(factors) if linear == RopeScaling::None => Ok(RopeScaling::Factors(factors)),
        Some(_) => {
            Err(keys.unsupported("rope.scaling.factor", format!("not supported beside the tensor '{ROPE_FREQS}'")))
        }
    }
}

/// LongRoPE: two tensors of divisors.
fn longrope(keys: &Keys<'_>, tensors: &dyn TensorSource, head_dim: usize) -> Result<RopeScaling> {
    if tensors.find(ROPE_FREQS).is_some() {
        let what = format!("tensor '{ROPE_FREQS}': not supported beside the scaling 'longrope'");
        return Err(Error::unsupported(tensors.path(), what));
    }
    let factors = |name: &str| -> Result<Vec<f32>> {
        let missing = || Error::malformed(tensors.path(), format!("tensor '{name}'"), "missing");
        divisors(tensors, name, head_dim)?.ok_or_else(missing)
    };
    let original_context = match keys.find_usize("rope.scaling.original_context_length")? {
        Some(context) => context,
        None => keys.usize("context_length")?,
    };
    Ok(RopeScaling::LongRope {
        short: factors(ROPE_SHORT)?,
        long: factors(ROPE_LONG)?,
        original_context,
        magnitude: keys.find_f32("rope.scaling.attn_factor")?.unwrap_or(1.0),
    })
}

/// The divisors in tensor `name`, one per rotated pair, if it is there.
fn divisors(tensors: &dyn TensorSource, name: &str, head_dim: usize) -> Result<Option<Vec<f32>>> {
    let Some(info) = tensors.find(name) else { return Ok(None) };
    let bad = |problem: String| Error::malformed(tensors.path(), format!("tensor '{name}'"), problem);
    if info.shape != [head_dim / 2] || !info.ty.is_float() {
        let (count, ty, shape) = (head_dim / 2, info.ty, &info.shape);
        return Err(bad(format!("expected {count} floating-point values, found {ty} of shape {shape:?}")));
    }
    let row = Matrix::from_rows(info.ty, 1, head_dim / 2, tensors.data(name)?);
    let row = row.map_err(|_| bad(format!("its {} bytes are not those of its shape", info.bytes)))?;
    let mut factors = vec![0.0; head_dim / 2];
    row.row_f32(0, &mut factors);
    Ok(Some(factors))
}

/// YaRN, as llama.cpp computes it from the keys.
fn yarn(keys: &Keys<'_>, factor: f32) -> Result<RopeScaling> {
    let original_context = match keys.find_usize("rope.scaling.original_context_length")? {
        Some(context) => context,
        None => keys.usize("context_length")?,
    };
    let number = |key: &str, default: f32| Ok::<f32, Error>(keys.find_f32(key)?.unwrap_or(default));
    let given =
        f64::from(number("rope.scaling.attn_factor", 1.0)?) * f64::from(number("rope.scaling.yarn_attn_factor", 1.0)?);
    Ok(RopeScaling::Yarn {
        factor,
        original_context,
        beta_fast: number("rope.scaling.yarn_beta_fast", 32.0)?,
        beta_slow: number("rope.scaling.yarn_beta_slow", 1.0)?,
        magnitude: (given * yarn_magnitude(factor)) as f32,
    })
}

/// What YaRN multiplies cosines and sines by where nothing else is said.
fn yarn_magnitude(factor: f32) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * f64::from(factor).ln() + 1.0 }
}

/// What GGUF calls a field of `config.json`.
fn key_of(field: &'static str) -> &'static str {
    match field {
        "hidden_size" => "embedding_length",
        "intermediate_size" => "feed_forward_length",
        "num_hidden_layers" => "block_count",
        "num_attention_heads" => "attention.head_count",
        "num_key_value_heads" => "attention.head_count_kv",
        "head_dim" => "attention.key_length",
        "max_position_embeddings" => "context_length",
        "rms_norm_eps" => "attention.layer_norm_rms_epsilon",
        "rope_theta" => "rope.freq_base",
        "rope_local_base_freq" => "rope.freq_base_swa",
        "sliding_window" => "attention.sliding_window",
        "rope_scaling" => "rope.scaling",
        other => other,
    }
}

/// The metadata of a model of this configuration, without tokenizer and file type. [`parse`] reads it back.
///
/// Scalings other than linear and YaRN go into tensors ([`super::rope_factors`] has their values); the norms of a Gemma must
/// be stored with 1 added, the Q and K rows of a LLaMA or MiniCPM permuted for interleaved rotation.
pub fn write(config: &ArchConfig) -> Vec<(String, Value)> {
    let family = config.family;
    let arch = ARCHITECTURES.into_iter().find(|(_, known)| *known == family).map_or("llama", |(name, _)| name);
    let mut entries = vec![("general.architecture".to_owned(), Value::String(arch.to_owned()))];
    let mut put = |key: &str, value: Value| entries.push((format!("{arch}.{key}"), value));
    let sizes = [
        ("context_length", config.context),
        ("embedding_length", config.hidden),
        ("block_count", config.layers),
        ("feed_forward_length", config.ffn),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
        ("vocab_size", config.vocab),
    ];
    for (key, size) in sizes {
        put(key, number(size));
    }
    put("attention.layer_norm_rms_epsilon", Value::F32(config.norm_eps));
    put("rope.freq_base", Value::F32(config.rope.theta));
    if let RopeScaling::Linear { factor } = config.rope.scaling {
        put("rope.scaling.type", Value::String("linear".to_owned()));
        put("rope.scaling.factor", Value::F32(factor));
    }
    if family == Family::BitNet {
        let name = if config.activation == Activation::ReluSquared { "relu2" } else { "silu" };
        put("hidden_activation", Value::String(name.to_owned()));
    }
    if let RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, magnitude } = config.rope.scaling {
        put("rope.scaling.type", Value::String("yarn".to_owned()));
        put("rope.scaling.factor", Value::F32(factor));
        put("rope.scaling.original_context_length", number(original_context));
        put("rope.scaling.yarn_beta_fast", Value::F32(beta_fast));
        put("rope.scaling.yarn_beta_slow", Value::F32(beta_slow));
        let given = (f64::from(magnitude) / yarn_magnitude(factor)) as f32;
        if given != 1.0 {
            put("rope.scaling.attn_factor", Value::F32(given));
        }
    }
    if let RopeScaling::LongRope { original_context, magnitude, .. } = config.rope.scaling {
        put("rope.scaling.type", Value::String("longrope".to_owned()));
        put("rope.scaling.original_context_length", number(original_context));
        put("rope.scaling.attn_factor", Value::F32(magnitude));
    }
    if family == Family::MiniCpm {
        put("embedding_scale", Value::F32(config.embed_scale));
        put("residual_scale", Value::F32(config.residual_scale));
        put("logit_scale", Value::F32(config.logit_divisor));
    }
    // Without windows a file says nothing: 0 and 1 mean different things to different readers.
    if let (Family::Gemma3, Some(window)) = (family, config.window) {
        put("attention.sliding_window", number(window));
        put("attention.sliding_window_pattern", number(config.window_pattern));
        put("rope.freq_base_swa", Value::F32(config.rope.local_theta.unwrap_or(GEMMA3_LOCAL_THETA)));
    }
    if let Some(eps) = config.input_norms.filter(|eps| *eps != config.norm_eps) {
        entries.push((INPUT_NORM_KEY.to_owned(), Value::F32(eps)));
    }
    entries
}

/// Sizes are written as u32, the type every reader expects; a validated configuration always fits.
fn number(size: usize) -> Value {
    u32::try_from(size).map_or(Value::U64(size as u64), Value::U32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::ReadMode;
    use crate::io::gguf::{GgufFile, GgufWriter};
    use crate::model::synthetic::{self, gguf_like};

    /// The error, or the configuration, of a file with these keys and the tensors of `config`.
    fn read(config: &ArchConfig, entries: Vec<(String, Value)>) -> Result<ArchConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        let source = synthetic::source(config, Naming::Gguf, 1);
        let mut writer = GgufWriter::create(&path, entries, source.tensors().to_vec(), Default::default()).unwrap();
        for info in source.tensors() {
            writer.write(&info.name, &source.data(&info.name).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        let file = GgufFile::open(&path, ReadMode::Read).unwrap();
        parse(file.metadata(), &file)
    }

    #[test]
    fn every_family_survives_writing_and_reading() {
        for family in Family::ALL {
            let mut config = gguf_like(family);
            assert_eq!(read(&config, write(&config)).unwrap(), config);
            config.input_norms = Some(1e-6);
            config.rope.scaling = RopeScaling::Linear { factor: 8.0 };
            config.qkv_bias = true;
            config.o_bias = true;
            config.tied = !config.tied;
            assert_eq!(read(&config, write(&config)).unwrap(), config);
        }
    }

    #[test]
    fn bitnet_files_say_or_imply_their_activation() {
        let mut config = gguf_like(Family::BitNet);
        let with = |config: &ArchConfig, arch: &str, activation: Option<&str>| {
            let mut entries = write(config);
            entries.retain(|(key, _)| !key.ends_with("hidden_activation"));
            entries.iter_mut().for_each(|(key, _)| *key = key.replace("bitnet.", &format!("{arch}.")));
            entries[0].1 = Value::String(arch.to_owned());
            let key = format!("{arch}.hidden_activation");
            entries.extend(activation.map(|name| (key, Value::String(name.to_owned()))));
            read(config, entries)
        };
        for arch in ["bitnet", "bitnet-b1.58", "bitnet-25"] {
            for (name, activation) in [("relu2", Activation::ReluSquared), ("silu", Activation::Silu)] {
                assert_eq!(with(&config, arch, Some(name)).unwrap().activation, activation);
            }
            let message = with(&config, arch, Some("gelu")).unwrap_err().to_string();
            assert!(message.contains(&format!("'{arch}.hidden_activation'")) && message.contains("relu2, silu"));
        }
        assert_eq!(with(&config, "bitnet-25", None).unwrap().activation, Activation::ReluSquared);
        for arch in ["bitnet", "bitnet-b1.58"] {
            let message = with(&config, arch, None).unwrap_err().to_string();
            assert!(message.contains(&format!("'{arch}.hidden_activation': missing")), "{message}");
        }
        // The published shapes, as narrow as they can be here.
        (config.layers, config.hidden) = (24, 1536);
        assert_eq!(with(&config, "bitnet", None).unwrap().activation, Activation::Silu);
    }

    #[test]
    fn sizes_of_any_integer_type_are_read() {
        let config = gguf_like(Family::Llama);
        let mut entries = write(&config);
        for (_, value) in &mut entries {
            if let Value::U32(n) = *value {
                *value = Value::U64(n.into());
            }
        }
        entries.retain(|(key, _)| !key.ends_with("vocab_size") && !key.ends_with("key_length"));
        assert_eq!(read(&config, entries).unwrap(), config);
    }

    #[test]
    fn absurd_and_missing_values_name_their_key() {
        let config = gguf_like(Family::Llama);
        let cases = [
            ("block_count", Some(Value::U32(1_000_000_000))),
            ("block_count", Some(Value::U64(u64::MAX))),
            ("block_count", None),
            ("block_count", Some(Value::String("2".to_owned()))),
            ("attention.head_count", Some(Value::U32(0))),
            ("attention.head_count", None),
            ("attention.head_count_kv", Some(Value::U32(8))),
            ("attention.head_count_kv", Some(Value::U32(3))),
            ("attention.key_length", Some(Value::U32(7))),
            ("context_length", Some(Value::U32(0))),
            ("context_length", None),
            ("embedding_length", Some(Value::I32(-1))),
            ("rope.freq_base", Some(Value::F32(0.0))),
            ("rope.freq_base", Some(Value::F32(f32::NAN))),
            ("rope.freq_base", Some(Value::F32(-10_000.0))),
            ("attention.layer_norm_rms_epsilon", Some(Value::F32(f32::NAN))),
            ("attention.layer_norm_rms_epsilon", None),
            ("rope.scaling.type", Some(Value::String("su".to_owned()))),
            ("attention.value_length", Some(Value::U32(16))),
        ];
        for (key, value) in cases {
            let key = format!("llama.{key}");
            let mut entries = write(&config);
            entries.retain(|(k, _)| *k != key);
            if key == "llama.attention.key_length" {
                entries.retain(|(k, _)| !k.ends_with("value_length") && !k.ends_with("dimension_count"));
            }
            entries.extend(value.clone().map(|value| (key.clone(), value)));
            let message = read(&config, entries).unwrap_err().to_string();
            assert!(message.contains("tiny.gguf: ") && message.contains(&format!("'{key}'")), "{value:?}: {message}");
        }
        let message = read(&config, vec![("general.architecture".into(), Value::String("rwkv".into()))]);
        let message = message.unwrap_err().to_string();
        assert!(message.contains("'rwkv'") && message.contains("llama, qwen3, hunyuan-dense, gemma3"), "{message}");
    }
}
