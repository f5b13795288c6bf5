//! The bodies of answers, whole and in pieces.

use serde::Serialize;
use utoipa::ToSchema;

/// Numbers of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Of the prompts.
    pub prompt_tokens: usize,
    /// Of the answers, with the token that ended one and those of a stop text.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// Of the prompts, in detail.
    pub prompt_tokens_details: PromptDetails,
}

/// Tokens of prompts in detail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptDetails {
    /// Those that an earlier request had computed.
    pub cached_tokens: usize,
}

impl Usage {
    /// With the sum.
    pub fn new(prompt_tokens: usize, completion_tokens: usize, cached_tokens: usize) -> Self {
        let prompt_tokens_details = PromptDetails { cached_tokens };
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details,
        }
    }
}

/// How long it took, with llama-server's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Timings {
    /// Prompt tokens computed.
    pub prompt_n: usize,
    /// Prompt tokens that were there.
    pub cache_n: usize,
    /// Time for the prompt.
    pub prompt_ms: f64,
    /// Prompt tokens computed per second.
    pub prompt_per_second: f64,
    /// Tokens written.
    pub predicted_n: usize,
    /// Time for them, from the first on.
    pub predicted_ms: f64,
    /// Tokens written per second; the first is the prompt's.
    pub predicted_per_second: f64,
}

/// What no other server tells.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct Extra {
    /// The seed with which the same request gives the same answer.
    pub seed: u64,
    /// Time in the queue.
    pub queue_ms: f64,
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TokenLogprob {
    /// Its text; bytes that are no text alone appear as `\xNN`.
    pub token: String,
    /// Natural logarithm of its probability, at least -9999.
    pub logprob: f64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The most likely tokens at its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<Vec<TopLogprob>>,
}

/// One of the most likely tokens.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Log-probabilities of a chat answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// Of every token.
    pub content: Vec<TokenLogprob>,
}

/// Log-probabilities of a completion: lists of the same length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Texts of the tokens.
    pub tokens: Vec<String>,
    /// Their log-probabilities; none for the first token of a text.
    pub token_logprobs: Vec<Option<f64>>,
    /// The most likely tokens at each place, and the token itself.
    #[schema(value_type = Vec<Option<Object>>)]
    pub top_logprobs: Vec<Option<serde_json::Map<String, serde_json::Value>>>,
    /// Where in the text each begins, in characters.
    pub text_offset: Vec<usize>,
}

/// The call of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct AnswerToolCall {
    /// Its place; only in streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Names it, for the message that answers it.
    pub id: String,
    /// `function`.
    pub r#type: &'static str,
    /// What is called.
    pub function: AnswerFunction,
}

/// A function with its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct AnswerFunction {
    /// The function.
    pub name: String,
    /// JSON as a string.
    pub arguments: String,
}

/// A message of the assistant, or a piece of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct AnswerMessage {
    /// `assistant`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Text; `null` beside tool calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Option<String>>,
    /// Tools to call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<AnswerToolCall>>,
}

/// One answer to a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Its place among the answers.
    pub index: usize,
    /// The whole message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<AnswerMessage>,
    /// A piece of it, in streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<AnswerMessage>,
    /// Log-probabilities, where asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`; none while it goes on.
    pub finish_reason: Option<&'static str>,
}

/// One continuation of a text.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Its place among the continuations.
    pub index: usize,
    /// Text.
    pub text: String,
    /// Log-probabilities, where asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; none while it goes on.
    pub finish_reason: Option<&'static str>,
}

/// An answer, or in a stream one of its chunks.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Answer<C> {
    /// The request's id, also in the header `x-request-id`.
    pub id: String,
    /// `chat.completion`, `chat.completion.chunk` or `text_completion`.
    pub object: &'static str,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// Equal for all answers of equal model, build, instruction set, precision and cache: equal bits.
    pub system_fingerprint: String,
    /// The answers.
    pub choices: Vec<C>,
    /// Numbers of tokens; in streams `null` but for the last chunk, and absent unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// How long it took, at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// What no other server tells, at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sherry: Option<Extra>,
    /// How much of the prompt is done, in streams that ask for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_progress: Option<PromptProgress>,
}

/// How much of the prompt is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptProgress {
    /// Tokens in all.
    pub total: usize,
    /// Tokens done.
    pub processed: usize,
    /// Requests that come first; 0 when it is being worked on.
    pub queue: usize,
}

/// The value of every log-probability: JSON has no infinity.
pub fn finite(logprob: f64) -> f64 {
    if logprob.is_nan() { -9999.0 } else { logprob.clamp(-9999.0, 0.0) }
}
