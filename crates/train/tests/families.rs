//! Architectures besides LLaMA: the forward pass against the library's f64 oracle, all gradients together against
//! differences of the loss.

use sherry::NoProgress;
use sherry::io::ReadMode;
use sherry::model::names::Naming;
use sherry::model::{ArchConfig, Checkpoint, Family, config_hf, reference, synthetic};
use sherry_kernels::Pool;
use sherry_train::layout::Learn;
use sherry_train::linear::Pass;
use sherry_train::loss::{IGNORED, Mix};
use sherry_train::methods::Quantizer;
use sherry_train::network::{Examples, Input, Network};
use sherry_train::pretrained;
use sherry_train::rng::Rng;

const FAMILIES: [Family; 4] = [Family::Llama, Family::Qwen3, Family::HunyuanDense, Family::Gemma3];

/// A folder with a tiny model.
fn model(config: &ArchConfig) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = synthetic::source(config, Naming::HuggingFace, 11);
    std::fs::write(folder.path().join("config.json"), config_hf::write(config).unwrap().to_string()).unwrap();
    source.save(&folder.path().join("model.safetensors")).unwrap();
    folder
}

#[test]
fn losses_and_gradients_of_every_family() {
    for family in FAMILIES {
        let folder = model(&synthetic::tiny(family));
        let checkpoint = Checkpoint::open(folder.path(), ReadMode::Read).unwrap();
        let network = Network::new(pretrained::architecture(&checkpoint).unwrap(), Quantizer::FULL);
        let params = pretrained::parameters(&checkpoint, &network.layout, &Quantizer::FULL, &NoProgress).unwrap();
        let (batch, length) = (2, 11);
        let tokens: Vec<u32> = (0..batch * length).map(|i| (i * i * 7 + 3 * i) as u32 % 61).collect();
        let mut targets: Vec<u32> = tokens.iter().map(|token| (token * 5 + 1) % 61).collect();
        targets[4] = IGNORED;

        let oracle = checkpoint.load(&Pool::new(1), &NoProgress).unwrap();
        let mut expected = 0.0;
        for sequence in 0..batch {
            let range = sequence * length..(sequence + 1) * length;
            let logits = reference::logits(&oracle, &tokens[range.clone()]);
            for (logits, &target) in logits.iter().zip(&targets[range]).filter(|(_, target)| **target != IGNORED) {
                let top = logits.iter().fold(f64::NEG_INFINITY, |top, x| top.max(*x));
                expected += top + logits.iter().map(|x| (x - top).exp()).sum::<f64>().ln() - logits[target as usize];
            }
        }
        for recompute in [false, true] {
            let mut space = network.workspace(batch, length, recompute);
            fn pass(params: &[f32]) -> Pass<'_> {
                Pass { params, lambda: 0.0, progress: &NoProgress }
            }
            let found = network.evaluate(pass(&params), &tokens, &targets, &mut space).unwrap().cross_entropy;
            assert!((found / expected - 1.0).abs() < 1e-5, "{family:?}: {found}, expected {expected}");

            let (mut grads, mix) = (vec![0.0f32; params.len()], Mix::CROSS_ENTROPY);
            let examples =
                Examples { input: Input::Tokens(&tokens), targets: &targets, teacher: None, mix: &mix, scale: 1.0 };
            network.train(pass(&params), examples, Learn::Everything, &mut grads, &mut space, None).unwrap();
            for tensor in &network.layout.tensors {
                // Along a random direction in this tensor; f32 sums allow few digits.
                let mut direction = vec![0.0f32; params.len()];
                Rng::new(tensor.offset as u64, 0).fill_normal(&mut direction[tensor.range()], 1.0);
                let mut loss = |step: f32| {
                    let moved: Vec<f32> = params.iter().zip(&direction).map(|(p, d)| p + step * d).collect();
                    network.evaluate(pass(&moved), &tokens, &targets, &mut space).unwrap().cross_entropy
                };
                let norm = direction.iter().map(|d| f64::from(d * d)).sum::<f64>().sqrt();
                let step = (0.02 / norm) as f32;
                let measured = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
                let along: f64 = grads.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
                let scale = norm * grads[tensor.range()].iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
                let size = (tensor.range().len() as f64).sqrt();
                assert!(
                    (measured - along).abs() < 0.03 * scale / size.min(10.0) + 1e-3 * norm,
                    "{family:?} {}: {along}, measured {measured}",
                    tensor.name
                );
            }
        }
    }
}

/// GGUF files store q and k rows in another order (LLaMA) and norms with one added (Gemma).
#[test]
fn gguf_files_are_the_same_models_as_the_folders_they_were_made_from() {
    for family in FAMILIES {
        let mut config = synthetic::tiny(family);
        config.attn_scale = 1.0 / (config.head_dim as f32).sqrt();
        let folder = model(&config);
        let (file, request) = (folder.path().join("model.gguf"), sherry_convert::Request::keep());
        let checkpoint = Checkpoint::open(folder.path(), ReadMode::Read).unwrap();
        sherry_convert::convert(&checkpoint, &file, &request, &NoProgress, |_| {}).unwrap();
        let converted = Checkpoint::open(&file, ReadMode::Read).unwrap();
        let [expected, found] = [&checkpoint, &converted].map(|checkpoint| {
            let network = Network::new(pretrained::architecture(checkpoint).unwrap(), Quantizer::FULL);
            (pretrained::parameters(checkpoint, &network.layout, &Quantizer::FULL, &NoProgress).unwrap(), network)
        });
        assert_eq!(found.1.arch, expected.1.arch);
        let off = expected.0.iter().zip(&found.0).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-6, "{family:?}: off by {off}");
    }
}

#[test]
fn biases_are_refused() {
    let mut config = synthetic::tiny(Family::Qwen3);
    config.qkv_bias = true;
    config.o_bias = true;
    let folder = model(&config);
    let checkpoint = Checkpoint::open(folder.path(), ReadMode::Read).unwrap();
    let message = pretrained::architecture(&checkpoint).unwrap_err().to_string();
    assert!(message.contains("cannot be trained: biases"), "{message}");
}
