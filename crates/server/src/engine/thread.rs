//! The engine's loop: take requests, step, deliver. It never waits for a client.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use sherry::batch::{BatchEngine, Budget, CacheScope, ClientId, Job, JobId, Load, Output};

use super::mailbox::{Counts, End};
use super::{Command, Ends, Shared};
use crate::App;
use crate::config::Probe;
use crate::error::ApiError;
use crate::outcome::Ended;

/// How long the loop sleeps when nothing can be done but time may bring something.
const NAP: Duration = Duration::from_millis(5);
/// How often an idle engine looks whether the process is to end.
const IDLE: Duration = Duration::from_millis(50);
/// So many faults within [`FAULT_TIME`] end the process.
const FAULTS: usize = 3;
const FAULT_TIME: Duration = Duration::from_secs(60);

/// A prompt with its answers in the engine.
struct Active {
    shared: Arc<Shared>,
    /// Its first choice among those of the request.
    first: usize,
    choices: usize,
    ended: usize,
    prompt: usize,
    cached: usize,
    begun: Option<Instant>,
    /// When each choice got its first and its last token.
    written: Vec<Option<(Instant, Instant)>>,
    stalled: bool,
}

struct Work<'a> {
    app: &'a App,
    ends: &'a Ends,
    engine: BatchEngine,
    active: HashMap<JobId, Active>,
    faults: VecDeque<Instant>,
    last_step: Duration,
    last_load: Load,
}

/// Works until the process is to end.
pub fn work(app: &App, ends: &Ends, engine: BatchEngine) -> Ended {
    let mut work = Work {
        app,
        ends,
        engine,
        active: HashMap::new(),
        faults: VecDeque::new(),
        last_step: Duration::ZERO,
        last_load: Load::default(),
    };
    work.run()
}

impl Work<'_> {
    fn run(&mut self) -> Ended {
        loop {
            let deadline = self.ends.state.drain.load(Ordering::Acquire);
            self.take(deadline == 0);
            self.end_lost();
            if deadline != 0 {
                let over = self.ends.started.elapsed() >= Duration::from_millis(deadline - 1);
                if over {
                    self.fail_all(&ApiError::unavailable("shutting_down", "the server is shutting down", 5));
                }
                if over || self.active.is_empty() {
                    return Ended::Stopped;
                }
            }
            if !self.active.is_empty() && !self.step() {
                self.fail_all(&ApiError::internal("internal_error", "the engine failed"));
                return Ended::Broken;
            }
        }
    }

    /// Takes what has come; waits for something when there is nothing else to do.
    fn take(&mut self, accept: bool) {
        if self.active.is_empty() && accept {
            match self.ends.commands.recv_timeout(IDLE) {
                Ok(command) => self.submit(command),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
        while let Ok(command) = self.ends.commands.try_recv() {
            self.submit(command);
        }
    }

    fn submit(&mut self, command: Command) {
        let Command { ask, shared } = command;
        if shared.cancelled.load(Ordering::Acquire) {
            for prompt in &ask.prompts {
                self.leave_queue(prompt.len());
            }
            return;
        }
        // Requests of one key share what was computed; without keys, all of them.
        let keys = !self.app.config.keys.is_empty();
        let scope = format!("{}\n{}", if keys { &*ask.client.0 } else { "" }, ask.salt);
        let mut failed = None;
        for (index, prompt) in ask.prompts.iter().enumerate() {
            let job = Job {
                sampling: ask.sampling,
                logit_bias: Arc::clone(&ask.bias),
                stop: ask.stop.clone(),
                end: Arc::clone(&ask.end),
                min_tokens: ask.min_tokens,
                choices: ask.n,
                scores: ask.scores,
                constraint: ask.constraint.as_ref().map(|constraint| constraint.fork()),
                scope: CacheScope(Arc::from(scope.as_str())),
                client: ClientId(Arc::clone(&ask.client.0)),
                ..Job::new(Arc::clone(prompt), ask.max_tokens, ask.sampling)
            };
            let submitted = match failed {
                None => self.engine.submit(job),
                Some(_) => {
                    self.leave_queue(prompt.len());
                    continue;
                }
            };
            match submitted {
                Ok(id) => {
                    let active = Active {
                        shared: Arc::clone(&shared),
                        first: index * ask.n,
                        choices: ask.n,
                        ended: 0,
                        prompt: prompt.len(),
                        cached: 0,
                        begun: None,
                        written: vec![None; ask.n],
                        stalled: false,
                    };
                    self.active.insert(id, active);
                }
                Err(error) => {
                    self.leave_queue(prompt.len());
                    failed = Some(ApiError::invalid("", error.to_string()));
                }
            }
        }
        if let Some(error) = failed {
            self.fail(&shared, &error);
        }
    }

    fn leave_queue(&self, tokens: usize) {
        self.ends.state.waiting.fetch_sub(1, Ordering::Relaxed);
        self.ends.state.waiting_tokens.fetch_sub(tokens, Ordering::Relaxed);
    }

    /// Ends a request with an error.
    fn fail(&mut self, shared: &Arc<Shared>, error: &ApiError) {
        shared.mailbox.fail(error.clone());
        self.forget(|active| Arc::ptr_eq(&active.shared, shared));
    }

    /// Ends all requests that the engine knows with an error.
    fn fail_active(&mut self, error: &ApiError) {
        for active in self.active.values() {
            active.shared.mailbox.fail(error.clone());
        }
        self.forget(|_| true);
    }

    /// The same, and those that have not reached it.
    fn fail_all(&mut self, error: &ApiError) {
        self.fail_active(error);
        while let Ok(Command { ask, shared }) = self.ends.commands.try_recv() {
            ask.prompts.iter().for_each(|prompt| self.leave_queue(prompt.len()));
            shared.mailbox.fail(error.clone());
        }
    }

    fn forget(&mut self, gone: impl Fn(&Active) -> bool) {
        let ids: Vec<JobId> = self.active.iter().filter(|(_, active)| gone(active)).map(|(id, _)| *id).collect();
        for id in ids {
            self.engine.cancel(id);
            if let Some(active) = self.active.remove(&id)
                && active.begun.is_none()
            {
                self.leave_queue(active.prompt);
            }
            // An idle engine takes no steps that would tell.
            if self.active.is_empty() {
                self.publish();
            }
        }
    }

    /// Ends requests whose clients went away, whose time is over, or whose readers do not read; pauses those that are
    /// far behind.
    fn end_lost(&mut self) {
        self.forget(|active| active.shared.cancelled.load(Ordering::Acquire));
        let config = &self.app.config;
        let mut late = Vec::new();
        for (&id, active) in &mut self.active {
            let age = active.shared.began.elapsed();
            if age > config.timeout {
                late.push((Arc::clone(&active.shared), ApiError::deadline(config.timeout.as_secs())));
            } else if active.begun.is_none() && age > config.queue_timeout {
                let error = ApiError::unavailable("overloaded", "the request waited too long for its turn", 10);
                late.push((Arc::clone(&active.shared), error));
            } else if active.stalled && active.shared.mailbox.is_stalled(config.stall) {
                let error = ApiError::internal("internal_error", "the answer was not read");
                late.push((Arc::clone(&active.shared), error));
            }
            let full = active.shared.mailbox.is_full();
            if full != active.stalled {
                active.stalled = full;
                for choice in 0..active.choices {
                    self.engine.set_stalled(id, choice, full);
                }
            }
        }
        for (shared, error) in late {
            self.fail(&shared, &error);
        }
    }

    /// One step. False: the engine failed too often.
    fn step(&mut self) -> bool {
        let began = Instant::now();
        let now = self.ends.started.elapsed();
        self.ends.state.step_began.store(now.as_millis() as u64 + 1, Ordering::Release);
        let budget = Budget::Time { now, last: self.last_step, target: self.app.config.step };
        let mut outputs = Vec::new();
        let Self { engine, app, .. } = self;
        let mut deliver = |id, output| {
            if let Some(Probe(probe)) = &app.config.probe {
                probe(&output);
            }
            outputs.push((id, output));
        };
        let stepped = catch_unwind(AssertUnwindSafe(|| engine.step(budget, &mut deliver)));
        self.ends.state.step_began.store(0, Ordering::Release);
        self.last_step = began.elapsed();
        let report = match stepped {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => {
                tracing::error!(%error, "a step failed");
                return self.recover(&error.to_string());
            }
            Err(_) => {
                tracing::error!("a step panicked; the requests in it are answered with 500");
                return self.recover("the engine failed; this is a bug");
            }
        };
        for (id, output) in outputs {
            self.deliver(id, output);
        }
        let metrics = &self.app.metrics;
        if report.work.tokens > 0 {
            metrics.steps.inc();
            metrics.step.observe(self.last_step.as_secs_f64());
            metrics.step_tokens.observe(report.work.tokens as f64);
            let rate = (report.work.tokens as f64 / self.last_step.as_secs_f64().max(1e-6)) as usize;
            let old = self.ends.state.rate.load(Ordering::Relaxed);
            self.ends.state.rate.store(if old == 0 { rate } else { (old * 7 + rate) / 8 }, Ordering::Relaxed);
        } else if report.finished == 0 && !self.active.is_empty() {
            // Everybody is paused: only readers or the clock can change that.
            std::thread::sleep(NAP);
        }
        self.publish();
        true
    }

    /// Makes the engine anew after a fault.
    fn recover(&mut self, message: &str) -> bool {
        self.app.metrics.panics.inc();
        let now = Instant::now();
        self.faults.push_back(now);
        while self.faults.front().is_some_and(|first| now.duration_since(*first) > FAULT_TIME) {
            self.faults.pop_front();
        }
        let goes_on = self.faults.len() < FAULTS;
        let error = ApiError::internal("internal_error", message);
        // Who comes after the fault has no part in it.
        if goes_on {
            self.fail_active(&error)
        } else {
            self.fail_all(&error)
        }
        self.engine.reset();
        self.publish();
        goes_on
    }

    fn deliver(&mut self, id: JobId, output: Output) {
        // A job that was cancelled by an earlier output of this step.
        let Some(active) = self.active.get_mut(&id) else { return };
        let now = Instant::now();
        let first_news = active.begun.is_none();
        active.begun.get_or_insert(now);
        let shared = Arc::clone(&active.shared);
        let prompt = active.prompt;
        match output {
            Output::Prompt { done, total, cached } => {
                active.cached = cached;
                shared.stage.store(1, Ordering::Relaxed);
                shared.mailbox.progress(done, total, 0);
            }
            Output::PromptScores { scores, .. } => {
                for choice in 0..active.choices {
                    shared.mailbox.write(active.first + choice, "", scores.clone());
                }
            }
            Output::Token { choice, text, score, .. } => {
                shared.stage.store(2, Ordering::Relaxed);
                let written = &mut active.written[choice];
                if let Some((_, last)) = written {
                    self.app.metrics.inter_token.observe(now.duration_since(*last).as_secs_f64());
                    *last = now;
                } else {
                    *written = Some((now, now));
                }
                if !text.is_empty() || score.is_some() {
                    shared.mailbox.write(active.first + choice, &text, score.into_iter().collect());
                }
            }
            Output::Finished { choice, finish, text, tokens } => {
                if !text.is_empty() {
                    shared.mailbox.write(active.first + choice, &text, Vec::new());
                }
                let begun = active.begun.unwrap_or(now);
                let (first, last) = active.written[choice].unwrap_or((now, now));
                let counts = Counts {
                    prompt,
                    cached: active.cached,
                    generated: tokens,
                    queued: begun.duration_since(shared.began),
                    prompt_time: first.duration_since(begun) + self.last_step.min(first.duration_since(shared.began)),
                    answer_time: last.duration_since(first),
                };
                shared.mailbox.end(active.first + choice, End { finish, counts });
                active.ended += 1;
                if active.ended == active.choices {
                    self.active.remove(&id);
                }
            }
            Output::Failed(error) => {
                self.active.remove(&id);
                self.fail(&shared, &ApiError::internal("model_output_unusable", error.to_string()));
            }
        }
        if first_news {
            self.leave_queue(prompt);
        }
    }

    /// Tells requests how long their queue is, and everybody how busy the engine is.
    fn publish(&mut self) {
        let load = self.engine.load();
        if load.waiting > 0 {
            let mut waiting: Vec<(&JobId, &Active)> = self.active.iter().filter(|(_, a)| a.begun.is_none()).collect();
            waiting.sort_unstable_by_key(|(id, _)| **id);
            for (before, (_, active)) in waiting.into_iter().enumerate() {
                active.shared.mailbox.progress(0, active.prompt, before + 1);
            }
        }
        self.ends.state.running.store(load.running, Ordering::Relaxed);
        let (metrics, last) = (&self.app.metrics, &self.last_load);
        metrics.requests_running.set(load.running as i64);
        metrics.requests_waiting.set(load.waiting as i64);
        metrics.kv_cache_usage_ratio.set(load.used_pages as f64 / load.pages.max(1) as f64);
        metrics.prefix_cache_pages.set(load.cached_pages as i64);
        metrics.prompt_tokens.inc_by(load.prompt_tokens - last.prompt_tokens);
        metrics.prompt_tokens_cached.inc_by(load.cached_tokens - last.cached_tokens);
        metrics.generated_tokens.inc_by(load.generated_tokens - last.generated_tokens);
        metrics.proposed_tokens.inc_by(load.proposed_tokens - last.proposed_tokens);
        metrics.accepted_tokens.inc_by(load.accepted_tokens - last.accepted_tokens);
        metrics.preemptions.inc_by(load.preemptions - last.preemptions);
        metrics.prefix_evictions.inc_by(load.evictions - last.evictions);
        self.last_load = load;
    }
}
