//! Hugging Face `tokenizer.json` and `tokenizer_config.json`, writing.

use serde_json::{Map, Value, json};

use super::bpe::Alphabet;
use super::normalize::{Normalizer, SPACE};
use super::split::{Behavior, Pattern, Split};
use super::{Decoder, TokenKind, Tokenizer};
use crate::{Error, Result};

impl Tokenizer {
    /// This tokenizer as the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// Two tokens with the same text, which the format cannot say.
    pub fn to_json(&self) -> Result<String> {
        let mut vocab = Map::with_capacity(self.vocab.len());
        for (id, text, kind) in self.vocab.iter() {
            if kind == TokenKind::Unused && text.is_empty() {
                continue;
            }
            if let Some(other) = vocab.insert(text.into(), id.into()) {
                return Err(Error::Tokenizer(format!("tokens {other} and {id} are both {text:?}")));
            }
        }
        let mut added: Vec<_> = self.specials.iter().collect();
        added.sort_by_key(|token| token.id);
        let added: Vec<Value> = added
            .iter()
            .map(|token| {
                json!({
                    "id": token.id, "content": token.text, "single_word": token.single_word, "lstrip": token.lstrip,
                    "rstrip": token.rstrip, "normalized": false, "special": token.control,
                })
            })
            .collect();
        let merges: Vec<Value> = self.merges_by_rank().into_iter().map(|(left, right)| json!([left, right])).collect();
        let (byte_fallback, fuse_unk) = match &self.bpe.alphabet {
            Alphabet::Bytes(_) => (false, false),
            Alphabet::Chars { bytes, fuse_unknown, .. } => (bytes.is_some(), *fuse_unknown),
        };
        let text = |id: u32| self.vocab.text(id).unwrap_or_default();
        let document = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": self.json_normalizer(),
            "pre_tokenizer": self.json_pre_tokenizer(),
            "post_processor": self.json_post_processor(),
            "decoder": self.json_decoder(),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": self.roles.unknown.map(text),
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": fuse_unk,
                "byte_fallback": byte_fallback,
                "ignore_merges": self.bpe.whole_pieces.is_some(),
                "vocab": vocab,
                "merges": merges,
            },
        });
        Ok(document.to_string())
    }

    /// The text of the `tokenizer_config.json` that belongs to [`Self::to_json`].
    pub fn to_config_json(&self) -> String {
        let text = |id: Option<u32>| id.and_then(|id| self.vocab.text(id));
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": text(self.roles.bos),
            "eos_token": text(self.roles.eos),
            "unk_token": text(self.roles.unknown),
            "pad_token": text(self.roles.padding),
            "clean_up_tokenization_spaces": false,
        });
        if let Some(template) = &self.chat_template {
            config["chat_template"] = template.as_str().into();
        }
        let mut pretty = serde_json::to_string_pretty(&config).unwrap_or_default();
        pretty.push('\n');
        pretty
    }

    fn json_normalizer(&self) -> Value {
        let steps: Vec<Value> = self
            .normalizers
            .iter()
            .filter_map(|step| {
                Some(match step {
                    Normalizer::Nfc => json!({"type": "NFC"}),
                    Normalizer::Nfd => json!({"type": "NFD"}),
                    Normalizer::Nfkc => json!({"type": "NFKC"}),
                    Normalizer::Nfkd => json!({"type": "NFKD"}),
                    Normalizer::Prepend(text) => json!({"type": "Prepend", "prepend": text}),
                    Normalizer::Replace { from, to } => {
                        json!({"type": "Replace", "pattern": {"String": from}, "content": to})
                    }
                    // Belong to the pre-tokenizer.
                    Normalizer::PrependFirst(_) | Normalizer::PrependUnlessThere(_) => return None,
                })
            })
            .collect();
        if steps.is_empty() { Value::Null } else { json!({"type": "Sequence", "normalizers": steps}) }
    }

    fn json_pre_tokenizer(&self) -> Value {
        let mut steps: Vec<Value> = self.splits.iter().map(json_split).collect();
        let mut prefix_space = false;
        for step in &self.normalizers {
            let scheme = match step {
                Normalizer::PrependFirst(text) if text == " " => {
                    prefix_space = true;
                    continue;
                }
                Normalizer::PrependFirst(_) => "first",
                Normalizer::PrependUnlessThere(_) => "always",
                _ => continue,
            };
            let metaspace =
                json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false});
            steps.insert(0, metaspace);
        }
        if self.decoder == Decoder::ByteLevel {
            steps.push(json!({
                "type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true, "use_regex": false,
            }));
        }
        if steps.is_empty() { Value::Null } else { json!({"type": "Sequence", "pretokenizers": steps}) }
    }

    fn json_post_processor(&self) -> Value {
        if self.prefix.is_empty() && self.suffix.is_empty() {
            return Value::Null;
        }
        let text = |id: &u32| self.vocab.text(*id).unwrap_or_default();
        let special = |id: &u32| json!({"SpecialToken": {"id": text(id), "type_id": 0}});
        let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
        let around = |name: &str| -> Vec<Value> {
            self.prefix.iter().map(special).chain([sequence(name)]).chain(self.suffix.iter().map(special)).collect()
        };
        let tokens: Map<String, Value> = self
            .prefix
            .iter()
            .chain(&self.suffix)
            .map(|id| (text(id).to_string(), json!({"id": text(id), "ids": [id], "tokens": [text(id)]})))
            .collect();
        let (single, pair) = (around("A"), [around("A"), around("B")].concat());
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
    }

    fn json_decoder(&self) -> Value {
        match self.decoder {
            Decoder::ByteLevel => {
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
            }
            Decoder::Spaces { strip_first } => {
                let mut steps = vec![
                    json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
                    json!({"type": "ByteFallback"}),
                    json!({"type": "Fuse"}),
                ];
                if strip_first {
                    steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
                }
                json!({"type": "Sequence", "decoders": steps})
            }
        }
    }
}

fn json_split(split: &Split) -> Value {
    let pattern = match &split.pattern {
        Pattern::Regex(text) => json!({"Regex": text}),
        Pattern::Literal(text) => json!({"String": text}),
    };
    let behavior: Behavior = split.behavior;
    json!({"type": "Split", "pattern": pattern, "behavior": behavior.name(), "invert": split.invert})
}
