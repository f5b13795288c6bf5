//! Against SentencePiece itself: models and texts made by `tests/golden/sentencepiece/make_sentencepiece_golden.py`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::*;

fn golden() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sentencepiece"))
}

/// Compares the tokens of every recorded text with those recorded, and the text made of them: all cases, and those that
/// differ.
fn check(folder: &Path) -> (usize, Vec<String>) {
    let (mut cases, mut different) = (0, Vec::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "model") {
            continue;
        }
        let name = path.display();
        let tokenizer = Tokenizer::from_sentencepiece(&std::fs::read(&path).unwrap()).unwrap();
        let expected: Vec<Value> =
            serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
        let unknown = tokenizer.roles.unknown;
        for case in expected {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let found = tokenizer.encode(text, false, false).unwrap();
            let pieces =
                |ids: &[u32]| ids.iter().map(|id| tokenizer.id_to_token(*id).unwrap().to_owned()).collect::<Vec<_>>();
            if found != ids {
                different.push(format!("{name}: {text:?}: {:?} instead of {:?}", pieces(&found), pieces(&ids)));
            }
            // SentencePiece shows unknown text as a mark of its own, and every byte of a broken character.
            if !ids.iter().any(|id| Some(*id) == unknown) {
                assert_eq!(tokenizer.decode(&ids, false), case["decoded"].as_str().unwrap(), "{name}: {text:?}");
            }
            cases += 1;
        }
    }
    (cases, different)
}

#[test]
fn tokens_equal_sentencepieces() {
    assert_eq!(check(&golden()), (5 * 150, Vec::new()));
}

#[test]
#[ignore = "needs SHERRY_SENTENCEPIECE, a folder that make_sentencepiece_golden.py --many has filled"]
fn many_models_equal_sentencepieces() {
    let folder = std::env::var_os("SHERRY_SENTENCEPIECE").expect("SHERRY_SENTENCEPIECE");
    let (cases, different) = check(Path::new(&folder));
    // Of two cuts with the same sum of scores the last bit of an f32 decides.
    assert!(cases >= 150 && different.len() <= cases / 2000, "{different:#?}");
}

#[test]
fn control_pieces_are_recognised_on_request_only() {
    let tokenizer = Tokenizer::from_sentencepiece(&std::fs::read(golden().join("llama.model")).unwrap()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    assert_eq!(tokenizer.encode("", true, false).unwrap(), [1]);
    let plain = tokenizer.encode("the</s>the", false, false).unwrap();
    assert!(plain.iter().all(|id| !tokenizer.is_control(*id)));
    assert_eq!(tokenizer.decode(&plain, false), "the</s>the");
    // Behind a control token a text begins anew.
    let the = tokenizer.encode("the", false, false).unwrap();
    let both = [&the[..], &[2], &the[..]].concat();
    assert_eq!(tokenizer.encode("the</s>the", false, true).unwrap(), both);
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let model = std::fs::read(golden().join("llama.model")).unwrap();
    let with = |field: &[u8]| [&model[..], field].concat();
    let cases: [(&str, Vec<u8>); 8] = [
        ("no pieces", Vec::new()),
        ("ends inside a number", with(&[0x80])),
        ("beyond the end", with(&[0x0A, 0x7F, 1])),
        ("wire type 3", with(&[0x0B])),
        ("model_type WORD", with(&[0x12, 2, 0x18, 3])),
        ("model_type CHAR", with(&[0x12, 2, 0x18, 4])),
        ("treat_whitespace_as_suffix", with(&[0x12, 3, 0xC0, 1, 1])),
        ("type 9", with(&[0x0A, 5, 0x0A, 1, b'x', 0x18, 9])),
    ];
    for (expected, bytes) in cases {
        let message = Tokenizer::from_sentencepiece(&bytes).err().unwrap_or_else(|| panic!("{expected}")).to_string();
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn mutated_files_never_panic() {
    for name in ["llama.model", "rules.model", "unigram_rules.model"] {
        let original = std::fs::read(golden().join(name)).unwrap();
        let mut state = 1u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut loaded = 0;
        for _ in 0..300 {
            let mut bytes = original.clone();
            for _ in 0..=next(3) {
                let at = next(bytes.len());
                match next(3) {
                    0 => bytes[at] = next(256) as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            if let Ok(tokenizer) = Tokenizer::from_sentencepiece(&bytes) {
                loaded += 1;
                if let Ok(ids) = tokenizer.encode("the ab <s> é\0~ \u{FB01}", true, true) {
                    tokenizer.decode(&ids, true);
                }
                let _ = tokenizer.to_json();
                let _ = tokenizer.to_gguf();
            }
        }
        assert!(loaded > 5, "{loaded}");
    }
}
