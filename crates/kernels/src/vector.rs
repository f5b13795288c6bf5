//! The vector operations that the algorithms of [`generic`](crate::generic) are written in, once for every instruction
//! set. Implementations: `scalar` and one per instruction set.
//!
//! Every method is `unsafe` for the same first reason: the processor must have the instruction set of the
//! implementation. Pointers need no alignment; what they must cover is said at each method, as the values that it reads or
//! writes. Notes in implementations count them in bytes: "the caller gives 32 readable bytes" is eight f32.

/// `LANES` f32 values.
///
/// # Safety
/// All methods: the instruction set of the implementation is available.
#[allow(clippy::missing_safety_doc)] // said once, above
pub(crate) trait Floats: Copy {
    /// Values per vector.
    const LANES: usize;
    /// Tokens per register tile of a dense product with four rows.
    const TILE_TOKENS: usize;

    unsafe fn splat(value: f32) -> Self;

    /// Reads `LANES` f32 (little-endian) at `from`.
    unsafe fn load(from: *const u8) -> Self;
    /// Reads `LANES` f16 at `from`.
    unsafe fn load_f16(from: *const u8) -> Self;
    /// Reads `LANES` bf16 at `from`.
    unsafe fn load_bf16(from: *const u8) -> Self;
    /// Writes `LANES` f32 to `to`.
    unsafe fn store(self, to: *mut f32);

    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + addend`: with one rounding where the instruction set has it, else with two.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// The larger; `other` when one is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller; `other` when one is NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// Per lane: `self < bound`: `then`, else (also for NaN): `otherwise`.
    unsafe fn select_less(self, bound: Self, then: Self, otherwise: Self) -> Self;
    /// 2 to the power of `self`, which holds integers in -126..=127.
    unsafe fn exp2_integer(self) -> Self;

    /// `self`, which is about 1, times 2 to the power of `n`, integers from -200 to 0; 0 where that is too small for f32, or
    /// for normal f32.
    #[inline(always)]
    unsafe fn times_exp2(self, n: Self) -> Self {
        // SAFETY: registers only; the instruction set is the condition of the trait. 2^-126 is a normal f32.
        unsafe {
            let least = Self::splat(-126.0);
            n.select_less(least, Self::splat(0.0), self.mul(n.max(least).exp2_integer()))
        }
    }

    /// Asks for the cache line at `at`, which may be any address, to be brought to the second-level cache.
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        let _ = at;
    }

    /// The same, to the first-level cache.
    #[inline(always)]
    unsafe fn prefetch_near(at: *const u8) {
        let _ = at;
    }

    /// The sum over the lanes of each of four vectors; the order depends on the lane only.
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4];

    /// The sum over the lanes, in the order of [`sum4`](Self::sum4).
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: registers only; the instruction set is the condition of the trait.
        unsafe {
            let zero = Self::splat(0.0);
            Self::sum4([self, zero, zero, zero])[0]
        }
    }

    /// The largest of the lanes, none of which is NaN.
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let mut values = [f32::NEG_INFINITY; 16];
        // SAFETY: no vector has more than the 16 lanes that `values` has room for.
        unsafe { self.store(values.as_mut_ptr()) };
        values.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
    }

    /// Writes `LANES` values, rounded to the nearest integer (ties to even) that fits, to `to`.
    #[inline(always)]
    unsafe fn store_i16(self, to: *mut i16) {
        let mut values = [0.0f32; 16];
        // SAFETY: no vector has more than the 16 lanes that `values` has room for; at `to` there is room for `LANES` values.
        unsafe {
            self.store(values.as_mut_ptr());
            for (i, value) in values[..Self::LANES].iter().enumerate() {
                to.add(i).write(value.round_ties_even() as i16);
            }
        }
    }

    /// Writes `LANES` values, rounded to the nearest integer (ties to even) that fits, to `to`.
    #[inline(always)]
    unsafe fn store_u8(self, to: *mut u8) {
        let mut values = [0.0f32; 16];
        // SAFETY: no vector has more than the 16 lanes that `values` has room for; at `to` there is room for `LANES` values.
        unsafe {
            self.store(values.as_mut_ptr());
            for (i, value) in values[..Self::LANES].iter().enumerate() {
                to.add(i).write(value.round_ties_even() as u8);
            }
        }
    }

    /// Reads `n <= LANES` f32 at `from`; the other lanes are 0.
    #[inline(always)]
    unsafe fn load_part(from: *const u8, n: usize) -> Self {
        let mut values = [0.0f32; 16];
        // SAFETY: `n` values are readable at `from`, and n <= LANES <= 16, the length of `values`, of which a vector is read.
        unsafe {
            std::ptr::copy_nonoverlapping(from, values.as_mut_ptr().cast(), 4 * n);
            Self::load(values.as_ptr().cast())
        }
    }

    /// Reads `n <= LANES` f16 at `from`; the other lanes are 0.
    #[inline(always)]
    unsafe fn load_f16_part(from: *const u8, n: usize) -> Self {
        let mut values = [0u16; 16];
        // SAFETY: `n` values are readable at `from`, and n <= LANES <= 16, the length of `values`, of which a vector is read.
        unsafe {
            std::ptr::copy_nonoverlapping(from, values.as_mut_ptr().cast(), 2 * n);
            Self::load_f16(values.as_ptr().cast())
        }
    }

    /// Reads `n <= LANES` bf16 at `from`; the other lanes are 0.
    #[inline(always)]
    unsafe fn load_bf16_part(from: *const u8, n: usize) -> Self {
        let mut values = [0u16; 16];
        // SAFETY: `n` values are readable at `from`, and n <= LANES <= 16, the length of `values`, of which a vector is read.
        unsafe {
            std::ptr::copy_nonoverlapping(from, values.as_mut_ptr().cast(), 2 * n);
            Self::load_bf16(values.as_ptr().cast())
        }
    }

    /// Writes the first `n <= LANES` values to `to`.
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        let mut values = [0.0f32; 16];
        // SAFETY: no vector has more than the 16 lanes that `values` has room for; n <= LANES of them go to `to`, where there
        // is room for `n`.
        unsafe {
            self.store(values.as_mut_ptr());
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, n);
        }
    }
}

/// `Floats::LANES` rows of a product of whole numbers: each lane is an output row, four inputs at a time.
///
/// # Safety
/// All methods: the instruction set of the implementation is available.
#[allow(clippy::missing_safety_doc)] // said once, above
pub(crate) trait RowLanes: Copy {
    /// The f32 vector with as many lanes.
    type Floats: Floats;
    /// Four bytes per lane.
    type Bytes: Copy;
    /// What [`dot_signed`](Self::dot_signed) adds for every input of value 1 beyond the true product.
    const SIGNED_EXCESS: i32;

    /// i32 zeros.
    unsafe fn zero() -> Self;
    /// Reads `4 * LANES` bytes at `from`.
    unsafe fn load_bytes(from: *const u8) -> Self::Bytes;
    /// The low half of every byte.
    unsafe fn low_nibbles(bytes: Self::Bytes) -> Self::Bytes;
    /// The high half of every byte.
    unsafe fn high_nibbles(bytes: Self::Bytes) -> Self::Bytes;
    /// `(bytes >> shift) & mask` of every byte, `shift` below 8 (constants after inlining).
    unsafe fn bits(bytes: Self::Bytes, shift: i32, mask: i8) -> Self::Bytes;
    /// `nibbles | ((bits >> shift) & mask) << 4`, `mask` below 4 and `shift` below 8 (constants after inlining).
    unsafe fn extend_nibbles(nibbles: Self::Bytes, bits: Self::Bytes, shift: i32, mask: i8) -> Self::Bytes;
    /// Adds the products of four unsigned bytes (at most 63) per lane with four int8 inputs (`>= -127`), packed in `x`.
    unsafe fn dot_unsigned(self, weights: Self::Bytes, x: i32) -> Self;
    /// The products of `N` times four unsigned bytes (at most `MAX`, below 64) per lane with `4 N` int8 inputs (`>= -127`) at
    /// `x`, N at most 8.
    #[inline(always)]
    unsafe fn dots_unsigned<const N: usize, const MAX: usize>(weights: &[Self::Bytes; N], x: *const u8) -> Self {
        // SAFETY: 4 N bytes are readable at `x`; the instruction set is the condition of the trait.
        unsafe {
            let mut sums = Self::zero();
            for i in 0..N {
                sums = sums.dot_unsigned(weights[i], x.add(4 * i).cast::<i32>().read_unaligned());
            }
            sums
        }
    }
    /// Adds the products of four int8 per lane with four int8 inputs (`>= -127`), packed in `x`, plus
    /// [`SIGNED_EXCESS`](Self::SIGNED_EXCESS) times the sum of the inputs.
    unsafe fn dot_signed(self, weights: Self::Bytes, x: i32) -> Self;
    /// Adds the products of four int8 per lane with the four 16-bit inputs at `x`: bytes 0, 2, 1 and 3 in this order. Inputs
    /// are within -32512..=32512, the sum fits i32.
    #[inline(always)]
    unsafe fn dot_wide(self, codes: Self::Bytes, x: *const i16) -> Self {
        // SAFETY: four int16 are readable at `x`.
        let x = unsafe { x.cast::<[i16; 4]>().read_unaligned() };
        let input = |byte: usize| x[byte % 2 * 2 + byte / 2];
        // x = 128 (first + second) + low, each within -127..=127.
        let digits: [[i8; 3]; 4] = std::array::from_fn(|i| {
            let x = i32::from(input(i));
            let high = (x + 64) >> 7;
            let first = high.clamp(-127, 127);
            [first as i8, (high - first) as i8, (x - 128 * high) as i8]
        });
        let pack = |d: usize| i32::from_le_bytes(std::array::from_fn(|i| digits[i][d] as u8));
        let excess = |d: usize| Self::SIGNED_EXCESS * (0..4).map(|i| i32::from(digits[i][d])).sum::<i32>();
        // SAFETY: registers only; the instruction set is the condition of the trait.
        unsafe {
            let dot = |d: usize| Self::zero().dot_signed(codes, pack(d)).sub_splat(excess(d));
            let mut high = dot(0).add(dot(1));
            for _ in 0..7 {
                high = high.add(high);
            }
            self.add(high).add(dot(2))
        }
    }
    /// Adds the products of four unsigned bytes (at most 15) per lane with the four inputs (at most 254) at `x`.
    #[inline(always)]
    unsafe fn dot_bytes(self, codes: Self::Bytes, x: *const u8) -> Self {
        // SAFETY: four bytes are readable at `x`; the instruction set is the condition of the trait. The halves of an input are
        // at most 127.
        unsafe {
            let x = x.cast::<u32>().read_unaligned();
            let low = x >> 1 & 0x7f7f_7f7f;
            // No byte borrows from the next.
            self.dot_unsigned(codes, low as i32).dot_unsigned(codes, (x - low) as i32)
        }
    }
    /// `self - value` in every lane.
    unsafe fn sub_splat(self, value: i32) -> Self;
    /// Lane by lane, wrapping.
    unsafe fn add(self, other: Self) -> Self;
    /// Reads `LANES` unsigned bytes at `from`.
    unsafe fn load_u8(from: *const u8) -> Self;
    /// Reads `LANES` signed bytes at `from`.
    unsafe fn load_i8(from: *const u8) -> Self;
    /// Rounds to nearest even.
    unsafe fn to_floats(self) -> Self::Floats;
}
