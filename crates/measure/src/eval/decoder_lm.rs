//! The evaluator's view of a [`Decoder`].

use std::sync::Arc;

use super::divergence::Distributions;
use super::encode::{Encoder, Pair, prefix_token};
use super::lm::{Lm, Request, Score, WindowScore};
use super::windows::{Window, Windows};
use sherry::generate::{Summation, token_score, token_scores};
use sherry::model::{Decoder, KvPages, KvPool, KvType, PAGE, Step, Wanted};
use sherry::tokenizer::Tokenizer;
use sherry::{Error, NoProgress, Progress, Result};
use sherry_kernels::Pool;

/// Context tokens computed together. Weights are then read so rarely that arithmetic is the limit; more only costs
/// memory.
const BATCH_TOKENS: usize = 512;
/// Groups computed together, each with a KV cache of its own.
const BATCH_GROUPS: usize = 32;
/// Bytes of logits computed together.
const LOGIT_BYTES: usize = 64 << 20;
/// Tokens of a long text per step.
const STEP: usize = 128;

/// A decoder with its tokenizer as an [`Lm`].
///
/// The requests of a group are computed once as far as they agree; what follows is computed per request from there.
/// Groups are sorted by length and computed many at a time. The decoder's promise that a token's logits do not depend
/// on its neighbours in a batch makes the scores independent of all this.
pub struct DecoderLm {
    decoder: Decoder,
    tokenizer: Arc<Tokenizer>,
    kv: KvType,
    max_length: usize,
    /// Kept between calls, because getting fresh memory costs as much as filling it.
    pool: Option<KvPool>,
    /// Says whether to stop in the middle of a long text.
    progress: Box<dyn Progress + Send>,
}

/// Takes rows of logits, beside the threads to work on them and the position of the first.
type TakeRows<'a> = dyn FnMut(&Pool, usize, &[&[f32]]) + 'a;

/// A group as tokens; or one of its requests, should they have nothing in common.
struct Job {
    group: usize,
    /// Which request of the group the first pair is.
    first_request: usize,
    /// What all pairs share and none scores.
    prefix: usize,
    pairs: Vec<Pair>,
}

impl Job {
    /// Longest input of a pair: everything but its last token.
    fn longest(&self) -> usize {
        self.pairs.iter().map(|pair| pair.tokens.len() - 1).max().unwrap_or(0)
    }

    fn first(&self) -> &[u32] {
        self.pairs.first().map_or(&[], |pair| &pair.tokens[..self.prefix])
    }
}

impl DecoderLm {
    /// Evaluates `decoder` with KV caches of type `kv` and at most `max_length` tokens (never more than the model was
    /// made for).
    pub fn new(decoder: Decoder, tokenizer: Arc<Tokenizer>, kv: KvType, max_length: usize) -> Self {
        let max_length = max_length.min(decoder.config().context);
        Self { decoder, tokenizer, kv, max_length, pool: None, progress: Box::new(NoProgress) }
    }

    /// The same, asking `progress` while it makes tokens of a long text whether to stop.
    pub fn stopped_by(self, progress: impl Progress + Send + 'static) -> Self {
        Self { progress: Box::new(progress), ..self }
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Rows of logits that may be computed together.
    fn logit_rows(&self) -> usize {
        (LOGIT_BYTES / (4 * self.decoder.config().vocab.max(1))).max(1)
    }

    /// The decoder, and a pool with room for sequences of `lengths` tokens.
    fn room(&mut self, lengths: impl Iterator<Item = usize>) -> Result<(&mut Decoder, &mut KvPool)> {
        let pages = lengths.map(|length| length.div_ceil(PAGE)).sum::<usize>().max(1);
        let pool = match self.pool.take().filter(|pool| pool.pages() >= pages) {
            Some(pool) => pool,
            None => KvPool::new(self.decoder.config(), pages, self.kv)?,
        };
        Ok((&mut self.decoder, self.pool.insert(pool)))
    }

    fn score_batch(&mut self, jobs: &[Job]) -> Result<Vec<Vec<Score>>> {
        let mut caches: Vec<KvPages> = jobs.iter().map(|_| KvPages::default()).collect();
        let certain = Score { logprob: 0.0, is_greedy: true };
        let mut scores: Vec<Vec<Score>> = jobs.iter().map(|job| vec![certain; job.pairs.len()]).collect();

        // What each group shares. Its last row scores the tokens that directly follow.
        let mut steps: Vec<Step<'_>> = caches
            .iter_mut()
            .zip(jobs)
            .map(|(cache, job)| Step { cache, tokens: job.first(), logits: Wanted::Last })
            .collect();
        let (decoder, pool) = self.room(jobs.iter().map(Job::longest))?;
        let logits = decoder.forward(pool, &mut steps)?;
        for (i, job) in jobs.iter().enumerate() {
            for (pair, score) in job.pairs.iter().zip(&mut scores[i]) {
                if pair.tokens.len() - pair.scored == job.prefix {
                    add(score, token_score(logits.row(i), pair.tokens[job.prefix], Summation::AsHarness));
                }
            }
        }

        // The rest of each request, one request of every group at a time.
        let limit = self.logit_rows();
        let rounds = jobs.iter().map(|job| job.pairs.len()).max().unwrap_or(0);
        for round in 0..rounds {
            let rest = |job: &Job| match job.pairs.get(round) {
                Some(pair) => pair.tokens.len() - 1 - job.prefix,
                None => 0,
            };
            let mut start = 0;
            while start < jobs.len() {
                let mut end = start;
                let mut rows = 0;
                while end < jobs.len() && (end == start || rows + rest(&jobs[end]) <= limit) {
                    rows += rest(&jobs[end]);
                    end += 1;
                }
                if rows > 0 {
                    self.score_round(&jobs[start..end], round, &mut caches[start..end], &mut scores[start..end])?;
                }
                start = end;
            }
        }
        Ok(scores)
    }

    /// Computes what request `round` of each job has beyond the prefix, and takes it back from the caches.
    fn score_round(
        &mut self,
        jobs: &[Job],
        round: usize,
        caches: &mut [KvPages],
        scores: &mut [Vec<Score>],
    ) -> Result<()> {
        let mut steps = Vec::new();
        // Per row of logits: the job and the token that follows; `None` for context tokens.
        let mut targets: Vec<(usize, Option<u32>)> = Vec::new();
        for (i, (job, cache)) in jobs.iter().zip(caches.iter_mut()).enumerate() {
            let Some(pair) = job.pairs.get(round) else { continue };
            let inputs = job.prefix..pair.tokens.len() - 1;
            if inputs.is_empty() {
                continue;
            }
            let context = pair.tokens.len() - pair.scored;
            targets.extend(inputs.clone().map(|at| (i, (at + 1 >= context).then(|| pair.tokens[at + 1]))));
            steps.push(Step { cache, tokens: &pair.tokens[inputs], logits: Wanted::All });
        }
        let Some(pool) = &mut self.pool else { return Ok(()) };
        self.decoder.forward(pool, &mut steps)?;
        let logits = self.decoder.logits();
        let (places, rows): (Vec<usize>, Vec<(&[f32], u32)>) = targets
            .iter()
            .enumerate()
            .filter_map(|(row, (job, token))| Some((*job, (logits.row(row), (*token)?))))
            .unzip();
        for (job, score) in
            places.into_iter().zip(token_scores(self.decoder.engine().pool(), &rows, Summation::AsHarness))
        {
            if let Some(sum) = scores[job].get_mut(round) {
                add(sum, score);
            }
        }
        for (job, cache) in jobs.iter().zip(caches) {
            cache.truncate(job.prefix);
        }
        Ok(())
    }

    /// Computes `input` from an empty cache and hands out the logits of every input from `from` on, several at a time.
    fn read(&mut self, input: &[u32], from: usize, rows: &mut TakeRows<'_>) -> Result<()> {
        let mut cache = KvPages::default();
        let step_tokens = STEP.min(self.logit_rows());
        let mut at = 0;
        while at < input.len() {
            let end = input.len().min(if at < from { from.min(at + STEP) } else { at + step_tokens });
            let wanted = if at < from { Wanted::None } else { Wanted::All };
            let (decoder, pool) = self.room(std::iter::once(input.len()))?;
            let step = Step { cache: &mut cache, tokens: &input[at..end], logits: wanted };
            decoder.forward(pool, &mut [step])?;
            if at >= from {
                let logits = decoder.logits();
                let found: Vec<&[f32]> = (0..logits.rows()).map(|row| logits.row(row)).collect();
                rows(decoder.engine().pool(), at, &found);
            }
            at = end;
        }
        Ok(())
    }

    /// The tokens a window puts into the model (all but the last, which is only scored) and the index among them of
    /// the one that predicts the first scored token.
    fn window_input(&self, tokens: &[u32], window: &Window) -> Result<(Vec<u32>, usize)> {
        let mut input = Vec::with_capacity(window.tokens.len() + 1);
        if window.prefixed {
            input.push(prefix_token(&self.tokenizer)?);
        }
        input.extend_from_slice(&tokens[window.tokens.clone()]);
        if window.first_is_bos
            && self.tokenizer.adds_bos()
            && let (Some(bos), Some(first)) = (self.tokenizer.bos(), input.first_mut())
        {
            *first = bos;
        }
        input.pop();
        let from = input.len() - window.scored.len();
        Ok((input, from))
    }

    /// The tokens of a long text. llama.cpp takes control tokens in the text for plain text, the harness does not.
    fn text_tokens(&self, text: &str, windows: Windows) -> Result<Vec<u32>> {
        if windows.longest() > self.max_length {
            return Err(Error::Invalid(format!(
                "perplexity: windows of {} tokens are longer than the model's context of {}",
                windows.longest(),
                self.max_length
            )));
        }
        let parse_special = !matches!(windows, Windows::Chunks { .. });
        self.tokenizer.encode_long(text, true, parse_special, &*self.progress)
    }
}

/// The score of two parts of a continuation.
fn add(sum: &mut Score, part: Score) {
    sum.logprob += part.logprob;
    sum.is_greedy &= part.is_greedy;
}

/// Length of what all pairs begin with, none of it scored.
fn shared_prefix(pairs: &[Pair]) -> usize {
    let Some(first) = pairs.first() else { return 0 };
    let longest = pairs.iter().map(|pair| pair.tokens.len() - pair.scored).min().unwrap_or(0);
    let agree = |at: &usize| pairs.iter().all(|pair| pair.tokens[*at] == first.tokens[*at]);
    (0..longest).find(|at| !agree(at)).unwrap_or(longest)
}

impl Lm for DecoderLm {
    fn loglikelihood(
        &mut self,
        groups: &[Vec<Request>],
        done: &mut dyn FnMut(usize, Vec<Score>) -> Result<()>,
    ) -> Result<()> {
        let tokenizer = Arc::clone(&self.tokenizer);
        let mut encoder = Encoder::new(&tokenizer, self.max_length);
        let mut jobs = Vec::with_capacity(groups.len());
        for (group, requests) in groups.iter().enumerate() {
            let pairs: Vec<Pair> = requests.iter().map(|request| encoder.pair(request)).collect::<Result<_>>()?;
            match shared_prefix(&pairs) {
                // Long contexts that were cut at different places.
                0 => jobs.extend(pairs.into_iter().enumerate().map(|(first_request, pair)| {
                    let prefix = pair.tokens.len() - pair.scored;
                    Job { group, first_request, prefix, pairs: vec![pair] }
                })),
                prefix => jobs.push(Job { group, first_request: 0, prefix, pairs }),
            }
        }
        let mut open: Vec<Vec<Option<Score>>> = groups.iter().map(|requests| vec![None; requests.len()]).collect();
        // Longest first: memory is taken at once, and the time left is over- rather than underestimated.
        jobs.sort_by_key(|job| std::cmp::Reverse(job.longest()));
        let mut rest = &jobs[..];
        while let Some(longest) = rest.first() {
            let count = (BATCH_TOKENS / longest.prefix.max(1)).clamp(1, BATCH_GROUPS).min(rest.len());
            let (batch, after) = rest.split_at(count);
            for (job, scores) in batch.iter().zip(self.score_batch(batch)?) {
                let group = &mut open[job.group];
                for (slot, score) in group.iter_mut().skip(job.first_request).zip(scores) {
                    *slot = Some(score);
                }
                if let Some(scores) = group.iter().copied().collect() {
                    done(job.group, scores)?;
                }
            }
            rest = after;
        }
        Ok(())
    }

    fn loglikelihood_rolling(
        &mut self,
        text: &str,
        windows: Windows,
        done: &mut dyn FnMut(WindowScore) -> Result<()>,
    ) -> Result<()> {
        let tokens = self.text_tokens(text, windows)?;
        let all = windows.over(tokens.len())?;
        for (index, window) in all.iter().enumerate() {
            let (input, from) = self.window_input(&tokens, window)?;
            let scored = &tokens[window.scored.clone()];
            let mut logprobs = Vec::with_capacity(scored.len());
            self.read(&input, from, &mut |pool, at, rows| {
                let rows: Vec<(&[f32], u32)> = rows.iter().copied().zip(scored[at - from..].iter().copied()).collect();
                logprobs.extend(token_scores(pool, &rows, Summation::Exact).iter().map(|score| score.logprob));
            })?;
            done(WindowScore { index, windows: all.len(), logprobs })?;
        }
        Ok(())
    }

    fn generate_until(&mut self, context: &str, until: &[String], max_tokens: usize) -> Result<String> {
        let mut input = self.tokenizer.encode(context, true, true)?;
        let room = self.max_length.saturating_sub(max_tokens).max(1);
        input.drain(..input.len().saturating_sub(room));
        let capacity = self.max_length.min(input.len() + max_tokens);
        let mut cache = KvPages::default();
        let mut answer: Vec<u32> = Vec::new();
        let mut text = String::new();
        while answer.len() < max_tokens && cache.len() + input.len() <= capacity {
            let (decoder, pool) = self.room(std::iter::once(capacity))?;
            let step = Step { cache: &mut cache, tokens: &input, logits: Wanted::Last };
            let Some(logits) = decoder.forward(pool, &mut [step])?.last() else { break };
            let best = super::metrics::first_largest(logits.iter().map(|&logit| f64::from(logit))).unwrap_or(0) as u32;
            if self.tokenizer.end_ids().contains(&best) {
                break;
            }
            answer.push(best);
            input = vec![best];
            text = self.tokenizer.decode(&answer, false);
            let stop = until.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min();
            if let Some(at) = stop {
                text.truncate(at);
                break;
            }
        }
        Ok(text)
    }

    fn max_length(&self) -> usize {
        self.max_length
    }
}

impl Distributions for DecoderLm {
    fn tokenize(&mut self, text: &str, windows: Windows) -> Result<Vec<u32>> {
        self.text_tokens(text, windows)
    }

    fn logits(&mut self, tokens: &[u32], window: &Window, row: &mut dyn FnMut(&[f32])) -> Result<()> {
        let (input, from) = self.window_input(tokens, window)?;
        self.read(&input, from, &mut |_, _, rows| rows.iter().for_each(|values| row(values)))
    }
}

#[cfg(test)]
#[path = "decoder_lm_tests.rs"]
mod tests;
