//! Event files, read by TensorBoard itself.

use std::fs;
use std::path::Path;

use serde_json::Value;
use sherry::NoProgress;
use sherry_testing::{Outcome, python};
use sherry_train::{Config, Resume, Trainer};

sherry_testing::main![tensorboard_shows_what_the_metrics_say];

/// Prints scalars and histograms as JSON: `{tag: [[step, value], ...]}`, a histogram by its buckets.
const READER: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'histograms': 0})
events.Reload()
tags = events.Tags()
out = {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags['scalars']}
out |= {tag: [[e.step, list(e.histogram_value.bucket)] for e in events.Histograms(tag)] for tag in tags['histograms']}
print(json.dumps(out))
";

fn tensorboard_shows_what_the_metrics_say() -> Outcome {
    let mut reader = python(&["tensorboard.backend.event_processing.event_accumulator"])?;
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("train.txt");
    fs::write(&text, "The tide rises, the tide falls, the twilight darkens, the curlew calls. ".repeat(40)).unwrap();
    fs::write(folder.path().join("valid.txt"), "The little waves, with their soft, white hands. ".repeat(9)).unwrap();
    let run = folder.path().join("run");
    let train = |steps: u64, resume: Resume| {
        let toml = format!(
            "steps = 12\n[model]\nhidden = 32\nffn = 64\nlayers = 1\nheads = 2\n[optimizer]\nlr = 1e-3\n\
             [batch]\nlength = 16\nsize = 2\n[data]\ntrain = [{text:?}]\nvalid = [{:?}]\ntokenizer = \"bytes\"\n\
             [checkpoint]\nevery = 4\nkeep = 9\n[metrics]\nevery = 1\nprobe_every = 3\nvalid_every = 4\n",
            folder.path().join("valid.txt")
        );
        let config = Config::parse(Path::new("run.toml"), &toml, &[]).unwrap();
        let mut trainer = Trainer::open(config, &run, &resume, &NoProgress).unwrap();
        assert_eq!(trainer.run(&NoProgress).unwrap().step, steps);
    };
    train(12, Resume::Auto);
    // Gone back to the middle: what the first file has after it counts no longer.
    train(12, Resume::From(run.join("checkpoint-00000008")));
    let files = fs::read_dir(&run).unwrap().filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("events.out.tfevents."))
    });
    assert_eq!(files.count(), 2);

    let output = reader.args(["-c", READER]).arg(&run).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let close = |a: &Value, b: &Value| {
        let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
        (a - b).abs() <= 1e-6 * b.abs()
    };
    let pairs = [
        ("/loss", "loss/train"),
        ("/valid_loss", "loss/valid"),
        ("/valid_loss_with_lambda", "loss/valid_with_lambda"),
        ("/lr", "train/learning_rate"),
        ("/lambda", "train/lambda"),
        ("/grad_norm", "train/gradient_norm"),
        ("/tokens", "train/tokens"),
        ("/flip_rate", "weights/flip_rate"),
        ("/effective_rank/q", "effective_rank/q"),
        ("/valley_share/down", "valley_share/down"),
        ("/grad_norms/up", "gradient_norm/up"),
    ];
    for (field, tag) in pairs {
        let expected: Vec<(&Value, &Value)> =
            lines.iter().filter_map(|line| Some((&line["step"], line.pointer(field)?))).collect();
        let shown = found[tag].as_array().unwrap_or_else(|| panic!("no {tag}"));
        assert!(!expected.is_empty() && shown.len() == expected.len(), "{tag}: {shown:?}, expected {expected:?}");
        for (shown, (step, value)) in shown.iter().zip(expected) {
            assert!(shown[0] == *step && close(&shown[1], value), "{tag}: {shown}, expected {value} at {step}");
        }
    }
    let probed: Vec<&Value> = lines.iter().filter(|line| line.get("histogram").is_some()).collect();
    let shown = found["weight_over_alpha/gate"].as_array().unwrap();
    assert_eq!(shown.len(), probed.len());
    for (shown, line) in shown.iter().zip(probed) {
        let shares = line["histogram"]["gate"].as_array().unwrap();
        let counts = shown[1].as_array().unwrap();
        // TensorBoard may merge buckets; what all of them hold stays.
        let sum = |values: &[Value]| values.iter().map(|value| value.as_f64().unwrap()).sum::<f64>();
        assert!((sum(counts) - 1e5 * sum(shares)).abs() < 1.0, "{shown}");
    }
    Ok(())
}
