//! The order in which the kernels read ternary weights.
//!
//! Rows are taken in **blocks** of 64 (the last one padded with zero codes), the columns of a block in **chunks** of
//! eight codes of 5 bits or of 4 (binary), or of 32 weights at 2 bits. Everything a thread reads for a block lies in one ascending stream:
//!
//! - 5-bit formats, 320 bytes a chunk, five lines: line 0 holds the sign bytes of the 64 rows (code `g` at bit `g`), line
//!   `1 + v` the bytes with the nibbles of codes `2v` (low) and `2v + 1` (high). These are the bytes of the row-major
//!   units, transposed.
//! - Binary format, 256 bytes a chunk, four lines: line `v` holds the bytes with the signs of codes `2v` (low four bits) and
//!   `2v + 1` (high), which are the row-major bytes of the 64 rows, transposed.
//! - 2-bit format, 512 bytes a chunk: two halves of 16 weights, each the row-major 4 bytes of the 64 rows in turn. The
//!   bits `2j` of the four bytes belong to inputs `j, 4 + j, 8 + j, 12 + j` of the 16; the activations are laid out to
//!   match.
//! - Group scales: 128 bytes, 64 f16, before the chunks of each group, in **slot** order: the order in which widening
//!   byte sums without crossing 128-bit lanes leaves the rows (of the 2-bit format, in order of rows).

use crate::format::{TernaryFormat, UNIT_BYTES};

/// Rows per block.
pub(crate) const BLOCK_ROWS: usize = 64;
/// Bytes of the f16 scales of one group of one block.
pub(crate) const SCALE_BYTES: usize = 2 * BLOCK_ROWS;
/// Bytes per chunk of a 5-bit format.
pub(crate) const CODE_CHUNK_BYTES: usize = BLOCK_ROWS * UNIT_BYTES;
/// Bytes per chunk of the binary format: eight codes of four weights a row.
pub(crate) const BINARY_CHUNK_BYTES: usize = BLOCK_ROWS * 4;
/// Bytes per chunk of the 2-bit format: 32 weights a row.
pub(crate) const BIT_CHUNK_BYTES: usize = BLOCK_ROWS * 8;

/// Values of the 64 rows of a block.
pub(crate) type Rows = [f32; BLOCK_ROWS];

/// The row of a block whose value stands at `slot` of a vector of 64, for the formats that are looked up.
pub(crate) const fn slot_row(slot: usize) -> usize {
    let (vector, lane, k) = (slot / 16, slot % 16 / 4, slot % 4);
    16 * lane + 8 * (vector / 2) + 2 * k + vector % 2
}

/// One block of rows, as the kernels see it.
#[derive(Clone, Copy)]
pub(crate) struct RowBlock<'a> {
    /// Chunks, with group scales in between.
    pub(crate) stream: &'a [u8],
    /// Scales per row in natural order; `None` when they are in the stream.
    pub(crate) row_scales: Option<&'a [f32; BLOCK_ROWS]>,
    /// Chunks per row.
    pub(crate) chunks: usize,
    /// Chunks per scale, 1, 2, 4 or 8; 0 with row scales.
    pub(crate) group_chunks: usize,
}

impl RowBlock<'_> {
    /// Chunks whose integer sums share one factor: they lie in one activation block and in one scale group.
    pub(crate) const fn segment_chunks(&self) -> usize {
        match self.group_chunks {
            1 => 1,
            2 => 2,
            _ => 4,
        }
    }

    /// Whether scales stand in the stream before chunk `chunk`.
    pub(crate) const fn starts_group(&self, chunk: usize) -> bool {
        self.group_chunks != 0 && chunk & (self.group_chunks - 1) == 0
    }

    /// Bytes of the stream when a chunk takes `chunk_bytes`.
    pub(crate) const fn stream_bytes(&self, chunk_bytes: usize) -> usize {
        let groups = if self.group_chunks == 0 { 0 } else { self.chunks.div_ceil(self.group_chunks) };
        self.chunks * chunk_bytes + groups * SCALE_BYTES
    }
}

/// Bytes per chunk of 64 rows.
pub(crate) const fn chunk_bytes(format: TernaryFormat) -> usize {
    match format {
        TernaryFormat::Sherry | TernaryFormat::Ternary167 => CODE_CHUNK_BYTES,
        TernaryFormat::Ternary2 => BIT_CHUNK_BYTES,
        TernaryFormat::Binary => BINARY_CHUNK_BYTES,
    }
}

/// The row whose group scale stands at `slot`.
pub(crate) const fn scale_row(format: TernaryFormat, slot: usize) -> usize {
    match format {
        TernaryFormat::Sherry | TernaryFormat::Ternary167 | TernaryFormat::Binary => slot_row(slot),
        TernaryFormat::Ternary2 => slot,
    }
}

/// The line of a chunk that holds byte `plane` of the row-major bytes of a row, for the formats that are looked up.
pub(crate) const fn code_line(format: TernaryFormat, plane: usize) -> usize {
    match format {
        TernaryFormat::Binary => plane,
        // The byte of sign bits, the last of a unit, comes first.
        _ => (plane + 1) % UNIT_BYTES,
    }
}
