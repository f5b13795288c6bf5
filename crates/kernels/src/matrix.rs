//! A weight matrix in the form the kernels execute.

use crate::Bytes;
use crate::format::half::{bf16_to_f32, f16_to_f32};
use crate::format::{PackedLayout, TensorType};

/// A weight matrix, `rows` = out features, `cols` = in features.
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    pub(crate) repr: Repr,
}

#[derive(Clone, Debug)]
pub(crate) enum Repr {
    /// Row-major rows of a tensor type, used where they lie (usually in a file mapping).
    Rows { ty: TensorType, bytes: Bytes },
}

/// Why bytes cannot become a [`Matrix`].
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
}

impl Matrix {
    /// Row-major rows of a float or block type, used in place.
    ///
    /// # Errors
    /// [`MatrixError`] when type, shape and size do not fit together.
    pub fn from_rows(ty: TensorType, rows: usize, cols: usize, bytes: Bytes) -> Result<Self, MatrixError> {
        let row = ty.row_bytes(cols).ok_or(MatrixError::Columns { ty, cols })?;
        let expected = row.checked_mul(rows).unwrap_or(usize::MAX);
        if expected != bytes.len() {
            return Err(MatrixError::Size { expected, found: bytes.len() });
        }
        if !matches!(ty, TensorType::F32 | TensorType::F16 | TensorType::BF16) {
            return Err(MatrixError::UnsupportedType(ty)); // block types: to be filled in with format::ggml
        }
        Ok(Self { rows, cols, repr: Repr::Rows { ty, bytes } })
    }

    /// Row-major packed ternary codes (`layout.rows` x `layout.format.row_bytes`) and f16 scales (little-endian bytes),
    /// repacked into kernel order.
    ///
    /// # Errors
    /// [`MatrixError`] when sizes do not fit or a code is illegal.
    pub fn from_packed(layout: PackedLayout, codes: &[u8], scales: &[u8]) -> Result<Self, MatrixError> {
        let _ = (layout, codes, scales);
        todo!("ternary kernels")
    }

    /// Out features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// In features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes held in memory (or mapped) for the weights, scales included.
    pub fn bytes(&self) -> usize {
        match &self.repr {
            Repr::Rows { bytes, .. } => bytes.len(),
        }
    }

    /// Row `row` as f32 (embedding look-up, oracle). `out` has `cols` values.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        match &self.repr {
            Repr::Rows { ty, bytes } => {
                let len = bytes.len() / self.rows;
                let bytes = &bytes[row * len..(row + 1) * len];
                match ty {
                    TensorType::F32 => {
                        for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                            *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                        }
                    }
                    TensorType::F16 => {
                        for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                            *o = f16_to_f32(u16::from_le_bytes([b[0], b[1]]));
                        }
                    }
                    _ => {
                        for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                            *o = bf16_to_f32(u16::from_le_bytes([b[0], b[1]]));
                        }
                    }
                }
            }
        }
    }
}
