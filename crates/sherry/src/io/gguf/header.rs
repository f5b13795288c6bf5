//! Parsing one file's header: everything before the tensor data.

use std::collections::HashSet;
use std::fmt::Display;
use std::path::Path;

use super::limits;
use super::strings::Strings;
use super::types::{self, Meaning};
use super::value::{Array, Value, shown};
use crate::io::FileData;
use crate::{Error, Result};

/// What the header says, each field checked for itself; how tensors lie in the file is [`layout`](super::layout)'s part.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub entries: Vec<(String, Value)>,
    pub tensors: Vec<RawTensor>,
    /// Alignment of tensor data, a power of two.
    pub alignment: u64,
    /// Bytes of the header, without padding.
    pub len: u64,
}

/// One tensor as the header describes it.
#[derive(Debug)]
pub(super) struct RawTensor {
    pub name: String,
    /// Row length first: the reverse of PyTorch order.
    pub dims: Vec<u64>,
    pub type_id: u32,
    pub meaning: Meaning,
    pub offset: u64,
}

/// Reads the header of `file`, and no more of it than that takes where it is read by ranges.
pub(super) fn read(path: &Path, file: &FileData) -> Result<Header> {
    let mut len = FIRST_READ;
    loop {
        let head = file.head(path, len)?;
        let mut more = false;
        let header = parse(path, &head, file.len() as u64, &mut more);
        if !more || len > limits::HEADER {
            return header;
        }
        len *= 4;
    }
}

/// What is read at first of a file that is read by ranges: enough for small vocabularies.
const FIRST_READ: usize = 1 << 20;

/// Parses the header of a file of `len` bytes that begins with `bytes`. When it fails because the header is longer than
/// those, `more` is set.
fn parse(path: &Path, bytes: &[u8], len: u64, more: &mut bool) -> Result<Header> {
    let mut cursor = Cursor { bytes, at: 0, len, more: false };
    let header = parse_from(path, &mut cursor);
    *more = cursor.more;
    header
}

fn parse_from(path: &Path, cursor: &mut Cursor<'_>) -> Result<Header> {
    let in_header = |problem: String| Error::malformed(path, "header", problem);
    match cursor.take(4) {
        Ok(b"GGUF") => {}
        Ok(other) => return Err(in_header(format!("not a GGUF file: it begins with {}", quoted(other)))),
        Err(_) => return Err(in_header(format!("not a GGUF file: it has only {} bytes", cursor.len))),
    }
    let version = cursor.u32().map_err(in_header)?;
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=3) => {
            return Err(Error::unsupported(path, "is a big-endian GGUF file; this program reads little-endian files"));
        }
        _ => return Err(Error::unsupported(path, format!("has GGUF version {version}; versions 2 and 3 can be read"))),
    }
    let tensor_count = cursor.u64().map_err(in_header)?;
    let entry_count = cursor.u64().map_err(in_header)?;
    // The smallest entry: key length, a key of 1 byte, value type, a value of 1 byte. The smallest tensor: name length, a
    // name of 1 byte, number of dimensions, one dimension, type, offset.
    for (what, count, limit, least) in
        [("metadata entries", entry_count, limits::ENTRIES, 14), ("tensors", tensor_count, limits::TENSORS, 33)]
    {
        if count > limit {
            return Err(in_header(format!("announces {count} {what}, more than the limit of {limit}")));
        }
        if count * least > cursor.remaining() {
            let left = cursor.remaining();
            return Err(in_header(format!("announces {count} {what}, but the file has only {left} bytes left")));
        }
    }

    let mut entries = Vec::new();
    let mut keys = HashSet::new();
    for index in 0..entry_count {
        let key = cursor.text(limits::KEY).map_err(at(path, format!("key of metadata entry {index}")))?;
        let place = || format!("key '{}'", shown(key));
        if key.is_empty() {
            return Err(Error::malformed(path, format!("key of metadata entry {index}"), "is empty"));
        }
        if !keys.insert(key) {
            return Err(Error::malformed(path, place(), "occurs twice"));
        }
        let value = cursor.value().map_err(|problem| Error::malformed(path, place(), problem))?;
        entries.push((key.to_owned(), value));
    }
    let alignment = alignment(&entries).map_err(at(path, "key 'general.alignment'"))?;

    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for index in 0..tensor_count {
        let name = cursor.text(limits::NAME).map_err(at(path, format!("name of tensor {index}")))?;
        if name.is_empty() || name.chars().any(char::is_control) {
            let problem = format!("'{}' is empty or has control characters", shown(name));
            return Err(Error::malformed(path, format!("name of tensor {index}"), problem));
        }
        let place = format!("tensor '{name}'");
        if !names.insert(name) {
            return Err(Error::malformed(path, place, "occurs twice"));
        }
        let (dims, type_id, offset) = cursor.tensor().map_err(at(path, place))?;
        let meaning = types::meaning(type_id);
        match meaning {
            Meaning::Known(_) | Meaning::Disputed(_) => {}
            Meaning::Foreign(ty, advice) => return Err(foreign_type(path, name, ty, advice)),
            Meaning::Unknown => {
                return Err(Error::unsupported(path, format!("tensor '{name}' has the unknown type id {type_id}")));
            }
        }
        tensors.push(RawTensor { name: name.to_owned(), dims, type_id, meaning, offset });
    }
    if cursor.at > limits::HEADER {
        let problem = format!("takes {} bytes, more than the limit of {}", cursor.at, limits::HEADER);
        return Err(in_header(problem));
    }
    Ok(Header { version, entries, tensors, alignment, len: cursor.at as u64 })
}

/// `advice`: what to do about it, or nothing.
pub(super) fn foreign_type(path: &Path, name: &str, ty: &str, advice: &str) -> Error {
    let advice = if advice.is_empty() { String::new() } else { format!("; {advice}") };
    Error::unsupported(path, format!("tensor '{name}' has type {ty}, which this program does not read{advice}"))
}

/// The alignment that `entries` ask for.
fn alignment(entries: &[(String, Value)]) -> Result<u64, String> {
    let Some((_, value)) = entries.iter().find(|(key, _)| key == "general.alignment") else {
        return Ok(limits::DEFAULT_ALIGNMENT);
    };
    match value.as_u64() {
        Some(x) if x.is_power_of_two() && limits::ALIGNMENT.contains(&x) => Ok(x),
        _ => {
            let (low, high) = (limits::ALIGNMENT.start(), limits::ALIGNMENT.end());
            Err(format!("expected a power of two from {low} to {high}, found {value} ({})", value.type_name()))
        }
    }
}

/// For `map_err`.
fn at(path: &Path, place: impl Into<String>) -> impl FnOnce(String) -> Error {
    move |problem| Error::malformed(path, place, problem)
}

fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

/// Bytes read from front to back. Errors say what is wrong; the caller adds where.
struct Cursor<'a> {
    /// The file, or its beginning.
    bytes: &'a [u8],
    at: usize,
    /// Bytes of the file.
    len: u64,
    /// Whether something failed only because `bytes` are not the whole file.
    more: bool,
}

impl<'a> Cursor<'a> {
    fn remaining(&self) -> u64 {
        self.len - self.at as u64
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(len).ok().and_then(|len| rest.get(..len)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => {
                let left = self.remaining();
                self.more |= len <= left;
                Err(format!("needs {len} bytes at offset {}, but the file has only {left} left", self.at))
            }
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bool(&mut self) -> Result<bool, String> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(format!("expected a bool (0 or 1), found {other}")),
        }
    }

    /// A string of at most `limit` bytes.
    fn text(&mut self, limit: u64) -> Result<&'a str, String> {
        let len = self.u64()?;
        if len > limit {
            return Err(format!("has a length of {len} bytes, more than the limit of {limit}"));
        }
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|e| format!("is not UTF-8: {e}"))
    }

    /// A value with its type before it.
    fn value(&mut self) -> Result<Value, String> {
        Ok(match self.u32()? {
            0 => Value::U8(u8::from_le_bytes(self.array()?)),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(u32::from_le_bytes(self.array()?)),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => Value::Bool(self.bool()?),
            8 => Value::String(self.text(limits::STRING)?.to_owned()),
            9 => Value::Array(self.elements()?),
            10 => Value::U64(u64::from_le_bytes(self.array()?)),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("has the unknown value type {other}")),
        })
    }

    /// An array: element type, count, elements.
    fn elements(&mut self) -> Result<Array, String> {
        let ty = self.u32()?;
        let count = self.u64()?;
        if count > limits::ARRAY {
            return Err(format!("has {count} elements, more than the limit of {}", limits::ARRAY));
        }
        Ok(match ty {
            0 => Array::U8(self.numbers(count, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(count, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(count, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(count, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(count, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(count, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(count, f32::from_le_bytes)?),
            7 => {
                self.require(count, 1)?;
                Array::Bool((0..count).map(|_| self.bool()).collect::<Result<_, _>>()?)
            }
            8 => {
                self.require(count, 8)?;
                let mut strings = Strings::with_capacity(count as usize); // at most limits::ARRAY
                for i in 0..count {
                    strings.push(self.text(limits::STRING).map_err(|problem| format!("element {i} {problem}"))?);
                }
                Array::String(strings)
            }
            9 => return Err("is an array of arrays, which this program does not read".to_owned()),
            10 => Array::U64(self.numbers(count, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(count, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(count, f64::from_le_bytes)?),
            other => return Err(format!("is an array of the unknown value type {other}")),
        })
    }

    fn numbers<T, const N: usize>(&mut self, count: u64, convert: fn([u8; N]) -> T) -> Result<Vec<T>, String> {
        self.require(count, N as u64)?;
        let bytes = self.take(count * N as u64)?; // cannot overflow: fits the file
        Ok(bytes.as_chunks().0.iter().map(|x| convert(*x)).collect())
    }

    /// Fails when `count` elements of at least `size` bytes are more than the file has.
    fn require(&self, count: u64, size: u64) -> Result<(), String> {
        match count.checked_mul(size) {
            Some(total) if total <= self.remaining() => Ok(()),
            _ => Err(format!("has {count} elements, but the file has only {} bytes left", self.remaining())),
        }
    }

    /// Dimensions, type id and offset of a tensor.
    fn tensor(&mut self) -> Result<(Vec<u64>, u32, u64), String> {
        let dim_count = self.u32()?;
        if !(1..=limits::DIMS).contains(&dim_count) {
            return Err(format!("has {dim_count} dimensions, expected 1 to {}", limits::DIMS));
        }
        let dims = (0..dim_count).map(|_| self.u64()).collect::<Result<Vec<u64>, _>>()?;
        if dims.contains(&0) {
            return Err(format!("has a dimension of 0: {}", shape(dims.iter().rev())));
        }
        Ok((dims, self.u32()?, self.u64()?))
    }
}

/// "[2, 3]".
pub(super) fn shape(dims: impl Iterator<Item = impl Display>) -> String {
    format!("[{}]", dims.map(|d| d.to_string()).collect::<Vec<_>>().join(", "))
}
