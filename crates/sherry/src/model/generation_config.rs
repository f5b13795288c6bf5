//! `generation_config.json`: what a model's authors recommend.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::io::gguf::{Metadata, Value as Gguf};
use crate::io::json;
use crate::io::read_regular;
use crate::{Error, Result};

/// The key for tokens that end an answer beyond those that GGUF's own keys can name: an array of ids.
pub(super) const END_IDS_KEY: &str = "sherry.eos_token_ids";
/// What llama.cpp's keys for a recommended sampling begin with.
const SAMPLING_PREFIX: &str = "general.sampling.";
/// The field of the tokens that end an answer.
const ENDS: &str = "eos_token_id";

/// The fields of `generation_config.json` that matter here; `None` where the file says nothing.
///
/// What is wrong with them matters only where they would be used, so reading always succeeds and [`faults`](Self::faults)
/// says what could not be understood.
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
    /// The file that says so; empty when there is none.
    pub path: PathBuf,
    /// What could not be understood.
    pub faults: Vec<GenerationFault>,
}

/// Something in a model's recommendations that could not be understood; the field counts as not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationFault {
    /// The field, by its name in `generation_config.json`; `None` for the whole file.
    pub field: Option<&'static str>,
    /// What is wrong, with the file and the field.
    pub problem: String,
}

impl GenerationFault {
    /// Whether this leaves open which tokens end an answer.
    pub fn concerns_ends(&self) -> bool {
        self.field.is_none_or(|field| field == ENDS)
    }
}

impl GenerationConfig {
    /// Reads the file `path`. An empty one says nothing.
    pub fn read(path: &Path) -> Self {
        Self::from_bytes(path, read_regular(path, json::MAX_JSON_BYTES))
    }

    /// [`read`](Self::read) of what reading the file came to.
    pub(super) fn from_bytes(path: &Path, bytes: Result<Vec<u8>>) -> Self {
        match bytes.and_then(
            |bytes| if bytes.trim_ascii().is_empty() { Ok(None) } else { json::parse(path, &bytes).map(Some) },
        ) {
            Ok(Some(value)) => Self::from_json(path, &value),
            Ok(None) => Self::default(),
            Err(error) => Self::unreadable(path, &error),
        }
    }

    /// What the file's JSON says; `path` is for messages. Unknown fields and `null` are ignored, and so are -1 as a token id
    /// and as `top_k`: some writers' word for "none".
    pub fn from_json(path: &Path, value: &Value) -> Self {
        let Value::Object(fields) = value else {
            return Self::unreadable(path, &Error::malformed(path, "file", "is not a JSON object"));
        };
        let reader = Reader { path, fields };
        let mut faults = Faults(Vec::new());
        let top_k = |value: &Value| if value.as_i64() == Some(-1) { Some(0) } else { value.as_u64()?.try_into().ok() };
        let float = |value: &Value| value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
        let number = |faults: &mut Faults, field| faults.keep(field, reader.get(field, "a number", float));
        Self {
            temperature: number(&mut faults, "temperature"),
            top_p: number(&mut faults, "top_p"),
            min_p: number(&mut faults, "min_p"),
            repetition_penalty: number(&mut faults, "repetition_penalty"),
            eos_token_ids: faults.keep(ENDS, reader.get(ENDS, "a token id or a list of them", ids)).unwrap_or_default(),
            bos_token_id: faults.keep("bos_token_id", reader.get("bos_token_id", "a token id", id)).flatten(),
            do_sample: faults.keep("do_sample", reader.get("do_sample", "true or false", Value::as_bool)),
            top_k: faults.keep("top_k", reader.get("top_k", "a number of tokens, 0 or -1 for all of them", top_k)),
            path: path.to_path_buf(),
            faults: faults.0,
        }
    }

    fn unreadable(path: &Path, error: &Error) -> Self {
        let fault = GenerationFault { field: None, problem: error.to_string() };
        Self { path: path.to_path_buf(), faults: vec![fault], ..Self::default() }
    }

    /// The fields as JSON. [`from_json`](Self::from_json) reads them back.
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
    pub fn from_gguf(meta: &Metadata) -> Self {
        let mut faults = Faults(Vec::new());
        let number = |faults: &mut Faults, name: &str, field| {
            let key = format!("{SAMPLING_PREFIX}{name}");
            faults.keep(field, meta.find_f32(&key))
        };
        let mut config = Self {
            temperature: number(&mut faults, "temp", "temperature"),
            top_p: number(&mut faults, "top_p", "top_p"),
            min_p: number(&mut faults, "min_p", "min_p"),
            repetition_penalty: number(&mut faults, "penalty_repeat", "repetition_penalty"),
            path: meta.path().to_path_buf(),
            ..Self::default()
        };
        let key = format!("{SAMPLING_PREFIX}top_k");
        let top_k = match meta.find(&key) {
            // llama.cpp: 0 and less turn it off.
            Some(Gguf::I8(..=0) | Gguf::I16(..=0) | Gguf::I32(..=0) | Gguf::I64(..=0)) => Ok(Some(0)),
            _ => meta.find_u64(&key),
        };
        config.top_k = faults.keep("top_k", top_k).map(|top_k| usize::try_from(top_k).unwrap_or(usize::MAX));
        let named =
            ["eos", "eot", "eom"].map(|role| meta.find_token_id(role).map(|id| id.map(|id| vec![i64::from(id)])));
        for ids in named.into_iter().chain([meta.find_i64s(END_IDS_KEY)]) {
            for id in faults.keep(ENDS, ids).into_iter().flatten().filter_map(|id| u32::try_from(id).ok()) {
                if !config.eos_token_ids.contains(&id) {
                    config.eos_token_ids.push(id);
                }
            }
        }
        config.faults = faults.0;
        config
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

impl Reader<'_> {
    fn get<T>(&self, name: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.fields.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
        let found = read(value).ok_or_else(|| {
            let shown: String = value.to_string().chars().take(40).collect();
            Error::malformed(self.path, format!("field '{name}'"), format!("is {shown}; expected {expected}"))
        });
        found.map(Some)
    }
}

/// A token id; -1 is none.
fn id(value: &Value) -> Option<Option<u32>> {
    match value.as_i64()? {
        -1 => Some(None),
        id => u32::try_from(id).ok().map(Some),
    }
}

/// One token id or several.
fn ids(value: &Value) -> Option<Vec<u32>> {
    let found: Option<Vec<Option<u32>>> = match value {
        Value::Array(ids) => ids.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    };
    found.map(|ids| ids.into_iter().flatten().collect())
}

/// Collects what could not be understood.
struct Faults(Vec<GenerationFault>);

impl Faults {
    /// What was found; a field with a fault counts as not there.
    fn keep<T>(&mut self, field: &'static str, found: Result<Option<T>>) -> Option<T> {
        found.unwrap_or_else(|error| {
            self.0.push(GenerationFault { field: Some(field), problem: error.to_string() });
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> GenerationConfig {
        GenerationConfig::from_json(Path::new("generation_config.json"), &serde_json::from_str(json).unwrap())
    }

    #[test]
    fn real_files_parse() {
        let llama = r#"{"bos_token_id": 128000, "do_sample": true, "eos_token_id": [128001, 128008, 128009],
            "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.45.0.dev0"}"#;
        let config = parse(llama);
        assert_eq!(config.eos_token_ids, [128_001, 128_008, 128_009]);
        assert_eq!((config.temperature, config.top_p, config.top_k), (Some(0.6), Some(0.9), None));
        let one = parse(r#"{"eos_token_id": 2, "top_k": 20, "do_sample": false, "temperature": null}"#);
        assert_eq!((one.eos_token_ids.as_slice(), one.top_k, one.temperature), (&[2][..], Some(20), None));
        assert_eq!(one.do_sample, Some(false));
        assert_eq!(
            parse("{}"),
            GenerationConfig { path: "generation_config.json".into(), ..GenerationConfig::default() }
        );
    }

    #[test]
    fn none_is_written_in_several_ways() {
        let none = parse(r#"{"eos_token_id": -1, "bos_token_id": -1, "top_k": -1, "top_p": null}"#);
        assert_eq!(none, GenerationConfig { top_k: Some(0), ..parse("{}") });
        assert_eq!(parse(r#"{"eos_token_id": [1, -1, 2]}"#).eos_token_ids, [1, 2]);
        for written in ["", " \n"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("generation_config.json");
            std::fs::write(&path, written).unwrap();
            assert_eq!(GenerationConfig::read(&path), GenerationConfig::default());
        }
        let from = |entries| GenerationConfig::from_gguf(&Metadata::new(Path::new("m.gguf"), entries));
        let minus = [Gguf::I8(-1), Gguf::I16(-1), Gguf::I32(-1), Gguf::I64(-1)];
        for none in minus.clone().into_iter().chain([Gguf::U32(u32::MAX), Gguf::U64(u64::MAX)]) {
            let entries = ["eos", "eot", "eom"].map(|role| (format!("tokenizer.ggml.{role}_token_id"), none.clone()));
            assert_eq!(from(entries.into()), from(Vec::new()), "{none:?}");
        }
        for none in minus {
            let config = from(vec![("general.sampling.top_k".to_owned(), none)]);
            assert_eq!((config.top_k, config.faults.len()), (Some(0), 0));
        }
    }

    #[test]
    fn faults_are_named_and_the_rest_is_read() {
        for (json, field) in [
            (r#"{"eos_token_id": "x", "top_k": 7}"#, ENDS),
            (r#"{"eos_token_id": [1, -2], "top_k": 7}"#, ENDS),
            (r#"{"eos_token_id": 99999999999, "top_k": 7}"#, ENDS),
            (r#"{"bos_token_id": 1.5, "top_k": 7}"#, "bos_token_id"),
            (r#"{"temperature": "hot", "top_k": 7}"#, "temperature"),
            (r#"{"temperature": 1e300, "top_k": 7}"#, "temperature"),
            (r#"{"top_p": [], "top_k": 7}"#, "top_p"),
            (r#"{"min_p": false, "top_k": 7}"#, "min_p"),
            (r#"{"repetition_penalty": {}, "top_k": 7}"#, "repetition_penalty"),
            (r#"{"top_k": -2}"#, "top_k"),
            (r#"{"top_k": 1.5}"#, "top_k"),
            (r#"{"do_sample": 1, "top_k": 7}"#, "do_sample"),
        ] {
            let config = parse(json);
            let [fault] = &config.faults[..] else { panic!("{json}: {config:?}") };
            assert_eq!(fault.field, Some(field));
            assert!(
                fault.problem.starts_with(&format!("generation_config.json: field '{field}'")),
                "{json}: {fault:?}"
            );
            assert_eq!(config.top_k, if field == "top_k" { None } else { Some(7) });
            assert_eq!(fault.concerns_ends(), field == ENDS);
        }
        assert!(parse("[]").faults[0].concerns_ends());
    }

    #[test]
    fn faults_of_gguf_files_name_the_key() {
        let entries = vec![
            ("general.sampling.temp".to_owned(), Gguf::String("hot".into())),
            ("general.sampling.top_k".to_owned(), Gguf::F32(1.0)),
            ("tokenizer.ggml.eot_token_id".to_owned(), Gguf::String("x".into())),
            ("tokenizer.ggml.eos_token_id".to_owned(), Gguf::U32(3)),
        ];
        let config = GenerationConfig::from_gguf(&Metadata::new(Path::new("m.gguf"), entries));
        let fields: Vec<_> = config.faults.iter().map(|fault| fault.field.unwrap()).collect();
        assert_eq!(fields, ["temperature", "top_k", ENDS]);
        assert!(config.faults[0].problem.starts_with("m.gguf: key 'general.sampling.temp'"));
        assert_eq!(config.eos_token_ids, [3]);
    }
}
