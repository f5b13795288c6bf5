//! Accepting connections: limits, timers, an orderly end.
//!
//! The loop is our own because `axum::serve` installs no timer, so that hyper's limit on the time of a request's head
//! would silently do nothing, and because the limits on connections live here.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::Service as _;

use super::access::Peer;
use crate::App;
use crate::config::{HEADER_BYTES, HEADER_FIELDS};
use crate::error::ApiError;
use crate::system::SocketListener;

/// A bound socket.
pub enum Listener {
    /// Of the network.
    Tcp(TcpListener),
    /// Of the file system.
    Unix(SocketListener),
}

/// Pause after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection gets that is one too many.
fn full() -> String {
    let body = ApiError::unavailable("overloaded", "too many connections", 1).body().to_string();
    let head =
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close";
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Open connections in all and by address.
#[derive(Debug, Default)]
struct Connections {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place among the connections, given back on drop.
struct Place {
    app: Arc<App>,
    connections: Arc<Mutex<Connections>>,
    address: Option<IpAddr>,
}

impl Place {
    fn take(app: &Arc<App>, connections: &Arc<Mutex<Connections>>, address: Option<IpAddr>) -> Option<Self> {
        // Programs on this machine share one address.
        let address = address.filter(|address| !address.is_loopback());
        let mut open = connections.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = app.config.max_connections;
        let own = address.map_or(0, |address| open.by_address.get(&address).copied().unwrap_or(0));
        if open.all >= limit || own >= limit.div_ceil(4) {
            return None;
        }
        open.all += 1;
        if let Some(address) = address {
            *open.by_address.entry(address).or_default() += 1;
        }
        app.metrics.connections.set(open.all as i64);
        Some(Self { app: Arc::clone(app), connections: Arc::clone(connections), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        self.app.metrics.connections.set(open.all as i64);
        if let Some(address) = self.address
            && let Some(own) = open.by_address.get_mut(&address)
        {
            *own -= 1;
            if *own == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

/// Serves connections until `stop` turns true, then closes idle ones and lets requests in progress end.
pub async fn serve(app: Arc<App>, listener: Listener, router: Router, mut stop: watch::Receiver<bool>) {
    let connections = Arc::new(Mutex::new(Connections::default()));
    let mut complained: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = stopped(&mut stop) => return,
        };
        let (stream, peer, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: those in use will come back.
                if complained.is_none_or(|last| last.elapsed() > Duration::from_secs(60)) {
                    complained = Some(Instant::now());
                    tracing::warn!(%error, "cannot accept connections; trying again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = Place::take(&app, &connections, address) else {
            tokio::spawn(refuse(stream));
            continue;
        };
        tokio::spawn(connection(stream, peer, router.clone(), place, stop.clone()));
    }
}

/// A byte stream of either kind of socket.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(listener: &Listener) -> io::Result<(Box<dyn Stream>, Peer, Option<IpAddr>)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            // Tokens are small and must not wait for each other.
            stream.set_nodelay(true)?;
            let peer = Peer(Arc::from(address.ip().to_string()));
            Ok((Box::new(stream), peer, Some(address.ip())))
        }
        Listener::Unix(listener) => {
            let stream = listener.accept().await?;
            Ok((Box::new(stream), Peer(Arc::from("unix socket")), None))
        }
    }
}

/// Waits until the server is to end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await.is_ok();
}

async fn refuse(mut stream: Box<dyn Stream>) {
    let answer = async {
        stream.write_all(full().as_bytes()).await?;
        stream.shutdown().await
    };
    // The client may be gone already; nothing is owed to it.
    let _ = tokio::time::timeout(Duration::from_secs(1), answer).await;
}

async fn connection(
    stream: Box<dyn Stream>,
    peer: Peer,
    router: Router,
    place: Place,
    mut stop: watch::Receiver<bool>,
) {
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let mut router = router.clone();
        async move {
            // A router is always ready.
            router.call(request).await
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(place.app.config.header_time)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADER_FIELDS)
        .keep_alive(true);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A client that went away or sent no HTTP: its business.
        tracing::debug!(%error, "connection ended");
    }
    drop(place);
}
