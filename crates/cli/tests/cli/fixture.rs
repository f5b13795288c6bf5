//! Tiny models in temporary folders, and the command run in them.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Map, Value, json};
use sherry::Llm;
use sherry::io::TensorSource as _;
use sherry::model::names::Naming;
use sherry::model::{ArchConfig, Family, config_hf, synthetic};
use tempfile::TempDir;

/// Tokens of [`Llm::tiny`]: one per byte, and ChatML's control tokens.
const VOCAB: usize = 256 + 3;

/// A configuration whose every axis is a multiple of 256, so that every type and container can hold the model.
pub fn config() -> ArchConfig {
    ArchConfig {
        vocab: VOCAB,
        hidden: 256,
        ffn: 512,
        head_dim: 64,
        attn_scale: 0.125,
        context: 4096,
        ..synthetic::tiny(Family::Llama)
    }
}

/// An empty folder to work in.
pub fn workplace() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A folder that holds the model `dense`: random f32 weights, a token per byte, ChatML.
pub fn with_model() -> TempDir {
    with_model_of(&config())
}

/// The same with another configuration.
pub fn with_model_of(config: &ArchConfig) -> TempDir {
    let place = workplace();
    write_model(&place.path().join("dense"), config);
    place
}

fn write_model(folder: &Path, config: &ArchConfig) {
    write_changed_model(folder, config, |_, _| {});
}

/// The model `dense` with linear layers of -1, +1 and, where not `binary`, 0 times one number, in floats.
pub fn write_rounded_model(folder: &Path, binary: bool) {
    write_changed_model(folder, &config(), |name, weights| {
        if name.contains("_proj.weight") {
            for (at, w) in weights.iter_mut().enumerate() {
                *w = if binary || at % 3 != 0 { w.signum() / 16.0 } else { 0.0 };
            }
        }
    });
}

fn write_changed_model(folder: &Path, config: &ArchConfig, change: impl Fn(&str, &mut [f32])) {
    let mut source = synthetic::source(config, Naming::HuggingFace, 7);
    for info in source.tensors().to_vec() {
        let bytes = source.data(&info.name).unwrap();
        let mut weights: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if info.name == "lm_head.weight" {
            // Greedy text never ends by itself: the logits of control tokens are zero, some other token's is above.
            weights[256 * config.hidden..].fill(0.0);
        }
        change(&info.name, &mut weights);
        source.insert_f32(&info.name, &info.shape, &weights);
    }
    write_folder(folder, config);
    source.save(&folder.join("model.safetensors")).unwrap();
}

/// A model of a billion weights, all zero, that takes no room on disk: its file is one hole.
pub fn write_large_model(folder: &Path) {
    let config = ArchConfig { hidden: 1024, ffn: 4096, head_dim: 256, layers: 64, ..config() };
    write_folder(folder, &config);
    let mut header = Map::new();
    let mut end = 0;
    for role in sherry::model::names::Role::all(&config) {
        let name = role.name(config.family, Naming::HuggingFace).unwrap();
        let shape = role.shape(&config);
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    let mut header = Value::Object(header).to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let path = folder.join("model.safetensors");
    let start = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    fs::write(&path, &start).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len((start.len() + end) as u64).unwrap();
}

/// Everything but the weights.
fn write_folder(folder: &Path, config: &ArchConfig) {
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("config.json"), config_hf::write(config).unwrap().to_string()).unwrap();
    let llm = Llm::tiny().unwrap();
    let tokenizer = llm.tokenizer();
    assert_eq!(tokenizer.vocab_size(), VOCAB);
    fs::write(folder.join("tokenizer.json"), tokenizer.to_json().unwrap()).unwrap();
    fs::write(folder.join("tokenizer_config.json"), tokenizer.to_config_json()).unwrap();
}

/// `count` questions with two choices.
pub fn write_piqa(folder: &Path, count: usize) {
    fs::create_dir_all(folder).unwrap();
    let row = |i: usize| json!({ "goal": format!("goal {i}"), "sol1": "one", "sol2": format!("two {}", i % 7), "label": i % 2 });
    let lines: Vec<String> = (0..count).map(|i| row(i).to_string()).collect();
    fs::write(folder.join("piqa_validation.jsonl"), lines.join("\n")).unwrap();
}

/// Writes text and a configuration of `steps` quick steps into `folder`.
pub fn write_config(folder: &Path, steps: usize) {
    let text = |from: usize, to: usize| -> String {
        (from..to)
            .map(|i| format!("The number after {i} is {}, and before it was {}.\n", i + 1, i.max(1) - 1))
            .collect()
    };
    fs::write(folder.join("train.txt"), text(0, 300)).unwrap();
    fs::write(folder.join("valid.txt"), text(500, 530)).unwrap();
    let config = format!(
        "steps = {steps}\nthreads = 2\n[model]\nhidden = 32\nffn = 64\nlayers = 2\nheads = 2\n\
         [optimizer]\nlr = 3e-3\n[batch]\nlength = 32\nsize = 2\n\
         [data]\ntrain = [\"train.txt\"]\nvalid = [\"valid.txt\"]\ntokenizer = {{ vocab = 300 }}\ncache = \"cache\"\n\
         [checkpoint]\nevery = 5\n[metrics]\nevery = 1\nprobe_every = 4\nvalid_every = 6\nvalid_sequences = 2\n"
    );
    fs::write(folder.join("small.toml"), config).unwrap();
}

/// The command, to be run in `folder` with nothing on stdin.
pub fn command(folder: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sherry"));
    command.args(args).current_dir(folder).env_remove("SHERRY_DATA").env("HF_HUB_OFFLINE", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a finished command left behind.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        let outcome = Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
        assert!(!outcome.stderr.contains("panicked"), "{outcome:?}");
        outcome
    }
}

/// Runs the command line `line`, split at blanks, in `folder`.
pub fn run(folder: &Path, line: &str) -> Outcome {
    command(folder, line.split_whitespace()).output().unwrap().into()
}

/// Runs `line`, which must succeed, and gives its stdout.
#[track_caller]
pub fn succeeds(folder: &Path, line: &str) -> String {
    let outcome = run(folder, line);
    assert_eq!(outcome.code, Some(0), "sherry {line}: {outcome:?}");
    outcome.stdout
}

/// Runs `line --quiet --json`, which must succeed without a word on stderr, and gives the document on stdout.
#[track_caller]
pub fn document(folder: &Path, line: &str) -> Value {
    let outcome = run(folder, &format!("{line} --quiet --json"));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "sherry {line}: {outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("sherry {line}: {error}: {}", outcome.stdout))
}

/// Runs `line --quiet`, which must be refused with exit code 2 and one error that has all of `parts`.
#[track_caller]
pub fn refuses(folder: &Path, line: &str, parts: &[&str]) {
    is_refusal(&run(folder, &format!("{line} --quiet")), parts);
}

/// Checks that `outcome` is one error that has all of `parts`, exit code 2.
#[track_caller]
pub fn is_refusal(outcome: &Outcome, parts: &[&str]) {
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{outcome:?}");
    assert!(outcome.stderr.starts_with("error: "), "{outcome:?}");
    assert_eq!(outcome.stderr.matches("error:").count(), 1, "{outcome:?}");
    // Only the parser of the command line adds a hint on further lines.
    assert!(outcome.stderr.lines().count() == 1 || outcome.stderr.contains("--help"), "{outcome:?}");
    assert!(outcome.stderr.matches("os error").count() <= 1, "{outcome:?}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "{part:?} is not in {outcome:?}");
    }
}

/// The commands that the help lists.
pub fn commands(folder: &Path) -> Vec<String> {
    let help = succeeds(folder, "--help");
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect()
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
