//! One file per subcommand.

mod bench;
mod calibrate;
mod chat;
mod compare;
mod completions;
mod convert;
mod demo;
mod doctor;
pub mod engine;
mod eval;
mod export;
mod inspect;
mod list;
mod models;
pub mod number;
mod pull;
mod quantize;
mod report;
mod rm;
mod run;
pub mod sampling;
mod serve;
mod speaker;
mod tokenizer;
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
    Demo(demo::DemoArgs),
    Models(models::ModelsArgs),
    Pull(pull::PullArgs),
    List(list::ListArgs),
    Rm(rm::RmArgs),
    Quantize(quantize::QuantizeArgs),
    Calibrate(Box<calibrate::CalibrateArgs>),
    Run(Box<run::RunArgs>),
    Serve(Box<serve::ServeArgs>),
    #[command(alias = "show")]
    Inspect(inspect::InspectArgs),
    Compare(compare::CompareArgs),
    Convert(convert::ConvertArgs),
    Eval(Box<eval::EvalArgs>),
    Report(report::ReportArgs),
    Tokenizer(tokenizer::TokenizerArgs),
    Bench(Box<bench::BenchArgs>),
    Train(train::TrainArgs),
    Export(export::ExportArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    Man(completions::ManArgs),
}

/// Runs `command`.
pub fn dispatch(command: Command, context: &Context) -> Result<ExitCode> {
    match command {
        Command::Demo(args) => demo::run(&args, context),
        Command::Calibrate(args) => calibrate::run(&args, context),
        Command::Quantize(args) => quantize::run(&args, context),
        Command::Run(args) => run::run(&args, context),
        Command::Serve(args) => serve::run(*args, context),
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Compare(args) => compare::run(&args, context),
        Command::Convert(args) => convert::run(&args, context),
        Command::Models(args) => models::run(&args, context),
        Command::Pull(args) => pull::run(&args, context),
        Command::List(args) => list::run(&args, context),
        Command::Rm(args) => rm::run(&args, context),
        Command::Eval(args) => eval::run(&args, context),
        Command::Report(args) => report::run(&args, context),
        Command::Tokenizer(args) => tokenizer::run(&args, context),
        Command::Bench(args) => bench::run(&args, context),
        Command::Train(args) => train::run(&args, context),
        Command::Export(args) => export::run(&args, context),
        Command::Doctor(args) => doctor::run(&args, context),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => completions::man(&args),
    }
}
