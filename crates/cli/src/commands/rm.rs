//! `sherry rm`: a model or a data set out of the hub's cache.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;

use super::Context;
use crate::output::{Stdout, ask, bytes};
use crate::pull::{Cache, Settings};

/// Remove a model or a data set from the hub's cache
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry rm bitnet-2b
      a name that `sherry models` or `sherry list` shows; asks first
  sherry rm owner/name@main --yes
      one revision, and the contents that no other revision has
  sherry rm datasets/allenai/ai2_arc
      a data set

Nothing outside of the cache is removed. Without a terminal --yes is needed.")]
pub struct RmArgs {
    /// NAME as `sherry list` shows it, or OWNER/NAME[@REVISION]
    name: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub fn run(args: &RmArgs, context: &Context) -> Result<ExitCode> {
    let cache = Cache::new(&Settings::from_env()?).context("no folder with models in it: set HF_HOME")?;
    let (name, revision) = match args.name.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (args.name.as_str(), None),
    };
    // Only what the cache lists: no name leads anywhere else.
    let entries = cache.entries();
    let is_meant = |alias: &str| alias.eq_ignore_ascii_case(name);
    let entry = entries.iter().find(|entry| entry.name == name || entry.alias.is_some_and(is_meant));
    let Some(entry) = entry else {
        let place = cache.root().display();
        bail!(
            "{name} is not in the cache at {place}; `sherry list` shows what is, and other folders are yours to remove"
        );
    };
    let removal = cache.removal(&entry.name, revision)?;
    let what = format!("{}{}", entry.name, revision.map(|revision| format!("@{revision}")).unwrap_or_default());
    let size = format!("{} files, {}", removal.files, bytes(removal.bytes));
    if !args.yes {
        match ask(&format!("Remove {what} ({size}) from {}?", cache.root().display()), false)? {
            Some(true) => {}
            Some(false) => bail!("{what}: not removed"),
            None => bail!("{what}: {size}; --yes removes it without a question, which nobody is here to answer"),
        }
    }
    let freed = removal.bytes;
    removal.run()?;
    if context.json {
        Stdout::lock().json_line(&json!({ "name": entry.name, "revision": revision, "bytes": freed }))?;
    } else {
        context.console.say(&format!("removed {what}: {size}"));
    }
    Ok(ExitCode::SUCCESS)
}
