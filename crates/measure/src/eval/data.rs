//! Benchmark data: JSONL files, plain or compressed, and Parquet files, read whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};

use crate::parquet;
use sherry::io::open_regular;
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
    /// For few-shot examples of their own, beside a validation split.
    Dev,
}

impl Split {
    /// The name used by the hub.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
            Self::Dev => "dev",
        }
    }

    /// The names found in file names.
    fn spellings(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train"],
            Self::Validation => &["validation", "val", "valid", "dev"],
            Self::Test => &["test"],
            Self::Dev => &["dev"],
        }
    }
}

/// How the names of data files end, in the order they are tried.
const ENDINGS: [&str; 4] = ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"];
/// Beside the parts of a split in a set of the hub: their number, which their names do not say.
pub const PARTS_FILE: &str = ".parts";

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
                    for ending in ENDINGS {
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
                hub_parts(&config.join(split.name()))
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

/// The files `BASE-00000-of-00003.parquet` and so on, named as the hub names them; also with other endings.
fn parts(base: &Path) -> Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (base.parent(), base.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}-", name.to_string_lossy());
    let mut found = BTreeMap::new();
    let mut families = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Some((number, family)) = name.strip_prefix(&prefix).and_then(|rest| rest.split_once("-of-")) else {
            continue;
        };
        let Some((count, ending)) = family.split_once('.') else { continue };
        if let (Some(number), Some(_), true) = (digits(number), digits(count), ENDINGS.contains(&ending)) {
            found.insert(number, entry.path());
            families.insert(family.to_owned());
        }
    }
    let Some(family) = families.pop_first() else { return Ok(Vec::new()) };
    if let Some(other) = families.first() {
        let problem = format!("parts 'of-{family}' and 'of-{other}' are both there: remove those of one");
        return Err(Error::malformed(base, "parts", problem));
    }
    let count = family.split_once('.').and_then(|(count, _)| digits(count)).unwrap_or(0);
    complete(found, count, |number| folder.join(format!("{prefix}{number:05}-of-{family}")))
}

/// The files `0000.parquet`, `0001.parquet` and so on of a split in a set of the hub.
fn hub_parts(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some(number) = name.to_str().and_then(|name| digits(name.strip_suffix(".parquet")?)) {
            found.insert(number, entry.path());
        }
    }
    let last = found.last_key_value().map_or(0, |(number, _)| number + 1);
    let path = folder.join(PARTS_FILE);
    let count = match fs::read_to_string(&path) {
        Ok(text) => digits(text.trim()).ok_or_else(|| Error::malformed(&path, "file", "holds no number of parts"))?,
        // Written by another program: only gaps show.
        Err(_) => last,
    };
    complete(found, count, |number| folder.join(format!("{number:04}.parquet")))
}

/// A number of digits and nothing else.
fn digits(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The `found` parts in order, if they are those of 0 to `count - 1`. `name` makes the name of one that is missing.
fn complete(found: BTreeMap<usize, PathBuf>, count: usize, name: impl Fn(usize) -> PathBuf) -> Result<Vec<PathBuf>> {
    if let Some(missing) = (0..count).find(|number| !found.contains_key(number)) {
        return Err(Error::malformed(&name(missing), "file", "this part is missing"));
    }
    if let Some((_, path)) = found.range(count..).next() {
        return Err(Error::malformed(path, "file", format!("a part too many: there are {count}")));
    }
    Ok(found.into_values().collect())
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

    /// Reads several files as one.
    pub(super) fn read_parts(paths: &[PathBuf]) -> Result<Self> {
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
    let file = BufReader::new(open_regular(path)?);
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
    fn a_split_is_read_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{\"a\": 1}\n").unwrap();
        };
        let remove = |name: &str| fs::remove_file(place.path().join(name)).unwrap();
        // Parts that say how many they are, in every ending; the first, one in the middle, the last.
        let folder = DataSource::Folder(place.path().to_path_buf());
        for ending in ENDINGS {
            let name = |part: usize| format!("x_test-{part:05}-of-00003.{ending}");
            (0..3).for_each(|part| put(&name(part)));
            assert_eq!(folder.files(&["x"], None, Split::Test).unwrap().len(), 3, "{ending}");
            for part in 0..3 {
                remove(&name(part));
                let error = folder.files(&["x"], None, Split::Test).unwrap_err().to_string();
                assert!(error.contains(&name(part)) && error.contains("missing"), "{error}");
                put(&name(part));
            }
            for other in [format!("x_test-00000-of-00004.{ending}"), format!("x_test-00003-of-00003.{ending}")] {
                put(&other);
                let error = folder.files(&["x"], None, Split::Test).unwrap_err().to_string();
                assert!(error.contains("x_test") && error.contains("part"), "{error}");
                remove(&other);
            }
            (0..3).for_each(|part| remove(&name(part)));
        }
        put("x_test-00000-of-00001.txt");
        put("x_test-extra.jsonl");
        assert_eq!(folder.files(&["x"], None, Split::Test).unwrap(), Vec::<PathBuf>::new());
        // Parts in the hub's cache, whose names do not say it.
        let set = DataSource::HubSet(place.path().join("set"));
        let name = |part: usize| format!("set/c/train/{part:04}.parquet");
        (0..3).for_each(|part| put(&name(part)));
        let files = || set.files(&["unused"], Some("c"), Split::Train);
        assert_eq!(files().unwrap().len(), 3);
        for part in 0..2 {
            remove(&name(part));
            let error = files().unwrap_err().to_string();
            assert!(error.contains(&format!("{part:04}.parquet")) && error.contains("missing"), "{error}");
            put(&name(part));
        }
        let count = place.path().join("set/c/train").join(PARTS_FILE);
        for (said, expected) in
            [("3\n", None), ("4\n", Some("0003.parquet")), ("2\n", Some("too many")), ("x", Some(PARTS_FILE))]
        {
            fs::write(&count, said).unwrap();
            match (files(), expected) {
                (Ok(files), None) => assert_eq!(files.len(), 3),
                (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{error}"),
                (other, _) => panic!("{said}: {other:?}"),
            }
        }
        assert!(set.files(&["unused"], Some("c"), Split::Test).unwrap().is_empty());
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
