//! One column of one row group: its pages, one at a time, and the values in them.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;
use sherry_kernels::Bytes;

use super::encoding::{Dictionary, Hybrid, Values};
use super::footer::{Chunk, Leaf};
use super::thrift::{Kind, Parsed, Reader};

/// Largest page, unpacked: usual ones have 1 MiB, but a page holds one value at least.
const MAX_PAGE: usize = 16 << 20;
/// Most values of a page; writers stop at some 20,000.
const MAX_ENTRIES: u64 = 16 << 20;

/// Reads a column from its first to its last value.
#[derive(Debug)]
pub(super) struct Column {
    leaf: Leaf,
    codec: i32,
    /// All pages, and where the next begins.
    pages: Bytes,
    at: usize,
    /// Values on the pages from `at` on.
    entries: u64,
    dictionary: Option<Dictionary>,
    page: Option<Page>,
    /// Repetition and definition level of the next value.
    next: Option<(u8, u8)>,
}

/// A page that is being read.
#[derive(Debug)]
struct Page {
    data: Vec<u8>,
    entries: u64,
    reps: Hybrid,
    defs: Hybrid,
    values: Values,
}

/// What stands before a page.
#[derive(Default)]
struct Header {
    kind: i32,
    unpacked: usize,
    packed: usize,
    checksum: Option<u32>,
    entries: u64,
    encoding: i32,
    /// Old pages (version 1): how levels are encoded.
    level_encodings: [i32; 2],
    /// New pages (version 2): bytes of repetition and definition levels; whether the values are compressed.
    level_bytes: [usize; 2],
    stored: bool,
}

const DATA: i32 = 0;
const DICTIONARY: i32 = 2;
const DATA_V2: i32 = 3;
const RLE: i32 = 3;

impl Column {
    /// `None` when the chunk lies outside of `file`.
    pub(super) fn new(file: &Bytes, chunk: &Chunk, leaf: Leaf) -> Option<Self> {
        Some(Self {
            leaf,
            codec: chunk.codec,
            pages: file.slice(chunk.range.clone())?,
            at: 0,
            entries: chunk.entries,
            dictionary: None,
            page: None,
            next: None,
        })
    }

    /// Bytes held in memory.
    pub(super) fn size(&self) -> usize {
        self.page.as_ref().map_or(0, |page| page.data.len()) + self.dictionary.as_ref().map_or(0, Dictionary::size)
    }

    /// Repetition and definition level of the next value; `None` behind the last.
    pub(super) fn peek(&mut self) -> Parsed<Option<(u8, u8)>> {
        self.look().map_err(|problem| format!("column '{}': {problem}", self.leaf.path))
    }

    /// The next value, which must have repetition level `rep`, and its definition level. Texts longer than `most` bytes
    /// are refused.
    pub(super) fn take(&mut self, rep: u8, most: usize) -> Parsed<(u8, Value)> {
        self.take_next(rep, most).map_err(|problem| format!("column '{}': {problem}", self.leaf.path))
    }

    fn take_next(&mut self, rep: u8, most: usize) -> Parsed<(u8, Value)> {
        let (found, def) = self.look()?.ok_or("has fewer values than there are rows")?;
        if found != rep {
            return Err("its lists are not those of its neighbours".to_string());
        }
        self.next = None;
        match &mut self.page {
            Some(page) if def == self.leaf.max_def => {
                let value = page.values.next(&page.data, self.dictionary.as_ref(), &self.leaf, most)?;
                Ok((def, value))
            }
            _ => Ok((def, Value::Null)),
        }
    }

    fn look(&mut self) -> Parsed<Option<(u8, u8)>> {
        loop {
            if self.next.is_some() {
                return Ok(self.next);
            }
            match &mut self.page {
                Some(page) if page.entries > 0 => {
                    page.entries -= 1;
                    let level = |levels: &mut Hybrid, most: u8| {
                        let level = if most == 0 { 0 } else { levels.next(&page.data)? };
                        let level = u8::try_from(level).ok().filter(|level| *level <= most);
                        level.ok_or_else(|| "levels beyond those of the schema".to_string())
                    };
                    let rep = level(&mut page.reps, self.leaf.max_rep)?;
                    self.next = Some((rep, level(&mut page.defs, self.leaf.max_def)?));
                }
                _ if self.entries == 0 => return Ok(None),
                _ => self.load_page()?,
            }
        }
    }

    fn load_page(&mut self) -> Parsed<()> {
        self.page = None;
        let rest = &self.pages[self.at..];
        if rest.is_empty() {
            return Err(format!("{} values are missing", self.entries));
        }
        let mut reader = Reader::new(rest);
        let header = Header::parse(&mut reader).map_err(|problem| format!("page header: {problem}"))?;
        let body = rest[reader.position()..].get(..header.packed);
        let body = body.ok_or_else(|| format!("a page of {} bytes ends early", header.packed))?;
        if let Some(expected) = header.checksum {
            let mut sum = flate2::Crc::new();
            sum.update(body);
            if sum.sum() != expected {
                return Err("a page is damaged: its checksum does not match".to_string());
            }
        }
        self.at += reader.position() + header.packed;
        match header.kind {
            DICTIONARY => {
                if self.dictionary.is_some() {
                    return Err("has two dictionaries".to_string());
                }
                let data = unpack(self.codec, body, header.unpacked)?;
                self.dictionary = Some(Dictionary::new(data, header.entries, &self.leaf)?);
            }
            DATA | DATA_V2 => {
                self.entries =
                    self.entries.checked_sub(header.entries).ok_or("its pages hold more values than announced")?;
                self.page = Some(if header.kind == DATA {
                    Page::old(&header, unpack(self.codec, body, header.unpacked)?, &self.leaf)?
                } else {
                    Page::new(&header, body, self.codec, &self.leaf)?
                });
            }
            _ => {} // indices
        }
        Ok(())
    }
}

impl Header {
    fn parse(reader: &mut Reader<'_>) -> Parsed<Self> {
        let mut found = Self { kind: -1, ..Self::default() };
        let (mut sized, mut described) = ([false; 2], false);
        reader.structure(|reader, id, kind| {
            match id {
                1 => found.kind = reader.i32(kind)?,
                2 => (found.unpacked, sized[0]) = (page_size(reader, kind)?, true),
                3 => (found.packed, sized[1]) = (page_size(reader, kind)?, true),
                4 => found.checksum = Some(reader.i32(kind)? as u32),
                5 | 7 | 8 if kind == Kind::Struct => {
                    described = true;
                    reader.structure(|reader, field, kind| found.describe(reader, id, field, kind))?;
                }
                _ => reader.skip(kind)?,
            }
            Ok(())
        })?;
        if !(sized[0] && sized[1]) || (matches!(found.kind, DATA | DICTIONARY | DATA_V2) && !described) {
            return Err("incomplete".to_string());
        }
        if found.entries > MAX_ENTRIES {
            return Err(format!("{} values, at most {MAX_ENTRIES} are read", found.entries));
        }
        Ok(found)
    }

    /// A field of the structure `id`: 5 data page, 7 dictionary, 8 data page version 2.
    fn describe(&mut self, reader: &mut Reader<'_>, id: i64, field: i64, kind: Kind) -> Parsed<()> {
        match (id, field) {
            (_, 1) => self.entries = reader.size(kind)?,
            (5 | 7, 2) | (8, 4) => self.encoding = reader.i32(kind)?,
            (5, 3) => self.level_encodings[1] = reader.i32(kind)?,
            (5, 4) => self.level_encodings[0] = reader.i32(kind)?,
            (8, 5) => self.level_bytes[1] = page_size(reader, kind)?,
            (8, 6) => self.level_bytes[0] = page_size(reader, kind)?,
            (8, 7) => self.stored = !Reader::flag(kind)?,
            _ => reader.skip(kind)?,
        }
        Ok(())
    }
}

fn page_size(reader: &mut Reader<'_>, kind: Kind) -> Parsed<usize> {
    let size = reader.size(kind)?;
    usize::try_from(size)
        .ok()
        .filter(|size| *size <= MAX_PAGE)
        .ok_or_else(|| format!("a page of {size} bytes, at most {MAX_PAGE} are read"))
}

impl Page {
    /// Version 1: levels with their lengths before them, all compressed together.
    fn old(header: &Header, data: Vec<u8>, leaf: &Leaf) -> Parsed<Self> {
        let mut at = 0;
        let mut levels = |most: u8, encoding: i32| {
            if most == 0 {
                return Hybrid::new(0, 0);
            }
            if encoding != RLE {
                return Err(format!("levels in encoding {encoding}, not supported"));
            }
            let size = data.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or("a page ends early")?;
            let start = at + 4;
            let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
            at = start.checked_add(size).filter(|at| *at <= data.len()).ok_or("levels longer than their page")?;
            Hybrid::new(start, level_width(most))
        };
        let reps = levels(leaf.max_rep, header.level_encodings[0])?;
        let defs = levels(leaf.max_def, header.level_encodings[1])?;
        let values = Values::new(header.encoding, &data, at, header.entries, leaf.physical)?;
        Ok(Self { entries: header.entries, reps, defs, values, data })
    }

    /// Version 2: levels first, never compressed.
    fn new(header: &Header, body: &[u8], codec: i32, leaf: &Leaf) -> Parsed<Self> {
        let [reps, defs] = header.level_bytes;
        let levels = reps + defs;
        let (before, packed) = body.split_at_checked(levels).ok_or("levels longer than their page")?;
        let mut data = before.to_vec();
        let unpacked = header.unpacked.checked_sub(levels).ok_or("levels longer than their page")?;
        let codec = if header.stored { 0 } else { codec };
        // A page of nulls may have nothing to unpack.
        if !packed.is_empty() {
            data.append(&mut unpack(codec, packed, unpacked)?);
        }
        let values = Values::new(header.encoding, &data, levels, header.entries, leaf.physical)?;
        Ok(Self {
            entries: header.entries,
            reps: Hybrid::new(0, level_width(leaf.max_rep))?,
            defs: Hybrid::new(reps, level_width(leaf.max_def))?,
            values,
            data,
        })
    }
}

/// Bits of a level.
fn level_width(most: u8) -> u8 {
    (u8::BITS - most.leading_zeros()) as u8
}

/// `packed` unpacked, which must give `size` bytes.
pub(super) fn unpack(codec: i32, packed: &[u8], size: usize) -> Parsed<Vec<u8>> {
    let damaged = |error: &dyn std::fmt::Display| format!("a page cannot be unpacked ({error})");
    let mut data = Vec::new();
    // More than announced is not unpacked, and nothing is set aside for what may not come.
    let most = size as u64 + 1;
    match codec {
        0 => data.extend_from_slice(packed),
        1 => {
            let announced = snap::raw::decompress_len(packed).map_err(|error| damaged(&error))?;
            if announced == size {
                data = snap::raw::Decoder::new().decompress_vec(packed).map_err(|error| damaged(&error))?;
            }
        }
        2 => drop(MultiGzDecoder::new(packed).take(most).read_to_end(&mut data).map_err(|error| damaged(&error))?),
        6 => {
            let mut decoder = zstd::Decoder::with_buffer(packed).map_err(|error| damaged(&error))?;
            decoder.window_log_max(25).map_err(|error| damaged(&error))?;
            decoder.take(most).read_to_end(&mut data).map_err(|error| damaged(&error))?;
        }
        other => {
            let name =
                ["LZO", "Brotli", "LZ4", "", "LZ4"].get(other.wrapping_sub(3) as usize).copied().unwrap_or("unknown");
            return Err(format!("{name} compression is not supported; none, Snappy, gzip and Zstandard are"));
        }
    }
    if data.len() != size {
        return Err(format!("a page of {size} bytes unpacks to another size"));
    }
    Ok(data)
}
