//! Checkpoints that survive crashes, and the lock on a run folder.
//!
//! A checkpoint is written as `checkpoint-STEP.tmp`, every file synced, last a manifest with size and SHA-256 of each;
//! then the folder gets its name by renaming, then `latest` points to it, then old ones go. A folder whose manifest
//! does not verify is not a checkpoint. It is at the same time a Hugging Face folder that holds the latent weights.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sherry::Progress;
use sherry::io::safetensors::Writer;
use sherry::io::{ReadMode, Safetensors, TensorInfo, TensorSource, hex, write_atomic};
use sherry_kernels::format::TensorType;

use crate::adamw::Moments;
use crate::error::{Error, Result};
use crate::layout::{Layout, Tensor};

const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";
const WEIGHTS: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const PREFIX: &str = "checkpoint-";

/// Everything besides weights and moments that the next step depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Optimizer steps done.
    pub step: u64,
    /// Windows of training data visited.
    pub cursor: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Lambda of the last step, for readers; the schedule is a function of the step.
    pub lambda: f64,
    /// Best validation loss so far and its step.
    pub best: Option<(f64, u64)>,
    /// Hash of the training tokens.
    pub data: String,
    /// The configuration.
    pub config: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    step: u64,
    files: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// SHA-256 of a file's contents.
pub(crate) fn file_hash(path: &Path) -> Result<[u8; 32]> {
    let mut file = File::open(path).map_err(sherry::Error::io(path, "open"))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0u8; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(sherry::Error::io(path, "read"))? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn entry(path: &Path) -> Result<Entry> {
    let bytes = fs::metadata(path).map_err(sherry::Error::io(path, "read the size of"))?.len();
    Ok(Entry { bytes, sha256: hex(&file_hash(path)?) })
}

fn sync(folder: &Path) -> Result<()> {
    // Windows cannot open folders as files; there the rename is as durable as it gets.
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(sherry::Error::io(folder, "sync"))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// The run folder, held by this process until dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// The operating system lets go of the lock when the process ends, however it ends.
    _lock: File,
}

impl RunFolder {
    /// Creates the folder if need be and takes its lock.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it.
    pub fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(sherry::Error::io(path, "create"))?;
        let name = path.join("lock");
        let lock = File::options().create(true).append(true).open(&name).map_err(sherry::Error::io(&name, "create"))?;
        match lock.try_lock() {
            Ok(()) => {
                let folder = Self { path: path.to_path_buf(), _lock: lock };
                folder.sweep()?;
                Ok(folder)
            }
            Err(fs::TryLockError::WouldBlock) => Err(Error::Locked(path.to_path_buf())),
            Err(fs::TryLockError::Error(error)) => Err(sherry::Error::io(&name, "lock")(error).into()),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checkpoint folders by step, the newest first; not verified.
    pub fn checkpoints(&self) -> Result<Vec<(u64, PathBuf)>> {
        checkpoints(&self.path)
    }

    /// Saves a checkpoint; `files` are further files of the folder (config.json, tokenizer).
    ///
    /// # Errors
    /// [`sherry::Error::Io`], for example when the disk is full. Earlier checkpoints are untouched then.
    pub fn save(
        &self,
        layout: &Layout,
        params: &[f32],
        moments: &Moments,
        state: &State,
        files: &[(String, Vec<u8>)],
    ) -> Result<PathBuf> {
        let target = self.path.join(format!("{PREFIX}{:08}", state.step));
        let staged = self.path.join(format!("{PREFIX}{:08}.tmp", state.step));
        if staged.exists() {
            fs::remove_dir_all(&staged).map_err(sherry::Error::io(&staged, "remove"))?;
        }
        fs::create_dir(&staged).map_err(sherry::Error::io(&staged, "create"))?;
        let result = write_files(&staged, layout, params, moments, state, files);
        if let Err(error) = result {
            let _ = fs::remove_dir_all(&staged);
            return Err(error);
        }
        if target.exists() {
            // Only a damaged one can be here: a good one would have been resumed from.
            fs::remove_dir_all(&target).map_err(sherry::Error::io(&target, "replace"))?;
        }
        fs::rename(&staged, &target).map_err(sherry::Error::io(&target, "create"))?;
        sync(&self.path)?;
        if let Some(name) = target.file_name() {
            write_atomic(&self.path.join("latest"), name.as_encoded_bytes())?;
        }
        Ok(target)
    }

    /// Removes all but the newest `keep` checkpoints and the one of step `best`, and what crashes left behind.
    pub fn prune(&self, keep: usize, best: Option<u64>) -> Result<()> {
        for (step, path) in self.checkpoints()?.into_iter().skip(keep) {
            if best != Some(step) {
                // Renamed first: a half-removed folder must not look like a checkpoint.
                let doomed = path.with_extension("old");
                fs::rename(&path, &doomed).map_err(sherry::Error::io(&path, "remove"))?;
            }
        }
        self.sweep()
    }

    /// Removes what a killed process left behind: half-written files, half-written and half-removed checkpoints. Nobody
    /// else can be writing them, since the lock is ours.
    fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path).map_err(sherry::Error::io(&self.path, "list"))?.flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if name.starts_with(PREFIX) && (name.ends_with(".tmp") || name.ends_with(".old")) {
                fs::remove_dir_all(&path).map_err(sherry::Error::io(&path, "remove"))?;
            } else if name.starts_with('.') && name.contains(".tmp-") {
                fs::remove_file(&path).map_err(sherry::Error::io(&path, "remove"))?;
            }
        }
        Ok(())
    }
}

/// Checkpoint folders in `run` by step, the newest first; not verified.
pub fn checkpoints(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run).map_err(sherry::Error::io(run, "list"))?.flatten() {
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let step = step.filter(|digits| digits.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse().ok());
        if let Some(step) = step {
            found.push((step, entry.path()));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

fn write_files(
    folder: &Path,
    layout: &Layout,
    params: &[f32],
    moments: &Moments,
    state: &State,
    files: &[(String, Vec<u8>)],
) -> Result<()> {
    write_weights(folder, layout.tensors.iter(), |tensor, writer| {
        write_floats(writer, &tensor.name, &params[tensor.range()])
    })?;
    let plan = [info("mean", &[layout.len]), info("square", &[layout.len])];
    let mut writer = Writer::create(&folder.join(OPTIMIZER), &plan, &BTreeMap::new())?;
    write_floats(&mut writer, "mean", &moments.mean)?;
    write_floats(&mut writer, "square", &moments.square)?;
    writer.finish()?;
    for (name, bytes) in files {
        write_atomic(&folder.join(name), bytes)?;
    }
    write_json(&folder.join(STATE), state)?;
    let mut manifest = Manifest { step: state.step, files: BTreeMap::new() };
    let names = [WEIGHTS, OPTIMIZER, STATE].into_iter().chain(files.iter().map(|(name, _)| name.as_str()));
    for name in names {
        manifest.files.insert(name.to_owned(), entry(&folder.join(name))?);
    }
    write_json(&folder.join(MANIFEST), &manifest)
}

/// Writes the floats of `tensors`, which `values` gives one by one, as `model.safetensors` into `folder`.
pub(crate) fn write_weights<'a>(
    folder: &Path,
    tensors: impl Iterator<Item = &'a Tensor> + Clone,
    mut values: impl FnMut(&Tensor, &mut Writer) -> Result<()>,
) -> Result<()> {
    let plan: Vec<TensorInfo> = tensors.clone().map(|tensor| info(&tensor.name, &tensor.shape)).collect();
    let format = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = Writer::create(&folder.join(WEIGHTS), &plan, &format)?;
    for tensor in tensors {
        values(tensor, &mut writer)?;
    }
    Ok(writer.finish()?)
}

fn info(name: &str, shape: &[usize]) -> TensorInfo {
    let bytes = shape.iter().product::<usize>() * 4;
    TensorInfo { name: name.to_owned(), ty: TensorType::F32, shape: shape.to_vec(), bytes }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| Error::checkpoint(path, error.to_string()))?;
    Ok(write_atomic(path, &text)?)
}

pub(crate) fn write_floats(writer: &mut Writer, name: &str, values: &[f32]) -> Result<()> {
    for values in values.chunks(1 << 16) {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.write(name, &bytes)?;
    }
    Ok(())
}

/// A checkpoint read back.
#[derive(Debug)]
pub struct Loaded {
    /// The folder.
    pub path: PathBuf,
    /// Counters and configuration.
    pub state: State,
    /// All parameters.
    pub params: Vec<f32>,
    /// The optimizer's means.
    pub moments: Moments,
}

/// Checks every file of the checkpoint `folder` against its manifest.
///
/// # Errors
/// [`Error::Checkpoint`] naming the first file that is missing or changed.
pub fn verify(folder: &Path) -> Result<()> {
    let path = folder.join(MANIFEST);
    let bytes = fs::read(&path).map_err(sherry::Error::io(&path, "read"))?;
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| Error::checkpoint(&path, error.to_string()))?;
    for name in [WEIGHTS, OPTIMIZER, STATE] {
        if !manifest.files.contains_key(name) {
            return Err(Error::checkpoint(&path, format!("does not list {name}")));
        }
    }
    for (name, expected) in &manifest.files {
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(Error::checkpoint(&path, format!("'{name}' is not a file name")));
        }
        if entry(&folder.join(name))? != *expected {
            return Err(Error::checkpoint(&folder.join(name), "does not match the manifest"));
        }
    }
    Ok(())
}

/// The state of the checkpoint `folder`.
///
/// # Errors
/// [`Error::Checkpoint`] when it cannot be read.
pub fn read_state(folder: &Path) -> Result<State> {
    let path = folder.join(STATE);
    let bytes = fs::read(&path).map_err(sherry::Error::io(&path, "read"))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::checkpoint(&path, error.to_string()))
}

/// Reads the checkpoint `folder` after verifying it.
///
/// # Errors
/// [`Error::Checkpoint`] or the library's error naming the file and tensor.
pub fn load(folder: &Path, layout: &Layout) -> Result<Loaded> {
    verify(folder)?;
    let state = read_state(folder)?;
    let params = read_params(folder, layout)?;
    let optimizer = Safetensors::open(&folder.join(OPTIMIZER), ReadMode::Read)?;
    let mut moments = Moments::new(layout.len);
    read_floats(&optimizer, "mean", &[layout.len], &mut moments.mean)?;
    read_floats(&optimizer, "square", &[layout.len], &mut moments.square)?;
    Ok(Loaded { path: folder.to_path_buf(), state, params, moments })
}

/// The parameters in the checkpoint `folder`, learned numbers of the quantizer included.
///
/// # Errors
/// The library's error naming the file and tensor.
pub fn read_params(folder: &Path, layout: &Layout) -> Result<Vec<f32>> {
    let weights = Safetensors::open(&folder.join(WEIGHTS), ReadMode::Map)?;
    let mut params = vec![0.0f32; layout.len];
    for tensor in &layout.tensors {
        read_floats(&weights, &tensor.name, &tensor.shape, &mut params[tensor.range()])?;
    }
    Ok(params)
}

fn read_floats(source: &Safetensors, name: &str, shape: &[usize], out: &mut [f32]) -> Result<()> {
    let wrong = |what: &str| Error::checkpoint(source.path(), format!("tensor '{name}': {what}"));
    let info = source.find(name).ok_or_else(|| wrong("missing"))?;
    if info.ty != TensorType::F32 || info.shape != shape {
        return Err(wrong(&format!("is {} {:?}, expected F32 {shape:?}", info.ty, info.shape)));
    }
    let data = source.data(name)?;
    for (x, bytes) in out.iter_mut().zip(data.as_chunks::<4>().0) {
        *x = f32::from_le_bytes(*bytes);
    }
    Ok(())
}

/// The newest checkpoint of `run` that verifies; damaged ones are reported and passed over.
///
/// # Errors
/// When the folder cannot be listed.
pub fn newest(run: &Path, progress: &dyn Progress) -> Result<Option<PathBuf>> {
    for (_, path) in checkpoints(run)? {
        match verify(&path) {
            Ok(()) => return Ok(Some(path)),
            Err(error) => progress.note(&format!("{error}: falling back to the checkpoint before it")),
        }
    }
    Ok(None)
}
