//! `config.json` of a Hugging Face checkpoint to and from [`ArchConfig`].
//!
//! Absent fields mean what they mean in transformers, except that the sizes of a model must be there. Fields that change
//! numbers and are not understood are refused: see `model/keys.rs`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::keys::{HF_FIXED, HF_LONG_ROPE, HF_MAGNITUDE, HF_MINICPM, HF_ROPE_FIXED, check_fields, instead_of};
use super::{Activation, ArchConfig, Family, QkNorm, Rope, RopeLayout, RopeScaling};
use crate::io::json::Fields;
use crate::{Error, Result};

/// Architectures read, as `config.json` names them.
const ARCHITECTURES: [(&str, Family); 8] = [
    ("LlamaForCausalLM", Family::Llama),
    ("Qwen3ForCausalLM", Family::Qwen3),
    ("HunYuanDenseV1ForCausalLM", Family::HunyuanDense),
    ("Gemma3ForCausalLM", Family::Gemma3),
    ("Gemma3ForConditionalGeneration", Family::Gemma3),
    ("BitNetForCausalLM", Family::BitNet),
    (FIRST_BITNET, Family::BitNet),
    ("MiniCPMForCausalLM", Family::MiniCpm),
];

/// The class of the first BitNet models (1bitLLM): a LLaMA with two norms more, whose defaults it has.
pub(super) const FIRST_BITNET: &str = "BitnetForCausalLM";

/// The configuration that the parsed `config.json` at `path` describes.
///
/// # Errors
/// [`Error::Unsupported`] for architectures and features this program does not run (naming those it does);
/// [`Error::Malformed`] for missing, mistyped or absurd fields.
pub fn parse(path: &Path, value: &Value) -> Result<ArchConfig> {
    let fields = Fields::new(path, value)?;
    let (class, family) = family(&fields)?;
    // Multi-modal checkpoints keep the language model's fields one level down.
    let outer = fields;
    let text = outer.opt_fields("text_config")?;
    let fields = text.as_ref().unwrap_or(&outer);
    check_fields(fields, HF_FIXED)?;
    if family != Family::MiniCpm {
        check_fields(fields, HF_MINICPM)?;
    }
    let mut config = match family {
        Family::Gemma3 => gemma3(fields)?,
        _ => llama_like(fields, family, class)?,
    };
    if let (Some(_), Some(tied)) = (&text, outer.opt_bool("tie_word_embeddings")?) {
        if fields.opt_bool("tie_word_embeddings")?.is_some_and(|inner| inner != tied) {
            return Err(outer.error("tie_word_embeddings", "differs from that of text_config"));
        }
        config.tied = tied;
    }
    if let Some(quantization) = outer.opt_fields("quantization_config")? {
        config.int8_per_token |= quantization.opt_str("quant_method")? == Some("bitnet");
        if quantization.opt_bool("use_rms_norm")? == Some(true) {
            config.input_norms = Some(quantization.opt_f32("rms_norm_eps")?.unwrap_or(1e-6));
        }
    }
    config.validate(path)?;
    Ok(config)
}

/// The first of the architectures, as `config.json` and as this program calls it.
fn family(fields: &Fields<'_>) -> Result<(&'static str, Family)> {
    let known = || ARCHITECTURES.map(|(name, _)| name).join(", ");
    let names = fields.opt_array("architectures")?.unwrap_or_default();
    let Some(first) = names.first() else {
        return Err(fields.error("architectures", format!("missing; known are {}", known())));
    };
    let Some(name) = first.as_str() else {
        return Err(fields.error("architectures", "expected a list of strings"));
    };
    ARCHITECTURES.into_iter().find(|(known, _)| *known == name).ok_or_else(|| {
        let (name, instead) = (crate::io::json::shown(name), instead_of(name));
        let what = format!("architecture '{name}' is not supported{instead}; known are {}", known());
        Error::unsupported(fields.path(), what)
    })
}

/// LLaMA, Qwen3, Hunyuan, BitNet and MiniCPM: the same block but for some norms, the activation and factors.
fn llama_like(fields: &Fields<'_>, family: Family, class: &str) -> Result<ArchConfig> {
    let bitnet = family == Family::BitNet && class != FIRST_BITNET;
    let minicpm = family == Family::MiniCpm;
    let hidden = fields.usize("hidden_size")?;
    let heads = fields.usize("num_attention_heads")?;
    let head_dim = match fields.opt_usize("head_dim")? {
        Some(head_dim) => head_dim,
        None => match fields.opt_usize("attention_head_dim")? {
            Some(head_dim) if family == Family::HunyuanDense => head_dim,
            _ if family == Family::Qwen3 => 128,
            _ => divided(fields, hidden, heads)?,
        },
    };
    if minicpm && head_dim != divided(fields, hidden, heads)? {
        let what =
            format!("field 'head_dim': {head_dim} is not read by the model's own code, which takes {}", hidden / heads);
        return Err(Error::unsupported(fields.path(), what));
    }
    let relu2 = match fields.opt_str("hidden_act")? {
        Some("relu2") => family == Family::BitNet,
        None => bitnet,
        _ => false,
    };
    if !relu2 {
        activation(
            fields,
            "hidden_act",
            if family == Family::BitNet { &["silu", "relu2"] } else { &["silu", "swish"] },
        )?;
    }
    let layers = fields.usize("num_hidden_layers")?;
    if family == Family::Qwen3 {
        refuse_windows(fields, layers)?;
    }
    let bias = fields.opt_bool("attention_bias")?.unwrap_or(false);
    let mut rope = rope(fields, None, if bitnet { 500_000.0 } else { 10_000.0 })?;
    if minicpm {
        check_minicpm_rope(fields, &rope.scaling)?;
    }
    let minicpm_factor = |name| Ok::<f64, Error>(fields.opt_f64(name)?.filter(|_| minicpm).unwrap_or(1.0));
    if let Some(alpha) = rope.alpha.filter(|_| family == Family::HunyuanDense) {
        // HunYuanDenseV1RotaryEmbedding: the "dynamic" scaling of this family is a fixed change of base.
        let d = head_dim as f64;
        rope.theta = (f64::from(rope.theta) * alpha.powf(d / (d - 2.0))) as f32;
    } else if rope.alpha.is_some() {
        return Err(unknown_scaling(fields, "dynamic"));
    }
    Ok(ArchConfig {
        family,
        vocab: fields.usize("vocab_size")?,
        hidden,
        ffn: fields.usize("intermediate_size")?,
        layers,
        heads,
        kv_heads: fields.opt_usize("num_key_value_heads")?.unwrap_or(match family {
            // Absent means transformers' default; null as many as query heads.
            Family::Qwen3 if !fields.entries().any(|(name, _)| name == "num_key_value_heads") => 32,
            Family::BitNet if bitnet && !fields.entries().any(|(name, _)| name == "num_key_value_heads") => 5,
            _ => heads,
        }),
        head_dim,
        context: fields.opt_usize("max_position_embeddings")?.unwrap_or(match family {
            Family::Qwen3 => 32_768,
            _ => 2048,
        }),
        norm_eps: fields.opt_f32("rms_norm_eps")?.unwrap_or(match family {
            Family::HunyuanDense => 1e-5,
            Family::BitNet if bitnet => 1e-5,
            _ => 1e-6,
        }),
        norm_plus_one: false,
        post_norms: false,
        sub_norms: family == Family::BitNet,
        input_norms: None,
        qk_norm: match family {
            Family::Qwen3 => Some(QkNorm::BeforeRope),
            Family::HunyuanDense if fields.opt_bool("use_qk_norm")?.unwrap_or(true) => Some(QkNorm::AfterRope),
            _ => None,
        },
        qkv_bias: bias,
        o_bias: bias,
        rope: Rope { theta: rope.theta, local_theta: None, scaling: rope.scaling, layout: RopeLayout::Halves },
        activation: if relu2 { Activation::ReluSquared } else { Activation::Silu },
        embed_scale: minicpm_factor("scale_emb")? as f32,
        // As transformers' code of these models has it: absent factors are 1.
        residual_scale: if minicpm { (minicpm_factor("scale_depth")? / (layers as f64).sqrt()) as f32 } else { 1.0 },
        logit_divisor: if minicpm { (hidden as f64 / minicpm_factor("dim_model_base")?) as f32 } else { 1.0 },
        attn_scale: 1.0 / (head_dim as f32).sqrt(),
        window: None,
        window_pattern: 0,
        tied: fields.opt_bool("tie_word_embeddings")?.unwrap_or(minicpm),
        int8_per_token: family == Family::BitNet,
    })
}

fn gemma3(fields: &Fields<'_>) -> Result<ArchConfig> {
    let hidden = fields.usize("hidden_size")?;
    let head_dim = fields.opt_usize("head_dim")?.unwrap_or(256);
    activation(fields, "hidden_activation", &["gelu_pytorch_tanh"])?;
    if fields.opt_bool("attention_bias")?.unwrap_or(false) {
        return Err(Error::unsupported(fields.path(), "field 'attention_bias': not supported for Gemma 3"));
    }
    let global = rope(fields, Some("full_attention"), 1_000_000.0)?;
    let local = match rope(fields, Some("sliding_attention"), 10_000.0)? {
        local if local.nested && (local.scaling != RopeScaling::None || local.alpha.is_some()) => {
            let what =
                "field 'rope_parameters.sliding_attention': a scaling of the layers with a window is not supported";
            return Err(Error::unsupported(fields.path(), what));
        }
        local if local.nested => local.theta,
        _ => fields.opt_f32("rope_local_base_freq")?.unwrap_or(10_000.0),
    };
    if global.alpha.is_some() {
        return Err(unknown_scaling(fields, "dynamic"));
    }
    let layers = fields.usize("num_hidden_layers")?;
    let window = match window_pattern(fields, layers)? {
        // No layer has a window, and none turns by the other base.
        1 => None,
        pattern => Some((fields.opt_usize("sliding_window")?.unwrap_or(4096), pattern)),
    };
    let query = fields.opt_f32("query_pre_attn_scalar")?.unwrap_or(256.0);
    if !query.is_finite() || query <= 0.0 {
        return Err(fields.error("query_pre_attn_scalar", format!("must be a positive number, found {query}")));
    }
    Ok(ArchConfig {
        family: Family::Gemma3,
        vocab: fields.opt_usize("vocab_size")?.unwrap_or(262_208),
        hidden,
        ffn: fields.usize("intermediate_size")?,
        layers,
        heads: fields.opt_usize("num_attention_heads")?.unwrap_or(8),
        kv_heads: fields.opt_usize("num_key_value_heads")?.unwrap_or(4),
        head_dim,
        context: fields.opt_usize("max_position_embeddings")?.unwrap_or(131_072),
        norm_eps: fields.opt_f32("rms_norm_eps")?.unwrap_or(1e-6),
        norm_plus_one: true,
        post_norms: true,
        sub_norms: false,
        input_norms: None,
        qk_norm: Some(QkNorm::BeforeRope),
        qkv_bias: false,
        o_bias: false,
        rope: Rope {
            theta: global.theta,
            local_theta: window.map(|_| local),
            scaling: global.scaling,
            layout: RopeLayout::Halves,
        },
        activation: Activation::GeluTanh,
        embed_scale: (hidden as f32).sqrt(),
        residual_scale: 1.0,
        logit_divisor: 1.0,
        attn_scale: 1.0 / query.sqrt(),
        window: window.map(|(window, _)| window),
        window_pattern: window.map_or(0, |(_, pattern)| pattern),
        tied: fields.opt_bool("tie_word_embeddings")?.unwrap_or(true),
        int8_per_token: false,
    })
}

/// Qwen3 lets the layers from `max_window_layers` on see a window only, where it is told to.
fn refuse_windows(fields: &Fields<'_>, layers: usize) -> Result<()> {
    let windows = fields.opt_bool("use_sliding_window")?.unwrap_or(false)
        && fields.opt_usize("max_window_layers")?.unwrap_or(28) < layers
        && fields.value("sliding_window").is_some();
    let field = match fields.opt_array("layer_types")? {
        Some(types) if types.iter().any(|kind| kind.as_str() != Some("full_attention")) => "layer_types",
        None if windows => "use_sliding_window",
        _ => return Ok(()),
    };
    let what = format!("field '{field}': sliding windows are supported for Gemma 3 only");
    Err(Error::unsupported(fields.path(), what))
}

/// Every how many layers one attends to everything; from the pattern or from the list of layer types.
fn window_pattern(fields: &Fields<'_>, layers: usize) -> Result<usize> {
    let Some(types) = fields.opt_array("layer_types")? else {
        const DEFAULT: usize = 6;
        let field = "_sliding_window_pattern";
        return match (fields.opt_usize("sliding_window_pattern")?, fields.opt_usize(field)?) {
            (Some(0), _) => Err(fields.error("sliding_window_pattern", "must be at least 1, found 0")),
            (Some(pattern), _) => Ok(pattern),
            // transformers writes this name beside layer_types and does not read it.
            (None, Some(other)) if other != DEFAULT => {
                let what =
                    format!("field '{field}': {other} without layer_types is not read by transformers, which takes 6");
                Err(Error::unsupported(fields.path(), what))
            }
            (None, _) => Ok(DEFAULT),
        };
    };
    if types.len() != layers {
        return Err(fields.error("layer_types", format!("expected {layers} entries, found {}", types.len())));
    }
    let known = |kind: &Value| matches!(kind.as_str(), Some("full_attention" | "sliding_attention"));
    let pattern = super::config::window_pattern(layers, |i| types[i].as_str() == Some("sliding_attention"));
    pattern.filter(|_| types.iter().all(known)).ok_or_else(|| {
        let what =
            "field 'layer_types': only a full_attention layer after every n sliding_attention layers is supported";
        Error::unsupported(fields.path(), what)
    })
}

/// Rotary fields as written, before the family has its say.
struct RopeFields {
    theta: f32,
    scaling: RopeScaling,
    /// `alpha` of a "dynamic" scaling.
    alpha: Option<f64>,
    /// Whether the parameters stood under the name of the layer type asked for.
    nested: bool,
}

/// Reads `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5, there possibly one object
/// per layer type).
fn rope(fields: &Fields<'_>, layer_type: Option<&str>, default_theta: f32) -> Result<RopeFields> {
    let mut theta = fields.opt_f32("rope_theta")?.unwrap_or(default_theta);
    let mut parameters = match (fields.opt_fields("rope_parameters")?, fields.opt_fields("rope_scaling")?) {
        (Some(_), Some(_)) if fields.value("rope_parameters") != fields.value("rope_scaling") => {
            let problem = "given beside rope_scaling, and they differ; only one of them can hold";
            return Err(fields.error("rope_parameters", problem));
        }
        (Some(parameters), _) | (None, Some(parameters)) => Some(parameters),
        (None, None) => None,
    };
    let mut nested = false;
    if let (Some(parameters), None) = (&parameters, layer_type) {
        let kinds = ["full_attention", "sliding_attention"];
        if let Some(kind) = kinds.into_iter().find(|kind| parameters.value(kind).is_some()) {
            let what = format!("field '{}': only Gemma 3 has parameters of its own for it", parameters.full_name(kind));
            return Err(Error::unsupported(fields.path(), what));
        }
    }
    if let (Some(outer), Some(layer_type)) = (&parameters, layer_type)
        && let Some(inner) = outer.opt_fields(layer_type)?
    {
        parameters = Some(inner);
        nested = true;
    }
    let Some(parameters) = parameters else {
        return Ok(RopeFields { theta, scaling: RopeScaling::None, alpha: None, nested });
    };
    check_fields(&parameters, HF_ROPE_FIXED)?;
    theta = parameters.opt_f32("rope_theta")?.unwrap_or(theta);
    let kind = match parameters.opt_str("rope_type")? {
        Some(kind) => kind,
        None => parameters.opt_str("type")?.unwrap_or("default"),
    };
    if kind == "default"
        && let Some(factor) = parameters.opt_f64("factor")?
        && factor != 1.0
    {
        let problem = format!("{factor} without a rope_type that uses it; known are linear and llama3");
        return Err(parameters.error("factor", problem));
    }
    if !matches!(kind, "yarn" | "longrope") {
        check_fields(&parameters, HF_MAGNITUDE)?;
    }
    if kind != "longrope" {
        check_fields(&parameters, HF_LONG_ROPE)?;
    }
    let original_context = || match fields.opt_usize("original_max_position_embeddings")? {
        // Where it stands outside, transformers prefers that.
        Some(outside) => Ok(outside),
        None => match parameters.opt_usize("original_max_position_embeddings")? {
            Some(inside) => Ok(inside),
            None => fields.usize("max_position_embeddings"),
        },
    };
    let mut alpha = None;
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: parameters.f32("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: parameters.f32("factor")?,
            low_freq_factor: parameters.f32("low_freq_factor")?,
            high_freq_factor: parameters.f32("high_freq_factor")?,
            original_context: original_context()?,
        },
        "yarn" => {
            let original_context = original_context()?;
            let factor = match parameters.opt_f32("factor")? {
                Some(factor) => factor,
                None => fields.usize("max_position_embeddings")? as f32 / original_context.max(1) as f32,
            };
            let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * f64::from(factor).ln() + 1.0 };
            let [mscale, all] = ["mscale", "mscale_all_dim"].map(|name| parameters.opt_f64(name));
            let magnitude = match (parameters.opt_f32("attention_factor")?, mscale?, all?) {
                (Some(given), ..) => given,
                // As in transformers, 0 counts as missing.
                (None, Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => (scale(mscale) / scale(all)) as f32,
                _ => scale(1.0) as f32,
            };
            let turns = |name: &str, default: f32| -> Result<f32> {
                Ok(parameters.opt_f32(name)?.filter(|turns| *turns != 0.0).unwrap_or(default))
            };
            RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast: turns("beta_fast", 32.0)?,
                beta_slow: turns("beta_slow", 1.0)?,
                magnitude,
            }
        }
        "longrope" => {
            let original_context = original_context()?;
            let computed = fields.usize("max_position_embeddings")? as f64 / original_context.max(1) as f64;
            let given = parameters.opt_f64("attention_factor")?;
            let factor = match parameters.opt_f64("factor")? {
                // Programs disagree on which of the two holds where they differ.
                Some(factor) if given.is_none() && (factor - computed).abs() > 1e-6 * computed => {
                    let problem = format!(
                        "{factor} is not max_position_embeddings / original_max_position_embeddings, which is {computed}"
                    );
                    return Err(parameters.error("factor", problem));
                }
                _ => computed,
            };
            let magnitude = given.unwrap_or_else(|| longrope_magnitude(factor, original_context));
            let factors = |name: &str| -> Result<Vec<f32>> {
                let list = parameters.opt_array(name)?.ok_or_else(|| parameters.error(name, "missing"))?;
                let number = |value: &Value| value.as_f64().map(|number| number as f32);
                let numbers: Option<Vec<f32>> = list.iter().map(number).collect();
                numbers.ok_or_else(|| parameters.error(name, "expected a list of numbers"))
            };
            RopeScaling::LongRope {
                short: factors("short_factor")?,
                long: factors("long_factor")?,
                original_context,
                magnitude: magnitude as f32,
            }
        }
        "dynamic" => match parameters.opt_f64("alpha")? {
            Some(value) if value > 0.0 => {
                alpha = Some(value);
                RopeScaling::None
            }
            Some(value) => return Err(parameters.error("alpha", format!("must be positive, found {value}"))),
            None => return Err(unknown_scaling(fields, kind)),
        },
        other => return Err(unknown_scaling(fields, other)),
    };
    Ok(RopeFields { theta, scaling, alpha, nested })
}

/// What LongRoPE multiplies cosines and sines by where nothing else is said.
fn longrope_magnitude(factor: f64, original_context: usize) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original_context as f64).ln()).sqrt() }
}

/// MiniCPM's own code reads less of a scaling than transformers does for other models.
fn check_minicpm_rope(fields: &Fields<'_>, scaling: &RopeScaling) -> Result<()> {
    let unsupported = |what: &str| Err(Error::unsupported(fields.path(), format!("field 'rope_scaling': {what}")));
    match scaling {
        RopeScaling::LongRope { original_context, magnitude, .. } => {
            let factor = fields.usize("max_position_embeddings")? as f64 / *original_context as f64;
            match longrope_magnitude(factor, *original_context) as f32 == *magnitude {
                true => Ok(()),
                false => unsupported("the models' own code does not read attention_factor, and computes another one"),
            }
        }
        RopeScaling::None | RopeScaling::Linear { .. } => Ok(()),
        _ => unsupported("models of this class know linear and longrope only"),
    }
}

fn unknown_scaling(fields: &Fields<'_>, kind: &str) -> Error {
    let kind = crate::io::json::shown(kind);
    let known = "default, linear, llama3, yarn, longrope and, for Hunyuan, dynamic with alpha";
    Error::unsupported(
        fields.path(),
        format!("field 'rope_scaling': type '{kind}' is not supported; known are {known}"),
    )
}

fn divided(fields: &Fields<'_>, hidden: usize, heads: usize) -> Result<usize> {
    match hidden.checked_rem(heads) {
        Some(0) => Ok(hidden / heads),
        Some(_) => {
            let problem = format!("hidden_size {hidden} is not a multiple of {heads} heads, and head_dim is not given");
            Err(fields.error("num_attention_heads", problem))
        }
        None => Err(fields.error("num_attention_heads", "must be at least 1, found 0")),
    }
}

fn activation(fields: &Fields<'_>, field: &str, accepted: &[&str]) -> Result<()> {
    match fields.opt_str(field)? {
        Some(name) if !accepted.contains(&name) => {
            let name = crate::io::json::shown(name);
            let what = format!("field '{field}': '{name}' is not supported, only {}", accepted.join(", "));
            Err(Error::unsupported(fields.path(), what))
        }
        _ => Ok(()),
    }
}

/// The `config.json` of a model of this configuration, without tokenizer ids and quantization. [`parse`] reads it back.
///
/// The configuration must be in Hugging Face's terms: rotation in halves, norms and frequencies as safetensors hold
/// them. `None` where that is not so (GGUF's per-pair frequency factors, interleaved rotation).
pub fn write(config: &ArchConfig) -> Option<Value> {
    if config.rope.layout != RopeLayout::Halves {
        return None;
    }
    let (architecture, model_type) = match config.family {
        Family::Llama => ("LlamaForCausalLM", "llama"),
        Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
        Family::HunyuanDense => ("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense"),
        Family::Gemma3 => ("Gemma3ForCausalLM", "gemma3_text"),
        Family::BitNet => ("BitNetForCausalLM", "bitnet"),
        Family::MiniCpm => ("MiniCPMForCausalLM", "minicpm"),
    };
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| {
        map.insert(name.to_owned(), value);
    };
    put("architectures", json!([architecture]));
    put("model_type", json!(model_type));
    put("vocab_size", json!(config.vocab));
    put("hidden_size", json!(config.hidden));
    put("intermediate_size", json!(config.ffn));
    put("num_hidden_layers", json!(config.layers));
    put("num_attention_heads", json!(config.heads));
    put("num_key_value_heads", json!(config.kv_heads));
    put("head_dim", json!(config.head_dim));
    put("max_position_embeddings", json!(config.context));
    put("rms_norm_eps", decimal(config.norm_eps));
    put("rope_theta", decimal(config.rope.theta));
    put("attention_bias", json!(config.qkv_bias));
    put("tie_word_embeddings", json!(config.tied));
    put(
        "rope_scaling",
        match &config.rope.scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": decimal(*factor)}),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
                "rope_type": "llama3",
                "factor": decimal(*factor),
                "low_freq_factor": decimal(*low_freq_factor),
                "high_freq_factor": decimal(*high_freq_factor),
                "original_max_position_embeddings": original_context,
            }),
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, magnitude } => json!({
                "rope_type": "yarn",
                "factor": decimal(*factor),
                "original_max_position_embeddings": original_context,
                "beta_fast": decimal(*beta_fast),
                "beta_slow": decimal(*beta_slow),
                "attention_factor": decimal(*magnitude),
            }),
            RopeScaling::LongRope { short, long, original_context, magnitude } => {
                let list = |factors: &[f32]| Value::Array(factors.iter().copied().map(decimal).collect());
                let mut scaling = json!({
                    "rope_type": "longrope",
                    "short_factor": list(short),
                    "long_factor": list(long),
                    "original_max_position_embeddings": original_context,
                });
                let computed = longrope_magnitude(config.context as f64 / *original_context as f64, *original_context);
                if computed as f32 != *magnitude {
                    if config.family == Family::MiniCpm {
                        return None; // the code of these models does not read it
                    }
                    scaling["attention_factor"] = decimal(*magnitude);
                }
                scaling
            }
            RopeScaling::Factors(_) => return None,
        },
    );
    match config.family {
        Family::Gemma3 => {
            put("hidden_activation", json!("gelu_pytorch_tanh"));
            let query = query_scalar(config.attn_scale);
            // transformers takes no other number than a whole one written as such.
            let whole = query.fract() == 0.0 && query < 1e9;
            put("query_pre_attn_scalar", if whole { json!(query as u64) } else { json!(query) });
            if let (Some(window), Some(theta)) = (config.window, config.rope.local_theta) {
                put("rope_local_base_freq", decimal(theta));
                put("sliding_window", json!(window));
                put("sliding_window_pattern", json!(config.window_pattern));
            } else {
                put("sliding_window_pattern", json!(1));
            }
        }
        Family::HunyuanDense => {
            put("hidden_act", json!("silu"));
            put("use_qk_norm", json!(config.qk_norm.is_some()));
        }
        Family::BitNet => {
            put("hidden_act", json!(if config.activation == Activation::ReluSquared { "relu2" } else { "silu" }));
        }
        Family::MiniCpm => {
            put("hidden_act", json!("silu"));
            let (layers, hidden) = ((config.layers as f64).sqrt(), config.hidden as f64);
            let (residual, divisor) = (config.residual_scale, config.logit_divisor);
            put("scale_emb", decimal(config.embed_scale));
            put("scale_depth", json!(short(f64::from(residual) * layers, |depth| (depth / layers) as f32 == residual)));
            put("dim_model_base", json!(short(hidden / f64::from(divisor), |base| (hidden / base) as f32 == divisor)));
        }
        Family::Llama | Family::Qwen3 => put("hidden_act", json!("silu")),
    }
    Some(Value::Object(map))
}

/// What `query_pre_attn_scalar` must be for this scale: a whole number where one gives it.
fn query_scalar(scale: f32) -> f64 {
    let exact = 1.0 / (f64::from(scale) * f64::from(scale));
    let gives = |query: f64| 1.0 / (query as f32).sqrt() == scale;
    [exact.round(), f64::from(exact as f32)].into_iter().find(|query| gives(*query)).unwrap_or(exact)
}

/// `exact`, or the number of at most six decimals next to it where that `gives` the same.
fn short(exact: f64, gives: impl Fn(f64) -> bool) -> f64 {
    Some((exact * 1e6).round() / 1e6).filter(|rounded| gives(*rounded)).unwrap_or(exact)
}

/// The shortest decimal that reads back as this f32 (and not the long one of its exact value as f64).
fn decimal(value: f32) -> Value {
    json!(value.to_string().parse::<f64>().unwrap_or(f64::from(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::synthetic::tiny;

    fn read(text: &str) -> Result<ArchConfig> {
        let path = Path::new("config.json");
        parse(path, &crate::io::json::parse(path, text.as_bytes())?)
    }

    fn llama() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 2048,
            "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
            "head_dim": 64, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072,
            "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "tie_word_embeddings": true
        })
    }

    fn with(field: &str, value: Value) -> String {
        let mut config = llama();
        config[field] = value;
        config.to_string()
    }

    #[test]
    fn llama_3_2_1b_has_its_published_size() {
        let config = read(&llama().to_string()).unwrap();
        assert_eq!(config.parameters(), 1_235_814_400);
        assert_eq!(config.rope.layout, RopeLayout::Halves);
        assert!(matches!(config.rope.scaling, RopeScaling::Llama3 { original_context: 8192, .. }));
    }

    #[test]
    fn every_family_survives_writing_and_reading() {
        for family in Family::ALL {
            let mut config = tiny(family);
            if family == Family::Gemma3 {
                config.attn_scale = 1.0 / 168f32.sqrt();
            } else if family == Family::MiniCpm {
                let pairs = config.head_dim / 2;
                config.rope.scaling = RopeScaling::LongRope {
                    short: (0..pairs).map(|i| 1.0 + 0.1 * i as f32).collect(),
                    long: (0..pairs).map(|i| 2.0 + 0.3 * i as f32).collect(),
                    original_context: 32,
                    magnitude: longrope_magnitude(2.0, 32) as f32,
                };
                (config.residual_scale, config.logit_divisor) = ((1.4 / 2f64.sqrt()) as f32, 10.0 / 3.0);
            } else {
                config.rope.scaling = RopeScaling::Llama3 {
                    factor: 8.0,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_context: 32,
                };
            }
            assert_eq!(read(&write(&config).unwrap().to_string()).unwrap(), config);
        }
    }

    #[test]
    fn hunyuan_alpha_scales_the_base() {
        let config = read(
            &json!({
                "architectures": ["HunYuanDenseV1ForCausalLM"], "vocab_size": 120818, "hidden_size": 2048,
                "intermediate_size": 6144, "num_hidden_layers": 32, "num_attention_heads": 16,
                "num_key_value_heads": 4, "head_dim": 128, "rope_theta": 10000.0,
                "rope_scaling": {"alpha": 1000.0, "beta_fast": 32, "factor": 1.0, "type": "dynamic"}
            })
            .to_string(),
        )
        .unwrap();
        assert!((config.rope.theta / 11_158_839.9 - 1.0).abs() < 1e-6, "{}", config.rope.theta);
        assert_eq!(config.qk_norm, Some(QkNorm::AfterRope));
        assert_eq!(config.rope.scaling, RopeScaling::None);
    }

    #[test]
    fn gemma3_is_read_flat_nested_and_in_the_new_spelling() {
        let text = json!({
            "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}
        });
        let nested =
            read(&json!({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}).to_string());
        let nested = nested.unwrap();
        assert_eq!((nested.heads, nested.kv_heads, nested.head_dim, nested.vocab), (8, 4, 256, 262_208));
        assert_eq!(nested.rope.scaling, RopeScaling::Linear { factor: 8.0 });
        assert_eq!((nested.rope.theta, nested.rope.local_theta), (1e6, Some(1e4)));
        assert_eq!((nested.window, nested.window_pattern, nested.tied), (Some(1024), 6, true));

        let mut types = vec!["sliding_attention"; 34];
        (5..34).step_by(6).for_each(|i| types[i] = "full_attention");
        let mut flat = text;
        flat["architectures"] = json!(["Gemma3ForCausalLM"]);
        flat["layer_types"] = json!(types);
        flat["rope_scaling"] = Value::Null;
        flat["rope_parameters"] = json!({
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        });
        assert_eq!(read(&flat.to_string()).unwrap(), nested);
        assert!(write(&nested).unwrap()["query_pre_attn_scalar"].is_u64());
        let mut unread = flat.clone();
        (unread["layer_types"], unread["_sliding_window_pattern"]) = (Value::Null, json!(2));
        assert!(read(&unread.to_string()).unwrap_err().to_string().contains("'_sliding_window_pattern'"));
        flat["layer_types"][7] = json!("full_attention");
        assert!(read(&flat.to_string()).unwrap_err().to_string().contains("layer_types"));
    }

    #[test]
    fn absurd_values_name_their_field() {
        let cases = [
            ("num_hidden_layers", json!(1_000_000_000)),
            ("num_hidden_layers", json!(0)),
            ("num_attention_heads", json!(0)),
            ("num_key_value_heads", json!(64)),
            ("num_key_value_heads", json!(5)),
            ("num_key_value_heads", json!(0)),
            ("head_dim", json!(63)),
            ("head_dim", json!(0)),
            ("max_position_embeddings", json!(0)),
            ("rope_theta", json!(0.0)),
            ("rope_theta", json!(-1.0)),
            ("rms_norm_eps", json!(-1e-5)),
            ("rms_norm_eps", json!(1e300)),
            ("vocab_size", json!(u64::MAX)),
            ("vocab_size", json!(-1)),
            ("hidden_size", json!("2048")),
            ("hidden_size", json!(1u64 << 62)),
            ("intermediate_size", Value::Null),
            ("rope_scaling", json!({"rope_type": "linear", "factor": 0.0})),
            ("rope_scaling.factor", Value::Null),
        ];
        for (field, value) in cases {
            let text = match field {
                "rope_scaling.factor" => with("rope_scaling", json!({"rope_type": "linear"})),
                _ => with(field, value.clone()),
            };
            let message = read(&text).unwrap_err().to_string();
            assert!(message.starts_with("config.json: "), "{message}");
            assert!(message.contains(&format!("'{field}'")), "{field} {value}: {message}");
        }
        let message = read(&llama().to_string().replace("500000.0", "1e400")).unwrap_err().to_string();
        assert!(message.contains("rope_theta"), "{message}");
    }

    #[test]
    fn heads_that_do_not_divide_need_head_dim() {
        let mut config = llama();
        config["num_attention_heads"] = json!(24);
        config["head_dim"] = Value::Null;
        assert!(read(&config.to_string()).unwrap_err().to_string().contains("head_dim"));
    }

    #[test]
    fn unknown_architectures_and_features_say_what_is_known() {
        let cases = [
            (with("architectures", json!(["MambaForCausalLM"])), "LlamaForCausalLM"),
            (with("architectures", json!([])), "Qwen3ForCausalLM"),
            (with("architectures", Value::Null), "HunYuanDenseV1ForCausalLM"),
            (with("architectures", json!([7])), "architectures"),
            (with("rope_scaling", json!({"rope_type": "su", "factor": 4.0})), "llama3"),
            (with("rope_scaling", json!({"rope_type": "dynamic", "alpha": 2.0})), "dynamic"),
            (with("hidden_act", json!("relu")), "silu"),
            (with("mlp_bias", json!(true)), "mlp_bias"),
            (with("rope_scaling", json!({"full_attention": {"rope_theta": 1e6}})), "rope_scaling.full_attention"),
            (with("rope_scaling", json!({"sliding_attention": {"factor": 2}})), "rope_scaling.sliding_attention"),
            ("[]".to_owned(), "object"),
        ];
        for (text, part) in cases {
            let message = read(&text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
