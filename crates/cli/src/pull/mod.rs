//! Getting models and benchmark data from the Hugging Face hub, keeping them in its cache on this machine, and the demo model
//! from a Python package.

mod address;
mod cache;
mod corpora;
mod download;
mod hub;
mod inventory;
mod package;
mod releases;
mod settings;
mod store;
#[cfg(test)]
pub mod test_hub;

use std::io;
use std::path::PathBuf;

pub use address::is_plain_path;
pub use cache::Cache;
pub use corpora::{CORPORA, Corpus};
pub use hub::{Hub, RemoteFile, Repo};
pub use inventory::Entry;
pub use package::{DEMO_NAME, DEMO_REPO, fetch_demo, fetch_demo_into};
pub use releases::{RELEASES, Release, model_in};
pub use settings::Settings;

/// Why the hub did not deliver.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No connection: no network, wrong endpoint, blocked.
    #[error("cannot reach the model hub at {endpoint}: {reason}; HF_ENDPOINT names another one")]
    Unreachable { endpoint: String, reason: String },
    /// The user wants nothing asked.
    #[error("{what}: not on this machine, and HF_HUB_OFFLINE says that the hub is not to be asked")]
    Offline { what: String },
    /// The hub answered with an error status.
    #[error("{what}: the hub answered {status}{hint}")]
    Status { what: String, status: u16, hint: String },
    /// The answer makes no sense.
    #[error("{what}: {problem}")]
    BadAnswer { what: String, problem: String },
    /// A file whose name would lie outside of the folder, or cannot be a name on some system.
    #[error("{what}: file {name:?} is refused: its name is no plain path below a folder")]
    BadName { what: String, name: String },
    /// Two processes want the same.
    #[error("{file}: another process is downloading it")]
    Busy { file: String },
    /// The file arrived, but it is not the one that was announced.
    #[error("{file}: {problem}; what arrived was removed, run the command again")]
    Corrupt { file: String, problem: String },
    /// Writing to disk failed.
    #[error("{}: cannot write: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    /// Ctrl-C; the partial file stays for the next try.
    #[error("interrupted; run the command again to continue where it stopped")]
    Interrupted,
}
