//! How the library reports long work; it never prints.

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
