//! AdamW (arXiv 1711.05101) on f32 masters, in PyTorch's order of operations, with clipping by the global norm.

use rayon::prelude::*;

use crate::layout::Tensor;
use crate::simd;

/// The optimizer's constants.
///
/// ```
/// use sherry_train::adamw::{AdamW, Moments};
/// use sherry_train::layout::{Purpose, Tensor};
///
/// let adamw = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, clip: 1.0 };
/// let tensor = Tensor { name: "w".to_owned(), shape: vec![2], offset: 0, purpose: Purpose::Norm };
/// let (mut params, grads, mut moments) = ([1.0, 1.0], [0.3, -0.4], Moments::new(2));
/// adamw.step(&[tensor], &mut params, &grads, &mut moments, 1, 0.01, 0.5);
/// assert!((params[0] - 0.99).abs() < 1e-6 && (params[1] - 1.01).abs() < 1e-6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of squared gradients.
    pub beta2: f32,
    /// Added to the root.
    pub eps: f32,
    /// Decoupled weight decay of matrices; norms and scales do not decay.
    pub weight_decay: f32,
    /// Largest norm of all gradients together; 0: no clipping.
    pub clip: f32,
}

/// Running means, as long as the parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Mean of gradients.
    pub mean: Vec<f32>,
    /// Mean of squared gradients.
    pub square: Vec<f32>,
}

impl Moments {
    /// All zero.
    pub fn new(len: usize) -> Self {
        Self { mean: vec![0.0; len], square: vec![0.0; len] }
    }
}

impl AdamW {
    /// Applies step `step` (the first is 1) with learning rate `lr`; `grad_norm` is the norm of all of `grads`.
    #[allow(clippy::too_many_arguments)] // the textbook's arguments
    pub fn step(
        &self,
        tensors: &[Tensor],
        params: &mut [f32],
        grads: &[f32],
        moments: &mut Moments,
        step: u64,
        lr: f64,
        grad_norm: f64,
    ) {
        let clip = f64::from(self.clip);
        let coefficient = if clip > 0.0 { (clip / (grad_norm + 1e-6)).min(1.0) as f32 } else { 1.0 };
        let power = |beta: f32| 1.0 - f64::from(beta).powf(step as f64);
        let rate = (lr / power(self.beta1)) as f32;
        let root = power(self.beta2).sqrt() as f32;
        let Self { beta1, beta2, eps, .. } = *self;
        for tensor in tensors {
            let range = tensor.range();
            let keep = if tensor.decays() { (1.0 - lr * f64::from(self.weight_decay)) as f32 } else { 1.0 };
            const PIECE: usize = 1 << 14;
            params[range.clone()]
                .par_chunks_mut(PIECE)
                .zip(grads[range.clone()].par_chunks(PIECE))
                .zip(moments.mean[range.clone()].par_chunks_mut(PIECE))
                .zip(moments.square[range].par_chunks_mut(PIECE))
                .for_each(|(((w, g), m), v)| {
                    simd::with(
                        #[inline(always)]
                        || {
                            for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                                let g = g * coefficient;
                                *m += (g - *m) * (1.0 - beta1);
                                *v = *v * beta2 + g * g * (1.0 - beta2);
                                *w = *w * keep - rate * (*m / (v.sqrt() / root + eps));
                            }
                        },
                    );
                });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Purpose;

    /// The formulas of the paper in f64.
    #[test]
    fn equals_the_textbook() {
        let purpose = |p| Tensor { name: String::new(), shape: vec![3], offset: 0, purpose: p };
        for (purpose, decay) in [(purpose(Purpose::Head), 0.1), (purpose(Purpose::Norm), 0.0)] {
            let adam = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 };
            let (mut w, mut moments) = (vec![0.5f32, -1.0, 2.0], Moments::new(3));
            let (mut x, mut m, mut v) = ([0.5f64, -1.0, 2.0], [0.0; 3], [0.0; 3]);
            for step in 1..=5u64 {
                let g = [0.3, -4.0 / step as f64, 0.01];
                let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
                let g32 = g.map(|g| g as f32);
                adam.step(std::slice::from_ref(&purpose), &mut w, &g32, &mut moments, step, 0.01, norm);
                for i in 0..3 {
                    let g = g[i] * (1.0 / (norm + 1e-6)).min(1.0);
                    m[i] = 0.9 * m[i] + 0.1 * g;
                    v[i] = 0.95 * v[i] + 0.05 * g * g;
                    let (mh, vh) = (m[i] / (1.0 - 0.9f64.powf(step as f64)), v[i] / (1.0 - 0.95f64.powf(step as f64)));
                    x[i] -= 0.01 * (mh / (vh.sqrt() + 1e-8) + decay * x[i]);
                    assert!((f64::from(w[i]) - x[i]).abs() < 2e-6, "{} {}", w[i], x[i]);
                }
            }
        }
    }
}
