//! One sequence of a job: what it holds, and what comes next.

use std::ops::Range;
use std::sync::Arc;

use super::draft::Drafts;
use super::{CacheScope, ClientId, Constraint, Finish, Job, JobId, Output, Scores};
use crate::Result;
use crate::generate::{Sampler, SamplingParams, StopStrings, TokenScore, TokenSet};
use crate::model::{KvPages, PAGE, Wanted};
use crate::tokenizer::{TokenStream, Tokenizer};

/// Prompt tokens that go through attention together; parts of a prompt end at multiples of it.
pub(super) const UNIT: usize = 16;

/// What all choices of a job have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub prompt: usize,
    pub sampling: SamplingParams,
    pub end: Arc<[u32]>,
    pub max_tokens: usize,
    pub min_tokens: usize,
    pub scores: Scores,
    pub scope: CacheScope,
    pub client: ClientId,
    pub stop: StopStrings,
}

/// A prompt and what has been generated after it. It keeps everything but keys and values when it loses its pages, so that
/// it goes on as if nothing had happened once they are computed again.
pub(super) struct Sequence {
    pub id: JobId,
    pub choice: usize,
    pub job: Arc<Common>,
    /// Tokens of the prompt, then generated ones.
    pub ids: Vec<u32>,
    /// Keys and values of the first of them.
    pub pages: KvPages,
    /// Choices that split off when the prompt has been read.
    pub forks: usize,
    /// Prompt tokens found in the cache when the job began.
    pub cached: Option<usize>,
    /// Whether nobody takes what it says at the moment.
    pub stalled: bool,
    /// Its place among those that began.
    pub began: u64,
    /// How often others were admitted before it although it was its turn.
    pub passed: u32,
    /// What may follow.
    pub drafts: Drafts,
    /// Position of the next prompt token to score.
    scored: usize,
    sampler: Sampler,
    constraint: Option<Box<dyn Constraint>>,
    stream: TokenStream<Arc<Tokenizer>>,
    stops: StopStrings,
}

/// Tokens that a sequence computes in one step, and the rows of logits it gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    /// Those proposed included.
    pub tokens: usize,
    /// The last of them, which are proposed.
    pub proposed: usize,
    pub logits: Wanted,
}

impl Part {
    /// Rows of logits.
    pub fn rows(&self) -> usize {
        match self.logits {
            Wanted::None => 0,
            Wanted::Last | Wanted::Top(_) => 1,
            Wanted::All | Wanted::EachTop(_) => self.tokens,
        }
    }
}

/// Tokens that were picked, and what is told of them.
pub(super) struct Picked {
    pub outputs: Vec<Output>,
    /// Why the sequence has ended, if so.
    pub finish: Option<Finish>,
}

impl Sequence {
    /// The first choice of `job`, none of it computed.
    pub fn new(id: JobId, job: Job, tokenizer: &Arc<Tokenizer>) -> Result<Self> {
        let sampler = Sampler::with_bias(job.sampling, &job.logit_bias)?;
        Ok(Self {
            id,
            choice: 0,
            ids: job.prompt.to_vec(),
            pages: KvPages::default(),
            forks: job.choices.saturating_sub(1),
            cached: None,
            stalled: false,
            began: 0,
            passed: 0,
            drafts: Drafts::default(),
            scored: job.scores.prompt.map_or(usize::MAX, |scores| scores.from.max(1)),
            sampler,
            constraint: job.constraint,
            stream: TokenStream::new(Arc::clone(tokenizer), false),
            stops: job.stop.clone(),
            job: Arc::new(Common {
                prompt: job.prompt.len(),
                sampling: job.sampling,
                end: job.end,
                max_tokens: job.max_tokens,
                min_tokens: job.min_tokens,
                scores: job.scores,
                scope: job.scope,
                client: job.client,
                stop: job.stop,
            }),
        })
    }

    /// Another choice, before anything has been generated and without pages.
    pub fn fork(&self, choice: usize, tokenizer: &Arc<Tokenizer>) -> Self {
        Self {
            id: self.id,
            choice,
            job: Arc::clone(&self.job),
            ids: self.ids.clone(),
            pages: KvPages::default(),
            forks: 0,
            cached: self.cached,
            stalled: false,
            began: self.began,
            passed: 0,
            drafts: Drafts::default(),
            scored: usize::MAX,
            sampler: self.sampler.reseeded(self.job.sampling.for_choice(choice).seed),
            constraint: self.constraint.as_ref().map(|constraint| constraint.fork()),
            stream: TokenStream::new(Arc::clone(tokenizer), false),
            stops: self.job.stop.clone(),
        }
    }

    /// Its place among all sequences: older ones are smaller.
    pub fn age(&self) -> (JobId, usize) {
        (self.id, self.choice)
    }

    /// Tokens generated.
    pub fn generated(&self) -> usize {
        self.ids.len() - self.job.prompt
    }

    /// Tokens whose keys and values have to be computed for what is asked next.
    fn until(&self) -> usize {
        match (self.job.max_tokens, self.job.scores.prompt) {
            (0, None) => 0,
            // The last token of a prompt is scored, and predicts nothing that anybody asks for.
            (0, Some(_)) => self.job.prompt - 1,
            _ => self.ids.len(),
        }
    }

    /// Tokens still to be computed before there is something to pick; 0 when nothing is.
    pub fn left(&self) -> usize {
        self.until().saturating_sub(self.pages.len())
    }

    /// Whether a pass over one token gives the next one.
    pub fn is_decoding(&self) -> bool {
        self.left() == 1
    }

    /// How much of the sequence may come out of the cache: not what is scored, and never the token that predicts the next.
    pub fn reusable(&self) -> usize {
        self.left_out().min(self.until().saturating_sub(1))
    }

    /// Position of the first token whose logits are needed for scores.
    fn left_out(&self) -> usize {
        if self.scored < self.job.prompt { self.scored - 1 } else { usize::MAX }
    }

    /// The next part of the sequence: at most `tokens` tokens with at most `rows` rows of logits, to the end of its page.
    /// `None` when it fits no part in.
    pub fn part(&self, tokens: usize, rows: usize, masked: usize) -> Option<Part> {
        let (start, until) = (self.pages.len(), self.until());
        let mut end = until.min(start.saturating_add(tokens)).min((start / PAGE + 1) * PAGE);
        let scores_from = self.left_out();
        if start < scores_from && end > scores_from {
            end = scores_from;
        }
        let scores = start >= scores_from;
        if scores {
            end = end.min(start.saturating_add(rows));
        }
        if end <= start || (end == until && rows == 0) {
            return None;
        }
        let logits = match () {
            () if scores => Wanted::All,
            () if end < until => Wanted::None,
            () => self.wanted(masked),
        };
        Some(Part { tokens: end - start, proposed: 0, logits })
    }

    /// Most tokens that may be proposed beside the one that gives the next token: to the end of its page and of the context, and
    /// no more than are asked for.
    pub fn room(&self, context: usize) -> usize {
        let next = self.ids.len();
        let page = next.next_multiple_of(PAGE) - next;
        page.min(context.saturating_sub(next)).min(self.job.max_tokens.saturating_sub(self.generated() + 1))
    }

    /// Which logits picking the next token takes, when `masked` tokens have no text.
    fn wanted(&self, masked: usize) -> Wanted {
        if self.job.scores.generated.is_some() || self.constraint.is_some() || self.forks > 0 {
            return Wanted::Last;
        }
        let ends = if self.generated() < self.job.min_tokens { self.job.end.len() } else { 0 };
        self.sampler.candidates(masked + ends).map_or(Wanted::Last, Wanted::Top)
    }

    /// The prompt tokens that the rows of a part which begins at position `start` give scores for.
    pub fn scored_by(&mut self, start: usize, part: Part) -> Range<usize> {
        if part.logits != Wanted::All || start + 1 < self.scored {
            return 0..0;
        }
        let range = start + 1..(start + part.tokens + 1).min(self.job.prompt);
        self.scored = range.end;
        range
    }

    /// Picks the tokens that follow by rows of logits: one, and others as long as what was proposed is what is picked.
    /// `usable`: the tokens that have a text, where some have none; `context`: the most positions.
    pub fn pick<'l>(
        &mut self,
        rows: impl Iterator<Item = &'l [f32]>,
        usable: Option<&TokenSet>,
        context: usize,
    ) -> Result<Picked> {
        let mut picked = Picked { outputs: Vec::new(), finish: None };
        for (i, logits) in rows.enumerate() {
            let (token, score) = self.pick_one(logits, usable)?;
            let (output, finish) = self.push(token, score, context);
            picked.outputs.push(output);
            picked.finish = finish;
            if finish.is_some() || self.drafts.tokens().get(i) != Some(&token) {
                break;
            }
        }
        let count = picked.outputs.len();
        self.drafts.learn(count.saturating_sub(1));
        // The last token that was picked is not computed.
        self.pages.truncate(self.ids.len().saturating_sub(1).min(self.pages.len()));
        Ok(picked)
    }

    /// Picks a token by a row of logits.
    fn pick_one(&mut self, logits: &[f32], usable: Option<&TokenSet>) -> Result<(u32, Option<TokenScore>)> {
        let early = self.generated() < self.job.min_tokens && !self.job.end.is_empty();
        let allowed = if self.constraint.is_some() || early {
            let mut allowed = usable.cloned().unwrap_or_else(|| TokenSet::all(logits.len()));
            if early {
                self.job.end.iter().for_each(|id| allowed.remove(*id));
            }
            if let Some(constraint) = &mut self.constraint {
                constraint.allow(&mut allowed)?;
            }
            Some(allowed)
        } else {
            None
        };
        let token = self.sampler.sample(logits, &self.ids, allowed.as_ref().or(usable))?;
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token)?;
        }
        let score = self.job.scores.generated.map(|top| TokenScore::new(logits, token, top)).transpose()?;
        Ok((token, score))
    }

    /// Adds a token that was picked; the news of it, and why the sequence has ended, if so. `context`: the most positions.
    fn push(&mut self, token: u32, score: Option<TokenScore>, context: usize) -> (Output, Option<Finish>) {
        self.ids.push(token);
        let mut text = String::new();
        let mut finish = None;
        if self.job.end.contains(&token) {
            finish = Some(Finish::Stop);
        } else {
            text = self.stream.push(token);
            if self.generated() >= self.job.min_tokens {
                text = self.stops.push(&text);
            }
        }
        if self.stops.found() {
            finish = Some(Finish::Stop);
        } else if finish.is_none() && self.generated() >= self.job.max_tokens {
            finish = Some(Finish::Length);
        } else if finish.is_none() && self.ids.len() > context {
            finish = Some(Finish::ContextFull);
        }
        (Output::Token { choice: self.choice, token, text, score }, finish)
    }

    /// The last news.
    pub fn finished(&mut self, finish: Finish) -> Output {
        // Half characters and half stop strings that will never be finished; nothing comes after a stop string.
        let text = self.stops.push(&self.stream.finish()) + &std::mem::take(&mut self.stops).finish();
        Output::Finished { choice: self.choice, finish, text, tokens: self.generated() }
    }
}
