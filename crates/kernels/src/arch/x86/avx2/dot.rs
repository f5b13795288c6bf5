//! Products of bytes in 256-bit vectors: `vpmaddubsw`, or `vpdpbusd` in either of its two encodings.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::rows::{Ymm, accumulate, load, load_ps, scales_or_ones, splat, store_ps};
use crate::arch::x86::ahead::Ahead;
use crate::arch::x86::ternary::{Dot, Products, Width};
use crate::ternary::activations::{ActBlock, BLOCK_CODES};
use crate::ternary::block::{BIT_CHUNK_BYTES, Rows};
use crate::ternary::segment::Segment;

/// Products of ternary weights by `P`.
pub(crate) struct YmmDot<P>(PhantomData<P>);

/// `vpmaddubsw`, int16 sums of pairs: 32 x 2 x 2 x 127 < 2^15, and 16 x 2 x 8 x 127 as well.
#[derive(Clone, Copy)]
pub(crate) enum Maddubs {}
/// `vpdpbusd` of AVX-VNNI (VEX encoding).
#[derive(Clone, Copy)]
pub(crate) enum Vex {}
/// `vpdpbusd` of AVX-512 VNNI and VL (EVEX encoding).
#[derive(Clone, Copy)]
pub(crate) enum Evex {}

impl Products for Maddubs {
    type Vector = __m256i;
    const SIGNED_EXCESS: i32 = 0;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn start(_: i32) -> __m256i {
        _mm256_setzero_si256()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add(sums: __m256i, w: __m256i, q: __m256i) -> __m256i {
        _mm256_add_epi16(sums, _mm256_maddubs_epi16(w, q))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn finish(sums: __m256i, sum: i32) -> __m256i {
        _mm256_sub_epi32(_mm256_madd_epi16(sums, _mm256_set1_epi16(1)), _mm256_set1_epi32(sum))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unsigned(sums: __m256i, w: __m256i, q: __m256i) -> __m256i {
        // 2 * 63 * 127 fits int16.
        _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(w, q), _mm256_set1_epi16(1)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn signed(sums: __m256i, w: __m256i, q: __m256i) -> __m256i {
        // |w| * (q with the sign of w): 2 * 128 * 127 fits int16.
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn wide(sums: __m256i, w: __m256i, q: __m256i) -> __m256i {
        _mm256_add_epi32(sums, _mm256_madd_epi16(w, q))
    }
}

macro_rules! vnni {
    ($name:ident, $features:literal, $dpbusd:ident, $dpwssd:ident) => {
        impl Products for $name {
            type Vector = __m256i;
            const SIGNED_EXCESS: i32 = 128;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn start(sum: i32) -> __m256i {
                _mm256_set1_epi32(-sum)
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn add(sums: __m256i, w: __m256i, q: __m256i) -> __m256i {
                $dpbusd(sums, w, q)
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn finish(sums: __m256i, _: i32) -> __m256i {
                sums
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn unsigned(sums: __m256i, w: __m256i, q: __m256i) -> __m256i {
                $dpbusd(sums, w, q)
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn signed(sums: __m256i, w: __m256i, q: __m256i) -> __m256i {
                // w + 128 is unsigned.
                $dpbusd(sums, _mm256_xor_si256(w, _mm256_set1_epi8(-128)), q)
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn wide(sums: __m256i, w: __m256i, q: __m256i) -> __m256i {
                $dpwssd(sums, w, q)
            }
        }
    };
}

vnni!(Vex, "avx2,fma,f16c,avxvnni", _mm256_dpbusd_avx_epi32, _mm256_dpwssd_avx_epi32);
vnni!(Evex, "avx2,fma,f16c,avx512f,avx512vl,avx512vnni", _mm256_dpbusd_epi32, _mm256_dpwssd_epi32);

impl<P: Products<Vector = __m256i>> Dot for YmmDot<P> {
    type Width = Ymm;

    #[inline(always)]
    unsafe fn segment(codes: &[u8], ahead: Ahead, q: &[i8], sum: i32) -> <Ymm as Width>::Sums {
        let (halves, _) = codes.as_chunks::<{ BIT_CHUNK_BYTES / 2 }>();
        let (q, _) = q.as_chunks::<16>();
        // SAFETY: slices, arrays and registers; the instructions of `P` and of the vectors are the condition of the trait.
        unsafe {
            let mut out = [[_mm256_setzero_si256(); 4]; 2];
            // 32 rows at a time: more would need more registers than there are.
            for rows in 0..2 {
                // The fields hold w + 1, hence `sum`. Two of the four are multiplied where they stand, as 4 (w + 1).
                let mut ones = [P::start(sum); 4];
                let mut fours = [P::start(0); 4];
                for (half, q) in halves.iter().zip(q) {
                    if rows == 0 {
                        ahead.prefetch(half);
                    }
                    let (q, _) = q.as_chunks::<4>();
                    let (lines, _) = half.as_chunks::<32>();
                    for v in 0..4 {
                        let low = load(&lines[4 * rows + v]);
                        let high = _mm256_srli_epi16::<4>(low);
                        let (one, four) = (_mm256_set1_epi8(3), _mm256_set1_epi8(12));
                        ones[v] = P::add(ones[v], _mm256_and_si256(low, one), splat(&q[0]));
                        fours[v] = P::add(fours[v], _mm256_and_si256(low, four), splat(&q[1]));
                        ones[v] = P::add(ones[v], _mm256_and_si256(high, one), splat(&q[2]));
                        fours[v] = P::add(fours[v], _mm256_and_si256(high, four), splat(&q[3]));
                    }
                }
                for v in 0..4 {
                    let fours = _mm256_srai_epi32::<2>(P::finish(fours[v], 0));
                    out[v % 2][2 * rows + v / 2] = _mm256_add_epi32(P::finish(ones[v], sum), fours);
                }
            }
            out
        }
    }

    /// 16 rows at a time: 12 of the 16 registers hold sums when `T` is 6.
    #[inline(always)]
    unsafe fn tile<const T: usize>(segment: &Segment<'_>, acts: &[ActBlock; T], acc: &mut [Rows; T]) {
        let first = 8 * segment.first_chunk;
        let (panel, _) = segment.panel.as_chunks::<256>();
        assert!(first + panel.len() <= BLOCK_CODES);
        let mut totals = [0; T];
        for t in 0..T {
            totals[t] = acts[t].sum(segment.first_chunk, segment.chunks);
        }
        // SAFETY: slices, arrays and registers; the instructions of `P` and of the vectors are the condition of the trait.
        unsafe {
            for quarter in 0..4 {
                let mut sums = [[P::start(0); 2]; T];
                for t in 0..T {
                    sums[t] = [P::start(totals[t]); 2];
                }
                for (code, w) in panel.iter().enumerate() {
                    let (w, _) = w.as_chunks::<32>();
                    let w = [load(&w[2 * quarter]), load(&w[2 * quarter + 1])];
                    for t in 0..T {
                        let q = splat(&acts[t].q.as_chunks::<4>().0[first + code]);
                        sums[t][0] = P::add(sums[t][0], w[0], q);
                        sums[t][1] = P::add(sums[t][1], w[1], q);
                    }
                }
                let scales =
                    [scales_or_ones(segment.scales, 16 * quarter), scales_or_ones(segment.scales, 16 * quarter + 8)];
                for t in 0..T {
                    let a_scale = _mm256_set1_ps(acts[t].scale);
                    let (acc, _) = acc[t].as_chunks_mut::<8>();
                    for i in 0..2 {
                        let acc = &mut acc[2 * quarter + i];
                        let dots = P::finish(sums[t][i], totals[t]);
                        store_ps(acc, accumulate(load_ps(acc), dots, _mm256_mul_ps(a_scale, scales[i])));
                    }
                }
            }
        }
    }
}
