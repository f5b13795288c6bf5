//! What can go wrong in training. Every message names the file, the field or the step.

use std::path::{Path, PathBuf};

use sherry::Progress;

/// Result with the trainer's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The trainer's error type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of the configuration is missing, unknown, mistyped or out of range.
    #[error("{}: {problem}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// Field and what is wrong with it.
        problem: String,
    },
    /// A training or validation file.
    #[error("{}: {problem}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        problem: String,
    },
    /// The run folder or a checkpoint in it.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A run cannot go on with another configuration.
    #[error(
        "{}: cannot resume: field '{field}' was {was} and is now {now}; a run goes on with the settings that it began with: \
         repeat those, or choose another folder for the new ones",
        path.display()
    )]
    Changed {
        /// The checkpoint.
        path: PathBuf,
        /// The first differing field.
        field: String,
        /// Value in the checkpoint.
        was: String,
        /// Value now.
        now: String,
    },
    /// Another process trains in this folder.
    #[error("{}: another process is training in this folder", .0.display())]
    Locked(PathBuf),
    /// Loss or gradient is NaN or infinite.
    #[error("step {step}: {what} is not finite; the last good state is {kept}")]
    NotFinite {
        /// The step that failed; it was not applied.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// Where training can go on from.
        kept: String,
    },
    /// From the library.
    #[error(transparent)]
    Library(#[from] sherry::Error),
}

/// An error once the user asked to stop.
pub(crate) fn uninterrupted(progress: &dyn Progress) -> sherry::Result<()> {
    if progress.is_cancelled() { Err(sherry::Error::Interrupted) } else { Ok(()) }
}

impl Error {
    pub(crate) fn is_interrupt(&self) -> bool {
        matches!(self, Self::Library(sherry::Error::Interrupted))
    }

    pub(crate) fn field(path: &Path, field: &str, problem: impl AsRef<str>) -> Self {
        Self::Config { path: path.to_path_buf(), problem: format!("field '{field}': {}", problem.as_ref()) }
    }

    pub(crate) fn data(path: &Path, problem: impl Into<String>) -> Self {
        Self::Data { path: path.to_path_buf(), problem: problem.into() }
    }

    pub(crate) fn checkpoint(path: &Path, problem: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.to_path_buf(), problem: problem.into() }
    }
}
