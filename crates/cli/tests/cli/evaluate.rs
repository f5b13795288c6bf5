//! Evaluations that are killed, run out of disk, lack their data.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};

use crate::fixture::{Outcome, command, document, is_refusal, names, refuses, run, succeeds, with_model, write_piqa};

/// A results file without what differs from run to run.
fn without_times(path: &Path) -> Value {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    for key in ["date", "total_evaluation_time_seconds"] {
        assert!(value.as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    for key in ["seconds", "items_per_second", "command"] {
        assert!(value["sherry"].as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    value
}

fn lines(path: &Path) -> usize {
    fs::read(path).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
}

#[test]
fn a_killed_evaluation_continues_to_the_same_results() {
    let place = with_model();
    let place = place.path();
    succeeds(place, "quantize dense packed -q");
    write_piqa(&place.join("data"), 80);
    let line = |out: &str| format!("eval packed --tasks piqa --against dense -o {out}.json --log-samples -q");
    let table = succeeds(place, &line("whole"));
    let mut kills = 0;
    // First the model, then the one it is compared with; each is killed when a few more items are noted.
    for journal in ["killed.partial.jsonl", "killed.against.partial.jsonl"].map(|name| place.join(name)) {
        for more in [1, 13, 5, 29] {
            let enough = lines(&journal) + more;
            let mut child = command(place, line("killed").split(' ')).spawn().unwrap();
            while child.try_wait().unwrap().is_none() && lines(&journal) < enough {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            kills += usize::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    assert!(kills > 0, "it was always too fast to be killed");
    assert_eq!(succeeds(place, &line("killed")), table);
    assert_eq!(without_times(&place.join("killed.json")), without_times(&place.join("whole.json")));
    let samples = |out: &str| fs::read(place.join(format!("{out}.samples_piqa.jsonl"))).unwrap();
    assert_eq!(samples("killed"), samples("whole"));
    let left = ["data", "dense", "killed.json", "killed.samples_piqa.jsonl", "packed", "packed.report.json"];
    assert_eq!(names(place), [&left[..], &["whole.json", "whole.samples_piqa.jsonl"]].concat());
}

#[test]
fn results_say_what_was_measured() {
    let place = with_model();
    let place = place.path();
    write_piqa(&place.join("data"), 6);
    let mut shown = document(place, "eval dense --tasks piqa --limit 4 -o out.json --log-samples");
    // The file has the form of lm-evaluation-harness.
    shown.as_object_mut().unwrap().remove("json_version");
    let written: Value = serde_json::from_slice(&fs::read(place.join("out.json")).unwrap()).unwrap();
    assert_eq!(shown, written);
    let text = |value: &Value| value.as_str().unwrap().to_string();
    assert!(!text(&written["git_hash"]).is_empty());
    assert_eq!(text(&written["sherry"]["model"]["sha256"]).len(), 64);
    for setting in ["model", "precision", "kv", "max_length", "threads", "isa"] {
        assert!(!written["config"]["model_args"][setting].is_null(), "{setting}");
    }
    assert_eq!(written["n-samples"]["piqa"], json!({ "original": 6, "effective": 4 }));
    let samples = fs::read_to_string(place.join("out.samples_piqa.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 4);
    for (i, line) in samples.lines().enumerate() {
        let sample: Value = serde_json::from_str(line).unwrap();
        assert_eq!(sample["doc_id"], i);
        let scores = sample["filtered_resps"].as_array().unwrap();
        assert!(scores.iter().all(|score| text(&score[0]).parse::<f64>().unwrap() < 0.0) && scores.len() == 2);
    }
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_costs_nothing_that_was_finished() {
    let place = with_model();
    let place = place.path();
    write_piqa(&place.join("data"), 80);
    succeeds(place, "eval dense --tasks piqa --limit 3 -o out.json -q");
    let earlier = fs::read(place.join("out.json")).unwrap();
    // No file may grow beyond 4 KiB: some items of the journal fit, not all.
    let line = "eval dense --tasks piqa -o out.json --log-samples";
    let limited = format!("ulimit -f 8; trap '' XFSZ; exec {} {line} -q", env!("CARGO_BIN_EXE_sherry"));
    let output = std::process::Command::new("sh").args(["-c", &limited]).current_dir(place).output().unwrap();
    is_refusal(&Outcome::from(output), &["out.partial.jsonl", "cannot write"]);
    assert_eq!(fs::read(place.join("out.json")).unwrap(), earlier);
    let kept = lines(&place.join("out.partial.jsonl"));
    assert!(kept > 0 && kept < 80, "{kept}");
    // With room again it continues.
    let outcome = run(place, line);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains(&format!("continuing: {kept} items")), "{outcome:?}");
    assert_eq!(lines(&place.join("out.samples_piqa.jsonl")), 80);
}

#[test]
fn what_cannot_be_evaluated_is_named_and_earlier_results_stay() {
    let place = with_model();
    let place = place.path();
    write_piqa(&place.join("data"), 3);
    succeeds(place, "eval dense --tasks piqa -o out.json -q");
    let earlier = fs::read(place.join("out.json")).unwrap();
    let refused = |line: &str, parts: &[&str]| {
        refuses(place, &format!("eval dense -o out.json {line}"), parts);
        assert_eq!(fs::read(place.join("out.json")).unwrap(), earlier);
    };
    refused("--tasks piqaa", &["unknown task 'piqaa'", "did you mean piqa?"]);
    refused("--tasks hellaswag", &["task hellaswag: no validation data", "sherry pull --dataset hellaswag"]);
    refused("--tasks piqa --num-fewshot 2", &["training split", "piqa_train.jsonl"]);
    refused("--tasks piqa --ctx-size 2", &["does not fit the model's context of 2 tokens"]);
    refused("--ppl out.json --ppl-window 512 --ctx-size 100", &["--ppl-window 512", "100 tokens"]);
    let data = place.join("data/piqa_validation.jsonl");
    let whole = fs::read(&data).unwrap();
    fs::write(&data, &whole[..whole.len() - 9]).unwrap();
    refused("--tasks piqa", &["piqa_validation.jsonl", "line 3", "not a JSON object"]);
    fs::remove_file(&data).unwrap();
    let parquet = fs::read(golden("piqa.parquet")).unwrap();
    fs::write(place.join("data/piqa_validation.parquet"), &parquet[..parquet.len() - 1]).unwrap();
    refused("--tasks piqa", &["piqa_validation.parquet", "only the beginning of one"]);
    fs::write(place.join("data/piqa_validation.parquet"), &parquet).unwrap();
    assert_eq!(document(place, "eval dense --tasks piqa")["n-samples"]["piqa"]["original"], 3);
}

#[test]
fn wrong_files_do_not_hide_the_others() {
    let place = with_model();
    let place = place.path();
    write_piqa(&place.join("data"), 3);
    succeeds(place, "eval dense --tasks piqa -o one.json -q");
    fs::write(place.join("wrong.json"), "{}").unwrap();
    let table = succeeds(place, "report one.json");
    let outcome = run(place, "report one.json wrong.json none.json");
    assert_eq!((outcome.code, &outcome.stdout), (Some(2), &table), "{outcome:?}");
    let errors: Vec<&str> = outcome.stderr.lines().collect();
    assert!(errors.len() == 2 && errors.iter().all(|line| line.starts_with("error: ")), "{outcome:?}");
    assert!(errors[0].contains("wrong.json") && errors[1].contains("none.json"), "{outcome:?}");
    let outcome = run(place, "report wrong.json none.json --json");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{outcome:?}");
}

#[test]
fn one_token_or_item_has_no_error() {
    let place = with_model();
    let place = place.path();
    write_piqa(&place.join("data"), 1);
    fs::write(place.join("text.txt"), "ab").unwrap();
    let line = "eval dense --tasks piqa --against dense --ppl text.txt --ppl-mode disjoint --ppl-window 2";
    let text = succeeds(place, &format!("{line} -q"));
    assert!(text.contains("Final estimate: PPL = ") && !text.contains("+/-"), "{text}");
    assert!(!text.contains("NaN"), "{text}");
    let found = document(place, line);
    assert_eq!(found["sherry"]["perplexity"][0]["perplexity_stderr"], Value::Null);
    assert_eq!(found["sherry"]["comparison"]["rows"][0]["stderr"], Value::Null);
}

#[test]
fn what_cannot_be_asked_is_found_before_a_model_is_loaded() {
    let place = with_model();
    let place = place.path();
    write_piqa(&place.join("data"), 3);
    fs::write(place.join("text.txt"), "ab").unwrap();
    // Weights that cannot be loaded: whoever tries complains about them.
    let path = place.join("dense/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].fill(0xff);
    fs::write(&path, bytes).unwrap();
    for (line, parts) in [
        ("run dense hi --ctx-size 5000", ["--ctx-size 5000", "4096"]),
        ("eval dense --tasks piqa --ctx-size 5000", ["--ctx-size 5000", "4096"]),
        ("eval dense --tasks piqa --ppl text.txt --ppl-window 5000", ["--ppl-window 5000", "4096"]),
        ("eval dense --tasks piqa --ppl text.txt", ["2 tokens", "1024"]),
        ("eval dense --tasks piqa --against none", ["--against none", "no such"]),
        ("eval dense --tasks piqa --ppl text.txt --ppl-mode disjoint --ppl-window 2 --kld none", ["none", "no such"]),
        ("compare dense dense --text text.txt --window 5000", ["--window 5000", "4096"]),
        ("compare dense dense --text none.txt", ["none.txt", ""]),
    ] {
        refuses(place, line, &parts);
    }
}

/// A file of the library's tests.
fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../measure/tests/golden/parquet").join(name)
}

#[test]
fn missing_data_comes_from_the_hub_once() {
    const COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";
    let place = with_model();
    let place = place.path();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hub = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let parquet = fs::read(golden("piqa.parquet")).unwrap();
        let listing = json!([{ "type": "file", "path": "plain_text/validation/0000.parquet", "size": parquet.len() }])
            .to_string();
        let answers = [json!({ "sha": COMMIT }).to_string().into_bytes(), listing.into_bytes(), parquet];
        // Three requests in this order, then nobody answers any more.
        for (body, stream) in answers.into_iter().zip(listener.incoming()) {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            assert!(lines.next().unwrap().unwrap().contains("datasets/baber/piqa/"));
            lines.find(|line| line.as_ref().is_ok_and(String::is_empty));
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
        }
    });
    let evaluate = |home: &str, endpoint: &str| -> Outcome {
        let mut command = command(place, ["eval", "dense", "--tasks", "piqa", "--json", "-q"]);
        command.env_remove("HF_HUB_OFFLINE").env_remove("HF_HUB_CACHE");
        command.env("HF_HOME", place.join(home)).env("HF_ENDPOINT", endpoint).output().unwrap().into()
    };
    let outcome = evaluate("home", &hub);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:?}");
    server.join().unwrap();
    let results = |outcome: &Outcome| serde_json::from_str::<Value>(&outcome.stdout).unwrap()["results"].clone();
    assert!(place.join("home/hub/datasets--baber--piqa/snapshots").join(COMMIT).is_dir());
    let again = evaluate("home", "http://127.0.0.1:1");
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(results(&again), results(&outcome));
    is_refusal(
        &evaluate("empty", "http://127.0.0.1:1"),
        &["task piqa: no validation data", "127.0.0.1:1 cannot be reached", "sherry pull --dataset piqa"],
    );
}
