//! Mistakes: exit code 2 and one error that names them.

use std::fs;

use sherry_kernels::Isa;

use crate::fixture::{command, is_refusal, refuses, succeeds, with_model, workplace};

#[test]
fn bad_options_are_named() {
    // Options are checked before the model is looked for.
    let place = workplace();
    for (line, part) in [
        ("quantise a b", "'quantise'"),
        ("--no-such-option", "--no-such-option"),
        ("run", "no prompt"),
        ("run -m a.gguf -p hi", "named without an option: sherry run MODEL"),
        ("serve -m a.gguf", "named without an option: sherry serve MODEL"),
        ("eval --model a.gguf", "named without an option: sherry eval MODEL"),
        ("run m --modle x", "--modle"),
        ("quantize a", "<OUTPUT>"),
        ("run m hi --threads 0", "--threads"),
        ("run m hi --threads 8193", "from 1 to 8192"),
        ("bench --synthetic tiny -t 1,8193", "from 1 to 8192"),
        ("run m hi --threads -2", "-2"),
        ("run m hi --isa sse9", "sse9"),
        ("run m hi --precision int4", "int4"),
        ("run m hi --temp NaN", "--temp"),
        ("run m hi --temp -1", "--temp"),
        ("run m hi --temp 1e9", "--temp"),
        ("run m hi --temp inf", "--temp"),
        ("run m hi --temp hot", "--temp"),
        ("run m hi --top-p 0", "--top-p"),
        ("run m hi --top-p 2", "--top-p"),
        ("run m hi --top-p -1", "--top-p"),
        ("run m hi --min-p 2", "--min-p"),
        ("run m hi --min-p -0.1", "--min-p"),
        ("run m hi --repeat-penalty 0", "--repeat-penalty"),
        ("run m hi --repeat-penalty -1", "--repeat-penalty"),
        ("run m hi --top-k -1", "--top-k"),
        ("run m hi -n -1", "--max-tokens"),
        ("run m hi -n 99999999999999999999", "--max-tokens"),
        ("run m hi --seed x", "--seed"),
        ("run m hi --ctx-size 0", "--ctx-size"),
        ("run m hi --system x --raw", "--raw"),
        ("eval m --ctx-size 0", "--ctx-size"),
        ("eval m --limit 0", "--limit"),
        ("eval m --tasks nonsense", "nonsense"),
        ("eval m --kld other", "--ppl"),
        ("report", "RESULTS.json"),
        ("report none.json", "none.json"),
        ("completions tcsh", "tcsh"),
        ("man nonsense", "nonsense"),
        ("pull not-a-name", "'not-a-name'"),
    ] {
        refuses(place.path(), line, &[part]);
    }
}

#[test]
fn bad_requests_are_named() {
    let place = with_model();
    let place = place.path();
    // No merges: a token per byte.
    let long = "a".repeat(100);
    refuses(place, &format!("run dense {long} --raw --ctx-size 64"), &["100 tokens needed, 64 available"]);
    refuses(place, "run dense hi --ctx-size 5000", &["--ctx-size 5000", "4096"]);
    refuses(place, "run dense --raw", &["no prompt"]);
    refuses(place, "run dense --raw --json", &["no prompt"]);
    refuses(place, "eval dense --ppl none.txt", &["none.txt"]);
    let empty = command(place, ["run", "dense", "", "--raw", "-q"]).output().unwrap().into();
    is_refusal(&empty, &["the prompt has no tokens"]);
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
        refuses(place, &format!("run dense hi --isa {isa}"), &[&format!("--isa {isa}"), "not available"]);
    }
    let stop = command(place, ["run", "dense", "hi", "--stop", "", "-q"]).output().unwrap().into();
    is_refusal(&stop, &["stop"]);

    fs::write(place.join("dense/generation_config.json"), r#"{"temperature": 1000}"#).unwrap();
    refuses(place, "run dense hi", &["generation_config.json", "temperature"]);
    // Greedy is asked for, but a file that makes no sense is still worth an error only where it matters.
    succeeds(place, "run dense hi -n 1 --temp 0");
}

#[test]
fn models_that_are_none_are_named() {
    let place = with_model();
    let place = place.path();
    succeeds(place, "convert dense whole.gguf -q");
    let whole = fs::read(place.join("whole.gguf")).unwrap();
    fs::write(place.join("cut.gguf"), &whole[..whole.len() / 2]).unwrap();
    fs::write(place.join("head.gguf"), &whole[..100]).unwrap();
    fs::write(place.join("empty.gguf"), "").unwrap();
    fs::write(place.join("empty"), "").unwrap();
    fs::write(place.join("notes.txt"), "hello").unwrap();
    fs::create_dir(place.join("bare")).unwrap();
    fs::copy(place.join("dense/model.safetensors"), place.join("bare/model.safetensors")).unwrap();
    fs::create_dir(place.join("torn")).unwrap();
    fs::write(place.join("torn/config.json"), "{").unwrap();
    let before = crate::fixture::names(place);
    for (model, parts) in [
        ("missing", ["missing", "no such file or folder"]),
        ("missing.gguf", ["missing.gguf", "no such file or folder"]),
        ("bare", ["bare", "config.json"]),
        ("bare/model.safetensors", ["model.safetensors", "folder"]),
        ("dense/config.json", ["config.json", "folder"]),
        ("torn", ["torn", "config.json"]),
        ("empty.gguf", ["empty.gguf", "GGUF"]),
        ("empty", ["empty", "GGUF"]),
        ("notes.txt", ["notes.txt", "GGUF"]),
        ("head.gguf", ["head.gguf", ""]),
        ("cut.gguf", ["cut.gguf", "tensor"]),
    ] {
        for line in ["inspect @", "run @ hi", "quantize @ out", "convert @ out", "compare @ dense", "compare dense @"] {
            refuses(place, &line.replace('@', model), &parts);
        }
        refuses(place, &format!("run {model} hi --no-mmap"), &parts);
        // No task, no data: only the text is read before the model.
        refuses(place, &format!("eval {model} --ppl notes.txt"), &parts);
    }
    assert_eq!(crate::fixture::names(place), before);
}
