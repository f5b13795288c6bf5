//! Files and folders that appear whole or not at all: a temporary beside the target, fsync, rename, fsync of the folder
//! that holds it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::temporary::{self, folder_of, fresh_name};
use crate::{Error, Result};

/// A file being written. Dropping it without [`commit`](Self::commit) removes every trace.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temp: PathBuf,
    /// Holds the lock that tells others this file is in work.
    file: Option<BufWriter<File>>,
    replace: bool,
}

impl AtomicFile {
    /// Starts writing what will become `target`.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder is missing or not writable.
    pub fn create(target: &Path) -> Result<Self> {
        let create = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
        let (temp, file) =
            temporary::create(target, create, |_, file| Some(file)).map_err(Error::io(target, "create"))?;
        let file = file.map(|file| BufWriter::with_capacity(1 << 20, file));
        Ok(Self { target: target.to_path_buf(), temp, file, replace: true })
    }

    /// With `false` a target that exists, or appears before [`commit`](Self::commit), is an error and stays.
    pub fn set_replace(&mut self, replace: bool) {
        self.replace = replace;
    }

    /// Writes `bytes` at the end.
    ///
    /// # Errors
    /// [`Error::Io`], for example when the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = self.file.as_mut() else { return Ok(()) };
        file.write_all(bytes).map_err(Error::io(&self.target, "write"))
    }

    /// Writes `bytes` over what was written at `start` before; writing then goes on at the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn overwrite(&mut self, start: u64, bytes: &[u8]) -> Result<()> {
        let Some(file) = self.file.as_mut() else { return Ok(()) };
        let result = file.seek(SeekFrom::Start(start)).and_then(|_| file.write_all(bytes));
        result.and_then(|()| file.seek(SeekFrom::End(0))).map_err(Error::io(&self.target, "write"))?;
        Ok(())
    }

    /// Makes the file durable and visible under its name, replacing an older one in one step.
    ///
    /// # Errors
    /// [`Error::Io`]; the older file, if any, is then untouched.
    pub fn commit(mut self) -> Result<()> {
        let Some(file) = self.file.as_mut() else { return Ok(()) };
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(Error::io(&self.target, "write"))?;
        let named = if self.replace { fs::rename(&self.temp, &self.target) } else { self.name_new() };
        named.map_err(Error::io(&self.target, "write"))?;
        self.file = None;
        sync_folder(&self.target)
    }

    /// Gives the file its name unless something has it. Of several processes that try, one succeeds.
    fn name_new(&self) -> io::Result<()> {
        match fs::hard_link(&self.temp, &self.target) {
            Ok(()) => {
                let _ = fs::remove_file(&self.temp); // the file has its name; whoever writes it next sweeps this one
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(appeared()),
            Err(_) => {} // a file system without links
        }
        match OpenOptions::new().write(true).create_new(true).open(&self.target) {
            Ok(_) => fs::rename(&self.temp, &self.target),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(appeared()),
            Err(error) => Err(error),
        }
    }
}

/// The error of whoever comes second.
fn appeared() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "it exists, made by somebody else in the meantime")
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            let _ = fs::remove_file(&self.temp);
            let (_file, _unwritten) = file.into_parts(); // nobody needs it any more
        }
    }
}

/// Writes a whole small file atomically.
///
/// # Errors
/// [`Error::Io`].
pub fn write_atomic(target: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(target)?;
    file.write(bytes)?;
    file.commit()
}

/// A folder being filled. Dropping it without [`commit`](Self::commit) removes it with everything in it.
#[derive(Debug)]
pub struct AtomicFolder {
    target: PathBuf,
    temp: PathBuf,
    /// Holds the lock, where folders can be locked.
    _lock: Option<File>,
}

/// Between the name of a target and the random part, while an older folder makes room.
const ASIDE: &str = ".old-";
/// How often a folder makes room for this one before somebody else wins.
const ATTEMPTS: usize = 8;

impl AtomicFolder {
    /// A new folder beside `target`, which it will become.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder that holds it is missing or not writable.
    pub fn create(target: &Path) -> Result<Self> {
        recover(target);
        let (temp, lock) = temporary::create(target, |path| fs::create_dir(path), |path, ()| File::open(path).ok())
            .map_err(Error::io(target, "create"))?;
        Ok(Self { target: target.to_path_buf(), temp, _lock: lock })
    }

    /// Where to put its files.
    pub fn path(&self) -> &Path {
        &self.temp
    }

    /// Gives the folder its name. With `replace` an older folder or file of that name is moved aside first and removed
    /// afterwards; should the process be killed between the two moves, the next [`create`](Self::create) puts it back.
    ///
    /// # Errors
    /// [`Error::Io`]: something else has the name, and `replace` is not set.
    pub fn commit(self, replace: bool) -> Result<()> {
        let failed = |source| Error::Io { path: self.target.clone(), action: "create", source };
        let mut old: Option<PathBuf> = None;
        for _ in 0..ATTEMPTS {
            // Renaming never replaces a folder that holds something.
            let Err(error) = self.rename() else {
                if let Some(old) = old {
                    remove(&old);
                }
                return sync_folder(&self.target);
            };
            if fs::symlink_metadata(&self.target).is_err() {
                restore(old.as_deref(), &self.target);
                return Err(failed(error));
            }
            if !replace {
                return Err(failed(appeared()));
            }
            let aside = fresh_name(&self.target, ASIDE);
            match fs::rename(&self.target, &aside) {
                // What was moved before is older still.
                Ok(()) => {
                    if let Some(older) = old.replace(aside) {
                        remove(&older);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {} // gone in the meantime
                Err(error) => return Err(failed(error)),
            }
        }
        restore(old.as_deref(), &self.target);
        Err(failed(appeared()))
    }

    /// Fails where a file has the name, which Windows would replace by the folder.
    fn rename(&self) -> io::Result<()> {
        if cfg!(windows) && fs::symlink_metadata(&self.target).is_ok_and(|target| !target.is_dir()) {
            return Err(appeared());
        }
        fs::rename(&self.temp, &self.target)
    }
}

impl Drop for AtomicFolder {
    fn drop(&mut self) {
        // After `commit` there is nothing of this name.
        let _ = fs::remove_dir_all(&self.temp);
    }
}

fn restore(old: Option<&Path>, target: &Path) {
    if let Some(old) = old {
        let _ = fs::rename(old, target);
    }
}

fn remove(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// Puts back what a process that was killed had moved aside; where its place is taken it was about to be removed.
fn recover(target: &Path) {
    for old in temporary::siblings(target, &temporary::prefix(target, ASIDE)) {
        if fs::symlink_metadata(target).is_ok() {
            remove(&old);
        } else {
            restore(Some(&old), target);
        }
    }
}

/// Makes the entry of `target` in its folder durable.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_folder(target: &Path) -> Result<()> {
    let folder = folder_of(target);
    // Windows cannot open folders as files; there the rename is as durable as it gets.
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder, "sync"))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

#[cfg(test)]
mod tests;
