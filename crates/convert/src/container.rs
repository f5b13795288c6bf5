//! The file formats that are written, and what they hold of packed models.

use std::path::Path;

use sherry::io::native::PackedScheme;
use sherry_kernels::format::{QuadOrder, ScaleGroup, TensorType, TernaryFormat};

use crate::quant::{Projection, QuantSpec};

/// The file format to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A Hugging Face folder: plain when all weights are floats, native (see FORMAT.md) otherwise.
    Folder,
    /// One GGUF file.
    Gguf,
}

impl Container {
    /// Whether it knows the block or float type `ty` of a matrix: GGUF lacks SQ3_0.
    pub(crate) fn has(self, ty: TensorType) -> bool {
        !(self == Self::Gguf && ty == TensorType::SQ3_0)
    }
}

/// The container that the name `path` asks for: GGUF when it ends in `.gguf`, a folder otherwise.
pub fn container_of(path: &Path) -> Container {
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("gguf") => Container::Gguf,
        _ => Container::Folder,
    }
}

/// The packing of STQ1_0.
pub const STQ1_0: PackedScheme =
    PackedScheme { format: TernaryFormat::Sherry, order: QuadOrder::Stride16, scale: ScaleGroup::Group(256) };

/// What GGUF files of 1.25-bit models hold: Sparse-AbsMean in the packing of STQ1_0.
pub const STQ1_0_SPEC: QuantSpec = QuantSpec {
    format: STQ1_0.format,
    order: STQ1_0.order,
    scale: STQ1_0.scale,
    projection: Projection::SparseAbsMean,
};
