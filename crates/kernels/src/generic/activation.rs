//! Element-wise functions, normalisation and rotation.

use crate::plain::{EXP, LN_2, ROUND};
use crate::vector::Floats;

/// Below this, e^x is 0 (the true value is below the smallest normal f32).
const EXP_LOW: f32 = -87.336_54;
/// Above this, e^x is infinite (a little early: the true limit is 88.72).
const EXP_HIGH: f32 = 88.376_26;

/// e^x with a relative error below 2e-7; 0 below -87.34, infinite above 88.37, NaN for NaN.
///
/// As [`plain::exp`](crate::plain::exp), but for the limits, and with fused operations where the processor has them.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn exp<V: Floats>(x: V) -> V {
    // SAFETY: registers only, whose instruction set is this function's condition.
    unsafe {
        let low = V::splat(EXP_LOW);
        let high = V::splat(EXP_HIGH);
        let clamped = low.max(high.min(x));
        let round = V::splat(ROUND);
        let n = clamped.mul_add(V::splat(std::f32::consts::LOG2_E), round).sub(round);
        let r = n.mul_add(V::splat(-LN_2[0]), clamped);
        let r = n.mul_add(V::splat(-LN_2[1]), r);
        let mut p = V::splat(EXP[0]);
        for coefficient in &EXP[1..] {
            p = p.mul_add(r, V::splat(*coefficient));
        }
        let e = p.mul_add(r.mul(r), r.add(V::splat(1.0))).mul(n.exp2_integer());
        let e = x.select_less(low, V::splat(0.0), e);
        high.select_less(x, V::splat(f32::INFINITY), e)
    }
}

/// Applies `one` to every vector of `a` (in place) and `b`, the last one partly filled.
macro_rules! for_vectors {
    ($V:ty, $a:expr, $b:expr, |$x:ident, $y:ident| $value:expr) => {{
        let len = $a.len();
        assert_eq!(len, $b.len());
        let (a, b) = ($a.as_mut_ptr(), $b.as_ptr());
        let mut i = 0;
        // SAFETY: both slices have `len` values (asserted above); i + LANES <= len in the loop, and the last part covers the
        // len - i < LANES values that are left. The instruction set is the condition of every function that uses this.
        unsafe {
            while i + <$V>::LANES <= len {
                let ($x, $y) = (<$V>::load(a.add(i).cast()), <$V>::load(b.add(i).cast()));
                ($value).store(a.add(i));
                i += <$V>::LANES;
            }
            if i < len {
                let ($x, $y) = (<$V>::load_part(a.add(i).cast(), len - i), <$V>::load_part(b.add(i).cast(), len - i));
                ($value).store_part(a.add(i), len - i);
            }
        }
    }};
}

/// `gate = gate / (1 + e^-gate) * up`.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn silu_mul<V: Floats>(gate: &mut [f32], up: &[f32]) {
    for_vectors!(V, gate, up, |g, u| {
        let one = V::splat(1.0);
        g.div(one.add(exp(V::splat(0.0).sub(g)))).mul(u)
    });
}

/// `gate = gelu(gate) * up`, gelu by its tanh approximation: `0.5 g (1 + tanh z)` is `g / (1 + e^(-2z))`.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn gelu_mul<V: Floats>(gate: &mut [f32], up: &[f32]) {
    for_vectors!(V, gate, up, |g, u| {
        let cubic = g.mul(g).mul_add(V::splat(0.044_715), V::splat(1.0));
        // -2 sqrt(2 / pi)
        let minus_2z = g.mul(cubic).mul(V::splat(-1.595_769));
        g.div(V::splat(1.0).add(exp(minus_2z))).mul(u)
    });
}

/// `x += y`.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn add<V: Floats>(x: &mut [f32], y: &[f32]) {
    for_vectors!(V, x, y, |x, y| x.add(y));
}

/// `out = x / sqrt(mean(x^2) + eps) * (w + plus)` for one row.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn rms_norm<V: Floats>(x: &[f32], w: &[f32], eps: f32, plus: f32, out: &mut [f32]) {
    let len = x.len();
    assert!(w.len() == len && out.len() == len);
    let (x, w, out) = (x.as_ptr(), w.as_ptr(), out.as_mut_ptr());
    // SAFETY: all three slices have `len` values (asserted above). Whole vectors are read and written while i + LANES, or
    // i + 4 * LANES, is at most len, and parts cover no more than the len - i values that are left. The instruction set is
    // this function's condition.
    unsafe {
        let mut sums = [V::splat(0.0); 4];
        let mut i = 0;
        while i + 4 * V::LANES <= len {
            for (k, sum) in sums.iter_mut().enumerate() {
                let v = V::load(x.add(i + k * V::LANES).cast());
                *sum = v.mul_add(v, *sum);
            }
            i += 4 * V::LANES;
        }
        while i < len {
            let v = V::load_part(x.add(i).cast(), V::LANES.min(len - i));
            sums[0] = v.mul_add(v, sums[0]);
            i += V::LANES;
        }
        let mean = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum() / len as f32;
        let scale = V::splat(1.0 / (mean + eps).sqrt());
        let plus = V::splat(plus);
        let mut i = 0;
        while i + V::LANES <= len {
            let (x, w) = (V::load(x.add(i).cast()), V::load(w.add(i).cast()));
            x.mul(scale).mul(w.add(plus)).store(out.add(i));
            i += V::LANES;
        }
        if i < len {
            let (x, w) = (V::load_part(x.add(i).cast(), len - i), V::load_part(w.add(i).cast(), len - i));
            x.mul(scale).mul(w.add(plus)).store_part(out.add(i), len - i);
        }
    }
}

/// Rotates components `i` and `i + n` of every head, `n = cos.len()`.
#[inline(always)]
pub(crate) fn rope_halves(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    for head in x.chunks_exact_mut(head_dim) {
        let (a, b) = head.split_at_mut(cos.len());
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        }
    }
}

/// Rotates components `2i` and `2i + 1` of every head.
#[inline(always)]
pub(crate) fn rope_interleaved(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    for head in x.chunks_exact_mut(head_dim) {
        for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
            (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
        }
    }
}
