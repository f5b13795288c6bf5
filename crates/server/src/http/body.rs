//! Reading the JSON body of a request: within its size and time, into a typed value, with the path of what is wrong.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::App;
use crate::config::BODY_TIME;
use crate::error::ApiError;

/// Bodies beyond this size are parsed away from the thread that serves connections.
const LARGE: usize = 256 << 10;
/// Names of ignored fields that an answer lists.
const MAX_IGNORED: usize = 8;

/// Fields of OpenAI's that change nothing here and surprise nobody by that.
const MEANINGLESS: [&str; 9] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "prediction",
    "reasoning_effort",
    "verbosity",
    "prompt_cache_key",
    "safety_identifier",
];

/// A parsed body.
pub struct Parsed<T> {
    /// What it says.
    pub value: T,
    /// Fields that mean nothing here.
    pub ignored: Vec<String>,
}

/// Reads and parses the body of `request`.
///
/// # Errors
/// 408, 413, 415, and 400 with the path of the field that is wrong.
pub async fn read<T: DeserializeOwned + Send + 'static>(app: &App, request: Request) -> Result<Parsed<T>, ApiError> {
    check_type(request.headers())?;
    let bytes = read_bytes(request, app.config.max_body, BODY_TIME).await?;
    let strict = app.config.strict;
    if bytes.len() <= LARGE {
        return parse(&bytes, strict);
    }
    // Of large bodies a few at a time, so that their parsed forms do not add up.
    let permit = app.large_bodies.acquire().await.map_err(|_| ApiError::internal("internal_error", "shutting down"))?;
    let parsed = tokio::task::spawn_blocking(move || parse(&bytes, strict)).await;
    drop(permit);
    parsed.map_err(|_| ApiError::internal("internal_error", "reading the request failed"))?
}

/// JSON is expected. Programs without a web page behind them may leave the type out, or send what curl sends by itself.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(ApiError::media_type("compressed bodies are not read"));
    }
    let Some(ty) = headers.get(header::CONTENT_TYPE) else {
        return match headers.contains_key(header::ORIGIN) {
            true => Err(ApiError::media_type("Content-Type must be application/json")),
            false => Ok(()),
        };
    };
    let ty = ty.to_str().unwrap_or_default();
    let ty = ty.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let curl = ty == "application/x-www-form-urlencoded" && !headers.contains_key(header::ORIGIN);
    if curl || ty == "application/json" || (ty.starts_with("application/") && ty.ends_with("+json")) {
        return Ok(());
    }
    Err(ApiError::media_type("Content-Type must be application/json"))
}

async fn read_bytes(request: Request, limit: usize, time: Duration) -> Result<Bytes, ApiError> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > limit as u64) {
        return Err(ApiError::too_large(limit));
    }
    let body = Limited::new(request.into_body(), limit);
    match tokio::time::timeout(time, body.collect()).await {
        Err(_) => Err(ApiError::body_timeout(time.as_secs())),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::too_large(limit)),
        Ok(Err(_)) => Err(ApiError::invalid("", "the request's body could not be read to its end")),
    }
}

/// Parses JSON. Fields that the type does not know are skipped without being kept, whatever is in them.
///
/// # Errors
/// 400 with the path of the field and, for text that is no JSON, line and column.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], strict: bool) -> Result<Parsed<T>, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        ApiError::invalid("", format!("the body is not UTF-8: a wrong byte at {}", error.valid_up_to()))
    })?;
    if !text.trim_start().starts_with('{') {
        let message = "the body must be a JSON object";
        return Err(match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => ApiError::invalid("", message),
            Err(error) => ApiError::invalid("", format!("{message}: {error}")),
        });
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let mut ignored = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| {
        let name = path.to_string();
        // Inside a field of ours more may stand than is used; only whole fields are of interest.
        let whole = !name.contains('.') && !MEANINGLESS.contains(&name.as_str());
        if whole && ignored.len() < MAX_IGNORED {
            ignored.push(name);
        }
    };
    let value = {
        let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
        T::deserialize(serde_ignored::Deserializer::new(tracked, &mut note))
    };
    let value = value.map_err(|error| {
        // What ends in the middle has no last name.
        let path = track.path().to_string();
        ApiError::invalid(path.trim_end_matches('?').trim_end_matches('.'), error.to_string())
    })?;
    json.end().map_err(|error| ApiError::invalid("", format!("the body must be one JSON object: {error}")))?;
    if let (true, Some(name)) = (strict, ignored.first()) {
        let message = "is not a field of this request (the server runs with --strict)";
        return Err(ApiError::refused("unsupported_parameter", name, message));
    }
    Ok(Parsed { value, ignored })
}
