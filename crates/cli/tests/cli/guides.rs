//! The commands that README.md and docs/ name: all of them are understood, and those of the guides that a newcomer follows run.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sherry::model::ArchConfig;

use crate::fixture::{config, with_model_of, workplace};

/// What needs somebody at a terminal (tests of docs/terminal) or a download (tests of `sherry pull`).
const NOT_RUN: [&str; 3] = [
    "sherry run bonsai-1.7b",
    "sherry run smollm2-135m-instruct",
    "sherry pull smollm2-135m-instruct --package --to models",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The command lines in the code blocks of a document, without remarks and what follows two spaces.
fn command_lines(document: &Path) -> Vec<String> {
    // A line that ends in a backslash goes on in the next one.
    let text: String = fs::read_to_string(document).unwrap().split("\\\n").map(str::trim_start).collect();
    let blocks = text.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(|block| block.lines().skip(1)).map(|line| {
        let line = line.split("  ").next().unwrap_or_default();
        line.split(" #").next().unwrap_or_default().trim().replace("cargo run --release -- ", "sherry ")
    });
    lines.filter(|line| line.contains("sherry ")).collect()
}

/// Runs a line of the shell in which `sherry` is the command under test.
fn shell(folder: &Path, line: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_sherry"));
    let path = std::env::join_paths([program.parent().unwrap(), Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-euc", line])
        .current_dir(folder)
        .env("PATH", path)
        .env_remove("SHERRY_DATA")
        .env("HF_HUB_OFFLINE", "1");
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn every_documented_command_is_understood() {
    let place = workplace();
    let mut documents: Vec<PathBuf> = ["README.md", "BENCHMARKS.md"].map(|name| root().join(name)).to_vec();
    documents.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut tried = 0;
    for document in documents {
        for line in command_lines(&document) {
            // One command of a pipe or list; not those that show what may be left out, or values to choose from.
            for part in line.split(['|', ';', '>', '&']).map(str::trim) {
                if !part.starts_with("sherry ") || part.contains(['[', '<', '{', '`', '$']) || part.contains("...") {
                    continue;
                }
                // `--help` at the end: arguments are read from left to right, and nothing is done.
                let output = shell(place.path(), &format!("{} --help", part));
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{}: {part}: {said}", document.display());
                tried += 1;
            }
        }
    }
    assert!(tried > 40, "{tried}");
}

#[test]
fn the_guides_run() {
    for guide in ["running.md", "quantizing.md", "models.md"] {
        // A tiny random model takes the place of the one that the guides name.
        let place = with_model_of(&ArchConfig { context: 256, ..config() });
        fs::rename(place.path().join("dense"), place.path().join("smollm2-135m-instruct")).unwrap();
        let sentence = "The sea was calm, and the boat lay still. ";
        fs::write(place.path().join("article.txt"), sentence.repeat(2)).unwrap();
        fs::write(place.path().join("text.txt"), sentence.repeat(100)).unwrap();
        let mut run = 0;
        for line in command_lines(&root().join("docs").join(guide)) {
            let is_example = line.split(' ').all(|word| word != "MODEL" && word != "OUT");
            if NOT_RUN.contains(&line.as_str()) || !is_example {
                continue;
            }
            let output = shell(place.path(), &line);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{guide}: {line}: {said}");
            run += 1;
        }
        assert!(run >= 3, "{guide}: {run}");
    }
}
