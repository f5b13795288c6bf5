//! The architecture of a model that begins with random weights.

use sherry::model::{self, Activation, ArchConfig, QkNorm, Rope, RopeLayout, RopeScaling};

use crate::config::{Config, Family};

/// What `config` describes, for a tokenizer of `vocab` tokens.
pub fn architecture(config: &Config, vocab: usize) -> ArchConfig {
    let model = &config.model;
    // `Config::parse` made sure that these are there.
    let (hidden, heads) = (model.hidden.unwrap_or(1), model.heads.unwrap_or(1));
    let head_dim = model.head_dim.unwrap_or(hidden / heads);
    let family = model.family.unwrap_or_default();
    let (llama, gemma) = (family == Family::Llama, family == Family::Gemma3);
    ArchConfig {
        family: match family {
            Family::Llama => model::Family::Llama,
            Family::Qwen3 => model::Family::Qwen3,
            Family::Gemma3 => model::Family::Gemma3,
        },
        vocab: model.vocab.unwrap_or(vocab),
        hidden,
        ffn: model.ffn.unwrap_or(1),
        layers: model.layers.unwrap_or(1),
        heads,
        kv_heads: model.kv_heads.unwrap_or(heads),
        head_dim,
        context: config.batch.length,
        norm_eps: model.norm_eps.unwrap_or(if llama { 1e-5 } else { 1e-6 }),
        norm_plus_one: gemma,
        post_norms: gemma,
        sub_norms: false,
        input_norms: None,
        qk_norm: (!llama).then_some(QkNorm::BeforeRope),
        qkv_bias: false,
        o_bias: false,
        rope: Rope {
            theta: model.rope_theta.unwrap_or(if llama { 1e4 } else { 1e6 }),
            local_theta: gemma.then_some(1e4),
            scaling: RopeScaling::None,
            layout: RopeLayout::Halves,
        },
        activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        embed_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
        residual_scale: 1.0,
        logit_divisor: 1.0,
        attn_scale: 1.0 / (head_dim as f32).sqrt(),
        window: gemma.then(|| model.window.unwrap_or(512)),
        window_pattern: if gemma { model.window_pattern.unwrap_or(6) } else { 0 },
        tied: model.tied.unwrap_or(true),
        int8_per_token: false,
    }
}

#[cfg(test)]
fn parsed(overrides: &[&str]) -> Config {
    let text = "steps = 1\n[model]\nhidden = 8\nffn = 8\nlayers = 1\nheads = 2\n[optimizer]\nlr = 1e-3\n\
                [batch]\nlength = 4\nsize = 1\n[data]\ntrain = [\"x\"]\n";
    let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
    Config::parse(std::path::Path::new("test"), text, &overrides).unwrap_or_else(|error| panic!("{error}"))
}

/// One block of eight channels.
#[cfg(test)]
pub(crate) fn tiny() -> ArchConfig {
    architecture(&parsed(&[]), 16)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sherry::NoProgress;
    use sherry::model::config_hf;

    use super::*;
    use crate::layout::{Layout, Purpose};
    use crate::methods::Quantizer;

    #[test]
    fn every_family_survives_config_json() {
        for overrides in [
            &["model.family=llama"][..],
            &["model.family=qwen3", "model.head_dim=6", "model.tied=false"],
            &["model.family=gemma3"],
            &["model.family=gemma3", "model.layers=7", "model.window=3", "model.window_pattern=2", "model.head_dim=10"],
        ] {
            let arch = architecture(&parsed(overrides), 16);
            let path = Path::new("config.json");
            let written = config_hf::write(&arch).unwrap();
            assert_eq!(config_hf::parse(path, &written).unwrap(), arch, "{overrides:?}");
        }
    }

    #[test]
    fn fresh_norms_multiply_by_one() {
        for (family, weight) in [("llama", 1.0), ("qwen3", 1.0), ("gemma3", 0.0)] {
            let layout =
                Layout::new(&architecture(&parsed(&[&format!("model.family={family}")]), 16), &Quantizer::FULL);
            let params = layout.init(&Quantizer::FULL, 1, &NoProgress).unwrap();
            let norms: Vec<_> = layout.tensors.iter().filter(|t| t.purpose == Purpose::Norm).collect();
            assert_eq!(
                norms.len(),
                match family {
                    "llama" => 3,
                    "qwen3" => 5,
                    _ => 7,
                }
            );
            assert!(norms.iter().all(|norm| params[norm.range()].iter().all(|w| *w == weight)), "{family}");
        }
    }

    #[test]
    fn gemma_has_a_window_in_all_layers_but_every_nth() {
        let arch = architecture(&parsed(&["model.family=gemma3", "model.layers=7", "model.window_pattern=3"]), 16);
        let sliding: Vec<bool> = (0..7).map(|layer| arch.is_sliding(layer)).collect();
        assert_eq!(sliding, [true, true, false, true, true, false, true]);
        assert_eq!((arch.window, arch.rope.local_theta), (Some(512), Some(1e4)));
    }
}
