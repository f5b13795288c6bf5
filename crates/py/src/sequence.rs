//! Sequences with a cache of their own, and generation in them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use numpy::{IntoPyArray as _, PyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use sherry::batch::Output;
use sherry::generate::{Sampler, StopStrings, TokenSet};
use sherry::model::{KvCache, Wanted};
use sherry::tokenizer::TokenStream;
use sherry::{Error, Finish, Tokenizer};

use crate::arrays::float32;
use crate::desk::{Desk, STEP};
use crate::errors::Failure;
use crate::options::Options;
use crate::parts::Parts;

/// A sequence: keys and values in the model's terms, tokens in the user's.
pub struct Sequence {
    desk: Arc<Desk>,
    tokenizer: Arc<Tokenizer>,
    end: Arc<[u32]>,
    /// Tokens that have a text, where some ids have none.
    usable: Option<Arc<TokenSet>>,
    state: Mutex<State>,
}

struct State {
    /// None when it was closed.
    cache: Option<KvCache>,
    /// The tokens whose keys and values the cache holds.
    tokens: Vec<u32>,
    /// What may come after the last of them; empty when that is not known.
    logits: Vec<f32>,
}

impl Sequence {
    pub fn new(parts: &Parts, desk: Arc<Desk>, context: usize) -> sherry::Result<Self> {
        let state = State { cache: Some(desk.cache(context)?), tokens: Vec::new(), logits: Vec::new() };
        Ok(Self {
            desk,
            tokenizer: Arc::clone(&parts.tokenizer),
            end: Arc::clone(&parts.end),
            usable: parts.usable.clone(),
            state: Mutex::new(state),
        })
    }

    /// Appends tokens and returns the logits of what may come next; `goes_on` is asked between parts. Like everything here
    /// that takes the lock, and so may wait for another thread's step, it is called detached.
    pub fn feed(&self, ids: &[u32], mut goes_on: impl FnMut() -> PyResult<()>) -> Result<Vec<f32>, Failure> {
        let mut state = self.lock();
        state.check_room(ids.len())?;
        let parts = ids.chunks(STEP);
        let last = parts.len().saturating_sub(1);
        for (index, part) in parts.enumerate() {
            state.append(&self.desk, part, index == last)?;
            goes_on()?;
        }
        match state.logits.is_empty() {
            true => Err(Error::Invalid("there are no tokens to feed".to_owned()).into()),
            false => Ok(state.logits.clone()),
        }
    }

    /// Forgets all tokens from position `len` on.
    pub fn truncate(&self, len: usize) -> Result<(), Failure> {
        let mut state = self.lock();
        if len < state.tokens.len() {
            state.cache()?.truncate(len);
            state.tokens.truncate(len);
            state.logits.clear();
        }
        Ok(())
    }

    /// The tokens it holds.
    pub fn tokens(&self) -> Vec<u32> {
        self.lock().tokens.clone()
    }

    /// How many tokens it can hold.
    pub fn capacity(&self) -> Result<usize, Failure> {
        Ok(self.lock().cache()?.capacity())
    }

    /// Gives its memory back.
    pub fn close(&self) {
        *self.lock() = State { cache: None, tokens: Vec::new(), logits: Vec::new() };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn cache(&mut self) -> Result<&mut KvCache, Failure> {
        self.cache.as_mut().ok_or_else(|| PyValueError::new_err("the session is closed").into())
    }

    fn check_room(&mut self, more: usize) -> Result<(), Failure> {
        let (held, capacity) = (self.tokens.len(), self.cache()?.capacity());
        match held.saturating_add(more) {
            needed if needed > capacity => Err(Error::ContextFull { needed, capacity }.into()),
            _ => Ok(()),
        }
    }

    /// Appends tokens, in one pass over the weights. `last`: whether to compute what may come next.
    fn append(&mut self, desk: &Desk, tokens: &[u32], last: bool) -> Result<(), Failure> {
        let wanted = if last { Wanted::Last } else { Wanted::None };
        let State { cache, logits, .. } = self;
        let Some(cache) = cache else { return Err(PyValueError::new_err("the session is closed").into()) };
        desk.with_decoder(|decoder| {
            let rows = decoder.forward_one(cache, tokens, wanted)?;
            logits.clear();
            logits.extend_from_slice(rows.last().unwrap_or_default());
            Ok::<(), Error>(())
        })?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }
}

/// A generation in a sequence.
pub struct Direct {
    sequence: Arc<Sequence>,
    /// Tokens the sequence holds unless somebody else has used it.
    at: usize,
    /// What is still to be read.
    prompt: VecDeque<u32>,
    prompt_tokens: usize,
    sampler: Sampler,
    text: TokenStream<Arc<Tokenizer>>,
    stops: StopStrings,
    processor: Option<Py<PyAny>>,
    max_tokens: usize,
    generated: usize,
}

impl Direct {
    /// Continues `sequence` by `prompt` and what is generated after it. Called detached.
    pub fn new(sequence: Arc<Sequence>, prompt: Vec<u32>, options: Options) -> Result<Self, Failure> {
        let mut state = sequence.lock();
        state.check_room(prompt.len())?;
        let at = state.tokens.len();
        if prompt.is_empty() && at == 0 {
            return Err(Error::Invalid("the prompt has no tokens".to_owned()).into());
        }
        // After a truncation it is not known what may come next: the last token is read again.
        let mut prompt = VecDeque::from(prompt);
        if prompt.is_empty() && state.logits.is_empty() {
            prompt.extend(state.tokens.pop());
            let held = state.tokens.len();
            state.cache()?.truncate(held);
        }
        let at = state.tokens.len();
        drop(state);
        Ok(Self {
            at,
            prompt_tokens: prompt.len(),
            prompt,
            sampler: Sampler::with_bias(options.sampling, &options.logit_bias)?,
            text: TokenStream::new(Arc::clone(&sequence.tokenizer), false),
            stops: options.stop,
            processor: options.logits_processor,
            max_tokens: options.max_new_tokens.unwrap_or(usize::MAX),
            generated: 0,
            sequence,
        })
    }

    /// Reads a part of the prompt, or generates a token. Called detached.
    pub fn step(&mut self) -> Result<VecDeque<Output>, Failure> {
        let sequence = Arc::clone(&self.sequence);
        let mut state = self.enter(&sequence)?;
        if !self.prompt.is_empty() {
            let part: Vec<u32> = self.prompt.drain(..self.prompt.len().min(STEP)).collect();
            state.append(&sequence.desk, &part, self.prompt.is_empty())?;
            self.at += part.len();
            let (total, cached) = (self.prompt_tokens, 0);
            return Ok([Output::Prompt { done: total - self.prompt.len(), total, cached }].into());
        }
        if self.generated >= self.max_tokens {
            return Ok([self.finished(Finish::Length)].into());
        }
        let token = if let Some(processor) = &self.processor {
            // The callback may use the session, so it is not locked meanwhile.
            let (tokens, logits) = (state.tokens.clone(), state.logits.clone());
            drop(state);
            let logits = Python::attach(|py| process(processor.bind(py), &tokens, logits))?;
            let token = self.sampler.sample(&logits, &tokens, sequence.usable.as_deref())?;
            state = self.enter(&sequence)?;
            token
        } else {
            self.sampler.sample(&state.logits, &state.tokens, sequence.usable.as_deref())?
        };
        self.generated += 1;
        let full = state.check_room(1).is_err();
        if !full {
            state.append(&sequence.desk, &[token], true)?;
            self.at += 1;
        }
        let mut finish = None;
        let mut text = String::new();
        if sequence.end.contains(&token) {
            finish = Some(Finish::Stop);
        } else {
            text = self.stops.push(&self.text.push(token));
        }
        if self.stops.found() {
            finish = Some(Finish::Stop);
        } else if finish.is_none() && self.generated >= self.max_tokens {
            finish = Some(Finish::Length);
        } else if finish.is_none() && full {
            finish = Some(Finish::ContextFull);
        }
        let mut news = VecDeque::from([Output::Token { choice: 0, token, text, score: None }]);
        news.extend(finish.map(|finish| self.finished(finish)));
        Ok(news)
    }

    /// The sequence, which must be where this generation has left it.
    fn enter<'s>(&self, sequence: &'s Sequence) -> Result<MutexGuard<'s, State>, Failure> {
        let state = sequence.lock();
        match state.tokens.len() == self.at {
            true => Ok(state),
            false => Err(PyValueError::new_err("the session was used for something else meanwhile").into()),
        }
    }

    fn finished(&mut self, finish: Finish) -> Output {
        let text = self.stops.push(&self.text.finish()) + &std::mem::take(&mut self.stops).finish();
        Output::Finished { choice: 0, finish, text, tokens: self.generated }
    }
}

/// Asks a logits processor.
fn process(processor: &Bound<'_, PyAny>, tokens: &[u32], logits: Vec<f32>) -> PyResult<Vec<f32>> {
    let py = processor.py();
    let vocab = logits.len();
    let given = logits.into_pyarray(py);
    let answer = processor.call1((PyArray1::from_slice(py, tokens), &given))?;
    // None: changed in place.
    let answer = if answer.is_none() { given.into_any() } else { answer };
    let answer = float32(&answer, "what logits_processor returned")?;
    if answer.shape != [vocab] {
        let shape = &answer.shape;
        return Err(PyValueError::new_err(format!(
            "logits_processor returned an array of shape {shape:?}; expected [{vocab}]"
        )));
    }
    Ok(answer.values)
}
