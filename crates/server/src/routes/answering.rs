//! From what the engine writes to what a client reads, whole or as a stream; the same for both kinds of request.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::App;
use crate::engine::Ticket;
use crate::engine::mailbox::{Counts, End, Look, News};
use crate::error::ApiError;
use crate::http::access::Client;
use crate::log::{Finished, Logged, RequestId};
use crate::metrics::StageLabels;
use crate::model::Served;
use crate::openai::answer::{Answer, Extra, PromptProgress, Timings, Usage};
use crate::sse::{self, Events, Gone};

/// How a kind of request shapes its answers.
pub trait Shape: Send + 'static {
    /// One choice, whole or a piece of one.
    type Choice: Serialize + Send + Sync;
    /// The type names of a whole answer and of a chunk.
    const OBJECTS: (&'static str, &'static str);
    /// The path, for the log.
    const ROUTE: &'static str;

    /// Chunks that come before anything is written.
    fn begin(&mut self) -> Vec<Self::Choice>;
    /// Chunks for what was written.
    fn piece(&mut self, news: News) -> Vec<Self::Choice>;
    /// Takes in what was written, for an answer that is sent whole.
    fn collect(&mut self, news: News);
    /// All choices.
    fn whole(self) -> Vec<Self::Choice>;
}

/// What answering takes besides the shape.
pub struct Answering {
    /// The server.
    pub app: Arc<App>,
    /// The model.
    pub served: Arc<Served>,
    /// The request in the engine.
    pub ticket: Ticket,
    /// The request's id.
    pub id: RequestId,
    /// Who asked.
    pub client: Client,
    /// The seed that is used.
    pub seed: u64,
    /// Choices in all, and how many there are of each prompt.
    pub choices: (usize, usize),
    /// When the request came.
    pub began: Instant,
    /// What a stream holds besides the answer.
    pub include_usage: bool,
    /// Streams tell how much of the prompt is done.
    pub progress: bool,
}

/// Numbers gathered while an answer is written.
#[derive(Default)]
struct Tally {
    ended: usize,
    counts: Counts,
    prompt_tokens: usize,
    cached_tokens: usize,
    generated: usize,
    first: Option<f64>,
    finish: Option<&'static str>,
}

impl Tally {
    fn take(&mut self, news: &News, began: Instant, per_prompt: usize) {
        if self.first.is_none() && !(news.text.is_empty() && news.tokens.is_empty()) {
            self.first = Some(began.elapsed().as_secs_f64());
        }
        let Some(End { finish, counts }) = news.end else { return };
        self.ended += 1;
        self.generated += counts.generated;
        // The prompt of several choices is computed once.
        if news.choice.is_multiple_of(per_prompt) {
            self.prompt_tokens += counts.prompt;
            self.cached_tokens += counts.cached;
            self.counts.prompt_time += counts.prompt_time;
        }
        self.counts.queued = self.counts.queued.max(counts.queued);
        self.counts.answer_time = self.counts.answer_time.max(counts.answer_time);
        self.finish = Some(crate::engine::finish_name(finish));
    }

    fn usage(&self) -> Usage {
        Usage::new(self.prompt_tokens, self.generated, self.cached_tokens)
    }

    fn timings(&self, choices: usize) -> Timings {
        let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
        let rate = |count: usize, ms: f64| if ms > 0.0 { count as f64 * 1000.0 / ms } else { 0.0 };
        let (prompt_ms, predicted_ms) = (milliseconds(self.counts.prompt_time), milliseconds(self.counts.answer_time));
        let prompt_n = self.prompt_tokens - self.cached_tokens;
        Timings {
            prompt_n,
            cache_n: self.cached_tokens,
            prompt_ms,
            prompt_per_second: rate(prompt_n, prompt_ms),
            predicted_n: self.generated,
            predicted_ms,
            predicted_per_second: rate(self.generated.saturating_sub(choices), predicted_ms),
        }
    }
}

impl Answering {
    /// The answer, as a stream or whole.
    ///
    /// # Errors
    /// As [`whole`](Self::whole).
    pub async fn respond<S: Shape>(self, shape: S, stream: bool) -> Result<Response, ApiError> {
        if stream { Ok(self.stream(shape)) } else { self.whole(shape).await }
    }

    /// The answer as one document.
    ///
    /// # Errors
    /// What the engine reports; the request took too long.
    async fn whole<S: Shape>(self, mut shape: S) -> Result<Response, ApiError> {
        let mut tally = Tally::default();
        let mut guard = Unfinished::new(&self.app, &self.ticket);
        while tally.ended < self.choices.0 {
            match self.ticket.look().await {
                Look::Prompt { .. } => {}
                Look::News(news) => {
                    for news in news {
                        tally.take(&news, self.began, self.choices.1);
                        shape.collect(news);
                    }
                }
                Look::Failed(error) => {
                    guard.done();
                    self.log::<S>(&tally, error.code());
                    let mut response = error.into_response();
                    response.extensions_mut().insert(Logged);
                    return Ok(response);
                }
            }
        }
        guard.done();
        let mut answer = self.answer::<S>(S::OBJECTS.0, shape.whole());
        self.close(&mut answer, &tally);
        answer.usage = Some(Some(tally.usage()));
        self.log::<S>(&tally, tally.finish.unwrap_or_default());
        let mut response = axum::Json(answer).into_response();
        response.extensions_mut().insert(Logged);
        Ok(response)
    }

    /// The answer as a stream. Its head goes out before the request is worked on.
    fn stream<S: Shape>(self, shape: S) -> Response {
        let (events, mut response) = sse::channel(self.app.config.ping);
        response.extensions_mut().insert(Logged);
        tokio::spawn(async move {
            let mut guard = Unfinished::new(&self.app, &self.ticket);
            let mut tally = Tally::default();
            match self.write(shape, &events, &mut tally).await {
                Ok(finish) => {
                    guard.done();
                    self.log::<S>(&tally, finish);
                }
                Err(Gone) => self.log::<S>(&tally, "cancelled"),
            }
        });
        response
    }

    async fn write<S: Shape>(&self, mut shape: S, events: &Events, tally: &mut Tally) -> Result<&'static str, Gone> {
        for choice in shape.begin() {
            self.chunk::<S>(events, vec![choice]).await?;
        }
        while tally.ended < self.choices.0 {
            match events.meanwhile(self.ticket.look()).await? {
                Look::Prompt { done, total, before } if self.progress => {
                    let mut answer = self.answer::<S>(S::OBJECTS.1, Vec::new());
                    answer.prompt_progress = Some(PromptProgress { total, processed: done, queue: before });
                    events.send(&answer).await?;
                }
                Look::Prompt { .. } => {}
                Look::News(news) => {
                    for news in news {
                        tally.take(&news, self.began, self.choices.1);
                        let choices = shape.piece(news);
                        let last = tally.ended == self.choices.0;
                        let count = choices.len();
                        for (index, choice) in choices.into_iter().enumerate() {
                            let mut answer = self.answer::<S>(S::OBJECTS.1, vec![choice]);
                            answer.usage = self.include_usage.then_some(None);
                            if last && index + 1 == count {
                                self.close(&mut answer, tally);
                            }
                            events.send(&answer).await?;
                        }
                    }
                }
                Look::Failed(error) => {
                    events.send(&error.body()).await?;
                    return Ok(error.code());
                }
            }
        }
        if self.include_usage {
            let mut answer = self.answer::<S>(S::OBJECTS.1, Vec::new());
            answer.usage = Some(Some(tally.usage()));
            self.close(&mut answer, tally);
            events.send(&answer).await?;
        }
        events.done().await?;
        Ok(tally.finish.unwrap_or_default())
    }

    async fn chunk<S: Shape>(&self, events: &Events, choices: Vec<S::Choice>) -> Result<(), Gone> {
        let mut answer = self.answer::<S>(S::OBJECTS.1, choices);
        answer.usage = self.include_usage.then_some(None);
        events.send(&answer).await
    }

    fn answer<S: Shape>(&self, object: &'static str, choices: Vec<S::Choice>) -> Answer<S::Choice> {
        Answer {
            id: self.id.0.to_string(),
            object,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            model: self.served.id().to_owned(),
            system_fingerprint: self.served.fingerprint.clone(),
            choices,
            usage: None,
            timings: None,
            sherry: None,
            prompt_progress: None,
        }
    }

    fn close<C>(&self, answer: &mut Answer<C>, tally: &Tally) {
        answer.timings = Some(tally.timings(self.choices.0));
        answer.sherry = Some(Extra { seed: self.seed, queue_ms: tally.counts.queued.as_secs_f64() * 1000.0 });
    }

    fn log<S: Shape>(&self, tally: &Tally, finish: &str) {
        let all = self.began.elapsed().as_secs_f64();
        let metrics = &self.app.metrics;
        metrics.request.observe(all);
        metrics.queue.observe(tally.counts.queued.as_secs_f64());
        if let Some(first) = tally.first {
            metrics.time_to_first_token.observe(first);
        }
        Finished {
            id: &self.id.0,
            route: S::ROUTE,
            client: &self.client,
            finish,
            tokens: (tally.prompt_tokens, tally.cached_tokens, tally.generated),
            times: (tally.counts.queued.as_secs_f64() * 1e3, tally.first.unwrap_or(0.0) * 1e3, all * 1e3),
        }
        .log();
    }
}

/// Counts a request whose client went away. The ticket takes it out of the engine.
struct Unfinished<'a> {
    app: &'a App,
    ticket: &'a Ticket,
    open: bool,
}

impl<'a> Unfinished<'a> {
    fn new(app: &'a App, ticket: &'a Ticket) -> Self {
        Self { app, ticket, open: true }
    }

    fn done(&mut self) {
        self.open = false;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.open {
            let stage = self.ticket.stage();
            self.app.metrics.requests_cancelled.get_or_create(&StageLabels { stage }).inc();
        }
    }
}
