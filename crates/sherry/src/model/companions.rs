//! What a checkpoint keeps beside its weights: configuration and tokenizer, in the form of either container.

use serde_json::{Value as Json, json};

use super::checkpoint::{Checkpoint, Container};
use super::generation_config::END_IDS_KEY;
use super::{ArchConfig, Family, RopeLayout, RopeScaling, config_hf, rope_factors};
use crate::io::gguf::{Array, Value};
use crate::tokenizer::GgufVocab;
use crate::{Error, Result};

/// Keys of a GGUF file with their values.
type Entries = Vec<(String, Value)>;

/// The files of a Hugging Face folder that are copied as they are; `config.json` is not among them.
const COMPANIONS: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];
/// No tokenizer comes near this; what is larger is something else under its name.
const MAX_COMPANION_BYTES: u64 = 256 << 20;

impl Checkpoint {
    /// The metadata key of GGUF files whose channels were permuted for stride-16 quads.
    pub const BRIDGE_KEY: &str = "sherry.channel_permutation";
    /// The value of [`BRIDGE_KEY`](Self::BRIDGE_KEY).
    pub const BRIDGE_VALUE: &str = "quad-bridge";

    /// Whether this is a GGUF file that says that its channels were permuted (see `sherry_convert::Bridge`).
    pub fn is_bridged(&self) -> bool {
        match self.container() {
            Container::HuggingFace { .. } => false,
            Container::Gguf(file) => {
                matches!(file.metadata().find(Self::BRIDGE_KEY), Some(Value::String(value)) if value == Self::BRIDGE_VALUE)
            }
        }
    }

    /// The configuration of the same model in safetensors form: what [`config_json`](Self::config_json) describes.
    pub fn hf_config(&self) -> ArchConfig {
        match self.container() {
            Container::HuggingFace { .. } => self.config().clone(),
            Container::Gguf(_) => in_hf_terms(self.config()),
        }
    }

    /// `config.json`: the one there is, or one made from the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the configuration cannot be expressed.
    pub fn config_json(&self) -> Result<Json> {
        match self.container() {
            Container::HuggingFace { config, .. } => Ok(config.clone()),
            Container::Gguf(_) => {
                let what = "its rotary frequencies have no form in config.json";
                let config = self.hf_config();
                let mut config = config_hf::write(&config).ok_or_else(|| Error::unsupported(self.path(), what))?;
                if let (Json::Object(fields), Ok(tokenizer)) = (&mut config, self.tokenizer()) {
                    let ids = [("bos_token_id", tokenizer.bos()), ("eos_token_id", tokenizer.eos())];
                    for (key, id) in ids.into_iter().filter_map(|(key, id)| Some((key, id?))) {
                        fields.insert(key.to_owned(), json!(id));
                    }
                }
                Ok(config)
            }
        }
    }

    /// Name and contents of the files beside `config.json` and the weights.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Tokenizer`] when a GGUF tokenizer cannot be expressed; [`Error::Invalid`] for a key of a GGUF
    /// file about sampling that cannot be understood.
    pub fn companion_files(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        match self.container() {
            Container::HuggingFace { files, .. } => COMPANIONS
                .into_iter()
                .filter_map(|name| Some(files.read(name, MAX_COMPANION_BYTES).transpose()?.map(|bytes| (name, bytes))))
                .collect(),
            Container::Gguf(file) => {
                if file.metadata().find("tokenizer.ggml.tokens").is_none() {
                    return Ok(Vec::new());
                }
                let tokenizer = self.tokenizer()?;
                if let Some(fault) = self.generation().faults.first() {
                    return Err(Error::Invalid(fault.problem.clone()));
                }
                Ok(vec![
                    ("tokenizer.json", tokenizer.to_json()?.into_bytes()),
                    ("tokenizer_config.json", tokenizer.to_config_json().into_bytes()),
                    ("generation_config.json", format!("{}\n", self.generation().to_json()).into_bytes()),
                ])
            }
        }
    }

    /// What a GGUF file made from this checkpoint says about text: the keys of the tokenizer, none when there is no
    /// tokenizer, those of the tokens that end an answer and of the recommended sampling; and remarks for the user.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the folder when GGUF cannot express the tokenizer.
    pub fn text_metadata(&self) -> Result<(Entries, Vec<String>)> {
        let files = match self.container() {
            Container::Gguf(file) => {
                let kept = |key: &str| {
                    let prefixes = ["tokenizer.", "general.sampling.", "sherry.tokenizer", END_IDS_KEY];
                    prefixes.iter().any(|prefix| key.starts_with(prefix))
                };
                let entries = file.metadata().entries().iter();
                return Ok((entries.filter(|(key, _)| kept(key)).cloned().collect(), Vec::new()));
            }
            Container::HuggingFace { files, .. } => files,
        };
        let generation = self.generation();
        let mut entries = Vec::new();
        let mut notes = Vec::new();
        let mut ends = generation.eos_token_ids.clone();
        if ["tokenizer.json", "tokenizer.model"].iter().any(|name| files.contains(name)) {
            let tokenizer = self.tokenizer()?;
            let mut vocab = tokenizer.to_gguf().map_err(|error| match error {
                Error::Tokenizer(problem) => Error::malformed(files.path(), "tokenizer", problem),
                other => other,
            })?;
            // Every reader ends an answer at these; llama.cpp knows their other texts too.
            ends.retain(|id| !tokenizer.end_ids().contains(id) && tokenizer.is_token(*id));
            for slot in [&mut vocab.eos, &mut vocab.eot, &mut vocab.eom] {
                if slot.is_none() && !ends.is_empty() {
                    *slot = Some(ends.remove(0));
                }
            }
            if !vocab.beyond.is_empty() {
                notes.push(format!(
                    "GGUF's own keys cannot say all of this tokenizer ({}): the rest stands under {}, and programs that do \
                     not know that key may cut some texts differently",
                    vocab.beyond.join(", "),
                    GgufVocab::EXACT_KEY
                ));
            }
            entries = vocab.into_entries();
        } else {
            notes.push("the folder has no tokenizer, so the GGUF file has none: it takes token ids only".to_owned());
        }
        if !ends.is_empty() {
            notes.push(format!(
                "more tokens end an answer than GGUF's own keys can name: {ends:?} stand under {END_IDS_KEY}, and programs \
                 that do not know that key do not stop there"
            ));
            entries.push((END_IDS_KEY.to_owned(), Value::Array(Array::U32(ends))));
        }
        let lost = generation.faults.iter().map(|fault| format!("{}: the GGUF file says nothing of it", fault.problem));
        notes.extend(lost);
        entries.extend(generation.to_gguf());
        Ok((entries, notes))
    }
}

/// `config` of a GGUF file as it is once its tensors are in safetensors form.
fn in_hf_terms(config: &ArchConfig) -> ArchConfig {
    let mut config = config.clone();
    config.rope.layout = RopeLayout::Halves;
    config.norm_plus_one = config.family == Family::Gemma3;
    if let RopeScaling::Factors(factors) = &config.rope.scaling {
        // GGUF keeps only the result of LLaMA 3's scaling. Its two published parameter sets can be told apart by it.
        let published = [8.0, 32.0].map(|factor| RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        });
        let close = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3 * b);
        let matching = published.into_iter().find(|scaling| {
            let mut candidate = config.clone();
            candidate.rope.scaling = scaling.clone();
            rope_factors(&candidate).first().is_some_and(|(_, computed)| close(factors, computed))
        });
        if let Some(scaling) = matching {
            config.rope.scaling = scaling;
        }
    }
    config
}
