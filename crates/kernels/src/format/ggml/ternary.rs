//! Ternary blocks of 256 values with one f16 scale `d`.

use super::scale::{f16_at, f16_bytes, max_abs};
use crate::format::sherry::{decode_quad, encode_quad};

/// 48 bytes of five trits, 4 bytes of four trits, `d`. Trit `n` of a byte is the `n`-th digit after the point of
/// `byte / 256` in base 3; digit `n` of the bytes of a run (32, 16, then 4 bytes) lie side by side.
pub(super) fn decode_tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    const POW3: [u8; 5] = [1, 3, 9, 27, 81];
    let d = f16_at(block, 52);
    let mut out = out.iter_mut();
    for (run, digits) in [(0..32, 5), (32..48, 5), (48..52, 4)] {
        for power in &POW3[..digits] {
            for (byte, o) in block[run.clone()].iter().zip(out.by_ref()) {
                let trit = ((u16::from(byte.wrapping_mul(*power)) * 3) >> 8) as i8 - 1;
                *o = d * f32::from(trit);
            }
        }
    }
}

/// 64 bytes of 2-bit values, `d`: `d * (q - 1)`. Byte `32h + i` holds values `128h + 32s + i` at bits `2s`.
pub(super) fn decode_tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(block, 64);
    for (strip, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (o, byte) in out.iter_mut().zip(&block[strip / 4 * 32..]) {
            *o = d * f32::from((byte >> (strip % 4 * 2) & 3) as i8 - 1);
        }
    }
}

/// The four weights of every 5-bit code.
const QUADS: [[i8; 4]; 32] = {
    let mut quads = [[0; 4]; 32];
    let mut code = 0;
    while code < 32 {
        quads[code] = decode_quad(code as u8);
        code += 1;
    }
    quads
};

/// 32 bytes of nibbles, 8 bytes of sign bits, `d`. Quad `g = 16c + i` has its nibble in byte `g/2` (low for even `g`), its
/// sign in bit `g%8` of byte `32 + g/8`, and holds values `64c + i + 16p`, lane `p = 0..3`.
pub(super) fn decode_stq1_0(block: &[u8; 42], out: &mut [f32; 256]) {
    let d = f16_at(block, 40);
    for g in 0..64 {
        let nibble = block[g / 2] >> (g % 2 * 4) & 15;
        let sign = block[32 + g / 8] >> (g % 8) & 1;
        let quad = &QUADS[usize::from(sign << 4 | nibble)];
        for (p, value) in quad.iter().enumerate() {
            out[g / 16 * 64 + g % 16 + 16 * p] = d * f32::from(*value);
        }
    }
}

/// `x / max |x|` to the nearest of -1, 0, 1, plus 1; and `max |x|`.
fn trits(values: &[f32; 256]) -> ([u8; 256], f32) {
    let d = max_abs(values);
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    (values.map(|v| ((v * inverse).round() as i8).clamp(-1, 1).wrapping_add(1) as u8), d)
}

/// The inverse of [`decode_tq1_0`], scale `max |x|`.
pub(super) fn encode_tq1_0(values: &[f32; 256], out: &mut [u8; 54]) -> Option<()> {
    let (trits, d) = trits(values);
    for (run, first, digits) in [(0..32, 0, 5), (32..48, 160, 5), (48..52, 240, 4)] {
        let width = run.len();
        for (i, o) in out[run].iter_mut().enumerate() {
            let number = (0..5).fold(0, |n, digit| {
                n * 3 + if digit < digits { u16::from(trits[first + digit * width + i]) } else { 0 }
            });
            // number / 243 as a fraction of 256, rounded up so that truncating products give the digits back.
            *o = (number * 256).div_ceil(243) as u8;
        }
    }
    out[52..].copy_from_slice(&f16_bytes(d)?);
    Some(())
}

/// The inverse of [`decode_tq2_0`], scale `max |x|`.
pub(super) fn encode_tq2_0(values: &[f32; 256], out: &mut [u8; 66]) -> Option<()> {
    let (trits, d) = trits(values);
    for (i, o) in out[..64].iter_mut().enumerate() {
        let first = i / 32 * 128 + i % 32;
        *o = (0..4).fold(0, |byte, strip| byte | trits[first + 32 * strip] << (2 * strip));
    }
    out[64..].copy_from_slice(&f16_bytes(d)?);
    Some(())
}

/// Sparse-AbsMean projection of the block, packed as [`decode_stq1_0`] reads it.
pub(super) fn encode_stq1_0(values: &[f32; 256], out: &mut [u8; 42]) -> Option<()> {
    out.fill(0);
    let mut kept_sum = 0.0f32;
    for g in 0..64 {
        let quad: [f32; 4] = std::array::from_fn(|p| values[g / 16 * 64 + g % 16 + 16 * p]);
        let zero = (1..4).fold(0, |zero, p| if quad[p].abs() < quad[zero].abs() { p } else { zero });
        let mut ternary = quad.map(|v| if v < 0.0 { -1 } else { 1 });
        ternary[zero] = 0;
        kept_sum += (0..4).filter(|p| *p != zero).fold(0.0, |sum, p| sum + quad[p].abs());
        let code = encode_quad(ternary).expect("one lane is zero");
        out[g / 2] |= (code & 15) << (g % 2 * 4);
        out[32 + g / 8] |= (code >> 4) << (g % 8);
    }
    out[40..].copy_from_slice(&f16_bytes(kept_sum / 192.0)?);
    Some(())
}
