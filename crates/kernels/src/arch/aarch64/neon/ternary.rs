//! What ternary products need of NEON: `tbl` over two registers looks up all 32 codes, sign bit included.

use std::arch::aarch64::*;

use super::vector::I32x8;
use crate::generic::ternary::Vectors;
use crate::ternary::activations::ActBlock;
use crate::ternary::block::CODE_CHUNK_BYTES;
use crate::ternary::codebook::Codebook;
use crate::ternary::segment::Indices;

/// Low digits of the 32 codes, then high digits.
pub(crate) const TABLE_BYTES: usize = 64;

/// Vectors of 128 bits.
pub(crate) struct Neon;

impl Vectors for Neon {
    type Ints = I32x8;
    type Bytes = uint8x16_t;
    type Shorts = int16x8_t;
    type Index = uint8x16_t;
    type Quad = int8x16_t;
    /// Rows 0 and 1, rows 2 and 3.
    type Dots = [int16x8_t; 2];
    const TABLE_BYTES: usize = TABLE_BYTES;
    const TILE_TOKENS: usize = 6;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(bytes: &[u8; 16]) -> uint8x16_t {
        load(bytes)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(bytes: uint8x16_t, out: &mut [u8; 16]) {
        store(bytes, out);
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
        build_tables(book, acts, out);
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn no_shorts() -> int16x8_t {
        vdupq_n_s16(0)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add_digits(sums: [int16x8_t; 2], digits: [uint8x16_t; 2]) -> [int16x8_t; 2] {
        add_digits(sums, digits)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn widen(shorts: int16x8_t) -> I32x8 {
        I32x8::new(vmovl_s16(vget_low_s16(shorts)), vmovl_high_s16(shorts))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn each_index(codes: &[u8; CODE_CHUNK_BYTES], quarter: usize, each: impl FnMut(usize, uint8x16_t)) {
        each_index(codes, quarter, each);
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn write_index(indices: &mut Indices, quarter: usize, index: uint8x16_t) {
        store(index, &mut indices.as_chunks_mut().0[quarter]);
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn read_index(indices: &Indices, quarter: usize) -> uint8x16_t {
        load(&indices.as_chunks().0[quarter])
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn look_up_index(table: &[u8], index: uint8x16_t) -> [uint8x16_t; 2] {
        look_up_index(table, index)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn decode_codes(book: &Codebook, codes: &[u8; CODE_CHUNK_BYTES], panel: &mut [[u8; 256]; 8]) {
        decode_codes(book, codes, panel);
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn nibbles(bytes: uint8x16_t) -> [uint8x16_t; 2] {
        [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn find(table: uint8x16_t, index: uint8x16_t) -> uint8x16_t {
        vqtbl1q_u8(table, index)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn no_bytes() -> uint8x16_t {
        vdupq_n_u8(0)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add_bytes(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        vaddq_u8(a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add_unsigned_digits(sums: [int16x8_t; 2], digits: [uint8x16_t; 2]) -> [int16x8_t; 2] {
        add_unsigned_digits(sums, digits)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn fields(bytes: uint8x16_t) -> [uint8x16_t; 4] {
        fields(bytes)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn no_dots() -> Self::Dots {
        [vdupq_n_s16(0); 2]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn quad(q: &[i8; 4]) -> int8x16_t {
        quad(q)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn multiply(dots: Self::Dots, weights: uint8x16_t, q: int8x16_t) -> Self::Dots {
        // 32 codes x 3 x 127 < 2^15.
        let weights = vreinterpretq_s8_u8(weights);
        [vmlal_s8(dots[0], vget_low_s8(weights), vget_low_s8(q)), vmlal_high_s8(dots[1], weights, q)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn rows(dots: [Self::Dots; 2]) -> I32x8 {
        let [low, high] = dots.map(|[low, high]| vpaddlq_s16(vpaddq_s16(low, high)));
        I32x8::new(low, high)
    }
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: `bytes` is an array of 16, as many as are read.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn store(bytes: uint8x16_t, out: &mut [u8; 16]) {
    // SAFETY: `out` is an array of 16 bytes, as many as are written.
    unsafe { vst1q_u8(out.as_mut_ptr(), bytes) }
}

/// Four activations, four times.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn quad(q: &[i8; 4]) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(q.map(|q| q as u8))))
}

/// The four 2-bit fields of each byte.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn fields(bytes: uint8x16_t) -> [uint8x16_t; 4] {
    let mask = vdupq_n_u8(3);
    [
        vandq_u8(bytes, mask),
        vandq_u8(vshrq_n_u8::<2>(bytes), mask),
        vandq_u8(vshrq_n_u8::<4>(bytes), mask),
        vshrq_n_u8::<6>(bytes),
    ]
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn add_digits(sums: [int16x8_t; 2], digits: [uint8x16_t; 2]) -> [int16x8_t; 2] {
    let [low, high] = digits.map(|digits| vreinterpretq_s8_u8(digits));
    let base = vdupq_n_s8(31);
    [
        vmlal_s8(vaddw_s8(sums[0], vget_low_s8(low)), vget_low_s8(high), vget_low_s8(base)),
        vmlal_high_s8(vaddw_high_s8(sums[1], low), high, base),
    ]
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn add_unsigned_digits(sums: [int16x8_t; 2], [low, high]: [uint8x16_t; 2]) -> [int16x8_t; 2] {
    // At most 32 x 1016 in the end, which int16 holds as well.
    let sums = sums.map(|sums| vreinterpretq_u16_s16(sums));
    let base = vdupq_n_u8(32);
    [
        vmlal_u8(vaddw_u8(sums[0], vget_low_u8(low)), vget_low_u8(high), vget_low_u8(base)),
        vmlal_high_u8(vaddw_high_u8(sums[1], low), high, base),
    ]
    .map(|sums| vreinterpretq_s16_u16(sums))
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
    // Eight codes a vector.
    let mut lanes = [[vdup_n_s8(0); 4]; 4];
    for (lanes, bytes) in lanes.iter_mut().zip(&book.lanes) {
        for (lanes, bytes) in lanes.iter_mut().zip(bytes.as_chunks::<8>().0) {
            // SAFETY: `bytes` is an array of 8, as many as are read.
            *lanes = vsub_s8(vreinterpret_s8_u8(unsafe { vld1_u8(bytes.as_ptr()) }), vdup_n_s8(1));
        }
    }
    for (q, table) in acts.q.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<TABLE_BYTES>().0) {
        let mut digits = [[vdup_n_s8(0); 4]; 2];
        for v in 0..4 {
            let mut total = vmull_s8(lanes[0][v], vdup_n_s8(q[0]));
            for lane in 1..4 {
                total = vmlal_s8(total, lanes[lane][v], vdup_n_s8(q[lane]));
            }
            // 1057 / 2^15 rounds to the nearest multiple of 31 for |T| <= 381: |l| <= 15.
            let high = vqrdmulhq_s16(total, vdupq_n_s16(1057));
            let low = vmlsq_s16(total, high, vdupq_n_s16(31));
            digits[0][v] = vmovn_s16(low);
            digits[1][v] = vmovn_s16(high);
        }
        for (out, digits) in table.as_chunks_mut::<16>().0.iter_mut().zip(digits.as_flattened().as_chunks::<2>().0) {
            store(vreinterpretq_u8_s8(vcombine_s8(digits[0], digits[1])), out);
        }
    }
}

/// Calls `$each(code, index)` for the eight codes of 16 rows: `index` has a nibble of `$nibbles[code / 2]` in its low
/// bits and the sign at bit 4.
macro_rules! for_codes {
    ($signs:expr, $nibbles:expr, $each:expr) => {{
        let (nibble_mask, index_mask) = (vdupq_n_u8(15), vdupq_n_u8(31));
        let even = |sign, bytes| vandq_u8(vbslq_u8(nibble_mask, bytes, sign), index_mask);
        let odd = |sign, bytes| vandq_u8(vsriq_n_u8::<4>(sign, bytes), index_mask);
        // The sign of code 4 stands at bit 4: later ones come down to it, earlier ones go up.
        let mut sign = $signs;
        for code in [4, 5, 6, 7] {
            let bytes = $nibbles[code / 2];
            $each(code, if code % 2 == 0 { even(sign, bytes) } else { odd(sign, bytes) });
            sign = vshrq_n_u8::<1>(sign);
        }
        let mut sign = $signs;
        for code in [3, 2, 1, 0] {
            sign = vaddq_u8(sign, sign);
            let bytes = $nibbles[code / 2];
            $each(code, if code % 2 == 0 { even(sign, bytes) } else { odd(sign, bytes) });
        }
    }};
}

/// The codes of 16 rows, sign at bit 4.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn each_index(codes: &[u8; CODE_CHUNK_BYTES], quarter: usize, mut each: impl FnMut(usize, uint8x16_t)) {
    let (lines, _) = codes.as_chunks::<16>();
    let nibbles: [uint8x16_t; 4] = std::array::from_fn(|v| load(&lines[4 * (1 + v) + quarter]));
    for_codes!(load(&lines[quarter]), nibbles, |code: usize, index| each(code, index));
}

/// Low and high digits of 16 rows from the table of one code.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn look_up_index(table: &[u8], index: uint8x16_t) -> [uint8x16_t; 2] {
    let (table, _) = table.as_chunks::<16>();
    let digits = |at: usize| vqtbl2q_u8(uint8x16x2_t(load(&table[at]), load(&table[at + 1])), index);
    [digits(0), digits(2)]
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn decode_codes(book: &Codebook, codes: &[u8; CODE_CHUNK_BYTES], panel: &mut [[u8; 256]; 8]) {
    let (lines, _) = codes.as_chunks::<16>();
    // Rows 0 2 4 6, 1 3 5 7, 8 10 12 14, 9 11 13 15: four slots that follow each other, of vector 0, 1, 2 and 3.
    let order = load(&[0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]);
    let lanes = book.lanes.each_ref().map(|bytes| {
        let (halves, _) = bytes.as_chunks::<16>();
        uint8x16x2_t(load(&halves[0]), load(&halves[1]))
    });
    for quarter in 0..4 {
        let line = |line: usize| vqtbl1q_u8(load(&lines[4 * line + quarter]), order);
        let nibbles: [uint8x16_t; 4] = std::array::from_fn(|v| line(1 + v));
        for_codes!(line(0), nibbles, |code: usize, index| {
            let w = lanes.map(|lane| vqtbl2q_u8(lane, index));
            let (low_01, high_01) = (vzip1q_u8(w[0], w[1]), vzip2q_u8(w[0], w[1]));
            let (low_23, high_23) = (vzip1q_u8(w[2], w[3]), vzip2q_u8(w[2], w[3]));
            let (out, _) = panel[code].as_chunks_mut::<16>();
            for (vector, (a, b)) in [(low_01, low_23), (high_01, high_23)].into_iter().enumerate() {
                let (a, b) = (vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b));
                store(vreinterpretq_u8_u16(vzip1q_u16(a, b)), &mut out[4 * (2 * vector) + quarter]);
                store(vreinterpretq_u8_u16(vzip2q_u16(a, b)), &mut out[4 * (2 * vector + 1) + quarter]);
            }
        });
    }
}
