//! Documents out of files: a text file is one document, a JSONL file one per line; either may be compressed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};

/// Longest line of a JSONL file, and largest text file once unpacked.
const MAX_DOCUMENT: u64 = 1 << 30;

/// Whether the name says JSONL, whatever the compression.
pub(super) fn is_jsonl(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    name.ends_with(".jsonl") || name.ends_with(".ndjson")
}

/// Calls `document` with every document of `path`; empty ones are left out.
pub(super) fn read(path: &Path, field: &str, mut document: impl FnMut(String) -> Result<()>) -> Result<()> {
    let file = File::open(path).map_err(sherry::Error::io(path, "open"))?;
    let failed = |error: std::io::Error| Error::data(path, format!("cannot be read to its end: {error}"));
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    let reader: Box<dyn Read> = if extension == "gz" {
        Box::new(MultiGzDecoder::new(BufReader::new(file)))
    } else if extension == "zst" {
        Box::new(zstd::Decoder::new(file).map_err(failed)?)
    } else {
        Box::new(file)
    };
    let mut reader = BufReader::with_capacity(1 << 20, reader);
    if !is_jsonl(path) {
        let mut bytes = Vec::new();
        let read = reader.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(failed)?;
        if read as u64 > MAX_DOCUMENT {
            return Err(Error::data(path, "a text of more than 1 GiB; cut it into JSONL documents"));
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| Error::data(path, format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to())))?;
        return if text.is_empty() { Ok(()) } else { document(text) };
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
        let mut value: serde_json::Value = serde_json::from_slice(&line).map_err(|error| bad(error.to_string()))?;
        match value.get_mut(field).map(serde_json::Value::take) {
            Some(serde_json::Value::String(text)) if text.is_empty() => {}
            Some(serde_json::Value::String(text)) => document(text)?,
            Some(_) => return Err(bad(format!("field '{field}' is not a string"))),
            None => return Err(bad(format!("no field '{field}'"))),
        }
    }
    Ok(())
}
