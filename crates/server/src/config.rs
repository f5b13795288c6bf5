//! What the server is told at the start, with its defaults.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::keys::Keys;

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket; a socket file that a dead process left is replaced.
    Unix(PathBuf),
}

impl Listen {
    /// Whether only programs on this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// Options of the server. The engine's own (threads, context, KV type) are settled by whoever loads the model.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// Who may ask; empty for everyone.
    pub keys: Keys,
    /// Listen beyond this machine without keys.
    pub insecure: bool,
    /// Host names, beside those of the address, under which the server may be called.
    pub allow_hosts: Vec<String>,
    /// Origins of web pages that may call the server.
    pub cors_origins: Vec<String>,
    /// Connections at a time; of one address that is not this machine, a quarter of them.
    pub max_connections: usize,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Time for a request, and of it in the queue.
    pub timeout: Duration,
    /// Time in the queue.
    pub queue_timeout: Duration,
    /// Time that running requests get after a signal to end.
    pub drain: Duration,
    /// Requests that may wait.
    pub max_queue: usize,
    /// Requests of one client at a time; `None` for any number.
    pub max_per_client: Option<usize>,
    /// Most tokens of an answer, whatever is asked for.
    pub max_tokens: Option<usize>,
    /// Names, beside the model's own, that requests may give.
    pub aliases: Vec<String>,
    /// Any name in a request means the model that is served.
    pub any_model: bool,
    /// Unknown fields of requests are errors.
    pub strict: bool,
    /// Serve the chat page.
    pub page: bool,
    /// Time that a step of the engine should take while answers are being written.
    pub step: Duration,
    /// Time for the head of a request, and for a connection to ask for something.
    pub header_time: Duration,
    /// Time for the body of a request.
    pub body_time: Duration,
    /// Silence after which a stream gets a comment line, so that nobody on the way gives up.
    pub ping: Duration,
    /// Time after which an answer that its reader does not take is given up.
    pub stall: Duration,
    /// For tests.
    #[doc(hidden)]
    pub probe: Option<Probe>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080)),
            keys: Keys::default(),
            insecure: false,
            allow_hosts: Vec::new(),
            cors_origins: Vec::new(),
            max_connections: 1024,
            max_body: 8 << 20,
            timeout: Duration::from_secs(600),
            queue_timeout: Duration::from_secs(120),
            drain: Duration::from_secs(30),
            max_queue: 256,
            max_per_client: None,
            max_tokens: None,
            aliases: Vec::new(),
            any_model: false,
            strict: false,
            page: true,
            step: Duration::from_millis(80),
            header_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            ping: Duration::from_secs(15),
            stall: Duration::from_secs(60),
            probe: None,
        }
    }
}

/// Bytes and fields of the head of a request.
pub(crate) const HEADER_BYTES: usize = 16 << 10;
/// See [`HEADER_BYTES`].
pub(crate) const HEADER_FIELDS: usize = 64;

/// A function that sees all news of the engine, on the engine's thread and inside of its steps. For tests: by waiting or
/// panicking it makes an engine that is slow or broken.
#[doc(hidden)]
#[derive(Clone)]
pub struct Probe(pub Arc<dyn Fn(&sherry::batch::Output) + Send + Sync>);

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}
