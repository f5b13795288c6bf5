//! Tasks from YAML files beside lm-evaluation-harness: the same questions, answers and examples, as text and as conversations.

use sherry_testing::{Outcome, python};

#[allow(dead_code)] // the other tests use more of it
#[path = "cli/fixture.rs"]
mod fixture;

use fixture::{command, with_model};

sherry_testing::main![tasks_are_asked_as_the_harness_asks_them];

fn tasks_are_asked_as_the_harness_asks_them() -> Outcome {
    let mut python = python(&["lm_eval", "datasets", "yaml", "jinja2"])?;
    let place = with_model();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/defined_tasks.py");
    let sherry = command(place.path(), ["eval"]);
    let output = python.arg(script).arg(sherry.get_program()).current_dir(place.path()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("ok 160 runs of tasks"), "{stdout}: {stderr}");
    Ok(())
}
