//! The element and block types a stored tensor can have.

use std::fmt;

/// How the values of a stored tensor are laid out along a row.
///
/// The block types are those of GGUF (`ggml_type`), but for [`SQ3_0`](Self::SQ3_0); see FORMAT.md for the layout of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, missing_docs)] // the names of the field
pub enum TensorType {
    F32,
    F16,
    BF16,
    /// Plain bytes: the packed codes of a native checkpoint.
    U8,
    I32,
    /// Words of packed codes: MLX.
    U32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    TQ1_0,
    TQ2_0,
    STQ1_0,
    /// Binary: a sign per weight.
    Q1_0,
    /// Values -1, 0, +1 and +2 times a scale per 64.
    Q2_0,
    /// [`Q2_0`](Self::Q2_0) with a scale per 128 (Prism ML).
    PQ2_0,
    /// [`TQ1_0`](Self::TQ1_0) with a scale per 128 (Prism ML).
    PTQ1_0,
    /// Values -4 to 3 times a scale per 64: three bits, for rows that are no blocks of 256. A type of Sherry's folders; GGUF has none
    /// like it.
    SQ3_0,
    /// Ternary with one f32 scale for the whole tensor (bitnet.cpp). Blocks run across the ends of rows, so a row has no
    /// bytes of its own: see [`i2_s`](super::i2_s).
    I2_S,
}

impl TensorType {
    /// Every type.
    pub const ALL: [Self; 27] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::U8,
        Self::I32,
        Self::U32,
        Self::I64,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::TQ1_0,
        Self::TQ2_0,
        Self::STQ1_0,
        Self::Q1_0,
        Self::Q2_0,
        Self::PQ2_0,
        Self::PTQ1_0,
        Self::SQ3_0,
        Self::I2_S,
    ];

    /// Values per block. A row must be a whole number of blocks, except that those of I2_S run across rows.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::U8 | Self::I32 | Self::U32 | Self::I64 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4_NL => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
            Self::TQ1_0 | Self::TQ2_0 | Self::STQ1_0 => 256,
            Self::Q2_0 | Self::SQ3_0 => 64,
            Self::Q1_0 | Self::PQ2_0 | Self::PTQ1_0 | Self::I2_S => 128,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::I64 => 8,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::TQ1_0 => 54,
            Self::TQ2_0 => 66,
            Self::STQ1_0 => 42,
            Self::Q1_0 | Self::Q2_0 => 18,
            Self::PQ2_0 => 34,
            Self::PTQ1_0 => 28,
            Self::SQ3_0 => 26,
            Self::I2_S => 32,
        }
    }

    /// Bytes of one row of `cols` values; `None` when `cols` is not a whole number of blocks, the size overflows or the
    /// rows of the type have no bytes of their own (I2_S).
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) || matches!(self, Self::I2_S) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Bytes of a tensor of `rows` x `cols` values; `None` when there is no such tensor or the size overflows.
    pub const fn tensor_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        if let Self::I2_S = self {
            // Blocks of all rows together, then 32 bytes with the scale.
            return match rows.checked_mul(cols) {
                Some(values) => match values.div_ceil(self.block_len()).checked_mul(self.block_bytes()) {
                    Some(codes) => codes.checked_add(32),
                    None => None,
                },
                None => None,
            };
        }
        match self.row_bytes(cols) {
            Some(row) => row.checked_mul(rows),
            None => None,
        }
    }

    /// Whether values are plain floating-point numbers.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Whether values are real numbers that [`ggml::dequantize`](super::ggml::dequantize) decodes; false for plain
    /// integers, and for I2_S, whose scale stands behind the last row.
    pub const fn is_dequantizable(self) -> bool {
        !matches!(self, Self::U8 | Self::I32 | Self::U32 | Self::I64 | Self::I2_S)
    }

    /// Whether a value is -1, 0 or +1 times a scale: the ternary types and the binary one. Of Q2_0 and PQ2_0 it may also
    /// be +2 times the scale; [`BlockRows`](super::BlockRows) tells.
    pub const fn is_ternary(self) -> bool {
        matches!(
            self,
            Self::TQ1_0
                | Self::TQ2_0
                | Self::STQ1_0
                | Self::Q1_0
                | Self::Q2_0
                | Self::PQ2_0
                | Self::PTQ1_0
                | Self::I2_S
        )
    }

    /// The name users know, as GGUF tools print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::U8 => "U8",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::I64 => "I64",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::IQ4_NL => "IQ4_NL",
            Self::TQ1_0 => "TQ1_0",
            Self::TQ2_0 => "TQ2_0",
            Self::STQ1_0 => "STQ1_0",
            Self::Q1_0 => "Q1_0",
            Self::Q2_0 => "Q2_0",
            Self::PQ2_0 => "PQ2_0",
            Self::PTQ1_0 => "PTQ1_0",
            Self::SQ3_0 => "SQ3_0",
            Self::I2_S => "I2_S",
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
