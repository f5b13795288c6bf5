//! Bad values for every option of every command: one error in this program's words, which names option and value and says
//! what is expected.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::fixture::{Outcome, command, commands, succeeds, with_model, write_config, write_piqa};

/// An option that takes a value, as the help lists it.
#[derive(Debug, PartialEq)]
struct Listed {
    command: String,
    option: String,
}

/// What the standard library says, which tells users nothing.
const RUST: [&str; 16] = [
    "invalid digit",
    "invalid float",
    "too large to fit",
    "too small to fit",
    "cannot parse integer",
    "provided string",
    "number would be",
    "out of range integral",
    "ParseInt",
    "Err(",
    "Some(",
    "None)",
    "..=",
    "Utf8Error",
    "kind:",
    "{ ",
];

/// Options whose values are text that anything may be.
const FREE: &[(&str, &str)] = &[
    ("demo", "--prompt"),
    ("run", "--prompt"),
    ("run", "--system"),
    ("run", "--stop"),
    ("serve", "--stop"),
    ("serve", "--alias"),
    ("report", "--out"),
    // Nothing is wrong with a name before the hub has been asked.
    ("pull", "--to"),
    ("pull", "--file"),
];

/// Options whose values are names: a command line that fails because of the value alone, and what the error must have besides
/// the option's value.
const NAMES: &[(&str, &str, &str)] = &[
    ("demo", "--model", "demo --model nowhere"),
    ("demo", "--text", "demo --model dense --text nowhere"),
    ("quantize", "--importance", "quantize dense out --importance nowhere"),
    ("quantize", "--recipe", "quantize dense out --recipe nowhere"),
    ("quantize", "--report", "quantize dense out --report nowhere/report.json"),
    ("calibrate", "--data", "calibrate dense out --data nowhere"),
    ("calibrate", "--text-field", "calibrate dense out --data some.jsonl --text-field nowhere"),
    ("calibrate", "--importance", "calibrate dense out --data train.txt --importance nowhere/x.json"),
    ("calibrate", "--recipe", "calibrate dense out --data train.txt --recipe nowhere"),
    ("calibrate", "--sensitivity", "calibrate dense out --data train.txt --bits 2 --sensitivity nowhere/x.json"),
    ("calibrate", "--report", "calibrate dense out --data train.txt --report nowhere/x.json"),
    (
        "calibrate",
        "--work",
        "calibrate dense out --data train.txt --tokens 2048 --held-out 512 --length 32 --work some.jsonl/nowhere",
    ),
    ("serve", "--host", "serve dense --host nowhere.invalid"),
    ("serve", "--listen", "serve dense --listen nowhere"),
    ("serve", "--api-key-file", "serve dense --api-key-file nowhere"),
    ("serve", "--allow-host", "serve dense --allow-host http://nowhere"),
    ("serve", "--cors-origin", "serve dense --cors-origin nowhere"),
    ("inspect", "--hist", "inspect dense --hist nowhere"),
    ("compare", "--text", "compare dense dense --text nowhere"),
    ("eval", "--tasks", "eval dense --tasks nowhere"),
    ("eval", "--data", "eval dense --tasks piqa --data nowhere"),
    ("eval", "--ppl", "eval dense --ppl nowhere"),
    ("eval", "--kld", "eval dense --ppl train.txt --kld nowhere"),
    ("eval", "--output", "eval dense --ppl train.txt --output nowhere/x.json"),
    ("eval", "--against", "eval dense --tasks piqa --data data --against nowhere"),
    ("tokenizer", "--text-field", "tokenizer out some.jsonl --text-field nowhere"),
    ("bench", "--isa", "bench --synthetic tiny --isa nowhere"),
    ("bench", "--vs", "bench --synthetic tiny --vs nowhere"),
    ("train", "--run", "train small.toml --run train.txt/nowhere"),
    ("train", "--resume", "train small.toml --resume nowhere"),
];

/// What no number and no choice is.
const BAD: [&str; 9] = ["", "x", "-1", "1e99", "99999999999999999999", "NaN", "inf", "0x10", "1.5.2"];

/// The options of `command` that take a value.
fn options(folder: &Path, command: &str) -> Vec<Listed> {
    let help = succeeds(folder, &format!("{command} --help-all"));
    let named = help.lines().filter_map(|line| {
        let line = line.strip_prefix("  ")?.trim_start();
        let (_, rest) = line.split_once("--").filter(|(short, _)| short.is_empty() || short.starts_with('-'))?;
        let (name, value) = rest.split_once(' ')?;
        value.starts_with('<').then(|| Listed { command: command.to_owned(), option: format!("--{name}") })
    });
    named.collect()
}

/// What is wrong with an error, which must have `parts`.
fn problem(outcome: &Outcome, parts: &[&str]) -> Option<String> {
    let Outcome { code, stdout, stderr } = outcome;
    // Only the parser of the command line adds a hint on further lines.
    let is_one = stderr.starts_with("error: ") && (stderr.lines().count() == 1 || stderr.contains("--help"));
    if (*code, stdout.as_str()) != (Some(2), "") || !is_one || stderr.matches("os error").count() > 1 {
        return Some(format!("no refusal: {code:?} {stdout} {stderr}"));
    }
    if let Some(words) = RUST.iter().find(|words| stderr.contains(**words)) {
        return Some(format!("{words:?} in {stderr}"));
    }
    parts.iter().find(|part| !stderr.contains(**part)).map(|part| format!("{part:?} is not in {stderr}"))
}

/// Runs a command that must end soon; one that takes the bad value may have begun to serve.
fn within_seconds(folder: &Path, words: &[&str]) -> Outcome {
    let mut child = command(folder, words).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn bad_values_of_every_option_are_named_in_our_words() {
    let place = with_model();
    let place = place.path();
    write_config(place, 3);
    write_piqa(&place.join("data"), 4);
    fs::write(place.join("some.jsonl"), "{\"text\": \"a line\"}\n").unwrap();
    let commands = commands(place);
    assert!(commands.len() >= 20, "{commands:?}");
    let (mut seen, mut problems) = (0, Vec::new());
    for Listed { command: name, option } in commands.iter().flat_map(|name| options(place, name)) {
        seen += 1;
        let here = |entry: &(&str, &str)| *entry == (&name[..], &option[..]);
        if FREE.iter().any(here) {
            continue;
        }
        if let Some((.., line)) = NAMES.iter().find(|(a, b, _)| here(&(a, b))) {
            let outcome = within_seconds(place, &format!("{line} -q").split(' ').collect::<Vec<_>>());
            let value = line.split(' ').find(|word| word.contains("nowhere")).unwrap();
            problems.extend(problem(&outcome, &[value]).map(|problem| format!("{line}: {problem}")));
            continue;
        }
        for bad in BAD {
            let outcome = within_seconds(place, &[&name[..], &option, bad]);
            let quoted = format!("'{bad}'");
            let value = if bad.is_empty() { "" } else { &quoted[..] };
            let said = ["expected ", "[possible values: "].into_iter().find(|words| outcome.stderr.contains(words));
            let found = problem(&outcome, &[&option, value, said.unwrap_or("expected ")]);
            problems.extend(found.map(|problem| format!("{name} {option} {bad:?}: {problem}")));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(seen > 120, "{seen} options with values");
    // Whatever the tables name exists.
    let all: Vec<Listed> = commands.iter().flat_map(|name| options(place, name)).collect();
    let named = FREE.iter().copied().chain(NAMES.iter().map(|(command, option, _)| (*command, *option)));
    for (command, option) in named {
        let listed = Listed { command: command.to_owned(), option: option.to_owned() };
        assert!(all.contains(&listed), "{listed:?}");
    }
}
