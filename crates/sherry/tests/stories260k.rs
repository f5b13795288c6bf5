//! A real trained model of 0.26 M parameters (karpathy/tinyllamas stories260K) against answers computed in f64.

use std::sync::Arc;

use serde_json::Value;
use sherry::NoProgress;
use sherry::generate::log_probs;
use sherry::model::names::{Naming, Part, Role};
use sherry::model::synthetic::MemorySource;
use sherry::model::{
    Activation, ArchConfig, Decoder, Family, KvCache, KvType, Model, Rope, RopeLayout, RopeScaling, TensorMap, Wanted,
    Weights, reference,
};
use sherry_kernels::{Engine, Isa, Pool, Precision};
use sherry_testing::{Outcome, data};

sherry_testing::main![stories260k_reproduces_its_reference];

/// Reads llama2.c's version-0 checkpoint: seven i32, then every tensor of a kind for all layers together, f32.
fn import(bytes: &[u8]) -> Model {
    let (words, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    let header: Vec<usize> = words[..7].iter().map(|w| i32::from_le_bytes(*w) as usize).collect();
    let [hidden, ffn, layers, heads, kv_heads, vocab, context] = header[..] else { unreachable!() };
    let head_dim = hidden / heads;
    let config = ArchConfig {
        family: Family::Llama,
        vocab,
        hidden,
        ffn,
        layers,
        heads,
        kv_heads,
        head_dim,
        context,
        norm_eps: 1e-5,
        norm_plus_one: false,
        post_norms: false,
        sub_norms: false,
        input_norms: None,
        qk_norm: None,
        qkv_bias: false,
        o_bias: false,
        rope: Rope { theta: 10_000.0, local_theta: None, scaling: RopeScaling::None, layout: RopeLayout::Interleaved },
        activation: Activation::Silu,
        embed_scale: 1.0,
        residual_scale: 1.0,
        logit_divisor: 1.0,
        attn_scale: 1.0 / (head_dim as f32).sqrt(),
        window: None,
        window_pattern: 0,
        tied: true,
        int8_per_token: false,
    };
    let mut values = words[7..].iter().map(|w| f32::from_le_bytes(*w));
    let mut source = MemorySource::new("stories260K.bin");
    let mut add = |role: Role| {
        let shape = role.shape(&config);
        let tensor: Vec<f32> = values.by_ref().take(shape.iter().product()).collect();
        source.insert_f32(&role.name(config.family, Naming::Gguf).unwrap(), &shape, &tensor);
    };
    add(Role::Embed);
    for part in [Part::AttnNorm, Part::Q, Part::K, Part::V, Part::O, Part::FfnNorm, Part::Gate, Part::Down, Part::Up] {
        (0..layers).for_each(|layer| add(Role::Layer(layer, part)));
    }
    add(Role::OutputNorm);
    let tensors = TensorMap::new(&source, &config, Naming::Gguf, None).unwrap();
    let weights = Weights::load(&source, &tensors, &config, &Pool::new(2), &NoProgress).unwrap();
    Model { config, weights }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn stories260k_reproduces_its_reference() -> Outcome {
    let model = Arc::new(import(&std::fs::read(data("models/stories260K.bin")?).unwrap()));
    let text = std::fs::read_to_string(data("reference/stories260K_reference.json")?).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let mut decoder = Decoder::new(Arc::clone(&model), Engine::new(Isa::best(), 2, Precision::F32));
    let mut cache = KvCache::new(&model.config, model.config.context, KvType::F32).unwrap();

    for case in expected["nll"].as_array().unwrap() {
        let scores = log_probs(&mut decoder, &mut cache, &ids(&case["ids"])).unwrap();
        let reference = floats(&case["token_logprobs"]);
        assert_eq!(scores.len(), reference.len());
        for (score, reference) in scores.iter().zip(reference) {
            assert!((score - reference).abs() < 2e-5, "{score} instead of {reference}");
        }
    }

    let last = &expected["last_position_logits"];
    let prompt = expected["nll"].as_array().unwrap().iter().find(|case| case["text"] == last["text"]).unwrap();
    let prompt = ids(&prompt["ids"]);
    cache.truncate(0);
    let logits = decoder.forward_one(&mut cache, &prompt, Wanted::Last).unwrap().last().unwrap().to_vec();
    let oracle = reference::logits(&model, &prompt).pop().unwrap();
    for ((found, oracle), expected) in logits.iter().zip(oracle).zip(floats(&last["logits"])) {
        assert!((oracle - expected).abs() < 1e-5, "{oracle} instead of {expected}");
        assert!((f64::from(*found) - expected).abs() < 5e-5, "{found} instead of {expected}");
    }

    // Greedy from the start token, with the cache of ordinary use.
    let greedy = ids(&expected["greedy_from_bos"]["ids"]);
    let mut cache = KvCache::new(&model.config, greedy.len(), KvType::F16).unwrap();
    let mut found = vec![greedy[0]];
    while found.len() < greedy.len() {
        let logits = decoder.forward_one(&mut cache, &found[found.len() - 1..], Wanted::Last).unwrap().last().unwrap();
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        found.push(best as u32);
    }
    assert_eq!(found, greedy);
    Ok(())
}
