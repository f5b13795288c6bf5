//! Ternary products with AVX-512 VBMI and VNNI. See [`crate::ternary::kernels`] for what each function computes.
//!
//! The 5-bit formats run by table look-up. For each code the four activations `a` have 32 possible sums `T = w . a`,
//! |T| <= 381. Each is kept as two signed digits, `T = 31 h + l`, |l| <= 15, |h| <= 12, in two tables of 32 bytes. One
//! `vpermb` looks up a digit for 64 rows; int8 lanes can add eight codes exactly (8 x 15 < 128), then `l + 31 h` goes to
//! int16, which holds a whole segment (32 x 381 < 2^15). So 64 rows x 4 weights cost two look-ups and two additions.

use std::arch::x86_64::*;

use crate::ternary::activations::{ActBlock, Arrangement, BLOCK_CODES, quantize_block};
use crate::ternary::kernels::{Codebook, GemmKernels, Rows, Segment, TernaryKernels, TokenBlocks};
use crate::ternary::matrix::{BIT_CHUNK_BYTES, BLOCK_ROWS, CODE_CHUNK_BYTES, RowBlock, SCALE_BYTES};
use crate::x86::ahead::Ahead;

/// Low digits of the 32 codes, then high digits.
const TABLE_BYTES: usize = 64;

pub(crate) static KERNELS: TernaryKernels = TernaryKernels {
    quantize,
    table_bytes: TABLE_BYTES,
    build_tables,
    gemv_codes,
    gemv_bits,
    gemm: Some(GemmKernels {
        min_tokens_codes: 24,
        min_tokens_bits: 12,
        decode_codes,
        decode_bits,
        segment,
        finish_codes,
        finish_bits,
    }),
};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn quantize(arrangement: Arrangement, x: &[f32], out: &mut ActBlock) {
    quantize_block(arrangement, x, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
    assert_eq!(out.len(), BLOCK_CODES * TABLE_BYTES);
    let pairs_01 = load(&book.pairs_01);
    let pairs_23 = load(&book.pairs_23);
    // (w + 1) . a - sum of a = w . a
    let ones = _mm512_set1_epi8(1);
    let mut sums = [0i32; BLOCK_CODES];
    for (half, q) in acts.q.as_chunks::<64>().0.iter().enumerate() {
        let quads = _mm512_madd_epi16(_mm512_maddubs_epi16(ones, load(q)), _mm512_set1_epi16(1));
        // SAFETY: 16 i32 are written at 16 * half, half < 2, of 32.
        unsafe { _mm512_storeu_si512(sums.as_mut_ptr().add(16 * half).cast(), quads) };
    }
    for ((q, sum), table) in acts.q.as_chunks::<4>().0.iter().zip(sums).zip(out.as_chunks_mut::<TABLE_BYTES>().0) {
        let a_01 = _mm512_set1_epi16(i16::from_le_bytes([q[0] as u8, q[1] as u8]));
        let a_23 = _mm512_set1_epi16(i16::from_le_bytes([q[2] as u8, q[3] as u8]));
        let sum_01 = _mm512_maddubs_epi16(pairs_01, a_01);
        let sum_23 = _mm512_maddubs_epi16(pairs_23, a_23);
        let total = _mm512_sub_epi16(_mm512_add_epi16(sum_01, sum_23), _mm512_set1_epi16(sum as i16));
        // 1057 / 2^15 rounds to the nearest multiple of 31 for |T| <= 381: |l| <= 15.
        let high = _mm512_mulhrs_epi16(total, _mm512_set1_epi16(1057));
        let low = _mm512_sub_epi16(total, _mm512_mullo_epi16(high, _mm512_set1_epi16(31)));
        // SAFETY: two halves of the 64 bytes of `table`.
        unsafe {
            _mm256_storeu_si256(table.as_mut_ptr().cast(), _mm512_cvtepi16_epi8(low));
            _mm256_storeu_si256(table.as_mut_ptr().add(32).cast(), _mm512_cvtepi16_epi8(high));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn gemv_codes(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, tables: &[u8], out: &mut [&mut Rows]) {
    if let (Some(blocks), Some(out)) = (blocks.as_array::<2>(), out.as_mut_array::<2>()) {
        look_up_blocks(blocks, acts, tables, out);
    } else {
        for (block, out) in blocks.iter().zip(out) {
            look_up_blocks(&[*block], acts, tables, &mut [out]);
        }
    }
}

/// `N` neighbouring row blocks of one matrix: a table is loaded once for all of them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn look_up_blocks<const N: usize>(
    blocks: &[RowBlock<'_>; N],
    acts: TokenBlocks<'_>,
    tables: &[u8],
    out: &mut [&mut Rows; N],
) {
    let RowBlock { chunks: all_chunks, group_chunks, .. } = blocks[0];
    let stream_bytes = blocks[0].stream_bytes(CODE_CHUNK_BYTES);
    let mut streams = [blocks[0].stream; N];
    for n in 0..N {
        assert!(blocks[n].stream.len() == stream_bytes && blocks[n].chunks == all_chunks);
        streams[n] = blocks[n].stream;
    }
    assert!(tables.len() >= all_chunks * 8 * TABLE_BYTES);
    let (tables, _) = tables.as_chunks::<{ 8 * TABLE_BYTES }>();
    let mut acc = [[_mm512_setzero_ps(); 4]; N];
    let mut scales = [[_mm512_setzero_ps(); 4]; N];
    let mut at = 0;
    let mut chunk = 0;
    while chunk < all_chunks {
        if blocks[0].starts_group(chunk) {
            for n in 0..N {
                let ahead = Ahead::of(at, stream_bytes, N);
                // SAFETY: `stream_bytes` counts 128 bytes of scales here, so they lie in the stream.
                let head = unsafe { &*streams[n].as_ptr().add(at).cast::<[u8; SCALE_BYTES]>() };
                ahead.prefetch(head);
                scales[n] = widen_scales(head);
            }
            at += SCALE_BYTES;
        }
        let end = (chunk + blocks[0].segment_chunks()).min(all_chunks);
        let a_scale = _mm512_set1_ps(acts.of_chunk(chunk).scale);
        // int16 sums: `first` of rows 16 L + 0..8, `second` of rows 16 L + 8..16, for each 128-bit lane L.
        let mut first = [_mm512_setzero_si512(); N];
        let mut second = [_mm512_setzero_si512(); N];
        while chunk < end {
            // SAFETY: `chunk` is below `all_chunks`, and that many tables were asserted to be there.
            let (tables, _) = unsafe { tables.get_unchecked(chunk) }.as_chunks::<32>();
            let ahead = Ahead::of(at, stream_bytes, N);
            let mut low = [_mm512_setzero_si512(); N];
            let mut high = [_mm512_setzero_si512(); N];
            let mut codes = [[_mm512_setzero_si512(); 8]; N];
            for n in 0..N {
                // SAFETY: `stream_bytes` counts this chunk, so its 320 bytes lie in the stream.
                let bytes = unsafe { &*streams[n].as_ptr().add(at).cast::<[u8; CODE_CHUNK_BYTES]>() };
                ahead.prefetch(bytes);
                let (lines, _) = bytes.as_chunks::<64>();
                let nibbles = [load(&lines[1]), load(&lines[2]), load(&lines[3]), load(&lines[4])];
                codes[n] = indexes(load(&lines[0]), nibbles);
            }
            for code in 0..8 {
                let (low_table, high_table) = (broadcast(&tables[2 * code]), broadcast(&tables[2 * code + 1]));
                for n in 0..N {
                    low[n] = _mm512_add_epi8(low[n], _mm512_permutexvar_epi8(codes[n][code], low_table));
                    high[n] = _mm512_add_epi8(high[n], _mm512_permutexvar_epi8(codes[n][code], high_table));
                }
            }
            // Pairs (l, h) times (1, 31).
            let weights = _mm512_set1_epi16(31 << 8 | 1);
            for n in 0..N {
                let (even, odd) = (_mm512_unpacklo_epi8(low[n], high[n]), _mm512_unpackhi_epi8(low[n], high[n]));
                first[n] = _mm512_add_epi16(first[n], _mm512_maddubs_epi16(weights, even));
                second[n] = _mm512_add_epi16(second[n], _mm512_maddubs_epi16(weights, odd));
            }
            at += CODE_CHUNK_BYTES;
            chunk += 1;
        }
        let even = _mm512_set1_epi32(1);
        for n in 0..N {
            let sums = [
                _mm512_madd_epi16(first[n], even),
                _mm512_srai_epi32::<16>(first[n]),
                _mm512_madd_epi16(second[n], even),
                _mm512_srai_epi32::<16>(second[n]),
            ];
            accumulate(&mut acc[n], sums, a_scale, (group_chunks != 0).then_some(&scales[n]));
        }
    }
    for (n, out) in out.iter_mut().enumerate() {
        store_slots(acc[n], blocks[n].row_scales, out);
    }
}

/// The eight codes of 64 rows from the sign line and the nibble lines: bits 0..5 of each byte; the others are junk, which
/// `vpermb` ignores when bit 5 of an index makes no difference.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn indexes(signs: __m512i, nibbles: [__m512i; 4]) -> [__m512i; 8] {
    // Nibble from the one, sign at bit 4 from the other.
    let join = |nibble, sign| _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(15), nibble, sign);
    let odd = |line| _mm512_srli_epi16::<4>(line);
    [
        join(nibbles[0], _mm512_slli_epi16::<4>(signs)),
        join(odd(nibbles[0]), _mm512_slli_epi16::<3>(signs)),
        join(nibbles[1], _mm512_slli_epi16::<2>(signs)),
        join(odd(nibbles[1]), _mm512_slli_epi16::<1>(signs)),
        join(nibbles[2], signs),
        join(odd(nibbles[2]), _mm512_srli_epi16::<1>(signs)),
        join(nibbles[3], _mm512_srli_epi16::<2>(signs)),
        join(odd(nibbles[3]), _mm512_srli_epi16::<3>(signs)),
    ]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn multiply_blocks<const N: usize>(blocks: &[RowBlock<'_>; N], acts: TokenBlocks<'_>, out: &mut [&mut Rows; N]) {
    let RowBlock { chunks: all_chunks, group_chunks, .. } = blocks[0];
    let stream_bytes = blocks[0].stream_bytes(BIT_CHUNK_BYTES);
    for block in blocks {
        assert!(block.stream.len() == stream_bytes && block.chunks == all_chunks);
    }
    let mut acc = [[_mm512_setzero_ps(); 4]; N];
    let mut scales = [[_mm512_setzero_ps(); 4]; N];
    let mut at = 0;
    let mut chunk = 0;
    while chunk < all_chunks {
        if blocks[0].starts_group(chunk) {
            for n in 0..N {
                if let Some(head) = blocks[n].stream[at..].first_chunk::<SCALE_BYTES>() {
                    Ahead::of(at, stream_bytes, N).prefetch(head);
                    scales[n] = widen_scales(head);
                }
            }
            at += SCALE_BYTES;
        }
        let chunks = blocks[0].segment_chunks().min(all_chunks - chunk);
        let block_acts = acts.of_chunk(chunk);
        let first = chunk % 4;
        // The fields hold w + 1: take the sum of the activations off beforehand.
        let sum: i32 = block_acts.sums[first..first + chunks].iter().sum();
        let a_scale = _mm512_set1_ps(block_acts.scale);
        for n in 0..N {
            let mut sums = [_mm512_set1_epi32(-sum); 4];
            let codes = &blocks[n].stream[at..at + chunks * BIT_CHUNK_BYTES];
            let (halves, _) = codes.as_chunks::<{ BIT_CHUNK_BYTES / 2 }>();
            let (q, _) = block_acts.q[32 * first..].as_chunks::<16>();
            for (i, (half, q)) in halves.iter().zip(q).enumerate() {
                Ahead::of(at + i * BIT_CHUNK_BYTES / 2, stream_bytes, N).prefetch(half);
                let (q, _) = q.as_chunks::<4>();
                let q = [splat(&q[0]), splat(&q[1]), splat(&q[2]), splat(&q[3])];
                let (lines, _) = half.as_chunks::<64>();
                for v in 0..4 {
                    let fields = fields(load(&lines[v]));
                    for j in 0..4 {
                        sums[v] = _mm512_dpbusd_epi32(sums[v], fields[j], q[j]);
                    }
                }
            }
            accumulate(&mut acc[n], sums, a_scale, (group_chunks != 0).then_some(&scales[n]));
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn fields(bytes: __m512i) -> [__m512i; 4] {
    let mask = _mm512_set1_epi8(3);
    [
        _mm512_and_si512(bytes, mask),
        _mm512_and_si512(_mm512_srli_epi16::<2>(bytes), mask),
        _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask),
        _mm512_and_si512(_mm512_srli_epi16::<6>(bytes), mask),
    ]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn decode_codes(book: &Codebook, codes: &[u8], panel: &mut [u8]) {
    let (lines, _) = codes.as_chunks::<64>();
    // Puts rows where the unpacking below leaves them in slot order: byte 4 v + k of each lane is row
    // 8 (v / 2) + 2 k + v % 2.
    let order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    let line = |i: usize| _mm512_shuffle_epi8(load(&lines[i]), order);
    let [lane_0, lane_1, lane_2, lane_3] = &book.lanes;
    let lanes = [broadcast(lane_0), broadcast(lane_1), broadcast(lane_2), broadcast(lane_3)];
    let (panel, _) = panel.as_chunks_mut::<256>();
    assert_eq!(panel.len(), 8);
    for (index, out) in indexes(line(0), [line(1), line(2), line(3), line(4)]).into_iter().zip(panel) {
        let w = [
            _mm512_permutexvar_epi8(index, lanes[0]),
            _mm512_permutexvar_epi8(index, lanes[1]),
            _mm512_permutexvar_epi8(index, lanes[2]),
            _mm512_permutexvar_epi8(index, lanes[3]),
        ];
        let (low_01, high_01) = (_mm512_unpacklo_epi8(w[0], w[1]), _mm512_unpackhi_epi8(w[0], w[1]));
        let (low_23, high_23) = (_mm512_unpacklo_epi8(w[2], w[3]), _mm512_unpackhi_epi8(w[2], w[3]));
        let (out, _) = out.as_chunks_mut::<64>();
        store(&mut out[0], _mm512_unpacklo_epi16(low_01, low_23));
        store(&mut out[1], _mm512_unpackhi_epi16(low_01, low_23));
        store(&mut out[2], _mm512_unpacklo_epi16(high_01, high_23));
        store(&mut out[3], _mm512_unpackhi_epi16(high_01, high_23));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn decode_bits(codes: &[u8], panel: &mut [u8]) {
    let (halves, _) = codes.as_chunks::<{ BIT_CHUNK_BYTES / 2 }>();
    let (panels, _) = panel.as_chunks_mut::<{ 4 * 256 }>();
    for (half, panel) in halves.iter().zip(panels) {
        let (lines, _) = half.as_chunks::<64>();
        let (out, _) = panel.as_chunks_mut::<64>();
        for v in 0..4 {
            for (j, field) in fields(load(&lines[v])).into_iter().enumerate() {
                store(&mut out[4 * j + v], field);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn segment(segment: Segment<'_>, acts: &[ActBlock], acc: &mut [Rows]) {
    assert_eq!(acts.len(), acc.len());
    let widened;
    let scales = match segment.scales {
        Some(scales) => {
            widened = widen_scales(scales);
            Some(&widened)
        }
        None => None,
    };
    let mut tiles = acts.chunks_exact(6);
    let mut acc_tiles = acc.chunks_exact_mut(6);
    for (acts, acc) in (&mut tiles).zip(&mut acc_tiles) {
        tile::<6>(&segment, scales, acts, acc);
    }
    let (acts, acc) = (tiles.remainder(), acc_tiles.into_remainder());
    match acts.len() {
        1 => tile::<1>(&segment, scales, acts, acc),
        2 => tile::<2>(&segment, scales, acts, acc),
        3 => tile::<3>(&segment, scales, acts, acc),
        4 => tile::<4>(&segment, scales, acts, acc),
        5 => tile::<5>(&segment, scales, acts, acc),
        _ => {}
    }
}

/// `N` tokens x 64 rows: 24 of the 32 registers hold sums when `N` is 6.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn tile<const N: usize>(segment: &Segment<'_>, scales: Option<&[__m512; 4]>, acts: &[ActBlock], acc: &mut [Rows]) {
    let (Some(acts), Some(acc)) = (acts.as_array::<N>(), acc.as_mut_array::<N>()) else { return };
    let chunks = segment.first_chunk..segment.first_chunk + segment.chunks;
    let mut sums = [[_mm512_setzero_si512(); 4]; N];
    for (sums, acts) in sums.iter_mut().zip(acts) {
        *sums = [_mm512_set1_epi32(-acts.sums[chunks.clone()].iter().sum::<i32>()); 4];
    }
    let first = 8 * segment.first_chunk;
    let (panel, _) = segment.panel.as_chunks::<256>();
    assert!(first + panel.len() <= BLOCK_CODES);
    for (code, w) in panel.iter().enumerate() {
        let (w, _) = w.as_chunks::<64>();
        let w = [load(&w[0]), load(&w[1]), load(&w[2]), load(&w[3])];
        for (sums, acts) in sums.iter_mut().zip(acts) {
            let q = splat(&acts.q.as_chunks::<4>().0[first + code]);
            for v in 0..4 {
                sums[v] = _mm512_dpbusd_epi32(sums[v], w[v], q);
            }
        }
    }
    for ((sums, acts), acc) in sums.into_iter().zip(acts).zip(acc) {
        let mut values = load_rows(acc);
        accumulate(&mut values, sums, _mm512_set1_ps(acts.scale), scales);
        store_natural(values, None, acc);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn finish_codes(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows) {
    store_slots(load_rows(acc), row_scales, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn finish_bits(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows) {
    store_natural(load_rows(acc), row_scales, out);
}

/// `acc += sums as f32 * (a_scale * w_scale)`, multiplication and addition apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn accumulate(acc: &mut [__m512; 4], sums: [__m512i; 4], a_scale: __m512, w_scales: Option<&[__m512; 4]>) {
    for v in 0..4 {
        let factor = match w_scales {
            Some(w_scales) => _mm512_mul_ps(a_scale, w_scales[v]),
            None => a_scale,
        };
        acc[v] = _mm512_add_ps(acc[v], _mm512_mul_ps(_mm512_cvtepi32_ps(sums[v]), factor));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn widen_scales(scales: &[u8; SCALE_BYTES]) -> [__m512; 4] {
    let (quarters, _) = scales.as_chunks::<32>();
    // SAFETY: 32 bytes.
    let widen = |bytes: &[u8; 32]| _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) });
    [widen(&quarters[0]), widen(&quarters[1]), widen(&quarters[2]), widen(&quarters[3])]
}

/// Slots to rows (see [`slot_row`](crate::ternary::matrix::slot_row)), times the row scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn store_slots(acc: [__m512; 4], row_scales: Option<&Rows>, out: &mut Rows) {
    // Lane L of a, b, c, d: rows 16 L + 0..4, 4..8, 8..12, 12..16.
    let (a, b) = (_mm512_unpacklo_ps(acc[0], acc[1]), _mm512_unpackhi_ps(acc[0], acc[1]));
    let (c, d) = (_mm512_unpacklo_ps(acc[2], acc[3]), _mm512_unpackhi_ps(acc[2], acc[3]));
    // A 4 x 4 transposition of 128-bit lanes.
    let (ab_01, ab_23) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
    let (cd_01, cd_23) = (_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
    let rows = [
        _mm512_shuffle_f32x4::<0x88>(ab_01, cd_01),
        _mm512_shuffle_f32x4::<0xdd>(ab_01, cd_01),
        _mm512_shuffle_f32x4::<0x88>(ab_23, cd_23),
        _mm512_shuffle_f32x4::<0xdd>(ab_23, cd_23),
    ];
    store_natural(rows, row_scales, out);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn store_natural(rows: [__m512; 4], row_scales: Option<&Rows>, out: &mut Rows) {
    let scaled = match row_scales {
        Some(scales) => {
            let scales = load_rows(scales);
            [
                _mm512_mul_ps(rows[0], scales[0]),
                _mm512_mul_ps(rows[1], scales[1]),
                _mm512_mul_ps(rows[2], scales[2]),
                _mm512_mul_ps(rows[3], scales[3]),
            ]
        }
        None => rows,
    };
    for (out, values) in out.as_chunks_mut::<16>().0.iter_mut().zip(scaled) {
        // SAFETY: 16 values.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn load_rows(rows: &Rows) -> [__m512; 4] {
    let (quarters, _) = rows.as_chunks::<{ BLOCK_ROWS / 4 }>();
    // SAFETY: 16 values.
    let load = |values: &[f32; 16]| unsafe { _mm512_loadu_ps(values.as_ptr()) };
    [load(&quarters[0]), load(&quarters[1]), load(&quarters[2]), load(&quarters[3])]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn load<T: Copy>(bytes: &[T; 64]) -> __m512i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn store(out: &mut [u8; 64], value: __m512i) {
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), value) }
}

/// 32 bytes, twice.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn broadcast(bytes: &[u8; 32]) -> __m512i {
    // SAFETY: 32 bytes.
    _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}

/// Four activations, sixteen times.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn splat(q: &[i8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes([q[0] as u8, q[1] as u8, q[2] as u8, q[3] as u8]))
}
