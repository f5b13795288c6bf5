//! From a configuration to a server that runs until it is told to end.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::App;
use crate::config::{Config, Listen};
use crate::engine::{self, Loaded};
use crate::http::accept::{self, Listener};
use crate::metrics::Metrics;
use crate::outcome::{Ended, ServeError};
use crate::router::router;
use crate::system::{Signals, SocketListener, notify};

/// Large bodies that are parsed at once.
const LARGE_BODIES: usize = 4;
/// Threads for templates, tokens and grammars.
const ASIDE_THREADS: usize = 2;

/// Serves until a signal. Listens first, then calls `load` on the engine's thread; until it returns, requests are
/// answered with 503. `ready` is told the address when the model is loaded.
///
/// # Errors
/// The address cannot be used, or the model cannot be loaded.
pub fn serve(
    config: Config,
    load: impl FnOnce() -> Result<Loaded, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    ready: impl FnOnce(&str) + Send + 'static,
) -> Result<Ended, ServeError> {
    if let Listen::Tcp(address) = config.listen
        && !config.listen.is_local()
        && config.keys.is_empty()
        && !config.insecure
    {
        return Err(ServeError::Open(address));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(ASIDE_THREADS)
        .build()
        .map_err(ServeError::Runtime)?;
    let ended = runtime.block_on(run(config, load, ready));
    // Work for requests that are gone must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}

async fn run(
    config: Config,
    load: impl FnOnce() -> Result<Loaded, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    ready: impl FnOnce(&str) + Send + 'static,
) -> Result<Ended, ServeError> {
    let (listener, port, shown) = bind(&config.listen).await?;
    let _socket = match &config.listen {
        Listen::Unix(path) => Some(SocketFile(path.clone())),
        Listen::Tcp(_) => None,
    };
    let (handle, thread) = engine::channel(config.max_queue);
    let app = Arc::new(App {
        port,
        served: OnceLock::new(),
        draining: AtomicBool::new(false),
        metrics: Metrics::new(vec![("version", env!("CARGO_PKG_VERSION").to_owned())]),
        large_bodies: Semaphore::new(LARGE_BODIES),
        engine: handle,
        config,
    });
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(accept::serve(Arc::clone(&app), listener, router(&app), stopped));
    let mut engine = engine::start(Arc::clone(&app), thread, load, move |served| {
        notify("READY=1");
        tracing::info!(model = served.id(), address = %shown, "ready");
        ready(&shown);
    });
    let mut signals = Signals::new().map_err(ServeError::Runtime)?;
    let ended = tokio::select! {
        ended = engine.ended() => {
            // Requests that were in the engine still get their errors.
            app.draining.store(true, Ordering::Release);
            stop.send_replace(true);
            let _ = tokio::time::timeout(LAST_WORDS, stop.closed()).await;
            return ended;
        }
        () = signals.next() => Ended::Stopped,
    };
    notify("STOPPING=1");
    if app.served.get().is_none() {
        // Nothing has begun.
        return Ok(ended);
    }
    tracing::info!("stopping: answers in progress are finished");
    app.draining.store(true, Ordering::Release);
    app.engine.drain(app.config.drain);
    // Idle connections close, others after their answer. A listener that is gone refuses new ones.
    stop.send_replace(true);
    let deadline = Instant::now() + app.config.drain + Duration::from_secs(1);
    let finished = async {
        let result = engine.ended().await;
        // The engine is ahead of the clients, which may still be owed the end of their answers. Every connection
        // holds a receiver of `stop` for as long as it is open.
        stop.closed().await;
        result
    };
    tokio::select! {
        result = finished => result.map(|_| ended),
        () = signals.next() => Ok(ended),
        () = tokio::time::sleep_until(deadline.into()) => Ok(ended),
    }
}

/// Time in which errors are written once the engine has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

async fn bind(listen: &Listen) -> Result<(Listener, u16, String), ServeError> {
    match listen {
        Listen::Tcp(address) => {
            let fail = |source| ServeError::Listen { what: address.to_string(), source };
            let listener = TcpListener::bind(address).await.map_err(fail)?;
            let bound = listener.local_addr().map_err(fail)?;
            Ok((Listener::Tcp(listener), bound.port(), format!("http://{bound}")))
        }
        Listen::Unix(path) => {
            let fail = |source| ServeError::Listen { what: path.display().to_string(), source };
            let listener = SocketListener::bind(path).await.map_err(fail)?;
            Ok((Listener::Unix(listener), 0, format!("unix:{}", path.display())))
        }
    }
}

/// A socket file, removed at the end.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.0);
    }
}
