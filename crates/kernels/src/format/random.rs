//! Random weights that are legal in their format and have a given size: for measuring speed and memory at any shape
//! without anybody's model, and for tests that need any matrix. The same seed gives the same bytes on every machine.

use super::ggml::{dequantize, places};
use super::half::f32_to_f16;
use super::triple::encode_triple;
use super::{PackedLayout, TensorType, TernaryFormat, UNIT_BYTES, UNIT_CODES, write_code};
use crate::SplitMix64;

fn fill(random: &mut SplitMix64, bytes: &mut [u8]) {
    let (words, rest) = bytes.as_chunks_mut::<8>();
    words.iter_mut().for_each(|word| *word = random.bits().to_le_bytes());
    rest.iter_mut().for_each(|byte| *byte = random.bits() as u8);
}

/// Any two nibbles to two of 1..=13: the magnitudes of dense triples that may carry a sign.
const TRIPLE_NIBBLES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        // 13, 14, 15 and 0 .. 12 become 1, 2, 3 and 1 .. 13.
        let (low, high) = (byte % 16 % 13 + 1, byte / 16 % 13 + 1);
        table[byte] = (low | high << 4) as u8;
        byte += 1;
    }
    table
};

/// Codes of random ternary weights, `layout.rows` x [`row_bytes`](PackedLayout::row_bytes).
///
/// # Panics
/// When the layout does not pass [`PackedLayout::check`].
pub fn packed_codes(layout: &PackedLayout, seed: u64) -> Vec<u8> {
    layout.check().unwrap_or_else(|error| panic!("{error}"));
    let mut codes = vec![0; layout.rows * layout.row_bytes()];
    fill(&mut SplitMix64(seed), &mut codes);
    match layout.format {
        TernaryFormat::Sherry | TernaryFormat::Binary => {}
        TernaryFormat::Ternary167 => {
            for unit in codes.as_chunks_mut::<UNIT_BYTES>().0 {
                unit[..4].iter_mut().for_each(|byte| *byte = TRIPLE_NIBBLES[usize::from(*byte)]);
            }
        }
        // 3 becomes 1, a zero.
        TernaryFormat::Ternary2 => no_threes(&mut codes),
    }
    for row in codes.chunks_exact_mut(layout.row_bytes()) {
        end_row(layout, row);
    }
    codes
}

/// Scales (little-endian f16, `layout.rows` x [`row_scales`](PackedLayout::row_scales)) that give weights of
/// [`packed_codes`] a root mean square of about `rms`.
///
/// # Panics
/// When the layout does not pass [`PackedLayout::check`].
pub fn packed_scales(layout: &PackedLayout, rms: f32, seed: u64) -> Vec<u8> {
    layout.check().unwrap_or_else(|error| panic!("{error}"));
    // Share of weights that are not zero.
    let density: f32 = match layout.format {
        TernaryFormat::Sherry => 0.75,
        TernaryFormat::Ternary167 => 2.0 / 3.0,
        TernaryFormat::Ternary2 => 0.5,
        TernaryFormat::Binary => 1.0,
    };
    let scale = rms / density.sqrt();
    let mut random = SplitMix64(!seed);
    let scales = layout.rows * layout.row_scales();
    (0..scales).flat_map(|_| f32_to_f16(scale * jitter(&mut random)).to_le_bytes()).collect()
}

/// Around 1, so that scales differ.
fn jitter(random: &mut SplitMix64) -> f32 {
    0.75 + (random.bits() >> 40) as f32 / (1u64 << 25) as f32
}

/// Makes the last unit of a row legal where it is not full: no weights and no bits past the last column.
fn end_row(layout: &PackedLayout, row: &mut [u8]) {
    let lanes = layout.format.lanes();
    match layout.format {
        TernaryFormat::Sherry | TernaryFormat::Ternary167 => {
            let unit_inputs = UNIT_CODES * lanes;
            let (full, left) = (layout.cols / unit_inputs, layout.cols % unit_inputs);
            if left == 0 {
                return;
            }
            row[full * UNIT_BYTES..].fill(0);
            let first = full * UNIT_CODES;
            for code in 0..left.div_ceil(lanes) {
                let weight = |lane: usize| i8::from(code * lanes + lane < left);
                let bits = if lanes == 3 { encode_triple([weight(0), weight(1), weight(2)]) } else { Some(code as u8) };
                write_code(row, first + code, bits.unwrap_or(0));
            }
        }
        TernaryFormat::Ternary2 => {
            if let (left @ 1.., Some(last)) = (layout.cols % lanes, row.last_mut()) {
                *last &= (1u8 << (2 * left)) - 1;
            }
        }
        TernaryFormat::Binary => {
            if let (left @ 1.., Some(last)) = (layout.cols % 8, row.last_mut()) {
                *last &= (1u8 << left) - 1;
            }
        }
    }
}

/// Makes fields of two bits that are 3 a 1.
fn no_threes(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte &= !((*byte & (*byte >> 1) & 0x55) << 1));
}

/// `values` random weights of `ty`, as its bytes, whose root mean square is about `rms`. Blocks are random bits under
/// scales that fit.
///
/// # Panics
/// When `values` are not whole blocks, or `ty` does not hold real numbers.
pub fn blocks(ty: TensorType, values: usize, rms: f32, seed: u64) -> Vec<u8> {
    let len = ty.row_bytes(values).unwrap_or_else(|| panic!("{values} values are not whole blocks of {ty}"));
    assert!(ty.is_dequantizable(), "{ty} does not hold real numbers");
    let mut random = SplitMix64(seed);
    let mut bytes = vec![0; len];
    fill(&mut random, &mut bytes);
    // Of floats sign and upper mantissa are random, within one power of two; its root mean square is 1.53 times the
    // least of it.
    let exponent = (rms / 1.53).log2().round().clamp(-14.0, 15.0);
    match ty {
        TensorType::F32 => {
            let exponent = ((exponent as i32 + 127) as u32) << 23;
            for value in bytes.as_chunks_mut::<4>().0 {
                *value = (u32::from_le_bytes(*value) & 0x807f_ffff | exponent).to_le_bytes();
            }
        }
        TensorType::F16 => halves(&mut bytes, 0x83ff, ((exponent as i32 + 15) as u16) << 10),
        TensorType::BF16 => halves(&mut bytes, 0x807f, ((exponent as i32 + 127) as u16) << 7),
        _ => {
            // What a block with scale 1 amounts to, measured on the first few.
            let sample = bytes.len().min(16 * ty.block_bytes());
            set_scales(ty, &mut bytes[..sample], &mut || 1.0);
            let mut sampled = vec![0.0; sample / ty.block_bytes() * ty.block_len()];
            dequantize(ty, &bytes[..sample], &mut sampled);
            let square = sampled.iter().map(|v| v * v).sum::<f32>() / sampled.len().max(1) as f32;
            let scale = rms / square.sqrt().max(1e-3);
            set_scales(ty, &mut bytes, &mut || scale * jitter(&mut random));
        }
    }
    bytes
}

/// Keeps the bits of `mask` of every 16-bit word and sets those of `exponent`.
fn halves(bytes: &mut [u8], mask: u16, exponent: u16) {
    for value in bytes.as_chunks_mut::<2>().0 {
        *value = (u16::from_le_bytes(*value) & mask | exponent).to_le_bytes();
    }
}

/// Gives every block the scale that `scale` says, its minimum so that values are centred, and codes that are legal.
fn set_scales(ty: TensorType, bytes: &mut [u8], scale: &mut dyn FnMut() -> f32) {
    // The minimum, where there is one, is this many times `d`.
    let min = match ty {
        TensorType::Q4_1 => -7.5,
        TensorType::Q5_1 => -15.5,
        TensorType::Q4_K => 7.5,
        TensorType::Q5_K => 15.5,
        _ => 1.5, // Q2_K; the others have none
    };
    for (index, block) in bytes.chunks_exact_mut(ty.block_bytes()).enumerate() {
        match ty {
            // 3 becomes 1, a zero.
            TensorType::TQ2_0 => no_threes(&mut block[..64]),
            TensorType::Q2_0 | TensorType::PQ2_0 => no_threes(&mut block[2..]),
            TensorType::TQ1_0 => block[..52].iter_mut().enumerate().for_each(|(i, byte)| {
                let number = u16::from(*byte) * 243 / 256;
                // The last four bytes hold four weights, not five.
                let number = if i < 48 { number } else { number / 3 * 3 };
                *byte = (number * 256).div_ceil(243) as u8;
            }),
            _ => {}
        }
        // Levels from -4 to 3 are centred by scales of both signs.
        let sign = if ty == TensorType::SQ3_0 && index % 2 == 1 { -1.0 } else { 1.0 };
        let d = sign * scale();
        for (at, value) in places(ty).iter().zip([d, d * min]) {
            block[*at..at + 2].copy_from_slice(&f32_to_f16(value).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ggml::verify;
    use crate::format::{QuadOrder, ScaleGroup};

    fn rms(values: &[f32]) -> f32 {
        (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt()
    }

    #[test]
    fn packed_weights_are_legal_and_of_the_size_asked_for() {
        for format in TernaryFormat::ALL {
            for cols in [4, 12, 64, 100, 576, 2048] {
                for scale in [ScaleGroup::Row, ScaleGroup::Group(format.group_sizes()[2])] {
                    let layout = PackedLayout { format, rows: 70, cols, order: QuadOrder::Contiguous, scale };
                    let (codes, scales) = (packed_codes(&layout, 5), packed_scales(&layout, 0.02, 5));
                    layout.check_codes(&codes).unwrap_or_else(|error| panic!("{format} {cols}: {error}"));
                    let matrix = crate::Matrix::from_packed(layout, &codes, &scales).unwrap();
                    let mut row = vec![0.0; cols];
                    let mut all = Vec::new();
                    for r in 0..layout.rows {
                        matrix.row_f32(r, &mut row);
                        all.extend_from_slice(&row);
                    }
                    if cols > 100 {
                        assert!((0.015..0.025).contains(&rms(&all)), "{format} {cols}: {}", rms(&all));
                    }
                    assert_eq!(packed_codes(&layout, 5), codes, "the same seed gives the same bytes");
                    assert_eq!(packed_scales(&layout, 0.02, 5), scales);
                }
            }
        }
    }

    #[test]
    fn blocks_are_legal_and_of_the_size_asked_for() {
        for ty in TensorType::ALL.into_iter().filter(|ty| ty.is_dequantizable()) {
            let bytes = blocks(ty, 256 * 256, 0.02, 9);
            assert_eq!(verify(ty, &bytes), Ok(()), "{ty}");
            let mut values = vec![0.0; 256 * 256];
            dequantize(ty, &bytes, &mut values);
            let (size, mean) = (rms(&values), values.iter().sum::<f32>() / values.len() as f32);
            assert!((0.013..0.03).contains(&size), "{ty}: {size}");
            assert!(mean.abs() < 0.003, "{ty}: {mean}");
            assert!(blocks(ty, 256, 0.02, 1) != blocks(ty, 256, 0.02, 2), "{ty}: another seed, other weights");
            assert!(blocks(ty, 0, 0.02, 1).is_empty());
        }
    }
}
