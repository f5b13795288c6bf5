//! The examples run, with the model that lies in the command's sources.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// What an example shows, run as its first line says with `input` on stdin.
fn shown(name: &str, args: &[&str], input: &str) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--offline", "-p", "sherry", "--example", name, "--"]).args(args);
    let mut child = cargo.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
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
    assert!(shown("generate", &[model, "The history of the city"], "").len() > 20);
    assert_eq!(shown("batch", &[model, text], "").lines().count(), 2);
    let perplexity: f64 = shown("perplexity", &[model, text], "").trim().parse().unwrap();
    assert!((20.0..500.0).contains(&perplexity), "{perplexity}");
    assert!(shown("quantize", &[], "").contains(" bytes, cosine 0.9"));
    assert!(shown("chat", &[model], "Hello!\n").trim().len() > 1);
}
