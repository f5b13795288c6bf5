//! Tokens and text, for clients that count or evaluate.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{ApiError, ErrorBody};
use crate::http::body;
use crate::openai::request::{DetokenizeRequest, TemplateRequest, TokenizeRequest};
use crate::{App, conversation, prompt};

/// `POST /tokenize`; answers both vLLM's and llama-server's form.
#[utoipa::path(post, path = "/tokenize", request_body = TokenizeRequest, responses((status = 200, body = Object, description = "Tokens of a text"), (status = "default", body = ErrorBody, description = "A refusal")))]
pub async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, ApiError> {
    let served = Arc::clone(app.served()?);
    let asked = body::read::<TokenizeRequest>(&app, request).await?.value;
    served.check_name(asked.model.as_deref(), app.config.any_model)?;
    let work = move || {
        let tokens = match (&asked.messages, asked.prompt.as_ref().or(asked.content.as_ref())) {
            (Some(messages), _) => {
                let asked = conversation::Asked {
                    messages,
                    tools: asked.tools.as_deref().unwrap_or_default(),
                    variables: asked.chat_template_kwargs.as_ref(),
                    go_on: asked.continue_final_message.unwrap_or(false),
                };
                conversation::render(&served, &asked)?.tokens
            }
            (None, Some(text)) => {
                let add = asked.add_special_tokens.or(asked.add_special).unwrap_or(true);
                prompt::encode(&served, text, add, asked.parse_special.unwrap_or(true))?
            }
            (None, None) => return Err(ApiError::invalid("prompt", "give 'prompt', 'content' or 'messages'")),
        };
        let count = tokens.len();
        let mut answer = json!({ "count": count, "max_model_len": served.info.context });
        let pieces = asked.with_pieces.unwrap_or(false);
        answer["tokens"] = match pieces {
            false => json!(tokens),
            true => tokens.iter().map(|&id| json!({ "id": id, "piece": prompt::token_text(&served, id) })).collect(),
        };
        Ok(Json(answer))
    };
    prompt::aside(work).await
}

/// `POST /detokenize`.
#[utoipa::path(post, path = "/detokenize", request_body = DetokenizeRequest, responses((status = 200, body = Object, description = "The text of tokens"), (status = "default", body = ErrorBody, description = "A refusal")))]
pub async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, ApiError> {
    let served = Arc::clone(app.served()?);
    let asked = body::read::<DetokenizeRequest>(&app, request).await?.value;
    served.check_name(asked.model.as_deref(), app.config.any_model)?;
    prompt::aside(move || {
        prompt::check_tokens(&served, &asked.tokens, "tokens")?;
        let mut bytes = Vec::new();
        for &id in &asked.tokens {
            served.tokenizer.token_bytes(id, &mut bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        Ok(Json(json!({ "prompt": text, "content": text })))
    })
    .await
}

/// `POST /apply-template`: the prompt of a conversation.
#[utoipa::path(post, path = "/apply-template", request_body = TemplateRequest, responses((status = 200, body = Object, description = "The prompt of a conversation"), (status = "default", body = ErrorBody, description = "A refusal")))]
pub async fn apply_template(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let served = Arc::clone(app.served()?);
    let asked = body::read::<TemplateRequest>(&app, request).await?.value;
    let text = prompt::aside(move || {
        let asked = conversation::Asked {
            messages: &asked.messages,
            tools: asked.tools.as_deref().unwrap_or_default(),
            variables: asked.chat_template_kwargs.as_ref(),
            go_on: asked.continue_final_message.unwrap_or(false),
        };
        Ok(conversation::render(&served, &asked)?.text)
    })
    .await?;
    Ok(Json(json!({ "prompt": text })).into_response())
}

/// `GET /tokenizer_info`: what lm-eval's remote tokenizer asks for.
#[utoipa::path(get, path = "/tokenizer_info", responses((status = 200, body = Object, description = "What the tokenizer is"), (status = "default", body = ErrorBody, description = "A refusal")))]
pub async fn tokenizer_info(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let served = app.served()?;
    let tokenizer = &served.tokenizer;
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id)).map(str::to_owned);
    Ok(Json(json!({
        "bos_token": text(tokenizer.bos()),
        "eos_token": text(tokenizer.eos()),
        "pad_token": text(tokenizer.eos()),
        "bos_token_id": tokenizer.bos(),
        "eos_token_id": tokenizer.eos(),
        "vocab_size": served.info.vocabulary,
        "chat_template": tokenizer.chat_template(),
        "model_max_length": served.info.context,
    })))
}
