//! Eight lanes in two 128-bit registers.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::vector::{Floats, RowLanes};

/// Eight f32.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(float32x4_t, float32x4_t);

impl F32x8 {
    #[inline]
    #[target_feature(enable = "neon")]
    pub(crate) fn of_ints(low: int32x4_t, high: int32x4_t) -> Self {
        Self(vcvtq_f32_s32(low), vcvtq_f32_s32(high))
    }
}

impl Floats for F32x8 {
    const LANES: usize = 8;
    const TILE_TOKENS: usize = 3;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn splat(value: f32) -> Self {
        let value = vdupq_n_f32(value);
        Self(value, value)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller gives 32 readable bytes. Loads of bytes need no alignment.
        let (low, high) = unsafe { (vld1q_u8(from), vld1q_u8(from.add(16))) };
        Self(vreinterpretq_f32_u8(low), vreinterpretq_f32_u8(high))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller gives 16 readable bytes.
        let halves = vreinterpretq_u16_u8(unsafe { vld1q_u8(from) });
        Self(
            vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(halves))),
            vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(halves))),
        )
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller gives 16 readable bytes.
        let halves = vreinterpretq_u16_u8(unsafe { vld1q_u8(from) });
        Self(
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vget_low_u16(halves)))),
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_high_u16(halves))),
        )
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives room for eight values.
        unsafe {
            vst1q_f32(to, self.0);
            vst1q_f32(to.add(4), self.1);
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(self, other: Self) -> Self {
        Self(vaddq_f32(self.0, other.0), vaddq_f32(self.1, other.1))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sub(self, other: Self) -> Self {
        Self(vsubq_f32(self.0, other.0), vsubq_f32(self.1, other.1))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul(self, other: Self) -> Self {
        Self(vmulq_f32(self.0, other.0), vmulq_f32(self.1, other.1))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn div(self, other: Self) -> Self {
        Self(vdivq_f32(self.0, other.0), vdivq_f32(self.1, other.1))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(vfmaq_f32(addend.0, self.0, factor.0), vfmaq_f32(addend.1, self.1, factor.1))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn max(self, other: Self) -> Self {
        // `vmaxq_f32` would return a NaN of either side.
        Self(
            vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0),
            vbslq_f32(vcgtq_f32(self.1, other.1), self.1, other.1),
        )
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn min(self, other: Self) -> Self {
        Self(
            vbslq_f32(vcltq_f32(self.0, other.0), self.0, other.0),
            vbslq_f32(vcltq_f32(self.1, other.1), self.1, other.1),
        )
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn select_less(self, bound: Self, then: Self, otherwise: Self) -> Self {
        Self(
            vbslq_f32(vcltq_f32(self.0, bound.0), then.0, otherwise.0),
            vbslq_f32(vcltq_f32(self.1, bound.1), then.1, otherwise.1),
        )
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn exp2_integer(self) -> Self {
        let bias = vdupq_n_s32(127);
        let power = |n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), bias)));
        Self(power(self.0), power(self.1))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: prefetching never faults, whatever the address. (The intrinsic is not stable.)
        unsafe { asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly)) };
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4] {
        // The order of the scalar code: lanes 4 apart, then 2 apart, then neighbours.
        let [a, b, c, d] = vectors.map(|v| vreinterpretq_f64_f32(vaddq_f32(v.0, v.1)));
        let fold = |a, b| vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(a, b)), vreinterpretq_f32_f64(vzip2q_f64(a, b)));
        let sums = vpaddq_f32(fold(a, b), fold(c, d));
        let mut out = [0.0; 4];
        // SAFETY: `out` has room for four values.
        unsafe { vst1q_f32(out.as_mut_ptr(), sums) };
        out
    }
}

/// Defines eight i32 with `$dot(sums, weights, x)`, which adds to four sums the products of four times four int8.
macro_rules! row_lanes {
    ($features:literal, $dot:path) => {
        /// Eight i32.
        #[derive(Clone, Copy)]
        pub(crate) struct I32x8(int32x4_t, int32x4_t);

        impl I32x8 {
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn new(low: int32x4_t, high: int32x4_t) -> Self {
                Self(low, high)
            }
        }

        impl RowLanes for I32x8 {
            type Floats = F32x8;
            type Bytes = (uint8x16_t, uint8x16_t);
            const SIGNED_EXCESS: i32 = 0;

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn zero() -> Self {
                Self(vdupq_n_s32(0), vdupq_n_s32(0))
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn load_bytes(from: *const u8) -> Self::Bytes {
                // SAFETY: the caller gives 32 readable bytes.
                unsafe { (vld1q_u8(from), vld1q_u8(from.add(16))) }
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn low_nibbles(bytes: Self::Bytes) -> Self::Bytes {
                let mask = vdupq_n_u8(15);
                (vandq_u8(bytes.0, mask), vandq_u8(bytes.1, mask))
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn high_nibbles(bytes: Self::Bytes) -> Self::Bytes {
                (vshrq_n_u8::<4>(bytes.0), vshrq_n_u8::<4>(bytes.1))
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn bits(bytes: Self::Bytes, shift: i32, mask: i8) -> Self::Bytes {
                // A shift to the left by a negative number goes to the right.
                let (shift, mask) = (vdupq_n_s8(-shift as i8), vdupq_n_u8(mask as u8));
                (vandq_u8(vshlq_u8(bytes.0, shift), mask), vandq_u8(vshlq_u8(bytes.1, shift), mask))
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn extend_nibbles(nibbles: Self::Bytes, bits: Self::Bytes, shift: i32, mask: i8) -> Self::Bytes {
                // A shift to the left by a negative number goes to the right.
                let (shift, mask) = (vdupq_n_s8(-shift as i8), vdupq_n_u8(mask as u8));
                let extend = |nibbles, bits| vorrq_u8(nibbles, vshlq_n_u8::<4>(vandq_u8(vshlq_u8(bits, shift), mask)));
                (extend(nibbles.0, bits.0), extend(nibbles.1, bits.1))
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn dot_unsigned(self, weights: Self::Bytes, x: i32) -> Self {
                // SAFETY: registers only, and this function is compiled for the same features. Bytes up to 63 are the same as
                // int8.
                unsafe { self.dot_signed(weights, x) }
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn dot_signed(self, weights: Self::Bytes, x: i32) -> Self {
                let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
                Self($dot(self.0, vreinterpretq_s8_u8(weights.0), x), $dot(self.1, vreinterpretq_s8_u8(weights.1), x))
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn sub_splat(self, value: i32) -> Self {
                let value = vdupq_n_s32(value);
                Self(vsubq_s32(self.0, value), vsubq_s32(self.1, value))
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn add(self, other: Self) -> Self {
                Self(vaddq_s32(self.0, other.0), vaddq_s32(self.1, other.1))
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn load_u8(from: *const u8) -> Self {
                // SAFETY: the caller gives eight readable bytes.
                let wide = vreinterpretq_s16_u16(vmovl_u8(unsafe { vld1_u8(from) }));
                Self(vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide))
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn load_i8(from: *const u8) -> Self {
                // SAFETY: the caller gives eight readable bytes.
                let wide = vmovl_s8(vreinterpret_s8_u8(unsafe { vld1_u8(from) }));
                Self(vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide))
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn to_floats(self) -> F32x8 {
                F32x8::of_ints(self.0, self.1)
            }
        }
    };
}
pub(crate) use row_lanes;

row_lanes!("neon", dot);

/// Adds to each sum the products of four weights with four inputs (`>= -127`).
#[inline]
#[target_feature(enable = "neon")]
fn dot(sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
    // 2 * 128 * 127 fits int16.
    let low = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
    let high = vmull_high_s8(weights, x);
    vpadalq_s16(sums, vpaddq_s16(low, high))
}
