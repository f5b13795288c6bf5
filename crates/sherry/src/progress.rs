//! How the library reports long work; it never prints.

use std::cell::Cell;

/// Receives progress of one long job. Implementations must be cheap: calls come once per tensor or per few megabytes.
pub trait Progress: Sync {
    /// A job named `what` of `total` units (bytes, tensors, tokens) begins.
    fn start(&self, what: &str, total: u64);
    /// `done` more units are finished.
    fn advance(&self, done: u64);
    /// The job is over.
    fn finish(&self);
    /// A line worth showing beside the progress (one tensor's report, a warning).
    fn note(&self, line: &str);
    /// Whether the user asked to stop; long work then returns [`Error::Interrupted`](crate::Error::Interrupted) soon,
    /// leaving no half-written file.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Ignores everything.
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
    fn note(&self, _: &str) {}
}

/// Looks now and then, in work of many small steps, whether the user asked to stop.
pub(crate) struct Watch<'a> {
    progress: &'a dyn Progress,
    steps: Cell<u32>,
}

impl<'a> Watch<'a> {
    /// Steps between two looks: some milliseconds of the slowest.
    const EVERY: u32 = 1 << 14;

    pub fn new(progress: &'a dyn Progress) -> Self {
        Self { progress, steps: Cell::new(0) }
    }

    /// Counts a step.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::Error::Interrupted) when the user asked to stop.
    pub fn step(&self) -> crate::Result<()> {
        let steps = self.steps.get().wrapping_add(1);
        self.steps.set(steps);
        match steps.is_multiple_of(Self::EVERY) && self.progress.is_cancelled() {
            true => Err(crate::Error::Interrupted),
            false => Ok(()),
        }
    }
}
