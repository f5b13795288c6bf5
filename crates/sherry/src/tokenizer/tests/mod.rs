//! Against independent references: recorded ids of other implementations, and the Hugging Face crate itself.

#![expect(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
#![expect(clippy::type_complexity, reason = "tables of changes")]

mod draw;
mod files;
mod generated;

use std::io::Read;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::split::split_all;
use super::*;
use crate::io::ReadMode;
use crate::io::gguf::{GgufFile, GgufWriter, StqId};

/// A file of the data folder (unpacked if it ends in `.gz`), or `None` with a message.
fn data(file: &str) -> Option<Vec<u8>> {
    let folder = std::env::var_os("SHERRY_DATA")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")), PathBuf::from);
    let path = folder.join(file);
    let Ok(raw) = std::fs::read(&path) else {
        eprintln!("skipped: {} is not there (set SHERRY_DATA)", path.display());
        return None;
    };
    if !file.ends_with(".gz") {
        return Some(raw);
    }
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&raw[..]).read_to_end(&mut unpacked).unwrap();
    Some(unpacked)
}

fn reference(name: &str) -> Option<Vec<(String, Vec<u32>)>> {
    let all: Value = serde_json::from_slice(&data("reference/tokenizer_reference.json")?).unwrap();
    let ids = |entry: &Value| entry["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    Some(
        all[name]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| (entry["text"].as_str().unwrap().into(), ids(entry)))
            .collect(),
    )
}

fn wikitext_count(name: &str) -> Option<usize> {
    let all: Value = serde_json::from_slice(&data("reference/tokenizer_reference.json")?).unwrap();
    Some(all["wikitext2_raw_test_token_count"][name].as_u64().unwrap() as usize)
}

fn wikitext() -> Option<String> {
    Some(String::from_utf8(data("corpus/wikitext2-raw-test.txt.gz")?).unwrap())
}

fn llama3() -> Option<Tokenizer> {
    let ranks = data("tokenizers/llama3_tokenizer.model.gz")?;
    let names = ["begin_of_text", "end_of_text", "reserved_special_token_0", "eot_id"];
    let control: Vec<String> = names.iter().map(|name| format!("<|{name}|>")).collect();
    Some(Tokenizer::from_tiktoken(&ranks, "llama-bpe", &control).unwrap())
}

fn smollm2() -> Option<Tokenizer> {
    let json = data("tokenizers/smollm2_tokenizer.json.gz")?;
    let config = data("tokenizers/smollm2_tokenizer_config.json")?;
    Some(Tokenizer::from_json(&json, Some(&config), None).unwrap())
}

/// llama2.c's `tok512.bin`: i32 longest token, then per token f32 score, i32 length, bytes. Ids 0 to 2 are `<unk>`,
/// `<s>`, `</s>`, then come the 256 bytes; spaces are written as such.
fn stories() -> Option<GgufVocab> {
    let file = data("models/tok512.bin")?;
    let word = |at: usize| <[u8; 4]>::try_from(&file[at..at + 4]).unwrap();
    let (mut at, mut tokens, mut scores) = (4, Vec::new(), Vec::new());
    while at < file.len() {
        scores.push(f32::from_le_bytes(word(at)));
        let length = i32::from_le_bytes(word(at + 4)) as usize;
        let text = String::from_utf8(file[at + 8..at + 8 + length].to_vec()).unwrap();
        tokens.push(text.replace(' ', "\u{2581}"));
        at += 8 + length;
    }
    // The file writes the control tokens with line ends around them.
    tokens.splice(..3, ["<unk>", "<s>", "</s>"].map(String::from));
    let types = (0..tokens.len()).map(|id| [2, 3, 3].get(id).copied().unwrap_or(if id < 259 { 6 } else { 1 }));
    Some(GgufVocab {
        model: "llama".into(),
        token_types: Some(types.collect()),
        tokens,
        scores: Some(scores),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocab::default()
    })
}

/// Text from a small generator: words, spaces, digits, line ends, several scripts, marks, emoji, control characters.
fn random_text(seed: u64) -> String {
    const PARTS: [&str; 40] = [
        "a",
        "the",
        " of",
        "ing",
        "'s",
        "'LL",
        " ",
        "  ",
        "   ",
        "\n",
        "\r\n",
        "\n\n",
        "\t",
        "0",
        "12",
        "3456",
        "!",
        "?!",
        "...",
        "(",
        ")",
        "_",
        "-",
        "é",
        "e\u{301}",
        "ß",
        "Ж",
        "漢",
        "字",
        "かな",
        "한",
        "ا",
        "\u{200d}",
        "😀",
        "👨‍👩‍👧",
        "\0",
        "\u{a0}",
        "\u{3000}",
        "²",
        "Ⅷ",
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..next() % 40).map(|_| PARTS[(next() % 40) as usize]).collect()
}

/// `ours` and the Hugging Face crate reading `json` agree on every reference string and on random text.
fn same_as_hugging_face(ours: &Tokenizer, json: &[u8], strings: &[(String, Vec<u32>)]) {
    let theirs = tokenizers::Tokenizer::from_bytes(json).unwrap();
    let random = (0..2000).map(random_text);
    for text in strings.iter().map(|(text, _)| text.clone()).chain(random) {
        let expected = theirs.encode_fast(text.as_str(), true).unwrap();
        let ids = ours.encode(&text, true, true).unwrap();
        assert_eq!(ids, expected.get_ids(), "{text:?}");
        assert_eq!(ours.decode(&ids, true), theirs.decode(&ids, false).unwrap(), "{text:?}");
        assert_eq!(ours.decode(&ids, false), theirs.decode(&ids, true).unwrap(), "{text:?}");
    }
}

fn check_reference(tokenizer: &Tokenizer, name: &str) {
    let Some(strings) = reference(name) else { return };
    assert_eq!(strings.len(), 100);
    for (text, ids) in strings {
        assert_eq!(tokenizer.encode(&text, false, false).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
}

#[test]
fn llama3_ids_from_tiktoken() {
    let Some(tokenizer) = llama3() else { return };
    check_reference(&tokenizer, "llama3");
    assert_eq!(tokenizer.encode(&wikitext().unwrap(), false, false).unwrap().len(), wikitext_count("llama3").unwrap());
    assert!(tokenizer.adds_bos());
    assert_eq!(tokenizer.encode("Hello world", true, false).unwrap(), [128_000, 9906, 1917]);
    assert_eq!(tokenizer.end_ids(), [128_001, 128_003]);
}

#[test]
fn llama3_round_trips() {
    let Some(tokenizer) = llama3() else { return };
    let gguf = tokenizer.to_gguf().unwrap();
    assert_eq!(gguf.exact, None, "{:?}", gguf.beyond);
    assert_eq!((gguf.model.as_str(), gguf.pre.as_str()), ("gpt2", "llama-bpe"));
    assert_eq!((gguf.eos, gguf.eot), (Some(128_001), Some(128_003)));
    let json = tokenizer.to_json().unwrap();
    check_reference(&Tokenizer::from_gguf(&gguf).unwrap(), "llama3");
    let again = Tokenizer::from_json(json.as_bytes(), Some(tokenizer.to_config_json().as_bytes()), None).unwrap();
    check_reference(&again, "llama3");
    assert_eq!((again.bos(), again.eos(), again.adds_bos()), (tokenizer.bos(), tokenizer.eos(), true));
    assert_eq!(again.to_gguf().unwrap(), gguf);
    same_as_hugging_face(&tokenizer, json.as_bytes(), &reference("llama3").unwrap());
}

#[test]
fn smollm2_ids_from_json() {
    let Some(tokenizer) = smollm2() else { return };
    check_reference(&tokenizer, "smollm2");
    assert_eq!(tokenizer.encode(&wikitext().unwrap(), false, false).unwrap().len(), wikitext_count("smollm2").unwrap());
    assert!(!tokenizer.adds_bos());
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()), (Some(1), Some(2), 49_152));
    assert!(tokenizer.chat_template().unwrap().starts_with("{% for message"));
    same_as_hugging_face(
        &tokenizer,
        &data("tokenizers/smollm2_tokenizer.json.gz").unwrap(),
        &reference("smollm2").unwrap(),
    );
}

#[test]
fn smollm2_round_trips() {
    let Some(tokenizer) = smollm2() else { return };
    let gguf = tokenizer.to_gguf().unwrap();
    assert_eq!(gguf.exact, None, "{:?}", gguf.beyond);
    assert_eq!((gguf.model.as_str(), gguf.pre.as_str()), ("gpt2", "smollm"));
    assert_eq!((gguf.eos, gguf.eot), (Some(2), None));
    let from_gguf = Tokenizer::from_gguf(&gguf).unwrap();
    check_reference(&from_gguf, "smollm2");
    assert_eq!(from_gguf.to_gguf().unwrap(), gguf);
    let json = from_gguf.to_json().unwrap();
    same_as_hugging_face(&from_gguf, json.as_bytes(), &reference("smollm2").unwrap());
}

#[test]
fn smollm2_ids_from_the_real_gguf() {
    let path = std::env::var_os("SHERRY_SMOLLM2_GGUF").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/SmolLM2-135M-Instruct.Q4_1.gguf")),
        PathBuf::from,
    );
    if !path.exists() {
        eprintln!("skipped: {} is not there (set SHERRY_SMOLLM2_GGUF)", path.display());
        return;
    }
    let file = GgufFile::open(&path, ReadMode::Map).unwrap();
    let vocab = GgufVocab::from_metadata(file.metadata()).unwrap().unwrap();
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap().unwrap();
    check_reference(&tokenizer, "smollm2");
    let same = smollm2().unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (same.bos(), same.eos(), same.adds_bos()));
    assert_eq!(tokenizer.end_ids(), same.end_ids());
    assert_eq!(tokenizer.chat_template(), same.chat_template());
    // What we write in its place says the same.
    let again = tokenizer.to_gguf().unwrap();
    assert_eq!((&again.tokens, &again.merges, &again.pre), (&vocab.tokens, &vocab.merges, &vocab.pre));
    assert_eq!(again.token_types, vocab.token_types);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocab.gguf");
    let writer = GgufWriter::create(&path, again.clone().into_entries(), Vec::new(), StqId::default()).unwrap();
    writer.finish().unwrap();
    let file = GgufFile::open(&path, ReadMode::Read).unwrap();
    assert_eq!(GgufVocab::from_metadata(file.metadata()).unwrap().unwrap(), again);
}

/// The same pieces of real text give the Hugging Face trainer the same vocabulary, and it reads our file alike.
#[test]
fn learned_vocabularies_equal_hugging_faces() {
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::{AddedToken, Trainer};
    let Some(text) = wikitext() else { return };
    let texts: Vec<String> = text.split_inclusive(" \n = ").map(str::to_string).collect();
    let (vocab, splits) = (2000, named::by_name("smollm").unwrap().splits);
    let mut learner = Learner::new().unwrap();
    texts.chunks(50).for_each(|texts| learner.add(texts, &sherry_kernels::Pool::new(2)).unwrap());
    let ours = learner.learn(vocab, &crate::NoProgress).unwrap();

    let specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(specials.iter().map(|text| AddedToken::from(*text, true)).collect())
        .initial_alphabet((0..=255).map(byte_to_char).collect())
        .build();
    let pieces = |text: &str| {
        let piece = |range: Range<usize>| text[range].bytes().map(byte_to_char).collect::<String>();
        Ok(split_all(&splits, text).unwrap().into_iter().map(piece).collect())
    };
    trainer.feed(texts.iter(), pieces).unwrap();
    let mut model = BPE::default();
    trainer.train(&mut model).unwrap();
    let theirs = serde_json::to_value(&model).unwrap();
    let json = ours.to_json().unwrap();
    let written: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(written["model"]["merges"], theirs["merges"]);
    assert_eq!(written["model"]["vocab"].as_object().unwrap(), theirs["vocab"].as_object().unwrap());
    assert_eq!((ours.vocab_size(), ours.eos()), (vocab, Some(0)));

    same_as_hugging_face(&ours, json.as_bytes(), &[(text[..20_000].to_string(), Vec::new())]);
    let again = Tokenizer::from_json(json.as_bytes(), Some(ours.to_config_json().as_bytes()), None).unwrap();
    assert_eq!(again.to_json().unwrap(), json);
    assert_eq!((again.eos(), again.adds_bos(), again.end_ids()), (ours.eos(), true, ours.end_ids()));
}

#[test]
fn stories_ids_from_scores() {
    let Some(gguf) = stories() else { return };
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let expected: Value = serde_json::from_slice(&data("reference/stories260K_reference.json").unwrap()).unwrap();
    for entry in expected["encode"].as_array().unwrap() {
        let text = entry["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(entry["ids_with_bos"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text, true, false).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
    let greedy = &expected["greedy_from_bos"];
    let ids: Vec<u32> = serde_json::from_value(greedy["ids"].clone()).unwrap();
    assert!(tokenizer.decode(&ids, false).starts_with("Once upon a time, there was a little girl"));
}

#[test]
fn sentencepiece_round_trips() {
    let Some(gguf) = stories() else { return };
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let json = tokenizer.to_json().unwrap();
    same_as_hugging_face(&tokenizer, json.as_bytes(), &[]);
    let config = tokenizer.to_config_json();
    let from_json = Tokenizer::from_json(json.as_bytes(), Some(config.as_bytes()), None).unwrap();
    let again = Tokenizer::from_gguf(&from_json.to_gguf().unwrap()).unwrap();
    for seed in 0..500 {
        let text = random_text(seed);
        let ids = tokenizer.encode(&text, true, false).unwrap();
        assert_eq!(from_json.encode(&text, true, false).unwrap(), ids, "{text:?}");
        assert_eq!(again.encode(&text, true, false).unwrap(), ids, "{text:?}");
    }
}

#[test]
fn user_text_is_not_control() {
    let Some(tokenizer) = smollm2() else { return };
    let text = "a<|im_end|>b";
    let plain = tokenizer.encode(text, false, false).unwrap();
    assert!(plain.iter().all(|id| !tokenizer.is_control(*id)));
    assert_eq!(tokenizer.decode(&plain, false), text);
    assert_eq!(tokenizer.encode(text, false, true).unwrap(), [81, 2, 82]);
    assert_eq!(
        tokenizer.encode_prompt("<|im_end|>a<|im_end|>", &[0..10]).unwrap().iter().filter(|id| **id == 2).count(),
        1
    );
    assert_eq!(tokenizer.decode(&[81, 2, 82], false), "ab");
    assert_eq!(tokenizer.decode(&[81, 2, 82], true), text);
}

#[test]
fn streams_equal_decoding() {
    let tokenizers = [smollm2(), llama3(), stories().map(|gguf| Tokenizer::from_gguf(&gguf).unwrap())];
    for tokenizer in tokenizers.into_iter().flatten() {
        for seed in 0..300 {
            let ids = tokenizer.encode(&random_text(seed), true, false).unwrap();
            let mut stream = TokenStream::new(&tokenizer, true);
            let mut text = String::new();
            for id in &ids {
                let piece = stream.push(*id);
                assert!(!piece.contains('\u{FFFD}'));
                text.push_str(&piece);
            }
            text.push_str(&stream.finish());
            assert_eq!(text, tokenizer.decode(&ids, false));
        }
        // A continuation keeps its first space.
        let ids = tokenizer.encode(" x", false, false).unwrap();
        let mut stream = TokenStream::new(&tokenizer, false);
        let text: String = ids.iter().map(|id| stream.push(*id)).collect();
        assert!(text.starts_with(' '));
    }
}

#[test]
fn emoji_over_four_tokens_comes_out_whole() {
    let Some(gguf) = stories() else { return };
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let ids = tokenizer.encode("😀", false, false).unwrap();
    assert_eq!(ids.len(), 5); // a space and four bytes
    let mut stream = TokenStream::new(&tokenizer, true);
    let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
    assert_eq!(pieces, ["", "", "", "", "😀"]);
    // Cut short, it becomes a replacement character, at the end only.
    let mut stream = TokenStream::new(&tokenizer, true);
    assert!(ids[..4].iter().all(|id| stream.push(*id).is_empty()));
    assert_eq!(stream.finish(), "\u{FFFD}");
}

#[test]
fn a_megabyte_of_anything_is_quick() {
    let tokenizers = [smollm2(), llama3(), stories().map(|gguf| Tokenizer::from_gguf(&gguf).unwrap())];
    for tokenizer in tokenizers.into_iter().flatten() {
        for unit in ["a", " ", "\n", "\0", "<", "1", "é", "\u{301}", " \n", "<|im_end|>"] {
            let text = unit.repeat((1 << 20) / unit.len());
            let ids = tokenizer.encode(&text, false, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, false), text);
        }
    }
}

// ---- hostile files ----

fn tiny() -> Value {
    json!({
        "added_tokens": [{"id": 3, "content": "<|x|>", "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    })
}

fn load(json: &Value) -> Result<Tokenizer> {
    Tokenizer::from_json(json.to_string().as_bytes(), None, None)
}

#[test]
fn a_tiny_file_works() {
    let tokenizer = load(&tiny()).unwrap();
    assert_eq!(tokenizer.encode("abba<|x|>", false, true).unwrap(), [2, 1, 0, 3]);
    assert!(tokenizer.encode("c", false, false).unwrap_err().to_string().contains("0x63"));
    // Ids without a token have no text.
    assert_eq!(tokenizer.decode(&[2, 4, 99], false), "ab");
}

#[test]
fn malformed_json_is_an_error_that_says_what() {
    let cases: [(&str, Value, &str); 20] = [
        ("/model/vocab/a", json!(-1), "-1"),
        ("/model/vocab/a", json!(1.5), "1.5"),
        ("/model/vocab/a", json!(1), "same id"),
        ("/model/vocab/a", json!(4_000_000_000u32), "4000000000"),
        ("/model/vocab/a", json!(100_000), "100000"),
        ("/model/vocab", json!([["a", 1.0]]), "sequence"),
        ("/model/type", json!("WordPiece"), ""),
        ("/model/merges", json!(["a z"]), "\"z\""),
        ("/model/merges", json!(["a"]), "merges[0]"),
        ("/model/merges", json!([["b", "a"]]), "\"ba\""),
        ("/model/merges", json!([["a"]]), ""),
        ("/pre_tokenizer/type", json!("BertPreTokenizer"), "BertPreTokenizer"),
        ("/pre_tokenizer", json!("ByteLevel"), "type"),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(?=x)"}, "behavior": "Isolated"}),
            "look-around",
        ),
        ("/decoder", json!({"type": "WordPiece"}), "WordPiece"),
        ("/added_tokens/0/id", json!(99_999_999), "99999999"),
        ("/added_tokens", json!([{"id": 3, "content": "x"}, {"id": 3, "content": "y"}]), "id 3"),
        ("/added_tokens/0/content", json!("x".repeat(1000)), "1000 bytes"),
        ("/model", json!({"type": "Unigram", "vocab": [["a", 0.0]]}), "Unigram"),
        ("/model", json!(null), ""),
    ];
    for (pointer, value, expected) in cases {
        let mut file = tiny();
        *file.pointer_mut(pointer).unwrap() = value;
        if pointer == "/model/type" {
            file["model"]["continuing_subword_prefix"] = json!("##");
        }
        let err = load(&file).err().unwrap_or_else(|| panic!("{pointer} was accepted")).to_string();
        assert!(err.contains(expected), "{pointer}: {err}");
    }
    for text in ["", "{", "[]", "null", "{\"model\":1}", "\u{feff}{}"] {
        assert!(Tokenizer::from_json(text.as_bytes(), None, None).is_err());
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Tokenizer::from_json(deep.as_bytes(), None, None).is_err());
    assert!(load(&tiny()).is_ok());
    let tiny = tiny().to_string();
    for config in ["[]", "{\"bos_token\": 5}", "{\"chat_template\": 1}"] {
        assert!(Tokenizer::from_json(tiny.as_bytes(), Some(config.as_bytes()), None).is_err(), "{config}");
    }
}

#[test]
fn many_identical_merges_and_empty_special_tokens_load() {
    let mut file = tiny();
    file["model"]["merges"] = json!(vec!["a b"; 100_000]);
    file["added_tokens"] = json!([
        {"id": 3, "content": "", "special": true},
        {"id": 4, "content": "<|x|>", "special": true},
        {"id": 5, "content": "<|x|><|x|>", "special": true},
    ]);
    let tokenizer = load(&file).unwrap();
    assert_eq!(tokenizer.encode("ab<|x|><|x|><|x|>", false, true).unwrap(), [2, 5, 4]);
}

#[test]
fn merges_cannot_build_control_tokens() {
    let mut file = tiny();
    file["added_tokens"] = json!([{"id": 2, "content": "ab", "special": true}]);
    file["model"]["ignore_merges"] = json!(true);
    let tokenizer = load(&file).unwrap();
    assert_eq!(tokenizer.encode("ab", false, false).unwrap(), [0, 1]);
    assert_eq!(tokenizer.encode("ab", false, true).unwrap(), [2]);
}

#[test]
fn malformed_gguf_vocabularies_are_refused() {
    let good = load(&tiny()).unwrap().to_gguf().unwrap();
    assert_eq!(good.exact, None, "{:?}", good.beyond);
    assert_eq!(good.pre, "gpt-2");
    let cases: [(&str, fn(&mut GgufVocab)); 11] = [
        ("token_type has", |v| v.token_types.as_mut().unwrap().truncate(1)),
        ("scores has", |v| v.scores = Some(vec![0.0])),
        ("is 7", |v| v.token_types.as_mut().unwrap()[0] = 7),
        ("<0x00>", |v| {
            v.token_types.as_mut().unwrap()[0] = 6;
            v.tokens[0] = "<0x-1>".into();
        }),
        ("merges is missing", |v| v.merges = None),
        ("merges[0]", |v| v.merges = Some(vec!["ab".into()])),
        ("merges[0]", |v| v.merges = Some(vec!["a ".into()])),
        ("\"c\"", |v| v.merges = Some(vec!["a c".into()])),
        ("bos_token_id is 99", |v| v.bos = Some(99)),
        ("\"klingon\"", |v| v.pre = "klingon".into()),
        ("\"bert\"", |v| v.model = "bert".into()),
    ];
    for (expected, change) in cases {
        let mut gguf = good.clone();
        change(&mut gguf);
        let err = Tokenizer::from_gguf(&gguf).err().unwrap_or_else(|| panic!("{expected} was accepted")).to_string();
        assert!(err.contains(expected), "{expected}: {err}");
    }
    let scores = |scores: Option<Vec<f32>>| {
        let vocab = GgufVocab { model: "llama".into(), tokens: vec!["a".into()], scores, ..GgufVocab::default() };
        Tokenizer::from_gguf(&vocab)
    };
    assert!(scores(None).is_err());
    assert!(scores(Some(vec![f32::NAN])).is_err());
    assert!(scores(Some(vec![f32::INFINITY])).is_ok());
    assert!(Tokenizer::from_gguf(&GgufVocab::default()).is_err());
}

#[test]
fn malformed_rank_files_are_refused() {
    for ranks in ["x", "YQ== 1", "YQ== 0\nYg== 2", "! 0", " 0", "YQ== -1", "YQ== 99999999999999999999"] {
        assert!(Tokenizer::from_tiktoken(ranks.as_bytes(), "llama-bpe", &[]).is_err(), "{ranks}");
    }
    let tokenizer = Tokenizer::from_tiktoken(b"YQ== 0\nYg== 1\nYWI= 2\n", "llama-bpe", &[]).unwrap();
    assert_eq!(tokenizer.encode("abb", false, false).unwrap(), [2, 1]);
}

#[test]
fn mutated_files_never_panic() {
    let mut state = 1u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let original = tiny().to_string();
    let mut loaded = 0;
    for _ in 0..5000 {
        let mut bytes = original.clone().into_bytes();
        for _ in 0..=next(3) {
            let (at, from) = (next(bytes.len()), next(original.len()));
            match next(3) {
                0 => bytes[at] = original.as_bytes()[from],
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, next(256) as u8),
            }
        }
        if let Ok(tokenizer) = Tokenizer::from_json(&bytes, None, None) {
            loaded += 1;
            if let Ok(ids) = tokenizer.encode("ab <|x|> é\0ba", true, true) {
                tokenizer.decode(&ids, true);
            }
            let _ = tokenizer.to_json().map(|json| Tokenizer::from_json(json.as_bytes(), None, None).is_ok());
            let _ = tokenizer.to_gguf();
        }
    }
    assert!(loaded > 100);
}
