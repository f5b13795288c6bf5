//! An OpenAI-compatible HTTP server for one model.
//!
//! Requests of all clients are computed together ([`sherry::batch`]); an answer depends on the request alone, never on
//! load, on what is cached, or on other requests.
//!
//! ```text
//! http/     connections, who may ask, bodies
//! openai/   requests and answers as types
//! routes/   one file per group of paths
//! engine/   the thread that owns the model; the mailboxes in which it leaves what it writes
//! page/     the chat page
//! ```
//!
//! Connections are served by one thread; the model has a thread of its own, which never waits for a client.
//!
//! ```no_run
//! use std::error::Error;
//!
//! use sherry_server::{Config, Loaded, serve};
//!
//! /// Opens a checkpoint and makes a [`BatchEngine`](sherry::BatchEngine) of it.
//! fn load() -> Result<Loaded, Box<dyn Error + Send + Sync>> {
//! #   Err("an example".into())
//!     // ...
//! }
//!
//! // Listens on localhost:8080, and returns after a signal, when running requests are done.
//! serve(Config::default(), load, |address| println!("ready: {address}"))?;
//! # Ok::<(), sherry_server::ServeError>(())
//! ```

#![forbid(unsafe_code)]

mod config;
mod conversation;
mod engine;
mod error;
mod grammar;
mod http;
mod keys;
mod log;
mod metrics;
mod model;
mod openai;
mod openapi;
mod outcome;
mod page;
mod prompt;
mod router;
mod routes;
mod run;
mod sse;
mod system;
mod tools;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

#[doc(hidden)]
pub use config::Probe;
pub use config::{Config, Listen};
pub use engine::Loaded;
pub use keys::Keys;
pub use model::{EngineInfo, ModelInfo};
pub use outcome::{Ended, ServeError};
pub use run::serve;

use error::ApiError;
use metrics::Metrics;
use model::Served;

/// What every request can reach.
pub(crate) struct App {
    config: Config,
    port: u16,
    served: OnceLock<Arc<Served>>,
    /// No new requests: the process is about to end.
    draining: AtomicBool,
    metrics: Metrics,
    /// Places for large bodies.
    large_bodies: tokio::sync::Semaphore,
    engine: engine::Handle,
}

impl App {
    /// The model, unless it is not ready yet or no longer taking requests.
    fn served(&self) -> Result<&Arc<Served>, ApiError> {
        if self.draining.load(Ordering::Acquire) {
            return Err(ApiError::unavailable("shutting_down", "the server is shutting down", 5));
        }
        self.served.get().ok_or_else(|| ApiError::unavailable("model_loading", "the model is being loaded", 2))
    }

    /// Whether the engine has been at one step for too long.
    fn engine_is_stuck(&self) -> bool {
        self.engine.is_stuck()
    }
}
