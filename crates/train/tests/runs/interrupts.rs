//! An interrupt is seen soon, wherever it comes, and changes nothing of how the run ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Asks to stop from the n-th question on.
struct StopAtQuestion {
    left: AtomicUsize,
    asked: AtomicUsize,
}

impl StopAtQuestion {
    fn new(question: usize) -> Self {
        Self { left: question.into(), asked: 0.into() }
    }
}

impl Progress for StopAtQuestion {
    fn start(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
    fn note(&self, _: &str) {}
    fn is_cancelled(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

/// With a teacher, a learned vocabulary, probes and validations: all that a run does.
fn overrides(folder: &Path) -> Vec<String> {
    let teacher = train(
        folder,
        "teacher",
        &["steps=1", "quantizer.method=none", "data.tokenizer={ vocab = 270 }", "metrics.valid_every=0"],
        &NoProgress,
    );
    let teacher = teacher.unwrap().checkpoint;
    [
        "steps=3",
        "data.tokenizer={ vocab = 270 }",
        "metrics.probe_every=2",
        "metrics.valid_every=2",
        "loss.distillation=1",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([format!("loss.teacher={}", teacher.display())])
    .collect()
}

/// Validation losses by step.
fn losses(run: &Path) -> Vec<(u64, f64)> {
    let lines = metrics(run);
    lines.iter().filter_map(|line| Some((line["step"].as_u64()?, line["valid_loss"].as_f64()?))).collect()
}

fn interrupted(result: Result<Outcome, Error>) -> bool {
    match result {
        Ok(outcome) => !outcome.finished,
        Err(Error::Library(sherry::Error::Interrupted)) => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_run_interrupted_at_any_question_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let overrides = overrides(folder.path());
    let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
    let whole = train(folder.path(), "whole", &overrides, &NoProgress).unwrap();
    let whole_run = folder.path().join("whole");
    let same = |run: &str| {
        let run = folder.path().join(run);
        assert_same_checkpoint(&whole.checkpoint, &run.join(whole.checkpoint.file_name().unwrap()));
        assert_eq!(losses(&run), losses(&whole_run));
    };
    // Question by question through the opening, which begins anew each time, then step by step.
    let mut question = 0;
    while interrupted(train(folder.path(), "parts", &overrides, &StopAtQuestion::new(question))) {
        let _ = fs::remove_dir_all(folder.path().join("cache"));
        question += 1 + question / 40;
    }
    assert!(question > 100, "{question}");
    same("parts");
    // And once in a run, at questions all over its steps, probes and validations.
    let counter = StopAtQuestion::new(usize::MAX);
    train(folder.path(), "counted", &overrides, &counter).unwrap();
    let questions = counter.asked.load(Ordering::Relaxed);
    for question in (0..questions).step_by(67) {
        let run = format!("at-{question}");
        assert!(interrupted(train(folder.path(), &run, &overrides, &StopAtQuestion::new(question))), "{question}");
        train(folder.path(), &run, &overrides, &NoProgress).unwrap();
        same(&run);
    }
}

/// Between two questions nothing may take long: with products of hundreds of millions of multiplications there are many.
#[test]
fn questions_are_asked_all_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let progress = StopAtQuestion::new(usize::MAX);
    train(folder.path(), "run", &["steps=2", "batch.accumulate=1", "metrics.valid_every=0"], &progress).unwrap();
    let few = progress.asked.load(Ordering::Relaxed);
    let progress = StopAtQuestion::new(usize::MAX);
    train(folder.path(), "more", &["steps=2", "batch.accumulate=3", "metrics.valid_every=0"], &progress).unwrap();
    let many = progress.asked.load(Ordering::Relaxed);
    // Every pass asks before each of its products and blocks of attention.
    assert!(many >= few + 2 * 2 * 2 * 12, "{few} {many}");
}
