//! safetensors: one file or several shards with an index, read and written.
//!
//! A file is a u64 header length, a JSON header and the data. Everything is checked at opening: the header is bounded,
//! names are unique, every tensor's range fits its type and shape, and the ranges cover the data exactly. The format
//! promises no alignment: the bytes of a tensor may start anywhere.

mod header;
mod shards;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use sherry_kernels::Bytes;

use super::json::shown;
use super::{FileData, ModelFiles, ReadMode, TensorInfo, TensorSource};
use crate::{Error, Result};
pub use header::MAX_HEADER_BYTES;
pub use write::Writer;

/// The file of a folder with a single shard.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The index of a folder with several shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// An opened model: one safetensors file or all shards of an index.
///
/// ```
/// use sherry::io::safetensors::Writer;
/// use sherry::io::{ReadMode, Safetensors, TensorInfo, TensorSource};
/// use sherry_kernels::format::TensorType;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.safetensors");
/// let plan = [TensorInfo { name: "w".to_owned(), ty: TensorType::F32, shape: vec![2], bytes: 8 }];
/// let mut writer = Writer::create(&path, &plan, &Default::default())?;
/// writer.write("w", &[1f32, 2.0].map(f32::to_le_bytes).concat())?;
/// writer.finish()?;
///
/// let model = Safetensors::open(&path, ReadMode::Map)?;
/// assert_eq!(model.find("w").unwrap().shape, [2]);
/// assert_eq!(model.data("w")?[..4], 1f32.to_le_bytes());
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Debug)]
pub struct Safetensors {
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: Vec<TensorInfo>,
    /// Where the data of `tensors[i]` is.
    places: Vec<Place>,
    others: Vec<OtherTensor>,
    /// Name to index into `tensors`.
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

/// A tensor of a type that this program does not read (F64, I8, BOOL, F8 and the like). It is listed, nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherTensor {
    /// The name in the file.
    pub name: String,
    /// The type as the file calls it.
    pub dtype: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Size of the data in bytes.
    pub bytes: usize,
    /// The file it is in.
    pub file: PathBuf,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: FileData,
}

#[derive(Clone, Debug)]
struct Place {
    shard: usize,
    range: Range<usize>,
}

impl Safetensors {
    /// Opens a `.safetensors` file, a `.index.json` file with its shards, or a folder holding [`SINGLE_FILE`] or
    /// [`INDEX_FILE`].
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be opened; [`Error::Malformed`], naming file and tensor, for anything the format
    /// does not allow, for shards outside the folder and for shards that disagree with the index.
    pub fn open(path: &Path, mode: ReadMode) -> Result<Self> {
        if path.is_dir() {
            return Self::open_among(&ModelFiles::Folder { path: path.to_path_buf(), mode });
        }
        if path.extension().is_some_and(|extension| extension == "json") {
            let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
            return shards::open(&ModelFiles::Folder { path: folder, mode }, path);
        }
        let shard = Shard { path: path.to_path_buf(), file: FileData::open(path, mode)? };
        Self::from_shards(path, vec![shard])
    }

    /// Opens [`SINGLE_FILE`] or [`INDEX_FILE`] among `files`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_among(files: &ModelFiles) -> Result<Self> {
        let folder = files.path();
        if files.contains(SINGLE_FILE) {
            return Self::open_files(&folder.join(SINGLE_FILE), files, &[SINGLE_FILE]);
        }
        if files.contains(INDEX_FILE) {
            return shards::open(files, &folder.join(INDEX_FILE));
        }
        Err(Error::unsupported(folder, format!("the folder has neither {SINGLE_FILE} nor {INDEX_FILE}")))
    }

    /// Reads a whole file given as bytes; `path` is for messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let shard = Shard { path: path.to_path_buf(), file: Bytes::from(bytes).into() };
        Self::from_shards(path, vec![shard])
    }

    /// The shards `names` among `files`; `path` stands for them all.
    fn open_files(path: &Path, files: &ModelFiles, names: &[&str]) -> Result<Self> {
        let open = |name: &&str| Ok(Shard { path: files.path().join(name), file: files.open(name)? });
        Self::from_shards(path, names.iter().map(open).collect::<Result<Vec<Shard>>>()?)
    }

    fn from_shards(path: &Path, shards: Vec<Shard>) -> Result<Self> {
        let mut model = Self {
            path: path.to_path_buf(),
            shards: Vec::new(),
            tensors: Vec::new(),
            places: Vec::new(),
            others: Vec::new(),
            by_name: HashMap::new(),
            metadata: BTreeMap::new(),
        };
        let mut shard_of: HashMap<String, usize> = HashMap::new();
        for (number, shard) in shards.iter().enumerate() {
            let header = header::read(&shard.path, &shard.file)?;
            for entry in header.entries {
                if let Some(earlier) = shard_of.insert(entry.name.clone(), number) {
                    let earlier = shards.get(earlier).map_or(Path::new(""), |shard| shard.path.as_path());
                    let problem = format!("is also in {}", earlier.display());
                    return Err(Error::malformed(&shard.path, place(&entry.name), problem));
                }
                let bytes = entry.range.len();
                match entry.dtype.stored_as() {
                    Some(ty) => {
                        model.by_name.insert(entry.name.clone(), model.tensors.len());
                        model.tensors.push(TensorInfo { name: entry.name, ty, shape: entry.shape, bytes });
                        model.places.push(Place { shard: number, range: entry.range });
                    }
                    None => model.others.push(OtherTensor {
                        name: entry.name,
                        dtype: entry.dtype.name().to_owned(),
                        shape: entry.shape,
                        bytes,
                        file: shard.path.clone(),
                    }),
                }
            }
            model.metadata.extend(header.metadata);
        }
        model.shards = shards;
        Ok(model)
    }

    /// Tensors of types that this program does not read. Asking for their data is an error that names the type.
    pub fn other_tensors(&self) -> &[OtherTensor] {
        &self.others
    }

    /// The `__metadata__` of all files together.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The file that holds the tensor called `name`.
    pub fn file_of(&self, name: &str) -> Option<&Path> {
        let (_, shard) = self.locate(name)?;
        Some(&shard.path)
    }

    fn locate(&self, name: &str) -> Option<(&Place, &Shard)> {
        let place = self.places.get(*self.by_name.get(name)?)?;
        Some((place, self.shards.get(place.shard)?))
    }
}

impl TensorSource for Safetensors {
    fn path(&self) -> &Path {
        &self.path
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    fn data(&self, name: &str) -> Result<Bytes> {
        if let Some((place, shard)) = self.locate(name) {
            return shard.file.slice(&shard.path, place.range.clone());
        }
        match self.others.iter().find(|other| other.name == name) {
            Some(other) => {
                let what = format!("{} has type {}, which this program does not read", place(name), other.dtype);
                Err(Error::unsupported(&other.file, what))
            }
            None => Err(Error::malformed(&self.path, place(name), "there is no such tensor")),
        }
    }

    fn unreadable(&self) -> Vec<(&str, &str)> {
        self.others.iter().map(|other| (other.name.as_str(), other.dtype.as_str())).collect()
    }

    fn release(&self, name: &str) {
        if let Some((place, shard)) = self.locate(name) {
            shard.file.release(place.range.clone());
        }
    }
}

/// A tensor as the place of an error.
fn place(name: &str) -> String {
    format!("tensor '{}'", shown(name))
}
