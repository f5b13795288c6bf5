//! How the learning rate and the Arenas strength change, counted in optimizer steps: a pure function of the step, so
//! nothing can be forgotten on resume.

use serde::{Deserialize, Serialize};

/// Shape of the learning rate after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateShape {
    /// Stays at the peak.
    Constant,
    /// Half a cosine down to the minimum.
    Cosine,
    /// Warm-up, stable, decay: constant, then linear to the minimum over the last `decay` share (arXiv 2404.06395).
    Wsd,
}

/// The learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Shape after warm-up.
    pub shape: RateShape,
    /// Highest rate.
    pub peak: f64,
    /// Rate at the end.
    pub minimum: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Share of all steps that [`RateShape::Wsd`] decays over.
    pub decay: f64,
}

impl Rate {
    /// The rate of step `step` (the first is 0) of `steps`.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let span = |from: u64| (steps.saturating_sub(from)).max(1) as f64;
        let share = match self.shape {
            RateShape::Constant => 1.0,
            RateShape::Cosine => {
                let done = (step - self.warmup) as f64 / span(self.warmup);
                0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())
            }
            RateShape::Wsd => {
                let start = steps - ((steps as f64 * self.decay).round() as u64).min(steps);
                1.0 - step.saturating_sub(start) as f64 / span(start)
            }
        };
        self.minimum + (self.peak - self.minimum) * share.max(0.0)
    }
}

/// Shape of the Arenas strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArenasShape {
    /// Always zero.
    Off,
    /// Straight down.
    Linear,
    /// Half a cosine down.
    Cosine,
    /// `e^(-5 t)` less what is left at the end, so that it reaches zero.
    Exponential,
}

/// The strength lambda of `W_eff = Q(W) + lambda W` (arXiv 2601.07892, section 3.2).
///
/// ```
/// use sherry_train::schedule::{Arenas, ArenasShape};
///
/// let arenas = Arenas { shape: ArenasShape::Linear, peak: 1.0, warmup: 0.0, tail: 0.1 };
/// assert_eq!([0, 45, 89, 90, 99].map(|step| arenas.at(step, 100)), [1.0, 0.5, 1.0 - 89.0 / 90.0, 0.0, 0.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arenas {
    /// How it falls.
    pub shape: ArenasShape,
    /// Its highest value.
    pub peak: f64,
    /// Share of all steps over which it first rises linearly from zero; 0: starts at the peak.
    pub warmup: f64,
    /// Share of all steps at the end where it is exactly zero.
    pub tail: f64,
}

impl Arenas {
    /// Never any.
    pub const OFF: Self = Self { shape: ArenasShape::Off, peak: 0.0, warmup: 0.0, tail: 0.0 };

    /// Lambda of step `step` (the first is 0) of `steps`. Exactly zero in the tail, of at least one step.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        if self.shape == ArenasShape::Off {
            return 0.0;
        }
        let share = |share: f64| ((steps as f64 * share).round() as u64).min(steps);
        let end = steps - share(self.tail).max(1).min(steps);
        let top = share(self.warmup).min(end);
        if step >= end {
            return 0.0;
        }
        if step < top {
            return self.peak * step as f64 / top as f64;
        }
        let t = (step - top) as f64 / (end - top) as f64;
        let fall = match self.shape {
            ArenasShape::Off => 0.0,
            ArenasShape::Linear => 1.0 - t,
            ArenasShape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * t).cos()),
            ArenasShape::Exponential => ((-5.0 * t).exp() - (-5.0f64).exp()) / (1.0 - (-5.0f64).exp()),
        };
        self.peak * fall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPES: [ArenasShape; 3] = [ArenasShape::Linear, ArenasShape::Cosine, ArenasShape::Exponential];

    #[test]
    fn lambda_rises_falls_and_ends_at_exactly_zero() {
        for shape in SHAPES {
            for warmup in [0.0, 0.1] {
                let arenas = Arenas { shape, peak: 0.8, warmup, tail: 0.02 };
                let values: Vec<f64> = (0..1000).map(|step| arenas.at(step, 1000)).collect();
                let top = (warmup * 1000.0) as usize;
                assert_eq!(values[top], 0.8);
                assert!(values[..top].windows(2).all(|w| w[0] < w[1]));
                assert!(values[top..980].windows(2).all(|w| w[0] > w[1] && w[1] > 0.0));
                assert!(values[980..].iter().all(|&v| v == 0.0));
                assert!(warmup == 0.0 || values[0] == 0.0);
            }
        }
    }

    #[test]
    fn the_last_step_has_no_lambda_however_short_the_run() {
        for shape in SHAPES {
            for steps in 1..20 {
                let arenas = Arenas { shape, peak: 1.0, warmup: 0.5, tail: 0.0 };
                assert_eq!(arenas.at(steps - 1, steps), 0.0);
                assert!((0..steps + 5).all(|step| (0.0..=1.0).contains(&arenas.at(step, steps))));
            }
        }
    }

    #[test]
    fn rates_by_hand() {
        let rate = |shape| Rate { shape, peak: 1.0, minimum: 0.1, warmup: 10, decay: 0.2 };
        for shape in [RateShape::Constant, RateShape::Cosine, RateShape::Wsd] {
            assert_eq!(rate(shape).at(0, 110), 0.1);
            assert_eq!(rate(shape).at(9, 110), 1.0);
            assert_eq!(rate(shape).at(10, 110), 1.0);
        }
        assert_eq!(rate(RateShape::Constant).at(109, 110), 1.0);
        assert!((rate(RateShape::Cosine).at(60, 110) - 0.55).abs() < 1e-12);
        assert_eq!(rate(RateShape::Wsd).at(88, 110), 1.0);
        assert!((rate(RateShape::Wsd).at(99, 110) - 0.55).abs() < 1e-12);
        for shape in [RateShape::Cosine, RateShape::Wsd] {
            assert!((rate(shape).at(110, 110) - 0.1).abs() < 1e-12);
            assert!(rate(shape).at(1000, 110) > 0.0);
        }
    }
}
