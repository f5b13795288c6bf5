//! `sherry calibrate` from text to a packed model, stopped and gone on with.

use std::fs;
use std::path::Path;

use crate::fixture::{run, with_model};

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

const SETTINGS: &str = "--data text.txt --own-text 0 --tokens 2048 --held-out 256 --length 64 --sweeps 3 --reconstruct 1 \
     --tune-tokens 4096 --tune-rate 0.003 --train-tokens 1024 --train-batch 4 --quiet";

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
    for (i, ty) in types.iter().enumerate() {
        let settings = SETTINGS.replace("--tune-tokens 4096", "--tune-tokens 0").replace("--train-tokens 1024", "");
        let found = run(folder, &format!("calibrate dense out{i} --type {ty} {settings}"));
        assert!(found.code == Some(0) && found.stdout.contains(": as fitted"), "{ty}: {found:?}");
    }
    let gguf =
        run(folder, &format!("calibrate dense out.gguf --work out0.calibration --type {} {}", types[0], SETTINGS));
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
        ("--data text.txt --adapt-tokens 1000 --adapt-every 0", "--adapt-every"),
        ("--data text.txt --adapt-tokens 1000 --adapt-rate 2", "rate of 2"),
        ("--data text.txt --group-size 100", "whole groups of 100"),
        ("--data text.txt --type ternary --train-tokens 1024", "3:4-sparse weights only"),
    ] {
        let found = run(folder, &format!("calibrate dense out {options} --quiet"));
        assert!(found.code != Some(0) && found.stderr.contains(problem), "{options}: {found:?}");
        assert!(!folder.join("out").exists());
    }
}
