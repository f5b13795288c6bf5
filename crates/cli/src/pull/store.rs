//! Models into the hub's cache, as `huggingface_hub` lays them out: `blobs/CHECKSUM` holds the contents of a file,
//! `snapshots/COMMIT/NAME` is a link to it, `refs/REVISION` names the commit. A file that two revisions share is there once,
//! and other programs find what was fetched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sherry::Progress;
use sherry::io::write_atomic;

use super::address::is_plain_path;
use super::download::disk;
use super::hub::{Checksum, Hub, RemoteFile, Repo};
use super::{Cache, HubError};

impl Cache {
    /// Bytes of `files` that are not there yet, as far as sizes tell.
    pub fn missing(&self, repo: Repo<'_>, files: &[&RemoteFile]) -> u64 {
        let is_there = |file: &RemoteFile| {
            let blob = self.blob(repo, file);
            blob.is_some_and(|blob| fs::metadata(blob).is_ok_and(|meta| meta.len() == file.size))
        };
        let missing = files.iter().filter(|file| !is_there(file));
        missing.fold(0, |sum: u64, file| sum.saturating_add(file.size))
    }

    /// Fetches `files` of `repo` at `commit`, which `revision` names, and gives the folder that has them all. Their names
    /// appear when all of them are there.
    ///
    /// # Errors
    /// [`HubError`]; what arrived stays for the next try.
    pub fn store(
        &self,
        hub: &Hub,
        repo: Repo<'_>,
        [revision, commit]: [&str; 2],
        files: &[&RemoteFile],
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        for name in files.iter().map(|file| &file.path) {
            if !is_plain_path(name) {
                return Err(HubError::BadName { what: repo.name().to_owned(), name: name.clone() });
            }
        }
        let snapshot = self.folder(repo).join("snapshots").join(commit);
        for file in files {
            let place = self.blob(repo, file).unwrap_or_else(|| snapshot.join(&file.path));
            hub.download_as(repo, commit, file, &place, progress)?;
        }
        for file in files {
            if let Some(blob) = self.blob(repo, file) {
                let name = snapshot.join(&file.path);
                link(&blob, &name, file.path.matches('/').count()).map_err(disk(&name))?;
            }
        }
        if revision != commit && is_plain_path(revision) {
            let name = self.folder(repo).join("refs").join(revision);
            let parent = name.parent().unwrap_or(self.root());
            fs::create_dir_all(parent).map_err(disk(parent))?;
            write_atomic(&name, commit.as_bytes()).map_err(|error| disk(&name)(io::Error::other(error)))?;
        }
        Ok(snapshot)
    }

    /// Where the contents of `file` lie; nowhere when the hub did not say what they are.
    fn blob(&self, repo: Repo<'_>, file: &RemoteFile) -> Option<PathBuf> {
        match &file.checksum {
            Checksum::Sha256(name) | Checksum::GitBlob(name) => Some(self.folder(repo).join("blobs").join(name)),
            Checksum::None => None,
        }
    }
}

/// Makes `name`, `depth` folders deep in its snapshot, lead to `blob`.
fn link(blob: &Path, name: &Path, depth: usize) -> io::Result<()> {
    fs::create_dir_all(name.parent().unwrap_or(name))?;
    // By relative paths, so that the cache can be moved.
    let mut target = PathBuf::from("../".repeat(depth + 2));
    target.extend([Path::new("blobs"), Path::new(blob.file_name().unwrap_or_default())]);
    if fs::read_link(name).is_ok_and(|found| found == target) {
        return Ok(());
    }
    match fs::remove_file(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(&target, name);
    // Elsewhere links need a privilege that few have.
    #[cfg(not(unix))]
    let made = fs::hard_link(blob, name).or_else(|_| fs::copy(blob, name).map(drop));
    match made {
        // Another process did the same.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && name.is_file() => Ok(()),
        made => made,
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
