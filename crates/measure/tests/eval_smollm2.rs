//! SmolLM2-135M-Instruct against lm-evaluation-harness 0.4.13: prompts, log-likelihoods and perplexity.
//!
//! A few items run by default; everything with
//! `SHERRY_TEST_THREADS=2 cargo test --release -p sherry-measure --test eval_smollm2 -- --ignored --nocapture`.

#![allow(clippy::print_stderr)] // measurements say what they found

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use sherry::NoProgress;
use sherry::io::ReadMode;
use sherry::model::{Checkpoint, Decoder, KvType};
use sherry_kernels::{Engine, Isa, Pool, Precision};
use sherry_measure::eval::data::{DataSource, read_text};
use sherry_measure::eval::{DecoderLm, Limit, Lm, Metric, Request, Score, Task, Windows, harness, perplexity};
use sherry_testing::{Missing, Outcome, data, demo_model};

sherry_testing::main![
    a_few_items_equal_the_harness,
    first_windows_of_wikitext_equal_the_reference,
    scores_do_not_depend_on_company,
    text_is_generated_until_a_stop,
    conventions_of_perplexity_are_consistent;
    slow:
    all_items_equal_the_harness,
    wikitext_perplexity_equals_the_reference,
    the_longest_item_equals_oracle_and_harness,
];
/// Threads of the model: one unless `SHERRY_TEST_THREADS` says otherwise, since tests run side by side.
fn threads() -> usize {
    std::env::var("SHERRY_TEST_THREADS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// The model in f32.
fn setup() -> Result<DecoderLm, Missing> {
    let checkpoint = Checkpoint::open(&demo_model()?, ReadMode::Map).unwrap();
    let tokenizer = Arc::new(checkpoint.tokenizer().unwrap());
    let model = Arc::new(checkpoint.load(&Pool::new(2), &NoProgress).unwrap());
    let decoder = Decoder::new(model, Engine::new(Isa::best(), threads(), Precision::F32));
    Ok(DecoderLm::new(decoder, tokenizer, KvType::F32, usize::MAX))
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&read_text(path).unwrap()).unwrap()
}

/// Compares `items` (all when `None`) of every task with the reference; returns the largest difference.
fn check_items(lm: &mut DecoderLm, items: Option<&[usize]>) -> Result<f64, Missing> {
    let reference = json(&data("reference/smollm2_lmeval.json")?);
    let mut largest = 0.0f64;
    for (name, entry) in reference["tasks"].as_object().unwrap() {
        let mut run =
            Task::find(name).unwrap().prepare(&[DataSource::Folder(data("eval")?)], Limit::Items(200), 0, 0).unwrap();
        if let Some(items) = items {
            run.items.retain(|item| items.contains(&item.index));
        }
        let scores = harness::run(lm, &run, None, &NoProgress).unwrap();
        let expected_items: std::collections::HashMap<u64, &Value> =
            entry["per_item"].as_array().unwrap().iter().map(|item| (item["item"].as_u64().unwrap(), item)).collect();
        let acc = scores.values(&run, Metric::Acc);
        let acc_norm = scores.values(&run, Metric::AccNorm);
        let mut task_largest = 0.0f64;
        for (i, item) in run.items.iter().enumerate() {
            let Some(expected) = expected_items.get(&(item.index as u64)) else { continue };
            for (choice, score) in scores.scores[i].iter().enumerate() {
                let difference = (score.logprob - expected["logprobs"][choice].as_f64().unwrap()).abs();
                task_largest = task_largest.max(difference);
                assert!(difference < 1e-3, "{name} item {} choice {choice}: off by {difference}", item.index);
                assert_eq!(score.is_greedy, expected["all_greedy"][choice].as_bool().unwrap(), "{name} {}", item.index);
            }
            assert_eq!(acc[i], expected["acc"].as_f64().unwrap(), "{name} item {}", item.index);
            if let Some(norm) = expected.get("acc_norm") {
                assert_eq!(acc_norm[i], norm.as_f64().unwrap(), "{name} item {}", item.index);
            }
        }
        if items.is_none() {
            let aggregate = &entry["aggregate_first_200"];
            for &metric in run.task.metrics {
                let estimate = scores.estimate(&run, metric, 0);
                let expected = |key: String| aggregate[key].as_f64().unwrap();
                assert!((estimate.value - expected(metric.name().to_string())).abs() < 1e-12, "{name}");
                assert!((estimate.stderr.unwrap() - expected(format!("{}_stderr", metric.name()))).abs() < 1e-12);
            }
        }
        eprintln!(
            "{name}: {} items, largest difference {task_largest:.6}, {:.2} items/s",
            run.items.len(),
            scores.rate().unwrap()
        );
        largest = largest.max(task_largest);
    }
    Ok(largest)
}

fn a_few_items_equal_the_harness() -> Outcome {
    let mut lm = setup()?;
    let largest = check_items(&mut lm, Some(&[0]))?;
    assert!(largest > 0.0);
    Ok(())
}

/// Takes about two minutes: all 200 items of five tasks.
fn all_items_equal_the_harness() -> Outcome {
    let mut lm = setup()?;
    check_items(&mut lm, None)?;
    Ok(())
}

fn check_perplexity(lm: &mut DecoderLm, windows: usize) -> Outcome {
    let reference = json(&data("reference/smollm2_reference.json")?);
    let expected = &reference["wikitext2"];
    let mut text = read_text(&data("corpus/wikitext2-raw-test.txt.gz")?).unwrap();
    if windows < 5 {
        // Enough text for the windows; the tokens of the first ones stay the same.
        let end = text.char_indices().nth(20_000).unwrap().0;
        text.truncate(end);
    }
    let mut sums: Vec<f64> = Vec::new();
    // Stops by an error once there are enough windows.
    let result: sherry::Result<()> = lm.loglikelihood_rolling(&text, Windows::Disjoint { size: 512 }, &mut |window| {
        sums.push(-window.logprobs.iter().sum::<f64>());
        if sums.len() == windows { Err(sherry::Error::Interrupted) } else { Ok(()) }
    });
    assert!(matches!(result, Err(sherry::Error::Interrupted)));
    for (i, sum) in sums.iter().enumerate() {
        let expected = expected["nll_sums"][i].as_f64().unwrap();
        assert!((sum / expected - 1.0).abs() < 1e-4, "window {i}: {sum} instead of {expected}");
    }
    let ppl = (sums.iter().sum::<f64>() / (511 * sums.len()) as f64).exp();
    eprintln!("perplexity of {} windows: {ppl:.5}", sums.len());
    if windows == 20 {
        assert!((ppl / expected["ppl"].as_f64().unwrap() - 1.0).abs() < 1e-3);
    }
    Ok(())
}

fn first_windows_of_wikitext_equal_the_reference() -> Outcome {
    let mut lm = setup()?;
    check_perplexity(&mut lm, 1)?;
    Ok(())
}

/// Takes about a minute: 20 windows of 512 tokens.
fn wikitext_perplexity_equals_the_reference() -> Outcome {
    let mut lm = setup()?;
    check_perplexity(&mut lm, 20)?;
    Ok(())
}

fn scores_do_not_depend_on_company() -> Outcome {
    let mut lm = setup()?;
    let request =
        |context: &str, continuation: &str| Request { context: context.into(), continuation: continuation.into() };
    let groups = vec![
        vec![
            request("The capital of France is", " Paris"),
            request("The capital of France is", " a city on the Seine"),
        ],
        vec![request("One two three", " four")],
        // Trailing space: belongs to the continuation. Nothing before: the end-of-text token is.
        vec![request("The capital of France is ", "Paris")],
        vec![request("", "The")],
        // Two contexts that differ in the middle.
        vec![request("Anna likes tea because Anna", " was cold."), request("Anna likes tea because Eva", " was cold.")],
    ];
    let mut together: Vec<Vec<Score>> = vec![Vec::new(); groups.len()];
    lm.loglikelihood(&groups, &mut |i, scores| {
        together[i] = scores;
        Ok(())
    })
    .unwrap();
    for (group, together) in groups.iter().zip(&together) {
        for (request, together) in group.iter().zip(together) {
            let mut alone = Vec::new();
            lm.loglikelihood(&[vec![request.clone()]], &mut |_, scores| {
                alone = scores;
                Ok(())
            })
            .unwrap();
            assert_eq!(alone, [*together], "{request:?}");
        }
    }
    assert_eq!(together[0][0], together[2][0]);
    assert!(together[0][0].is_greedy);
    Ok(())
}

fn text_is_generated_until_a_stop() -> Outcome {
    let mut lm = setup()?;
    let text = lm.generate_until("The capital of France is", &[".".to_string()], 12).unwrap();
    assert!(text.contains("Paris") && !text.contains('.'), "{text:?}");
    assert_eq!(lm.generate_until("x", &[], 0).unwrap(), "");
    Ok(())
}

fn conventions_of_perplexity_are_consistent() -> Outcome {
    let mut lm = setup()?;
    let text: String = read_text(&data("corpus/tinyshakespeare.txt.gz")?).unwrap().chars().take(900).collect();
    let mut of = |windows| perplexity(&mut lm, &text, windows, &NoProgress, &mut |_, _| {}).unwrap();
    let chunks = of(Windows::Chunks { size: 64 });
    let disjoint = of(Windows::Disjoint { size: 64 });
    let strided = of(Windows::Strided { size: 64, stride: 16 });
    assert_eq!(disjoint.tokens, 63 * disjoint.windows.len());
    assert_eq!(chunks.tokens, 31 * chunks.windows.len());
    // More context predicts better.
    assert!(strided.value() < disjoint.value() && chunks.value() < disjoint.value());
    let error =
        perplexity(&mut lm, &text, Windows::Disjoint { size: 1 << 20 }, &NoProgress, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("longer than the model's context"), "{error}");
    Ok(())
}

/// The longest item of the reference, where the harness's f32 softmax is 1.15e-3 off: probabilities of a text are exact,
/// scores of requests are the harness's.
/// Takes two minutes: 168 tokens through the oracle.
fn the_longest_item_equals_oracle_and_harness() -> Outcome {
    let mut lm = setup()?;
    let tokenizer = Checkpoint::open(&demo_model()?, ReadMode::Map).unwrap().tokenizer().unwrap();
    let run =
        Task::find("piqa").unwrap().prepare(&[DataSource::Folder(data("eval")?)], Limit::Items(143), 0, 0).unwrap();
    let request = run.items[142].requests[0].clone();
    let text = format!("{}{}", request.context, request.continuation);
    let tokens = tokenizer.encode(&text, true, true).unwrap();
    let context = tokenizer.encode(&request.context, true, true).unwrap().len();

    let mut asked = 0.0;
    lm.loglikelihood(&[vec![request]], &mut |_, scores| {
        asked = scores[0].logprob;
        Ok(())
    })
    .unwrap();
    let mut read = 0.0;
    lm.loglikelihood_rolling(&text, Windows::Disjoint { size: tokens.len() }, &mut |window| {
        read = window.logprobs[context - 1..].iter().sum();
        Ok(())
    })
    .unwrap();
    let rows = sherry::model::reference::logits(lm.decoder().model(), &tokens[..tokens.len() - 1]);
    let oracle: f64 = (context..tokens.len())
        .map(|at| {
            let row = &rows[at - 1];
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row[tokens[at] as usize] - max - row.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
        })
        .sum();
    eprintln!("read {read:.5}, oracle {oracle:.5}; asked {asked:.5}, harness -421.77280");
    assert!((read - oracle).abs() < 1e-4);
    assert!((asked - -421.772_80).abs() < 1e-4);
    Ok(())
}
