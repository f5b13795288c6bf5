use std::fs;
use std::path::Path;

use super::*;
use crate::eval::data::DataSource;
use crate::eval::python::Random;

fn rows(folder: &Path, name: &str, rows: &[String]) {
    fs::write(folder.join(name), rows.join("\n")).unwrap();
}

fn piqa(i: usize) -> String {
    format!(r#"{{"goal": "g{i}", "sol1": "a{i}", "sol2": "b{i}", "label": {}}}"#, i % 2)
}

#[test]
fn few_shot_examples_are_drawn_as_the_harness_draws_them() {
    let folder = tempfile::tempdir().unwrap();
    let train: Vec<String> = (0..30).map(piqa).collect();
    rows(folder.path(), "piqa_train.jsonl", &train);
    rows(folder.path(), "piqa_validation.jsonl", &[piqa(5), piqa(40)]);
    let run = Task::find("piqa")
        .unwrap()
        .prepare(&[DataSource::Folder(folder.path().to_path_buf())], Limit::All, 2, FEWSHOT_SEED)
        .unwrap();
    assert_eq!(run.fewshot_split, Some(Split::Train));
    // Three are drawn per item, those equal to the item leave, two remain.
    let mut random = Random::new(FEWSHOT_SEED);
    for (item, own) in run.items.iter().zip([5, 40]) {
        let drawn: Vec<usize> = random.sample(30, 3).unwrap().into_iter().filter(|&i| i != own).take(2).collect();
        let shots: String = drawn
            .iter()
            .map(|i| format!("Question: g{i}\nAnswer: {}{i}\n\n", if i % 2 == 0 { "a" } else { "b" }))
            .collect();
        assert_eq!(item.requests[1].context, format!("{shots}Question: g{own}\nAnswer:"));
        assert_eq!(item.requests[1].continuation, format!(" b{own}"));
    }
}

#[test]
fn few_shot_prompts_keep_the_harnesses_oddities() {
    let folder = tempfile::tempdir().unwrap();
    let words = |i: usize| format!(r#"{{"text": "a b\nc w{i}"}}"#);
    rows(folder.path(), "lambada_test.jsonl", &[words(0), words(1)]);
    let run = Task::find("lambada_openai")
        .unwrap()
        .prepare(&[DataSource::Folder(folder.path().to_path_buf())], Limit::Items(1), 1, 7)
        .unwrap();
    let request = &run.items[0].requests[0];
    // The target brings its own space, the joint another; the item itself may be its own example.
    assert!(request.context.starts_with("a b\nc  w") && request.context.ends_with("\n\na b\nc"), "{request:?}");
    assert_eq!(request.continuation, " w0");

    let blank =
        |name: &str| format!(r#"{{"sentence": "{name} _ sat . ", "option1": "X", "option2": "Y", "answer": "2"}}"#);
    rows(folder.path(), "winogrande_train.jsonl", &[blank("t"), blank("t")]);
    rows(folder.path(), "winogrande_dev.jsonl", &[blank("v")]);
    let run = Task::find("winogrande")
        .unwrap()
        .prepare(&[DataSource::Folder(folder.path().to_path_buf())], Limit::All, 1, 7)
        .unwrap();
    let contexts: Vec<&str> = run.items[0].requests.iter().map(|request| request.context.as_str()).collect();
    assert_eq!(contexts, ["t Y sat .\n\nv X", "t Y sat .\n\nv Y"]);
    assert!(run.items[0].requests.iter().all(|request| request.continuation == " sat ."));
}

#[test]
fn missing_data_says_what_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let task = Task::find("winogrande").unwrap();
    let error =
        task.prepare(&[DataSource::Folder(folder.path().to_path_buf())], Limit::All, 0, 0).unwrap_err().to_string();
    for part in [
        "task winogrande",
        "winogrande_xl_validation.jsonl[.gz|.zst]",
        "allenai/winogrande",
        "pull --dataset winogrande",
    ] {
        assert!(error.contains(part), "{error}");
    }
    rows(folder.path(), "piqa_validation.jsonl", &[piqa(0), piqa(1)]);
    let piqa_task = Task::find("piqa").unwrap();
    let error = piqa_task
        .prepare(&[DataSource::Folder(folder.path().to_path_buf())], Limit::All, 3, 0)
        .unwrap_err()
        .to_string();
    assert!(error.contains("training split") && error.contains("piqa_train.jsonl"), "{error}");
    rows(folder.path(), "piqa_train.jsonl", &[piqa(0), piqa(1)]);
    let error = piqa_task
        .prepare(&[DataSource::Folder(folder.path().to_path_buf())], Limit::All, 3, 0)
        .unwrap_err()
        .to_string();
    assert!(error.contains("has 2 rows"), "{error}");
}

#[test]
fn rows_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("piqa", "piqa_validation", r#"{"goal": "g", "sol1": "a", "sol2": "b", "label": 2}"#, "number 2 of 2"),
        (
            "arc_easy",
            "arc_easy_test",
            r#"{"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "1"}"#,
            "'1' is none of the labels A",
        ),
        (
            "winogrande",
            "winogrande_validation",
            r#"{"sentence": "no blank", "option1": "a", "option2": "b", "answer": "1"}"#,
            "blank",
        ),
        (
            "winogrande",
            "winogrande_validation",
            r#"{"sentence": "a _", "option1": "a", "option2": "b", "answer": ""}"#,
            "expected '1' or '2'",
        ),
        ("boolq", "boolq_validation", r#"{"passage": "p", "question": "q", "answer": 3}"#, "true or false"),
        ("lambada_openai", "lambada_test", r#"{"text": "one"}"#, "two words"),
        ("hellaswag", "hellaswag_validation", r#"{"ctx_a": "p"}"#, "field 'activity_label'"),
    ];
    for (task, file, row, expected) in cases {
        rows(folder.path(), &format!("{file}.jsonl"), &[row.to_string()]);
        let error = Task::find(task)
            .unwrap()
            .prepare(&[DataSource::Folder(folder.path().to_path_buf())], Limit::All, 0, 0)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected) && error.contains("line 1"), "{error}");
    }
}

#[test]
fn tasks_are_found_by_name() {
    assert_eq!(Task::find_all("sherry5").unwrap().len(), 5);
    let names: Vec<&str> = Task::find_all("boolq, piqa,boolq").unwrap().iter().map(|task| task.name).collect();
    assert_eq!(names, ["boolq", "piqa"]);
    let error = Task::find_all("piqa,mmmlu_x").unwrap_err().to_string();
    assert!(error.contains("'mmmlu_x'") && error.contains("hellaswag"), "{error}");
    for (typed, meant) in [("hella_swag", "hellaswag"), ("ARC-Easy", "arc_easy"), ("winogrand", "winogrande")] {
        let error = Task::find(typed).unwrap_err().to_string();
        assert!(error.contains(&format!("did you mean {meant}?")), "{error}");
    }
    assert!(!Task::find("xyz").unwrap_err().to_string().contains("mean"));
    let mmlu = Task::find_all("mmlu,mmlu_anatomy").unwrap();
    assert_eq!((mmlu.len(), mmlu[1].name, mmlu[1].dataset_config), (57, "mmlu_anatomy", Some("anatomy")));
    assert_eq!((mmlu[1].splits(0), mmlu[1].splits(5)), (vec![Split::Test], vec![Split::Test, Split::Dev]));
    assert!(Task::find_all(" ,").is_err());
    assert_eq!(Limit::Share(0.1).of(15), 2);
    assert_eq!((Limit::Items(9).of(3), Limit::All.of(3)), (3, 3));
}

/// Writes a definition, changed, and reads it.
fn defined(folder: &Path, change: &str) -> Result<&'static Task> {
    let text = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: t.jsonl}}\ntest_split: test\n\
                output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: [a, b]\ndoc_to_target: gold\n";
    let key = change.split(':').next().unwrap();
    let kept: String =
        text.lines().filter(|line| !line.starts_with(&format!("{key}:"))).map(|line| format!("{line}\n")).collect();
    let path = folder.join("mine.yaml");
    fs::write(&path, kept + change + "\n").unwrap();
    Task::defined(&path)
}

#[test]
fn what_would_change_numbers_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(defined(folder, "tag: some").is_ok());
    for (change, words) in [
        ("process_docs: x", "'process_docs'"),
        ("filter_list: []", "'filter_list'"),
        ("gen_prefix: So", "'gen_prefix'"),
        ("doc_to_text: !function u.f", "!function"),
        ("output_type: generate_until", "generate_until"),
        ("metric_list: [{metric: exact_match}]", "'exact_match'"),
        ("metric_list: [{metric: acc, ignore_case: true}]", "'metric_list.ignore_case'"),
        ("metric_list: [{metric: acc, aggregation: median}]", "'median'"),
        ("doc_to_choice: [yes, no]", "need quotes"),
        ("doc_to_choice:", "'doc_to_choice': missing"),
        ("fewshot_config: {sampler: balanced}", "balanced"),
        ("fewshot_config: {samples: []}", "'fewshot_config.samples'"),
        ("test_split: holdout", "'holdout'"),
        ("num_fewshot: many", "'num_fewshot'"),
        ("task: a/b", "'a/b'"),
        ("dataset_kwargs: {}", "data_files"),
        ("repeats: 3", "'repeats'"),
        ("description: '{% if %}'", "'description'"),
        ("include: none.yaml", "none.yaml"),
        ("include: mine.yaml", "inside each other"),
    ] {
        let error = defined(folder, change).unwrap_err().to_string();
        assert!(error.contains(words), "{change}: {error}");
    }
}

#[test]
fn rows_that_do_not_fit_a_definition_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let prepared = |change: &str, row: &str| {
        fs::write(folder.join("t.jsonl"), format!("{{\"q\": \"?\", \"gold\": 0}}\n{row}\n")).unwrap();
        defined(folder, change).unwrap().prepare(&[], Limit::All, 0, 1234)
    };
    assert!(prepared("tag: some", "{\"q\": \"?\", \"gold\": 1}").is_ok());
    for (change, row, words) in [
        ("tag: some", "{\"gold\": 1}", "doc_to_text"),
        ("tag: some", "{\"q\": \"?\", \"gold\": 2}", "2 is none of the 2 choices"),
        ("tag: some", "{\"q\": \"?\", \"gold\": -1}", "-1 is none"),
        ("tag: some", "{\"q\": \"7\", \"gold\": 1}", "gives a number"),
        ("tag: some", "{\"q\": \"?\", \"gold\": [0, 1]}", "none of the"),
        ("doc_to_choice: q", "{\"q\": \"?\", \"gold\": 1}", "doc_to_choice"),
    ] {
        let error = prepared(change, row).unwrap_err().to_string();
        assert!(error.contains("t.jsonl") && error.contains(words), "{change} {row}: {error}");
    }
}
