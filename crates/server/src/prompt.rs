//! From the fields of a request to what the engine computes. All of it can take a while for large requests, so callers
//! run it [`aside`].

use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use serde_json::json;
use sherry::batch::{Constraint, Scores};
use sherry::generate::{SamplingParams, StopStrings};

use crate::App;
use crate::engine::Ask;
use crate::error::ApiError;
use crate::grammar::{ForcedCall, Rule};
use crate::http::access::Client;
use crate::model::Served;
use crate::openai::fields::{FormatKind, LogitBias, NamedSchema, ResponseFormat, Stop};
use crate::openai::json::Json;
use crate::openai::request::{Sampling, StreamOptions};

/// Runs work beside the thread that serves connections.
///
/// # Errors
/// Those of the work; 500 when it panics.
pub async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ApiError::internal("internal_error", "the request could not be prepared; this is a bug"))?
}

/// Tokens of a text.
///
/// # Errors
/// 400: the vocabulary cannot express it.
pub fn encode(served: &Served, text: &str, add: bool, special: bool) -> Result<Vec<u32>, ApiError> {
    served.tokenizer.encode(text, add, special).map_err(|error| ApiError::invalid("prompt", error.to_string()))
}

/// Refuses ids outside the vocabulary; ids without a token are allowed.
///
/// # Errors
/// 400 naming the first.
pub fn check_tokens(served: &Served, tokens: &[u32], param: &str) -> Result<(), ApiError> {
    let vocabulary = served.info.vocabulary;
    match tokens.iter().position(|&id| id as usize >= vocabulary) {
        None => Ok(()),
        Some(index) => {
            let message = format!("{} is not a token id; the vocabulary has {vocabulary}", tokens[index]);
            Err(ApiError::invalid(format!("{param}[{index}]"), message))
        }
    }
}

/// A prompt that the context can hold.
///
/// # Errors
/// 400: empty, or longer than the context.
pub fn fits(served: &Served, tokens: Vec<u32>, param: &str) -> Result<Arc<[u32]>, ApiError> {
    if tokens.is_empty() {
        return Err(ApiError::invalid(param, "the prompt has no tokens"));
    }
    if tokens.len() > served.info.context {
        return Err(ApiError::context_length(param, tokens.len(), served.info.context));
    }
    Ok(tokens.into())
}

/// The bytes of a token; none for ids without a text.
pub fn token_bytes(served: &Served, token: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    // An id without a text has no bytes.
    served.tokenizer.token_bytes(token, &mut bytes);
    bytes
}

/// The text of a token alone; bytes that are no text become U+FFFD.
pub fn token_text(served: &Served, token: u32) -> String {
    match served.tokenizer.is_control(token) {
        true => served.tokenizer.id_to_token(token).unwrap_or_default().to_owned(),
        false => String::from_utf8_lossy(&token_bytes(served, token)).into_owned(),
    }
}

/// The text of a token, or `bytes:\xNN` for bytes that are no text: different tokens keep different names.
pub fn token_name(served: &Served, token: u32) -> String {
    if served.tokenizer.is_control(token) {
        return token_text(served, token);
    }
    match String::from_utf8(token_bytes(served, token)) {
        Ok(text) => text,
        Err(error) => {
            let bytes = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
            format!("bytes:{bytes}")
        }
    }
}

/// The text of a prompt, with the texts of control tokens.
pub fn decode(served: &Served, tokens: &[u32]) -> String {
    let mut bytes = Vec::new();
    for &token in tokens {
        match served.tokenizer.is_control(token) {
            true => bytes.extend_from_slice(token_text(served, token).as_bytes()),
            false => bytes.extend(token_bytes(served, token)),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The fields that both kinds of request have.
pub struct CommonFields<'a> {
    pub sampling: Sampling,
    pub stop: Option<&'a Stop>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub logit_bias: Option<&'a LogitBias>,
    pub response_format: Option<&'a ResponseFormat>,
    pub guided_regex: Option<&'a str>,
    pub guided_choice: Option<&'a [String]>,
    pub ignore_eos: Option<bool>,
    pub min_tokens: Option<u32>,
    pub cache_salt: Option<&'a str>,
    pub return_progress: Option<bool>,
}

/// The common fields of a request of either type.
macro_rules! common_fields {
    ($asked:expr) => {
        prompt::CommonFields {
            sampling: $asked.sampling(),
            stop: $asked.stop.as_ref(),
            stream: $asked.stream,
            stream_options: $asked.stream_options,
            logit_bias: $asked.logit_bias.as_ref(),
            response_format: $asked.response_format.as_ref(),
            guided_regex: $asked.guided_regex.as_deref(),
            guided_choice: $asked.guided_choice.as_deref(),
            ignore_eos: $asked.ignore_eos,
            min_tokens: $asked.min_tokens,
            cache_salt: $asked.cache_salt.as_deref(),
            return_progress: $asked.return_progress,
        }
    };
}
pub(crate) use common_fields;

/// The common fields, checked.
pub struct Common {
    /// How tokens are picked.
    pub sampling: SamplingParams,
    bias: Arc<[(u32, f32)]>,
    stop: StopStrings,
    /// Send the answer as it is written.
    pub stream: bool,
    /// A last chunk with the numbers of tokens.
    pub include_usage: bool,
    /// Streams tell how much of the prompt is done.
    pub progress: bool,
    rule: Option<Rule>,
    ignore_eos: bool,
    min_tokens: usize,
    salt: String,
    most: Option<usize>,
}

impl Common {
    /// Checks the fields.
    ///
    /// # Errors
    /// 400 naming the first that is wrong.
    pub fn check(app: &App, served: &Served, fields: &CommonFields<'_>) -> Result<Self, ApiError> {
        let sampling = fields.sampling.resolve(served.defaults, crate::engine::random_seed())?;
        let stream = fields.stream.unwrap_or(false);
        if fields.stream_options.is_some() && !stream {
            return Err(ApiError::invalid("stream_options", "stream_options needs 'stream': true"));
        }
        let bias = fields.logit_bias.map(|bias| bias.0.clone()).unwrap_or_default();
        if let Some((id, _)) = bias.iter().find(|(id, _)| *id as usize >= served.info.vocabulary) {
            let message = format!("{id} is not a token id; the vocabulary has {}", served.info.vocabulary);
            return Err(ApiError::invalid("logit_bias", message));
        }
        let stop = StopStrings::new(fields.stop.map(|stop| stop.0.clone()).unwrap_or_default())
            .map_err(|error| ApiError::invalid("stop", error.to_string()))?;
        let format = match fields.response_format {
            None | Some(ResponseFormat { r#type: FormatKind::Text, .. }) => None,
            Some(ResponseFormat { r#type: FormatKind::JsonObject, .. }) => Some(json!({ "type": "object" })),
            Some(ResponseFormat { json_schema: None, .. }) => {
                return Err(ApiError::invalid("response_format.json_schema", "a form of type 'json_schema' needs one"));
            }
            Some(ResponseFormat { json_schema: Some(NamedSchema { schema, .. }), .. }) => Some(match schema {
                None => json!({ "type": "object" }),
                Some(Json(schema)) => schema.clone(),
            }),
        };
        let rule = match (format, fields.guided_regex, fields.guided_choice) {
            (None, None, None) => None,
            (Some(schema), None, None) => Some(Rule::Json(schema)),
            (None, Some(regex), None) => Some(Rule::Regex(regex.to_owned())),
            (None, None, Some(texts)) => Some(Rule::Choice(texts.to_vec())),
            _ => {
                let message = "response_format, guided_regex and guided_choice exclude each other";
                return Err(ApiError::invalid("response_format", message));
            }
        };
        Ok(Self {
            sampling,
            bias: bias.into(),
            stop,
            stream,
            include_usage: fields.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
            progress: fields.return_progress.unwrap_or(false),
            rule,
            ignore_eos: fields.ignore_eos.unwrap_or(false),
            min_tokens: fields.min_tokens.unwrap_or(0) as usize,
            salt: fields.cache_salt.unwrap_or_default().to_owned(),
            most: app.config.max_tokens,
        })
    }

    /// The tokens that an answer may have.
    pub fn cap(&self, asked: usize) -> usize {
        asked.min(self.most.unwrap_or(usize::MAX))
    }

    /// What the answer must look like, ready to run.
    ///
    /// # Errors
    /// 400 `invalid_schema`.
    pub fn constraint(
        &self,
        app: &App,
        forced: Option<ForcedCall<'_>>,
    ) -> Result<Option<Box<dyn Constraint>>, ApiError> {
        let rule = match (forced, &self.rule) {
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid("response_format", "a forced tool call has a form of its own"));
            }
            (Some(forced), None) => Rule::call(&forced),
            (None, Some(rule)) => rule.clone(),
            (None, None) => return Ok(None),
        };
        app.engine.grammars(app.served()?)?.compile(&rule).map(Some)
    }

    /// The engine's request, but for prompts, number of tokens and scores.
    pub fn ask(&self, served: &Served) -> Ask {
        Ask {
            prompts: Vec::new(),
            n: 1,
            sampling: self.sampling,
            bias: Arc::clone(&self.bias),
            stop: self.stop.clone(),
            end: if self.ignore_eos { Arc::from([]) } else { Arc::clone(&served.end) },
            max_tokens: usize::MAX,
            min_tokens: self.min_tokens,
            scores: Scores::default(),
            constraint: None,
            salt: self.salt.clone(),
            client: Client(Arc::from("")),
        }
    }
}

/// Names the fields that meant nothing, for people who wonder why.
pub fn with_ignored(mut response: Response, ignored: &[String]) -> Response {
    let plain = |name: &&String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let names: Vec<&str> = ignored.iter().filter(plain).map(String::as_str).collect();
    if let (false, Ok(value)) = (names.is_empty(), HeaderValue::from_str(&names.join(", "))) {
        response.headers_mut().insert(HeaderName::from_static("x-sherry-ignored"), value);
    }
    response
}
