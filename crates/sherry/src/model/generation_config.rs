//! `generation_config.json`: what a model's authors recommend.

use std::path::Path;

use serde_json::{Map, Value};

use crate::io::gguf::{Metadata, Value as Gguf};
use crate::{Error, Result};

/// The key for tokens that end an answer beyond those that GGUF's own keys can name: an array of ids.
pub(super) const END_IDS_KEY: &str = "sherry.eos_token_ids";
/// What llama.cpp's keys for a recommended sampling begin with.
const SAMPLING_PREFIX: &str = "general.sampling.";

/// The fields of `generation_config.json` that matter here; `None` where the file says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Begin of text.
    pub bos_token_id: Option<u32>,
    /// `false` asks for the most likely token always.
    pub do_sample: Option<bool>,
    /// As in [`SamplingParams`](crate::generate::SamplingParams).
    pub temperature: Option<f32>,
    /// As in [`SamplingParams`](crate::generate::SamplingParams).
    pub top_k: Option<usize>,
    /// As in [`SamplingParams`](crate::generate::SamplingParams).
    pub top_p: Option<f32>,
    /// As in [`SamplingParams`](crate::generate::SamplingParams).
    pub min_p: Option<f32>,
    /// As in [`SamplingParams`](crate::generate::SamplingParams).
    pub repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    /// Parses the file's bytes; `path` is for messages. Unknown fields and `null` are ignored.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the field of the wrong type.
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self> {
        let fields: Map<String, Value> = serde_json::from_slice(json)
            .map_err(|err| Error::malformed(path, "file", format!("is not a JSON object: {err}")))?;
        let reader = Reader { path, fields: &fields };
        Ok(Self {
            eos_token_ids: match reader.field("eos_token_id") {
                None => Vec::new(),
                Some(Value::Array(ids)) => ids.iter().map(|id| reader.id("eos_token_id", id)).collect::<Result<_>>()?,
                Some(id) => vec![reader.id("eos_token_id", id)?],
            },
            bos_token_id: reader.field("bos_token_id").map(|id| reader.id("bos_token_id", id)).transpose()?,
            do_sample: reader.get("do_sample", "true or false", Value::as_bool)?,
            temperature: reader.number("temperature")?,
            top_k: reader.get("top_k", "a number of tokens", |value| value.as_u64()?.try_into().ok())?,
            top_p: reader.number("top_p")?,
            min_p: reader.number("min_p")?,
            repetition_penalty: reader.number("repetition_penalty")?,
        })
    }

    /// The fields as JSON. [`parse`](Self::parse) reads them back.
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Option<Value>| fields.extend(value.map(|value| (name.to_owned(), value)));
        put("eos_token_id", Some(self.eos_token_ids.clone().into()));
        put("bos_token_id", self.bos_token_id.map(Value::from));
        put("do_sample", self.do_sample.map(Value::from));
        put("temperature", self.temperature.map(decimal));
        put("top_k", self.top_k.map(Value::from));
        put("top_p", self.top_p.map(decimal));
        put("min_p", self.min_p.map(decimal));
        put("repetition_penalty", self.repetition_penalty.map(decimal));
        Value::Object(fields)
    }

    /// The keys of a GGUF file that recommend a sampling, as llama.cpp names them. It knows no `do_sample`: where that is
    /// false the temperature is 0.
    pub fn to_gguf(&self) -> Vec<(String, Gguf)> {
        let temperature = if self.do_sample == Some(false) { Some(0.0) } else { self.temperature };
        let top_k = self.top_k.map(|top_k| Gguf::I32(i32::try_from(top_k).unwrap_or(i32::MAX)));
        let values = [
            ("temp", temperature.map(Gguf::F32)),
            ("top_k", top_k),
            ("top_p", self.top_p.map(Gguf::F32)),
            ("min_p", self.min_p.map(Gguf::F32)),
            ("penalty_repeat", self.repetition_penalty.map(Gguf::F32)),
        ];
        values.into_iter().filter_map(|(name, value)| Some((format!("{SAMPLING_PREFIX}{name}"), value?))).collect()
    }

    /// What a GGUF file recommends: the tokens that end an answer, and the sampling.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the key of the wrong type.
    pub fn from_gguf(meta: &Metadata) -> Result<Self> {
        let float = |name: &str| meta.find_f32(&format!("{SAMPLING_PREFIX}{name}"));
        let top_k = format!("{SAMPLING_PREFIX}top_k");
        // llama.cpp: 0 and less turn it off.
        let off = matches!(meta.find(&top_k), Some(Gguf::I32(..=0) | Gguf::I64(..=0)));
        let mut config = Self {
            temperature: float("temp")?,
            top_k: if off { Some(0) } else { meta.find_u64(&top_k)?.map(|k| usize::try_from(k).unwrap_or(usize::MAX)) },
            top_p: float("top_p")?,
            min_p: float("min_p")?,
            repetition_penalty: float("penalty_repeat")?,
            ..Self::default()
        };
        let mut ends = ["eos", "eot", "eom"].iter().map(|role| meta.find_token_id(role)).collect::<Result<Vec<_>>>()?;
        let more = meta.find_i64s(END_IDS_KEY)?.unwrap_or_default();
        ends.extend(more.into_iter().map(|id| u32::try_from(id).ok()));
        for id in ends.into_iter().flatten() {
            if !config.eos_token_ids.contains(&id) {
                config.eos_token_ids.push(id);
            }
        }
        Ok(config)
    }
}

/// The shortest decimal that reads back as this f32.
fn decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().unwrap_or(f64::from(value)).into()
}

struct Reader<'j> {
    path: &'j Path,
    fields: &'j Map<String, Value>,
}

impl<'j> Reader<'j> {
    fn field(&self, name: &str) -> Option<&'j Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn bad(&self, name: &str, value: &Value, expected: &str) -> Error {
        let shown: String = value.to_string().chars().take(40).collect();
        Error::malformed(self.path, format!("field '{name}'"), format!("is {shown}; expected {expected}"))
    }

    fn get<T>(&self, name: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        self.field(name).map(|value| read(value).ok_or_else(|| self.bad(name, value, expected))).transpose()
    }

    fn number(&self, name: &str) -> Result<Option<f32>> {
        self.get(name, "a number", |value| {
            value.as_f64().map(|number| number as f32).filter(|number| number.is_finite())
        })
    }

    fn id(&self, name: &str, value: &Value) -> Result<u32> {
        value.as_u64().and_then(|id| id.try_into().ok()).ok_or_else(|| self.bad(name, value, "a token id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<GenerationConfig> {
        GenerationConfig::parse(Path::new("generation_config.json"), json.as_bytes())
    }

    #[test]
    fn real_files_parse() {
        let llama = r#"{"bos_token_id": 128000, "do_sample": true, "eos_token_id": [128001, 128008, 128009],
            "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.45.0.dev0"}"#;
        let config = parse(llama).unwrap();
        assert_eq!(config.eos_token_ids, [128_001, 128_008, 128_009]);
        assert_eq!((config.temperature, config.top_p, config.top_k), (Some(0.6), Some(0.9), None));
        let one = parse(r#"{"eos_token_id": 2, "top_k": 20, "do_sample": false, "temperature": null}"#).unwrap();
        assert_eq!((one.eos_token_ids.as_slice(), one.top_k, one.temperature), (&[2][..], Some(20), None));
        assert_eq!(one.do_sample, Some(false));
        assert_eq!(parse("{}").unwrap(), GenerationConfig::default());
    }

    #[test]
    fn wrong_types_are_named() {
        for (json, expected) in [
            (r#"{"eos_token_id": "x"}"#, "'eos_token_id'"),
            (r#"{"eos_token_id": [1, -1]}"#, "'eos_token_id'"),
            (r#"{"eos_token_id": 99999999999}"#, "'eos_token_id'"),
            (r#"{"temperature": "hot"}"#, "'temperature'"),
            (r#"{"temperature": 1e300}"#, "'temperature'"),
            (r#"{"top_k": -1}"#, "'top_k'"),
            (r#"{"top_k": 1.5}"#, "'top_k'"),
            (r#"{"do_sample": 1}"#, "'do_sample'"),
            ("[]", "object"),
            ("", "object"),
            (r#"{"top_p": 1e400}"#, ""),
        ] {
            let err = parse(json).unwrap_err().to_string();
            assert!(err.contains(expected) && err.contains("generation_config.json"), "{json}: {err}");
        }
    }
}
