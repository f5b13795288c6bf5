//! Look-up of codes of four signs: `vpshufb` finds both [digits](crate::ternary::signs) of a code for 32 rows. No sign is
//! applied after, so two row blocks, 128 rows, share the tables of a code in registers: 5.5 vector operations per 32 rows x
//! 4 weights, against 10.3 of the 5-bit codes.

use std::arch::asm;
use std::arch::x86_64::*;

use super::look_up::{slot_order, store_weights};
use super::rows::{Ymm, broadcast, load, store};
use crate::arch::x86::ahead::Ahead;
use crate::arch::x86::ternary::{LookUp, Width};
use crate::ternary::activations::{ActBlock, BLOCK_CODES};
use crate::ternary::block::BINARY_CHUNK_BYTES;
use crate::ternary::codebook::Codebook;
use crate::ternary::signs::{SIGN_CHUNK_OFFSET, SIGN_OFFSET, SIGN_TABLE_BYTES};

/// Signs in 256-bit vectors.
pub(crate) enum YmmSigns {}

impl LookUp for YmmSigns {
    type Width = Ymm;
    const TABLE_BYTES: usize = SIGN_TABLE_BYTES;
    const CHUNK_BYTES: usize = BINARY_CHUNK_BYTES;

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
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn segment<const N: usize>(
        codes: [*const u8; N],
        ahead: Ahead,
        chunks: usize,
        tables: *const u8,
    ) -> [<Ymm as Width>::Sums; N] {
        // int16 sums: `first` of rows 16 L + 0..8, `second` of 16 L + 8..16, for each 128-bit lane L. Each chunk brings
        // SIGN_CHUNK_OFFSET too much; -4 x 4064 + 32 x 1016 < 2^15.
        let start = _mm256_set1_epi16(-(chunks as i16) * SIGN_CHUNK_OFFSET as i16);
        let mut first = [[start; 2]; N];
        let mut second = [[start; 2]; N];
        let mask = _mm256_set1_epi8(15);
        for chunk in 0..chunks {
            // SAFETY: chunk < chunks, of which the tables, 8 a chunk, are readable (the condition of `LookUp::segment`).
            let tables = unsafe { &*tables.add(chunk * 8 * SIGN_TABLE_BYTES).cast::<[u8; 8 * SIGN_TABLE_BYTES]>() };
            let (tables, _) = tables.as_chunks::<16>();
            let mut rows = [&[0; BINARY_CHUNK_BYTES]; N];
            for n in 0..N {
                // SAFETY: as above, for the codes.
                rows[n] = unsafe { &*codes[n].add(chunk * BINARY_CHUNK_BYTES).cast::<[u8; BINARY_CHUNK_BYTES]>() };
                ahead.prefetch(rows[n]);
            }
            let mut low = [[_mm256_setzero_si256(); 2]; N];
            let mut high = [[_mm256_setzero_si256(); 2]; N];
            for code in 0..8 {
                let (low_table, high_table) = (broadcast(&tables[2 * code]), broadcast(&tables[2 * code + 1]));
                for n in 0..N {
                    let (lines, _) = rows[n].as_chunks::<32>();
                    for half in 0..2 {
                        let line = load(&lines[2 * (code / 2) + half]);
                        let line = if code % 2 == 1 { _mm256_srli_epi16::<4>(line) } else { line };
                        let index = _mm256_and_si256(line, mask);
                        let l = _mm256_add_epi8(low[n][half], _mm256_shuffle_epi8(low_table, index));
                        let h = _mm256_add_epi8(high[n][half], _mm256_shuffle_epi8(high_table, index));
                        (low[n][half], high[n][half]) = in_order(l, h);
                    }
                }
            }
            // Pairs (l, h) times (1, 32).
            let weights = _mm256_set1_epi16(32 << 8 | 1);
            for n in 0..N {
                for half in 0..2 {
                    let (low, high) = (low[n][half], high[n][half]);
                    let (even, odd) = (_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high));
                    first[n][half] = _mm256_add_epi16(first[n][half], _mm256_maddubs_epi16(even, weights));
                    second[n][half] = _mm256_add_epi16(second[n][half], _mm256_maddubs_epi16(odd, weights));
                }
            }
        }
        let even = _mm256_set1_epi32(1);
        let mut sums = [[[_mm256_setzero_si256(); 4]; 2]; N];
        for n in 0..N {
            for half in 0..2 {
                sums[n][half] = [
                    _mm256_madd_epi16(first[n][half], even),
                    _mm256_srai_epi32::<16>(first[n][half]),
                    _mm256_madd_epi16(second[n][half], even),
                    _mm256_srai_epi32::<16>(second[n][half]),
                ];
            }
        }
        sums
    }
}

/// The values themselves, which the compiler cannot see through: running sums stay such, not trees that take more
/// registers than there are.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn in_order(mut a: __m256i, mut b: __m256i) -> (__m256i, __m256i) {
    // SAFETY: the assembly is a comment: it runs nothing, and leaves each value in the register it was given in.
    unsafe {
        asm!(
            "/* {a} {b} */",
            a = inout(ymm_reg) a,
            b = inout(ymm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    (a, b)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::arch::x86) fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
    assert_eq!(out.len(), BLOCK_CODES * SIGN_TABLE_BYTES);
    let pairs_01 = load(&book.pairs_01.as_chunks().0[0]);
    let pairs_23 = load(&book.pairs_23.as_chunks().0[0]);
    for (q, table) in acts.q.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<SIGN_TABLE_BYTES>().0) {
        let a_01 = _mm256_set1_epi16(i16::from_le_bytes([q[0] as u8, q[1] as u8]));
        let a_23 = _mm256_set1_epi16(i16::from_le_bytes([q[2] as u8, q[3] as u8]));
        // (w + 1) . a + 508 - sum of a = w . a + 508
        let sum: i16 = q.iter().map(|&q| i16::from(q)).sum();
        let total = _mm256_add_epi16(_mm256_maddubs_epi16(pairs_01, a_01), _mm256_maddubs_epi16(pairs_23, a_23));
        let total = _mm256_add_epi16(total, _mm256_set1_epi16(SIGN_OFFSET as i16 - sum));
        let (low, high) = (_mm256_and_si256(total, _mm256_set1_epi16(31)), _mm256_srli_epi16::<5>(total));
        // Packing interleaves by lanes: l0 h0 l1 h1.
        store(table, _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(low, high)));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn decode_codes(book: &Codebook, codes: &[u8], panel: &mut [u8]) {
    let (lines, _) = codes.as_chunks::<32>();
    let (panel, _) = panel.as_chunks_mut::<256>();
    assert_eq!(panel.len(), 8);
    let order = slot_order();
    let mut lanes = [_mm256_setzero_si256(); 4];
    for lane in 0..4 {
        lanes[lane] = broadcast(&book.lanes[lane].as_chunks().0[0]);
    }
    for half in 0..2 {
        for code in 0..8 {
            let line = _mm256_shuffle_epi8(load(&lines[2 * (code / 2) + half]), order);
            let line = if code % 2 == 1 { _mm256_srli_epi16::<4>(line) } else { line };
            let index = _mm256_and_si256(line, _mm256_set1_epi8(15));
            let mut w = [_mm256_setzero_si256(); 4];
            for lane in 0..4 {
                w[lane] = _mm256_shuffle_epi8(lanes[lane], index);
            }
            let (out, _) = panel[code].as_chunks_mut::<32>();
            store_weights(w, half, out);
        }
    }
}
