//! Many tokens by look-up: `vpermw` takes 32 rows' sums of four weights from a table of 32 int16.
//!
//! 128 products cost a permutation and an addition. Zen 4 does one 512-bit permutation of words a cycle, and as many
//! `vpdpbusd`, each of 64 products; so look-up goes past what dot-product instructions can do. Intel processors split the
//! permutation in two and have two units for `vpdpbusd`: there decoded weights are the better way.

use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::OnceLock;

use super::look_up::{Chunk, Words, widen};
use super::rows::{Zmm, accumulate, factors, load, load_rows, scales_or_ones, store, store_natural};
use crate::arch::x86::ahead::Ahead;
use crate::arch::x86::ternary::{LookUp, Width, last_to_first};
use crate::table::LookUpGemm;
use crate::ternary::activations::{ActBlock, BLOCK_CODES};
use crate::ternary::block::{BINARY_CHUNK_BYTES, CODE_CHUNK_BYTES, Rows, SCALE_BYTES};
use crate::ternary::codebook::Codebook;
use crate::ternary::segment::{IndexedSegment, Indices};

/// Bytes of the table of one code: 32 int16.
const TABLE_BYTES: usize = <Words as LookUp>::TABLE_BYTES;
/// Those of the codes of an activation block.
const BLOCK_TABLES: usize = BLOCK_CODES * TABLE_BYTES;

/// The functions of every tier with 512-bit vectors.
pub(super) static LOOK_UP: LookUpGemm = LookUpGemm {
    table_bytes: TABLE_BYTES,
    min_tokens: 3,
    min_tokens_signs: 4,
    max_tokens: usize::MAX,
    pays,
    build_tables,
    build_sign_tables,
    decode,
    decode_signs,
    segment,
    finish,
    #[cfg(test)]
    features: "avx512f,avx512bw,avx512vl,avx2,fma,f16c",
};

/// Whether permutations of words run at full speed: on AMD's processors.
fn pays() -> bool {
    static AMD: OnceLock<bool> = OnceLock::new();
    *AMD.get_or_init(|| {
        let vendor = __cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
    })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
    // SAFETY: this function is compiled for the instructions of `Words::build_tables`, which takes slices otherwise.
    unsafe { Words::build_tables(book, acts, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn build_sign_tables(acts: &ActBlock, out: &mut [u8]) {
    build_tables(Codebook::SIGNS, acts, out);
}

/// 32 words for the even rows, 32 for the odd ones, of which the low five bits count.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn decode(stream: &[u8], codes: Range<usize>, panel: &mut [Indices], blocks: usize) {
    let ahead = Ahead::of(codes.start, stream.len(), blocks);
    let (chunks, _) = stream[codes].as_chunks::<CODE_CHUNK_BYTES>();
    for (chunk, panel) in chunks.iter().zip(panel.chunks_mut(8 * blocks)) {
        // SAFETY: chunk 0 of `chunk`, an array of CODE_CHUNK_BYTES, is read.
        let [mut rows] = unsafe { Chunk::load([chunk.as_ptr()], 0, ahead) };
        last_to_first!(|CODE| {
            let index = rows.index(CODE);
            let (lines, _) = panel[CODE * blocks].as_chunks_mut::<64>();
            store(&mut lines[0], index);
            store(&mut lines[1], _mm512_srli_epi16::<8>(index));
        });
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn decode_signs(stream: &[u8], codes: Range<usize>, panel: &mut [Indices], blocks: usize) {
    let ahead = Ahead::of(codes.start, stream.len(), blocks);
    let (chunks, _) = stream[codes].as_chunks::<BINARY_CHUNK_BYTES>();
    for (chunk, panel) in chunks.iter().zip(panel.chunks_mut(8 * blocks)) {
        ahead.prefetch(chunk);
        for (pair, line) in chunk.as_chunks::<64>().0.iter().enumerate() {
            // The fifth bit of an index is junk, which the tables of signs do not mind.
            let line = load(line);
            let (out, _) = panel[2 * pair * blocks].as_chunks_mut::<64>();
            store(&mut out[0], line);
            store(&mut out[1], _mm512_srli_epi16::<8>(line));
            let (out, _) = panel[(2 * pair + 1) * blocks].as_chunks_mut::<64>();
            store(&mut out[0], _mm512_srli_epi16::<4>(line));
            store(&mut out[1], _mm512_srli_epi16::<12>(line));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn segment(segment: &IndexedSegment<'_>, tables: &[u8], acts: &[ActBlock], acc: &mut [Rows]) {
    // The blocks are of one matrix.
    match (segment.scales.len(), segment.scales[0].is_some()) {
        (1, false) => tokens::<1, false>(segment, tables, acts, acc),
        (1, true) => tokens::<1, true>(segment, tables, acts, acc),
        (2, false) => tokens::<2, false>(segment, tables, acts, acc),
        (2, true) => tokens::<2, true>(segment, tables, acts, acc),
        (blocks, _) => unreachable!("{blocks} blocks"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn finish(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows) {
    let [a, b, c, d] = load_rows(acc);
    let slots =
        [_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d)];
    // SAFETY: arrays and registers; this function is compiled for the instructions of `Zmm`.
    unsafe { Zmm::store_slots(slots, row_scales, out) }
}

/// The scales of a block in the order of the sums: rows 4 i, 4 i + 2, 4 i + 1 and 4 i + 3.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn scales(scales: Option<&[u8; SCALE_BYTES]>) -> [__m512; 4] {
    let [a, b, c, d] = scales_or_ones(scales);
    [
        _mm512_shuffle_ps::<0x88>(a, c),
        _mm512_shuffle_ps::<0xdd>(a, c),
        _mm512_shuffle_ps::<0x88>(b, d),
        _mm512_shuffle_ps::<0xdd>(b, d),
    ]
}

/// All tokens, four at a time: with two blocks their sums take 16 registers, and there are half as many loads as look-ups.
/// `GROUPED`: the segment has scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn tokens<const B: usize, const GROUPED: bool>(
    segment: &IndexedSegment<'_>,
    tables: &[u8],
    acts: &[ActBlock],
    acc: &mut [Rows],
) {
    let codes = segment.panel.len() / B;
    assert_eq!(acc.len(), acts.len() * B);
    assert!(acts.is_empty() || (acts.len() - 1) * BLOCK_TABLES + codes * TABLE_BYTES <= tables.len());
    let w_scales: [_; B] = std::array::from_fn(|b| scales(segment.scales[b]));
    let mut t = 0;
    while t < acts.len() {
        let tables = &tables[t * BLOCK_TABLES..];
        let (acts, acc) = (&acts[t..], &mut acc[t * B..]);
        // SAFETY: the last token's tables end within `tables` (asserted above) and those of the others BLOCK_TABLES earlier, so
        // that the first T <= acts.len() - t tokens from here on have theirs.
        t += unsafe {
            match acts.len() {
                1 => tile::<B, 1, GROUPED>(segment.panel, &w_scales, tables, acts, acc),
                2 => tile::<B, 2, GROUPED>(segment.panel, &w_scales, tables, acts, acc),
                3 => tile::<B, 3, GROUPED>(segment.panel, &w_scales, tables, acts, acc),
                _ => tile::<B, 4, GROUPED>(segment.panel, &w_scales, tables, acts, acc),
            }
        };
    }
}

/// The first `T` tokens; returns `T`.
///
/// # Safety
/// `tables` holds those of all codes of the panel for each of `T` tokens, `BLOCK_TABLES` bytes apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
unsafe fn tile<const B: usize, const T: usize, const GROUPED: bool>(
    panel: &[Indices],
    w_scales: &[[__m512; 4]; B],
    tables: &[u8],
    acts: &[ActBlock],
    acc: &mut [Rows],
) -> usize {
    let zero = _mm512_setzero_si512();
    // int16 sums of the even and of the odd rows of each block: 32 codes of at most 381, or 508 of signs.
    let mut sums = [[[zero; 2]; B]; T];
    for (code, indices) in panel.as_chunks::<B>().0.iter().enumerate() {
        let mut table = [zero; T];
        for t in 0..T {
            // SAFETY: token t < T has a table of TABLE_BYTES = 64 bytes for each code of the panel (this function's condition).
            table[t] = load(unsafe { &*tables.as_ptr().add(t * BLOCK_TABLES + code * TABLE_BYTES).cast::<[u8; 64]>() });
        }
        for b in 0..B {
            let (lines, _) = indices[b].as_chunks::<64>();
            for half in 0..2 {
                let index = load(&lines[half]);
                for t in 0..T {
                    sums[t][b][half] = _mm512_add_epi16(sums[t][b][half], _mm512_permutexvar_epi16(index, table[t]));
                }
            }
        }
    }
    // Unrolled: a loop would keep the sums in memory.
    last_to_first!(|TOKEN| {
        if TOKEN < T {
            add_sums::<B, GROUPED>(sums[TOKEN], acts[TOKEN].scale, w_scales, &mut acc[TOKEN * B..(TOKEN + 1) * B]);
        }
    });
    T
}

/// Scales the sums of a token, and adds them to what it has.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn add_sums<const B: usize, const GROUPED: bool>(
    sums: [[__m512i; 2]; B],
    a_scale: f32,
    w_scales: &[[__m512; 4]; B],
    acc: &mut [Rows],
) {
    let a_scale = _mm512_set1_ps(a_scale);
    for b in 0..B {
        let [even, odd] = sums[b];
        let [dots] = widen([even], [odd]);
        let mut sum = load_rows(&acc[b]);
        // A factor of 1 changes nothing.
        let factors = if GROUPED { factors(a_scale, &w_scales[b]) } else { [a_scale; 4] };
        accumulate(&mut sum, &dots, &factors);
        store_natural(sum, None, &mut acc[b]);
    }
}
