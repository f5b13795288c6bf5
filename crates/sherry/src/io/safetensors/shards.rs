//! Several files with `model.safetensors.index.json`.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path};

use serde_json::Value;

use super::{Safetensors, place};
use crate::io::json::{self, Fields, shown};
use crate::io::{ModelFiles, TensorSource};
use crate::{Error, Result};

/// Opens all shards that the index names, which is among `files`. Tensors beyond the index are listed too; those of the index
/// must be where it says.
pub(super) fn open(files: &ModelFiles, index: &Path) -> Result<Safetensors> {
    let name = index.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let value = json::read_among(files, name)?;
    let fields = Fields::new(index, &value)?;
    let Some(Value::Object(map)) = fields.value("weight_map") else {
        return Err(fields.error("weight_map", "expected an object from tensors to files"));
    };
    let mut placed: Vec<(&str, &str)> = Vec::with_capacity(map.len());
    for (tensor, file) in map {
        let Some(file) = file.as_str() else {
            return Err(Error::malformed(index, place(tensor), "its file is not a string"));
        };
        if !is_plain_name(file) {
            let problem = format!("its file '{}' is not a plain name in the folder of the index", shown(file));
            return Err(Error::malformed(index, place(tensor), problem));
        }
        placed.push((tensor, file));
    }
    let names: BTreeSet<&str> = placed.iter().map(|(_, file)| *file).collect();
    if names.is_empty() {
        return Err(fields.error("weight_map", "names no files"));
    }
    let model = Safetensors::open_files(index, files, &names.into_iter().collect::<Vec<_>>())?;
    let others: HashMap<&str, &Path> =
        model.other_tensors().iter().map(|other| (other.name.as_str(), other.file.as_path())).collect();
    for (tensor, file) in placed {
        let found = model.file_of(tensor).or_else(|| others.get(tensor).copied());
        let expected = index.with_file_name(file);
        if found != Some(expected.as_path()) {
            let file = model.path().with_file_name(file);
            return Err(Error::malformed(&file, place(tensor), "missing, though the index says it is here"));
        }
    }
    Ok(model)
}

/// Whether `file` is one name without any way out of its folder, on every system.
fn is_plain_name(file: &str) -> bool {
    let mut components = Path::new(file).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(name)), None) if name == file)
        && !file.contains(['\\', ':', '\0'])
}
