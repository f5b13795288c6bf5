//! Plain loops over f32, compiled for the CPU at hand.
//!
//! [`with`] runs a closure inside a function compiled for the best instruction set that the CPU has; loops written out
//! in the closure are vectorized for it. Sums use sixteen interleaved chains whatever the instruction set, and no
//! multiply-add is fused, so every instruction set gives the same bits.

use rayon::prelude::*;

/// Rows that one task works on. Fixed, so that sums over tasks do not depend on the number of threads.
pub const ROWS_PER_TASK: usize = 64;

/// Runs `f` compiled for this CPU.
#[inline(always)]
pub fn with<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Sum in sixteen interleaved chains.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let (body, tail) = x.as_chunks::<16>();
    let mut lanes = [0.0f32; 16];
    for chunk in body {
        for i in 0..16 {
            lanes[i] += chunk[i];
        }
    }
    tail.iter().fold(fold(&lanes), |sum, x| sum + x)
}

/// Dot product in sixteen interleaved chains.
#[inline(always)]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks::<16>(), y.as_chunks::<16>());
    let mut lanes = [0.0f32; 16];
    for (a, b) in xs.iter().zip(ys) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    x_tail.iter().zip(y_tail).fold(fold(&lanes), |sum, (a, b)| sum + a * b)
}

/// Sum of `x * y * z` in sixteen interleaved chains.
#[inline(always)]
pub fn dot3(x: &[f32], y: &[f32], z: &[f32]) -> f32 {
    let ((xs, x_tail), (ys, y_tail), (zs, z_tail)) = (x.as_chunks::<16>(), y.as_chunks::<16>(), z.as_chunks::<16>());
    let mut lanes = [0.0f32; 16];
    for ((a, b), c) in xs.iter().zip(ys).zip(zs) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i] * c[i];
        }
    }
    x_tail.iter().zip(y_tail).zip(z_tail).fold(fold(&lanes), |sum, ((a, b), c)| sum + a * b * c)
}

/// Largest element; negative infinity of none.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let (body, tail) = x.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in body {
        for i in 0..16 {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

#[inline(always)]
fn fold(lanes: &[f32; 16]) -> f32 {
    let mut half = [0.0f32; 8];
    for i in 0..8 {
        half[i] = lanes[i] + lanes[i + 8];
    }
    let quarter = [half[0] + half[4], half[1] + half[5], half[2] + half[6], half[3] + half[7]];
    (quarter[0] + quarter[2]) + (quarter[1] + quarter[3])
}

/// Sum of squares in f64, in fixed pieces: the same bits for any number of threads.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let pieces: Vec<f64> = x
        .par_chunks(1 << 14)
        .map(|piece| {
            with(
                #[inline(always)]
                || {
                    let mut lanes = [0.0f64; 16];
                    let (body, tail) = piece.as_chunks::<16>();
                    for chunk in body {
                        for i in 0..16 {
                            lanes[i] += f64::from(chunk[i]) * f64::from(chunk[i]);
                        }
                    }
                    let tail: f64 = tail.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                    lanes.iter().sum::<f64>() + tail
                },
            )
        })
        .collect();
    pieces.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_right_and_equal_outside_of_dispatch() {
        let x: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin()).collect();
        let exact: f64 = x.iter().map(|&x| f64::from(x)).sum();
        assert!((f64::from(sum(&x)) - exact).abs() < 1e-4);
        assert_eq!(sum(&x), with(|| sum(&x)));
        assert_eq!(dot(&x, &x), with(|| dot(&x, &x)));
        assert!((sum_of_squares(&x) - f64::from(dot(&x, &x))).abs() < 1e-3);
        assert_eq!(max(&x), x.iter().copied().fold(f32::MIN, f32::max));
    }
}
