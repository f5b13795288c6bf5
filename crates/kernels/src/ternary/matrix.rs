//! Ternary weights in the order the kernels read them.
//!
//! Rows are taken in **blocks** of 64 (the last one padded with zero codes), the columns of a block in **chunks** of
//! eight 5-bit codes, or of 32 weights at 2 bits. Everything a thread reads for a block lies in one ascending stream:
//!
//! - 5-bit formats, 320 bytes a chunk, five lines: line 0 holds the sign bytes of the 64 rows (code `g` at bit `g`), line
//!   `1 + v` the bytes with the nibbles of codes `2v` (low) and `2v + 1` (high). These are the bytes of the row-major
//!   units, transposed.
//! - 2-bit format, 512 bytes a chunk: two halves of 16 weights, each the row-major 4 bytes of the 64 rows in turn. The
//!   bits `2j` of the four bytes belong to inputs `j, 4 + j, 8 + j, 12 + j` of the 16; the activations are laid out to
//!   match.
//! - Group scales: 128 bytes, 64 f16, before the chunks of each group, in **slot** order: the order in which widening
//!   byte sums without crossing 128-bit lanes leaves the rows.

use crate::Pool;
use crate::format::half::f16_to_f32;
use crate::format::{PackedError, PackedLayout, ScaleGroup, TernaryFormat, UNIT_BYTES, UNIT_CODES, stq1_0};
use crate::matrix::MatrixError;

use super::lines::{Lines, OutOfMemory};
use super::transpose::{COLUMNS, transpose};

/// Rows per block.
pub(crate) const BLOCK_ROWS: usize = 64;
/// Bytes of the f16 scales of one group of one block.
pub(crate) const SCALE_BYTES: usize = 2 * BLOCK_ROWS;
/// Bytes per chunk of a 5-bit format.
pub(crate) const CODE_CHUNK_BYTES: usize = BLOCK_ROWS * UNIT_BYTES;
/// Bytes per chunk of the 2-bit format: 32 weights a row.
pub(crate) const BIT_CHUNK_BYTES: usize = BLOCK_ROWS * 8;

/// The row of a block whose value stands at `slot` of a vector of 64, for the 5-bit formats.
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

/// A packed ternary matrix in kernel order.
#[derive(Debug)]
pub(crate) struct TernaryMatrix {
    layout: PackedLayout,
    /// Chunks per row.
    chunks: usize,
    /// Chunks per scale; 0 with row scales.
    group_chunks: usize,
    /// Row blocks, one after the other.
    blocks: Lines,
    block_bytes: usize,
    /// Row scales, padded to whole blocks with zeros; empty with group scales.
    row_scales: Vec<[f32; BLOCK_ROWS]>,
}

impl TernaryMatrix {
    /// Repacks row-major codes and f16 scales (little-endian bytes), spread over `pool`.
    pub(crate) fn from_packed(
        layout: PackedLayout,
        codes: &[u8],
        scales: &[u8],
        pool: &Pool,
    ) -> Result<Self, MatrixError> {
        layout.check_codes(codes)?;
        let (scales, rest) = scales.as_chunks::<2>();
        if !rest.is_empty() {
            let expected = 2 * layout.rows * layout.row_scales();
            return Err(PackedError::ScalesSize { expected, found: 2 * scales.len() + 1 }.into());
        }
        layout.check_scales(scales.iter().map(|&s| u16::from_le_bytes(s)))?;
        let (row_bytes, row_scales) = (layout.row_bytes(), layout.row_scales());
        Self::build(
            layout,
            pool,
            |row, out| out.copy_from_slice(&codes[row * row_bytes..][..row_bytes]),
            |row, group| u16::from_le_bytes(scales[row * row_scales + group]),
        )
    }

    /// Repacks the blocks of a GGUF STQ1_0 tensor, spread over `pool`.
    pub(crate) fn from_stq1_0(rows: usize, cols: usize, bytes: &[u8], pool: &Pool) -> Result<Self, MatrixError> {
        let per_row = stq1_0::check_size(rows, cols, bytes.len())? / rows;
        let layout = stq1_0::layout(rows, cols);
        let (blocks, _) = bytes.as_chunks::<{ stq1_0::BLOCK_BYTES }>();
        let scale = |block: &[u8; stq1_0::BLOCK_BYTES]| u16::from_le_bytes([block[40], block[41]]);
        layout.check_scales(blocks.iter().map(scale))?;
        Self::build(
            layout,
            pool,
            |row, out| stq1_0::unpack_codes(&blocks[row * per_row..][..per_row], out),
            |row, group| scale(&blocks[row * per_row + group]),
        )
    }

    /// Fills all blocks. `codes(row, out)` writes the row-major codes of a row, `scale(row, group)` tells the f16 bits of
    /// a scale; contents have been checked.
    fn build(
        layout: PackedLayout,
        pool: &Pool,
        codes: impl Fn(usize, &mut [u8]) + Sync,
        scale: impl Fn(usize, usize) -> u16 + Sync,
    ) -> Result<Self, MatrixError> {
        let PackedLayout { format, rows, cols, .. } = layout;
        let chunk_inputs = UNIT_CODES * format.lanes();
        let chunks = cols.div_ceil(chunk_inputs);
        let group_chunks = match layout.scale {
            ScaleGroup::Row => 0,
            ScaleGroup::Group(size) => size / chunk_inputs,
        };
        let shape = RowBlock { stream: &[], row_scales: None, chunks, group_chunks };
        let block_bytes = shape.stream_bytes(chunk_bytes(format));
        let row_blocks = rows.div_ceil(BLOCK_ROWS);
        let bytes = row_blocks.saturating_mul(block_bytes);
        let mut blocks = Lines::zeroed(bytes).map_err(|OutOfMemory| MatrixError::OutOfMemory { bytes })?;
        let mut row_scales = Vec::new();
        if group_chunks == 0 {
            row_scales.try_reserve_exact(row_blocks).map_err(|_| MatrixError::OutOfMemory { bytes })?;
            row_scales.resize(row_blocks, [0.0; BLOCK_ROWS]);
            for (row, out) in row_scales.as_flattened_mut()[..rows].iter_mut().enumerate() {
                *out = f16_to_f32(scale(row, 0));
            }
        }
        // Rows of a block side by side, padded with zeros to whole columns: what the transposition reads.
        let stride = (chunks * chunk_bytes(format) / BLOCK_ROWS).next_multiple_of(COLUMNS);
        pool.for_chunks(&mut blocks.bytes_mut()[..bytes], block_bytes, |block, stream| {
            let first = block * BLOCK_ROWS;
            let mut rows_codes = vec![0; stride * BLOCK_ROWS];
            for (row, out) in (first..rows).zip(rows_codes.chunks_exact_mut(stride)) {
                codes(row, &mut out[..layout.row_bytes()]);
            }
            let mut at = 0;
            for chunk in 0..chunks {
                if shape.starts_group(chunk) {
                    let group = chunk / group_chunks;
                    for (slot, out) in stream[at..at + SCALE_BYTES].as_chunks_mut::<2>().0.iter_mut().enumerate() {
                        let row = first + scale_row(format, slot);
                        *out = if row < rows { scale(row, group) } else { 0 }.to_le_bytes();
                    }
                    at += SCALE_BYTES;
                }
                if format == TernaryFormat::Ternary2 {
                    interleave_words(&rows_codes, stride, chunk, &mut stream[at..at + BIT_CHUNK_BYTES]);
                }
                at += chunk_bytes(format);
            }
            if format != TernaryFormat::Ternary2 {
                transpose_units(&rows_codes, stride, &shape, stream);
            }
        });
        Ok(Self { layout, chunks, group_chunks, blocks, block_bytes, row_scales })
    }

    pub(crate) fn layout(&self) -> &PackedLayout {
        &self.layout
    }

    /// Row blocks.
    pub(crate) fn row_blocks(&self) -> usize {
        self.layout.rows.div_ceil(BLOCK_ROWS)
    }

    /// Bytes held in memory, padding and scales included.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.bytes().len() + size_of_val(self.row_scales.as_slice())
    }

    /// Row block `index`.
    pub(crate) fn block(&self, index: usize) -> RowBlock<'_> {
        RowBlock {
            stream: &self.blocks.bytes()[index * self.block_bytes..][..self.block_bytes],
            row_scales: (self.group_chunks == 0).then(|| &self.row_scales[index]),
            chunks: self.chunks,
            group_chunks: self.group_chunks,
        }
    }

    /// Row `row` as f32: each value times its scale. `out` has `cols` values.
    pub(crate) fn row_f32(&self, row: usize, out: &mut [f32]) {
        let format = self.layout.format;
        let (block, r) = (self.block(row / BLOCK_ROWS), row % BLOCK_ROWS);
        let unit = chunk_bytes(format) / BLOCK_ROWS;
        let chunk_inputs = UNIT_CODES * format.lanes();
        let mut codes = vec![0; self.chunks * unit];
        let mut scales = vec![0.0; self.chunks];
        let mut scale = block.row_scales.map_or(0.0, |scales| scales[r]);
        let mut at = 0;
        for chunk in 0..self.chunks {
            if block.starts_group(chunk) {
                let slot = (0..BLOCK_ROWS).find(|&slot| scale_row(format, slot) == r).unwrap_or(0);
                scale = f16_to_f32(u16::from_le_bytes([block.stream[at + 2 * slot], block.stream[at + 2 * slot + 1]]));
                at += SCALE_BYTES;
            }
            scales[chunk] = scale;
            let codes = &mut codes[chunk * unit..][..unit];
            let stream = &block.stream[at..at + chunk_bytes(format)];
            if format == TernaryFormat::Ternary2 {
                codes[..4].copy_from_slice(&stream[4 * r..][..4]);
                codes[4..].copy_from_slice(&stream[4 * (BLOCK_ROWS + r)..][..4]);
            } else {
                for (plane, code) in codes.iter_mut().enumerate() {
                    *code = stream[code_line(plane) * BLOCK_ROWS + r];
                }
            }
            at += chunk_bytes(format);
        }
        let mut values = vec![0; self.layout.cols];
        self.layout.decode_row(&codes[..self.layout.row_bytes()], &mut values);
        for ((out, values), scale) in out.chunks_mut(chunk_inputs).zip(values.chunks(chunk_inputs)).zip(scales) {
            for (out, &value) in out.iter_mut().zip(values) {
                *out = f32::from(value) * scale;
            }
        }
    }
}

/// Bytes per chunk of 64 rows.
pub(crate) const fn chunk_bytes(format: TernaryFormat) -> usize {
    match format {
        TernaryFormat::Sherry | TernaryFormat::Ternary167 => CODE_CHUNK_BYTES,
        TernaryFormat::Ternary2 => BIT_CHUNK_BYTES,
    }
}

/// The row whose group scale stands at `slot`.
const fn scale_row(format: TernaryFormat, slot: usize) -> usize {
    match format {
        TernaryFormat::Sherry | TernaryFormat::Ternary167 => slot_row(slot),
        TernaryFormat::Ternary2 => slot,
    }
}

/// The line of a chunk that holds byte `plane` of the row-major units.
const fn code_line(plane: usize) -> usize {
    (plane + 1) % UNIT_BYTES
}

/// Row-major units of 64 rows to the lines of the chunks.
fn transpose_units(rows: &[u8], stride: usize, shape: &RowBlock<'_>, stream: &mut [u8]) {
    let mut lines = [[0; BLOCK_ROWS]; COLUMNS];
    let columns = shape.chunks * UNIT_BYTES;
    // Scales before a chunk; groups are a power of two of chunks.
    let groups = |chunk: usize| match shape.group_chunks {
        0 => 0,
        size => (chunk >> size.trailing_zeros()) + 1,
    };
    for first in (0..columns).step_by(COLUMNS) {
        transpose(rows, stride, first, &mut lines);
        for (column, line) in (first..columns).zip(&lines) {
            let (chunk, plane) = (column / UNIT_BYTES, column % UNIT_BYTES);
            let at = chunk * CODE_CHUNK_BYTES + groups(chunk) * SCALE_BYTES + code_line(plane) * BLOCK_ROWS;
            stream[at..at + BLOCK_ROWS].copy_from_slice(line);
        }
    }
}

/// Row-major bytes of 64 rows to one chunk of the 2-bit format.
fn interleave_words(rows: &[u8], stride: usize, chunk: usize, out: &mut [u8]) {
    let (low, high) = out.split_at_mut(BIT_CHUNK_BYTES / 2);
    for ((row, low), high) in rows.chunks_exact(stride).zip(low.chunks_exact_mut(4)).zip(high.chunks_exact_mut(4)) {
        low.copy_from_slice(&row[8 * chunk..8 * chunk + 4]);
        high.copy_from_slice(&row[8 * chunk + 4..8 * chunk + 8]);
    }
}
