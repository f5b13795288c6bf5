//! A run: `open` prepares it, `steps` is its loop.

mod open;
mod steps;

use std::path::{Path, PathBuf};

use sherry::Progress;

use crate::adamw::Moments;
use crate::checkpoint::State;
use crate::config::Config;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::metrics::Line;
use crate::network::Network;
use crate::run_folder::RunFolder;
use crate::simd;

pub use open::Resume;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Optimizer steps done.
    pub step: u64,
    /// Optimizer steps of the run in all.
    pub steps: u64,
    /// Tokens trained on in all.
    pub tokens: u64,
    /// Whether all steps are done; otherwise the run was asked to stop.
    pub finished: bool,
    /// Last training loss.
    pub loss: Option<f64>,
    /// Last validation loss of the quantized model.
    pub valid_loss: Option<f64>,
    /// Best validation loss so far and its step.
    pub best: Option<(f64, u64)>,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
}

/// Most steps of a run: as many as a float counts exactly.
const MAX_STEPS: u64 = 1 << 53;

/// What happens in a run, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is done.
    Step {
        /// Steps done.
        step: u64,
        /// Its cross entropy, before its update.
        loss: f64,
        /// Tokens trained on so far.
        tokens: u64,
    },
    /// Something was measured.
    Line(&'a Line),
    /// A checkpoint was written.
    Saved(&'a Path),
}

/// The model that a run learns from besides the text.
struct Teacher {
    network: Network,
    params: Vec<f32>,
    /// What identifies it.
    hash: String,
}

/// A run in progress.
pub struct Trainer {
    config: Config,
    folder: RunFolder,
    network: Network,
    params: Vec<f32>,
    moments: Moments,
    state: State,
    train: Dataset,
    valid: Option<Dataset>,
    teacher: Option<Teacher>,
    /// Files that go with every checkpoint.
    files: Vec<(String, Vec<u8>)>,
    pool: rayon::ThreadPool,
    /// The last checkpoint and its step.
    saved: Option<(u64, PathBuf)>,
}

impl Trainer {
    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The latent parameters.
    pub fn params(&self) -> &[f32] {
        &self.params
    }

    /// Steps done so far.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// Steps of the run in all: those of the configuration, and those that were added.
    pub fn total_steps(&self) -> u64 {
        self.state.extensions.iter().fold(self.config.steps, |sum, more| sum.saturating_add(*more))
    }

    /// Tokens trained on so far.
    pub fn tokens(&self) -> u64 {
        self.state.tokens
    }

    /// The last checkpoint.
    pub fn saved(&self) -> Option<&Path> {
        self.saved.as_ref().map(|(_, path)| path.as_path())
    }

    /// Lets a finished run go on for `steps` more. The learning rate begins its schedule anew over these steps (a warm
    /// restart, arXiv 1608.03983); the Arenas strength stays zero, so that the quantized weights are trained as they are.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the run is not finished, or would become longer than can be counted.
    pub fn extend(&mut self, steps: u64) -> Result<()> {
        let (step, total) = (self.state.step, self.total_steps());
        let problem = if step < total {
            format!(
                "is at step {step} of {total}; only a finished run is extended, and this one goes on without --extend"
            )
        } else if total.checked_add(steps).is_none_or(|sum| sum > MAX_STEPS) {
            format!("{steps} steps more than {total}; at most {MAX_STEPS} can be counted")
        } else {
            self.state.extensions.push(steps);
            return Ok(());
        };
        Err(Error::checkpoint(self.folder.path(), problem))
    }

    /// Where the schedule that step `step` belongs to begins, and its steps: the run's own first, then those of extensions.
    fn phase(&self, step: u64) -> (u64, u64) {
        let (mut start, mut steps) = (0u64, self.config.steps);
        for more in &self.state.extensions {
            let end = start.saturating_add(steps);
            if step < end {
                break;
            }
            (start, steps) = (end, *more);
        }
        (start, steps)
    }

    /// Places for tokens in one step.
    pub fn tokens_per_step(&self) -> usize {
        let batch = &self.config.batch;
        batch.length * batch.size * batch.accumulate
    }

    /// Saves the initial state as the checkpoint of step 0, unless the run has one already; returns the last checkpoint.
    /// `python/sherry_torch` goes on from there, on GPUs.
    ///
    /// # Errors
    /// I/O errors.
    pub fn prepare(&mut self) -> Result<PathBuf> {
        match &self.saved {
            Some((_, path)) => Ok(path.clone()),
            None => self.save(),
        }
    }

    /// Trains to the end, or until `progress` says to stop: then the last whole step is saved. Measurements become notes.
    ///
    /// # Errors
    /// As [`run_watched`](Self::run_watched).
    pub fn run(&mut self, progress: &dyn Progress) -> Result<Outcome> {
        let (steps, tokens) = (self.total_steps(), self.tokens_per_step());
        self.run_watched(progress, &|event| {
            if let Event::Line(line) = event {
                progress.note(&line.describe(steps, tokens));
            }
        })
    }

    /// Like [`run`](Self::run), telling `watch` what happens.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when loss or gradients blow up; what was saved before stays. I/O errors.
    pub fn run_watched(&mut self, progress: &dyn Progress, watch: &(dyn Fn(Event<'_>) + Sync)) -> Result<Outcome> {
        // The pool is moved out so that its threads can work on the rest.
        let pool = std::mem::replace(&mut self.pool, empty_pool()?);
        let result = pool.install(|| self.steps(progress, watch));
        self.pool = pool;
        result
    }

    fn save(&mut self) -> Result<PathBuf> {
        if !simd::sum_of_squares(&self.params).is_finite() {
            return Err(self.not_finite(self.state.step, "a weight"));
        }
        let Self { network, params, moments, state, files, .. } = self;
        let path = self.folder.save(&network.layout, params, moments, state, files)?;
        self.folder.prune(self.config.checkpoint.keep, self.state.best.map(|(_, step)| step))?;
        self.saved = Some((self.state.step, path.clone()));
        Ok(path)
    }

    fn not_finite(&self, step: u64, what: &'static str) -> Error {
        let kept = self.saved.as_ref().map_or("none".to_owned(), |(_, path)| path.display().to_string());
        Error::NotFinite { step, what, kept }
    }
}

/// A pool that stands in while the real one is at work.
fn empty_pool() -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .map_err(|error| Error::Config { path: PathBuf::new(), problem: format!("field 'threads': {error}") })
}
