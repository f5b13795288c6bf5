//! How a server ends.

use std::io;
use std::net::SocketAddr;

/// Why the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to, and every answer was finished or given up.
    Stopped,
    /// The engine failed again and again; whoever watches the process should start it anew.
    Broken,
}

impl Ended {
    /// The exit code for it: 0, or 70, which is no configuration's fault and asks for another start.
    pub fn code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Broken => 70,
        }
    }
}

/// What can be done where somebody else listens.
fn way_out(what: &str, source: &io::Error) -> &'static str {
    let is_port = what.parse::<SocketAddr>().is_ok();
    if is_port && source.kind() == io::ErrorKind::AddrInUse {
        "; --port takes another port, and 0 a free one"
    } else {
        ""
    }
}

/// Why the server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address.
    #[error("cannot listen on {what}: {source}{}", way_out(what, source))]
    Listen {
        /// The address or path.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// An open door.
    #[error(
        "{0} can be reached from other machines: give --api-key-file or SHERRY_API_KEY, or --insecure to let everyone in"
    )]
    Open(SocketAddr),
    /// The runtime.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// The model.
    #[error(transparent)]
    Model(Box<dyn std::error::Error + Send + Sync>),
}
