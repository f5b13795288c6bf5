//! Scales of blocks.

use crate::format::TensorType;
use crate::format::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

/// Where the f16 numbers lie that all values of a block are multiples of, or sums of such multiples: the scale first. None of
/// floats and whole numbers.
pub(crate) const fn places(ty: TensorType) -> &'static [usize] {
    match ty {
        TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 | TensorType::IQ4_NL => &[0],
        TensorType::Q1_0 | TensorType::Q2_0 | TensorType::PQ2_0 | TensorType::SQ3_0 => &[0],
        TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
        TensorType::Q2_K => &[80, 82],
        TensorType::Q3_K => &[108],
        TensorType::Q6_K => &[208],
        TensorType::PTQ1_0 => &[26],
        TensorType::STQ1_0 => &[40],
        TensorType::TQ1_0 => &[52],
        TensorType::TQ2_0 => &[64],
        _ => &[],
    }
}

/// Multiplies the values of whole blocks of `ty` by `factor`, as nearly as their scales can hold the products; levels stay.
/// A scale that f16 cannot hold stays at its largest.
///
/// # Panics
/// When `bytes` are no whole blocks, or the type does not hold real numbers.
pub fn scale_blocks(ty: TensorType, bytes: &mut [u8], factor: f32) {
    assert!(ty.is_dequantizable() && bytes.len().is_multiple_of(ty.block_bytes()), "whole blocks of {ty}");
    let f16 = |bytes: [u8; 2]| {
        let product = f16_to_f32(u16::from_le_bytes(bytes)) * factor;
        f32_to_f16(product.clamp(-65504.0, 65504.0)).to_le_bytes()
    };
    match ty {
        TensorType::F32 => {
            bytes.as_chunks_mut().0.iter_mut().for_each(|x| *x = (f32::from_le_bytes(*x) * factor).to_le_bytes())
        }
        TensorType::F16 => bytes.as_chunks_mut().0.iter_mut().for_each(|x| *x = f16(*x)),
        TensorType::BF16 => bytes.as_chunks_mut().0.iter_mut().for_each(|x| {
            *x = f32_to_bf16(bf16_to_f32(u16::from_le_bytes(*x)) * factor).to_le_bytes();
        }),
        _ => {
            for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                for &at in places(ty) {
                    let scaled = f16([block[at], block[at + 1]]);
                    block[at..at + 2].copy_from_slice(&scaled);
                }
            }
        }
    }
}

/// `value` as f16 bytes; `None` when that is not finite.
pub(super) fn f16_bytes(value: f32) -> Option<[u8; 2]> {
    let bits = f32_to_f16(value);
    f16_to_f32(bits).is_finite().then_some(bits.to_le_bytes())
}

/// The largest magnitude.
pub(super) fn max_abs(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, v| max.max(v.abs()))
}

/// The f16 at `bytes[at..at + 2]`.
pub(super) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}
