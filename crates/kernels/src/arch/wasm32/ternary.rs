//! What ternary products need of simd128: `swizzle` looks up the 16 codes without sign, the sign bit is applied after.

use std::arch::wasm32::*;

use super::vector::I32x8;
use crate::generic::ternary::Vectors;
use crate::ternary::activations::ActBlock;
use crate::ternary::block::CODE_CHUNK_BYTES;
use crate::ternary::codebook::Codebook;
use crate::ternary::segment::Indices;

/// Low digits of the 16 nibbles, then high digits.
const TABLE_BYTES: usize = 32;

/// Vectors of 128 bits.
pub(crate) struct Simd128;

impl Vectors for Simd128 {
    type Ints = I32x8;
    type Bytes = v128;
    type Shorts = v128;
    /// Nibbles, and -1 where the sign is minus.
    type Index = [v128; 2];
    /// Four int16, twice.
    type Quad = v128;
    /// Rows 0 and 1, rows 2 and 3, two int32 each.
    type Dots = [v128; 2];
    const TABLE_BYTES: usize = TABLE_BYTES;
    const TILE_TOKENS: usize = 2;

    #[inline(always)]
    unsafe fn load(bytes: &[u8; 16]) -> v128 {
        load(bytes)
    }

    #[inline(always)]
    unsafe fn store(bytes: v128, out: &mut [u8; 16]) {
        store(bytes, out);
    }

    #[inline(always)]
    unsafe fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
        // The codes without sign are the first 16; eight a vector, as int16.
        let lanes = book.lanes.each_ref().map(|bytes| {
            let bytes = i8x16_sub(load(&bytes.as_chunks().0[0]), i8x16_splat(1));
            [i16x8_extend_low_i8x16(bytes), i16x8_extend_high_i8x16(bytes)]
        });
        for (q, table) in acts.q.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<TABLE_BYTES>().0) {
            let (mut low, mut high) = ([i16x8_splat(0); 2], [i16x8_splat(0); 2]);
            for v in 0..2 {
                let mut total = i16x8_splat(0);
                for lane in 0..4 {
                    total = i16x8_add(total, i16x8_mul(lanes[lane][v], i16x8_splat(i16::from(q[lane]))));
                }
                // 1057 / 2^15 rounds to the nearest multiple of 31 for |T| <= 381: |l| <= 15.
                high[v] = i16x8_q15mulr_sat(total, i16x8_splat(1057));
                low[v] = i16x8_sub(total, i16x8_mul(high[v], i16x8_splat(31)));
            }
            let (out, _) = table.as_chunks_mut::<16>();
            store(i8x16_narrow_i16x8(low[0], low[1]), &mut out[0]);
            store(i8x16_narrow_i16x8(high[0], high[1]), &mut out[1]);
        }
    }

    #[inline(always)]
    unsafe fn no_shorts() -> v128 {
        i16x8_splat(0)
    }

    #[inline(always)]
    unsafe fn add_digits(sums: [v128; 2], [low, high]: [v128; 2]) -> [v128; 2] {
        let base = i8x16_splat(31);
        [
            i16x8_add(sums[0], i16x8_add(i16x8_extend_low_i8x16(low), i16x8_extmul_low_i8x16(high, base))),
            i16x8_add(sums[1], i16x8_add(i16x8_extend_high_i8x16(low), i16x8_extmul_high_i8x16(high, base))),
        ]
    }

    #[inline(always)]
    unsafe fn widen(shorts: v128) -> I32x8 {
        I32x8::new(i32x4_extend_low_i16x8(shorts), i32x4_extend_high_i16x8(shorts))
    }

    #[inline(always)]
    unsafe fn each_index(codes: &[u8; CODE_CHUNK_BYTES], quarter: usize, mut each: impl FnMut(usize, [v128; 2])) {
        let (lines, _) = codes.as_chunks::<16>();
        // From the last code to the first: its sign stands at bit 7 of each byte, and doubling moves on to the next.
        let mut signs = load(&lines[quarter]);
        for pair in (0..4).rev() {
            let nibbles = load(&lines[4 * (1 + pair) + quarter]);
            for (odd, index) in [(1, u8x16_shr(nibbles, 4)), (0, v128_and(nibbles, u8x16_splat(15)))] {
                each(2 * pair + odd, [index, i8x16_lt(signs, i8x16_splat(0))]);
                signs = i8x16_add(signs, signs);
            }
        }
    }

    #[inline(always)]
    unsafe fn write_index(indices: &mut Indices, quarter: usize, [nibbles, minus]: [v128; 2]) {
        let (out, _) = indices.as_chunks_mut();
        store(nibbles, &mut out[quarter]);
        store(minus, &mut out[4 + quarter]);
    }

    #[inline(always)]
    unsafe fn read_index(indices: &Indices, quarter: usize) -> [v128; 2] {
        let (lines, _) = indices.as_chunks();
        [load(&lines[quarter]), load(&lines[4 + quarter])]
    }

    #[inline(always)]
    unsafe fn look_up_index(table: &[u8], [nibbles, minus]: [v128; 2]) -> [v128; 2] {
        let (table, _) = table.as_chunks();
        // -x is !x + 1.
        [0, 1].map(|digit: usize| v128_xor(i8x16_swizzle(load(&table[digit]), nibbles), minus))
    }

    #[inline(always)]
    unsafe fn count_negatives(count: v128, [_, minus]: [v128; 2]) -> v128 {
        i8x16_sub(count, minus)
    }

    #[inline(always)]
    unsafe fn add_negatives(sum: v128, count: v128) -> v128 {
        i8x16_add(sum, count)
    }

    #[inline(always)]
    unsafe fn decode_codes(book: &Codebook, codes: &[u8; CODE_CHUNK_BYTES], panel: &mut [[u8; 256]; 8]) {
        let (lines, _) = codes.as_chunks::<16>();
        let one = i8x16_splat(1);
        // The lanes of the 16 codes without sign, -1, 0 or +1.
        let lanes = book.lanes.each_ref().map(|bytes| i8x16_sub(load(&bytes.as_chunks().0[0]), one));
        for quarter in 0..4 {
            let mut signs = in_slots(load(&lines[quarter]));
            for code in (0..8).rev() {
                let nibbles = in_slots(load(&lines[4 * (1 + code / 2) + quarter]));
                let index = if code % 2 == 1 { u8x16_shr(nibbles, 4) } else { v128_and(nibbles, i8x16_splat(15)) };
                let minus = i8x16_lt(signs, i8x16_splat(0));
                signs = i8x16_add(signs, signs);
                let w = lanes.map(|lane| {
                    let value = v128_xor(i8x16_swizzle(lane, index), minus);
                    i8x16_add(i8x16_sub(value, minus), one)
                });
                let (out, _) = panel[code].as_chunks_mut::<16>();
                let pairs = [(zip_low(w[0], w[1]), zip_low(w[2], w[3])), (zip_high(w[0], w[1]), zip_high(w[2], w[3]))];
                for (vector, (a, b)) in pairs.into_iter().enumerate() {
                    store(i16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(a, b), &mut out[4 * (2 * vector) + quarter]);
                    store(i16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>(a, b), &mut out[4 * (2 * vector + 1) + quarter]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn nibbles(bytes: v128) -> [v128; 2] {
        [v128_and(bytes, u8x16_splat(15)), u8x16_shr(bytes, 4)]
    }

    #[inline(always)]
    unsafe fn find(table: v128, index: v128) -> v128 {
        i8x16_swizzle(table, index)
    }

    #[inline(always)]
    unsafe fn no_bytes() -> v128 {
        i8x16_splat(0)
    }

    #[inline(always)]
    unsafe fn add_bytes(a: v128, b: v128) -> v128 {
        i8x16_add(a, b)
    }

    #[inline(always)]
    unsafe fn add_unsigned_digits(sums: [v128; 2], [low, high]: [v128; 2]) -> [v128; 2] {
        let base = u8x16_splat(32);
        [
            i16x8_add(sums[0], i16x8_add(u16x8_extend_low_u8x16(low), u16x8_extmul_low_u8x16(high, base))),
            i16x8_add(sums[1], i16x8_add(u16x8_extend_high_u8x16(low), u16x8_extmul_high_u8x16(high, base))),
        ]
    }

    #[inline(always)]
    unsafe fn fields(bytes: v128) -> [v128; 4] {
        let mask = u8x16_splat(3);
        [
            v128_and(bytes, mask),
            v128_and(u8x16_shr(bytes, 2), mask),
            v128_and(u8x16_shr(bytes, 4), mask),
            u8x16_shr(bytes, 6),
        ]
    }

    #[inline(always)]
    unsafe fn no_dots() -> [v128; 2] {
        [i32x4_splat(0); 2]
    }

    #[inline(always)]
    unsafe fn quad(q: &[i8; 4]) -> v128 {
        i16x8_extend_low_i8x16(i32x4_splat(i32::from_le_bytes(q.map(|q| q as u8))))
    }

    #[inline(always)]
    unsafe fn multiply(dots: [v128; 2], weights: v128, q: v128) -> [v128; 2] {
        [
            i32x4_add(dots[0], i32x4_dot_i16x8(i16x8_extend_low_i8x16(weights), q)),
            i32x4_add(dots[1], i32x4_dot_i16x8(i16x8_extend_high_i8x16(weights), q)),
        ]
    }

    #[inline(always)]
    unsafe fn rows(dots: [[v128; 2]; 2]) -> I32x8 {
        let [low, high] =
            dots.map(|[a, b]| i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(a, b), i32x4_shuffle::<1, 3, 5, 7>(a, b)));
        I32x8::new(low, high)
    }
}

/// Rows 0 2 4 6, 1 3 5 7, 8 10 12 14, 9 11 13 15: four slots that follow each other, of vector 0, 1, 2 and 3.
#[inline(always)]
fn in_slots(bytes: v128) -> v128 {
    i8x16_shuffle::<0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15>(bytes, bytes)
}

#[inline(always)]
fn zip_low(a: v128, b: v128) -> v128 {
    i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(a, b)
}

#[inline(always)]
fn zip_high(a: v128, b: v128) -> v128 {
    i8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(a, b)
}

#[inline(always)]
fn load(bytes: &[u8; 16]) -> v128 {
    // SAFETY: `bytes` is an array of 16, as many as are read; loads need no alignment.
    unsafe { v128_load(bytes.as_ptr().cast()) }
}

#[inline(always)]
fn store(bytes: v128, out: &mut [u8; 16]) {
    // SAFETY: `out` is an array of 16 bytes, as many as are written.
    unsafe { v128_store(out.as_mut_ptr().cast(), bytes) }
}
