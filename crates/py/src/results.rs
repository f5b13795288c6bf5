//! Results are dataclasses written in Python (`sherry._results`); here they are filled.

use pyo3::prelude::*;
use sherry::llm::Statistics;
use sherry::{Finish, Generated};

/// A class of `sherry._results`.
fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("sherry._results")?.getattr(name)
}

/// `sherry.Completion`.
pub fn completion<'py>(py: Python<'py>, generated: &Generated) -> PyResult<Bound<'py, PyAny>> {
    let Statistics { prompt_tokens, reused_tokens, generated_tokens, prompt_time, generation_time, .. } =
        generated.statistics;
    let usage = class(py, "Usage")?.call1((prompt_tokens, reused_tokens, generated_tokens))?;
    let timings = class(py, "Timings")?.call1((prompt_time.as_secs_f64(), generation_time.as_secs_f64()))?;
    let finish = match generated.finish {
        Some(Finish::Stop) => "stop",
        Some(Finish::Length) => "length",
        Some(Finish::ContextFull) => "context",
        None => "cancelled",
    };
    class(py, "Completion")?.call1((&generated.text, generated.tokens.clone(), finish, usage, timings))
}

/// `sherry.Piece`.
pub fn piece<'py>(py: Python<'py>, text: &str, tokens: &[u32]) -> PyResult<Bound<'py, PyAny>> {
    class(py, "Piece")?.call1((text, tokens.to_vec()))
}

/// `sherry.Perplexity`.
pub fn perplexity<'py>(py: Python<'py>, value: f64, stderr: Option<f64>, tokens: usize) -> PyResult<Bound<'py, PyAny>> {
    class(py, "Perplexity")?.call1((value, stderr, tokens))
}
