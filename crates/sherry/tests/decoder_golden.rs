//! The decoder against logits computed by an independent implementation (tests/python/decoder_golden.py), one tiny random
//! model per family, from `config.json` to logits.

use std::path::Path;
use std::sync::Arc;

use sherry::NoProgress;
use sherry::io::ReadMode;
use sherry::model::names::Naming;
use sherry::model::{Checkpoint, Decoder, KvCache, KvType, Model, TensorMap, Wanted, Weights, config_hf, synthetic};
use sherry_convert::{Request, convert};
use sherry_kernels::{Engine, Isa, Pool, Precision};

#[test]
fn logits_are_those_of_the_published_formulas() {
    let text = include_str!("golden/decoder.json");
    let golden: serde_json::Value = serde_json::from_str(text).unwrap();
    let seed = golden["seed"].as_u64().unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let config = config_hf::parse(Path::new("config.json"), &case["config"]).unwrap();
        let source = synthetic::source(&config, Naming::HuggingFace, seed);
        let tensors = TensorMap::new(&source, &config, Naming::HuggingFace, None).unwrap();
        let weights = Weights::load(&source, &tensors, &config, &Pool::new(2), &NoProgress).unwrap();
        let numbers = |value: &serde_json::Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        let tokens: Vec<u32> = numbers(&case["tokens"]).iter().map(|&x| x as u32).collect();
        let mut cache = KvCache::new(&config, tokens.len(), KvType::F32).unwrap();
        let model = Arc::new(Model { config, weights });
        let mut decoder = Decoder::new(model, Engine::new(Isa::best(), 2, Precision::F32));
        let logits = decoder.forward_one(&mut cache, &tokens, Wanted::All).unwrap();
        for (position, expected) in case["logits"].as_array().unwrap().iter().enumerate() {
            for (found, expected) in logits.row(position).iter().zip(numbers(expected)) {
                let difference = (f64::from(*found) - expected).abs();
                let architecture = &case["config"]["architectures"][0];
                assert!(difference < 5e-5, "{architecture} position {position}: {found} instead of {expected}");
            }
        }
    }
}

#[test]
fn factors_and_longrope_are_those_of_transformers() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/minicpm.json")).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let config = config_hf::parse(Path::new("config.json"), &case["config"]).unwrap();
        let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        let positions: Vec<usize> = serde_json::from_value(case["positions"].clone()).unwrap();
        let expected: Vec<Vec<f64>> = serde_json::from_value(case["logits"].clone()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let source = synthetic::source(&config, Naming::HuggingFace, golden["seed"].as_u64().unwrap());
        source.save(&folder.path().join("model.safetensors")).unwrap();
        std::fs::write(folder.path().join("config.json"), case["config"].to_string()).unwrap();
        let gguf = folder.path().join("model.gguf");
        let open = |path: &Path| Checkpoint::open(path, ReadMode::Read).unwrap();
        convert(&open(folder.path()), &gguf, &Request::keep(), &NoProgress, |_| {}).unwrap();
        for path in [folder.path(), &gguf] {
            let checkpoint = open(path);
            let model = Arc::new(checkpoint.load(&Pool::new(2), &NoProgress).unwrap());
            let mut cache = KvCache::new(checkpoint.config(), tokens.len(), KvType::F32).unwrap();
            let decoder = Decoder::new(model, Engine::new(Isa::best(), 2, Precision::F32));
            let mut decoder = decoder.with_context(tokens.len());
            let logits = decoder.forward_one(&mut cache, &tokens, Wanted::All).unwrap();
            for (&position, expected) in positions.iter().zip(&expected) {
                for (found, expected) in logits.row(position).iter().zip(expected) {
                    let difference = (f64::from(*found) - expected).abs();
                    assert!(difference < 1e-4, "{path:?} position {position}: {found} instead of {expected}");
                }
            }
        }
    }
}

#[test]
fn yarn_is_that_of_transformers() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/yarn.json")).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    let positions: Vec<usize> = serde_json::from_value(golden["positions"].clone()).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let config = config_hf::parse(Path::new("config.json"), &case["config"]).unwrap();
        let source = synthetic::source(&config, Naming::HuggingFace, golden["seed"].as_u64().unwrap());
        let tensors = TensorMap::new(&source, &config, Naming::HuggingFace, None).unwrap();
        let weights = Weights::load(&source, &tensors, &config, &Pool::new(2), &NoProgress).unwrap();
        let mut cache = KvCache::new(&config, tokens.len(), KvType::F32).unwrap();
        let model = Arc::new(Model { config, weights });
        let mut decoder = Decoder::new(model, Engine::new(Isa::best(), 2, Precision::F32));
        let logits = decoder.forward_one(&mut cache, &tokens, Wanted::All).unwrap();
        let expected: Vec<Vec<f64>> = serde_json::from_value(case["logits"].clone()).unwrap();
        for (&position, expected) in positions.iter().zip(&expected) {
            for (found, expected) in logits.row(position).iter().zip(expected) {
                let difference = (f64::from(*found) - expected).abs();
                let scaling = &case["config"]["rope_scaling"];
                assert!(difference < 1e-4, "{scaling} position {position}: {found} instead of {expected}");
            }
        }
    }
}
