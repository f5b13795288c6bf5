//! What was evaluated: enough to tell two models apart and to compare their sizes.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use sherry::io::hex;
use sherry::model::{Checkpoint, Container};
use sherry::{Error, Progress, Result};

use crate::file_sha256;

/// What was evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Path or name.
    pub name: String,
    /// Weight format, as shown in tables ("sherry 1.25-bit", "Q8_0").
    pub format: String,
    /// SHA-256 of the weights.
    pub sha256: String,
    /// Bytes of all weight files.
    pub bytes: u64,
    /// Parameters.
    pub parameters: u64,
    /// Mean bits per weight of the linear layers, scales included.
    pub linear_bits: f64,
}

impl ModelCard {
    /// Describes an opened model. Reads the weights once for their checksum: of a single file that is the file's own,
    /// of several files the checksum over the lines "CHECKSUM  NAME".
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read; [`Error::Interrupted`] when `progress` says so.
    pub fn of(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<Self> {
        let files = weight_files(checkpoint)?;
        let mut sums = Vec::new();
        let mut bytes = 0;
        for path in &files {
            let sum = hex(&file_sha256(path, progress)?);
            bytes += fs::metadata(path).map_err(Error::io(path, "read the size of"))?.len();
            sums.push(format!("{sum}  {}\n", path.file_name().unwrap_or_default().to_string_lossy()));
        }
        let sha256 = match &sums[..] {
            [only] => only.split(' ').next().unwrap_or_default().to_string(),
            many => hex(&Sha256::digest(many.concat().as_bytes())),
        };
        let (mut linear_bytes, mut linear_weights) = (0u64, 0u64);
        let mut formats: Vec<String> = Vec::new();
        for (role, stored) in checkpoint.tensors().iter().filter(|(role, _)| role.is_linear()) {
            linear_weights += role.elements(checkpoint.config());
            linear_bytes += stored.bytes(checkpoint.source());
            let format = stored.type_name();
            if !formats.contains(&format) {
                formats.push(format);
            }
        }
        formats.sort();
        Ok(Self {
            name: checkpoint.path().display().to_string(),
            format: formats.join("+"),
            sha256,
            bytes,
            parameters: checkpoint.config().parameters(),
            linear_bits: linear_bytes as f64 * 8.0 / linear_weights.max(1) as f64,
        })
    }
}

/// The files that hold the weights: a GGUF file or its parts, or the safetensors files of a folder.
fn weight_files(checkpoint: &Checkpoint) -> Result<Vec<PathBuf>> {
    let path = checkpoint.path();
    // Beginning and end of the file names.
    let (folder, start, end) = match checkpoint.container() {
        Container::HuggingFace { .. } => (path, String::new(), ".safetensors"),
        Container::Gguf(file) if file.part_count() > 1 => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let stem = name.rsplitn(4, '-').last().unwrap_or_default(); // NAME-00001-of-00003.gguf
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            (parent.unwrap_or(Path::new(".")), format!("{stem}-"), ".gguf")
        }
        Container::Gguf(_) => return Ok(vec![path.to_path_buf()]),
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "read"))? {
        let entry = entry.map_err(Error::io(folder, "read"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&start) && name.ends_with(end) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
