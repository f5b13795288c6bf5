//! Generated tokenizers and texts: the Hugging Face crate must make the same tokens, and the same text of them.

use serde_json::{Map, Value, json};

use super::super::vocab::byte_to_char;
use super::super::*;
use super::draw::Draw;

/// Texts of added tokens that are not special.
const ADDED: [&str; 22] = [
    "<x>",
    "<x><y>",
    "<x",
    "tool",
    "to",
    "  ",
    " ",
    "\n\n",
    "\u{2581}\u{2581}",
    "\u{2581}",
    "漢字",
    "ab",
    "end of",
    "\t",
    "a b",
    " <x>",
    "A",
    "Ａ",
    "e\u{301}",
    "_",
    "....",
    "</x>",
];
/// Texts of special tokens: none is a token of the model or looks like one of the control tokens known by their text.
const SPECIAL: [&str; 8] = ["<x>", "<x><y>", "[END]", "[EN", "<x", "<｜end｜", "</x>", "[PAD] "];
/// What texts are made of, beside the texts of added tokens.
const PARTS: [&str; 44] = [
    "a", "b", "ab", "ba", "the", " of", "tool", "s", "'s", "'LL", " ", "  ", "   ", "\n", "\r\n", "\n\n", "\t", "0",
    "12", "3456", "!", "?!", "...", "_", "-", "é", "e\u{301}", "ﬁ", "Ａ", "A", "Ж", "漢", "漢字", "かな", "한",
    "\u{200d}", "😀", "\0", "\u{a0}", "\u{3000}", "²", "\u{2581}", "<x", "~",
];

fn text(draw: &mut Draw, added: &[Value]) -> String {
    let mut text = String::new();
    for _ in 0..draw.below(14) {
        match draw.one_in(3) && !added.is_empty() {
            true => text.push_str(draw.pick(added)["content"].as_str().unwrap()),
            false => text.push_str(PARTS[draw.below(PARTS.len())]),
        }
    }
    text
}

/// A vocabulary that grows from an alphabet by random merges.
struct Grown {
    vocab: Map<String, Value>,
    merges: Vec<Value>,
}

impl Grown {
    fn new(draw: &mut Draw, alphabet: Vec<String>, count: usize) -> Self {
        let mut tokens = alphabet;
        draw.shuffle(&mut tokens);
        let mut vocab: Map<String, Value> =
            tokens.iter().zip(0..).map(|(token, id): (_, u32)| (token.clone(), id.into())).collect();
        let mut merges = Vec::new();
        // Few letters make many merges apply.
        let mut frequent: Vec<String> =
            tokens.iter().filter(|t| "abtheolsĠ\u{2581}12.漢é\n".contains(t.as_str())).cloned().collect();
        for _ in 0..count {
            let (left, right) = (draw.pick(&frequent).clone(), draw.pick(&frequent).clone());
            let joined = format!("{left}{right}");
            if joined.chars().count() > 10 || merges.contains(&json!([left, right])) {
                continue;
            }
            merges.push(json!([left, right]));
            let next = vocab.len();
            vocab.entry(joined.clone()).or_insert_with(|| next.into());
            frequent.push(joined);
        }
        if draw.one_in(2) {
            draw.shuffle(&mut merges);
        }
        if draw.one_in(2) {
            merges.iter_mut().for_each(|merge| {
                *merge = format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()).into()
            });
        }
        Self { vocab, merges }
    }

    /// The list of added tokens; some of them become tokens of the model. With `ignore_merges` special ones do not: the
    /// reference would make them of pieces of plain text, which we do not.
    fn added(&mut self, draw: &mut Draw, ignore_merges: bool) -> Vec<Value> {
        let mut texts: Vec<(&str, bool)> = Vec::new();
        for _ in 0..draw.below(9) {
            let (text, special) = if draw.one_in(2) { (draw.pick(&ADDED), false) } else { (draw.pick(&SPECIAL), true) };
            if texts.iter().all(|(other, _)| other != text) {
                texts.push((text, special));
            }
        }
        let beside = texts.split_off(draw.below(texts.len() + 1));
        for (text, _) in texts.iter().filter(|(_, special)| !(*special && ignore_merges)) {
            let next = self.vocab.len();
            self.vocab.entry(*text).or_insert_with(|| next.into());
        }
        let mut next = self.vocab.len();
        let mut added = Vec::new();
        for (text, special) in texts.into_iter().chain(beside) {
            let id = self.vocab.get(text).map_or_else(
                || {
                    next += 1;
                    json!(next - 1)
                },
                Value::clone,
            );
            let mut flag = || draw.one_in(3);
            added.push(json!({
                "id": id, "content": text, "single_word": flag(), "lstrip": flag(), "rstrip": flag(),
                "normalized": flag(), "special": special,
            }));
        }
        added
    }
}

fn normalizer(draw: &mut Draw) -> Value {
    let one = |draw: &mut Draw| match draw.below(6) {
        0 => json!({"type": "NFD"}),
        1 => json!({"type": "NFKC"}),
        2 => json!({"type": "NFKD"}),
        3 => json!({"type": "Replace", "pattern": {"String": "~"}, "content": "--"}),
        4 => json!({"type": "Replace", "pattern": {"String": "..."}, "content": ""}),
        _ => json!({"type": "NFC"}),
    };
    match draw.below(4) {
        0 | 1 => Value::Null,
        2 => one(draw),
        _ => json!({"type": "Sequence", "normalizers": [one(draw), one(draw)]}),
    }
}

fn post_processor(draw: &mut Draw, added: &[Value], first: Value) -> Value {
    let specials: Vec<&Value> = added.iter().filter(|token| token["special"] == true).collect();
    if specials.is_empty() || draw.one_in(2) {
        return first;
    }
    let token = *draw.pick(&specials);
    let (special, text) = (
        json!({"SpecialToken": {"id": token["content"], "type_id": 0}}),
        json!({"Sequence": {"id": "A", "type_id": 0}}),
    );
    let single = if draw.one_in(3) { json!([special, text, special]) } else { json!([special, text]) };
    let name = token["content"].as_str().unwrap();
    let template = json!({
        "type": "TemplateProcessing", "single": single, "pair": single,
        "special_tokens": {name: {"id": name, "ids": [token["id"]], "tokens": [name]}},
    });
    if first.is_null() { template } else { json!({"type": "Sequence", "processors": [first, template]}) }
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// As GPT-2, LLaMA 3, Qwen, SmolLM and DeepSeek are written.
fn byte_level(draw: &mut Draw) -> Value {
    let alphabet = (0..=255).map(|byte| byte_to_char(byte).to_string()).collect();
    let count = 20 + draw.below(200);
    let mut grown = Grown::new(draw, alphabet, count);
    let ignore_merges = draw.one_in(2);
    let added = grown.added(draw, ignore_merges);
    let bytes = |prefix: bool, regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str, behavior: &str, invert: bool| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert});
    let prefix = draw.one_in(3);
    let steps = match draw.below(6) {
        0 => json!([split(LLAMA3, "Isolated", false), bytes(prefix, false)]),
        1 => json!([split(LLAMA3, "Removed", true), bytes(prefix, false)]),
        2 => json!([{"type": "Digits", "individual_digits": draw.one_in(2)}, bytes(prefix, true)]),
        3 => json!([
            split(r"\p{N}{1,3}", "Isolated", false),
            split("[一-龥぀-ゟ゠-ヿ]+", "Isolated", false),
            bytes(prefix, true)
        ]),
        _ => Value::Null,
    };
    let pre = if steps.is_null() {
        bytes(prefix, draw.one_in(2))
    } else {
        json!({"type": "Sequence", "pretokenizers": steps})
    };
    let first = if draw.one_in(2) { bytes(true, true) } else { Value::Null };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "normalizer": normalizer(draw),
        "pre_tokenizer": pre,
        "post_processor": post_processor(draw, &added, first),
        "decoder": bytes(true, true),
        "added_tokens": added,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": draw.pick(&[Value::Null, json!("")]),
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
            "vocab": grown.vocab, "merges": grown.merges,
        },
    })
}

/// As LLaMA 1 and 2, Mistral and Gemma are written.
fn spaces(draw: &mut Draw) -> Value {
    let letters = "abtheols<x>12.!_-'A漢字éかЖ\n\u{2581}";
    let alphabet = letters.chars().map(String::from).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    let count = 20 + draw.below(200);
    let mut grown = Grown::new(draw, alphabet, count);
    let byte_fallback = draw.one_in(2);
    let mut push = |text: String| {
        let next = grown.vocab.len();
        grown.vocab.insert(text, next.into());
    };
    push("[unk]".into());
    if byte_fallback {
        (0..=255).for_each(|byte| push(format!("<0x{byte:02X}>")));
    }
    let mut added = grown.added(draw, false);
    added.push(json!({
        "id": grown.vocab["[unk]"], "content": "[unk]", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": draw.one_in(2), "special": true,
    }));
    let replace = || json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let prepend = || json!({"type": "Prepend", "prepend": "\u{2581}"});
    let scheme = *draw.pick(&["always", "first", "never"]);
    let metaspace =
        |split: bool| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": split});
    let (normalizer, pre) = match draw.below(6) {
        0 => (json!({"type": "Sequence", "normalizers": [prepend(), replace()]}), Value::Null),
        1 => (
            replace(),
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
        ),
        2 => (json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, prepend(), replace()]}), Value::Null),
        3 => (
            normalizer(draw),
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, metaspace(draw.one_in(2))]}),
        ),
        _ => (normalizer(draw), metaspace(draw.one_in(2))),
    };
    let decoder = if !byte_fallback && draw.one_in(3) {
        metaspace(false)
    } else {
        let mut steps = vec![
            json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if draw.one_in(2) {
            steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({"type": "Sequence", "decoders": steps})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "normalizer": normalizer,
        "pre_tokenizer": pre,
        "post_processor": post_processor(draw, &added, Value::Null),
        "decoder": decoder,
        "added_tokens": added,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "[unk]", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": draw.one_in(2), "byte_fallback": byte_fallback, "ignore_merges": false,
            "vocab": grown.vocab, "merges": grown.merges,
        },
    })
}

/// Compares all that `ours` and `theirs` make of `text`. False where the reference panics, as it does on some tokens that
/// take white space along.
fn compare(seed: u64, json: &Value, ours: &Tokenizer, theirs: &tokenizers::Tokenizer, text: &str) -> bool {
    let shown = || {
        let mut json = json.clone();
        json["model"]["vocab"] = Value::Null;
        json["model"]["merges"] = Value::Null;
        format!("seed {seed}, text {text:?}, {json}")
    };
    for special in [false, true] {
        let attempt = std::panic::AssertUnwindSafe(|| theirs.encode_fast(text, special).unwrap());
        let Ok(expected) = std::panic::catch_unwind(attempt) else { return false };
        let ids = ours.encode(text, special, true).unwrap();
        let tokens = |ids: &[u32]| ids.iter().map(|id| theirs.id_to_token(*id).unwrap()).collect::<Vec<_>>();
        assert_eq!(tokens(&ids), tokens(expected.get_ids()), "{}", shown());
        assert_eq!(ids, expected.get_ids(), "{}", shown());
        for skip in [false, true] {
            assert_eq!(ours.decode(&ids, !skip), theirs.decode(&ids, skip).unwrap(), "{}", shown());
        }
        let mut stream = TokenStream::new(ours, true);
        let mut streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
        streamed.push_str(&stream.finish());
        assert_eq!(streamed, ours.decode(&ids, false), "{}", shown());
    }
    true
}

fn check(seeds: Range<u64>, make: fn(&mut Draw) -> Value) {
    let (mut compared, mut failed, mut in_gguf, count) = (0, 0, 0, seeds.end - seeds.start);
    for seed in seeds {
        let mut draw = Draw::new(seed);
        let json = make(&mut draw);
        let bytes = json.to_string().into_bytes();
        let theirs = tokenizers::Tokenizer::from_bytes(&bytes).unwrap_or_else(|err| panic!("seed {seed}: {err}"));
        let ours = Tokenizer::from_json(&bytes, None, None).unwrap_or_else(|err| panic!("seed {seed}: {err}"));
        // What we write of it is the same tokenizer.
        let again = ours.to_json().unwrap();
        let again =
            Tokenizer::from_json(again.as_bytes(), None, None).unwrap_or_else(|err| panic!("seed {seed}: {err}"));
        // So it is after GGUF's keys, or GGUF is refused by name.
        let gguf = match ours.to_gguf() {
            Ok(gguf) => Some(Tokenizer::from_gguf(&gguf).unwrap_or_else(|err| panic!("seed {seed}: {err}"))),
            Err(err) => {
                assert!(err.to_string().contains("pre-tokenizer"), "seed {seed}: {err}");
                None
            }
        };
        in_gguf += usize::from(gguf.is_some());
        let added = json["added_tokens"].as_array().unwrap();
        for _ in 0..30 {
            let text = text(&mut draw, added);
            for ours in [&ours, &again].into_iter().chain(&gguf) {
                match compare(seed, &json, ours, &theirs, &text) {
                    true => compared += 1,
                    false => failed += 1,
                }
            }
        }
    }
    assert!(in_gguf as u64 > count / 5, "only {in_gguf} of {count} tokenizers had a form in GGUF");
    assert!(compared > 100 * failed, "the reference failed on {failed} texts");
}

#[test]
fn byte_level_tokenizers_equal_hugging_faces() {
    check(0..300, byte_level);
}

#[test]
fn space_marking_tokenizers_equal_hugging_faces() {
    check(1000..1300, spaces);
}
