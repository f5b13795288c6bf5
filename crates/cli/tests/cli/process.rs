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

/// Of several that write one name at the same time exactly one succeeds, and the others are told.
#[test]
fn one_of_six_writers_wins() {
    let place = with_model();
    let place = place.path();
    fs::write(place.join("text.txt"), "The tide rises, the tide falls. ".repeat(50)).unwrap();
    for (line, product) in [
        ("convert dense new.gguf", "new.gguf"),
        ("convert dense new", "new"),
        ("quantize dense packed", "packed"),
        ("quantize dense packed.gguf", "packed.gguf"),
        ("tokenizer tok text.txt --vocab 280", "tok"),
    ] {
        let children: Vec<Child> =
            (0..6).map(|_| command(place, line.split(' ').chain(["-q"])).spawn().unwrap()).collect();
        let outcomes: Vec<Outcome> =
            children.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
        let (won, lost): (Vec<_>, Vec<_>) = outcomes.iter().partition(|outcome| outcome.code == Some(0));
        assert_eq!(won.len(), 1, "{line}: {outcomes:?}");
        lost.into_iter().for_each(|outcome| is_refusal(outcome, &[product, "exist"]));
        if product != "tok" {
            succeeds(place, &format!("inspect {product} --verify"));
        }
    }
    assert_eq!(names(&place.join("tok")), ["tokenizer.json", "tokenizer_config.json"]);
    assert!(names(place).iter().all(|name| !name.contains("tmp")), "{:?}", names(place));
}

/// Whatever a killed process leaves behind, the next one writes the same name and clears it away. In a container both have
/// the same number; where this system lets us make one (it takes privileges), that is tried as well.
#[cfg(unix)]
#[test]
fn a_killed_conversion_is_in_nobodys_way() {
    const SHERRY: &str = env!("CARGO_BIN_EXE_sherry");
    let container = ["unshare", "--pid", "--fork", "--kill-child"];
    let started = std::process::Command::new(container[0]).args(&container[1..]).arg("true").status();
    let wrappers: &[&[&str]] = if started.is_ok_and(|status| status.success()) { &[&[], &container] } else { &[&[]] };
    let place = with_model();
    let place = place.path();
    write_large_model(&place.join("large"));
    for wrapper in wrappers {
        for output in ["out", "out.gguf"] {
            let line = format!("{SHERRY} quantize large {output} -q --force");
            let words: Vec<&str> = wrapper.iter().copied().chain(line.split(' ')).collect();
            let mut child = std::process::Command::new(words[0]);
            let mut child = child.args(&words[1..]).current_dir(place).spawn().unwrap();
            while !names(place).iter().any(|name| name.contains(".tmp-")) {
                assert_eq!(child.try_wait().unwrap(), None, "it ended before it began");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let line = format!("{SHERRY} quantize dense {output} -q --force");
            let words: Vec<&str> = wrapper.iter().copied().chain(line.split(' ')).collect();
            // The system needs a moment to end what was killed in its own container.
            let left = || names(place).iter().any(|name| name.contains(".tmp-"));
            for attempt in 0..100 {
                let mut again = std::process::Command::new(words[0]);
                let outcome: Outcome = again.args(&words[1..]).current_dir(place).output().unwrap().into();
                assert_eq!(outcome.code, Some(0), "{outcome:?}");
                if !left() {
                    break;
                }
                assert!(attempt < 99, "{:?}", names(place));
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            succeeds(place, &format!("inspect {output} --verify"));
        }
    }
}

#[cfg(target_os = "linux")] // /dev/full refuses every byte
#[test]
fn a_full_disk_is_one_error() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let place = with_model();
    let child = command(place.path(), ["inspect", "dense"]).stdout(full).spawn().unwrap();
    is_refusal(&child.wait_with_output().unwrap().into(), &["standard output", "space"]);
}
