//! [`GgufVocab`] in and out of a GGUF file's keys.

use super::{GgufVocab, Tokenizer};
use crate::io::gguf::{Array, Metadata, Strings, Value};
use crate::{Error, Result};

/// Keys of token ids, without `tokenizer.ggml.` and `_token_id`.
const ROLES: [&str; 6] = ["bos", "eos", "eot", "eom", "unknown", "padding"];

fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

impl GgufVocab {
    /// The tokenizer's keys of a file; `None` if it has no tokenizer.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the file and the key: a key of the wrong type, or `tokens` missing.
    pub fn from_metadata(metadata: &Metadata) -> Result<Option<Self>> {
        let Some(model) = metadata.find_str(&key("model"))? else { return Ok(None) };
        let [bos, eos, eot, eom, unk, pad] = ROLES.map(|role| metadata.find_token_id(role));
        let types = metadata.find_i64s(&key("token_type"))?;
        Ok(Some(Self {
            model: model.into(),
            pre: metadata.find_str(&key("pre"))?.unwrap_or_default().into(),
            tokens: metadata.get_strings(&key("tokens"))?.clone(),
            scores: metadata.find_f32s(&key("scores"))?.map(<[f32]>::to_vec),
            token_types: types.map(|types| types.into_iter().map(|n| i32::try_from(n).unwrap_or(-1)).collect()),
            merges: metadata.find_strings(&key("merges"))?.cloned(),
            bos: bos?,
            eos: eos?,
            eot: eot?,
            eom: eom?,
            unk: unk?,
            pad: pad?,
            add_bos: metadata.find_bool(&key("add_bos_token"))?,
            add_eos: metadata.find_bool(&key("add_eos_token"))?,
            add_space_prefix: metadata.find_bool(&key("add_space_prefix"))?,
            chat_template: metadata.find_str("tokenizer.chat_template")?.map(String::from),
            exact: metadata.find_str(Self::EXACT_KEY)?.map(String::from),
            beyond: Vec::new(),
        }))
    }

    /// The keys and values that a file with this tokenizer holds.
    pub fn into_entries(self) -> Vec<(String, Value)> {
        let strings = |list: Strings| Value::Array(Array::String(list));
        let mut entries = vec![
            (key("model"), Value::String(self.model)),
            (key("pre"), Value::String(self.pre)),
            (key("tokens"), strings(self.tokens)),
        ];
        entries.extend(self.scores.map(|scores| (key("scores"), Value::Array(Array::F32(scores)))));
        entries.extend(self.token_types.map(|types| (key("token_type"), Value::Array(Array::I32(types)))));
        entries.extend(self.merges.map(|merges| (key("merges"), strings(merges))));
        let ids = [self.bos, self.eos, self.eot, self.eom, self.unk, self.pad];
        for (role, id) in ROLES.iter().zip(ids) {
            entries.extend(id.map(|id| (key(&format!("{role}_token_id")), Value::U32(id))));
        }
        for (name, flag) in [
            ("add_bos_token", self.add_bos),
            ("add_eos_token", self.add_eos),
            ("add_space_prefix", self.add_space_prefix),
        ] {
            entries.extend(flag.map(|flag| (key(name), Value::Bool(flag))));
        }
        entries.extend(self.chat_template.map(|text| ("tokenizer.chat_template".into(), Value::String(text))));
        entries.extend(self.exact.map(|text| (Self::EXACT_KEY.into(), Value::String(text))));
        entries
    }
}

impl Tokenizer {
    /// The tokenizer in a GGUF file's metadata; `None` if it has none. `default_pre` is the pre-tokenizer of a byte-level
    /// vocabulary that names none.
    ///
    /// # Errors
    /// As [`GgufVocab::from_metadata`] and [`Tokenizer::from_gguf`].
    pub fn from_metadata(metadata: &Metadata, default_pre: Option<&str>) -> Result<Option<Self>> {
        let Some(mut vocab) = GgufVocab::from_metadata(metadata)? else { return Ok(None) };
        if let Some(pre) = default_pre
            && vocab.model == "gpt2"
            && ["", "default"].contains(&vocab.pre.as_str())
        {
            vocab.pre = pre.to_owned();
        }
        Self::from_gguf(&vocab).map(Some).map_err(|err| match err {
            Error::Tokenizer(problem) => Error::malformed(metadata.path(), "tokenizer", problem),
            other => other,
        })
    }
}
