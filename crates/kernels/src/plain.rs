//! Functions of f32 in plain operations, without calls of a library: loops over them become vector code on every processor,
//! and give the same bits on all.

use std::f32::consts::LOG2_E;

/// 1.5 * 2^23, from where on f32 has no fraction bits: adding it to a number within 2^22 of 0 rounds to the nearest integer,
/// ties to even, which then stands in the low bits of the sum.
pub const ROUND: f32 = 12_582_912.0;

/// The integer nearest to `x`, which is within 2^22 of 0; ties to even.
#[inline(always)]
pub fn nearest(x: f32) -> f32 {
    (x + ROUND) - ROUND
}

/// [`nearest`] as an integer.
#[inline(always)]
pub(crate) fn nearest_i32(x: f32) -> i32 {
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// ln 2 in two parts, the first of few bits: its product with a whole number is exact.
pub(crate) const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];

/// For |r| <= ln 2 / 2, e^r is `(p r^2 + r) + 1`, with `p` the polynomial of these coefficients, that of the highest power
/// first (Cephes `expf`).
pub(crate) const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];

/// `e^x`, relative error below 2e-7; flushes to 0 below -87.3 and saturates above 88. NaN gives NaN.
///
/// ```
/// use sherry_kernels::plain::exp;
///
/// assert_eq!(exp(0.0), 1.0);
/// assert!((exp(1.0) - std::f32::consts::E).abs() < 1e-6);
/// assert_eq!(exp(f32::NEG_INFINITY), 0.0);
/// ```
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    // x = n ln 2 + r.
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN_2[0] - n * LN_2[1];
    let mut p = EXP[0];
    for coefficient in &EXP[1..] {
        p = p * r + coefficient;
    }
    let y = p * r * r + r + 1.0;
    let scaled = f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < -87.3 { 0.0 } else { scaled }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_library() {
        for i in -4000..=4000 {
            for x in [i as f32 / 8.0, i as f32 * 1000.5, i as f32 / 7.0] {
                assert_eq!((nearest(x), nearest_i32(x)), (x.round_ties_even(), x.round_ties_even() as i32), "{x}");
            }
        }
    }

    #[test]
    fn exp_is_accurate_and_behaves_at_the_ends() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2e-7, "exp({x}) is off by {error:e}");
            x += 0.0137;
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(1000.0).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }
}
