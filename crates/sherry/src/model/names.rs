//! What each tensor of a model is for, what files call it, and what shape it must have.

use super::{ArchConfig, Family};

/// The place of a tensor in the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embedding, vocab x hidden.
    Embed,
    /// Norm before the head.
    OutputNorm,
    /// Head, vocab x hidden; absent when tied to the embedding.
    Head,
    /// Divisors of the rotary frequencies (GGUF only).
    RopeFreqs,
    /// A tensor of one decoder block.
    Layer(usize, Part),
}

/// A tensor inside a decoder block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the field's own words
pub enum Part {
    AttnNorm,
    Q,
    K,
    V,
    O,
    QBias,
    KBias,
    VBias,
    OBias,
    QNorm,
    KNorm,
    /// Norm of what goes into the output projection of attention (BitNet).
    AttnSubNorm,
    /// Norms of the input of a single linear layer, in models that have one for each.
    QInputNorm,
    KInputNorm,
    VInputNorm,
    OInputNorm,
    /// Norm of the attention output before it joins the residual stream (Gemma 3).
    PostAttnNorm,
    FfnNorm,
    Gate,
    Up,
    /// Norm of what goes into the output projection of the feed-forward (BitNet).
    FfnSubNorm,
    Down,
    GateInputNorm,
    UpInputNorm,
    DownInputNorm,
    /// Norm of the feed-forward output before it joins the residual stream (Gemma 3).
    PostFfnNorm,
}

impl Part {
    /// Every part, in the order files list them.
    pub const ALL: [Self; 26] = [
        Self::AttnNorm,
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::QBias,
        Self::KBias,
        Self::VBias,
        Self::OBias,
        Self::QNorm,
        Self::KNorm,
        Self::AttnSubNorm,
        Self::QInputNorm,
        Self::KInputNorm,
        Self::VInputNorm,
        Self::OInputNorm,
        Self::PostAttnNorm,
        Self::FfnNorm,
        Self::Gate,
        Self::Up,
        Self::FfnSubNorm,
        Self::Down,
        Self::GateInputNorm,
        Self::UpInputNorm,
        Self::DownInputNorm,
        Self::PostFfnNorm,
    ];

    /// The norm of the input of a linear layer; `None` for what is none.
    pub const fn input_norm(self) -> Option<Self> {
        Some(match self {
            Self::Q => Self::QInputNorm,
            Self::K => Self::KInputNorm,
            Self::V => Self::VInputNorm,
            Self::O => Self::OInputNorm,
            Self::Gate => Self::GateInputNorm,
            Self::Up => Self::UpInputNorm,
            Self::Down => Self::DownInputNorm,
            _ => return None,
        })
    }

    /// Whether this is the norm of the input of a single linear layer.
    pub const fn is_input_norm(self) -> bool {
        matches!(
            self,
            Self::QInputNorm
                | Self::KInputNorm
                | Self::VInputNorm
                | Self::OInputNorm
                | Self::GateInputNorm
                | Self::UpInputNorm
                | Self::DownInputNorm
        )
    }

    /// Whether this is a weight matrix (and not a norm or bias): the tensors that get quantized.
    pub const fn is_linear(self) -> bool {
        matches!(self, Self::Q | Self::K | Self::V | Self::O | Self::Gate | Self::Up | Self::Down)
    }

    /// Whether a model of this configuration has it.
    pub fn is_in(self, config: &ArchConfig) -> bool {
        match self {
            Self::QBias | Self::KBias | Self::VBias => config.qkv_bias,
            Self::OBias => config.o_bias,
            Self::QNorm | Self::KNorm => config.qk_norm.is_some(),
            Self::PostAttnNorm | Self::PostFfnNorm => config.post_norms,
            Self::AttnSubNorm | Self::FfnSubNorm => config.sub_norms,
            part if part.is_input_norm() => config.input_norms.is_some(),
            _ => true,
        }
    }

    /// Name inside a Hugging Face block, `None` where the family has no such tensor.
    fn hf(self, family: Family) -> Option<&'static str> {
        let gemma = family == Family::Gemma3;
        Some(match self {
            Self::AttnNorm => "input_layernorm.weight",
            Self::Q => "self_attn.q_proj.weight",
            Self::K => "self_attn.k_proj.weight",
            Self::V => "self_attn.v_proj.weight",
            Self::O => "self_attn.o_proj.weight",
            Self::QBias => "self_attn.q_proj.bias",
            Self::KBias => "self_attn.k_proj.bias",
            Self::VBias => "self_attn.v_proj.bias",
            Self::OBias => "self_attn.o_proj.bias",
            Self::QNorm | Self::KNorm if matches!(family, Family::Llama | Family::BitNet | Family::MiniCpm) => {
                return None;
            }
            Self::AttnSubNorm if family == Family::BitNet => "self_attn.attn_sub_norm.weight",
            Self::FfnSubNorm if family == Family::BitNet => "mlp.ffn_sub_norm.weight",
            Self::AttnSubNorm | Self::FfnSubNorm => return None,
            Self::QNorm if family == Family::HunyuanDense => "self_attn.query_layernorm.weight",
            Self::KNorm if family == Family::HunyuanDense => "self_attn.key_layernorm.weight",
            Self::QNorm => "self_attn.q_norm.weight",
            Self::KNorm => "self_attn.k_norm.weight",
            // In a block with two norms this name means the norm before the feed-forward, with four the one after
            // attention.
            Self::PostAttnNorm if gemma => "post_attention_layernorm.weight",
            Self::FfnNorm if gemma => "pre_feedforward_layernorm.weight",
            Self::FfnNorm => "post_attention_layernorm.weight",
            Self::Gate => "mlp.gate_proj.weight",
            Self::Up => "mlp.up_proj.weight",
            Self::Down => "mlp.down_proj.weight",
            Self::QInputNorm => "self_attn.q_proj.rms_norm.weight",
            Self::KInputNorm => "self_attn.k_proj.rms_norm.weight",
            Self::VInputNorm => "self_attn.v_proj.rms_norm.weight",
            Self::OInputNorm => "self_attn.o_proj.rms_norm.weight",
            Self::GateInputNorm => "mlp.gate_proj.rms_norm.weight",
            Self::UpInputNorm => "mlp.up_proj.rms_norm.weight",
            Self::DownInputNorm => "mlp.down_proj.rms_norm.weight",
            Self::PostFfnNorm if gemma => "post_feedforward_layernorm.weight",
            Self::PostAttnNorm | Self::PostFfnNorm => return None,
        })
    }

    /// A second name inside a Hugging Face block: that of the first BitNet models (1bitLLM).
    fn other_hf(self, family: Family) -> Option<&'static str> {
        match self {
            Self::AttnSubNorm if family == Family::BitNet => Some("self_attn.inner_attn_ln.weight"),
            Self::FfnSubNorm if family == Family::BitNet => Some("mlp.ffn_layernorm.weight"),
            _ => None,
        }
    }

    /// Name inside a GGUF block, `None` where the family has no such tensor.
    fn gguf(self, family: Family) -> Option<&'static str> {
        let gemma = family == Family::Gemma3;
        Some(match self {
            Self::AttnNorm => "attn_norm.weight",
            Self::Q => "attn_q.weight",
            Self::K => "attn_k.weight",
            Self::V => "attn_v.weight",
            Self::O => "attn_output.weight",
            Self::QBias => "attn_q.bias",
            Self::KBias => "attn_k.bias",
            Self::VBias => "attn_v.bias",
            Self::OBias => "attn_output.bias",
            Self::QNorm | Self::KNorm if matches!(family, Family::Llama | Family::BitNet | Family::MiniCpm) => {
                return None;
            }
            Self::AttnSubNorm if family == Family::BitNet => "attn_sub_norm.weight",
            Self::FfnSubNorm if family == Family::BitNet => "ffn_sub_norm.weight",
            Self::AttnSubNorm | Self::FfnSubNorm => return None,
            Self::QNorm => "attn_q_norm.weight",
            Self::KNorm => "attn_k_norm.weight",
            Self::PostAttnNorm if gemma => "post_attention_norm.weight",
            Self::FfnNorm => "ffn_norm.weight",
            Self::Gate => "ffn_gate.weight",
            Self::Up => "ffn_up.weight",
            Self::Down => "ffn_down.weight",
            Self::QInputNorm => "attn_q_norm_in.weight",
            Self::KInputNorm => "attn_k_norm_in.weight",
            Self::VInputNorm => "attn_v_norm_in.weight",
            Self::OInputNorm => "attn_output_norm_in.weight",
            Self::GateInputNorm => "ffn_gate_norm_in.weight",
            Self::UpInputNorm => "ffn_up_norm_in.weight",
            Self::DownInputNorm => "ffn_down_norm_in.weight",
            Self::PostFfnNorm if gemma => "post_ffw_norm.weight",
            Self::PostAttnNorm | Self::PostFfnNorm => return None,
        })
    }
}

/// Which names a container uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// Hugging Face safetensors.
    HuggingFace,
    /// GGUF.
    Gguf,
}

/// Prefixes under which Hugging Face checkpoints keep the text model; the first is the one written.
pub(super) const HF_PREFIXES: [&str; 3] = ["model.", "language_model.model.", "model.language_model."];

impl Role {
    /// Every tensor a model of this configuration must have, in file order.
    pub fn all(config: &ArchConfig) -> impl Iterator<Item = Self> {
        let parts = Part::ALL.into_iter().filter(|part| part.is_in(config)).collect::<Vec<_>>();
        let layers = (0..config.layers).flat_map(move |i| parts.clone().into_iter().map(move |p| Self::Layer(i, p)));
        let head = if config.tied { None } else { Some(Self::Head) };
        std::iter::once(Self::Embed).chain(layers).chain([Self::OutputNorm]).chain(head)
    }

    /// Whether this is a weight matrix inside a block: the tensors that get quantized.
    pub const fn is_linear(self) -> bool {
        matches!(self, Self::Layer(_, part) if part.is_linear())
    }

    /// Whether this is the embedding or the head.
    pub const fn is_embedding(self) -> bool {
        matches!(self, Self::Embed | Self::Head)
    }

    /// Whether this is the weight of a norm.
    pub const fn is_norm(self) -> bool {
        match self {
            Self::OutputNorm => true,
            Self::Layer(_, part) => {
                matches!(
                    part,
                    Part::AttnNorm
                        | Part::QNorm
                        | Part::KNorm
                        | Part::AttnSubNorm
                        | Part::PostAttnNorm
                        | Part::FfnNorm
                        | Part::FfnSubNorm
                        | Part::PostFfnNorm
                ) || part.is_input_norm()
            }
            _ => false,
        }
    }

    /// Shape in PyTorch order: `[out features, in features]` for matrices, `[n]` for vectors.
    pub fn shape(self, config: &ArchConfig) -> Vec<usize> {
        let (hidden, q, kv) = (config.hidden, config.q_dim(), config.kv_dim());
        match self {
            Self::Embed | Self::Head => vec![config.vocab, hidden],
            Self::OutputNorm => vec![hidden],
            Self::RopeFreqs => vec![config.head_dim / 2],
            Self::Layer(_, part) => match part {
                Part::Q => vec![q, hidden],
                Part::K | Part::V => vec![kv, hidden],
                Part::O => vec![hidden, q],
                Part::QBias => vec![q],
                Part::KBias | Part::VBias => vec![kv],
                Part::OBias => vec![hidden],
                Part::QNorm | Part::KNorm => vec![config.head_dim],
                Part::Gate | Part::Up => vec![config.ffn, hidden],
                Part::Down => vec![hidden, config.ffn],
                Part::AttnSubNorm | Part::OInputNorm => vec![q],
                Part::FfnSubNorm | Part::DownInputNorm => vec![config.ffn],
                Part::AttnNorm | Part::PostAttnNorm | Part::FfnNorm | Part::PostFfnNorm => vec![hidden],
                Part::QInputNorm | Part::KInputNorm | Part::VInputNorm => vec![hidden],
                Part::GateInputNorm | Part::UpInputNorm => vec![hidden],
            },
        }
    }

    /// Elements of the tensor, of which a model may have more than 32 bits count.
    pub fn elements(self, config: &ArchConfig) -> u64 {
        self.shape(config).iter().map(|&size| size as u64).product()
    }

    /// Name in files of `naming`, `None` where the family or the container has no such tensor.
    pub fn name(self, family: Family, naming: Naming) -> Option<String> {
        match naming {
            Naming::HuggingFace => match self {
                Self::Embed => Some("model.embed_tokens.weight".to_owned()),
                Self::OutputNorm => Some("model.norm.weight".to_owned()),
                Self::Head => Some("lm_head.weight".to_owned()),
                Self::RopeFreqs => None,
                Self::Layer(i, part) => part.hf(family).map(|name| format!("model.layers.{i}.{name}")),
            },
            Naming::Gguf => match self {
                Self::Embed => Some("token_embd.weight".to_owned()),
                Self::OutputNorm => Some("output_norm.weight".to_owned()),
                Self::Head => Some("output.weight".to_owned()),
                Self::RopeFreqs => Some("rope_freqs.weight".to_owned()),
                Self::Layer(i, part) => part.gguf(family).map(|name| format!("blk.{i}.{name}")),
            },
        }
    }

    /// What the tensor called `name` is for, `None` for names the family does not have. The inverse of
    /// [`name`](Self::name); Hugging Face names are also accepted under the prefixes of multi-modal checkpoints.
    pub fn parse(name: &str, family: Family, naming: Naming) -> Option<Self> {
        match naming {
            Naming::HuggingFace => {
                if name == "lm_head.weight" || name == "language_model.lm_head.weight" {
                    return Some(Self::Head);
                }
                // Longest prefix first: "model.language_model." also begins with "model.".
                let rest = HF_PREFIXES.iter().rev().find_map(|prefix| name.strip_prefix(prefix))?;
                match rest {
                    "embed_tokens.weight" => Some(Self::Embed),
                    "norm.weight" => Some(Self::OutputNorm),
                    _ => {
                        let rest = rest.strip_prefix("layers.")?;
                        let other = || Self::parse_layer(rest, |part| part.other_hf(family));
                        Self::parse_layer(rest, |part| part.hf(family)).or_else(other)
                    }
                }
            }
            Naming::Gguf => match name {
                "token_embd.weight" => Some(Self::Embed),
                "output_norm.weight" => Some(Self::OutputNorm),
                "output.weight" => Some(Self::Head),
                "rope_freqs.weight" => Some(Self::RopeFreqs),
                _ => Self::parse_layer(name.strip_prefix("blk.")?, |part| part.gguf(family)),
            },
        }
    }

    /// `rest` is "INDEX.NAME".
    fn parse_layer(rest: &str, name_of: impl Fn(Part) -> Option<&'static str>) -> Option<Self> {
        let (index, name) = rest.split_once('.')?;
        let part = Part::ALL.into_iter().find(|&part| name_of(part) == Some(name))?;
        // "01" or "+1" would make two names of one tensor.
        if index.len() > 1 && index.starts_with('0') || !index.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Self::Layer(index.parse().ok()?, part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::synthetic::tiny;

    #[test]
    fn every_name_parses_back_to_its_role() {
        for family in Family::ALL {
            let mut config = tiny(family);
            config.tied = false;
            config.qkv_bias = true;
            config.o_bias = true;
            config.input_norms = Some(1e-6);
            for naming in [Naming::HuggingFace, Naming::Gguf] {
                let mut names = Vec::new();
                for role in Role::all(&config) {
                    let name = role.name(family, naming).unwrap();
                    assert_eq!(Role::parse(&name, family, naming), Some(role), "{name}");
                    names.push(name);
                }
                let count = names.len();
                names.sort();
                names.dedup();
                assert_eq!(names.len(), count);
            }
        }
    }

    #[test]
    fn names_are_the_published_ones() {
        let hf = |role: Role, family| role.name(family, Naming::HuggingFace).unwrap();
        assert_eq!(hf(Role::Layer(3, Part::FfnNorm), Family::Llama), "model.layers.3.post_attention_layernorm.weight");
        assert_eq!(
            hf(Role::Layer(3, Part::FfnNorm), Family::Gemma3),
            "model.layers.3.pre_feedforward_layernorm.weight"
        );
        assert_eq!(
            hf(Role::Layer(3, Part::PostAttnNorm), Family::Gemma3),
            "model.layers.3.post_attention_layernorm.weight"
        );
        assert_eq!(
            hf(Role::Layer(0, Part::QNorm), Family::HunyuanDense),
            "model.layers.0.self_attn.query_layernorm.weight"
        );
        let parse = |name, family| Role::parse(name, family, Naming::HuggingFace);
        assert_eq!(
            parse("language_model.model.layers.7.mlp.up_proj.weight", Family::Gemma3),
            Some(Role::Layer(7, Part::Up))
        );
        assert_eq!(parse("model.language_model.embed_tokens.weight", Family::Gemma3), Some(Role::Embed));
        let sub_norm = Some(Role::Layer(1, Part::AttnSubNorm));
        for name in ["model.layers.1.self_attn.attn_sub_norm.weight", "model.layers.1.self_attn.inner_attn_ln.weight"] {
            assert_eq!((parse(name, Family::BitNet), parse(name, Family::Llama)), (sub_norm, None), "{name}");
        }
        for name in ["model.layers.01.mlp.up_proj.weight", "model.layers.+1.mlp.up_proj.weight", "model.layers..x"] {
            assert_eq!(parse(name, Family::Llama), None, "{name}");
        }
        assert_eq!(parse("model.layers.99999999999999999999.mlp.up_proj.weight", Family::Llama), None);
    }
}
