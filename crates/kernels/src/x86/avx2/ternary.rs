//! Ternary products with AVX2. See [`crate::ternary::kernels`] for what each function computes.
//!
//! The 5-bit formats run by table look-up as with AVX-512 (see there), with tables of 16 entries: `vpshufb` looks up the
//! digits of the nibble for 32 rows, `vpsignb` applies the sign bit.

use std::arch::x86_64::*;

use crate::ternary::activations::{ActBlock, Arrangement, BLOCK_CODES, quantize_block};
use crate::ternary::kernels::{Codebook, GemmKernels, Rows, Segment, TernaryKernels, TokenBlocks};
use crate::ternary::matrix::{BIT_CHUNK_BYTES, BLOCK_ROWS, CODE_CHUNK_BYTES, RowBlock, SCALE_BYTES};
use crate::x86::ahead::Ahead;

/// Low digits of the 16 nibbles, then high digits.
const TABLE_BYTES: usize = 32;

pub(crate) static KERNELS: TernaryKernels = TernaryKernels {
    quantize,
    table_bytes: TABLE_BYTES,
    build_tables,
    gemv_codes,
    gemv_bits,
    gemm: Some(GemmKernels {
        min_tokens_codes: 8,
        min_tokens_bits: 6,
        decode_codes,
        decode_bits,
        segment,
        finish_codes,
        finish_bits,
    }),
};

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize(arrangement: Arrangement, x: &[f32], out: &mut ActBlock) {
    quantize_block(arrangement, x, out);
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
        // SAFETY: 8 i32.
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
fn gemv_codes(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, tables: &[u8], out: &mut [&mut Rows]) {
    if let (Some(blocks), Some(out)) = (blocks.as_array::<2>(), out.as_mut_array::<2>()) {
        look_up_blocks(blocks, acts, tables, out);
    } else {
        for (block, out) in blocks.iter().zip(out) {
            look_up_blocks(&[*block], acts, tables, &mut [out]);
        }
    }
}

/// `N` neighbouring row blocks of one matrix, a segment of each in turn.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn look_up_blocks<const N: usize>(
    blocks: &[RowBlock<'_>; N],
    acts: TokenBlocks<'_>,
    tables: &[u8],
    out: &mut [&mut Rows; N],
) {
    let all_chunks = blocks[0].chunks;
    let stream_bytes = blocks[0].stream_bytes(CODE_CHUNK_BYTES);
    for block in blocks {
        assert!(block.stream.len() == stream_bytes && block.chunks == all_chunks);
    }
    let (tables, _) = tables.as_chunks::<{ 8 * TABLE_BYTES }>();
    let mut acc = [[[_mm256_setzero_ps(); 4]; 2]; N];
    let mut scales = [None; N];
    let mut at = 0;
    let mut chunk = 0;
    while chunk < all_chunks {
        if blocks[0].starts_group(chunk) {
            for n in 0..N {
                if let Some(head) = blocks[n].stream[at..].first_chunk::<SCALE_BYTES>() {
                    Ahead::of(at, stream_bytes, N).prefetch(head);
                    scales[n] = Some(head);
                }
            }
            at += SCALE_BYTES;
        }
        let chunks = blocks[0].segment_chunks().min(all_chunks - chunk);
        let tables = &tables[chunk..chunk + chunks];
        let a_scale = _mm256_set1_ps(acts.of_chunk(chunk).scale);
        for n in 0..N {
            let (codes, _) = blocks[n].stream[at..at + chunks * CODE_CHUNK_BYTES].as_chunks::<CODE_CHUNK_BYTES>();
            // Two halves of 32 rows: all 64 at once would need more registers than there are.
            for half in 0..2 {
                // int16 sums: `first` of rows 16 L + 0..8, `second` of rows 16 L + 8..16, for each 128-bit lane L.
                let mut first = _mm256_setzero_si256();
                let mut second = _mm256_setzero_si256();
                for (i, (codes, tables)) in codes.iter().zip(tables).enumerate() {
                    if half == 0 {
                        Ahead::of(at + i * CODE_CHUNK_BYTES, stream_bytes, N).prefetch(codes);
                    }
                    let (low, high) = look_up(codes, half, tables);
                    // Pairs (l, h) times (1, 31).
                    let weights = _mm256_set1_epi16(31 << 8 | 1);
                    first = _mm256_add_epi16(first, _mm256_maddubs_epi16(weights, _mm256_unpacklo_epi8(low, high)));
                    second = _mm256_add_epi16(second, _mm256_maddubs_epi16(weights, _mm256_unpackhi_epi8(low, high)));
                }
                let even = _mm256_set1_epi32(1);
                let sums = [
                    _mm256_madd_epi16(first, even),
                    _mm256_srai_epi32::<16>(first),
                    _mm256_madd_epi16(second, even),
                    _mm256_srai_epi32::<16>(second),
                ];
                for v in 0..4 {
                    let acc = &mut acc[n][half][v];
                    *acc = accumulate(*acc, sums[v], a_scale, scales[n], 16 * v + 8 * half);
                }
            }
        }
        at += chunks * CODE_CHUNK_BYTES;
        chunk += chunks;
    }
    for (n, out) in out.iter_mut().enumerate() {
        store_slots(acc[n], blocks[n].row_scales, out);
    }
}

/// Adds up the digits of one chunk, eight codes, for half of the rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn look_up(codes: &[u8; CODE_CHUNK_BYTES], half: usize, tables: &[u8; 8 * TABLE_BYTES]) -> (__m256i, __m256i) {
    let (lines, _) = codes.as_chunks::<32>();
    let (tables, _) = tables.as_chunks::<16>();
    let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    // From the last code to the first: its sign stands at bit 7 of each byte, and doubling moves on to the next.
    let mut signs = load(&lines[half]);
    let (mask, one) = (_mm256_set1_epi8(15), _mm256_set1_epi8(1));
    for v in (0..4).rev() {
        let nibbles = load(&lines[2 * (1 + v) + half]);
        let pair = [_mm256_and_si256(nibbles, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(nibbles), mask)];
        for odd in [1, 0] {
            let sign = _mm256_or_si256(signs, one);
            let table = 2 * (2 * v + odd);
            let l = _mm256_shuffle_epi8(broadcast(&tables[table]), pair[odd]);
            let h = _mm256_shuffle_epi8(broadcast(&tables[table + 1]), pair[odd]);
            low = _mm256_add_epi8(low, _mm256_sign_epi8(l, sign));
            high = _mm256_add_epi8(high, _mm256_sign_epi8(h, sign));
            signs = _mm256_add_epi8(signs, signs);
        }
    }
    (low, high)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn gemv_bits(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, out: &mut [&mut Rows]) {
    if let (Some(blocks), Some(out)) = (blocks.as_array::<2>(), out.as_mut_array::<2>()) {
        multiply_blocks(blocks, acts, out);
    } else {
        for (block, out) in blocks.iter().zip(out) {
            multiply_blocks(&[*block], acts, &mut [out]);
        }
    }
}

/// `N` neighbouring row blocks of one matrix, a segment of each in turn.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_blocks<const N: usize>(blocks: &[RowBlock<'_>; N], acts: TokenBlocks<'_>, out: &mut [&mut Rows; N]) {
    let all_chunks = blocks[0].chunks;
    let stream_bytes = blocks[0].stream_bytes(BIT_CHUNK_BYTES);
    for block in blocks {
        assert!(block.stream.len() == stream_bytes && block.chunks == all_chunks);
    }
    let mut acc = [[[_mm256_setzero_ps(); 4]; 2]; N];
    let mut scales = [None; N];
    let mut at = 0;
    let mut chunk = 0;
    while chunk < all_chunks {
        if blocks[0].starts_group(chunk) {
            for n in 0..N {
                if let Some(head) = blocks[n].stream[at..].first_chunk::<SCALE_BYTES>() {
                    Ahead::of(at, stream_bytes, N).prefetch(head);
                    scales[n] = Some(head);
                }
            }
            at += SCALE_BYTES;
        }
        let chunks = blocks[0].segment_chunks().min(all_chunks - chunk);
        let block_acts = acts.of_chunk(chunk);
        let first = chunk % 4;
        let a_scale = _mm256_set1_ps(block_acts.scale);
        // The fields hold w + 1: take the sum of the activations off.
        let sum = _mm256_set1_epi32(block_acts.sums[first..first + chunks].iter().sum());
        for n in 0..N {
            // int16 sums of pairs of inputs, 8 rows a vector; 32 codes x 2 x 2 x 127 < 2^15.
            let mut sums = [_mm256_setzero_si256(); 8];
            let codes = &blocks[n].stream[at..at + chunks * BIT_CHUNK_BYTES];
            let (halves, _) = codes.as_chunks::<{ BIT_CHUNK_BYTES / 2 }>();
            let (q, _) = block_acts.q[32 * first..].as_chunks::<16>();
            for (i, (half, q)) in halves.iter().zip(q).enumerate() {
                Ahead::of(at + i * BIT_CHUNK_BYTES / 2, stream_bytes, N).prefetch(half);
                let (q, _) = q.as_chunks::<4>();
                let q = [splat(&q[0]), splat(&q[1]), splat(&q[2]), splat(&q[3])];
                let (lines, _) = half.as_chunks::<32>();
                for v in 0..8 {
                    let fields = fields(load(&lines[v]));
                    for j in 0..4 {
                        sums[v] = _mm256_add_epi16(sums[v], _mm256_maddubs_epi16(fields[j], q[j]));
                    }
                }
            }
            for v in 0..8 {
                let dots = _mm256_sub_epi32(_mm256_madd_epi16(sums[v], _mm256_set1_epi16(1)), sum);
                let acc = &mut acc[n][v % 2][v / 2];
                *acc = accumulate(*acc, dots, a_scale, scales[n], 8 * v);
            }
        }
        at += chunks * BIT_CHUNK_BYTES;
        chunk += chunks;
    }
    for (n, out) in out.iter_mut().enumerate() {
        store_natural(acc[n], blocks[n].row_scales, out);
    }
}

/// The four 2-bit fields of each byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fields(bytes: __m256i) -> [__m256i; 4] {
    let mask = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(bytes, mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(bytes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<6>(bytes), mask),
    ]
}

#[target_feature(enable = "avx2,fma,f16c")]
fn decode_codes(book: &Codebook, codes: &[u8], panel: &mut [u8]) {
    let (lines, _) = codes.as_chunks::<32>();
    let (panel, _) = panel.as_chunks_mut::<256>();
    assert_eq!(panel.len(), 8);
    // Puts rows where the unpacking below leaves them in slot order: byte 4 v + k of each lane is row
    // 8 (v / 2) + 2 k + v % 2.
    let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
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
            let (low_01, high_01) = (_mm256_unpacklo_epi8(w[0], w[1]), _mm256_unpackhi_epi8(w[0], w[1]));
            let (low_23, high_23) = (_mm256_unpacklo_epi8(w[2], w[3]), _mm256_unpackhi_epi8(w[2], w[3]));
            let (out, _) = panel[code].as_chunks_mut::<32>();
            store(&mut out[half], _mm256_unpacklo_epi16(low_01, low_23));
            store(&mut out[2 + half], _mm256_unpackhi_epi16(low_01, low_23));
            store(&mut out[4 + half], _mm256_unpacklo_epi16(high_01, high_23));
            store(&mut out[6 + half], _mm256_unpackhi_epi16(high_01, high_23));
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn decode_bits(codes: &[u8], panel: &mut [u8]) {
    let (halves, _) = codes.as_chunks::<{ BIT_CHUNK_BYTES / 2 }>();
    let (panels, _) = panel.as_chunks_mut::<{ 4 * 256 }>();
    for (half, panel) in halves.iter().zip(panels) {
        let (lines, _) = half.as_chunks::<32>();
        let (out, _) = panel.as_chunks_mut::<32>();
        for v in 0..8 {
            let fields = fields(load(&lines[v]));
            for j in 0..4 {
                store(&mut out[8 * j + v], fields[j]);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn segment(segment: Segment<'_>, acts: &[ActBlock], acc: &mut [Rows]) {
    assert_eq!(acts.len(), acc.len());
    let mut tiles = acts.chunks_exact(6);
    let mut acc_tiles = acc.chunks_exact_mut(6);
    for (acts, acc) in (&mut tiles).zip(&mut acc_tiles) {
        tile::<6>(&segment, acts, acc);
    }
    let (acts, acc) = (tiles.remainder(), acc_tiles.into_remainder());
    match acts.len() {
        1 => tile::<1>(&segment, acts, acc),
        2 => tile::<2>(&segment, acts, acc),
        3 => tile::<3>(&segment, acts, acc),
        4 => tile::<4>(&segment, acts, acc),
        5 => tile::<5>(&segment, acts, acc),
        _ => {}
    }
}

/// `N` tokens x 16 rows at a time: 12 of the 16 registers hold int16 sums (32 codes x 2 x 2 x 127 < 2^15) when `N` is 6.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const N: usize>(segment: &Segment<'_>, acts: &[ActBlock], acc: &mut [Rows]) {
    let (Some(acts), Some(acc)) = (acts.as_array::<N>(), acc.as_mut_array::<N>()) else { return };
    let chunks = segment.first_chunk..segment.first_chunk + segment.chunks;
    let first = 8 * segment.first_chunk;
    let (panel, _) = segment.panel.as_chunks::<256>();
    assert!(first + panel.len() <= BLOCK_CODES);
    for quarter in 0..4 {
        let mut sums = [[_mm256_setzero_si256(); 2]; N];
        for (code, w) in panel.iter().enumerate() {
            let (w, _) = w.as_chunks::<32>();
            let w = [load(&w[2 * quarter]), load(&w[2 * quarter + 1])];
            for (sums, acts) in sums.iter_mut().zip(acts) {
                let q = splat(&acts.q.as_chunks::<4>().0[first + code]);
                sums[0] = _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(w[0], q));
                sums[1] = _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(w[1], q));
            }
        }
        for ((sums, acts), acc) in sums.iter().zip(acts).zip(acc.iter_mut()) {
            let sum = _mm256_set1_epi32(acts.sums[chunks.clone()].iter().sum());
            let a_scale = _mm256_set1_ps(acts.scale);
            let (acc, _) = acc.as_chunks_mut::<8>();
            for i in 0..2 {
                let v = 2 * quarter + i;
                let dots = _mm256_sub_epi32(_mm256_madd_epi16(sums[i], _mm256_set1_epi16(1)), sum);
                let values = accumulate(load_ps(&acc[v]), dots, a_scale, segment.scales, 8 * v);
                store_ps(&mut acc[v], values);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn finish_codes(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows) {
    store_slots(load_rows(acc), row_scales, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn finish_bits(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows) {
    store_natural(load_rows(acc), row_scales, out);
}

/// `acc + dots as f32 * (a_scale * w_scale)`, multiplication and addition apart; the group scales are those of the eight
/// slots from `slot` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn accumulate(acc: __m256, dots: __m256i, a_scale: __m256, scales: Option<&[u8; SCALE_BYTES]>, slot: usize) -> __m256 {
    let factor = match scales {
        Some(scales) => {
            let (vectors, _) = scales.as_chunks::<16>();
            // SAFETY: 16 bytes.
            let halves = unsafe { _mm_loadu_si128(vectors[slot / 8].as_ptr().cast()) };
            _mm256_mul_ps(a_scale, _mm256_cvtph_ps(halves))
        }
        None => a_scale,
    };
    _mm256_add_ps(acc, _mm256_mul_ps(_mm256_cvtepi32_ps(dots), factor))
}

/// Slots to rows (see [`slot_row`](crate::ternary::matrix::slot_row)), times the row scales. `acc[half][v]` holds slots
/// `16 v + 8 half ..`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_slots(acc: [[__m256; 4]; 2], row_scales: Option<&Rows>, out: &mut Rows) {
    let mut rows = [[_mm256_setzero_ps(); 4]; 2];
    for half in 0..2 {
        let acc = acc[half];
        // Lane L of a, b, c, d: rows 16 L + 0..4, 4..8, 8..12, 12..16 of the half.
        let (a, b) = (_mm256_unpacklo_ps(acc[0], acc[1]), _mm256_unpackhi_ps(acc[0], acc[1]));
        let (c, d) = (_mm256_unpacklo_ps(acc[2], acc[3]), _mm256_unpackhi_ps(acc[2], acc[3]));
        rows[0][2 * half] = _mm256_permute2f128_ps::<0x20>(a, b);
        rows[1][2 * half] = _mm256_permute2f128_ps::<0x20>(c, d);
        rows[0][2 * half + 1] = _mm256_permute2f128_ps::<0x31>(a, b);
        rows[1][2 * half + 1] = _mm256_permute2f128_ps::<0x31>(c, d);
    }
    store_natural(rows, row_scales, out);
}

/// `rows[half][v]` holds rows `16 v + 8 half ..`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_natural(rows: [[__m256; 4]; 2], row_scales: Option<&Rows>, out: &mut Rows) {
    let (out, _) = out.as_chunks_mut::<8>();
    for v in 0..4 {
        for half in 0..2 {
            let values = match row_scales {
                Some(scales) => _mm256_mul_ps(rows[half][v], load_ps(&scales.as_chunks().0[2 * v + half])),
                None => rows[half][v],
            };
            store_ps(&mut out[2 * v + half], values);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_rows(rows: &Rows) -> [[__m256; 4]; 2] {
    let (vectors, _) = rows.as_chunks::<8>();
    let mut out = [[_mm256_setzero_ps(); 4]; 2];
    for v in 0..BLOCK_ROWS / 16 {
        out[0][v] = load_ps(&vectors[2 * v]);
        out[1][v] = load_ps(&vectors[2 * v + 1]);
    }
    out
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load<T: Copy>(bytes: &[T; 32]) -> __m256i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(out: &mut [u8; 32], value: __m256i) {
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_ps(values: &[f32; 8]) -> __m256 {
    // SAFETY: 8 values.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_ps(out: &mut [f32; 8], values: __m256) {
    // SAFETY: 8 values.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) }
}

/// 16 bytes, twice.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn broadcast(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: 16 bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Four activations, eight times.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn splat(q: &[i8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes([q[0] as u8, q[1] as u8, q[2] as u8, q[3] as u8]))
}
