//! What the server is and how it does: models, properties, health, metrics, the interface's description.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::App;
use crate::error::{ApiError, ErrorBody};
use crate::model::Served;

fn model(served: &Served) -> Value {
    json!({ "id": served.id(), "object": "model", "created": served.created, "owned_by": "sherry", "meta": served.info })
}

/// `GET /v1/models`.
#[utoipa::path(get, path = "/v1/models", responses((status = 200, body = Object, description = "The model that is served"), (status = "default", body = ErrorBody, description = "A refusal")))]
pub async fn models(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "object": "list", "data": [model(app.served()?)] })))
}

/// `GET /v1/models/{id}`; ids may hold slashes.
#[utoipa::path(get, path = "/v1/models/{id}", responses((status = 200, body = Object, description = "The model that is served"), (status = "default", body = ErrorBody, description = "A refusal")), params(("id" = String, Path, description = "Its name")))]
pub async fn one_model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let served = app.served()?;
    if id.is_empty() {
        return models(State(app)).await;
    }
    served.check_name(Some(&id), false)?;
    Ok(Json(model(served)))
}

/// `GET /health`: whether requests are taken.
#[utoipa::path(get, path = "/health", responses((status = 200, body = Object, description = "Requests are taken"), (status = "default", body = ErrorBody, description = "A refusal")))]
pub async fn health(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    app.served()?;
    Ok(Json(json!({ "status": "ok" })))
}

/// `GET /livez`: whether the engine moves.
#[utoipa::path(get, path = "/livez", responses((status = 200, body = Object, description = "The engine moves"), (status = "default", body = ErrorBody, description = "A refusal")))]
pub async fn livez(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    if app.engine_is_stuck() {
        return Err(ApiError::unavailable("overloaded", "the engine has not answered for 30 s", 30));
    }
    Ok(Json(json!({ "status": "ok" })))
}

/// `GET /props`.
#[utoipa::path(get, path = "/props", responses((status = 200, body = Object, description = "What is served and how"), (status = "default", body = ErrorBody, description = "A refusal")))]
pub async fn props(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let served = app.served()?;
    let config = &app.config;
    Ok(Json(json!({
        "model": served.info,
        "defaults": served.default_fields(),
        "limits": {
            "body_bytes": config.max_body,
            "queue": config.max_queue,
            "timeout_seconds": config.timeout.as_secs(),
            "answer_tokens": config.max_tokens,
        },
        "engine": served.engine,
        "version": env!("CARGO_PKG_VERSION"),
        "has_chat_template": served.template.is_some(),
        "system_fingerprint": served.fingerprint,
    })))
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /metrics`.
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, body = String, content_type = OPEN_METRICS, description = "Numbers for Prometheus")))]
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], app.metrics.text()).into_response()
}
