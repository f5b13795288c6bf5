//! Sixteen lanes in one 512-bit register.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::arch::x86::ternary::Products;
use crate::vector::{Floats, RowLanes};

/// Sixteen f32.
#[derive(Clone, Copy)]
pub(crate) struct F32x16(__m512);

/// Sixteen i32 that multiply bytes by `P`.
#[derive(Clone, Copy)]
pub(crate) struct I32x16<P>(__m512i, PhantomData<P>);

impl<P> From<__m512i> for I32x16<P> {
    #[inline(always)]
    fn from(lanes: __m512i) -> Self {
        Self(lanes, PhantomData)
    }
}

/// The first `n` of sixteen lanes.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

impl Floats for F32x16 {
    const LANES: usize = 16;
    const TILE_TOKENS: usize = 6;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn splat(value: f32) -> Self {
        Self(_mm512_set1_ps(value))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller gives 64 readable bytes.
        Self(unsafe { _mm512_loadu_ps(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller gives 32 readable bytes.
        Self(_mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) }))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller gives 32 readable bytes.
        let bits = unsafe { _mm256_loadu_si256(from.cast()) };
        Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits))))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives room for sixteen values.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm512_add_ps(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn sub(self, other: Self) -> Self {
        Self(_mm512_sub_ps(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn mul(self, other: Self) -> Self {
        Self(_mm512_mul_ps(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn div(self, other: Self) -> Self {
        Self(_mm512_div_ps(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(_mm512_fmadd_ps(self.0, factor.0, addend.0))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn max(self, other: Self) -> Self {
        Self(_mm512_max_ps(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn min(self, other: Self) -> Self {
        Self(_mm512_min_ps(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn select_less(self, bound: Self, then: Self, otherwise: Self) -> Self {
        Self(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, bound.0), otherwise.0, then.0))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn exp2_integer(self) -> Self {
        let exponent = _mm512_add_epi32(_mm512_cvttps_epi32(self.0), _mm512_set1_epi32(127));
        Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn times_exp2(self, n: Self) -> Self {
        Self(_mm512_scalef_ps(self.0, n.0))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn prefetch_near(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn largest(self) -> f32 {
        _mm512_reduce_max_ps(self.0)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn store_i16(self, to: *mut i16) {
        let values = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(self.0));
        // SAFETY: the caller gives room for sixteen values.
        unsafe { _mm256_storeu_si256(to.cast(), values) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn store_u8(self, to: *mut u8) {
        let values = _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(self.0));
        // SAFETY: the caller gives room for sixteen values.
        unsafe { _mm_storeu_si128(to.cast(), values) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4] {
        let [a, b, c, d] = vectors.map(|v| v.0);
        // Per 128-bit quarter: the four sums of four, then the quarters.
        let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let sums = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0xee>(ab, cd));
        let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(sums)));
        let sums = _mm256_add_ps(_mm512_castps512_ps256(sums), high);
        let sums = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
        let mut out = [0.0; 4];
        // SAFETY: `out` has room for four values.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
        out
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn load_part(from: *const u8, n: usize) -> Self {
        // SAFETY: the caller gives `n` readable values; the mask hides the others.
        Self(unsafe { _mm512_maskz_loadu_ps(mask(n), from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        // SAFETY: the caller gives room for `n` values; the mask hides the others.
        unsafe { _mm512_mask_storeu_ps(to, mask(n), self.0) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn load_f16_part(from: *const u8, n: usize) -> Self {
        // SAFETY: the caller gives `n` readable values; the mask hides the others.
        Self(_mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask(n), from.cast()) }))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn load_bf16_part(from: *const u8, n: usize) -> Self {
        // SAFETY: the caller gives `n` readable values; the mask hides the others.
        let bits = unsafe { _mm256_maskz_loadu_epi16(mask(n), from.cast()) };
        Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits))))
    }
}

impl<P: Products<Vector = __m512i>> RowLanes for I32x16<P> {
    type Floats = F32x16;
    type Bytes = __m512i;
    const SIGNED_EXCESS: i32 = P::SIGNED_EXCESS;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn zero() -> Self {
        _mm512_setzero_si512().into()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        // SAFETY: the caller gives 64 readable bytes.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn low_nibbles(bytes: __m512i) -> __m512i {
        _mm512_and_si512(bytes, _mm512_set1_epi8(15))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn high_nibbles(bytes: __m512i) -> __m512i {
        _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(15))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn bits(bytes: __m512i, shift: i32, mask: i8) -> __m512i {
        // What comes in from the neighbouring byte lies above the mask.
        _mm512_and_si512(_mm512_srl_epi16(bytes, _mm_cvtsi32_si128(shift)), _mm512_set1_epi8(mask))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn extend_nibbles(nibbles: __m512i, bits: __m512i, shift: i32, mask: i8) -> __m512i {
        let bits = _mm512_srl_epi16(bits, _mm_cvtsi32_si128(shift));
        let bits = _mm512_and_si512(bits, _mm512_set1_epi8(mask));
        _mm512_or_si512(nibbles, _mm512_slli_epi16::<4>(bits))
    }

    #[inline(always)]
    unsafe fn dot_unsigned(self, weights: __m512i, x: i32) -> Self {
        // SAFETY: registers only; the instructions of `P` are the condition of the trait.
        unsafe { P::unsigned(self.0, weights, _mm512_set1_epi32(x)).into() }
    }

    #[inline(always)]
    unsafe fn dots_unsigned<const N: usize, const MAX: usize>(weights: &[__m512i; N], x: *const u8) -> Self {
        // Sums that `P` keeps exact: with int16 of pairs, 128 / (MAX + 1) x 2 x MAX x 127 < 2^15.
        let exact = const { 128 / (MAX + 1) };
        // SAFETY: 4 N bytes are readable at `x`; the instructions of `P` and of the vectors are the condition of the trait.
        unsafe {
            let mut total = Self::zero();
            for (i, weights) in weights.chunks(exact).enumerate() {
                let mut sums = P::start(0);
                for (j, weights) in weights.iter().enumerate() {
                    let x = x.add(4 * (i * exact + j)).cast::<i32>().read_unaligned();
                    sums = P::add(sums, *weights, _mm512_set1_epi32(x));
                }
                total = total.add(P::finish(sums, 0).into());
            }
            total
        }
    }

    #[inline(always)]
    unsafe fn dot_signed(self, weights: __m512i, x: i32) -> Self {
        // SAFETY: registers only; the instructions of `P` are the condition of the trait.
        unsafe { P::signed(self.0, weights, _mm512_set1_epi32(x)).into() }
    }

    #[inline(always)]
    unsafe fn dot_wide(self, codes: __m512i, x: *const i16) -> Self {
        let x = x.cast::<i32>();
        // SAFETY: four int16 are readable at `x`, read as two times two; the instructions of `P` are the condition of the trait.
        unsafe {
            let (low, high) = (x.read_unaligned(), x.add(1).read_unaligned());
            let even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(codes));
            let odd = _mm512_srai_epi16::<8>(codes);
            let sums = P::wide(self.0, even, _mm512_set1_epi32(low));
            P::wide(sums, odd, _mm512_set1_epi32(high)).into()
        }
    }

    #[inline(always)]
    unsafe fn dot_bytes(self, codes: __m512i, x: *const u8) -> Self {
        // SAFETY: four bytes are readable at `x`; the instructions of `P` are the condition of the trait. The inputs are the
        // unsigned factors here: 2 * 254 * 15 fits int16.
        unsafe { P::unsigned(self.0, _mm512_set1_epi32(x.cast::<i32>().read_unaligned()), codes).into() }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn sub_splat(self, value: i32) -> Self {
        _mm512_sub_epi32(self.0, _mm512_set1_epi32(value)).into()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn add(self, other: Self) -> Self {
        _mm512_add_epi32(self.0, other.0).into()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller gives sixteen readable bytes.
        _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(from.cast()) }).into()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller gives sixteen readable bytes.
        _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(from.cast()) }).into()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn to_floats(self) -> F32x16 {
        F32x16(_mm512_cvtepi32_ps(self.0))
    }
}
