//! Benchmark data from the hub, kept where Python's `huggingface_hub` keeps it.
//!
//! The hub converts every public data set to Parquet on the branch `refs/convert/parquet`, always with the same names:
//! `CONFIGURATION/SPLIT/0000.parquet`. That is what is fetched, so one reader does for all sets. In the cache a split's
//! folder appears when all its files have arrived, and the name of the commit last.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sherry::Progress;
use sherry::io::write_atomic;

use super::hub::{Hub, RemoteFile, Repo};
use crate::output::bytes;

/// The branch with the converted files.
const REVISION: &str = "refs/convert/parquet";

/// Data sets on this machine.
pub struct DataCache {
    root: PathBuf,
}

impl DataCache {
    /// The cache of the Hugging Face tools: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or in `~/.cache/huggingface`. `None`
    /// when the environment names no home folder.
    pub fn from_env() -> Option<Self> {
        let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || folder("HF_HOME").or_else(|| cache_home().map(|cache| cache.join("huggingface")));
        let root = folder("HF_HUB_CACHE").or_else(|| Some(home()?.join("hub")))?;
        Some(Self { root })
    }

    fn folder(&self, dataset: &str) -> PathBuf {
        self.root.join(format!("datasets--{}", dataset.replace('/', "--")))
    }

    /// The folder of a data set that was fetched before.
    pub fn snapshot(&self, dataset: &str) -> Option<PathBuf> {
        let folder = self.folder(dataset);
        let commit = fs::read_to_string(folder.join("refs").join(REVISION)).ok()?;
        let commit = commit.trim();
        let legal = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        legal.then(|| folder.join("snapshots").join(commit)).filter(|path| path.is_dir())
    }

    /// Fetches the splits of `dataset` that are not there yet: of one configuration or all, the named splits or all.
    /// Gives the folder to read from.
    ///
    /// # Errors
    /// The hub's, with the data set's name; nothing that a reader would take for a whole split stays behind.
    pub fn fetch(
        &self,
        hub: &Hub,
        dataset: &str,
        config: Option<&str>,
        splits: Option<&[&str]>,
        progress: &dyn Progress,
    ) -> Result<PathBuf> {
        let repo = Repo::Dataset(dataset);
        let what = || format!("data set {dataset}");
        let commit = hub.commit(repo, REVISION).with_context(what)?;
        let listing = hub.list(repo, &commit).with_context(what)?;
        let wanted = select(&listing, config, splits);
        if wanted.is_empty() {
            let config = config.map(|config| format!(", configuration {config}")).unwrap_or_default();
            let splits = splits.map(|splits| format!(", split {}", splits.join(" or "))).unwrap_or_default();
            bail!("data set {dataset}{config}{splits}: the hub has no Parquet files of it");
        }
        let snapshots = self.folder(dataset).join("snapshots");
        let (folder, arriving) = (snapshots.join(&commit), snapshots.join(format!("{commit}.part")));
        for (split, files) in wanted {
            if folder.join(&split).is_dir() {
                continue;
            }
            let size = files.iter().map(|file| file.size).sum();
            progress.note(&format!("{dataset}: {split}, {} files, {}", files.len(), bytes(size)));
            for file in files {
                hub.download(repo, &commit, file, &arriving, progress).with_context(what)?;
            }
            let (from, to) = (arriving.join(&split), folder.join(&split));
            fs::create_dir_all(to.parent().unwrap_or(&folder))
                .and_then(|()| fs::rename(&from, &to))
                .with_context(|| format!("{}: cannot write", to.display()))?;
        }
        // What another run is fetching stays: folders that are not empty are not removed.
        remove_empty(&arriving);
        let name = self.folder(dataset).join("refs").join(REVISION);
        fs::create_dir_all(name.parent().unwrap_or(&folder))
            .with_context(|| format!("{}: cannot write", name.display()))?;
        write_atomic(&name, commit.as_bytes())?;
        Ok(folder)
    }
}

/// Where programs keep what they can get again.
fn cache_home() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("XDG_CACHE_HOME")
        .or_else(|| Some(folder("HOME")?.join(".cache")))
        .or_else(|| Some(folder("USERPROFILE")?.join(".cache")))
}

/// The files by "CONFIGURATION/SPLIT".
fn select<'a>(
    listing: &'a [RemoteFile],
    config: Option<&str>,
    splits: Option<&[&str]>,
) -> BTreeMap<String, Vec<&'a RemoteFile>> {
    let mut found: BTreeMap<String, Vec<&RemoteFile>> = BTreeMap::new();
    for file in listing {
        let parts: Vec<&str> = file.path.split('/').collect();
        let [of_config, split, name] = parts[..] else { continue };
        let wanted = config.is_none_or(|config| config == of_config)
            && splits.is_none_or(|splits| splits.contains(&split))
            && name.ends_with(".parquet");
        if wanted {
            found.entry(format!("{of_config}/{split}")).or_default().push(file);
        }
    }
    found
}

fn remove_empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_empty(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

#[cfg(test)]
#[path = "datasets_tests.rs"]
mod tests;
