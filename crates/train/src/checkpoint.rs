//! What a checkpoint folder holds, how it is written, and how it is read back and trusted.
//!
//! A manifest has size and SHA-256 of every file; a folder that it does not verify is no checkpoint. It is at the same
//! time a Hugging Face folder that holds the latent weights. Where checkpoints lie, and when they come and go, is the
//! business of the [run folder](crate::run_folder).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sherry::io::safetensors::Writer;
use sherry::io::{ReadMode, Safetensors, TensorInfo, TensorSource, hex, write_atomic};
use sherry::{NoProgress, Progress};
use sherry_kernels::format::TensorType;
use sherry_measure::file_sha256;

use crate::adamw::Moments;
use crate::error::{Error, Result, uninterrupted};
use crate::layout::{Layout, Tensor};

const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";
const WEIGHTS: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// Floats written or read at a time.
const PIECE: usize = 1 << 16;

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
    #[serde(deserialize_with = "finite")]
    pub best: Option<(f64, u64)>,
    /// The step of the last whole validation.
    #[serde(default)]
    pub validated: Option<u64>,
    /// Steps that were added to the finished run, each time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<u64>,
    /// Hash of the training tokens.
    pub data: String,
    /// Hash of the validation tokens, where there are such; runs of earlier versions do not say.
    #[serde(default)]
    pub valid: Option<String>,
    /// Hash of the teacher, where there is one; runs of earlier versions do not say.
    #[serde(default)]
    pub teacher: Option<String>,
    /// The configuration.
    pub config: serde_json::Value,
}

/// A best validation loss that is not a number (JSON has null for it) is none.
fn finite<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<(f64, u64)>, D::Error> {
    let best = Option::<(Option<f64>, u64)>::deserialize(deserializer)?;
    Ok(best.and_then(|(loss, step)| Some((loss?, step))))
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    step: u64,
    files: BTreeMap<String, Entry>,
}

/// Size and SHA-256 of a file.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
pub(crate) struct Entry {
    bytes: u64,
    sha256: String,
}

/// The [`Entry`] of the file `path`.
pub(crate) fn entry(path: &Path, progress: &dyn Progress) -> Result<Entry> {
    let bytes = fs::metadata(path).map_err(sherry::Error::io(path, "read the size of"))?.len();
    Ok(Entry { bytes, sha256: hex(&file_sha256(path, progress)?) })
}

/// Writes a checkpoint into the empty `folder`, the manifest last; `files` are further files (config.json, tokenizer).
///
/// # Errors
/// [`sherry::Error::Io`], for example when the disk is full.
pub(crate) fn write(
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
        // A checkpoint that is being written is finished, whoever wants to stop.
        manifest.files.insert(name.to_owned(), entry(&folder.join(name), &NoProgress)?);
    }
    write_json(&folder.join(MANIFEST), &manifest)
}

/// Writes the floats of `tensors`, which `values` gives one by one, as `model.safetensors` into `folder`.
pub(crate) fn write_weights<'a>(
    folder: &Path,
    tensors: impl Iterator<Item = &'a Tensor>,
    mut values: impl FnMut(&Tensor, &mut Writer) -> Result<()>,
) -> Result<()> {
    let all: Vec<&Tensor> = tensors.collect();
    let plan = all.iter().map(|tensor| info(&tensor.name, &tensor.shape));
    write_tensors(folder, plan, |i, writer| values(all[i], writer))
}

/// Writes the weights of a Hugging Face folder as `plan` says; `values` writes the tensor of its number.
pub(crate) fn write_tensors(
    folder: &Path,
    plan: impl Iterator<Item = TensorInfo>,
    mut values: impl FnMut(usize, &mut Writer) -> Result<()>,
) -> Result<()> {
    let plan: Vec<TensorInfo> = plan.collect();
    let format = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = Writer::create(&folder.join(WEIGHTS), &plan, &format)?;
    for i in 0..plan.len() {
        values(i, &mut writer)?;
    }
    Ok(writer.finish()?)
}

/// A tensor of f32.
pub(crate) fn info(name: &str, shape: &[usize]) -> TensorInfo {
    let bytes = shape.iter().product::<usize>() * 4;
    TensorInfo { name: name.to_owned(), ty: TensorType::F32, shape: shape.to_vec(), bytes }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| Error::checkpoint(path, error.to_string()))?;
    Ok(write_atomic(path, &text)?)
}

pub(crate) fn write_floats(writer: &mut Writer, name: &str, values: &[f32]) -> Result<()> {
    for values in values.chunks(PIECE) {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.write(name, &bytes)?;
    }
    Ok(())
}

/// A checkpoint folder whose files match its manifest.
#[derive(Debug)]
pub struct Verified {
    path: PathBuf,
    state: State,
}

/// A checkpoint read back.
#[derive(Debug)]
pub struct Loaded {
    /// Counters and configuration.
    pub state: State,
    /// All parameters.
    pub params: Vec<f32>,
    /// The optimizer's means.
    pub moments: Moments,
}

impl Verified {
    /// Checks every file of the checkpoint `folder` against its manifest.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the first file that is missing or changed; [`sherry::Error::Interrupted`].
    pub fn open(folder: &Path, progress: &dyn Progress) -> Result<Self> {
        let path = folder.join(MANIFEST);
        if folder.is_dir() && !path.exists() {
            let problem =
                "is no checkpoint: it has no manifest.json. Checkpoints are the folders checkpoint-STEP of a run";
            return Err(Error::checkpoint(folder, problem));
        }
        let manifest: Manifest = read_json(&path)?;
        for name in [WEIGHTS, OPTIMIZER, STATE] {
            if !manifest.files.contains_key(name) {
                return Err(Error::checkpoint(&path, format!("does not list {name}")));
            }
        }
        for (name, expected) in &manifest.files {
            if Path::new(name).file_name() != Some(name.as_ref()) {
                return Err(Error::checkpoint(&path, format!("'{name}' is not a file name")));
            }
            if entry(&folder.join(name), progress)? != *expected {
                return Err(Error::checkpoint(&folder.join(name), "does not match the manifest"));
            }
        }
        Ok(Self { path: folder.to_path_buf(), state: read_state(folder)? })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Counters and configuration.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Parameters and moments, laid out as `layout` says.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] or the library's error naming the file and tensor; [`sherry::Error::Interrupted`].
    pub fn load(self, layout: &Layout, progress: &dyn Progress) -> Result<Loaded> {
        let params = self.params(layout, progress)?;
        let optimizer = Safetensors::open(&self.path.join(OPTIMIZER), ReadMode::Map)?;
        let mut moments = Moments::new(layout.len);
        read_floats(&optimizer, "mean", &[layout.len], &mut moments.mean, progress)?;
        read_floats(&optimizer, "square", &[layout.len], &mut moments.square, progress)?;
        Ok(Loaded { state: self.state, params, moments })
    }

    /// The parameters alone, learned numbers of the quantizer included.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn params(&self, layout: &Layout, progress: &dyn Progress) -> Result<Vec<f32>> {
        let weights = Safetensors::open(&self.path.join(WEIGHTS), ReadMode::Map)?;
        let mut params = vec![0.0f32; layout.len];
        for tensor in &layout.tensors {
            read_floats(&weights, &tensor.name, &tensor.shape, &mut params[tensor.range()], progress)?;
        }
        Ok(params)
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let bytes = sherry::io::read_regular(path, sherry::io::json::MAX_JSON_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|error| Error::checkpoint(path, error.to_string()))
}

/// The state of the checkpoint `folder`, which is not verified.
///
/// # Errors
/// [`Error::Checkpoint`] when it cannot be read.
pub fn read_state(folder: &Path) -> Result<State> {
    read_json(&folder.join(STATE))
}

/// Reads the f32 tensor `name` of this shape into `out`.
pub(crate) fn read_floats(
    source: &Safetensors,
    name: &str,
    shape: &[usize],
    out: &mut [f32],
    progress: &dyn Progress,
) -> Result<()> {
    let wrong = |what: &str| Error::checkpoint(source.path(), format!("tensor '{name}': {what}"));
    let info = source.find(name).ok_or_else(|| wrong("missing"))?;
    if info.ty != TensorType::F32 || info.shape != shape {
        return Err(wrong(&format!("is {} {:?}, expected F32 {shape:?}", info.ty, info.shape)));
    }
    let data = source.data(name)?;
    for (out, bytes) in out.chunks_mut(PIECE).zip(data.chunks(4 * PIECE)) {
        uninterrupted(progress)?;
        for (x, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *x = f32::from_le_bytes(*bytes);
        }
    }
    Ok(())
}
