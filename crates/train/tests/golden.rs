//! The trainer against its independent twin: losses, every gradient and ten AdamW steps of a tiny LLaMA, computed by
//! PyTorch in float64 (`python/tests/make_golden.py`), for every method and every loss. And against transformers: loss
//! and every gradient of a tiny Gemma 3 (`python/tests/make_gemma_golden.py`).

use std::path::Path;

use serde_json::Value;
use sherry::NoProgress;
use sherry::model::{Activation, ArchConfig, Family, Rope, RopeLayout, RopeScaling, config_hf};
use sherry_kernels::format::QuadOrder;
use sherry_train::adamw::{AdamW, Moments};
use sherry_train::layout::{Learn, Purpose};
use sherry_train::linear::Pass;
use sherry_train::loss::{IGNORED, Mix};
use sherry_train::methods::{Quantizer, Scale};
use sherry_train::network::{Examples, Input, Network};
use sherry_train::simd::sum_of_squares;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn size(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn arch(golden: &Value, tied: bool) -> ArchConfig {
    ArchConfig {
        family: Family::Llama,
        vocab: size(&golden["vocab"]),
        hidden: size(&golden["hidden"]),
        ffn: size(&golden["ffn"]),
        layers: size(&golden["layers"]),
        heads: size(&golden["heads"]),
        kv_heads: size(&golden["kv_heads"]),
        head_dim: size(&golden["head_dim"]),
        context: 64,
        norm_eps: number(&golden["eps"]) as f32,
        norm_plus_one: false,
        post_norms: false,
        sub_norms: false,
        input_norms: None,
        qk_norm: None,
        qkv_bias: false,
        o_bias: false,
        rope: Rope {
            theta: number(&golden["theta"]) as f32,
            local_theta: None,
            scaling: RopeScaling::None,
            layout: RopeLayout::Halves,
        },
        activation: Activation::Silu,
        embed_scale: 1.0,
        residual_scale: 1.0,
        logit_divisor: 1.0,
        attn_scale: 1.0 / number(&golden["head_dim"]).sqrt() as f32,
        window: None,
        window_pattern: 0,
        tied,
        int8_per_token: false,
    }
}

fn quantizer(method: &Value) -> Quantizer {
    Quantizer {
        method: serde_json::from_value(method.clone()).unwrap(),
        scale: Scale::Row,
        group_size: 0,
        quads: QuadOrder::Contiguous,
        tequila: 1e-3,
    }
}

/// The twin's initial parameters.
fn init(network: &Network, mut seed: u32) -> Vec<f32> {
    let norm = if network.arch.norm_plus_one { 0.0 } else { 1.0 };
    let mut params = Vec::with_capacity(network.layout.len);
    for tensor in &network.layout.tensors {
        for _ in tensor.range() {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = (seed >> 8) as f32 / (1 << 23) as f32 - 1.0;
            params.push(match tensor.purpose {
                Purpose::Norm => norm + x / 8.0,
                Purpose::Learned => 0.125 + x / 32.0,
                _ => x / 4.0,
            });
        }
    }
    params
}

#[track_caller]
fn assert_names(expected: &Value, network: &Network) {
    let expected: Vec<&str> = expected.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(expected, network.layout.tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>());
}

/// Largest difference of two tensors relative to the largest element of the second.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    let top = expected.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs() / top).fold(0.0, f32::max)
}

#[test]
fn losses_gradients_and_ten_steps_equal_pytorch() {
    let golden: Value = serde_json::from_str(include_str!("golden/golden.json")).unwrap();
    let blob = include_bytes!("golden/golden.bin").as_chunks::<4>().0;
    let mut numbers = blob.iter().map(|bytes| f32::from_le_bytes(*bytes));
    for case in golden["cases"].as_array().unwrap() {
        let method = &case["method"];
        let network = Network::new(arch(&golden, case["tied"].as_bool().unwrap()), quantizer(method));
        let layout = &network.layout;
        assert_names(&case["tensors"], &network);
        let expected_grads: Vec<f32> = numbers.by_ref().take(layout.len).collect();
        let expected_params: Vec<f32> = numbers.by_ref().take(layout.len).collect();

        let mix = Mix {
            cross_entropy: number(&case["cross_entropy"]) as f32,
            distillation: number(&case["distillation"]) as f32,
            divergence: serde_json::from_value(case["divergence"].clone()).unwrap(),
            top_k: size(&golden["top_k"]),
        };
        let teacher_network = Network::new(network.arch.clone(), Quantizer::FULL);
        let teacher_params = init(&teacher_network, 2);
        let adam = AdamW {
            beta1: number(&golden["beta1"]) as f32,
            beta2: number(&golden["beta2"]) as f32,
            eps: number(&golden["adam_eps"]) as f32,
            weight_decay: number(&golden["weight_decay"]) as f32,
            clip: number(&golden["clip"]) as f32,
        };
        for recompute in [false, true] {
            let lambda = number(&case["arenas"]) as f32;
            let mut params = init(&network, 1);
            let mut moments = Moments::new(layout.len);
            let mut space = network.workspace(2, size(&golden["length"]), recompute);
            let mut teacher_space = teacher_network.workspace(2, size(&golden["length"]), true);
            for (step, batch) in case["batches"].as_array().unwrap().iter().enumerate() {
                let (mut tokens, mut targets) = (Vec::new(), Vec::new());
                for (row, sequence) in batch.as_array().unwrap().iter().enumerate() {
                    let ids: Vec<u32> = sequence.as_array().unwrap().iter().map(|id| size(id) as u32).collect();
                    tokens.extend(&ids[..ids.len() - 1]);
                    targets.extend(&ids[1..]);
                    if row == 1 {
                        let end = targets.len();
                        targets[end - 2..].fill(IGNORED);
                    }
                }
                let mut grads = vec![0.0f32; layout.len];
                let hidden;
                let teacher = if mix.distillation > 0.0 {
                    let pass = Pass { params: &teacher_params, lambda: 0.0, progress: &NoProgress };
                    hidden = teacher_network.forward(pass, &tokens, &mut teacher_space).unwrap().to_vec();
                    Some(teacher_network.side(&teacher_params, &hidden))
                } else {
                    None
                };
                let count = targets.iter().filter(|&&t| t != IGNORED).count();
                let scale = 1.0 / count as f32;
                let pass = Pass { params: &params, lambda, progress: &NoProgress };
                let examples = Examples { input: Input::Tokens(&tokens), targets: &targets, teacher, mix: &mix, scale };
                let sums = network.train(pass, examples, Learn::Everything, &mut grads, &mut space, None).unwrap();
                let norm = sum_of_squares(&grads).sqrt();
                let expected = &case["losses"][step];
                let found = [sums.cross_entropy / count as f64, sums.divergence / count as f64];
                for (found, expected) in found.iter().zip([number(&expected[0]), number(&expected[1])]) {
                    assert!((found - expected).abs() < 2e-5, "{method} step {step}: loss {found}, {expected}");
                }
                let expected_norm = number(&case["grad_norms"][step]);
                assert!((norm / expected_norm - 1.0).abs() < 2e-4, "{method} step {step}: {norm} {expected_norm}");
                if step == 0 {
                    for tensor in &layout.tensors {
                        let off = distance(&grads[tensor.range()], &expected_grads[tensor.range()]);
                        assert!(off < 2e-5, "{method}: gradient of {} is off by {off}", tensor.name);
                    }
                }
                let lr = number(&golden["lr"]);
                adam.step(&layout.tensors, &mut params, &grads, &mut moments, step as u64 + 1, lr, norm);
            }
            for tensor in &layout.tensors {
                let off = distance(&params[tensor.range()], &expected_params[tensor.range()]);
                assert!(off < 1e-4, "{method}: {} is off by {off} after ten steps", tensor.name);
            }
        }
    }
    assert_eq!(numbers.next(), None);
}

#[test]
fn losses_and_gradients_of_gemma_3_equal_transformers() {
    let golden: Value = serde_json::from_str(include_str!("golden/gemma.json")).unwrap();
    let blob = include_bytes!("golden/gemma.bin").as_chunks::<4>().0;
    let mut numbers = blob.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let arch = config_hf::parse(Path::new("gemma.json"), &golden["config"]).unwrap();
    let flat = |rows: &Value| -> Vec<u32> {
        let rows = rows.as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
        rows.map(|id| id.as_u64().map_or(IGNORED, |id| id as u32)).collect()
    };
    let (tokens, targets) = (flat(&golden["tokens"]), flat(&golden["targets"]));
    let count = targets.iter().filter(|&&target| target != IGNORED).count();
    assert!(arch.window.unwrap() < tokens.len() / 2 && arch.is_sliding(0) && !arch.is_sliding(1));
    for case in golden["cases"].as_array().unwrap() {
        let method = &case["method"];
        let network = Network::new(arch.clone(), quantizer(method));
        assert_names(&golden["tensors"], &network);
        let params = init(&network, 3);
        let expected: Vec<f32> = numbers.by_ref().take(network.layout.len).collect();
        for recompute in [false, true] {
            let (mut space, mix) = (network.workspace(2, tokens.len() / 2, recompute), Mix::CROSS_ENTROPY);
            let (lambda, scale) = (number(&case["arenas"]) as f32, 1.0 / count as f32);
            let mut grads = vec![0.0f32; network.layout.len];
            let pass = Pass { params: &params, lambda, progress: &NoProgress };
            let examples =
                Examples { input: Input::Tokens(&tokens), targets: &targets, teacher: None, mix: &mix, scale };
            let sums = network.train(pass, examples, Learn::Everything, &mut grads, &mut space, None).unwrap();
            let (loss, wanted) = (sums.cross_entropy / count as f64, number(&case["loss"]));
            assert!((loss - wanted).abs() < 1e-5, "{method}: loss {loss}, {wanted}");
            for tensor in &network.layout.tensors {
                let off = distance(&grads[tensor.range()], &expected[tensor.range()]);
                assert!(off < 2e-5, "{method}: gradient of {} is off by {off}", tensor.name);
            }
        }
    }
    assert_eq!(numbers.next(), None);
}
