//! Row-major packed ternary tensors: what a native checkpoint stores and what the quantizer makes.
//!
//! Every format is a stream of 5-bit codes per row. Eight codes take 5 bytes: four bytes of nibbles (code `2j` in the
//! low nibble of byte `j`, code `2j+1` in the high nibble) and one byte of sign bits (code `g` at bit `g`). A row is
//! padded with zero bits to a whole number of 5-byte units. See FORMAT.md.

use std::fmt;

/// How a weight matrix with values in {-1, 0, +1} is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TernaryFormat {
    /// Sherry, 1.25 bits per weight: 5 bits hold 4 weights, exactly one of them zero (arXiv 2601.07892).
    Sherry,
    /// Dense ternary, 1.67 bits per weight: 5 bits hold 3 weights (the TL2 class).
    Ternary167,
    /// Dense ternary, 2 bits per weight (the I2_S class): four weights a byte, weight `j` at bits `2j`, stored as value + 1.
    Ternary2,
}

/// Which four inputs form a quad (Sherry only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum QuadOrder {
    /// Quad `g` holds inputs `4g .. 4g+3` (the paper).
    #[default]
    Contiguous,
    /// Inside each chunk `c` of 64 inputs, quad `i` holds inputs `64c + i + 16p`, lanes `p = 0..3` (GGUF STQ1_0).
    Stride16,
}

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleGroup {
    /// One scale per row (output channel).
    Row,
    /// One scale per `n` consecutive inputs of a row, `n` in {32, 64, 128, 256}; the last group may be short.
    Group(usize),
}

impl ScaleGroup {
    /// Scales per row of `cols` weights.
    pub const fn per_row(self, cols: usize) -> usize {
        match self {
            Self::Row => 1,
            Self::Group(n) => cols.div_ceil(n),
        }
    }
}

impl TernaryFormat {
    /// Weights per code (Sherry 4, 1.67-bit 3); 2-bit counts as 16 weights per 4-byte unit, see [`row_bytes`](Self::row_bytes).
    pub const fn lanes(self) -> usize {
        match self {
            Self::Sherry => 4,
            Self::Ternary167 => 3,
            Self::Ternary2 => 1,
        }
    }

    /// Bytes of codes per row of `cols` weights.
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            Self::Sherry => cols.div_ceil(32) * 5,
            Self::Ternary167 => cols.div_ceil(24) * 5,
            Self::Ternary2 => cols.div_ceil(4),
        }
    }
}

impl fmt::Display for TernaryFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sherry => "sherry-1.25",
            Self::Ternary167 => "ternary-1.67",
            Self::Ternary2 => "ternary-2",
        })
    }
}

/// Shape and layout of a packed tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedLayout {
    /// How codes hold weights.
    pub format: TernaryFormat,
    /// Out features.
    pub rows: usize,
    /// In features.
    pub cols: usize,
    /// Which inputs form a quad; `Contiguous` for the baselines.
    pub order: QuadOrder,
    /// Which weights share a scale.
    pub scale: ScaleGroup,
}

/// A packed ternary tensor, row-major. `codes`: rows x [`TernaryFormat::row_bytes`] bytes; `scales`: rows x
/// [`ScaleGroup::per_row`] f16 bit patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedRows {
    /// Shape and layout.
    pub layout: PackedLayout,
    /// The 5-bit (or 2-bit) codes.
    pub codes: Vec<u8>,
    /// f16 bits.
    pub scales: Vec<u16>,
}
