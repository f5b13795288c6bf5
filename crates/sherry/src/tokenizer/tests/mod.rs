//! Hostile and odd files; the generated cases and those of `tests/tokenizer_reference.rs` compare with other programs.

#![expect(clippy::type_complexity, reason = "tables of changes")]

mod draw;
mod files;
mod generated;

use serde_json::{Value, json};

use super::*;

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
        ("/model/vocab", json!([["a", 1.0]]), "found a list"),
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
            v.tokens = std::iter::once("<0x-1>").chain(v.tokens.iter().skip(1)).collect();
        }),
        ("merges is missing", |v| v.merges = None),
        ("merges[0]", |v| v.merges = Some(vec!["ab"].into())),
        ("merges[0]", |v| v.merges = Some(vec!["a "].into())),
        ("\"c\"", |v| v.merges = Some(vec!["a c"].into())),
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
        let vocab = GgufVocab { model: "llama".into(), tokens: vec!["a"].into(), scores, ..GgufVocab::default() };
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

/// Asks to stop from the `after`-th question on.
struct Impatient {
    asked: std::sync::atomic::AtomicUsize,
    after: usize,
}

impl Progress for Impatient {
    fn start(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
    fn note(&self, _: &str) {}
    fn is_cancelled(&self) -> bool {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= self.after
    }
}

#[test]
fn a_long_text_can_be_stopped_wherever_its_work_lies() {
    let tokenizer = load(&tiny()).unwrap();
    // One piece with many merges; many pieces between added tokens.
    for text in ["ab".repeat(200_000), "a<|x|>b".repeat(100_000)] {
        let encode = |after: usize| {
            let progress = Impatient { asked: 0.into(), after };
            let found = tokenizer.encode_long(&text, false, true, &progress);
            (found, progress.asked.into_inner())
        };
        let (ids, asked) = encode(usize::MAX);
        assert_eq!(ids.unwrap(), tokenizer.encode(&text, false, true).unwrap());
        assert!(asked >= 10, "asked {asked} times");
        for after in [0, asked / 2, asked - 1] {
            let (stopped, asked) = encode(after);
            assert!(matches!(stopped, Err(crate::Error::Interrupted)));
            assert_eq!(asked, after + 1, "stops at once");
        }
    }
}
