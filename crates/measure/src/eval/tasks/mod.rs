//! The benchmarks, as data: what lm-evaluation-harness 0.4.13 asks and how it counts.

mod chat;
mod defined;
mod fewshot;
pub(super) mod mmlu;
mod prompts;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::data::{DataFile, DataSource, Split};
use super::lm::Request;
pub use chat::Chat;
use defined::Definition;
pub use fewshot::FEWSHOT_SEED;
use prompts::Question;
use sherry::{Error, Result};

/// A number computed from the scores of one item, averaged over items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// 1 when the choice with the largest log-likelihood is right (or, without choices, when every token of the
    /// target is the most probable one).
    Acc,
    /// 1 when the choice with the largest log-likelihood per character (not byte, not token) is right.
    AccNorm,
    /// The exponential of the mean negative log-likelihood of the targets.
    Perplexity,
}

impl Metric {
    /// The harness's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::Perplexity => "perplexity",
        }
    }

    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        self != Self::Perplexity
    }
}

/// One benchmark.
#[derive(Debug, PartialEq, Eq)]
pub struct Task {
    /// The harness's name.
    pub name: &'static str,
    /// The harness's version of the definition, which these prompts equal.
    pub version: u32,
    /// Repository on the hub.
    pub dataset: &'static str,
    /// Configuration within it.
    pub dataset_config: Option<&'static str>,
    /// Beginnings of the file names looked for in a data folder.
    pub stems: &'static [&'static str],
    /// What is scored.
    pub split: Split,
    /// What is reported, in the harness's order.
    pub metrics: &'static [Metric],
    kind: Kind,
}

/// How a row becomes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Arc,
    HellaSwag,
    Piqa,
    WinoGrande,
    OpenBookQa,
    BoolQ,
    Lambada,
    /// As a YAML file says.
    Defined(&'static Definition),
}

impl PartialEq for Definition {
    /// Definitions are made once each.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Definition {}

const CHOICE: &[Metric] = &[Metric::Acc, Metric::AccNorm];

/// Every task, in the order of the listing.
pub static TASKS: &[Task] = &[
    Task {
        name: "arc_easy",
        version: 1,
        dataset: "allenai/ai2_arc",
        dataset_config: Some("ARC-Easy"),
        stems: &["arc_easy", "ARC-Easy", "ai2_arc/ARC-Easy"],
        split: Split::Test,
        metrics: CHOICE,
        kind: Kind::Arc,
    },
    Task {
        name: "arc_challenge",
        version: 1,
        dataset: "allenai/ai2_arc",
        dataset_config: Some("ARC-Challenge"),
        stems: &["arc_challenge", "ARC-Challenge", "ai2_arc/ARC-Challenge"],
        split: Split::Test,
        metrics: CHOICE,
        kind: Kind::Arc,
    },
    Task {
        name: "hellaswag",
        version: 1,
        dataset: "Rowan/hellaswag",
        dataset_config: None,
        stems: &["hellaswag"],
        split: Split::Validation,
        metrics: CHOICE,
        kind: Kind::HellaSwag,
    },
    Task {
        name: "piqa",
        version: 1,
        dataset: "baber/piqa",
        dataset_config: None,
        stems: &["piqa"],
        split: Split::Validation,
        metrics: CHOICE,
        kind: Kind::Piqa,
    },
    Task {
        name: "winogrande",
        version: 1,
        dataset: "allenai/winogrande",
        dataset_config: Some("winogrande_xl"),
        stems: &["winogrande_xl", "winogrande", "winogrande/winogrande_xl"],
        split: Split::Validation,
        metrics: &[Metric::Acc],
        kind: Kind::WinoGrande,
    },
    Task {
        name: "openbookqa",
        version: 1,
        dataset: "allenai/openbookqa",
        dataset_config: Some("main"),
        stems: &["openbookqa", "openbookqa/main"],
        split: Split::Test,
        metrics: CHOICE,
        kind: Kind::OpenBookQa,
    },
    Task {
        name: "boolq",
        version: 2,
        dataset: "aps/super_glue",
        dataset_config: Some("boolq"),
        stems: &["boolq", "super_glue/boolq"],
        split: Split::Validation,
        metrics: &[Metric::Acc],
        kind: Kind::BoolQ,
    },
    Task {
        name: "lambada_openai",
        version: 1,
        dataset: "EleutherAI/lambada_openai",
        dataset_config: Some("default"),
        stems: &["lambada_openai", "lambada"],
        split: Split::Test,
        metrics: &[Metric::Perplexity, Metric::Acc],
        kind: Kind::Lambada,
    },
];

/// The five benchmarks of the Sherry paper (arXiv 2601.07892), whose mean is the plain mean of `acc`.
pub const SHERRY5: [&str; 5] = ["arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande"];

/// How many items of a task are run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// Every item.
    All,
    /// The first so many.
    Items(usize),
    /// The first share of them, rounded up, as the harness does for limits below 1.
    Share(f64),
}

impl Limit {
    fn of(self, items: usize) -> usize {
        match self {
            Self::All => items,
            Self::Items(n) => n.min(items),
            Self::Share(share) => ((items as f64 * share).ceil() as usize).min(items),
        }
    }
}

/// One item, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Row in the data file, from 0.
    pub index: usize,
    /// The row itself.
    pub row: Map<String, Value>,
    /// One request per choice; a single one for tasks without choices.
    pub requests: Vec<Request>,
    /// Length of each choice in characters, for [`Metric::AccNorm`].
    pub lengths: Vec<usize>,
    /// Index of the right choice.
    pub gold: usize,
    /// The right answer as text.
    pub target: String,
}

/// A task with its data: what a run needs.
#[derive(Clone, Debug)]
pub struct TaskRun {
    /// Which task.
    pub task: &'static Task,
    /// Where the scored items came from.
    pub file: PathBuf,
    /// The items to run.
    pub items: Vec<Item>,
    /// Items in the data file, before the limit.
    pub original: usize,
    /// Examples before each question.
    pub num_fewshot: usize,
    /// Seed of the few-shot sampler.
    pub fewshot_seed: u64,
    /// Where the examples came from. The harness takes the training split; from any other the numbers are not its.
    pub fewshot_split: Option<Split>,
}

impl Task {
    /// The task called `name`.
    ///
    /// # Errors
    /// [`Error::Invalid`] listing the tasks there are, the nearest first.
    pub fn find(name: &str) -> Result<&'static Self> {
        if Path::new(name).extension().is_some_and(|ending| ending == "yaml" || ending == "yml") {
            return Self::defined(Path::new(name));
        }
        let of_mmlu = || mmlu::tasks().ok()?.iter().copied().find(|task| task.name == name);
        TASKS.iter().find(|task| task.name == name).or_else(of_mmlu).ok_or_else(|| {
            let known: Vec<&str> = TASKS.iter().map(|task| task.name).chain(["mmlu"]).collect();
            let nearest = known.iter().map(|known| (distance(name, known), known)).min();
            let meant = match nearest {
                Some((changes, known)) if changes <= known.len() / 3 => format!(" (did you mean {known}?)"),
                _ => String::new(),
            };
            Error::Invalid(format!(
                "unknown task '{name}'{meant}; known: {}, sherry5 for the paper's five, and files that end in .yaml",
                known.join(", ")
            ))
        })
    }

    /// The tasks named in a comma-separated list; `sherry5` stands for the paper's five, `mmlu` for its 57 subjects, and a
    /// name that ends in `.yaml` for the task that the file defines. Duplicates count once.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_all(list: &str) -> Result<Vec<&'static Self>> {
        let mut tasks: Vec<&'static Self> = Vec::new();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let found = match name {
                "sherry5" => SHERRY5.iter().map(|name| Self::find(name)).collect::<Result<_>>()?,
                "mmlu" => mmlu::tasks()?.to_vec(),
                name => vec![Self::find(name)?],
            };
            for task in found {
                // Results stand under the names of tasks.
                match tasks.iter().find(|other| other.name == task.name) {
                    None => tasks.push(task),
                    Some(other) if *other == task => {}
                    Some(_) => return Err(Error::Invalid(format!("two tasks are called '{}'", task.name))),
                }
            }
        }
        if tasks.is_empty() {
            return Err(Error::Invalid("no task named; try --tasks sherry5".to_string()));
        }
        Ok(tasks)
    }

    /// Reads the data and builds every prompt, so that nothing can go wrong with them later.
    ///
    /// # Errors
    /// A missing set (naming the task, the file names tried and how to get it), a damaged file, a row without a
    /// needed field, a few-shot split that is missing or too small.
    pub fn prepare(
        &'static self,
        sources: &[DataSource],
        limit: Limit,
        num_fewshot: usize,
        fewshot_seed: u64,
    ) -> Result<TaskRun> {
        self.prepare_for(sources, limit, num_fewshot, fewshot_seed, None)
    }

    /// The same; with a chat template what is asked is a user's turn and the answer the assistant's.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare); [`Error::Template`].
    pub fn prepare_for(
        &'static self,
        sources: &[DataSource],
        limit: Limit,
        num_fewshot: usize,
        fewshot_seed: u64,
        chat: Option<&Chat>,
    ) -> Result<TaskRun> {
        let file = self.find_data(sources, self.split)?.ok_or_else(|| self.missing(sources, self.split))?;
        let count = limit.of(file.rows.len());
        let pool = if num_fewshot > 0 { Some(self.fewshot_pool(sources, &file)?) } else { None };
        let mut sampler = pool.as_ref().map(|pool| pool.sampler(self, num_fewshot, fewshot_seed)).transpose()?;
        let mut items = Vec::with_capacity(count);
        for (index, row) in file.rows.iter().take(count).enumerate() {
            let question = Question::new(self.kind, row, &file.path)?;
            let before = match &mut sampler {
                Some(sampler) => sampler.examples_for(row)?,
                None => Vec::new(),
            };
            items.push(question.into_item(index, row.fields.clone(), &before, chat)?);
        }
        Ok(TaskRun {
            task: self,
            original: file.rows.len(),
            file: file.path,
            items,
            num_fewshot,
            fewshot_seed,
            fewshot_split: pool.map(|pool| pool.split),
        })
    }

    /// The splits a run reads: the scored one, and with few-shot examples the one they come from.
    pub fn splits(&self, num_fewshot: usize) -> Vec<Split> {
        let examples = match self.kind {
            _ if num_fewshot == 0 => None,
            Kind::Lambada => None,
            Kind::Defined(definition) => Some(definition.examples).filter(|split| *split != self.split),
            _ => Some(Split::Train),
        };
        [self.split].into_iter().chain(examples).collect()
    }

    /// Whether examples from `split` stand in for those that the harness takes.
    pub fn stands_in(&self, split: Split) -> bool {
        match self.kind {
            Kind::Lambada | Kind::Defined(_) => false,
            _ => split != Split::Train,
        }
    }

    /// How many examples stand before each question where `asked` were asked for: a definition may say otherwise, and one that
    /// says 0 means it, as in the harness.
    pub fn fewshot_count(&self, asked: Option<usize>) -> usize {
        let own = match self.kind {
            Kind::Defined(definition) => definition.num_fewshot,
            _ => None,
        };
        if own == Some(0) { 0 } else { asked.or(own).unwrap_or(0) }
    }

    /// Whether `sources` have a split.
    ///
    /// # Errors
    /// As [`DataSource::files`].
    pub fn has_data(&self, sources: &[DataSource], split: Split) -> Result<bool> {
        if let Kind::Defined(definition) = self.kind
            && definition.has_files()
        {
            return Ok(true);
        }
        for source in sources {
            if !source.files(self.stems, self.dataset_config, split)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn find_data(&self, sources: &[DataSource], split: Split) -> Result<Option<DataFile>> {
        if let Kind::Defined(definition) = self.kind
            && definition.has_files()
        {
            return definition.read(split);
        }
        DataFile::find(sources, self.stems, self.dataset_config, split)
    }

    fn missing(&self, sources: &[DataSource], split: Split) -> Error {
        let tried: Vec<String> =
            self.stems.iter().map(|stem| format!("{stem}_{}.jsonl[.gz|.zst]", split.name())).collect();
        let folders: Vec<String> = sources
            .iter()
            .map(|source| match source {
                DataSource::Folder(folder) | DataSource::HubSet(folder) => folder.display().to_string(),
            })
            .collect();
        let config = self.dataset_config.map(|config| format!(" (configuration {config})")).unwrap_or_default();
        Error::Invalid(format!(
            "task {}: no {} data in {}: looked for {} (also .parquet, and with '-' or '/' before the split); get the \
             hub's data set {}{config} with `sherry pull --dataset {}`, or name another folder with --data",
            self.name,
            split.name(),
            folders.join(" or "),
            tried.join(", "),
            self.dataset,
            self.name
        ))
    }
}

/// Insertions, deletions and changes of letters that make `a` to `b`, upper and lower case and `-` and `_` being alike.
fn distance(a: &str, b: &str) -> usize {
    let plain = |text: &str| -> Vec<char> {
        text.chars().take(64).map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
    };
    let (a, b) = (plain(a), plain(b));
    // Distances from the letters of `a` so far to each beginning of `b`.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
