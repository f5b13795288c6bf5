//! Looking at every value of a tensor, which loading does not do.

use sherry_kernels::format::ggml;

use super::{TensorInfo, TensorSource};
use crate::{Error, Result};

/// Reads all of tensor `info` of `source` and checks what opening the file does not: floats and block scales must be
/// finite, ternary codes legal.
///
/// # Errors
/// [`Error::Malformed`] with the tensor and the first bad block, or why the tensor cannot be read.
pub fn verify_tensor(source: &dyn TensorSource, info: &TensorInfo) -> Result<()> {
    let bytes = source.data(&info.name)?;
    let problem = match ggml::verify(info.ty, &bytes) {
        Ok(()) => return Ok(()),
        Err((block, problem)) => {
            let value = block * info.ty.block_len();
            let cols = info.shape.last().copied().unwrap_or(1).max(1);
            format!("{problem} ({}) at row {}, column {}", info.ty, value / cols, value % cols)
        }
    };
    Err(Error::malformed(source.path(), format!("tensor '{}'", info.name), problem))
}
