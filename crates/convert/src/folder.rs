//! Hugging Face folders: the files beside the weights, and a folder that appears only when it is complete.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::plan::Plan;
use sherry::io::{native, write_atomic};
use sherry::model::Checkpoint;
use sherry::{Error, Result};

/// A folder under a temporary name. Dropped before [`commit`](Self::commit), it vanishes.
pub(super) struct Staged(PathBuf);

impl Staged {
    /// A new folder beside `target`.
    pub fn create(target: &Path) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.tmp-{}", std::process::id()));
        fs::create_dir(&path).map_err(Error::io(target, "create"))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Gives the folder its name. An older folder or file of that name is moved aside first and removed afterwards, so
    /// that a complete one exists at any time.
    pub fn commit(self, target: &Path) -> Result<()> {
        let mut aside = self.0.clone().into_os_string();
        aside.push(".old");
        let aside = PathBuf::from(aside);
        let replaces = target.exists();
        if replaces {
            fs::rename(target, &aside).map_err(Error::io(target, "replace"))?;
        }
        if let Err(source) = fs::rename(&self.0, target) {
            if replaces {
                let _ = fs::rename(&aside, target);
            }
            return Err(Error::Io { path: target.to_path_buf(), action: "create", source });
        }
        if replaces {
            let _ = if aside.is_dir() { fs::remove_dir_all(&aside) } else { fs::remove_file(&aside) };
        }
        sherry::io::sync_folder(target)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes config.json, generation_config.json and the tokenizer's files into `folder`.
pub(super) fn write_companions(checkpoint: &Checkpoint, plan: &Plan, folder: &Path) -> Result<()> {
    for (name, bytes) in checkpoint.companion_files()? {
        write_atomic(&folder.join(name), &bytes)?;
    }
    let mut config = checkpoint.config_json()?;
    if let Value::Object(fields) = &mut config {
        fields.shift_remove("quantization_config");
        if plan.native {
            let quantization = plan.packed.map_or_else(native::blocks_config, |scheme| scheme.to_json());
            fields.insert("quantization_config".to_owned(), quantization);
        }
    }
    let mut text = serde_json::to_string_pretty(&config).map_err(|error| Error::Invalid(error.to_string()))?;
    text.push('\n');
    write_atomic(&folder.join("config.json"), text.as_bytes())
}
