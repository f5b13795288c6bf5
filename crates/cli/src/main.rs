//! The `sherry` command. Exit codes: 0 success, 1 a check failed, 2 bad usage or bad input, 130 interrupted.

mod builtin;
mod commands;
mod dashboard;
mod interrupt;
mod machine;
mod output;
mod pull;
mod threads;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;

use commands::{Command, Context};
use output::Console;

/// Quantize, run and inspect 1.25-bit language models.
#[derive(Parser)]
#[command(
    name = "sherry",
    version,
    propagate_version = true,
    after_help = "Examples:\n  \
        sherry run -p \"The history of the city\"          the small model inside goes on\n  \
        sherry demo                                     the whole story on a real 135M model\n  \
        sherry pull HuggingFaceTB/SmolLM2-135M-Instruct\n  \
        sherry quantize models/SmolLM2-135M-Instruct smol.sherry\n  \
        sherry run smol.sherry \"The capital of France is\"\n  \
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
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::install();
    let context =
        Context { console: Console::new(cli.quiet, io::stderr().is_terminal()), json: cli.json, quiet: cli.quiet };
    match commands::dispatch(cli.command, &context) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if is_interrupt(&error) => ExitCode::from(interrupt::EXIT_CODE),
        Err(error) => {
            report(&error);
            ExitCode::from(2)
        }
    }
}

#[allow(clippy::print_stderr)] // the one place where errors are shown
fn report(error: &anyhow::Error) {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Errors of the library end with their cause already.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    eprintln!("error: {text}");
}

/// The reader of our output went away (`sherry ... | head`): not an error.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
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
