//! Where each tensor's bytes lie: all arithmetic on sizes from a file happens here, checked.

use std::path::Path;

use sherry_kernels::format::TensorType;

use super::header::{Header, foreign_type, shape};
use super::types::{Meaning, Q2_0_BLOCK};
use crate::io::TensorInfo;
use crate::{Error, Result};

/// A tensor and the offset of its first byte in the file.
#[derive(Debug)]
pub(super) struct Placed {
    pub info: TensorInfo,
    pub start: usize,
}

/// Checks sizes and offsets of all tensors against `file`, the bytes of the whole file.
///
/// Offsets must be those of tensors packed in file order, each padded to the alignment; after the last tensor there may
/// be nothing but its padding.
pub(super) fn place(path: &Path, header: &Header, file: &[u8]) -> Result<Vec<Placed>> {
    let as_stq = walk(path, header, file, Meaning::Known(TensorType::STQ1_0));
    let Some(unclear) = header.tensors.iter().find(|t| t.meaning == Meaning::Stq1_0OrQ2_0) else { return as_stq };
    // Type id 42 is STQ1_0 (42 bytes per 256) or ggml's Q2_0 (18 bytes per 64), for all tensors of a file alike: only
    // one of them makes every offset and the length of the file come out right.
    match (as_stq, walk(path, header, file, Meaning::Stq1_0OrQ2_0)) {
        (Ok(_), Ok(_)) => Err(Error::unsupported(
            path,
            format!("tensor '{}' has type id 42, and its size fits both STQ1_0 and Q2_0", unclear.name),
        )),
        (Ok(placed), Err(_)) => Ok(placed),
        (Err(_), Ok(_)) => Err(foreign_type(path, &unclear.name, "Q2_0 (id 42)")),
        (Err(error), Err(_)) => Err(error),
    }
}

/// Follows the chain of offsets, with type id 42 standing for STQ1_0 or, when `id_42` is [`Meaning::Stq1_0OrQ2_0`], Q2_0.
fn walk(path: &Path, header: &Header, file: &[u8], id_42: Meaning) -> Result<Vec<Placed>> {
    let file_len = file.len() as u64;
    let in_header = |problem: &str| Error::malformed(path, "header", problem);
    let mut placed = Vec::new();
    let mut end = header.len;
    let data_start =
        header.len.checked_next_multiple_of(header.alignment).ok_or_else(|| in_header("size overflows"))?;
    let mut expected = 0u64; // of the next tensor, relative to data_start
    for tensor in &header.tensors {
        let fail = |problem: String| Error::malformed(path, format!("tensor '{}'", tensor.name), problem);
        let (ty, block) = match if tensor.meaning == Meaning::Stq1_0OrQ2_0 { id_42 } else { tensor.meaning } {
            Meaning::Known(ty) => (ty, (ty.block_len() as u64, ty.block_bytes() as u64)),
            _ => (TensorType::STQ1_0, Q2_0_BLOCK),
        };
        let size = byte_size(&tensor.dims, block).map_err(fail)?;
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
    if file.iter().rev().take(trailing as usize).any(|byte| *byte != 0) {
        return Err(Error::malformed(path, "end of file", "the padding after the last tensor is not zero"));
    }
    Ok(placed)
}

/// Bytes of a tensor with dimensions `dims`, row length first; the error says why there is no such tensor.
pub(super) fn tensor_size(dims: &[u64], ty: TensorType) -> Result<u64, String> {
    byte_size(dims, (ty.block_len() as u64, ty.block_bytes() as u64))
}

/// [`tensor_size`] with blocks of `(values, bytes)`. At most `i64::MAX` values and bytes, as in ggml.
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
        .ok_or_else(|| format!("shape {}: the size overflows", shape(dims.iter().rev())))
}
