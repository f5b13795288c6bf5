//! Dense ternary projections of one scale group: the baselines that Sherry is compared with.
//!
//! All three zero the weights below a threshold and keep the sign of the others. Sums are f64 in order of the inputs;
//! scales are rounded to f32 and then to f16 after the threshold has been applied.

use sherry_kernels::format::half::f32_to_f16;

use super::scale::{self, ScaleOverflow};

/// AbsMean (BitNet b1.58, arXiv 2402.17764, Eq. 1-3): scale = mean |w|; weights round to the nearest of -1, 0, +1
/// times the scale, so that magnitudes up to half of it vanish.
pub(super) fn abs_mean(values: &[f32], ternary: &mut [i8]) -> Result<u16, ScaleOverflow> {
    let scale = mean(values.iter().copied());
    cut(values, scale / 2.0, ternary);
    scale::round(scale)
}

/// AbsMedian ("BitNet b1.58 Reloaded"): like [`abs_mean`] with the median of the magnitudes, the lower of two.
pub(super) fn abs_median(values: &[f32], ternary: &mut [i8]) -> Result<u16, ScaleOverflow> {
    let mut magnitudes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
    let middle = magnitudes.len().saturating_sub(1) / 2;
    let scale = if magnitudes.is_empty() {
        0.0
    } else {
        f64::from(*magnitudes.select_nth_unstable_by(middle, f32::total_cmp).1)
    };
    cut(values, scale / 2.0, ternary);
    scale::round(scale)
}

/// Ternary weight networks (arXiv 1605.04711): magnitudes up to 0.75 mean |w| vanish, the optimum for Gaussian weights
/// (the paper rounds it to 0.7); scale = mean of the kept magnitudes.
pub(super) fn twn(values: &[f32], ternary: &mut [i8]) -> Result<u16, ScaleOverflow> {
    cut(values, 0.75 * mean(values.iter().copied()), ternary);
    scale::round(mean(values.iter().zip(&*ternary).filter(|(_, t)| **t != 0).map(|(value, _)| *value)))
}

/// Values that are -1, 0 and +1 times an f16 scale already; the error is the place of one that is not. With `sparse`
/// a group of zeros becomes quads that the 3:4-sparse format can hold, at scale zero.
pub(super) fn exact(values: &[f32], ternary: &mut [i8], sparse: bool) -> Result<u16, usize> {
    let scale = values.iter().fold(0.0f32, |top, value| top.max(value.abs()));
    let bits = f32_to_f16(scale);
    if scale::widen(bits) != scale {
        return Err(values.iter().position(|value| value.abs() == scale).unwrap_or(0));
    }
    for (col, (&value, t)) in values.iter().zip(&mut *ternary).enumerate() {
        *t = match value {
            0.0 => 0,
            _ if value == scale => 1,
            _ if value == -scale => -1,
            _ => return Err(col),
        };
    }
    if sparse && scale == 0.0 {
        ternary.iter_mut().enumerate().for_each(|(lane, t)| *t = i8::from(lane % 4 != 0));
    }
    Ok(bits)
}

/// Mean magnitude in f64, in order; zero for none.
fn mean(values: impl Iterator<Item = f32>) -> f64 {
    let (mut sum, mut count) = (0.0f64, 0u64);
    for value in values {
        sum += f64::from(value.abs());
        count += 1;
    }
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// Zeroes magnitudes up to `threshold`, keeps the sign of the others.
fn cut(values: &[f32], threshold: f64, ternary: &mut [i8]) {
    for (&value, t) in values.iter().zip(ternary) {
        *t = match f64::from(value.abs()) > threshold {
            true if value < 0.0 => -1,
            true => 1,
            false => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn projected(projection: fn(&[f32], &mut [i8]) -> Result<u16, ScaleOverflow>, values: &[f32]) -> (Vec<i8>, f32) {
        let mut t = vec![9; values.len()];
        let bits = projection(values, &mut t).unwrap();
        (t, scale::widen(bits))
    }

    #[test]
    fn by_hand() {
        let values = [4.0, -1.0, 0.5, -2.5]; // mean 2, median (lower) 1
        assert_eq!(projected(abs_mean, &values), (vec![1, 0, 0, -1], 2.0));
        assert_eq!(projected(abs_median, &values), (vec![1, -1, 0, -1], 1.0));
        assert_eq!(projected(twn, &values), (vec![1, 0, 0, -1], 3.25)); // threshold 1.5
    }

    #[test]
    fn exact_values_are_kept_or_named() {
        let mut t = [9i8; 4];
        assert_eq!(exact(&[0.5, -0.0, -0.5, 0.0], &mut t, false).map(scale::widen), Ok(0.5));
        assert_eq!(t, [1, 0, -1, 0]);
        assert_eq!(exact(&[0.5, 0.25, -0.5, 0.0], &mut t, false), Err(1));
        assert_eq!(exact(&[0.0, 1.0 / 3.0, 0.0, 0.0], &mut t, false), Err(1));
        assert_eq!(exact(&[0.0, 0.0, 1e6, 0.0], &mut t, false), Err(2));
        assert_eq!(exact(&[0.0; 4], &mut t, false), Ok(0));
        assert_eq!(t, [0; 4]);
        assert_eq!(exact(&[0.0; 4], &mut t, true), Ok(0));
        assert_eq!(t, [0, 1, 1, 1]);
    }

    #[test]
    fn zeros_stay_zero() {
        for projection in [abs_mean, abs_median, twn] {
            assert_eq!(projected(projection, &[0.0, -0.0, 0.0]), (vec![0, 0, 0], 0.0));
        }
    }
}
