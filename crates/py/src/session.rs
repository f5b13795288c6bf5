//! Sequences that a user steers.

use std::sync::Arc;

use numpy::{IntoPyArray as _, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::options::Options;
use crate::parts::Parts;
use crate::process::check_process;
use crate::sequence::{Direct, Sequence};
use crate::stream::{Source, Stream};
use crate::work::{Watch, detached};

/// A sequence of tokens with a cache of its own: feed it, look at logits, go back, generate.
#[pyclass(frozen, module = "sherry")]
pub struct Session {
    sequence: Arc<Sequence>,
    parts: Arc<Parts>,
    process: u32,
}

impl Session {
    pub fn new(sequence: Sequence, parts: Arc<Parts>) -> Self {
        Self { sequence: Arc::new(sequence), parts, process: std::process::id() }
    }

    fn check(&self) -> PyResult<()> {
        check_process(self.process, "session")
    }
}

#[pymethods]
impl Session {
    /// Appends token ids and returns the logits of what may come next: float32, one per token of the vocabulary.
    fn feed<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        self.check()?;
        let ids = self.parts.prompt(ids)?;
        let mut watch = Watch::new(py, None)?;
        let logits = detached(py, || self.sequence.feed(&ids, || watch.stopped().map(drop)))?;
        Ok(logits.into_pyarray(py))
    }

    /// Forgets all tokens from position `n` on.
    fn truncate(&self, py: Python<'_>, n: usize) -> PyResult<()> {
        self.check()?;
        detached(py, || self.sequence.truncate(n))
    }

    /// How many tokens it holds.
    #[getter]
    fn position(&self, py: Python<'_>) -> PyResult<usize> {
        self.check()?;
        detached(py, || Ok(self.sequence.tokens().len()))
    }

    /// The tokens it holds.
    #[getter]
    fn tokens(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        self.check()?;
        detached(py, || Ok(self.sequence.tokens()))
    }

    /// How many tokens it can hold.
    #[getter]
    fn context(&self, py: Python<'_>) -> PyResult<usize> {
        self.check()?;
        detached(py, || self.sequence.capacity())
    }

    /// Appends `prompt`, text or token ids, and generates what comes after it; both stay in the session. Options as for
    /// `Model.generate`. Text is encoded as it is: nothing is put before it.
    #[pyo3(signature = (prompt = None, *, stream = false, interval = 0.02, **options))]
    fn generate<'py>(
        &self,
        py: Python<'py>,
        prompt: Option<&Bound<'py, PyAny>>,
        stream: bool,
        interval: f64,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.check()?;
        let options = Options::new(options, &self.parts)?;
        let watch = Watch::new(py, options.stop_event.as_ref().map(|event| event.clone_ref(py)))?;
        let prompt = prompt.map_or(Ok(Vec::new()), |prompt| match prompt.extract::<String>() {
            Ok(text) => detached(py, || Ok(self.parts.tokenizer.encode(&text, false, false)?)),
            Err(_) => self.parts.prompt(prompt),
        })?;
        let (tokens, sequence) = (prompt.len(), Arc::clone(&self.sequence));
        let direct = detached(py, || Direct::new(sequence, prompt, options))?;
        let generation = Stream::new(Source::Direct(Box::new(direct)), tokens, watch, interval);
        match stream {
            true => Ok(Bound::new(py, generation)?.into_any()),
            false => generation.complete(py),
        }
    }

    /// Frees its memory; it cannot be used afterwards.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.check()?;
        detached(py, || {
            self.sequence.close();
            Ok(())
        })
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }
}
