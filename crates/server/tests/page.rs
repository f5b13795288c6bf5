//! The chat page in a browser: what a person does on it, that everybody can, and that nothing else happens.

use sherry_server::Keys;
use sherry_testing::{Outcome, chromium, node};

#[allow(dead_code)] // the other tests use more of it
#[path = "http/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "http/fixture.rs"]
mod fixture;

use fixture::{Gate, Server, load};

sherry_testing::main![page];

/// Parts of the script, each of which says "ok".
const PARTS: usize = 16;

fn page() -> Outcome {
    let mut node = node(&["playwright-core", "axe-core"])?;
    let chromium = chromium()?;
    // A gate that is open: answers take a moment, so that they can be stopped.
    let chat = Server::start(|config| config.probe = Gate::default().probe());
    let text = Server::start_on(|| load(None, |_, _| {}), |_| {});
    let closed = Server::start(|config| config.keys = Keys::parse("secret\n"));
    let pictures = format!("{}/../../target/page", env!("CARGO_MANIFEST_DIR"));
    std::fs::create_dir_all(&pictures).unwrap();
    let script = format!("{}/tests/node/page.js", env!("CARGO_MANIFEST_DIR"));
    let addresses = [&chat.address, &text.address, &closed.address];
    let output = node.arg(script).arg(chromium).arg(pictures).args(addresses).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let passed = stdout.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(output.status.success() && passed == PARTS, "after {passed} parts: {stdout}: {stderr}");
    Ok(())
}
