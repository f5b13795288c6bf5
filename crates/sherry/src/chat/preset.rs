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
}

impl Preset {
    /// The family that the tokenizer's control tokens belong to.
    pub fn detect(tokenizer: &Tokenizer) -> Option<Self> {
        [
            (Self::ChatMl, ["<|im_start|>", "<|im_end|>"]),
            (Self::Llama3, ["<|start_header_id|>", "<|eot_id|>"]),
            (Self::Gemma, ["<start_of_turn>", "<end_of_turn>"]),
            (Self::Hunyuan, ["<｜hy_User｜>", "<｜hy_Assistant｜>"]),
        ]
        .into_iter()
        .find(|(_, markers)| {
            markers.iter().all(|marker| tokenizer.token_to_id(marker).is_some_and(|id| tokenizer.is_control(id)))
        })
        .map(|(preset, _)| preset)
    }

    /// The template.
    pub fn source(self) -> &'static str {
        match self {
            Self::ChatMl => include_str!("presets/chatml.jinja"),
            Self::Llama3 => include_str!("presets/llama3.jinja"),
            Self::Gemma => include_str!("presets/gemma.jinja"),
            Self::Hunyuan => include_str!("presets/hunyuan.jinja"),
        }
    }
}
