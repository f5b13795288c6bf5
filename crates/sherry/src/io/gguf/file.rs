//! An opened GGUF model: one file, or all parts of a split one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sherry_kernels::Bytes;
use sherry_kernels::format::TensorType;

use super::types::StqId;
use super::value::Metadata;
use super::{header, layout, split};
use crate::io::{FileData, ModelFiles, ReadMode, TensorInfo, TensorSource};
use crate::{Error, Result};

/// A GGUF model with all sizes and offsets checked.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    version: u32,
    metadata: Metadata,
    stq_id: Option<StqId>,
    parts: Vec<FileData>,
    tensors: Vec<TensorInfo>,
    places: Vec<Place>,
    by_name: HashMap<String, usize>,
}

/// Where the bytes of a tensor begin.
#[derive(Clone, Copy, Debug)]
struct Place {
    part: usize,
    start: usize,
}

impl GgufFile {
    /// Opens the file `path`, or the model whose first part `path` is (`NAME-00001-of-00003.gguf`).
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] when the file is damaged, a part is missing or parts do not belong together;
    /// [`Error::Unsupported`] for tensor types and versions this program does not read.
    pub fn open(path: &Path, mode: ReadMode) -> Result<Self> {
        Self::open_all(path, |path| FileData::open(path, mode))
    }

    /// Opens the file called `name` among `files`, or the model whose first part that is.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_among(files: &ModelFiles, name: &str) -> Result<Self> {
        Self::open_all(&files.path().join(name), |path| {
            files.open(path.file_name().and_then(|name| name.to_str()).unwrap_or_default())
        })
    }

    fn open_all(path: &Path, open: impl Fn(&Path) -> Result<FileData>) -> Result<Self> {
        let mut file = Self::parse(path, open(path)?)?;
        let Some(position) = split::position(&file.metadata)? else { return Ok(file) };
        for part_path in split::other_parts(path, &position)? {
            let bytes = open(&part_path).map_err(|error| split::missing(path, &position, &error))?;
            let part = Self::parse(&part_path, bytes)?;
            file.append(part, &position)?;
        }
        split::check_tensor_count(path, &position, file.tensors.len())?;
        Ok(file)
    }

    /// Parses a whole file held in memory; `name` stands in messages where a path would.
    ///
    /// # Errors
    /// As [`open`](Self::open); a part of a split model is [`Error::Unsupported`].
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self> {
        let file = Self::parse(Path::new(name), bytes.into())?;
        match split::position(&file.metadata)? {
            None => Ok(file),
            Some(_) => Err(Error::unsupported(&file.path, "is one part of a split model; open the first part by path")),
        }
    }

    fn parse(path: &Path, file: FileData) -> Result<Self> {
        let header = header::read(path, &file)?;
        let placed = layout::place(path, &header, &file)?;
        let stq_id = placed
            .iter()
            .find(|tensor| tensor.info.ty == TensorType::STQ1_0)
            .map(|tensor| if tensor.type_id == 42 { StqId::Id42 } else { StqId::Id43 });
        let by_name = placed.iter().enumerate().map(|(i, tensor)| (tensor.info.name.clone(), i)).collect();
        let places = placed.iter().map(|tensor| Place { part: 0, start: tensor.start }).collect();
        Ok(Self {
            path: path.to_path_buf(),
            version: header.version,
            stq_id,
            metadata: Metadata::new(path, header.entries),
            parts: vec![file],
            tensors: placed.into_iter().map(|tensor| tensor.info).collect(),
            places,
            by_name,
        })
    }

    /// Adds the tensors of the next part.
    fn append(&mut self, part: Self, position: &split::Position) -> Result<()> {
        split::check_part(&self.metadata, &part.path, &part.metadata, position, self.parts.len())?;
        for (info, place) in part.tensors.into_iter().zip(part.places) {
            if self.by_name.insert(info.name.clone(), self.tensors.len()).is_some() {
                let problem = "is also in an earlier part of the model";
                return Err(Error::malformed(&part.path, format!("tensor '{}'", info.name), problem));
            }
            self.tensors.push(info);
            self.places.push(Place { part: self.parts.len(), start: place.start });
        }
        self.stq_id = self.stq_id.or(part.stq_id);
        self.parts.extend(part.parts);
        Ok(())
    }

    /// Metadata; of a split model: that of the first part.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Version of the container format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The id that stands for STQ1_0 in this file, if it has such tensors.
    pub fn stq_id(&self) -> Option<StqId> {
        self.stq_id
    }

    /// Files the model consists of.
    pub fn part_count(&self) -> usize {
        self.parts.len()
    }

    fn locate(&self, name: &str) -> Option<(&TensorInfo, &FileData, usize)> {
        let index = *self.by_name.get(name)?;
        let place = self.places.get(index)?;
        Some((self.tensors.get(index)?, self.parts.get(place.part)?, place.start))
    }
}

impl TensorSource for GgufFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.locate(name).map(|(info, ..)| info)
    }

    fn data(&self, name: &str) -> Result<Bytes> {
        let (info, file, start) =
            self.locate(name).ok_or_else(|| Error::malformed(&self.path, format!("tensor '{name}'"), "is missing"))?;
        file.slice(&self.path, start..start.saturating_add(info.bytes))
    }

    fn release(&self, name: &str) {
        if let Some((info, file, start)) = self.locate(name) {
            file.release(start..start.saturating_add(info.bytes));
        }
    }
}
