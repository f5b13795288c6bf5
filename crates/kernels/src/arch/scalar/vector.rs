//! Eight lanes in an array. The compiler turns most of it into whatever vectors the target has.

use crate::format::half::{bf16_to_f32, f16_to_f32};
use crate::vector::{Floats, RowLanes};

/// Eight f32.
#[derive(Clone, Copy)]
pub(crate) struct F32x8([f32; 8]);

/// Eight i32.
#[derive(Clone, Copy)]
pub(crate) struct I32x8([i32; 8]);

impl F32x8 {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Floats for F32x8 {
    const LANES: usize = 8;
    const TILE_TOKENS: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller gives 32 readable bytes.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller gives 16 readable bytes.
        Self(unsafe { from.cast::<[u16; 8]>().read_unaligned() }.map(f16_to_f32))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller gives 16 readable bytes.
        Self(unsafe { from.cast::<[u16; 8]>().read_unaligned() }.map(bf16_to_f32))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives room for eight values.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        self.zip(factor, |a, b| a * b).zip(addend, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn select_less(self, bound: Self, then: Self, otherwise: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] < bound.0[i] { then.0[i] } else { otherwise.0[i] }))
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        Self(self.0.map(|n| f32::from_bits(((n as i32 + 127) << 23) as u32)))
    }

    #[inline(always)]
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4] {
        vectors.map(|Self(v)| ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])))
    }
}

impl RowLanes for I32x8 {
    type Floats = F32x8;
    type Bytes = [u8; 32];
    const SIGNED_EXCESS: i32 = 0;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; 8])
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> [u8; 32] {
        // SAFETY: the caller gives 32 readable bytes.
        unsafe { from.cast::<[u8; 32]>().read() }
    }

    #[inline(always)]
    unsafe fn low_nibbles(bytes: [u8; 32]) -> [u8; 32] {
        bytes.map(|b| b & 15)
    }

    #[inline(always)]
    unsafe fn high_nibbles(bytes: [u8; 32]) -> [u8; 32] {
        bytes.map(|b| b >> 4)
    }

    #[inline(always)]
    unsafe fn bits(bytes: [u8; 32], shift: i32, mask: i8) -> [u8; 32] {
        bytes.map(|byte| (byte >> shift) & mask as u8)
    }

    #[inline(always)]
    unsafe fn extend_nibbles(nibbles: [u8; 32], bits: [u8; 32], shift: i32, mask: i8) -> [u8; 32] {
        std::array::from_fn(|i| nibbles[i] | ((bits[i] >> shift) & mask as u8) << 4)
    }

    #[inline(always)]
    unsafe fn dot_unsigned(self, weights: [u8; 32], x: i32) -> Self {
        let x = x.to_le_bytes().map(|x| i32::from(x as i8));
        Self(std::array::from_fn(|i| self.0[i] + (0..4).map(|j| i32::from(weights[4 * i + j]) * x[j]).sum::<i32>()))
    }

    #[inline(always)]
    unsafe fn dot_signed(self, weights: [u8; 32], x: i32) -> Self {
        let x = x.to_le_bytes().map(|x| i32::from(x as i8));
        Self(std::array::from_fn(|i| {
            self.0[i] + (0..4).map(|j| i32::from(weights[4 * i + j] as i8) * x[j]).sum::<i32>()
        }))
    }

    #[inline(always)]
    unsafe fn dot_wide(self, codes: [u8; 32], x: *const i16) -> Self {
        // SAFETY: four int16 are readable at `x` (see `RowLanes::dot_wide`).
        let [a, b, c, d] = unsafe { x.cast::<[i16; 4]>().read_unaligned() }.map(i32::from);
        let x = [a, c, b, d];
        Self(std::array::from_fn(|i| self.0[i] + (0..4).map(|j| i32::from(codes[4 * i + j] as i8) * x[j]).sum::<i32>()))
    }

    #[inline(always)]
    unsafe fn dot_bytes(self, codes: [u8; 32], x: *const u8) -> Self {
        // SAFETY: four bytes are readable at `x` (see `RowLanes::dot_bytes`).
        let x = unsafe { x.cast::<[u8; 4]>().read() }.map(i32::from);
        Self(std::array::from_fn(|i| self.0[i] + (0..4).map(|j| i32::from(codes[4 * i + j]) * x[j]).sum::<i32>()))
    }

    #[inline(always)]
    unsafe fn sub_splat(self, value: i32) -> Self {
        Self(self.0.map(|x| x.wrapping_sub(value)))
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].wrapping_add(other.0[i])))
    }

    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller gives eight readable bytes.
        Self(unsafe { from.cast::<[u8; 8]>().read() }.map(i32::from))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller gives eight readable bytes.
        Self(unsafe { from.cast::<[i8; 8]>().read() }.map(i32::from))
    }

    #[inline(always)]
    unsafe fn to_floats(self) -> F32x8 {
        F32x8(self.0.map(|x| x as f32))
    }
}
