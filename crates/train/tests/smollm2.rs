//! The forward pass on a real model: SmolLM2-135M-Instruct against log-probabilities computed by transformers.

use std::fs;

use serde_json::Value;
use sherry::NoProgress;
use sherry::io::ReadMode;
use sherry::model::Checkpoint;
use sherry_testing::{Outcome, data, demo_model};
use sherry_train::linear::Pass;
use sherry_train::methods::Quantizer;
use sherry_train::network::Network;
use sherry_train::pretrained;

sherry_testing::main![log_probabilities_equal_those_of_transformers];

fn log_probabilities_equal_those_of_transformers() -> Outcome {
    let model = demo_model()?;
    let reference: Value =
        serde_json::from_slice(&fs::read(data("reference/smollm2_reference.json")?).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(&model, ReadMode::Map).unwrap();
    let network = Network::new(pretrained::architecture(&checkpoint).unwrap(), Quantizer::FULL);
    let params = pretrained::parameters(&checkpoint, &network.layout, &Quantizer::FULL, &NoProgress).unwrap();
    for prompt in reference["prompts"].as_array().unwrap().iter().take(4) {
        let ids: Vec<u32> = prompt["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let expected = prompt["prompt_token_logprobs"].as_array().unwrap();
        let mut space = network.workspace(1, ids.len(), true);
        for (i, expected) in expected.iter().enumerate() {
            // One target at a time: the sum is then this token's negative log-probability.
            let mut targets = vec![sherry_train::loss::IGNORED; ids.len()];
            targets[i] = ids[i + 1];
            let pass = Pass { params: &params, lambda: 0.0, progress: &NoProgress };
            let sums = network.evaluate(pass, &ids, &targets, &mut space).unwrap();
            let (found, expected) = (-sums.cross_entropy, expected.as_f64().unwrap());
            assert!((found - expected).abs() < 2e-3, "{}: token {i}: {found}, expected {expected}", prompt["prompt"]);
        }
    }
    Ok(())
}
