//! Benchmark data: a folder of JSONL files, plain or compressed, read whole or not at all.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The longest line read: the longest real one (BoolQ) is below 10 kB.
const MAX_LINE: u64 = 1 << 20;
/// The most text read from one file: the largest real one (HellaSwag, training split) is 48 MB.
const MAX_TEXT: u64 = 256 << 20;

/// Part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// For few-shot examples.
    Train,
    /// Scored when the test split has no public answers.
    Validation,
    /// Scored otherwise.
    Test,
}

impl Split {
    /// The name used by the hub.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    /// The names found in file names.
    fn spellings(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train"],
            Self::Validation => &["validation", "val", "valid", "dev"],
            Self::Test => &["test"],
        }
    }
}

/// One row of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Line in the file, from 1.
    pub line: usize,
    /// The fields.
    pub fields: Map<String, Value>,
}

/// A whole data file.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// Where it was found.
    pub path: PathBuf,
    /// Its rows in order.
    pub rows: Vec<Row>,
}

impl DataFile {
    /// Reads `{stem}_{split}.jsonl`, `.jsonl.gz` or `.jsonl.zst` (also `{stem}-{split}` and `{stem}/{split}`, and
    /// `val`, `valid`, `dev` for validation) from `folder`; `None` when there is no such file.
    ///
    /// # Errors
    /// The file is there but truncated, damaged or not JSON lines: names file and line.
    pub fn find(folder: &Path, stems: &[&str], split: Split) -> Result<Option<Self>> {
        let candidates = Self::candidates(stems, split);
        match candidates.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
            Some(path) => Self::read(&path).map(Some),
            None => Ok(None),
        }
    }

    /// The file names looked for, in order.
    pub fn candidates(stems: &[&str], split: Split) -> Vec<String> {
        let mut names = Vec::new();
        for stem in stems {
            for spelling in split.spellings() {
                for separator in ["_", "-", "/"] {
                    for ending in ["jsonl", "jsonl.gz", "jsonl.zst"] {
                        names.push(format!("{stem}{separator}{spelling}.{ending}"));
                    }
                }
            }
        }
        names
    }

    /// Reads one file, whose ending says how it is compressed.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn read(path: &Path) -> Result<Self> {
        let mut reader = open_text(path)?;
        let mut rows = Vec::new();
        let mut line = Vec::new();
        let mut total = 0;
        for number in 1.. {
            line.clear();
            let place = || format!("line {number}");
            let read = reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line).map_err(|error| {
                Error::malformed(path, place(), format!("cannot be read, the file is truncated or damaged ({error})"))
            })?;
            if read == 0 {
                break;
            }
            total += read as u64;
            if read as u64 > MAX_LINE || total > MAX_TEXT {
                let problem = format!("too long: at most {MAX_LINE} bytes per line and {MAX_TEXT} per file are read");
                return Err(Error::malformed(path, place(), problem));
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let fields = serde_json::from_slice(&line).map_err(|error| {
                Error::malformed(path, place(), format!("not a JSON object ({})", without_line(&error)))
            })?;
            rows.push(Row { line: number, fields });
        }
        if rows.is_empty() {
            return Err(Error::malformed(path, "file", "holds no rows"));
        }
        Ok(Self { path: path.to_path_buf(), rows })
    }
}

/// Opens a text file for reading, decompressing by its ending (`.gz`, `.zst`).
///
/// # Errors
/// [`Error::Io`] when it cannot be opened.
pub fn open_text(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = BufReader::new(File::open(path).map_err(Error::io(path, "open"))?);
    Ok(match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => Box::new(BufReader::new(MultiGzDecoder::new(file))),
        Some("zst") => {
            let mut decoder = zstd::Decoder::with_buffer(file).map_err(Error::io(path, "decompress"))?;
            // 32 MiB of window cover every standard level; a hostile header could ask for gigabytes.
            decoder.window_log_max(25).map_err(Error::io(path, "decompress"))?;
            Box::new(BufReader::new(decoder))
        }
        _ => Box::new(file),
    })
}

/// Reads a whole text file (plain, `.gz` or `.zst`) for perplexity.
///
/// # Errors
/// Missing, truncated, damaged, longer than 256 MiB or not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let damaged = |error: io::Error| {
        Error::malformed(path, "text", format!("cannot be read, the file is truncated or damaged ({error})"))
    };
    open_text(path)?.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(damaged)?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(Error::malformed(path, "text", format!("longer than {MAX_TEXT} bytes")));
    }
    String::from_utf8(bytes)
        .map_err(|error| Error::malformed(path, format!("byte {}", error.utf8_error().valid_up_to()), "not UTF-8"))
}

/// The parser counts lines from 1 in every row, which would only confuse.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((reason, _)) => format!("{reason} at column {}", error.column()),
        None => text,
    }
}

impl Row {
    /// A string field.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming file, line and field.
    pub fn text<'a>(&'a self, file: &Path, field: &str) -> Result<&'a str> {
        self.field(file, field)?.as_str().ok_or_else(|| self.wrong(file, field, "a string"))
    }

    /// A field that is a list of strings.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn texts(&self, file: &Path, field: &str) -> Result<Vec<String>> {
        let list = self.field(file, field)?.as_array();
        list.and_then(|list| list.iter().map(|text| text.as_str().map(str::to_string)).collect())
            .ok_or_else(|| self.wrong(file, field, "a list of strings"))
    }

    /// A small number, as a JSON number or as a string of digits.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn index(&self, file: &Path, field: &str) -> Result<usize> {
        let value = self.field(file, field)?;
        let number = match value {
            Value::String(digits) => digits.parse().ok(),
            other => other.as_u64().and_then(|number| usize::try_from(number).ok()),
        };
        number.ok_or_else(|| self.wrong(file, field, "a number"))
    }

    /// An object field, as a row of its own on the same line.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn object(&self, file: &Path, field: &str) -> Result<Self> {
        let fields = self.field(file, field)?.as_object().ok_or_else(|| self.wrong(file, field, "an object"))?;
        Ok(Self { line: self.line, fields: fields.clone() })
    }

    /// Any field.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn field<'a>(&'a self, file: &Path, field: &str) -> Result<&'a Value> {
        self.fields.get(field).ok_or_else(|| {
            let found: Vec<&str> = self.fields.keys().map(String::as_str).take(12).collect();
            self.problem(file, field, format!("missing; found {}", found.join(", ")))
        })
    }

    /// An error about `field` of this row.
    pub fn problem(&self, file: &Path, field: &str, problem: impl Into<String>) -> Error {
        Error::malformed(file, format!("line {}, field '{field}'", self.line), problem)
    }

    fn wrong(&self, file: &Path, field: &str, expected: &str) -> Error {
        self.problem(file, field, format!("expected {expected}"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    const ROWS: &str = "{\"a\": 1}\n\n{\"a\": \"zwei\"}\n";

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_gzip_and_zstd_read_alike() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x_val.jsonl"), ROWS).unwrap();
        fs::write(folder.path().join("y-train.jsonl.gz"), gzip(ROWS)).unwrap();
        fs::create_dir(folder.path().join("z")).unwrap();
        fs::write(folder.path().join("z/test.jsonl.zst"), zstd::encode_all(ROWS.as_bytes(), 3).unwrap()).unwrap();
        for (stem, split) in [("x", Split::Validation), ("y", Split::Train), ("z", Split::Test)] {
            let file = DataFile::find(folder.path(), &["nothing", stem], split).unwrap().unwrap();
            assert_eq!(file.rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 3]);
            assert_eq!(file.rows[1].text(&file.path, "a").unwrap(), "zwei");
        }
        assert!(DataFile::find(folder.path(), &["x"], Split::Test).unwrap().is_none());
    }

    #[test]
    fn damaged_files_are_named_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x_test.jsonl.gz");
        let check = |bytes: &[u8], expected: &[&str]| {
            fs::write(&path, bytes).unwrap();
            let error = DataFile::read(&path).unwrap_err().to_string();
            for part in expected.iter().chain(&["x_test.jsonl.gz"]) {
                assert!(error.contains(part), "{error}");
            }
        };
        let many: String = (0..500).map(|i| format!("{{\"a\": {i}, \"b\": \"{}\"}}\n", i * 7919)).collect();
        let whole = gzip(&many);
        check(&whole[..whole.len() - 300], &["line ", "truncated"]);
        let mut flipped = whole.clone();
        let last = flipped.len() - 6; // in the checksum
        flipped[last] ^= 1;
        check(&flipped, &["truncated or damaged"]);
        check(b"not gzip at all", &["line 1"]);
        check(&gzip("{\"a\": 1}\n{\"a\": \n"), &["line 2", "not a JSON object", "column"]);
        check(&gzip("[1]\n"), &["line 1", "not a JSON object"]);
        check(&gzip(&"[".repeat(100_000)), &["line 1"]);
        check(&gzip(&format!("\"{}\"", "a".repeat(2 << 20))), &["line 1", "too long"]);
        check(&gzip(""), &["holds no rows"]);
        fs::write(folder.path().join("t.txt"), b"ab\xff").unwrap();
        assert!(read_text(&folder.path().join("t.txt")).unwrap_err().to_string().contains("byte 2: not UTF-8"));
    }

    #[test]
    fn fields_say_what_they_should_be() {
        let row: Row =
            Row { line: 7, fields: serde_json::from_str(r#"{"a": "2", "b": [1], "c": {"d": -1}}"#).unwrap() };
        let file = Path::new("f.jsonl");
        assert_eq!(row.index(file, "a").unwrap(), 2);
        let error = |result: Result<usize>| result.unwrap_err().to_string();
        assert_eq!(error(row.index(file, "x")), "f.jsonl: line 7, field 'x': missing; found a, b, c");
        assert_eq!(
            error(row.object(file, "c").unwrap().index(file, "d")),
            "f.jsonl: line 7, field 'd': expected a number"
        );
        assert!(row.texts(file, "b").unwrap_err().to_string().contains("expected a list of strings"));
    }
}
