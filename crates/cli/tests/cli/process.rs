//! Pipes and signals.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};

use crate::fixture::{Outcome, command, is_refusal, succeeds, with_model};
#[cfg(unix)]
use crate::fixture::{names, workplace, write_large_model};

fn give(mut child: Child, input: &[u8]) -> Outcome {
    // A command that refuses its options does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap().into()
}

#[test]
fn the_prompt_may_come_from_stdin() {
    let place = with_model();
    let piped = |line: &str, input: &[u8]| {
        let child = command(place.path(), line.split(' ')).stdin(Stdio::piped()).spawn().unwrap();
        give(child, input)
    };
    let line = "run dense --raw --temp 0 -n 4 -q";
    let expected = succeeds(place.path(), "run dense --raw --temp 0 -n 4 -q hello");
    let outcome = piped(line, b"hello\n");
    assert_eq!((outcome.code, outcome.stdout, outcome.stderr.as_str()), (Some(0), expected, ""));
    is_refusal(&piped(line, b"caf\xe9"), &["stdin", "UTF-8"]);
    is_refusal(&piped(line, b"\n"), &["no prompt"]);
}

#[test]
fn a_reader_may_go_away() {
    let place = with_model();
    succeeds(place.path(), "quantize dense packed -q");
    for line in [
        "run dense hello --raw --temp 0 -q",
        "run dense hello --raw --temp 0 -q --json -n 1",
        "inspect dense --tensors --json",
        "inspect dense --tensors",
        "compare dense packed -q",
        "completions bash",
        "man",
        "--help",
    ] {
        let mut child = command(place.path(), line.split(' ')).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        // The long answer breaks off after its first byte; nobody ever reads the short outputs.
        if line.starts_with("run") && !line.contains("--json") {
            stdout.read_exact(&mut [0]).unwrap();
        }
        drop(stdout);
        let outcome: Outcome = child.wait_with_output().unwrap().into();
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{line}: {outcome:?}");
    }
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    let status = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[cfg(unix)]
#[test]
fn an_answer_can_be_interrupted() {
    let place = with_model();
    let mut child = command(place.path(), "run dense hello --raw --temp 0 -q".split(' ')).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    interrupt(&child);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let outcome: Outcome = child.wait_with_output().unwrap().into();
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(130), ""), "{outcome:?}");
    assert!(rest.len() < 4096 && rest.ends_with(b"\n"), "{} bytes", rest.len());
}

#[cfg(unix)]
#[test]
fn an_interrupted_conversion_leaves_nothing() {
    use std::time::Duration;

    let place = workplace();
    let place = place.path();
    write_large_model(&place.join("large"));
    for output in ["out", "out.gguf"] {
        let mut child = command(place, ["quantize", "large", output, "-q"]).spawn().unwrap();
        // It has begun when its temporary output is there.
        while names(place).len() == 1 {
            assert_eq!(child.try_wait().unwrap(), None, "it ended before it began");
            std::thread::sleep(Duration::from_millis(5));
        }
        interrupt(&child);
        let outcome: Outcome = child.wait_with_output().unwrap().into();
        assert_eq!(outcome.code, Some(130), "{outcome:?}");
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
        assert_eq!(names(place), ["large"]);
    }
}

#[test]
fn a_full_disk_is_one_error() {
    // /dev/full refuses every byte; where it is missing there is nothing to test with.
    let Ok(full) = fs::File::options().write(true).open("/dev/full") else {
        eprintln!("skipped: no /dev/full");
        return;
    };
    let place = with_model();
    let child = command(place.path(), ["inspect", "dense"]).stdout(full).spawn().unwrap();
    is_refusal(&child.wait_with_output().unwrap().into(), &["space"]);
}
