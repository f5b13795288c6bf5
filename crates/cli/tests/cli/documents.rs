//! Help, manual pages, completions and the report about this machine.

use crate::fixture::{document, run, succeeds, workplace};

const COMMANDS: [&str; 16] = [
    "demo",
    "models",
    "pull",
    "quantize",
    "run",
    "inspect",
    "compare",
    "convert",
    "eval",
    "report",
    "tokenizer",
    "train",
    "export",
    "bench",
    "doctor",
    "completions",
];

/// No recipe comes with its text, so each says, above the names of the files, where they come from.
#[test]
fn every_recipe_says_where_its_data_comes_from() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");
    let mut recipes = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| *line == "[data]").unwrap();
        assert!(lines[at - 1].starts_with("# ") && lines[at + 1].starts_with("train = "), "{}", path.display());
        recipes += 1;
    }
    assert!(recipes >= 6);
}

#[test]
fn help_names_every_command_and_gives_examples() {
    let place = workplace();
    let help = succeeds(place.path(), "--help");
    assert!(help.contains("Examples:"));
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
        let help = succeeds(place.path(), &format!("{command} --help"));
        assert!(help.contains("Usage: sherry ") && help.contains("Example"), "{command}: {help}");
    }
    let version = succeeds(place.path(), "--version");
    assert_eq!(version, format!("sherry {}\n", env!("CARGO_PKG_VERSION")));
    // Without a command the help is the error message.
    let outcome = run(place.path(), "");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
    assert!(outcome.stderr.contains("Usage: sherry"));
}

#[test]
fn completions_and_manual_pages_are_complete() {
    let place = workplace();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = succeeds(place.path(), &format!("completions {shell}"));
        assert!(COMMANDS.iter().all(|command| script.contains(command)), "{shell}");
        assert!(script.contains("group-size"), "{shell}");
    }
    let page = succeeds(place.path(), "man");
    assert!(page.contains(".TH sherry 1") && COMMANDS.iter().all(|command| page.contains(command)), "{page}");
    for command in COMMANDS {
        let page = succeeds(place.path(), &format!("man {command}"));
        assert!(page.contains(".SH SYNOPSIS") && page.contains(".SH OPTIONS"), "{command}: {page}");
    }
}

#[test]
fn the_machine_is_described() {
    let place = workplace();
    let report = document(place.path(), "doctor");
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    let isas = report["isa"]["available"].as_array().unwrap();
    assert!(isas.contains(&"scalar".into()) && isas.contains(&report["isa"]["chosen"]), "{report}");
    assert!(report["threads"]["default"].as_u64() >= Some(1));
    for limit in ["streaming_read_bytes_per_second", "int8_macs_per_second"] {
        assert!(report[limit]["1"].as_f64().unwrap() > 0.0, "{report}");
    }
    for tier in report["isa"]["tiers"].as_array().unwrap() {
        let missing = tier["missing"].as_array().unwrap();
        assert_eq!(
            (tier["available"].as_bool(), isas.contains(&tier["isa"])),
            (Some(missing.is_empty()), missing.is_empty())
        );
    }
    let kernels = report["kernels"].as_array().unwrap();
    assert!(kernels.iter().any(|family| family["formats"].as_array().unwrap().contains(&"sherry-1.25".into())));
    assert!(!report["threads"]["reason"].as_str().unwrap().is_empty());
}
