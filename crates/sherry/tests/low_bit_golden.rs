//! Binary and ternary models in the types of GGUF and in MLX's form against transformers' own Qwen3, and the bytes of both
//! against an independent packing (tests/python/low_bit_golden.py).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use sherry::NoProgress;
use sherry::io::gguf::GgufWriter;
use sherry::io::{ReadMode, TensorSource as _};
use sherry::model::names::{Naming, Role};
use sherry::model::synthetic::{self, MemorySource};
use sherry::model::{ArchConfig, Checkpoint, Decoder, KvCache, KvType, Wanted, config_gguf, config_hf};
use sherry_kernels::format::{TensorType, ggml};
use sherry_kernels::{Engine, Isa, Pool, Precision};

/// Weights that share a scale.
const GROUP: usize = 128;

/// Codes -1, 0, +1 of a matrix and the scale of every group.
fn rounded(values: &[f32], bits: usize) -> (Vec<i8>, Vec<f32>) {
    let code = |(at, w): (usize, &f32)| match (bits, (at * 7 + at / 5) % 3) {
        (2, 0) => 0,
        _ => w.signum() as i8,
    };
    let scales = (0..values.len() / GROUP).map(|group| (1 + group % 7) as f32 / 64.0).collect();
    (values.iter().enumerate().map(code).collect(), scales)
}

/// Little-endian codes of `bits` bits from the low bits on, as MLX has them.
fn mlx_codes(codes: &[i8], bits: usize) -> Vec<u8> {
    let mut bytes = vec![0; codes.len() * bits / 8];
    for (at, code) in codes.iter().enumerate() {
        let unsigned = if bits == 1 { u8::from(*code > 0) } else { (code + 1) as u8 };
        bytes[at * bits / 8] |= unsigned << (at * bits % 8);
    }
    bytes
}

/// The FNV-1a hash.
fn fnv(bytes: &[u8]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    format!("{:016x}", bytes.iter().fold(0xCBF2_9CE4_8422_2325, step))
}

/// Largest difference of the logits from the expected ones, as a share of the largest expected one.
fn error(path: &Path, tokens: &[u32], expected: &[Vec<f64>], isa: Isa, precision: Precision) -> f64 {
    let checkpoint = Checkpoint::open(path, ReadMode::Read).unwrap();
    let model = Arc::new(checkpoint.load(&Pool::new(2), &NoProgress).unwrap());
    let mut cache = KvCache::new(&model.config, tokens.len(), KvType::F32).unwrap();
    let mut decoder = Decoder::new(model, Engine::new(isa, 2, precision));
    let logits = decoder.forward_one(&mut cache, tokens, Wanted::All).unwrap();
    let found = (0..logits.rows()).flat_map(|row| logits.row(row).to_vec());
    let pairs: Vec<(f64, f64)> = found.map(f64::from).zip(expected.iter().flatten().copied()).collect();
    assert_eq!(pairs.len(), tokens.len() * 64);
    let range = pairs.iter().fold(0.0f64, |max, (_, y)| max.max(y.abs()));
    pairs.iter().fold(0.0f64, |max, (x, y)| max.max((x - y).abs())) / range
}

fn write_gguf(path: &Path, config: &ArchConfig, source: &MemorySource) {
    let (entries, tensors) = (config_gguf::write(config), source.tensors().to_vec());
    let mut writer = GgufWriter::create(path, entries, tensors, Default::default()).unwrap();
    source.tensors().iter().for_each(|info| writer.write(&info.name, &source.data(&info.name).unwrap()).unwrap());
    writer.finish().unwrap();
}

#[test]
fn logits_are_those_of_transformers_and_bytes_those_of_the_formats() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/low_bit.json")).unwrap();
    let (config_json, seed) = (&golden["config"], golden["seed"].as_u64().unwrap());
    let config = config_hf::parse(Path::new("config.json"), config_json).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    let roles: Vec<Role> = Role::all(&config).filter(|role| role.is_linear() || role.is_embedding()).collect();
    for case in golden["cases"].as_array().unwrap() {
        let bits = case["bits"].as_u64().unwrap() as usize;
        let expected: Vec<Vec<f64>> = serde_json::from_value(case["logits"].clone()).unwrap();
        let checksums: BTreeMap<String, BTreeMap<String, String>> =
            serde_json::from_value(case["checksums"].clone()).unwrap();
        let root = tempfile::tempdir().unwrap();
        let is_right = |what: &str, path: &Path| {
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                let error = error(path, &tokens, &expected, isa, Precision::F32);
                assert!(error < 1e-5, "{what}, {isa}: {error:e}");
            }
            // Rounded activations: near, and not the same.
            let error = error(path, &tokens, &expected, Isa::best(), Precision::Int8);
            assert!(error > 1e-5 && error < 0.05, "{what}, int8: {error:e}");
        };
        for (ty, checksums) in &checksums {
            let dense = synthetic::source(&config, Naming::HuggingFace, seed);
            let mlx = ty == "MLX";
            let naming = if mlx { Naming::HuggingFace } else { Naming::Gguf };
            let mut source = synthetic::source(&config, naming, seed);
            for role in &roles {
                let (name, shape) = (role.name(config.family, Naming::HuggingFace).unwrap(), role.shape(&config));
                let bytes = dense.data(&name).unwrap();
                let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                let (codes, scales) = rounded(&values, bits);
                let own_name = role.name(config.family, naming).unwrap();
                let packed = if mlx {
                    mlx_codes(&codes, bits)
                } else {
                    let ty = TensorType::ALL.into_iter().find(|known| known.name() == ty).unwrap();
                    let weight = |(at, code): (usize, &i8)| f32::from(*code) * scales[at / GROUP];
                    let values: Vec<f32> = codes.iter().enumerate().map(weight).collect();
                    let mut bytes = vec![0; values.len() / ty.block_len() * ty.block_bytes()];
                    ggml::quantize(ty, &values, &mut bytes).unwrap();
                    source.insert(&own_name, ty, &shape, bytes.clone().into());
                    bytes
                };
                assert_eq!(fnv(&packed), checksums[&name], "{ty}, {name}");
                if mlx {
                    let (rows, groups) = (shape[0], shape[1] / GROUP);
                    let module = own_name.strip_suffix(".weight").unwrap();
                    source.insert(&own_name, TensorType::U32, &[rows, shape[1] * bits / 32], packed.into());
                    let step: Vec<f32> = scales.iter().map(|d| if bits == 1 { 2.0 * d } else { *d }).collect();
                    source.insert_f32(&format!("{module}.scales"), &[rows, groups], &step);
                    let biases: Vec<f32> = scales.iter().map(|d| -d).collect();
                    source.insert_f32(&format!("{module}.biases"), &[rows, groups], &biases);
                }
            }
            if mlx {
                let folder = root.path().join("mlx");
                fs::create_dir(&folder).unwrap();
                let mut json = config_json.clone();
                json["quantization"] = serde_json::json!({"bits": bits, "group_size": GROUP});
                fs::write(folder.join("config.json"), json.to_string()).unwrap();
                source.save(&folder.join("model.safetensors")).unwrap();
                is_right(&format!("MLX, {bits} bits"), &folder);
            } else {
                let path = root.path().join(format!("{ty}.gguf"));
                write_gguf(&path, &config, &source);
                is_right(ty, &path);
            }
        }
    }
}
