//! Split models: `NAME-00001-of-00003.gguf` and so on. Every part is a GGUF file of its own with `split.*` keys; the
//! first one has the metadata of the model.

use std::path::{Path, PathBuf};

use super::value::Metadata;
use crate::{Error, Result};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// What a part says about its place in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// From 0.
    number: u64,
    /// Parts of the model.
    count: u64,
    /// Tensors of the whole model.
    tensors: u64,
}

/// The place of a file among the parts of a model; `None` when it is a whole model.
pub(super) fn position(metadata: &Metadata) -> Result<Option<Position>> {
    match metadata.find_u64(COUNT)? {
        None | Some(0 | 1) => Ok(None),
        Some(count) => {
            Ok(Some(Position { number: metadata.get_u64(NUMBER)?, count, tensors: metadata.get_u64(TENSORS)? }))
        }
    }
}

/// The paths of parts 2 and up of the model whose first part is `path`.
pub(super) fn other_parts(path: &Path, position: &Position) -> Result<impl Iterator<Item = PathBuf>> {
    let fail = |problem: String| Err(Error::malformed(path, format!("key '{COUNT}'"), problem));
    let Position { number, count, .. } = *position;
    if count > 99_999 {
        return fail(format!("{count} parts are more than their names can count"));
    }
    let suffix = format!("-{:05}-of-{count:05}.gguf", number.saturating_add(1));
    let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(&suffix));
    let Some(stem) = stem else {
        return fail(format!("says that the file is one of {count} parts, so its name should end in {suffix}"));
    };
    if number != 0 {
        return fail(format!("the file is part {} of {count}; open {stem}-00001-of-{count:05}.gguf", number + 1));
    }
    let (folder, stem) = (path.to_path_buf(), stem.to_owned());
    Ok((2..=count).map(move |part| folder.with_file_name(format!("{stem}-{part:05}-of-{count:05}.gguf"))))
}

/// The error for a part that cannot be opened.
pub(super) fn missing(path: &Path, position: &Position, error: &Error) -> Error {
    Error::malformed(path, format!("key '{COUNT}'"), format!("the model has {} parts: {error}", position.count))
}

/// Checks that `part` (at `path`) is part `index` of the model whose first part has the metadata `first`.
pub(super) fn check_part(
    first: &Metadata,
    path: &Path,
    part: &Metadata,
    expected: &Position,
    index: usize,
) -> Result<()> {
    for (key, expected) in [(NUMBER, index as u64), (COUNT, expected.count), (TENSORS, expected.tensors)] {
        let found = part.get_u64(key)?;
        if found != expected {
            let problem = format!("expected {expected}, found {found}: the file is not a part of this model");
            return Err(Error::malformed(path, format!("key '{key}'"), problem));
        }
    }
    // Parts normally do not repeat the model's metadata; where they do, it must agree.
    for (key, value) in part.entries() {
        if !key.starts_with("split.") && first.find(key).is_some_and(|other| other != value) {
            let problem = "differs from the first part: the files are parts of different models";
            return Err(Error::malformed(path, format!("key '{}'", super::value::shown(key)), problem));
        }
    }
    Ok(())
}

/// Checks the number of tensors of all parts together.
pub(super) fn check_tensor_count(path: &Path, position: &Position, found: usize) -> Result<()> {
    if position.tensors == found as u64 {
        return Ok(());
    }
    let problem = format!("announces {} tensors, but the parts have {found}", position.tensors);
    Err(Error::malformed(path, format!("key '{TENSORS}'"), problem))
}
