//! Where tensors come from: GGUF, safetensors and in-memory fixtures look alike to the loader.

use std::path::Path;

use sherry_kernels::Bytes;
use sherry_kernels::format::TensorType;

use crate::Result;

/// Name, type and shape of one stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// Element or block type.
    pub ty: TensorType,
    /// Dimensions in PyTorch order: a matrix is `[rows = out features, cols = in features]`.
    pub shape: Vec<usize>,
    /// Size of the data in bytes, already checked against type, shape and file length.
    pub bytes: usize,
}

/// A container of named tensors. Opening one checks every size and offset, so [`data`](Self::data) cannot go out of bounds.
pub trait TensorSource: Send + Sync {
    /// The file or folder, for messages.
    fn path(&self) -> &Path;

    /// All tensors in file order.
    fn tensors(&self) -> &[TensorInfo];

    /// The tensor called `name`.
    fn find(&self, name: &str) -> Option<&TensorInfo>;

    /// The bytes of the tensor called `name`, without copying where the file is mapped.
    ///
    /// # Errors
    /// When there is no such tensor.
    fn data(&self, name: &str) -> Result<Bytes>;

    /// Tensors of types that this program does not read: name, and type as the file calls it. They are in the file, but
    /// neither in [`tensors`](Self::tensors) nor found by name.
    fn unreadable(&self) -> Vec<(&str, &str)> {
        Vec::new()
    }

    /// Tells the system that the bytes of `name` will not be read again soon, so that their pages need not stay resident.
    fn release(&self, name: &str);
}
