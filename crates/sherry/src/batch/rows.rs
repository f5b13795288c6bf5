//! From the logits of a step to tokens, scores and news.

use std::ops::Range;

use super::sequence::{Part, Picked, Sequence};
use super::{BatchEngine, JobId, Output, StepReport};
use crate::Result;
use crate::generate::{TokenScore, TokenSet};
use crate::model::PAGE;

/// A sequence after a step.
struct Entry {
    id: JobId,
    choice: usize,
    /// Its first row of logits.
    row: usize,
    part: Part,
    /// Positions before the step.
    start: usize,
    /// Whether nothing had been generated then.
    prompt: bool,
    /// Prompt tokens that its rows score.
    scored: Range<usize>,
    /// Whether its last row gives the next token.
    picks: bool,
    /// Choices that begin here.
    forks: Vec<Sequence>,
}

/// What is made of one row; rows are independent of each other.
enum Task<'a> {
    Score { row: usize, token: u32, top: usize, score: Option<Result<TokenScore>> },
    Pick { rows: Range<usize>, sequence: &'a mut Sequence, picked: Option<Result<Picked>> },
}

impl Task<'_> {
    fn run<'l>(&mut self, logits: impl Fn(usize) -> &'l [f32], usable: Option<&TokenSet>, context: usize) {
        match self {
            Self::Score { row, token, top, score } => *score = Some(TokenScore::new(logits(*row), *token, *top)),
            Self::Pick { rows, sequence, picked } => {
                *picked = Some(sequence.pick(rows.clone().map(logits), usable, context));
            }
        }
    }
}

/// What has become of the rows of an entry.
#[derive(Default)]
struct Results {
    scores: Vec<Result<TokenScore>>,
    /// Of the sequence and its forks.
    picked: Vec<Result<Picked>>,
}

impl BatchEngine {
    /// Picks tokens and computes scores by the logits of a step, and tells the news.
    pub(super) fn read_rows(
        &mut self,
        plan: &[(usize, Part)],
        report: &mut StepReport,
        deliver: &mut dyn FnMut(JobId, Output),
    ) {
        let mut entries = self.entries(plan, report);
        let results = self.results(plan, &mut entries);
        for (entry, results) in entries.into_iter().zip(results) {
            let id = entry.id;
            if let Err(error) = self.tell(entry, results, report, deliver) {
                // All choices of the job end.
                self.running.retain(|sequence| sequence.id != id);
                self.waiting.retain(|sequence| sequence.id != id);
                deliver(id, Output::Failed(error));
            }
        }
    }

    /// Where each sequence of a plan stands after the step.
    fn entries(&mut self, plan: &[(usize, Part)], report: &mut StepReport) -> Vec<Entry> {
        let mut row = 0;
        let mut entries = Vec::with_capacity(plan.len());
        for &(index, part) in plan {
            let sequence = &mut self.running[index];
            let start = sequence.pages.len() - part.tokens;
            let picks = sequence.pages.len() == sequence.ids.len() + part.proposed;
            let scored = sequence.scored_by(start, part);
            let choices = if picks { std::mem::take(&mut sequence.forks) } else { 0 };
            let forks = (1..=choices).map(|choice| sequence.fork(choice, &self.tokenizer)).collect();
            let (id, choice) = sequence.age();
            let prompt = sequence.generated() == 0;
            entries.push(Entry { id, choice, row, part, start, prompt, scored, picks, forks });
            row += part.rows();
            if prompt || part.tokens > 1 + part.proposed {
                report.prompt_tokens += part.tokens;
            }
        }
        entries
    }

    /// Works on all rows, spread over the threads.
    fn results(&mut self, plan: &[(usize, Part)], entries: &mut [Entry]) -> Vec<Results> {
        let logits = self.decoder.logits();
        let mut tasks: Vec<(usize, Task<'_>)> = Vec::new();
        let mut rest = &mut self.running[..];
        let mut passed = 0;
        for (at, (entry, (index, _))) in entries.iter_mut().zip(plan).enumerate() {
            let (_, after) = rest.split_at_mut(index - passed);
            let Some((sequence, after)) = after.split_first_mut() else { break };
            (rest, passed) = (after, index + 1);
            let top = sequence.job.scores.prompt.map_or(0, |scores| scores.top);
            tasks.extend(entry.scored.clone().map(|position| {
                let row = entry.row + position - 1 - entry.start;
                (at, Task::Score { row, token: sequence.ids[position], top, score: None })
            }));
            if entry.picks {
                let end = entry.row + entry.part.rows();
                let rows = end - 1 - entry.part.proposed..end;
                tasks.push((at, Task::Pick { rows: rows.clone(), sequence, picked: None }));
                let forks = entry.forks.iter_mut();
                tasks.extend(forks.map(|sequence| (at, Task::Pick { rows: rows.clone(), sequence, picked: None })));
            }
        }
        let (usable, context) = (self.usable.as_ref(), self.options.context);
        self.decoder.engine().pool().for_chunks(&mut tasks, 1, |_, tasks| {
            tasks.iter_mut().for_each(|(_, task)| task.run(|row| logits.row(row), usable, context));
        });
        let mut results: Vec<Results> = plan.iter().map(|_| Results::default()).collect();
        for (at, task) in tasks {
            match task {
                Task::Score { score, .. } => results[at].scores.extend(score),
                Task::Pick { picked, .. } => results[at].picked.extend(picked),
            }
        }
        results
    }

    /// Tells what a step has done for one sequence, and ends or starts what is to.
    fn tell(
        &mut self,
        entry: Entry,
        results: Results,
        report: &mut StepReport,
        deliver: &mut dyn FnMut(JobId, Output),
    ) -> Result<()> {
        // A sequence whose job has failed is gone.
        let Some(index) = self.running.iter().position(|sequence| sequence.age() == (entry.id, entry.choice)) else {
            return Ok(());
        };
        let sequence = &mut self.running[index];
        let (held, prompt) = (sequence.pages.len(), sequence.job.prompt);
        report.proposed += entry.part.proposed;
        if entry.prompt {
            let (done, cached) = (held.min(prompt), sequence.cached.unwrap_or(0));
            deliver(entry.id, Output::Prompt { done, total: prompt, cached });
        }
        if !entry.scored.is_empty() {
            let scores = results.scores.into_iter().collect::<Result<Vec<_>>>()?;
            deliver(entry.id, Output::PromptScores { first: entry.scored.start, scores });
        }
        if self.options.prefix_cache && held / PAGE > entry.start / PAGE {
            // Full pages at once: others may be waiting for the same beginning.
            self.prefix.insert(&sequence.job.scope, &sequence.ids, &self.pool, &mut sequence.pages, false);
        }
        let mut picked = results.picked.into_iter();
        let Some(own) = picked.next() else { return Ok(()) };
        for (mut fork, picked) in entry.forks.into_iter().zip(picked) {
            if !self.continue_with(&mut fork, picked?, report, deliver) {
                // Without a page it waits for one; the prefix will be computed again, or found.
                if self.free_pages(1)
                    && let Ok(pages) = self.pool.fork(&self.running[index].pages)
                {
                    fork.pages = pages;
                    self.start(fork);
                } else {
                    self.waiting.push(fork);
                }
            }
        }
        // Forks are younger: the sequence is still where it was.
        let mut sequence = self.running.remove(index);
        if self.continue_with(&mut sequence, own?, report, deliver) {
            self.keep_pages(&mut sequence);
        } else {
            self.start(sequence);
        }
        Ok(())
    }

    /// Tells of the tokens picked for a sequence; whether it has ended.
    fn continue_with(
        &mut self,
        sequence: &mut Sequence,
        picked: Picked,
        report: &mut StepReport,
        deliver: &mut dyn FnMut(JobId, Output),
    ) -> bool {
        let count = picked.outputs.len();
        picked.outputs.into_iter().for_each(|output| deliver(sequence.id, output));
        self.clients.serve(&sequence.job.client, count, self.now);
        self.totals.generated_tokens += count as u64;
        report.accepted += count.saturating_sub(1);
        report.generated += 1;
        let Some(finish) = picked.finish else { return false };
        deliver(sequence.id, sequence.finished(finish));
        report.finished += 1;
        true
    }
}
