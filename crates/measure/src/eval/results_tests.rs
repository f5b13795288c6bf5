use std::fs;

use super::*;
use crate::eval::data::DataSource;
use crate::eval::lm::Score;
use crate::eval::tasks::Limit;

fn outcome(folder: &Path, task: &'static str, right: &[bool]) -> Outcome {
    let lines: Vec<String> =
        (0..right.len()).map(|i| format!(r#"{{"goal": "é{i}", "sol1": "a", "sol2": "bb", "label": 0}}"#)).collect();
    fs::write(folder.join(format!("{task}_validation.jsonl")), lines.join("\n")).unwrap();
    let run =
        Task::find(task).unwrap().prepare(&[DataSource::Folder(folder.to_path_buf())], Limit::All, 0, 1234).unwrap();
    let pair = |&right: &bool| {
        let score = |logprob| Score { logprob, is_greedy: false };
        vec![score(if right { -1.0 } else { -9.5 }), score(-2.25)]
    };
    let scores = TaskScores { scores: right.iter().map(pair).collect(), resumed: 0, seconds: 2.0 };
    Outcome::new(run, scores)
}

fn evaluation(folder: &Path, right: &[bool]) -> Evaluation {
    Evaluation {
        model: ModelCard {
            name: "models/tiny.sherry".into(),
            format: "sherry".into(),
            sha256: "00ff".into(),
            bytes: 1000,
            parameters: 6400,
            linear_bits: 1.25,
        },
        settings: Map::from_iter([("threads".to_string(), json!(2))]),
        outcomes: vec![outcome(folder, "piqa", right)],
        perplexities: Vec::new(),
        date: 1.5,
        seconds: 2.0,
        git_hash: "unknown".to_owned(),
        command: "sherry eval model".to_owned(),
    }
}

#[test]
fn the_file_has_the_harnesses_shape() {
    let folder = tempfile::tempdir().unwrap();
    let value = evaluation(folder.path(), &[true, true, false, true]).to_json();
    let piqa = &value["results"]["piqa"];
    assert_eq!(piqa["acc,none"], json!(0.75));
    assert_eq!(piqa["acc_norm,none"], json!(0.75));
    assert_eq!(piqa["acc_stderr,none"], json!(0.25));
    assert_eq!((&piqa["alias"], &piqa["sample_len"]), (&json!("piqa"), &json!(4)));
    assert_eq!(value["n-samples"]["piqa"], json!({ "original": 4, "effective": 4 }));
    assert_eq!((&value["versions"]["piqa"], &value["n-shot"]["piqa"]), (&json!(1.0), &json!(0)));
    assert_eq!(value["higher_is_better"]["piqa"], json!({ "acc": true, "acc_norm": true }));
    assert_eq!(value["config"]["limit"], Value::Null);
    assert_eq!(value["config"]["model_sha"], json!("00ff"));
}

#[test]
fn samples_are_written_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.json");
    let first = evaluation(folder.path(), &[true, true, false, true]);
    first.write(&path, true).unwrap();
    let samples = fs::read_to_string(folder.path().join("out.samples_piqa.jsonl")).unwrap();
    let sample: Value = serde_json::from_str(samples.lines().nth(2).unwrap()).unwrap();
    assert_eq!(sample["filtered_resps"], json!([["-9.5", "False"], ["-2.25", "False"]]));
    assert_eq!(sample["arguments"]["gen_args_1"], json!({ "arg_0": "Question: é2\nAnswer:", "arg_1": " bb" }));
    assert_eq!((&sample["acc"], &sample["doc"]["goal"], &sample["target"]), (&json!(0.0), &json!("é2"), &json!("a")));

    let file = ResultsFile::read(&path).unwrap();
    assert_eq!(file.label(), "tiny.sherry");
    assert_eq!(file.model.as_ref(), Some(&first.model));
    let run = &first.outcomes[0].run;
    assert_eq!(file.item_values(run, Metric::Acc).unwrap(), [1.0, 1.0, 0.0, 1.0]);

    // Another prompt, or more items than were run, cannot be compared.
    let mut other = run.clone();
    other.items[1].requests[0].context.push('?');
    assert!(file.item_values(&other, Metric::Acc).unwrap_err().to_string().contains("another prompt"));
    let longer = outcome(folder.path(), "piqa", &[true; 5]).run;
    assert!(file.item_values(&longer, Metric::Acc).unwrap_err().to_string().contains("item 4: missing"));
    first.write(&folder.path().join("bare.json"), false).unwrap();
    let bare = ResultsFile::read(&folder.path().join("bare.json")).unwrap();
    assert!(bare.item_values(run, Metric::Acc).unwrap_err().to_string().contains("--log-samples"));
}

#[test]
fn several_files_make_one_report() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.json"), folder.path().join("b.json"));
    evaluation(folder.path(), &[true, false]).write(&a, false).unwrap();
    // A file of the harness itself: no model card, another task.
    fs::write(&b, r#"{"results": {"arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_norm,none": 0.25}}}"#)
        .unwrap();
    let files = [ResultsFile::read(&a).unwrap(), ResultsFile::read(&b).unwrap()];
    let report = Report::new(&files, Metric::AccNorm);
    assert_eq!(report.tasks, ["arc_easy", "piqa"]);
    assert_eq!(report.rows[0].values, [None, Some(0.5)]);
    assert_eq!((report.rows[1].values.clone(), report.rows[1].mean), (vec![Some(0.25), None], None));
    assert_eq!(report.rows[1].label, "b.json");
    assert_eq!(Report::new(&files[..1], Metric::Acc).rows[0].mean, Some(0.5));
}

#[test]
fn damaged_result_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.json");
    for (text, expected) in [("{", "not JSON"), ("{}", "field 'results'"), ("{\"results\": []}", "field 'results'")] {
        fs::write(&path, text).unwrap();
        let error = ResultsFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("r.json") && error.contains(expected), "{error}");
    }
    assert!(ResultsFile::read(&folder.path().join("none.json")).unwrap_err().to_string().contains("none.json"));
}

#[test]
fn the_papers_mean_needs_all_five() {
    let folder = tempfile::tempdir().unwrap();
    let one = outcome(folder.path(), "piqa", &[true, false]);
    assert_eq!(paper_mean(std::slice::from_ref(&one)), None);
    let five: Vec<Outcome> = SHERRY5
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let mut outcome = one.clone();
            outcome.run.task = Task::find(name).unwrap();
            outcome.metrics = vec![(Metric::Acc, Estimate { value: i as f64 / 10.0, stderr: Some(0.5) })];
            outcome
        })
        .collect();
    let mean = paper_mean(&five).unwrap();
    assert!((mean.value - 0.2).abs() < 1e-15 && (mean.stderr.unwrap() - 0.5 / 5f64.sqrt()).abs() < 1e-15);
}
