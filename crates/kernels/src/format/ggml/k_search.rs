//! Encoders of the k-quants: each group's scale is searched for the least weighted squared error, as ggml does.

use super::scale::{f16_at, f16_bytes, max_abs};
use crate::plain;

/// Blocks beyond this magnitude cannot have a finite f16 scale in any k-quant; below it no sum overflows.
const LARGEST: f32 = 1e9;

/// Blocks and groups below this magnitude are stored as zeros: an f16 scale could not hold them.
const SMALLEST: f32 = 1e-15;

/// The integer nearest to `x` clamped to `low..=high` (both below 2^22), ties to even.
#[inline]
fn nearest(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    plain::nearest(x)
}

/// Sums are taken in this many lanes, value `i` in lane `i % 8`, which map to vector registers of any width.
type Lanes = [f32; 8];

/// Sum of the lanes, in a fixed tree.
#[inline]
fn total([a, b, c, d, e, f, g, h]: Lanes) -> f32 {
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Scale `s` of 16 values for quants `-32..=31` that minimises `sum x^2 (x - s q)^2` over a neighbourhood of roundings:
/// for given quants the best scale is `sum x^3 q / sum x^2 q^2`, and the error falls by `(sum x^3 q)^2 / sum x^2 q^2`.
fn symmetric_scale(values: &[f32; 16]) -> f32 {
    let largest = values.iter().fold(0.0f32, |max, v| if v.abs() > max.abs() { *v } else { max });
    if largest.abs() < SMALLEST {
        return 0.0;
    }
    // Relative to the largest value, so that no power of any input over- or underflows.
    let (mut x, mut x2, mut x3) = ([0.0; 16], [0.0; 16], [0.0; 16]);
    for i in 0..16 {
        x[i] = values[i] / largest;
        x2[i] = x[i] * x[i];
        x3[i] = x2[i] * x[i];
    }
    let (mut best, mut scale) = (-1.0, 0.0);
    for step in [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let inverse = -(32.0 + 0.1 * step as f32); // the largest value takes the end of the range that has one more
        let (mut dots, mut norms) = (Lanes::default(), Lanes::default());
        for half in [0, 8] {
            for i in 0..8 {
                let quant = nearest(x[half + i] * inverse, -32.0, 31.0);
                dots[i] += x3[half + i] * quant;
                norms[i] += x2[half + i] * quant * quant;
            }
        }
        let (dot, norm) = (total(dots), total(norms));
        if norm > 0.0 && dot * dot > best * norm {
            scale = dot / norm;
            best = scale * dot;
        }
    }
    scale * largest
}

/// Encodes what [`decode_q6_k`](super::k_quants::decode_q6_k) reads.
pub(super) fn encode_q6_k(values: &[f32; 256], out: &mut [u8; 210]) -> Option<()> {
    if max_abs(values) > LARGEST {
        return None;
    }
    out.fill(0);
    let groups = values.as_chunks::<16>().0;
    let mut scales = [0.0; 16];
    for (scale, group) in scales.iter_mut().zip(groups) {
        *scale = symmetric_scale(group);
    }
    let largest = scales.iter().fold(0.0f32, |max, s| if s.abs() > max.abs() { *s } else { max });
    let inverse = if largest.abs() < SMALLEST { 0.0 } else { -128.0 / largest };
    let d = if inverse == 0.0 { 0.0 } else { 1.0 / inverse };
    out[208..].copy_from_slice(&f16_bytes(d)?);
    let d = f16_at(out, 208);
    for (g, (scale, group)) in scales.iter().zip(groups).enumerate() {
        let step = nearest(scale * inverse, -128.0, 127.0);
        out[192 + g] = step as i8 as u8;
        let scale = d * step;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let (half, strip, start) = (g / 8, g % 8 / 2, g % 2 * 16);
        for (i, v) in group.iter().enumerate() {
            let quant = (nearest(v * inverse, -32.0, 31.0) as i8 + 32) as u8;
            out[64 * half + 32 * (strip % 2) + start + i] |= (quant & 15) << (strip / 2 * 4);
            out[128 + 32 * half + start + i] |= (quant >> 4) << (strip * 2);
        }
    }
    Some(())
}

/// Scale and minimum `(s, m)`, both at least 0, of 32 values for quants `0..=15` that minimise
/// `sum w (s q - m - x)^2`, `w = rms(x) + |x|`, over a neighbourhood of roundings: for given quants that is a linear
/// regression of x on q.
fn scale_and_min(values: &[f32; 32]) -> (f32, f32) {
    let largest = max_abs(values);
    if largest < SMALLEST {
        return (0.0, 0.0);
    }
    let mut x = [Lanes::default(); 4];
    let mut squares = Lanes::default();
    for (x, values) in x.iter_mut().zip(values.as_chunks::<8>().0) {
        for i in 0..8 {
            x[i] = values[i] / largest;
            squares[i] += x[i] * x[i];
        }
    }
    let rms = (total(squares) / 32.0).sqrt();
    let (mut w, mut wx) = (x, x);
    let (mut sum_w, mut sum_x) = (Lanes::default(), Lanes::default());
    for ((w, wx), x) in w.iter_mut().zip(&mut wx).zip(&x) {
        for i in 0..8 {
            w[i] = rms + x[i].abs();
            wx[i] = w[i] * x[i];
            sum_w[i] += w[i];
            sum_x[i] += wx[i];
        }
    }
    let (sum_w, sum_x) = (total(sum_w), total(sum_x));
    let low = x.as_flattened().iter().fold(0.0f32, |min, v| min.min(*v));
    let range = x.as_flattened().iter().fold(f32::MIN, |max, v| max.max(*v)) - low;
    if range <= 0.0 {
        return (0.0, -low * largest); // all values equal and negative: the minimum says it all
    }
    let (mut best, mut least) = ((range / 15.0, low), f64::INFINITY);
    for step in 0..=20 {
        let inverse = (14.0 + 0.1 * step as f32) / range;
        let (mut q, mut q2, mut xq) = (Lanes::default(), Lanes::default(), Lanes::default());
        for ((x, w), wx) in x.iter().zip(&w).zip(&wx) {
            for i in 0..8 {
                let quant = nearest((x[i] - low) * inverse, 0.0, 15.0);
                q[i] += w[i] * quant;
                q2[i] += w[i] * quant * quant;
                xq[i] += wx[i] * quant;
            }
        }
        let (sum_q, sum_q2, sum_xq) = (total(q), total(q2), total(xq));
        let determinant = sum_w * sum_q2 - sum_q * sum_q;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (sum_w * sum_xq - sum_x * sum_q) / determinant;
        let mut min = (sum_q2 * sum_x - sum_q * sum_xq) / determinant;
        if min > 0.0 {
            (scale, min) = (sum_xq / sum_q2, 0.0);
        }
        // The error less sum w x^2, which is the same for all; in f64 because its terms nearly cancel.
        let (s, m) = (f64::from(scale), f64::from(min));
        let [sum_w, sum_x, sum_q, sum_q2, sum_xq] = [sum_w, sum_x, sum_q, sum_q2, sum_xq].map(f64::from);
        let error = s * (s * sum_q2 + 2.0 * (m * sum_q - sum_xq)) + m * (m * sum_w - 2.0 * sum_x);
        if error < least {
            (best, least) = ((scale, min), error);
        }
    }
    (best.0.max(0.0) * largest, -best.1 * largest)
}

/// Encodes what [`decode_q4_k`](super::k_quants::decode_q4_k) reads.
pub(super) fn encode_q4_k(values: &[f32; 256], out: &mut [u8; 144]) -> Option<()> {
    if max_abs(values) > LARGEST {
        return None;
    }
    out.fill(0);
    let groups = values.as_chunks::<32>().0;
    let mut pairs = [(0.0, 0.0); 8];
    for (pair, group) in pairs.iter_mut().zip(groups) {
        *pair = scale_and_min(group);
    }
    let largest_scale = pairs.iter().fold(0.0f32, |max, (scale, _)| max.max(*scale));
    let largest_min = pairs.iter().fold(0.0f32, |max, (_, min)| max.max(*min));
    out[..2].copy_from_slice(&f16_bytes(largest_scale / 63.0)?);
    out[2..4].copy_from_slice(&f16_bytes(largest_min / 63.0)?);
    let (d, dmin) = (f16_at(out, 0), f16_at(out, 2));
    let step =
        |value: f32, largest: f32| if largest > 0.0 { nearest(value * (63.0 / largest), 0.0, 63.0) } else { 0.0 };
    for (g, ((scale, min), group)) in pairs.iter().zip(groups).enumerate() {
        let (scale, min) = (step(*scale, largest_scale), step(*min, largest_min));
        let (s, m) = (scale as u8, min as u8);
        if g < 4 {
            out[4 + g] |= s;
            out[8 + g] |= m;
        } else {
            out[8 + g] = s & 15 | (m & 15) << 4;
            out[g] |= s >> 4 << 6;
            out[4 + g] |= m >> 4 << 6;
        }
        let (scale, min) = (d * scale, dmin * min);
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for (o, v) in out[16 + g / 2 * 32..].iter_mut().zip(group) {
            *o |= (nearest((v + min) * inverse, 0.0, 15.0) as u8) << (g % 2 * 4);
        }
    }
    Some(())
}
