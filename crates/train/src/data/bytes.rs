//! Bytes as tokens, for other programs: the `tokenizer.json` whose ids are those of a run on bytes.
//!
//! A byte-level BPE without merges: id = byte, 256 is the token between texts. Readers of `tokenizer.json` and, after
//! conversion, of GGUF vocabularies know what that is.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use sherry::tokenizer::byte_to_char;

/// The id between texts, after those of the bytes.
pub(super) const SEPARATOR: u32 = 256;
/// Its text, by which other programs know that it ends a text.
const SEPARATOR_TEXT: &str = "<|endoftext|>";

static JSON: LazyLock<Value> = LazyLock::new(|| {
    let mut vocab: Map<String, Value> =
        (0..=u8::MAX).map(|byte| (byte_to_char(byte).to_string(), byte.into())).collect();
    vocab.insert(SEPARATOR_TEXT.to_owned(), SEPARATOR.into());
    let (text, separator) =
        (json!({"Sequence": {"id": "A", "type_id": 0}}), json!({"id": SEPARATOR_TEXT, "type_id": 0}));
    let before = |text: &Value| json!([{ "SpecialToken": separator }, text]);
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": SEPARATOR, "content": SEPARATOR_TEXT, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }],
        "normalizer": null,
        // Where the text is cut makes no difference without merges; GGUF has a name for this pattern.
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": before(&text),
            "pair": [{ "SpecialToken": separator }, text, { "SpecialToken": separator }, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                SEPARATOR_TEXT: {"id": SEPARATOR_TEXT, "ids": [SEPARATOR], "tokens": [SEPARATOR_TEXT]},
            },
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [],
        },
    })
});

static FILES: LazyLock<[(String, Vec<u8>); 2]> = LazyLock::new(|| {
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SEPARATOR_TEXT, "eos_token": SEPARATOR_TEXT,
        "clean_up_tokenization_spaces": false,
    });
    [("tokenizer.json", &*JSON), ("tokenizer_config.json", &config)]
        .map(|(name, value)| (name.to_owned(), serde_json::to_vec_pretty(value).unwrap_or_default()))
});

/// The files of this tokenizer.
pub(super) fn files() -> &'static [(String, Vec<u8>)] {
    &*FILES
}

/// Whether the contents of a `tokenizer.json` are this tokenizer.
pub(super) fn is(tokenizer: &[u8]) -> bool {
    // Written by another version or program it may look different, but not be many times as long.
    tokenizer.len() < 1 << 16 && serde_json::from_slice::<Value>(tokenizer).is_ok_and(|json| json == *JSON)
}
