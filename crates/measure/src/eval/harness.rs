//! Runs tasks over a model.

use std::time::Instant;

use super::journal::Journal;
use super::lm::{Lm, Request, Score};
use super::metrics::{Estimate, aggregate, item_value};
use super::tasks::{Metric, TaskRun};
use sherry::{Error, Progress, Result};

/// What a model answered to a task.
#[derive(Clone, Debug)]
pub struct TaskScores {
    /// Per item of the run, in order, one score per request.
    pub scores: Vec<Vec<Score>>,
    /// Items taken from the journal of an earlier run.
    pub resumed: usize,
    /// Seconds the remaining items took.
    pub seconds: f64,
}

impl TaskScores {
    /// The value of `metric` for every item of `run`.
    pub fn values(&self, run: &TaskRun, metric: Metric) -> Vec<f64> {
        run.items.iter().zip(&self.scores).map(|(item, scores)| item_value(metric, item, scores)).collect()
    }

    /// The metric over all items.
    pub fn estimate(&self, run: &TaskRun, metric: Metric, bootstrap: usize) -> Estimate {
        aggregate(metric, &self.values(run, metric), bootstrap)
    }

    /// Items per second, without those of an earlier run; `None` when nothing ran.
    pub fn rate(&self) -> Option<f64> {
        let ran = self.scores.len() - self.resumed;
        (ran > 0 && self.seconds > 0.0).then(|| ran as f64 / self.seconds)
    }
}

/// Asks `lm` every item of `run` that the journal does not already hold, and notes each answer in the journal at once.
///
/// # Errors
/// Whatever the model or the journal reports; [`Error::Interrupted`] when the user asked to stop. Finished items are
/// in the journal all the same.
pub fn run(
    lm: &mut dyn Lm,
    run: &TaskRun,
    journal: Option<&mut Journal>,
    progress: &dyn Progress,
) -> Result<TaskScores> {
    let started = Instant::now();
    let mut journal = journal;
    let mut scores: Vec<Option<Vec<Score>>> =
        run.items.iter().map(|item| journal.as_ref()?.find(run.task, item)).collect();
    let open: Vec<usize> = (0..scores.len()).filter(|&i| scores[i].is_none()).collect();
    let resumed = scores.len() - open.len();
    let groups: Vec<Vec<Request>> = open.iter().map(|&i| run.items[i].requests.clone()).collect();
    let work: Vec<u64> = groups.iter().map(|group| effort(group)).collect();
    progress.start(&format!("{}, {} items", run.task.name, groups.len()), work.iter().sum());
    let result = if groups.is_empty() {
        Ok(())
    } else {
        lm.loglikelihood(&groups, &mut |group, answer| {
            let (Some(&index), Some(&work)) = (open.get(group), work.get(group)) else {
                return Err(Error::Invalid(format!(
                    "task {}: the model answered group {group}, never asked",
                    run.task.name
                )));
            };
            let item = &run.items[index];
            if answer.len() != item.requests.len() || answer.iter().any(|score| score.logprob.is_nan()) {
                let problem = "the model's log-likelihoods are missing or not numbers";
                return Err(Error::Invalid(format!("task {}, item {}: {problem}", run.task.name, item.index)));
            }
            if let Some(journal) = &mut journal {
                journal.add(run.task, item, &answer)?;
            }
            scores[index] = Some(answer);
            progress.advance(work);
            if progress.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
        })
    };
    progress.finish();
    if let Some(journal) = &mut journal {
        // A full disk must not hide why the run ended.
        let synced = journal.sync();
        result?;
        synced?;
    } else {
        result?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let scores: Option<Vec<Vec<Score>>> = scores.into_iter().collect();
    let scores =
        scores.ok_or_else(|| Error::Invalid(format!("task {}: the model left items unanswered", run.task.name)))?;
    Ok(TaskScores { scores, resumed, seconds })
}

/// About how much work a group is, for progress: characters read once and characters scored.
fn effort(group: &[Request]) -> u64 {
    let read = group.iter().map(|request| request.context.len()).max().unwrap_or(0);
    let scored: usize = group.iter().map(|request| request.continuation.len()).sum();
    (read + scored) as u64
}

#[cfg(test)]
#[path = "harness_tests.rs"]
mod tests;
