//! `POST /v1/completions`: going on with texts, and scoring them.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value};
use sherry::batch::{PromptScores, Scores};
use sherry::generate::TokenScore;

use super::answering::{Answering, Shape};
use crate::App;
use crate::engine::mailbox::News;
use crate::engine::{Ask, finish_name};
use crate::error::{ApiError, ErrorBody};
use crate::http::access::Client;
use crate::http::body;
use crate::log::RequestId;
use crate::model::Served;
use crate::openai::answer::{Answer, CompletionChoice, CompletionLogprobs, finite};
use crate::openai::fields::Text;
use crate::openai::request::{self, CompletionRequest, MAX_LOGPROBS};
use crate::prompt;

/// New tokens where a request says nothing, as OpenAI has it.
const DEFAULT_TOKENS: usize = 16;

/// Answers the request.
///
/// # Errors
/// Whatever is wrong with it, before anything runs.
#[utoipa::path(post, path = "/v1/completions", request_body = CompletionRequest, responses((status = 200, content((Answer<CompletionChoice> = "application/json"), (String = "text/event-stream")), description = "A continuation, or a stream of chunks"), (status = "default", body = ErrorBody, description = "A refusal")))]
pub async fn completions(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let began = Instant::now();
    let served = Arc::clone(app.served()?);
    let body::Parsed { value: asked, ignored } = body::read::<CompletionRequest>(&app, request).await?;
    served.check_name(asked.model.as_deref(), app.config.any_model)?;
    if asked.suffix.as_deref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::refused("unsupported_parameter", "suffix", "nothing is written into a gap"));
    }
    let n = request::choices(asked.n, asked.prompt.texts.len(), served.max_choices)?;
    if asked.best_of.is_some_and(|best| best as usize != n) {
        return Err(ApiError::invalid("best_of", "best_of must be equal to n"));
    }
    if let Some(logprobs) = asked.logprobs.filter(|&logprobs| logprobs > MAX_LOGPROBS) {
        return Err(ApiError::invalid("logprobs", format!("logprobs is {logprobs}; expected 0 to {MAX_LOGPROBS}")));
    }
    let max_tokens = request::tokens("max_tokens", asked.max_tokens)?.unwrap_or(DEFAULT_TOKENS);
    let common = prompt::Common::check(&app, &served, &asked_common(&asked))?;
    let (echo, logprobs) = (asked.echo.unwrap_or(false), asked.logprobs.map(|k| k as usize));
    let stream = common.stream;
    let (include_usage, progress) = (common.include_usage, common.progress);
    let seed = common.sampling.seed;
    let (ask, prompts) = {
        let (app, served, client) = (Arc::clone(&app), Arc::clone(&served), client.clone());
        prompt::aside(move || {
            let add = asked.add_special_tokens.unwrap_or(true);
            let mut prompts = Vec::with_capacity(asked.prompt.texts.len());
            for (index, text) in asked.prompt.texts.iter().enumerate() {
                let param = if asked.prompt.listed { format!("prompt[{index}]") } else { "prompt".to_owned() };
                let tokens = match text {
                    Text::Tokens(tokens) => {
                        prompt::check_tokens(&served, tokens, &param)?;
                        tokens.clone()
                    }
                    Text::String(text) => prompt::encode(&served, text, add, asked.parse_special.unwrap_or(false))
                        .map_err(|error| error.at(&param))?,
                };
                prompts.push(prompt::fits(&served, tokens, &param)?);
            }
            let constraint = common.constraint(&app, None)?;
            let ask = Ask {
                prompts: prompts.clone(),
                n,
                max_tokens: common.cap(max_tokens),
                scores: Scores {
                    generated: logprobs,
                    prompt: logprobs.filter(|_| echo).map(|top| PromptScores { from: 0, top }),
                },
                constraint,
                client: client.clone(),
                ..common.ask(&served)
            };
            Ok((ask, prompts))
        })
        .await?
    };
    let choices = prompts.len() * n;
    let mut states = Vec::with_capacity(choices);
    for prompt in &prompts {
        for _ in 0..n {
            states.push(Written::new(if echo { Some(Arc::clone(prompt)) } else { None }, logprobs));
        }
    }
    let shape = Completions { served: Arc::clone(&served), states };
    let ticket = app.engine.submit(&app, ask)?;
    let answering = Answering {
        app: Arc::clone(&app),
        served,
        ticket,
        id,
        client,
        seed,
        choices: (choices, n),
        began,
        include_usage,
        progress,
    };
    Ok(prompt::with_ignored(answering.respond(shape, stream).await?, &ignored))
}

fn asked_common(asked: &CompletionRequest) -> prompt::CommonFields<'_> {
    prompt::common_fields!(asked)
}

/// What is known of one choice.
struct Written {
    /// The prompt, until it has been echoed.
    echo: Option<Arc<[u32]>>,
    logprobs: Option<usize>,
    text: String,
    lists: CompletionLogprobs,
    /// Characters of text so far, for offsets.
    offset: usize,
    finish: Option<&'static str>,
}

impl Written {
    fn new(echo: Option<Arc<[u32]>>, logprobs: Option<usize>) -> Self {
        Self { echo, logprobs, text: String::new(), lists: CompletionLogprobs::default(), offset: 0, finish: None }
    }
}

struct Completions {
    served: Arc<Served>,
    states: Vec<Written>,
}

impl Completions {
    /// Takes in what was written; afterwards `text` and `lists` hold it.
    fn take(&mut self, news: News) {
        let state = &mut self.states[news.choice];
        if let Some(prompt) = state.echo.take() {
            state.text.push_str(&prompt::decode(&self.served, &prompt));
            if let Some(&first) = prompt.first() {
                push(&self.served, state, first, None);
            }
        }
        for score in &news.tokens {
            push(&self.served, state, score.token, Some(score));
        }
        state.text.push_str(&news.text);
        state.finish = news.end.map(|end| finish_name(end.finish)).or(state.finish);
    }
}

/// Adds a token to the lists; without a score for the first token of a text.
fn push(served: &Served, state: &mut Written, token: u32, score: Option<&TokenScore>) {
    let Some(k) = state.logprobs else { return };
    let name = prompt::token_name(served, token);
    state.lists.text_offset.push(state.offset);
    state.offset += prompt::token_text(served, token).chars().count();
    state.lists.token_logprobs.push(score.map(|score| finite(score.logprob)));
    state.lists.top_logprobs.push(score.map(|score| {
        let mut top = Map::new();
        for &(token, logprob) in score.top.iter().take(k) {
            top.entry(prompt::token_name(served, token)).or_insert_with(|| Value::from(finite(logprob)));
        }
        top.entry(name.clone()).or_insert_with(|| Value::from(finite(score.logprob)));
        top
    }));
    state.lists.tokens.push(name);
}

impl Shape for Completions {
    type Choice = CompletionChoice;
    const OBJECTS: (&'static str, &'static str) = ("text_completion", "text_completion");
    const ROUTE: &'static str = "/completions";

    fn begin(&mut self) -> Vec<CompletionChoice> {
        Vec::new()
    }

    fn piece(&mut self, news: News) -> Vec<CompletionChoice> {
        let index = news.choice;
        self.take(news);
        let state = &mut self.states[index];
        let logprobs = state.logprobs.map(|_| std::mem::take(&mut state.lists));
        let text = std::mem::take(&mut state.text);
        vec![CompletionChoice { index, text, logprobs, finish_reason: state.finish }]
    }

    fn collect(&mut self, news: News) {
        self.take(news);
    }

    fn whole(self) -> Vec<CompletionChoice> {
        let choice = |(index, state): (usize, Written)| CompletionChoice {
            index,
            text: state.text,
            logprobs: state.logprobs.map(|_| state.lists),
            finish_reason: state.finish,
        };
        self.states.into_iter().enumerate().map(choice).collect()
    }
}
