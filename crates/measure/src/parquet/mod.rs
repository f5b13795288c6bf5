//! Parquet files, row by row, as JSON objects.
//!
//! Reads what data sets for language models use: flat and nested columns (structures, lists, maps) of texts, numbers
//! and flags; every encoding but byte-stream-split; pages of both versions; none, Snappy, gzip and Zstandard
//! compression. Not read: dates of 96 bits, fixed-length byte arrays, encrypted files. Dates and decimals stored as
//! integers appear as these integers.
//!
//! One page per column is in memory at a time. A page, a row or all pages together that take more than their limit are
//! an error, whatever sizes the file claims. Sources: the format's specification and `parquet.thrift`; nesting as in
//! Melnik et al., Dremel (2010).

mod column;
mod encoding;
mod footer;
#[cfg(test)]
mod tests;
mod thrift;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sherry_kernels::Bytes;

use column::Column;
use footer::{Footer, Node, Shape};
use sherry::io::{FileBytes, ReadMode};
use sherry::{Error, Result};
use thrift::Parsed;

/// Most memory for pages and dictionaries of all columns together.
const MAX_PAGES: usize = 48 << 20;
/// Largest row, counted as in [`Rows::row_size`].
const MAX_ROW: usize = 16 << 20;
/// What a value counts besides its text.
const VALUE_SIZE: usize = 32;

/// The rows of a Parquet file. After an error there are no more.
///
/// ```
/// use sherry_measure::parquet::Rows;
///
/// fn questions(file: &std::path::Path) -> sherry::Result<Vec<String>> {
///     let rows = Rows::open(file, Some(&["question"]))?;
///     rows.map(|row| Ok(row?["question"].as_str().unwrap_or_default().to_owned())).collect()
/// }
///
/// let error = Rows::from_bytes("short.parquet".as_ref(), b"PAR1".to_vec()).unwrap_err();
/// assert!(error.to_string().starts_with("short.parquet: "));
/// # let _ = questions;
/// ```
#[derive(Debug)]
pub struct Rows {
    path: PathBuf,
    file: FileBytes,
    footer: Footer,
    /// Which top-level fields are read.
    fields: Vec<usize>,
    /// Row groups begun.
    group: usize,
    rows_left: u64,
    columns: Columns,
    row: u64,
    finished: bool,
}

impl Rows {
    /// Opens `path`, to read the top-level `fields`, or all.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] when it is no Parquet file, its footer makes no sense or a field is missing.
    pub fn open(path: &Path, fields: Option<&[&str]>) -> Result<Self> {
        Self::new(path, FileBytes::open(path, ReadMode::Map)?, fields)
    }

    /// The same of a file's contents; `path` is for messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        Self::new(path, FileBytes::from(Bytes::from(bytes)), None)
    }

    fn new(path: &Path, file: FileBytes, fields: Option<&[&str]>) -> Result<Self> {
        let footer = Footer::parse(file.bytes()).map_err(|problem| Error::malformed(path, "Parquet", problem))?;
        let fields = match fields {
            None => (0..footer.fields.len()).collect(),
            Some(names) => names
                .iter()
                .map(|name| {
                    footer.fields.iter().position(|field| field.name == *name).ok_or_else(|| {
                        let found: Vec<&str> = footer.fields.iter().map(|field| field.name.as_str()).take(12).collect();
                        Error::malformed(
                            path,
                            format!("field '{name}'"),
                            format!("missing; found {}", found.join(", ")),
                        )
                    })
                })
                .collect::<Result<_>>()?,
        };
        Ok(Self {
            path: path.to_path_buf(),
            file,
            footer,
            fields,
            group: 0,
            rows_left: 0,
            columns: Columns::default(),
            row: 0,
            finished: false,
        })
    }

    /// Rows in the whole file.
    pub fn count_rows(&self) -> u64 {
        self.footer.rows()
    }

    /// About what the last row takes in memory: the bytes of its texts and names, and 32 for every value.
    pub fn row_size(&self) -> usize {
        self.columns.row_size
    }

    fn read(&mut self) -> Parsed<Option<Map<String, Value>>> {
        while self.rows_left == 0 {
            self.end_group()?;
            if self.group == self.footer.groups.len() {
                return Ok(None);
            }
            self.begin_group()?;
        }
        self.rows_left -= 1;
        self.row += 1;
        self.columns.row_size = 0;
        let mut row = Map::new();
        for &field in &self.fields {
            let node = &self.footer.fields[field];
            let value = self.columns.value(node, 0)?;
            self.columns.row_size += node.name.len();
            row.insert(node.name.clone(), value);
        }
        Ok(Some(row))
    }

    fn begin_group(&mut self) -> Parsed<()> {
        let group = &self.footer.groups[self.group];
        self.group += 1;
        self.rows_left = group.rows;
        self.columns = Columns { all: self.footer.leaves.iter().map(|_| None).collect(), ..Columns::default() };
        for &field in &self.fields {
            for leaf in self.footer.fields[field].leaves.clone() {
                let column = Column::new(self.file.bytes(), &group.chunks[leaf], self.footer.leaves[leaf].clone());
                self.columns.all[leaf] = Some(column.ok_or("a column outside of the file")?);
            }
        }
        Ok(())
    }

    /// Checks that every column of the row group has ended with the last row.
    fn end_group(&mut self) -> Parsed<()> {
        for column in self.columns.all.iter_mut().flatten() {
            if column.peek()?.is_some() {
                return Err("a column has more values than there are rows".to_string());
            }
        }
        // The size of the last row stays.
        (self.columns.all, self.columns.held) = (Vec::new(), 0);
        if let Some(group) = self.group.checked_sub(1) {
            let chunks = &self.footer.groups[group].chunks;
            chunks.iter().for_each(|chunk| self.file.release(chunk.range.clone()));
        }
        Ok(())
    }
}

impl Iterator for Rows {
    type Item = Result<Map<String, Value>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let row = self.read();
        self.finished = !matches!(row, Ok(Some(_)));
        row.map_err(|problem| Error::malformed(&self.path, format!("row {}", self.row), problem)).transpose()
    }
}

/// The columns of a row group. Counts what they take in memory.
#[derive(Debug, Default)]
struct Columns {
    /// `None` for those not read.
    all: Vec<Option<Column>>,
    /// Bytes of pages and dictionaries.
    held: usize,
    /// Size of the row so far.
    row_size: usize,
}

impl Columns {
    /// Lets column number `leaf` go on, which may load a page.
    fn with<T>(&mut self, leaf: usize, work: impl FnOnce(&mut Column) -> Parsed<T>) -> Parsed<T> {
        let column = self.all.get_mut(leaf).and_then(Option::as_mut).ok_or("a column that was not opened")?;
        let before = column.size();
        let found = work(column)?;
        self.held = self.held - before + column.size();
        if self.held > MAX_PAGES {
            return Err(format!("its pages take more than {MAX_PAGES} bytes of memory"));
        }
        Ok(found)
    }

    /// Repetition and definition level of the next value of column `leaf`.
    fn peek(&mut self, leaf: usize) -> Parsed<Option<(u8, u8)>> {
        self.with(leaf, Column::peek)
    }

    /// The next value of `node`. Its first column value must have repetition level `rep`.
    fn value(&mut self, node: &Node, rep: u8) -> Parsed<Value> {
        self.row_size += VALUE_SIZE;
        if self.row_size > MAX_ROW {
            return Err(format!("larger than {MAX_ROW} bytes"));
        }
        let first = node.leaves.start;
        if let Shape::Value = node.shape {
            let (_, value) = self.with(first, |column| column.take(rep, MAX_ROW))?;
            self.row_size += value.as_str().map_or(0, str::len);
            return Ok(value);
        }
        // All columns below say whether it is there; the first is asked, the others must agree.
        let (_, def) = self.peek(first)?.ok_or("a column has fewer values than there are rows")?;
        if node.optional && def < node.def {
            self.skip(node, rep, def)?;
            return Ok(Value::Null);
        }
        match &node.shape {
            Shape::Value => Ok(Value::Null), // returned above
            Shape::Fields(fields) => {
                let mut object = Map::new();
                for field in fields {
                    self.row_size += field.name.len();
                    object.insert(field.name.clone(), self.value(field, rep)?);
                }
                Ok(Value::Object(object))
            }
            Shape::List { element, rep: next, def: filled } => {
                let mut list = Vec::new();
                if def < *filled {
                    self.skip(node, rep, def)?;
                    return Ok(Value::Array(list));
                }
                list.push(self.value(element, rep)?);
                while self.peek(first)?.is_some_and(|(rep, _)| rep == *next) {
                    list.push(self.value(element, *next)?);
                }
                Ok(Value::Array(list))
            }
        }
    }

    /// Passes over what all columns of `node` have in place of it when it is null or empty.
    fn skip(&mut self, node: &Node, rep: u8, def: u8) -> Parsed<()> {
        for leaf in node.leaves.clone() {
            if self.with(leaf, |column| column.take(rep, 0))?.0 != def {
                return Err(format!("field '{}': its columns disagree about what is null", node.name));
            }
        }
        Ok(())
    }
}
