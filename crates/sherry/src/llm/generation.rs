//! Generation that is pulled: nothing happens between two calls.

use std::collections::VecDeque;
use std::time::Duration;

use super::STEP;
use crate::Result;
use crate::batch::{BatchEngine, Budget, Finish, Job, JobId, Output};
use crate::clock::Stopwatch;
use crate::generate::SamplingParams;

/// What to generate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generate {
    /// Most tokens; by default until the model ends its text or the context is full.
    pub max_tokens: Option<usize>,
    /// How tokens are picked; by default as [the model's authors recommend](super::Llm::sampling).
    pub sampling: Option<SamplingParams>,
    /// Strings that end the text; they are not part of it.
    pub stop: Vec<String>,
}

/// What happens while generating.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `done` of `total` prompt tokens are processed.
    Prompt {
        /// So far, those found in the cache included.
        done: usize,
        /// In all.
        total: usize,
    },
    /// More text, never empty and always whole characters.
    Text(String),
}

/// How long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those found in the cache.
    pub reused_tokens: usize,
    /// Tokens generated, an end token included.
    pub generated_tokens: usize,
    /// Tokens that were [proposed](crate::batch::Options::speculation) before they were picked.
    pub proposed_tokens: usize,
    /// Those of them that were picked.
    pub accepted_tokens: usize,
    /// Time for the prompt, up to the first token.
    pub prompt_time: Duration,
    /// Time from there to the end.
    pub generation_time: Duration,
}

impl Statistics {
    /// Prompt tokens processed per second; reused ones do not count.
    pub fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens - self.reused_tokens, self.prompt_time)
    }

    /// Tokens generated per second. The first one costs no forward pass of its own and does not count.
    pub fn generation_rate(&self) -> f64 {
        rate(self.generated_tokens.saturating_sub(1), self.generation_time)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// The result of one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// The text.
    pub text: String,
    /// The tokens, an end token included.
    pub tokens: Vec<u32>,
    /// Why it ended; `None` when it was broken off.
    pub finish: Option<Finish>,
    /// How long it took.
    pub statistics: Statistics,
}

/// A text in the making. It gives the text in pieces, or [events](Self::step); every call computes until there is something
/// to tell, and dropping it breaks off. A prompt is read 128 tokens per [`step`](Self::step).
///
/// ```
/// use sherry::{Generate, Llm};
/// let mut llm = Llm::tiny()?;
/// let mut generation = llm.generate("Once", &Generate { max_tokens: Some(8), ..Generate::default() })?;
/// let mut text = String::new();
/// for piece in &mut generation {
///     text += &piece?;
/// }
/// assert_eq!(text, generation.so_far().text);
/// # Ok::<(), sherry::Error>(())
/// ```
pub struct Generation<'l> {
    engine: &'l mut BatchEngine,
    id: JobId,
    outputs: VecDeque<Output>,
    /// What there is so far.
    result: Generated,
    /// Whether nothing follows.
    ended: bool,
    watch: Stopwatch,
}

impl<'l> Generation<'l> {
    pub(super) fn new(engine: &'l mut BatchEngine, job: Job) -> Result<Self> {
        let watch = Stopwatch::start();
        let statistics = Statistics { prompt_tokens: job.prompt.len(), ..Statistics::default() };
        let id = engine.submit(job)?;
        let result = Generated { statistics, ..Generated::default() };
        Ok(Self { engine, id, outputs: VecDeque::new(), result, ended: false, watch })
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// When the model's output is unusable; nothing follows then.
    pub fn step(&mut self) -> Option<Result<Event>> {
        loop {
            while let Some(output) = self.outputs.pop_front() {
                if let Some(event) = self.event(output).transpose() {
                    return Some(event);
                }
            }
            if self.ended {
                return None;
            }
            let (id, outputs) = (self.id, &mut self.outputs);
            let watch = Stopwatch::start();
            let stepped = self.engine.step(Budget::Tokens(STEP), &mut |job, output| {
                if job == id {
                    outputs.push_back(output);
                }
            });
            match stepped {
                Ok(report) => {
                    self.engine.observe(watch.elapsed());
                    self.result.statistics.proposed_tokens += report.proposed;
                    self.result.statistics.accepted_tokens += report.accepted;
                }
                Err(error) => {
                    self.end();
                    return Some(Err(error));
                }
            }
        }
    }

    fn event(&mut self, output: Output) -> Result<Option<Event>> {
        let Generated { text, tokens, finish, statistics } = &mut self.result;
        let piece = match output {
            Output::Prompt { done, total, cached } => {
                statistics.reused_tokens = cached;
                return Ok(Some(Event::Prompt { done, total }));
            }
            Output::PromptScores { .. } => return Ok(None),
            Output::Token { token, text, .. } => {
                if tokens.is_empty() {
                    statistics.prompt_time = self.watch.elapsed();
                }
                tokens.push(token);
                statistics.generated_tokens = tokens.len();
                text
            }
            Output::Finished { finish: why, text, .. } => {
                *finish = Some(why);
                self.ended = true;
                text
            }
            Output::Failed(error) => {
                self.ended = true;
                return Err(error);
            }
        };
        statistics.generation_time = self.watch.elapsed().saturating_sub(statistics.prompt_time);
        text.push_str(&piece);
        Ok((!piece.is_empty()).then_some(Event::Text(piece)))
    }

    /// What there is so far.
    pub fn so_far(&self) -> &Generated {
        &self.result
    }

    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.result.finish
    }

    /// Generates to the end, `observe` seeing every event.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn run(mut self, mut observe: impl FnMut(&Event)) -> Result<Generated> {
        while let Some(event) = self.step() {
            observe(&event?);
        }
        Ok(self.stop())
    }

    /// Generates to the end.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn complete(self) -> Result<Generated> {
        self.run(|_| {})
    }

    /// What there is so far, and no more.
    pub fn stop(mut self) -> Generated {
        self.end();
        std::mem::take(&mut self.result)
    }

    fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            self.engine.cancel(self.id);
        }
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<String>;

    /// The next piece of text.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step()? {
                Ok(Event::Text(text)) => return Some(Ok(text)),
                Ok(Event::Prompt { .. }) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs jobs to their end, as many at the same time as the engine allows, and gives the results in their order, without times.
pub(super) fn run_all(engine: &mut BatchEngine, jobs: Vec<Job>) -> Result<Vec<Generated>> {
    let mut results: Vec<Generated> = Vec::with_capacity(jobs.len());
    let mut ids: Vec<JobId> = Vec::with_capacity(jobs.len());
    let mut jobs = jobs.into_iter().peekable();
    let mut failed = None;
    while failed.is_none() && (jobs.peek().is_some() || !engine.is_idle()) {
        // No more than can begin soon, so that the queue never is too long.
        while engine.load().waiting < engine.options().max_running
            && let Some(job) = jobs.next()
        {
            let statistics = Statistics { prompt_tokens: job.prompt.len(), ..Statistics::default() };
            match engine.submit(job) {
                Ok(id) => ids.push(id),
                Err(error) => failed = Some(error),
            }
            results.push(Generated { statistics, ..Generated::default() });
        }
        let stepped = engine.step(Budget::Tokens(4 * STEP), &mut |id, output| {
            let Ok(at) = ids.binary_search(&id) else { return };
            let result = &mut results[at];
            match output {
                Output::Prompt { cached, .. } => result.statistics.reused_tokens = cached,
                Output::Token { token, text, .. } => {
                    result.tokens.push(token);
                    result.text.push_str(&text);
                    result.statistics.generated_tokens += 1;
                }
                Output::Finished { finish, text, .. } => {
                    result.text.push_str(&text);
                    result.finish = Some(finish);
                }
                Output::Failed(error) => failed = Some(error),
                Output::PromptScores { .. } => {}
            }
        });
        if let Err(error) = stepped {
            failed = Some(error);
        }
    }
    match failed {
        None => Ok(results),
        Some(error) => {
            for id in ids {
                engine.cancel(id);
            }
            Err(error)
        }
    }
}
