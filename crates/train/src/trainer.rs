//! The training loop.

use std::path::{Path, PathBuf};
use std::time::Instant;

use sherry::Progress;
use sherry::io::{ReadMode, write_atomic};
use sherry::model::{Checkpoint, config_hf};

use crate::adamw::Moments;
use crate::checkpoint::{self, RunFolder, State};
use crate::config::{Config, TokenizerChoice};
use crate::data::{Coder, Dataset, Order, Sources};
use crate::error::{Error, Result};
use crate::loss::{IGNORED, Sums};
use crate::methods::Quantizer;
use crate::metrics::{self, Line, MetricsFile, RankProbe, Watchdog, WeightProbe};
use crate::network::{Network, Workspace};
use crate::pretrained;
use crate::scratch;
use crate::simd;

/// The file in the run folder that says which files of the cache hold its tokens.
const DATA_INDEX: &str = "data.json";

/// Where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At the newest good checkpoint of the run folder, or afresh when there is none.
    Auto,
    /// Afresh; refused when the run folder holds checkpoints.
    Never,
    /// At this checkpoint.
    From(PathBuf),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Optimizer steps done.
    pub step: u64,
    /// Whether all steps are done; otherwise the run was asked to stop.
    pub finished: bool,
    /// Last training loss.
    pub loss: Option<f64>,
    /// Last validation loss of the quantized model.
    pub valid_loss: Option<f64>,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
}

/// What happens in a run, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is done.
    Step {
        /// Steps done.
        step: u64,
        /// Its cross entropy, before its update.
        loss: f64,
        /// Tokens trained on so far.
        tokens: u64,
    },
    /// Something was measured.
    Line(&'a Line),
    /// A checkpoint was written.
    Saved(&'a Path),
}

/// A run in progress.
pub struct Trainer {
    config: Config,
    folder: RunFolder,
    network: Network,
    params: Vec<f32>,
    moments: Moments,
    state: State,
    train: Dataset,
    valid: Option<Dataset>,
    teacher: Option<(Network, Vec<f32>)>,
    /// Files that go with every checkpoint.
    files: Vec<(String, Vec<u8>)>,
    pool: rayon::ThreadPool,
    saved: Option<PathBuf>,
}

impl Trainer {
    /// Prepares the run `config` in the folder `run`: data, model, and where to begin.
    ///
    /// # Errors
    /// See [`Error`]; nothing of an existing run is lost.
    pub fn open(config: Config, run: &Path, resume: &Resume, progress: &dyn Progress) -> Result<Self> {
        let folder = RunFolder::open(run)?;
        let from = match resume {
            Resume::Auto => checkpoint::newest(run, progress)?,
            Resume::From(path) => Some(path.clone()),
            Resume::Never => match folder.checkpoints()?.first() {
                Some((step, _)) => {
                    let problem = format!("already holds a checkpoint of step {step}; resume it or use another folder");
                    return Err(Error::checkpoint(run, problem));
                }
                None => None,
            },
        };
        // Before the data is tokenized: a changed configuration is refused at once.
        if let Some(path) = &from {
            let state = checkpoint::read_state(path)?;
            if let Some((field, was, now)) = config.difference(&state.config) {
                return Err(Error::Changed { path: path.clone(), field, was, now });
            }
        }
        let invalid = |field: &str, problem: String| Error::Config {
            path: run.to_path_buf(),
            problem: format!("field '{field}': {problem}"),
        };
        let base = match &config.model.from {
            Some(path) => Some(Checkpoint::open(path, ReadMode::Map)?),
            None => None,
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build();
        let pool = pool.map_err(|error| invalid("threads", error.to_string()))?;
        let cache = config.data.cache.clone().unwrap_or_else(|| run.join("data"));
        let sources = |files: &[PathBuf]| pool.install(|| Sources::open(files, &config.data.text_field));
        let (train, valid) = (sources(&config.data.train)?, sources(&config.data.valid)?);
        if let Some((valid, train)) = valid.shared_with(&train) {
            let problem = format!("{} holds the same as {}, which is trained on", valid.display(), train.display());
            return Err(invalid("data.valid", problem));
        }
        let coder = match (&config.data.tokenizer, &base) {
            (Some(TokenizerChoice::Path(path)), _) => Coder::open(path)?,
            (Some(TokenizerChoice::Learned { vocab }), _) => {
                pool.install(|| Coder::learned(&train, *vocab, &cache, progress))?
            }
            (None, Some(base)) => Coder::of_checkpoint(base)?,
            (None, None) => return Err(invalid("data.tokenizer", "missing".to_owned())),
        };
        let arch = match &base {
            Some(base) => pretrained::architecture(base)?,
            None => scratch::architecture(&config, coder.vocab()),
        };
        if coder.vocab() > arch.vocab {
            let problem = format!("{} rows for a tokenizer of {} tokens", arch.vocab, coder.vocab());
            return Err(invalid("model.vocab", problem));
        }
        let quantizer = config.quantizer.build();
        for cols in [arch.hidden, arch.heads * arch.head_dim, arch.ffn] {
            if let Some(problem) = quantizer.problem(cols) {
                return Err(invalid("quantizer", problem));
            }
        }
        let length = config.batch.length;
        let open = |sources: &Sources| pool.install(|| Dataset::open(sources, &coder, length, &cache, progress));
        let train = open(&train)?;
        let valid = if config.data.valid.is_empty() { None } else { Some(open(&valid)?) };
        progress.note(&format!(
            "{} training tokens in {} windows, {} for validation",
            train.tokens(),
            train.windows(),
            valid.as_ref().map_or(0, Dataset::tokens)
        ));

        let index = serde_json::json!({ "train": train.describe(), "valid": valid.as_ref().map(Dataset::describe) });
        write_atomic(&run.join(DATA_INDEX), &serde_json::to_vec_pretty(&index).unwrap_or_default())?;

        let network = Network::new(arch, quantizer);
        let layout = &network.layout;
        let (params, moments, state) = match &from {
            Some(path) => {
                let loaded = checkpoint::load(path, layout)?;
                let was = loaded.state.data.clone();
                if was != train.hash() {
                    let (path, field) = (path.clone(), "data.train (contents)".to_owned());
                    return Err(Error::Changed { path, field, was, now: train.hash() });
                }
                progress.note(&format!("resuming at step {} of {}", loaded.state.step, path.display()));
                let config = serde_json::to_value(&config).unwrap_or_default();
                (loaded.params, loaded.moments, State { config, ..loaded.state })
            }
            None => {
                let params = match &base {
                    Some(base) => pretrained::parameters(base, layout, &quantizer)?,
                    None => layout.init(&quantizer, config.seed),
                };
                let state = State {
                    step: 0,
                    cursor: 0,
                    tokens: 0,
                    lambda: 0.0,
                    best: None,
                    data: train.hash(),
                    config: serde_json::to_value(&config).unwrap_or_default(),
                };
                (params, Moments::new(layout.len), state)
            }
        };
        let teacher = match &config.loss.teacher {
            Some(path) if config.loss.distillation > 0.0 => {
                let checkpoint = Checkpoint::open(path, ReadMode::Map)?;
                let teacher = Network::new(pretrained::architecture(&checkpoint)?, Quantizer::FULL);
                if teacher.arch.vocab != network.arch.vocab {
                    let problem = format!("has {} tokens, the student {}", teacher.arch.vocab, network.arch.vocab);
                    return Err(invalid("loss.teacher", problem));
                }
                let params = pretrained::parameters(&checkpoint, &teacher.layout, &Quantizer::FULL)?;
                Some((teacher, params))
            }
            _ => None,
        };
        let mut files: Vec<(String, Vec<u8>)> = coder.files().to_vec();
        let described = match &base {
            Some(base) => Some(base.config_json()?),
            None => config_hf::write(&network.arch),
        };
        if let Some(mut described) = described {
            if let Some(fields) = described.as_object_mut() {
                // The checkpoint holds latent weights, whatever the base was stored as.
                fields.remove("quantization_config");
                fields.insert("torch_dtype".to_owned(), "float32".into());
            }
            files.push(("config.json".to_owned(), serde_json::to_vec_pretty(&described).unwrap_or_default()));
        }
        Ok(Self { config, folder, network, params, moments, state, train, valid, teacher, files, pool, saved: from })
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The latent parameters.
    pub fn params(&self) -> &[f32] {
        &self.params
    }

    /// Saves the initial state as the checkpoint of step 0, unless the run has one already; returns the last checkpoint.
    /// `python/sherry_torch` goes on from there, on GPUs.
    ///
    /// # Errors
    /// I/O errors.
    pub fn prepare(&mut self) -> Result<PathBuf> {
        match &self.saved {
            Some(path) => Ok(path.clone()),
            None => self.save(),
        }
    }

    /// Trains to the end, or until `progress` says to stop: then the current step is finished and saved. Measurements
    /// become notes.
    ///
    /// # Errors
    /// As [`run_watched`](Self::run_watched).
    pub fn run(&mut self, progress: &dyn Progress) -> Result<Outcome> {
        let (steps, tokens) = (self.config.steps, self.tokens_per_step());
        self.run_watched(progress, &|event| {
            if let Event::Line(line) = event {
                progress.note(&line.describe(steps, tokens));
            }
        })
    }

    /// Like [`run`](Self::run), telling `watch` what happens.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when loss or gradients blow up; what was saved before stays. I/O errors.
    pub fn run_watched(&mut self, progress: &dyn Progress, watch: &(dyn Fn(Event<'_>) + Sync)) -> Result<Outcome> {
        // The pool is moved out so that its threads can work on the rest.
        let pool = std::mem::replace(&mut self.pool, empty_pool()?);
        let result = pool.install(|| self.steps(progress, watch));
        self.pool = pool;
        result
    }

    /// Places for tokens in one step.
    pub fn tokens_per_step(&self) -> usize {
        let batch = &self.config.batch;
        batch.length * batch.size * batch.accumulate
    }

    /// Steps done so far.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    fn steps(&mut self, progress: &dyn Progress, watch: &(dyn Fn(Event<'_>) + Sync)) -> Result<Outcome> {
        let config = self.config.clone();
        let (rate, arenas, adamw, mix) = (config.rate(), config.arenas(), config.adamw(), config.mix());
        let batch = &config.batch;
        let every = &config.metrics;
        let mut log = MetricsFile::open(&self.folder.path().join("metrics.jsonl"), self.state.step)?;
        let mut watchdog = log.watchdog()?;
        let mut order = Order::new(config.seed, self.train.windows(), self.state.cursor);
        let mut space = self.network.workspace(batch.size, batch.length, batch.recompute);
        let mut teacher_space = self.teacher.as_ref().map(|(net, _)| net.workspace(batch.size, batch.length, true));
        let mut grads = vec![0.0f32; self.params.len()];
        let (mut since, mut tokens_since) = (Instant::now(), 0u64);
        let (mut loss, mut valid_loss) = (None, None);
        let mut stopped = false;
        while self.state.step < config.steps && !stopped {
            let step = self.state.step;
            let (lr, lambda) = (rate.at(step, config.steps), arenas.at(step, config.steps));
            let probing = every.probe_every > 0 && (step + 1).is_multiple_of(every.probe_every);
            let mut probe = RankProbe::default();
            let before = if probing { self.weights().codes } else { Vec::new() };

            let passes: Vec<(Vec<u32>, Vec<u32>)> = (0..batch.accumulate)
                .map(|_| {
                    let (mut tokens, mut targets) = (Vec::new(), Vec::new());
                    for _ in 0..batch.size {
                        self.train.push_window(order.next_window(), &mut tokens, &mut targets);
                    }
                    (tokens, targets)
                })
                .collect();
            let live = passes.iter().flat_map(|(_, targets)| targets).filter(|&&t| t != IGNORED).count();
            grads.fill(0.0);
            let mut sums = Sums::default();
            for (pass, (tokens, targets)) in passes.iter().enumerate() {
                let teacher = match (&self.teacher, &mut teacher_space) {
                    (Some((net, params)), Some(space)) => {
                        let hidden = net.forward(params, 0.0, tokens, space);
                        Some(net.side(params, hidden))
                    }
                    _ => None,
                };
                let probe: Option<&mut dyn crate::network::Probe> =
                    if probing && pass == 0 { Some(&mut probe) } else { None };
                let scale = 1.0 / live.max(1) as f32;
                let part = self.network.train(
                    &self.params,
                    lambda as f32,
                    tokens,
                    targets,
                    teacher,
                    &mix,
                    scale,
                    &mut grads,
                    &mut space,
                    probe,
                );
                sums.cross_entropy += part.cross_entropy;
                sums.divergence += part.divergence;
                sums.tokens += part.tokens;
            }
            let mean = |sum: f64| sum / sums.tokens.max(1) as f64;
            let norm = simd::sum_of_squares(&grads).sqrt();
            for (what, value) in [("loss", mean(sums.cross_entropy + sums.divergence)), ("gradient norm", norm)] {
                if !value.is_finite() {
                    let kept = self.saved.as_ref().map_or("none".to_owned(), |path| path.display().to_string());
                    return Err(Error::NotFinite { step: step + 1, what, kept });
                }
            }
            let tensors = &self.network.layout.tensors;
            adamw.step(tensors, &mut self.params, &grads, &mut self.moments, step + 1, lr, norm);
            self.state.step += 1;
            self.state.cursor = order.cursor();
            self.state.tokens += sums.tokens;
            self.state.lambda = lambda;
            loss = Some(mean(sums.cross_entropy));
            tokens_since += sums.tokens;

            let step = self.state.step;
            watch(Event::Step { step, loss: mean(sums.cross_entropy), tokens: self.state.tokens });
            stopped = progress.is_cancelled();
            let last = step == config.steps;
            let mut line = Line { step, ..Line::default() };
            if step.is_multiple_of(every.every) || last || probing {
                let speed = tokens_since as f64 / since.elapsed().as_secs_f64().max(1e-9);
                line.loss = loss;
                line.divergence = self.teacher.as_ref().map(|_| mean(sums.divergence));
                (line.lr, line.lambda, line.grad_norm) = (Some(lr), Some(lambda), Some(norm));
                (line.tokens_per_second, line.tokens) = (Some(speed), Some(self.state.tokens));
                (since, tokens_since) = (Instant::now(), 0);
            }
            if probing {
                let after = self.weights();
                let flips = before.iter().zip(&after.codes).filter(|(a, b)| a != b).count();
                line.flip_rate = (!before.is_empty()).then(|| flips as f64 / before.len() as f64);
                (line.valley_share, line.histogram) = (after.valley, after.histogram);
                line.effective_rank = probe.means();
                let warning = watchdog.ranks(step, line.effective_rank.values().copied());
                warning.into_iter().for_each(|warning| progress.note(&format!("warning: {warning}")));
                line.grad_norms = metrics::gradient_norms(&self.network.layout, &grads);
            }
            if self.valid.is_some() && (last || every.valid_every > 0 && step.is_multiple_of(every.valid_every)) {
                let exported = self.validate(0.0, &mut space);
                line.valid_loss = Some(exported);
                line.valid_loss_with_lambda = (lambda > 0.0).then(|| self.validate(lambda as f32, &mut space));
                valid_loss = Some(exported);
                since = Instant::now();
            }
            if line.loss.is_some() || line.valid_loss.is_some() {
                log.write(&line)?;
                watch(Event::Line(&line));
            }
            let better = line.valid_loss.filter(|&v| self.state.best.is_none_or(|(best, _)| v < best));
            if let Some(value) = better {
                self.state.best = Some((value, step));
            }
            if last || stopped || step.is_multiple_of(config.checkpoint.every) || better.is_some() {
                watch(Event::Saved(&self.save()?));
            }
        }
        let checkpoint = self.prepare()?;
        let finished = self.state.step >= config.steps;
        if let Some(warning) = Watchdog::end(self.state.step, config.steps, self.state.lambda) {
            progress.note(&format!("warning: {warning}"));
        }
        Ok(Outcome { step: self.state.step, finished, loss, valid_loss, checkpoint })
    }

    fn weights(&self) -> WeightProbe {
        WeightProbe::new(&self.network.layout, &self.network.quantizer, &self.params)
    }

    fn save(&mut self) -> Result<PathBuf> {
        let Self { network, params, moments, state, files, .. } = self;
        let path = self.folder.save(&network.layout, params, moments, state, files)?;
        self.folder.prune(self.config.checkpoint.keep, self.state.best.map(|(_, step)| step))?;
        self.saved = Some(path.clone());
        Ok(path)
    }

    /// Mean cross entropy over the validation windows at strength `lambda`; NaN without any.
    fn validate(&self, lambda: f32, space: &mut Workspace) -> f64 {
        let Some(valid) = &self.valid else { return f64::NAN };
        let batch = &self.config.batch;
        let limit = match self.config.metrics.valid_sequences {
            0 => valid.windows(),
            limit => limit.min(valid.windows()),
        };
        let mut total = Sums::default();
        for start in (0..limit).step_by(batch.size) {
            let (mut tokens, mut targets) = (Vec::new(), Vec::new());
            for window in start..limit.min(start + batch.size) {
                valid.push_window(window, &mut tokens, &mut targets);
            }
            tokens.resize(batch.size * batch.length, 0);
            targets.resize(batch.size * batch.length, IGNORED);
            let sums = self.network.evaluate(&self.params, lambda, &tokens, &targets, space);
            total.cross_entropy += sums.cross_entropy;
            total.tokens += sums.tokens;
        }
        total.cross_entropy / total.tokens as f64
    }
}

/// A pool that stands in while the real one is at work.
fn empty_pool() -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .map_err(|error| Error::Config { path: PathBuf::new(), problem: format!("field 'threads': {error}") })
}
