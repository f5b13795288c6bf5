//! Metadata: typed values under string keys.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Strings;
use crate::{Error, Result};

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the types of the format
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// A metadata array: elements of one type. Arrays of arrays exist in the format but not here.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the types of the format
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Strings),
}

/// Runs `$body` with `$items` bound to the vector inside `$array`, whatever its type.
macro_rules! with_items {
    ($array:expr, $items:ident => $body:expr) => {
        match $array {
            Array::U8($items) => $body,
            Array::I8($items) => $body,
            Array::U16($items) => $body,
            Array::I16($items) => $body,
            Array::U32($items) => $body,
            Array::I32($items) => $body,
            Array::U64($items) => $body,
            Array::I64($items) => $body,
            Array::F32($items) => $body,
            Array::F64($items) => $body,
            Array::Bool($items) => $body,
            Array::String($items) => $body,
        }
    };
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        with_items!(self, items => items.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn element_type(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
        }
    }

    /// The elements as i64, when they are integers and fit.
    fn integers(&self) -> Option<Vec<i64>> {
        fn all<T: Copy + TryInto<i64>>(items: &[T]) -> Option<Vec<i64>> {
            items.iter().map(|x| (*x).try_into().ok()).collect()
        }
        match self {
            Self::U8(x) => all(x),
            Self::I8(x) => all(x),
            Self::U16(x) => all(x),
            Self::I16(x) => all(x),
            Self::U32(x) => all(x),
            Self::I32(x) => all(x),
            Self::U64(x) => all(x),
            Self::I64(x) => all(x),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::String(_) => None,
        }
    }
}

impl Value {
    /// The type as messages name it: "u32", "array of string".
    pub fn type_name(&self) -> String {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(array) => return format!("array of {}", array.element_type()),
        }
        .to_owned()
    }

    /// The value of any integer type, when not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(x) => Some(x.into()),
            Self::U16(x) => Some(x.into()),
            Self::U32(x) => Some(x.into()),
            Self::U64(x) => Some(x),
            Self::I8(x) => x.try_into().ok(),
            Self::I16(x) => x.try_into().ok(),
            Self::I32(x) => x.try_into().ok(),
            Self::I64(x) => x.try_into().ok(),
            _ => None,
        }
    }

    /// The value of either float type, narrowed.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(x) => Some(x),
            Self::F64(x) => Some(x as f32),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    /// One line: long strings are cut, arrays shown by their first elements.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(x) => write!(f, "{x}"),
            Self::I8(x) => write!(f, "{x}"),
            Self::U16(x) => write!(f, "{x}"),
            Self::I16(x) => write!(f, "{x}"),
            Self::U32(x) => write!(f, "{x}"),
            Self::I32(x) => write!(f, "{x}"),
            Self::U64(x) => write!(f, "{x}"),
            Self::I64(x) => write!(f, "{x}"),
            Self::F32(x) => write!(f, "{x}"),
            Self::F64(x) => write!(f, "{x}"),
            Self::Bool(x) => write!(f, "{x}"),
            Self::String(x) => f.write_str(&shown(x)),
            Self::Array(array) => {
                const FIRST: usize = 4;
                write!(f, "{} x {}: ", array.len(), array.element_type())?;
                let first: Vec<String> = match array {
                    Array::String(items) => items.iter().take(FIRST).map(|x| format!("'{}'", shown(x))).collect(),
                    _ => with_items!(array, items => items.iter().take(FIRST).map(ToString::to_string).collect()),
                };
                write!(f, "{}{}", first.join(", "), if array.len() > FIRST { ", ..." } else { "" })
            }
        }
    }
}

/// Text from a file made fit for a message: control characters escaped, cut after 80 characters.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown
}

/// The metadata of one file: keys and values in file order, keys unique.
#[derive(Clone, Debug)]
pub struct Metadata {
    path: PathBuf,
    entries: Vec<(String, Value)>,
}

/// Typed look-ups. Each comes as `get_*`, where a missing key is an error, and as `find_*`, where it is `None`; a value
/// of the wrong type is an error in both, which names the file, the key and both types.
impl Metadata {
    pub(crate) fn new(path: &Path, entries: Vec<(String, Value)>) -> Self {
        Self { path: path.to_path_buf(), entries }
    }

    /// The file they come from, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys and values.
    pub fn entries(&self) -> &[(String, Value)] {
        &self.entries
    }

    /// The value under `key`.
    pub fn find(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// A non-negative integer of any width.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn get_u64(&self, key: &str) -> Result<u64> {
        self.required(key, self.find_u64(key)?)
    }

    /// A non-negative integer of any width, if there.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn find_u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a non-negative integer", Value::as_u64)
    }

    /// The id under `tokenizer.ggml.ROLE_token_id`, if there; -1 means that there is none, signed or not.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn find_token_id(&self, role: &str) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{role}_token_id");
        match self.find(&key) {
            Some(Value::I8(-1) | Value::I16(-1) | Value::I32(-1) | Value::I64(-1)) => Ok(None),
            Some(Value::U32(u32::MAX) | Value::U64(u64::MAX)) => Ok(None),
            // An id beyond u32 is beyond every vocabulary, which is what the tokenizer will say.
            _ => Ok(self.find_u64(&key)?.map(|id| u32::try_from(id).unwrap_or(u32::MAX))),
        }
    }

    /// A float, if there.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn find_f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a float", Value::as_f32)
    }

    /// A boolean, if there.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn find_bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(x) => Some(*x),
            _ => None,
        })
    }

    /// A string.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn get_str(&self, key: &str) -> Result<&str> {
        self.required(key, self.find_str(key)?)
    }

    /// A string, if there.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn find_str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| match value {
            Value::String(x) => Some(x.as_str()),
            _ => None,
        })
    }

    /// An array of strings.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn get_strings(&self, key: &str) -> Result<&Strings> {
        self.required(key, self.find_strings(key)?)
    }

    /// An array of strings, if there.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn find_strings(&self, key: &str) -> Result<Option<&Strings>> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::String(x)) => Some(x),
            _ => None,
        })
    }

    /// An array of f32, if there.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn find_f32s(&self, key: &str) -> Result<Option<&[f32]>> {
        self.typed(key, "an array of f32", |value| match value {
            Value::Array(Array::F32(x)) => Some(x.as_slice()),
            _ => None,
        })
    }

    /// An array of integers of any one type, if there.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn find_i64s(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.typed(key, "an array of integers", |value| match value {
            Value::Array(array) => array.integers(),
            _ => None,
        })
    }

    /// Reads the value under `key` by `convert`, which returns `None` for a wrong type.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.find(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => {
                let problem = format!("expected {expected}, found {value} ({})", value.type_name());
                Err(Error::malformed(&self.path, format!("key '{key}'"), problem))
            }
        }
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::malformed(&self.path, format!("key '{key}'"), "is missing"))
    }
}
