//! GGUF files of others, and ours in others' eyes.

mod fixture;

use std::fs;

use fixture::{info, write};
use sherry::io::gguf::{Array, GgufFile, StqId, Value};
use sherry::io::{ReadMode, TensorInfo, TensorSource, verify_tensor};
use sherry_kernels::format::{TensorType, ggml};
use sherry_testing::{Outcome, demo_model, python};

sherry_testing::main![a_published_model, python_reads_what_is_written];

fn a_published_model() -> Outcome {
    let file = GgufFile::open(&demo_model()?, ReadMode::Map).unwrap();
    assert_eq!(file.tensors().len(), 272);
    let metadata = file.metadata();
    assert_eq!(metadata.get_str("general.architecture").unwrap(), "llama");
    assert_eq!(metadata.get_u64("llama.block_count").unwrap(), 30);
    assert_eq!(metadata.get_u64("llama.embedding_length").unwrap(), 576);
    assert_eq!(metadata.get_strings("tokenizer.ggml.tokens").unwrap().len(), 49152);
    assert_eq!(file.find("token_embd.weight").unwrap().shape, [49152, 576]);
    for info in file.tensors() {
        verify_tensor(&file, info).unwrap();
        file.release(&info.name);
    }
    Ok(())
}

/// Other eyes on what the writer makes: `python/check_gguf.py` reads it with the `gguf` package, and STQ1_0 data with a
/// decoder of its own.
fn python_reads_what_is_written() -> Outcome {
    use TensorType::*;
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    let values_path = folder.path().join("values.f32");
    let entry = |key: &str, value: Value| (key.to_owned(), value);
    let metadata = [
        entry("general.architecture", Value::String("llama".to_owned())),
        entry("llama.block_count", Value::U32(2)),
        entry("llama.eps", Value::F32(0.5)),
        entry("big", Value::U64(1 << 40)),
        entry("flag", Value::Bool(true)),
        entry("tokens", Value::Array(Array::String(vec!["<s>", "", "é"].into()))),
        entry("types", Value::Array(Array::I32(vec![1, -3]))),
    ];
    let mut state = 5u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as f32 / (1u64 << 31) as f32 - 0.5) * 0.1
    };
    for stq in [StqId::Id43, StqId::Id42] {
        let mut python = python(&["numpy", "gguf"])?;
        let mut values = Vec::new();
        let tensors: Vec<(TensorInfo, Vec<u8>)> =
            [F32, F16, BF16, Q8_0, STQ1_0, Q4_0, Q4_K, STQ1_0, Q6_K, TQ1_0, TQ2_0, STQ1_0]
                .into_iter()
                .enumerate()
                .map(|(i, ty)| {
                    let info = info(&format!("blk.{i}.weight"), ty, &[1 + i, 512]);
                    let source: Vec<f32> = (0..(1 + i) * 512).map(|_| random()).collect();
                    let mut data = vec![0; info.bytes];
                    ggml::quantize(ty, &source, &mut data).unwrap();
                    let mut decoded = source;
                    ggml::dequantize(ty, &data, &mut decoded);
                    values.extend(decoded.iter().flat_map(|v| v.to_le_bytes()));
                    (info, data)
                })
                .collect();
        write(&model, &metadata, &tensors, stq).unwrap();
        fs::write(&values_path, &values).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/check_gguf.py");
        let out = python.args([script, model.to_str().unwrap(), values_path.to_str().unwrap()]).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{stderr}");
        let seen: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let expected = serde_json::json!({
            "general.architecture": "llama", "llama.block_count": 2, "llama.eps": 0.5, "big": 1u64 << 40, "flag": true,
            "tokens": ["<s>", "", "é"], "types": [1, -3], "general.quantization_version": 2,
        });
        assert_eq!(seen["metadata"], expected);
        assert_eq!(seen["tensors"].as_array().unwrap().len(), tensors.len());
        for (seen, (info, _)) in seen["tensors"].as_array().unwrap().iter().zip(&tensors) {
            assert_eq!(*seen, serde_json::json!([info.name, info.ty.name(), info.shape]));
        }
    }
    Ok(())
}
