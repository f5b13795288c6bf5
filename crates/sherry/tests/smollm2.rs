//! SmolLM2-135M-Instruct from its Q4_1 GGUF against transformers in float32 (weights dequantized from the same file).

use std::io::Read;
use std::sync::Arc;

use serde_json::Value;
use sherry::batch::{BatchEngine, Budget, Finish, Job, JobId, Options, Output};
use sherry::generate::{SamplingParams, log_prob, log_probs};
use sherry::io::ReadMode;
use sherry::model::{Checkpoint, Decoder, HeadStatistics, KvCache, KvType, Wanted};
use sherry::{Generate, Llm, NoProgress};
use sherry_kernels::{Engine, Isa, Pool, Precision};
use sherry_testing::{Missing, Outcome, data, demo_model};

sherry_testing::main![
    log_probabilities_and_greedy_tokens_are_those_of_transformers,
    a_wikitext_window_scores_as_in_transformers,
    int8_activations_stay_close_and_answer,
    two_stage_head_generates_the_same,
];

fn model() -> Result<Checkpoint, Missing> {
    Ok(Checkpoint::open(&demo_model()?, ReadMode::Map).unwrap())
}

fn decoder(checkpoint: &Checkpoint, precision: Precision) -> Decoder {
    let model = Arc::new(checkpoint.load(&Pool::new(2), &NoProgress).unwrap());
    Decoder::new(model, Engine::new(Isa::best(), 2, precision))
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

fn log_probabilities_and_greedy_tokens_are_those_of_transformers() -> Outcome {
    let checkpoint = model()?;
    assert_eq!(checkpoint.describe(), "GGUF file, LLaMA, 30 layers, 134.5 M parameters, Q4_1, tied embeddings");
    let tokenizer = checkpoint.tokenizer().unwrap();
    let text = std::fs::read_to_string(data("reference/smollm2_reference.json")?).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let mut decoder = decoder(&checkpoint, Precision::F32);
    let mut cache = KvCache::new(checkpoint.config(), 64, KvType::F32).unwrap();
    for case in reference["prompts"].as_array().unwrap() {
        let prompt = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(case["prompt"].as_str().unwrap(), true, false).unwrap(), prompt);
        // One pass over the prompt and the reference's greedy continuation gives everything there is to compare.
        let greedy = ids(&case["greedy24"]);
        let tokens = [&prompt[..], &greedy[..greedy.len() - 1]].concat();
        cache.truncate(0);
        let logits = decoder.forward_one(&mut cache, &tokens, Wanted::All).unwrap();

        for (i, expected) in floats(&case["prompt_token_logprobs"]).into_iter().enumerate() {
            let found = log_prob(logits.row(i), prompt[i + 1]);
            assert!((found - expected).abs() < 2e-3, "{case}: token {i}: {found} instead of {expected}");
        }
        let last = logits.row(prompt.len() - 1);
        for pair in case["last_top10"].as_array().unwrap() {
            let found = log_prob(last, pair[0].as_u64().unwrap() as u32);
            assert!((found - pair[1].as_f64().unwrap()).abs() < 2e-3, "{pair}: {found}");
        }
        assert_eq!(u64::from(best(last)), case["last_top10"][0][0].as_u64().unwrap());
        for (found, expected) in last.iter().zip(floats(&case["last_logits_first16"])) {
            assert!((f64::from(*found) - expected).abs() < 5e-3, "{found} instead of {expected}");
        }
        for (i, gap) in floats(&case["greedy_top2_logit_gap"]).into_iter().enumerate() {
            if gap > 1e-3 {
                assert_eq!(best(logits.row(prompt.len() - 1 + i)), greedy[i], "{case}: greedy token {i}");
            }
        }
    }
    Ok(())
}

fn a_wikitext_window_scores_as_in_transformers() -> Outcome {
    let checkpoint = model()?;
    let mut text = String::new();
    let file = std::fs::File::open(data("corpus/wikitext2-raw-test.txt.gz")?).unwrap();
    // The first window lies well within the first 16 kB.
    flate2::read::GzDecoder::new(file).take(16_000).read_to_string(&mut text).unwrap();
    let tokens = checkpoint.tokenizer().unwrap().encode(&text, false, false).unwrap();
    let json = std::fs::read_to_string(data("reference/smollm2_reference.json")?).unwrap();
    let reference: Value = serde_json::from_str(&json).unwrap();
    let expected = reference["wikitext2"]["nll_sums"][0].as_f64().unwrap();
    let mut decoder = decoder(&checkpoint, Precision::F32);
    let mut cache = KvCache::new(checkpoint.config(), 512, KvType::F32).unwrap();
    let found = -log_probs(&mut decoder, &mut cache, &tokens[..512]).unwrap().iter().sum::<f64>();
    assert!((found / expected - 1.0).abs() < 1e-4, "{found} instead of {expected}");
    Ok(())
}

fn int8_activations_stay_close_and_answer() -> Outcome {
    let checkpoint = model()?;
    let tokenizer = Arc::new(checkpoint.tokenizer().unwrap());
    let decoder = decoder(&checkpoint, Precision::Int8);
    let mut llm = Llm::new(decoder, tokenizer, checkpoint.generation(), Options::new(128, 1)).unwrap();
    let options = Generate { max_tokens: Some(8), sampling: Some(SamplingParams::GREEDY), stop: vec![".".to_owned()] };
    let generated = llm.generate("The capital of France is", &options).unwrap().complete().unwrap();
    assert_eq!((generated.text.as_str(), generated.finish), (" Paris", Some(Finish::Stop)));
    Ok(())
}

/// A head with a coarse copy gives the same tokens as the whole one, greedy, with a small top-k and with the usual sampling,
/// alone and beside each other, on every instruction set.
fn two_stage_head_generates_the_same() -> Outcome {
    let checkpoint = model()?;
    let tokenizer = Arc::new(checkpoint.tokenizer().unwrap());
    let prompt: Arc<[u32]> = tokenizer.encode("Once upon a time there was a lighthouse", true, false).unwrap().into();
    let top_k = SamplingParams { temperature: 1.0, top_k: 3, seed: 7, ..SamplingParams::GREEDY };
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available() && *isa != Isa::Scalar) {
        let generate = |two_stage: bool, jobs: &[SamplingParams]| {
            let mut model = checkpoint.load(&Pool::new(2), &NoProgress).unwrap();
            let engine = Engine::new(isa, 2, Precision::Int8);
            assert_eq!(two_stage && model.weights.add_coarse_head(engine.pool()), two_stage);
            let decoder = Decoder::new(Arc::new(model), engine);
            let options = Options { kv: KvType::Q8, ..Options::new(128, 3) };
            let mut engine = BatchEngine::new(decoder, Arc::clone(&tokenizer), options).unwrap();
            let ids = jobs.iter().map(|params| engine.submit(Job::new(Arc::clone(&prompt), 60, *params)).unwrap());
            let ids: Vec<JobId> = ids.collect();
            let mut tokens = vec![Vec::new(); jobs.len()];
            while !engine.is_idle() {
                let deliver = &mut |id, output| {
                    if let Output::Token { token, .. } = output {
                        tokens[ids.iter().position(|other| *other == id).unwrap()].push(token);
                    }
                };
                engine.step(Budget::Tokens(128), deliver).unwrap();
            }
            (tokens, engine.decoder().head_statistics())
        };
        let jobs = [SamplingParams::GREEDY, top_k, SamplingParams { seed: 7, ..SamplingParams::default() }];
        let (whole, nothing) = generate(false, &jobs);
        assert_eq!(nothing, HeadStatistics::default());
        for (which, params) in jobs.into_iter().enumerate() {
            let (found, head) = generate(true, &[params]);
            assert_eq!(whole[which], found[0], "{isa}");
            assert!(head.found > 0 && head.found + head.failed + head.skipped == 60, "{isa}: {head:?}");
        }
        let (found, head) = generate(true, &jobs);
        assert_eq!(whole, found, "{isa}: beside each other");
        assert!(head.found > 0 && head.found + head.failed + head.skipped == 180, "{isa}: {head:?}");
    }
    Ok(())
}
