//! Official clients against the server.

use std::process::Command;

use sherry_server::Keys;
use sherry_testing::{Outcome, node, python};

#[allow(dead_code)] // the other tests use more of it
#[path = "http/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "http/fixture.rs"]
mod fixture;

use fixture::{Server, TOOLS};

sherry_testing::main![openai_for_python, openai_for_node, langchain, litellm];

/// Runs a script against servers; it prints "ok" and a name for each of its `checks`.
fn passes(mut interpreter: Command, script: &str, addresses: &[&str], checks: usize) {
    let script = format!("{}/tests/{script}", env!("CARGO_MANIFEST_DIR"));
    let output = interpreter.arg(script).args(addresses).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let passed = stdout.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(output.status.success() && passed == checks, "after {stdout}: {stderr}");
}

fn openai_for_python() -> Outcome {
    let python = python(&["openai"])?;
    let open = Server::start_with(Some(TOOLS), |_| {});
    let closed = Server::start_with(Some(TOOLS), |config| config.keys = Keys::parse("secret\n"));
    passes(python, "python/openai_client.py", &[&open.address, &closed.address], 11);
    Ok(())
}

fn openai_for_node() -> Outcome {
    let node = node(&["openai"])?;
    passes(node, "node/openai_client.js", &[&Server::start_with(Some(TOOLS), |_| {}).address], 5);
    Ok(())
}

fn langchain() -> Outcome {
    let python = python(&["langchain_openai"])?;
    passes(python, "python/langchain_client.py", &[&Server::start_with(Some(TOOLS), |_| {}).address], 5);
    Ok(())
}

fn litellm() -> Outcome {
    let python = python(&["litellm"])?;
    passes(python, "python/litellm_client.py", &[&Server::start_with(Some(TOOLS), |_| {}).address], 3);
    Ok(())
}
