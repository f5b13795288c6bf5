//! Ternary weights in [kernel order](super::block), and how they get there.

use super::block::{BIT_CHUNK_BYTES, BLOCK_ROWS, RowBlock, SCALE_BYTES, chunk_bytes, code_line, scale_row};
use super::transpose::{COLUMNS, Columns};
use crate::Pool;
use crate::bytes::STRETCH;
use crate::error::MatrixError;
use crate::format::half::{f16_to_f32, f32_to_f16};
use crate::format::{PackedError, PackedLayout, QuadOrder, ScaleGroup, TernaryFormat, TernaryRows, UNIT_CODES, stq1_0};
use crate::lines::{Lines, OutOfMemory};

/// Transposes bytes: see [`transpose`](super::transpose::transpose).
pub(crate) trait Transpose: Fn(&[u8], usize, usize, &mut Columns) + Sync {}
impl<F: Fn(&[u8], usize, usize, &mut Columns) + Sync> Transpose for F {}

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
    /// Repacks row-major codes and f16 scales (little-endian bytes), spread over `pool`, with the `transpose` of any
    /// instruction set.
    pub(crate) fn from_packed(
        layout: PackedLayout,
        codes: &[u8],
        scales: &[u8],
        pool: &Pool,
        transpose: impl Transpose,
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
            transpose,
            |row, out| out.copy_from_slice(&codes[row * row_bytes..][..row_bytes]),
            |row, group| f16_to_f32(u16::from_le_bytes(scales[row * row_scales + group])),
        )
    }

    /// Repacks the blocks of a GGUF STQ1_0 tensor likewise.
    pub(crate) fn from_stq1_0(
        rows: usize,
        cols: usize,
        bytes: &[u8],
        pool: &Pool,
        transpose: impl Transpose,
    ) -> Result<Self, MatrixError> {
        let per_row = stq1_0::check_size(rows, cols, bytes.len())? / rows;
        let layout = stq1_0::layout(rows, cols);
        let (blocks, _) = bytes.as_chunks::<{ stq1_0::BLOCK_BYTES }>();
        let scale = |block: &[u8; stq1_0::BLOCK_BYTES]| u16::from_le_bytes([block[40], block[41]]);
        layout.check_scales(blocks.iter().map(scale))?;
        Self::build(
            layout,
            pool,
            transpose,
            |row, out| stq1_0::unpack_codes(&blocks[row * per_row..][..per_row], out),
            |row, group| f16_to_f32(scale(&blocks[row * per_row + group])),
        )
    }

    /// Repacks any ternary weights into `format`, which must have a code for each of them.
    pub(crate) fn from_rows(
        rows: &(impl TernaryRows + ?Sized),
        format: TernaryFormat,
        pool: &Pool,
        transpose: impl Transpose,
    ) -> Result<Self, MatrixError> {
        let (count, cols) = rows.shape();
        let scale = match rows.scale_group() {
            // Row scales are f32 in memory, so one for the whole matrix loses nothing as one for every row.
            ScaleGroup::Tensor | ScaleGroup::Row => ScaleGroup::Row,
            group @ ScaleGroup::Group(_) => group,
        };
        let layout = PackedLayout { format, rows: count, cols, order: QuadOrder::Contiguous, scale };
        layout.check()?;
        for (row, group) in (0..count).flat_map(|row| (0..layout.row_scales()).map(move |group| (row, group))) {
            let value = rows.scale(row, group);
            if !value.is_finite() {
                return Err(PackedError::Scale { row, group }.into());
            }
            // Those of groups stand beside the codes, as f16.
            if scale != ScaleGroup::Row && f16_to_f32(f32_to_f16(value)) != value {
                return Err(PackedError::InexactScale { row, group }.into());
            }
        }
        let stretch = STRETCH.div_ceil(layout.row_bytes().max(1));
        let codes = |row: usize, out: &mut [u8]| {
            if format != TernaryFormat::Binary || !rows.signs(row, out) {
                let mut values = vec![0; cols];
                rows.values(row, &mut values);
                layout
                    .encode_row(&values, out)
                    .expect("the values of TernaryRows are -1, 0 and +1, and the format has those there are");
            }
            if (row + 1).is_multiple_of(stretch) {
                rows.release(row + 1 - stretch..row + 1);
            }
        };
        Self::build(layout, pool, transpose, codes, |row, group| rows.scale(row, group))
    }

    /// Fills all blocks. `codes(row, out)` writes the row-major codes of a row, `scale(row, group)` tells a scale, which
    /// is an f16 where there are several in a row; contents have been checked.
    fn build(
        layout: PackedLayout,
        pool: &Pool,
        transpose: impl Transpose,
        codes: impl Fn(usize, &mut [u8]) + Sync,
        scale: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Result<Self, MatrixError> {
        let PackedLayout { format, rows, cols, .. } = layout;
        let chunk_inputs = UNIT_CODES * format.lanes();
        let chunks = cols.div_ceil(chunk_inputs);
        let group_chunks = match layout.scale {
            ScaleGroup::Tensor | ScaleGroup::Row => 0,
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
                *out = scale(row, 0);
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
                        *out = if row < rows { f32_to_f16(scale(row, group)) } else { 0 }.to_le_bytes();
                    }
                    at += SCALE_BYTES;
                }
                if format == TernaryFormat::Ternary2 {
                    interleave_words(&rows_codes, stride, chunk, &mut stream[at..at + BIT_CHUNK_BYTES]);
                }
                at += chunk_bytes(format);
            }
            if format != TernaryFormat::Ternary2 {
                transpose_codes(&transpose, format, &rows_codes, stride, &shape, stream);
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
                    *code = stream[code_line(format, plane) * BLOCK_ROWS + r];
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

/// Row-major codes of 64 rows to the lines of the chunks.
fn transpose_codes(
    transpose: &impl Transpose,
    format: TernaryFormat,
    rows: &[u8],
    stride: usize,
    shape: &RowBlock<'_>,
    stream: &mut [u8],
) {
    let mut lines = [[0; BLOCK_ROWS]; COLUMNS];
    let chunk_bytes = chunk_bytes(format);
    let planes = chunk_bytes / BLOCK_ROWS;
    let columns = shape.chunks * planes;
    // Scales before a chunk; groups are a power of two of chunks.
    let groups = |chunk: usize| match shape.group_chunks {
        0 => 0,
        size => (chunk >> size.trailing_zeros()) + 1,
    };
    for first in (0..columns).step_by(COLUMNS) {
        transpose(rows, stride, first, &mut lines);
        for (column, line) in (first..columns).zip(&lines) {
            let (chunk, plane) = (column / planes, column % planes);
            let at = chunk * chunk_bytes + groups(chunk) * SCALE_BYTES + code_line(format, plane) * BLOCK_ROWS;
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
