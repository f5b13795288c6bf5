//! Reproducible random weights.

use sherry_kernels::SplitMix64;

/// `len` independent standard normal values (Box-Muller).
pub(super) fn gaussian(seed: u64, len: usize) -> Vec<f32> {
    let mut random = SplitMix64(seed.wrapping_mul(0xd129_0ddc_a1b2_c3d5));
    let mut uniform = || random.uniform();
    (0..len)
        .map(|_| ((-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32)
        .collect()
}
