//! API keys: read from a file or a variable, kept as digests.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Longest key that is looked at.
const MAX_KEY_BYTES: usize = 1024;

/// API keys, as digests with the names they were given.
#[derive(Clone, Default)]
pub struct Keys(Vec<(String, [u8; 32])>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Keys {
    /// Reads a file with one key per line, `KEY` or `NAME:KEY`; empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// The file cannot be read or holds no key.
    pub fn from_file(path: &Path) -> io::Result<Self> {
        if !path.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let keys = Self::parse(&fs::read_to_string(path)?);
        if keys.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file holds no key (one per line, NAME:KEY)"));
        }
        Ok(keys)
    }

    /// Keys from text, as in a file.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let named = lines.enumerate().map(|(index, line)| match line.split_once(':') {
            Some((name, key)) => (name.trim().to_owned(), digest(key.trim())),
            None => (format!("key-{}", index + 1), digest(line)),
        });
        Self(named.collect())
    }

    /// Whether everyone may ask.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name that belongs to `key`. Every digest is compared, and all of its bytes, so that the time tells nothing.
    pub fn find(&self, key: &str) -> Option<&str> {
        if key.len() > MAX_KEY_BYTES {
            return None;
        }
        let own = digest(key);
        let mut found = None;
        for (name, digest) in &self.0 {
            let difference = digest.iter().zip(own).fold(0, |all, (a, b)| all | (a ^ b));
            if difference == 0 {
                found = Some(name.as_str());
            }
        }
        found
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_their_whole_text() {
        let keys = Keys::parse("# comment\nalice:secret\n\nplain\n");
        assert_eq!((keys.find("secret"), keys.find("plain")), (Some("alice"), Some("key-2")));
        for wrong in ["Secret", "secret ", "secre", "", "alice:secret"] {
            assert_eq!(keys.find(wrong), None, "{wrong}");
        }
        assert_eq!(keys.find(&"x".repeat(1 << 20)), None);
        assert_eq!(format!("{keys:?}"), r#"["alice", "key-2"]"#);
    }
}
