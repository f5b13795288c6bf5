//! Reproducible random weights.

/// `len` independent standard normal values: SplitMix64 and Box-Muller.
pub(super) fn gaussian(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0xd129_0ddc_a1b2_c3d5);
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..len)
        .map(|_| ((-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32)
        .collect()
}
