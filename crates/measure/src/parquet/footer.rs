//! The end of a Parquet file: its schema and where its columns lie.

use std::ops::Range;

use super::thrift::{Kind, Parsed, Reader};

/// Largest footer read. Footers of sets with thousands of row groups take a few megabytes.
const MAX_FOOTER: usize = 16 << 20;
/// Most fields of a schema, longest name, deepest nesting.
const MAX_FIELDS: usize = 4096;
const MAX_NAME: usize = 256;
const MAX_DEPTH: u8 = 32;

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Physical {
    Boolean,
    Int32,
    Int64,
    Float,
    Double,
    Bytes,
    /// INT96 and fixed-length byte arrays: dates, decimals, half floats.
    Other,
}

/// A column.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    /// Names from the outermost field on, with points between.
    pub(super) path: String,
    pub(super) physical: Physical,
    /// Whether integers have no sign.
    pub(super) unsigned: bool,
    /// The definition level of a value that is there.
    pub(super) max_def: u8,
    /// Lists around it.
    pub(super) max_rep: u8,
}

/// A field of the schema, nested as it will be in JSON.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// Whether it can be null.
    pub(super) optional: bool,
    /// Definition level from which on it is there.
    pub(super) def: u8,
    pub(super) shape: Shape,
    /// Columns under it, never empty.
    pub(super) leaves: Range<usize>,
}

#[derive(Debug)]
pub(super) enum Shape {
    /// Column number `leaves.start`.
    Value,
    Fields(Vec<Node>),
    List {
        element: Box<Node>,
        /// Repetition level of all elements but the first.
        rep: u8,
        /// Definition level from which on there are elements.
        def: u8,
    },
}

/// Where one column of one row group lies.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) codec: i32,
    /// Values, nulls included.
    pub(super) entries: u64,
    pub(super) range: Range<usize>,
}

#[derive(Debug)]
pub(super) struct RowGroup {
    pub(super) rows: u64,
    /// One per column.
    pub(super) chunks: Vec<Chunk>,
}

#[derive(Debug)]
pub(super) struct Footer {
    pub(super) fields: Vec<Node>,
    pub(super) leaves: Vec<Leaf>,
    pub(super) groups: Vec<RowGroup>,
}

impl Footer {
    /// Rows of the whole file.
    pub(super) fn rows(&self) -> u64 {
        self.groups.iter().fold(0, |sum, group| sum.saturating_add(group.rows))
    }

    /// Reads the footer of a whole file.
    pub(super) fn parse(file: &[u8]) -> Parsed<Self> {
        const MAGIC: &[u8] = b"PAR1";
        let not_parquet = "is no Parquet file, or only the beginning of one";
        let body = file.strip_prefix(MAGIC).ok_or(not_parquet)?;
        if file.ends_with(b"PARE") {
            return Err("is encrypted".to_string());
        }
        let body = body.strip_suffix(MAGIC).ok_or(not_parquet)?;
        let (body, size) = body.split_last_chunk::<4>().ok_or(not_parquet)?;
        let size = u32::from_le_bytes(*size) as usize;
        if size > MAX_FOOTER {
            return Err(format!("footer of {size} bytes, at most {MAX_FOOTER} are read"));
        }
        let start = body.len().checked_sub(size).ok_or_else(|| format!("footer of {size} bytes in a smaller file"))?;
        let mut reader = Reader::new(&body[start..]);
        let end = MAGIC.len() + start; // of the columns, in the file
        let mut elements = Vec::new();
        let mut groups = Vec::new();
        let mut rows = None;
        reader
            .structure(|reader, id, kind| match id {
                2 => reader.list(kind, |reader, kind| {
                    if elements.len() == MAX_FIELDS {
                        return Err(format!("more than {MAX_FIELDS} fields"));
                    }
                    elements.push(Element::parse(reader, kind)?);
                    Ok(())
                }),
                3 => reader.size(kind).map(|size| rows = Some(size)),
                4 => reader.list(kind, |reader, kind| {
                    groups.push(row_group(reader, kind, end)?);
                    Ok(())
                }),
                _ => reader.skip(kind),
            })
            .map_err(|problem| format!("footer: {problem}"))?;
        let mut tree = Tree { elements: &elements, at: 0, leaves: Vec::new() };
        let fields = tree.root().map_err(|problem| format!("schema: {problem}"))?;
        let footer = Self { fields, leaves: tree.leaves, groups };
        let columns = footer.leaves.len();
        if let Some(group) = footer.groups.iter().find(|group| group.chunks.len() != columns) {
            return Err(format!("a row group of {} columns, the schema has {columns}", group.chunks.len()));
        }
        if rows != Some(footer.rows()) {
            return Err(format!("says it has {rows:?} rows, its row groups have {}", footer.rows()));
        }
        Ok(footer)
    }
}

fn row_group(reader: &mut Reader<'_>, kind: Kind, end: usize) -> Parsed<RowGroup> {
    is_struct(kind)?;
    let mut chunks = Vec::new();
    let mut rows = None;
    reader.structure(|reader, id, kind| match id {
        1 => reader.list(kind, |reader, kind| {
            chunks.push(chunk(reader, kind, end)?);
            Ok(())
        }),
        3 => reader.size(kind).map(|size| rows = Some(size)),
        _ => reader.skip(kind),
    })?;
    Ok(RowGroup { rows: rows.ok_or("a row group without its number of rows")?, chunks })
}

fn chunk(reader: &mut Reader<'_>, kind: Kind, end: usize) -> Parsed<Chunk> {
    is_struct(kind)?;
    let (mut codec, mut entries, mut size, mut data, mut dictionary) = (None, None, None, None, None);
    let mut elsewhere = false;
    reader.structure(|reader, id, kind| match id {
        1 => {
            elsewhere = true;
            reader.skip(kind)
        }
        3 => {
            is_struct(kind)?;
            reader.structure(|reader, id, kind| match id {
                4 => reader.i32(kind).map(|found| codec = Some(found)),
                5 => reader.size(kind).map(|found| entries = Some(found)),
                7 => reader.size(kind).map(|found| size = Some(found)),
                9 => reader.size(kind).map(|found| data = Some(found)),
                11 => reader.size(kind).map(|found| dictionary = Some(found)),
                _ => reader.skip(kind),
            })
        }
        _ => reader.skip(kind),
    })?;
    if elsewhere {
        return Err("a column in another file".to_string());
    }
    let (Some(codec), Some(entries), Some(size), Some(data)) = (codec, entries, size, data) else {
        return Err("a column whose place is not given".to_string());
    };
    // Some writers give 0 for "no dictionary".
    let start = dictionary.filter(|&start| start > 0).map_or(data, |start| start.min(data));
    let range = start.checked_add(size).filter(|&stop| start >= 4 && stop <= end as u64).map(|stop| start..stop);
    let range = range.ok_or_else(|| format!("a column of {size} bytes at {start}, outside of the file"))?;
    Ok(Chunk { codec, entries, range: range.start as usize..range.end as usize })
}

fn is_struct(kind: Kind) -> Parsed<()> {
    if kind == Kind::Struct { Ok(()) } else { Err(format!("a value of type {kind:?} where a structure belongs")) }
}

/// An entry of the flat schema.
struct Element<'a> {
    name: &'a str,
    physical: Option<Physical>,
    repetition: i32,
    children: u64,
    converted: Option<i32>,
    /// Field number of the union that is the logical type.
    logical: Option<i64>,
}

const REQUIRED: i32 = 0;
const OPTIONAL: i32 = 1;
const REPEATED: i32 = 2;

impl<'a> Element<'a> {
    fn parse(reader: &mut Reader<'a>, kind: Kind) -> Parsed<Self> {
        is_struct(kind)?;
        let mut found =
            Self { name: "", physical: None, repetition: REQUIRED, children: 0, converted: None, logical: None };
        reader.structure(|reader, id, kind| {
            match id {
                1 => {
                    found.physical = Some(match reader.i32(kind)? {
                        0 => Physical::Boolean,
                        1 => Physical::Int32,
                        2 => Physical::Int64,
                        4 => Physical::Float,
                        5 => Physical::Double,
                        6 => Physical::Bytes,
                        3 | 7 => Physical::Other,
                        other => return Err(format!("unknown column type {other}")),
                    });
                }
                3 => found.repetition = reader.i32(kind)?,
                4 => found.name = reader.text(kind)?,
                5 => found.children = reader.size(kind)?,
                6 => found.converted = Some(reader.i32(kind)?),
                10 => {
                    is_struct(kind)?;
                    reader.structure(|reader, id, kind| {
                        found.logical = Some(id);
                        reader.skip(kind)
                    })?;
                }
                _ => reader.skip(kind)?,
            }
            Ok(())
        })?;
        if found.name.len() > MAX_NAME {
            return Err(format!("a name of {} bytes", found.name.len()));
        }
        Ok(found)
    }

    fn is_map(&self) -> bool {
        matches!(self.converted, Some(1 | 2)) || self.logical == Some(2)
    }

    fn is_list(&self) -> bool {
        self.converted == Some(3) || self.logical == Some(3) || self.is_map()
    }
}

/// Nests the flat schema.
struct Tree<'a> {
    elements: &'a [Element<'a>],
    at: usize,
    leaves: Vec<Leaf>,
}

/// Where in the tree: levels so far, nesting, names of the fields around.
#[derive(Clone)]
struct Place {
    def: u8,
    rep: u8,
    depth: u8,
    path: String,
}

impl<'a> Tree<'a> {
    fn next(&mut self) -> Parsed<&'a Element<'a>> {
        let element = self.elements.get(self.at).ok_or("ends early")?;
        self.at += 1;
        Ok(element)
    }

    fn root(&mut self) -> Parsed<Vec<Node>> {
        let root = self.next()?;
        let place = Place { def: 0, rep: 0, depth: 0, path: String::new() };
        let fields = (0..root.children).map(|_| self.node(&place)).collect::<Parsed<Vec<Node>>>()?;
        if fields.is_empty() || self.at != self.elements.len() {
            return Err("its fields are not as many as it says".to_string());
        }
        Ok(fields)
    }

    fn node(&mut self, outside: &Place) -> Parsed<Node> {
        let element = self.next()?;
        let mut place = outside.clone();
        place.depth += 1;
        if place.depth > MAX_DEPTH {
            return Err("nested too deeply".to_string());
        }
        if !place.path.is_empty() {
            place.path.push('.');
        }
        place.path.push_str(element.name);
        match element.repetition {
            REQUIRED => self.body(element, &place, false),
            OPTIONAL => {
                place.def += 1;
                self.body(element, &place, true)
            }
            // Without an annotation it is a list all the same, one that cannot be null.
            REPEATED => {
                let inside = Place { def: place.def + 1, rep: place.rep + 1, ..place.clone() };
                let inner = self.body(element, &inside, false)?;
                Ok(Node {
                    name: element.name.to_string(),
                    optional: false,
                    def: place.def,
                    leaves: inner.leaves.clone(),
                    shape: Shape::List { rep: inside.rep, def: inside.def, element: Box::new(inner) },
                })
            }
            other => Err(format!("field '{}': unknown repetition {other}", place.path)),
        }
    }

    /// What `element` is, its own levels already counted.
    fn body(&mut self, element: &Element<'_>, place: &Place, optional: bool) -> Parsed<Node> {
        let first = self.leaves.len();
        let shape = match (element.physical, element.children) {
            (Some(physical), 0) => {
                self.leaves.push(Leaf {
                    path: place.path.clone(),
                    physical,
                    unsigned: matches!(element.converted, Some(11..=14)),
                    max_def: place.def,
                    max_rep: place.rep,
                });
                Shape::Value
            }
            (None, 1) if element.is_list() && self.elements.get(self.at).is_some_and(|e| e.repetition == REPEATED) => {
                let repeated = self.next()?;
                let inside =
                    Place { def: place.def + 1, rep: place.rep + 1, depth: place.depth + 1, path: place.path.clone() };
                if inside.depth > MAX_DEPTH {
                    return Err("nested too deeply".to_string());
                }
                // The format's rules for old files: only a group around a single field is just wrapping.
                let wrapping = repeated.children == 1
                    && !element.is_map()
                    && repeated.name != "array"
                    && repeated.name.strip_suffix("_tuple") != Some(element.name);
                let inner = if wrapping { self.node(&inside)? } else { self.body(repeated, &inside, false)? };
                Shape::List { element: Box::new(inner), rep: inside.rep, def: inside.def }
            }
            (None, 1..) => Shape::Fields((0..element.children).map(|_| self.node(place)).collect::<Parsed<_>>()?),
            _ => return Err(format!("field '{}': neither a column nor a group of them", place.path)),
        };
        let leaves = first..self.leaves.len();
        Ok(Node { name: element.name.to_string(), optional, def: place.def, shape, leaves })
    }
}
