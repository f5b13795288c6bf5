//! Models through the commands: quantize, run, inspect, compare, convert.

use std::fs;

use serde_json::Value as Json;
use sherry::io::gguf::{GgufFile, GgufWriter, StqId, Value};
use sherry::io::{ReadMode, TensorInfo, TensorSource as _};
use sherry::model::ArchConfig;

use crate::fixture::{
    config, document, names, refuses, run, succeeds, with_model, with_model_of, workplace, write_rounded_model,
};

const GREEDY: &str = "--raw --temp 0 -n 8";

/// The relative error of every tensor in a comparison.
fn errors(comparison: &Json) -> Vec<f64> {
    let tensors = comparison["tensors"].as_array().unwrap();
    tensors.iter().map(|tensor| tensor["relative_error"].as_f64().unwrap()).collect()
}

#[test]
fn a_model_is_quantized_and_answers() {
    let place = with_model();
    let place = place.path();
    let outcome = run(place, "quantize dense packed");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("found   HF folder, LLaMA, 2 layers"), "{outcome:?}");
    // A summary that fits a window and says what to do with a projection; what became of every tensor only when asked.
    for part in ["all tensors", "worst ", "wrote   packed", "untrained projection", "sherry calibrate dense "] {
        assert!(outcome.stdout.contains(part), "{part}: {outcome:?}");
    }
    assert!(outcome.stdout.lines().count() < 20 && !outcome.stdout.contains("| layers."), "{outcome:?}");
    assert_eq!(names(place), ["dense", "packed", "packed.report.json"]);

    let report: Json = serde_json::from_slice(&fs::read(place.join("packed.report.json")).unwrap()).unwrap();
    assert_eq!(report["tensors"].as_array().unwrap().len(), 2 * 9 + 3);
    let bits = report["linear_bits_per_weight"].as_f64().unwrap();
    assert!((1.25..1.35).contains(&bits), "{bits}");

    let answer = document(place, &format!("run packed hello {GREEDY}"));
    let text = answer["text"].as_str().unwrap();
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 8);
    assert_eq!((answer["finish"].as_str(), answer["prompt_tokens"].as_u64()), (Some("length"), Some(5)));
    assert_eq!(answer["generated_tokens"], 8);
    for rate in ["prompt_tokens_per_second", "generated_tokens_per_second", "load_seconds"] {
        assert!(answer[rate].as_f64().unwrap() > 0.0, "{answer}");
    }

    let outcome = run(place, &format!("run packed hello {GREEDY}"));
    assert_eq!((outcome.code, outcome.stdout), (Some(0), format!("{text}\n")));
    assert!(outcome.stderr.contains("sampling  greedy") && outcome.stderr.contains("generated 8 tokens"));
    let outcome = run(place, &format!("run packed hello {GREEDY} -q"));
    assert_eq!((outcome.code, outcome.stdout, outcome.stderr.as_str()), (Some(0), format!("{text}\n"), ""));
    // Files read instead of mapped, one thread: the same text.
    let other = document(place, &format!("run packed hello {GREEDY} --no-mmap --threads 1"));
    assert_eq!(other["tokens"], answer["tokens"]);

    // The same seed gives the same text; a stop string ends it.
    let sampled = |stop: &str| document(place, &format!("run packed hello --raw -n 8 --temp 1 --seed 5 {stop}"));
    assert_eq!(sampled("")["tokens"], sampled("")["tokens"]);
    let first = text.chars().find(|c| c.is_ascii_alphanumeric());
    if let Some(first) = first {
        let stopped = document(place, &format!("run packed hello {GREEDY} --stop {first}"));
        assert_eq!((&stopped["finish"], stopped["text"].as_str()), (&"stop".into(), text.split(first).next()));
    }
    // With the chat template, ChatML here, there is a place for instructions.
    let chat = document(place, "run packed hi --system short --temp 0 -n 2");
    assert_eq!(chat["generated_tokens"], 2);
    assert!(chat["prompt_tokens"].as_u64() > Some(20), "{chat}");
}

#[test]
fn nothing_to_generate_is_an_empty_answer() {
    let place = with_model();
    assert_eq!(succeeds(place.path(), "run dense hello --raw -n 0"), "\n");
    let answer = document(place.path(), "run dense hello --raw -n 0");
    assert_eq!((answer["text"].as_str(), answer["generated_tokens"].as_u64()), (Some(""), Some(0)));
    assert_eq!(answer["finish"], "length");
}

#[test]
fn what_exists_is_replaced_only_by_force() {
    let place = with_model();
    let place = place.path();
    succeeds(place, "quantize dense packed -q");
    let weights = || fs::read(place.join("packed/model.safetensors")).unwrap();
    let before = weights();
    refuses(place, "quantize dense packed --type q8_0", &["packed", "exists already", "--force"]);
    refuses(place, "convert dense packed --dtype f16", &["packed", "exists already", "--force"]);
    assert_eq!(weights(), before);
    // The report as well, also where the model itself is gone.
    let report = || fs::read(place.join("packed.report.json")).unwrap();
    let first = report();
    fs::rename(place.join("packed"), place.join("away")).unwrap();
    refuses(place, "quantize dense packed --type q8_0", &["packed.report.json", "exists already", "--force"]);
    fs::rename(place.join("away"), place.join("packed")).unwrap();
    assert_eq!(report(), first);
    succeeds(place, "quantize dense packed --type q8_0 --force");
    assert_ne!(weights(), before);

    for command in ["quantize", "convert"] {
        refuses(place, &format!("{command} dense dense --force"), &["dense", "the output is the input"]);
        refuses(place, &format!("{command} dense no/such/place"), &["no/such/place", "cannot create"]);
    }
    refuses(place, "quantize dense a --report no/such.json", &["--report no/such.json", "no such folder"]);
    refuses(place, "quantize dense a.gguf --report a.gguf", &["--report a.gguf", "is the output"]);
    refuses(place, "quantize dense a --report packed.report.json", &["packed.report.json", "exists already"]);
    assert_eq!(names(place), ["dense", "packed", "packed.report.json"]);
    succeeds(place, "inspect dense --verify");
}

#[test]
fn binary_and_ternary_files_say_what_their_folders_say() {
    let place = workplace();
    let place = place.path();
    let say = |model: &str, more: &str| {
        document(place, &format!("run {model} hello {GREEDY} --precision f32 {more}"))["tokens"].clone()
    };
    for (model, binary, types, refused) in [
        ("bin", true, &[("q1_0", "Q1_0", 1.125), ("i2_s", "I2_S", 2.0), ("tq2_0", "TQ2_0", 2.0625)][..], None),
        ("ter", false, &[("i2_s", "I2_S", 2.0), ("tq1_0", "TQ1_0", 1.6875), ("q2_0", "Q2_0", 2.25)], Some("q1_0")),
    ] {
        write_rounded_model(&place.join(model), binary);
        let expected = say(model, "");
        for (dtype, name, bits) in types {
            let made = document(place, &format!("convert {model} {model}.{dtype}.gguf --dtype {dtype}"));
            let file = format!("{model}.{dtype}.gguf");
            let found = document(place, &format!("inspect {file} --verify"));
            assert_eq!(found["problems"], Json::Array(Vec::new()), "{file}");
            assert!(found["description"].as_str().unwrap().contains(name), "{file}: {found}");
            assert!(
                (made["sizes"]["linears"].as_f64().unwrap() * 8.0 / made["sizes"]["linear_weights"].as_f64().unwrap()
                    - bits)
                    .abs()
                    < 0.01,
                "{file}: {made}"
            );
            for more in ["", "--ternary-bits 1.67", "--ternary-bits 2", "--isa scalar", "-t 2", "--no-mmap"] {
                assert_eq!(say(&file, more), expected, "{file} {more}");
            }
            // Rounded activations may choose other words, and must choose some.
            assert!(
                document(place, &format!("run {file} hello {GREEDY}"))["generated_tokens"].as_u64() > Some(0),
                "{file}"
            );
            // Back in floats, as a folder.
            succeeds(place, &format!("convert {file} {model}.{dtype} --dtype f32"));
            assert_eq!(say(&format!("{model}.{dtype}"), ""), expected, "{file}");
        }
        if let Some(dtype) = refused {
            refuses(
                place,
                &format!("convert {model} x.gguf --dtype {dtype}"),
                &["no exact form in Q1_0", "_proj.weight", "column"],
            );
        }
    }
    refuses(place, "convert bin x --dtype i2_s", &["bin", "I2_S is a type of GGUF files"]);
    assert!(!place.join("x").exists() && !place.join("x.gguf").exists());
}

#[test]
fn every_type_is_sound() {
    let place = with_model();
    let place = place.path();
    for (ty, range) in [
        ("sherry-1.25", 1.25..1.32),
        ("sherry-1.25 --scale group --group-size 64 --quad stride16", 1.49..1.51),
        ("ternary-1.67 --projection twn", 1.66..1.8),
        ("ternary-1.67 --scale group", 1.66..2.1),
        ("ternary-2 --projection absmedian --scale group", 2.12..2.13),
        ("q8_0", 8.5..8.51),
        ("bf16", 16.0..16.1),
        ("f16", 16.0..16.1),
        ("f32", 32.0..32.1),
    ] {
        let report = document(place, &format!("quantize dense out --force --embed keep --type {ty}"));
        let bits = report["linear_bits_per_weight"].as_f64().unwrap();
        assert!(range.contains(&bits), "{ty}: {bits}");
        let found = document(place, "inspect out --verify");
        assert_eq!(found["problems"], Json::Array(Vec::new()), "{ty}");
        let answer = document(place, "run out hello --raw --temp 0 -n 2");
        assert_eq!(answer["generated_tokens"], 2, "{ty}");
    }
    for embed in ["auto", "keep", "f32", "f16", "bf16", "q8_0", "q6_k", "q4_k", "q4_0"] {
        succeeds(place, &format!("quantize dense out.gguf --force --embed {embed}"));
        succeeds(place, "inspect out.gguf --verify");
    }
}

#[test]
fn options_without_effect_are_refused() {
    let place = workplace();
    for (options, parts) in [
        ("--group-size 64", ["--scale"]),
        ("--scale row --group-size 64", ["--group-size needs --scale group"]),
        ("--type bf16 --scale row", ["--scale is for ternary types"]),
        ("--type ternary-2 --quad stride16", ["--quad is for sherry-1.25"]),
        ("--projection twn", ["--projection is for"]),
        ("--type q8_0 --importance x.json", ["--importance is for"]),
        ("--type int3", ["int3"]),
        ("--stq-id 44", ["44"]),
    ] {
        refuses(place.path(), &format!("quantize dense out {options}"), &parts);
    }
    let model = with_model();
    refuses(model.path(), "quantize dense out --scale group --group-size 100", &["100"]);
    refuses(model.path(), "quantize dense out.gguf --scale row", &["GGUF", "STQ1_0"]);
    refuses(model.path(), "quantize dense out --importance none.json", &["none.json"]);
    fs::write(model.path().join("bad.json"), "[1]").unwrap();
    refuses(model.path(), "quantize dense out --importance bad.json", &["bad.json", "expected an object"]);
    assert_eq!(names(model.path()), ["bad.json", "dense"]);
}

/// Rows that STQ1_0 cannot hold: an error that names the ways out, which lead somewhere.
#[test]
fn a_model_without_exact_gguf_form_gets_one_when_asked() {
    let place = with_model_of(&ArchConfig { hidden: 192, heads: 3, kv_heads: 1, ..config() });
    let place = place.path();
    let ways_out = ["rows of 192 weights", "write a folder", "--fallback q8_0"];
    refuses(place, "quantize dense out.gguf", &ways_out);
    succeeds(place, "quantize dense packed");
    refuses(place, "convert packed out.gguf", &ways_out);
    for line in ["quantize dense out.gguf", "convert packed other.gguf"] {
        let outcome = run(place, &format!("{line} --fallback q8_0"));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(said.contains("12 of 14 linear layers are Q8_0"), "{outcome:?}");
        let file = line.split(' ').next_back().unwrap();
        let found = document(place, &format!("inspect {file} --tensors --verify"));
        let types: Vec<&str> = found["tensors"].as_array().unwrap().iter().filter_map(|t| t["type"].as_str()).collect();
        assert_eq!(types.iter().filter(|ty| **ty == "STQ1_0").count(), 2, "{found}");
        succeeds(place, &format!("run {file} hello {GREEDY}"));
    }
    refuses(place, "quantize dense folder --fallback q8_0", &["--fallback", ".gguf"]);
    refuses(place, "quantize dense x.gguf --type q8_0 --fallback q8_0", &["--fallback", "sherry-1.25"]);
}

/// Whatever a command calls a tensor, `--hist` knows it by that name.
#[test]
fn histograms_take_every_name_that_is_printed() {
    let place = with_model();
    let place = place.path();
    let listed = |text: &str| -> Vec<String> {
        let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next());
        rows.filter(|cell| cell.contains('.')).map(str::to_owned).collect()
    };
    let mut names = listed(&succeeds(place, "quantize dense packed --tensors"));
    assert_eq!(names.len(), 2 * 7);
    succeeds(place, "convert packed packed.gguf");
    for line in ["inspect packed --tensors", "inspect packed.gguf --tensors", "compare dense packed --tensors"] {
        let found = listed(&succeeds(place, line));
        assert!(found.len() > 2 * 9, "{line}: {found:?}");
        names.extend(found);
    }
    // One of every kind: the second layer has no others.
    names.retain(|name| !name.contains("layers.1.") && !name.contains("blk.1."));
    names.sort();
    names.dedup();
    for name in names {
        let [a, b] = ["packed", "packed.gguf"].map(|model| {
            let found = document(place, &format!("inspect {model} --hist {name}"));
            found["histogram"]["values"]["counts"].as_array().unwrap().iter().filter_map(Json::as_u64).sum::<u64>()
        });
        assert!(a > 0 && a == b, "{name}: {a} {b}");
    }
    refuses(place, "inspect packed --hist layers.0.mlp.upproj", &["did you mean", "layers.0.mlp.up_proj"]);
}

#[test]
fn inspection_shows_what_is_there() {
    let place = with_model();
    let place = place.path();
    succeeds(place, "quantize dense packed -q");
    let tensor = "model.layers.0.mlp.up_proj.weight";
    let text = succeeds(place, &format!("inspect packed --tensors --verify --hist {tensor}"));
    for part in ["LLaMA", "hidden 256", "model.layers.1.self_attn.q_proj", "codes", "verified: every tensor is sound"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let found = document(place, &format!("inspect packed --tensors --verify --hist {tensor}"));
    assert_eq!(found["histogram"]["cols"], 256);
    assert!(found["tensors"].as_array().unwrap().len() > 21, "{found}");
    assert_eq!(found["tokenizer"]["tokens"], 259);
    let counted: u64 = found["histogram"]["codes"].as_array().unwrap().iter().filter_map(Json::as_u64).sum();
    assert_eq!(counted, 512 * 256 / 4);
    refuses(place, "inspect packed --hist nothing.weight", &["packed", "nothing.weight", "--tensors"]);

    // A NaN at the end of the file is found: exit code 1, the tensor named.
    let path = place.join("dense/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let outcome = run(place, "inspect dense --verify -q");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(1), ""), "{outcome:?}");
    assert!(outcome.stdout.contains("problem: ") && outcome.stdout.contains("weight'"), "{outcome:?}");
}

#[test]
fn models_are_compared() {
    let place = with_model();
    let place = place.path();
    fs::write(place.join("text.txt"), "The tide rises, the tide falls, the twilight darkens.").unwrap();
    succeeds(place, "quantize dense packed -q");

    let same = document(place, "compare dense dense --text text.txt --window 32 --max-kld 0");
    assert!(errors(&same).iter().all(|&error| error == 0.0), "{same}");
    assert_eq!((errors(&same).len(), &same["passed"]), (21, &true.into()));
    assert_eq!((&same["predictions"]["mean_kld"], &same["predictions"]["same_top"]), (&0.0.into(), &1.0.into()));

    let outcome = run(place, "compare dense packed --text text.txt --window 32 --max-kld 0 --no-tensors -q");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(1), ""), "{outcome:?}");
    assert!(outcome.stdout.contains("failed: mean KL divergence"), "{outcome:?}");
    assert!(errors(&document(place, "compare dense packed")).iter().any(|&error| error > 0.3));

    for (options, parts) in [
        ("--max-kld 1", ["--text"]),
        ("--no-tensors", ["--text"]),
        ("--text text.txt --max-kld NaN", ["--max-kld"]),
        ("--text text.txt --max-kld=-1", ["--max-kld"]),
        ("--text text.txt --no-tensors --window 0", ["--window"]),
        ("--text text.txt --no-tensors --window 5000", ["4096"]),
        ("--text none.txt", ["none.txt"]),
    ] {
        refuses(place, &format!("compare dense packed {options}"), &parts);
    }
    fs::write(place.join("latin1.txt"), b"caf\xe9").unwrap();
    refuses(place, "compare dense dense --no-tensors --text latin1.txt", &["latin1.txt", "byte 3: not UTF-8"]);
    fs::write(place.join("empty.txt"), "").unwrap();
    refuses(place, "compare dense dense --no-tensors --text empty.txt", &["0 tokens"]);
}

#[test]
fn containers_hold_the_same_model() {
    let place = with_model();
    let place = place.path();
    succeeds(place, "quantize dense packed -q");
    for model in ["dense", "packed"] {
        let made = document(place, &format!("convert {model} {model}.gguf"));
        assert_eq!(made["output"], format!("{model}.gguf"));
        succeeds(place, &format!("convert {model}.gguf {model}-again"));
        for other in [format!("{model}.gguf"), format!("{model}-again")] {
            succeeds(place, &format!("inspect {other} --verify --metadata"));
            let comparison = document(place, &format!("compare {model} {other}"));
            // GGUF holds the Q8_0 embedding of the packed model in f32: exact as well.
            assert!(errors(&comparison).iter().all(|&error| error == 0.0), "{other}: {comparison}");
        }
        let answer = |name: &str| document(place, &format!("run {name} hello {GREEDY}"))["prompt_tokens"].clone();
        assert_eq!(answer(model), answer(&format!("{model}.gguf")));
    }
    succeeds(place, "convert dense half --dtype f16 --embed f16");
    succeeds(place, "inspect half --verify");
    refuses(place, "quantize packed twice", &["already"]);
    assert!(!names(place).iter().any(|name| name.contains("tmp")), "{:?}", names(place));
}

#[cfg(target_os = "linux")]
#[test]
fn names_need_not_be_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use crate::fixture::{Outcome, command};

    let place = with_model();
    let name = OsStr::from_bytes(b"mod\xffel");
    fs::rename(place.path().join("dense"), place.path().join(name)).unwrap();
    let out = OsStr::from_bytes(b"out\xff");
    let word = OsStr::new;
    for args in [
        [word("inspect"), name, word("--verify")].as_slice(),
        &[word("quantize"), name, out],
        &[word("convert"), out, word("out.gguf")],
        &[word("convert"), word("out.gguf"), OsStr::from_bytes(b"\xfe")],
        &[word("compare"), name, out],
        &[word("run"), out, word("hello"), word("-n1")],
    ] {
        let outcome: Outcome = command(place.path(), args.iter().chain(&[word("--json")])).output().unwrap().into();
        assert_eq!(outcome.code, Some(0), "{args:?}: {outcome:?}");
        serde_json::from_str::<Json>(&outcome.stdout).unwrap();
    }
}

#[test]
fn the_model_inside_answers_without_any_file() {
    let place = workplace();
    let place = place.path();
    let answer = document(place, "run -p Water --temp 0 -n 8");
    assert_eq!(answer["generated_tokens"], 8);
    assert!(answer["text"].as_str().unwrap().contains(|c: char| c.is_ascii_alphabetic()), "{answer}");
    let outcome = run(place, "run -p Water --temp 0 -n 8");
    assert!(outcome.stderr.contains("sherry-tiny (built in): GGUF file, LLaMA"), "{outcome:?}");
    assert_eq!(outcome.stdout.trim_end(), answer["text"].as_str().unwrap().trim_end());
    refuses(place, "run -p Water --system short", &["sherry-tiny"]);
    assert!(names(place).is_empty());
}

#[test]
fn a_gguf_file_that_is_no_model_can_be_looked_at() {
    let place = with_model();
    let place = place.path();
    // A vocabulary alone, as llama.cpp keeps them for its tests, and a model of another architecture.
    succeeds(place, "convert dense dense.gguf");
    let file = GgufFile::open(&place.join("dense.gguf"), ReadMode::Read).unwrap();
    let write = |name: &str, architecture: &str, infos: Vec<TensorInfo>| {
        let mut entries = file.metadata().entries().to_vec();
        entries.retain(|(key, _)| !key.starts_with("llama."));
        entries[0].1 = Value::String(architecture.to_owned());
        entries.push(("evil\u{1b}[31m\nkey".to_owned(), Value::F32(0.5)));
        let mut writer = GgufWriter::create(&place.join(name), entries, infos.clone(), StqId::default()).unwrap();
        infos.iter().for_each(|info| writer.write(&info.name, &file.data(&info.name).unwrap()).unwrap());
        writer.finish().unwrap();
    };
    write("vocab.gguf", "llama", Vec::new());
    write("other.gguf", "mamba\u{1b}[2J", file.tensors()[..3].to_vec());
    for (name, architecture, holds) in [("vocab", "llama", "no tensors"), ("other", "mamba", "3 tensors of")] {
        let text = succeeds(place, &format!("inspect {name}.gguf --tensors --metadata"));
        assert!(text.contains(architecture) && text.contains(holds) && text.contains("cannot be run: "), "{text}");
        assert!(text.contains("tokenizer: 259 tokens") && text.contains("tokenizer.ggml.pre"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let found = document(place, &format!("inspect {name}.gguf --metadata"));
        assert!(found["not_run"].as_str().unwrap().contains(&format!("{name}.gguf")), "{found}");
        assert_eq!(found["tokenizer"]["tokens"], 259);
        assert_eq!(run(place, &format!("inspect {name}.gguf --verify")).code, Some(1));
        refuses(place, &format!("inspect {name}.gguf --hist token_embd.weight"), &[&format!("{name}.gguf")]);
    }
}

#[test]
fn faults_of_recommended_sampling_concern_sampling_only() {
    let place = with_model();
    let place = place.path();
    let file = place.join("dense/generation_config.json");
    for (written, field) in [("{\"top_k\": 1.5}", "'top_k'"), ("{\"top_p\": 7}", "top_p"), ("{\"a\": ", ""), ("[]", "")]
    {
        fs::write(&file, written).unwrap();
        succeeds(place, "inspect dense --verify");
        succeeds(place, "quantize dense packed --force");
        refuses(place, "run dense hello --raw -n 8", &["generation_config.json", field, "--top-k"]);
        for explicit in ["--temp 1 --top-k 5 --top-p 0.9 --min-p 0 --repeat-penalty 1", "--temp 0 --top-p 1"] {
            assert_eq!(document(place, &format!("run dense hello --raw -n 8 {explicit}"))["generated_tokens"], 8);
        }
    }
    fs::write(&file, "[]").unwrap();
    let report = document(place, "inspect dense");
    assert!(report["notes"][0].as_str().unwrap().contains("generation_config.json"), "{report}");
    // Only what the option leaves open matters.
    fs::write(&file, "{\"top_k\": 1.5, \"temperature\": 0.5}").unwrap();
    let outcome = run(place, "run dense hello --raw -n 8 --top-k 3");
    assert!(outcome.code == Some(0) && outcome.stderr.contains("'top_k'"), "{outcome:?}");
    refuses(place, "run dense hello --raw -n 8 --top-p 0.5", &["generation_config.json", "'top_k'"]);
    // Where an answer ends is said by other files too.
    fs::write(&file, "{\"eos_token_id\": \"x\"}").unwrap();
    let outcome = run(place, "run dense hello --raw -n 8");
    assert!(outcome.code == Some(0) && outcome.stderr.contains("field 'eos_token_id'"), "{outcome:?}");
    for nothing in ["", "\n", "{}", "{\"top_k\": -1, \"eos_token_id\": -1}"] {
        fs::write(&file, nothing).unwrap();
        let outcome = run(place, "run dense hello --raw -n 8");
        assert!(outcome.code == Some(0) && !outcome.stderr.contains("generation_config"), "{outcome:?}");
    }
}
