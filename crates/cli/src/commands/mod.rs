//! One file per subcommand.

mod completions;
mod doctor;
mod export;
mod pull;
mod train;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::output::Console;

/// What every command needs besides its own arguments.
pub struct Context {
    /// Progress and remarks on stderr.
    pub console: Console,
    /// Results as JSON on stdout.
    pub json: bool,
    /// Only results and errors.
    pub quiet: bool,
}

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    Pull(pull::PullArgs),
    Train(train::TrainArgs),
    Export(export::ExportArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    Man(completions::ManArgs),
}

/// Runs `command`.
pub fn dispatch(command: Command, context: &Context) -> Result<ExitCode> {
    match command {
        Command::Pull(args) => pull::run(&args, context),
        Command::Train(args) => train::run(&args, context),
        Command::Export(args) => export::run(&args, context),
        Command::Doctor(args) => doctor::run(&args, context),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => completions::man(&args),
    }
}
