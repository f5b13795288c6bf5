use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::eval::data::DataSource;
use crate::eval::lm::WindowScore;
use crate::eval::tasks::{Limit, Task};
use crate::eval::windows::Windows;
use sherry::NoProgress;

/// Scores by text alone: minus the continuation's length, so the shortest choice wins and acc_norm always ties.
#[derive(Default)]
struct Toy {
    asked: usize,
    fail_after: Option<usize>,
    nan: bool,
}

impl Lm for Toy {
    fn loglikelihood(
        &mut self,
        groups: &[Vec<Request>],
        done: &mut dyn FnMut(usize, Vec<Score>) -> Result<()>,
    ) -> Result<()> {
        // Backwards: the harness must not count on an order.
        for (i, group) in groups.iter().enumerate().rev() {
            if self.fail_after == Some(self.asked) {
                return Err(Error::Invalid("killed".to_string()));
            }
            self.asked += 1;
            let length = |request: &Request| (request.continuation.chars().count() - 1) as f64;
            let score = |request: &Request| Score {
                logprob: if self.nan { f64::NAN } else { -length(request) / 4.0 },
                is_greedy: length(request) == 1.0,
            };
            done(i, group.iter().map(score).collect())?;
        }
        Ok(())
    }

    fn loglikelihood_rolling(
        &mut self,
        _: &str,
        _: Windows,
        _: &mut dyn FnMut(WindowScore) -> Result<()>,
    ) -> Result<()> {
        unreachable!()
    }

    fn generate_until(&mut self, _: &str, _: &[String], _: usize) -> Result<String> {
        unreachable!()
    }

    fn max_length(&self) -> usize {
        1024
    }
}

fn piqa(folder: &Path) -> TaskRun {
    let lines: Vec<String> = (0..20)
        .map(|i| {
            let (short, long) = ("s".repeat(1 + i), "l".repeat(30 + i));
            format!(r#"{{"goal": "g{i}", "sol1": "{short}", "sol2": "{long}", "label": {}}}"#, usize::from(i % 4 == 0))
        })
        .collect();
    fs::write(folder.join("piqa_validation.jsonl"), lines.join("\n")).unwrap();
    Task::find("piqa").unwrap().prepare(&[DataSource::Folder(folder.to_path_buf())], Limit::All, 0, 0).unwrap()
}

#[test]
fn known_scores_give_known_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let task = piqa(folder.path());
    let scores = run(&mut Toy::default(), &task, None, &NoProgress).unwrap();
    // The shorter choice, number 0, always wins; per character all tie and the first wins. Gold is 1 in 5 of 20.
    for metric in [Metric::Acc, Metric::AccNorm] {
        let estimate = scores.estimate(&task, metric, 0);
        assert_eq!(estimate.value, 0.75);
        assert!((estimate.stderr.unwrap() - (0.25f64 * 0.75 / 19.0).sqrt()).abs() < 1e-15);
    }
    assert_eq!((scores.resumed, scores.scores.len()), (0, 20));
}

#[test]
fn a_killed_run_continues_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let task = piqa(folder.path());
    let path = folder.path().join("out.cache.jsonl");
    let whole = run(&mut Toy::default(), &task, None, &NoProgress).unwrap();

    let mut killed = Toy { fail_after: Some(12), ..Toy::default() };
    let mut journal = Journal::open(&path, "model A").unwrap();
    assert!(Journal::open(&path, "model A").unwrap_err().to_string().contains("another evaluation"));
    assert!(run(&mut killed, &task, Some(&mut journal), &NoProgress).is_err());
    drop(journal);
    // The last line was cut off in the middle, and one in the middle is damaged.
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 12);
    lines[3] = "{\"task\": nonsense";
    let (last, rest) = lines.split_last().unwrap();
    fs::write(&path, format!("{}\n{}", rest.join("\n"), &last[..last.len() / 2])).unwrap();

    let mut journal = Journal::open(&path, "model A").unwrap();
    assert_eq!((journal.len(), journal.damaged()), (10, 2));
    let mut second = Toy::default();
    let continued = run(&mut second, &task, Some(&mut journal), &NoProgress).unwrap();
    assert_eq!((continued.resumed, second.asked), (10, 10));
    assert_eq!(continued.scores, whole.scores);
    drop(journal);

    // Everything is known now, under this identity only.
    let mut journal = Journal::open(&path, "model A").unwrap();
    let third =
        run(&mut Toy { fail_after: Some(0), ..Toy::default() }, &task, Some(&mut journal), &NoProgress).unwrap();
    assert_eq!((third.resumed, third.rate()), (20, None));
    drop(journal);
    let mut journal = Journal::open(&path, "model B").unwrap();
    let mut other = Toy::default();
    run(&mut other, &task, Some(&mut journal), &NoProgress).unwrap();
    assert_eq!(other.asked, 20);
    journal.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn changed_prompts_are_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut task = piqa(folder.path());
    let path = folder.path().join("out.cache.jsonl");
    let mut journal = Journal::open(&path, "m").unwrap();
    run(&mut Toy::default(), &task, Some(&mut journal), &NoProgress).unwrap();
    task.items[7].requests[1].continuation.push('!');
    let mut toy = Toy::default();
    run(&mut toy, &task, Some(&mut journal), &NoProgress).unwrap();
    assert_eq!(toy.asked, 1);
}

#[test]
fn garbage_in_the_journal_is_not_fatal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    file.write_all(b"\xff\xfe\n").unwrap();
    file.write_all(&vec![b'x'; 3 << 20]).unwrap();
    file.write_all(b"\n{\"task\":\"a\",\"item\":0,\"key\":\"k\",\"logprobs\":[\"NaN\"],\"greedy\":[true]}\n").unwrap();
    file.write_all(b"{\"task\":\"a\",\"item\":0,\"key\":\"k\",\"logprobs\":[],\"greedy\":[true]}\n").unwrap();
    let journal = Journal::open(&path, "m").unwrap();
    assert!(journal.is_empty() && journal.damaged() >= 4);
}

#[cfg(target_os = "linux")] // /dev/full refuses every byte
#[test]
fn a_full_disk_ends_the_run_with_one_error() {
    let full = Path::new("/dev/full");
    let folder = tempfile::tempdir().unwrap();
    let task = piqa(folder.path());
    // Reading it is endless zeros, so only its writing side is used.
    let mut journal = Journal::open(&folder.path().join("j"), "m").unwrap();
    journal.redirect(full);
    let error = run(&mut Toy::default(), &task, Some(&mut journal), &NoProgress).unwrap_err().to_string();
    assert!(error.contains("cannot write") && error.contains("/dev/full"), "{error}");
}

#[test]
fn a_model_without_numbers_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let task = piqa(folder.path());
    let error = run(&mut Toy { nan: true, ..Toy::default() }, &task, None, &NoProgress).unwrap_err().to_string();
    assert!(error.contains("task piqa, item 19") && error.contains("not numbers"), "{error}");
}

#[test]
fn stopping_keeps_what_is_finished() {
    struct StopAfter(AtomicUsize);
    impl Progress for StopAfter {
        fn start(&self, _: &str, _: u64) {}
        fn advance(&self, _: u64) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
        fn finish(&self) {}
        fn note(&self, _: &str) {}
        fn is_cancelled(&self) -> bool {
            self.0.load(Ordering::Relaxed) == 0
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let task = piqa(folder.path());
    let mut journal = Journal::open(&folder.path().join("j"), "m").unwrap();
    let stopped = run(&mut Toy::default(), &task, Some(&mut journal), &StopAfter(AtomicUsize::new(4)));
    assert!(matches!(stopped, Err(Error::Interrupted)));
    let kept: HashSet<usize> = (0..20).filter(|&i| journal.find(task.task, &task.items[i]).is_some()).collect();
    assert_eq!(kept, HashSet::from([16, 17, 18, 19]));
}
