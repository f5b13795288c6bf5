//! Eight lanes in two vectors.

use std::arch::wasm32::*;

use crate::vector::{Floats, RowLanes};

/// Eight f32.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(v128, v128);

/// Eight i32.
#[derive(Clone, Copy)]
pub(crate) struct I32x8(v128, v128);

/// Four f16, one in the low half of each 32-bit lane, as f32.
#[inline(always)]
fn widen_f16(halves: v128) -> v128 {
    let sign = i32x4_shl(v128_and(halves, i32x4_splat(0x8000)), 16);
    let magnitude = v128_and(halves, i32x4_splat(0x7fff));
    // Exponent and mantissa in the place of those of an f32, whose exponents are 112 higher; this is exact for
    // subnormal values, too.
    let value = f32x4_mul(i32x4_shl(magnitude, 13), f32x4_splat(2.0f32.powi(112)));
    let special = v128_and(i32x4_gt(magnitude, i32x4_splat(0x7bff)), i32x4_splat(0x7f80_0000));
    v128_or(v128_or(value, special), sign)
}

impl Floats for F32x8 {
    const LANES: usize = 8;
    const TILE_TOKENS: usize = 2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        let value = f32x4_splat(value);
        Self(value, value)
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller gives 32 readable bytes; loads need no alignment.
        unsafe { Self(v128_load(from.cast()), v128_load(from.add(16).cast())) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller gives 16 readable bytes.
        let halves = unsafe { v128_load(from.cast()) };
        Self(widen_f16(u32x4_extend_low_u16x8(halves)), widen_f16(u32x4_extend_high_u16x8(halves)))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller gives 16 readable bytes.
        let halves = unsafe { v128_load(from.cast()) };
        Self(i32x4_shl(u32x4_extend_low_u16x8(halves), 16), i32x4_shl(u32x4_extend_high_u16x8(halves), 16))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives room for eight values.
        unsafe {
            v128_store(to.cast(), self.0);
            v128_store(to.add(4).cast(), self.1);
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(f32x4_add(self.0, other.0), f32x4_add(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(f32x4_sub(self.0, other.0), f32x4_sub(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(f32x4_mul(self.0, other.0), f32x4_mul(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(f32x4_div(self.0, other.0), f32x4_div(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: registers only; the instruction set is the condition of the trait.
        unsafe { self.mul(factor).add(addend) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // pmax(a, b) is b where a < b, else a.
        Self(f32x4_pmax(other.0, self.0), f32x4_pmax(other.1, self.1))
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // pmin(a, b) is b where b < a, else a.
        Self(f32x4_pmin(other.0, self.0), f32x4_pmin(other.1, self.1))
    }

    #[inline(always)]
    unsafe fn select_less(self, bound: Self, then: Self, otherwise: Self) -> Self {
        Self(
            v128_bitselect(then.0, otherwise.0, f32x4_lt(self.0, bound.0)),
            v128_bitselect(then.1, otherwise.1, f32x4_lt(self.1, bound.1)),
        )
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        let power = |n| i32x4_shl(i32x4_add(i32x4_trunc_sat_f32x4(n), i32x4_splat(127)), 23);
        Self(power(self.0), power(self.1))
    }

    #[inline(always)]
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4] {
        // The order of the scalar code: lanes 4 apart, then 2 apart, then neighbours.
        let [a, b, c, d] = vectors.map(|v| f32x4_add(v.0, v.1));
        let ab = f32x4_add(i32x4_shuffle::<0, 1, 4, 5>(a, b), i32x4_shuffle::<2, 3, 6, 7>(a, b));
        let cd = f32x4_add(i32x4_shuffle::<0, 1, 4, 5>(c, d), i32x4_shuffle::<2, 3, 6, 7>(c, d));
        let sums = f32x4_add(i32x4_shuffle::<0, 2, 4, 6>(ab, cd), i32x4_shuffle::<1, 3, 5, 7>(ab, cd));
        let mut out = [0.0; 4];
        // SAFETY: `out` has room for four values.
        unsafe { v128_store(out.as_mut_ptr().cast(), sums) };
        out
    }
}

impl I32x8 {
    #[inline(always)]
    pub(crate) fn new(low: v128, high: v128) -> Self {
        Self(low, high)
    }
}

/// Adds to each sum the products of four weights with four inputs, `x` as int16 twice.
#[inline(always)]
fn dot(sums: v128, low: v128, high: v128, x: v128) -> v128 {
    let (low, high) = (i32x4_dot_i16x8(low, x), i32x4_dot_i16x8(high, x));
    let pairs = i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(low, high), i32x4_shuffle::<1, 3, 5, 7>(low, high));
    i32x4_add(sums, pairs)
}

impl RowLanes for I32x8 {
    type Floats = F32x8;
    type Bytes = (v128, v128);
    const SIGNED_EXCESS: i32 = 0;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self(i32x4_splat(0), i32x4_splat(0))
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::Bytes {
        // SAFETY: the caller gives 32 readable bytes.
        unsafe { (v128_load(from.cast()), v128_load(from.add(16).cast())) }
    }

    #[inline(always)]
    unsafe fn low_nibbles(bytes: Self::Bytes) -> Self::Bytes {
        let mask = u8x16_splat(15);
        (v128_and(bytes.0, mask), v128_and(bytes.1, mask))
    }

    #[inline(always)]
    unsafe fn high_nibbles(bytes: Self::Bytes) -> Self::Bytes {
        (u8x16_shr(bytes.0, 4), u8x16_shr(bytes.1, 4))
    }

    #[inline(always)]
    unsafe fn bits(bytes: Self::Bytes, shift: i32, mask: i8) -> Self::Bytes {
        let bits = |bytes| v128_and(u8x16_shr(bytes, shift as u32), i8x16_splat(mask));
        (bits(bytes.0), bits(bytes.1))
    }

    #[inline(always)]
    unsafe fn extend_nibbles(nibbles: Self::Bytes, bits: Self::Bytes, shift: i32, mask: i8) -> Self::Bytes {
        let mask = i8x16_splat(mask);
        let extend = |nibbles, bits| v128_or(nibbles, u8x16_shl(v128_and(u8x16_shr(bits, shift as u32), mask), 4));
        (extend(nibbles.0, bits.0), extend(nibbles.1, bits.1))
    }

    #[inline(always)]
    unsafe fn dot_unsigned(self, weights: Self::Bytes, x: i32) -> Self {
        // SAFETY: registers only; the instruction set is the condition of the trait. Bytes up to 63 are the same as int8.
        unsafe { self.dot_signed(weights, x) }
    }

    #[inline(always)]
    unsafe fn dot_signed(self, weights: Self::Bytes, x: i32) -> Self {
        let x = i16x8_extend_low_i8x16(i32x4_splat(x));
        let wide = |w| (i16x8_extend_low_i8x16(w), i16x8_extend_high_i8x16(w));
        let (a, b) = (wide(weights.0), wide(weights.1));
        Self(dot(self.0, a.0, a.1, x), dot(self.1, b.0, b.1, x))
    }

    #[inline(always)]
    unsafe fn sub_splat(self, value: i32) -> Self {
        let value = i32x4_splat(value);
        Self(i32x4_sub(self.0, value), i32x4_sub(self.1, value))
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(i32x4_add(self.0, other.0), i32x4_add(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller gives eight readable bytes.
        let wide = u16x8_extend_low_u8x16(unsafe { v128_load64_zero(from.cast()) });
        Self(u32x4_extend_low_u16x8(wide), u32x4_extend_high_u16x8(wide))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller gives eight readable bytes.
        let wide = i16x8_extend_low_i8x16(unsafe { v128_load64_zero(from.cast()) });
        Self(i32x4_extend_low_i16x8(wide), i32x4_extend_high_i16x8(wide))
    }

    #[inline(always)]
    unsafe fn to_floats(self) -> F32x8 {
        F32x8(f32x4_convert_i32x4(self.0), f32x4_convert_i32x4(self.1))
    }
}
