//! Documents out of files: a text file is one document, a JSONL file one per line (either may be compressed), a Parquet
//! file one per row.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use serde_json::Value;
use sherry::Progress;
use sherry_measure::parquet::Rows;

use super::Sources;
use crate::error::{Error, Result, uninterrupted};

/// Longest line of a JSONL file, and largest text file once unpacked.
const MAX_DOCUMENT: u64 = 1 << 30;
/// Largest window of a zstd file, as a power of two: what the zstd tool unpacks unless told otherwise, 128 MiB.
const MAX_WINDOW_LOG: u32 = 27;
/// Text worked on at a time: enough for all threads, little enough for memory.
const BATCH_BYTES: usize = 8 << 20;

/// What a file holds, by the extension of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One document.
    Text,
    /// One JSON object per line, the text in one of its fields.
    JsonLines,
    /// A table, the text in one of its columns.
    Parquet,
}

impl Kind {
    /// The kind of the file `path`, whatever its compression.
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
        match name.rsplit_once('.') {
            Some((_, "jsonl" | "ndjson")) => Self::JsonLines,
            Some((_, "parquet")) => Self::Parquet,
            _ => Self::Text,
        }
    }

    /// Names the kind where tokens are identified by what they were made from.
    pub fn tag(self) -> u8 {
        match self {
            Self::Text => 0,
            Self::JsonLines => 1,
            Self::Parquet => 2,
        }
    }
}

/// All documents of some files, a few megabytes at a time. Where a batch ends depends on the files only.
pub(super) struct Batches<'a> {
    sources: &'a Sources,
    what: &'a str,
}

impl<'a> Batches<'a> {
    /// The documents of `sources`; `what` is done with them, for progress.
    pub fn of(sources: &'a Sources, what: &'a str) -> Self {
        Self { sources, what }
    }

    /// Calls `batch` with a file and some of its documents, in order, until it breaks off; never with documents of two
    /// files.
    pub fn each(
        self,
        progress: &dyn Progress,
        mut batch: impl FnMut(&Path, &[String]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let total = self.sources.files.iter().map(|file| std::fs::metadata(file).map_or(0, |meta| meta.len())).sum();
        progress.start(self.what, total);
        for file in &self.sources.files {
            let (mut texts, mut bytes, mut any) = (Vec::new(), 0usize, false);
            let (consumed, mut shown) = (Arc::new(AtomicU64::new(0)), 0);
            let mut flush = |texts: &mut Vec<String>| -> Result<ControlFlow<()>> {
                let flow = batch(file, texts)?;
                texts.clear();
                let now = consumed.load(Ordering::Relaxed);
                progress.advance(now - shown);
                shown = now;
                uninterrupted(progress)?;
                Ok(flow)
            };
            let flow = read(file, &self.sources.text_field, &consumed, progress, |text| {
                any = true;
                if !self.sources.split.is_none_or(|split| split.takes(&text)) {
                    return Ok(ControlFlow::Continue(()));
                }
                bytes += text.len();
                texts.push(text);
                if bytes < BATCH_BYTES {
                    return Ok(ControlFlow::Continue(()));
                }
                bytes = 0;
                flush(&mut texts)
            })?;
            if flow.is_break() || flush(&mut texts)?.is_break() {
                break;
            }
            if !any {
                return Err(Error::data(file, "holds no text"));
            }
        }
        progress.finish();
        Ok(())
    }
}

/// Counts what is read of a file.
struct Counted(File, Arc<AtomicU64>);

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(out)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Fails once the user asked to stop.
struct Interruptible<'a>(Box<dyn Read>, &'a dyn Progress);

impl Read for Interruptible<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        uninterrupted(self.1).map_err(std::io::Error::other)?;
        self.0.read(out)
    }
}

/// Calls `document` with every document of `path` until it breaks off; empty ones are left out.
fn read(
    path: &Path,
    field: &str,
    consumed: &Arc<AtomicU64>,
    progress: &dyn Progress,
    mut document: impl FnMut(String) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    if Kind::of(path) == Kind::Parquet {
        return read_parquet(path, field, consumed, progress, document);
    }
    let file = sherry::io::open_regular(path)?;
    let file = Counted(file, Arc::clone(consumed));
    let failed = |error: std::io::Error| match error.downcast::<sherry::Error>() {
        Ok(interrupted) => interrupted.into(),
        Err(error) => Error::data(path, format!("cannot be read to its end: {error}")),
    };
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    let reader: Box<dyn Read> = if extension == "gz" {
        Box::new(MultiGzDecoder::new(BufReader::new(file)))
    } else if extension == "zst" {
        let mut decoder = zstd::Decoder::new(file).map_err(failed)?;
        decoder.window_log_max(MAX_WINDOW_LOG).map_err(failed)?;
        Box::new(decoder)
    } else {
        Box::new(file)
    };
    let mut reader = BufReader::with_capacity(1 << 20, Interruptible(reader, progress));
    if Kind::of(path) == Kind::Text {
        let mut bytes = Vec::new();
        let read = reader.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(failed)?;
        if read as u64 > MAX_DOCUMENT {
            return Err(Error::data(path, "a text of more than 1 GiB; cut it into JSONL documents"));
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| Error::data(path, format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to())))?;
        return if text.is_empty() { Ok(ControlFlow::Continue(())) } else { document(text) };
    }
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = reader.by_ref().take(MAX_DOCUMENT + 1).read_until(b'\n', &mut line).map_err(failed)?;
        if read == 0 {
            break;
        }
        let bad = |problem: String| Error::data(path, format!("line {number}: {problem}"));
        if read as u64 > MAX_DOCUMENT {
            return Err(bad("longer than 1 GiB".to_owned()));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let mut value: Value = serde_json::from_slice(&line).map_err(|error| bad(error.to_string()))?;
        let text = text_of(value.get_mut(field).map(Value::take), field).map_err(bad)?;
        if !text.is_empty() && document(text)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn read_parquet(
    path: &Path,
    field: &str,
    consumed: &AtomicU64,
    progress: &dyn Progress,
    mut document: impl FnMut(String) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let bytes = std::fs::metadata(path).map_err(sherry::Error::io(path, "read the size of"))?.len();
    let rows = Rows::open(path, Some(&[field]))?;
    let count = rows.count_rows().max(1);
    for (row, found) in rows.enumerate() {
        uninterrupted(progress)?;
        let text = text_of(found?.remove(field), field);
        let text = text.map_err(|problem| Error::data(path, format!("row {}: {problem}", row + 1)))?;
        consumed.store((bytes as f64 * ((row + 1) as f64 / count as f64).min(1.0)) as u64, Ordering::Relaxed);
        if !text.is_empty() && document(text)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The string that a row has in `field`.
fn text_of(value: Option<Value>, field: &str) -> Result<String, String> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("field '{field}' is not a string")),
        None => Err(format!("no field '{field}'")),
    }
}
