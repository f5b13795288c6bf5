//! Projections whose scale is a function of the weights. Each writes `alpha * T` of one scale group.
//!
//! Codes and scales equal those of `sherry_convert::quant` bit for bit: sums in f64 in the same order, the same ties.

use sherry_kernels::format::QuadOrder;

use super::stored;

/// Sparse-AbsMean: the smallest magnitude of every quad becomes zero (the lowest lane of equal ones), the others keep
/// their sign (zeros count as +), `alpha` is the mean of the kept magnitudes.
#[inline(always)]
pub(super) fn sherry(w: &[f32], out: &mut [f32], quads: QuadOrder) {
    let kept = codes(w, out, quads);
    scale(out, kept / (w.len() / 4 * 3) as f64);
}

/// The codes of [`sherry`], -1, 0 and 1, and the sum of the kept magnitudes.
#[inline(always)]
pub(super) fn codes(w: &[f32], out: &mut [f32], quads: QuadOrder) -> f64 {
    let mut sum = 0.0f64;
    match quads {
        QuadOrder::Contiguous => {
            for (w, out) in w.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<4>().0) {
                let (t, kept) = quad(*w);
                *out = t;
                sum += kept;
            }
        }
        QuadOrder::Stride16 => {
            for (w, out) in w.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<64>().0) {
                for i in 0..16 {
                    let (t, kept) = quad([w[i], w[i + 16], w[i + 32], w[i + 48]]);
                    for lane in 0..4 {
                        out[i + 16 * lane] = t[lane];
                    }
                    sum += kept;
                }
            }
        }
    }
    sum
}

/// Codes of one quad and the sum of the kept magnitudes, in lane order.
#[inline(always)]
fn quad(w: [f32; 4]) -> ([f32; 4], f64) {
    let a = w.map(f32::abs);
    let low = if a[1] < a[0] { (a[1], 1) } else { (a[0], 0) };
    let low = if a[2] < low.0 { (a[2], 2) } else { low };
    let zero = if a[3] < low.0 { 3 } else { low.1 };
    let (mut t, mut sum) = ([0.0; 4], 0.0f64);
    for lane in 0..4 {
        let sign = if w[lane] < 0.0 { -1.0 } else { 1.0 };
        t[lane] = if lane == zero { 0.0 } else { sign };
        sum += if lane == zero { 0.0 } else { f64::from(a[lane]) };
    }
    (t, sum)
}

/// BitNet b1.58.
#[inline(always)]
pub(super) fn abs_mean(w: &[f32], out: &mut [f32]) {
    let alpha = mean(w);
    cut(w, out, alpha / 2.0);
    scale(out, alpha);
}

/// Like [`abs_mean`] with the median magnitude, the lower of two.
#[inline(always)]
pub(super) fn abs_median(w: &[f32], out: &mut [f32]) {
    let mut magnitudes: Vec<f32> = w.iter().map(|w| w.abs()).collect();
    let middle = (magnitudes.len() - 1) / 2;
    let alpha = f64::from(*magnitudes.select_nth_unstable_by(middle, f32::total_cmp).1);
    cut(w, out, alpha / 2.0);
    scale(out, alpha);
}

/// Ternary weight networks.
#[inline(always)]
pub(super) fn twn(w: &[f32], out: &mut [f32]) {
    cut(w, out, 0.75 * mean(w));
    let (mut sum, mut count) = (0.0f64, 0u64);
    for (w, t) in w.iter().zip(&*out) {
        if *t != 0.0 {
            sum += f64::from(w.abs());
            count += 1;
        }
    }
    scale(out, if count == 0 { 0.0 } else { sum / count as f64 });
}

/// Signs times the mean magnitude; zeros count as +.
#[inline(always)]
pub(super) fn binary(w: &[f32], out: &mut [f32]) {
    for (w, out) in w.iter().zip(out.iter_mut()) {
        *out = if *w < 0.0 { -1.0 } else { 1.0 };
    }
    scale(out, mean(w));
}

/// `dw += pass * g`, and `tequila * d_bias` of their row for the weights that AbsMean zeroes.
#[inline(always)]
pub(super) fn tequila_gradient(
    w: &[f32],
    g: &[f32],
    dw: &mut [f32],
    pass: f32,
    cols: usize,
    tequila: f32,
    d_bias: &[f32],
) {
    let threshold = mean(w) / 2.0;
    let rows = dw.chunks_mut(cols).zip(w.chunks(cols).zip(g.chunks(cols)));
    for ((dw, (w, g)), d_bias) in rows.zip(d_bias) {
        for ((dw, w), g) in dw.iter_mut().zip(w).zip(g) {
            *dw += pass * g + if f64::from(w.abs()) <= threshold { tequila * d_bias } else { 0.0 };
        }
    }
}

/// Mean magnitude in f64, in order.
#[inline(always)]
pub(super) fn mean(w: &[f32]) -> f64 {
    w.iter().map(|w| f64::from(w.abs())).sum::<f64>() / w.len() as f64
}

#[inline(always)]
fn cut(w: &[f32], out: &mut [f32], threshold: f64) {
    for (w, out) in w.iter().zip(out) {
        let sign = if *w < 0.0 { -1.0 } else { 1.0 };
        *out = if f64::from(w.abs()) > threshold { sign } else { 0.0 };
    }
}

#[inline(always)]
fn scale(codes: &mut [f32], alpha: f64) {
    let alpha = stored(alpha as f32);
    for t in codes {
        *t *= alpha;
    }
}
