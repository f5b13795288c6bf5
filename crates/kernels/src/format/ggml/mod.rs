//! The element and block types of GGUF (`ggml_type`), decoded to and encoded from f32. Layouts: FORMAT.md.
//!
//! All arithmetic is plain f32 in the order of ggml's reference code, without fused multiply-add, so that results do not
//! depend on the machine and agree bit for bit with the `gguf` Python package.

mod block32;
mod k_quants;
mod k_search;
mod scale;
mod ternary;
mod uniform;
mod verify;

use std::fmt;

use super::TensorType;
pub(crate) use block32::IQ4_NL_LEVELS;
pub(crate) use scale::places;
pub use scale::scale_blocks;
pub(crate) use ternary::{levels, scale_bits};
pub(crate) use uniform::short_codes;
pub use uniform::{fit_levels, level_range, nearest_level, pack_levels};
pub use verify::{BlockError, verify};

use super::half::{bf16_to_f32, f16_to_f32, f32_to_bf16};
use scale::f16_bytes;

/// Decodes whole blocks of `ty`: `bytes` holds `out.len() / ty.block_len()` blocks.
///
/// Any bytes are legal input; NaN or infinite scales give NaN or infinite values.
///
/// # Panics
/// When the lengths do not fit each other, or `ty` does not hold real numbers
/// ([`TensorType::is_dequantizable`]).
pub fn dequantize(ty: TensorType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(ty.row_bytes(out.len()), Some(bytes.len()), "{ty}: {} values from {} bytes", out.len(), bytes.len());
    match ty {
        TensorType::F32 => each(bytes, out, |b: &[u8; 4], o: &mut [f32; 1]| o[0] = f32::from_le_bytes(*b)),
        TensorType::F16 => each(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = f16_to_f32(u16::from_le_bytes(*b))),
        TensorType::BF16 => {
            each(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = bf16_to_f32(u16::from_le_bytes(*b)));
        }
        TensorType::Q4_0 => each(bytes, out, block32::decode_q4_0),
        TensorType::Q4_1 => each(bytes, out, block32::decode_q4_1),
        TensorType::Q5_0 => each(bytes, out, block32::decode_q5_0),
        TensorType::Q5_1 => each(bytes, out, block32::decode_q5_1),
        TensorType::Q8_0 => each(bytes, out, block32::decode_q8_0),
        TensorType::IQ4_NL => each(bytes, out, block32::decode_iq4_nl),
        TensorType::Q2_K => each(bytes, out, k_quants::decode_q2_k),
        TensorType::Q3_K => each(bytes, out, k_quants::decode_q3_k),
        TensorType::Q4_K => each(bytes, out, k_quants::decode_q4_k),
        TensorType::Q5_K => each(bytes, out, k_quants::decode_q5_k),
        TensorType::Q6_K => each(bytes, out, k_quants::decode_q6_k),
        TensorType::TQ1_0
        | TensorType::TQ2_0
        | TensorType::STQ1_0
        | TensorType::Q1_0
        | TensorType::Q2_0
        | TensorType::PQ2_0
        | TensorType::PTQ1_0 => {
            for (block, out) in bytes.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_len())) {
                ternary::decode(ty, block, out);
            }
        }
        TensorType::SQ3_0 => each(bytes, out, uniform::decode_sq3_0),
        TensorType::U8 | TensorType::I32 | TensorType::U32 | TensorType::I64 => {
            panic!("{ty} does not hold real numbers")
        }
        TensorType::I2_S => panic!("I2_S has one scale for the whole tensor"),
    }
}

/// Why values cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QuantizeError {
    /// There is no encoder for the type, only a decoder.
    Unsupported(TensorType),
    /// Value `index` is NaN or infinite.
    NotFinite {
        /// Position in the values given.
        index: usize,
        /// The value.
        value: f32,
    },
    /// Value `index` (or the scale of the block that begins there) exceeds the range of the type's f16 or bf16.
    TooLarge {
        /// Position in the values given.
        index: usize,
    },
}

impl fmt::Display for QuantizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(ty) => write!(f, "there is no encoder for {ty}"),
            Self::NotFinite { index, value } => write!(f, "value {index} is {value}"),
            Self::TooLarge { index } => write!(f, "the values from {index} on are too large for the type's scale"),
        }
    }
}

impl std::error::Error for QuantizeError {}

/// Encodes `values` as whole blocks of `ty` into `out`: F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K, TQ1_0, TQ2_0, STQ1_0,
/// Q1_0, Q2_0, PQ2_0, PTQ1_0.
///
/// Q8_0, Q4_0, TQ*, Q1_0 and Q2_0 give the bytes ggml gives. Q4_K and Q6_K search scales by least squares like ggml, with
/// sums of another order. TQ*, Q2_0, PQ2_0 and PTQ1_0 take the largest magnitude as scale (they expect ternary input),
/// Q1_0 the mean magnitude. STQ1_0 is the Sparse-AbsMean projection (arXiv 2601.07892, eq. 4-5) of each block: in every
/// quad the smallest magnitude (the first of equals) becomes zero, the scale is the mean of the other magnitudes, and a
/// kept zero counts as positive.
///
/// Finite input gives finite output; the same input gives the same bytes on every machine.
///
/// # Errors
/// [`QuantizeError`]; `out` is then partly written.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn quantize(ty: TensorType, values: &[f32], out: &mut [u8]) -> Result<(), QuantizeError> {
    assert_eq!(ty.row_bytes(values.len()), Some(out.len()), "{ty}: {} values into {} bytes", values.len(), out.len());
    if let Some(index) = values.iter().position(|v| !v.is_finite()) {
        return Err(QuantizeError::NotFinite { index, value: values[index] });
    }
    match ty {
        TensorType::F32 => encode_each(values, out, |v: &[f32; 1], o: &mut [u8; 4]| {
            *o = v[0].to_le_bytes();
            Some(())
        }),
        TensorType::F16 => encode_each(values, out, |v: &[f32; 1], o: &mut [u8; 2]| {
            *o = f16_bytes(v[0])?;
            Some(())
        }),
        TensorType::BF16 => encode_each(values, out, |v: &[f32; 1], o: &mut [u8; 2]| {
            let bits = f32_to_bf16(v[0]);
            *o = bits.to_le_bytes();
            bf16_to_f32(bits).is_finite().then_some(())
        }),
        TensorType::Q4_0 => encode_each(values, out, block32::encode_q4_0),
        TensorType::Q8_0 => encode_each(values, out, block32::encode_q8_0),
        TensorType::Q4_K => encode_each(values, out, k_search::encode_q4_k),
        TensorType::Q6_K => encode_each(values, out, k_search::encode_q6_k),
        TensorType::TQ1_0 => encode_each(values, out, ternary::encode_tq1_0),
        TensorType::TQ2_0 => encode_each(values, out, ternary::encode_tq2_0),
        TensorType::STQ1_0 => encode_each(values, out, ternary::encode_stq1_0),
        TensorType::Q1_0 => encode_each(values, out, ternary::encode_q1_0),
        TensorType::Q2_0 => encode_each(values, out, ternary::encode_q2_0::<64, 18>),
        TensorType::PQ2_0 => encode_each(values, out, ternary::encode_q2_0::<128, 34>),
        TensorType::PTQ1_0 => encode_each(values, out, ternary::encode_ptq1_0),
        _ => Err(QuantizeError::Unsupported(ty)),
    }
}

/// [`quantize`] for weights that were not made for the type: Q2_0, PQ2_0, SQ3_0 and Q5_0 by least squares over their levels, every
/// other type as there. The ternary and binary types are no rounding of such weights.
///
/// # Errors
/// As [`quantize`].
///
/// # Panics
/// As [`quantize`].
pub fn quantize_nearest(ty: TensorType, values: &[f32], out: &mut [u8]) -> Result<(), QuantizeError> {
    // Of the uniform types these two have a rule of ggml.
    if level_range(ty).is_none() || matches!(ty, TensorType::Q4_0 | TensorType::Q8_0) {
        return quantize(ty, values, out);
    }
    assert_eq!(ty.row_bytes(values.len()), Some(out.len()), "{ty}: {} values into {} bytes", values.len(), out.len());
    if let Some(index) = values.iter().position(|v| !v.is_finite()) {
        return Err(QuantizeError::NotFinite { index, value: values[index] });
    }
    let (len, bytes) = (ty.block_len(), ty.block_bytes());
    for (block, (values, out)) in values.chunks_exact(len).zip(out.chunks_exact_mut(bytes)).enumerate() {
        uniform::encode_fitted(ty, values, out).ok_or(QuantizeError::TooLarge { index: block * len })?;
    }
    Ok(())
}

/// Runs `encode` over the blocks; it returns `None` when a scale does not fit its type.
fn encode_each<const N: usize, const B: usize>(
    values: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; N], &mut [u8; B]) -> Option<()>,
) -> Result<(), QuantizeError> {
    for (block, (values, out)) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0).enumerate() {
        encode(values, out).ok_or(QuantizeError::TooLarge { index: block * N })?;
    }
    Ok(())
}

/// Runs `decode` over the blocks of `bytes` (`B` bytes each) and of `out` (`N` values each).
fn each<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn(&[u8; B], &mut [f32; N])) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, out);
    }
}
