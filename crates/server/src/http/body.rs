//! Reading the JSON body of a request: within its size and time, into a typed value, with the path of what is wrong.

use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::{DeserializeOwned, Deserializer};
use tokio::sync::SemaphorePermit;

use crate::App;
use crate::error::ApiError;
use crate::openai::json::{self, Json};

/// Bodies beyond this size are held a few at a time, and parsed away from the thread that serves connections.
const LARGE: usize = 256 << 10;
/// Names of ignored fields that an answer lists.
const MAX_IGNORED: usize = 8;
/// Characters of a request that an error repeats.
const MAX_SHOWN: usize = 500;

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
    let strict = app.config.strict;
    let (bytes, place) = read_bytes(app, request).await?;
    if place.is_none() {
        return parse(&bytes, strict);
    }
    let parsed = tokio::task::spawn_blocking(move || parse(&bytes, strict)).await;
    drop(place);
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

/// The bytes of a body, and for a large one its place among those that are held at a time.
async fn read_bytes(app: &App, request: Request) -> Result<(Vec<u8>, Option<SemaphorePermit<'_>>), ApiError> {
    let (limit, time) = (app.config.max_body, app.config.body_time);
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let length: u64 = length.unwrap_or(0);
    if length > limit as u64 {
        return Err(ApiError::too_large(limit));
    }
    let mut place = if length > LARGE as u64 { Some(large_place(app).await?) } else { None };
    let mut bytes = Vec::with_capacity(length as usize);
    let mut body = request.into_body();
    let deadline = Instant::now() + time;
    loop {
        let frame = match tokio::time::timeout_at(deadline.into(), body.frame()).await {
            Err(_) => return Err(ApiError::body_timeout(time.as_secs())),
            Ok(None) => return Ok((bytes, place)),
            Ok(Some(Err(_))) => {
                return Err(ApiError::invalid("", "the request's body could not be read to its end"));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(ApiError::too_large(limit));
        }
        if bytes.len() + data.len() > LARGE && place.is_none() {
            place = Some(large_place(app).await?);
        }
        bytes.extend_from_slice(&data);
    }
}

async fn large_place(app: &App) -> Result<SemaphorePermit<'_>, ApiError> {
    app.large_bodies.acquire().await.map_err(|_| ApiError::internal("internal_error", "shutting down"))
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
    let parsed = json::limited(|| {
        let mut json = serde_json::Deserializer::from_str(text);
        let parsed = typed(&mut json)?;
        json.end().map_err(|error| ApiError::invalid("", format!("the body must be one JSON object: {error}")))?;
        Ok(parsed)
    });
    let parsed: Parsed<T> = match parsed {
        // Of a field given twice the last counts, as in JSON objects everywhere, and the first may be anything. Which is the
        // last is known in the end only.
        Err(Refusal { duplicate, error }) => match json::limited(|| serde_json::from_str::<Json>(text)) {
            Err(_) => return Err(error),
            Ok(tree) => typed(tree.0).map_err(|last| if duplicate { last.error } else { error })?,
        },
        Ok(parsed) => parsed,
    };
    if let (true, Some(name)) = (strict, parsed.ignored.first()) {
        let message = "is not a field of this request (the server runs with --strict)";
        return Err(ApiError::refused("unsupported_parameter", name, message));
    }
    Ok(parsed)
}

/// Why a body is refused, and whether that is because a field stands in it twice.
struct Refusal {
    error: ApiError,
    duplicate: bool,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { error, duplicate: false }
    }
}

/// Reads a typed value, with the path of what is wrong and the names of what is not known.
fn typed<'de, T: DeserializeOwned>(json: impl Deserializer<'de>) -> Result<Parsed<T>, Refusal> {
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
        let tracked = serde_path_to_error::Deserializer::new(json, &mut track);
        T::deserialize(serde_ignored::Deserializer::new(tracked, &mut note)).map_err(|error| error.to_string())
    };
    let value = value.map_err(|message| {
        // What ends in the middle has no last name.
        let path = track.path().to_string();
        let path: String = path.trim_end_matches('?').trim_end_matches('.').chars().take(MAX_SHOWN).collect();
        let duplicate = message.starts_with("duplicate field");
        // A field that is missing is the one to look at.
        let missing =
            message.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')).map(|(name, _)| name);
        let param = match missing {
            Some(name) if path.is_empty() => name.to_owned(),
            Some(name) => format!("{path}.{name}"),
            None => path,
        };
        let message: String = message.chars().take(MAX_SHOWN).collect();
        Refusal { error: ApiError::invalid(param, message), duplicate }
    })?;
    Ok(Parsed { value, ignored })
}
