//! The `sherry` command. Exit codes: 0 success, 1 a check failed, 2 bad usage or bad input, 130 interrupted.

mod builtin;
mod commands;
mod dashboard;
mod help;
mod interrupt;
mod output;
mod pull;

use std::process::ExitCode;

use clap::{ArgAction, Parser};

use commands::{Command, Context};
use output::{Console, Stdout};

/// Quantize, run and inspect 1.25-bit language models.
#[derive(Parser)]
#[command(
    name = "sherry",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  sherry run -p \"Once upon a time\"
      the small model inside this program tells a story
  sherry run bonsai-1.7b
      a conversation with a released model, downloaded after asking
  sherry demo
      quantizing, answering and measuring, on a real model of 135 M weights
  sherry quantize HuggingFaceTB/SmolLM2-135M-Instruct smol.sherry
  sherry run smol.sherry \"The capital of France is\"
  sherry inspect smol.sherry --verify"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// No progress and no statistics, only results and errors
    #[arg(short, long, global = true, help_heading = "Output")]
    quiet: bool,

    /// Results as JSON on stdout
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,

    /// Print help with all options, those for performance among them
    #[arg(long, global = true, action = ArgAction::HelpLong)]
    help_all: Option<bool>,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let cli = match help::parse(&arguments) {
        Ok(cli) => cli,
        Err(said) => return output::usage(&said),
    };
    interrupt::install();
    let context = Context { console: Console::new(cli.quiet), json: cli.json, quiet: cli.quiet };
    let ended = commands::dispatch(cli.command, &context).and_then(|code| {
        Stdout::lock().flush()?;
        Ok(code)
    });
    match ended {
        Ok(code) => code,
        Err(error) if is_interrupt(&error) => ExitCode::from(interrupt::EXIT_CODE),
        Err(error) => {
            report(&error);
            ExitCode::from(2)
        }
    }
}

/// Shows `error` and what it comes from, in one line.
fn report(error: &anyhow::Error) {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Errors of the library say their cause already, and some the way out after it.
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    output::paragraph(&format!("error: {text}"));
}

fn is_interrupt(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref::<sherry::Error>(), Some(sherry::Error::Interrupted))
            || matches!(
                cause.downcast_ref::<sherry_train::Error>(),
                Some(sherry_train::Error::Library(sherry::Error::Interrupted))
            )
            || matches!(cause.downcast_ref::<pull::HubError>(), Some(pull::HubError::Interrupted))
    })
}
