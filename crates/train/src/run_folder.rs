//! The run folder: its lock, and the coming and going of checkpoints, which survive crashes at any point.
//!
//! A checkpoint is written as `checkpoint-STEP.tmp`, every file synced, the manifest last; then the folder gets its name
//! by renaming, then `latest` points to it, then old ones go. The folder is listed, never remembered: what is there after
//! a crash is what counts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sherry::Progress;
use sherry::io::{read_regular, sweep, sync_folder, write_atomic};

use crate::adamw::Moments;
use crate::checkpoint::{self, State, Verified};
use crate::error::{Error, Result};
use crate::layout::Layout;

const PREFIX: &str = "checkpoint-";
/// Being written.
const STAGED: &str = "tmp";
/// Being removed.
const DOOMED: &str = "old";
/// Replaced by another checkpoint of the same step, as soon as that has its name.
const REPLACED: &str = "replaced";
/// What lies ahead of the step at which a run began anew.
const ABANDONED: &str = "abandoned-";

/// The run folder, held by this process until dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Whether it was not there before.
    is_new: bool,
    /// The operating system lets go of the lock when the process ends, however it ends.
    lock: File,
}

impl RunFolder {
    /// Creates the folder if need be and takes its lock.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it.
    pub fn open(path: &Path) -> Result<Self> {
        let is_new = !path.exists();
        fs::create_dir_all(path).map_err(sherry::Error::io(path, "create"))?;
        let name = path.join("lock");
        loop {
            let lock =
                File::options().create(true).append(true).open(&name).map_err(sherry::Error::io(&name, "create"))?;
            match lock.try_lock() {
                // The process that had it before may have removed the file after we opened it.
                Ok(()) if is_file_at(&lock, &name) => {
                    let folder = Self { path: path.to_path_buf(), is_new, lock };
                    folder.sweep()?;
                    return Ok(folder);
                }
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Err(Error::Locked(path.to_path_buf())),
                Err(fs::TryLockError::Error(error)) => return Err(sherry::Error::io(&name, "lock")(error).into()),
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checkpoint folders by step, the newest first; not verified.
    ///
    /// # Errors
    /// [`sherry::Error::Io`].
    pub fn checkpoints(&self) -> Result<Vec<(u64, PathBuf)>> {
        checkpoints(&self.path)
    }

    fn place(&self, step: u64) -> PathBuf {
        self.path.join(format!("{PREFIX}{step:08}"))
    }

    /// Saves a checkpoint; `files` are further files of the folder (config.json, tokenizer). One of the same step gives
    /// way.
    ///
    /// # Errors
    /// [`sherry::Error::Io`], for example when the disk is full. Earlier checkpoints are untouched then.
    pub fn save(
        &self,
        layout: &Layout,
        params: &[f32],
        moments: &Moments,
        state: &State,
        files: &[(String, Vec<u8>)],
    ) -> Result<PathBuf> {
        let target = self.place(state.step);
        let staged = target.with_extension(STAGED);
        if staged.exists() {
            fs::remove_dir_all(&staged).map_err(sherry::Error::io(&staged, "remove"))?;
        }
        fs::create_dir(&staged).map_err(sherry::Error::io(&staged, "create"))?;
        if let Err(error) = checkpoint::write(&staged, layout, params, moments, state, files) {
            let _ = fs::remove_dir_all(&staged);
            return Err(error);
        }
        if target.exists() {
            let replaced = target.with_extension(REPLACED);
            fs::rename(&target, &replaced).map_err(sherry::Error::io(&target, "replace"))?;
        }
        fs::rename(&staged, &target).map_err(sherry::Error::io(&target, "create"))?;
        sync_folder(&target)?;
        self.point_to(&target)?;
        Ok(target)
    }

    /// Makes `latest` name `checkpoint`.
    fn point_to(&self, checkpoint: &Path) -> Result<()> {
        let Some(name) = checkpoint.file_name() else { return Ok(()) };
        Ok(write_atomic(&self.path.join("latest"), name.as_encoded_bytes())?)
    }

    /// Makes `start` (step and place of a checkpoint in this folder) the newest: later ones, or all without a start, are
    /// renamed to `abandoned-STEP` and count no longer. Returns the new names.
    ///
    /// # Errors
    /// [`sherry::Error::Io`].
    pub fn abandon_after(&self, start: Option<(u64, &Path)>) -> Result<Vec<PathBuf>> {
        let mut abandoned = Vec::new();
        let later = |step| start.is_none_or(|(start, _)| step > start);
        for (step, path) in self.checkpoints()?.into_iter().filter(|(step, _)| later(*step)) {
            let names = (1..).map(|i| if i == 1 { String::new() } else { format!("-{i}") });
            let mut names = names.map(|more| self.path.join(format!("{ABANDONED}{step:08}{more}")));
            let Some(name) = names.find(|name| !name.exists()) else { continue };
            fs::rename(&path, &name).map_err(sherry::Error::io(&path, "rename"))?;
            sync_folder(&name)?;
            abandoned.push(name);
        }
        if let Some((_, path)) = start.filter(|_| !abandoned.is_empty()) {
            self.point_to(path)?;
        }
        Ok(abandoned)
    }

    /// Removes all but the newest `keep` checkpoints and the one of step `best`, and what crashes left behind.
    ///
    /// # Errors
    /// [`sherry::Error::Io`].
    pub fn prune(&self, keep: usize, best: Option<u64>) -> Result<()> {
        for (step, path) in self.checkpoints()?.into_iter().skip(keep) {
            if best != Some(step) {
                // Renamed first: a half-removed folder must not look like a checkpoint.
                let doomed = path.with_extension(DOOMED);
                fs::rename(&path, &doomed).map_err(sherry::Error::io(&path, "remove"))?;
            }
        }
        self.sweep()
    }

    /// Removes what a killed process left behind: half-written files, half-written and half-removed checkpoints. Nobody
    /// else can be writing them, since the lock is ours.
    fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path).map_err(sherry::Error::io(&self.path, "list"))?.flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let ending = name.strip_prefix(PREFIX).and_then(|name| name.split_once('.')).map(|(_, ending)| ending);
            let whole = path.with_extension("");
            match ending {
                // Killed between the two renamings: the new one has no name yet, so the old one keeps it.
                Some(REPLACED) if !whole.exists() => {
                    fs::rename(&path, &whole).map_err(sherry::Error::io(&path, "rename"))?;
                }
                Some(STAGED | DOOMED | REPLACED) => {
                    fs::remove_dir_all(&path).map_err(sherry::Error::io(&path, "remove"))?;
                }
                _ => {}
            }
        }
        sweep(&self.path);
        Ok(())
    }
}

impl Drop for RunFolder {
    /// Nothing stays of a folder in which nothing was done.
    fn drop(&mut self) {
        // Elsewhere a file that is open cannot be removed; there it stays, which does no harm.
        if cfg!(unix) {
            let _ = fs::remove_file(self.path.join("lock"));
        }
        let _ = self.lock.unlock();
        if self.is_new {
            // Fails where it holds anything.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Whether the open file is what `path` names.
#[cfg(unix)]
fn is_file_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let [open, named] = [file.metadata(), fs::metadata(path)];
    open.ok().zip(named.ok()).is_some_and(|(open, named)| (open.dev(), open.ino()) == (named.dev(), named.ino()))
}

#[cfg(not(unix))]
fn is_file_at(_: &File, _: &Path) -> bool {
    true
}

/// Checkpoint folders in `run` by step, the newest first; not verified.
///
/// # Errors
/// [`sherry::Error::Io`].
pub fn checkpoints(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run).map_err(sherry::Error::io(run, "list"))?.flatten() {
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let step = step.filter(|digits| digits.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse().ok());
        if let Some(step) = step {
            found.push((step, entry.path()));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

/// The newest checkpoint of `run` that verifies; damaged ones are reported and passed over.
///
/// # Errors
/// When the folder cannot be listed; [`sherry::Error::Interrupted`].
pub fn newest(run: &Path, progress: &dyn Progress) -> Result<Option<Verified>> {
    for (_, path) in checkpoints(run)? {
        match Verified::open(&path, progress) {
            Ok(verified) => return Ok(Some(verified)),
            Err(error) if error.is_interrupt() => return Err(error),
            Err(error) => progress.note(&format!("{error}: falling back to the checkpoint before it")),
        }
    }
    Ok(None)
}

/// The file of the commands.
const COMMANDS: &str = "commands.txt";
/// What is read of it, at most.
const MAX_COMMANDS: u64 = 1 << 20;

/// Notes that `command` trains in `run`; one that was noted last is not noted again.
///
/// # Errors
/// [`sherry::Error::Io`].
pub fn note_command(run: &Path, command: &str) -> Result<()> {
    let mut noted = commands(run);
    if noted.last().is_none_or(|last| last != command) {
        noted.push(command.to_owned());
        write_atomic(&run.join(COMMANDS), format!("{}\n", noted.join("\n")).as_bytes())?;
    }
    Ok(())
}

/// The commands that trained in `run`, the first one first; none where nobody noted them.
pub fn commands(run: &Path) -> Vec<String> {
    let bytes = read_regular(&run.join(COMMANDS), MAX_COMMANDS).unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}
