//! Writing one file: the header is planned, then the data is streamed.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::header::{METADATA, READ};
use super::{MAX_HEADER_BYTES, place};
use crate::io::{AtomicFile, TensorInfo};
use crate::{Error, Result};

/// The data starts at a multiple of this, so that tensors whose sizes are multiples of it are aligned to cache lines.
const ALIGN: usize = 64;

/// A safetensors file being written. Nothing is visible under its name before [`finish`](Self::finish).
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: AtomicFile,
    /// Names and bytes in file order.
    plan: Vec<(String, usize)>,
    /// The tensor being written and how much of it is.
    current: usize,
    written: usize,
}

impl Writer {
    /// Starts the file `path` that will hold the tensors of `plan` in that order; [`TensorInfo::bytes`] is checked
    /// against type and shape. Other readers like tensors aligned to their element size: plan wide types first unless
    /// sizes keep the alignment anyway.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the tensor, when a name is used twice or reserved, a type does not exist in the
    /// format, or sizes do not fit; [`Error::Io`] when the file cannot be created.
    pub fn create(path: &Path, plan: &[TensorInfo], metadata: &BTreeMap<String, String>) -> Result<Self> {
        let header = header(path, plan, metadata)?;
        let mut file = AtomicFile::create(path)?;
        file.write(&(header.len() as u64).to_le_bytes())?;
        file.write(&header)?;
        let plan = plan.iter().map(|info| (info.name.clone(), info.bytes)).collect();
        Ok(Self { path: path.to_path_buf(), file, plan, current: 0, written: 0 })
    }

    /// Bytes before the data of a file of these tensors.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`create`](Self::create).
    pub fn header_bytes(path: &Path, plan: &[TensorInfo], metadata: &BTreeMap<String, String>) -> Result<usize> {
        header(path, plan, metadata).map(|header| 8 + header.len())
    }

    /// Appends bytes to the tensor `name`, which must be the next one of the plan that is not complete. May be called
    /// several times for one tensor.
    ///
    /// # Errors
    /// [`Error::Invalid`] when another tensor is due or `bytes` exceeds the tensor; [`Error::Io`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        while self.plan.get(self.current).is_some_and(|(planned, size)| *size == self.written && planned != name) {
            self.current += 1;
            self.written = 0;
        }
        let invalid = |problem: String| Error::Invalid(format!("{}: {}: {problem}", self.path.display(), place(name)));
        match self.plan.get(self.current) {
            Some((planned, size)) if planned == name => {
                if bytes.len() > size - self.written {
                    return Err(invalid(format!("{size} bytes are planned, {} given", self.written + bytes.len())));
                }
                self.file.write(bytes)?;
                self.written += bytes.len();
                Ok(())
            }
            Some((planned, _)) => Err(invalid(format!("written before '{planned}' is complete"))),
            None => Err(invalid("not in the plan, or complete".to_owned())),
        }
    }

    /// Makes the file durable and visible.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a tensor is incomplete; [`Error::Io`]. Nothing is left behind then.
    pub fn finish(self) -> Result<()> {
        let written = |index: usize| match index.cmp(&self.current) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => self.plan.get(index).is_some_and(|(_, size)| *size == self.written),
            std::cmp::Ordering::Greater => self.plan.get(index).is_some_and(|(_, size)| *size == 0),
        };
        if let Some(index) = (0..self.plan.len()).find(|index| !written(*index)) {
            let name = self.plan.get(index).map_or("", |(name, _)| name);
            return Err(Error::Invalid(format!("{}: {}: not completely written", self.path.display(), place(name))));
        }
        self.file.commit()
    }
}

/// The header, padded with spaces so that the data is aligned.
fn header(path: &Path, plan: &[TensorInfo], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut object = Map::new();
    if !metadata.is_empty() {
        object.insert(METADATA.to_owned(), json!(metadata));
    }
    let mut names = HashSet::new();
    let mut offset = 0usize;
    for info in plan {
        let invalid = |problem: String| Error::Invalid(format!("{}: {}: {problem}", path.display(), place(&info.name)));
        if info.name == METADATA || info.name.is_empty() {
            return Err(invalid("a tensor cannot have this name".to_owned()));
        }
        if !names.insert(info.name.as_str()) {
            return Err(invalid("planned twice".to_owned()));
        }
        if !READ.contains(&info.ty) {
            return Err(invalid(format!("type {} does not exist in safetensors", info.ty)));
        }
        let size = info.shape.iter().try_fold(info.ty.block_bytes(), |size, &dim| size.checked_mul(dim));
        let end = size.filter(|size| *size == info.bytes).and_then(|size| offset.checked_add(size));
        let Some(end) = end else {
            return Err(invalid(format!("shape {:?} of {} does not take {} bytes", info.shape, info.ty, info.bytes)));
        };
        let entry = json!({"dtype": info.ty.name(), "shape": info.shape, "data_offsets": [offset, end]});
        object.insert(info.name.clone(), entry);
        offset = end;
    }
    let mut header = Value::Object(object).to_string().into_bytes();
    header.resize((header.len() + 8).next_multiple_of(ALIGN) - 8, b' ');
    if header.len() > MAX_HEADER_BYTES {
        return Err(Error::Invalid(format!("{}: the header would exceed {MAX_HEADER_BYTES} bytes", path.display())));
    }
    Ok(header)
}
