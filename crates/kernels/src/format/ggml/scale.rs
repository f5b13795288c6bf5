//! Scales of blocks.

use crate::format::half::{f16_to_f32, f32_to_f16};

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
