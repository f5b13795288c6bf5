//! Where each tensor's bytes lie: all arithmetic on sizes from a file happens here, checked.

use std::collections::BTreeMap;
use std::path::Path;

use sherry_kernels::format::TensorType;

use super::header::{Header, RawTensor, foreign_type, shape};
use super::types::{Candidate, Meaning, without_size};
use super::value::Value;
use crate::io::{FileData, TensorInfo};
use crate::{Error, Result};

/// A tensor and the offset of its first byte in the file.
#[derive(Debug)]
pub(super) struct Placed {
    pub info: TensorInfo,
    /// The type id in the file.
    pub type_id: u32,
    pub start: usize,
}

/// Checks sizes and offsets of all tensors against `file`.
///
/// Offsets must be those of tensors packed in file order, each padded to the alignment; after the last tensor there may
/// be nothing but its padding.
pub(super) fn place(path: &Path, header: &Header, file: &FileData) -> Result<Vec<Placed>> {
    let mut types = BTreeMap::new();
    for tensor in &header.tensors {
        if let Meaning::Disputed(candidates) = tensor.meaning
            && !types.contains_key(&tensor.type_id)
        {
            types.insert(tensor.type_id, decide(path, header, file.len() as u64, tensor.type_id, candidates)?);
        }
    }
    walk(path, header, file, &types)
}

/// Which of the candidates of type id `id` its tensors have: the one whose sizes explain, up to padding, how far each of
/// them lies from the next.
fn decide(
    path: &Path,
    header: &Header,
    file_len: u64,
    id: u32,
    candidates: &'static [Candidate],
) -> Result<TensorType> {
    let data_start = header.len.checked_next_multiple_of(header.alignment).unwrap_or(u64::MAX);
    let data_len = file_len.saturating_sub(data_start);
    let ends = header.tensors.iter().skip(1).map(|tensor| tensor.offset).chain([data_len]);
    // A tensor behind its successor has no span, and no type: its offset is refused afterwards.
    let own: Vec<(&RawTensor, u64)> = header
        .tensors
        .iter()
        .zip(ends)
        .filter(|(tensor, _)| tensor.type_id == id)
        .map(|(tensor, end)| (tensor, end.saturating_sub(tensor.offset)))
        .collect();
    let explains = |candidate: &Candidate, (tensor, span): (&RawTensor, u64)| {
        candidate_size(&tensor.dims, candidate).is_ok_and(|size| size <= span && span - size < header.alignment)
    };
    let fitting: Vec<&Candidate> =
        candidates.iter().filter(|candidate| own.iter().all(|&tensor| explains(candidate, tensor))).collect();
    // Small tensors alone can leave several: forks say that they are, and the first is the most likely.
    let fork = from_a_fork(header);
    let chosen = fitting.iter().find(|candidate| candidate.fork == fork).or(fitting.first()).copied();
    let puzzling = own.iter().find(|&&tensor| !candidates.iter().any(|candidate| explains(candidate, tensor)));
    let Some(&(tensor, span)) = puzzling.or(own.first()) else {
        return Err(Error::malformed(path, "header", format!("no tensor has type id {id}")));
    };
    match (chosen, without_size(id)) {
        (Some(Candidate { ty: Ok(ty), .. }), _) => Ok(*ty),
        (Some(Candidate { name, ty: Err(advice), .. }), _) => Err(foreign_type(path, &tensor.name, name, advice)),
        (None, Some((name, advice))) => Err(foreign_type(path, &tensor.name, name, advice)),
        (None, None) => {
            let names: Vec<String> = candidates
                .iter()
                .map(|candidate| match candidate_size(&tensor.dims, candidate) {
                    Ok(size) => format!("{} needs {size}", candidate.name),
                    Err(_) => format!("{} has blocks of {} values", candidate.name, candidate.block.0),
                })
                .collect();
            let (place, names) = (format!("tensor '{}'", tensor.name), names.join(", "));
            let shape = shape(tensor.dims.iter().rev());
            let problem = format!(
                "type id {id} fits none of its meanings: of shape {shape} it spans {span} bytes; {names}. Is the file complete?"
            );
            Err(Error::malformed(path, place, problem))
        }
    }
}

/// Whether the metadata are those of a program whose type ids are not mainline's.
fn from_a_fork(header: &Header) -> bool {
    header.entries.iter().any(|(key, value)| {
        key.starts_with("prism.")
            || key == "general.architecture" && matches!(value, Value::String(arch) if arch.starts_with("bitnet"))
    })
}

/// Follows the chain of offsets; `types` are those of the disputed type ids.
fn walk(path: &Path, header: &Header, file: &FileData, types: &BTreeMap<u32, TensorType>) -> Result<Vec<Placed>> {
    let file_len = file.len() as u64;
    let in_header = |problem: &str| Error::malformed(path, "header", problem);
    let mut placed = Vec::new();
    let mut end = header.len;
    let data_start =
        header.len.checked_next_multiple_of(header.alignment).ok_or_else(|| in_header("size overflows"))?;
    let mut expected = 0u64; // of the next tensor, relative to data_start
    for tensor in &header.tensors {
        let fail = |problem: String| Error::malformed(path, format!("tensor '{}'", tensor.name), problem);
        let ty = match (tensor.meaning, types.get(&tensor.type_id)) {
            (Meaning::Known(ty), _) | (_, Some(&ty)) => ty,
            _ => return Err(fail(format!("has type id {}, which is not known", tensor.type_id))),
        };
        let size = tensor_size(&tensor.dims, ty).map_err(fail)?;
        if tensor.offset != expected {
            let offset = tensor.offset;
            return Err(fail(format!(
                "lies at data offset {offset}, expected {expected}, right after its predecessor"
            )));
        }
        let overflow = || fail("its end overflows".to_owned());
        let start = data_start.checked_add(tensor.offset).ok_or_else(overflow)?;
        end = start.checked_add(size).ok_or_else(overflow)?;
        if end > file_len {
            return Err(fail(format!("ends at byte {end}, but the file has only {file_len} bytes")));
        }
        expected = (tensor.offset + size).checked_next_multiple_of(header.alignment).ok_or_else(overflow)?;
        let index = |x: u64| usize::try_from(x).map_err(|_| overflow());
        placed.push(Placed {
            info: TensorInfo {
                name: tensor.name.clone(),
                ty,
                shape: tensor.dims.iter().rev().map(|d| index(*d)).collect::<Result<_>>()?,
                bytes: index(size)?,
            },
            type_id: tensor.type_id,
            start: index(start)?,
        });
    }
    let trailing = file_len - end.min(file_len);
    let padding = end.checked_next_multiple_of(header.alignment).unwrap_or(end) - end;
    if trailing > padding {
        let problem =
            format!("{trailing} bytes follow the last tensor, where at most {padding} bytes of padding may be");
        return Err(Error::malformed(path, "end of file", problem));
    }
    if file.slice(path, file.len() - trailing as usize..file.len())?.iter().any(|byte| *byte != 0) {
        return Err(Error::malformed(path, "end of file", "the padding after the last tensor is not zero"));
    }
    Ok(placed)
}

/// Bytes of a tensor with dimensions `dims`, row length first; the error says why there is no such tensor.
pub(super) fn tensor_size(dims: &[u64], ty: TensorType) -> Result<u64, String> {
    if ty != TensorType::I2_S {
        return byte_size(dims, (ty.block_len() as u64, ty.block_bytes() as u64));
    }
    // Blocks run across rows; the scale follows the last one.
    let values = byte_size(dims, (1, 1))?;
    let size = usize::try_from(values).ok().and_then(|values| ty.tensor_bytes(1, values));
    size.map(|size| size as u64).ok_or_else(|| overflows(dims))
}

/// [`tensor_size`] of a type that may be none this program reads.
fn candidate_size(dims: &[u64], candidate: &Candidate) -> Result<u64, String> {
    match candidate.ty {
        Ok(ty) => tensor_size(dims, ty),
        Err(_) => byte_size(dims, candidate.block),
    }
}

/// Bytes of a tensor whose rows are blocks of `(values, bytes)`. At most `i64::MAX` values and bytes, as in ggml.
fn byte_size(dims: &[u64], (block_len, block_bytes): (u64, u64)) -> Result<u64, String> {
    const LARGEST: u64 = i64::MAX as u64;
    let row = dims.first().copied().unwrap_or(1);
    if !row.is_multiple_of(block_len) {
        let shape = shape(dims.iter().rev());
        return Err(format!(
            "shape {shape}: the row length is not a multiple of the type's block of {block_len} values"
        ));
    }
    dims.iter()
        .try_fold(1u64, |values, dim| values.checked_mul(*dim))
        .filter(|values| *values <= LARGEST)
        .and_then(|values| (values / block_len).checked_mul(block_bytes))
        .filter(|bytes| *bytes <= LARGEST)
        .ok_or_else(|| overflows(dims))
}

fn overflows(dims: &[u64]) -> String {
    format!("shape {}: the size overflows", shape(dims.iter().rev()))
}
