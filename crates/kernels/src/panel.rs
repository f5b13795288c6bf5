//! Block-quantized matrices in kernel order: sixteen rows side by side, so that a vector lane is an output row.
//!
//! A panel holds 16 rows (the last panel is filled up with zero rows): first the heads of all blocks, then the codes,
//! 32 inputs at a time. Every per-row value lies beside the same value of the other 15 rows.
//!
//! | type | head | codes per 32 inputs |
//! |---|---|---|
//! | Q4_0, Q5_0, Q8_0, IQ4_NL | per 32 inputs: `d` f16 | 4, 5, 8, 8 bits |
//! | Q2_0, SQ3_0 | per 64: `d` f16 | 2, 3 bits |
//! | PQ2_0 | per 128: `d` f16 | 2 bits |
//! | Q4_1, Q5_1 | per 32 inputs: `d` f16, `m` f16 | 4 or 5 bits |
//! | Q4_K, Q5_K | per 256: `d` f16, `dmin` f16, 8 x scale u8, 8 x min u8 | 4 or 5 bits |
//! | Q2_K | per 256: `d` f16, `dmin` f16, 16 x scale u8, 16 x min u8 | 2 bits |
//! | Q3_K, Q6_K | per 256: `d` f16, 16 x scale i8 | 3, 6 bits |
//!
//! The 32 inputs are 8 groups of 4 (contiguous inputs); byte `4 r + j` of a 64-byte plane belongs to row `r`, input `j`
//! of its group. 8-bit codes: a plane per group. 2-bit codes: 2 planes, plane `p` with two bits at `2 (g % 4)` for each group `g`
//! of `4 p .. 4 p + 4`. 3-bit codes: 3 planes, see [`join_threes`]. Others: 4 planes of nibbles, plane `p` with group `p` in
//! the low half and group `p + 4` in the high half; 5-bit codes add a plane whose bit `g` is the high bit of group `g`; 6-bit
//! codes add the 2 planes of 2-bit codes for their high bits.
//!
//! The bits per weight are those of the file, but for the unpacked scales of K types (+ 0.06 for Q4_K and Q5_K, + 0.12 for Q3_K,
//! + 0.5 for Q2_K), and for IQ4_NL, which borrows the kernel of Q8_0 (8.5 bits: its levels as they are).

use std::fmt;
use std::sync::Arc;

use crate::Pool;
use crate::bytes::{Bytes, STRETCH};
use crate::format::TensorType;
use crate::format::ggml::{IQ4_NL_LEVELS, short_codes};
use crate::format::half::f16_to_f32;
use crate::huge;

/// Rows per panel.
pub(crate) const ROWS: usize = 16;
/// Inputs per block of activations.
pub(crate) const BLOCK: usize = 32;

/// What surrounds the codes of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    /// value = d (code - offset); 8-bit codes are signed.
    Scale { offset: i32 },
    /// value = d code + m
    ScaleMin,
    /// value = (d scale) code - dmin min
    SuperScaleMin,
    /// [`SuperScaleMin`](Self::SuperScaleMin) with a scale and a min per 16 inputs
    SuperScaleMin16,
    /// value = (d scale) (code - offset), a scale per 16 inputs
    SuperScale { offset: i32 },
}

/// Where the parts of a panel lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelShape {
    pub ty: TensorType,
    pub rows: usize,
    pub cols: usize,
    head: Head,
    /// Bits per code.
    bits: usize,
    /// Bytes of one head (of 16 rows).
    pub head_bytes: usize,
    /// Inputs per head.
    head_cols: usize,
    /// Bytes of the codes of 32 inputs of 16 rows.
    pub code_bytes: usize,
    /// Bytes from the start of a panel to its codes.
    pub code_start: usize,
    /// Bytes of a panel, a multiple of 64.
    pub panel_bytes: usize,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]); // read as bytes, through `as_bytes`

/// The bytes of whole lines.
fn as_bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is an array of 64 bytes, and its alignment of 64 adds no padding, so that all `lines.len() * 64` bytes are
    // initialised; bytes ask for no alignment. The result borrows the lines.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast::<u8>(), lines.len() * 64) }
}

/// A matrix in panels.
#[derive(Clone)]
pub(crate) struct Panels {
    pub shape: PanelShape,
    lines: Arc<Vec<Line>>,
}

impl PanelShape {
    /// The layout of `rows` x `cols` values of `ty`; `None` when the type has no such kernel or the size overflows.
    /// `cols` is a whole number of blocks.
    fn new(ty: TensorType, rows: usize, cols: usize) -> Option<Self> {
        let (head, bits) = match ty {
            TensorType::Q2_0 | TensorType::PQ2_0 => (Head::Scale { offset: 1 }, 2),
            TensorType::SQ3_0 => (Head::Scale { offset: 4 }, 3),
            TensorType::Q4_0 => (Head::Scale { offset: 8 }, 4),
            TensorType::Q5_0 => (Head::Scale { offset: 16 }, 5),
            TensorType::Q8_0 | TensorType::IQ4_NL => (Head::Scale { offset: 0 }, 8),
            TensorType::Q4_1 => (Head::ScaleMin, 4),
            TensorType::Q5_1 => (Head::ScaleMin, 5),
            TensorType::Q4_K => (Head::SuperScaleMin, 4),
            TensorType::Q5_K => (Head::SuperScaleMin, 5),
            TensorType::Q2_K => (Head::SuperScaleMin16, 2),
            TensorType::Q3_K => (Head::SuperScale { offset: 4 }, 3),
            TensorType::Q6_K => (Head::SuperScale { offset: 32 }, 6),
            _ => return None,
        };
        let head_bytes = match head {
            Head::Scale { .. } => 2 * ROWS,
            Head::ScaleMin => 4 * ROWS,
            Head::SuperScaleMin => (4 + 16) * ROWS,
            Head::SuperScaleMin16 => (4 + 32) * ROWS,
            Head::SuperScale { .. } => (2 + 16) * ROWS,
        };
        let head_cols = ty.block_len();
        let code_bytes = BLOCK * ROWS / 8 * bits;
        let code_start = (cols / head_cols).checked_mul(head_bytes)?.checked_next_multiple_of(64)?;
        let panel_bytes = (cols / BLOCK).checked_mul(code_bytes)?.checked_add(code_start)?;
        panel_bytes.checked_mul(rows.div_ceil(ROWS))?;
        Some(Self { ty, rows, cols, head, bits, head_bytes, head_cols, code_bytes, code_start, panel_bytes })
    }

    /// Panels of the matrix.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }
}

impl Panels {
    /// Repacks, on the workers of `pool`, row-major blocks (`rows` x `ty.row_bytes(cols)`), which are released bit by bit; `None`
    /// when the type has no kernel for panels.
    pub fn new(ty: TensorType, rows: usize, cols: usize, bytes: &Bytes, pool: &Pool) -> Option<Self> {
        let shape = PanelShape::new(ty, rows, cols)?;
        let row_bytes = ty.row_bytes(cols)?;
        assert_eq!(bytes.len(), rows * row_bytes);
        let count = shape.panel_bytes / 64 * shape.panels();
        let mut lines = Vec::with_capacity(count);
        let stretch = STRETCH.div_ceil(ROWS * row_bytes.max(1));
        if shape.panel_bytes > 0 {
            let spare = &mut lines.spare_capacity_mut()[..count];
            huge::advise(spare);
            // Workers touch fresh memory first, so that the system clears its pages on all of them.
            pool.for_chunks(spare, shape.panel_bytes / 64, |panel, lines| {
                lines.iter_mut().for_each(|line| {
                    line.write(Line([0; 64]));
                });
                // SAFETY: all of these lines were just written; a line is an array of 64 bytes, and its alignment of 64 adds no
                // padding. The slice takes the place of `lines`, which is borrowed mutably and not used after it.
                let out = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u8>(), lines.len() * 64) };
                let first = panel * ROWS;
                let count = ROWS.min(rows - first);
                for (r, row) in bytes[first * row_bytes..][..count * row_bytes].chunks_exact(row_bytes).enumerate() {
                    shape.place_row(row, r, out);
                }
                // Where another worker is not through with its part of the stretch, it reads that from the file again.
                if (panel + 1).is_multiple_of(stretch) {
                    bytes.release((panel + 1 - stretch) * ROWS * row_bytes..(panel + 1) * ROWS * row_bytes);
                }
            });
            // SAFETY: there is room for `count` lines, which `spare` was cut to, and `for_chunks` has had each of them written.
            unsafe { lines.set_len(count) };
        }
        Some(Self { shape, lines: Arc::new(lines) })
    }

    /// The panels, one after the other.
    pub fn bytes(&self) -> &[u8] {
        as_bytes(&self.lines)
    }

    /// Row `row` as f32: the values of the file's format, bit for bit.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        let shape = &self.shape;
        assert!(row < shape.rows && out.len() == shape.cols);
        let panel = &self.bytes()[row / ROWS * shape.panel_bytes..][..shape.panel_bytes];
        let r = row % ROWS;
        let (heads, codes) = panel.split_at(shape.code_start);
        for (b, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let head = &heads[b * BLOCK / shape.head_cols * shape.head_bytes..][..shape.head_bytes];
            let codes = &codes[b * shape.code_bytes..][..shape.code_bytes];
            let f16 =
                |i: usize| f16_to_f32(u16::from_le_bytes([head[2 * (ROWS * i + r)], head[2 * (ROWS * i + r) + 1]]));
            let in_head = b % (shape.head_cols / BLOCK);
            let codes = shape.take_codes(codes, r);
            let d = f16(0);
            match shape.head {
                Head::Scale { offset } => {
                    out.iter_mut().zip(codes).for_each(|(out, code)| *out = d * (code - offset) as f32);
                }
                Head::ScaleMin => {
                    let m = f16(1);
                    out.iter_mut().zip(codes).for_each(|(out, code)| *out = d * code as f32 + m);
                }
                Head::SuperScaleMin => {
                    let scale = d * f32::from(head[(4 + in_head) * ROWS + r]);
                    let min = f16(1) * f32::from(head[(4 + 8 + in_head) * ROWS + r]);
                    out.iter_mut().zip(codes).for_each(|(out, code)| *out = scale * code as f32 - min);
                }
                Head::SuperScaleMin16 => {
                    for (half, (out, codes)) in out.chunks_exact_mut(16).zip(codes.chunks_exact(16)).enumerate() {
                        let scale = d * f32::from(head[(4 + 2 * in_head + half) * ROWS + r]);
                        let min = f16(1) * f32::from(head[(4 + 16 + 2 * in_head + half) * ROWS + r]);
                        out.iter_mut().zip(codes).for_each(|(out, code)| *out = scale * *code as f32 - min);
                    }
                }
                Head::SuperScale { offset } => {
                    for (half, (out, codes)) in out.chunks_exact_mut(16).zip(codes.chunks_exact(16)).enumerate() {
                        let scale = d * f32::from(head[(2 + 2 * in_head + half) * ROWS + r] as i8);
                        out.iter_mut().zip(codes).for_each(|(out, code)| *out = scale * (code - offset) as f32);
                    }
                }
            }
        }
    }
}

impl PanelShape {
    /// Writes row `r` of a panel.
    fn place_row(&self, row: &[u8], r: usize, panel: &mut [u8]) {
        let (heads, codes) = panel.split_at_mut(self.code_start);
        let block_codes = self.code_bytes * (self.head_cols / BLOCK);
        let mut values = [0u8; 256];
        for ((block, head), codes) in row
            .chunks_exact(self.ty.block_bytes())
            .zip(heads.chunks_exact_mut(self.head_bytes))
            .zip(codes.chunks_exact_mut(block_codes))
        {
            let mut put = |i: usize, two: &[u8]| head[2 * (ROWS * i + r)..][..2].copy_from_slice(two);
            let values = &mut values[..self.head_cols];
            match self.ty {
                TensorType::Q2_0 | TensorType::PQ2_0 | TensorType::SQ3_0 => {
                    put(0, &block[..2]);
                    short_codes(block, values);
                }
                TensorType::Q4_0 => {
                    put(0, &block[..2]);
                    nibbles(&block[2..], values);
                }
                TensorType::Q4_1 => {
                    put(0, &block[..2]);
                    put(1, &block[2..4]);
                    nibbles(&block[4..], values);
                }
                TensorType::Q5_0 => {
                    put(0, &block[..2]);
                    nibbles(&block[6..], values);
                    fifth_bits(&block[2..6], values);
                }
                TensorType::Q5_1 => {
                    put(0, &block[..2]);
                    put(1, &block[2..4]);
                    nibbles(&block[8..], values);
                    fifth_bits(&block[4..8], values);
                }
                TensorType::Q8_0 => {
                    put(0, &block[..2]);
                    values.copy_from_slice(&block[2..]);
                }
                TensorType::IQ4_NL => {
                    put(0, &block[..2]);
                    nibbles(&block[2..], values);
                    for value in values.iter_mut() {
                        *value = IQ4_NL_LEVELS[usize::from(*value)] as u8;
                    }
                }
                TensorType::Q2_K => {
                    put(0, &block[80..82]);
                    put(1, &block[82..84]);
                    for (j, both) in block[..16].iter().enumerate() {
                        head[(4 + j) * ROWS + r] = both & 15;
                        head[(4 + 16 + j) * ROWS + r] = both >> 4;
                    }
                    for (i, value) in values.iter_mut().enumerate() {
                        *value = block[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
                    }
                }
                TensorType::Q3_K => {
                    put(0, &block[108..110]);
                    let scales = &block[96..108];
                    for j in 0..16 {
                        let low = scales[j % 8] >> (j / 8 * 4) & 15;
                        let high = scales[8 + j % 4] >> (j / 4 * 2) & 3;
                        head[(2 + j) * ROWS + r] = (low | high << 4).wrapping_sub(32);
                    }
                    for (i, value) in values.iter_mut().enumerate() {
                        let low = block[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
                        let high = block[i % 32] >> (i / 32) & 1;
                        *value = low | high << 2;
                    }
                }
                TensorType::Q4_K | TensorType::Q5_K => {
                    put(0, &block[..2]);
                    put(1, &block[2..4]);
                    for j in 0..8 {
                        let (scale, min) = scale_min(&block[4..16], j);
                        head[(4 + j) * ROWS + r] = scale;
                        head[(4 + 8 + j) * ROWS + r] = min;
                    }
                    let (high, low) = block[16..].split_at(if self.bits == 5 { 32 } else { 0 });
                    for (pair, low) in low.chunks_exact(32).enumerate() {
                        nibbles(low, &mut values[64 * pair..][..64]);
                    }
                    for (i, values) in values.chunks_exact_mut(32).enumerate() {
                        for (value, high) in values.iter_mut().zip(high) {
                            *value |= (high >> i & 1) << 4;
                        }
                    }
                }
                _ => {
                    put(0, &block[208..210]);
                    for (j, scale) in block[192..208].iter().enumerate() {
                        head[(2 + j) * ROWS + r] = *scale;
                    }
                    for (i, values) in values.chunks_exact_mut(32).enumerate() {
                        // Two halves of 128 values; quarter k of a half: nibble k / 2 of byte 32 (k % 2) + l.
                        let (half, k) = (i / 4, i % 4);
                        let (low, high) = (&block[64 * half + 32 * (k % 2)..], &block[128 + 32 * half..]);
                        for ((value, low), high) in values.iter_mut().zip(low).zip(high) {
                            *value = low >> (4 * (k / 2)) & 15 | (high >> (2 * k) & 3) << 4;
                        }
                    }
                }
            }
            for (values, codes) in values.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(self.code_bytes)) {
                self.place_codes(values, r, codes);
            }
        }
    }

    /// Writes 32 codes of row `r`, the four of a group at a time.
    fn place_codes(&self, values: &[u8], r: usize, codes: &mut [u8]) {
        let (groups, _) = values.as_chunks::<4>();
        let group = |g: usize| u32::from_le_bytes(groups[g]);
        let twos = |p: usize, shift: u32| {
            (0..4).fold(0, |bits, q| bits | (group(4 * p + q) >> shift & 0x0303_0303) << (2 * q))
        };
        let mut put = |plane: usize, four: u32| {
            codes[64 * plane + 4 * r..][..4].copy_from_slice(&four.to_le_bytes());
        };
        match self.bits {
            8 => (0..8).for_each(|g| put(g, group(g))),
            2 => (0..2).for_each(|p| put(p, twos(p, 0))),
            3 => join_threes(std::array::from_fn(group)).into_iter().enumerate().for_each(|(p, four)| put(p, four)),
            _ => (0..4).for_each(|p| put(p, group(p) & 0x0f0f_0f0f | (group(p + 4) & 0x0f0f_0f0f) << 4)),
        }
        // What the nibbles do not hold.
        match self.bits {
            5 => put(4, (0..8).fold(0, |bits, g| bits | (group(g) >> 4 & 0x0101_0101) << g)),
            6 => (0..2).for_each(|p| put(4 + p, twos(p, 4))),
            _ => {}
        }
    }

    /// The 32 codes of row `r`, sign-extended when they have 8 bits; the four of a group at a time.
    fn take_codes(&self, codes: &[u8], r: usize) -> [i32; BLOCK] {
        let plane = |p: usize| {
            let at = 64 * p + 4 * r;
            u32::from_le_bytes([codes[at], codes[at + 1], codes[at + 2], codes[at + 3]])
        };
        let low = |g: usize| plane(g % 4) >> (4 * (g / 4)) & 0x0f0f_0f0f;
        let twos = |g: usize, from: usize| plane(from + g / 4) >> (2 * (g % 4)) & 0x0303_0303;
        let groups: [u32; BLOCK / 4] = match self.bits {
            8 => std::array::from_fn(plane),
            2 => std::array::from_fn(|g| twos(g, 0)),
            3 => split_threes([0, 1, 2].map(plane)),
            5 => std::array::from_fn(|g| low(g) | (plane(4) >> g & 0x0101_0101) << 4),
            6 => std::array::from_fn(|g| low(g) | twos(g, 4) << 4),
            _ => std::array::from_fn(low),
        };
        let bytes = groups.map(u32::to_le_bytes);
        let bytes = bytes.as_flattened();
        std::array::from_fn(|i| if self.bits == 8 { i32::from(bytes[i] as i8) } else { i32::from(bytes[i]) })
    }
}

impl fmt::Debug for Panels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Panels({} {}x{})", self.shape.ty, self.shape.rows, self.shape.cols)
    }
}

/// 3-bit codes of 8 groups, four to a word, as the words of three planes.
///
/// Plane `p` holds group `p`, from bit 3 on group `p + 3`. What is left are the two upper bits of groups 6 and 7, from bit 6 of
/// planes 0 and 1 on, and their lowest bits, bits 6 and 7 of plane 2.
pub(crate) fn join_threes([c0, c1, c2, c3, c4, c5, c6, c7]: [u32; 8]) -> [u32; 3] {
    let upper = |code: u32| (code >> 1 & 0x0303_0303) << 6;
    let lowest = |code: u32| code & 0x0101_0101;
    [c0 | c3 << 3 | upper(c6), c1 | c4 << 3 | upper(c7), c2 | c5 << 3 | lowest(c6) << 6 | lowest(c7) << 7]
}

/// The codes that [`join_threes`] joined.
fn split_threes([one, two, three]: [u32; 3]) -> [u32; 8] {
    let code = |plane: u32, from: u32| plane >> from & 0x0707_0707;
    let last = |plane: u32, bit: u32| (plane >> 6 & 0x0303_0303) << 1 | three >> bit & 0x0101_0101;
    [code(one, 0), code(two, 0), code(three, 0), code(one, 3), code(two, 3), code(three, 3), last(one, 6), last(two, 7)]
}

/// Low halves of all bytes, then high halves.
fn nibbles(packed: &[u8], values: &mut [u8]) {
    let (low, high) = values.split_at_mut(packed.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(packed) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// Bit `i` of the little-endian word is bit 4 of value `i`.
fn fifth_bits(word: &[u8], values: &mut [u8]) {
    for (i, value) in values.iter_mut().enumerate() {
        *value |= (word[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// Scale and min `j` of the 12 bytes that hold eight 6-bit pairs (Q4_K, Q5_K).
fn scale_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    }
}
