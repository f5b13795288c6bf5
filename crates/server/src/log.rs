//! One event per finished request, with numbers and no text of anybody's.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::App;
use crate::error::{ApiError, Refused};
use crate::http::access::Client;
use crate::metrics::RouteLabels;
use crate::page;

/// The id of a request, as its answer tells it.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

/// The path as a label: one of ours, or `other`.
fn route(path: &str) -> &'static str {
    const ROUTES: [&str; 11] = [
        "/chat/completions",
        "/completions",
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/tokenizer_info",
        "/health",
        "/livez",
        "/props",
        "/metrics",
        "/openapi.json",
    ];
    let path = path.strip_prefix("/v1").unwrap_or(path);
    if path.starts_with("/models") {
        return "/models";
    }
    ROUTES.into_iter().chain(page::paths()).find(|known| *known == path).unwrap_or("other")
}

/// A random id of 24 characters. Not a secret.
fn random_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    // Each state is keyed by the system's random numbers.
    let word = || RandomState::new().hash_one(0);
    format!("{:016x}{:08x}", word(), word() as u32)
}

/// Numbers a request, counts it and logs its end.
pub async fn requests(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = route(request.uri().path());
    let prefix = if route == "/chat/completions" { "chatcmpl-" } else { "cmpl-" };
    let id: Arc<str> = format!("{prefix}{}", random_id()).into();
    request.extensions_mut().insert(RequestId(Arc::clone(&id)));
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    let status = response.status().as_u16();
    app.metrics.requests.get_or_create(&RouteLabels { route, code: status }).inc();
    let reason = response.extensions().get::<Refused>().map_or("", |refused| refused.0);
    let milliseconds = tenths(began.elapsed().as_secs_f64() * 1000.0);
    // Requests that the engine answers log their own end, with its numbers.
    if response.extensions().get::<Logged>().is_none() {
        let quiet = matches!(route, "/health" | "/livez" | "/metrics");
        if quiet {
            tracing::debug!(%id, route, status, reason, milliseconds, "request");
        } else {
            tracing::info!(%id, route, status, reason, milliseconds, "request");
        }
    }
    response
}

/// What people read of a time: tenths of a millisecond.
fn tenths(milliseconds: f64) -> f64 {
    (milliseconds * 10.0).round() / 10.0
}

/// On a response whose end is logged by whoever writes it.
#[derive(Clone, Copy, Debug)]
pub struct Logged;

/// Numbers of a request that the engine answered.
#[derive(Clone, Debug)]
pub struct Finished<'a> {
    /// The request.
    pub id: &'a str,
    /// Its path.
    pub route: &'static str,
    /// Who asked.
    pub client: &'a Client,
    /// `stop`, `length`, `tool_calls`, `cancelled`, or the code of an error.
    pub finish: &'a str,
    /// Tokens of the prompts, of these reused, and written.
    pub tokens: (usize, usize, usize),
    /// Milliseconds in the queue, to the first token, in all.
    pub times: (f64, f64, f64),
}

impl Finished<'_> {
    /// Writes the event.
    pub fn log(&self) {
        let Self { id, route, client, finish, tokens, times } = self;
        tracing::info!(
            %id, route, client = %client.0, finish,
            prompt = tokens.0, cached = tokens.1, generated = tokens.2,
            queue_ms = tenths(times.0), first_ms = tenths(times.1), milliseconds = tenths(times.2),
            "answered"
        );
    }
}

/// Ends a task when whoever waits for it is gone.
struct Abort(tokio::task::AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A fault in the handling of one request ends that request only.
pub async fn catch_panic(request: Request, next: Next) -> Response {
    // A task of its own, whose panics the runtime catches. It ends with the connection, as the request itself would.
    let task = tokio::spawn(next.run(request));
    let _abort = Abort(task.abort_handle());
    match task.await {
        Ok(response) => response,
        Err(_) => {
            ApiError::internal("internal_error", "the request could not be handled; this is a bug").into_response()
        }
    }
}
