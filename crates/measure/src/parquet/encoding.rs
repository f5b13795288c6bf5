//! How the values and levels of a page are encoded. Decoders hold positions, not bytes, and give one value at a time:
//! a run of a billion equal values takes no memory.

use super::footer::{Leaf, Physical};
use super::thrift::{Parsed, Reader};
use serde_json::{Number, Value};

/// `width` bits (at most 64) of `data` from bit `at` on, least significant first.
fn bits(data: &[u8], at: usize, width: u8) -> Option<u64> {
    let bytes = data.get(at / 8..(at + usize::from(width)).div_ceil(8))?;
    let wide = bytes.iter().rev().fold(0u128, |sum, &byte| sum << 8 | u128::from(byte));
    Some((wide >> (at % 8)) as u64 & u64::MAX.checked_shr(64 - u32::from(width)).unwrap_or(0))
}

fn ends_early() -> String {
    "a page ends early".to_string()
}

/// Small numbers as runs: repeated ones, or bit-packed groups of eight.
#[derive(Debug)]
pub(super) struct Hybrid {
    at: usize,
    width: u8,
    run: Run,
}

#[derive(Debug)]
enum Run {
    Repeated { value: u32, left: u64 },
    Packed { bit: usize, left: u64 },
}

impl Hybrid {
    /// Numbers of `width` bits from byte `at` on.
    pub(super) fn new(at: usize, width: u8) -> Parsed<Self> {
        if width > 32 {
            return Err(format!("indices of {width} bits"));
        }
        Ok(Self { at, width, run: Run::Repeated { value: 0, left: 0 } })
    }

    pub(super) fn next(&mut self, data: &[u8]) -> Parsed<u32> {
        loop {
            match &mut self.run {
                Run::Repeated { value, left: left @ 1.. } => {
                    *left -= 1;
                    return Ok(*value);
                }
                Run::Packed { bit, left: left @ 1.. } => {
                    let value = bits(data, *bit, self.width).ok_or_else(ends_early)?;
                    *left -= 1;
                    *bit += usize::from(self.width);
                    return Ok(value as u32);
                }
                _ => self.begin_run(data)?,
            }
        }
    }

    fn begin_run(&mut self, data: &[u8]) -> Parsed<()> {
        let rest = data.get(self.at..).filter(|rest| !rest.is_empty()).ok_or_else(ends_early)?;
        let mut reader = Reader::new(rest);
        let head = reader.varint()?;
        self.at += reader.position();
        if head & 1 == 1 {
            // Groups of eight numbers. A run may claim more than the page holds: what is not there is not read, and a
            // place beyond the page is as good as any other.
            let groups = head >> 1;
            let bytes = usize::try_from(groups.saturating_mul(self.width.into())).unwrap_or(usize::MAX);
            self.run = Run::Packed { bit: self.at * 8, left: groups.saturating_mul(8) };
            self.at = self.at.saturating_add(bytes);
        } else {
            let bytes = usize::from(self.width).div_ceil(8);
            let value = bits(data, self.at * 8, (bytes * 8) as u8).ok_or_else(ends_early)?;
            self.at += bytes;
            self.run = Run::Repeated { value: value as u32, left: head >> 1 };
        }
        Ok(())
    }
}

/// Integers as differences in bit-packed blocks.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    at: usize,
    left: u64,
    value: i64,
    is_first: bool,
    /// Parts of a block, and values in each.
    parts: usize,
    per_part: usize,
    smallest: i64,
    /// Where the widths of the block's parts are; which part it is.
    widths: usize,
    part: usize,
    left_in_part: usize,
    bit: usize,
    width: u8,
}

impl Delta {
    pub(super) fn new(data: &[u8], at: usize) -> Parsed<Self> {
        let mut reader = Reader::new(data.get(at..).ok_or_else(ends_early)?);
        let (block, parts, left, value) = (reader.varint()?, reader.varint()?, reader.varint()?, reader.zigzag()?);
        if !(1..=1 << 16).contains(&block) || parts == 0 || block % parts != 0 || !(block / parts).is_multiple_of(8) {
            return Err(format!("blocks of {block} values in {parts} parts"));
        }
        let (parts, per_part) = (parts as usize, (block / parts) as usize);
        let at = at + reader.position();
        Ok(Self {
            at,
            left,
            value,
            is_first: true,
            parts,
            per_part,
            smallest: 0,
            widths: 0,
            part: parts - 1,
            left_in_part: 0,
            bit: 0,
            width: 0,
        })
    }

    pub(super) fn next(&mut self, data: &[u8]) -> Parsed<i64> {
        self.left = self.left.checked_sub(1).ok_or_else(ends_early)?;
        if self.is_first {
            self.is_first = false;
            return Ok(self.value);
        }
        if self.left_in_part == 0 {
            self.part += 1;
            if self.part == self.parts {
                let mut reader = Reader::new(data.get(self.at..).ok_or_else(ends_early)?);
                self.smallest = reader.zigzag()?;
                self.widths = self.at + reader.position();
                self.at = self.widths + self.parts;
                self.part = 0;
            }
            self.width = *data.get(self.widths + self.part).ok_or_else(ends_early)?;
            if self.width > 64 {
                return Err(format!("differences of {} bits", self.width));
            }
            self.bit = self.at * 8;
            self.at += self.per_part / 8 * usize::from(self.width);
            self.left_in_part = self.per_part;
        }
        let difference = bits(data, self.bit, self.width).ok_or_else(ends_early)?;
        self.bit += usize::from(self.width);
        self.left_in_part -= 1;
        self.value = self.value.wrapping_add(self.smallest).wrapping_add(difference as i64);
        Ok(self.value)
    }

    /// Where the bytes after these numbers begin. `most` bounds how many there may be.
    fn end(&self, data: &[u8], most: u64) -> Parsed<usize> {
        if self.left > most {
            return Err(format!("{} values in a page of {most}", self.left));
        }
        let mut all = self.clone();
        while all.left > 0 {
            all.next(data)?;
        }
        Ok(all.at)
    }

    /// The next number as a length.
    fn length(&mut self, data: &[u8]) -> Parsed<usize> {
        let value = self.next(data)?;
        usize::try_from(value).map_err(|_| format!("a length of {value}"))
    }
}

/// The values that all pages of a column refer to.
#[derive(Debug)]
pub(super) struct Dictionary {
    pub(super) data: Vec<u8>,
    /// Where each value begins.
    starts: Vec<u32>,
}

impl Dictionary {
    /// Finds the `count` values of a page's `data`.
    pub(super) fn new(data: Vec<u8>, count: u64, leaf: &Leaf) -> Parsed<Self> {
        let mut starts = Vec::new();
        let mut at = 0;
        if leaf.physical == Physical::Boolean {
            return Err("a dictionary of flags".to_string());
        }
        for _ in 0..count {
            starts.push(u32::try_from(at).map_err(|_| ends_early())?);
            plain(&data, &mut at, leaf.physical)?;
        }
        Ok(Self { data, starts })
    }

    pub(super) fn size(&self) -> usize {
        self.data.len() + 4 * self.starts.len()
    }
}

/// Where the next value of a page comes from.
#[derive(Debug)]
pub(super) enum Values {
    Plain { at: usize },
    Flags { bit: usize },
    Runs(Hybrid),
    Dictionary(Hybrid),
    Delta(Delta),
    Lengths { lengths: Delta, at: usize },
    Prefixes { prefixes: Delta, lengths: Delta, at: usize, last: Vec<u8> },
}

impl Values {
    /// The decoder of a page of `entries` values whose values begin at `at` of `data`.
    pub(super) fn new(encoding: i32, data: &[u8], at: usize, entries: u64, physical: Physical) -> Parsed<Self> {
        use Physical::{Boolean, Bytes, Int32, Int64};
        Ok(match (encoding, physical) {
            (0, Boolean) => Self::Flags { bit: at * 8 },
            (0, _) => Self::Plain { at },
            (2 | 8, _) => match data.get(at) {
                Some(&width) => Self::Dictionary(Hybrid::new(at + 1, width)?),
                // A page of nulls may have no indices at all.
                None => Self::Dictionary(Hybrid::new(at, 0)?),
            },
            (3, Boolean) => Self::Runs(Hybrid::new(at + 4, 1)?),
            (5, Int32 | Int64) => Self::Delta(Delta::new(data, at)?),
            (6, Bytes) => {
                let lengths = Delta::new(data, at)?;
                let at = lengths.end(data, entries)?;
                Self::Lengths { lengths, at }
            }
            (7, Bytes) => {
                let prefixes = Delta::new(data, at)?;
                let lengths = Delta::new(data, prefixes.end(data, entries)?)?;
                let at = lengths.end(data, entries)?;
                Self::Prefixes { prefixes, lengths, at, last: Vec::new() }
            }
            (other, physical) => return Err(format!("values of type {physical:?} in encoding {other}, not supported")),
        })
    }

    /// The next value; texts longer than `most` bytes are refused.
    pub(super) fn next(
        &mut self,
        data: &[u8],
        dictionary: Option<&Dictionary>,
        leaf: &Leaf,
        most: usize,
    ) -> Parsed<Value> {
        match self {
            Self::Plain { at } => value(plain(data, at, leaf.physical)?, leaf),
            Self::Flags { bit } => {
                let flag = bits(data, *bit, 1).ok_or_else(ends_early)?;
                *bit += 1;
                Ok(Value::Bool(flag == 1))
            }
            Self::Runs(runs) => Ok(Value::Bool(runs.next(data)? == 1)),
            Self::Dictionary(indices) => {
                let dictionary = dictionary.ok_or("refers to a dictionary that is not there")?;
                let index = indices.next(data)? as usize;
                let start = dictionary.starts.get(index);
                let start = start.ok_or_else(|| format!("value {index} of {}", dictionary.starts.len()))?;
                value(plain(&dictionary.data, &mut (*start as usize), leaf.physical)?, leaf)
            }
            Self::Delta(numbers) => Ok(number(numbers.next(data)?, leaf)),
            Self::Lengths { lengths, at } => {
                let length = lengths.length(data)?;
                let bytes = data.get(*at..).and_then(|rest| rest.get(..length)).ok_or_else(ends_early)?;
                *at += length;
                text(bytes)
            }
            Self::Prefixes { prefixes, lengths, at, last } => {
                let (prefix, length) = (prefixes.length(data)?, lengths.length(data)?);
                let bytes = data.get(*at..).and_then(|rest| rest.get(..length)).ok_or_else(ends_early)?;
                *at += length;
                if prefix > last.len() {
                    return Err(format!("a prefix of {prefix} bytes of a text of {}", last.len()));
                }
                if prefix + length > most {
                    return Err(format!("a text of {} bytes", prefix + length));
                }
                last.truncate(prefix);
                last.extend_from_slice(bytes);
                text(last)
            }
        }
    }
}

/// The bytes of the value at `at`, which moves behind it.
fn plain<'a>(data: &'a [u8], at: &mut usize, physical: Physical) -> Parsed<&'a [u8]> {
    let rest = data.get(*at..).ok_or_else(ends_early)?;
    let (skipped, size) = match physical {
        Physical::Int32 | Physical::Float => (0, 4),
        Physical::Int64 | Physical::Double => (0, 8),
        Physical::Bytes => {
            let size = rest.first_chunk::<4>().ok_or_else(ends_early)?;
            (4, u32::from_le_bytes(*size) as usize)
        }
        Physical::Boolean | Physical::Other => return Err("a type that is not supported".to_string()),
    };
    let found = rest[skipped..].get(..size).ok_or_else(ends_early)?;
    *at += skipped + size;
    Ok(found)
}

fn value(bytes: &[u8], leaf: &Leaf) -> Parsed<Value> {
    let real = |value: f64| Number::from_f64(value).map_or(Value::Null, Value::Number);
    Ok(match (leaf.physical, bytes) {
        (Physical::Int32, &[a, b, c, d]) => number(i64::from(i32::from_le_bytes([a, b, c, d])), leaf),
        (Physical::Float, &[a, b, c, d]) => real(f64::from(f32::from_le_bytes([a, b, c, d]))),
        (Physical::Int64, &[a, b, c, d, e, f, g, h]) => number(i64::from_le_bytes([a, b, c, d, e, f, g, h]), leaf),
        (Physical::Double, &[a, b, c, d, e, f, g, h]) => real(f64::from_le_bytes([a, b, c, d, e, f, g, h])),
        _ => return text(bytes),
    })
}

fn number(value: i64, leaf: &Leaf) -> Value {
    match (leaf.unsigned, leaf.physical) {
        (false, _) => value.into(),
        (true, Physical::Int32) => (value as u32).into(),
        (true, _) => (value as u64).into(),
    }
}

fn text(bytes: &[u8]) -> Parsed<Value> {
    let text = std::str::from_utf8(bytes).map_err(|_| "holds bytes that are not UTF-8 text")?;
    Ok(Value::String(text.to_string()))
}
