//! `sherry list`: what is in the hub's cache on this machine.

use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;

use super::Context;
use crate::output::{Align, Stdout, Table, bytes};
use crate::pull::{Cache, Entry, Settings};

/// List the models and data sets in the hub's cache: sizes, last use, paths
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry list
  sherry list --json
  sherry rm NAME                       remove one of them

The cache is HF_HUB_CACHE, or hub in HF_HOME, which other tools use, too.
Folders that `sherry pull --to` filled are not in it.")]
pub struct ListArgs {}

pub fn run(_: &ListArgs, context: &Context) -> Result<ExitCode> {
    let cache = Cache::new(&Settings::from_env()?).context("no folder to keep models in: set HF_HOME")?;
    let entries = cache.entries();
    let mut out = Stdout::lock();
    if context.json {
        let entry = |entry: &Entry| {
            let since = entry.last_used.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
            json!({
                "name": entry.name,
                "alias": entry.alias,
                "bytes": entry.bytes,
                "last_used": since.map(|since| since.as_secs()),
                "path": entry.path.display().to_string(),
            })
        };
        out.json(&entries.iter().map(entry).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let total = entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.bytes));
    if !entries.is_empty() {
        let columns =
            [("name", Align::Left), ("size", Align::Right), ("last used", Align::Left), ("path", Align::Left)];
        let mut table = Table::new(&columns);
        let now = SystemTime::now();
        for entry in &entries {
            let path = entry.path.display().to_string();
            let used = entry.last_used.map_or(String::new(), |time| ago(time, now));
            table.row([entry.alias.unwrap_or(&entry.name).to_owned(), bytes(entry.bytes), used, path]);
        }
        write!(out, "{table}")?;
    }
    context.console.say(&format!("{} in {}: {}", entries.len(), cache.root().display(), bytes(total)));
    Ok(ExitCode::SUCCESS)
}

/// How long ago `time` was, as people say it.
fn ago(time: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(time).unwrap_or_default().as_secs();
    let (count, unit) = match seconds {
        0..60 => return "just now".to_owned(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
        let said = |seconds| ago(now - Duration::from_secs(seconds), now);
        let expected = ["just now", "1 minute ago", "59 minutes ago", "1 hour ago", "23 hours ago", "1 day ago"];
        assert_eq!([59, 60, 3599, 3600, 86_399, 86_400].map(said), expected);
        assert_eq!(said(400 * 86_400), "400 days ago");
        assert_eq!(ago(now + Duration::from_secs(9), now), "just now");
    }
}
