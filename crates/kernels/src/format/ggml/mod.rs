//! The element and block types of GGUF (`ggml_type`), decoded to and encoded from f32. Layouts: FORMAT.md.
//!
//! All arithmetic is plain f32 in the order of ggml's reference code, without fused multiply-add, so that results do not
//! depend on the machine and agree bit for bit with the `gguf` Python package.

mod block32;
mod k_quants;
mod ternary;

use super::TensorType;
use super::half::{bf16_to_f32, f16_to_f32};

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
        TensorType::TQ1_0 => each(bytes, out, ternary::decode_tq1_0),
        TensorType::TQ2_0 => each(bytes, out, ternary::decode_tq2_0),
        TensorType::STQ1_0 => each(bytes, out, ternary::decode_stq1_0),
        TensorType::U8 | TensorType::I32 | TensorType::I64 => panic!("{ty} does not hold real numbers"),
    }
}

/// Runs `decode` over the blocks of `bytes` (`B` bytes each) and of `out` (`N` values each).
fn each<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn(&[u8; B], &mut [f32; N])) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, out);
    }
}

/// The f16 at `bytes[at..at + 2]`.
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}
