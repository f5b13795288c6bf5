//! The header of one file: parsed without trust, checked completely.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sherry_kernels::format::TensorType;

use super::place;
use crate::io::FileData;
use crate::{Error, Result};

/// Largest header accepted, as in the reference implementation.
pub const MAX_HEADER_BYTES: usize = 100_000_000;
/// Longest tensor name.
const MAX_NAME: usize = 256;
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 8;
/// The key that is no tensor.
pub(super) const METADATA: &str = "__metadata__";

/// A checked header.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// Tensors in the order of their data.
    pub(super) entries: Vec<Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// One tensor; `range` is where its bytes are in the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) range: Range<usize>,
}

/// The types of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    /// One that tensors can have here.
    Stored(TensorType),
    /// Another one: its name and bits per value.
    Other(&'static str, usize),
}

/// Types that are listed and not read, with bits per value.
const OTHERS: [(&str, usize); 16] = [
    ("BOOL", 8),
    ("I8", 8),
    ("I16", 16),
    ("U16", 16),
    ("U32", 32),
    ("U64", 64),
    ("F64", 64),
    ("C64", 64),
    ("F8_E4M3", 8),
    ("F8_E5M2", 8),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("F4", 4),
];

/// Types of the format that are read; their names are the same here.
pub(super) const READ: [TensorType; 7] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::U8,
    TensorType::I32,
    TensorType::U32,
    TensorType::I64,
];

impl Dtype {
    fn parse(name: &str) -> Option<Self> {
        if let Some(ty) = READ.into_iter().find(|ty| ty.name() == name) {
            return Some(Self::Stored(ty));
        }
        OTHERS.into_iter().find(|(other, _)| *other == name).map(|(name, bits)| Self::Other(name, bits))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stored(ty) => ty.name(),
            Self::Other(name, _) => name,
        }
    }

    pub(super) fn stored_as(self) -> Option<TensorType> {
        match self {
            Self::Stored(ty) => Some(ty),
            Self::Other(..) => None,
        }
    }

    fn bits(self) -> usize {
        match self {
            Self::Stored(ty) => ty.block_bytes() * 8,
            Self::Other(_, bits) => bits,
        }
    }
}

/// Reads and checks the header of `file`.
pub(super) fn read(path: &Path, file: &FileData) -> Result<Header> {
    let malformed = |problem: String| Error::malformed(path, "header", problem);
    let Some(rest) = file.len().checked_sub(8) else {
        return Err(malformed(format!("the file has {} bytes, too few for a header length", file.len())));
    };
    let mut length = [0; 8];
    length.copy_from_slice(&file.slice(path, 0..8)?);
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES as u64 {
        return Err(malformed(format!("length {length} is above the limit of {MAX_HEADER_BYTES}")));
    }
    let length = length as usize;
    let Some(data) = rest.checked_sub(length) else {
        return Err(malformed(format!("length {length}, but only {rest} bytes follow")));
    };
    let start = 8 + length;
    let parsed = parse(path, &file.slice(path, 8..start)?)?;
    let entries = check(path, parsed.tensors, start, data)?;
    Ok(Header { entries, metadata: parsed.metadata })
}

/// Turns raw entries into checked ones, in the order of their data, which starts at `base` and has `len` bytes.
fn check(path: &Path, mut raw: Vec<(String, RawEntry)>, base: usize, len: usize) -> Result<Vec<Entry>> {
    raw.sort_by_key(|(_, entry)| entry.offsets); // stable: empty tensors keep the order of the header
    let mut expected = 0;
    let mut entries = Vec::with_capacity(raw.len());
    for (name, raw) in raw {
        let malformed = |problem: String| Error::malformed(path, place(&name), problem);
        let dtype = Dtype::parse(&raw.dtype)
            .ok_or_else(|| malformed(format!("unknown type '{}'", super::shown(&raw.dtype))))?;
        let (start, end) = raw.offsets;
        if start > end {
            return Err(malformed(format!("its data ends at {end}, before it starts at {start}")));
        }
        if start != expected {
            let what = if start < expected { "overlaps the data before it" } else { "leaves a gap before it" };
            return Err(malformed(format!("its data starts at {start} instead of {expected}: it {what}")));
        }
        if end > len as u64 {
            return Err(malformed(format!("its data ends at {end}, but the file has {len} bytes of data")));
        }
        let (shape, bytes) = size(&raw.shape, dtype).ok_or_else(|| {
            malformed(format!("shape {:?} of {} is no whole number of bytes below 2^64", raw.shape, dtype.name()))
        })?;
        if bytes as u64 != end - start {
            return Err(malformed(format!(
                "shape {shape:?} of {} needs {bytes} bytes, but its data has {}",
                dtype.name(),
                end - start
            )));
        }
        expected = end;
        // `end <= len`, and `base + len` is the length of the file: no overflow.
        let range = base + start as usize..base + end as usize;
        entries.push(Entry { name, dtype, shape, range });
    }
    if expected != len as u64 {
        let problem = format!("the tensors cover {expected} of {len} bytes of data");
        return Err(Error::malformed(path, "header", problem));
    }
    Ok(entries)
}

/// Shape in memory and bytes of data; `None` on overflow or part bytes.
fn size(shape: &[u64], dtype: Dtype) -> Option<(Vec<usize>, usize)> {
    let shape: Vec<usize> = shape.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<_>>()?;
    let values = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))?;
    let bits = values.checked_mul(dtype.bits())?;
    bits.is_multiple_of(8).then_some((shape, bits / 8))
}

/// The JSON as it stands.
#[derive(Default)]
struct Raw {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    offsets: (u64, u64),
}

fn parse(path: &Path, json: &[u8]) -> Result<Raw> {
    let current = RefCell::new(String::new());
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let raw = RawSeed { current: &current }.deserialize(&mut deserializer).and_then(|raw| {
        deserializer.end()?;
        Ok(raw)
    });
    raw.map_err(|error| {
        let name = current.borrow();
        let place = match name.as_str() {
            "" => "header".to_owned(),
            METADATA => format!("header field '{METADATA}'"),
            name => place(name),
        };
        Error::malformed(path, place, error.to_string())
    })
}

/// Reads the header object; `current` is the entry being read, for messages.
struct RawSeed<'a> {
    current: &'a RefCell<String>,
}

impl<'de> DeserializeSeed<'de> for RawSeed<'_> {
    type Value = Raw;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RawSeed<'_> {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut raw = Raw::default();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            self.current.borrow_mut().clone_from(&name);
            if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
                return Err(A::Error::custom(format!("a name must be 1 to {MAX_NAME} bytes of printable text")));
            }
            if !names.insert(name.clone()) {
                return Err(A::Error::custom("the name appears twice"));
            }
            if name == METADATA {
                raw.metadata = map.next_value::<StringMap>()?.0;
            } else {
                let entry = map.next_value()?;
                raw.tensors.push((name, entry));
            }
            self.current.borrow_mut().clear();
        }
        Ok(raw)
    }
}

impl<'de> Deserialize<'de> for RawEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntryVisitor;

        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = RawEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawEntry, A::Error> {
                let (mut dtype, mut shape, mut offsets) = (None, None, None);
                while let Some(key) = map.next_key::<String>()? {
                    let twice = match key.as_str() {
                        "dtype" => dtype.replace(map.next_value()?).is_some(),
                        "shape" => shape.replace(map.next_value::<Shape>()?).is_some(),
                        "data_offsets" => offsets.replace(map.next_value()?).is_some(),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            false
                        }
                    };
                    if twice {
                        return Err(A::Error::custom(format!("{key} appears twice")));
                    }
                }
                Ok(RawEntry {
                    dtype: dtype.ok_or_else(|| A::Error::missing_field("dtype"))?,
                    shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?.0,
                    offsets: offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?,
                })
            }
        }

        deserializer.deserialize_map(EntryVisitor)
    }
}

/// A list of few dimensions: bounded, since a header of 100 MB could hold 50 million.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;

        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = seq.next_element()? {
                    if dims.len() == MAX_DIMS {
                        return Err(A::Error::custom(format!("more than {MAX_DIMS} dimensions")));
                    }
                    dims.push(dim);
                }
                Ok(Shape(dims))
            }
        }

        deserializer.deserialize_seq(ShapeVisitor)
    }
}

/// A map of strings without duplicate keys.
struct StringMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for StringMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;

        impl<'de> Visitor<'de> for MapVisitor {
            type Value = StringMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringMap, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if entries.contains_key(&key) {
                        return Err(A::Error::custom(format!("'{}' appears twice", super::shown(&key))));
                    }
                    entries.insert(key, value);
                }
                Ok(StringMap(entries))
            }
        }

        deserializer.deserialize_map(MapVisitor)
    }
}
