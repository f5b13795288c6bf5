//! 64 rows of a block in four vectors of sixteen: what every tier with 512-bit vectors shares.

use std::arch::x86_64::*;

use crate::arch::x86::ternary::Width;
use crate::ternary::block::{BIT_CHUNK_BYTES, BLOCK_ROWS, Rows, SCALE_BYTES};

/// 512-bit vectors.
pub(crate) enum Zmm {}

impl Width for Zmm {
    type Sums = [__m512i; 4];
    type Acc = [__m512; 4];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn zero() -> Self::Acc {
        [_mm512_setzero_ps(); 4]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn load(rows: &Rows) -> Self::Acc {
        load_rows(rows)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn accumulate(acc: &mut Self::Acc, sums: &Self::Sums, a_scale: f32, scales: Option<&[u8; SCALE_BYTES]>) {
        accumulate(acc, sums, &factors(_mm512_set1_ps(a_scale), &scales_or_ones(scales)));
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn store_slots(acc: Self::Acc, row_scales: Option<&Rows>, out: &mut Rows) {
        store_slots(acc, row_scales, out);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn store_natural(acc: Self::Acc, row_scales: Option<&Rows>, out: &mut Rows) {
        store_natural(acc, row_scales, out);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn decode_bits(codes: &[u8], panel: &mut [u8]) {
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
}

/// The four 2-bit fields of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn fields(bytes: __m512i) -> [__m512i; 4] {
    let mask = _mm512_set1_epi8(3);
    [
        _mm512_and_si512(bytes, mask),
        _mm512_and_si512(_mm512_srli_epi16::<2>(bytes), mask),
        _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask),
        _mm512_and_si512(_mm512_srli_epi16::<6>(bytes), mask),
    ]
}

/// `acc += sums as f32 * factor`, multiplication and addition apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn accumulate(acc: &mut [__m512; 4], sums: &[__m512i; 4], factors: &[__m512; 4]) {
    for v in 0..4 {
        acc[v] = _mm512_add_ps(acc[v], _mm512_mul_ps(_mm512_cvtepi32_ps(sums[v]), factors[v]));
    }
}

/// `a_scale * w_scale` of 64 slots.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn factors(a_scale: __m512, w_scales: &[__m512; 4]) -> [__m512; 4] {
    let [a, b, c, d] = *w_scales;
    [_mm512_mul_ps(a_scale, a), _mm512_mul_ps(a_scale, b), _mm512_mul_ps(a_scale, c), _mm512_mul_ps(a_scale, d)]
}

/// The group scales of 64 slots; 1 without, which changes no product.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn scales_or_ones(scales: Option<&[u8; SCALE_BYTES]>) -> [__m512; 4] {
    let mut out = [_mm512_set1_ps(1.0); 4];
    if let Some(scales) = scales {
        for (out, halves) in out.iter_mut().zip(scales.as_chunks::<32>().0) {
            // SAFETY: `halves` is an array of 32 bytes, as many as are read.
            *out = _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) });
        }
    }
    out
}

/// Slots to rows (see [`slot_row`](crate::ternary::block::slot_row)), times the row scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn store_natural(rows: [__m512; 4], row_scales: Option<&Rows>, out: &mut Rows) {
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
        // SAFETY: `out` is an array of 16 values, as many as are written.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn load_rows(rows: &Rows) -> [__m512; 4] {
    let (quarters, _) = rows.as_chunks::<{ BLOCK_ROWS / 4 }>();
    // SAFETY: `values` is an array of 16, as many as are read.
    let load = |values: &[f32; 16]| unsafe { _mm512_loadu_ps(values.as_ptr()) };
    [load(&quarters[0]), load(&quarters[1]), load(&quarters[2]), load(&quarters[3])]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn load<T: Copy>(bytes: &[T; 64]) -> __m512i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: `bytes` is an array of 64 values of one byte (asserted just above), as many as are read.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn store(out: &mut [u8; 64], value: __m512i) {
    // SAFETY: `out` is an array of 64 bytes, as many as are written.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), value) }
}

/// 32 bytes, twice.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn broadcast(bytes: &[u8; 32]) -> __m512i {
    // SAFETY: `bytes` is an array of 32, as many as are read.
    _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}

/// Four activations, sixteen times.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn splat(q: &[i8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes([q[0] as u8, q[1] as u8, q[2] as u8, q[3] as u8]))
}
