//! `sherry models`: released models that run here, and which are on this machine.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::Context;
use crate::output::{Align, Stdout, Table};
use crate::pull::RELEASES;

/// List released models that run here, and which are on this machine
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry models
      the table
  sherry run bonsai-1.7b
      gets one of them, after asking, and runs it
  sherry pull bitnet-2b
      only gets it, into the hub's cache (HF_HUB_CACHE)
  sherry list
      what is in that cache; `sherry rm NAME` removes it

Models that other tools have put into the cache are found there.")]
pub struct ModelsArgs {
    /// Only those on this machine
    #[arg(long)]
    here: bool,
}

pub fn run(args: &ModelsArgs, context: &Context) -> Result<ExitCode> {
    let found = RELEASES.iter().map(|release| (release, release.local()));
    let found: Vec<_> = found.filter(|(_, local)| !args.here || local.is_some()).collect();
    let mut out = Stdout::lock();
    if context.json {
        let entry = |(release, local): &(&crate::pull::Release, Option<std::path::PathBuf>)| {
            let mut entry = json!(release);
            entry["command"] = json!(release.command());
            entry["path"] = local.as_ref().map_or(Value::Null, |path| json!(path.display().to_string()));
            entry
        };
        out.json(&found.iter().map(entry).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&[
        ("name", Align::Left),
        ("parameters", Align::Right),
        ("bits", Align::Right),
        ("download", Align::Right),
        ("licence", Align::Left),
        ("purpose", Align::Left),
        ("here", Align::Left),
    ]);
    for (release, local) in &found {
        table.row([
            release.name.to_owned(),
            release.parameters.to_owned(),
            release.bits.to_owned(),
            release.megabytes.map_or(String::new(), |megabytes| format!("{megabytes} MB")),
            release.licence.to_owned(),
            release.purpose.to_owned(),
            if local.is_some() { "yes".to_owned() } else { String::new() },
        ]);
    }
    write!(out, "{table}")?;
    context.console.say("`sherry run NAME` gets one of them, after asking, and runs it");
    Ok(ExitCode::SUCCESS)
}
