//! Look-up of 5-bit codes with tables of 16 digits: `vpshufb` finds the digits of the nibble for 32 rows, `vpsignb` applies
//! the sign bit.

use std::arch::asm;
use std::arch::x86_64::*;

use super::rows::{Ymm, broadcast, load, store};
use crate::arch::x86::ahead::Ahead;
use crate::arch::x86::ternary::{LookUp, Width, last_to_first};
use crate::ternary::activations::{ActBlock, BLOCK_CODES};
use crate::ternary::block::CODE_CHUNK_BYTES;
use crate::ternary::codebook::Codebook;

/// Low digits of the 16 nibbles, then high digits.
const TABLE_BYTES: usize = 32;

/// Plain AVX2: signs by doubling, nibbles by shift and mask. 10.3 vector operations per 32 rows x 4 weights.
pub(crate) enum Signs {}

/// With GFNI: a sign or a nibble by one bit-matrix product. 8.8 operations.
pub(crate) enum Affine {}

macro_rules! look_up {
    ($name:ident, $features:literal, $chunk:ident) => {
        impl LookUp for $name {
            type Width = Ymm;
            const TABLE_BYTES: usize = TABLE_BYTES;
            const CHUNK_BYTES: usize = CODE_CHUNK_BYTES;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
                build_tables(book, acts, out);
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn decode_codes(book: &Codebook, codes: &[u8], panel: &mut [u8]) {
                decode_codes(book, codes, panel);
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn segment<const N: usize>(
                codes: [*const u8; N],
                ahead: Ahead,
                chunks: usize,
                tables: *const u8,
            ) -> [<Ymm as Width>::Sums; N] {
                let mut sums = [[[_mm256_setzero_si256(); 4]; 2]; N];
                for n in 0..N {
                    // Two halves of 32 rows: all 64 at once would need more registers than there are.
                    for half in 0..2 {
                        // int16 sums: `first` of rows 16 L + 0..8, `second` of 16 L + 8..16, for each 128-bit lane L.
                        let mut first = _mm256_setzero_si256();
                        let mut second = _mm256_setzero_si256();
                        for chunk in 0..chunks {
                            // SAFETY: chunk < chunks, of which codes and tables, 8 a chunk, are readable (the condition of
                            // `LookUp::segment`).
                            let (codes, tables) = unsafe {
                                (
                                    &*codes[n].add(chunk * CODE_CHUNK_BYTES).cast::<[u8; CODE_CHUNK_BYTES]>(),
                                    &*tables.add(chunk * 8 * TABLE_BYTES).cast::<[u8; 8 * TABLE_BYTES]>(),
                                )
                            };
                            if half == 0 {
                                ahead.prefetch(codes);
                            }
                            let (low, high) = $chunk(codes, half, tables);
                            // Pairs (l, h) times (1, 31).
                            let weights = _mm256_set1_epi16(31 << 8 | 1);
                            let (even, odd) = (_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high));
                            first = _mm256_add_epi16(first, _mm256_maddubs_epi16(weights, even));
                            second = _mm256_add_epi16(second, _mm256_maddubs_epi16(weights, odd));
                        }
                        let even = _mm256_set1_epi32(1);
                        sums[n][half] = [
                            _mm256_madd_epi16(first, even),
                            _mm256_srai_epi32::<16>(first),
                            _mm256_madd_epi16(second, even),
                            _mm256_srai_epi32::<16>(second),
                        ];
                    }
                }
                sums
            }
        }
    };
}

look_up!(Signs, "avx2,fma,f16c", add_digits);
look_up!(Affine, "avx2,fma,f16c,gfni", add_digits_affine);

/// Adds up the digits of one chunk, eight codes, for half of the rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_digits(codes: &[u8; CODE_CHUNK_BYTES], half: usize, tables: &[u8; 8 * TABLE_BYTES]) -> (__m256i, __m256i) {
    let (lines, _) = codes.as_chunks::<32>();
    let (tables, _) = tables.as_chunks::<16>();
    let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    // From the last code to the first: its sign stands at bit 7 of each byte, and doubling moves on to the next.
    let mut signs = load(&lines[half]);
    let (mask, one) = (_mm256_set1_epi8(15), _mm256_set1_epi8(1));
    last_to_first!(|CODE| {
        if CODE < 7 {
            (low, high, signs) = in_order(low, high, _mm256_add_epi8(signs, signs));
        }
        let nibbles = load(&lines[2 * (1 + CODE / 2) + half]);
        let shifted = if CODE % 2 == 1 { _mm256_srli_epi16::<4>(nibbles) } else { nibbles };
        let index = _mm256_and_si256(shifted, mask);
        let sign = _mm256_or_si256(signs, one);
        let l = _mm256_shuffle_epi8(broadcast(&tables[2 * CODE]), index);
        let h = _mm256_shuffle_epi8(broadcast(&tables[2 * CODE + 1]), index);
        low = _mm256_add_epi8(low, _mm256_sign_epi8(l, sign));
        high = _mm256_add_epi8(high, _mm256_sign_epi8(h, sign));
    });
    (low, high)
}

/// [`add_digits`] with GFNI.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,gfni")]
fn add_digits_affine(
    codes: &[u8; CODE_CHUNK_BYTES],
    half: usize,
    tables: &[u8; 8 * TABLE_BYTES],
) -> (__m256i, __m256i) {
    let (lines, _) = codes.as_chunks::<32>();
    let (tables, _) = tables.as_chunks::<16>();
    let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let mut signs = load(&lines[half]);
    // Byte 7 - i of a matrix tells which bits of the source make bit i.
    let high_nibble = _mm256_set1_epi64x(0x1020_4080_0000_0000);
    last_to_first!(|CODE| {
        if CODE < 7 {
            (low, high, signs) = in_order(low, high, signs);
        }
        let nibbles = load(&lines[2 * (1 + CODE / 2) + half]);
        let index = if CODE % 2 == 1 {
            _mm256_gf2p8affine_epi64_epi8::<0>(nibbles, high_nibble)
        } else {
            _mm256_and_si256(nibbles, _mm256_set1_epi8(15))
        };
        // Bit 7 from the sign of the code; bit 0 set, so that it is never 0.
        let sign = _mm256_gf2p8affine_epi64_epi8::<1>(signs, _mm256_set1_epi64x(1 << CODE));
        let l = _mm256_shuffle_epi8(broadcast(&tables[2 * CODE]), index);
        let h = _mm256_shuffle_epi8(broadcast(&tables[2 * CODE + 1]), index);
        low = _mm256_add_epi8(low, _mm256_sign_epi8(l, sign));
        high = _mm256_add_epi8(high, _mm256_sign_epi8(h, sign));
    });
    (low, high)
}

/// Nothing, that the compiler cannot see through. Left alone, LLVM turns the doubling of signs into shifts and masks and
/// the two running sums into trees, runs out of registers, and the look-up takes a quarter longer.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn in_order(mut a: __m256i, mut b: __m256i, mut c: __m256i) -> (__m256i, __m256i, __m256i) {
    // SAFETY: the assembly is a comment: it runs nothing, and leaves each value in the register it was given in.
    unsafe {
        asm!(
            "/* {a} {b} {c} */",
            a = inout(ymm_reg) a,
            b = inout(ymm_reg) b,
            c = inout(ymm_reg) c,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    (a, b, c)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
    assert_eq!(out.len(), BLOCK_CODES * TABLE_BYTES);
    // The codes without sign are the first 16.
    let pairs_01 = load(&book.pairs_01.as_chunks().0[0]);
    let pairs_23 = load(&book.pairs_23.as_chunks().0[0]);
    // (w + 1) . a - sum of a = w . a
    let ones = _mm256_set1_epi8(1);
    let mut sums = [0i32; BLOCK_CODES];
    for (sums, q) in sums.as_chunks_mut::<8>().0.iter_mut().zip(acts.q.as_chunks::<32>().0) {
        let quads = _mm256_madd_epi16(_mm256_maddubs_epi16(ones, load(q)), _mm256_set1_epi16(1));
        // SAFETY: `sums` is an array of eight i32, which is a vector.
        unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), quads) };
    }
    for ((q, sum), table) in acts.q.as_chunks::<4>().0.iter().zip(sums).zip(out.as_chunks_mut::<TABLE_BYTES>().0) {
        let a_01 = _mm256_set1_epi16(i16::from_le_bytes([q[0] as u8, q[1] as u8]));
        let a_23 = _mm256_set1_epi16(i16::from_le_bytes([q[2] as u8, q[3] as u8]));
        let sum_01 = _mm256_maddubs_epi16(pairs_01, a_01);
        let sum_23 = _mm256_maddubs_epi16(pairs_23, a_23);
        let total = _mm256_sub_epi16(_mm256_add_epi16(sum_01, sum_23), _mm256_set1_epi16(sum as i16));
        // 1057 / 2^15 rounds to the nearest multiple of 31 for |T| <= 381: |l| <= 15.
        let high = _mm256_mulhrs_epi16(total, _mm256_set1_epi16(1057));
        let low = _mm256_sub_epi16(total, _mm256_mullo_epi16(high, _mm256_set1_epi16(31)));
        // Packing interleaves by lanes: l0 h0 l1 h1.
        let digits = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(low, high));
        store(table, digits);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn decode_codes(book: &Codebook, codes: &[u8], panel: &mut [u8]) {
    let (lines, _) = codes.as_chunks::<32>();
    let (panel, _) = panel.as_chunks_mut::<256>();
    assert_eq!(panel.len(), 8);
    let order = slot_order();
    let (mask, one) = (_mm256_set1_epi8(15), _mm256_set1_epi8(1));
    // The lanes of the 16 codes without sign, -1, 0 or +1.
    let mut lanes = [_mm256_setzero_si256(); 4];
    for lane in 0..4 {
        lanes[lane] = _mm256_sub_epi8(broadcast(&book.lanes[lane].as_chunks().0[0]), one);
    }
    for half in 0..2 {
        let mut signs = _mm256_shuffle_epi8(load(&lines[half]), order);
        for code in (0..8).rev() {
            let nibbles = _mm256_shuffle_epi8(load(&lines[2 * (1 + code / 2) + half]), order);
            let shifted = if code % 2 == 1 { _mm256_srli_epi16::<4>(nibbles) } else { nibbles };
            let index = _mm256_and_si256(shifted, mask);
            let sign = _mm256_or_si256(signs, one);
            signs = _mm256_add_epi8(signs, signs);
            let mut w = [_mm256_setzero_si256(); 4];
            for lane in 0..4 {
                let value = _mm256_sign_epi8(_mm256_shuffle_epi8(lanes[lane], index), sign);
                w[lane] = _mm256_add_epi8(value, one);
            }
            let (out, _) = panel[code].as_chunks_mut::<32>();
            store_weights(w, half, out);
        }
    }
}

/// Puts the bytes of rows where [`store_weights`] leaves them in slot order: byte 4 v + k of each lane is row
/// 8 (v / 2) + 2 k + v % 2.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn slot_order() -> __m256i {
    _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15))
}

/// Four vectors with a weight of 32 rows each, to four weights of each slot of that half.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_weights(w: [__m256i; 4], half: usize, out: &mut [[u8; 32]]) {
    let (low_01, high_01) = (_mm256_unpacklo_epi8(w[0], w[1]), _mm256_unpackhi_epi8(w[0], w[1]));
    let (low_23, high_23) = (_mm256_unpacklo_epi8(w[2], w[3]), _mm256_unpackhi_epi8(w[2], w[3]));
    store(&mut out[half], _mm256_unpacklo_epi16(low_01, low_23));
    store(&mut out[2 + half], _mm256_unpackhi_epi16(low_01, low_23));
    store(&mut out[4 + half], _mm256_unpacklo_epi16(high_01, high_23));
    store(&mut out[6 + half], _mm256_unpackhi_epi16(high_01, high_23));
}
