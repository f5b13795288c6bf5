//! The live view of a training run on a terminal. It draws on stderr, in a thread of its own, and leaves the terminal
//! as it was, however the run ends.

#![allow(clippy::disallowed_methods)] // it draws on stderr

mod view;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Stderr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::crossterm::{cursor, execute};
use sherry_train::report::Run;
use sherry_train::{Event, Trainer};

use crate::interrupt;

/// Between drawings.
const FRAME: Duration = Duration::from_millis(200);
/// Remarks kept.
const REMARKS: usize = 200;
/// Points kept of a curve; older ones are thinned out.
const POINTS: usize = 2000;

/// What is shown.
#[derive(Default)]
struct State {
    name: String,
    /// Steps of the run, where this process began, and done.
    steps: u64,
    first: u64,
    step: u64,
    tokens_per_step: usize,
    tokens: u64,
    loss: Option<f64>,
    valid: Option<f64>,
    lr: Option<f64>,
    lambda: Option<f64>,
    grad_norm: Option<f64>,
    flip_rate: Option<f64>,
    losses: Vec<(f64, f64)>,
    valids: Vec<(f64, f64)>,
    /// Per kind of projection: effective rank, valley share, gradient norm.
    kinds: BTreeMap<&'static str, [Option<f64>; 3]>,
    saved: Option<String>,
    remarks: VecDeque<String>,
    /// Long work besides steps: what, of how much, how much is done.
    job: Option<(String, u64, u64)>,
    started: Option<Instant>,
    stopping: bool,
}

impl State {
    fn remark(&mut self, line: &str) {
        if self.remarks.len() == REMARKS {
            self.remarks.pop_front();
        }
        self.remarks.push_back(line.to_owned());
    }

    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Step { step, loss, tokens } => {
                self.started.get_or_insert_with(Instant::now);
                (self.step, self.loss, self.tokens) = (*step, Some(*loss), *tokens);
                push(&mut self.losses, (*step as f64, *loss));
            }
            Event::Line(line) => {
                let update = |old: &mut Option<f64>, new: Option<f64>| *old = new.or(*old);
                update(&mut self.lr, line.lr);
                update(&mut self.lambda, line.lambda);
                update(&mut self.grad_norm, line.grad_norm);
                update(&mut self.flip_rate, line.flip_rate);
                if let Some(valid) = line.valid_loss {
                    self.valid = Some(valid);
                    push(&mut self.valids, (line.step as f64, valid));
                }
                let columns = [&line.effective_rank, &line.valley_share, &line.grad_norms];
                for (column, values) in columns.into_iter().enumerate() {
                    for (kind, value) in values {
                        self.kinds.entry(kind).or_default()[column] = Some(*value);
                    }
                }
            }
            Event::Saved(path) => self.saved = Some(name_of(path)),
        }
    }

    /// With the curves of `run` up to where this process begins.
    fn with_history(mut self, run: Option<&Run>) -> Self {
        let before = |points: Vec<(f64, f64)>| points.into_iter().filter(|(step, _)| *step <= self.first as f64);
        let Some(run) = run else { return self };
        let (losses, valids): (Vec<_>, Vec<_>) = (before(run.losses()).collect(), before(run.valid_losses()).collect());
        losses.into_iter().for_each(|point| push(&mut self.losses, point));
        valids.into_iter().for_each(|point| push(&mut self.valids, point));
        (self.loss, self.valid) = (self.losses.last().map(|point| point.1), self.valids.last().map(|point| point.1));
        self
    }

    /// Tokens per second of this process.
    fn speed(&self, now: Instant) -> Option<f64> {
        // The first step is where the clock starts.
        let seconds = now.duration_since(self.started?).as_secs_f64();
        let steps = self.step.checked_sub(self.first + 1).filter(|steps| *steps > 0)?;
        Some(steps as f64 * self.tokens_per_step as f64 / seconds.max(1e-9))
    }
}

/// The last part of a path, for people.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Appends a point; halves the number of points when there are too many.
fn push(points: &mut Vec<(f64, f64)>, point: (f64, f64)) {
    if points.len() >= POINTS {
        let mut index = 0;
        points.retain(|_| {
            index += 1;
            index % 2 == 1
        });
    }
    points.push(point);
}

/// The view, while it is on the screen.
pub struct Dashboard {
    state: Arc<Mutex<State>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dashboard {
    /// Takes over the terminal to show the run that `trainer` goes on with in `folder`, and what the folder tells of it.
    ///
    /// # Errors
    /// When stderr is no terminal that can be drawn on; it is left as it was.
    pub fn open(folder: &Path, trainer: &Trainer) -> io::Result<Self> {
        let first = trainer.step();
        let state = State {
            name: folder.display().to_string(),
            first,
            step: first,
            steps: trainer.total_steps(),
            tokens_per_step: trainer.tokens_per_step(),
            tokens: trainer.tokens(),
            saved: trainer.saved().map(name_of),
            ..State::default()
        };
        let state = state.with_history(Run::read(folder).ok().as_ref());
        enter()?;
        let mut terminal = match Terminal::new(CrosstermBackend::new(io::stderr())) {
            Ok(terminal) => terminal,
            Err(error) => {
                leave();
                return Err(error);
            }
        };
        interrupt::before_exit(leave);
        let (state, end) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (state, end) = (Arc::clone(&state), Arc::clone(&end));
            move || {
                while !end.load(Ordering::Relaxed) {
                    frame(&mut terminal, &state);
                }
            }
        });
        Ok(Self { state, end, thread: Some(thread) })
    }

    /// Takes in what happened.
    pub fn event(&self, event: &Event<'_>) {
        self.state().event(event);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Gives the terminal back and returns what was remarked meanwhile.
    pub fn close(mut self) -> Vec<String> {
        self.stop();
        self.state().remarks.drain(..).collect()
    }

    fn stop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
            leave();
        }
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.stop();
    }
}

impl sherry::Progress for Dashboard {
    fn start(&self, what: &str, total: u64) {
        self.state().job = Some((what.to_owned(), total, 0));
    }

    fn advance(&self, done: u64) {
        if let Some((_, _, sum)) = &mut self.state().job {
            *sum += done;
        }
    }

    fn finish(&self) {
        self.state().job = None;
    }

    fn note(&self, line: &str) {
        self.state().remark(line);
    }

    fn is_cancelled(&self) -> bool {
        interrupt::requested()
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(io::stderr(), EnterAlternateScreen, cursor::Hide).inspect_err(|_| leave())
}

fn leave() {
    let _ = execute!(io::stderr(), LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
}

/// Draws once and waits for keys until the next time.
fn frame(terminal: &mut Terminal<CrosstermBackend<Stderr>>, state: &Mutex<State>) {
    {
        let mut state = state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.stopping = interrupt::requested();
        // A terminal that went away is no reason to end the run.
        let _ = terminal.draw(|frame| view::draw(frame, &state, Instant::now()));
    }
    let until = Instant::now() + FRAME;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        match event::poll(left) {
            Ok(true) => {
                if let Ok(event::Event::Key(key)) = event::read()
                    && key.kind == KeyEventKind::Press
                    && (key.code == KeyCode::Char('q')
                        || key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL))
                {
                    // Raw mode keeps the terminal from sending the signal.
                    interrupt::request();
                }
            }
            Ok(false) => {}
            Err(_) => std::thread::sleep(left),
        }
    }
}
