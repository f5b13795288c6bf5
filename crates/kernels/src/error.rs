//! Why bytes cannot become a matrix.

use std::fmt;

use crate::format::{PackedError, TensorType};

/// Why bytes cannot become a [`Matrix`](crate::Matrix).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MatrixError {
    /// The type has no kernel.
    UnsupportedType(TensorType),
    /// Columns are not a whole number of blocks of the type.
    Columns {
        /// The type.
        ty: TensorType,
        /// In features.
        cols: usize,
    },
    /// The byte count does not fit the shape.
    Size {
        /// Bytes the shape needs.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Packed ternary weights that do not hold together.
    Packed(PackedError),
    /// Memory ran out.
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
}

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnsupportedType(ty) => write!(f, "type {ty} cannot be multiplied with"),
            Self::Columns { ty, cols } => {
                write!(f, "{cols} columns are not a multiple of {}, the block size of {ty}", ty.block_len())
            }
            Self::Size { expected, found } => write!(f, "the weights take {found} bytes, the shape needs {expected}"),
            Self::Packed(error) => error.fmt(f),
            Self::OutOfMemory { bytes } => write!(f, "memory ran out: {bytes} bytes asked for"),
        }
    }
}

impl std::error::Error for MatrixError {}

impl From<PackedError> for MatrixError {
    fn from(error: PackedError) -> Self {
        Self::Packed(error)
    }
}
