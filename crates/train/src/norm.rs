//! RMSNorm with its weights among the parameters.

use std::borrow::Cow;
use std::ops::Range;

use sherry::model::ArchConfig;

use crate::ops::rmsnorm;

/// A norm: where its weights lie and what they mean.
#[derive(Clone, Debug)]
pub struct Norm {
    weights: Range<usize>,
    eps: f32,
    plus_one: bool,
}

impl Norm {
    /// The norm whose weights lie at `weights`, as `arch` has them.
    pub fn new(arch: &ArchConfig, weights: Range<usize>) -> Self {
        Self { weights, eps: arch.norm_eps, plus_one: arch.norm_plus_one }
    }

    /// Where its weights lie in the parameters.
    pub fn range(&self) -> Range<usize> {
        self.weights.clone()
    }

    /// What it multiplies by: its weights, or one more than those. The gradient of both is the same.
    pub fn gains<'a>(&self, params: &'a [f32]) -> Cow<'a, [f32]> {
        let weights = &params[self.range()];
        match self.plus_one {
            true => weights.iter().map(|w| 1.0 + w).collect(),
            false => Cow::Borrowed(weights),
        }
    }

    /// `y = norm(x)`, rows as wide as the norm.
    pub fn forward(&self, y: &mut [f32], x: &[f32], params: &[f32]) {
        rmsnorm::forward(y, x, &self.gains(params), self.eps);
    }

    /// `y += norm(x)`.
    pub fn forward_add(&self, y: &mut [f32], x: &[f32], params: &[f32]) {
        rmsnorm::forward_add(y, x, &self.gains(params), self.eps);
    }

    /// Adds to `dx` and to the gradient of the weights what [`forward`](Self::forward) makes of `dy`.
    pub fn backward(&self, dx: &mut [f32], dy: &[f32], x: &[f32], params: &[f32], grads: &mut [f32]) {
        rmsnorm::backward(dx, &mut grads[self.range()], dy, x, &self.gains(params), self.eps);
    }
}
