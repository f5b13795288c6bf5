//! Products of bytes in 512-bit vectors: `vpmaddubsw`, or `vpdpbusd`.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::rows::{Zmm, accumulate, factors, load, load_rows, scales_or_ones, splat, store_natural};
use crate::arch::x86::ahead::Ahead;
use crate::arch::x86::ternary::{Dot, Products, Width};
use crate::ternary::activations::{ActBlock, BLOCK_CODES};
use crate::ternary::block::{BIT_CHUNK_BYTES, Rows};
use crate::ternary::segment::Segment;

/// Products of ternary weights by `P`.
pub(crate) struct ZmmDot<P>(PhantomData<P>);

/// `vpmaddubsw`, int16 sums of pairs: 32 x 2 x 2 x 127 < 2^15, and 16 x 2 x 8 x 127 as well.
#[derive(Clone, Copy)]
pub(crate) enum Maddubs {}
/// `vpdpbusd` of AVX-512 VNNI.
#[derive(Clone, Copy)]
pub(crate) enum Vnni {}

impl Products for Maddubs {
    type Vector = __m512i;
    const SIGNED_EXCESS: i32 = 0;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn start(_: i32) -> __m512i {
        _mm512_setzero_si512()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn add(sums: __m512i, w: __m512i, q: __m512i) -> __m512i {
        _mm512_add_epi16(sums, _mm512_maddubs_epi16(w, q))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn finish(sums: __m512i, sum: i32) -> __m512i {
        _mm512_sub_epi32(_mm512_madd_epi16(sums, _mm512_set1_epi16(1)), _mm512_set1_epi32(sum))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn unsigned(sums: __m512i, w: __m512i, q: __m512i) -> __m512i {
        // 2 * 63 * 127 fits int16.
        _mm512_add_epi32(sums, _mm512_madd_epi16(_mm512_maddubs_epi16(w, q), _mm512_set1_epi16(1)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn signed(sums: __m512i, w: __m512i, q: __m512i) -> __m512i {
        // |w| * (q with the sign of w): 2 * 128 * 127 fits int16.
        let q = _mm512_mask_sub_epi8(q, _mm512_movepi8_mask(w), _mm512_setzero_si512(), q);
        let pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w), q);
        _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn wide(sums: __m512i, w: __m512i, q: __m512i) -> __m512i {
        _mm512_add_epi32(sums, _mm512_madd_epi16(w, q))
    }
}

impl Products for Vnni {
    type Vector = __m512i;
    const SIGNED_EXCESS: i32 = 128;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn start(sum: i32) -> __m512i {
        _mm512_set1_epi32(-sum)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn add(sums: __m512i, w: __m512i, q: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sums, w, q)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn finish(sums: __m512i, _: i32) -> __m512i {
        sums
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn unsigned(sums: __m512i, w: __m512i, q: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sums, w, q)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn signed(sums: __m512i, w: __m512i, q: __m512i) -> __m512i {
        // w + 128 is unsigned.
        _mm512_dpbusd_epi32(sums, _mm512_xor_si512(w, _mm512_set1_epi8(-128)), q)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn wide(sums: __m512i, w: __m512i, q: __m512i) -> __m512i {
        _mm512_dpwssd_epi32(sums, w, q)
    }
}

impl<P: Products<Vector = __m512i>> Dot for ZmmDot<P> {
    type Width = Zmm;

    #[inline(always)]
    unsafe fn segment(codes: &[u8], ahead: Ahead, q: &[i8], sum: i32) -> <Zmm as Width>::Sums {
        let (halves, _) = codes.as_chunks::<{ BIT_CHUNK_BYTES / 2 }>();
        let (q, _) = q.as_chunks::<16>();
        // SAFETY: slices, arrays and registers; the instructions of `P` and of the vectors are the condition of the trait.
        unsafe {
            // The fields hold w + 1, hence `sum`. Two of the four are multiplied where they stand, as 4 (w + 1).
            let mut ones = [P::start(sum); 4];
            let mut fours = [P::start(0); 4];
            for (half, q) in halves.iter().zip(q) {
                ahead.prefetch(half);
                let (q, _) = q.as_chunks::<4>();
                let (lines, _) = half.as_chunks::<64>();
                for v in 0..4 {
                    let low = load(&lines[v]);
                    let high = _mm512_srli_epi16::<4>(low);
                    let (one, four) = (_mm512_set1_epi8(3), _mm512_set1_epi8(12));
                    ones[v] = P::add(ones[v], _mm512_and_si512(low, one), splat(&q[0]));
                    fours[v] = P::add(fours[v], _mm512_and_si512(low, four), splat(&q[1]));
                    ones[v] = P::add(ones[v], _mm512_and_si512(high, one), splat(&q[2]));
                    fours[v] = P::add(fours[v], _mm512_and_si512(high, four), splat(&q[3]));
                }
            }
            for v in 0..4 {
                let fours = _mm512_srai_epi32::<2>(P::finish(fours[v], 0));
                ones[v] = _mm512_add_epi32(P::finish(ones[v], sum), fours);
            }
            ones
        }
    }

    /// 64 rows: 24 of the 32 registers hold sums when `T` is 6.
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
            let mut sums = [[P::start(0); 4]; T];
            for t in 0..T {
                sums[t] = [P::start(totals[t]); 4];
            }
            for (code, w) in panel.iter().enumerate() {
                let (w, _) = w.as_chunks::<64>();
                let w = [load(&w[0]), load(&w[1]), load(&w[2]), load(&w[3])];
                for t in 0..T {
                    let q = splat(&acts[t].q.as_chunks::<4>().0[first + code]);
                    for v in 0..4 {
                        sums[t][v] = P::add(sums[t][v], w[v], q);
                    }
                }
            }
            let scales = scales_or_ones(segment.scales);
            for t in 0..T {
                for v in 0..4 {
                    sums[t][v] = P::finish(sums[t][v], totals[t]);
                }
                let mut values = load_rows(&acc[t]);
                accumulate(&mut values, &sums[t], &factors(_mm512_set1_ps(acts[t].scale), &scales));
                store_natural(values, None, &mut acc[t]);
            }
        }
    }
}
