//! Texts and conversations on a tiny random model.

use std::sync::Arc;

use sherry_kernels::{Engine, Isa, Precision};

use super::*;
use crate::batch::Finish;
use crate::chat::Message;
use crate::generate::Sampler;
use crate::model::{ArchConfig, Family, KvCache, synthetic};
use crate::tokenizer::GgufVocab;

/// A SentencePiece vocabulary of three control tokens, the space and letters.
fn tokenizer(vocab: usize) -> Tokenizer {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "\u{2581}"].map(str::to_owned).to_vec();
    tokens.extend((0..vocab - 4).map(|i| char::from_u32('a' as u32 + i as u32).unwrap().to_string()));
    let types = (0..vocab).map(|i| [2, 3, 3].get(i).copied().unwrap_or(1)).collect();
    let vocab = GgufVocab {
        model: "llama".to_owned(),
        scores: Some((0..vocab).map(|i| -(i as f32)).collect()),
        token_types: Some(types),
        tokens: tokens.into(),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocab::default()
    };
    Tokenizer::from_gguf(&vocab).unwrap()
}

/// A model without end tokens that matter: `end` are those of its generation config.
fn llm(context: usize, end: &[u32]) -> Llm {
    let config = ArchConfig { vocab: 30, context: 1024, ..synthetic::tiny(Family::Qwen3) };
    let tokenizer = Arc::new(tokenizer(config.vocab));
    let model = synthetic::model(&config, 3).unwrap();
    let decoder = Decoder::new(Arc::new(model), Engine::new(Isa::best(), 2, Precision::Int8));
    let generation = GenerationConfig { eos_token_ids: end.to_vec(), ..GenerationConfig::default() };
    Llm::new(decoder, tokenizer, &generation, Options::new(context, 1)).unwrap()
}

fn run(llm: &mut Llm, prompt: &[u32], max_tokens: usize, stop: &[&str]) -> Result<Generated> {
    let options = Generate {
        max_tokens: Some(max_tokens),
        sampling: Some(SamplingParams::GREEDY),
        stop: stop.iter().map(|text| (*text).to_owned()).collect(),
    };
    let mut shown = String::new();
    let generated = llm.generate_tokens(prompt, &options)?.run(|event| {
        if let Event::Text(text) = event {
            assert!(!text.is_empty());
            shown.push_str(text);
        }
    })?;
    assert_eq!(shown, generated.text);
    assert_eq!(generated.tokens.len(), generated.statistics.generated_tokens);
    Ok(generated)
}

const PROMPT: [u32; 5] = [1, 7, 9, 4, 20];

#[test]
fn limits_end_tokens_and_stop_strings_end_a_text() {
    let mut free = llm(64, &[]);
    free.end = Arc::default();
    let all = run(&mut free, &PROMPT, 12, &[]).unwrap();
    assert_eq!((all.finish, all.tokens.len()), (Some(Finish::Length), 12));

    let end = all.tokens[6];
    let first = all.tokens.iter().position(|&token| token == end).unwrap();
    let ended = run(&mut llm(64, &[end]), &PROMPT, 12, &[]).unwrap();
    assert_eq!((ended.finish, &ended.tokens[..]), (Some(Finish::Stop), &all.tokens[..=first]));

    let chars: Vec<char> = all.text.chars().collect();
    let stop: String = chars[4..6].iter().collect();
    let stopped = run(&mut free, &PROMPT, 12, &[&stop]).unwrap();
    assert_eq!(stopped.finish, Some(Finish::Stop));
    assert_eq!(stopped.text, all.text[..all.text.find(&stop).unwrap()]);

    let none = run(&mut free, &PROMPT, 0, &[]).unwrap();
    assert_eq!((none.finish, none.tokens.len()), (Some(Finish::Length), 0));
}

#[test]
fn the_library_generates_what_the_decoder_says() {
    let mut llm = llm(64, &[]);
    let sampling = SamplingParams { seed: 9, ..SamplingParams::default() };
    let options = Generate { max_tokens: Some(10), sampling: Some(sampling), stop: Vec::new() };
    let found = llm.generate("hello", &options).unwrap().complete().unwrap();
    let mut sampler = Sampler::new(sampling).unwrap();
    let mut ids = llm.tokenizer().encode("hello", true, false).unwrap();
    let prompt = ids.len();
    let usable = crate::generate::TokenSet::all(30);
    while ids.len() < prompt + found.tokens.len() {
        let mut cache = KvCache::new(llm.decoder().config(), 64, KvType::F16).unwrap();
        let logits = llm.engine().decoder_mut().forward_one(&mut cache, &ids, Wanted::Last).unwrap();
        ids.push(sampler.sample(logits.last().unwrap(), &ids, Some(&usable)).unwrap());
    }
    assert_eq!(ids[prompt..], found.tokens);
    assert!(!found.tokens.is_empty());
    // In pieces it is the same.
    let pieces: Result<Vec<String>> = llm.generate("hello", &options).unwrap().collect();
    assert_eq!(pieces.unwrap().concat(), found.text);
}

#[test]
fn a_shared_prefix_is_reused_without_changing_the_result() {
    let mut warm = llm(64, &[]);
    let longer: Vec<u32> = (0..40).map(|i| 3 + i % 20).collect();
    run(&mut warm, &longer, 5, &[]).unwrap();
    let mut other = longer[..20].to_vec();
    other.extend([25, 26, 27]);
    let reused = run(&mut warm, &other, 8, &[]).unwrap();
    assert_eq!(reused.statistics.reused_tokens, 20);
    let fresh = run(&mut llm(64, &[]), &other, 8, &[]).unwrap();
    assert_eq!((fresh.tokens, fresh.statistics.reused_tokens), (reused.tokens, 0));
    // The same prompt again: all but its last token.
    assert_eq!(run(&mut warm, &other, 1, &[]).unwrap().statistics.reused_tokens, other.len() - 1);
}

#[test]
fn the_context_bounds_prompt_and_text() {
    let mut small = llm(8, &[]);
    small.end = Arc::default();
    let full = run(&mut small, &PROMPT, usize::MAX, &[]).unwrap();
    // 8 positions hold the prompt and three tokens; the last token needs none.
    assert_eq!((full.finish, full.tokens.len()), (Some(Finish::ContextFull), 4));
    let exact = run(&mut small, &[5; 8], 10, &[]).unwrap();
    assert_eq!((exact.finish, exact.tokens.len()), (Some(Finish::ContextFull), 1));
    let message = run(&mut small, &[5; 9], 10, &[]).unwrap_err().to_string();
    assert_eq!(message, "context length exceeded: 9 tokens needed, 8 available");
    assert!(run(&mut small, &[], 10, &[]).is_err());
    assert!(run(&mut small, &[1, 30], 10, &[]).unwrap_err().to_string().contains("token 30"));
    // A refused request leaves the model usable.
    assert_eq!(run(&mut small, &PROMPT, usize::MAX, &[]).unwrap().tokens, full.tokens);
}

#[test]
fn breaking_off_stops_in_the_prompt_and_between_tokens() {
    let mut llm = llm(600, &[]);
    let prompt: Vec<u32> = (0..500).map(|i| 3 + i % 26).collect();
    let options = Generate { max_tokens: Some(9), ..Generate::default() };
    let mut generation = llm.generate_tokens(&prompt, &options).unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        match generation.step().unwrap().unwrap() {
            Event::Prompt { done, total: 500 } => seen.push(done),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [0, 128, 256]);
    let stopped = generation.stop();
    assert_eq!((stopped.finish, stopped.tokens.len()), (None, 0));
    assert!(llm.engine().is_idle());

    let mut generation = llm.generate_tokens(&prompt, &options).unwrap();
    let mut pieces = 0;
    while pieces < 2 {
        pieces += usize::from(matches!(generation.step().unwrap().unwrap(), Event::Text(_)));
    }
    let stopped = generation.stop();
    assert_eq!(stopped.finish, None);
    assert_eq!(stopped.statistics.reused_tokens, 256);
    assert!(stopped.tokens.len() < 9);
    let load = llm.engine().load();
    assert_eq!((load.running, load.waiting, load.used_pages), (0, 0, 0));
}

#[test]
fn a_batch_gives_what_each_prompt_gives_alone() {
    let mut llm = Llm::tiny().unwrap();
    let options = Generate { max_tokens: Some(12), ..Generate::default() };
    let prompts: Vec<String> = (0..40).map(|i| "a long beginning ".repeat(i % 3) + &i.to_string()).collect();
    let alone: Vec<Generated> =
        prompts.iter().map(|prompt| llm.generate(prompt, &options).unwrap().complete().unwrap()).collect();
    let together = llm.batch(&prompts.iter().map(String::as_str).collect::<Vec<_>>(), &options).unwrap();
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!((&alone.text, &alone.tokens, alone.finish), (&together.text, &together.tokens, together.finish));
    }
    assert_eq!(alone.len(), together.len());
    let error = llm.batch(&["fine", &"x".repeat(2000)], &options).unwrap_err().to_string();
    assert_eq!(error, "context length exceeded: 2000 tokens needed, 1024 available");
    assert!(llm.engine().is_idle());
}

#[test]
fn a_conversation_is_remembered_and_its_end_is_told() {
    let mut chat = Chat::new(Llm::tiny().unwrap()).unwrap();
    chat.options = Generate { max_tokens: Some(6), ..Generate::default() };
    chat.set_system(Some("Be brief."));
    let first = chat.say("Hello!").unwrap().complete().unwrap();
    assert_eq!(first.statistics.reused_tokens, 0);
    let roles = |chat: &Chat| chat.messages().iter().map(|message| message.role.clone()).collect::<Vec<_>>();
    assert_eq!(roles(&chat), ["system", "user", "assistant"]);
    assert_eq!(chat.messages()[2], Message::new("assistant", first.text.as_str()));
    // The second turn continues where the first one ended, but for the end of the turn.
    let second = chat.say("And again?").unwrap().complete().unwrap();
    assert!(second.statistics.reused_tokens + 16 > first.statistics.prompt_tokens, "{:?}", second.statistics);
    // An answer that is broken off is remembered as far as it came.
    let mut answer = chat.say("More").unwrap();
    let piece = answer.next().unwrap().unwrap();
    drop(answer);
    assert_eq!(chat.messages().last().unwrap(), &Message::new("assistant", piece));

    // Turns are taken back from the end, and forgotten from the beginning.
    let whole = chat.messages().to_vec();
    assert!(chat.prompt_tokens("x").unwrap() > chat.prompt_tokens("").unwrap());
    assert_eq!(chat.take_back().as_deref(), Some("More"));
    assert_eq!(chat.messages(), &whole[..5]);
    assert!(chat.forget_oldest(1));
    assert_eq!(chat.messages(), &whole[..3]);
    assert!(!chat.forget_oldest(1));
    chat.set_messages(whole.clone());
    assert!(chat.forget_oldest(0) && chat.forget_oldest(0));
    assert_eq!(chat.messages(), [&whole[..1], &whole[5..]].concat());
    assert!(chat.forget_oldest(0) && !chat.forget_oldest(0) && chat.take_back().is_none());
    chat.set_messages(whole);

    // A conversation that has become too long is refused, and stays as it was.
    let before = chat.messages().to_vec();
    let error = chat.say(&"x".repeat(1000)).map(|_| ()).unwrap_err();
    assert!(matches!(error, crate::Error::ContextFull { capacity: 1024, .. }), "{error}");
    assert_eq!(chat.messages(), before);
    // An answer that fills the context says so.
    chat.clear();
    chat.options.max_tokens = None;
    let full = chat.say(&"x".repeat(900)).unwrap().complete().unwrap();
    assert_eq!(full.finish, Some(Finish::ContextFull));
    chat.set_system(None);
    chat.clear();
    assert!(chat.messages().is_empty());
    // Models without a template have no conversations.
    assert!(Chat::new(llm(64, &[])).is_err());
}

#[test]
fn log_probabilities_are_those_of_the_logits() {
    let mut llm = Llm::tiny().unwrap();
    let text = "some text that is longer than a step: ".repeat(5);
    let tokens = llm.tokenizer().encode(&text, true, false).unwrap();
    let scores = llm.log_probs(&tokens).unwrap();
    assert_eq!(scores.len(), tokens.len() - 1);
    for at in [1, 50, 150] {
        let prompt = llm.tokenizer().decode(&tokens[..at], false);
        let logits = llm.logits(&prompt).unwrap();
        assert!((scores[at - 1] - crate::generate::log_prob(&logits, tokens[at])).abs() < 1e-9);
    }
    assert!(llm.logits("").is_err());
    assert!(llm.logits(&"x".repeat(1025)).is_err());
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let config = synthetic::tiny(Family::Qwen3);
    let new = |options: Options| {
        let decoder =
            Decoder::new(Arc::new(synthetic::model(&config, 3).unwrap()), Engine::new(Isa::best(), 1, Precision::Int8));
        Llm::new(decoder, Arc::new(tokenizer(30)), &GenerationConfig::default(), options).map(|_| ())
    };
    assert!(new(Options::new(64, 1)).is_ok());
    for (options, expected) in [
        (Options::new(0, 1), "context of 0"),
        (Options::new(65, 1), "1 to 64"),
        (Options { pages: 0, ..Options::new(64, 1) }, "0 pages"),
        (Options { max_running: 0, ..Options::new(64, 1) }, "0 running"),
        (Options { logit_rows: 1, ..Options::new(64, 2) }, "1 rows"),
    ] {
        let message = new(options).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
