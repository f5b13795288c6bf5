//! The one error type of the library. Every variant names the file and the thing in it that is wrong.

use std::io;
use std::path::{Path, PathBuf};

/// Result with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, with the offending file, tensor, key or field.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: open, read, write, rename, map.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb: "open", "read", "create".
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A file does not hold what its format promises: truncated, hostile or damaged.
    #[error("{}: {place}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in it: "header", "tensor 'blk.0.attn_q.weight'", "key 'general.alignment'", "field 'hidden_size'".
        place: String,
        /// What is wrong, with expected and found values.
        problem: String,
    },
    /// The file is well-formed but asks for something this program does not do.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported, and what is.
        what: String,
    },
    /// A request that cannot be met as asked (an option, a value, a combination).
    #[error("{0}")]
    Invalid(String),
    /// More positions than a sequence has room for.
    #[error("context length exceeded: {needed} tokens needed, {capacity} available")]
    ContextFull {
        /// Positions the request needs in all.
        needed: usize,
        /// Positions there are.
        capacity: usize,
    },
    /// A pool for keys and values without enough free pages.
    #[error("the KV cache is full: {needed} more pages of 256 positions needed, {free} free")]
    KvFull {
        /// Pages the request takes.
        needed: usize,
        /// Pages there are.
        free: usize,
    },
    /// Weights that do not make a matrix.
    #[error("matrix: {0}")]
    Matrix(#[from] sherry_kernels::MatrixError),
    /// Too many jobs wait already.
    #[error("the queue is full: {waiting} sequences wait already")]
    Busy {
        /// Sequences that wait.
        waiting: usize,
    },
    /// An allocation that the system refuses or that would not fit.
    #[error("not enough memory for {what}: {} needed", gib(*.needed))]
    OutOfMemory {
        /// What it was for.
        what: String,
        /// Bytes it takes.
        needed: u64,
    },
    /// A chat template that does not compile, fails or exceeds its limits.
    #[error("chat template: {0}")]
    Template(String),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// Text that cannot be tokenized or ids that cannot be decoded.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}

impl Error {
    /// An [`Error::Io`] for `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    /// An [`Error::Malformed`].
    pub fn malformed(path: &Path, place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_path_buf(), place: place.into(), problem: problem.into() }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_path_buf(), what: what.into() }
    }
}

/// Bytes as people read them, two digits after the point.
fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}
