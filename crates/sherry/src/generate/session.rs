//! One sequence: a prompt, its continuation, and the cache that lets the next prompt start where they agree.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Sampler, StopStrings};
use crate::model::{Decoder, KvCache, KvType, Wanted};
use crate::tokenizer::{TokenStream, Tokenizer};
use crate::{Error, Result};

/// Prompt tokens per step: enough for the kernels to be at full speed, few enough to cancel within a moment.
const PREFILL_STEP: usize = 128;

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The prompt, special tokens included.
    pub prompt: &'a [u32],
    /// Most tokens to generate; `usize::MAX` for as many as the context holds.
    pub max_tokens: usize,
    /// Tokens that end the text; they are not part of it.
    pub end: &'a [u32],
    /// Strings that end the text; they are not part of it.
    pub stop: &'a StopStrings,
}

/// What happens while generating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// `done` of `total` prompt tokens are processed.
    Prompt {
        /// So far, those reused from the cache included.
        done: usize,
        /// In all.
        total: usize,
    },
    /// More text, never empty and always whole characters.
    Text(&'a str),
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end token or a stop string.
    Stop,
    /// The most tokens asked for.
    Length,
    /// The context is full.
    ContextFull,
    /// The callback broke off.
    Cancelled,
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
    /// Time for the prompt, up to the first logits.
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
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// All text given to the callback.
    pub text: String,
    /// The tokens, an end token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// How long it took.
    pub statistics: Statistics,
}

/// A model, its tokenizer and the cache of one sequence.
pub struct Session {
    decoder: Decoder,
    tokenizer: Arc<Tokenizer>,
    cache: KvCache,
    /// The tokens whose keys and values the cache holds.
    held: Vec<u32>,
}

impl Session {
    /// A session with room for `context` tokens.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn new(decoder: Decoder, tokenizer: Arc<Tokenizer>, context: usize, kv: KvType) -> Result<Self> {
        let cache = KvCache::new(decoder.config(), context, kv)?;
        Ok(Self { decoder, tokenizer, cache, held: Vec::new() })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The decoder.
    pub fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// The decoder, for other work.
    pub fn into_decoder(self) -> Decoder {
        self.decoder
    }

    /// Tokens there is room for.
    pub fn context(&self) -> usize {
        self.cache.capacity()
    }

    /// Continues `request.prompt` with tokens picked by `sampler`. `observe` sees the text as it appears and may break off
    /// between tokens and between parts of the prompt. What the prompt has in common with the sequence of the call before
    /// is not computed again; the result is the same either way.
    ///
    /// # Errors
    /// [`Error::ContextFull`] when the prompt is longer than the context, [`Error::Invalid`] when it is empty or holds
    /// unknown tokens, and as [`Sampler::sample`] when the model's output is unusable.
    pub fn generate(
        &mut self,
        request: &Request<'_>,
        sampler: &mut Sampler,
        observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generated> {
        let Request { prompt, max_tokens, end, stop } = *request;
        let (needed, capacity) = (prompt.len(), self.cache.capacity());
        if prompt.is_empty() {
            return Err(Error::Invalid("the prompt has no tokens".to_owned()));
        }
        if needed > capacity {
            return Err(Error::ContextFull { needed, capacity });
        }
        let start = Instant::now();
        let reused_tokens = self.reuse(prompt);
        let statistics = Statistics { prompt_tokens: prompt.len(), reused_tokens, ..Statistics::default() };
        let mut result = Generated { text: String::new(), tokens: Vec::new(), finish: Finish::Length, statistics };
        let wanted = sampler.top(0).map_or(Wanted::Last, Wanted::Top);
        let Some(mut logits) = self.prefill(prompt, wanted, observe)? else {
            result.finish = Finish::Cancelled;
            return Ok(result);
        };
        result.statistics.prompt_time = start.elapsed();

        let start = Instant::now();
        let tokenizer = Arc::clone(&self.tokenizer);
        let mut stream = TokenStream::new(&tokenizer, false);
        let mut stops = stop.clone();
        result.finish = loop {
            if result.tokens.len() >= max_tokens {
                break Finish::Length;
            }
            let token = sampler.sample(&logits, &self.held, None)?;
            result.tokens.push(token);
            if end.contains(&token) {
                break Finish::Stop;
            }
            let text = stops.push(&stream.push(token)?);
            if show(&text, &mut result.text, observe).is_break() {
                break Finish::Cancelled;
            }
            if stops.found() {
                break Finish::Stop;
            }
            if result.tokens.len() >= max_tokens {
                break Finish::Length;
            }
            if self.cache.len() == capacity {
                break Finish::ContextFull;
            }
            self.step(&[token], wanted, &mut logits)?;
        };
        if result.finish != Finish::Cancelled {
            // Half characters and half stop strings that will never be finished; nothing comes after a stop string.
            let rest = stops.push(&stream.finish()) + &stops.finish();
            // Nothing follows that could be broken off.
            let _ = show(&rest, &mut result.text, observe);
        }
        result.statistics.generated_tokens = result.tokens.len();
        result.statistics.generation_time = start.elapsed();
        Ok(result)
    }

    /// Shortens the cache to what it has in common with `prompt`, but for the last token, whose logits are needed.
    fn reuse(&mut self, prompt: &[u32]) -> usize {
        let common = self.held.iter().zip(prompt).take_while(|(a, b)| a == b).count().min(prompt.len() - 1);
        self.held.truncate(common);
        self.cache.truncate(common);
        common
    }

    /// Logits after the prompt; `None` when broken off.
    fn prefill(
        &mut self,
        prompt: &[u32],
        wanted: Wanted,
        observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Vec<f32>>> {
        let total = prompt.len();
        let mut logits = Vec::new();
        while self.held.len() < total {
            if observe(Event::Prompt { done: self.held.len(), total }).is_break() {
                return Ok(None);
            }
            let next = (self.held.len() + PREFILL_STEP).min(total);
            let wanted = if next == total { wanted } else { Wanted::None };
            self.step(&prompt[self.held.len()..next], wanted, &mut logits)?;
        }
        Ok(observe(Event::Prompt { done: total, total }).is_continue().then_some(logits))
    }

    fn step(&mut self, tokens: &[u32], wanted: Wanted, logits: &mut Vec<f32>) -> Result<()> {
        if let Some(last) = self.decoder.forward_one(&mut self.cache, tokens, wanted)?.last() {
            logits.clear();
            logits.extend_from_slice(last);
        }
        self.held.extend_from_slice(tokens);
        Ok(())
    }
}

/// Gives non-empty text to the callback.
fn show(text: &str, all: &mut String, observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
    if text.is_empty() {
        return ControlFlow::Continue(());
    }
    all.push_str(text);
    observe(Event::Text(text))
}
