//! Templates for models whose files carry none.

use crate::tokenizer::Tokenizer;

/// A family of chat formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// `<|im_start|>role ... <|im_end|>`: Qwen, SmolLM and many others.
    ChatMl,
    /// LLaMA-3.
    Llama3,
    /// Gemma 2 and 3; a system message goes in front of the first user message.
    Gemma,
    /// Hunyuan dense models.
    Hunyuan,
    /// Falcon3.
    Falcon3,
    /// BitNet-b1.58-2B-4T. Its vocabulary is LLaMA-3's: only the architecture tells.
    BitNet,
}

impl Preset {
    /// The family that the tokenizer's control tokens belong to.
    pub fn detect(tokenizer: &Tokenizer) -> Option<Self> {
        [
            (Self::ChatMl, ["<|im_start|>", "<|im_end|>"], None),
            (Self::Llama3, ["<|start_header_id|>", "<|eot_id|>"], None),
            (Self::Gemma, ["<start_of_turn>", "<end_of_turn>"], None),
            (Self::Hunyuan, ["<｜hy_User｜>", "<｜hy_Assistant｜>"], None),
            // Others that have these end a turn by a token of its own.
            (Self::Falcon3, ["<|user|>", "<|assistant|>"], Some("<|end|>")),
        ]
        .into_iter()
        .find(|(_, markers, foreign)| {
            let has = |marker: &str| tokenizer.token_to_id(marker).is_some_and(|id| tokenizer.is_control(id));
            markers.iter().all(|marker| has(marker)) && !foreign.is_some_and(has)
        })
        .map(|(preset, ..)| preset)
    }

    /// The template.
    pub fn source(self) -> &'static str {
        match self {
            Self::ChatMl => include_str!("presets/chatml.jinja"),
            Self::Llama3 => include_str!("presets/llama3.jinja"),
            Self::Gemma => include_str!("presets/gemma.jinja"),
            Self::Hunyuan => include_str!("presets/hunyuan.jinja"),
            Self::Falcon3 => include_str!("presets/falcon3.jinja"),
            Self::BitNet => include_str!("presets/bitnet.jinja"),
        }
    }
}
