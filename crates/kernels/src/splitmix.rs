//! Random numbers that depend on nothing but their seed.

/// SplitMix64 (Steele, Lea, Flood 2014): tiny state, any seed is good.
///
/// ```
/// use sherry_kernels::SplitMix64;
///
/// let mut random = SplitMix64(1_234_567);
/// assert_eq!(random.bits(), 6_457_827_717_110_365_317);
/// assert_eq!(random.bits(), SplitMix64::output(1_234_567, 2));
/// ```
#[derive(Clone, Debug)]
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// What the state grows by: 2^64 over the golden ratio.
    pub const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::INCREMENT);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Output `n`, from 1, of the generator seeded with `seed`.
    pub fn output(seed: u64, n: u64) -> u64 {
        Self(seed.wrapping_add(n.wrapping_sub(1).wrapping_mul(Self::INCREMENT))).bits()
    }

    /// Uniform in [0, 1): the upper 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [0, 1): the upper 24 bits.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_those_of_the_reference_implementation() {
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        let mut random = SplitMix64(1_234_567);
        for (n, expected) in (1..).zip(expected) {
            assert_eq!((random.bits(), SplitMix64::output(1_234_567, n)), (expected, expected));
        }
    }
}
