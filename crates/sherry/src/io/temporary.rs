//! What is not finished yet: its names, and the removal of what a killed process left behind.
//!
//! A temporary lies beside its target as `.NAME.tmp-RANDOM`. The name does not hold the number of the process: in
//! containers every process has the same one, and what one left behind would be in the way of the next. Instead the
//! process holds a lock on its temporary, which the system releases when the process ends, however it ends. So a
//! temporary whose lock can be had is a stale one.

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock;

/// Stands between the name of the target and the random part.
const MARK: &str = ".tmp-";
/// Where the file system has no locks, what was not touched for so long is stale.
const STALE_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// What the names of temporaries of `target` begin with, as made by `mark`.
pub(super) fn prefix(target: &Path, mark: &str) -> OsString {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(mark);
    name
}

/// A name beside `target` that nobody else uses.
pub(super) fn fresh_name(target: &Path, mark: &str) -> PathBuf {
    let mut name = prefix(target, mark);
    // The standard library seeds its hash maps from the system's random numbers, each one differently.
    name.push(format!("{:016x}", RandomState::new().build_hasher().finish()));
    target.with_file_name(name)
}

/// Entries of the folder of `target` whose names begin with `prefix`.
pub(super) fn siblings(target: &Path, prefix: &OsString) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder_of(target)).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()))
        .map(|entry| entry.path())
}

/// The folder that holds `target`.
pub(super) fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates a temporary of `target`, by `create`, and locks it; gives its path and what holds the lock. Stale ones of the
/// same target are removed first.
pub(super) fn create<T>(
    target: &Path,
    create: impl Fn(&Path) -> io::Result<T>,
    open: impl Fn(&Path, T) -> Option<File>,
) -> io::Result<(PathBuf, Option<File>)> {
    siblings(target, &prefix(target, MARK)).for_each(|path| remove_if_stale(&path));
    loop {
        let path = fresh_name(target, MARK);
        let created = match create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            created => created?,
        };
        let file = open(&path, created);
        // Somebody who sweeps may have found it before the lock was there: then it is gone, or about to go.
        let taken = file.as_ref().is_some_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        if !taken && fs::symlink_metadata(&path).is_ok() {
            return Ok((path, file));
        }
    }
}

/// Removes the temporaries in `folder`, whatever their targets, that no living process is writing.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().strip_prefix('.').is_some_and(|name| name.contains(MARK)) {
            remove_if_stale(&entry.path());
        }
    }
}

fn remove_if_stale(path: &Path) {
    let Ok(kind) = fs::symlink_metadata(path).map(|meta| meta.file_type()) else { return };
    if !kind.is_file() && !kind.is_dir() {
        return; // no temporary of ours
    }
    // The lock is held until the temporary is gone, for whoever has just created it to see.
    let file = File::open(path);
    let stale = match file.as_ref().map(File::try_lock) {
        Ok(Ok(())) => true,
        Ok(Err(TryLockError::WouldBlock)) => false,
        Ok(Err(TryLockError::Error(_))) | Err(_) => untouched_for(path).is_some_and(|age| age > STALE_AGE),
    };
    if stale {
        let _ = if kind.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
}

/// Time since the last change of a file, or of a folder and the files in it.
fn untouched_for(path: &Path) -> Option<Duration> {
    let modified = |path: &Path| fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok();
    let inside = fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| modified(&entry.path()));
    clock::since(inside.chain(modified(path)).max()?)
}
