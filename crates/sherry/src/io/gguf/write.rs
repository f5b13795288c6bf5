//! Writing GGUF: the header first, then tensor data in order, all into a file that appears only when complete.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use sherry_kernels::format::TensorType;

use super::types::{StqId, id_of};
use super::value::{Array, Value, shown};
use super::{layout, limits};
use crate::io::{AtomicFile, TensorInfo};
use crate::{Error, Result};

/// Alignment of tensor data.
const ALIGNMENT: usize = limits::DEFAULT_ALIGNMENT as usize;

/// Writes one GGUF file, version 3. Dropped before [`finish`](Self::finish), it leaves nothing behind.
///
/// ```
/// use sherry::io::gguf::{GgufFile, GgufWriter, StqId, Value};
/// use sherry::io::{ReadMode, TensorInfo, TensorSource};
/// use sherry_kernels::format::TensorType;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("one.gguf");
/// let tensor = TensorInfo { name: "w".to_owned(), ty: TensorType::F32, shape: vec![1, 2], bytes: 8 };
/// let metadata = vec![("general.name".to_owned(), Value::String("one".to_owned()))];
/// let mut writer = GgufWriter::create(&path, metadata, vec![tensor], StqId::default())?;
/// writer.write("w", &[1f32, 2.0].map(f32::to_le_bytes).concat())?;
/// writer.finish()?;
///
/// let file = GgufFile::open(&path, ReadMode::Map)?;
/// assert_eq!(file.metadata().get_str("general.name")?, "one");
/// assert_eq!(file.data("w")?[4..], 2f32.to_le_bytes());
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Debug)]
pub struct GgufWriter {
    path: PathBuf,
    file: AtomicFile,
    tensors: Vec<TensorInfo>,
    written: usize,
    /// Bytes of the next tensor that are written.
    part: usize,
}

impl GgufWriter {
    /// Plans the file and writes its header. `path` may be a file that is being read: it is replaced at the end.
    ///
    /// Keys that describe the container are the writer's own: `general.alignment`, `general.quantization_version` and
    /// `split.*` in `metadata` are left out or replaced. `general.file_type` is the caller's.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a key or tensor occurs twice, exceeds a limit of the format or does not fit itself, or
    /// its type does not exist in GGUF; [`Error::Io`].
    pub fn create(
        path: &Path,
        metadata: Vec<(String, Value)>,
        tensors: Vec<TensorInfo>,
        stq_id: StqId,
    ) -> Result<Self> {
        let header =
            header(metadata, &tensors, stq_id).map_err(|what| Error::Invalid(format!("{}: {what}", path.display())))?;
        let mut file = AtomicFile::create(path)?;
        file.write(&header)?;
        Ok(Self { path: path.to_path_buf(), file, tensors, written: 0, part: 0 })
    }

    /// Bytes before the data of a file of this metadata and these tensors.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`create`](Self::create).
    pub fn header_bytes(metadata: Vec<(String, Value)>, tensors: &[TensorInfo]) -> Result<usize> {
        header(metadata, tensors, StqId::default()).map(|header| header.len()).map_err(Error::Invalid)
    }

    /// With `false` a file that exists, or appears before [`finish`](Self::finish), is an error and stays.
    pub fn set_replace(&mut self, replace: bool) {
        self.file.set_replace(replace);
    }

    /// Appends bytes to the tensor `name`, which must be the next one of the plan that is not complete. May be called
    /// several times for one tensor.
    ///
    /// # Errors
    /// [`Error::Invalid`] when another tensor is due or `bytes` exceeds the tensor; [`Error::Io`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let Some(info) = self.tensors.get(self.written) else {
            return Err(self.invalid("all tensors are written already".to_owned()));
        };
        let (due, size) = (&info.name, info.bytes);
        if due != name {
            return Err(self.invalid(format!("tensor '{name}' given, but '{due}' is not complete")));
        }
        if bytes.len() > size - self.part {
            return Err(self.invalid(format!("tensor '{name}' needs {size} bytes, given {}", self.part + bytes.len())));
        }
        self.file.write(bytes)?;
        self.part += bytes.len();
        if self.part == size {
            self.file.write(padding(size))?;
            self.written += 1;
            self.part = 0;
        }
        Ok(())
    }

    /// Makes the file durable and visible under its name.
    ///
    /// # Errors
    /// [`Error::Invalid`] when tensors are missing; [`Error::Io`].
    pub fn finish(self) -> Result<()> {
        match self.tensors.get(self.written) {
            Some(missing) => Err(self.invalid(format!("tensor '{}' has not been written", missing.name))),
            None => self.file.commit(),
        }
    }

    fn invalid(&self, what: String) -> Error {
        Error::Invalid(format!("{}: {what}", self.path.display()))
    }
}

/// The zeros that follow `len` bytes.
fn padding(len: usize) -> &'static [u8] {
    &[0; ALIGNMENT][..(ALIGNMENT - len % ALIGNMENT) % ALIGNMENT]
}

/// The whole header, padded; the error says what cannot be written.
fn header(metadata: Vec<(String, Value)>, tensors: &[TensorInfo], stq_id: StqId) -> Result<Vec<u8>, String> {
    const QUANTIZATION_VERSION: &str = "general.quantization_version";
    let mut entries = metadata;
    entries.retain(|(key, _)| key != "general.alignment" && key != QUANTIZATION_VERSION && !key.starts_with("split."));
    if tensors.iter().any(|t| t.ty.block_len() > 1) {
        entries.push((QUANTIZATION_VERSION.to_owned(), Value::U32(2)));
    }
    check(entries.len() as u64 <= limits::ENTRIES, || format!("{} metadata entries are too many", entries.len()))?;
    check(tensors.len() as u64 <= limits::TENSORS, || format!("{} tensors are too many", tensors.len()))?;

    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());

    let mut keys = HashSet::new();
    for (key, value) in &entries {
        let place = || format!("key '{}'", shown(key));
        check(!key.is_empty() && key.len() as u64 <= limits::KEY, || format!("{} is empty or too long", place()))?;
        check(keys.insert(key), || format!("{} occurs twice", place()))?;
        put_text(&mut out, key);
        put_value(&mut out, value).map_err(|problem| format!("{}: {problem}", place()))?;
    }

    let has = |ty| tensors.iter().any(|tensor| tensor.ty == ty);
    check(!(stq_id == StqId::Id42 && has(TensorType::STQ1_0) && has(TensorType::Q2_0)), || {
        "STQ1_0 under type id 42 and Q2_0, whose id that is, cannot be in one file".to_owned()
    })?;
    let mut names = HashSet::new();
    let mut offset = 0u64;
    for TensorInfo { name, ty, shape, bytes } in tensors {
        let place = || format!("tensor '{}'", shown(name));
        let longest = limits::NAME_WRITTEN;
        check(!name.is_empty() && name.len() <= longest && !name.chars().any(char::is_control), || {
            format!("{}: a name has 1 to {longest} bytes and no control characters", place())
        })?;
        check(names.insert(name), || format!("{} occurs twice", place()))?;
        let id = id_of(*ty, stq_id).ok_or_else(|| format!("{}: GGUF has no type {ty}", place()))?;
        let dims: Vec<u64> = shape.iter().rev().map(|d| *d as u64).collect();
        check((1..=limits::DIMS as usize).contains(&dims.len()) && !dims.contains(&0), || {
            format!("{}: shape {shape:?} cannot be stored", place())
        })?;
        let size = layout::tensor_size(&dims, *ty).map_err(|problem| format!("{}: {problem}", place()))?;
        check(size == *bytes as u64, || {
            format!("{}: shape {shape:?} of {ty} takes {size} bytes, not {bytes}", place())
        })?;

        put_text(&mut out, name);
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend(id.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = offset
            .checked_add(size)
            .and_then(|end| end.checked_next_multiple_of(ALIGNMENT as u64))
            .ok_or_else(|| format!("{}: the file becomes too large", place()))?;
    }
    out.extend(padding(out.len()));
    check(out.len() <= limits::HEADER, || format!("the header of {} bytes is too long", out.len()))?;
    Ok(out)
}

fn check(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) -> Result<(), String> {
    check(text.len() as u64 <= limits::STRING, || format!("a string of {} bytes is too long", text.len()))?;
    put_text(out, text);
    Ok(())
}

fn put_value(out: &mut Vec<u8>, value: &Value) -> Result<(), String> {
    let mut put = |id: u32, bytes: &[u8]| {
        out.extend(id.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(x) => put(0, &x.to_le_bytes()),
        Value::I8(x) => put(1, &x.to_le_bytes()),
        Value::U16(x) => put(2, &x.to_le_bytes()),
        Value::I16(x) => put(3, &x.to_le_bytes()),
        Value::U32(x) => put(4, &x.to_le_bytes()),
        Value::I32(x) => put(5, &x.to_le_bytes()),
        Value::F32(x) => put(6, &x.to_le_bytes()),
        Value::Bool(x) => put(7, &[u8::from(*x)]),
        Value::U64(x) => put(10, &x.to_le_bytes()),
        Value::I64(x) => put(11, &x.to_le_bytes()),
        Value::F64(x) => put(12, &x.to_le_bytes()),
        Value::String(text) => {
            put(8, &[]);
            put_string(out, text)?;
        }
        Value::Array(array) => {
            put(9, &[]);
            put_array(out, array)?;
        }
    }
    Ok(())
}

fn put_array(out: &mut Vec<u8>, array: &Array) -> Result<(), String> {
    /// Element type, count and elements of an array of numbers.
    fn put<T: Copy, const N: usize>(out: &mut Vec<u8>, id: u32, items: &[T], to_bytes: fn(T) -> [u8; N]) {
        out.extend(id.to_le_bytes());
        out.extend((items.len() as u64).to_le_bytes());
        items.iter().for_each(|x| out.extend(to_bytes(*x)));
    }
    check(array.len() as u64 <= limits::ARRAY, || format!("an array of {} elements is too long", array.len()))?;
    match array {
        Array::U8(x) => put(out, 0, x, u8::to_le_bytes),
        Array::I8(x) => put(out, 1, x, i8::to_le_bytes),
        Array::U16(x) => put(out, 2, x, u16::to_le_bytes),
        Array::I16(x) => put(out, 3, x, i16::to_le_bytes),
        Array::U32(x) => put(out, 4, x, u32::to_le_bytes),
        Array::I32(x) => put(out, 5, x, i32::to_le_bytes),
        Array::F32(x) => put(out, 6, x, f32::to_le_bytes),
        Array::Bool(x) => put(out, 7, x, |x| [u8::from(x)]),
        Array::U64(x) => put(out, 10, x, u64::to_le_bytes),
        Array::I64(x) => put(out, 11, x, i64::to_le_bytes),
        Array::F64(x) => put(out, 12, x, f64::to_le_bytes),
        Array::String(x) => {
            out.extend(8u32.to_le_bytes());
            out.extend((x.len() as u64).to_le_bytes());
            x.iter().try_for_each(|text| put_string(out, text))?;
        }
    }
    Ok(())
}
