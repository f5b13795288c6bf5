//! `sherry calibrate` from text to a packed model, stopped and gone on with.

use std::fs;
use std::path::Path;

use sherry::model::{ArchConfig, Family, synthetic};

use crate::fixture::{document, refuses, run, succeeds, with_model, with_model_of};

/// Random words: the models of these tests have a token per byte.
fn write_text(path: &Path) {
    let words = ["water", "light", "stone", "river", "under", "cloud", "small", "green", "and", "of", "the"];
    let mut state = 7u64;
    let mut text = String::new();
    while text.len() < 40_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text += words[(state >> 33) as usize % words.len()];
        text += " ";
    }
    fs::write(path, text).unwrap();
}

const SETTINGS: &str = "--data text.txt --own-text 0 --spaced-text 0.25 --tokens 2048 --held-out 256 --length 64 --sweeps 3 \
     --reconstruct 1 --tune-tokens 4096 --tune-rate 0.003 --train-tokens 1024 --train-batch 4 --quiet";

#[test]
fn training_that_is_asked_for_later_ends_with_the_same_bytes() {
    let place = with_model();
    let folder = place.path();
    write_text(&folder.join("text.txt"));
    let calibrate = |rest: &str| {
        let arguments = "--data text.txt --own-text 0.25 --tokens 1024 --held-out 256 --length 64 --tune-tokens 1024";
        let outcome = run(folder, &format!("calibrate dense {rest} {arguments} --sweeps 2 --quiet"));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    };
    calibrate("tuned --work work");
    calibrate("later --work work --train-tokens 2048 --train-batch 4");
    calibrate("at-once --train-tokens 2048 --train-batch 4");
    let weights = |name: &str| fs::read(folder.join(name).join("model.safetensors")).unwrap();
    assert!(weights("later") == weights("at-once") && weights("later") != weights("tuned"));
}

#[test]
fn a_stopped_run_goes_on_and_ends_with_the_same_bytes() {
    let place = with_model();
    let folder = place.path();
    write_text(&folder.join("text.txt"));
    let calibrate = |rest: &str| run(folder, &format!("calibrate dense {rest} {SETTINGS}"));
    let whole = calibrate("whole -t 1 --importance importance.gguf");
    assert_eq!(whole.code, Some(0), "{whole:?}");
    assert!(whole.stdout.contains("as fitted"), "{whole:?}");
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("whole.report.json")).unwrap()).unwrap();
    assert_eq!(report["blocks"].as_array().unwrap().len(), 2);
    let divergence = |stage: &str| report[stage]["divergence"].as_f64().unwrap();
    assert!(divergence("tuned") < divergence("rounded"), "{report}");

    let first = calibrate("parts -t 2 --blocks 1");
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(!folder.join("parts").exists());
    // What a kill in the middle of the second block leaves behind.
    fs::write(folder.join("parts.calibration/.block-0001.safetensors.tmp-1"), "half").unwrap();
    fs::write(folder.join("parts.calibration/block-0001.safetensors"), "not named by progress.json").unwrap();
    let second = calibrate("parts -t 2");
    assert_eq!(second.code, Some(0), "{second:?}");
    let weights = |name: &str| fs::read(folder.join(name).join("model.safetensors")).unwrap();
    assert!(weights("parts") == weights("whole"), "stopped and gone on with on two threads, the bytes are others");

    // Another way to train begins from the same rounding.
    let residual = calibrate("residual -t 2 --work whole.calibration --train-residual 0.3");
    assert!(residual.code == Some(0) && residual.stdout.contains("as fitted"), "{residual:?}");
    assert!(weights("residual") != weights("whole"));

    // Damaged state is noticed; rounding begins anew.
    fs::remove_dir_all(folder.join("parts")).unwrap();
    fs::remove_file(folder.join("parts.report.json")).unwrap();
    let block = folder.join("parts.calibration/block-0000.safetensors");
    let mut bytes = fs::read(&block).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&block, bytes).unwrap();
    let again = calibrate("parts -t 2");
    assert!(again.code == Some(0) && weights("parts") == weights("whole"), "{again:?}");

    let other = run(folder, &format!("calibrate dense other --work parts.calibration --damping 0.2 {SETTINGS}"));
    assert!(other.code != Some(0) && other.stderr.contains("'damping' was"), "{other:?}");
    let twice = run(folder, &format!("calibrate whole twice {SETTINGS}"));
    assert!(twice.code != Some(0) && twice.stderr.contains("packed already"), "{twice:?}");
    let quantized = run(folder, "quantize dense by-importance --importance importance.gguf --quiet");
    assert_eq!(quantized.code, Some(0), "{quantized:?}");
}

#[test]
fn blocks_adapted_to_those_rounded_before_survive_a_stop() {
    let place = with_model();
    let folder = place.path();
    write_text(&folder.join("text.txt"));
    let adaptation = "--adapt-tokens 8192 --adapt-every 1 --adapt-rate 0.002";
    let calibrate = |rest: &str| run(folder, &format!("calibrate dense {rest} {adaptation} {SETTINGS}"));
    let whole = calibrate("whole -t 1");
    assert!(whole.code == Some(0) && whole.stdout.contains("as fitted"), "{whole:?}");
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("whole.report.json")).unwrap()).unwrap();
    let adapted = &report["adaptations"][0];
    let divergence = |when: &str| adapted[when].as_f64().unwrap();
    assert!(adapted["blocks"] == 1 && divergence("after") < divergence("before"), "{report}");

    assert_eq!(calibrate("parts -t 2 --blocks 1").code, Some(0));
    let second = calibrate("parts -t 2");
    assert_eq!(second.code, Some(0), "{second:?}");
    let weights = |name: &str| fs::read(folder.join(name).join("model.safetensors")).unwrap();
    assert!(weights("parts") == weights("whole"), "stopped and gone on with on two threads, the bytes are others");
    // What was adapted is part of what is done: without it rounding begins anew.
    fs::remove_dir_all(folder.join("parts")).unwrap();
    fs::remove_file(folder.join("parts.report.json")).unwrap();
    fs::remove_file(folder.join("parts.calibration/rest-0001.safetensors")).unwrap();
    let again = run(folder, &format!("calibrate dense parts {adaptation} {}", SETTINGS.replace("--quiet", "")));
    assert!(again.code == Some(0) && again.stderr.contains("rest-0001.safetensors is damaged"), "{again:?}");
    assert!(weights("parts") == weights("whole"));
    let importance = calibrate("other --importance importance.gguf");
    assert!(importance.code != Some(0) && importance.stderr.contains("--adapt-tokens 0"), "{importance:?}");
}

#[test]
fn every_type_is_written_as_it_was_fitted() {
    let place = with_model();
    let folder = place.path();
    write_text(&folder.join("text.txt"));
    let types = ["sherry-1.25 --group-size 128", "ternary", "ternary --group-size 64", "steps-2"];
    let settings = SETTINGS.replace("--tune-tokens 4096", "--tune-tokens 0 --reconstruct-code-rate 0.01");
    for (i, ty) in types.iter().enumerate() {
        let found = run(folder, &format!("calibrate dense out{i} --type {ty} {settings}"));
        assert!(found.code == Some(0) && found.stdout.contains(": as fitted"), "{ty}: {found:?}");
    }
    let gguf = run(folder, &format!("calibrate dense out.gguf --work out0.calibration --type {} {settings}", types[0]));
    assert!(gguf.code != Some(0) && gguf.stderr.contains("no exact GGUF form"), "{gguf:?}");
    assert!(!folder.join("out.gguf").exists());
}

#[test]
fn a_model_is_calibrated_on_text_of_its_own() {
    let place = with_model();
    let folder = place.path();
    let settings = "--tokens 1024 --held-out 128 --length 64 --sweeps 1 --tune-tokens 0 --blocks 1 --quiet";
    let run = |out: &str| {
        let found = run(folder, &format!("calibrate dense {out} {settings}"));
        assert_eq!(found.code, Some(0), "{found:?}");
        let tokens = |style: &str| {
            // The text held out, and that which is fitted to.
            let file = |range: &str| folder.join(format!("{out}.calibration/own-{style}-64-{range}-0.tokens"));
            [fs::read(file("0-1")).unwrap(), fs::read(file("1-9")).unwrap()]
        };
        (tokens("documents"), tokens("conversations"))
    };
    let (documents, conversations) = run("a");
    for text in [&documents, &conversations] {
        assert_eq!(text.each_ref().map(Vec::len), [64 * 4, 8 * 64 * 4]);
    }
    assert_eq!(run("b"), (documents, conversations), "the same seed writes the same text");
}

/// Types of every kind, with another one for one layer.
const RECIPE: &str = r#"{"sherry_recipe": 1, "tensors": {
    "model.embed_tokens": "q8_0", "lm_head": "q4_0",
    "model.layers.*.self_attn.q_proj": "sherry-1.25", "model.layers.*.self_attn.k_proj": "q4_k",
    "model.layers.*.self_attn.v_proj": "q5_0", "model.layers.*.self_attn.o_proj": "sherry-1.25",
    "model.layers.*.mlp.gate_proj": "ternary-1.67", "model.layers.*.mlp.up_proj": "q4_0",
    "model.layers.*.mlp.down_proj": "q2_0", "model.layers.1.mlp.down_proj": "sherry-1.25"}}"#;

const MIXED: &str = "--data text.txt --own-text 0 --tokens 2048 --held-out 256 --length 64 --sweeps 3 --tune-tokens 1024 \
     --tune-rate 0.003";

#[test]
fn a_recipe_is_fitted_written_and_run_in_both_containers() {
    let place = with_model();
    let folder = place.path();
    write_text(&folder.join("text.txt"));
    fs::write(folder.join("mixed.json"), RECIPE).unwrap();
    for out in ["mixed", "mixed.gguf"] {
        let found = run(folder, &format!("calibrate dense {out} --recipe mixed.json {MIXED} --quiet"));
        assert!(found.code == Some(0) && found.stdout.contains(": as fitted"), "{out}: {found:?}");
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join(format!("{out}.report.json"))).unwrap()).unwrap();
        let divergence = |stage: &str| report[stage]["divergence"].as_f64().unwrap();
        assert!(divergence("tuned") < divergence("rounded"), "{report}");
        // Without text the same types, which do worse.
        let plain = format!("plain-{out}");
        succeeds(folder, &format!("quantize dense {plain} --recipe mixed.json --quiet"));
        let [fitted, plain] = [out, &plain].map(|name| {
            succeeds(folder, &format!("run {name} -p water -n 4 --temp 0"));
            document(folder, &format!("inspect {name} --tensors"))
        });
        assert_eq!(fitted["sizes"]["linear layers"], plain["sizes"]["linear layers"]);
        let types = |document: &serde_json::Value| {
            let tensors = document["tensors"].as_array().unwrap().iter();
            let mut all: Vec<_> = tensors.map(|tensor| (tensor["name"].clone(), tensor["type"].clone())).collect();
            all.sort_by_key(|(name, _)| name.to_string());
            all
        };
        let matrices = |types: Vec<(serde_json::Value, serde_json::Value)>| -> Vec<_> {
            types.into_iter().filter(|(name, _)| !name.as_str().unwrap().contains("norm")).collect()
        };
        assert_eq!(matrices(types(&fitted)), matrices(types(&plain)), "{out}");
    }
    // Codes of all types can be trained afterwards.
    let training = "--train-tokens 2048 --train-batch 4 --train-code-rate 0.05 --quiet";
    for (out, work) in [("trained", "mixed"), ("trained.gguf", "mixed.gguf")] {
        let settings = format!("--work {work}.calibration --recipe mixed.json {MIXED} {training}");
        let trained = |threads: usize| {
            // Without what it saved it is trained anew.
            for file in fs::read_dir(folder.join(format!("{work}.calibration"))).unwrap().flatten() {
                if file.file_name().to_string_lossy().contains("-2048-4-") {
                    fs::remove_file(file.path()).unwrap();
                }
            }
            let found = run(folder, &format!("calibrate dense {out} --force -t {threads} {settings}"));
            assert!(found.code == Some(0) && found.stdout.contains(": as fitted"), "{out}: {found:?}");
            let path = folder.join(out);
            fs::read(if path.is_dir() { path.join("model.safetensors") } else { path }).unwrap()
        };
        assert!(trained(1) == trained(2), "{out}");
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join(format!("{out}.report.json"))).unwrap()).unwrap();
        assert_ne!(report["trained"]["divergence"].as_f64().unwrap(), report["tuned"]["divergence"]);
        let inspected = document(folder, &format!("inspect {out}"));
        assert_eq!(inspected["sizes"], document(folder, &format!("inspect {work}"))["sizes"]);
    }
    let held = fs::read_to_string(folder.join("mixed/config.json")).unwrap();
    assert!(held.contains("\"mixed\""), "{held}");
    // Stopped after a block and gone on with: the same bytes.
    assert_eq!(
        run(folder, &format!("calibrate dense parts --recipe mixed.json --blocks 1 {MIXED} --quiet")).code,
        Some(0)
    );
    let second = run(folder, &format!("calibrate dense parts --recipe mixed.json {MIXED} --quiet"));
    assert_eq!(second.code, Some(0), "{second:?}");
    let weights = |name: &str| fs::read(folder.join(name).join("model.safetensors")).unwrap();
    assert!(weights("parts") == weights("mixed"), "stopped and gone on with, the bytes are others");

    fs::write(folder.join("other.json"), RECIPE.replace("q4_k", "q6_k")).unwrap();
    refuses(
        folder,
        &format!("calibrate dense other --work mixed.calibration --recipe other.json {MIXED}"),
        &["'recipe' was", "q4_k", "q6_k"],
    );
    for options in ["--reconstruct 1", "--group-size 64"] {
        refuses(folder, &format!("calibrate dense other --recipe mixed.json {options} {MIXED}"), &["recipe"]);
    }
    fs::write(folder.join("wrong.json"), RECIPE.replace("up_proj", "upp_proj")).unwrap();
    for command in ["calibrate dense other --data text.txt", "quantize dense other"] {
        refuses(folder, &format!("{command} --recipe wrong.json"), &["wrong.json", "upp_proj", "up_proj.weight'?"]);
        refuses(folder, &format!("{command} --recipe absent.json"), &["absent.json"]);
    }
    assert!(!folder.join("other").exists());
}

#[test]
fn a_budget_leads_to_a_recipe() {
    for family in [Family::Llama, Family::Qwen3, Family::Gemma3] {
        let config = ArchConfig { tied: family == Family::Gemma3, ..synthetic::tiny(family) };
        let place = with_model_of(&ArchConfig { vocab: 259, context: 4096, ..config });
        let folder = place.path();
        write_text(&folder.join("text.txt"));
        let budget = "--sensitivity-tokens 256 --sensitivity kept.json";
        let found = run(folder, &format!("calibrate dense two --bits 3 {budget} {MIXED} --quiet"));
        assert!(found.code == Some(0) && found.stdout.contains(": as fitted"), "{family:?}: {found:?}");
        let json = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
        };
        let mixture = &json("two.report.json")["mixture"];
        let bits = mixture["bits"].as_f64().unwrap();
        let sizes = document(folder, "inspect two");
        assert!(bits <= 3.0 && sizes["sizes"]["linear layers"]["bits_per_weight"].as_f64() == Some(bits), "{mixture}");
        assert!(mixture["curve"].as_array().unwrap().len() > 3, "{mixture}");
        // The sensitivities are there: another budget needs no measurement, and the same one leads to the same recipe.
        let kept = fs::read(folder.join("kept.json")).unwrap();
        let again = run(folder, &format!("calibrate dense again --bits 3 --only-recipe {budget} {MIXED} --quiet"));
        assert_eq!(again.code, Some(0), "{again:?}");
        assert_eq!(json("again.recipe.json"), json("two.recipe.json"));
        assert_eq!(fs::read(folder.join("kept.json")).unwrap(), kept);
        assert!(!folder.join("again").exists());
        succeeds(folder, "quantize dense plain --recipe two.recipe.json --quiet");
        // The whole file.
        let size = 60_000;
        let found = run(folder, &format!("calibrate dense small --size {size} {budget} {MIXED} --quiet"));
        assert!(found.code == Some(0) && found.stdout.contains(": as fitted"), "{family:?}: {found:?}");
        let written = fs::metadata(folder.join("small/model.safetensors")).unwrap().len();
        assert!(written <= size, "{written}");
        refuses(folder, &format!("calibrate dense other --bits 1.1 {budget} {MIXED}"), &["1.1 bits", "are the least"]);
        refuses(folder, &format!("calibrate dense other --size 2KB {budget} {MIXED}"), &["0.002 MB", "are the least"]);
        refuses(
            folder,
            &format!("calibrate dense other --bits 3 {budget} --damping 0.3 {MIXED}"),
            &["kept.json", "damping"],
        );
        refuses(folder, &format!("calibrate dense other --only-recipe {MIXED}"), &["--only-recipe needs --bits"]);
    }
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_computed() {
    let place = with_model();
    let folder = place.path();
    write_text(&folder.join("text.txt"));
    for (options, problem) in [
        ("--data absent.txt", "absent.txt"),
        ("--data text.txt --tokens 100000 --own-text 0", "--tokens asks for fewer"),
        ("--data text.txt --tokens 1000000000000000", "GiB of memory"),
        ("--data text.txt --length 100000", "context of 4096"),
        ("--data text.txt --tokens 100", "fewer tokens than one sequence"),
        ("--data text.txt --damping 0", "--damping"),
        ("--data text.txt --own-text 2", "--own-text"),
        ("--data text.txt --spaced-text 2", "--spaced-text"),
        ("--data text.txt --adapt-tokens 1000 --adapt-every 0", "--adapt-every"),
        ("--data text.txt --adapt-tokens 1000 --adapt-rate 2", "rate of 2"),
        ("--data text.txt --group-size 100", "whole groups of 100"),
    ] {
        let found = run(folder, &format!("calibrate dense out {options} --quiet"));
        assert!(found.code != Some(0) && found.stderr.contains(problem), "{options}: {found:?}");
        assert!(!folder.join("out").exists());
    }
}
