//! The training loop: batches, one optimizer step after the other, measurements, checkpoints.

use std::time::Instant;

use sherry::Progress;

use super::{Event, Outcome, Trainer};
use crate::adamw::AdamW;
use crate::block::Probe;
use crate::config::Config;
use crate::data::Order;
use crate::error::{Error, Result};
use crate::layout::Learn;
use crate::linear::Pass;
use crate::loss::{IGNORED, Mix, Sums};
use crate::metrics::{self, Line, MetricsFile, RankProbe, Watchdog, WeightProbe};
use crate::network::{Examples, Workspace};
use crate::schedule::{Arenas, Rate};
use crate::simd;

/// What the loop holds besides the state of the run: constants, buffers, and what is only looked at.
struct Loop<'a> {
    config: Config,
    rate: Rate,
    arenas: Arenas,
    adamw: AdamW,
    mix: Mix,
    order: Order,
    space: Workspace,
    teacher_space: Option<Workspace>,
    grads: Vec<f32>,
    log: MetricsFile,
    watchdog: Watchdog,
    /// Since when, and over how many tokens, speed is measured.
    since: Instant,
    tokens_since: u64,
    loss: Option<f64>,
    valid_loss: Option<f64>,
    progress: &'a dyn Progress,
    watch: &'a (dyn Fn(Event<'_>) + Sync),
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
        let steps = run.config.steps;
        while self.state.step < steps {
            match run.step(self).and_then(|step| run.finish_step(self, &step)) {
                Err(Error::Library(sherry::Error::Interrupted)) => break,
                result => result?,
            }
        }
        if self.saved.as_ref().is_none_or(|(step, _)| *step != self.state.step) {
            watch(Event::Saved(&self.save()?));
        }
        let checkpoint = self.prepare()?;
        if let Some(warning) = Watchdog::end(self.state.step, steps, self.state.lambda) {
            progress.note(&format!("warning: {warning}"));
        }
        let (step, finished) = (self.state.step, self.state.step >= steps);
        Ok(Outcome { step, finished, loss: run.loss, valid_loss: run.valid_loss, checkpoint })
    }

    fn weights(&self) -> WeightProbe {
        WeightProbe::new(&self.network.layout, &self.network.quantizer, &self.params)
    }
}

impl<'a> Loop<'a> {
    fn new(trainer: &Trainer, progress: &'a dyn Progress, watch: &'a (dyn Fn(Event<'_>) + Sync)) -> Result<Self> {
        let config = trainer.config.clone();
        let batch = &config.batch;
        let teacher = trainer.teacher.as_ref();
        let log = MetricsFile::open(&trainer.folder.path().join("metrics.jsonl"), trainer.state.step)?;
        Ok(Self {
            rate: config.rate(),
            arenas: config.arenas(),
            adamw: config.adamw(),
            mix: config.mix(),
            order: Order::new(config.seed, trainer.train.windows(), trainer.state.cursor),
            space: trainer.network.workspace(batch.size, batch.length, batch.recompute),
            teacher_space: teacher.map(|teacher| teacher.network.workspace(batch.size, batch.length, true)),
            grads: vec![0.0f32; trainer.params.len()],
            watchdog: log.watchdog()?,
            log,
            since: Instant::now(),
            tokens_since: 0,
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

    /// One optimizer step. The state changes at its end only.
    fn step(&mut self, trainer: &mut Trainer) -> Result<Step> {
        let (step, steps) = (trainer.state.step, self.config.steps);
        let (lr, lambda) = (self.rate.at(step, steps), self.arenas.at(step, steps));
        let mut probe = self.is_probed(step + 1).then(|| (RankProbe::default(), trainer.weights().codes));
        let passes: Vec<_> = (0..self.config.batch.accumulate).map(|_| self.next_batch(trainer)).collect();
        let live = passes.iter().flat_map(|(_, targets)| targets).filter(|&&t| t != IGNORED).count();
        self.grads.fill(0.0);
        let mut sums = Sums::default();
        for (pass, (tokens, targets)) in passes.iter().enumerate() {
            let probe = probe.as_mut().filter(|_| pass == 0).map(|(ranks, _)| ranks as &mut dyn Probe);
            let part = self.add_gradients(trainer, tokens, targets, lambda as f32, 1.0 / live.max(1) as f32, probe)?;
            sums.cross_entropy += part.cross_entropy;
            sums.divergence += part.divergence;
            sums.tokens += part.tokens;
        }
        let grad_norm = simd::sum_of_squares(&self.grads).sqrt();
        let done = Step { lr, lambda, sums, grad_norm, probe };
        for (what, value) in [("loss", done.mean(sums.cross_entropy + sums.divergence)), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                let kept = trainer.saved.as_ref().map_or("none".to_owned(), |(_, path)| path.display().to_string());
                return Err(Error::NotFinite { step: step + 1, what, kept });
            }
        }
        let tensors = &trainer.network.layout.tensors;
        self.adamw.step(tensors, &mut trainer.params, &self.grads, &mut trainer.moments, step + 1, lr, grad_norm);
        let state = &mut trainer.state;
        (state.step, state.cursor, state.lambda) = (step + 1, self.order.cursor(), lambda);
        state.tokens += sums.tokens;
        Ok(done)
    }

    /// The windows of one pass: inputs and targets.
    fn next_batch(&mut self, trainer: &Trainer) -> (Vec<u32>, Vec<u32>) {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for _ in 0..self.config.batch.size {
            trainer.train.push_window(self.order.next_window(), &mut tokens, &mut targets);
        }
        (tokens, targets)
    }

    /// Forward and backward of one pass.
    fn add_gradients(
        &mut self,
        trainer: &Trainer,
        tokens: &[u32],
        targets: &[u32],
        lambda: f32,
        scale: f32,
        probe: Option<&mut dyn Probe>,
    ) -> Result<Sums> {
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
        let examples = Examples { tokens, targets, teacher, mix, scale };
        Ok(trainer.network.train(pass, examples, Learn::Everything, grads, space, probe)?)
    }

    /// What follows a step: its metrics, a validation, a checkpoint, as far as they are due.
    fn finish_step(&mut self, trainer: &mut Trainer, done: &Step) -> Result<()> {
        let step = trainer.state.step;
        let (every, valid_every) = (self.config.metrics.every, self.config.metrics.valid_every);
        let last = step == self.config.steps;
        let loss = done.mean(done.sums.cross_entropy);
        self.loss = Some(loss);
        self.tokens_since += done.sums.tokens;
        (self.watch)(Event::Step { step, loss, tokens: trainer.state.tokens });

        let mut line = Line { step, ..Line::default() };
        if step.is_multiple_of(every) || last || done.probe.is_some() {
            self.describe(&mut line, trainer, done);
        }
        if let Some((ranks, before)) = &done.probe {
            self.look_closely(&mut line, trainer, ranks, before);
        }
        if trainer.valid.is_some() && (last || valid_every > 0 && step.is_multiple_of(valid_every)) {
            let (exported, lambda) = (self.validate(trainer, 0.0)?, done.lambda as f32);
            line.valid_loss = Some(exported);
            line.valid_loss_with_lambda = if lambda > 0.0 { Some(self.validate(trainer, lambda)?) } else { None };
            self.valid_loss = Some(exported);
            self.since = Instant::now();
        }
        if line.loss.is_some() || line.valid_loss.is_some() {
            self.log.write(&line)?;
            (self.watch)(Event::Line(&line));
        }
        let better = line.valid_loss.filter(|&v| trainer.state.best.is_none_or(|(best, _)| v < best));
        if let Some(value) = better {
            trainer.state.best = Some((value, step));
        }
        if last || step.is_multiple_of(self.config.checkpoint.every) || better.is_some() {
            (self.watch)(Event::Saved(&trainer.save()?));
        }
        Ok(())
    }

    fn describe(&mut self, line: &mut Line, trainer: &Trainer, done: &Step) {
        let speed = self.tokens_since as f64 / self.since.elapsed().as_secs_f64().max(1e-9);
        line.loss = self.loss;
        line.divergence = trainer.teacher.as_ref().map(|_| done.mean(done.sums.divergence));
        (line.lr, line.lambda, line.grad_norm) = (Some(done.lr), Some(done.lambda), Some(done.grad_norm));
        (line.tokens_per_second, line.tokens) = (Some(speed), Some(trainer.state.tokens));
        (self.since, self.tokens_since) = (Instant::now(), 0);
    }

    fn look_closely(&mut self, line: &mut Line, trainer: &Trainer, ranks: &RankProbe, before: &[i8]) {
        let after = trainer.weights();
        let flips = before.iter().zip(&after.codes).filter(|(a, b)| a != b).count();
        line.flip_rate = (!before.is_empty()).then(|| flips as f64 / before.len() as f64);
        (line.valley_share, line.histogram) = (after.valley, after.histogram);
        line.effective_rank = ranks.means();
        let warning = self.watchdog.ranks(line.step, line.effective_rank.values().copied());
        warning.into_iter().for_each(|warning| self.progress.note(&format!("warning: {warning}")));
        line.grad_norms = metrics::gradient_norms(&trainer.network.layout, &self.grads);
    }

    /// Mean cross entropy over the validation windows at strength `lambda`; NaN without any.
    fn validate(&mut self, trainer: &Trainer, lambda: f32) -> Result<f64> {
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
