//! Types whose values are whole numbers, of a range of the type, times one f16 scale per block.
//!
//! Rounding that knows more than the weights chooses levels and scales itself; here they become bytes.

use super::scale::{f16_at, max_abs};
use crate::format::TensorType;
use crate::format::half::{f16_to_f32, f32_to_f16};
use crate::plain::nearest;

/// The smallest and the largest level of a uniform type; `None` of all others. Scales may be negative.
pub const fn level_range(ty: TensorType) -> Option<(i8, i8)> {
    match ty {
        TensorType::Q2_0 | TensorType::PQ2_0 => Some((-1, 2)),
        TensorType::SQ3_0 => Some((-4, 3)),
        TensorType::Q4_0 => Some((-8, 7)),
        TensorType::Q5_0 => Some((-16, 15)),
        TensorType::Q8_0 => Some((-127, 127)),
        _ => None,
    }
}

/// Writes one block of the uniform type `ty`: the scale's f16 bits, and the levels.
///
/// # Panics
/// When the type is not uniform, the lengths are not those of a block, or a level is out of range.
pub fn pack_levels(ty: TensorType, scale: u16, levels: &[i8], out: &mut [u8]) {
    let (low, high) = level_range(ty).unwrap_or_else(|| panic!("{ty} is not uniform"));
    assert_eq!((levels.len(), out.len()), (ty.block_len(), ty.block_bytes()), "one block of {ty}");
    assert!(levels.iter().all(|level| (low..=high).contains(level)), "levels of {ty} are {low} to {high}");
    let codes = |i: usize| (levels[i] - low) as u8;
    let (head, rest) = out.split_at_mut(2);
    head.copy_from_slice(&scale.to_le_bytes());
    match ty {
        TensorType::Q8_0 => rest.iter_mut().zip(levels).for_each(|(out, level)| *out = level.cast_unsigned()),
        TensorType::Q2_0 | TensorType::PQ2_0 | TensorType::SQ3_0 => {
            let (low_bits, high_bits) = rest.split_at_mut(levels.len() / 4);
            for (byte, out) in low_bits.iter_mut().enumerate() {
                *out = (0..4).fold(0, |bits, i| bits | (codes(4 * byte + i) & 3) << (2 * i));
            }
            for (byte, out) in high_bits.iter_mut().enumerate() {
                *out = (0..8).fold(0, |bits, i| bits | codes(8 * byte + i) >> 2 << i);
            }
        }
        _ => {
            let (high_bits, nibbles) = rest.split_at_mut(rest.len() - 16);
            for (i, out) in nibbles.iter_mut().enumerate() {
                *out = codes(i) & 15 | (codes(i + 16) & 15) << 4;
            }
            let fifth = (0..32).fold(0u32, |bits, i| bits | u32::from(codes(i) >> 4) << i);
            high_bits.copy_from_slice(&fifth.to_le_bytes()[..high_bits.len()]);
        }
    }
}

/// The codes of a block of Q2_0, PQ2_0 or SQ3_0, which count from its lowest level: after the scale the two low bits of all, then
/// the third bits of SQ3_0.
pub(crate) fn short_codes(block: &[u8], codes: &mut [u8]) {
    let (low_bits, high_bits) = block[2..].split_at(codes.len() / 4);
    for (i, code) in codes.iter_mut().enumerate() {
        let high = high_bits.get(i / 8).map_or(0, |byte| byte >> (i % 8) & 1);
        *code = low_bits[i / 4] >> (2 * (i % 4)) & 3 | high << 2;
    }
}

/// `d` f16, 16 bytes of the low two bits of the codes, 8 bytes of their high bits: `d * (code - 4)`.
pub(super) fn decode_sq3_0(block: &[u8; 26], out: &mut [f32; 64]) {
    let (d, mut codes) = (f16_at(block, 0), [0; 64]);
    short_codes(block, &mut codes);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = d * f32::from(code as i8 - 4);
    }
}

/// The level of a uniform type nearest to `x`, halves upwards; NaN gives the lowest.
#[inline(always)]
pub fn nearest_level(x: f32, (low, high): (i8, i8)) -> f32 {
    let x = if x > f32::from(low) { x } else { f32::from(low) };
    let x = if x < f32::from(high) { x } else { f32::from(high) } + 0.5;
    // Rounded down, without a call of a library.
    let near = nearest(x);
    if near > x { near - 1.0 } else { near }
}

/// Scales tried per sign.
const TRIES: usize = 24;

/// The scale, as an f16 number, and levels that make the squared error of `values` small: scales from where the largest
/// magnitude is just held to where it is cut to a quarter, each followed by least squares. `None` when f16 cannot hold the
/// scale.
pub fn fit_levels(values: &[f32], range: (i8, i8), levels: &mut [i8]) -> Option<f32> {
    let (low, high) = range;
    let top = max_abs(values);
    levels.fill(0);
    if top == 0.0 {
        return Some(0.0);
    }
    let stored = |scale: f32| f16_to_f32(f32_to_f16(scale));
    let (mut best, mut best_scale) = (f32::INFINITY, None);
    let mut now = vec![0.0f32; values.len()];
    let largest = f32::from(low.unsigned_abs().max(high.unsigned_abs()));
    for sign in [1.0f32, -1.0] {
        for step in 0..TRIES {
            let mut scale = sign * top / largest * (1.0 - 0.75 * step as f32 / TRIES as f32);
            for _ in 0..2 {
                now.iter_mut().zip(values).for_each(|(level, w)| *level = nearest_level(w / scale, range));
                let above: f32 = now.iter().zip(values).map(|(level, w)| level * w).sum();
                let below: f32 = now.iter().map(|level| level * level).sum();
                if below > 0.0 && above != 0.0 {
                    scale = above / below;
                }
            }
            let scale = stored(scale);
            if scale == 0.0 || !scale.is_finite() {
                continue;
            }
            now.iter_mut().zip(values).for_each(|(level, w)| *level = nearest_level(w / scale, range));
            let error: f32 = now.iter().zip(values).map(|(level, w)| (w - scale * level) * (w - scale * level)).sum();
            if error < best {
                (best, best_scale) = (error, Some(scale));
                levels.iter_mut().zip(&now).for_each(|(out, level)| *out = *level as i8);
            }
        }
    }
    // Weights too small for any scale are zero.
    best_scale.or_else(|| (top < 1.0).then_some(0.0))
}

/// Encodes a block of a uniform type by [`fit_levels`].
pub(super) fn encode_fitted(ty: TensorType, values: &[f32], out: &mut [u8]) -> Option<()> {
    let mut levels = vec![0i8; values.len()];
    let scale = fit_levels(values, level_range(ty)?, &mut levels)?;
    pack_levels(ty, f32_to_f16(scale), &levels, out);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SplitMix64;
    use crate::format::ggml::{dequantize, quantize_nearest};

    const UNIFORM: [TensorType; 6] =
        [TensorType::Q2_0, TensorType::PQ2_0, TensorType::SQ3_0, TensorType::Q4_0, TensorType::Q5_0, TensorType::Q8_0];

    #[test]
    fn levels_decode_to_what_was_packed() {
        let mut rng = SplitMix64(7);
        for ty in TensorType::ALL {
            let Some((low, high)) = level_range(ty) else { continue };
            assert!(UNIFORM.contains(&ty));
            for scale in [0.5f32, -0.25] {
                let span = (i16::from(high) - i16::from(low) + 1) as u64;
                let levels: Vec<i8> =
                    (0..ty.block_len()).map(|_| (i16::from(low) + (rng.bits() % span) as i16) as i8).collect();
                let mut bytes = vec![0; ty.block_bytes()];
                pack_levels(ty, f32_to_f16(scale), &levels, &mut bytes);
                let mut found = vec![0.0; levels.len()];
                dequantize(ty, &bytes, &mut found);
                let expected: Vec<f32> = levels.iter().map(|level| scale * f32::from(*level)).collect();
                assert_eq!(found, expected, "{ty}");
            }
        }
    }

    #[test]
    fn halves_go_upwards_and_levels_stay_in_their_range() {
        for ty in UNIFORM {
            let (low, high) = level_range(ty).unwrap();
            let found = |x| nearest_level(x, (low, high));
            for i in -100_000..100_000 {
                let x = i as f32 / 512.0;
                for x in [x, x.next_up(), x.next_down()] {
                    assert_eq!(found(x), (x + 0.5).floor().clamp(f32::from(low), f32::from(high)), "{ty} {x}");
                }
            }
            let far = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY].map(found);
            assert_eq!(far, [low, low, high].map(f32::from), "{ty}");
        }
    }

    /// Least error over many scales of either sign, by a loop that shares nothing with the search.
    fn least_error(values: &[f32], (low, high): (i8, i8)) -> f64 {
        let top = f64::from(max_abs(values));
        let errors = (1..8000).flat_map(|i| [1.0, -1.0].map(|sign| sign * top * f64::from(i) / 4000.0)).map(|scale| {
            values
                .iter()
                .map(|&w| {
                    let level = (f64::from(w) / scale).round().clamp(f64::from(low), f64::from(high));
                    (f64::from(w) - scale * level).powi(2)
                })
                .sum::<f64>()
        });
        errors.fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn fitted_blocks_are_near_the_best_there_are() {
        let mut rng = SplitMix64(9);
        for ty in UNIFORM {
            for case in 0..6 {
                let values: Vec<f32> = (0..ty.block_len())
                    .map(|_| {
                        let sum: f64 = (0..4).map(|_| rng.uniform() - 0.5).sum();
                        (sum * if case % 2 == 0 { 0.02 } else { 3.0 }) as f32
                    })
                    .collect();
                let mut bytes = vec![0; ty.block_bytes()];
                quantize_nearest(ty, &values, &mut bytes).unwrap();
                let mut back = vec![0.0; values.len()];
                dequantize(ty, &bytes, &mut back);
                let error: f64 = values.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                let least = least_error(&values, level_range(ty).unwrap());
                // Q4_0 and Q8_0 are left to ggml's rule.
                let bound = if matches!(ty, TensorType::Q4_0 | TensorType::Q8_0) { 2.0 } else { 1.1 };
                assert!(error < bound * least + 1e-12, "{ty} case {case}: {error} of {least}");
            }
        }
    }

    #[test]
    fn scaled_blocks_hold_scaled_values() {
        use crate::format::ggml::scale_blocks;
        for ty in TensorType::ALL.into_iter().filter(|ty| ty.is_dequantizable()) {
            let mut bytes = crate::format::random::blocks(ty, 512, 0.1, 5);
            let mut before = vec![0.0; 512];
            dequantize(ty, &bytes, &mut before);
            // A power of two is exact, another factor as exact as the scales are.
            for (factor, bound) in [(2.0f32, 0.0f32), (0.7, 1.0 / 256.0)] {
                scale_blocks(ty, &mut bytes, factor);
                let mut after = vec![0.0; 512];
                dequantize(ty, &bytes, &mut after);
                let top = max_abs(&after);
                for (before, after) in before.iter_mut().zip(after) {
                    assert!(
                        (*before * factor - after).abs() <= bound * top,
                        "{ty}: {before} times {factor} is {after}"
                    );
                    *before = after;
                }
            }
        }
    }

    #[test]
    fn extreme_blocks_are_held_or_refused() {
        for ty in UNIFORM {
            let mut bytes = vec![0; ty.block_bytes()];
            for value in [0.0, -0.0, 1e-30, 1e-9, 6e-8, 65504.0, f32::MAX] {
                let values: Vec<f32> = (0..ty.block_len()).map(|i| if i % 3 == 0 { value } else { -value }).collect();
                let made = quantize_nearest(ty, &values, &mut bytes);
                let mut back = vec![0.0; values.len()];
                dequantize(ty, &bytes, &mut back);
                assert!(made.is_err() || back.iter().all(|x| x.is_finite()), "{ty} {value}");
                assert_eq!(made.is_err(), value == f32::MAX, "{ty} {value}");
            }
        }
    }
}
