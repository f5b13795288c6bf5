//! Solved examples before each question, drawn as the harness draws them.
//!
//! Equal to the harness: the generator (CPython's, seeded per task), one draw per item in file order, the order of the
//! examples, leaving out an example equal to the item where the harness does. So with the same training split in the
//! same order the prompts are equal. Not equal: when a folder lacks the training split, the validation split stands in
//! (never the scored one, except for LAMBADA, which the harness itself samples from its test split).

use super::super::data::{DataFile, DataSource, Row, Split};
use super::super::python::Random;
use super::chat::Example;
use super::defined::Draw;
use super::{Kind, Question, Task};
use sherry::{Error, Result};

/// The harness's default seed.
pub const FEWSHOT_SEED: u64 = 1234;

/// Where examples are drawn from.
pub(super) struct Pool {
    file: DataFile,
    pub(super) split: Split,
}

impl Task {
    /// The examples for this task, whose scored rows are `scored`.
    pub(super) fn fewshot_pool(&self, sources: &[DataSource], scored: &DataFile) -> Result<Pool> {
        if self.kind == Kind::Lambada {
            return Ok(Pool { file: scored.clone(), split: self.split });
        }
        if let Kind::Defined(definition) = self.kind {
            let split = definition.examples;
            let file = self.find_data(sources, split)?.ok_or_else(|| self.missing(sources, split))?;
            return Ok(Pool { file, split });
        }
        if let Some(file) = self.find_data(sources, Split::Train)? {
            return Ok(Pool { file, split: Split::Train });
        }
        if self.split != Split::Validation
            && let Some(file) = self.find_data(sources, Split::Validation)?
        {
            return Ok(Pool { file, split: Split::Validation });
        }
        Err(Error::Invalid(format!(
            "few-shot examples come from the training split; {}",
            self.missing(sources, Split::Train)
        )))
    }
}

impl Pool {
    pub(super) fn sampler(&self, task: &Task, count: usize, seed: u64) -> Result<Sampler<'_>> {
        // The harness leaves out an example equal to the item only where it scores the validation split.
        let (excludes, draw) = match task.kind {
            Kind::Defined(definition) => (definition.excludes, definition.draw),
            _ => (task.split == Split::Validation, Draw::Random),
        };
        let needed = count.saturating_add(usize::from(excludes && draw == Draw::Random));
        if needed > self.file.rows.len() {
            return Err(Error::Invalid(format!(
                "task {}: {count} few-shot examples asked for, {} has {} rows",
                task.name,
                self.file.path.display(),
                self.file.rows.len()
            )));
        }
        Ok(Sampler { file: &self.file, kind: task.kind, count, excludes, draw, random: Random::new(seed) })
    }
}

/// Draws examples; must be asked once per item, in order.
pub(super) struct Sampler<'a> {
    file: &'a DataFile,
    kind: Kind,
    count: usize,
    excludes: bool,
    draw: Draw,
    random: Random,
}

impl Sampler<'_> {
    /// The examples before `row`, each with its answer.
    pub(super) fn examples_for(&mut self, row: &Row) -> Result<Vec<Example>> {
        let rows = &self.file.rows;
        let too_few = || Error::Invalid(format!("{}: too few rows for few-shot examples", self.file.path.display()));
        let mut picked: Vec<usize>;
        if self.draw == Draw::First {
            let others = (0..rows.len()).filter(|&i| !self.excludes || rows[i].fields != row.fields);
            picked = others.take(self.count).collect();
            if picked.len() < self.count {
                return Err(too_few());
            }
        } else if self.excludes {
            picked = self.random.sample(rows.len(), self.count + 1).ok_or_else(too_few)?;
            picked.retain(|&i| rows[i].fields != row.fields);
            picked.truncate(self.count);
            if picked.len() < self.count {
                let pool: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].fields != row.fields).collect();
                let again = self.random.sample(pool.len(), self.count).ok_or_else(too_few)?;
                picked = again.into_iter().map(|i| pool[i]).collect();
            }
        } else {
            picked = self.random.sample(rows.len(), self.count).ok_or_else(too_few)?;
        }
        picked.iter().map(|&i| Ok(Question::new(self.kind, &rows[i], &self.file.path)?.example())).collect()
    }
}
