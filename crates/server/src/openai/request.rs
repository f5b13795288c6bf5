//! The bodies of requests.

use serde::Deserialize;
use sherry::generate::SamplingParams;
use utoipa::ToSchema;

use super::fields::{Content, LogitBias, Prompt, ResponseFormat, Stop, ToolChoice};
use super::json::{Json, Several};
use crate::error::ApiError;

/// Most answers to one prompt.
pub const MAX_CHOICES: u32 = 8;
/// Most log-probabilities beside that of the token itself.
pub const MAX_LOGPROBS: u32 = 20;
/// Most messages of a conversation.
pub const MAX_MESSAGES: usize = 1 << 14;
/// Most tools of a request, and calls of a message.
pub const MAX_TOOLS: usize = 128;
/// Most texts of a choice.
pub const MAX_TEXTS: usize = 1024;

/// One message of a conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Message {
    /// `system`, `developer` (the same), `user`, `assistant` or `tool`.
    #[serde(default)]
    #[schema(value_type = Role, required = true)]
    pub role: Option<String>,
    /// What was said; `null` only beside tool calls.
    #[serde(default)]
    pub content: Option<Content>,
    /// Who said it, where the template shows that.
    #[serde(default)]
    pub name: Option<String>,
    /// Tools that the assistant called.
    #[serde(default)]
    #[schema(value_type = Option<Vec<ToolCall>>, max_items = 128)]
    pub tool_calls: Option<Several<ToolCall, MAX_TOOLS>>,
    /// The call that this message answers.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// What the assistant thought first, for templates that show it.
    #[serde(default)]
    pub reasoning_content: Option<String>,
}

/// Who speaks. Read as text, so that an error can name the others.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code)] // for the description only
pub enum Role {
    /// What holds for the whole conversation.
    System,
    /// The same.
    Developer,
    /// The person who asks.
    User,
    /// The model.
    Assistant,
    /// The result of a call.
    Tool,
}

/// A call of a tool in a conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ToolCall {
    /// Names the call.
    #[serde(default)]
    pub id: Option<String>,
    /// The function and its arguments.
    pub function: FunctionCall,
}

/// A function and its arguments.
#[derive(Debug, Deserialize, ToSchema)]
pub struct FunctionCall {
    /// The function.
    pub name: String,
    /// JSON, as a string or as an object.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub arguments: Option<Json>,
}

/// A tool that the model may call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct Tool {
    /// `function`.
    pub r#type: String,
    /// The function.
    pub function: Function,
}

/// A function as the model is told about it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct Function {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// What it does.
    #[serde(default)]
    pub description: Option<String>,
    /// Its arguments as a JSON schema.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Json>,
}

/// What a stream holds besides the answer.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// A last chunk with the numbers of tokens.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

/// Makes a request's type: its own fields and those that both kinds of request have.
macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize, ToSchema)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $ty,)*
            /// The model; empty or absent for the one that is served.
            #[serde(default)]
            pub model: Option<String>,
            /// 0 takes the most likely token; higher is more random. 0 to 100.
            #[serde(default)]
            #[schema(minimum = 0, maximum = 100)]
            pub temperature: Option<f64>,
            /// Only the most likely tokens that together have this probability. Above 0, at most 1.
            #[serde(default)]
            #[schema(exclusive_minimum = 0, maximum = 1)]
            pub top_p: Option<f64>,
            /// Only so many of the most likely tokens; 0 or -1 for all.
            #[serde(default)]
            #[schema(minimum = -1)]
            pub top_k: Option<i64>,
            /// Only tokens at least this often as likely as the most likely one. 0 to 1.
            #[serde(default)]
            #[schema(minimum = 0, maximum = 1)]
            pub min_p: Option<f64>,
            /// Logits of tokens that have been are divided by this. Above 0, at most 100.
            #[serde(default)]
            #[schema(exclusive_minimum = 0, maximum = 100)]
            pub repetition_penalty: Option<f64>,
            /// Taken from the logits of tokens that the answer has. -2 to 2.
            #[serde(default)]
            #[schema(minimum = -2, maximum = 2)]
            pub presence_penalty: Option<f64>,
            /// Taken from the logits of tokens as often as the answer has them. -2 to 2.
            #[serde(default)]
            #[schema(minimum = -2, maximum = 2)]
            pub frequency_penalty: Option<f64>,
            /// The same seed gives the same answer; -1 or absent picks one, which the answer tells.
            #[serde(default)]
            pub seed: Option<i64>,
            /// Texts that end the answer.
            #[serde(default)]
            pub stop: Option<Stop>,
            /// Answers to each prompt. 1 to 8.
            #[serde(default)]
            #[schema(minimum = 1, maximum = 8)]
            pub n: Option<u32>,
            /// Send the answer as it is written.
            #[serde(default)]
            pub stream: Option<bool>,
            /// What a stream holds besides the answer.
            #[serde(default)]
            pub stream_options: Option<StreamOptions>,
            /// Added to the logits of some tokens: ids to -100..100.
            #[serde(default)]
            pub logit_bias: Option<LogitBias>,
            /// The form that the answer must have.
            #[serde(default)]
            pub response_format: Option<ResponseFormat>,
            /// The answer must match this regular expression.
            #[serde(default)]
            pub guided_regex: Option<String>,
            /// The answer must be one of these texts.
            #[serde(default)]
            #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 1024)]
            pub guided_choice: Option<Several<String, MAX_TEXTS>>,
            /// Go on after tokens that end an answer.
            #[serde(default)]
            pub ignore_eos: Option<bool>,
            /// Tokens before the answer may end.
            #[serde(default)]
            pub min_tokens: Option<u32>,
            /// Computed prompts are shared only with requests that give the same text here.
            #[serde(default)]
            pub cache_salt: Option<String>,
            /// Streams tell how much of the prompt is done.
            #[serde(default)]
            pub return_progress: Option<bool>,
        }

        impl $name {
            /// The fields that say how tokens are picked.
            pub fn sampling(&self) -> Sampling {
                let Self { temperature, top_p, top_k, min_p, repetition_penalty, .. } = *self;
                let Self { presence_penalty, frequency_penalty, seed, .. } = *self;
                Sampling { temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty, seed }
            }
        }
    };
}

request! {
    /// The body of `POST /v1/chat/completions`.
    ChatRequest {
        /// The conversation.
        #[schema(value_type = Vec<Message>, min_items = 1, max_items = 16384)]
        messages: Several<Message, MAX_MESSAGES>,
        /// Most tokens of the answer; what the context does not hold is left out.
        #[serde(default)]
        #[schema(minimum = 1)]
        max_completion_tokens: Option<i64>,
        /// The former name of `max_completion_tokens`.
        #[serde(default)]
        #[schema(minimum = 1)]
        max_tokens: Option<i64>,
        /// Return the log-probability of every token.
        #[serde(default)]
        logprobs: Option<bool>,
        /// And of so many of the most likely ones. 0 to 20.
        #[serde(default)]
        #[schema(minimum = 0, maximum = 20)]
        top_logprobs: Option<u32>,
        /// Tools that the model may call; up to 128.
        #[serde(default)]
        #[schema(value_type = Option<Vec<Tool>>, max_items = 128)]
        tools: Option<Several<Tool, MAX_TOOLS>>,
        /// Which of them it may or must call.
        #[serde(default)]
        tool_choice: Option<ToolChoice>,
        /// Whether one answer may call several.
        #[serde(default)]
        parallel_tool_calls: Option<bool>,
        /// Go on with the last message instead of answering it.
        #[serde(default)]
        continue_final_message: Option<bool>,
        /// Further variables of the chat template, such as `enable_thinking`.
        #[serde(default)]
        #[schema(value_type = Option<Object>)]
        chat_template_kwargs: Option<Json>,
        /// Refused: the former form of `tools`.
        #[serde(default)]
        #[schema(value_type = Option<Object>)]
        functions: Option<serde::de::IgnoredAny>,
        /// Refused: the former form of `tool_choice`.
        #[serde(default)]
        #[schema(value_type = Option<Object>)]
        function_call: Option<serde::de::IgnoredAny>,
        /// Refused, but for `["text"]`.
        #[serde(default)]
        #[schema(value_type = Option<Vec<String>>, max_items = 16)]
        modalities: Option<Several<String, 16>>,
        /// Refused.
        #[serde(default)]
        #[schema(value_type = Option<Object>)]
        audio: Option<serde::de::IgnoredAny>,
        /// Refused.
        #[serde(default)]
        #[schema(value_type = Option<Object>)]
        web_search_options: Option<serde::de::IgnoredAny>,
    }
}

request! {
    /// The body of `POST /v1/completions`.
    CompletionRequest {
        /// The text to go on with: a string, token ids, or a list of either.
        prompt: Prompt,
        /// Most new tokens; 16 when absent.
        #[serde(default)]
        #[schema(minimum = 0)]
        max_tokens: Option<i64>,
        /// Return the log-probabilities of every token and of so many of the most likely ones. 0 to 20.
        #[serde(default)]
        #[schema(minimum = 0, maximum = 20)]
        logprobs: Option<u32>,
        /// Return the prompt in front of the answer, with its log-probabilities where those are asked for.
        #[serde(default)]
        echo: Option<bool>,
        /// Refused: nothing is written into a gap.
        #[serde(default)]
        suffix: Option<String>,
        /// Equal to `n`, if given.
        #[serde(default)]
        best_of: Option<u32>,
        /// Put the begin-of-text token in front where the model expects one; true when absent.
        #[serde(default)]
        add_special_tokens: Option<bool>,
        /// Control tokens written in the prompt count as such; false when absent.
        #[serde(default)]
        parse_special: Option<bool>,
    }
}

/// The fields of a request that say how tokens are picked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampling {
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    seed: Option<i64>,
}

/// `value`, if it is in the range that `good` knows and `range` names.
fn ranged(name: &str, value: Option<f64>, good: impl Fn(f64) -> bool, range: &str) -> Result<Option<f32>, ApiError> {
    match value {
        Some(value) if !good(value) => Err(ApiError::invalid(name, format!("{name} is {value}; expected {range}"))),
        value => Ok(value.map(|value| value as f32)),
    }
}

impl Sampling {
    /// Checked, over what is used where the request says nothing; `random` is the seed of a request without one.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn resolve(self, defaults: SamplingParams, random: u64) -> Result<SamplingParams, ApiError> {
        let temperature = ranged("temperature", self.temperature, |x| (0.0..=100.0).contains(&x), "0 to 100")?;
        // Below the smallest f32 only 0 is left, which top_p excludes.
        let top_p = ranged("top_p", self.top_p, |x| x as f32 > 0.0 && x <= 1.0, "above 0, at most 1")?;
        let min_p = ranged("min_p", self.min_p, |x| (0.0..=1.0).contains(&x), "0 to 1")?;
        let good = |x| x as f32 > 0.0 && x <= 100.0;
        let repetition = ranged("repetition_penalty", self.repetition_penalty, good, "above 0, at most 100")?;
        let good = |x: f64| (-2.0..=2.0).contains(&x);
        let presence = ranged("presence_penalty", self.presence_penalty, good, "-2 to 2")?;
        let frequency = ranged("frequency_penalty", self.frequency_penalty, good, "-2 to 2")?;
        let top_k = match self.top_k {
            Some(k) if k < -1 => {
                return Err(ApiError::invalid("top_k", format!("top_k is {k}; expected 0 or more, or -1 for all")));
            }
            Some(k) => usize::try_from(k.max(0)).unwrap_or(usize::MAX),
            None => defaults.top_k,
        };
        Ok(SamplingParams {
            temperature: temperature.unwrap_or(defaults.temperature),
            top_k,
            top_p: top_p.unwrap_or(defaults.top_p),
            min_p: min_p.unwrap_or(defaults.min_p),
            repetition_penalty: repetition.unwrap_or(defaults.repetition_penalty),
            seed: match self.seed {
                None | Some(-1) => random,
                Some(seed) => seed as u64,
            },
            presence_penalty: presence.unwrap_or(defaults.presence_penalty),
            frequency_penalty: frequency.unwrap_or(defaults.frequency_penalty),
            ..defaults
        })
    }
}

/// A number of tokens: not negative.
///
/// # Errors
/// 400 naming the field.
pub fn tokens(name: &str, value: Option<i64>) -> Result<Option<usize>, ApiError> {
    match value {
        Some(value) if value < 0 => {
            Err(ApiError::invalid(name, format!("{name} is {value}; expected a number of tokens, 0 or more")))
        }
        value => Ok(value.map(|value| usize::try_from(value).unwrap_or(usize::MAX))),
    }
}

/// Answers to each prompt, at most `most`.
///
/// # Errors
/// 400: out of range.
pub fn choices(n: Option<u32>, prompts: usize, most: usize) -> Result<usize, ApiError> {
    let (n, most) = (n.unwrap_or(1), most.min(MAX_CHOICES as usize));
    if n == 0 || n as usize > most {
        return Err(ApiError::invalid("n", format!("n is {n}; expected 1 to {most}")));
    }
    let n = n as usize;
    if n * prompts > super::fields::MAX_PROMPTS {
        let most = super::fields::MAX_PROMPTS;
        return Err(ApiError::invalid("n", format!("{prompts} prompts with {n} answers each; at most {most} in all")));
    }
    Ok(n)
}

/// The body of `POST /tokenize`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// The text (the name that vLLM uses).
    #[serde(default)]
    pub prompt: Option<String>,
    /// The text (the name that llama-server uses).
    #[serde(default)]
    pub content: Option<String>,
    /// A conversation instead of a text.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Message>>, min_items = 1, max_items = 16384)]
    pub messages: Option<Several<Message, MAX_MESSAGES>>,
    /// Tools that the model may call in the conversation.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Tool>>, max_items = 128)]
    pub tools: Option<Several<Tool, MAX_TOOLS>>,
    /// Go on with the last message instead of answering it.
    #[serde(default)]
    pub continue_final_message: Option<bool>,
    /// Further variables of the chat template.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Json>,
    /// Put the begin-of-text token in front where the model expects one; true when absent.
    #[serde(default)]
    pub add_special_tokens: Option<bool>,
    /// Another name of `add_special_tokens`.
    #[serde(default)]
    pub add_special: Option<bool>,
    /// Control tokens written in the text count as such; true when absent.
    #[serde(default)]
    pub parse_special: Option<bool>,
    /// Return the text of every token too.
    #[serde(default)]
    pub with_pieces: Option<bool>,
    /// The model; empty or absent for the one that is served.
    #[serde(default)]
    pub model: Option<String>,
}

/// The body of `POST /detokenize`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The model; empty or absent for the one that is served.
    #[serde(default)]
    pub model: Option<String>,
}

/// The body of `POST /apply-template`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TemplateRequest {
    /// The conversation.
    #[schema(value_type = Vec<Message>, min_items = 1, max_items = 16384)]
    pub messages: Several<Message, MAX_MESSAGES>,
    /// Tools that the model may call.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Tool>>, max_items = 128)]
    pub tools: Option<Several<Tool, MAX_TOOLS>>,
    /// Go on with the last message instead of answering it.
    #[serde(default)]
    pub continue_final_message: Option<bool>,
    /// Further variables of the chat template.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Json>,
}
