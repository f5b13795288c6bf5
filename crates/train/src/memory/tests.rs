use std::path::Path;

use sherry::model::Family;
use sherry::model::synthetic;

use super::*;
use crate::network::Network;
use crate::scratch;

fn config(overrides: &[&str]) -> Config {
    let text = "steps = 1\n[model]\nhidden = 64\nffn = 96\nlayers = 3\nheads = 4\nkv_heads = 2\n[optimizer]\nlr = 1e-3\n\
                [batch]\nlength = 16\nsize = 4\n[data]\ntrain = [\"x\"]\n[metrics]\nprobe_every = 0\n";
    let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
    Config::parse(Path::new("test"), text, &overrides).unwrap()
}

/// The estimate against the buffers that are made.
#[test]
fn estimates_equal_what_is_made() {
    for family in [Family::Llama, Family::Qwen3, Family::HunyuanDense, Family::Gemma3] {
        let arch = synthetic::tiny(family);
        for overrides in [
            &[][..],
            &["batch.recompute=true", "batch.length=200", "batch.size=1"],
            &["quantizer.method=none"],
            &["quantizer.method=dlt", "quantizer.scale=group", "quantizer.group_size=32"],
            &["quantizer.method=lsq", "quantizer.scale=tensor"],
        ] {
            let config = config(overrides);
            let batch = &config.batch;
            let network = Network::new(arch.clone(), config.quantizer.build());
            let memory = Memory::of(&config, &arch, None, 3);
            assert_eq!(memory.model, 16.0 * network.layout.len as f64, "{family:?} {overrides:?}");
            // Besides buffers: the gradient of the stream, effective weights, scores, logits, tokens.
            let pass = Pass {
                arch: &arch,
                quantizer: network.quantizer,
                length: batch.length as f64,
                tokens: (batch.length * batch.size) as f64,
            };
            let made = network.workspace(batch.size, batch.length, batch.recompute).floats() as f64;
            let rotations = 2.0 * pass.length * arch.head_dim as f64;
            let working = pass.shared(3) - pass.tokens * (arch.hidden as f64 + 2.0 * widest(&arch)) - rotations;
            let expected =
                4.0 * (made + pass.stream() + working + pass.logits()) + 8.0 * (pass.tokens + batch.size as f64);
            assert_eq!(memory.activations, expected, "{family:?} {overrides:?}");
        }
        let teacher = Network::new(arch.clone(), Quantizer::FULL);
        let config = config(&[]);
        let [with, without] = [Some(&arch), None].map(|teacher| Memory::of(&config, &arch, teacher, 1));
        assert_eq!(with.teacher, 4.0 * teacher.layout.len as f64);
        let made = teacher.forward_workspace(config.batch.size, config.batch.length).floats() as f64;
        assert!(with.activations - without.activations >= 4.0 * made);
    }
}

fn widest(arch: &ArchConfig) -> f64 {
    ((arch.heads + 2 * arch.kv_heads) * arch.head_dim).max(arch.ffn).max(arch.hidden) as f64
}

#[test]
fn what_does_not_fit_is_named_with_a_way_out() {
    let gib = f64::from(1u32 << 30);
    for (overrides, available, field, way) in [
        (&["batch.length=1000000", "batch.size=1"][..], 8.0, "batch.length", "batch.length="),
        (&["batch.size=1000000"], 8.0, "batch.size", "batch.size="),
        (&["batch.size=100000", "model.layers=100"], 100.0, "batch.size", "batch.recompute=true"),
        (&["model.layers=4000000"], 8.0, "model.layers", "smaller model"),
        (&["model.hidden=4000000"], 8.0, "model.hidden", "smaller model"),
        (&["model.ffn=4000000", "model.hidden=4096"], 8.0, "model.ffn", "smaller model"),
        (&["model.head_dim=4000000"], 8.0, "model.head_dim", "smaller model"),
        (&["model.vocab=4000000", "model.hidden=1024"], 8.0, "model.vocab", "smaller model"),
        (&["data.tokenizer={ vocab = 1000000 }", "model.hidden=1024"], 8.0, "data.tokenizer", "smaller model"),
        (&["batch.length=1024", "batch.size=1"], 0.01, "batch.length", "batch.length="),
    ] {
        let config = config(overrides);
        let vocab = match config.data.tokenizer {
            Some(crate::config::TokenizerChoice::Learned { vocab }) => vocab,
            _ => 257,
        };
        let arch = scratch::architecture(&config, vocab);
        let (found, problem) = check(&config, &arch, None, 2, available * gib).unwrap_err();
        assert!(found == field && problem.contains(way), "{overrides:?}: {found}: {problem}");
        assert_eq!(check(&config, &arch, None, 2, f64::INFINITY), Ok(()));
    }
    let config = config(&[]);
    let arch = scratch::architecture(&config, 257);
    let teacher = ArchConfig { layers: 1000, ..arch.clone() };
    let available = Memory::of(&config, &arch, None, 2).total() * 1.5;
    let (field, problem) = check(&config, &arch, Some(&teacher), 2, available).unwrap_err();
    assert!(field == "loss.teacher" && problem.contains("for the teacher"), "{field}: {problem}");
}

/// What is suggested fits, and one more does not.
#[test]
fn suggestions_are_exact() {
    let arch = scratch::architecture(&config(&[]), 257);
    let available = Memory::of(&config(&[]), &arch, None, 2).total() * 3.0;
    let (_, problem) = check(&config(&["batch.size=1000"]), &arch, None, 2, available).unwrap_err();
    let size: usize = problem.split("batch.size=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let fits = |size: usize| {
        let config = config(&[&format!("batch.size={size}")]);
        check(&config, &arch, None, 2, available).is_ok()
    };
    assert!(fits(size) && !fits(size + 1), "{problem}");
}
