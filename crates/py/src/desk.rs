//! One model for all threads of a program.
//!
//! Generations are jobs of one batch engine, so that they run together. Nothing runs in the background: whoever waits for
//! news of its job makes a step when there are none, and puts what others get into their trays.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sherry::batch::{Budget, Job, JobId, Output};
use sherry::model::{Decoder, KvCache, PAGE};
use sherry::{BatchEngine, Error, Result};

/// Prompt tokens per step: enough for the kernels to be at full speed, few enough to stop within a moment.
pub const STEP: usize = 128;

/// The model's engine, behind a lock that nobody holds while waiting for the interpreter.
pub struct Desk {
    /// Whoever wants the engine waits here first: of those who hold and release the engine in a loop, each then lets
    /// another one in between.
    turnstile: Mutex<()>,
    state: Mutex<State>,
    /// Jobs that nobody wants any more; they are taken out by the next who has the engine.
    unwanted: Mutex<Vec<JobId>>,
    any_unwanted: AtomicBool,
}

struct State {
    engine: BatchEngine,
    /// News that their takers have not fetched, of every job that has a taker.
    trays: HashMap<JobId, VecDeque<Output>>,
}

impl Desk {
    pub fn new(engine: BatchEngine) -> Self {
        Self {
            turnstile: Mutex::new(()),
            state: Mutex::new(State { engine, trays: HashMap::new() }),
            unwanted: Mutex::new(Vec::new()),
            any_unwanted: AtomicBool::new(false),
        }
    }

    fn enter(&self) -> MutexGuard<'_, State> {
        let turn = self.turnstile.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state.lock().unwrap_or_else(|poisoned| {
            // A step panicked. What the engine had in hand is lost; the model is not.
            self.state.clear_poison();
            let mut state = poisoned.into_inner();
            for id in state.engine.reset() {
                if let Some(tray) = state.trays.get_mut(&id) {
                    tray.push_back(Output::Failed(Error::Invalid("another generation failed internally".to_owned())));
                }
            }
            state
        });
        drop(turn);
        if self.any_unwanted.swap(false, Ordering::Acquire) {
            for id in std::mem::take(&mut *self.unwanted.lock().unwrap_or_else(PoisonError::into_inner)) {
                state.engine.cancel(id);
                state.trays.remove(&id);
            }
        }
        state
    }

    /// Takes a job.
    ///
    /// # Errors
    /// As [`BatchEngine::submit`].
    pub fn submit(&self, job: Job) -> Result<JobId> {
        let mut state = self.enter();
        let id = state.engine.submit(job)?;
        state.trays.insert(id, VecDeque::new());
        Ok(id)
    }

    /// News of a job, after a step of the engine if there are none; perhaps none.
    ///
    /// # Errors
    /// As [`BatchEngine::step`].
    pub fn news(&self, id: JobId) -> Result<VecDeque<Output>> {
        let mut state = self.enter();
        let State { engine, trays } = &mut *state;
        if trays.get(&id).is_some_and(VecDeque::is_empty) {
            engine.step(Budget::Tokens(STEP), &mut |id, output| {
                if let Some(tray) = trays.get_mut(&id) {
                    tray.push_back(output);
                }
            })?;
        }
        Ok(trays.get_mut(&id).map(std::mem::take).unwrap_or_default())
    }

    /// Ends a job. Waits for nobody.
    pub fn cancel(&self, id: JobId) {
        self.unwanted.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        self.any_unwanted.store(true, Ordering::Release);
    }

    /// The decoder, for a moment: others wait meanwhile.
    pub fn with_decoder<T>(&self, work: impl FnOnce(&mut Decoder) -> T) -> T {
        work(self.enter().engine.decoder_mut())
    }

    /// A cache for a single sequence of up to `tokens` tokens, beside those of the engine.
    ///
    /// # Errors
    /// As [`KvCache::new`]; [`Error::ContextFull`].
    pub fn cache(&self, tokens: usize) -> Result<KvCache> {
        let state = self.enter();
        let options = *state.engine.options();
        if tokens > options.context {
            return Err(Error::ContextFull { needed: tokens, capacity: options.context });
        }
        KvCache::new(state.engine.decoder().config(), tokens.next_multiple_of(PAGE), options.kv)
    }
}
