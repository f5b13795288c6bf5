//! Tests that need what may not be there: the data folder, the demo model, Python packages.
//!
//! A test of the standard harness cannot be skipped when it runs: one that returns early counts as passed. So tests that
//! need something are in files of their own, with `harness = false` in the crate's manifest. They return an [`Outcome`],
//! get what they need with `?`, and are listed in [`main!`], which makes the file's `main`: what is missing then shows
//! as ignored, with the reason. (A test that is not listed is dead code, which the compiler notes.)
//!
//! ```no_run
//! use sherry_testing::{Outcome, data};
//!
//! sherry_testing::main![corpus_is_text];
//!
//! fn corpus_is_text() -> Outcome {
//!     let text = std::fs::read_to_string(data("corpus/text.txt")?).unwrap();
//!     assert!(!text.is_empty());
//!     Ok(())
//! }
//! ```

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Completion, Trial};

/// What a test needs and this machine lacks.
#[derive(Debug)]
pub struct Missing(String);

/// What a test comes to, unless it panics.
pub type Outcome = Result<(), Missing>;

/// A test.
pub type Test = (&'static str, fn() -> Outcome);

/// The `main` of a test file: `main![a, b]`, or `main![a, b; slow: c]` for tests that run with `--ignored` only.
#[macro_export]
macro_rules! main {
    ($($test:ident),* $(,)? $(; slow: $($slow:ident),* $(,)?)?) => {
        fn main() -> ::std::process::ExitCode {
            $crate::run(&[$((stringify!($test), $test)),*], &[$($((stringify!($slow), $slow)),*)?])
        }
    };
}

/// Runs the tests that the command line selects, as the standard harness does.
pub fn run(tests: &[Test], slow: &[Test]) -> ExitCode {
    let trial = |&(name, test): &Test| {
        Trial::ignorable_test(name, move || {
            Ok(test().map_or_else(|Missing(what)| Completion::ignored_with(what), |()| Completion::Completed))
        })
    };
    let quick = tests.iter().map(trial);
    let trials = quick.chain(slow.iter().map(trial).map(|trial| trial.with_ignored_flag(true)));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Whether this machine has something: `what`, for the reason that is shown when it has not.
pub fn machine_has(it: bool, what: &str) -> Result<(), Missing> {
    if it { Ok(()) } else { Err(Missing(format!("this machine has no {what}"))) }
}

/// The folder that holds this repository's files.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The file or folder that the environment variable `name` names, or that is at `default`, seen from the workspace.
///
/// # Panics
/// The variable names something that is not there: whoever sets it wants these tests to run.
fn find(name: &str, default: &str) -> Result<PathBuf, Missing> {
    let path = match std::env::var_os(name).filter(|value| !value.is_empty()) {
        Some(value) => {
            let path = PathBuf::from(value);
            assert!(path.exists(), "{name} is {}, and nothing is there", path.display());
            path
        }
        None => workspace().join(default),
    };
    if path.exists() { Ok(path) } else { Err(Missing(format!("nothing at {default} ({name} names another place)"))) }
}

/// The file or folder `name` of the data folder, which is at `SHERRY_DATA` or beside the checkout.
///
/// # Panics
/// There is a data folder, but it is incomplete.
pub fn data(name: &str) -> Result<PathBuf, Missing> {
    let path = find("SHERRY_DATA", "../shared/data")?.join(name);
    assert!(path.exists(), "{} is missing: the data folder is incomplete", path.display());
    Ok(path)
}

/// The demo model, a GGUF file: at `SHERRY_SMOLLM2_GGUF`, or where `sherry pull smollm2-135m-instruct --package --to models`
/// puts it.
pub fn demo_model() -> Result<PathBuf, Missing> {
    find("SHERRY_SMOLLM2_GGUF", "models/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// The folder that the environment variable `name` names: what no checkout has a place for.
///
/// # Panics
/// The variable names something that is not there.
pub fn folder(name: &str) -> Result<PathBuf, Missing> {
    match std::env::var_os(name) {
        Some(_) => find(name, ""),
        None => Err(Missing(format!("{name} names no folder"))),
    }
}

/// A file of the system.
pub fn file(path: &str) -> Result<PathBuf, Missing> {
    Some(PathBuf::from(path)).filter(|path| path.is_file()).ok_or_else(|| Missing(format!("no {path}")))
}

/// Python, if it has all of `modules`.
pub fn python(modules: &[&str]) -> Result<Command, Missing> {
    let wanted = modules.join(", ");
    let imports = if wanted.is_empty() { String::new() } else { format!("import {wanted}") };
    let found = Command::new("python3").args(["-c", &imports]).output();
    match found {
        Ok(output) if output.status.success() => Ok(Command::new("python3")),
        _ => Err(Missing(format!("no python3 with {wanted}"))),
    }
}

/// Node, if it finds all of `packages` (in the folder that `NODE_PATH` names).
pub fn node(packages: &[&str]) -> Result<Command, Missing> {
    let imports: String = packages.iter().map(|package| format!("require('{package}');")).collect();
    let found = Command::new("node").args(["-e", &imports]).output();
    match found {
        Ok(output) if output.status.success() => Ok(Command::new("node")),
        _ => Err(Missing(format!("no node with {}", packages.join(", ")))),
    }
}

/// A Chromium that runs without a screen: the program that `CHROMIUM` names, or the one on the path.
pub fn chromium() -> Result<PathBuf, Missing> {
    if std::env::var_os("CHROMIUM").is_some() {
        return find("CHROMIUM", "");
    }
    program(&["chromium", "chromium-browser", "google-chrome"])
}

/// The first program of these names on the path.
pub fn program(names: &[&str]) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    places.find(|place| place.is_file()).ok_or_else(|| Missing(format!("no {}", names[0])))
}
