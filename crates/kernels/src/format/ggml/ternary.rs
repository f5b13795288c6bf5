//! Blocks whose values are -1, 0 or +1 (of Q2_0 and PQ2_0 also +2) times one f16 scale `d`.

use super::super::fields::{four_a_byte, one_a_byte};
use super::scale::{f16_at, f16_bytes, max_abs, places};
use crate::format::TensorType;
use crate::format::sherry::{decode_quad, encode_quad};

/// A run of bytes that hold trits: which bytes, the first value, digits per byte. Digit `n` of the bytes of a run lie side
/// by side, so digit `n` of byte `m` is value `first + n * bytes + m`.
struct Run {
    start: usize,
    bytes: usize,
    first: usize,
    digits: usize,
}

const fn run(start: usize, bytes: usize, first: usize, digits: usize) -> Run {
    Run { start, bytes, first, digits }
}

/// 48 bytes of five trits, 4 bytes of four trits; then `d`.
const TQ1_0: [Run; 3] = [run(0, 32, 0, 5), run(32, 16, 160, 5), run(48, 4, 240, 4)];
/// Half of that: 24 bytes of five trits, 2 bytes of four trits; then `d`.
const PTQ1_0: [Run; 3] = [run(0, 16, 0, 5), run(16, 8, 80, 5), run(24, 2, 120, 4)];

/// The scale, f16 bits, of a block of a ternary or binary type with a scale per block.
pub(crate) fn scale_bits(ty: TensorType, block: &[u8]) -> u16 {
    let at = places(ty)[0];
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The values of whole blocks of a ternary or binary type before they are multiplied by their scales: -1, 0, +1, or +2
/// where the bits of Q2_0, PQ2_0 and TQ2_0 say so.
///
/// # Panics
/// When the lengths do not fit each other, or the type is no such type.
pub(crate) fn levels(ty: TensorType, bytes: &[u8], out: &mut [i8]) {
    assert_eq!(ty.row_bytes(out.len()), Some(bytes.len()), "{ty}: {} values from {} bytes", out.len(), bytes.len());
    for (block, out) in bytes.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_len())) {
        match ty {
            TensorType::TQ1_0 => trit_levels(&TQ1_0, block, out),
            TensorType::PTQ1_0 => trit_levels(&PTQ1_0, block, out),
            TensorType::TQ2_0 => strip_levels(block, out),
            TensorType::Q2_0 | TensorType::PQ2_0 => four_a_byte(&block[2..], out),
            TensorType::Q1_0 => sign_levels(&block[2..], out),
            TensorType::STQ1_0 => quad_levels(block, out),
            _ => panic!("{ty} is not ternary"),
        }
    }
}

/// Decodes a block of a ternary or binary type.
pub(super) fn decode(ty: TensorType, block: &[u8], out: &mut [f32]) {
    let mut values = [0; 256];
    let values = &mut values[..out.len()];
    levels(ty, block, values);
    let d = f16_at(block, places(ty)[0]);
    for (out, value) in out.iter_mut().zip(values) {
        *out = d * f32::from(*value);
    }
}

/// Trit `n` of a byte is the `n`-th digit after the point of `byte / 256` in base 3.
fn trit_levels(runs: &[Run; 3], block: &[u8], out: &mut [i8]) {
    for run in runs {
        let bytes = &block[run.start..run.start + run.bytes];
        let out = &mut out[run.first..run.first + run.digits * run.bytes];
        for (out, power) in out.chunks_exact_mut(run.bytes).zip([1u8, 3, 9, 27, 81]) {
            for (out, byte) in out.iter_mut().zip(bytes) {
                *out = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as i8 - 1;
            }
        }
    }
}

/// Byte `32 h + i` holds values `128 h + 32 s + i`, each plus 1, at bits `2 s`.
fn strip_levels(block: &[u8], out: &mut [i8]) {
    for (strip, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        one_a_byte(&block[strip / 4 * 32..], strip % 4 * 2, out);
    }
}

/// Byte `i` holds the signs of values `8 i + j` at bit `j`; a 1 is +1.
fn sign_levels(signs: &[u8], out: &mut [i8]) {
    for (out, byte) in out.as_chunks_mut::<8>().0.iter_mut().zip(signs) {
        *out = [0, 1, 2, 3, 4, 5, 6, 7].map(|bit| ((byte >> bit & 1) << 1) as i8 - 1);
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
fn quad_levels(block: &[u8], out: &mut [i8]) {
    for g in 0..64 {
        let nibble = block[g / 2] >> (g % 2 * 4) & 15;
        let sign = block[32 + g / 8] >> (g % 8) & 1;
        let quad = &QUADS[usize::from(sign << 4 | nibble)];
        for (p, value) in quad.iter().enumerate() {
            out[g / 16 * 64 + g % 16 + 16 * p] = *value;
        }
    }
}

/// `x / max |x|` to the nearest of -1, 0, 1, plus 1; and `max |x|`.
fn trits<const N: usize>(values: &[f32; N]) -> ([u8; N], f32) {
    let d = max_abs(values);
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    (values.map(|v| ((v * inverse).round() as i8).clamp(-1, 1).wrapping_add(1) as u8), d)
}

fn encode_trits<const N: usize>(runs: &[Run; 3], values: &[f32; N], out: &mut [u8]) -> Option<()> {
    let (trits, d) = trits(values);
    for run in runs {
        for (i, o) in out[run.start..run.start + run.bytes].iter_mut().enumerate() {
            let number = (0..5).fold(0, |n, digit| {
                n * 3 + if digit < run.digits { u16::from(trits[run.first + digit * run.bytes + i]) } else { 0 }
            });
            // number / 243 as a fraction of 256, rounded up so that truncating products give the digits back.
            *o = (number * 256).div_ceil(243) as u8;
        }
    }
    let at = out.len() - 2;
    out[at..].copy_from_slice(&f16_bytes(d)?);
    Some(())
}

/// The inverse of decoding TQ1_0, scale `max |x|`.
pub(super) fn encode_tq1_0(values: &[f32; 256], out: &mut [u8; 54]) -> Option<()> {
    encode_trits(&TQ1_0, values, out)
}

/// The inverse of decoding PTQ1_0, scale `max |x|`.
pub(super) fn encode_ptq1_0(values: &[f32; 128], out: &mut [u8; 28]) -> Option<()> {
    encode_trits(&PTQ1_0, values, out)
}

/// The inverse of decoding TQ2_0, scale `max |x|`.
pub(super) fn encode_tq2_0(values: &[f32; 256], out: &mut [u8; 66]) -> Option<()> {
    let (trits, d) = trits(values);
    for (i, o) in out[..64].iter_mut().enumerate() {
        let first = i / 32 * 128 + i % 32;
        *o = (0..4).fold(0, |byte, strip| byte | trits[first + 32 * strip] << (2 * strip));
    }
    out[64..].copy_from_slice(&f16_bytes(d)?);
    Some(())
}

/// The inverse of decoding Q2_0 or PQ2_0, scale `max |x|`, which leaves no value for the code 3.
pub(super) fn encode_q2_0<const N: usize, const B: usize>(values: &[f32; N], out: &mut [u8; B]) -> Option<()> {
    const { assert!(B == 2 + N / 4) };
    let (trits, d) = trits(values);
    let (scale, fields) = out.split_at_mut(2);
    for (byte, [a, b, c, d]) in fields.iter_mut().zip(trits.as_chunks::<4>().0) {
        *byte = a | b << 2 | c << 4 | d << 6;
    }
    scale.copy_from_slice(&f16_bytes(d)?);
    Some(())
}

/// Signs (of zeros +) and the mean magnitude, summed in f32 one value after the other.
pub(super) fn encode_q1_0(values: &[f32; 128], out: &mut [u8; 18]) -> Option<()> {
    let sum = values.iter().fold(0.0f32, |sum, v| sum + v.abs());
    let (scale, signs) = out.split_at_mut(2);
    for (byte, values) in signs.iter_mut().zip(values.as_chunks::<8>().0) {
        *byte = values.iter().enumerate().fold(0, |byte, (j, v)| byte | u8::from(*v >= 0.0) << j);
    }
    scale.copy_from_slice(&f16_bytes(sum / 128.0)?);
    Some(())
}

/// Sparse-AbsMean projection of the block, packed as STQ1_0.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ggml::{dequantize, quantize, verify};

    /// Where weight `i` of a block stands, by the tables of FORMAT.md and not by the code above: byte, and for the types
    /// with fields the shift, for those with trits the digit.
    fn place(ty: TensorType, i: usize) -> (usize, u32) {
        match ty {
            TensorType::Q1_0 => (2 + i / 8, i as u32 % 8),
            TensorType::Q2_0 | TensorType::PQ2_0 => (2 + i / 4, 2 * (i as u32 % 4)),
            TensorType::PTQ1_0 => match i {
                0..80 => (i % 16, i as u32 / 16),
                80..120 => (16 + (i - 80) % 8, (i as u32 - 80) / 8),
                _ => (24 + (i - 120) % 2, (i as u32 - 120) / 2),
            },
            _ => unreachable!(),
        }
    }

    /// A block with scale 1 that holds +1 at weight `i`, and 0 (of a binary type -1) elsewhere, by hand.
    fn one_hot(ty: TensorType, i: usize) -> Vec<u8> {
        let (byte, at) = place(ty, i);
        let mut block = vec![0; ty.block_bytes()];
        match ty {
            TensorType::Q1_0 => block[byte] = 1 << at,
            TensorType::PTQ1_0 => {
                // Digits 1 everywhere, 2 at the weight; as a fraction of 256, rounded up.
                for (b, out) in block[..26].iter_mut().enumerate() {
                    let digits = if b < 24 { 5 } else { 4 };
                    let digit = |n: u32| if n >= digits { 0 } else { 1 + u16::from(b == byte && n == at) };
                    let number = (0..5).fold(0, |number, n| 3 * number + digit(n));
                    *out = (number * 256).div_ceil(243) as u8;
                }
            }
            _ => {
                block[2..].fill(0x55);
                block[byte] ^= 0b11 << at;
            }
        }
        let scale = if ty == TensorType::PTQ1_0 { 26 } else { 0 };
        block[scale..scale + 2].copy_from_slice(&[0x00, 0x3c]);
        block
    }

    #[test]
    fn one_weight_at_every_place() {
        for ty in [TensorType::Q1_0, TensorType::Q2_0, TensorType::PQ2_0, TensorType::PTQ1_0] {
            let len = ty.block_len();
            let rest = if ty == TensorType::Q1_0 { -1.0 } else { 0.0 };
            for i in 0..len {
                let block = one_hot(ty, i);
                let mut values = vec![9.0; len];
                dequantize(ty, &block, &mut values);
                let expected: Vec<f32> = (0..len).map(|j| if i == j { 1.0 } else { rest }).collect();
                assert_eq!(values, expected, "{ty} {i}");
                let mut bytes = vec![0xee; ty.block_bytes()];
                quantize(ty, &expected, &mut bytes).unwrap();
                assert_eq!(bytes, block, "{ty} {i}");
                assert_eq!(verify(ty, &block), Ok(()));
            }
        }
    }

    #[test]
    fn the_fourth_value_is_two_and_scales_keep_their_sign() {
        for (ty, fields) in [(TensorType::Q2_0, 16), (TensorType::PQ2_0, 32)] {
            let mut block = vec![0x00, 0xb8]; // -0.5
            block.extend(vec![0b11_10_01_00; fields]);
            let mut values = vec![0.0; ty.block_len()];
            dequantize(ty, &block, &mut values);
            assert!(values.chunks(4).all(|four| four == [0.5, 0.0, -0.5, -1.0]), "{ty}");
        }
        let mut block = [0xff; 18];
        block[..2].copy_from_slice(&[0x00, 0xb8]);
        let mut values = [0.0; 128];
        dequantize(TensorType::Q1_0, &block, &mut values);
        assert_eq!(values, [-0.5; 128]);
    }

    #[test]
    fn ptq1_0_is_half_of_tq1_0() {
        // The digits of a byte do not depend on the type, whatever the byte: all 256 mean something.
        let mut half = [0; 28];
        let mut whole = [0; 54];
        for byte in 0..=255 {
            half[..24].fill(byte);
            half[24..26].fill(byte);
            whole[..52].fill(byte);
            let (mut a, mut b) = ([0; 128], [0; 256]);
            levels(TensorType::PTQ1_0, &half, &mut a);
            levels(TensorType::TQ1_0, &whole, &mut b);
            for digit in 0..5 {
                assert_eq!(a[16 * digit], b[32 * digit]);
                assert_eq!(a[80 + 8 * digit], b[160 + 16 * digit]);
            }
            for digit in 0..4 {
                assert_eq!(a[120 + 2 * digit], b[240 + 4 * digit]);
            }
        }
    }
}
