//! `sherry completions`, `sherry man`: made from the same definitions as `--help`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use crate::help;
use crate::output::Stdout;

/// Print a completion script for a shell
#[derive(Args)]
#[command(after_help = "\
Example:
  sherry completions bash \\
    > ~/.local/share/bash-completion/completions/sherry")]
pub struct CompletionsArgs {
    shell: Shell,
}

/// Print the manual page
#[derive(Args)]
#[command(after_help = "Example:\n  sherry man > ~/.local/share/man/man1/sherry.1")]
pub struct ManArgs {
    /// The page of one subcommand
    command: Option<String>,
}

pub fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut help::all(), "sherry", &mut script);
    Stdout::lock().bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}

pub fn man(args: &ManArgs) -> Result<ExitCode> {
    let mut cli = help::all();
    cli.build();
    let command = match &args.command {
        Some(name) => cli.find_subcommand(name).cloned().ok_or_else(|| anyhow::anyhow!("no subcommand '{name}'"))?,
        None => cli,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Stdout::lock().bytes(&page)?;
    Ok(ExitCode::SUCCESS)
}
