//! The engine: jobs in, steps, news out.

use std::sync::Arc;
use std::time::Duration;

use super::clients::Clients;
use super::pace::Pace;
use super::prefix::PrefixCache;
use super::sequence::Sequence;
use super::{Budget, Finish, Job, JobId, Output, Work};
use crate::generate::TokenSet;
use crate::model::{Decoder, KvPool, KvType, PAGE, Step};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How large an engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most tokens of a sequence, prompt and answer.
    pub context: usize,
    /// Pages of 256 positions for the keys and values of all sequences and of the prefix cache; enough for one sequence at
    /// least.
    pub pages: usize,
    /// What keys and values are stored as.
    pub kv: KvType,
    /// Sequences that run at the same time. More than eight or so make nothing faster, but everybody slower.
    pub max_running: usize,
    /// Jobs that wait; beyond that [`submit`](BatchEngine::submit) refuses.
    pub max_waiting: usize,
    /// Prompt tokens that wait, of all jobs together.
    pub max_waiting_tokens: usize,
    /// Rows of logits per step, at least [`max_running`](Self::max_running): each takes 4 bytes per token of the vocabulary.
    pub logit_rows: usize,
    /// Whether sequences continue from prefixes that others have computed.
    pub prefix_cache: bool,
    /// Whether tokens that may follow, because they followed the same tokens before, are computed together where that saves
    /// time by what was [measured](BatchEngine::observe). Texts do not depend on it.
    pub speculation: bool,
}

impl Options {
    /// For `sequences` sequences of up to `context` tokens at the same time.
    pub fn new(context: usize, sequences: usize) -> Self {
        let sequences = sequences.max(1);
        Self {
            context,
            // One more, so that a conversation can continue from what its cached last page holds.
            pages: context.div_ceil(PAGE).saturating_mul(sequences).saturating_add(1),
            kv: KvType::default(),
            max_running: sequences,
            max_waiting: 256,
            max_waiting_tokens: context.saturating_mul(16),
            logit_rows: sequences.saturating_add(16),
            prefix_cache: true,
            speculation: true,
        }
    }

    fn check(&self, decoder: &Decoder) -> Result<()> {
        let invalid = |problem: String| Err(Error::Invalid(problem));
        let trained = decoder.config().context;
        if self.context == 0 || self.context > trained {
            return invalid(format!("a context of {} tokens; the model was made for 1 to {trained}", self.context));
        }
        let needed = self.context.div_ceil(PAGE);
        if self.pages < needed {
            return invalid(format!(
                "{} pages do not hold one sequence of {} tokens: {needed} do",
                self.pages, self.context
            ));
        }
        if self.max_running == 0 || self.logit_rows < self.max_running {
            let (running, rows) = (self.max_running, self.logit_rows);
            return invalid(format!(
                "{rows} rows of logits for {running} running sequences; expected at least one for each"
            ));
        }
        Ok(())
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// What was computed.
    pub work: Work,
    /// Sequences that got a token.
    pub generated: usize,
    /// Tokens that were [proposed](Options::speculation) before they were picked.
    pub proposed: usize,
    /// Those of them that were picked.
    pub accepted: usize,
    /// Prompt tokens computed, those computed again after a pre-emption included.
    pub prompt_tokens: usize,
    /// Sequences that began or went on.
    pub admitted: usize,
    /// Sequences that lost their pages for others.
    pub preempted: usize,
    /// Choices that ended.
    pub finished: usize,
}

/// How busy an engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences that run.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Tokens of theirs that have to be computed before they generate any.
    pub waiting_tokens: usize,
    /// Pages there are.
    pub pages: usize,
    /// Pages in use by running sequences.
    pub used_pages: usize,
    /// Pages that only the prefix cache holds: as good as free.
    pub cached_pages: usize,
    /// Since the engine was made: prompt tokens of jobs that began.
    pub prompt_tokens: u64,
    /// Those of them that the prefix cache had.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens that were [proposed](Options::speculation) before they were picked.
    pub proposed_tokens: u64,
    /// Those of them that were picked.
    pub accepted_tokens: u64,
    /// Times that a sequence lost its pages.
    pub preemptions: u64,
    /// Pages that the prefix cache gave up.
    pub evictions: u64,
    /// Steps that computed something.
    pub steps: u64,
}

/// A decoder, the keys and values of all its sequences, and the jobs that run on it.
pub struct BatchEngine {
    pub(super) decoder: Decoder,
    pub(super) pool: KvPool,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) options: Options,
    pub(super) prefix: PrefixCache,
    /// In order of age.
    pub(super) running: Vec<Sequence>,
    pub(super) waiting: Vec<Sequence>,
    pub(super) clients: Clients,
    pub(super) pace: Pace,
    /// The work of the last step.
    pub(super) last: Work,
    pub(super) now: Duration,
    /// Tokens that have a text, where some ids have none.
    pub(super) usable: Option<TokenSet>,
    pub(super) totals: Load,
    /// Sequences that have begun so far.
    pub(super) begun: u64,
    next_id: u64,
}

impl BatchEngine {
    /// An engine without jobs.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `options` contradict each other or the model, [`Error::OutOfMemory`].
    pub fn new(decoder: Decoder, tokenizer: Arc<Tokenizer>, options: Options) -> Result<Self> {
        options.check(&decoder)?;
        let pool = KvPool::new(decoder.config(), options.pages, options.kv)?;
        let usable = TokenSet::of(decoder.config().vocab, |id| tokenizer.is_token(id));
        Ok(Self {
            pool,
            prefix: PrefixCache::default(),
            running: Vec::new(),
            waiting: Vec::new(),
            clients: Clients::default(),
            pace: Pace::new(decoder.config()),
            last: Work::default(),
            now: Duration::ZERO,
            usable: Some(usable).filter(|usable| usable.count() < usable.len()),
            totals: Load::default(),
            begun: 0,
            next_id: 0,
            decoder,
            tokenizer,
            options,
        })
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The decoder, to run something else between two steps.
    pub fn decoder_mut(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// The decoder, for other work.
    pub fn into_decoder(self) -> Decoder {
        self.decoder
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// How large it is.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Takes a job, which waits until a [step](Self::step) begins it.
    ///
    /// # Errors
    /// [`Error::Busy`] when too much waits already, [`Error::ContextFull`] when the prompt is longer than the context,
    /// [`Error::Invalid`] naming what is wrong with the job.
    pub fn submit(&mut self, job: Job) -> Result<JobId> {
        self.check(&job)?;
        let id = JobId(self.next_id);
        let sequence = Sequence::new(id, job, &self.tokenizer)?;
        let load = self.load();
        // A job that could begin at once does not wait.
        let idle = load.waiting == 0 && load.running < self.options.max_running;
        let tokens = load.waiting_tokens.saturating_add(sequence.ids.len());
        if !idle && (load.waiting >= self.options.max_waiting || tokens > self.options.max_waiting_tokens) {
            return Err(Error::Busy { waiting: load.waiting });
        }
        self.next_id += 1;
        self.waiting.push(sequence);
        Ok(id)
    }

    fn check(&self, job: &Job) -> Result<()> {
        let (needed, capacity) = (job.prompt.len(), self.options.context);
        if needed == 0 {
            return Err(Error::Invalid("the prompt has no tokens".to_owned()));
        }
        if needed > capacity {
            return Err(Error::ContextFull { needed, capacity });
        }
        let vocab = self.decoder.config().vocab;
        if let Some(at) = job.prompt.iter().position(|id| *id as usize >= vocab) {
            let id = job.prompt[at];
            return Err(Error::Invalid(format!("token {id} at position {at} is not in the vocabulary of {vocab}")));
        }
        if let Some((id, _)) = job.logit_bias.iter().find(|(id, _)| *id as usize >= vocab) {
            return Err(Error::Invalid(format!("logit_bias: token {id} is not in the vocabulary of {vocab}")));
        }
        if job.choices == 0 || job.choices > self.options.max_running {
            let most = self.options.max_running;
            return Err(Error::Invalid(format!("{} choices; expected 1 to {most}", job.choices)));
        }
        Ok(())
    }

    /// Ends a job without further news. Whether it was there.
    pub fn cancel(&mut self, id: JobId) -> bool {
        let before = self.running.len() + self.waiting.len();
        self.waiting.retain(|sequence| sequence.id != id);
        let cancelled: Vec<Sequence> = self.running.extract_if(.., |sequence| sequence.id == id).collect();
        for mut sequence in cancelled {
            self.keep_pages(&mut sequence);
        }
        self.running.len() + self.waiting.len() < before
    }

    /// Says that nobody takes the tokens of a choice at the moment: it keeps its place and gets no further ones until that
    /// has changed.
    pub fn set_stalled(&mut self, id: JobId, choice: usize, stalled: bool) {
        let all = self.running.iter_mut().chain(&mut self.waiting);
        if let Some(sequence) = all.into_iter().find(|sequence| sequence.age() == (id, choice)) {
            sequence.stalled = stalled;
        }
    }

    /// Ends all jobs without further news and forgets all that was computed; for going on after a panic. Returns the jobs.
    pub fn reset(&mut self) -> Vec<JobId> {
        let mut ids: Vec<JobId> =
            self.running.drain(..).chain(self.waiting.drain(..)).map(|sequence| sequence.id).collect();
        ids.sort_unstable();
        ids.dedup();
        self.prefix.clear();
        ids
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// How busy it is.
    pub fn load(&self) -> Load {
        let cached_pages = self.prefix.evictable();
        Load {
            running: self.running.len(),
            waiting: self.waiting.len(),
            waiting_tokens: self.waiting.iter().map(Sequence::left).sum(),
            pages: self.pool.pages(),
            used_pages: self.pool.pages() - self.pool.free() - cached_pages,
            cached_pages,
            evictions: self.prefix.evictions(),
            ..self.totals
        }
    }

    /// Says how long the last [step](Self::step) took, where its budget is a number of tokens.
    pub fn observe(&mut self, last: Duration) {
        self.pace.observe(std::mem::take(&mut self.last), last.as_secs_f64());
    }

    /// One pass over the weights: begins jobs that there is room for, generates a token for every running sequence, and reads
    /// as much of prompts as `budget` allows. What happens to a job is told to `deliver`.
    ///
    /// # Errors
    /// As [`Decoder::forward`], which none of the jobs is to blame for; they are all still there.
    pub fn step(&mut self, budget: Budget, deliver: &mut dyn FnMut(JobId, Output)) -> Result<StepReport> {
        if let Budget::Time { now, last, .. } = budget {
            self.now = now;
            self.observe(last);
        }
        let mut report = StepReport::default();
        self.make_room(&mut report);
        self.admit(budget, &mut report, deliver);
        self.end_complete(&mut report, deliver);
        let plan = self.plan(budget);
        if plan.is_empty() {
            return Ok(report);
        }
        let mut steps = Vec::with_capacity(plan.len());
        let planned: Vec<usize> = plan.iter().map(|(index, _)| *index).collect();
        let parts = plan.iter().map(|(_, part)| part);
        let sequences = self.running.iter_mut().enumerate().filter(|(index, _)| planned.binary_search(index).is_ok());
        for ((_, Sequence { ids, pages, drafts, .. }), part) in sequences.zip(parts) {
            let start = pages.len();
            report.work.add(Work::part(start, part.tokens, part.rows()));
            let tokens = if part.proposed > 0 { drafts.with_last() } else { &ids[start..start + part.tokens] };
            steps.push(Step { cache: pages, tokens, logits: part.logits });
        }
        self.decoder.forward(&mut self.pool, &mut steps)?;
        self.last = report.work;
        self.totals.steps += 1;
        self.read_rows(&plan, &mut report, deliver);
        self.totals.proposed_tokens += report.proposed as u64;
        self.totals.accepted_tokens += report.accepted as u64;
        self.end_complete(&mut report, deliver);
        Ok(report)
    }

    /// Ends the sequences for which nothing is left to compute: those that generate nothing.
    fn end_complete(&mut self, report: &mut StepReport, deliver: &mut dyn FnMut(JobId, Output)) {
        let complete: Vec<Sequence> = self.running.extract_if(.., |sequence| sequence.left() == 0).collect();
        for mut sequence in complete {
            self.keep_pages(&mut sequence);
            deliver(sequence.id, sequence.finished(Finish::Length));
            for choice in 1..=sequence.forks {
                let finish = Finish::Length;
                deliver(sequence.id, Output::Finished { choice, finish, text: String::new(), tokens: 0 });
            }
            report.finished += 1 + sequence.forks;
        }
    }
}
