//! Files that appear whole or not at all: temporary file beside the target, fsync, rename, fsync of the folder.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A file being written. Dropping it without [`commit`](Self::commit) removes every trace.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temp: PathBuf,
    file: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Starts writing what will become `target`.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder is missing or not writable.
    pub fn create(target: &Path) -> Result<Self> {
        let mut name = OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(format!(".tmp-{}", std::process::id()));
        let temp = target.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&temp).map_err(Error::io(target, "create"))?;
        Ok(Self { target: target.to_path_buf(), temp, file: Some(BufWriter::with_capacity(1 << 20, file)) })
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
        let Some(file) = self.file.take() else { return Ok(()) };
        let result = file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all());
        result.and_then(|()| fs::rename(&self.temp, &self.target)).map_err(|source| {
            let _ = fs::remove_file(&self.temp);
            Error::Io { path: self.target.clone(), action: "write", source }
        })?;
        sync_folder(&self.target)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.temp);
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

/// Makes the entry of `target` in its folder durable.
pub fn sync_folder(target: &Path) -> Result<()> {
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Windows cannot open folders as files; there the rename is as durable as it gets.
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder, "sync"))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect()
    }

    #[test]
    fn appears_only_on_commit() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model.gguf");
        fs::write(&target, b"old").unwrap();
        let mut file = AtomicFile::create(&target).unwrap();
        file.write(b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        file.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(entries(folder.path()).len(), 1);
    }

    #[test]
    fn a_header_can_be_written_last() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x");
        let mut file = AtomicFile::create(&target).unwrap();
        file.write(b"????body").unwrap();
        file.overwrite(0, b"head").unwrap();
        file.write(b" end").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"headbody end");
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = AtomicFile::create(&folder.path().join("x")).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert!(entries(folder.path()).is_empty());
    }
}
