//! Sessions on a tiny random model.

use std::ops::ControlFlow;
use std::sync::Arc;

use sherry_kernels::{Engine, Isa, Pool, Precision};

use super::*;
use crate::model::names::Naming;
use crate::model::{ArchConfig, Decoder, Family, KvType, Model, TensorMap, Weights, synthetic};
use crate::tokenizer::{GgufVocab, Tokenizer};
use crate::{NoProgress, Result};

/// A SentencePiece vocabulary of three control tokens, the space and letters.
fn tokenizer(vocab: usize) -> Tokenizer {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "\u{2581}"].map(str::to_owned).to_vec();
    tokens.extend((0..vocab - 4).map(|i| char::from_u32('a' as u32 + i as u32).unwrap().to_string()));
    let types = (0..vocab).map(|i| [2, 3, 3].get(i).copied().unwrap_or(1)).collect();
    let vocab = GgufVocab {
        model: "llama".to_owned(),
        scores: Some((0..vocab).map(|i| -(i as f32)).collect()),
        token_types: Some(types),
        tokens,
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocab::default()
    };
    Tokenizer::from_gguf(&vocab).unwrap()
}

fn session(context: usize) -> Session {
    let config = ArchConfig { vocab: 30, ..synthetic::tiny(Family::Qwen3) };
    let source = synthetic::source(&config, Naming::HuggingFace, 3);
    let tensors = TensorMap::new(&source, &config, Naming::HuggingFace, None).unwrap();
    let weights = Weights::load(&source, &tensors, &config, &Pool::new(2), &NoProgress).unwrap();
    let tokenizer = Arc::new(tokenizer(config.vocab));
    let decoder = Decoder::new(Arc::new(Model { config, weights }), Engine::new(Isa::best(), 2, Precision::Int8));
    Session::new(decoder, tokenizer, context, KvType::F16).unwrap()
}

fn run(session: &mut Session, prompt: &[u32], max_tokens: usize, end: &[u32], stop: &[&str]) -> Result<Generated> {
    let stop = StopStrings::new(stop.iter().map(|text| (*text).to_owned())).unwrap();
    let mut sampler = Sampler::new(SamplingParams::GREEDY).unwrap();
    let mut shown = String::new();
    let request = Request { prompt, max_tokens, end, stop: &stop };
    let generated = session.generate(&request, &mut sampler, &mut |event| {
        if let Event::Text(text) = event {
            assert!(!text.is_empty());
            shown.push_str(text);
        }
        ControlFlow::Continue(())
    })?;
    assert_eq!(shown, generated.text);
    assert_eq!(generated.tokens.len(), generated.statistics.generated_tokens);
    Ok(generated)
}

const PROMPT: [u32; 5] = [1, 7, 9, 4, 20];

#[test]
fn limits_end_tokens_and_stop_strings_end_a_text() {
    let mut session = session(64);
    let free = run(&mut session, &PROMPT, 12, &[], &[]).unwrap();
    assert_eq!((free.finish, free.tokens.len()), (Finish::Length, 12));

    let end = free.tokens[6];
    let first = free.tokens.iter().position(|&token| token == end).unwrap();
    let ended = run(&mut session, &PROMPT, 12, &[end], &[]).unwrap();
    assert_eq!((ended.finish, &ended.tokens[..]), (Finish::Stop, &free.tokens[..=first]));

    let chars: Vec<char> = free.text.chars().collect();
    let stop: String = chars[4..6].iter().collect();
    let stopped = run(&mut session, &PROMPT, 12, &[], &[&stop]).unwrap();
    assert_eq!(stopped.finish, Finish::Stop);
    assert_eq!(stopped.text, free.text[..free.text.find(&stop).unwrap()]);

    let none = run(&mut session, &PROMPT, 0, &[], &[]).unwrap();
    assert_eq!((none.finish, none.tokens.len()), (Finish::Length, 0));
}

#[test]
fn a_shared_prefix_is_reused_without_changing_the_result() {
    let mut warm = session(64);
    let longer: Vec<u32> = (0..40).map(|i| 3 + i % 20).collect();
    run(&mut warm, &longer, 5, &[], &[]).unwrap();
    let mut other = longer[..20].to_vec();
    other.extend([25, 26, 27]);
    let reused = run(&mut warm, &other, 8, &[], &[]).unwrap();
    assert_eq!(reused.statistics.reused_tokens, 20);
    let fresh = run(&mut session(64), &other, 8, &[], &[]).unwrap();
    assert_eq!((fresh.tokens, fresh.statistics.reused_tokens), (reused.tokens, 0));
    // The same prompt again: all but its last token.
    assert_eq!(run(&mut warm, &other, 1, &[], &[]).unwrap().statistics.reused_tokens, other.len() - 1);
}

#[test]
fn the_context_bounds_prompt_and_text() {
    let mut small = session(8);
    let full = run(&mut small, &PROMPT, usize::MAX, &[], &[]).unwrap();
    // 8 positions hold the prompt and three tokens; the last token needs none.
    assert_eq!((full.finish, full.tokens.len()), (Finish::ContextFull, 4));
    let exact = run(&mut small, &[5; 8], 10, &[], &[]).unwrap();
    assert_eq!((exact.finish, exact.tokens.len()), (Finish::ContextFull, 1));
    let message = run(&mut small, &[5; 9], 10, &[], &[]).unwrap_err().to_string();
    assert_eq!(message, "context length exceeded: 9 tokens needed, 8 available");
    assert!(run(&mut small, &[], 10, &[], &[]).is_err());
    assert!(run(&mut small, &[1, 30], 10, &[], &[]).unwrap_err().to_string().contains("token 30"));
    // A refused request leaves the session usable.
    assert_eq!(run(&mut small, &PROMPT, usize::MAX, &[], &[]).unwrap().tokens, full.tokens);
}

#[test]
fn breaking_off_stops_in_the_prompt_and_between_tokens() {
    let mut session = session(600);
    let prompt: Vec<u32> = (0..500).map(|i| 3 + i % 26).collect();
    let stop = StopStrings::default();
    let request = Request { prompt: &prompt, max_tokens: 9, end: &[], stop: &stop };
    let mut sampler = Sampler::new(SamplingParams::GREEDY).unwrap();
    let mut seen = Vec::new();
    let generated = session.generate(&request, &mut sampler, &mut |event| {
        if let Event::Prompt { done, .. } = event {
            seen.push(done);
        }
        if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let generated = generated.unwrap();
    assert_eq!((generated.finish, generated.tokens.len()), (Finish::Cancelled, 0));
    assert_eq!(seen, [0, 128, 256]);

    let mut pieces = 0;
    let generated = session.generate(&request, &mut sampler, &mut |event| {
        pieces += usize::from(matches!(event, Event::Text(_)));
        if pieces == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let generated = generated.unwrap();
    assert_eq!(generated.finish, Finish::Cancelled);
    assert_eq!(generated.statistics.reused_tokens, 256);
    assert!(generated.tokens.len() < 9);
}
