//! What is asked of the engine, and what it answers.

use std::sync::Arc;

use crate::generate::{SamplingParams, StopStrings, TokenScore, TokenSet};
use crate::{Error, Result};

/// A prompt to read, and perhaps to continue.
///
/// The answer is a function of the job and of the model: never of other jobs, of the cache, or of when it runs.
pub struct Job {
    /// The prompt, special tokens included.
    pub prompt: Arc<[u32]>,
    /// How tokens are picked.
    pub sampling: SamplingParams,
    /// What is added to the logits of some tokens: -100 to 100.
    pub logit_bias: Arc<[(u32, f32)]>,
    /// Strings that end the text; they are not part of it.
    pub stop: StopStrings,
    /// Tokens that end the text; they are not part of it.
    pub end: Arc<[u32]>,
    /// Most tokens to generate; `usize::MAX` for as many as the context holds, 0 to read the prompt only.
    pub max_tokens: usize,
    /// Before so many tokens, end tokens are not chosen and stop strings not looked for.
    pub min_tokens: usize,
    /// How many continuations; each is drawn from a [seed of its own](SamplingParams::for_choice).
    pub choices: usize,
    /// Log-probabilities to report.
    pub scores: Scores,
    /// What the text must look like.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Whom the job may share computed prefixes with.
    pub scope: CacheScope,
    /// Who asks: clients get equal shares.
    pub client: ClientId,
}

impl Job {
    /// A job that continues `prompt` by up to `max_tokens` tokens, and asks for nothing else.
    pub fn new(prompt: impl Into<Arc<[u32]>>, max_tokens: usize, sampling: SamplingParams) -> Self {
        Self {
            prompt: prompt.into(),
            sampling,
            logit_bias: Arc::default(),
            stop: StopStrings::default(),
            end: Arc::default(),
            max_tokens,
            min_tokens: 0,
            choices: 1,
            scores: Scores::default(),
            constraint: None,
            scope: CacheScope::default(),
            client: ClientId::default(),
        }
    }
}

/// Which log-probabilities a job reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scores {
    /// Of each generated token, with so many of the most probable ones beside it.
    pub generated: Option<usize>,
    /// Of the prompt's tokens from position `from` on (the first of all has none), likewise.
    pub prompt: Option<PromptScores>,
}

/// Which tokens of a prompt are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptScores {
    /// The first one. What comes before is only read, and may come out of the cache.
    pub from: usize,
    /// How many of the most probable tokens are reported beside each.
    pub top: usize,
}

/// A rule that a text must follow, such as a grammar.
pub trait Constraint: Send {
    /// Takes away from `allowed` every token that must not come next. It holds the tokens that have a text, and the job's
    /// end tokens once the text may be long enough; those are the constraint's to take away as long as the text must go on.
    ///
    /// # Errors
    /// Ends the job with this error.
    fn allow(&mut self, allowed: &mut TokenSet) -> Result<()>;

    /// Takes note of the token that was picked.
    ///
    /// # Errors
    /// Ends the job with this error.
    fn accept(&mut self, token: u32) -> Result<()>;

    /// A second constraint in the same state, for another choice.
    fn fork(&self) -> Box<dyn Constraint>;
}

/// Jobs share computed prefixes only with jobs of the same scope: otherwise the time to the first token would tell what
/// others have asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CacheScope(pub Arc<str>);

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientId(pub Arc<str>);

/// A job in the engine. Later jobs have larger ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub(super) u64);

/// News of a job.
#[derive(Debug)]
pub enum Output {
    /// `done` of `total` prompt tokens are processed, `cached` of them by others before.
    Prompt {
        /// So far.
        done: usize,
        /// In all.
        total: usize,
        /// Found in the prefix cache.
        cached: usize,
    },
    /// Scores of the prompt's tokens from position `first` on, in order; several parts come one after the other.
    PromptScores {
        /// Position of the first token.
        first: usize,
        /// One per token.
        scores: Vec<TokenScore>,
    },
    /// A choice has one more token.
    Token {
        /// Which choice, from 0.
        choice: usize,
        /// The token.
        token: u32,
        /// The text that can be shown now: whole characters, nothing that may belong to a stop string; often empty.
        text: String,
        /// Its log-probability, if the job asked for it.
        score: Option<TokenScore>,
    },
    /// A choice is complete.
    Finished {
        /// Which choice.
        choice: usize,
        /// Why.
        finish: Finish,
        /// What was held back and is shown after all: the beginning of a stop string that did not come.
        text: String,
        /// Tokens generated, an end token and those of a stop string included.
        tokens: usize,
    },
    /// The job is over because something went wrong in it; its choices get no further news.
    Failed(Error),
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end token or a stop string.
    Stop,
    /// The most tokens asked for.
    Length,
    /// The context is full.
    ContextFull,
}
