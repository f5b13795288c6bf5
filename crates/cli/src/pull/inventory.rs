//! What is in the hub's cache, and taking it out again.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};

use super::Cache;
use super::hub::Repo;
use super::package::{DEMO_NAME, PACKAGE_REPO};
use super::releases::{RELEASES, model_in};

/// A repository in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// "owner/name", for data sets "datasets/owner/name".
    pub name: String,
    /// What `sherry models` calls it.
    pub alias: Option<&'static str>,
    /// Bytes on disk, of all revisions.
    pub bytes: u64,
    /// When one of its files was read or written last, as far as the file system says.
    pub last_used: Option<SystemTime>,
    /// The model of the revision `main`, or of the only one; else the folder of the repository.
    pub path: PathBuf,
}

/// What is to be removed: nothing outside of one repository's folder in the cache.
#[derive(Debug, PartialEq, Eq)]
pub struct Removal {
    /// The repository's folder.
    folder: PathBuf,
    /// Files and folders in it, or it.
    paths: Vec<PathBuf>,
    /// Files among them.
    pub files: usize,
    /// Bytes that become free.
    pub bytes: u64,
}

impl Cache {
    /// All repositories in the cache, by name.
    pub fn entries(&self) -> Vec<Entry> {
        let folders = fs::read_dir(self.root()).into_iter().flatten().flatten();
        let mut entries: Vec<Entry> = folders
            .filter_map(|folder| {
                let name = name_of(folder.file_name().to_str()?)?;
                // Contents without a revision are what an unfinished download left.
                let has = |part: &str| folder.path().join(part).is_dir();
                (has("snapshots") || has("blobs")).then(|| self.entry(&folder.path(), name))
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    fn entry(&self, folder: &Path, name: String) -> Entry {
        let contents = contents(folder);
        let snapshot = || {
            let main = self.snapshot(repo_of(&name), "main");
            main.or_else(|| Some(revisions(folder)).filter(|all| all.len() == 1)?.pop())
        };
        let release = RELEASES.iter().find(|release| match name.as_str() {
            PACKAGE_REPO => release.name == DEMO_NAME,
            name => release.repo == name,
        });
        let path = snapshot().map(|path| model_in(&path, release.and_then(|release| release.file)).unwrap_or(path));
        Entry {
            alias: release.map(|release| release.name),
            bytes: contents.bytes,
            last_used: contents.last_used,
            path: path.unwrap_or_else(|| folder.to_path_buf()),
            name,
        }
    }

    /// What removing `name` means, or only its revision `revision` with the contents that no other revision has.
    ///
    /// # Errors
    /// It is not there, or it is a link to a place outside of the cache, where nothing is removed.
    pub fn removal(&self, name: &str, revision: Option<&str>) -> Result<Removal> {
        let repo = repo_of(name);
        let folder = self.folder(repo);
        let absent = || format!("{name} is not in the cache at {}", self.root().display());
        let kind = fs::symlink_metadata(&folder).with_context(absent)?.file_type();
        if kind.is_symlink() || !kind.is_dir() {
            bail!("{}: leads out of the cache, where nothing is removed", folder.display());
        }
        let all = |folder: PathBuf| {
            let Contents { files, bytes, .. } = contents(&folder);
            Removal { paths: vec![folder.clone()], folder, files, bytes }
        };
        let Some(revision) = revision else { return Ok(all(folder)) };
        let snapshot = self.snapshot(repo, revision);
        let snapshot = snapshot.with_context(|| format!("{name} at revision {revision} is not in the cache"))?;
        let (others, same): (Vec<_>, Vec<_>) = revisions(&folder).into_iter().partition(|other| *other != snapshot);
        if others.is_empty() {
            return Ok(all(folder));
        }
        let commit = snapshot.file_name().unwrap_or_default().to_owned();
        let expected = folder.canonicalize()?.join("snapshots").join(&commit);
        if same.is_empty() || snapshot.canonicalize()? != expected {
            bail!("{}: leads out of the cache, where nothing is removed", snapshot.display());
        }
        let kept: HashSet<PathBuf> = others.iter().flat_map(|other| blobs_of(other, &folder)).collect();
        let mut paths: Vec<PathBuf> = blobs_of(&snapshot, &folder).into_iter().collect();
        paths.retain(|blob| !kept.contains(blob));
        let own = contents(&snapshot);
        let bytes = paths.iter().filter_map(|path| fs::metadata(path).ok()).map(|meta| meta.len()).sum::<u64>();
        let files = paths.len() + own.files;
        paths.extend(refs_to(&folder.join("refs"), commit.to_str().unwrap_or_default()));
        // The names go first: a revision whose contents are gone would be a trap.
        paths.insert(0, snapshot);
        Ok(Removal { folder, paths, files, bytes: bytes + own.bytes })
    }
}

impl Removal {
    /// Removes it.
    ///
    /// # Errors
    /// The file system's, with the path.
    pub fn run(self) -> Result<()> {
        for path in &self.paths {
            debug_assert!(path.starts_with(&self.folder), "only what belongs to the repository");
            let removed = match fs::symlink_metadata(path) {
                Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
                Ok(_) => fs::remove_file(path),
                Err(error) => Err(error),
            };
            removed.with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
        Ok(())
    }
}

/// The repository that a name stands for.
fn repo_of(name: &str) -> Repo<'_> {
    name.strip_prefix("datasets/").map_or(Repo::Model(name), Repo::Dataset)
}

/// The name of the repository in the cache's folder `folder`. Two dashes stand for a slash.
fn name_of(folder: &str) -> Option<String> {
    let (kind, name) = folder.split_once("--")?;
    let name = name.replacen("--", "/", 1);
    match kind {
        "models" => Some(name),
        "datasets" => Some(format!("datasets/{name}")),
        _ => None,
    }
}

/// The snapshots of a repository.
fn revisions(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("snapshots")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// The contents to which the links of a snapshot lead, as far as they lie in the repository's own folder for them.
fn blobs_of(snapshot: &Path, folder: &Path) -> HashSet<PathBuf> {
    let mut found = HashSet::new();
    let Ok(blobs) = folder.join("blobs").canonicalize() else { return found };
    // A folder of contents that is itself a link lies elsewhere.
    if folder.canonicalize().is_ok_and(|folder| folder.join("blobs") == blobs) {
        visit(snapshot, &mut |path, meta| {
            if meta.is_symlink()
                && let Ok(target) = path.canonicalize()
                && target.parent() == Some(blobs.as_path())
            {
                found.insert(folder.join("blobs").join(target.file_name().unwrap_or_default()));
            }
        });
    }
    found
}

/// The files below `refs` that name `commit`.
fn refs_to(refs: &Path, commit: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    visit(refs, &mut |path, meta| {
        if meta.is_file() && fs::read_to_string(path).is_ok_and(|text| text.trim() == commit) {
            found.push(path.to_path_buf());
        }
    });
    found
}

#[derive(Default)]
struct Contents {
    files: usize,
    bytes: u64,
    last_used: Option<SystemTime>,
}

/// Files below a folder; links count nothing.
fn contents(folder: &Path) -> Contents {
    let mut contents = Contents::default();
    visit(folder, &mut |_, meta| {
        if meta.is_file() {
            contents.files += 1;
            contents.bytes += meta.len();
            let used = meta.accessed().ok().max(meta.modified().ok());
            contents.last_used = contents.last_used.max(used);
        }
    });
    contents
}

/// Calls `found` for everything below `folder` that is no folder; links are not followed.
fn visit(folder: &Path, found: &mut dyn FnMut(&Path, &fs::Metadata)) {
    if !fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir()) {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => visit(&path, found),
            Ok(meta) => found(&path, &meta),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
#[path = "inventory_tests.rs"]
mod tests;
