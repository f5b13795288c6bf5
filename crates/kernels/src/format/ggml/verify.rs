//! What decoding does not check: floats that are not finite and codes that no encoder writes.

use std::fmt;

use super::super::fields::first_three;
use super::scale::{f16_at, places};
use crate::format::half::bf16_to_f32;
use crate::format::{TensorType, i2_s};

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// Its scale (or the value itself, for plain floats) is NaN or infinite.
    NotFinite,
    /// A ternary code that stands for no value in {-1, 0, 1}, or padding that is not zero.
    IllegalCode,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFinite => "NaN or infinite scale or value",
            Self::IllegalCode => "illegal ternary code",
        })
    }
}

impl std::error::Error for BlockError {}

/// Looks at every block of `bytes`.
///
/// # Errors
/// The index of the first block with a problem, and the problem.
///
/// # Panics
/// When `bytes` is not a whole number of blocks.
pub fn verify(ty: TensorType, bytes: &[u8]) -> Result<(), (usize, BlockError)> {
    assert!(bytes.len().is_multiple_of(ty.block_bytes()), "{ty}: {} bytes", bytes.len());
    let mut bytes = bytes;
    if ty == TensorType::I2_S
        && let Some((codes, tail)) = bytes.split_last_chunk()
    {
        // Its one scale stands after the last block.
        if !i2_s::scale_of(tail).is_finite() {
            return Err((codes.len() / ty.block_bytes(), BlockError::NotFinite));
        }
        bytes = codes;
    }
    for (index, block) in bytes.chunks_exact(ty.block_bytes()).enumerate() {
        if !floats_are_finite(ty, block) {
            return Err((index, BlockError::NotFinite));
        }
        if !codes_are_legal(ty, block) {
            return Err((index, BlockError::IllegalCode));
        }
    }
    Ok(())
}

fn floats_are_finite(ty: TensorType, block: &[u8]) -> bool {
    match ty {
        TensorType::F32 => f32::from_le_bytes([block[0], block[1], block[2], block[3]]).is_finite(),
        TensorType::BF16 => bf16_to_f32(u16::from_le_bytes([block[0], block[1]])).is_finite(),
        TensorType::F16 => f16_at(block, 0).is_finite(),
        _ => places(ty).iter().all(|at| f16_at(block, *at).is_finite()),
    }
}

fn codes_are_legal(ty: TensorType, block: &[u8]) -> bool {
    match ty {
        // Bytes are `ceil(number * 256 / 243)`; the last four hold four trits, so their fifth is zero.
        TensorType::TQ1_0 => block[..52].iter().enumerate().all(|(i, byte)| {
            let number = u16::from(*byte) * 243 / 256;
            (number * 256).div_ceil(243) == u16::from(*byte) && (i < 48 || number.is_multiple_of(3))
        }),
        // Two bits hold 0, 1 or 2.
        TensorType::TQ2_0 => first_three(&block[..64]).is_none(),
        TensorType::I2_S => first_three(block).is_none(),
        // All 32 codes of STQ1_0 are legal, the fourth value of Q2_0 is +2, and encoders of PTQ1_0 differ; all quants of the
        // other types are legal.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_first_block_with_a_bad_scale() {
        use TensorType::*;
        for (ty, at) in [(F32, 2), (F16, 0), (BF16, 0), (Q8_0, 0), (Q5_1, 2), (Q2_K, 82), (Q6_K, 208), (STQ1_0, 40)] {
            let mut bytes = vec![0; 3 * ty.block_bytes()];
            assert_eq!(verify(ty, &bytes), Ok(()));
            bytes[ty.block_bytes() + at..][..2].copy_from_slice(&0xff80u16.to_le_bytes()); // NaN as f16, -inf as bf16
            assert_eq!(verify(ty, &bytes), Err((1, BlockError::NotFinite)), "{ty}");
        }
    }

    #[test]
    fn ternary_codes_without_meaning() {
        let mut block = [0x55; 66]; // all 1 = zero weight
        block[64..].fill(0);
        assert_eq!(verify(TensorType::TQ2_0, &block), Ok(()));
        block[17] = 0b0101_1101;
        assert_eq!(verify(TensorType::TQ2_0, &block), Err((0, BlockError::IllegalCode)));

        let legal: Vec<u8> = (0..243u16).map(|n| (n * 256).div_ceil(243) as u8).collect();
        for byte in 0..=255 {
            for (at, fits) in [(0, legal.contains(&byte)), (49, legal.iter().step_by(3).any(|b| *b == byte))] {
                let mut block = [0; 54];
                block[at] = byte;
                assert_eq!(verify(TensorType::TQ1_0, &block).is_ok(), fits, "byte {byte} at {at}");
            }
        }
        assert_eq!(verify(TensorType::STQ1_0, &[0x3b; 42]), Ok(()));
    }
}
