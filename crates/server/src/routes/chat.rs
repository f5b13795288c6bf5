//! `POST /v1/chat/completions`: answering conversations.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;

use sherry::batch::Scores;
use sherry::generate::TokenScore;

use super::answering::{Answering, Shape};
use crate::engine::mailbox::News;
use crate::engine::{Ask, finish_name};
use crate::error::{ApiError, ErrorBody};
use crate::grammar::ForcedCall;
use crate::http::access::Client;
use crate::http::body;
use crate::log::RequestId;
use crate::model::Served;
use crate::openai::answer::{
    Answer, AnswerFunction, AnswerMessage, AnswerToolCall, ChatChoice, ChatLogprobs, TokenLogprob, TopLogprob, finite,
};
use crate::openai::fields::ToolChoice;
use crate::openai::request::{self, ChatRequest, MAX_LOGPROBS};
use crate::tools::{CallParser, Parsed, Style};
use crate::{App, conversation, prompt};

/// Answers the request.
///
/// # Errors
/// Whatever is wrong with it, before anything runs.
#[utoipa::path(post, path = "/v1/chat/completions", request_body = ChatRequest, responses((status = 200, content((Answer<ChatChoice> = "application/json"), (String = "text/event-stream")), description = "An answer, or a stream of chunks"), (status = "default", body = ErrorBody, description = "A refusal")))]
pub async fn chat(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let began = Instant::now();
    let served = Arc::clone(app.served()?);
    let body::Parsed { value: asked, ignored } = body::read::<ChatRequest>(&app, request).await?;
    served.check_name(asked.model.as_deref(), app.config.any_model)?;
    refuse_unsupported(&asked)?;
    let n = request::choices(asked.n, 1, served.max_choices)?;
    let logprobs = logprobs(&asked)?;
    let max_tokens = match request::tokens("max_completion_tokens", asked.max_completion_tokens)? {
        Some(tokens) => Some(tokens),
        None => request::tokens("max_tokens", asked.max_tokens)?,
    };
    if max_tokens == Some(0) {
        let name = if asked.max_completion_tokens.is_some() { "max_completion_tokens" } else { "max_tokens" };
        return Err(ApiError::invalid(name, format!("{name} is 0; expected 1 or more")));
    }
    let style = tool_style(&served, &asked)?;
    let parallel = asked.parallel_tool_calls.unwrap_or(true);
    let common = prompt::Common::check(&app, &served, &asked_common(&asked))?;
    let (stream, include_usage, progress) = (common.stream, common.include_usage, common.progress);
    let seed = common.sampling.seed;
    let ask = {
        let (app, served, client) = (Arc::clone(&app), Arc::clone(&served), client.clone());
        prompt::aside(move || {
            let choice = asked.tool_choice.clone().unwrap_or_default();
            let tools = asked.tools.as_deref().filter(|_| choice != ToolChoice::None);
            let prompt = conversation::render(
                &served,
                &conversation::Asked {
                    messages: &asked.messages,
                    tools: tools.unwrap_or_default(),
                    variables: asked.chat_template_kwargs.as_ref(),
                    go_on: asked.continue_final_message.unwrap_or(false),
                },
            )?;
            let prompt = prompt::fits(&served, prompt.tokens, "messages")?;
            if prompt.len() >= served.info.context {
                return Err(ApiError::context_length("messages", prompt.len(), served.info.context));
            }
            let forced = match (&choice, tools, style) {
                (ToolChoice::Required | ToolChoice::Named(_), Some(tools), Some(style)) => {
                    let name = if let ToolChoice::Named(name) = &choice { Some(name.as_str()) } else { None };
                    Some(ForcedCall { tools, name, style, parallel })
                }
                _ => None,
            };
            let constraint = common.constraint(&app, forced)?;
            Ok(Ask {
                prompts: vec![prompt],
                n,
                max_tokens: common.cap(max_tokens.unwrap_or(usize::MAX)),
                scores: Scores { generated: logprobs, prompt: None },
                constraint,
                client,
                ..common.ask(&served)
            })
        })
        .await?
    };
    let parser = || style.map(|style| CallParser::new(style, parallel));
    let states = (0..n).map(|_| Written { logprobs, parser: parser(), ..Written::default() }).collect();
    let shape = Chat { served: Arc::clone(&served), id: id.clone(), states };
    let ticket = app.engine.submit(&app, ask)?;
    let answering = Answering {
        app: Arc::clone(&app),
        served,
        ticket,
        id,
        client,
        seed,
        choices: (n, n),
        began,
        include_usage,
        progress,
    };
    Ok(prompt::with_ignored(answering.respond(shape, stream).await?, &ignored))
}

fn asked_common(asked: &ChatRequest) -> prompt::CommonFields<'_> {
    prompt::common_fields!(asked)
}

fn refuse_unsupported(asked: &ChatRequest) -> Result<(), ApiError> {
    let refuse = |name: &str, what: &str| Err(ApiError::refused("unsupported_parameter", name, what));
    if asked.functions.is_some() {
        return refuse("functions", "the former form of 'tools'; use that");
    }
    if asked.function_call.is_some() {
        return refuse("function_call", "the former form of 'tool_choice'; use that");
    }
    if asked.audio.is_some() {
        return refuse("audio", "models that are served read and write text");
    }
    if asked.web_search_options.is_some() {
        return refuse("web_search_options", "the server opens no other address");
    }
    if asked.modalities.as_ref().is_some_and(|all| all.iter().any(|one| one != "text")) {
        return refuse("modalities", "models that are served read and write text");
    }
    Ok(())
}

fn logprobs(asked: &ChatRequest) -> Result<Option<usize>, ApiError> {
    match (asked.logprobs.unwrap_or(false), asked.top_logprobs) {
        (false, Some(top)) if top > 0 => Err(ApiError::invalid("top_logprobs", "top_logprobs needs 'logprobs': true")),
        (_, Some(top)) if top > MAX_LOGPROBS => {
            Err(ApiError::invalid("top_logprobs", format!("top_logprobs is {top}; expected 0 to {MAX_LOGPROBS}")))
        }
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
    }
}

/// How the model writes calls, if the request has tools that it may call.
fn tool_style(served: &Served, asked: &ChatRequest) -> Result<Option<Style>, ApiError> {
    let choice = asked.tool_choice.clone().unwrap_or_default();
    let tools = asked.tools.as_deref().unwrap_or_default();
    if tools.is_empty() {
        return match choice {
            ToolChoice::Required | ToolChoice::Named(_) => {
                Err(ApiError::invalid("tool_choice", "tool_choice needs 'tools'"))
            }
            ToolChoice::Auto | ToolChoice::None => Ok(None),
        };
    }
    conversation::check_tools(tools)?;
    if let ToolChoice::Named(name) = &choice
        && !tools.iter().any(|tool| tool.function.name == *name)
    {
        let name: String = name.chars().take(64).collect();
        return Err(ApiError::invalid("tool_choice", format!("there is no tool named '{name}'")));
    }
    if choice == ToolChoice::None {
        return Ok(None);
    }
    Ok(Some(Style::of_template(conversation::template(served)?.source())))
}

/// What is known of one choice.
#[derive(Default)]
struct Written {
    logprobs: Option<usize>,
    parser: Option<CallParser>,
    text: String,
    tokens: Vec<TokenLogprob>,
    calls: Vec<AnswerToolCall>,
    finish: Option<&'static str>,
}

struct Chat {
    served: Arc<Served>,
    id: RequestId,
    states: Vec<Written>,
}

impl Chat {
    /// Text and calls that can be shown now, and the end.
    fn take(&mut self, news: News) -> (String, Vec<AnswerToolCall>, Vec<TokenLogprob>) {
        let Self { served, id, states } = self;
        let index = news.choice;
        let state = &mut states[index];
        let tokens = match state.logprobs {
            None => Vec::new(),
            Some(k) => news.tokens.iter().map(|score| token_logprob(served, score, k)).collect(),
        };
        let mut parsed = match &mut state.parser {
            Some(parser) => parser.push(&news.text),
            None => Parsed { text: news.text, calls: Vec::new() },
        };
        if let Some(end) = news.end {
            if let Some(parser) = state.parser.take() {
                let rest = parser.finish();
                parsed.text.push_str(&rest.text);
                parsed.calls.extend(rest.calls);
            }
            state.finish = Some(finish_name(end.finish));
        }
        let first = state.calls.len();
        let call = |(number, function): (usize, AnswerFunction)| AnswerToolCall {
            index: Some(first + number),
            id: format!("call_{}_{index}_{}", id.0.trim_start_matches("chatcmpl-"), first + number),
            r#type: "function",
            function,
        };
        let calls: Vec<_> = parsed.calls.into_iter().enumerate().map(call).collect();
        state.calls.extend(calls.iter().cloned());
        if !state.calls.is_empty() && state.finish == Some("stop") {
            state.finish = Some("tool_calls");
        }
        (parsed.text, calls, tokens)
    }
}

fn token_logprob(served: &Served, score: &TokenScore, k: usize) -> TokenLogprob {
    let bytes = |token| prompt::token_bytes(served, token);
    let top = score.top.iter().take(k).map(|&(token, logprob)| TopLogprob {
        token: prompt::token_text(served, token),
        logprob: finite(logprob),
        bytes: bytes(token),
    });
    TokenLogprob {
        token: prompt::token_text(served, score.token),
        logprob: finite(score.logprob),
        bytes: bytes(score.token),
        top_logprobs: Some(top.collect()),
    }
}

fn delta(index: usize, message: AnswerMessage) -> ChatChoice {
    ChatChoice { index, message: None, delta: Some(message), logprobs: None, finish_reason: None }
}

impl Shape for Chat {
    type Choice = ChatChoice;
    const OBJECTS: (&'static str, &'static str) = ("chat.completion", "chat.completion.chunk");
    const ROUTE: &'static str = "/chat/completions";

    fn begin(&mut self) -> Vec<ChatChoice> {
        let first = AnswerMessage { role: Some("assistant"), content: Some(Some(String::new())), tool_calls: None };
        (0..self.states.len()).map(|index| delta(index, first.clone())).collect()
    }

    fn piece(&mut self, news: News) -> Vec<ChatChoice> {
        let index = news.choice;
        let (text, calls, tokens) = self.take(news);
        let mut chunks = Vec::new();
        if !text.is_empty() || !tokens.is_empty() {
            let content = AnswerMessage { content: Some(Some(text)), ..AnswerMessage::default() };
            let logprobs = self.states[index].logprobs.map(|_| ChatLogprobs { content: tokens });
            chunks.push(ChatChoice { logprobs, ..delta(index, content) });
        }
        for call in calls {
            let message = AnswerMessage { tool_calls: Some(vec![call]), ..AnswerMessage::default() };
            chunks.push(delta(index, message));
        }
        if let Some(finish) = self.states[index].finish {
            chunks.push(ChatChoice { finish_reason: Some(finish), ..delta(index, AnswerMessage::default()) });
        }
        chunks
    }

    fn collect(&mut self, news: News) {
        let index = news.choice;
        let (text, _, tokens) = self.take(news);
        self.states[index].text.push_str(&text);
        self.states[index].tokens.extend(tokens);
    }

    fn whole(self) -> Vec<ChatChoice> {
        let choice = |(index, state): (usize, Written)| {
            let mut calls = state.calls;
            calls.iter_mut().for_each(|call| call.index = None);
            let text = if calls.is_empty() || !state.text.trim().is_empty() { Some(state.text) } else { None };
            let message = AnswerMessage {
                role: Some("assistant"),
                content: Some(text),
                tool_calls: (!calls.is_empty()).then_some(calls),
            };
            ChatChoice {
                index,
                message: Some(message),
                delta: None,
                logprobs: state.logprobs.map(|_| ChatLogprobs { content: state.tokens }),
                finish_reason: state.finish,
            }
        };
        self.states.into_iter().enumerate().map(choice).collect()
    }
}
