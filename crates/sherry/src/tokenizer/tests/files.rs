//! What the files beside the vocabulary say, and the ways in which they may be wrong.

use serde_json::{Value, json};

use super::super::*;
use crate::io::gguf::Strings;

/// A vocabulary as Gemma's is written, small: spaces marked, byte fallback, runs of spaces and line ends as added tokens
/// that are not special.
fn gemma() -> Value {
    let mut vocab = serde_json::Map::new();
    let mut push = |text: &str| {
        let next = vocab.len();
        vocab.insert(text.into(), next.into());
    };
    let first = ["<pad>", "<eos>", "<bos>", "<unk>", "\n\n", "\u{2581}\u{2581}", "\u{2581}\u{2581}\u{2581}", "<tool>"];
    first.into_iter().for_each(&mut push);
    (0..=255).for_each(|byte| push(&format!("<0x{byte:02X}>")));
    ["a", "b", "\u{2581}", "\n", "ab", "\u{2581}a"].into_iter().for_each(&mut push);
    let added = |text: &str, special: bool| json!({"id": vocab[text], "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special});
    let mark = "\u{2581}";
    json!({
        "version": "1.0",
        "added_tokens": [
            added("<pad>", true), added("<eos>", true), added("<bos>", true), added("<unk>", true), added("\n\n", false),
            added("\u{2581}\u{2581}", false), added("\u{2581}\u{2581}\u{2581}", false), added("<tool>", false),
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": mark},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": mark}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        ]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab,
            "merges": [["\u{2581}\u{2581}", mark], [mark, "\u{2581}\u{2581}"], [mark, mark], ["\n", "\n"], ["a", "b"], [mark, "a"]],
        },
    })
}

fn load(json: &Value) -> Tokenizer {
    Tokenizer::from_json(json.to_string().as_bytes(), None, None).unwrap()
}

fn with_config(json: &Value, config: &Value) -> Result<Tokenizer> {
    Tokenizer::from_json(json.to_string().as_bytes(), Some(config.to_string().as_bytes()), None)
}

#[test]
fn runs_of_spaces_survive_the_way_to_gguf() {
    let folder = load(&gemma());
    let theirs = tokenizers::Tokenizer::from_bytes(gemma().to_string()).unwrap();
    let gguf = folder.to_gguf().unwrap();
    let tokens: Vec<&str> = gguf.tokens.iter().skip(4).take(4).collect();
    assert_eq!(tokens, ["\n\n", "  ", "   ", "<tool>"]);
    assert_eq!(gguf.token_types.as_ref().unwrap()[4..8], [4, 4, 4, 4]);
    let file = Tokenizer::from_gguf(&gguf).unwrap();
    let again = load(&serde_json::from_str(&file.to_json().unwrap()).unwrap());
    let tab = "a\tb";
    for text in ["a  b", "a   b", "    ab", "a     ", " ", "a\n\nb\n", "é  é", "<tool>  a", tab, ""] {
        let expected = theirs.encode_fast(text, false).unwrap().get_ids().to_vec();
        for (name, tokenizer) in [("folder", &folder), ("GGUF", &file), ("folder of GGUF", &again)] {
            let ids = tokenizer.encode(text, false, false).unwrap();
            assert_eq!(ids, expected, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids, false), text, "{name}");
        }
    }
}

#[test]
fn normalized_added_tokens_are_found_after_normalization() {
    // As LLaMA 2 writes it: the token's own text is normalized too, so that only a word of its own is the token.
    let mut json = gemma();
    json["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u{2581}"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]});
    json["pre_tokenizer"] = Value::Null;
    json["added_tokens"][7]["normalized"] = json!(true);
    let theirs = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
    let ours = load(&json);
    let tool = ours.token_to_id("<tool>").unwrap();
    for (text, tools) in [("<tool>ab", 1), ("ab<tool>", 0), ("ab <tool>", 1), ("<tool> <tool>", 2)] {
        let ids = ours.encode(text, false, false).unwrap();
        assert_eq!(ids, theirs.encode_fast(text, false).unwrap().get_ids(), "{text:?}");
        assert_eq!(ids.iter().filter(|id| **id == tool).count(), tools, "{text:?}");
    }
}

#[test]
fn typed_text_is_no_control_token_after_normalization_either() {
    let mut json = gemma();
    json["added_tokens"][1]["normalized"] = json!(true);
    let tokenizer = load(&json);
    let end = tokenizer.token_to_id("<eos>").unwrap();
    let text = "a <eos>b<eos> <eos>";
    let count = |literal: &[Range<usize>]| {
        tokenizer.encode_prompt(text, literal).unwrap().iter().filter(|id| **id == end).count()
    };
    assert_eq!(count(&[]), 3);
    assert_eq!(count(std::slice::from_ref(&(0..8))), 2);
    // What begins or ends in typed text; inside of it a template may have written a token around a word.
    assert_eq!(count(&[0..3, 12..13]), 1);
    assert_eq!(count(&[0..3, 10..11]), 2);
    assert_eq!(count(std::slice::from_ref(&(0..text.len()))), 0);
}

#[test]
fn tokens_that_only_tokenizer_config_lists_are_added() {
    let plain = load(&gemma());
    let next = plain.vocab_size() as u32;
    let config = json!({"added_tokens_decoder": {
        "7": {"content": "<tool>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": false},
        next.to_string(): {"content": "<turn>", "lstrip": false, "normalized": false, "special": true},
        (next + 1).to_string(): {"content": "think", "single_word": true, "normalized": true, "special": false},
    }});
    let tokenizer = with_config(&gemma(), &config).unwrap();
    assert_eq!(tokenizer.encode("a<turn>b", false, true).unwrap(), [264, next, 265]);
    assert!(tokenizer.is_control(next) && !tokenizer.encode("<turn>", false, false).unwrap().contains(&next));
    assert_eq!(tokenizer.encode("think", false, false).unwrap(), [next + 1]);
    // What it says of a token that tokenizer.json lists counts.
    assert_eq!(tokenizer.encode("<tool>  a", false, false).unwrap(), [7, 264]);
    // Two lists that contradict each other name the tokens.
    let config = json!({"added_tokens_decoder": {"7": {"content": "<other>"}}});
    let message = with_config(&gemma(), &config).err().unwrap().to_string();
    assert!(message.contains("<other>") && message.contains("<tool>"), "{message}");
}

#[test]
fn tokens_with_a_role_are_control_tokens() {
    let mut json = gemma();
    json["added_tokens"] = json!([]);
    let config = json!({"bos_token": "<bos>", "eos_token": {"content": "<eos>"}, "pad_token": "a", "mask_token": "<mask>",
                        "additional_special_tokens": ["<tool>"]});
    let tokenizer = with_config(&json, &config).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(2), Some(1)));
    assert_eq!(tokenizer.encode("<tool><eos>", false, true).unwrap(), [7, 1]);
    assert!(!tokenizer.encode("<tool><eos>", false, false).unwrap().iter().any(|id| tokenizer.is_control(*id)));
    // A single letter is not taken out of the alphabet, and a token that does not exist is mentioned.
    assert_eq!(tokenizer.encode("a", false, true).unwrap(), [264]);
    assert!(tokenizer.notes().len() == 1 && tokenizer.notes()[0].contains("mask_token is \"<mask>\""));
}

#[test]
fn a_gguf_vocabulary_without_a_pre_tokenizer_says_so() {
    let tokens: Strings = (0..=255).map(|byte| byte_to_char(byte).to_string()).collect();
    let merges = Some(Strings::default());
    let mut gguf = GgufVocab { model: "gpt2".into(), tokens, merges, ..GgufVocab::default() };
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    assert!(
        tokenizer.notes().len() == 1 && tokenizer.notes()[0].contains("tokenizer.ggml.pre"),
        "{:?}",
        tokenizer.notes()
    );
    gguf.pre = "default".into();
    assert!(Tokenizer::from_gguf(&gguf).unwrap().notes().is_empty());
}

#[test]
fn decoders_are_what_they_say_or_refused() {
    let strip = |start: u32| json!({"type": "Strip", "content": " ", "start": start, "stop": 0});
    let replace = |to: &str| json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": to});
    let (bytes, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
    for (parts, works) in [
        (json!([replace(" "), bytes, fuse]), true),
        (json!([replace(" "), bytes, fuse, strip(1)]), true),
        (json!([replace("_"), bytes, fuse]), false),
        (json!([replace(" "), bytes, fuse, strip(2)]), false),
        (json!([fuse, replace(" "), bytes]), false),
        (json!([replace(" "), fuse]), false),
        (json!([{"type": "WordPiece"}]), false),
    ] {
        let mut json = gemma();
        json["decoder"] = json!({"type": "Sequence", "decoders": parts});
        let result = Tokenizer::from_json(json.to_string().as_bytes(), None, None);
        match result.err() {
            None => assert!(works, "{parts}"),
            Some(err) => assert!(!works && err.to_string().contains("decoder"), "{parts}: {err}"),
        }
    }
}

#[test]
fn files_that_are_no_json_say_what_they_are() {
    for (bytes, expected) in [
        (&b"\xEF\xBB\xBF{}"[..], "byte-order mark"),
        (b"\xFF\xFE{\0}\0", "UTF-16"),
        (b"  \n", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::write(folder.path().join("tokenizer.json"), gemma().to_string()).unwrap();
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let message = Tokenizer::from_folder(folder.path()).err().unwrap().to_string();
            assert!(message.contains(&path.display().to_string()) && message.contains(expected), "{message}");
        }
    }
    for (config, expected) in [
        (json!({"chat_template": 1}), "'chat_template': expected a string or a list"),
        (json!({"chat_template": [{"name": "x"}]}), "'chat_template': expected a string or a list"),
        (json!({"bos_token": 5}), "'bos_token': expected a string or an object"),
        (json!({"add_bos_token": "yes"}), "'add_bos_token': expected true or false"),
        (
            json!({"added_tokens_decoder": {"x": {"content": "y"}}}),
            "'added_tokens_decoder.x': the name is not a token id",
        ),
        (json!({"added_tokens_decoder": {"9": {}}}), "'added_tokens_decoder.9.content': missing"),
    ] {
        let message = with_config(&gemma(), &config).err().unwrap().to_string();
        assert!(message.contains("tokenizer_config.json") && message.contains(expected), "{config}: {message}");
    }
    let mut json = gemma();
    json["model"]["merges"] = json!([["a", "b", "c"]]);
    let message = Tokenizer::from_json(json.to_string().as_bytes(), None, None).err().unwrap().to_string();
    assert!(message.contains("a list of two tokens"), "{message}");
}

#[test]
fn templates_come_in_three_forms() {
    for (template, expected) in [
        (json!("x"), Some("x")),
        (json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]), Some("d")),
        (json!({"rag": "r", "default": "d"}), Some("d")),
        (json!([]), None),
        (Value::Null, None),
    ] {
        let tokenizer = with_config(&gemma(), &json!({"chat_template": template})).unwrap();
        assert_eq!(tokenizer.chat_template(), expected);
    }
}

#[test]
fn folders_need_a_tokenizer_and_sentencepiece_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = || Tokenizer::from_folder(folder.path()).err().unwrap().to_string();
    assert!(refusal().contains("neither tokenizer.json nor tokenizer.model"));
    std::fs::write(folder.path().join("vocab.json"), "{}").unwrap();
    assert!(refusal().contains("vocab.json but no tokenizer.json"));
    std::fs::write(folder.path().join("tokenizer.model"), "IQ== 0\nIg== 1\n").unwrap();
    assert!(refusal().contains("tiktoken ranks"));
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sentencepiece/llama.model");
    std::fs::copy(model, folder.path().join("tokenizer.model")).unwrap();
    let next = Tokenizer::from_folder(folder.path()).unwrap().vocab_size();
    let config = json!({
        "chat_template": "x", "eos_token": "<turn>", "legacy": false,
        "added_tokens_decoder": {next.to_string(): {"content": "<turn>", "special": true}},
    });
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.chat_template()), (Some(next as u32), Some("x")));
    // With `legacy: false` only the beginning of a text gets a space.
    let ids = tokenizer.encode("the<turn>the", false, true).unwrap();
    assert_eq!(tokenizer.decode(&ids, true), "the<turn>the");
    assert_eq!(tokenizer.id_to_token(ids[0]), Some("\u{2581}the"));
    let behind = ids.iter().position(|id| *id as usize == next).unwrap() + 1;
    assert!(!tokenizer.id_to_token(ids[behind]).unwrap().starts_with('\u{2581}'));
}

#[test]
fn bytes_that_are_added_tokens_too_are_bytes() {
    let mut json = gemma();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    let mut added = Vec::new();
    for byte in 0..256 {
        let text = format!("<0x{byte:02X}>");
        let next = vocab.len();
        let id = vocab.entry(text.clone()).or_insert_with(|| next.into()).clone();
        added.push(json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}));
    }
    json["model"]["byte_fallback"] = true.into();
    json["added_tokens"].as_array_mut().unwrap().extend(added);
    let bytes = json.to_string().into_bytes();
    let theirs = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
    let ours = load(&json);
    for text in ["漢", "a\u{1F600}b", "x"] {
        assert_eq!(
            ours.encode(text, false, true).unwrap(),
            theirs.encode_fast(text, false).unwrap().get_ids(),
            "{text}"
        );
    }
}

#[test]
fn errors_of_json_are_in_plain_words() {
    for text in
        ["[]", "null", "[1, 2, 3, 4, 5]", r#"{"model": [[1]]}"#, r#"{"model": {"vocab": {"a": []}, "merges": []}}"#]
    {
        let message = Tokenizer::from_json(text.as_bytes(), None, None).map(|_| ()).unwrap_err().to_string();
        for word in ["struct", "sequence", "u32", "map", "Json"] {
            assert!(!message.contains(word), "{text}: {message}");
        }
    }
}
