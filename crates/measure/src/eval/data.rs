//! Benchmark data: JSONL files, plain or compressed, and Parquet files, read whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};

use crate::parquet;
use sherry::{Error, Result};

/// The longest line or row read: the longest real one (BoolQ) is below 10 kB.
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

/// Where data files are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataSource {
    /// A folder with files of many sets, named after set and split: `piqa_validation.jsonl`.
    Folder(PathBuf),
    /// One data set as the hub converts it to Parquet: `CONFIGURATION/SPLIT/0000.parquet`.
    HubSet(PathBuf),
}

/// One row of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// "line", or "row" in a Parquet file.
    pub unit: &'static str,
    /// Its number in the file, from 1.
    pub number: usize,
    /// The fields.
    pub fields: Map<String, Value>,
}

/// A whole data file.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// Where it was found; the first of several parts.
    pub path: PathBuf,
    /// Its rows in order.
    pub rows: Vec<Row>,
}

impl DataSource {
    /// The files of a split: one, or the parts of a Parquet file; empty when there is none.
    ///
    /// `stems` begin the file names in a folder; `config` is the configuration in a set of the hub, where a set without
    /// named ones has a single one.
    ///
    /// # Errors
    /// Some part is missing.
    pub fn files(&self, stems: &[&str], config: Option<&str>, split: Split) -> Result<Vec<PathBuf>> {
        match self {
            Self::Folder(folder) => {
                for name in names(stems, split) {
                    for ending in ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"] {
                        let path = folder.join(format!("{name}.{ending}"));
                        if path.is_file() {
                            return Ok(vec![path]);
                        }
                    }
                    let parts = parts(&folder.join(name))?;
                    if !parts.is_empty() {
                        return Ok(parts);
                    }
                }
                Ok(Vec::new())
            }
            Self::HubSet(folder) => {
                let config = match config {
                    Some(config) => folder.join(config),
                    None => match &subfolders(folder)[..] {
                        [only] => only.clone(),
                        _ => folder.join("default"),
                    },
                };
                let part = |number: usize| config.join(split.name()).join(format!("{number:04}.parquet"));
                Ok((0..).map(part).take_while(|path| path.is_file()).collect())
            }
        }
    }
}

/// Beginnings of file names, in the order they are tried.
fn names(stems: &[&str], split: Split) -> Vec<String> {
    let mut names = Vec::new();
    for stem in stems {
        for spelling in split.spellings() {
            for separator in ["_", "-", "/"] {
                names.push(format!("{stem}{separator}{spelling}"));
            }
        }
    }
    names
}

/// The files `BASE-00000-of-00003.parquet` and so on, named as the hub names them.
fn parts(base: &Path) -> Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (base.parent(), base.file_name()) else { return Ok(Vec::new()) };
    let first = format!("{}-00000-of-", name.to_string_lossy());
    let count = fs::read_dir(folder).into_iter().flatten().flatten().find_map(|entry| {
        let found = entry.file_name();
        let count = found.to_str()?.strip_prefix(&first)?.strip_suffix(".parquet")?;
        (count.len() == 5).then(|| count.parse::<usize>().ok())?
    });
    let Some(count) = count else { return Ok(Vec::new()) };
    (0..count)
        .map(|part| {
            let path = folder.join(format!("{}-{part:05}-of-{count:05}.parquet", name.to_string_lossy()));
            if path.is_file() { Ok(path) } else { Err(Error::malformed(&path, "file", "this part is missing")) }
        })
        .collect()
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

impl DataFile {
    /// Reads a split from the first of `sources` that has it; `None` when none has. Arguments as in
    /// [`DataSource::files`].
    ///
    /// In a folder that is `{stem}_{split}`, `{stem}-{split}` or `{stem}/{split}` (also `val`, `valid`, `dev` for
    /// validation) with the ending `.jsonl`, `.jsonl.gz`, `.jsonl.zst` or `.parquet`, or Parquet parts.
    ///
    /// # Errors
    /// The file is there but truncated or damaged: names file and line.
    pub fn find(sources: &[DataSource], stems: &[&str], config: Option<&str>, split: Split) -> Result<Option<Self>> {
        for source in sources {
            let files = source.files(stems, config, split)?;
            if !files.is_empty() {
                return Self::read_parts(&files).map(Some);
            }
        }
        Ok(None)
    }

    /// Reads one file, whose ending says what it is.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_parts(&[path.to_path_buf()])
    }

    fn read_parts(paths: &[PathBuf]) -> Result<Self> {
        let mut file = Self { path: paths.first().cloned().unwrap_or_default(), rows: Vec::new() };
        let mut total = 0;
        for path in paths {
            if path.extension().is_some_and(|ending| ending == "parquet") {
                file.read_parquet(path, &mut total)?;
            } else {
                file.read_lines(path, &mut total)?;
            }
        }
        if file.rows.is_empty() {
            return Err(Error::malformed(&file.path, "file", "holds no rows"));
        }
        Ok(file)
    }

    fn read_lines(&mut self, path: &Path, total: &mut u64) -> Result<()> {
        let mut reader = open_text(path)?;
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let place = || format!("line {number}");
            let read = reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line).map_err(|error| {
                Error::malformed(path, place(), format!("cannot be read, the file is truncated or damaged ({error})"))
            })?;
            if read == 0 {
                break;
            }
            check_size(path, &place, read as u64, total)?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let fields = serde_json::from_slice(&line).map_err(|error| {
                Error::malformed(path, place(), format!("not a JSON object ({})", without_line(&error)))
            })?;
            self.rows.push(Row { unit: "line", number, fields });
        }
        Ok(())
    }

    fn read_parquet(&mut self, path: &Path, total: &mut u64) -> Result<()> {
        let mut rows = parquet::Rows::open(path, None)?;
        let mut number = 0;
        while let Some(fields) = rows.next().transpose()? {
            number += 1;
            check_size(path, &|| format!("row {number}"), rows.row_size() as u64, total)?;
            self.rows.push(Row { unit: "row", number, fields });
        }
        Ok(())
    }
}

/// Adds the `size` of a line to the `total` of its file.
fn check_size(path: &Path, place: &dyn Fn() -> String, size: u64, total: &mut u64) -> Result<()> {
    *total += size;
    if size > MAX_LINE || *total > MAX_TEXT {
        let problem = format!("too long: at most {MAX_LINE} bytes per line and {MAX_TEXT} per file are read");
        return Err(Error::malformed(path, place(), problem));
    }
    Ok(())
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
        Ok(Self { unit: self.unit, number: self.number, fields: fields.clone() })
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
        Error::malformed(file, format!("{} {}, field '{field}'", self.unit, self.number), problem)
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
        let sources = [DataSource::Folder(folder.path().join("none")), DataSource::Folder(folder.path().to_path_buf())];
        for (stem, split) in [("x", Split::Validation), ("y", Split::Train), ("z", Split::Test)] {
            let file = DataFile::find(&sources, &["nothing", stem], None, split).unwrap().unwrap();
            assert_eq!(file.rows.iter().map(|row| row.number).collect::<Vec<_>>(), [1, 3]);
            assert_eq!(file.rows[1].text(&file.path, "a").unwrap(), "zwei");
        }
        assert!(DataFile::find(&sources, &["x"], None, Split::Test).unwrap().is_none());
    }

    /// A Parquet file of 48 rows, in its folder.
    fn golden() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parquet/snappy.parquet")
    }

    #[test]
    fn parquet_stands_for_lines() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(golden(), path).unwrap();
        };
        for name in ["x_dev.parquet", "y/test-00000-of-00002.parquet", "y/test-00001-of-00002.parquet"] {
            place(name);
        }
        let sources = [DataSource::Folder(folder.path().to_path_buf())];
        let find = |stem, split| DataFile::find(&sources, &[stem], None, split);
        let file = find("x", Split::Validation).unwrap().unwrap();
        assert_eq!(file.rows.len(), 48);
        assert_eq!(file.rows[2].text(&file.path, "word").unwrap(), "blue");
        let choices = file.rows[2].object(&file.path, "choices").unwrap();
        assert_eq!(choices.texts(&file.path, "text").unwrap(), ["option 2", "option 3"]);
        let error = file.rows[3].text(&file.path, "word").unwrap_err().to_string();
        assert!(error.contains("x_dev.parquet: row 4, field 'word'"), "{error}");
        assert_eq!(find("y", Split::Test).unwrap().unwrap().rows.len(), 96);
        fs::remove_file(folder.path().join("y/test-00001-of-00002.parquet")).unwrap();
        let error = find("y", Split::Test).unwrap_err().to_string();
        assert!(error.contains("test-00001-of-00002.parquet") && error.contains("missing"), "{error}");

        for name in ["set/only/train/0000.parquet", "set/only/train/0001.parquet", "two/a/test/0000.parquet"] {
            place(name);
        }
        place("two/b/test/0000.parquet");
        let count = |set: &str, config, split| {
            let source = [DataSource::HubSet(folder.path().join(set))];
            DataFile::find(&source, &["unused"], config, split).unwrap().map(|file| file.rows.len())
        };
        assert_eq!(count("set", None, Split::Train), Some(96));
        assert_eq!(count("set", Some("only"), Split::Test), None);
        assert_eq!(count("two", Some("b"), Split::Test), Some(48));
        assert_eq!(count("two", None, Split::Test), None);
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
        let row: Row = Row {
            unit: "line",
            number: 7,
            fields: serde_json::from_str(r#"{"a": "2", "b": [1], "c": {"d": -1}}"#).unwrap(),
        };
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
