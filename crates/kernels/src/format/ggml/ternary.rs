//! Ternary blocks of 256 values with one f16 scale `d`.

use super::f16_at;

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

/// The four weights of every 5-bit code, indexed by `sign << 4 | nibble`.
const QUADS: [[i8; 4]; 32] = {
    let mut quads = [[0; 4]; 32];
    let mut code = 0;
    while code < 32 {
        let first = if code >> 4 == 0 { 1 } else { -1 };
        let kept = [first, if code & 1 == 0 { first } else { -first }, if code & 2 == 0 { first } else { -first }];
        let zero = code >> 2 & 3;
        let (mut lane, mut next) = (0, 0);
        while lane < 4 {
            if lane != zero {
                quads[code][lane] = kept[next];
                next += 1;
            }
            lane += 1;
        }
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
