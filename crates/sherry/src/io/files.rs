//! The files of a model, wherever they are.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{FileData, ReadMode, read_regular};
use crate::{Error, Result};

/// The files that make a model: a folder, or parts under the names they would have in one.
#[derive(Clone, Debug)]
pub enum ModelFiles {
    /// A folder.
    Folder {
        /// Where.
        path: PathBuf,
        /// How its large files are opened.
        mode: ReadMode,
    },
    /// Files that are somewhere else.
    Parts {
        /// Stands in messages where the folder's path would.
        name: PathBuf,
        /// Name and contents of each.
        parts: BTreeMap<String, FileData>,
    },
}

impl ModelFiles {
    /// The folder, for messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder { path, .. } => path,
            Self::Parts { name, .. } => name,
        }
    }

    /// Whether there is a file called `name`.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::Folder { path, .. } => path.join(name).exists(),
            Self::Parts { parts, .. } => parts.contains_key(name),
        }
    }

    /// The bytes of the file called `name`, at most `limit` of them; `None` when there is no such file.
    ///
    /// # Errors
    /// As [`read_regular`](super::read_regular).
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let path = self.path().join(name);
        match self {
            Self::Folder { .. } => match path.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Error::io(&path, "open")(error)),
                Ok(_) => read_regular(&path, limit).map(Some),
            },
            Self::Parts { parts, .. } => {
                let Some(file) = parts.get(name) else { return Ok(None) };
                if file.len() as u64 > limit {
                    return Err(Error::malformed(&path, "file", format!("has more than {limit} bytes")));
                }
                file.slice(&path, 0..file.len()).map(|bytes| Some(bytes.to_vec()))
            }
        }
    }

    /// Opens the file called `name`.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no such file, or it cannot be opened.
    pub fn open(&self, name: &str) -> Result<FileData> {
        let path = self.path().join(name);
        match self {
            Self::Folder { mode, .. } => FileData::open(&path, *mode),
            Self::Parts { parts, .. } => {
                parts.get(name).cloned().ok_or_else(|| Error::io(&path, "open")(io::ErrorKind::NotFound.into()))
            }
        }
    }
}
