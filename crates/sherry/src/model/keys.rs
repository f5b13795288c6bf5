//! Every key of a configuration that the families' reference programs read, and what is made of it here.
//!
//! What changes the numbers of a model is understood or refused by name. A key is *read* (by `config_hf`, `config_gguf`),
//! *harmless* (it changes no number of a text model at inference), or *fixed*: understood at the one value at which it
//! changes nothing, and refused at others. In GGUF a key of the architecture's own prefix that is in no table is refused:
//! writers put what the graph needs under that prefix. In `config.json`, where anything may stand, unknown fields pass,
//! as they do in transformers.

use crate::io::gguf::{Metadata, Value};
use crate::io::json::{Fields, shown};
use crate::{Error, Result};

/// The values at which a key changes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fixed {
    /// False, absent or null.
    False,
    /// True, absent or null.
    True,
    /// Only absent or null.
    Absent,
    /// This number; with `true` 0 also means "not set".
    Number(f64, bool),
    /// A count of at most this.
    AtMost(u64),
}

impl Fixed {
    fn holds(self, flag: Option<bool>, number: Option<f64>) -> bool {
        match (self, flag, number) {
            (Self::False, Some(flag), _) => !flag,
            (Self::True, Some(flag), _) => flag,
            (Self::Number(wanted, or_zero), _, Some(number)) => {
                // Files hold f32: a factor computed there agrees to its last bits.
                (number - wanted).abs() <= 1e-6 * wanted.abs() || or_zero && number == 0.0
            }
            (Self::AtMost(most), _, Some(number)) => (0.0..=most as f64).contains(&number),
            _ => false,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::False => "false".to_owned(),
            Self::True => "true".to_owned(),
            Self::Absent => "nothing".to_owned(),
            Self::Number(number, _) => format!("{number}"),
            Self::AtMost(most) => format!("at most {most}"),
        }
    }
}

/// Fields of `config.json` that change numbers in transformers, in the training codes of these families or in models that
/// share their class names, with the value at which they do not.
pub(super) const HF_FIXED: &[(&str, Fixed)] = &[
    // Biases, activations and block structure.
    ("mlp_bias", Fixed::False),
    ("use_cla", Fixed::False),
    ("use_mixed_mlp_moe", Fixed::False),
    ("use_rotary_pos_emb", Fixed::True),
    ("use_parallel_residual", Fixed::False),
    ("num_experts", Fixed::AtMost(1)),
    ("num_local_experts", Fixed::AtMost(1)),
    ("n_routed_experts", Fixed::AtMost(0)),
    ("num_nextn_predict_layers", Fixed::AtMost(0)),
    ("swiglu_limit", Fixed::Absent),
    // Attention.
    ("is_causal", Fixed::True),
    ("use_bidirectional_attention", Fixed::False),
    ("attn_logit_softcapping", Fixed::Absent),
    ("final_logit_softcapping", Fixed::Absent),
    ("clip_qkv", Fixed::Absent),
    ("attention_multiplier", Fixed::Absent),
    ("attn_temperature_tuning", Fixed::False),
    ("kv_lora_rank", Fixed::Absent),
    ("q_lora_rank", Fixed::Absent),
    ("no_rope_layers", Fixed::Absent),
    ("num_kv_shared_layers", Fixed::AtMost(0)),
    ("position_embedding_xdrope", Fixed::False),
    ("partial_rotary_factor", Fixed::Number(1.0, false)),
    // MiniCPM 4 attends to chosen blocks only, once a text is long.
    ("sparse_config", Fixed::Absent),
    // What the first BitNet models round weights and activations to.
    ("weight_bits", Fixed::Number(1.0, false)),
    ("input_bits", Fixed::Number(8.0, false)),
    // Factors.
    ("embedding_multiplier", Fixed::Number(1.0, false)),
    ("residual_multiplier", Fixed::Number(1.0, false)),
    ("logits_scaling", Fixed::Number(1.0, false)),
    ("logit_scale", Fixed::Number(1.0, false)),
    ("mup_enabled", Fixed::False),
];

/// Factors that only MiniCPM reads.
pub(super) const HF_MINICPM: &[(&str, Fixed)] =
    &[("scale_emb", Fixed::Number(1.0, false)), ("scale_depth", Fixed::Absent), ("dim_model_base", Fixed::Absent)];

/// Fields inside `rope_scaling` and `rope_parameters`.
pub(super) const HF_ROPE_FIXED: &[(&str, Fixed)] = &[
    ("partial_rotary_factor", Fixed::Number(1.0, false)),
    ("truncate", Fixed::True),
    ("mrope_section", Fixed::Absent),
];

/// Further ones, which only YaRN and LongRoPE read.
pub(super) const HF_MAGNITUDE: &[(&str, Fixed)] = &[("attention_factor", Fixed::Number(1.0, false))];

/// Further ones, which only LongRoPE reads.
pub(super) const HF_LONG_ROPE: &[(&str, Fixed)] = &[("short_factor", Fixed::Absent), ("long_factor", Fixed::Absent)];

/// Refuses fields of `table` that are set to anything that would change numbers.
///
/// # Errors
/// [`Error::Unsupported`] naming the field, its value and what is supported.
pub(super) fn check_fields(fields: &Fields<'_>, table: &[(&str, Fixed)]) -> Result<()> {
    for (name, fixed) in table {
        let Some(value) = fields.value(name) else { continue };
        if !fixed.holds(value.as_bool(), value.as_f64()) {
            let found: String = shown(&value.to_string()).chars().take(60).collect();
            let problem = format!("{found} is not supported, only {}", fixed.shown());
            return Err(Error::unsupported(fields.path(), format!("field '{}': {problem}", fields.full_name(name))));
        }
    }
    Ok(())
}

/// What messages say about architectures that are not run although ternary or binary models of them are known: what they have
/// that is missing here, and what to take instead.
pub(super) fn instead_of(architecture: &str) -> &'static str {
    match architecture {
        "qwen35"
        | "qwen35moe"
        | "qwen3next"
        | "Qwen3_5ForCausalLM"
        | "Qwen3_5ForConditionalGeneration"
        | "Qwen3NextForCausalLM" => {
            " (a hybrid of attention and recurrent layers; of the Bonsai models those of 1.7B, 4B and 8B run here)"
        }
        "maple" | "MapleForCausalLM" => " (a mixture of experts)",
        "HGRNBitForCausalLM" => " (a recurrent network)",
        _ => "",
    }
}

/// What is made of a GGUF key, without the architecture's prefix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Read,
    Harmless,
    Fixed(Fixed),
    /// Read for this architecture, fixed for the others.
    Of(&'static str, Fixed),
}

/// Keys that llama.cpp knows, and those that its older versions and Ollama write.
pub(super) const GGUF: &[(&str, Kind)] = &[
    ("vocab_size", Kind::Read),
    ("context_length", Kind::Read),
    ("embedding_length", Kind::Read),
    ("block_count", Kind::Read),
    ("feed_forward_length", Kind::Read),
    ("hidden_activation", Kind::Read),
    ("attention.head_count", Kind::Read),
    ("attention.head_count_kv", Kind::Read),
    ("attention.key_length", Kind::Read),
    ("attention.value_length", Kind::Read),
    ("attention.key_length_swa", Kind::Read),
    ("attention.value_length_swa", Kind::Read),
    ("attention.layer_norm_rms_epsilon", Kind::Read),
    ("attention.scale", Kind::Read),
    ("attention.sliding_window", Kind::Read),
    ("attention.sliding_window_pattern", Kind::Read),
    ("embedding_scale", Kind::Read),
    ("embedding_length_out", Kind::Read),
    ("rope.dimension_count", Kind::Read),
    ("rope.dimension_count_swa", Kind::Read),
    ("rope.freq_base", Kind::Read),
    ("rope.freq_base_swa", Kind::Read),
    // Ollama's names of the two bases of Gemma 3.
    ("rope.global.freq_base", Kind::Read),
    ("rope.local.freq_base", Kind::Read),
    ("rope.scale_linear", Kind::Read),
    ("rope.scaling.type", Kind::Read),
    ("rope.scaling.factor", Kind::Read),
    ("rope.scaling.alpha", Kind::Read),
    ("rope.scaling.original_context_length", Kind::Read),
    ("rope.scaling.attn_factor", Kind::Read),
    ("rope.scaling.yarn_attn_factor", Kind::Read),
    ("rope.scaling.yarn_beta_fast", Kind::Read),
    ("rope.scaling.yarn_beta_slow", Kind::Read),
    ("rope.scaling.finetuned", Kind::Harmless),
    ("rope.scaling.yarn_log_multiplier", Kind::Fixed(Fixed::AtMost(0))),
    ("rope.scaling.yarn_ext_factor", Kind::Fixed(Fixed::Number(1.0, false))),
    // How the file was made, and what embedding and classifier models do with the output.
    ("tensor_data_layout", Kind::Harmless),
    ("pooling_type", Kind::Harmless),
    ("classifier.pooling_type", Kind::Harmless),
    ("classifier.output_labels", Kind::Harmless),
    ("attention.layer_norm_epsilon", Kind::Harmless),
    ("attention.causal", Kind::Fixed(Fixed::True)),
    ("attention.clamp_kqv", Kind::Fixed(Fixed::AtMost(0))),
    ("attention.max_alibi_bias", Kind::Fixed(Fixed::AtMost(0))),
    ("attention.output_scale", Kind::Fixed(Fixed::Number(1.0, true))),
    ("attention.value_scale", Kind::Fixed(Fixed::Number(1.0, true))),
    ("attention.temperature_length", Kind::Fixed(Fixed::AtMost(0))),
    ("attention.temperature_scale", Kind::Fixed(Fixed::AtMost(0))),
    ("attention.q_lora_rank", Kind::Fixed(Fixed::AtMost(0))),
    ("attention.kv_lora_rank", Kind::Fixed(Fixed::AtMost(0))),
    ("attention.shared_kv_layers", Kind::Fixed(Fixed::AtMost(0))),
    ("attn_logit_softcapping", Kind::Fixed(Fixed::AtMost(0))),
    ("final_logit_softcapping", Kind::Fixed(Fixed::AtMost(0))),
    ("logit_scale", Kind::Of("minicpm", Fixed::Number(1.0, true))),
    ("residual_scale", Kind::Of("minicpm", Fixed::Number(1.0, true))),
    ("use_parallel_residual", Kind::Fixed(Fixed::False)),
    ("swin_norm", Kind::Fixed(Fixed::False)),
    ("rescale_every_n_layers", Kind::Fixed(Fixed::AtMost(0))),
    ("embedding_length_per_layer_input", Kind::Fixed(Fixed::AtMost(0))),
    ("nextn_predict_layers", Kind::Fixed(Fixed::AtMost(0))),
    ("num_loops", Kind::Fixed(Fixed::AtMost(1))),
    ("adapters.count", Kind::Fixed(Fixed::AtMost(0))),
    ("expert_count", Kind::Fixed(Fixed::AtMost(0))),
    // Of no effect without experts.
    ("expert_used_count", Kind::Harmless),
    ("expert_shared_count", Kind::Fixed(Fixed::AtMost(0))),
    ("expert_group_count", Kind::Harmless),
    ("expert_group_used_count", Kind::Harmless),
    ("expert_feed_forward_length", Kind::Harmless),
    ("expert_shared_feed_forward_length", Kind::Harmless),
    ("expert_weights_scale", Kind::Harmless),
    ("expert_weights_norm", Kind::Harmless),
    ("expert_gating_func", Kind::Harmless),
    ("leading_dense_block_count", Kind::Harmless),
    ("moe_every_n_layers", Kind::Harmless),
    ("interleave_moe_layer_step", Kind::Harmless),
];

/// Parts of multi-modal files that a text model does not touch.
const HARMLESS_PREFIXES: [&str; 3] = ["vision.", "audio.", "mm."];

/// Refuses keys under `arch.` that would change numbers, and those that are not known.
///
/// # Errors
/// [`Error::Unsupported`] naming the key, its value and what is supported.
pub(super) fn check_metadata(meta: &Metadata, path: &std::path::Path, arch: &str) -> Result<()> {
    for (key, value) in meta.entries() {
        let Some(name) = key.strip_prefix(arch).and_then(|rest| rest.strip_prefix('.')) else { continue };
        let refuse = |problem: String| Err(Error::unsupported(path, format!("key '{}': {problem}", shown(key))));
        match GGUF.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind) {
            Some(Kind::Read | Kind::Harmless) => {}
            Some(Kind::Of(reader, _)) if reader == arch => {}
            Some(Kind::Fixed(fixed) | Kind::Of(_, fixed)) => {
                // Hunyuan's converter counts a dense layer as one expert.
                let fixed = match (name, arch) {
                    ("expert_count" | "expert_shared_count", "hunyuan-dense") => Fixed::AtMost(1),
                    _ => fixed,
                };
                let flag = match value {
                    Value::Bool(flag) => Some(*flag),
                    _ => None,
                };
                let number = value.as_f32().map(f64::from).or(value.as_u64().map(|n| n as f64));
                if !fixed.holds(flag, number) {
                    return refuse(format!("{value} is not supported, only {}", fixed.shown()));
                }
            }
            None if HARMLESS_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => {}
            None => return refuse("not known; it may change what the model computes".to_owned()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value as Json, json};

    use super::*;
    use crate::model::synthetic::{self, tiny};
    use crate::model::{Family, config_gguf, config_hf};

    /// Values at which a key changes nothing, and values at which it would change something.
    fn examples(fixed: Fixed) -> (Vec<Json>, Vec<Json>) {
        match fixed {
            Fixed::False => (vec![json!(false)], vec![json!(true), json!("yes")]),
            Fixed::True => (vec![json!(true)], vec![json!(false), json!([])]),
            Fixed::Absent => (vec![], vec![json!(1.5), json!(true), json!([1, 2]), json!({"a": 1})]),
            Fixed::Number(number, false) => (vec![json!(number)], vec![json!(number + 0.5), json!(0.0), json!("x")]),
            Fixed::Number(number, true) => (vec![json!(number), json!(0.0)], vec![json!(number + 0.5), json!(-1.0)]),
            Fixed::AtMost(most) => (vec![json!(0), json!(most)], vec![json!(most + 1), json!(-1), json!([1])]),
        }
    }

    #[test]
    fn fields_of_a_folder_that_would_change_numbers_are_refused_by_name() {
        let path = Path::new("config.json");
        for family in Family::ALL {
            let config = tiny(family);
            let plain = config_hf::write(&config).unwrap();
            let minicpm: &[_] = if family == Family::MiniCpm { &[] } else { HF_MINICPM };
            let top = HF_FIXED.iter().chain(minicpm).map(|entry| ("", entry));
            let rope = HF_ROPE_FIXED.iter().chain(HF_MAGNITUDE).chain(HF_LONG_ROPE);
            for (prefix, (name, fixed)) in top.chain(rope.map(|entry| ("rope_scaling", entry))) {
                let with = |value: Json| {
                    let mut json = plain.clone();
                    match prefix {
                        "" => json[name] = value,
                        // Numbers of a scaling are looked at whatever its type.
                        _ => json[prefix] = json!({"rope_type": "linear", "factor": 2.0, *name: value}),
                    }
                    config_hf::parse(path, &json)
                };
                let (harmless, refused) = examples(*fixed);
                for value in harmless.into_iter().chain([Json::Null]) {
                    let read = with(value.clone()).unwrap_or_else(|error| panic!("{name} {value}: {error}"));
                    assert_eq!((read.layers, read.ffn), (config.layers, config.ffn));
                }
                for value in refused {
                    let error = with(value.clone()).unwrap_err();
                    assert!(matches!(error, Error::Unsupported { .. }), "{name} {value}: {error:?}");
                    let message = error.to_string();
                    assert!(message.starts_with("config.json: ") && message.contains(name), "{message}");
                }
            }
        }
    }

    fn gguf_value(value: &Json) -> Option<Value> {
        Some(match value {
            Json::Bool(flag) => Value::Bool(*flag),
            Json::Number(n) => match (n.as_u64(), n.as_i64()) {
                (Some(n), _) => Value::U32(n as u32),
                (_, Some(n)) => Value::I32(n as i32),
                _ => Value::F32(n.as_f64()? as f32),
            },
            Json::String(text) => Value::String(text.clone()),
            _ => return None,
        })
    }

    #[test]
    fn keys_of_a_gguf_file_that_would_change_numbers_or_are_not_known_are_refused_by_name() {
        for family in Family::ALL {
            let config = synthetic::gguf_like(family);
            let entries = config_gguf::write(&config);
            let Value::String(arch) = &entries[0].1 else { panic!("the architecture comes first") };
            let with = |name: &str, value: Value| {
                let mut entries = entries.clone();
                entries.push((format!("{arch}.{name}"), value));
                let meta = Metadata::new(Path::new("tiny.gguf"), entries);
                config_gguf::parse(&meta, &synthetic::source(&config, crate::model::names::Naming::Gguf, 1))
            };
            for (name, kind) in GGUF {
                match kind {
                    Kind::Read => {}
                    Kind::Of(reader, _) if reader == arch => {}
                    Kind::Harmless => assert_eq!(with(name, Value::U32(3)).unwrap(), config, "{name}"),
                    Kind::Fixed(fixed) | Kind::Of(_, fixed) => {
                        let (harmless, refused) = examples(*fixed);
                        for value in harmless.iter().filter_map(gguf_value) {
                            assert_eq!(with(name, value).unwrap(), config, "{name}");
                        }
                        for value in refused.iter().filter_map(gguf_value) {
                            if family == Family::HunyuanDense && name.contains("expert") && value == Value::U32(1) {
                                continue; // a dense layer counts as one expert there
                            }
                            let error = with(name, value.clone()).unwrap_err();
                            assert!(matches!(error, Error::Unsupported { .. }), "{name} {value}: {error:?}");
                            assert!(error.to_string().contains(&format!("'{arch}.{name}'")), "{error}");
                        }
                    }
                }
            }
            let message = with("attention.sink_count", Value::U32(4)).unwrap_err().to_string();
            assert!(message.contains(&format!("'{arch}.attention.sink_count'")) && message.contains("not known"));
            // Keys of other prefixes are none of this model's business.
            let mut entries = entries.clone();
            entries.push(("other.attention.sink_count".to_owned(), Value::U32(4)));
            let meta = Metadata::new(Path::new("tiny.gguf"), entries);
            check_metadata(&meta, meta.path(), arch).unwrap();
        }
    }

    #[test]
    fn every_key_called_read_is_read() {
        let source = include_str!("config_gguf.rs");
        let code = source.split("#[cfg(test)]").next().unwrap();
        for (place, (name, kind)) in GGUF.iter().enumerate() {
            assert!(!GGUF[..place].iter().any(|(earlier, _)| earlier == name), "{name} stands twice");
            let quoted = format!("\"{name}\"");
            let hidden = format!(".{name}\"");
            let read = code.contains(&quoted) || code.contains(&hidden);
            assert!(!matches!(kind, Kind::Read | Kind::Of(..)) || read, "{name} is called read and is not");
        }
    }
}
