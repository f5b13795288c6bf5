//! Output that goes nowhere: readers that went away, full disks, closed streams. Messages never end a job.

use std::fs;
use std::io::{Read as _, pipe};
use std::path::Path;
use std::process::Stdio;

use sherry::io::gguf::{GgufFile, GgufWriter, StqId, Value};
use sherry::io::{ReadMode, TensorSource as _};
use tempfile::TempDir;

use crate::fixture::{Outcome, command, names, run, succeeds, with_model, write_config};

/// A command line, what it leaves on disk, and its exit code.
struct Case {
    line: &'static str,
    product: &'static [&'static str],
    code: i32,
}

const fn case(line: &'static str, product: &'static [&'static str]) -> Case {
    Case { line, product, code: 0 }
}

/// One of every command, and of every way a command ends.
const CASES: &[Case] = &[
    case("quantize dense new", &["new", "new.report.json"]),
    case("quantize dense new.gguf --json", &["new.gguf", "new.gguf.report.json"]),
    case("convert packed new.gguf", &["new.gguf"]),
    case("run dense hello --raw --temp 0 -n 3", &[]),
    case("run -p Water --temp 0 -n 3", &[]),
    case("inspect dense --tensors --verify", &[]),
    case("compare dense packed --text text.txt --window 16", &[]),
    Case { line: "compare dense packed --no-tensors --text text.txt --window 16 --max-kld 0", product: &[], code: 1 },
    case("eval dense --ppl text.txt --ppl-window 16 -o new.json", &["new.json"]),
    case("report old.json", &[]),
    case("report run -o new.html", &["new.html"]),
    case("tokenizer new train.txt --vocab 280", &["new/tokenizer.json", "new/tokenizer_config.json"]),
    case("train small.toml --run new", &["new/checkpoint-00000003/manifest.json"]),
    case("train small.toml --run new --prepare", &["new/checkpoint-00000000/manifest.json"]),
    case("export run new --windows 2", &["new/config.json", "new/model.safetensors"]),
    case("demo --model dense -n 4 --text text.txt", &["models/dense.sherry"]),
    case("bench --synthetic tiny -r 1 -p 0 -n 2 -t 1", &[]),
    case("doctor", &[]),
    case("completions zsh", &[]),
    case("man", &[]),
    case("--help", &[]),
    case("--version", &[]),
    Case { line: "run missing hi", product: &[], code: 2 },
    Case { line: "quantize", product: &[], code: 2 },
];

/// A folder in which all [`CASES`] can run.
fn workplace() -> TempDir {
    let place = with_model();
    let folder = place.path();
    write_config(folder, 3);
    fs::write(folder.join("text.txt"), "The tide rises, the tide falls, the twilight darkens, the curlew calls.")
        .unwrap();
    succeeds(folder, "quantize dense packed -q");
    succeeds(folder, "train small.toml --run run -q");
    succeeds(folder, "eval dense --ppl text.txt --ppl-window 16 -o old.json -q");
    place
}

/// Checks the exit code and the product of `case`, which ended with `outcome`, and removes the product.
fn check(folder: &Path, case: &Case, outcome: &Outcome, code: i32, what: &str) {
    assert_eq!(outcome.code, Some(code), "{what}: {}: {outcome:?}", case.line);
    let names = names(folder);
    assert!(names.iter().all(|name| !name.contains(".tmp-")), "{what}: {}: {names:?}", case.line);
    for name in case.product {
        assert!(folder.join(name).exists(), "{what}: {}: {name} is missing", case.line);
    }
    for name in case.product {
        let top = folder.join(Path::new(name).components().next().unwrap());
        let _ = if top.is_dir() { fs::remove_dir_all(&top) } else { fs::remove_file(&top) };
    }
}

/// Runs `case` with the given streams.
fn start(folder: &Path, case: &Case, stdout: Stdio, stderr: Stdio) -> Outcome {
    let child = command(folder, case.line.split(' ')).stdout(stdout).stderr(stderr).spawn().unwrap();
    child.wait_with_output().unwrap().into()
}

/// A pipe that nobody reads.
fn closed_pipe() -> Stdio {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn messages_that_nobody_reads_end_nothing() {
    let place = workplace();
    for case in CASES {
        let plain = start(place.path(), case, Stdio::piped(), Stdio::piped());
        check(place.path(), case, &plain, case.code, "as usual");
        let lost = start(place.path(), case, Stdio::piped(), closed_pipe());
        check(place.path(), case, &lost, case.code, "stderr closed");
        assert_eq!(plain.stdout.lines().count(), lost.stdout.lines().count(), "{}", case.line);
    }
}

#[test]
fn results_that_nobody_reads_end_nothing() {
    let place = workplace();
    for case in CASES {
        let outcome = start(place.path(), case, closed_pipe(), Stdio::piped());
        check(place.path(), case, &outcome, case.code, "stdout closed");
        assert!(case.code == 2 || !outcome.stderr.contains("error:"), "{}: {outcome:?}", case.line);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn full_disks_are_told_and_cost_no_product() {
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    let place = workplace();
    for case in CASES {
        let outcome = start(place.path(), case, Stdio::piped(), full());
        check(place.path(), case, &outcome, case.code, "stderr full");
        // Whoever wants the results must learn that they are not there; what belongs on disk is there.
        let outcome = start(place.path(), case, full(), Stdio::piped());
        check(place.path(), case, &outcome, 2, "stdout full");
        if case.code != 2 {
            let told = outcome.stderr.lines().last().unwrap_or_default();
            assert!(told.starts_with("error: cannot write to standard output: "), "{}: {outcome:?}", case.line);
        }
    }
}

#[cfg(unix)]
#[test]
fn streams_may_be_missing() {
    let place = workplace();
    for case in CASES {
        for redirection in ["2>&-", ">&-", ">&- 2>&- <&-"] {
            let line = format!("exec '{}' {} {redirection}", env!("CARGO_BIN_EXE_sherry"), case.line);
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", &line]).current_dir(place.path()).stdin(Stdio::null()).env("HF_HUB_OFFLINE", "1");
            check(place.path(), case, &shell.output().unwrap().into(), case.code, redirection);
        }
    }
}

#[test]
fn the_first_line_is_enough_for_some() {
    let place = workplace();
    // More than a pipe holds, so that the command is still writing when its reader goes.
    let place = place.path();
    for line in ["completions zsh", "man", "inspect dense --tensors --json", "run dense hello --raw --temp 0"] {
        let mut child = command(place, line.split(' ')).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let outcome: Outcome = child.wait_with_output().unwrap().into();
        assert_eq!(outcome.code, Some(0), "{line}: {outcome:?}");
        assert!(!outcome.stderr.contains("error"), "{line}: {outcome:?}");
    }
}

/// Whether `text` has nothing but lines of visible characters.
fn is_plain(text: &str) -> bool {
    text.chars()
        .all(|c| c == '\n' || !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

#[test]
fn nothing_from_a_file_steers_the_terminal() {
    const EVIL: &str = "e\u{1b}]0;x\u{7}\u{9b}2J\r\u{202e}\nerror: forged";
    let place = with_model();
    let place = place.path();
    let wanted = |line: &str, code: i32, part: &str| {
        let outcome = run(place, line);
        assert_eq!(outcome.code, Some(code), "{line}: {outcome:?}");
        assert!(is_plain(&outcome.stdout) && is_plain(&outcome.stderr), "{line}: {outcome:?}");
        let all = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(all.contains(part), "{line}: {outcome:?}");
        assert!(all.lines().all(|line| !line.starts_with("error: forged")), "{line}: {outcome:?}");
    };
    // Names and values in GGUF.
    succeeds(place, "convert dense plain.gguf -q");
    let file = GgufFile::open(&place.join("plain.gguf"), ReadMode::Read).unwrap();
    let write = |name: &str, change: fn(&mut Vec<(String, Value)>)| {
        let mut entries = file.metadata().entries().to_vec();
        change(&mut entries);
        let stq = StqId::default();
        let mut writer = GgufWriter::create(&place.join(name), entries, file.tensors().to_vec(), stq).unwrap();
        file.tensors().iter().for_each(|info| writer.write(&info.name, &file.data(&info.name).unwrap()).unwrap());
        writer.finish().unwrap();
    };
    write("value.gguf", |entries| entries.push(("x.value".to_owned(), Value::String(EVIL.to_owned()))));
    wanted("inspect value.gguf --metadata", 0, "x.value");
    wanted("inspect value.gguf --metadata --json", 0, "x.value");
    write("architecture.gguf", |entries| {
        entries.iter_mut().filter(|(key, _)| key == "general.architecture").for_each(|(_, value)| {
            *value = Value::String(EVIL.to_owned());
        });
    });
    wanted("inspect architecture.gguf", 0, "cannot be run");
    for line in ["run architecture.gguf hi", "quantize architecture.gguf out"] {
        wanted(line, 2, "architecture");
    }
    // Names of tensors, configurations, templates and results in JSON.
    let config = fs::read_to_string(place.join("dense/config.json")).unwrap();
    let evil = serde_json::to_string(EVIL).unwrap();
    fs::write(place.join("dense/config.json"), config.replacen('{', &format!("{{\"hidden_act\": {evil},"), 1)).unwrap();
    wanted("inspect dense", 2, "config.json");
    fs::write(place.join("dense/config.json"), config).unwrap();
    fs::write(place.join("dense/chat_template.jinja"), format!("{{{{ raise_exception({evil}) }}}}")).unwrap();
    wanted("run dense hi", 2, "template");
    wanted("run dense hi --json", 2, "template");
    let results = format!("{{\"results\": {{}}, \"sherry\": {{\"model\": {{\"name\": {evil}}}}}}}");
    fs::write(place.join("results.json"), results).unwrap();
    wanted("report results.json", 0, "results");
}
