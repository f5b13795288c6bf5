//! RMSNorm: `y = x * w / sqrt(mean(x^2) + eps)` per row.

use rayon::prelude::*;

use crate::simd::{self, ROWS_PER_TASK};

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (simd::dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// `y = rmsnorm(x) * w`, rows of `w.len()`.
pub fn forward(y: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    forward_with(y, x, w, eps, |y, value| *y = value);
}

/// `y += rmsnorm(x) * w`, rows of `w.len()`.
pub fn forward_add(y: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    forward_with(y, x, w, eps, |y, value| *y += value);
}

fn forward_with(y: &mut [f32], x: &[f32], w: &[f32], eps: f32, put: impl Fn(&mut f32, f32) + Sync) {
    let cols = w.len();
    y.par_chunks_mut(ROWS_PER_TASK * cols).zip(x.par_chunks(ROWS_PER_TASK * cols)).for_each(|(y, x)| {
        simd::with(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(cols).zip(x.chunks_exact(cols)) {
                    let r = inverse_rms(x, eps);
                    for i in 0..cols {
                        put(&mut y[i], x[i] * r * w[i]);
                    }
                }
            },
        );
    });
}

/// `dx += d rmsnorm / dx * dy`, `dw += d rmsnorm / dw * dy`, for the `x` given to [`forward`].
///
/// With `u = dy * w` and `r` the inverse root mean square: `dx = r * u - x * r^3 * mean(u * x)`, `dw = sum dy * x * r`.
pub fn backward(dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], eps: f32) {
    let cols = w.len();
    let piece = ROWS_PER_TASK * cols;
    let partial: Vec<Vec<f32>> = dx
        .par_chunks_mut(piece)
        .zip(dy.par_chunks(piece).zip(x.par_chunks(piece)))
        .map(|(dx, (dy, x))| {
            let mut dw = vec![0.0f32; cols];
            simd::with(
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(cols).zip(dy.chunks_exact(cols)).zip(x.chunks_exact(cols));
                    for ((dx, dy), x) in rows {
                        let r = inverse_rms(x, eps);
                        let c = simd::dot3(dy, w, x) / cols as f32 * r * r * r;
                        for i in 0..cols {
                            dx[i] += dy[i] * w[i] * r - x[i] * c;
                            dw[i] += dy[i] * x[i] * r;
                        }
                    }
                },
            );
            dw
        })
        .collect();
    for partial in partial {
        for (dw, p) in dw.iter_mut().zip(partial) {
            *dw += p;
        }
    }
}
