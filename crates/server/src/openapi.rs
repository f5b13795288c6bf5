//! The interface as OpenAPI 3.1, made from the same types that requests are read into.

use axum::Json;
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
pub async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
