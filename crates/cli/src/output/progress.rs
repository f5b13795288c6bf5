//! Progress on stderr: a bar on a terminal, a plain line every few seconds elsewhere, nothing when quiet.

use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{message, paragraph, printable};
use crate::interrupt;

/// Jobs shorter than this show nothing.
const SILENT: Duration = Duration::from_millis(500);
/// Between plain lines when stderr is not a terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// The command line's [`sherry::Progress`].
pub struct Console {
    mode: Mode,
    job: Mutex<Option<Job>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Plain,
    Bar,
}

struct Job {
    what: String,
    total: u64,
    done: u64,
    started: Instant,
    printed: Instant,
    bar: Option<ProgressBar>,
}

impl Console {
    /// `quiet` silences everything but errors.
    pub fn new(quiet: bool) -> Self {
        let mode = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::Bar,
            (false, false) => Mode::Plain,
        };
        Self { mode, job: Mutex::new(None) }
    }

    /// Whether stderr is a terminal that wants to be drawn on.
    pub fn is_terminal(&self) -> bool {
        self.mode == Mode::Bar
    }

    /// One line of information on stderr, above the bar if there is one.
    pub fn say(&self, line: &str) {
        if self.mode == Mode::Quiet {
            return;
        }
        let job = self.job.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match job.as_ref().and_then(|job| job.bar.as_ref()) {
            Some(bar) => bar.suspend(|| paragraph(line)),
            None => paragraph(line),
        }
    }
}

impl sherry::Progress for Console {
    fn start(&self, what: &str, total: u64) {
        if self.mode == Mode::Quiet {
            return;
        }
        let now = Instant::now();
        let job =
            Job { what: printable::line(what).into_owned(), total, done: 0, started: now, printed: now, bar: None };
        *self.job.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(job);
    }

    fn advance(&self, done: u64) {
        let mut guard = self.job.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some(job) = guard.as_mut() else { return };
        job.done += done;
        if job.started.elapsed() < SILENT {
            return;
        }
        if self.mode == Mode::Bar {
            let bar = job.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("{msg} [{bar:30}] {percent:>3}%  {elapsed} / ETA {eta}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> ");
                ProgressBar::new(job.total).with_style(style).with_message(job.what.clone())
            });
            bar.set_position(job.done);
        } else if job.printed.elapsed() > PLAIN_EVERY {
            job.printed = Instant::now();
            let share = job.done as f64 / job.total.max(1) as f64;
            let elapsed = job.started.elapsed().as_secs_f64();
            let left = elapsed / share.max(1e-9) * (1.0 - share).max(0.0);
            let percent = share * 100.0;
            message(&format!("{}: {percent:.0} %, {elapsed:.0} s elapsed, about {left:.0} s left", job.what));
        }
    }

    fn finish(&self) {
        let job = self.job.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(bar) = job.and_then(|job| job.bar) {
            bar.finish_and_clear();
        }
    }

    fn note(&self, line: &str) {
        self.say(line);
    }

    fn is_cancelled(&self) -> bool {
        interrupt::requested()
    }
}
