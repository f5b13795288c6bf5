//! Which path leads where. Every path also works without `/v1`, for clients whose base URL lacks it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};

use crate::App;
use crate::error::ApiError;
use crate::http::access;
use crate::routes::{chat, completions, info, tokens};
use crate::{log, openapi, page};

/// Paths of other servers that are not offered, with what to use instead.
const ELSEWHERE: [(&str, &str); 9] = [
    ("/embeddings", "embeddings are not offered: chat models make poor ones"),
    ("/responses", "the Responses API is not offered; use /v1/chat/completions"),
    ("/messages", "the Messages API is not offered; use /v1/chat/completions"),
    ("/api/chat", "Ollama's API is not offered; use /v1/chat/completions"),
    ("/api/generate", "Ollama's API is not offered; use /v1/completions"),
    ("/slots", "there are no slots: sequences share pages"),
    ("/infill", "infilling is not offered"),
    ("/audio", "models that are served read and write text"),
    ("/images", "models that are served read and write text"),
];

/// Everything, behind the checks of who may ask.
pub fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new();
    let mut add = |path: &'static str, route: MethodRouter<Arc<App>>, allowed: &'static str| {
        let route = route.fallback(move || async move { method(allowed) });
        for path in [format!("/v1{path}"), path.to_owned()] {
            router = std::mem::take(&mut router).route(&path, route.clone());
        }
    };
    add("/chat/completions", post(chat::chat), "POST");
    add("/completions", post(completions::completions), "POST");
    add("/tokenize", post(tokens::tokenize), "POST");
    add("/detokenize", post(tokens::detokenize), "POST");
    add("/apply-template", post(tokens::apply_template), "POST");
    add("/tokenizer_info", get(tokens::tokenizer_info), "GET, HEAD");
    add("/models", get(info::models), "GET, HEAD");
    add("/models/{*id}", get(info::one_model), "GET, HEAD");
    add("/models/", get(info::models), "GET, HEAD");
    add("/health", get(info::health), "GET, HEAD");
    add("/livez", get(info::livez), "GET, HEAD");
    add("/props", get(info::props), "GET, HEAD");
    add("/metrics", get(info::metrics), "GET, HEAD");
    add("/openapi.json", get(openapi::openapi), "GET, HEAD");
    if app.config.page {
        for path in page::paths() {
            let file = move || async move { page::file(path).map(IntoResponse::into_response).unwrap_or_default() };
            router = router.route(path, get(file).fallback(|| async { method("GET, HEAD") }));
        }
    }
    router
        .fallback(unknown)
        .with_state(Arc::clone(app))
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(app), access::guard))
        .layer(from_fn_with_state(Arc::clone(app), log::requests))
        .layer(from_fn(log::catch_panic))
}

fn method(allowed: &'static str) -> Response {
    let mut response = ApiError::method_not_allowed(allowed).into_response();
    response.headers_mut().insert(axum::http::header::ALLOW, axum::http::HeaderValue::from_static(allowed));
    response
}

async fn unknown(request: Request) -> ApiError {
    let path = request.uri().path();
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let known = ELSEWHERE.iter().find(|(other, _)| path.starts_with(other));
    match known {
        Some((_, message)) => ApiError::unknown_url(*message),
        None if request.method() == Method::GET => ApiError::unknown_url("there is nothing at this path"),
        None => ApiError::unknown_url("there is nothing at this path; chat is at /v1/chat/completions"),
    }
}
