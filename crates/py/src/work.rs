//! Work away from the interpreter, and what may end it early.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use sherry::{Error, Progress};

use crate::errors::{Failure, of_panic};
use crate::process::batch_pool;

/// How often signals are looked for: an attach may take 5 ms where another thread of Python's is busy.
const SIGNALS: Duration = Duration::from_millis(100);
/// How often a stop event is asked.
const EVENTS: Duration = Duration::from_millis(50);
/// How often a progress callback is called.
const PROGRESS: Duration = Duration::from_millis(100);

/// Runs `work` detached from the interpreter.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T, Failure> + Send) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(result) => result.map_err(PyErr::from),
        Err(payload) => Err(of_panic(&*payload)),
    }
}

/// Looks now and then whether a user wants something to end: Ctrl-C, or an event like `threading.Event`.
pub struct Watch {
    /// Only the main thread gets signals.
    pub main: bool,
    event: Option<Py<PyAny>>,
    signals_asked: Instant,
    event_asked: Option<Instant>,
}

impl Watch {
    /// Whether the calling thread gets signals.
    pub fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
        let threading = py.import("threading")?;
        Ok(threading.call_method0("current_thread")?.is(&threading.call_method0("main_thread")?))
    }

    /// A watch for work of the calling thread.
    pub fn new(py: Python<'_>, event: Option<Py<PyAny>>) -> PyResult<Self> {
        Ok(Self { main: Self::is_main_thread(py)?, event, signals_asked: Instant::now(), event_asked: None })
    }

    /// Whether the event is set. Called detached.
    ///
    /// # Errors
    /// What a signal handler raised, or the event.
    pub fn stopped(&mut self) -> PyResult<bool> {
        let now = Instant::now();
        let signals = self.main && now.duration_since(self.signals_asked) >= SIGNALS;
        let event = self.event.is_some() && self.event_asked.is_none_or(|last| now.duration_since(last) >= EVENTS);
        if !signals && !event {
            return Ok(false);
        }
        let stopped = Python::attach(|py| {
            if signals {
                py.check_signals()?;
            }
            match &self.event {
                Some(stop) if event => stop.bind(py).call_method0("is_set")?.is_truthy(),
                _ => Ok(false),
            }
        });
        // The pause until the next look begins now: where a busy thread holds the interpreter, or an event takes its time, a
        // look may take longer than the pause, and every token would wait for one.
        let looked = Instant::now();
        if signals {
            self.signals_asked = looked;
        }
        if event {
            self.event_asked = Some(looked);
        }
        stopped
    }
}

/// News of a long job.
enum News {
    Start(String, u64),
    Advance(u64),
    Note(String),
}

/// The library's side of a job that runs on threads of ours: it tells the calling thread, which alone talks to Python.
struct Report {
    news: Option<Sender<News>>,
    cancelled: AtomicBool,
}

impl Report {
    fn tell(&self, news: News) {
        if let Some(sender) = &self.news {
            // Nobody listens any more when a callback has raised.
            let _ = sender.send(news);
        }
    }
}

impl Progress for Report {
    fn start(&self, what: &str, total: u64) {
        self.tell(News::Start(what.to_owned(), total));
    }
    fn advance(&self, done: u64) {
        self.tell(News::Advance(done));
    }
    fn finish(&self) {}
    fn note(&self, line: &str) {
        self.tell(News::Note(line.to_owned()));
    }
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// A job that can be cancelled.
pub type Cancellable<'a> = &'a (dyn Progress + 'a);

/// Runs a long job on the threads for batch work, while the calling thread looks for signals and calls
/// `progress(what, done, total)`; notes are calls with `done` and `total` None.
pub fn long_job<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    job: impl FnOnce(Cancellable<'_>) -> sherry::Result<T> + Send,
) -> PyResult<T> {
    let pool = batch_pool(py)?;
    let main = Watch::is_main_thread(py)?;
    let callback = progress.map(|callback| callback.clone().unbind());
    let (sender, receiver) = channel();
    // The sender for news lives as long as the job.
    let report = Report { news: callback.is_some().then_some(sender.clone()), cancelled: AtomicBool::new(false) };
    py.detach(move || {
        std::thread::scope(|scope| {
            let report = &report;
            let worker = scope.spawn(move || {
                let result = catch_unwind(AssertUnwindSafe(|| pool.install(|| job(report))));
                drop(sender);
                result
            });
            let mut asked = Instant::now();
            let mut seen = Seen::default();
            let mut raised = None;
            while !worker.is_finished() {
                match receiver.recv_timeout(Duration::from_millis(20)) {
                    Ok(news) => seen.take(news),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(1)),
                }
                if raised.is_some() {
                    continue;
                }
                let signals = main && asked.elapsed() >= SIGNALS;
                if signals || (callback.is_some() && seen.due()) {
                    let told = Python::attach(|py| {
                        py.check_signals()?;
                        callback.as_ref().map_or(Ok(()), |callback| seen.tell(callback.bind(py)))
                    });
                    // As in `Watch::stopped`: the pause begins after the look.
                    asked = Instant::now();
                    if let Err(error) = told {
                        report.cancelled.store(true, Ordering::Relaxed);
                        raised = Some(error);
                    }
                }
            }
            let result = worker.join().unwrap_or_else(Err);
            if let Some(error) = raised {
                return Err(error);
            }
            let result = result.map_err(|payload| of_panic(&*payload))?;
            let result = result.map_err(|error| match error {
                Error::Interrupted => PyRuntimeError::new_err("interrupted"),
                other => PyErr::from(Failure::Library(other)),
            })?;
            if let Some(callback) = &callback {
                receiver.try_iter().for_each(|news| seen.take(news));
                Python::attach(|py| seen.tell(callback.bind(py)))?;
            }
            Ok(result)
        })
    })
}

/// What a progress callback has not been told yet.
#[derive(Default)]
struct Seen {
    what: String,
    done: u64,
    total: u64,
    fresh: bool,
    notes: Vec<String>,
    told: Option<Instant>,
}

impl Seen {
    fn take(&mut self, news: News) {
        match news {
            News::Start(what, total) => (self.what, self.done, self.total) = (what, 0, total),
            News::Advance(done) => self.done += done,
            News::Note(line) => self.notes.push(line),
        }
        self.fresh = true;
    }

    fn due(&self) -> bool {
        self.fresh && self.told.is_none_or(|told| told.elapsed() >= PROGRESS)
    }

    fn tell(&mut self, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        if !std::mem::take(&mut self.fresh) {
            return Ok(());
        }
        self.told = Some(Instant::now());
        for line in self.notes.drain(..) {
            callback.call1((line, None::<u64>, None::<u64>))?;
        }
        if !self.what.is_empty() {
            callback.call1((&self.what, self.done.min(self.total), self.total))?;
        }
        Ok(())
    }
}
