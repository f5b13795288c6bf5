//! What is served: a loaded model with all that requests need to know of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use sherry::chat::ChatTemplate;
use sherry::generate::SamplingParams;
use sherry::tokenizer::Tokenizer;
use utoipa::ToSchema;

use crate::error::ApiError;

/// A loaded model as requests see it.
pub struct Served {
    /// Names under which it may be asked for; the first is its own.
    pub ids: Vec<String>,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// Its size and shape.
    pub info: ModelInfo,
    /// The engine that runs it.
    pub engine: EngineInfo,
    /// Text to tokens.
    pub tokenizer: Arc<Tokenizer>,
    /// Conversations to prompts; none for models that continue texts.
    pub template: Option<ChatTemplate>,
    /// Sampling where a request says nothing.
    pub defaults: SamplingParams,
    /// Tokens that end an answer.
    pub end: Arc<[u32]>,
    /// Most answers to one prompt: each is a sequence that runs.
    pub max_choices: usize,
    /// Equal for equal bits.
    pub fingerprint: String,
}

/// Size and shape of a model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelInfo {
    /// Its name.
    pub id: String,
    /// Tokens of context.
    pub context: usize,
    /// Tokens of its vocabulary.
    pub vocabulary: usize,
    /// Weights.
    pub parameters: u64,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Bits per weight over all tensors.
    pub bits_per_weight: f64,
}

/// The engine that runs a model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EngineInfo {
    /// The instruction set.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Type of the key-value cache.
    pub kv: String,
    /// Arithmetic with quantized weights: `int8` or `f32`.
    pub precision: String,
    /// How the output head is computed: `whole` or `two-stage`.
    pub head: String,
}

impl Served {
    /// Refuses a name that is not the model's; empty and absent mean the model.
    ///
    /// # Errors
    /// 404 `model_not_found`.
    pub fn check_name(&self, asked: Option<&str>, any: bool) -> Result<(), ApiError> {
        match asked {
            None | Some("") => Ok(()),
            Some(name) if any || self.ids.iter().any(|id| id == name) => Ok(()),
            Some(name) => Err(ApiError::model_not_found(name, &self.ids)),
        }
    }

    /// The model's own name.
    pub fn id(&self) -> &str {
        &self.ids[0]
    }

    /// Sampling defaults by field, for `/props`.
    pub fn default_fields(&self) -> BTreeMap<&'static str, f64> {
        // Through text, so that 0.8 stays 0.8.
        let exact = |value: f32| value.to_string().parse().unwrap_or(f64::from(value));
        let SamplingParams { temperature, top_k, top_p, min_p, repetition_penalty, .. } = self.defaults;
        BTreeMap::from([
            ("temperature", exact(temperature)),
            ("top_k", top_k as f64),
            ("top_p", exact(top_p)),
            ("min_p", exact(min_p)),
            ("repetition_penalty", exact(repetition_penalty)),
        ])
    }
}
