//! Thrift's compact protocol, as far as Parquet's metadata needs it.

/// What was read, or what is wrong with the bytes.
pub(super) type Parsed<T> = Result<T, String>;

/// How deep structures nobody asked for may nest.
const MAX_DEPTH: usize = 32;

/// Type of a value, as it stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    True,
    False,
    Byte,
    I16,
    I32,
    I64,
    Double,
    Binary,
    List,
    Map,
    Struct,
}

impl Kind {
    fn of(code: u8) -> Parsed<Self> {
        Ok(match code {
            1 => Self::True,
            2 => Self::False,
            3 => Self::Byte,
            4 => Self::I16,
            5 => Self::I32,
            6 => Self::I64,
            7 => Self::Double,
            8 => Self::Binary,
            9 | 10 => Self::List, // 10 is a set, written alike
            11 => Self::Map,
            12 => Self::Struct,
            other => return Err(format!("a value of unknown type {other}")),
        })
    }
}

/// Reads values one after the other.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn take(&mut self, count: u64) -> Parsed<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let count = usize::try_from(count).ok().filter(|count| *count <= rest.len()).ok_or("ends early")?;
        self.at += count;
        Ok(&rest[..count])
    }

    fn byte(&mut self) -> Parsed<u8> {
        self.take(1)?.first().copied().ok_or_else(|| "ends early".to_string())
    }

    pub(super) fn varint(&mut self) -> Parsed<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits".to_string())
    }

    pub(super) fn zigzag(&mut self) -> Parsed<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Reads a structure; `field` must read or [`skip`](Self::skip) the value of every field it is called with.
    pub(super) fn structure(&mut self, mut field: impl FnMut(&mut Self, i64, Kind) -> Parsed<()>) -> Parsed<()> {
        let mut id = 0;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            let kind = Kind::of(head & 15)?;
            id = match head >> 4 {
                0 => self.zigzag()?,
                delta => id + i64::from(delta),
            };
            if !(0..=i64::from(i16::MAX)).contains(&id) {
                return Err(format!("a field with number {id}"));
            }
            field(self, id, kind)?;
        }
    }

    /// Reads a list; `element` must read each element.
    pub(super) fn list(&mut self, kind: Kind, mut element: impl FnMut(&mut Self, Kind) -> Parsed<()>) -> Parsed<()> {
        expect(kind, Kind::List)?;
        let (kind, count) = self.list_head()?;
        for _ in 0..count {
            element(self, kind)?;
        }
        Ok(())
    }

    fn list_head(&mut self) -> Parsed<(Kind, u64)> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        Ok((Kind::of(head & 15)?, count))
    }

    pub(super) fn i32(&mut self, kind: Kind) -> Parsed<i32> {
        expect(kind, Kind::I32)?;
        let value = self.zigzag()?;
        i32::try_from(value).map_err(|_| format!("{value} as a number of 32 bits"))
    }

    pub(super) fn i64(&mut self, kind: Kind) -> Parsed<i64> {
        expect(kind, Kind::I64)?;
        self.zigzag()
    }

    /// A size or an offset.
    pub(super) fn size(&mut self, kind: Kind) -> Parsed<u64> {
        let value = if kind == Kind::I32 { i64::from(self.i32(kind)?) } else { self.i64(kind)? };
        u64::try_from(value).map_err(|_| format!("a size of {value}"))
    }

    pub(super) fn text(&mut self, kind: Kind) -> Parsed<&'a str> {
        expect(kind, Kind::Binary)?;
        let size = self.varint()?;
        std::str::from_utf8(self.take(size)?).map_err(|_| "a name that is not UTF-8".to_string())
    }

    pub(super) fn flag(kind: Kind) -> Parsed<bool> {
        match kind {
            Kind::True => Ok(true),
            Kind::False => Ok(false),
            other => Err(format!("a value of type {other:?} where a flag belongs")),
        }
    }

    /// Passes over a value.
    pub(super) fn skip(&mut self, kind: Kind) -> Parsed<()> {
        self.skip_at(kind, 0)
    }

    fn skip_at(&mut self, kind: Kind, depth: usize) -> Parsed<()> {
        if depth > MAX_DEPTH {
            return Err("nested too deeply".to_string());
        }
        match kind {
            Kind::True | Kind::False => {}
            Kind::Byte => drop(self.byte()?),
            Kind::I16 | Kind::I32 | Kind::I64 => drop(self.varint()?),
            Kind::Double => drop(self.take(8)?),
            Kind::Binary => {
                let size = self.varint()?;
                self.take(size)?;
            }
            Kind::List => {
                let (kind, count) = self.list_head()?;
                for _ in 0..count {
                    self.skip_element(kind, depth)?;
                }
            }
            Kind::Map => {
                let count = self.varint()?;
                if count > 0 {
                    let kinds = self.byte()?;
                    let (key, value) = (Kind::of(kinds >> 4)?, Kind::of(kinds & 15)?);
                    for _ in 0..count {
                        self.skip_element(key, depth)?;
                        self.skip_element(value, depth)?;
                    }
                }
            }
            Kind::Struct => self.structure(|reader, _, kind| reader.skip_at(kind, depth + 1))?,
        }
        Ok(())
    }

    /// Flags take a byte here, so that every element takes some: a count cannot keep this busy for long.
    fn skip_element(&mut self, kind: Kind, depth: usize) -> Parsed<()> {
        match kind {
            Kind::True | Kind::False => self.byte().map(drop),
            other => self.skip_at(other, depth + 1),
        }
    }
}

fn expect(found: Kind, expected: Kind) -> Parsed<()> {
    if found == expected { Ok(()) } else { Err(format!("a value of type {found:?} where {expected:?} belongs")) }
}
