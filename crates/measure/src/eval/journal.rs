//! The file that lets a killed run continue: every finished item, appended as one line of JSON.
//!
//! A line is found again by a hash over everything its scores depend on (model, numeric settings, task version, the
//! exact prompts), so a line can never be taken for another, whatever was changed between two runs.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::lm::Score;
use super::tasks::{Item, Task};
use sherry::io::hex;
use sherry::{Error, Result};

/// Lost at most, when the machine (not the process) dies.
const SYNC_EVERY: Duration = Duration::from_secs(5);
const MAX_LINE: u64 = 1 << 20;

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    known: HashMap<String, Vec<Score>>,
    identity: String,
    synced: Instant,
    damaged: usize,
}

/// One line. Log-probabilities are strings: every digit survives.
#[derive(Serialize, Deserialize)]
struct Line {
    task: String,
    item: usize,
    key: String,
    logprobs: Vec<String>,
    greedy: Vec<bool>,
}

impl Journal {
    /// Opens or creates the journal at `path`. `identity` names the model and every setting its scores depend on.
    /// Unreadable lines (the last one of a killed run) are cut off or skipped.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`] when another process is writing to it.
    pub fn open(path: &Path, identity: impl Into<String>) -> Result<Self> {
        let file =
            OpenOptions::new().read(true).append(true).create(true).open(path).map_err(Error::io(path, "open"))?;
        if matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) {
            return Err(Error::Invalid(format!("{}: another evaluation is writing to this file", path.display())));
        }
        let mut journal = Self {
            path: path.to_path_buf(),
            file,
            known: HashMap::new(),
            identity: identity.into(),
            synced: Instant::now(),
            damaged: 0,
        };
        journal.load()?;
        Ok(journal)
    }

    fn load(&mut self) -> Result<()> {
        let io = |action| Error::io(&self.path, action);
        self.file.seek(SeekFrom::Start(0)).map_err(io("read"))?;
        let mut reader = BufReader::new(&self.file);
        let mut bytes = Vec::new();
        let mut complete = 0u64;
        loop {
            bytes.clear();
            let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(io("read"))?;
            if read == 0 {
                break;
            }
            if bytes.last() != Some(&b'\n') && (read as u64) < MAX_LINE {
                // The run was killed while writing its last line: the next line must not continue it.
                self.damaged += 1;
                self.file.set_len(complete).map_err(io("repair"))?;
                break;
            }
            complete += read as u64;
            match Line::parse(&bytes) {
                Some((key, scores)) => drop(self.known.insert(key, scores)),
                None => self.damaged += 1,
            }
        }
        Ok(())
    }

    /// Items held.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Lines that could not be read when it was opened.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// The scores of `item`, if an earlier run finished it with the same model, settings and prompts.
    pub fn find(&self, task: &Task, item: &Item) -> Option<Vec<Score>> {
        self.known.get(&self.key(task, item)).filter(|scores| scores.len() == item.requests.len()).cloned()
    }

    /// Appends the scores of `item`.
    ///
    /// # Errors
    /// [`Error::Io`], for example when the disk is full; what was written before stays readable.
    pub fn add(&mut self, task: &Task, item: &Item, scores: &[Score]) -> Result<()> {
        let key = self.key(task, item);
        let line = Line {
            task: task.name.to_string(),
            item: item.index,
            key: key.clone(),
            logprobs: scores.iter().map(|score| score.logprob.to_string()).collect(),
            greedy: scores.iter().map(|score| score.is_greedy).collect(),
        };
        let mut text = serde_json::to_string(&line).map_err(|error| Error::Invalid(error.to_string()))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path, "write"))?;
        self.known.insert(key, scores.to_vec());
        if self.synced.elapsed() > SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes what was added durable.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&mut self) -> Result<()> {
        self.synced = Instant::now();
        self.file.sync_data().map_err(Error::io(&self.path, "write"))
    }

    /// Removes the file, once the results it was kept for are safe.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(Error::io(&self.path, "remove"))
    }

    /// Writes go to another file from now on.
    #[cfg(test)]
    pub(super) fn redirect(&mut self, path: &Path) {
        self.file = OpenOptions::new().write(true).open(path).unwrap();
        self.path = path.to_path_buf();
    }

    fn key(&self, task: &Task, item: &Item) -> String {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        part(&self.identity);
        part(task.name);
        part(&task.version.to_string());
        for request in &item.requests {
            part(&request.context);
            part(&request.continuation);
        }
        hex(&hash.finalize()[..16])
    }
}

impl Line {
    fn parse(bytes: &[u8]) -> Option<(String, Vec<Score>)> {
        let line: Self = serde_json::from_slice(bytes).ok()?;
        if line.logprobs.len() != line.greedy.len() {
            return None;
        }
        let score = |(text, &is_greedy): (&String, &bool)| {
            let logprob: f64 = text.parse().ok()?;
            (!logprob.is_nan()).then_some(Score { logprob, is_greedy })
        };
        let scores: Option<Vec<Score>> = line.logprobs.iter().zip(&line.greedy).map(score).collect();
        Some((line.key, scores?))
    }
}
