//! 64 rows of a block in eight vectors of eight: what every tier with 256-bit vectors shares.
//!
//! `[half][v]` of an array of vectors holds slots `16 v + 8 half ..` (or, where it is said, rows).

use std::arch::x86_64::*;

use crate::arch::x86::ternary::Width;
use crate::ternary::block::{BIT_CHUNK_BYTES, BLOCK_ROWS, Rows, SCALE_BYTES};

/// 256-bit vectors.
pub(crate) enum Ymm {}

impl Width for Ymm {
    type Sums = [[__m256i; 4]; 2];
    type Acc = [[__m256; 4]; 2];

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn zero() -> Self::Acc {
        [[_mm256_setzero_ps(); 4]; 2]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(rows: &Rows) -> Self::Acc {
        load_rows(rows)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn accumulate(acc: &mut Self::Acc, sums: &Self::Sums, a_scale: f32, scales: Option<&[u8; SCALE_BYTES]>) {
        let a_scale = _mm256_set1_ps(a_scale);
        for half in 0..2 {
            for v in 0..4 {
                let acc = &mut acc[half][v];
                let factor = _mm256_mul_ps(a_scale, scales_or_ones(scales, 16 * v + 8 * half));
                *acc = accumulate(*acc, sums[half][v], factor);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store_slots(acc: Self::Acc, row_scales: Option<&Rows>, out: &mut Rows) {
        store_slots(acc, row_scales, out);
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store_natural(acc: Self::Acc, row_scales: Option<&Rows>, out: &mut Rows) {
        store_natural(acc, row_scales, out);
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode_bits(codes: &[u8], panel: &mut [u8]) {
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
}

/// The four 2-bit fields of each byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn fields(bytes: __m256i) -> [__m256i; 4] {
    let mask = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(bytes, mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(bytes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<6>(bytes), mask),
    ]
}

/// The group scales of the eight slots from `slot` on; 1 without, which changes no product.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scales_or_ones(scales: Option<&[u8; SCALE_BYTES]>, slot: usize) -> __m256 {
    match scales {
        Some(scales) => {
            let (vectors, _) = scales.as_chunks::<16>();
            // SAFETY: `vectors` are arrays of 16 bytes, as many as are read.
            _mm256_cvtph_ps(unsafe { _mm_loadu_si128(vectors[slot / 8].as_ptr().cast()) })
        }
        None => _mm256_set1_ps(1.0),
    }
}

/// `acc + dots as f32 * factor`, multiplication and addition apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn accumulate(acc: __m256, dots: __m256i, factor: __m256) -> __m256 {
    _mm256_add_ps(acc, _mm256_mul_ps(_mm256_cvtepi32_ps(dots), factor))
}

/// Slots to rows (see [`slot_row`](crate::ternary::block::slot_row)), times the row scales. `acc[half][v]` holds slots
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
pub(super) fn load<T: Copy>(bytes: &[T; 32]) -> __m256i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: `bytes` is an array of 32 values of one byte (asserted just above), as many as are read.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store(out: &mut [u8; 32], value: __m256i) {
    // SAFETY: `out` is an array of 32 bytes, as many as are written.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_ps(values: &[f32; 8]) -> __m256 {
    // SAFETY: `values` is an array of 8, as many as are read.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_ps(out: &mut [f32; 8], values: __m256) {
    // SAFETY: `out` is an array of 8 values, as many as are written.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) }
}

/// 16 bytes, twice.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn broadcast(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: `bytes` is an array of 16, as many as are read.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Four activations, eight times.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn splat(q: &[i8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes([q[0] as u8, q[1] as u8, q[2] as u8, q[3] as u8]))
}
