//! The interface as OpenAPI 3.1, made from the same types that requests are read into.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;

use crate::routes::{chat, completions, info, tokens};

#[derive(OpenApi)]
#[openapi(
    info(title = "Sherry", description = "OpenAI-compatible server for 1.25-bit language models"),
    paths(
        chat::chat,
        completions::completions,
        tokens::tokenize,
        tokens::detokenize,
        tokens::apply_template,
        tokens::tokenizer_info,
        info::models,
        info::one_model,
        info::health,
        info::livez,
        info::props,
        info::metrics,
    )
)]
struct Document;

/// `GET /openapi.json`.
pub async fn openapi() -> Response {
    // utoipa writes a hyphen into these names of OpenAPI's registry of formats.
    match Document::openapi().to_json() {
        Ok(text) => {
            let text = text.replace("\"u-int32\"", "\"uint32\"").replace("\"u-int64\"", "\"uint64\"");
            ([(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
