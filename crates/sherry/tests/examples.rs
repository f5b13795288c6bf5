//! The examples run, with the model that lies in the command's sources.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// The example that `cargo test` has built beside this test. A test that was built alone has it built as its first line
/// says, which may compile the library again with other features.
fn example(name: &str) -> Command {
    let folder = std::env::current_exe().unwrap().parent().unwrap().join("../examples");
    let built = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).with_extension("rs");
    let changed = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    if changed(&built) > changed(&source) {
        return Command::new(built);
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--offline", "-p", "sherry", "--example", name, "--"]);
    cargo
}

/// What an example shows with `input` on stdin.
fn shown(name: &str, args: &[&str], input: &str) -> String {
    let mut child =
        example(name).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn examples_do_what_they_say() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/model/sherry-tiny.gguf");
    let model = model.to_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "The city lies on a river.\nIn the morning the ships come in.\n").unwrap();
    let text = text.to_str().unwrap();
    assert!(shown("generate", &[model, "Once upon a time"], "").len() > 20);
    assert_eq!(shown("batch", &[model, text], "").lines().count(), 2);
    let perplexity: f64 = shown("perplexity", &[model, text], "").trim().parse().unwrap();
    assert!((20.0..500.0).contains(&perplexity), "{perplexity}");
    assert!(shown("quantize", &[], "").contains(" bytes, cosine 0.9"));
    assert!(shown("chat", &[model], "Hello!\n").trim().len() > 1);
}
