//! The page of `sherry report` in a browser: readable at every width, in light and dark, with values under the pointer, and
//! without the network.

use std::fs;

use sherry_testing::{Outcome, chromium, node};

#[allow(dead_code)] // the other tests use more of it
#[path = "cli/fixture.rs"]
mod fixture;

use fixture::{succeeds, with_model, write_config, write_piqa};

sherry_testing::main![page];

/// Parts of the script, each of which says "ok" for each page.
const PARTS: usize = 5;

fn page() -> Outcome {
    let mut node = node(&["playwright-core", "axe-core"])?;
    let chromium = chromium()?;
    let place = with_model();
    let folder = place.path();
    write_config(folder, 60);
    write_piqa(&folder.join("data"), 8);
    let sentence = "The tide rises, the tide falls, the twilight darkens, the curlew calls. ";
    fs::write(folder.join("text.txt"), sentence.repeat(60)).unwrap();
    for line in [
        "train small.toml --run one",
        "train small.toml optimizer.lr=1e-3 arenas.shape=cosine --run two<b>&",
        "train small.toml steps=1 --run short",
        "calibrate dense tuned --data text.txt --own-text 0 --tokens 1024 --held-out 256 --length 64 --sweeps 2 \
         --tune-tokens 512",
        "eval dense --tasks piqa --data data --ppl text.txt --ppl-window 64 -o dense.json",
        "eval tuned --tasks piqa --data data --ppl text.txt --ppl-window 64 -o tuned.json",
        "report one two<b>& -o runs.html",
        "report short -o short.html",
        "report one tuned.report.json dense.json tuned.json -o all.html",
        "report dense.json tuned.json --metric acc_norm -o results.html",
    ] {
        succeeds(folder, line);
    }
    let pictures = format!("{}/../../target/report", env!("CARGO_MANIFEST_DIR"));
    fs::create_dir_all(&pictures).unwrap();
    let pages = ["runs", "short", "all", "results"].map(|name| folder.join(format!("{name}.html")));
    let script = format!("{}/tests/node/report.js", env!("CARGO_MANIFEST_DIR"));
    let output = node.arg(script).arg(chromium).arg(pictures).args(&pages).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let passed = stdout.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(output.status.success() && passed == PARTS * pages.len(), "after {passed} parts: {stdout}: {stderr}");
    Ok(())
}
