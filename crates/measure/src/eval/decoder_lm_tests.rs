use serde_json::json;
use sherry_kernels::{Engine, Isa, Precision};

use super::*;
use sherry::NoProgress;
use sherry::model::names::Naming;
use sherry::model::synthetic::{source, tiny};
use sherry::model::{Family, Model, TensorMap, Weights, reference};

/// Single characters only: text and tokens correspond one to one. Token 0 ends a text and stands before empty ones.
const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.?:Ġ";

fn tokenizer(adds_bos: bool) -> Tokenizer {
    let mut vocab = serde_json::Map::from_iter([("<e>".to_string(), json!(0))]);
    vocab.extend(ALPHABET.chars().enumerate().map(|(i, c)| (c.to_string(), json!(i + 1))));
    let post = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<e>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {"<e>": {"id": "<e>", "ids": [0], "tokens": ["<e>"]}}
    });
    let json = json!({
        "added_tokens": [{"id": 0, "content": "<e>", "special": true, "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel"},
        "post_processor": if adds_bos { post } else { json!(null) },
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    });
    let config = json!({ "bos_token": "<e>", "eos_token": "<e>" });
    Tokenizer::from_json(json.to_string().as_bytes(), Some(config.to_string().as_bytes()), None).unwrap()
}

fn lm(adds_bos: bool, max_length: usize) -> DecoderLm {
    let config = tiny(Family::Llama);
    let source = source(&config, Naming::HuggingFace, 7);
    let tensors = TensorMap::new(&source, &config, Naming::HuggingFace, None).unwrap();
    let weights = Weights::load(&source, &tensors, &config, &Pool::new(1), &NoProgress).unwrap();
    let decoder = Decoder::new(Arc::new(Model { config, weights }), Engine::new(Isa::best(), 1, Precision::F32));
    DecoderLm::new(decoder, Arc::new(tokenizer(adds_bos)), KvType::F32, max_length)
}

/// Tokens of a text, straight from the alphabet.
fn ids(text: &str) -> Vec<u32> {
    let place = |c: char| ALPHABET.chars().position(|a| a == if c == ' ' { 'Ġ' } else { c }).unwrap() as u32 + 1;
    text.chars().map(place).collect()
}

/// Log-probabilities of `tokens[from..]` by the oracle, and whether all of them are the likeliest.
fn oracle(lm: &DecoderLm, tokens: &[u32], from: usize) -> (Vec<f64>, bool) {
    let rows = reference::logits(lm.decoder().model(), &tokens[..tokens.len() - 1]);
    let mut greedy = true;
    let scores = (from..tokens.len()).map(|at| {
        let row = &rows[at - 1];
        let own = row[tokens[at] as usize];
        greedy &= row.iter().all(|x| *x <= own);
        own - row.iter().map(|x| x.exp()).sum::<f64>().ln()
    });
    (scores.collect(), greedy)
}

fn request(context: &str, continuation: &str) -> Request {
    Request { context: context.into(), continuation: continuation.into() }
}

fn ask(lm: &mut DecoderLm, groups: &[Vec<Request>]) -> Result<Vec<Vec<Score>>> {
    let mut all = vec![Vec::new(); groups.len()];
    lm.loglikelihood(groups, &mut |i, scores| {
        all[i] = scores;
        Ok(())
    })?;
    Ok(all)
}

#[test]
fn scores_are_the_oracles() {
    let mut lm = lm(false, usize::MAX);
    let mut groups = vec![
        vec![request("What is it?", " red"), request("What is it?", " a"), request("What is it?", " redder than a")],
        vec![request("Anna sat as Anna", " was tired."), request("Anna sat as Bob", " was tired.")],
        vec![request("x", "y")],
        vec![request("spaces go over  ", "b"), request("spaces go over  ", "cd")],
        vec![request("", "nothing before")],
    ];
    groups.extend((0..40).map(|i| {
        let context = &"The quick brown fox jumps over a lazy dog"[i % 7..20 + i % 21];
        vec![request(context, " yes"), request(context, " no")]
    }));
    let found = ask(&mut lm, &groups).unwrap();
    for (group, scores) in groups.iter().zip(&found) {
        assert_eq!(group.len(), scores.len());
        for (request, score) in group.iter().zip(scores) {
            let context = request.context.trim_end();
            let mut tokens = ids(&format!("{}{}", request.context, request.continuation));
            let from = if context.is_empty() {
                tokens.insert(0, 0);
                1
            } else {
                context.len()
            };
            let (expected, greedy) = oracle(&lm, &tokens, from);
            let expected: f64 = expected.iter().sum();
            assert!((score.logprob - expected).abs() < 1e-4, "{request:?}: {} {expected}", score.logprob);
            assert_eq!(score.is_greedy, greedy, "{request:?}");
        }
    }
}

#[test]
fn what_is_too_long_loses_its_beginning() {
    let mut lm = lm(false, 10);
    // Cut to ten inputs, the first request has no token in common with the second.
    let group = vec![request("a long context that is cut", " yes"), request("short", " yes")];
    let found = ask(&mut lm, std::slice::from_ref(&group)).unwrap();
    for (request, together) in group.into_iter().zip(&found[0]) {
        assert_eq!(ask(&mut lm, &[vec![request]]).unwrap()[0], [*together]);
    }
    let found = ask(&mut lm, &[vec![request("a long context that is cut", " yes")]]).unwrap();
    let (expected, _) = oracle(&lm, &ids("t is cut yes")[1..], 7);
    assert!((found[0][0].logprob - expected.iter().sum::<f64>()).abs() < 1e-4);
    let error = ask(&mut lm, &[vec![request("c", " much longer than ten")]]).unwrap_err().to_string();
    assert!(error.contains("21 tokens") && error.contains("context of 10"), "{error}");
    let error = ask(&mut lm, &[vec![request("c", "")]]).unwrap_err().to_string();
    assert!(error.contains("no tokens of its own"), "{error}");
}

#[test]
fn a_beginning_token_comes_from_the_tokenizer_only() {
    let mut lm = lm(true, usize::MAX);
    let found = ask(&mut lm, &[vec![request("ab", "c")], vec![request("<e>ab", "c")], vec![request("", "c")]]).unwrap();
    let mut tokens = ids("abc");
    tokens.insert(0, 0);
    let (expected, _) = oracle(&lm, &tokens, 3);
    assert!((found[0][0].logprob - expected[0]).abs() < 1e-5);
    assert_eq!(found[0], found[1]); // a text that brings its own gets no second one
    let (expected, _) = oracle(&lm, &[0, tokens[3]], 1);
    assert!((found[2][0].logprob - expected[0]).abs() < 1e-5);
}

#[test]
fn windows_of_a_text_are_the_oracles() {
    const TEXT: &str = "A text of some length, read by windows.";
    let text = TEXT.replace(',', "");
    for (adds_bos, windows) in [
        (false, Windows::Disjoint { size: 8 }),
        (false, Windows::Chunks { size: 8 }),
        (true, Windows::Chunks { size: 8 }),
        (false, Windows::Strided { size: 12, stride: 5 }),
        (false, Windows::Rolling { size: 16 }),
    ] {
        let mut lm = lm(adds_bos, 64);
        let mut tokens = ids(&text);
        if adds_bos {
            tokens.insert(0, 0);
        }
        let mut found = Vec::new();
        lm.loglikelihood_rolling(&text, windows, &mut |window| {
            found.push(window.logprobs);
            Ok(())
        })
        .unwrap();
        let all = windows.over(tokens.len()).unwrap();
        assert_eq!(found.len(), all.len());
        for (window, found) in all.iter().zip(&found) {
            let mut input = tokens[window.tokens.clone()].to_vec();
            let mut from = window.scored.start - window.tokens.start;
            if window.prefixed {
                input.insert(0, 0);
                from += 1;
            }
            if window.first_is_bos && adds_bos {
                input[0] = 0;
            }
            let (expected, _) = oracle(&lm, &input, from);
            assert_eq!(found.len(), expected.len(), "{windows:?}");
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5, "{windows:?}: {found} {expected}");
            }
        }
    }
}

#[test]
fn windows_must_fit_the_context() {
    let mut lm = lm(false, 16);
    let error = lm.loglikelihood_rolling("abc", Windows::Disjoint { size: 17 }, &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("context of 16"), "{error}");
}

#[test]
fn an_error_of_the_caller_ends_the_work() {
    let mut lm = lm(false, usize::MAX);
    let groups: Vec<_> = (0..100).map(|_| vec![request("abc", "d")]).collect();
    let mut calls = 0;
    let result = lm.loglikelihood(&groups, &mut |_, _| {
        calls += 1;
        if calls == 3 { Err(Error::Interrupted) } else { Ok(()) }
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    assert_eq!(calls, 3);
}

#[test]
fn generation_is_greedy_and_stops() {
    let mut lm = lm(false, 40);
    let text = lm.generate_until("Once", &[], 6).unwrap();
    let mut tokens = ids("Once");
    for _ in 0..6 {
        let row = reference::logits(lm.decoder().model(), &tokens).pop().unwrap();
        let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
        if best == 0 || best as usize > ALPHABET.chars().count() {
            break;
        }
        tokens.push(best);
    }
    let expected: String = tokens[4..].iter().map(|&id| ALPHABET.chars().nth(id as usize - 1).unwrap()).collect();
    assert_eq!(text, expected.replace('Ġ', " "));
    if let Some(second) = text.chars().nth(1) {
        let stopped = lm.generate_until("Once", &[second.to_string()], 6).unwrap();
        assert_eq!(stopped, text[..text.find(second).unwrap()]);
    }
}
