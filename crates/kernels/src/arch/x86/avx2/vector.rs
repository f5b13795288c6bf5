//! Eight lanes in one 256-bit register.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::arch::x86::ternary::Products;
use crate::vector::{Floats, RowLanes};

/// Eight f32.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(__m256);

/// Eight i32 that multiply bytes by `P`.
#[derive(Clone, Copy)]
pub(crate) struct I32x8<P>(__m256i, PhantomData<P>);

impl<P> From<__m256i> for I32x8<P> {
    #[inline(always)]
    fn from(lanes: __m256i) -> Self {
        Self(lanes, PhantomData)
    }
}

impl Floats for F32x8 {
    const LANES: usize = 8;
    const TILE_TOKENS: usize = 3;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn splat(value: f32) -> Self {
        Self(_mm256_set1_ps(value))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller gives 32 readable bytes.
        Self(unsafe { _mm256_loadu_ps(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller gives 16 readable bytes.
        Self(_mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) }))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller gives 16 readable bytes.
        let bits = unsafe { _mm_loadu_si128(from.cast()) };
        Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits))))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives room for eight values.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm256_add_ps(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sub(self, other: Self) -> Self {
        Self(_mm256_sub_ps(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn mul(self, other: Self) -> Self {
        Self(_mm256_mul_ps(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn div(self, other: Self) -> Self {
        Self(_mm256_div_ps(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(_mm256_fmadd_ps(self.0, factor.0, addend.0))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn max(self, other: Self) -> Self {
        Self(_mm256_max_ps(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn min(self, other: Self) -> Self {
        Self(_mm256_min_ps(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn select_less(self, bound: Self, then: Self, otherwise: Self) -> Self {
        Self(_mm256_blendv_ps(otherwise.0, then.0, _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, bound.0)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn exp2_integer(self) -> Self {
        let exponent = _mm256_add_epi32(_mm256_cvttps_epi32(self.0), _mm256_set1_epi32(127));
        Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn prefetch_near(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store_i16(self, to: *mut i16) {
        let values = _mm256_cvtps_epi32(self.0);
        let values = _mm_packs_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256::<1>(values));
        // SAFETY: the caller gives room for eight values.
        unsafe { _mm_storeu_si128(to.cast(), values) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store_u8(self, to: *mut u8) {
        let values = _mm256_cvtps_epi32(self.0);
        let values = _mm_packs_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256::<1>(values));
        // SAFETY: the caller gives room for eight values.
        unsafe { _mm_storel_epi64(to.cast(), _mm_packus_epi16(values, values)) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4] {
        let [a, b, c, d] = vectors.map(|v| v.0);
        // Per 128-bit half: the four sums of four, then the two halves.
        let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let sums = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xee>(ab, cd));
        let sums = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
        let mut out = [0.0; 4];
        // SAFETY: `out` has room for four values.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
        out
    }
}

impl<P: Products<Vector = __m256i>> RowLanes for I32x8<P> {
    type Floats = F32x8;
    type Bytes = __m256i;
    const SIGNED_EXCESS: i32 = P::SIGNED_EXCESS;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn zero() -> Self {
        _mm256_setzero_si256().into()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_bytes(from: *const u8) -> __m256i {
        // SAFETY: the caller gives 32 readable bytes.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn low_nibbles(bytes: __m256i) -> __m256i {
        _mm256_and_si256(bytes, _mm256_set1_epi8(15))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn high_nibbles(bytes: __m256i) -> __m256i {
        _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(15))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn bits(bytes: __m256i, shift: i32, mask: i8) -> __m256i {
        // What comes in from the neighbouring byte lies above the mask.
        _mm256_and_si256(_mm256_srl_epi16(bytes, _mm_cvtsi32_si128(shift)), _mm256_set1_epi8(mask))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn extend_nibbles(nibbles: __m256i, bits: __m256i, shift: i32, mask: i8) -> __m256i {
        let bits = _mm256_srl_epi16(bits, _mm_cvtsi32_si128(shift));
        let bits = _mm256_and_si256(bits, _mm256_set1_epi8(mask));
        _mm256_or_si256(nibbles, _mm256_slli_epi16::<4>(bits))
    }

    #[inline(always)]
    unsafe fn dot_unsigned(self, weights: __m256i, x: i32) -> Self {
        // SAFETY: registers only; the instructions of `P` are the condition of the trait.
        unsafe { P::unsigned(self.0, weights, _mm256_set1_epi32(x)).into() }
    }

    #[inline(always)]
    unsafe fn dots_unsigned<const N: usize, const MAX: usize>(weights: &[__m256i; N], x: *const u8) -> Self {
        // Sums that `P` keeps exact: with int16 of pairs, 128 / (MAX + 1) x 2 x MAX x 127 < 2^15.
        let exact = const { 128 / (MAX + 1) };
        // SAFETY: 4 N bytes are readable at `x`; the instructions of `P` and of the vectors are the condition of the trait.
        unsafe {
            let mut total = Self::zero();
            for (i, weights) in weights.chunks(exact).enumerate() {
                let mut sums = P::start(0);
                for (j, weights) in weights.iter().enumerate() {
                    let x = x.add(4 * (i * exact + j)).cast::<i32>().read_unaligned();
                    sums = P::add(sums, *weights, _mm256_set1_epi32(x));
                }
                total = total.add(P::finish(sums, 0).into());
            }
            total
        }
    }

    #[inline(always)]
    unsafe fn dot_signed(self, weights: __m256i, x: i32) -> Self {
        // SAFETY: registers only; the instructions of `P` are the condition of the trait.
        unsafe { P::signed(self.0, weights, _mm256_set1_epi32(x)).into() }
    }

    #[inline(always)]
    unsafe fn dot_wide(self, codes: __m256i, x: *const i16) -> Self {
        let x = x.cast::<i32>();
        // SAFETY: four int16 are readable at `x`, read as two times two; the instructions of `P` are the condition of the trait.
        unsafe {
            let (low, high) = (x.read_unaligned(), x.add(1).read_unaligned());
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(codes));
            let odd = _mm256_srai_epi16::<8>(codes);
            let sums = P::wide(self.0, even, _mm256_set1_epi32(low));
            P::wide(sums, odd, _mm256_set1_epi32(high)).into()
        }
    }

    #[inline(always)]
    unsafe fn dot_bytes(self, codes: __m256i, x: *const u8) -> Self {
        // SAFETY: four bytes are readable at `x`; the instructions of `P` are the condition of the trait. The inputs are the
        // unsigned factors here: 2 * 254 * 15 fits int16.
        unsafe { P::unsigned(self.0, _mm256_set1_epi32(x.cast::<i32>().read_unaligned()), codes).into() }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sub_splat(self, value: i32) -> Self {
        _mm256_sub_epi32(self.0, _mm256_set1_epi32(value)).into()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add(self, other: Self) -> Self {
        _mm256_add_epi32(self.0, other.0).into()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller gives eight readable bytes.
        _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(from.cast()) }).into()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller gives eight readable bytes.
        _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(from.cast()) }).into()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn to_floats(self) -> F32x8 {
        F32x8(_mm256_cvtepi32_ps(self.0))
    }
}
