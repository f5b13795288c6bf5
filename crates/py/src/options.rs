//! Options of a generation, as keyword arguments.

use std::sync::Arc;

use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict};
use sherry::SamplingParams;
use sherry::batch::Job;
use sherry::generate::{Sampler, StopStrings};

use crate::errors::exception;
use crate::parts::Parts;

/// Their names; `sherry._options` describes them for type checkers.
pub const NAMES: [&str; 13] = [
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "logit_bias",
    "logits_processor",
    "stop_event",
];

/// How to generate.
pub struct Options {
    /// Most tokens; `None`: until the model ends its text or the context is full.
    pub max_new_tokens: Option<usize>,
    pub sampling: SamplingParams,
    pub logit_bias: Vec<(u32, f32)>,
    pub stop: StopStrings,
    /// Called with the tokens so far and their logits before each token is picked.
    pub logits_processor: Option<Py<PyAny>>,
    /// Ends the generation when it is set.
    pub stop_event: Option<Py<PyAny>>,
}

impl Options {
    /// Reads keyword arguments; what is not given comes from the model's recommendations, then from customary values.
    pub fn new(given: Option<&Bound<'_, PyDict>>, parts: &Parts) -> PyResult<Self> {
        let given = Given(given);
        given.check_names()?;
        let mut decided = Vec::new();
        let mut float = |name: &'static str, default: f32| -> PyResult<f32> {
            let value = given.number::<f32>(name)?;
            decided.extend(value.is_some().then_some(name));
            Ok(value.unwrap_or(default))
        };
        let base = SamplingParams::default();
        let mut sampling = SamplingParams {
            temperature: float("temperature", base.temperature)?,
            top_p: float("top_p", base.top_p)?,
            min_p: float("min_p", base.min_p)?,
            repetition_penalty: float("repetition_penalty", base.repetition_penalty)?,
            presence_penalty: float("presence_penalty", base.presence_penalty)?,
            frequency_penalty: float("frequency_penalty", base.frequency_penalty)?,
            ..base
        };
        if let Some(top_k) = given.number::<usize>("top_k")? {
            sampling.top_k = top_k;
            decided.push("top_k");
        }
        sampling.seed = given.number::<u64>("seed")?.unwrap_or(0);
        if sampling.temperature == 0.0 {
            // The most likely token is taken, whatever the others would say.
            decided.extend(["top_k", "top_p", "min_p"]);
        }
        let sampling = sampling.check().and_then(|params| params.recommended(&parts.generation, &decided));
        let stop: Vec<String> = match given.get("stop")? {
            None => Vec::new(),
            Some(stop) => match stop.extract::<String>() {
                Ok(one) => vec![one],
                Err(_) => stop.extract().map_err(|_| PyTypeError::new_err("stop: expected a str or a list of str"))?,
            },
        };
        let logit_bias: Vec<(u32, f32)> = match given.get("logit_bias")? {
            None => Vec::new(),
            Some(bias) => {
                let wrong = |_| PyTypeError::new_err("logit_bias: expected a dict of token ids and numbers");
                let bias: std::collections::BTreeMap<u32, f32> = bias.extract().map_err(wrong)?;
                bias.into_iter().collect()
            }
        };
        let sampling = sampling.map_err(|error| exception(&error))?;
        let vocab = parts.vocab();
        if let Some((id, _)) = logit_bias.iter().find(|(id, _)| *id as usize >= vocab) {
            return Err(PyValueError::new_err(format!("logit_bias: token {id} is not in the vocabulary of {vocab}")));
        }
        Sampler::with_bias(sampling, &logit_bias)
            .map_err(|error| PyValueError::new_err(format!("logit_bias: {error}")))?;
        let callable = given.get("logits_processor")?;
        if callable.as_ref().is_some_and(|callable| !callable.is_callable()) {
            return Err(PyTypeError::new_err("logits_processor: expected a callable"));
        }
        let event = given.get("stop_event")?;
        if event.as_ref().is_some_and(|event| !event.hasattr("is_set").unwrap_or(false)) {
            return Err(PyTypeError::new_err("stop_event: expected a threading.Event, or what has its is_set()"));
        }
        Ok(Self {
            max_new_tokens: given.number("max_new_tokens")?,
            sampling,
            logit_bias,
            stop: StopStrings::new(stop).map_err(|error| exception(&error))?,
            logits_processor: callable.map(Bound::unbind),
            stop_event: event.map(Bound::unbind),
        })
    }

    /// The job that continues `prompt` so.
    pub fn job(&self, prompt: &[u32], end: &Arc<[u32]>) -> Job {
        let mut job = Job::new(prompt, self.max_new_tokens.unwrap_or(usize::MAX), self.sampling);
        job.logit_bias = self.logit_bias.as_slice().into();
        job.stop = self.stop.clone();
        job.end = Arc::clone(end);
        job
    }
}

/// Keyword arguments; None counts as not given.
struct Given<'a, 'py>(Option<&'a Bound<'py, PyDict>>);

impl<'py> Given<'_, 'py> {
    fn check_names(&self) -> PyResult<()> {
        for key in self.0.into_iter().flat_map(|given| given.keys()) {
            let name: String = key.extract()?;
            if !NAMES.contains(&name.as_str()) {
                return Err(PyTypeError::new_err(format!("unknown option '{name}'; there are {}", NAMES.join(", "))));
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(given) = self.0 else { return Ok(None) };
        Ok(given.get_item(name)?.filter(|value| !value.is_none()))
    }

    fn number<T: FromPyObjectOwned<'py>>(&self, name: &str) -> PyResult<Option<T>> {
        let Some(value) = self.get(name)? else { return Ok(None) };
        let wrong = || {
            let shown = value.repr().map_or_else(|_| "?".to_owned(), |repr| repr.to_string());
            let short: String = shown.chars().take(80).collect();
            PyValueError::new_err(format!("{name} is {short}; expected a number in its range"))
        };
        if value.is_instance_of::<PyBool>() {
            return Err(wrong());
        }
        value.extract::<T>().map(Some).map_err(|_| wrong())
    }
}
