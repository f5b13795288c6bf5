//! Random numbers that depend on nothing but their seed.

use sherry_kernels::SplitMix64;

/// A stream of random numbers.
///
/// ```
/// use sherry_train::rng::Rng;
///
/// let (mut one, mut same, mut other) = (Rng::new(7, 0), Rng::new(7, 0), Rng::new(7, 1));
/// assert_eq!(one.permutation(100), same.permutation(100));
/// assert_ne!(one.bits(), other.bits());
/// ```
#[derive(Clone, Debug)]
pub struct Rng(SplitMix64);

impl Rng {
    /// The stream `stream` of `seed`; streams are independent.
    pub fn new(seed: u64, stream: u64) -> Self {
        let start = SplitMix64::output(seed, 1) ^ stream.wrapping_mul(SplitMix64::INCREMENT);
        Self(SplitMix64(SplitMix64::output(start, 1)))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    /// Uniform in `0..n`; `n > 0`. The bias of multiplying is below 2^-32 for any `n` that fits memory.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Uniform in (0, 1].
    pub fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Fills `out` with normal numbers of standard deviation `std` (Box-Muller).
    pub fn fill_normal(&mut self, out: &mut [f32], std: f64) {
        for pair in out.chunks_mut(2) {
            let radius = std * (-2.0 * self.uniform().ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
            for (x, unit) in pair.iter_mut().zip([cos, sin]) {
                *x = (radius * unit) as f32;
            }
        }
    }

    /// A random order of `0..n`.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_have_their_moments() {
        let mut x = vec![0.0; 100_001];
        Rng::new(1, 2).fill_normal(&mut x, 0.5);
        let n = x.len() as f64;
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let var = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 0.01 && (var - 0.25).abs() < 0.01, "{mean} {var}");
    }

    #[test]
    fn permutations_hold_everything_once() {
        let mut order = Rng::new(7, 0).permutation(1000);
        assert_ne!(order[..10], (0..10).collect::<Vec<u32>>()[..]);
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<u32>>());
    }
}
