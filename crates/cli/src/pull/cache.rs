//! The folder in which Python's `huggingface_hub` keeps what comes from the hub: `REPOSITORY/refs/REVISION` names a
//! commit, `REPOSITORY/snapshots/COMMIT` holds its files. Models (`store`) and benchmark data are kept there; what is there
//! need not come from the hub.
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
use sherry_measure::eval::data::PARTS_FILE;

use super::address::is_plain_path;
use super::hub::{Hub, RemoteFile, Repo};
use super::{HubError, Settings};
use crate::output::bytes;

/// The branch with the converted files.
const PARQUET: &str = "refs/convert/parquet";

/// What is on this machine.
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache of these settings, if there is a place for one.
    pub fn new(settings: &Settings) -> Option<Self> {
        settings.cache.clone().map(|root| Self { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn folder(&self, repo: Repo<'_>) -> PathBuf {
        self.root.join(repo.cache_name())
    }

    /// The files of `repo` at `revision`, a branch, a tag or a commit, if some were fetched before.
    pub fn snapshot(&self, repo: Repo<'_>, revision: &str) -> Option<PathBuf> {
        if !is_plain_path(revision) {
            return None;
        }
        let folder = self.folder(repo);
        let commit = fs::read_to_string(folder.join("refs").join(revision)).unwrap_or_else(|_| revision.to_owned());
        let commit = commit.trim();
        let legal = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        legal.then(|| folder.join("snapshots").join(commit)).filter(|path| path.is_dir())
    }

    /// The Parquet files of a data set that were fetched before.
    pub fn dataset(&self, dataset: &str) -> Option<PathBuf> {
        self.snapshot(Repo::Dataset(dataset), PARQUET)
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
        let commit = hub.commit(repo, PARQUET).with_context(what)?;
        let listing = hub.list(repo, &commit).with_context(what)?;
        let wanted = select(&listing, config, splits);
        if wanted.is_empty() {
            let config = config.map(|config| format!(", configuration {config}")).unwrap_or_default();
            let splits = splits.map(|splits| format!(", split {}", splits.join(" or "))).unwrap_or_default();
            bail!("data set {dataset}{config}{splits}: the hub has no Parquet files of it");
        }
        let snapshots = self.folder(repo).join("snapshots");
        let (folder, arriving) = (snapshots.join(&commit), snapshots.join(format!("{commit}.part")));
        for (split, files) in wanted {
            if !is_plain_path(&split) {
                bail!(HubError::BadName { what: dataset.to_owned(), name: split });
            }
            if folder.join(&split).is_dir() {
                continue;
            }
            let size = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.size));
            progress.note(&format!("{dataset}: {split}, {} files, {}", files.len(), bytes(size)));
            let count = files.len();
            for file in files {
                hub.download(repo, &commit, file, &arriving, progress).with_context(what)?;
            }
            let (from, to) = (arriving.join(&split), folder.join(&split));
            // The names do not say how many files make a split.
            write_atomic(&from.join(PARTS_FILE), format!("{count}\n").as_bytes())?;
            fs::create_dir_all(to.parent().unwrap_or(&folder))
                .and_then(|()| fs::rename(&from, &to))
                .with_context(|| format!("{}: cannot write", to.display()))?;
        }
        // What another run is fetching stays: folders that are not empty are not removed.
        remove_empty(&arriving);
        let name = self.folder(repo).join("refs").join(PARQUET);
        fs::create_dir_all(name.parent().unwrap_or(&folder))
            .with_context(|| format!("{}: cannot write", name.display()))?;
        write_atomic(&name, commit.as_bytes())?;
        Ok(folder)
    }
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
#[path = "cache_tests.rs"]
mod tests;
