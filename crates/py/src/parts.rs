//! What a model consists of, and how it is asked for.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;
use serde_json::Value;
use sherry::generate::TokenSet;
use sherry::model::{Decoder, GenerationConfig};
use sherry::{Isa, Precision};
use sherry_kernels::Engine;
use sherry_measure::eval::DecoderLm;

use crate::work::detached;

/// What does not change while a model lives: shared by its sessions, and by processes after a fork.
pub struct Parts {
    pub model: Arc<sherry::model::Model>,
    pub tokenizer: Arc<sherry::Tokenizer>,
    pub generation: GenerationConfig,
    /// Tokens that end an answer.
    pub end: Arc<[u32]>,
    /// Tokens that have a text, where some ids have none.
    pub usable: Option<Arc<TokenSet>>,
    pub engine: sherry::batch::Options,
    pub threads: usize,
    pub isa: Isa,
    pub precision: Precision,
    pub path: PathBuf,
    pub description: String,
    pub config: Value,
    pub sizes: sherry_convert::Sizes,
}

impl Parts {
    /// Token ids: text as the model expects it, or a list of whole numbers (also of numpy or torch).
    pub fn prompt(&self, prompt: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        let py = prompt.py();
        if prompt.is_instance_of::<PyString>() {
            let text: String = prompt.extract()?;
            return detached(py, || Ok(self.tokenizer.encode(&text, true, false)?));
        }
        token_ids(prompt)
    }

    /// Logits per token.
    pub fn vocab(&self) -> usize {
        self.model.config.vocab
    }

    /// A decoder with threads of its own.
    pub fn decoder(&self) -> Decoder {
        let engine = Engine::new(self.isa, self.threads, self.precision);
        Decoder::new(Arc::clone(&self.model), engine).with_context(self.engine.context)
    }

    /// The evaluator's view of the model.
    pub fn lm(&self) -> DecoderLm {
        DecoderLm::new(self.decoder(), Arc::clone(&self.tokenizer), self.engine.kv, self.engine.context)
    }
}

/// A list of whole numbers, also one of numpy or torch.
pub fn token_ids(ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let wrong = || PyTypeError::new_err("expected a str or a sequence of token ids");
    let mut found = Vec::new();
    for id in ids.try_iter().map_err(|_| wrong())? {
        let id = id?;
        let problem = |_| {
            let shown: String =
                id.repr().map_or_else(|_| "?".to_owned(), |repr| repr.to_string()).chars().take(80).collect();
            PyValueError::new_err(format!("token id {shown} at position {}: not a whole number from 0", found.len()))
        };
        found.push(id.extract::<u32>().map_err(problem)?);
    }
    Ok(found)
}

/// The value that goes by a name.
pub fn one_of<T: Copy>(option: &str, name: &str, values: &[(&str, T)]) -> PyResult<T> {
    let found = values.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        PyValueError::new_err(format!("{option} is {name:?}; expected one of {}", known.join(", ")))
    })
}
