//! The 3:4-sparse projection (Sparse-AbsMean, arXiv 2601.07892, Eq. 4-5) of one scale group.
//!
//! Of every quad of four weights exactly one becomes zero, the one of smallest magnitude; the others keep their sign
//! and share the group's scale `alpha = 4/(3K) * sum of kept |w|`, the mean of the kept magnitudes. That is the exact
//! joint minimum of `sum (w - alpha t)^2` over all legal `t` and all `alpha`: zeroing lane `j` instead of keeping it
//! costs `2 alpha |w_j| - alpha^2`, which grows with `|w_j|` whatever `alpha` is.
//!
//! Rules that make the bytes reproducible: of equal magnitudes the lowest lane is zeroed; a kept `+-0.0` counts as +1;
//! magnitudes are summed in f64 in quad order, divided, rounded to f32 and then to f16 (nearest even).

use super::scale::{self, ScaleOverflow};

/// Rounds of the importance-weighted alternation. It converges in two or three; the bound is for degenerate inputs.
const ROUNDS: usize = 8;

/// Projects one scale group given in quad order: `values[4q..4q+4]` are the lanes of quad `q`.
///
/// `ternary` (same length) receives -1, 0, +1; the result is the scale's f16 bits. Values must be finite.
pub(super) fn project(values: &[f32], ternary: &mut [i8]) -> Result<u16, ScaleOverflow> {
    let mut sum = 0.0f64;
    for (quad, out) in values.as_chunks::<4>().0.iter().zip(ternary.as_chunks_mut::<4>().0) {
        sum += keep_all_but(smallest(quad), quad, out);
    }
    scale::round(sum / kept(values) as f64)
}

/// Like [`project`], minimising `sum h (w - alpha t)^2` for the importance `h >= 0` of each weight.
///
/// Starting from the plain projection, alternates between the best scale for the zero lanes (weighted least squares,
/// rounded to f16) and the best zero lanes for the scale (the lane of least `h (2 alpha |w| - alpha^2)`; of equal ones
/// the smaller magnitude, then the lower lane). No step can increase the weighted error, since each is optimal given
/// the other's result, the scale among all f16 numbers.
pub(super) fn project_weighted(values: &[f32], importance: &[f32], ternary: &mut [i8]) -> Result<u16, ScaleOverflow> {
    let mut bits = project(values, ternary)?;
    for _ in 0..ROUNDS {
        let next = match weighted_mean(values, importance, ternary) {
            Some(mean) => scale::round(mean)?,
            None => return Ok(bits), // no kept weight matters: nothing to improve on
        };
        let alpha = f64::from(scale::widen(next));
        let mut changed = next != bits;
        bits = next;
        let quads = values.as_chunks::<4>().0.iter().zip(importance.as_chunks::<4>().0);
        for ((quad, h), out) in quads.zip(ternary.as_chunks_mut::<4>().0) {
            let lane = cheapest(quad, h, alpha);
            changed |= out[lane] != 0;
            keep_all_but(lane, quad, out);
        }
        if !changed {
            break;
        }
    }
    Ok(bits)
}

/// Weights that stay non-zero in a group: three of four.
fn kept(values: &[f32]) -> usize {
    values.len() / 4 * 3
}

/// Writes the quad with lane `zero` zeroed and returns the sum of the other magnitudes.
fn keep_all_but(zero: usize, quad: &[f32; 4], out: &mut [i8; 4]) -> f64 {
    let mut sum = 0.0f64;
    for lane in 0..4 {
        let sign = if quad[lane] < 0.0 { -1 } else { 1 };
        out[lane] = if lane == zero { 0 } else { sign };
        sum += if lane == zero { 0.0 } else { f64::from(quad[lane].abs()) };
    }
    sum
}

/// The lowest lane of smallest magnitude.
fn smallest(quad: &[f32; 4]) -> usize {
    let mut best = 0;
    for lane in 1..4 {
        if quad[lane].abs() < quad[best].abs() {
            best = lane;
        }
    }
    best
}

/// The lane that costs least to zero at scale `alpha`.
fn cheapest(quad: &[f32; 4], importance: &[f32; 4], alpha: f64) -> usize {
    let cost = |lane: usize| {
        let magnitude = f64::from(quad[lane].abs());
        (f64::from(importance[lane]) * alpha * (2.0 * magnitude - alpha), magnitude)
    };
    let mut best = (0, cost(0));
    for lane in 1..4 {
        let cost = cost(lane);
        if cost < best.1 {
            best = (lane, cost);
        }
    }
    best.0
}

/// Weighted least squares for the scale; `None` when all kept weights have importance zero.
fn weighted_mean(values: &[f32], importance: &[f32], ternary: &[i8]) -> Option<f64> {
    let (mut sum, mut weight) = (0.0f64, 0.0f64);
    for ((&value, &h), &t) in values.iter().zip(importance).zip(ternary) {
        if t != 0 {
            sum += f64::from(h) * f64::from(value.abs());
            weight += f64::from(h);
        }
    }
    (weight > 0.0).then(|| sum / weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::test_data::gaussian;

    /// All 32 legal quads.
    fn quads() -> Vec<[i8; 4]> {
        let mut all = Vec::new();
        for zero in 0..4 {
            for signs in 0..8 {
                let mut kept = 0;
                all.push([0, 1, 2, 3].map(|lane| {
                    if lane == zero {
                        return 0;
                    }
                    kept += 1;
                    if signs >> (kept - 1) & 1 == 1 { -1 } else { 1 }
                }));
            }
        }
        all
    }

    /// Weighted squared error of the best scale for `t`, in f64.
    fn error(values: &[f32], h: &[f32], t: &[i8]) -> f64 {
        let (mut ww, mut wt, mut tt) = (0.0, 0.0, 0.0);
        for ((&w, &h), &t) in values.iter().zip(h).zip(t) {
            let (w, h, t) = (f64::from(w), f64::from(h), f64::from(t));
            ww += h * w * w;
            wt += h * w * t;
            tt += h * t * t;
        }
        if tt == 0.0 { ww } else { ww - wt * wt / tt }
    }

    /// Weighted squared error at the scale given as f16 bits.
    fn error_at(values: &[f32], h: &[f32], t: &[i8], bits: u16) -> f64 {
        let alpha = f64::from(scale::widen(bits));
        let terms = values.iter().zip(h).zip(t);
        terms.map(|((&w, &h), &t)| f64::from(h) * (f64::from(w) - alpha * f64::from(t)).powi(2)).sum()
    }

    fn brute_force(values: &[f32], h: &[f32]) -> f64 {
        let quads = quads();
        let count = values.len() / 4;
        let mut best = f64::INFINITY;
        for code in 0..32usize.pow(count as u32) {
            let t: Vec<i8> = (0..count).flat_map(|q| quads[code >> (5 * q) & 31]).collect();
            best = best.min(error(values, h, &t));
        }
        best
    }

    #[test]
    fn the_papers_example() {
        let values = [0.6, -0.1, 0.5, -0.7];
        let mut t = [0; 4];
        let bits = project(&values, &mut t).unwrap();
        assert_eq!(t, [1, 0, 1, -1]);
        assert_eq!(bits, scale::round(0.6).unwrap());
        assert!((error(&values, &[1.0; 4], &t) - 0.03).abs() < 1e-7);
    }

    #[test]
    fn no_pattern_and_no_scale_is_better() {
        for (seed, len) in [(1, 4), (2, 8), (3, 8), (4, 12), (5, 12)] {
            let values = gaussian(seed, len);
            let ones = vec![1.0; len];
            let mut t = vec![0; len];
            let bits = project(&values, &mut t).unwrap();
            let best = brute_force(&values, &ones);
            assert!(error(&values, &ones, &t) <= best * (1.0 + 1e-12));
            // Rounding the scale to f16 costs at most kept * (alpha * 2^-11)^2.
            assert!(
                error_at(&values, &ones, &t, bits)
                    <= best + len as f64 * (f64::from(scale::widen(bits)) / 2048.0).powi(2)
            );
        }
    }

    #[test]
    fn ties_zero_the_lowest_lane_and_zeros_count_as_plus() {
        let mut t = [9; 12];
        let bits = project(&[1.0, -1.0, 1.0, -1.0, 0.0, -0.0, -0.0, 0.0, 2.0, -1.0, 1.0, 1.0], &mut t).unwrap();
        assert_eq!(t, [0, -1, 1, -1, 0, 1, 1, 1, 1, 0, 1, 1]);
        assert_eq!(scale::widen(bits), scale::widen(scale::round(7.0 / 9.0).unwrap()));
        let bits = project(&[0.0, -0.0, -0.0, -0.0], &mut t[..4]).unwrap();
        assert_eq!((bits, &t[..4]), (0, &[0, 1, 1, 1][..]));
    }

    #[test]
    fn scales_beyond_f16_are_refused_and_tiny_ones_round() {
        let mut t = [0; 4];
        assert!(project(&[65519.0; 4], &mut t).is_ok());
        assert!(project(&[65520.0; 4], &mut t).is_err());
        assert!(project(&[f32::MAX; 4], &mut t).is_err());
        let subnormal = 2.0f32.powi(-20);
        assert_eq!(scale::widen(project(&[subnormal; 4], &mut t).unwrap()), subnormal);
        assert_eq!(project(&[2.0f32.powi(-26); 4], &mut t), Ok(0));
    }

    #[test]
    fn importance_is_never_worse_in_weighted_error() {
        let mut totals = (0.0, 0.0);
        for seed in 0..50 {
            let values = gaussian(seed, 64);
            let h: Vec<f32> = gaussian(seed + 1000, 64).iter().map(|x| x * x).collect();
            let (mut plain, mut weighted) = ([0; 64], [0; 64]);
            let plain_bits = project(&values, &mut plain).unwrap();
            let bits = project_weighted(&values, &h, &mut weighted).unwrap();
            assert!(weighted.as_chunks::<4>().0.iter().all(|quad| quads().contains(quad)));
            let (before, after) = (error_at(&values, &h, &plain, plain_bits), error_at(&values, &h, &weighted, bits));
            assert!(after <= before, "seed {seed}: {after} > {before}");
            totals = (totals.0 + before, totals.1 + after);
        }
        assert!(totals.1 < totals.0 * 0.95, "importance hardly helped: {totals:?}");
    }

    #[test]
    fn importance_reaches_the_optimum_of_most_small_rows() {
        let mut optimal = 0;
        for seed in 0..40 {
            let values = gaussian(seed, 8);
            let h: Vec<f32> = gaussian(seed + 500, 8).iter().map(|x| x * x).collect();
            let mut t = [0; 8];
            project_weighted(&values, &h, &mut t).unwrap();
            let (found, best) = (error(&values, &h, &t), brute_force(&values, &h));
            assert!(found >= best * (1.0 - 1e-9));
            optimal += usize::from(found <= best * (1.0 + 1e-9));
        }
        assert!(optimal >= 30, "{optimal} of 40"); // coordinate descent: local optima exist
    }

    #[test]
    fn equal_importance_changes_nothing_and_none_means_plain() {
        let values = gaussian(7, 128);
        for h in [0.0, 1e-30, 3.0] {
            let (mut plain, mut weighted) = ([0; 128], [0; 128]);
            let expected = project(&values, &mut plain).unwrap();
            assert_eq!(project_weighted(&values, &[h; 128], &mut weighted), Ok(expected));
            assert_eq!(plain, weighted);
        }
    }
}
