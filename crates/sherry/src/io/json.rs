//! JSON files read with suspicion: size and depth bounded, duplicate keys rejected, every error names file and field.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{ModelFiles, read_regular};
use crate::{Error, Result};

/// Largest JSON file read: the tokenizers of 256k-token vocabularies take about 35 MB.
pub const MAX_JSON_BYTES: u64 = 64 << 20;

/// Reads and parses the JSON file `path`.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Malformed`] as for [`parse`], or when it is no regular file or larger
/// than [`MAX_JSON_BYTES`].
pub fn read(path: &Path) -> Result<Value> {
    parse(path, &read_regular(path, MAX_JSON_BYTES)?)
}

/// Reads and parses the JSON file called `name` among `files`.
///
/// # Errors
/// As [`read`].
pub fn read_among(files: &ModelFiles, name: &str) -> Result<Value> {
    let path = files.path().join(name);
    match files.read(name, MAX_JSON_BYTES)? {
        Some(bytes) => parse(&path, &bytes),
        None => Err(Error::io(&path, "open")(io::ErrorKind::NotFound.into())),
    }
}

/// Parses `bytes` as one JSON value; `path` is for messages.
///
/// # Errors
/// [`Error::Malformed`] when `bytes` is not UTF-8 JSON, nests deeper than 128 levels, holds a number beyond f64 or names
/// a key twice in one object.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Value> {
    check_text(bytes).map_err(|problem| Error::malformed(path, "file", problem))?;
    let trail = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { trail: &trail }.deserialize(&mut deserializer).and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    value.map_err(|error| {
        let trail = trail.borrow();
        let place = if trail.is_empty() { "JSON".to_owned() } else { format!("field '{}'", shown(&trail.join("."))) };
        Error::malformed(path, place, format!("not valid JSON: {error}"))
    })
}

/// What is wrong with JSON, without the names that Rust has for things.
pub(crate) fn plain_words(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    for (rust, plain) in [
        ("invalid type: ", "found "),
        ("sequence", "a list"),
        ("boolean `", "`"),
        ("integer `", "`"),
        ("floating point `", "`"),
        ("string \"", "\""),
        ("map", "an object"),
        ("expected u32", "expected a whole number below 2^32"),
        ("expected f32", "expected a number"),
        ("expected a boolean", "expected true or false"),
    ] {
        text = text.replace(rust, plain);
    }
    // "struct Json with 6 elements"
    if let Some(start) = text.find("struct ") {
        let name = text[start..].split(' ').take(2).map(|word| word.len() + 1).sum::<usize>() - 1;
        let rest = &text[start + name..];
        let elements = rest.strip_prefix(" with ").and_then(|rest| rest.split_once(" elements").map(|(_, rest)| rest));
        text = format!("{}an object{}", &text[..start], elements.unwrap_or(rest));
    }
    text
}

/// Says what is wrong with a file that does not even begin like JSON.
pub(crate) fn check_text(bytes: &[u8]) -> Result<(), String> {
    let problem = match bytes {
        [0xEF, 0xBB, 0xBF, ..] => {
            "begins with a byte-order mark, which JSON does not have; save it as UTF-8 without one"
        }
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => "is UTF-16; JSON is UTF-8",
        [0x1F, 0x8B, ..] => "is compressed with gzip; unpack it",
        _ if bytes.trim_ascii().is_empty() => "is empty",
        _ if bytes.starts_with(b"version https://git-lfs") => {
            "is a pointer of Git LFS, not the file itself; `git lfs pull` gets it"
        }
        _ => return Ok(()),
    };
    Err(problem.to_owned())
}

/// A name from a file, short and printable enough for a message.
pub fn shown(name: &str) -> String {
    const LONGEST: usize = 200;
    let mut text: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push_str("...");
    }
    text
}

/// Builds a [`Value`] like serde_json does, but refuses duplicate keys and remembers in `trail` where it is.
#[derive(Clone, Copy)]
struct Strict<'a> {
    trail: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.trail.borrow_mut().push(key);
            let value = entries.next_value_seed(self)?;
            let key = self.trail.borrow_mut().pop().unwrap_or_default();
            if map.contains_key(&key) {
                self.trail.borrow_mut().push(key);
                return Err(A::Error::custom("the key appears twice"));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// The fields of one JSON object, read by name and type. Errors name the file and the field.
///
/// Every `opt_` getter gives `None` for a field that is absent or null.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    path: &'a Path,
    /// "" or, for nested objects, the way here with a dot at the end: "rope_scaling.".
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which came from the file `path`.
    ///
    /// # Errors
    /// [`Error::Malformed`] when `value` is not an object.
    pub fn new(path: &'a Path, value: &'a Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { path, prefix: String::new(), map }),
            other => Err(Error::malformed(path, "JSON", format!("expected an object, found {}", kind(other)))),
        }
    }

    /// The file, for messages.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// The [`Error::Malformed`] that says what is wrong with field `name`, for checks beyond the type.
    pub fn error(&self, name: &str, problem: impl Into<String>) -> Error {
        Error::malformed(self.path, format!("field '{}{}'", shown(&self.prefix), shown(name)), problem)
    }

    /// Field `name` with the way here: "rope_scaling.factor".
    pub fn full_name(&self, name: &str) -> String {
        format!("{}{}", shown(&self.prefix), shown(name))
    }

    /// Every field, null ones included.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.map.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The field `name` as it stands; `None` when absent or null.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// An object inside this one.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is something else.
    pub fn opt_fields(&self, name: &str) -> Result<Option<Self>> {
        self.typed(name, "an object", |value| {
            let map = value.as_object()?;
            Some(Self { path: self.path, prefix: format!("{}{name}.", self.prefix), map })
        })
    }

    /// A non-negative integer.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is something else (`4096.0` and `"4096"` included).
    pub fn opt_u64(&self, name: &str) -> Result<Option<u64>> {
        self.typed(name, "a non-negative integer", Value::as_u64)
    }

    /// A non-negative integer that must be there.
    ///
    /// # Errors
    /// As [`opt_u64`](Self::opt_u64), or when absent.
    pub fn u64(&self, name: &str) -> Result<u64> {
        self.opt_u64(name)?.ok_or_else(|| self.missing(name))
    }

    /// A non-negative integer that counts things in memory.
    ///
    /// # Errors
    /// As [`opt_u64`](Self::opt_u64).
    pub fn opt_usize(&self, name: &str) -> Result<Option<usize>> {
        self.typed(name, "a non-negative integer", |value| usize::try_from(value.as_u64()?).ok())
    }

    /// A non-negative integer that counts things in memory and must be there.
    ///
    /// # Errors
    /// As [`opt_u64`](Self::opt_u64), or when absent.
    pub fn usize(&self, name: &str) -> Result<usize> {
        self.opt_usize(name)?.ok_or_else(|| self.missing(name))
    }

    /// A finite number, integers included.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is something else.
    pub fn opt_f64(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, "a number", Value::as_f64)
    }

    /// A finite number that must be there.
    ///
    /// # Errors
    /// As [`opt_f64`](Self::opt_f64), or when absent.
    pub fn f64(&self, name: &str) -> Result<f64> {
        self.opt_f64(name)?.ok_or_else(|| self.missing(name))
    }

    /// A number that is finite as f32.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is something else (`1e39` included).
    pub fn opt_f32(&self, name: &str) -> Result<Option<f32>> {
        self.typed(name, "a number that fits f32", |value| {
            Some(value.as_f64()? as f32).filter(|value| value.is_finite())
        })
    }

    /// A number that is finite as f32 and must be there.
    ///
    /// # Errors
    /// As [`opt_f32`](Self::opt_f32), or when absent.
    pub fn f32(&self, name: &str) -> Result<f32> {
        self.opt_f32(name)?.ok_or_else(|| self.missing(name))
    }

    /// true or false.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is something else.
    pub fn opt_bool(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// A string.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is something else.
    pub fn opt_str(&self, name: &str) -> Result<Option<&'a str>> {
        self.typed(name, "a string", Value::as_str)
    }

    /// A string that must be there.
    ///
    /// # Errors
    /// As [`opt_str`](Self::opt_str), or when absent.
    pub fn str(&self, name: &str) -> Result<&'a str> {
        self.opt_str(name)?.ok_or_else(|| self.missing(name))
    }

    /// An array.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is something else.
    pub fn opt_array(&self, name: &str) -> Result<Option<&'a [Value]>> {
        self.typed(name, "an array", |value| value.as_array().map(Vec::as_slice))
    }

    fn typed<T>(&self, name: &str, expected: &str, convert: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.error(name, format!("expected {expected}, found {}", kind(value)))),
        }
    }

    fn missing(&self, name: &str) -> Error {
        self.error(name, "missing")
    }
}

/// What `value` is, for messages.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string '{}'", shown(text)),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "config.json";

    fn parsed(text: &str) -> Value {
        parse(Path::new(FILE), text.as_bytes()).unwrap()
    }

    fn refusal(text: &str) -> String {
        parse(Path::new(FILE), text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn values_equal_those_of_serde_json() {
        let text =
            r#" {"a": [1, -2, 2.5, 1e3, true, null, "x\u00e9\"", {}], "b": {"c": {"d": 18446744073709551615}}} "#;
        assert_eq!(parsed(text), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn duplicate_keys_are_refused_and_named() {
        assert_eq!(
            refusal(r#"{"a": {"b": 1, "b": 1}}"#),
            "config.json: field 'a.b': not valid JSON: the key appears twice at line 1 column 22"
        );
        parsed(r#"{"a": {"b": 1}, "c": {"b": 1}}"#);
    }

    #[test]
    fn numbers_beyond_f64_name_their_field() {
        let message = refusal(r#"{"rope": {"theta": 1e400}}"#);
        assert!(
            message.starts_with("config.json: field 'rope.theta': not valid JSON: number out of range"),
            "{message}"
        );
        for text in ["NaN", "[Infinity]", "{\"a\": -NaN}"] {
            assert!(refusal(text).contains("not valid JSON"));
        }
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = "[".repeat(100_000);
        let deep_objects = "{\"a\":".repeat(100_000);
        for text in [&deep, &deep_objects] {
            let message = refusal(text);
            assert!(message.contains("recursion limit exceeded"), "{message}");
            assert!(message.len() < 500, "{message}");
        }
        for text in ["", "{", "{} {}", "{\"a\":}", "\u{feff}{}", "{'a': 1}", "[1,]", "\"\\ud800\""] {
            refusal(text);
        }
        assert!(parse(Path::new(FILE), b"\"\xff\"").is_err());
    }

    #[test]
    fn names_in_messages_are_short_and_printable() {
        let message = refusal(&format!("{{\"\\u001b[31m\\n{}\": 1e400}}", "x".repeat(1000)));
        assert!(message.len() < 400 && !message.contains(['\n', '\u{1b}']), "{message}");
    }

    #[test]
    fn files_are_bounded_and_regular() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("big.json");
        std::fs::File::create(&path).unwrap().set_len(MAX_JSON_BYTES + 1).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("more than"));
        assert!(matches!(read(folder.path()), Err(Error::Io { .. } | Error::Malformed { .. })));
        assert!(matches!(read(&folder.path().join("none.json")), Err(Error::Io { .. })));
    }

    #[test]
    fn getters_check_types_and_name_fields() {
        let value = parsed(
            r#"{"n": 7, "f": 1.5, "i": 4096.0, "neg": -1, "s": "x", "b": true, "z": null, "big": 1e39, "o": {"n": "x"}, "a": [1]}"#,
        );
        let fields = Fields::new(Path::new(FILE), &value).unwrap();
        assert_eq!(fields.u64("n").unwrap(), 7);
        assert_eq!(fields.usize("n").unwrap(), 7);
        assert_eq!(fields.f64("n").unwrap(), 7.0);
        assert_eq!(fields.f32("f").unwrap(), 1.5);
        assert_eq!(fields.str("s").unwrap(), "x");
        assert_eq!(fields.opt_bool("b").unwrap(), Some(true));
        assert_eq!(fields.opt_u64("z").unwrap(), None);
        assert_eq!(fields.opt_u64("none").unwrap(), None);
        assert_eq!(fields.opt_array("a").unwrap().map(<[Value]>::len), Some(1));
        let message = |result: Result<u64>| result.unwrap_err().to_string();
        assert_eq!(
            message(fields.u64("i")),
            "config.json: field 'i': expected a non-negative integer, found the number 4096.0"
        );
        assert!(message(fields.u64("neg")).ends_with("found the number -1"));
        assert!(message(fields.u64("s")).ends_with("found the string 'x'"));
        assert_eq!(message(fields.u64("none")), "config.json: field 'none': missing");
        assert!(fields.f32("big").is_err());
        let inner = fields.opt_fields("o").unwrap().unwrap();
        assert!(message(inner.u64("n")).starts_with("config.json: field 'o.n':"));
        assert!(Fields::new(Path::new(FILE), &parsed("[]")).is_err());
    }
}
