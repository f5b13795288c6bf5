//! Every output of `--json` has the fields that docs/json.md lists, and no others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::fixture::{command, commands, document, with_model, write_config, write_piqa};
use crate::test_hub::{TestHub, file, large, repository};

/// Commands whose output is a script, a page or a server.
const NONE: [&str; 3] = ["completions", "man", "serve"];

/// The fields that the document lists for each command.
fn documented() -> BTreeMap<String, Vec<(String, bool)>> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/json.md")).unwrap();
    let mut sections: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.trim_matches('`').trim_start_matches("sherry ").to_owned();
        } else if let Some((fields, meaning)) = line.strip_prefix("| `").and_then(|row| row.split_once(" | ")) {
            let is_rare = meaning.starts_with("sometimes: ");
            let fields = fields.split(", ").map(|field| (field.trim_matches('`').to_owned(), is_rare));
            sections.entry(section.clone()).or_default().extend(fields);
        }
    }
    sections
}

/// The fields of `value`: names joined by dots, `[]` for the elements of a list.
fn fields(value: &Value, path: &str, found: &mut Vec<(String, bool)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                fields(value, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, found);
            }
        }
        Value::Array(list) if list.iter().any(|value| value.is_object() || value.is_array()) => {
            list.iter().for_each(|value| fields(value, &format!("{path}[]"), found));
        }
        value => found.push((
            path.to_owned(),
            value.is_null()
                || value.as_object().is_some_and(|map| map.is_empty())
                || value.as_array().is_some_and(Vec::is_empty),
        )),
    }
}

/// Whether the documented field `pattern` stands for `path`; `*` stands for any name, at the end for everything. Where there is
/// `nothing`, its parts are missing.
fn stands_for(pattern: &str, path: &str, nothing: bool) -> bool {
    let (mut patterns, mut parts) = (pattern.split('.').peekable(), path.split('.'));
    loop {
        match (patterns.next(), parts.next()) {
            (Some("*"), Some(_)) if patterns.peek().is_none() => return true,
            (Some(pattern), Some(part)) if pattern == "*" || pattern == part => {}
            (Some(pattern), Some(part)) => return nothing && pattern == format!("{part}[]") && parts.next().is_none(),
            (None, None) => return true,
            (Some(_), None) => return nothing,
            (None, Some(_)) => return false,
        }
    }
}

/// Outputs of the command `name`, as many as it takes to see all fields.
fn outputs(place: &Path, name: &str) -> Vec<Value> {
    let lines: &[&str] = match name {
        "demo" => &["demo --model dense -n 4 --text text.txt"],
        "models" => &["models"],
        "list" => &["list"],
        "rm" => &["rm o/n --yes"],
        "pull" => &["pull o/n"],
        "quantize" => &["quantize dense packed", "quantize dense packed.gguf"],
        "calibrate" => {
            &["calibrate dense tuned --data text.txt --own-text 0 --tokens 1024 --held-out 256 --length 64 \
             --sweeps 2 --reconstruct 1 --tune-tokens 512 --train-tokens 512 --train-batch 4 --adapt-tokens 256 \
             --adapt-every 1"]
        }
        "run" => &["run dense hi -n 2"],
        "inspect" => {
            &["inspect packed --tensors --verify --hist layers.0.mlp.up_proj", "inspect packed.gguf --metadata"]
        }
        "compare" => &["compare dense packed --text text.txt --window 16 --max-kld 100"],
        "convert" => &["convert packed converted.gguf"],
        "eval" => {
            &["eval packed --tasks piqa --data data --ppl short.txt --ppl-window 16 --kld dense --against dense \
             -o results.json --log-samples"]
        }
        "report" => &["report results.json", "report run -o page.html", "report results.json run"],
        "tokenizer" => &["tokenizer learned train.txt --vocab 280"],
        "train" => &["train small.toml --run run", "train small.toml --run prepared --prepare"],
        "export" => &["export run exported --windows 1"],
        "bench" => &["bench --synthetic tiny -r 1 -p 4 -n 2 -t 1"],
        "doctor" => &["doctor"],
        other => panic!("sherry {other}: no example of its output"),
    };
    let hub = TestHub::start(repository("models", model(), 2));
    let of_line = |line: &&str| {
        if !matches!(name, "pull" | "list" | "rm") {
            return document(place, line);
        }
        let mut command = command(place, line.split(' ').chain(["--json", "-q"]));
        command.env_remove("HF_HUB_OFFLINE").env("HF_HOME", place.join("home")).env("HF_ENDPOINT", &hub.endpoint);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    lines.iter().map(of_line).collect()
}

fn model() -> Vec<crate::test_hub::TestFile> {
    vec![file("config.json", "{}"), large("model.safetensors", vec![7; 3000]), file("tokenizer.json", "{}")]
}

#[test]
fn every_json_output_is_what_the_document_says() {
    let place = with_model();
    let place = place.path();
    write_config(place, 8);
    write_piqa(&place.join("data"), 4);
    let sentence = "The tide rises, the tide falls, the twilight darkens, the curlew calls. ";
    fs::write(place.join("text.txt"), sentence.repeat(60)).unwrap();
    fs::write(place.join("short.txt"), sentence).unwrap();
    // In an order in which commands find what they read; those of the hub at the end.
    let mut names: Vec<String> = commands(place).into_iter().filter(|name| !NONE.contains(&name.as_str())).collect();
    let order = ["quantize", "convert", "eval", "train", "export", "report", "inspect", "pull", "list", "rm"];
    names.sort_by_key(|name| order.iter().position(|known| known == name).unwrap_or(1));
    let documented = documented();
    let mut problems = Vec::new();
    for name in names {
        let empty = Vec::new();
        let patterns = documented.get(&name).unwrap_or(&empty);
        let mut found = Vec::new();
        for output in outputs(place, &name) {
            let objects = output.as_array().cloned().unwrap_or_else(|| vec![output]);
            for object in &objects {
                assert_eq!(object["json_version"], 1, "sherry {name}: {object}");
                fields(object, "", &mut found);
            }
        }
        found.retain(|(path, _)| path != "json_version");
        let known = |path: &str, nothing| patterns.iter().any(|(pattern, _)| stands_for(pattern, path, nothing));
        let mut unknown: Vec<&str> =
            found.iter().filter(|(path, nothing)| !known(path, *nothing)).map(|(path, _)| path.as_str()).collect();
        unknown.sort_unstable();
        unknown.dedup();
        problems.extend(unknown.into_iter().map(|path| format!("sherry {name}: {path} is not documented")));
        let missing = patterns.iter().filter(|(pattern, is_rare)| {
            !is_rare && !found.iter().any(|(path, nothing)| stands_for(pattern, path, *nothing))
        });
        problems.extend(missing.map(|(pattern, _)| format!("sherry {name}: {pattern} is documented, but not there")));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
