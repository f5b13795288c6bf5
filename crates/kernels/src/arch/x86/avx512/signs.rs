//! Look-up of codes of four signs: `vpshufb` finds both [digits](crate::ternary::signs) of a code for 64 rows. The tables
//! are those of AVX2; nothing beyond AVX-512 BW is needed, so every tier of 512 bits has the same.

use std::arch::x86_64::*;

use super::look_up::{in_slots, opaque, store_weights, widen};
use super::rows::{Zmm, load};
use crate::arch::x86::ahead::Ahead;
use crate::arch::x86::avx2::signs::build_tables;
use crate::arch::x86::ternary::{LookUp, Width};
use crate::ternary::activations::ActBlock;
use crate::ternary::block::BINARY_CHUNK_BYTES;
use crate::ternary::codebook::Codebook;
use crate::ternary::signs::{SIGN_CHUNK_OFFSET, SIGN_TABLE_BYTES};

/// Signs in 512-bit vectors.
pub(crate) enum ZmmSigns {}

impl LookUp for ZmmSigns {
    type Width = Zmm;
    const TABLE_BYTES: usize = SIGN_TABLE_BYTES;
    const CHUNK_BYTES: usize = BINARY_CHUNK_BYTES;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
        build_tables(book, acts, out);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn decode_codes(book: &Codebook, codes: &[u8], panel: &mut [u8]) {
        let (lines, _) = codes.as_chunks::<64>();
        let (panel, _) = panel.as_chunks_mut::<256>();
        assert_eq!(panel.len(), 8);
        let mut lanes = [_mm512_setzero_si512(); 4];
        for lane in 0..4 {
            lanes[lane] = broadcast(&book.lanes[lane].as_chunks().0[0]);
        }
        for code in 0..8 {
            let line = in_slots(load(&lines[code / 2]));
            let line = if code % 2 == 1 { _mm512_srli_epi16::<4>(line) } else { line };
            let index = _mm512_and_si512(line, _mm512_set1_epi8(15));
            let mut w = [_mm512_setzero_si512(); 4];
            for lane in 0..4 {
                w[lane] = _mm512_shuffle_epi8(lanes[lane], index);
            }
            store_weights(w, &mut panel[code]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn segment<const N: usize>(
        codes: [*const u8; N],
        ahead: Ahead,
        chunks: usize,
        tables: *const u8,
    ) -> [<Zmm as Width>::Sums; N] {
        // int16 sums: `first` of rows 16 L + 0..8, `second` of rows 16 L + 8..16, for each 128-bit lane L. Each chunk brings
        // SIGN_CHUNK_OFFSET too much; -4 x 4064 + 32 x 1016 < 2^15.
        let start = _mm512_set1_epi16(-(chunks as i16) * SIGN_CHUNK_OFFSET as i16);
        let mut first = [start; N];
        let mut second = [start; N];
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
            let mut low = [_mm512_setzero_si512(); N];
            let mut high = [_mm512_setzero_si512(); N];
            for code in 0..8 {
                let (low_table, high_table) = (broadcast(&tables[2 * code]), broadcast(&tables[2 * code + 1]));
                for n in 0..N {
                    let line = load(&rows[n].as_chunks::<64>().0[code / 2]);
                    let line = if code % 2 == 1 { _mm512_srli_epi16::<4>(line) } else { line };
                    let index = _mm512_and_si512(line, _mm512_set1_epi8(15));
                    low[n] = opaque(_mm512_add_epi8(low[n], _mm512_shuffle_epi8(low_table, index)));
                    high[n] = opaque(_mm512_add_epi8(high[n], _mm512_shuffle_epi8(high_table, index)));
                }
            }
            // Pairs (l, h) times (1, 32).
            let weights = _mm512_set1_epi16(32 << 8 | 1);
            for n in 0..N {
                let (even, odd) = (_mm512_unpacklo_epi8(low[n], high[n]), _mm512_unpackhi_epi8(low[n], high[n]));
                first[n] = _mm512_add_epi16(first[n], _mm512_maddubs_epi16(even, weights));
                second[n] = _mm512_add_epi16(second[n], _mm512_maddubs_epi16(odd, weights));
            }
        }
        widen(first, second)
    }
}

/// 16 bytes, four times.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn broadcast(bytes: &[u8; 16]) -> __m512i {
    // SAFETY: `bytes` is an array of 16, as many as are read.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}
