//! BitNet models against transformers' own implementation (tests/python/bitnet_golden.py): latent and packed weights, both
//! senses of the scale, activations rounded as in training.

use std::path::Path;
use std::sync::Arc;

use sherry::NoProgress;
use sherry::io::TensorSource as _;
use sherry::model::bitnet::BitNetScheme;
use sherry::model::names::{Naming, Role};
use sherry::model::synthetic::{self, MemorySource};
use sherry::model::{ArchConfig, Decoder, KvCache, KvType, Model, TensorMap, Wanted, Weights, config_hf};
use sherry_kernels::format::TensorType;
use sherry_kernels::{Engine, Isa, Pool, Precision};

/// Packs the linear layers of `source` as releases do.
fn pack(source: &mut MemorySource, config: &ArchConfig, inverse: bool) {
    for role in Role::all(config).filter(|role| role.is_linear()) {
        let [rows, cols] = role.shape(config)[..] else { panic!("a matrix") };
        let name = role.name(config.family, Naming::HuggingFace).unwrap();
        let bytes = source.data(&name).unwrap();
        let weights: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let mean = (weights.iter().map(|w| f64::from(w.abs())).sum::<f64>() / weights.len() as f64) as f32;
        let mut packed = vec![0b0101_0101u8; rows.div_ceil(4) * cols];
        for (at, w) in weights.iter().enumerate() {
            let code = (w * (1.0 / mean)).round_ties_even().clamp(-1.0, 1.0) as i8 + 1;
            let (part, row) = (at / cols / rows.div_ceil(4), at / cols % rows.div_ceil(4));
            let byte = &mut packed[row * cols + at % cols];
            *byte = *byte & !(3 << (2 * part)) | (code as u8) << (2 * part);
        }
        source.insert(&name, TensorType::U8, &[rows.div_ceil(4), cols], packed.into());
        source.insert_f32(&format!("{name}_scale"), &[1], &[if inverse { 1.0 / mean } else { mean }]);
    }
}

#[test]
fn logits_are_those_of_transformers() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/bitnet.json")).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let path = Path::new("config.json");
        let config = config_hf::parse(path, &case["config"]).unwrap();
        let scheme = BitNetScheme::from_config(path, &case["config"], config.family).unwrap().unwrap();
        let mut source = synthetic::source(&config, Naming::HuggingFace, golden["seed"].as_u64().unwrap());
        if !scheme.latent {
            pack(&mut source, &config, scheme.inverse);
        }
        let tensors = TensorMap::of_bitnet(&source, &config, scheme).unwrap();
        let weights = Weights::load(&source, &tensors, &config, &Pool::new(2), &NoProgress).unwrap();
        let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        let expected: Vec<Vec<f64>> = serde_json::from_value(case["logits"].clone()).unwrap();
        let model = Arc::new(Model { config: config.clone(), weights });
        // Largest difference, and the mean of their squares, in terms of the logits.
        let errors = |isa: Isa, precision: Precision| {
            let mut cache = KvCache::new(&config, tokens.len(), KvType::F32).unwrap();
            let mut decoder = Decoder::new(Arc::clone(&model), Engine::new(isa, 2, precision));
            let logits = decoder.forward_one(&mut cache, &tokens, Wanted::All).unwrap();
            let found = (0..logits.rows()).flat_map(|row| logits.row(row).to_vec());
            let pairs: Vec<(f64, f64)> = found.map(f64::from).zip(expected.iter().flatten().copied()).collect();
            let range = pairs.iter().fold(0.0f64, |max, (_, y)| max.max(y.abs()));
            let largest = pairs.iter().fold(0.0f64, |max, (x, y)| max.max((x - y).abs())) / range;
            let squares = pairs.iter().map(|(x, y)| (x - y).powi(2)).sum::<f64>();
            (largest, squares / pairs.iter().map(|(_, y)| y * y).sum::<f64>())
        };
        let what = &case["config"]["quantization_config"];
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let (largest, squares) = errors(isa, Precision::Int8);
            assert!(largest < 1e-4 && squares < 1e-10, "{what} {isa}: {largest:e}, {squares:e}");
        }
        // Without rounding the model is near, as it is not the one that was trained.
        let (largest, squares) = errors(Isa::best(), Precision::F32);
        assert!(largest > 1e-4 && squares < 2e-3, "{what}: {largest:e}, {squares:e}");
    }
}
