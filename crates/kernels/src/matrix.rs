//! A weight matrix in the form the kernels execute.

use std::sync::Arc;

use crate::arch::dispatch;
use crate::coarse::Coarse;
use crate::error::MatrixError;
use crate::format::ggml::dequantize;
use crate::format::{PackedLayout, ScaleGroup, TensorType, TernaryFormat, TernaryRows};
use crate::panel::Panels;
use crate::table::Table;
use crate::ternary::matrix::{TernaryMatrix, Transpose};
use crate::ternary::transpose::Columns;
use crate::{Bytes, Pool};

/// A weight matrix, `rows` = out features, `cols` = in features.
///
/// ```
/// use sherry_kernels::{Bytes, Matrix, format::TensorType};
///
/// let bytes = [1f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes);
/// let w = Matrix::from_rows(TensorType::F32, 2, 2, Bytes::from(bytes.as_flattened().to_vec()))?;
/// let mut row = [0.0; 2];
/// w.row_f32(1, &mut row);
/// assert_eq!(row, [3.0, 4.0]);
/// # Ok::<(), sherry_kernels::MatrixError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    pub(crate) repr: Repr,
    pub(crate) coarse: Option<Arc<Coarse>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Repr {
    /// Row-major rows of a tensor type, used where they lie (usually in a file mapping).
    Rows { ty: TensorType, bytes: Bytes },
    /// Packed ternary weights in kernel order.
    Ternary(Arc<TernaryMatrix>),
    /// Block-quantized weights in kernel order.
    Panels(Panels),
}

/// How ternary weights of one scale per row, or one in all, lie in memory. Those with a scale per group take 2 bits (a code of
/// three weights would straddle groups), binary ones 1. What is computed is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TernaryBits {
    /// The smaller form, which decodes faster wherever memory is the limit: 1.67.
    #[default]
    Auto,
    /// Three weights in five bits.
    OneTwoThirds,
    /// Four weights in a byte.
    Two,
}

impl Matrix {
    /// Row-major rows of a float or block type, used in place; STQ1_0 is repacked into kernel order.
    ///
    /// # Errors
    /// [`MatrixError`] when type, shape and size do not fit together.
    pub fn from_rows(ty: TensorType, rows: usize, cols: usize, bytes: Bytes) -> Result<Self, MatrixError> {
        if ty == TensorType::STQ1_0 {
            return Self::from_stq1_0_on(&Pool::new(1), rows, cols, &bytes);
        }
        let row = ty.row_bytes(cols).ok_or(MatrixError::Columns { ty, cols })?;
        let expected = row.saturating_mul(rows);
        if expected != bytes.len() {
            return Err(MatrixError::Size { expected, found: bytes.len() });
        }
        if !ty.is_dequantizable() {
            return Err(MatrixError::UnsupportedType(ty));
        }
        Ok(Self { rows, cols, repr: Repr::Rows { ty, bytes }, coarse: None })
    }

    /// The same matrix in the order of the int8 kernels, for Q2_0, PQ2_0, SQ3_0, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL and Q2_K to
    /// Q6_K: a copy of about the same size (IQ4_NL: nearly twice; Q2_K: a fifth more). The rows are not needed afterwards. Any
    /// other matrix is returned as it is.
    ///
    /// Where the weights of Q2_0 or PQ2_0 are ternary, [`from_ternary_on`](Self::from_ternary_on) is faster.
    ///
    /// A matrix used only for [`row_f32`](Self::row_f32), like an embedding that is not the head as well, is better left
    /// as rows.
    pub fn repacked_on(self, pool: &Pool) -> Self {
        let Repr::Rows { ty, bytes } = &self.repr else { return self };
        match Panels::new(*ty, self.rows, self.cols, bytes, pool) {
            Some(panels) => Self { rows: self.rows, cols: self.cols, repr: Repr::Panels(panels), coarse: None },
            None => self,
        }
    }

    /// The same matrix with the coarse copy (3 bits a weight) that [`Engine::top`](crate::Engine::top) looks at first, if it
    /// is a [repacked](Self::repacked_on) one of finite weights and at most 131,072 columns. Any other matrix is returned as
    /// it is.
    pub fn with_coarse_on(mut self, pool: &Pool) -> Self {
        if matches!(self.repr, Repr::Panels(_)) {
            let table = dispatch::best(); // every instruction set gives the same bits
            let code_row = |row: usize, signs: &[f32], codes: &mut [u8]| {
                let (mut values, mut factors) = (vec![0.0; self.cols], [0.0; 2]);
                self.row_f32(row, &mut values);
                table.coarse_row(&mut values, signs, codes, &mut factors);
                factors
            };
            self.coarse = Coarse::new(self.rows, self.cols, pool, code_row).map(Arc::new);
        }
        self
    }

    /// Bytes that the [coarse copy](Self::with_coarse_on) of a matrix takes; saturates instead of overflowing.
    pub fn coarse_bytes(rows: usize, cols: usize) -> usize {
        Coarse::bytes_needed(rows, cols).unwrap_or(usize::MAX)
    }

    /// Whether the matrix has a [coarse copy](Self::with_coarse_on).
    pub fn has_coarse(&self) -> bool {
        self.coarse.is_some()
    }

    /// Row-major packed ternary codes (`layout.rows` x `layout.format.row_bytes`) and f16 scales (little-endian bytes),
    /// repacked into kernel order on the workers of `pool`. `codes` and `scales` are not needed afterwards.
    ///
    /// # Errors
    /// [`MatrixError`] when sizes do not fit, a code is illegal, padding is not zero or a scale is not finite.
    pub fn from_packed_on(pool: &Pool, layout: PackedLayout, codes: &[u8], scales: &[u8]) -> Result<Self, MatrixError> {
        let matrix = TernaryMatrix::from_packed(layout, codes, scales, pool, transpose())?;
        Ok(Self { rows: layout.rows, cols: layout.cols, repr: Repr::Ternary(Arc::new(matrix)), coarse: None })
    }

    /// [`from_packed_on`](Self::from_packed_on) on the calling thread alone.
    ///
    /// # Errors
    /// As there.
    pub fn from_packed(layout: PackedLayout, codes: &[u8], scales: &[u8]) -> Result<Self, MatrixError> {
        Self::from_packed_on(&Pool::new(1), layout, codes, scales)
    }

    /// The blocks of a GGUF STQ1_0 tensor, repacked into kernel order on the workers of `pool`. `blocks` are not needed
    /// afterwards.
    ///
    /// # Errors
    /// [`MatrixError`] when sizes do not fit or a scale is not finite.
    pub fn from_stq1_0_on(pool: &Pool, rows: usize, cols: usize, blocks: &[u8]) -> Result<Self, MatrixError> {
        let matrix = TernaryMatrix::from_stq1_0(rows, cols, blocks, pool, transpose())?;
        Ok(Self { rows, cols, repr: Repr::Ternary(Arc::new(matrix)), coarse: None })
    }

    /// Ternary or binary weights of any container, repacked into kernel order on the workers of `pool`: binary ones at 1 bit
    /// per weight; ternary ones as `bits` says. Scales of groups are f16. Every value and scale is kept exactly; `rows` are not
    /// needed afterwards.
    ///
    /// # Errors
    /// [`MatrixError`] when a scale is not finite, or one of a group is no f16, or a group has another size than
    /// [`TernaryFormat::group_sizes`].
    ///
    /// # Panics
    /// When a value of `rows` is not -1, 0 or +1, or is 0 although they are binary.
    pub fn from_ternary_on(
        pool: &Pool,
        rows: &(impl TernaryRows + ?Sized),
        bits: TernaryBits,
    ) -> Result<Self, MatrixError> {
        let format = match (rows.scale_group(), bits) {
            _ if rows.is_binary() => TernaryFormat::Binary,
            (ScaleGroup::Group(_), _) | (_, TernaryBits::Two) => TernaryFormat::Ternary2,
            (ScaleGroup::Tensor | ScaleGroup::Row, _) => TernaryFormat::Ternary167,
        };
        let (count, cols) = rows.shape();
        let matrix = TernaryMatrix::from_rows(rows, format, pool, transpose())?;
        Ok(Self { rows: count, cols, repr: Repr::Ternary(Arc::new(matrix)), coarse: None })
    }

    /// Out features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// In features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes held in memory (or mapped) for the weights, scales included, without a coarse copy.
    pub fn bytes(&self) -> usize {
        match &self.repr {
            Repr::Rows { bytes, .. } => bytes.len(),
            Repr::Ternary(matrix) => matrix.bytes(),
            Repr::Panels(panels) => panels.bytes().len(),
        }
    }

    /// Row `row` as f32 (embedding look-up, oracle). `out` has `cols` values.
    ///
    /// # Panics
    /// When the matrix has no such row, or `out` has another length.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        self.row_f32_by(dispatch::scalar(), row, out);
    }

    /// [`row_f32`](Self::row_f32) by the functions of an instruction set.
    pub(crate) fn row_f32_by(&self, table: &Table, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols);
        match &self.repr {
            Repr::Ternary(matrix) => matrix.row_f32(row, out),
            Repr::Rows { ty, bytes } => {
                let len = bytes.len() / self.rows;
                let bytes = &bytes[row * len..(row + 1) * len];
                match ty {
                    TensorType::F16 => table.widen_f16(bytes, out),
                    TensorType::BF16 => table.widen_bf16(bytes, out),
                    _ => dequantize(*ty, bytes, out),
                }
            }
            Repr::Panels(panels) => panels.row_f32(row, out),
        }
    }
}

/// The transposition of the best instruction set.
fn transpose() -> impl Transpose {
    let table = &dispatch::best().ternary;
    |rows: &[u8], stride: usize, column: usize, out: &mut Columns| table.transpose(rows, stride, column, out)
}
