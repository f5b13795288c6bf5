//! Two runs on the same items, compared item by item.
//!
//! Two accuracies measured on the same questions are not independent: what counts is on how many questions the models
//! disagree. Most published differences between small models are within this noise.

use sherry::{Error, Result};

/// The paired difference of one metric, "other minus base".
///
/// ```
/// use sherry_measure::eval::Paired;
///
/// let paired = Paired::new(&[1.0, 0.0, 1.0, 1.0], &[1.0, 1.0, 1.0, 0.0])?;
/// assert_eq!((paired.difference, paired.only_base, paired.only_other), (0.0, 1, 1));
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// Items compared.
    pub items: usize,
    /// Mean of the base.
    pub base: f64,
    /// Mean of the other.
    pub other: f64,
    /// Mean of the differences.
    pub difference: f64,
    /// Standard error of that mean: sample standard deviation of the differences over the root of their number; `None`
    /// with a single item.
    pub stderr: Option<f64>,
    /// Items only the base gets right.
    pub only_base: usize,
    /// Items only the other gets right.
    pub only_other: usize,
    /// Two-sided p of McNemar's exact (binomial) test that neither is better.
    pub p_exact: f64,
    /// McNemar's statistic with continuity correction, `(|b - c| - 1)^2 / (b + c)`; 0 without disagreement.
    pub chi2: f64,
    /// Its p (chi-square, one degree of freedom).
    pub p_chi2: f64,
}

impl Paired {
    /// Compares per-item values (0 or 1) of the same items in the same order.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the lengths differ or there is nothing to compare.
    pub fn new(base: &[f64], other: &[f64]) -> Result<Self> {
        if base.len() != other.len() || base.is_empty() {
            return Err(Error::Invalid(format!(
                "a paired comparison needs the same items twice, found {} and {}",
                base.len(),
                other.len()
            )));
        }
        let n = base.len() as f64;
        let differences: Vec<f64> = base.iter().zip(other).map(|(base, other)| other - base).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / n;
        let difference = mean(&differences);
        let squares: f64 = differences.iter().map(|d| (d - difference) * (d - difference)).sum();
        let stderr = (base.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
        let only_base = differences.iter().filter(|&&d| d < 0.0).count();
        let only_other = differences.iter().filter(|&&d| d > 0.0).count();
        let (b, c) = (only_base as f64, only_other as f64);
        let chi2 = if b + c > 0.0 { ((b - c).abs() - 1.0).max(0.0).powi(2) / (b + c) } else { 0.0 };
        Ok(Self {
            items: base.len(),
            base: mean(base),
            other: mean(other),
            difference,
            stderr,
            only_base,
            only_other,
            p_exact: binomial_two_sided(only_base, only_other),
            chi2,
            p_chi2: erfc((chi2 / 2.0).sqrt()),
        })
    }
}

/// Probability that a fair coin thrown `b + c` times splits at least as unevenly.
fn binomial_two_sided(b: usize, c: usize) -> f64 {
    let (fewer, total) = (b.min(c), b + c);
    if total == 0 {
        return 1.0;
    }
    // Terms C(total, k) / 2^total from k = 0 up, in logarithms: 2^-10000 is far below the smallest f64.
    let mut log_term = -(total as f64) * std::f64::consts::LN_2;
    let mut sum = log_term.exp();
    for k in 1..=fewer {
        log_term += ((total - k + 1) as f64 / k as f64).ln();
        sum += log_term.exp();
    }
    (2.0 * sum).min(1.0)
}

/// Complementary error function for x >= 0: power series below 2, continued fraction above (Abramowitz and Stegun
/// 7.1.6 and 7.1.14).
fn erfc(x: f64) -> f64 {
    let scale = (-x * x).exp() / std::f64::consts::PI.sqrt();
    if x < 2.0 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        return 1.0 - 2.0 * scale * sum;
    }
    let mut fraction = x;
    for k in (1..=60).rev() {
        fraction = x + f64::from(k) / 2.0 / fraction;
    }
    scale / fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1e-300), "{found} instead of {expected}");
    }

    #[test]
    fn error_function_is_right() {
        // python3 -c "import math; print([math.erfc(x) for x in (0, .1, 1, 1.99, 2, 3, 5, 10)])"
        for (x, expected) in ERFC {
            assert!((erfc(x) - expected).abs() <= 2e-13 * expected.max(1e-3), "{x}: {} {expected}", erfc(x));
        }
    }

    #[test]
    fn exact_test_counts_coins() {
        close(binomial_two_sided(0, 0), 1.0);
        close(binomial_two_sided(0, 5), 2.0 / 32.0);
        close(binomial_two_sided(7, 3), 2.0 * (1.0 + 10.0 + 45.0 + 120.0) / 1024.0);
        close(binomial_two_sided(4, 4), 1.0);
        // python3: 2 * sum(math.comb(3000, k) for k in range(1401)) / 2**3000
        assert!((binomial_two_sided(1400, 1600) - BINOMIAL_1400_1600).abs() < 1e-12);
    }

    #[test]
    fn paired_differences_are_the_textbooks() {
        // 12 items: both right 4, only base 5, only other 1, both wrong 2.
        let base = [1., 1., 1., 1., 1., 1., 1., 1., 1., 0., 0., 0.];
        let other = [1., 1., 1., 1., 0., 0., 0., 0., 0., 1., 0., 0.];
        let paired = Paired::new(&base, &other).unwrap();
        assert_eq!((paired.only_base, paired.only_other, paired.items), (5, 1, 12));
        close(paired.difference, -4.0 / 12.0);
        let squares = 6.0 - 12.0 * (4.0f64 / 12.0).powi(2);
        close(paired.stderr.unwrap(), (squares / 11.0 / 12.0).sqrt());
        close(paired.p_exact, 2.0 * 7.0 / 64.0);
        close(paired.chi2, 9.0 / 6.0);
        let same = Paired::new(&base, &base).unwrap();
        assert_eq!(
            (same.difference, same.stderr, same.p_exact, same.chi2, same.p_chi2),
            (0.0, Some(0.0), 1.0, 0.0, 1.0)
        );
        assert_eq!(Paired::new(&base[..1], &other[..1]).unwrap().stderr, None);
        assert!(Paired::new(&base, &other[1..]).is_err());
        assert!(Paired::new(&[], &[]).is_err());
    }

    const ERFC: [(f64, f64); 8] = [
        (0.0, 1.0),
        (0.1, 0.8875370839817152),
        (1.0, 0.15729920705028513),
        (1.99, 0.004888586800383003),
        (2.0, 0.004677734981047265),
        (3.0, 2.2090496998585438e-05),
        (5.0, 1.5374597944280351e-12),
        (10.0, 2.088487583762545e-45),
    ];
    const BINOMIAL_1400_1600: f64 = 0.0002785639610392337;
}
