//! What a model is must not depend on the container it came in: generated folders go to GGUF and back, and all that their
//! configuration, tokenizer and recommendations say must arrive, or be refused with its name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use sherry::generate::SamplingParams;
use sherry::io::ReadMode;
use sherry::model::names::Naming;
use sherry::model::{
    ArchConfig, Checkpoint, Decoder, Family, KvCache, KvType, RopeScaling, Wanted, config_hf, synthetic,
};
use sherry::tokenizer::byte_to_char;
use sherry::{NoProgress, Result};
use sherry_convert::{Request, convert};
use sherry_kernels::{Engine, Isa, Pool, Precision};

/// Knuth's linear congruential generator.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize].clone()
    }
}

fn config(draw: &mut Draw) -> ArchConfig {
    let family = draw.pick(&Family::ALL);
    let gemma = family == Family::Gemma3;
    let mut config = synthetic::tiny(family);
    config.vocab = 320;
    config.heads = draw.pick(&[2, 4]);
    config.kv_heads = draw.pick(&[1, 2]);
    config.layers = draw.pick(&[1, 2, 4]);
    config.context = draw.pick(&[32, 2048]);
    config.norm_eps = draw.pick(&[1e-5, 1e-6, 3e-6]);
    config.rope.theta = draw.pick(&[10_000.0, 1_000_000.0, 12_345.5]);
    if family == Family::MiniCpm {
        config.head_dim = config.hidden / config.heads;
        config.embed_scale = draw.pick(&[1.0, 12.0, 3.3]);
        config.residual_scale = draw.pick(&[1.0, 0.221_359_44, 0.7]);
        config.logit_divisor = draw.pick(&[1.0, 10.0, 0.3]);
    }
    let scaling = match (family, draw.below(6)) {
        (Family::MiniCpm, 1 | 2) => 4, // which their code does not have
        (_, kind) => kind,
    };
    config.rope.scaling = match scaling {
        3 => {
            let pairs = config.head_dim / 2;
            let factors = |step: f32| (0..pairs).map(|i| 1.0 + step * i as f32).collect();
            // Of the whole context to the trained one.
            let computed = (1.0 + (config.context as f32 / 16.0).ln() / 16f32.ln()).sqrt();
            let magnitude = if family == Family::MiniCpm { computed } else { draw.pick(&[computed, 1.0, 1.25]) };
            RopeScaling::LongRope { short: factors(0.25), long: factors(1.5), original_context: 16, magnitude }
        }
        2 => RopeScaling::Yarn {
            factor: draw.pick(&[2.0, 4.0]),
            original_context: draw.pick(&[16, 512]),
            beta_fast: draw.pick(&[32.0, 8.0]),
            beta_slow: 1.0,
            magnitude: draw.pick(&[1.0, 1.138_629_4, 1.5]),
        },
        0 => RopeScaling::Linear { factor: draw.pick(&[2.0, 8.0]) },
        1 => RopeScaling::Llama3 {
            factor: draw.pick(&[8.0, 32.0]),
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        },
        _ => RopeScaling::None,
    };
    config.tied = draw.one_in(2);
    config.input_norms = if draw.one_in(4) { Some(draw.pick(&[1e-6, 1e-5, 1e-3])) } else { None };
    if gemma {
        config.attn_scale = 1.0 / draw.pick(&[16f32, 4.0, 21.0, 168.0]).sqrt();
        match draw.one_in(3) {
            true => (config.window, config.window_pattern, config.rope.local_theta) = (None, 0, None),
            false => {
                config.window = Some(draw.pick(&[3, 5, 64]));
                config.window_pattern = draw.pick(&[2, 3, 6]);
                config.rope.local_theta = Some(draw.pick(&[10_000.0, 500.0]));
            }
        }
    } else {
        config.attn_scale = 1.0 / (config.head_dim as f32).sqrt();
        config.qkv_bias = draw.one_in(3);
        config.o_bias = config.qkv_bias;
    }
    config
}

fn tokenizer(draw: &mut Draw) -> Value {
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let mut vocab = serde_json::Map::new();
    (0..=255).for_each(|byte| _ = vocab.insert(byte_to_char(byte).to_string(), byte.into()));
    let mut merges = Vec::new();
    for (id, (left, right)) in [("t", "h"), ("th", "e"), ("a", "n"), ("Ġ", "the"), ("e", "r")].into_iter().enumerate()
    {
        merges.push(json!([left, right]));
        vocab.insert(format!("{left}{right}"), (256 + id).into());
    }
    let flag = |draw: &mut Draw| draw.one_in(4);
    let texts = ["<|begin|>", "<|end|>", "<stop>", "<tool>", "  ", "<|eot_id|>"];
    let added: Vec<Value> = texts
        .into_iter()
        .enumerate()
        .map(|(place, text)| {
            json!({
                "id": 270 + place, "content": text, "special": text.starts_with("<|"), "single_word": flag(draw),
                "lstrip": flag(draw), "rstrip": flag(draw), "normalized": flag(draw),
            })
        })
        .collect();
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes = |prefix: bool, regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex});
    let prefix = draw.one_in(5);
    let pre = match draw.below(7) {
        0 => json!([split("[a-z]+"), bytes(prefix, false)]), // no name in GGUF
        1..4 => json!([split(LLAMA3), bytes(prefix, false)]),
        _ => json!([bytes(prefix, true)]),
    };
    let around = json!({
        "type": "TemplateProcessing", "pair": [],
        "single": draw.pick(&[
            json!([{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]),
            json!([{"SpecialToken": {"id": "<stop>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<|end|>", "type_id": 0}}]),
        ]),
        "special_tokens": {
            "<|begin|>": {"id": "<|begin|>", "ids": [270], "tokens": ["<|begin|>"]},
            "<|end|>": {"id": "<|end|>", "ids": [271], "tokens": ["<|end|>"]},
            "<stop>": {"id": "<stop>", "ids": [272], "tokens": ["<stop>"]},
        },
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": draw.pick(&[
            Value::Null, Value::Null, json!({"type": "NFC"}), json!({"type": "NFKC"}),
            json!({"type": "Replace", "pattern": {"String": "~"}, "content": "--"}),
        ]),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre},
        "post_processor": draw.pick(&[Value::Null, around]),
        "decoder": bytes(true, true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": draw.one_in(2),
            "vocab": vocab, "merges": merges,
        },
    })
}

fn folder(root: &Path, draw: &mut Draw) -> PathBuf {
    let path = root.join("model");
    fs::create_dir(&path).unwrap();
    let config = config(draw);
    let source = synthetic::source(&config, Naming::HuggingFace, draw.below(1000));
    source.save(&path.join("model.safetensors")).unwrap();
    let mut generation = json!({});
    let ends: Vec<u64> = (0..draw.below(6)).map(|_| draw.pick(&[271, 272, 273, 65, 66, 67, 275])).collect();
    let in_config = draw.one_in(3);
    let mut json = config_hf::write(&config).unwrap();
    if let Some(eps) = config.input_norms {
        json["quantization_config"] = json!({"quant_method": "sherry", "version": 1, "format": "blocks", "use_rms_norm": true, "rms_norm_eps": eps});
        if config.family == Family::BitNet {
            json["quantization_config"]["quant_method"] = json!("bitnet");
            json["quantization_config"]["linear_class"] = json!("autobitlinear");
            json["quantization_config"]["quantization_mode"] = json!("online");
        }
    }
    let place = if in_config { &mut json } else { &mut generation };
    place["eos_token_id"] = json!(ends);
    for (field, values) in [
        ("do_sample", [json!(true), json!(false)]),
        ("temperature", [json!(0.6), json!(1.3)]),
        ("top_k", [json!(0), json!(20)]),
        ("top_p", [json!(0.9), json!(1.0)]),
        ("min_p", [json!(0.0), json!(0.1)]),
        ("repetition_penalty", [json!(1.0), json!(1.1)]),
    ] {
        if draw.one_in(2) {
            generation[field] = draw.pick(&values);
        }
    }
    fs::write(path.join("config.json"), json.to_string()).unwrap();
    fs::write(path.join("generation_config.json"), generation.to_string()).unwrap();
    fs::write(path.join("tokenizer.json"), tokenizer(draw).to_string()).unwrap();
    let names = json!({"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": "{{ messages[0].content }}"});
    fs::write(path.join("tokenizer_config.json"), names.to_string()).unwrap();
    path
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, ReadMode::Map).unwrap()
}

fn to(input: &Path, out: &Path) -> Result<Vec<String>> {
    convert(&open(input), out, &Request::keep(), &NoProgress, |_| {}).map(|summary| summary.notes)
}

fn logits(checkpoint: &Checkpoint) -> Vec<f32> {
    let model = Arc::new(checkpoint.load(&Pool::new(1), &NoProgress).unwrap());
    let mut cache = KvCache::new(&model.config, 16, KvType::F32).unwrap();
    let mut decoder = Decoder::new(model, Engine::new(Isa::best(), 1, Precision::F32));
    let logits = decoder.forward_one(&mut cache, &[3, 300, 12, 7, 7, 41, 0, 25, 33, 1], Wanted::All).unwrap();
    (0..logits.rows()).flat_map(|row| logits.row(row).to_vec()).collect()
}

/// All that a checkpoint says beside its weights, in a form that can be compared.
fn said(checkpoint: &Checkpoint) -> Vec<String> {
    let tokenizer = checkpoint.tokenizer().unwrap();
    let generation = checkpoint.generation();
    let ends: BTreeSet<u32> = generation.eos_token_ids.iter().chain(tokenizer.end_ids()).copied().collect();
    let mut said = vec![
        format!("ends {ends:?}"),
        format!("sampling {:?}", SamplingParams::default().recommended(generation, &[]).unwrap()),
        format!("roles {:?} {:?} {:?}", tokenizer.bos(), tokenizer.eos(), tokenizer.chat_template()),
    ];
    let texts = [
        "the other man",
        "  two  spaces",
        "a <tool> b",
        "a<stop>b <|eot_id|> c",
        "e\u{301} ﬁ ~ Ａ",
        " x<tool>y",
        "1234 don't",
        "<|begin|>the<|end|>",
        "\u{2581}\n\n",
    ];
    for text in texts {
        for (special, parse) in [(false, false), (true, true)] {
            let ids = tokenizer.encode(text, special, parse).unwrap();
            said.push(format!("{text:?} {special} {ids:?} {:?}", tokenizer.decode(&ids, true)));
        }
    }
    said
}

#[test]
fn generated_models_are_the_same_in_both_containers() {
    let (mut same, mut refused, mut noted) = (0, 0, 0);
    for seed in 0..120 {
        let root = tempfile::tempdir().unwrap();
        let mut draw = Draw(seed);
        let dense = folder(root.path(), &mut draw);
        let (gguf, back) = (root.path().join("model.gguf"), root.path().join("back"));
        match to(&dense, &gguf) {
            Ok(notes) => noted += usize::from(notes.iter().any(|note| note.contains("sherry."))),
            Err(error) => {
                // The one thing here that GGUF has no place for.
                let message = error.to_string();
                assert!(message.contains("pre-tokenizer") && message.contains("model"), "seed {seed}: {message}");
                assert!(!gguf.exists());
                refused += 1;
                continue;
            }
        }
        to(&gguf, &back).unwrap();
        let [a, b, c] = [&dense, &gguf, &back].map(|path| open(path));
        let (said_a, logits_a) = (said(&a), logits(&a));
        let largest = logits_a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for (name, other) in [("gguf", &b), ("back", &c)] {
            assert_eq!(said_a, said(other), "seed {seed}, {name}: {:?}", a.config());
            let distance = logits_a.iter().zip(logits(other)).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
            assert!(distance < 5e-5 * largest, "seed {seed}, {name}: {distance} of {largest}, {:?}", a.config());
        }
        // The scale of the queries is in their norm afterwards; all else is the same field by field.
        let mut expected = a.config().clone();
        expected.attn_scale = c.config().attn_scale;
        assert_eq!(&expected, c.config(), "seed {seed}");
        same += 1;
    }
    assert!(same > 60 && refused > 5 && noted > 20, "{same} the same, {refused} refused, {noted} with a note");
}

/// A SentencePiece model in its protocol buffer: `unk_id` 0, four pieces, white space as it is.
fn pieces() -> Vec<u8> {
    let mut file = Vec::new();
    for (rank, (piece, kind)) in
        [("<unk>", 2u8), ("\u{2581}", 1), ("a", 1), ("b", 1), ("ab", 1)].into_iter().enumerate()
    {
        let mut message = vec![0x0a, piece.len() as u8];
        message.extend(piece.as_bytes());
        message.push(0x15); // score
        message.extend((-(rank as f32)).to_le_bytes());
        message.extend([0x18, kind]);
        file.extend([0x0a, message.len() as u8]);
        file.extend(message);
    }
    file.extend([0x12, 2, 0x18, 2]); // trainer_spec: model_type BPE
    let mut normalizer = vec![0x0a, 8];
    normalizer.extend(b"identity");
    normalizer.extend([0x18, 1, 0x20, 0, 0x28, 1]); // dummy prefix, extra white space stays, spaces are marked
    file.extend([0x1a, normalizer.len() as u8]);
    file.extend(normalizer);
    file
}

#[test]
fn a_folder_with_a_sentencepiece_file_alone_keeps_its_tokenizer() {
    let root = tempfile::tempdir().unwrap();
    let dense = folder(root.path(), &mut Draw(1));
    fs::remove_file(dense.join("tokenizer.json")).unwrap();
    fs::remove_file(dense.join("tokenizer_config.json")).unwrap();
    // Without any tokenizer the note says so.
    let notes = to(&dense, &root.path().join("none.gguf")).unwrap();
    assert!(notes.iter().any(|note| note.contains("no tokenizer")), "{notes:?}");
    // A tokenizer that cannot be read is refused by name, not left out.
    fs::write(dense.join("tokenizer.model"), "IQ== 0\nIg== 1\n").unwrap();
    let message = to(&dense, &root.path().join("ranks.gguf")).unwrap_err().to_string();
    assert!(message.contains("tokenizer.model"), "{message}");
    fs::write(dense.join("tokenizer.model"), pieces()).unwrap();
    let gguf = root.path().join("pieces.gguf");
    to(&dense, &gguf).unwrap();
    let [a, b] = [&dense, &gguf].map(|path| open(path).tokenizer().unwrap());
    for text in ["ab ba", " a  b", "x", ""] {
        assert_eq!(a.encode(text, false, false).unwrap(), b.encode(text, false, false).unwrap(), "{text:?}");
    }
    assert_eq!(b.encode("ab", false, false).unwrap(), [1, 4]);
}
