//! `sherry train`: quantization-aware training.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use sherry_train::report::Run;
use sherry_train::{Config, Outcome, Resume, Trainer, metrics, run_folder};

use super::Context;
use super::number::positive;
use crate::dashboard::Dashboard;
use crate::interrupt;
use crate::output::{Stdout, printable};

/// Train a model with 1.25-bit weights, from scratch or from a checkpoint
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry train configs/sherry-tiny.toml
      into runs/sherry-tiny/, resuming there if it was stopped
  sherry train configs/sherry-tiny.toml optimizer.lr=3e-4 seed=2 --run runs/two
  sherry train configs/sherry-tiny.toml --resume never
      refuse to continue an older run
  sherry train configs/sherry-tiny.toml --extend 500
      a finished run goes on for 500 steps more
  sherry train configs/sherry-tiny.toml --prepare
      tokens and initial weights for python/sherry_torch

Ctrl-C once saves the last whole step and ends; twice ends at once. A killed run
goes on from its last checkpoint with the same bytes as if it had never stopped.")]
pub struct TrainArgs {
    /// Configuration (TOML)
    config: PathBuf,
    /// Fields that replace those of the file, for example optimizer.lr=1e-3
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The run folder: checkpoints, metrics, tokenized data [default: runs/NAME of the configuration]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// auto: go on where the run folder stopped; never: refuse if it holds checkpoints; DIR: go on from that checkpoint
    #[arg(long, value_name = "auto|never|DIR", default_value = "auto")]
    resume: String,
    /// Let a finished run go on for so many steps more. The learning rate begins its schedule anew, the Arenas strength stays
    /// zero
    #[arg(long, value_name = "STEPS", value_parser = positive, conflicts_with = "prepare")]
    extend: Option<usize>,
    /// Tokenize the data, write the checkpoint of step 0 and stop
    #[arg(long)]
    prepare: bool,
    /// Plain lines instead of the dashboard
    #[arg(long)]
    plain: bool,
}

impl TrainArgs {
    /// The run folder.
    fn folder(&self) -> PathBuf {
        self.run.clone().unwrap_or_else(|| Path::new("runs").join(self.config.file_stem().unwrap_or_default()))
    }

    /// The command that goes on with the run.
    fn command(&self) -> String {
        let config = self.config.to_string_lossy();
        let mut words = vec!["sherry", "train", &config];
        words.extend(self.overrides.iter().map(String::as_str));
        let run = self.run.as_ref().map(|run| run.to_string_lossy());
        if let Some(run) = &run {
            words.extend(["--run", run]);
        }
        printable::command(&words)
    }
}

/// Runs with the dashboard on the screen; what it remarked stays behind on stderr.
fn watched(trainer: &mut Trainer, folder: &Path, context: &Context) -> Result<Outcome> {
    let Ok(dashboard) = Dashboard::open(folder, trainer) else {
        return Ok(trainer.run(&context.console)?);
    };
    let outcome = trainer.run_watched(&dashboard, &|event| dashboard.event(&event));
    dashboard.close().iter().for_each(|line| context.console.say(line));
    Ok(outcome?)
}

pub fn run(args: &TrainArgs, context: &Context) -> Result<ExitCode> {
    let config = Config::load(&args.config, &args.overrides)?;
    let folder = args.folder();
    let resume = match args.resume.as_str() {
        "auto" => Resume::Auto,
        "never" => Resume::Never,
        path => Resume::From(path.into()),
    };
    let mut trainer = Trainer::open(config, &folder, &resume, &context.console)?;
    run_folder::note_command(&folder, &printable::typed())?;
    if args.prepare {
        let checkpoint = trainer.prepare()?;
        let mut out = Stdout::lock();
        if context.json {
            out.json_line(&json!({ "checkpoint": checkpoint }))?;
        } else {
            out.path(&checkpoint)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(steps) = args.extend {
        trainer.extend(steps as u64)?;
    }
    let first = trainer.step();
    let start = Instant::now();
    let outcome = if args.plain || !context.console.is_terminal() {
        trainer.run(&context.console)?
    } else {
        watched(&mut trainer, &folder, context)?
    };
    let seconds = start.elapsed().as_secs_f64();
    for line in closing(args, &folder, &outcome, first, seconds) {
        context.console.say(&line);
    }
    let mut out = Stdout::lock();
    if context.json {
        let summary = json!({
            "step": outcome.step, "steps": outcome.steps, "tokens": outcome.tokens, "finished": outcome.finished,
            "loss": outcome.loss, "valid_loss": outcome.valid_loss,
            "best_valid_loss": outcome.best.map(|(loss, _)| loss), "best_step": outcome.best.map(|(_, step)| step),
            "seconds": seconds, "checkpoint": outcome.checkpoint,
        });
        out.json_line(&summary)?;
    } else {
        out.path(&outcome.checkpoint)?;
    }
    Ok(if outcome.finished { ExitCode::SUCCESS } else { ExitCode::from(interrupt::EXIT_CODE) })
}

/// What a run that began at step `first` and took `seconds` comes to, and what can be done next.
fn closing(args: &TrainArgs, folder: &Path, outcome: &Outcome, first: u64, seconds: f64) -> Vec<String> {
    let Outcome { step, steps, .. } = *outcome;
    let done = step.saturating_sub(first);
    let word = if outcome.finished { "finished" } else { "stopped" };
    let mut lines = vec![match done {
        0 => format!("{word}  at step {step} of {steps}; nothing was left to do"),
        _ => format!(
            "{word}  at step {step} of {steps}: {done} steps in {}, {} tokens in all",
            metrics::duration(seconds),
            match outcome.tokens {
                few @ 0..1_000_000 => few.to_string(),
                many => format!("{:.2} M", many as f64 / 1e6),
            }
        ),
    }];
    if let Ok(run) = Run::read(folder) {
        let (losses, valids) = (run.losses(), run.valid_losses());
        if let (Some((start, before)), Some((end, after))) = (losses.first(), losses.last()) {
            lines.push(format!("loss      {before:.4} at step {start} -> {after:.4} at step {end}, nats per token"));
        }
        if let Some((at, loss)) = valids.last() {
            let best = outcome.best.map_or_else(String::new, |(best, at)| format!("; best {best:.4} at step {at}"));
            let perplexity = match loss.exp() {
                readable @ ..1e5 => format!("{readable:.2}"),
                large => format!("{large:.2e}"),
            };
            lines.push(format!(
                "valid     {loss:.4} at step {at}, as the exported model would have{best}: perplexity {perplexity}"
            ));
        }
    }
    if outcome.finished {
        let folder = folder.to_string_lossy();
        let name = Path::new(&*folder).file_name().unwrap_or_default().to_string_lossy();
        let out = format!("{name}.sherry");
        lines.push("next      the trained model in 1.25 bits, and what it says:".to_owned());
        lines.push(format!("  {}", printable::command(&["sherry", "export", &folder, &out])));
        lines.push(format!("  {} -p \"Once upon a time\"", printable::command(&["sherry", "run", &out])));
    } else {
        lines.push("next      this command goes on where it stopped:".to_owned());
        lines.push(format!("  {}", args.command()));
    }
    lines
}
