//! The thread that owns the model, and how requests reach it.

pub mod mailbox;
mod thread;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sherry::batch::{BatchEngine, Constraint, Finish, Scores};
use sherry::chat::ChatTemplate;
use sherry::generate::{SamplingParams, StopStrings};
use tokio::sync::oneshot;

use crate::App;
use crate::error::ApiError;
use crate::grammar::Grammars;
use crate::http::access::Client;
use crate::model::{EngineInfo, ModelInfo, Served};
use crate::outcome::{Ended, ServeError};
use mailbox::{Look, Mailbox};

/// A step that takes longer than this means that something hangs.
const STUCK: Duration = Duration::from_secs(30);

/// A model ready to serve.
pub struct Loaded {
    /// The engine. The server bounds what waits, so the engine's own bounds may be wide.
    pub engine: BatchEngine,
    /// How conversations become prompts; none for models that continue texts.
    pub template: Option<ChatTemplate>,
    /// Sampling where a request says nothing.
    pub defaults: SamplingParams,
    /// Tokens that end an answer.
    pub end: Vec<u32>,
    /// Size and shape of the model.
    pub model: ModelInfo,
    /// How it runs.
    pub info: EngineInfo,
    /// A text that is equal for equal bits: of model, build, instruction set, precision, cache.
    pub fingerprint: String,
}

/// What is asked of the engine: every prompt with `n` answers.
pub struct Ask {
    /// The prompts.
    pub prompts: Vec<Arc<[u32]>>,
    /// Answers to each.
    pub n: usize,
    /// How tokens are picked.
    pub sampling: SamplingParams,
    /// Added to the logits of some tokens.
    pub bias: Arc<[(u32, f32)]>,
    /// Texts that end an answer.
    pub stop: StopStrings,
    /// Tokens that end an answer.
    pub end: Arc<[u32]>,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Tokens before it may end.
    pub min_tokens: usize,
    /// Log-probabilities to report.
    pub scores: Scores,
    /// What an answer must look like.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Computed prompts are shared only with requests of the same.
    pub salt: String,
    /// Who asks.
    pub client: Client,
}

/// A request on its way to the engine.
struct Command {
    ask: Ask,
    shared: Arc<Shared>,
}

/// What a request and the engine both know of it.
struct Shared {
    mailbox: Mailbox,
    cancelled: AtomicBool,
    stage: AtomicU8,
    began: Instant,
}

const STAGES: [&str; 3] = ["queue", "prompt", "answer"];

/// The side of requests.
pub struct Handle {
    commands: SyncSender<Command>,
    state: Arc<State>,
    per_client: OpenRequests,
    grammars: OnceLock<Result<Grammars, ApiError>>,
    started: Instant,
}

/// What the engine tells without being asked.
#[derive(Default)]
struct State {
    /// Requests, and prompt tokens of theirs, that have not begun.
    waiting: AtomicUsize,
    waiting_tokens: AtomicUsize,
    /// Sequences that run.
    running: AtomicUsize,
    /// Tokens per second lately.
    rate: AtomicUsize,
    /// When the step in progress began, in milliseconds after the start, plus 1; 0 between steps.
    step_began: AtomicU64,
    /// When everything has to be over, in milliseconds after the start, plus 1; 0 while requests are taken.
    drain: AtomicU64,
}

/// The side of the engine.
pub struct Ends {
    commands: Receiver<Command>,
    state: Arc<State>,
    started: Instant,
}

/// Both sides. A little more than `max_queue` requests find room in between.
pub fn channel(max_queue: usize) -> (Handle, Ends) {
    let (sender, commands) = sync_channel(max_queue + 16);
    let (state, started) = (Arc::new(State::default()), Instant::now());
    let ends = Ends { commands, state: Arc::clone(&state), started };
    let per_client = Arc::default();
    (Handle { commands: sender, state, per_client, grammars: OnceLock::new(), started }, ends)
}

/// A running engine.
pub struct Running(oneshot::Receiver<Result<Ended, ServeError>>);

impl Running {
    /// Waits for its end.
    pub async fn ended(&mut self) -> Result<Ended, ServeError> {
        (&mut self.0).await.unwrap_or(Ok(Ended::Broken))
    }
}

/// Starts the engine's thread: it loads the model, then works until it is told to end.
pub fn start(
    app: Arc<App>,
    ends: Ends,
    load: impl FnOnce() -> Result<Loaded, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    ready: impl FnOnce(&Served) + Send + 'static,
) -> Running {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let ended = match load() {
            Err(error) => Err(ServeError::Model(error)),
            Ok(loaded) => {
                let (engine, served) = serve_as(&app, loaded);
                // Set once: nobody else does.
                ready(app.served.get_or_init(|| Arc::new(served)));
                Ok(thread::work(&app, &ends, engine))
            }
        };
        // Nobody listens any more when the process is ending anyway.
        let _ = sender.send(ended);
    });
    Running(receiver)
}

fn serve_as(app: &App, loaded: Loaded) -> (BatchEngine, Served) {
    let Loaded { engine, template, defaults, end, model, info, fingerprint } = loaded;
    let mut ids = vec![model.id.clone()];
    ids.extend(app.config.aliases.iter().cloned());
    let created = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let tokenizer = Arc::clone(engine.tokenizer());
    let served = Served {
        ids,
        created,
        info: model,
        engine: info,
        tokenizer,
        template,
        defaults,
        end: end.into(),
        max_choices: engine.options().max_running,
        fingerprint,
    };
    (engine, served)
}

impl Handle {
    /// Hands a request to the engine.
    ///
    /// # Errors
    /// 503 when too much waits, 429 when the client has too many requests.
    pub fn submit(&self, app: &App, ask: Ask) -> Result<Ticket, ApiError> {
        let place = ClientPlace::take(&self.per_client, &ask.client, app.config.max_per_client)?;
        let tokens: usize = ask.prompts.iter().map(|prompt| prompt.len()).sum();
        let state = &self.state;
        let waiting = state.waiting.load(Ordering::Relaxed);
        let served = app.served()?;
        let most_tokens = served.info.context.saturating_mul(16);
        let waiting_tokens = state.waiting_tokens.load(Ordering::Relaxed);
        // What can begin with the next step does not wait.
        let free = served.max_choices.saturating_sub(state.running.load(Ordering::Relaxed));
        let room = app.config.max_queue.saturating_add(free);
        if waiting >= room || (waiting > free && waiting_tokens + tokens > most_tokens) {
            let message = format!("{waiting} requests are waiting already");
            return Err(ApiError::unavailable("queue_full", message, self.backlog_seconds()));
        }
        let shared = Arc::new(Shared {
            mailbox: Mailbox::new(ask.prompts.len() * ask.n),
            cancelled: AtomicBool::new(false),
            stage: AtomicU8::new(0),
            began: Instant::now(),
        });
        state.waiting.fetch_add(ask.prompts.len(), Ordering::Relaxed);
        state.waiting_tokens.fetch_add(tokens, Ordering::Relaxed);
        let command = Command { ask, shared: Arc::clone(&shared) };
        self.commands.try_send(command).map_err(|error| {
            let (TrySendError::Full(command) | TrySendError::Disconnected(command)) = &error;
            state.waiting.fetch_sub(command.ask.prompts.len(), Ordering::Relaxed);
            state.waiting_tokens.fetch_sub(tokens, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => {
                    ApiError::unavailable("queue_full", "too many requests are waiting already", self.backlog_seconds())
                }
                TrySendError::Disconnected(_) => {
                    ApiError::unavailable("shutting_down", "the server is shutting down", 5)
                }
            }
        })?;
        Ok(Ticket { shared, _place: place })
    }

    /// About how long what waits will take.
    fn backlog_seconds(&self) -> u64 {
        let rate = self.state.rate.load(Ordering::Relaxed).max(1);
        1 + (self.state.waiting_tokens.load(Ordering::Relaxed) / rate) as u64
    }

    /// No new requests; those there are get so much time.
    pub fn drain(&self, time: Duration) {
        let deadline = (self.started.elapsed() + time).as_millis() as u64 + 1;
        self.state.drain.store(deadline, Ordering::Release);
    }

    /// Whether a step takes much longer than any step does.
    pub fn is_stuck(&self) -> bool {
        match self.state.step_began.load(Ordering::Acquire) {
            0 => false,
            began => self.started.elapsed() > Duration::from_millis(began - 1) + STUCK,
        }
    }

    /// What makes constraints; built when the first request needs it.
    ///
    /// # Errors
    /// 500: the vocabulary does not allow it.
    pub fn grammars(&self, served: &Served) -> Result<&Grammars, ApiError> {
        self.grammars.get_or_init(|| Grammars::new(&served.tokenizer, &served.end)).as_ref().map_err(Clone::clone)
    }
}

/// A request in the engine; dropping it takes the request out.
pub struct Ticket {
    shared: Arc<Shared>,
    _place: ClientPlace,
}

impl Ticket {
    /// Waits for news.
    pub async fn look(&self) -> Look {
        self.shared.mailbox.look().await
    }

    /// How far the request is.
    pub fn stage(&self) -> &'static str {
        STAGES[usize::from(self.shared.stage.load(Ordering::Relaxed)).min(2)]
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.cancelled.store(true, Ordering::Release);
    }
}

/// Requests of every client that has any.
type OpenRequests = Arc<Mutex<HashMap<Client, usize>>>;

/// A place among the requests of a client, given back on drop.
struct ClientPlace(Option<(OpenRequests, Client)>);

impl ClientPlace {
    fn take(all: &OpenRequests, client: &Client, most: Option<usize>) -> Result<Self, ApiError> {
        let Some(most) = most else { return Ok(Self(None)) };
        let mut open = all.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.entry(client.clone()).or_default();
        if *own >= most {
            return Err(ApiError::too_many(most));
        }
        *own += 1;
        Ok(Self(Some((Arc::clone(all), client.clone()))))
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let Some((all, client)) = &self.0 else { return };
        let mut open = all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(client) {
            *own -= 1;
            if *own == 0 {
                open.remove(client);
            }
        }
    }
}

/// As OpenAI names it.
pub fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length | Finish::ContextFull => "length",
    }
}

/// A seed for requests that give none. Below 2^53, so that it survives JSON readers that know floats only.
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) >> 11
}
