//! Scales as stored: f16.

use sherry_kernels::format::half::{f16_to_f32, f32_to_f16};

/// A scale larger than f16 can hold (65504).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ScaleOverflow(pub(super) f64);

/// The f16 bits of a scale, by way of f32, each time to nearest even.
///
/// Scales below 2^-14 are stored as f16 subnormals with fewer significant bits; below 2^-25 they become zero, and with
/// them all weights of the group.
pub(super) fn round(scale: f64) -> Result<u16, ScaleOverflow> {
    let bits = f32_to_f16(scale as f32);
    if f16_to_f32(bits).is_finite() { Ok(bits) } else { Err(ScaleOverflow(scale)) }
}

/// The scale that is stored.
pub(super) fn widen(bits: u16) -> f32 {
    f16_to_f32(bits)
}
