//! Sessions: a context of a model's, and what is generated in it.

use std::collections::VecDeque;
use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use sherry::batch::{Budget, Finish, Job, JobId, Output};
use sherry::generate::StopStrings;
use sherry::{Llm, SamplingParams};

use crate::failure::{Failure, Outcome, Status, guard, number};
use crate::model::SherryModel;
use crate::pointers::{Structure, fill, give, handle, place, structure, take, text, values, write};

/// Prompt tokens per step: what passes at most before a cancellation is noticed.
const STEP: usize = 128;

/// `sherry_text`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SherryText {
    data: *const c_char,
    len: usize,
}

/// `sherry_sampling`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SherrySampling {
    size: u32,
    temperature: f32,
    top_p: f32,
    min_p: f32,
    top_k: i32,
    repetition_penalty: f32,
    repetition_window: i32,
    presence_penalty: f32,
    frequency_penalty: f32,
    max_tokens: i32,
    seed: u64,
    stop: *const SherryText,
    stop_count: usize,
}

// SAFETY: numbers and a pointer, the first of them `size`.
unsafe impl Structure for SherrySampling {
    const NAME: &'static str = "sherry_sampling";
}

/// `sherry_event_kind`.
const PROMPT: u32 = 1;
const TOKEN: u32 = 2;
const END: u32 = 3;

/// `sherry_finish`.
const STOP: u32 = 1;
const LENGTH: u32 = 2;
const CONTEXT: u32 = 3;
const CANCELLED: u32 = 4;

/// `sherry_event`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SherryEvent {
    size: u32,
    kind: u32,
    token: u32,
    finish: u32,
    done: u32,
    total: u32,
    cached: u32,
    text: *const c_char,
    text_len: usize,
}

// SAFETY: numbers and a pointer, the first of them `size`.
unsafe impl Structure for SherryEvent {
    const NAME: &'static str = "sherry_event";
}

/// `sherry_session`. Whoever cancels touches nothing but the flag.
pub struct SherrySession {
    cancelled: AtomicBool,
    state: Mutex<State>,
}

struct State {
    llm: Llm,
    /// What is being generated.
    job: Option<JobId>,
    news: VecDeque<Output>,
    /// The text of the last event: it is the caller's until the next call.
    text: String,
}

impl SherrySession {
    /// The session for this thread alone.
    fn lock(&self) -> Outcome<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            Err(TryLockError::WouldBlock) => Err(Failure::invalid("the session is in use by another thread")),
            // A panic left it in the middle of something.
            Err(TryLockError::Poisoned(poisoned)) => {
                self.state.clear_poison();
                let mut state = poisoned.into_inner();
                state.llm.engine().reset();
                state.job = None;
                state.news.clear();
                Ok(state)
            }
        }
    }
}

impl State {
    fn cancel(&mut self) -> bool {
        self.news.clear();
        self.job.take().is_some_and(|id| self.llm.engine().cancel(id))
    }

    fn next(&mut self, cancelled: &AtomicBool) -> Outcome<Option<SherryEvent>> {
        let none = SherryEvent {
            size: 0,
            kind: 0,
            token: 0,
            finish: 0,
            done: 0,
            total: 0,
            cached: 0,
            text: std::ptr::null(),
            text_len: 0,
        };
        let Some(job) = self.job else { return Ok(None) };
        if cancelled.load(Ordering::Acquire) {
            self.cancel();
            return Ok(Some(SherryEvent { kind: END, finish: CANCELLED, ..none }));
        }
        loop {
            let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
            let event = match self.news.pop_front() {
                Some(Output::Prompt { done, total, cached }) => {
                    let (done, total, cached) = (count(done), count(total), count(cached));
                    return Ok(Some(SherryEvent { kind: PROMPT, done, total, cached, ..none }));
                }
                Some(Output::PromptScores { .. }) => continue,
                Some(Output::Token { token, text, .. }) => {
                    self.text = text;
                    SherryEvent { kind: TOKEN, token, ..none }
                }
                Some(Output::Finished { finish, text, .. }) => {
                    self.job = None;
                    self.text = text;
                    let finish = match finish {
                        Finish::Stop => STOP,
                        Finish::Length => LENGTH,
                        Finish::ContextFull => CONTEXT,
                    };
                    SherryEvent { kind: END, finish, ..none }
                }
                Some(Output::Failed(error)) => {
                    self.job = None;
                    return Err(error.into());
                }
                None => {
                    let news = &mut self.news;
                    let stepped = self.llm.engine().step(Budget::Tokens(STEP), &mut |id, output| {
                        if id == job {
                            news.push_back(output);
                        }
                    });
                    if let Err(error) = stepped {
                        self.cancel();
                        return Err(error.into());
                    }
                    continue;
                }
            };
            return Ok(Some(SherryEvent { text: self.text.as_ptr().cast(), text_len: self.text.len(), ..event }));
        }
    }
}

/// Makes a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_session_new(
    model: *const SherryModel,
    context: usize,
    out: *mut *mut SherrySession,
) -> Status {
    guard(|| {
        // SAFETY: the caller's promises about handles and pointers.
        let model = unsafe {
            place(out)?;
            handle(model, "model")?
        };
        let state = State { llm: model.0.llm(context)?, job: None, news: VecDeque::new(), text: String::new() };
        // SAFETY: `place` has checked it.
        unsafe { give(out, SherrySession { cancelled: AtomicBool::new(false), state: Mutex::new(state) }) };
        Ok(())
    })
}

/// Gives a session up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_session_free(session: *mut SherrySession) {
    let _ = guard(|| {
        // SAFETY: the caller's promise about handles.
        drop(unsafe { take(session) });
        Ok(())
    });
}

/// The model's own values with those that the caller sets.
fn sampling(own: SamplingParams, given: &SherrySampling) -> SamplingParams {
    let float = |given: f32, own: f32| if given < 0.0 { own } else { given };
    let whole = |given: i32, own: usize| usize::try_from(given).unwrap_or(own);
    SamplingParams {
        temperature: float(given.temperature, own.temperature),
        top_p: float(given.top_p, own.top_p),
        min_p: float(given.min_p, own.min_p),
        top_k: whole(given.top_k, own.top_k),
        repetition_penalty: float(given.repetition_penalty, own.repetition_penalty),
        repetition_window: whole(given.repetition_window, own.repetition_window),
        presence_penalty: given.presence_penalty,
        frequency_penalty: given.frequency_penalty,
        seed: given.seed,
    }
}

/// Begins to generate what comes after `tokens`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_start(
    session: *mut SherrySession,
    tokens: *const u32,
    count: usize,
    options: *const SherrySampling,
) -> Status {
    guard(|| {
        // SAFETY: the caller's promises about handles, pointers and structures.
        let (session, tokens, options) =
            unsafe { (handle(session, "session")?, values(tokens, count, "tokens")?, structure(options)?) };
        let mut state = session.lock()?;
        let mut job = Job::new(tokens, usize::MAX, SamplingParams::GREEDY);
        match &options {
            None => job.sampling = state.llm.sampling()?,
            Some(options) => {
                // The model's own values may be damaged, which matters where one of them is asked for.
                let asks = [options.temperature, options.top_p, options.min_p, options.repetition_penalty];
                let own = match asks.iter().any(|value| *value < 0.0) || options.top_k < 0 {
                    true => state.llm.sampling()?,
                    false => SamplingParams::default(),
                };
                job.sampling = sampling(own, options).check()?;
                job.max_tokens = usize::try_from(options.max_tokens).unwrap_or(usize::MAX);
                // SAFETY: the caller's promises about pointers, which hold for the fields of a structure as well.
                let stop = unsafe { values(options.stop, options.stop_count, "stop") }?.iter();
                // SAFETY: as above.
                let stop = stop.map(|one| unsafe { text(one.data, one.len, "stop string") }.map(str::to_owned));
                job.stop = StopStrings::new(stop.collect::<Outcome<Vec<String>>>()?)?;
            }
        }
        job.end = state.llm.end_ids().into();
        // What was being generated is broken off; what was computed for it stays in the cache.
        state.cancel();
        session.cancelled.store(false, Ordering::Release);
        state.job = Some(state.llm.engine().submit(job)?);
        Ok(())
    })
}

/// Goes on: 1 when there is an event, 0 when everything has been told.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_next(session: *mut SherrySession, event: *mut SherryEvent) -> i32 {
    number(|| {
        // SAFETY: the caller's promise about handles.
        let session = unsafe { handle(session, "session") }?;
        let Some(found) = session.lock()?.next(&session.cancelled)? else { return Ok(0) };
        // SAFETY: the caller's promise about structures.
        unsafe { fill(event, found) }?;
        Ok(1)
    })
}

/// Breaks generation off, from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_cancel(session: *mut SherrySession) {
    let _ = guard(|| {
        // SAFETY: the caller's promise about handles; other threads reach the session by shared references too.
        unsafe { handle(session, "session") }?.cancelled.store(true, Ordering::Release);
        Ok(())
    });
}

/// The logits of the token after `tokens`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_logits(
    session: *mut SherrySession,
    tokens: *const u32,
    count: usize,
    out: *mut f32,
    capacity: usize,
) -> Status {
    guard(|| {
        // SAFETY: the caller's promises about handles and pointers.
        let (session, tokens) = unsafe { (handle(session, "session")?, values(tokens, count, "tokens")?) };
        let mut state = session.lock()?;
        // Asked before anything is computed.
        let vocab = state.llm.decoder().config().vocab;
        if capacity < vocab {
            let message = format!("there is room for {capacity} values, and {vocab} to give");
            return Err(Failure { status: Status::Space, message });
        }
        let logits = state.llm.logits_of(tokens)?;
        // SAFETY: the caller's promises about pointers.
        unsafe { write(&logits, out, capacity, std::ptr::null_mut()) }
    })
}
