//! Notes the revision of the source tree, which results of `sherry eval` name.

#![allow(clippy::print_stdout)] // that is how build scripts speak

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_string()).filter(|text| !text.is_empty())
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SHERRY_GIT_HASH");
    // A commit changes one of these files.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| std::path::Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    // Somebody who builds from an archive may say which one it is.
    let given = std::env::var("SHERRY_GIT_HASH").ok().filter(|given| !given.is_empty());
    let hash = given.or_else(|| git(&["rev-parse", "--short=12", "HEAD"])).unwrap_or_else(|| "unknown".to_string());
    println!("cargo::rustc-env=SHERRY_GIT_HASH={hash}");
}
