//! Blocks of 32 values with one f16 scale `d`, some with an f16 minimum `m`.
//!
//! 4-bit quants lie two to a byte: value `i` in the low nibble of byte `i`, value `i + 16` in its high nibble. 5-bit
//! types keep the fifth bit of value `i` in bit `i` of a u32.

use super::scale::{f16_at, f16_bytes, max_abs};

/// The 16 levels of IQ4_NL.
pub(crate) const IQ4_NL_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The nibbles of the 16 bytes from `at` on, in value order.
fn nibbles(block: &[u8], at: usize) -> [u8; 32] {
    let mut quants = [0; 32];
    for (i, byte) in block[at..at + 16].iter().enumerate() {
        quants[i] = byte & 15;
        quants[i + 16] = byte >> 4;
    }
    quants
}

/// [`nibbles`] with the fifth bits of the u32 at `high`.
fn fives(block: &[u8], high: usize, low: usize) -> [u8; 32] {
    let bits = u32::from_le_bytes([block[high], block[high + 1], block[high + 2], block[high + 3]]);
    let mut quants = nibbles(block, low);
    for (i, quant) in quants.iter_mut().enumerate() {
        *quant |= ((bits >> i) as u8 & 1) << 4;
    }
    quants
}

/// `d` f16, 16 bytes of nibbles: `d * (q - 8)`.
pub(super) fn decode_q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (o, q) in out.iter_mut().zip(nibbles(block, 2)) {
        *o = d * f32::from(q as i8 - 8);
    }
}

/// `d`, `m` f16, 16 bytes of nibbles: `d * q + m`.
pub(super) fn decode_q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (o, q) in out.iter_mut().zip(nibbles(block, 4)) {
        *o = d * f32::from(q) + m;
    }
}

/// `d` f16, u32 of fifth bits, 16 bytes of nibbles: `d * (q - 16)`.
pub(super) fn decode_q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (o, q) in out.iter_mut().zip(fives(block, 2, 6)) {
        *o = d * f32::from(q as i8 - 16);
    }
}

/// `d`, `m` f16, u32 of fifth bits, 16 bytes of nibbles: `d * q + m`.
pub(super) fn decode_q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (o, q) in out.iter_mut().zip(fives(block, 4, 8)) {
        *o = d * f32::from(q) + m;
    }
}

/// `d` f16, 32 int8: `d * q`.
pub(super) fn decode_q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (o, q) in out.iter_mut().zip(&block[2..]) {
        *o = d * f32::from(*q as i8);
    }
}

/// `d` f16, 16 bytes of nibbles that index the levels: `d * level[q]`.
pub(super) fn decode_iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (o, q) in out.iter_mut().zip(nibbles(block, 2)) {
        *o = d * f32::from(IQ4_NL_LEVELS[usize::from(q)]);
    }
}

/// `d = x / -8` for the `x` of largest magnitude (the first of equals), `q = x / d + 8` to the nearest, at most 15.
pub(super) fn encode_q4_0(values: &[f32; 32], out: &mut [u8; 18]) -> Option<()> {
    let largest = values.iter().fold(0.0f32, |max, v| if v.abs() > max.abs() { *v } else { max });
    let d = largest / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out[..2].copy_from_slice(&f16_bytes(d)?);
    for i in 0..16 {
        let quant = |v: f32| ((v * inverse + 8.5) as u8).min(15);
        out[2 + i] = quant(values[i]) | quant(values[i + 16]) << 4;
    }
    Some(())
}

/// `d = max |x| / 127`, `q = x / d` to the nearest, halves away from zero.
pub(super) fn encode_q8_0(values: &[f32; 32], out: &mut [u8; 34]) -> Option<()> {
    let d = max_abs(values) / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out[..2].copy_from_slice(&f16_bytes(d)?);
    for (o, v) in out[2..].iter_mut().zip(values) {
        *o = (v * inverse).round() as i8 as u8;
    }
    Some(())
}
