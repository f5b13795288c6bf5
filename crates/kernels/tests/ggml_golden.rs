//! Block formats against the `gguf` Python package, by files that `golden/make_ggml_golden.py` wrote.

use sherry_kernels::format::TensorType;
use sherry_kernels::format::ggml::dequantize;

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn decodes_as_the_gguf_package_bit_for_bit() {
    use TensorType::*;
    for ty in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, TQ1_0, TQ2_0, STQ1_0] {
        let file = golden(&format!("{}.bin", ty.name().to_lowercase()));
        let blocks = file.len() / (ty.block_bytes() + 4 * ty.block_len());
        assert!(blocks >= 10, "{ty}");
        let (bytes, expected) = file.split_at(blocks * ty.block_bytes());
        let expected = floats(expected);
        let mut out = vec![f32::NAN; blocks * ty.block_len()];
        assert_eq!(out.len(), expected.len(), "{ty}");
        dequantize(ty, bytes, &mut out);
        for (i, (a, b)) in out.iter().zip(&expected).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "{ty}: value {i} is {a}, expected {b}");
        }
    }
}
