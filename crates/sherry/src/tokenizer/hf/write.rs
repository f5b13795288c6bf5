//! Hugging Face `tokenizer.json` and `tokenizer_config.json`, writing.

use serde_json::{Map, Value, json};

use super::super::bpe::Bpe;
use super::super::pre::{PreStep, Prefix};
use super::super::rewrite::{Rewrite, SPACE};
use super::super::split::{Pattern, Split};
use super::super::{Decoder, Model, Strip, TokenKind, Tokenizer};
use crate::{Error, Result};

impl Tokenizer {
    /// This tokenizer as the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// What the format cannot say: two tokens with the same text; SentencePiece's unigram models and its way with white
    /// space and tables of characters, which are read from `tokenizer.model` only.
    pub fn to_json(&self) -> Result<String> {
        let Model::Bpe(Bpe { unknown, whole_pieces, .. }) = &self.model else {
            return Err(Error::Tokenizer("a unigram tokenizer cannot be written as tokenizer.json".into()));
        };
        let mut vocab = Map::with_capacity(self.vocab.len());
        for (id, text, kind) in self.vocab.iter() {
            if kind == TokenKind::Unused && text.is_empty() || self.vocab.is_beside(id) {
                continue;
            }
            if let Some(other) = vocab.insert(text.into(), id.into()) {
                return Err(Error::Tokenizer(format!("tokens {other} and {id} are both {text:?}")));
            }
        }
        let mut added: Vec<_> = self.added().collect();
        added.sort_by_key(|token| token.id);
        let added: Vec<Value> = added
            .iter()
            .map(|token| {
                json!({
                    "id": token.id, "content": token.text, "single_word": token.single_word, "lstrip": token.lstrip,
                    "rstrip": token.rstrip, "normalized": token.normalized, "special": token.control,
                })
            })
            .collect();
        let merges: Vec<Value> = self.merges_by_rank().into_iter().map(|(left, right)| json!([left, right])).collect();
        let text = |id: u32| self.vocab.text(id).unwrap_or_default();
        let document = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": self.json_normalizer()?,
            "pre_tokenizer": self.json_pre_tokenizer(),
            "post_processor": self.json_post_processor(),
            "decoder": self.json_decoder(),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": unknown.id.map(text),
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": unknown.fuse,
                "byte_fallback": unknown.bytes.is_some(),
                "ignore_merges": whole_pieces,
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

    pub(in super::super) fn json_normalizer(&self) -> Result<Value> {
        let steps: Vec<Value> = self
            .rewrites
            .iter()
            .map(|step| match step {
                Rewrite::Nfc => Ok(json!({"type": "NFC"})),
                Rewrite::Nfd => Ok(json!({"type": "NFD"})),
                Rewrite::Nfkc => Ok(json!({"type": "NFKC"})),
                Rewrite::Nfkd => Ok(json!({"type": "NFKD"})),
                Rewrite::Prepend(text) => Ok(json!({"type": "Prepend", "prepend": text})),
                Rewrite::Replace { from, to } => {
                    Ok(json!({"type": "Replace", "pattern": {"String": from}, "content": to}))
                }
                Rewrite::SentencePiece(_) => Err(Error::Tokenizer(
                    "SentencePiece's normalizer (precompiled_charsmap, remove_extra_whitespaces) cannot be written as \
                     tokenizer.json"
                        .into(),
                )),
            })
            .collect::<Result<_>>()?;
        Ok(match <[Value; 1]>::try_from(steps) {
            Ok([step]) => step,
            Err(steps) if steps.is_empty() => Value::Null,
            Err(steps) => json!({"type": "Sequence", "normalizers": steps}),
        })
    }

    pub(in super::super) fn json_pre_tokenizer(&self) -> Value {
        let steps: Vec<Value> = self
            .pre
            .iter()
            .map(|step| match step {
                PreStep::Split(split) => json_split(split),
                PreStep::Digits { individual, .. } => json!({"type": "Digits", "individual_digits": individual}),
                PreStep::ByteLevel { prefix_space, split } => json!({
                    "type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true,
                    "use_regex": split.is_some(),
                }),
                PreStep::Metaspace { prefix, split } => json!({
                    "type": "Metaspace", "replacement": SPACE, "prepend_scheme": prefix.name(),
                    "split": split.is_some(),
                }),
            })
            .collect();
        match <[Value; 1]>::try_from(steps) {
            Ok([step]) => step,
            Err(steps) if steps.is_empty() => Value::Null,
            Err(steps) => json!({"type": "Sequence", "pretokenizers": steps}),
        }
    }

    pub(in super::super) fn json_post_processor(&self) -> Value {
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

    pub(in super::super) fn json_decoder(&self) -> Value {
        let metaspace = |prefix: Prefix| json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prefix.name(), "split": false});
        match self.decoder {
            Decoder::ByteLevel => {
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
            }
            Decoder::Metaspace { strip_first } => metaspace(if strip_first { Prefix::Always } else { Prefix::Never }),
            Decoder::Spaces(strip) => {
                let mut steps = vec![
                    json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
                    json!({"type": "ByteFallback"}),
                    json!({"type": "Fuse"}),
                ];
                if strip != Strip::None {
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
    json!({"type": "Split", "pattern": pattern, "behavior": split.behavior.name(), "invert": split.invert})
}
