//! Several and many tokens by look-up: `vpshufb` takes the digits of 32 rows' sums of four weights from a table of 16.
//!
//! What a look-up needs of the codes, nibbles and signs in bytes of their own, is made once for all tokens. Then 128 products
//! cost two look-ups, two signs, two additions and a share of widening: 6.8 vector operations, where decoded weights take
//! eight (`vpmaddubsw` and an addition for each 32), and one token by itself 10.3.

use std::arch::x86_64::*;
use std::ops::Range;

use super::look_up::Signs;
use super::rows::{Ymm, accumulate, broadcast, load, load_ps, scales_or_ones, store, store_ps};
use super::signs::{self, in_order};
use crate::arch::x86::ahead::Ahead;
use crate::arch::x86::ternary::{LookUp, finish_slots, last_to_first};
use crate::table::LookUpGemm;
use crate::ternary::activations::{ActBlock, BLOCK_CODES, CHUNK_CODES};
use crate::ternary::block::{BINARY_CHUNK_BYTES, CODE_CHUNK_BYTES, Rows};
use crate::ternary::codebook::Codebook;
use crate::ternary::segment::{IndexedSegment, Indices};
use crate::ternary::signs::{SIGN_CHUNK_OFFSET, SIGN_TABLE_BYTES};

/// Low digits of the 16 nibbles, then high digits.
const TABLE_BYTES: usize = 32;
const _: () = assert!(TABLE_BYTES == <Signs as LookUp>::TABLE_BYTES && TABLE_BYTES == SIGN_TABLE_BYTES);
/// Tables of an activation block.
const BLOCK_TABLES: usize = BLOCK_CODES * TABLE_BYTES;

/// The functions of every tier with 256-bit vectors. They beat decoded weights for any number of tokens, with `vpdpbusd` too
/// (measured on Zen 5).
pub(super) static LOOK_UP: LookUpGemm = LookUpGemm {
    table_bytes: TABLE_BYTES,
    min_tokens: 2,
    min_tokens_signs: 5,
    max_tokens: usize::MAX,
    pays: || true,
    build_tables,
    build_sign_tables,
    decode,
    decode_signs,
    segment,
    finish,
    #[cfg(test)]
    features: "avx2,fma,f16c",
};

/// The same where a token by itself takes less time.
pub(super) static LOOK_UP_BESIDE_GFNI: LookUpGemm = LookUpGemm { min_tokens: 3, ..LOOK_UP };

#[target_feature(enable = "avx2,fma,f16c")]
fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
    // SAFETY: this function is compiled for the instructions of `Signs::build_tables`, which takes slices otherwise.
    unsafe { Signs::build_tables(book, acts, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn build_sign_tables(acts: &ActBlock, out: &mut [u8]) {
    signs::build_tables(Codebook::SIGNS, acts, out);
}

/// The nibbles of 64 rows, then their signs: bit 7, and another bit so that none is 0.
#[target_feature(enable = "avx2,fma,f16c")]
fn decode(stream: &[u8], codes: Range<usize>, panel: &mut [Indices], blocks: usize) {
    let ahead = Ahead::of(codes.start, stream.len(), blocks);
    let (chunks, _) = stream[codes].as_chunks::<CODE_CHUNK_BYTES>();
    let (mask, one) = (_mm256_set1_epi8(15), _mm256_set1_epi8(1));
    for (chunk, panel) in chunks.iter().zip(panel.chunks_mut(CHUNK_CODES * blocks)) {
        ahead.prefetch(chunk);
        let (lines, _) = chunk.as_chunks::<32>();
        for half in 0..2 {
            let mut signs = load(&lines[half]);
            for code in (0..CHUNK_CODES).rev() {
                let nibbles = load(&lines[2 * (1 + code / 2) + half]);
                let nibbles = if code % 2 == 1 { _mm256_srli_epi16::<4>(nibbles) } else { nibbles };
                let (out, _) = panel[code * blocks].as_chunks_mut::<32>();
                store(&mut out[half], _mm256_and_si256(nibbles, mask));
                store(&mut out[2 + half], _mm256_or_si256(signs, one));
                signs = _mm256_add_epi8(signs, signs);
            }
        }
    }
}

/// The nibbles of 64 rows; the other half of the indices stays as it is.
#[target_feature(enable = "avx2,fma,f16c")]
fn decode_signs(stream: &[u8], codes: Range<usize>, panel: &mut [Indices], blocks: usize) {
    let ahead = Ahead::of(codes.start, stream.len(), blocks);
    let (chunks, _) = stream[codes].as_chunks::<BINARY_CHUNK_BYTES>();
    let mask = _mm256_set1_epi8(15);
    for (chunk, panel) in chunks.iter().zip(panel.chunks_mut(CHUNK_CODES * blocks)) {
        ahead.prefetch(chunk);
        let (lines, _) = chunk.as_chunks::<32>();
        for code in 0..CHUNK_CODES {
            let (out, _) = panel[code * blocks].as_chunks_mut::<32>();
            for half in 0..2 {
                let nibbles = load(&lines[2 * (code / 2) + half]);
                let nibbles = if code % 2 == 1 { _mm256_srli_epi16::<4>(nibbles) } else { nibbles };
                store(&mut out[half], _mm256_and_si256(nibbles, mask));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn segment(segment: &IndexedSegment<'_>, tables: &[u8], acts: &[ActBlock], acc: &mut [Rows]) {
    match (segment.scales.len(), segment.signs) {
        (1, false) => tokens::<1, false>(segment, tables, acts, acc),
        (1, true) => tokens::<1, true>(segment, tables, acts, acc),
        (2, false) => tokens::<2, false>(segment, tables, acts, acc),
        (2, true) => tokens::<2, true>(segment, tables, acts, acc),
        (blocks, _) => unreachable!("{blocks} blocks"),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn finish(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows) {
    // SAFETY: arrays; this function is compiled for the instructions of `Ymm`.
    unsafe { finish_slots::<Ymm>(acc, row_scales, out) }
}

/// All tokens, four at a time: their sums of 32 rows take eight of sixteen registers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tokens<const B: usize, const SIGNS: bool>(
    segment: &IndexedSegment<'_>,
    tables: &[u8],
    acts: &[ActBlock],
    acc: &mut [Rows],
) {
    let codes = segment.panel.len() / B;
    assert!(acc.len() == acts.len() * B && codes.is_multiple_of(CHUNK_CODES));
    assert!(acts.is_empty() || (acts.len() - 1) * BLOCK_TABLES + codes * TABLE_BYTES <= tables.len());
    let mut t = 0;
    while t < acts.len() {
        let tables = &tables[t * BLOCK_TABLES..];
        let (acts, acc) = (&acts[t..], &mut acc[t * B..]);
        // SAFETY: the last token's tables end within `tables` (asserted above) and those of the others BLOCK_TABLES earlier, so
        // that the first T <= acts.len() - t tokens from here on have theirs.
        t += unsafe {
            match acts.len() {
                1 => tile::<B, SIGNS, 1>(segment, tables, acts, acc),
                2 => tile::<B, SIGNS, 2>(segment, tables, acts, acc),
                3 => tile::<B, SIGNS, 3>(segment, tables, acts, acc),
                _ => tile::<B, SIGNS, 4>(segment, tables, acts, acc),
            }
        };
    }
}

/// The first `T` tokens; returns `T`.
///
/// # Safety
/// `tables` holds those of all codes of the panel for each of `T` tokens, `BLOCK_TABLES` bytes apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const B: usize, const SIGNS: bool, const T: usize>(
    segment: &IndexedSegment<'_>,
    tables: &[u8],
    acts: &[ActBlock],
    acc: &mut [Rows],
) -> usize {
    for block in 0..B {
        for half in 0..2 {
            // SAFETY: this function's condition.
            let sums = unsafe { half_block::<B, SIGNS, T>(segment.panel, block, half, tables) };
            for t in 0..T {
                let (acc, _) = acc[t * B + block].as_chunks_mut::<8>();
                let a_scale = _mm256_set1_ps(acts[t].scale);
                for v in 0..4 {
                    // A factor of 1 changes nothing.
                    let factor = match segment.scales[block] {
                        None => a_scale,
                        scales => _mm256_mul_ps(a_scale, scales_or_ones(scales, 16 * v + 8 * half)),
                    };
                    let acc = &mut acc[2 * v + half];
                    store_ps(acc, accumulate(load_ps(acc), sums[t][v], factor));
                }
            }
        }
    }
    T
}

/// Whole-number sums of 32 rows for `T` tokens: vector `v` holds the slots `16 v + 8 half ..`.
///
/// # Safety
/// `tables` holds those of all codes of the panel for each of `T` tokens, `BLOCK_TABLES` bytes apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half_block<const B: usize, const SIGNS: bool, const T: usize>(
    panel: &[Indices],
    block: usize,
    half: usize,
    tables: &[u8],
) -> [[__m256i; 4]; T] {
    // int16 sums: `first` of rows 16 L + 0..8, `second` of 16 L + 8..16, for each 128-bit lane L. Each chunk of signs brings
    // SIGN_CHUNK_OFFSET too much; -4 x 4064 + 32 x 1016 < 2^15.
    let chunks = panel.as_chunks::<B>().0.as_chunks::<CHUNK_CODES>().0;
    let start = if SIGNS { -(chunks.len() as i32 * SIGN_CHUNK_OFFSET) as i16 } else { 0 };
    let mut first = [_mm256_set1_epi16(start); T];
    let mut second = first;
    for (chunk, indices) in chunks.iter().enumerate() {
        let (mut low, mut high) = ([_mm256_setzero_si256(); T], [_mm256_setzero_si256(); T]);
        last_to_first!(|CODE| {
            let (lines, _) = indices[CODE][block].as_chunks::<32>();
            let (index, sign) = (load(&lines[half]), load(&lines[2 + half]));
            for t in 0..T {
                // SAFETY: token t < T has a table of TABLE_BYTES = 32 bytes for each code of the panel (this function's
                // condition).
                let table = unsafe {
                    let at = t * BLOCK_TABLES + (chunk * CHUNK_CODES + CODE) * TABLE_BYTES;
                    &*tables.as_ptr().add(at).cast::<[[u8; 16]; 2]>()
                };
                let l = _mm256_shuffle_epi8(broadcast(&table[0]), index);
                let h = _mm256_shuffle_epi8(broadcast(&table[1]), index);
                let (l, h) = if SIGNS { (l, h) } else { (_mm256_sign_epi8(l, sign), _mm256_sign_epi8(h, sign)) };
                (low[t], high[t]) = in_order(_mm256_add_epi8(low[t], l), _mm256_add_epi8(high[t], h));
            }
        });
        for t in 0..T {
            let (even, odd) = (_mm256_unpacklo_epi8(low[t], high[t]), _mm256_unpackhi_epi8(low[t], high[t]));
            let (even, odd) = if SIGNS {
                // Pairs (l, h) without sign times (1, 32).
                let weights = _mm256_set1_epi16(32 << 8 | 1);
                (_mm256_maddubs_epi16(even, weights), _mm256_maddubs_epi16(odd, weights))
            } else {
                // Signed pairs (l, h) times (1, 31).
                let weights = _mm256_set1_epi16(31 << 8 | 1);
                (_mm256_maddubs_epi16(weights, even), _mm256_maddubs_epi16(weights, odd))
            };
            first[t] = _mm256_add_epi16(first[t], even);
            second[t] = _mm256_add_epi16(second[t], odd);
        }
    }
    let even = _mm256_set1_epi32(1);
    let mut sums = [[_mm256_setzero_si256(); 4]; T];
    for t in 0..T {
        sums[t] = [
            _mm256_madd_epi16(first[t], even),
            _mm256_srai_epi32::<16>(first[t]),
            _mm256_madd_epi16(second[t], even),
            _mm256_srai_epi32::<16>(second[t]),
        ];
    }
    sums
}
