//! A model that needs no file, for examples and tests.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use sherry_kernels::{Engine, Isa, Precision};

use super::Llm;
use crate::Result;
use crate::batch::Options;
use crate::model::{ArchConfig, Decoder, Family, GenerationConfig, synthetic};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::vocab::byte_to_char;

/// Control tokens, after the 256 bytes.
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

pub(super) fn load() -> Result<Llm> {
    let tokenizer = Arc::new(tokenizer()?);
    // Rows of the embedding beyond the vocabulary, as real models have them.
    let vocab = tokenizer.vocab_size().next_multiple_of(16);
    let config = ArchConfig { vocab, context: 1024, ..synthetic::tiny(Family::Qwen3) };
    let decoder = Decoder::new(Arc::new(synthetic::model(&config, 1)?), Engine::new(Isa::best(), 1, Precision::Int8));
    Llm::new(decoder, tokenizer, &GenerationConfig::default(), Options::new(config.context, 4))
}

/// A token for every byte, and those of ChatML.
fn tokenizer() -> Result<Tokenizer> {
    let mut vocab: Map<String, Value> = (0..=255u8).map(|byte| (byte_to_char(byte).to_string(), json!(byte))).collect();
    let mut added = Vec::new();
    for (id, token) in (256..).zip(CONTROL) {
        vocab.insert(token.to_owned(), json!(id));
        added.push(json!({"id": id, "content": token, "special": true, "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false}));
    }
    let file = json!({
        "added_tokens": added,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    });
    let config = json!({"eos_token": "<|im_end|>"});
    Tokenizer::from_json(file.to_string().as_bytes(), Some(config.to_string().as_bytes()), None)
}
