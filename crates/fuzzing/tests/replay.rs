//! Every collected input of every fuzz target, and small changes of it: cut off, and with single bytes changed.
//!
//! An input that a fuzzer found goes into `fuzz/seeds/TARGET/`, and is tried here from then on.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use sherry_fuzzing::TARGETS;

/// Changes of each kind per input.
const CHANGES: usize = 24;
/// Targets that write files take a hundred times as long.
const SLOW: [&str; 4] = ["data_rows", "gguf_roundtrip", "model_folder", "results_file"];

/// The inputs of `target`.
fn inputs(target: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let seeds = root.join("fuzz/seeds");
    let folders = match target {
        "gguf_header" | "gguf_model" | "gguf_roundtrip" => vec![seeds.join("gguf"), seeds.join("gguf_model")],
        "parquet_rows" => vec![root.join("crates/measure/tests/golden/parquet")],
        name => vec![seeds.join(name)],
    };
    let mut files: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{target}");
    files
}

fn replay(target: &str) {
    let (_, run) = TARGETS.into_iter().find(|(name, _)| *name == target).expect("a target of this name");
    for path in inputs(target) {
        let whole = fs::read(&path).unwrap();
        let attempt = |change: String, bytes: &[u8]| {
            catch_unwind(|| run(bytes)).unwrap_or_else(|_| panic!("{target}: {}, {change}", path.display()));
        };
        attempt("as it is".to_owned(), &whole);
        let changes = if SLOW.contains(&target) { 2 } else { CHANGES };
        let place = |change: usize| change * whole.len() / changes;
        for change in 0..changes.min(whole.len()) {
            let at = place(change);
            attempt(format!("cut at byte {at}"), &whole[..at]);
            let mut bytes = whole.clone();
            bytes[at] ^= [0xff, 0x01, 0x80][change % 3];
            attempt(format!("byte {at} changed"), &bytes);
        }
    }
}

macro_rules! replayed {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })*

        #[test]
        fn every_target_is_replayed() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($target)),*]);
        }
    };
}

replayed! {
    chat_body chat_template config_json data_rows gguf_header gguf_model gguf_roundtrip model_folder packed_decode parquet_rows results_file
    safetensors_header tiktoken tokenizer_json
}
