//! A generation in the making, as a Python iterator.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyAny;
use sherry::Generated;
use sherry::batch::{JobId, Output};

use crate::desk::Desk;
use crate::errors::Failure;
use crate::process::check_process;
use crate::results::{completion, piece};
use crate::sequence::Direct;
use crate::work::{Watch, detached};

/// Where news come from.
pub enum Source {
    /// A job of the model's engine.
    Job(Arc<Desk>, JobId),
    /// A sequence with a cache of its own.
    Direct(Box<Direct>),
}

impl Source {
    fn news(&mut self) -> Result<VecDeque<Output>, Failure> {
        match self {
            Self::Job(desk, id) => Ok(desk.news(*id)?),
            Self::Direct(direct) => direct.step(),
        }
    }
}

/// What is being generated.
struct Inner {
    /// None at the end.
    source: Option<Source>,
    /// All there is so far.
    generated: Generated,
    /// What the next piece holds.
    text: String,
    tokens: Vec<u32>,
    watch: Watch,
    start: Instant,
    /// When the last piece was given.
    given: Option<Instant>,
}

impl Inner {
    /// Takes the next news, if any more are to come.
    fn advance(&mut self) -> Result<(), Failure> {
        let Some(source) = &mut self.source else { return Ok(()) };
        for output in source.news()? {
            let statistics = &mut self.generated.statistics;
            match output {
                Output::Prompt { cached, .. } => statistics.reused_tokens = cached,
                Output::PromptScores { .. } => {}
                Output::Token { token, text, .. } => {
                    if self.generated.tokens.is_empty() {
                        statistics.prompt_time = self.start.elapsed();
                    }
                    statistics.generated_tokens += 1;
                    self.generated.tokens.push(token);
                    self.tokens.push(token);
                    self.text.push_str(&text);
                    self.generated.text.push_str(&text);
                }
                Output::Finished { finish, text, .. } => {
                    self.text.push_str(&text);
                    self.generated.text.push_str(&text);
                    self.generated.finish = Some(finish);
                    self.source = None;
                }
                Output::Failed(error) => return Err(error.into()),
            }
            let statistics = &mut self.generated.statistics;
            statistics.generation_time = self.start.elapsed().saturating_sub(statistics.prompt_time);
        }
        Ok(())
    }

    /// The text to show next, not more often than `interval` allows; `None` at the end.
    fn next_piece(&mut self, interval: Duration, closed: &AtomicBool) -> Result<Option<(String, Vec<u32>)>, Failure> {
        loop {
            let due = self.given.is_none_or(|given| given.elapsed() >= interval);
            if !self.text.is_empty() && (due || self.source.is_none()) {
                self.given = Some(Instant::now());
                return Ok(Some((std::mem::take(&mut self.text), std::mem::take(&mut self.tokens))));
            }
            if self.source.is_none() {
                return Ok(None);
            }
            let went = match closed.load(Ordering::Relaxed) || self.watch.stopped()? {
                true => {
                    self.end();
                    Ok(())
                }
                false => self.advance(),
            };
            if let Err(failure) = went {
                self.end();
                return Err(failure);
            }
        }
    }

    /// Nothing more is to come.
    fn end(&mut self) {
        self.source = None;
    }
}

/// A generation in the making: an iterator over pieces of text. Every step computes until there is a piece; nothing
/// happens in between. Leaving the loop and dropping the stream ends the generation, as do `close()` and the end of a
/// `with` block.
#[pyclass(frozen, module = "sherry")]
pub struct Stream {
    inner: Mutex<Inner>,
    /// Set by `close`, from any thread.
    closed: AtomicBool,
    interval: Duration,
    process: u32,
    /// Taken back when the stream goes.
    job: Option<(Arc<Desk>, JobId)>,
}

impl Stream {
    pub fn new(source: Source, prompt_tokens: usize, watch: Watch, interval: f64) -> Self {
        let mut generated = Generated::default();
        generated.statistics.prompt_tokens = prompt_tokens;
        let job = match &source {
            Source::Job(desk, id) => Some((Arc::clone(desk), *id)),
            Source::Direct(_) => None,
        };
        let inner = Inner {
            source: Some(source),
            generated,
            text: String::new(),
            tokens: Vec::new(),
            watch,
            start: Instant::now(),
            given: None,
        };
        Self {
            inner: Mutex::new(inner),
            closed: AtomicBool::new(false),
            interval: Duration::try_from_secs_f64(interval).unwrap_or(Duration::MAX),
            process: std::process::id(),
            job,
        }
    }

    /// Waits for another thread's step, hence called detached.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| {
            let mut inner = poisoned.into_inner();
            inner.end();
            inner
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some((desk, id)) = self.job.take() {
            match self.process == std::process::id() {
                true => desk.cancel(id),
                false => std::mem::forget(desk),
            }
        }
    }
}

#[pymethods]
impl Stream {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.next_piece(py)
    }

    /// The next piece, or None at the end.
    fn next_piece<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        check_process(self.process, "stream")?;
        let main = Watch::is_main_thread(py)?;
        let next = detached(py, || {
            let mut inner = self.lock();
            inner.watch.main = main;
            inner.next_piece(self.interval, &self.closed)
        })?;
        next.map(|(text, tokens)| piece(py, &text, &tokens)).transpose()
    }

    /// Generates to the end and returns the whole completion.
    pub fn complete<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        check_process(self.process, "stream")?;
        let main = Watch::is_main_thread(py)?;
        let generated = detached(py, || {
            let mut inner = self.lock();
            inner.watch.main = main;
            while inner.next_piece(Duration::MAX, &self.closed)?.is_some() {}
            Ok(inner.generated.clone())
        })?;
        completion(py, &generated)
    }

    /// Ends the generation; what there is so far stays in `result`. May be called from any thread, and again.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if self.process == std::process::id()
            && let Ok(mut inner) = self.inner.try_lock()
        {
            inner.end();
        }
        if let Some((desk, id)) = self.job.as_ref().filter(|_| self.process == std::process::id()) {
            desk.cancel(*id);
        }
    }

    /// What there is so far; `finish_reason` is "cancelled" until the end.
    #[getter]
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        check_process(self.process, "stream")?;
        let generated = detached(py, || Ok(self.lock().generated.clone()))?;
        completion(py, &generated)
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) {
        self.close();
    }

    fn __repr__(&self) -> String {
        let state = if self.closed.load(Ordering::Relaxed) { " (closed)" } else { "" };
        format!("<sherry.Stream{state}>")
    }
}
