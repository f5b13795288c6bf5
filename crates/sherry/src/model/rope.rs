//! Rotary position embedding.

use std::f64::consts::TAU;

use sherry_kernels::Engine;

use super::{ArchConfig, RopeLayout, RopeScaling};

/// GGUF's tensor of divisors.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";
/// GGUF's two of LongRoPE.
pub(super) const ROPE_LONG: &str = "rope_factors_long.weight";
pub(super) const ROPE_SHORT: &str = "rope_factors_short.weight";

/// The angular frequencies of a model: global ones and, where they differ, those of sliding-window layers.
#[derive(Clone, Debug)]
pub struct Frequencies {
    global: Vec<f64>,
    local: Option<Vec<f64>>,
    /// Multiplies cosines and sines of the global ones.
    magnitude: f64,
}

impl Frequencies {
    /// Frequencies of `config` for runs as long as the model was made for, computed in f64: `theta^(-2i/head_dim)` for pair
    /// `i`, then scaled.
    pub fn new(config: &ArchConfig) -> Self {
        Self::for_context(config, config.context)
    }

    /// Frequencies for runs of at most `context` positions, which LongRoPE distinguishes: by the length that a run may
    /// reach and not by the one it has, since keys that are in the cache cannot be turned otherwise afterwards.
    pub fn for_context(config: &ArchConfig, context: usize) -> Self {
        let base = |theta: f32| -> Vec<f64> {
            let d = config.head_dim as f64;
            (0..config.head_dim / 2).map(|i| f64::from(theta).powf(-2.0 * i as f64 / d)).collect()
        };
        let mut global = base(config.rope.theta);
        for (i, f) in global.iter_mut().enumerate() {
            *f = scale(*f, i, config, context);
        }
        let magnitude = match config.rope.scaling {
            RopeScaling::Yarn { magnitude, .. } | RopeScaling::LongRope { magnitude, .. } => magnitude.into(),
            _ => 1.0,
        };
        Self { global, local: config.rope.local_theta.map(base), magnitude }
    }

    /// Radians per position for each of the `head_dim / 2` pairs.
    pub fn of(&self, sliding: bool) -> &[f64] {
        match &self.local {
            Some(local) if sliding => local,
            _ => &self.global,
        }
    }

    /// Whether sliding-window layers rotate differently.
    pub fn has_local(&self) -> bool {
        self.local.is_some()
    }

    /// What cosines and sines are multiplied by: 1 but for YaRN and LongRoPE.
    pub fn magnitude(&self, sliding: bool) -> f64 {
        if sliding && self.has_local() { 1.0 } else { self.magnitude }
    }

    /// Appends the cosines (`head_dim / 2`), then the sines of `position` to `out`. Angles and functions are computed
    /// in f64: an f32 angle at position 100,000 would already be off by 0.004 radians.
    pub fn push_table(&self, sliding: bool, position: usize, out: &mut Vec<f32>) {
        let (angle, magnitude) = (|f: &f64| position as f64 * f, self.magnitude(sliding));
        out.extend(self.of(sliding).iter().map(|f| (magnitude * angle(f).cos()) as f32));
        out.extend(self.of(sliding).iter().map(|f| (magnitude * angle(f).sin()) as f32));
    }
}

fn scale(frequency: f64, pair: usize, config: &ArchConfig, context: usize) -> f64 {
    match &config.rope.scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / f64::from(*factor),
        RopeScaling::Factors(factors) => frequency / f64::from(factors[pair]),
        RopeScaling::LongRope { short, long, original_context, .. } => {
            frequency / f64::from(if context > *original_context { long[pair] } else { short[pair] })
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
            let (size, theta) = (config.head_dim as f64, f64::from(config.rope.theta));
            // The pair, as a real number, that turns `turns` times within the trained context.
            let pair_of =
                |turns: f32| size * (*original_context as f64 / (f64::from(turns) * TAU)).ln() / (2.0 * theta.ln());
            let low = pair_of(*beta_fast).floor().max(0.0);
            let high = pair_of(*beta_slow).ceil().min(size - 1.0);
            let ramp = ((pair as f64 - low) / if high == low { 0.001 } else { high - low }).clamp(0.0, 1.0);
            frequency * (ramp / f64::from(*factor) + 1.0 - ramp)
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let (low, high) = (f64::from(*low_freq_factor), f64::from(*high_freq_factor));
            let turns = *original_context as f64 * frequency / TAU; // within the trained context
            if turns > high {
                frequency
            } else if turns < low {
                frequency / f64::from(*factor)
            } else {
                let keep = (turns - low) / (high - low);
                frequency * (keep + (1.0 - keep) / f64::from(*factor))
            }
        }
    }
}

/// The tensors with which GGUF says how frequencies are scaled, by name: one divisor per rotated pair. None where there is no
/// scaling, or one that keys say.
pub fn rope_factors(config: &ArchConfig) -> Vec<(&'static str, Vec<f32>)> {
    match &config.rope.scaling {
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Yarn { .. } => Vec::new(),
        RopeScaling::Factors(factors) => vec![(ROPE_FREQS, factors.clone())],
        RopeScaling::LongRope { short, long, .. } => {
            vec![(ROPE_LONG, long.clone()), (ROPE_SHORT, short.clone())]
        }
        RopeScaling::Llama3 { .. } => {
            let mut plain = config.clone();
            plain.rope.scaling = RopeScaling::None;
            let (plain, scaled) = (Frequencies::new(&plain), Frequencies::new(config));
            vec![(ROPE_FREQS, plain.global.iter().zip(&scaled.global).map(|(p, s)| (p / s) as f32).collect())]
        }
    }
}

/// Rotates every head of `x` (heads x head_dim) by `table` (cosines, then sines, `head_dim / 2` each).
pub fn rotate(engine: &Engine, x: &mut [f32], table: &[f32], layout: RopeLayout) {
    let (cos, sin) = table.split_at(table.len() / 2);
    match layout {
        RopeLayout::Halves => engine.rope_halves(x, table.len(), cos, sin),
        RopeLayout::Interleaved => engine.rope_interleaved(x, table.len(), cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use sherry_kernels::{Isa, Precision};

    use super::*;
    use crate::model::{Family, synthetic::tiny};

    #[test]
    fn layouts_agree_up_to_the_row_permutation() {
        let mut table = Vec::new();
        let mut config = tiny(Family::Llama);
        config.head_dim = 8;
        Frequencies::new(&config).push_table(false, 5, &mut table);
        let halves: Vec<f32> = (0..8).map(|i| i as f32 + 0.5).collect();
        let interleaved: Vec<f32> = (0..8).map(|i| halves[i / 2 + (i % 2) * 4]).collect();
        let (mut a, mut b) = (halves, interleaved);
        let engine = Engine::new(Isa::Scalar, 1, Precision::F32);
        rotate(&engine, &mut a, &table, RopeLayout::Halves);
        rotate(&engine, &mut b, &table, RopeLayout::Interleaved);
        for i in 0..8 {
            assert_eq!(b[i], a[i / 2 + (i % 2) * 4]);
        }
    }

    #[test]
    fn llama3_scaling_keeps_fast_and_divides_slow_pairs() {
        let mut config = tiny(Family::Llama);
        config.head_dim = 64;
        config.rope.theta = 500_000.0;
        let plain = Frequencies::new(&config);
        config.rope.scaling =
            RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
        let scaled = Frequencies::new(&config);
        let ratio: Vec<f64> = plain.of(false).iter().zip(scaled.of(false)).map(|(p, s)| p / s).collect();
        assert_eq!(ratio[0], 1.0);
        assert!((ratio[31] - 32.0).abs() < 1e-9);
        assert!(ratio.windows(2).all(|w| w[0] <= w[1] + 1e-12));
        // Pair 16: 8192 * 500000^-0.5 / 2 pi = 1.8438 turns, so 0.28127 is kept.
        assert!((1.0 / ratio[16] - (0.28127 + 0.71873 / 32.0)).abs() < 1e-4, "{}", ratio[16]);
    }
}
