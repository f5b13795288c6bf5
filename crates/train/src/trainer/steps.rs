//! The training loop: batches, one optimizer step after the other, measurements, checkpoints.

use std::time::{Duration, Instant};

use sherry::Progress;

use super::{Event, Outcome, Trainer};
use crate::adamw::AdamW;
use crate::block::Probe;
use crate::config::Config;
use crate::data::Order;
use crate::error::{Result, uninterrupted};
use crate::layout::Learn;
use crate::linear::Pass;
use crate::loss::{IGNORED, Mix, Sums};
use crate::metrics::{self, Line, MetricsFile, RankProbe, Watchdog, WeightProbe};
use crate::network::{Examples, Input, Workspace};
use crate::schedule::{Arenas, Rate};
use crate::simd;
use crate::tensorboard::Events;

/// What the loop holds besides the state of the run: constants, buffers, and what is only looked at.
struct Loop<'a> {
    config: Config,
    /// Steps of the run in all.
    steps: u64,
    rate: Rate,
    arenas: Arenas,
    adamw: AdamW,
    mix: Mix,
    order: Order,
    space: Workspace,
    teacher_space: Option<Workspace>,
    grads: Vec<f32>,
    log: MetricsFile,
    events: Option<Events>,
    watchdog: Watchdog,
    speed: Speed,
    loss: Option<f64>,
    valid_loss: Option<f64>,
    progress: &'a dyn Progress,
    watch: &'a (dyn Fn(Event<'_>) + Sync),
}

/// Tokens per second of steps, whatever else takes time between them.
#[derive(Default)]
struct Speed {
    tokens: u64,
    spent: Duration,
}

impl Speed {
    fn add(&mut self, tokens: u64, spent: Duration) {
        self.tokens += tokens;
        self.spent += spent;
    }

    /// Since this was asked last.
    fn take(&mut self) -> f64 {
        let Self { tokens, spent } = std::mem::take(self);
        tokens as f64 / spent.as_secs_f64().max(1e-9)
    }
}

/// What one optimizer step was made of.
struct Step {
    lr: f64,
    lambda: f64,
    sums: Sums,
    grad_norm: f64,
    /// Effective ranks and the codes before the step, where it was looked at closely.
    probe: Option<(RankProbe, Vec<i8>)>,
}

impl Step {
    fn mean(&self, sum: f64) -> f64 {
        sum / self.sums.tokens.max(1) as f64
    }
}

impl Trainer {
    /// Steps to the last one, or until asked to stop: a step that is not whole then is forgotten.
    pub(super) fn steps(&mut self, progress: &dyn Progress, watch: &(dyn Fn(Event<'_>) + Sync)) -> Result<Outcome> {
        let mut run = Loop::new(self, progress, watch)?;
        let steps = run.steps;
        let mut result = run.make_up(self);
        while result.is_ok() && self.state.step < steps {
            result = run.step(self).and_then(|step| run.finish_step(self, &step));
        }
        if let Err(error) = result {
            if !error.is_interrupt() || self.state.step == 0 && self.saved.is_none() {
                return Err(error);
            }
            if self.saved.as_ref().is_none_or(|(step, _)| *step != self.state.step) {
                watch(Event::Saved(&self.save()?));
            }
        }
        let checkpoint = self.prepare()?;
        if let Some(warning) = Watchdog::end(self.state.step, steps, self.state.lambda) {
            progress.note(&format!("warning: {warning}"));
        }
        let (step, finished) = (self.state.step, self.state.step >= steps && !run.owes_validation(self));
        let (tokens, best) = (self.state.tokens, self.state.best);
        Ok(Outcome { step, steps, tokens, finished, loss: run.loss, valid_loss: run.valid_loss, best, checkpoint })
    }

    fn weights(&self, progress: &dyn Progress) -> Result<WeightProbe> {
        WeightProbe::new(&self.network.layout, &self.network.quantizer, &self.params, progress)
    }
}

impl<'a> Loop<'a> {
    fn new(trainer: &Trainer, progress: &'a dyn Progress, watch: &'a (dyn Fn(Event<'_>) + Sync)) -> Result<Self> {
        let config = trainer.config.clone();
        let batch = &config.batch;
        let teacher = trainer.teacher.as_ref();
        let log = MetricsFile::open(&trainer.folder.path().join("metrics.jsonl"), trainer.state.step)?;
        let separator = trainer.train.separator().filter(|_| batch.document_mask);
        let mut space = trainer.network.workspace(batch.size, batch.length, batch.recompute);
        let mut teacher_space = teacher.map(|teacher| teacher.network.forward_workspace(batch.size, batch.length));
        [Some(&mut space), teacher_space.as_mut()].into_iter().flatten().for_each(|space| {
            space.mask_documents(separator);
            space.set_precision(config.matmul_precision);
        });
        Ok(Self {
            steps: trainer.total_steps(),
            rate: config.rate(),
            arenas: config.arenas(),
            adamw: config.adamw(),
            mix: config.mix(),
            order: Order::new(config.seed, trainer.train.windows(), trainer.state.cursor),
            space,
            teacher_space,
            grads: vec![0.0f32; trainer.params.len()],
            watchdog: log.watchdog()?,
            log,
            events: config.metrics.tensorboard.then(|| Events::new(trainer.folder.path(), trainer.state.step)),
            speed: Speed::default(),
            loss: None,
            valid_loss: None,
            config,
            progress,
            watch,
        })
    }

    fn is_probed(&self, step: u64) -> bool {
        let every = self.config.metrics.probe_every;
        every > 0 && step.is_multiple_of(every)
    }

    /// Whether the validation after the last step is still to be done: it was interrupted.
    fn owes_validation(&self, trainer: &Trainer) -> bool {
        let (step, every) = (trainer.state.step, self.config.metrics.valid_every);
        let is_due = step == self.steps || every > 0 && step.is_multiple_of(every);
        trainer.valid.is_some() && step > 0 && is_due && trainer.state.validated != Some(step)
    }

    /// Does what an interrupt kept the last step of a resumed run from doing.
    fn make_up(&mut self, trainer: &mut Trainer) -> Result<()> {
        if self.owes_validation(trainer) {
            self.conclude(trainer, Line { step: trainer.state.step, ..Line::default() })?;
        }
        Ok(())
    }

    /// One optimizer step. The state changes at its end only.
    fn step(&mut self, trainer: &mut Trainer) -> Result<Step> {
        uninterrupted(self.progress)?;
        let started = Instant::now();
        let step = trainer.state.step;
        let (start, steps) = trainer.phase(step);
        let arenas = if start == 0 { self.arenas } else { Arenas::OFF };
        let (lr, lambda) = (self.rate.at(step - start, steps), arenas.at(step - start, steps));
        let mut probe = match self.is_probed(step + 1) {
            true => Some((RankProbe::default(), trainer.weights(self.progress)?.codes)),
            false => None,
        };
        let batch = &self.config.batch;
        let windows: Vec<usize> = (0..batch.size * batch.accumulate).map(|_| self.order.next_window()).collect();
        let live: usize = windows.iter().map(|window| trainer.train.targets(*window)).sum();
        let (size, scale) = (batch.size, 1.0 / live.max(1) as f32);
        self.grads.fill(0.0);
        let mut sums = Sums::default();
        for (pass, windows) in windows.chunks(size).enumerate() {
            let probe = probe.as_mut().filter(|_| pass == 0).map(|(ranks, _)| ranks as &mut dyn Probe);
            let part = self.add_gradients(trainer, windows, lambda as f32, scale, probe)?;
            sums.cross_entropy += part.cross_entropy;
            sums.divergence += part.divergence;
            sums.tokens += part.tokens;
        }
        let grad_norm = simd::sum_of_squares(&self.grads).sqrt();
        let done = Step { lr, lambda, sums, grad_norm, probe };
        let loss = done.mean(sums.cross_entropy + sums.divergence);
        for (what, value) in [("loss", loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                return Err(trainer.not_finite(step + 1, what));
            }
        }
        let tensors = &trainer.network.layout.tensors;
        self.adamw.step(tensors, &mut trainer.params, &self.grads, &mut trainer.moments, step + 1, lr, grad_norm);
        let state = &mut trainer.state;
        (state.step, state.cursor, state.lambda) = (step + 1, self.order.cursor(), lambda);
        state.tokens += sums.tokens;
        self.speed.add(sums.tokens, started.elapsed());
        Ok(done)
    }

    /// Forward and backward of one pass over these windows.
    fn add_gradients(
        &mut self,
        trainer: &Trainer,
        windows: &[usize],
        lambda: f32,
        scale: f32,
        probe: Option<&mut dyn Probe>,
    ) -> Result<Sums> {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        windows.iter().for_each(|window| trainer.train.push_window(*window, &mut tokens, &mut targets));
        let (tokens, targets) = (&tokens[..], &targets[..]);
        let Self { progress, mix, grads, space, teacher_space, .. } = self;
        let progress = *progress;
        let teacher = match (&trainer.teacher, teacher_space) {
            (Some(teacher), Some(space)) => {
                let pass = Pass { params: &teacher.params, lambda: 0.0, progress };
                let hidden = teacher.network.forward(pass, tokens, space)?;
                Some(teacher.network.side(&teacher.params, hidden))
            }
            _ => None,
        };
        let pass = Pass { params: &trainer.params, lambda, progress };
        let examples = Examples { input: Input::Tokens(tokens), targets, teacher, mix, scale };
        Ok(trainer.network.train(pass, examples, Learn::Everything, grads, space, probe)?)
    }

    /// What follows a step: its metrics, a validation, a checkpoint, as far as they are due.
    fn finish_step(&mut self, trainer: &mut Trainer, done: &Step) -> Result<()> {
        let step = trainer.state.step;
        let loss = done.mean(done.sums.cross_entropy);
        self.loss = Some(loss);
        (self.watch)(Event::Step { step, loss, tokens: trainer.state.tokens });

        let mut line = Line { step, ..Line::default() };
        if step.is_multiple_of(self.config.metrics.every) || step == self.steps || done.probe.is_some() {
            self.describe(&mut line, trainer, done);
        }
        let looked = match &done.probe {
            Some((ranks, before)) => self.look_closely(&mut line, trainer, ranks, before),
            None => Ok(()),
        };
        self.conclude(trainer, line)?;
        looked
    }

    /// Validates where that is due, writes the line down, saves a checkpoint where that is due.
    fn conclude(&mut self, trainer: &mut Trainer, mut line: Line) -> Result<()> {
        let step = trainer.state.step;
        let validated = if self.owes_validation(trainer) { self.validate(trainer, &mut line) } else { Ok(()) };
        if line.loss.is_some() || line.valid_loss.is_some() {
            self.log.write(&line)?;
            self.events.as_mut().map_or(Ok(()), |events| events.write(&line))?;
            (self.watch)(Event::Line(&line));
        }
        validated?;
        if line.valid_loss.is_some_and(|loss| !loss.is_finite()) {
            self.progress.note(&format!("warning: the validation loss is not a number at step {step}"));
        }
        let is_better = |loss: &f64| loss.is_finite() && trainer.state.best.is_none_or(|(best, _)| *loss < best);
        let better = line.valid_loss.filter(is_better);
        if let Some(loss) = better {
            trainer.state.best = Some((loss, step));
        }
        if step == self.steps || step.is_multiple_of(self.config.checkpoint.every) || better.is_some() {
            (self.watch)(Event::Saved(&trainer.save()?));
        }
        Ok(())
    }

    fn describe(&mut self, line: &mut Line, trainer: &Trainer, done: &Step) {
        line.loss = self.loss;
        line.divergence = trainer.teacher.as_ref().map(|_| done.mean(done.sums.divergence));
        (line.lr, line.lambda, line.grad_norm) = (Some(done.lr), Some(done.lambda), Some(done.grad_norm));
        (line.tokens_per_second, line.tokens) = (Some(self.speed.take()), Some(trainer.state.tokens));
    }

    fn look_closely(&mut self, line: &mut Line, trainer: &Trainer, ranks: &RankProbe, before: &[i8]) -> Result<()> {
        let after = trainer.weights(self.progress)?;
        let flips = before.iter().zip(&after.codes).filter(|(a, b)| a != b).count();
        line.flip_rate = (!before.is_empty()).then(|| flips as f64 / before.len() as f64);
        (line.valley_share, line.histogram) = (after.valley, after.histogram);
        line.effective_rank = ranks.means();
        let warning = self.watchdog.ranks(line.step, line.effective_rank.values().copied());
        warning.into_iter().for_each(|warning| self.progress.note(&format!("warning: {warning}")));
        line.grad_norms = metrics::gradient_norms(&trainer.network.layout, &self.grads);
        Ok(())
    }

    /// Validates as an export would be, and with lambda while there is any.
    fn validate(&mut self, trainer: &mut Trainer, line: &mut Line) -> Result<()> {
        let lambda = trainer.state.lambda as f32;
        let exported = self.validation_loss(trainer, 0.0)?;
        let with_lambda = if lambda > 0.0 { Some(self.validation_loss(trainer, lambda)?) } else { None };
        (line.valid_loss, line.valid_loss_with_lambda) = (Some(exported), with_lambda);
        self.valid_loss = Some(exported);
        trainer.state.validated = Some(trainer.state.step);
        Ok(())
    }

    /// Mean cross entropy over the validation windows at strength `lambda`; NaN without any.
    fn validation_loss(&mut self, trainer: &Trainer, lambda: f32) -> Result<f64> {
        let Some(valid) = &trainer.valid else { return Ok(f64::NAN) };
        let batch = &self.config.batch;
        let limit = match self.config.metrics.valid_sequences {
            0 => valid.windows(),
            limit => limit.min(valid.windows()),
        };
        let pass = Pass { params: &trainer.params, lambda, progress: self.progress };
        let mut total = Sums::default();
        for start in (0..limit).step_by(batch.size) {
            let (mut tokens, mut targets) = (Vec::new(), Vec::new());
            for window in start..limit.min(start + batch.size) {
                valid.push_window(window, &mut tokens, &mut targets);
            }
            tokens.resize(batch.size * batch.length, 0);
            targets.resize(batch.size * batch.length, IGNORED);
            let sums = trainer.network.evaluate(pass, &tokens, &targets, &mut self.space)?;
            total.cross_entropy += sums.cross_entropy;
            total.tokens += sums.tokens;
        }
        Ok(total.cross_entropy / total.tokens as f64)
    }
}
