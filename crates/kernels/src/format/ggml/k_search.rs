//! Encoders of the k-quants: each group's scale is searched for the least weighted squared error, as ggml does.

use super::{f16_at, f16_bytes, max_abs};

/// Blocks beyond this magnitude cannot have a finite f16 scale in any k-quant; below it no sum overflows.
const LARGEST: f32 = 1e9;

/// Blocks and groups below this magnitude are stored as zeros: an f16 scale could not hold them.
const SMALLEST: f32 = 1e-15;

/// The integer nearest to `x` clamped to `low..=high` (both below 2^22), halves to even; without a library call, so that
/// loops over it vectorize on every processor.
fn nearest(x: f32, low: f32, high: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: f32 has no fraction bits there
    (x.clamp(low, high) + SHIFT) - SHIFT
}

/// Sum in a fixed tree, which maps to vector registers of any width.
fn sum<const N: usize>(mut terms: [f32; N]) -> f32 {
    let mut len = N / 2;
    while len > 0 {
        for i in 0..len {
            terms[i] += terms[i + len];
        }
        len /= 2;
    }
    terms[0]
}

/// Scale `s` of 16 values for quants `-32..=31` that minimises `sum x^2 (x - s q)^2` over a neighbourhood of roundings:
/// for given quants the best scale is `sum x^3 q / sum x^2 q^2`, and the error falls by `(sum x^3 q)^2 / sum x^2 q^2`.
fn symmetric_scale(values: &[f32; 16]) -> f32 {
    let largest = values.iter().fold(0.0f32, |max, v| if v.abs() > max.abs() { *v } else { max });
    if largest.abs() < SMALLEST {
        return 0.0;
    }
    // Relative to the largest value, so that no power of any input over- or underflows.
    let x = values.map(|v| v / largest);
    let x2 = x.map(|x| x * x);
    let x3: [f32; 16] = std::array::from_fn(|i| x2[i] * x[i]);
    let (mut best, mut scale) = (-1.0, 0.0);
    for step in [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let inverse = -(32.0 + 0.1 * step as f32); // the largest value takes the end of the range that has one more
        let quants = x.map(|x| nearest(x * inverse, -32.0, 31.0));
        let dot = sum(std::array::from_fn::<_, 16, _>(|i| x3[i] * quants[i]));
        let norm = sum(std::array::from_fn::<_, 16, _>(|i| x2[i] * quants[i] * quants[i]));
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
/// `sum w (s q - m - x)^2`, `w = rms(x) + |x|`, over a neighbourhood of roundings.
fn scale_and_min(values: &[f32; 32]) -> (f32, f32) {
    let largest = max_abs(values);
    if largest < SMALLEST {
        return (0.0, 0.0);
    }
    let x = values.map(|v| v / largest);
    let rms = (sum(x.map(|x| x * x)) / 32.0).sqrt();
    let w = x.map(|x| rms + x.abs());
    let wx: [f32; 32] = std::array::from_fn(|i| w[i] * x[i]);
    let (sum_w, sum_x) = (sum(w), sum(wx));
    let low = x.iter().fold(0.0f32, |min, v| min.min(*v));
    let range = x.iter().fold(f32::MIN, |max, v| max.max(*v)) - low;
    if range <= 0.0 {
        return (0.0, -low * largest); // all values equal and negative: the minimum says it all
    }
    let error = |scale: f32, min: f32, quants: &[f32; 32]| {
        sum(std::array::from_fn::<_, 32, _>(|i| {
            let difference = scale * quants[i] + min - x[i];
            w[i] * difference * difference
        }))
    };
    let round = |inverse: f32| x.map(|x| nearest((x - low) * inverse, 0.0, 15.0));
    let mut best = (range / 15.0, low);
    let mut least = error(best.0, best.1, &round(15.0 / range));
    for step in 0..=20 {
        let quants = round((14.0 + 0.1 * step as f32) / range);
        let sum_q = sum(std::array::from_fn::<_, 32, _>(|i| w[i] * quants[i]));
        let sum_q2 = sum(std::array::from_fn::<_, 32, _>(|i| w[i] * quants[i] * quants[i]));
        let sum_xq = sum(std::array::from_fn::<_, 32, _>(|i| wx[i] * quants[i]));
        let determinant = sum_w * sum_q2 - sum_q * sum_q;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (sum_w * sum_xq - sum_x * sum_q) / determinant;
        let mut min = (sum_q2 * sum_x - sum_q * sum_xq) / determinant;
        if min > 0.0 {
            (scale, min) = (sum_xq / sum_q2, 0.0);
        }
        let error = error(scale, min, &quants);
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
