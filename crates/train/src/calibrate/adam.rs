//! Steps in units of what is learned: Adam (arXiv 1412.6980) on the logarithm of every scale, on norms in units of their mean
//! magnitude, on the weights that decide codes, which are in units of their scale already, and on weights that are not
//! quantized, in units of their mean magnitude.

use rayon::prelude::*;

use crate::layout::{Purpose, Tensor};
use crate::simd;

/// How far one step goes at most, about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    /// Of the weights of linear layers.
    pub weights: Weights,
    /// Of scales and norms, relative.
    pub scales: f64,
}

/// What the weights of linear layers are, and the rate of their steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Weights {
    /// They decide codes: in units of the scale.
    Latent(f64),
    /// They are not quantized: relative to the mean magnitude of their tensor.
    Float(f64),
}

impl Rates {
    /// All times a factor.
    pub fn times(self, factor: f64) -> Self {
        let weights = match self.weights {
            Weights::Latent(rate) => Weights::Latent(rate * factor),
            Weights::Float(rate) => Weights::Float(rate * factor),
        };
        Self { weights, scales: self.scales * factor }
    }
}

/// Strength of the residual path of latent weights (Arenas) at a step, from 1 on: falls to zero over half of the steps.
pub(super) fn fading(strength: f32, step: u64, steps: u64) -> f32 {
    strength * (1.0 - 2.0 * (step - 1) as f32 / steps as f32).max(0.0)
}

/// The running means of all that is learned, tensor after tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Adam {
    pub step: u64,
    pub mean: Vec<f32>,
    pub square: Vec<f32>,
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.95;
/// Numbers that one task works on.
const TASK: usize = 1 << 14;

impl Adam {
    /// For `count` numbers.
    pub fn new(count: usize) -> Self {
        Self { step: 0, mean: vec![0.0; count], square: vec![0.0; count] }
    }

    /// One step for these tensors, the same and in the same order every time.
    pub fn step<'a>(
        &mut self,
        tensors: impl Iterator<Item = &'a Tensor>,
        params: &mut [f32],
        grads: &[f32],
        rates: Rates,
    ) {
        self.step += 1;
        let power = |beta: f64| 1.0 - beta.powf(self.step as f64);
        let (first, second) = (power(BETA1), power(BETA2));
        let mut at = 0;
        for tensor in tensors {
            let (values, grads) = (&mut params[tensor.range()], &grads[tensor.range()]);
            let means = &mut self.mean[at..at + values.len()];
            let squares = &mut self.square[at..at + values.len()];
            at += values.len();
            // Norms may be negative or zero, so that their own size is no unit.
            let (unit, rate) = match (tensor.purpose, rates.weights) {
                (Purpose::Learned, _) => (0.0, rates.scales),
                (Purpose::Norm, _) => (magnitude(values), rates.scales),
                (_, Weights::Float(rate)) => (magnitude(values), rate),
                (_, Weights::Latent(rate)) => (1.0, rate),
            };
            let step = Step { rate, first, second };
            let tasks = values.par_chunks_mut(TASK).zip(grads.par_chunks(TASK));
            let tasks = tasks.zip(means.par_chunks_mut(TASK).zip(squares.par_chunks_mut(TASK)));
            tasks.for_each(|((values, grads), (means, squares))| {
                if tensor.purpose == Purpose::Learned {
                    for ((w, g), (m, v)) in values.iter_mut().zip(grads).zip(means.iter_mut().zip(squares)) {
                        let now = f64::from(*w);
                        *w = (now * (-step.by(f64::from(*g) * now, m, v)).exp()) as f32;
                    }
                } else {
                    simd::with(
                        #[inline(always)]
                        || {
                            let move_one = |w: &mut f32, g: f32, m: &mut f32, v: &mut f32| {
                                *w = (f64::from(*w) - unit * step.by(f64::from(g) * unit, m, v)) as f32;
                            };
                            let (values, value_tail) = values.as_chunks_mut::<16>();
                            let (grads, grad_tail) = grads.as_chunks::<16>();
                            let (means, mean_tail) = means.as_chunks_mut::<16>();
                            let (squares, square_tail) = squares.as_chunks_mut::<16>();
                            for ((w, g), (m, v)) in values.iter_mut().zip(grads).zip(means.iter_mut().zip(squares)) {
                                for i in 0..16 {
                                    move_one(&mut w[i], g[i], &mut m[i], &mut v[i]);
                                }
                            }
                            let tails = value_tail.iter_mut().zip(grad_tail).zip(mean_tail.iter_mut().zip(square_tail));
                            tails.for_each(|((w, g), (m, v))| move_one(w, *g, m, v));
                        },
                    );
                }
            });
        }
    }
}

/// A step of one tensor.
struct Step {
    rate: f64,
    /// What the running means are divided by, as they begin with zero.
    first: f64,
    second: f64,
}

impl Step {
    /// How far the step goes, in the unit that the gradient `g` is by; `m` and `v` are the running means.
    #[inline(always)]
    fn by(&self, g: f64, m: &mut f32, v: &mut f32) -> f64 {
        *m += ((g - f64::from(*m)) * (1.0 - BETA1)) as f32;
        *v = (f64::from(*v) * BETA2 + g * g * (1.0 - BETA2)) as f32;
        self.rate * (f64::from(*m) / self.first) / ((f64::from(*v) / self.second).sqrt() + 1e-12)
    }
}

/// Mean magnitude.
fn magnitude(values: &[f32]) -> f64 {
    let sums = values.par_chunks(TASK).map(|part| part.iter().map(|w| f64::from(w.abs())).sum::<f64>());
    sums.collect::<Vec<_>>().iter().sum::<f64>() / values.len().max(1) as f64
}

/// Share of the steps in which the rate rises; then it falls along a cosine to a tenth.
const WARM_UP: f64 = 0.1;

/// What rates are multiplied by in step `step` (the first is 1) of `steps`.
pub(super) fn schedule(step: u64, steps: u64) -> f64 {
    let done = (step - 1) as f64 / steps as f64;
    let rising = (step as f64 / (WARM_UP * steps as f64).max(1.0)).min(1.0);
    let falling = 0.1 + 0.9 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
    rising * falling
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_relative_to_what_is_learned() {
        let tensor = |offset, purpose| Tensor { name: String::new(), shape: vec![2], offset, purpose };
        let tensors = [
            tensor(0, Purpose::Learned),
            tensor(2, Purpose::Norm),
            tensor(4, Purpose::Linear(0, crate::layout::Kind::Q)),
        ];
        let start = [0.01f32, 5.0, -2.0, 4.0, 0.5, -1.499];
        let mut params = start;
        let mut adam = Adam::new(6);
        let rates = Rates { weights: Weights::Latent(0.02), scales: 0.1 };
        // The first step goes the whole rate, whatever the size of the gradient.
        adam.step(tensors.iter(), &mut params, &[3.0, -1e-4, 7.0, -1e-3, -20.0, 1e-2], rates);
        let expected = [0.01 * (-0.1f32).exp(), 5.0 * 0.1f32.exp(), -2.0 - 0.3, 4.0 + 0.3, 0.52, -1.519];
        for (found, expected) in params.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 1e-4, "{params:?}, expected {expected:?}");
        }
        assert_eq!(schedule(1, 1000), 0.01);
        assert!(schedule(100, 1000) > 0.95 && schedule(1000, 1000) < 0.11);
    }

    /// Every value by the formula, one at a time: the vectorized loop gives the same bits, in tensors of several tasks too.
    #[test]
    fn values_step_as_one_at_a_time() {
        use crate::layout::Kind;
        let len = TASK + 37;
        for (purpose, weights) in [
            (Purpose::Learned, Weights::Latent(0.02)),
            (Purpose::Norm, Weights::Latent(0.02)),
            (Purpose::Linear(0, Kind::Q), Weights::Latent(0.02)),
            (Purpose::Linear(0, Kind::Q), Weights::Float(0.03)),
        ] {
            let mut rng = crate::rng::Rng::new(7, 0);
            let mut draw = |size: f64| (size * (2.0 * rng.uniform() - 1.0)) as f32;
            let tensor = Tensor { name: String::new(), shape: vec![len], offset: 0, purpose };
            let mut params: Vec<f32> = (0..len).map(|_| draw(1.5)).collect();
            let (mut one, mut mean, mut square) = (params.clone(), vec![0.0f32; len], vec![0.0f32; len]);
            let mut adam = Adam::new(len);
            for step in 1..=3i32 {
                let grads: Vec<f32> = (0..len).map(|i| if i % 5 == 0 { 0.0 } else { draw(1e-3) }).collect();
                adam.step([&tensor].into_iter(), &mut params, &grads, Rates { weights, scales: 0.01 });
                let magnitude = magnitude(&one);
                let (first, second) = (1.0 - BETA1.powf(f64::from(step)), 1.0 - BETA2.powf(f64::from(step)));
                for i in 0..len {
                    let now = f64::from(one[i]);
                    let (unit, rate) = match (purpose, weights) {
                        (Purpose::Learned, _) => (now, 0.01),
                        (Purpose::Norm, _) => (magnitude, 0.01),
                        (_, Weights::Latent(rate)) => (1.0, rate),
                        (_, Weights::Float(rate)) => (magnitude, rate),
                    };
                    let g = f64::from(grads[i]) * unit;
                    mean[i] += ((g - f64::from(mean[i])) * (1.0 - BETA1)) as f32;
                    square[i] = (f64::from(square[i]) * BETA2 + g * g * (1.0 - BETA2)) as f32;
                    let by = rate * (f64::from(mean[i]) / first) / ((f64::from(square[i]) / second).sqrt() + 1e-12);
                    one[i] = match (purpose, weights) {
                        (Purpose::Learned, _) => now * (-by).exp(),
                        (Purpose::Linear(..), Weights::Latent(_)) => now - by,
                        _ => now - magnitude * by,
                    } as f32;
                }
                let differ = params.iter().zip(&one).position(|(a, b)| a.to_bits() != b.to_bits());
                assert_eq!(differ, None, "{purpose:?}, {weights:?}, step {step}");
            }
        }
    }
}
