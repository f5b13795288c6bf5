//! Official clients against the server, and requests that are generated from its description of itself.

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

sherry_testing::main![openai_for_python, openai_for_node, langchain, litellm, schemathesis];

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
    let narrow = narrow();
    passes(python, "python/openai_client.py", &[&open.address, &closed.address, &narrow.address], 12);
    Ok(())
}

fn openai_for_node() -> Outcome {
    let node = node(&["openai"])?;
    let open = Server::start_with(Some(TOOLS), |_| {});
    let narrow = narrow();
    passes(node, "node/openai_client.js", &[&open.address, &narrow.address], 6);
    Ok(())
}

/// A server in which few requests may wait.
fn narrow() -> Server {
    Server::start(|config| config.max_queue = 1)
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

/// Requests after `openapi.json`: every answer is one that it describes, and what it forbids is refused.
fn schemathesis() -> Outcome {
    let mut python = python(&["schemathesis"])?;
    let server = Server::start_with(Some(TOOLS), |_| {});
    let well = server.check();
    let address = format!("http://{}/openapi.json", server.address);
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/schemathesis.toml");
    python.args(["-m", "schemathesis.cli", "--config-file", config, "--no-color", "run", &address]);
    // It keeps notes where it runs.
    let output = python.current_dir(env!("CARGO_TARGET_TMPDIR")).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}: {stderr}");
    server.is_well(&well);
    Ok(())
}
