//! Opening files that a user or a model names: whatever else they are (pipes, devices, folders) would block or never end.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::{Error, Result};

/// Opens the regular file `path`, without waiting for anything.
///
/// # Errors
/// [`Error::Io`] when it cannot be opened; [`Error::Malformed`] when it is a folder, a pipe, a device or a socket.
pub fn open_regular(path: &Path) -> Result<File> {
    // Asked before it is opened: opening a pipe waits for a writer.
    let meta = path.metadata().map_err(Error::io(path, "open"))?;
    if !meta.is_file() {
        return Err(Error::malformed(path, "file", "not a regular file"));
    }
    File::open(path).map_err(Error::io(path, "open"))
}

/// The bytes of the regular file `path`, at most `limit` of them.
///
/// # Errors
/// As [`open_regular`]; [`Error::Io`] when it cannot be read; [`Error::Malformed`] when it has more bytes.
pub fn read_regular(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = open_regular(path)?.take(limit.saturating_add(1));
    file.read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 > limit {
        return Err(Error::malformed(path, "file", format!("has more than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(read_regular(&file, 5).unwrap(), b"12345");
        assert!(read_regular(&file, 4).unwrap_err().to_string().contains("more than 4 bytes"));
        let refused = |path: &Path| {
            let message = read_regular(path, 100).unwrap_err().to_string();
            assert!(
                message.contains(&path.display().to_string()) && message.contains("not a regular file"),
                "{message}"
            );
        };
        refused(folder.path());
        #[cfg(unix)]
        {
            refused(Path::new("/dev/zero"));
            let link = folder.path().join("link");
            std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
            refused(&link);
            let pipe = folder.path().join("pipe");
            let made = std::process::Command::new("mkfifo").arg(&pipe).status();
            if made.is_ok_and(|status| status.success()) {
                refused(&pipe);
            }
        }
    }
}
