//! Every refusal in the one shape that OpenAI's clients read: `{"error": {"message", "type", "param", "code"}}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// A refusal or failure on its way to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
    /// Seconds after which another try makes sense.
    retry_after: Option<u32>,
    /// Further fields beside the four that every error has.
    details: Box<[(&'static str, Value)]>,
}

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// For people.
    pub message: String,
    /// The kind, for programs: `invalid_request_error` and others.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field that is wrong, as a path.
    pub param: Option<String>,
    /// A finer kind, such as `context_length_exceeded`.
    pub code: Option<String>,
}

impl ApiError {
    fn new(
        status: StatusCode,
        kind: &'static str,
        code: impl Into<Option<&'static str>>,
        message: impl Into<String>,
    ) -> Self {
        let (code, message) = (code.into(), message.into());
        Self { status, kind, code, param: None, message, retry_after: None, details: Box::default() }
    }

    /// A field that cannot be used as it is.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message);
        let param = param.into();
        Self { param: (!param.is_empty()).then_some(param), ..error }
    }

    /// A 400 with a code of its own.
    pub fn refused(code: &'static str, param: &str, message: impl Into<String>) -> Self {
        Self { code: Some(code), ..Self::invalid(param, message) }
    }

    /// A prompt that leaves no room. The message holds the phrases by which clients recognise this error.
    pub fn context_length(param: &str, prompt: usize, context: usize) -> Self {
        let message = format!(
            "this model's maximum context length is {context} tokens, but the prompt has {prompt}: it exceeds the \
             available context size; shorten it or start the server with a larger --ctx-size"
        );
        let details = Box::new([("n_prompt_tokens", json!(prompt)), ("n_ctx", json!(context))]);
        Self { details, ..Self::refused("context_length_exceeded", param, message) }
    }

    /// 401.
    pub fn unauthorized() -> Self {
        let message = "a valid API key is needed: 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'";
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
    }

    /// 403.
    pub fn forbidden(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", code, message)
    }

    /// 404 for a model that is not served.
    pub fn model_not_found(asked: &str, known: &[String]) -> Self {
        let asked: String = asked.chars().take(64).collect();
        let message = format!("the model '{asked}' is not served here; these are: {}", known.join(", "));
        let error = Self::new(StatusCode::NOT_FOUND, "not_found_error", "model_not_found", message);
        Self { param: Some("model".to_owned()), ..error }
    }

    /// 404 for a path.
    pub fn unknown_url(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", "unknown_url", message)
    }

    /// 405.
    pub fn method_not_allowed(allowed: &'static str) -> Self {
        let message = format!("this path takes {allowed} only");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", message)
    }

    /// 408: the body came too slowly.
    pub fn body_timeout(seconds: u64) -> Self {
        let message = format!("the request's body did not arrive within {seconds} s");
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", "request_timeout", message)
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("the request's body is longer than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "request_too_large", message)
    }

    /// 415.
    pub fn media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", "unsupported_media_type", message)
    }

    /// 429: one client holds as many requests as it may.
    pub fn too_many(limit: usize) -> Self {
        let message = format!("a client may have {limit} requests at a time");
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "too_many_requests", message);
        Self { retry_after: Some(1), ..error }
    }

    /// 503: not now, but later.
    pub fn unavailable(code: &'static str, message: impl Into<String>, retry_after: u64) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", code, message);
        Self { retry_after: Some(retry_after.clamp(1, 60) as u32), ..error }
    }

    /// 500: our fault.
    pub fn internal(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", code, message)
    }

    /// 504: the request took longer than it may.
    pub fn deadline(seconds: u64) -> Self {
        let message = format!("the request was not finished within {seconds} s");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", "deadline_exceeded", message)
    }

    /// The same error under a longer path: `prompt` becomes `prompt[3]`.
    #[must_use]
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The finer kind, or the kind.
    pub fn code(&self) -> &'static str {
        self.code.unwrap_or(self.kind)
    }

    /// As JSON: the body of an answer, or the data of an event in a stream.
    pub fn body(&self) -> Value {
        let mut error = Map::new();
        error.insert("message".to_owned(), json!(self.message));
        error.insert("type".to_owned(), json!(self.kind));
        error.insert("param".to_owned(), json!(self.param));
        error.insert("code".to_owned(), json!(self.code));
        error.extend(self.details.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        json!({ "error": error })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        } else if self.status.is_server_error() || self.status == StatusCode::REQUEST_TIMEOUT {
            // OpenAI's clients try 408 and 5xx again on their own; the same request would end the same way.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self.status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(Refused(self.code()));
        response
    }
}

/// Left on a response for the log and the metrics: why it is not a success.
#[derive(Clone, Copy, Debug)]
pub struct Refused(pub &'static str);
