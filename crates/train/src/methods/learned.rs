//! Projections with learned scales. Each works on one scale group; gradients return the sums for the learned numbers.

use sherry_kernels::plain::nearest as round;

use super::stored;

/// Scales below this are lifted to it, as in the published code.
const SMALLEST: f32 = 1e-5;

/// SEQ: values are clipped to this share of the range before rounding to levels -1, 0, 1 of 2/3 of it.
const SEQ_CLIP: f32 = 0.99;
const SEQ_LEVELS: f32 = 1.5;

#[inline(always)]
fn clip(x: f32, limit: f32) -> f32 {
    let x = if x < -limit { -limit } else { x };
    if x > limit { limit } else { x }
}

/// The scale that the forward pass uses: large enough to divide by, and what an f16 holds of it.
pub(super) fn used(scale: f32) -> f32 {
    stored(scale.max(SMALLEST))
}

/// `a * w`: the weights are codes.
#[inline(always)]
pub(super) fn codes(w: &[f32], out: &mut [f32], scale: f32) {
    let a = used(scale);
    for (w, out) in w.iter().zip(out) {
        *out = a * w;
    }
}

/// Weights pass `a g`.
#[inline(always)]
pub(super) fn codes_gradient(g: &[f32], dw: &mut [f32], scale: f32) {
    let a = used(scale);
    for (g, dw) in g.iter().zip(dw) {
        *dw += a * g;
    }
}

/// `a * clip(round(w / a), -1, 1)`.
#[inline(always)]
pub(super) fn lsq(w: &[f32], out: &mut [f32], scale: f32) {
    let a = used(scale);
    for (w, out) in w.iter().zip(out) {
        *out = a * round(clip(w / a, 1.0));
    }
}

/// Weights inside the range pass their gradient; `da = sum g * (round(x) - x)` inside, `+-g` outside, `x = w / a`.
#[inline(always)]
pub(super) fn lsq_gradient(w: &[f32], g: &[f32], dw: &mut [f32], scale: f32, lambda: f32) -> f32 {
    let a = used(scale);
    let mut sum = 0.0;
    for ((w, g), dw) in w.iter().zip(g).zip(dw) {
        let x = w / a;
        let inside = x.abs() <= 1.0;
        *dw += if inside { g + lambda * g } else { lambda * g };
        sum += g * if inside { round(x) - x } else { clip(x, 1.0) };
    }
    sum
}

/// `a * round(1.5 clip(w / a, -0.99, 0.99)) / 1.5`.
#[inline(always)]
pub(super) fn seq(w: &[f32], out: &mut [f32], scale: f32) {
    let a = used(scale);
    let step = stored(a / SEQ_LEVELS);
    for (w, out) in w.iter().zip(out) {
        *out = step * round(clip(w / a, SEQ_CLIP) * SEQ_LEVELS);
    }
}

/// As [`lsq_gradient`] with the stretched levels; the outermost level counts as +-1 outside the range.
#[inline(always)]
pub(super) fn seq_gradient(w: &[f32], g: &[f32], dw: &mut [f32], scale: f32, lambda: f32) -> f32 {
    let a = used(scale);
    let mut sum = 0.0;
    for ((w, g), dw) in w.iter().zip(g).zip(dw) {
        let x = w / a;
        let inside = x.abs() <= SEQ_CLIP;
        *dw += if inside { g + lambda * g } else { lambda * g };
        sum += g * if inside { round(x * SEQ_LEVELS) / SEQ_LEVELS - x } else { clip(x, 1.0).signum() };
    }
    sum
}

/// `a T + shift`, `T = clip(round((w - shift) / a), -1, 1)`.
#[inline(always)]
pub(super) fn dlt(w: &[f32], out: &mut [f32], scale: f32, shift: f32) {
    let (a, shift) = (used(scale), stored(shift));
    for (w, out) in w.iter().zip(out) {
        *out = a * round(clip((w - shift) / a, 1.0)) + shift;
    }
}

/// Weights pass straight through; `da = sum g T`, `dshift = sum g`.
#[inline(always)]
pub(super) fn dlt_gradient(w: &[f32], g: &[f32], dw: &mut [f32], scale: f32, shift: f32, lambda: f32) -> [f32; 2] {
    let (a, shift) = (used(scale), stored(shift));
    let (mut da, mut ds) = (0.0, 0.0);
    for ((w, g), dw) in w.iter().zip(g).zip(dw) {
        *dw += g + lambda * g;
        da += g * round(clip((w - shift) / a, 1.0));
        ds += g;
    }
    [da, ds]
}
