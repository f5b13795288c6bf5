//! What the module of the browser is compared with: tokens of the scalar kernels.

use serde_json::{Value, json};
use sherry::io::ReadMode;
use sherry::model::Checkpoint;
use sherry::{Generate, Isa, Llm, LoadOptions, NoProgress, SamplingParams};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/model/sherry-tiny.gguf");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../js/test/greedy.json");

#[test]
fn the_golden_tokens_are_those_of_the_scalar_kernels() {
    let checkpoint = Checkpoint::open(TINY.as_ref(), ReadMode::Read).unwrap();
    let options =
        LoadOptions { isa: Some(Isa::Scalar), threads: Some(2), context: Some(512), ..LoadOptions::default() };
    let mut llm = Llm::from_checkpoint(&checkpoint, &options, &NoProgress).unwrap();
    let greedy = Generate { max_tokens: Some(256), sampling: Some(SamplingParams::GREEDY), stop: Vec::new() };
    let mut found = Vec::new();
    for prompt in ["Once upon a time", "The history of the town", "Zürich is"] {
        let tokens = llm.generate(prompt, &greedy).unwrap().complete().unwrap().tokens;
        found.push(json!({ "prompt": prompt, "tokens": tokens }));
    }
    let found = Value::from(found);
    let golden: Value = serde_json::from_slice(&std::fs::read(GOLDEN).unwrap_or_default()).unwrap_or_default();
    assert!(found == golden, "{GOLDEN} should hold\n{found}");
}
