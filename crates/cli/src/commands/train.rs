//! `sherry train`: quantization-aware training.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use sherry_train::{Config, Outcome, Resume, Trainer};

use super::Context;
use crate::dashboard::Dashboard;
use crate::interrupt;
use crate::output::Stdout;

/// Train a model with 1.25-bit weights, from scratch or from a checkpoint
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry train configs/tiny.toml                            into runs/tiny/, resuming there if it was stopped
  sherry train configs/tiny.toml optimizer.lr=3e-4 seed=2 --run runs/tiny-2
  sherry train configs/tiny.toml --resume never             refuse to continue an older run
  sherry train configs/tiny.toml --prepare                  tokens and initial weights for python/sherry_torch

Ctrl-C once saves the last whole step and ends; twice ends at once. A killed run goes on from its last checkpoint with
the same bytes as if it had never stopped.")]
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
    /// Tokenize the data, write the checkpoint of step 0 and stop
    #[arg(long)]
    prepare: bool,
    /// Plain lines instead of the dashboard
    #[arg(long)]
    plain: bool,
}

/// Runs with the dashboard on the screen; what it remarked stays behind on stderr.
fn watched(trainer: &mut Trainer, folder: &Path, steps: u64, context: &Context) -> Result<Outcome> {
    let Ok(dashboard) = Dashboard::open(folder, trainer.step(), steps, trainer.tokens_per_step()) else {
        return Ok(trainer.run(&context.console)?);
    };
    let outcome = trainer.run_watched(&dashboard, &|event| dashboard.event(&event));
    dashboard.close().iter().for_each(|line| context.console.say(line));
    Ok(outcome?)
}

pub fn run(args: &TrainArgs, context: &Context) -> Result<ExitCode> {
    let config = Config::load(&args.config, &args.overrides)?;
    let folder =
        args.run.clone().unwrap_or_else(|| Path::new("runs").join(args.config.file_stem().unwrap_or_default()));
    let resume = match args.resume.as_str() {
        "auto" => Resume::Auto,
        "never" => Resume::Never,
        path => Resume::From(path.into()),
    };
    let steps = config.steps;
    let mut trainer = Trainer::open(config, &folder, &resume, &context.console)?;
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
    let outcome = if args.plain || !context.console.is_terminal() {
        trainer.run(&context.console)?
    } else {
        watched(&mut trainer, &folder, steps, context)?
    };
    if !outcome.finished {
        let path = args.config.display();
        context.console.say(&format!(
            "stopped at step {} of {steps}; the same command goes on: sherry train {path} ...",
            outcome.step
        ));
    }
    let mut out = Stdout::lock();
    if context.json {
        let summary = json!({
            "step": outcome.step, "finished": outcome.finished, "loss": outcome.loss,
            "valid_loss": outcome.valid_loss, "checkpoint": outcome.checkpoint,
        });
        out.json_line(&summary)?;
    } else {
        out.path(&outcome.checkpoint)?;
    }
    Ok(if outcome.finished { ExitCode::SUCCESS } else { ExitCode::from(interrupt::EXIT_CODE) })
}
