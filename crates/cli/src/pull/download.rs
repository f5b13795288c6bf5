//! One file of the hub onto this machine: resumed where an earlier try stopped, checked, and there under its name only
//! when it is whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use sherry::Progress;
use sherry::io::hex;
use ureq::http::header;

use super::HubError;
use super::address::{escaped, escaped_path, is_plain_path};
use super::hub::{Checksum, Hub, RemoteFile, Repo};

impl Hub {
    /// Brings `file` of `repo` at `commit` into `folder`, continuing an earlier partial download. What the hub's cache on
    /// this machine has is copied from there.
    ///
    /// # Errors
    /// [`HubError`]; the partial file stays unless it proved wrong.
    pub fn download(
        &self,
        repo: Repo<'_>,
        commit: &str,
        file: &RemoteFile,
        folder: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        if !is_plain_path(&file.path) {
            return Err(HubError::BadName { what: repo.name().to_owned(), name: file.path.clone() });
        }
        let target = folder.join(&file.path);
        if is_current(&target, file) {
            return Ok(target);
        }
        let mut part = Part::open(&target, file)?;
        if !self.copy_from_cache(repo, file, &mut part)? {
            self.fetch(repo, commit, file, &mut part, progress)?;
        }
        part.finish(&target)
    }

    /// Brings `file` of `repo` at `commit` to `target`, continuing an earlier partial download.
    ///
    /// # Errors
    /// [`HubError`]; the partial file stays unless it proved wrong.
    pub fn download_as(
        &self,
        repo: Repo<'_>,
        commit: &str,
        file: &RemoteFile,
        target: &Path,
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        if is_current(target, file) {
            return Ok(());
        }
        let mut part = Part::open(target, file)?;
        self.fetch(repo, commit, file, &mut part, progress)?;
        part.finish(target).map(drop)
    }

    /// Whether the hub's cache had the file, which is then in `part`.
    fn copy_from_cache(&self, repo: Repo<'_>, file: &RemoteFile, part: &mut Part) -> Result<bool, HubError> {
        let (Some(cache), Checksum::Sha256(name) | Checksum::GitBlob(name)) = (&self.settings().cache, &file.checksum)
        else {
            return Ok(false);
        };
        let blob = cache.join(repo.cache_name()).join("blobs").join(name);
        if !is_current(&blob, file) {
            return Ok(false);
        }
        part.restart()?;
        let Ok(mut blob) = File::open(&blob) else { return Ok(false) };
        io::copy(&mut blob, &mut part.file).map_err(disk(&part.path))?;
        part.is(file)
    }

    fn fetch(
        &self,
        repo: Repo<'_>,
        commit: &str,
        file: &RemoteFile,
        part: &mut Part,
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        let endpoint = &self.settings().endpoint;
        let url = format!("{endpoint}/{}/resolve/{}/{}", repo.files(), escaped(commit), escaped_path(&file.path));
        let mut have = part.length()?;
        loop {
            let resumed = have;
            if have > file.size {
                have = 0;
            }
            if have < file.size || file.size == 0 {
                let response = self.get(&url, have, &file.path)?;
                let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
                match response.status().as_u16() {
                    206 if range.is_some_and(|range| range.starts_with(&format!("bytes {have}-"))) => {}
                    200 => have = 0,
                    // No such part: from the beginning.
                    _ if have > 0 => {
                        part.restart()?;
                        have = 0;
                        continue;
                    }
                    status => return Err(HubError::Status { what: file.path.clone(), status, hint: String::new() }),
                }
                if have == 0 {
                    part.restart()?;
                }
                progress.start(&file.path, file.size);
                progress.advance(have);
                let copied = copy(response.into_body().into_reader(), &mut part.file, file.size - have, progress);
                progress.finish();
                match copied {
                    Ok(()) => {}
                    Err(CopyError::Interrupted) => return Err(HubError::Interrupted),
                    Err(CopyError::Write(source)) => return Err(disk(&part.path)(source)),
                    Err(CopyError::Read(reason)) => {
                        let name = &file.path;
                        return Err(
                            self.unreachable(format!("{name} broke off ({reason}); run the command again to continue"))
                        );
                    }
                }
            }
            if part.is(file)? {
                return Ok(());
            }
            let arrived = part.length()?;
            part.restart()?;
            have = 0;
            // What lay here may have been the beginning of another version.
            if resumed == 0 {
                let _ = fs::remove_file(&part.path);
                let problem = if arrived == file.size {
                    "the checksum does not match".to_owned()
                } else {
                    format!("{arrived} bytes arrived, {} were announced", file.size)
                };
                return Err(HubError::Corrupt { file: file.path.clone(), problem });
            }
        }
    }
}

/// Whether `path` holds exactly `file`. Without a checksum nobody can tell.
fn is_current(path: &Path, file: &RemoteFile) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == file.size)
        && File::open(path).is_ok_and(|mut opened| has_checksum(&mut opened, file) == Some(true))
}

/// Whether the contents of `opened` have the checksum of `file`; `None` when that has none, or they cannot be read.
fn has_checksum(opened: &mut File, file: &RemoteFile) -> Option<bool> {
    let (expected, found) = match &file.checksum {
        Checksum::Sha256(expected) => (expected, digest(opened, Sha256::new()).ok()?),
        Checksum::GitBlob(expected) => {
            (expected, digest(opened, Sha1::new_with_prefix(format!("blob {}\0", file.size))).ok()?)
        }
        Checksum::None => return None,
    };
    Some(found.eq_ignore_ascii_case(expected))
}

/// The digest of a file as lower-case hex.
fn digest(file: &mut File, mut hash: impl Digest) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 20];
    file.seek(SeekFrom::Start(0))?;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// The SHA-256 of a file as lower-case hex.
pub fn sha256_file(path: &Path) -> io::Result<String> {
    digest(&mut File::open(path)?, Sha256::new())
}

/// A download that is not whole. It stays when the process ends, for the next one; a lock keeps two from writing it.
struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    /// Opens or creates the partial file of `target`, at its end.
    fn open(target: &Path, file: &RemoteFile) -> Result<Self, HubError> {
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(disk(folder))?;
        }
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        name.push(".part");
        let path = target.with_file_name(name);
        loop {
            let mut options = OpenOptions::new();
            let opened =
                options.read(true).write(true).create(true).truncate(false).open(&path).map_err(disk(&path))?;
            match opened.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(HubError::Busy { file: file.path.clone() }),
                // A file system without locks: then nobody is kept away.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // Another process may just have finished: the file it had under this name is the target now.
            if is_at(&opened, &path) {
                let mut part = Self { path, file: opened };
                part.file.seek(SeekFrom::End(0)).map_err(disk(&part.path))?;
                return Ok(part);
            }
        }
    }

    fn length(&self) -> Result<u64, HubError> {
        Ok(self.file.metadata().map_err(disk(&self.path))?.len())
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0))).map(drop).map_err(disk(&self.path))
    }

    /// Whether all of `file` is there.
    fn is(&mut self, file: &RemoteFile) -> Result<bool, HubError> {
        Ok(self.length()? == file.size && has_checksum(&mut self.file, file).unwrap_or(file.checksum == Checksum::None))
    }

    fn finish(self, target: &Path) -> Result<PathBuf, HubError> {
        self.file.sync_all().map_err(disk(&self.path))?;
        fs::rename(&self.path, target).map_err(disk(target))?;
        Ok(target.to_path_buf())
    }
}

/// Whether `path` leads to the opened file.
fn is_at(opened: &File, path: &Path) -> bool {
    let (Ok(a), Ok(b)) = (opened.metadata(), fs::metadata(path)) else { return false };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        (a.dev(), a.ino()) == (b.dev(), b.ino())
    }
    #[cfg(not(unix))]
    {
        a.len() == b.len()
    }
}

pub fn disk(path: &Path) -> impl FnOnce(io::Error) -> HubError + use<> {
    let path = path.to_path_buf();
    move |source| HubError::Disk { path, source }
}

enum CopyError {
    Interrupted,
    Read(io::Error),
    Write(io::Error),
}

fn copy(mut from: impl Read, to: &mut File, limit: u64, progress: &dyn Progress) -> Result<(), CopyError> {
    let mut buffer = vec![0; 1 << 18];
    let mut left = limit;
    loop {
        if progress.is_cancelled() {
            return Err(CopyError::Interrupted);
        }
        let n = from.read(&mut buffer).map_err(CopyError::Read)?;
        if n == 0 || left == 0 {
            return Ok(());
        }
        // A server that sends more than announced must not fill the disk.
        let n = n.min(usize::try_from(left).unwrap_or(usize::MAX));
        to.write_all(&buffer[..n]).map_err(CopyError::Write)?;
        left -= n as u64;
        progress.advance(n as u64);
    }
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
