//! Results as files: one JSON in the harness's shape, and one line per item when samples are logged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::data::{DataFile, Split};
use super::harness::TaskScores;
use super::metrics::{BOOTSTRAP_ITERATIONS, Estimate, weighted_mean};
use super::model_card::ModelCard;
use super::perplexity::Perplexity;
use super::table::{self, TableTask};
use super::tasks::{Metric, SHERRY5, Task, TaskRun, mmlu};
use super::windows::Windows;
use sherry::io::{AtomicFile, hex, read_regular, write_atomic};
use sherry::{Error, Result};

/// The largest results file read back.
const MAX_RESULTS: u64 = 64 << 20;

/// One task as it ran.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The items.
    pub run: TaskRun,
    /// The answers.
    pub scores: TaskScores,
    /// What is reported.
    pub metrics: Vec<(Metric, Estimate)>,
}

impl Outcome {
    /// Computes the task's metrics; the error of a perplexity takes a few seconds.
    pub fn new(run: TaskRun, scores: TaskScores) -> Self {
        let metrics = run
            .task
            .metrics
            .iter()
            .map(|&metric| (metric, scores.estimate(&run, metric, BOOTSTRAP_ITERATIONS)))
            .collect();
        Self { run, scores, metrics }
    }

    /// Its part of the harness's table.
    pub fn table(&self) -> TableTask {
        TableTask {
            name: self.run.task.name.to_string(),
            version: self.run.task.version,
            num_fewshot: Some(self.run.num_fewshot),
            metrics: self.metrics.clone(),
        }
    }

    fn estimate(&self, metric: Metric) -> Option<Estimate> {
        self.metrics.iter().find(|(found, _)| *found == metric).map(|(_, estimate)| *estimate)
    }
}

/// The paper's summary: the plain mean of `acc` over its five tasks, if all of them ran.
pub fn paper_mean(outcomes: &[Outcome]) -> Option<Estimate> {
    let acc = |name: &&str| outcomes.iter().find(|o| o.run.task.name == *name)?.estimate(Metric::Acc);
    let five: Vec<Estimate> = SHERRY5.iter().map(acc).collect::<Option<_>>()?;
    let n = five.len() as f64;
    let errors: Option<Vec<f64>> = five.iter().map(|estimate| estimate.stderr).collect();
    Some(Estimate {
        value: five.iter().map(|estimate| estimate.value).sum::<f64>() / n,
        stderr: errors.map(|errors| errors.iter().map(|e| e * e).sum::<f64>().sqrt() / n),
    })
}

/// The mean of `acc` over a group of tasks, each weighing as many items as it has.
#[derive(Clone, Debug)]
pub struct GroupOutcome {
    /// The harness's name of the group.
    pub name: &'static str,
    /// What its table calls it.
    pub label: &'static str,
    /// Names of the tasks.
    pub tasks: Vec<String>,
    /// The mean.
    pub acc: Estimate,
}

/// The groups of which all tasks ran, as the harness averages them: MMLU and the four groups of its subjects.
pub fn groups(outcomes: &[Outcome]) -> Vec<GroupOutcome> {
    let group = |(name, label, tasks): (&'static str, &'static str, Vec<String>)| {
        let of = |task: &String| {
            let outcome = outcomes.iter().find(|outcome| outcome.run.task.name == *task)?;
            Some((outcome.run.items.len(), outcome.estimate(Metric::Acc)?))
        };
        let parts: Vec<(usize, Estimate)> = tasks.iter().map(of).collect::<Option<_>>()?;
        Some(GroupOutcome { name, label, tasks, acc: weighted_mean(&parts) })
    };
    mmlu::groups().filter_map(group).collect()
}

impl GroupOutcome {
    fn table(&self) -> TableTask {
        TableTask {
            name: self.label.to_owned(),
            version: mmlu::GROUP_VERSION,
            num_fewshot: None,
            metrics: vec![(Metric::Acc, self.acc)],
        }
    }
}

/// The harness's tables: of tasks, and of groups where there are any.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let tasks: Vec<_> = outcomes.iter().map(Outcome::table).collect();
    let groups: Vec<_> = groups(outcomes).iter().map(GroupOutcome::table).collect();
    let mut text = table::markdown("Tasks", &tasks);
    if !groups.is_empty() {
        text.push('\n');
        text += &table::markdown("Groups", &groups);
    }
    text
}

/// Perplexity of one text.
#[derive(Clone, Debug)]
pub struct PerplexityOutcome {
    /// The text's file name.
    pub file: String,
    /// How it was cut.
    pub windows: Windows,
    /// The sums.
    pub sums: Perplexity,
}

/// Everything one evaluation produced.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// What was evaluated.
    pub model: ModelCard,
    /// How: precision, KV type, context, threads, kernels; goes into the file as it is.
    pub settings: Map<String, Value>,
    /// Tasks in the order asked for.
    pub outcomes: Vec<Outcome>,
    /// Perplexities.
    pub perplexities: Vec<PerplexityOutcome>,
    /// Seconds since 1970 when it began.
    pub date: f64,
    /// Seconds it took.
    pub seconds: f64,
    /// Revision of the source tree the program was built from, or "unknown".
    pub git_hash: String,
    /// The command, as it was typed.
    pub command: String,
}

impl Evaluation {
    /// The results in the harness's shape. What the harness does not know is under `sherry`.
    pub fn to_json(&self) -> Value {
        let by_task = |value: &dyn Fn(&Outcome) -> Value| -> Value {
            self.outcomes.iter().map(|outcome| (outcome.run.task.name.to_string(), value(outcome))).collect()
        };
        let groups = groups(&self.outcomes);
        fn by_group<'a>(value: &'a dyn Fn(&GroupOutcome) -> Value) -> impl Fn(&GroupOutcome) -> (String, Value) + 'a {
            move |group| (group.name.to_owned(), value(group))
        }
        let fewshot_seed = self.outcomes.first().map(|outcome| outcome.run.fewshot_seed);
        let limited = self.outcomes.iter().any(|outcome| outcome.run.items.len() < outcome.run.original);
        let limit = self.outcomes.iter().map(|outcome| outcome.run.items.len()).max();
        json!({
            "results": by_task(&Outcome::results),
            "groups": groups.iter().map(by_group(&|group| json!({
                "alias": group.label, "acc,none": group.acc.value, "acc_stderr,none": group.acc.stderr,
            }))).collect::<Value>(),
            "group_subtasks": groups.iter().map(by_group(&|group| json!(group.tasks))).collect::<Value>(),
            "configs": by_task(&Outcome::config),
            "versions": by_task(&|outcome| json!(f64::from(outcome.run.task.version))),
            "n-shot": by_task(&|outcome| json!(outcome.run.num_fewshot)),
            "higher_is_better": by_task(&|outcome| {
                outcome.metrics.iter().map(|(m, _)| (m.name().to_string(), json!(m.higher_is_better()))).collect()
            }),
            "n-samples": by_task(&|outcome| {
                json!({ "original": outcome.run.original, "effective": outcome.run.items.len() })
            }),
            "config": {
                "model": "sherry",
                "model_args": self.settings,
                "model_num_parameters": self.model.parameters,
                "model_dtype": self.model.format,
                "model_sha": self.model.sha256,
                "device": "cpu",
                "limit": limit.filter(|_| limited),
                "bootstrap_iters": BOOTSTRAP_ITERATIONS,
                "fewshot_seed": fewshot_seed,
            },
            "git_hash": self.git_hash,
            "date": self.date,
            "model_source": "sherry",
            "model_name": self.model.name,
            "total_evaluation_time_seconds": self.seconds.to_string(),
            "sherry": {
                "version": env!("CARGO_PKG_VERSION"),
                "command": self.command,
                "model": self.model,
                "mean_acc_of_five": paper_mean(&self.outcomes).map(|mean| json!({ "value": mean.value, "stderr": mean.stderr })),
                "perplexity": self.perplexities.iter().map(PerplexityOutcome::to_json).collect::<Vec<_>>(),
                "seconds": by_task(&|outcome| json!(outcome.scores.seconds)),
                "items_per_second": by_task(&|outcome| json!(outcome.scores.rate())),
            },
        })
    }

    /// Writes the results to `path` and, with `samples`, one JSONL file per task beside it; each appears whole or not
    /// at all, the results last.
    ///
    /// # Errors
    /// [`Error::Io`], for example when the disk is full.
    pub fn write(&self, path: &Path, samples: bool) -> Result<()> {
        if samples {
            for outcome in &self.outcomes {
                let mut file = AtomicFile::create(&samples_path(path, outcome.run.task.name))?;
                for index in 0..outcome.run.items.len() {
                    file.write(format!("{}\n", outcome.sample(index)).as_bytes())?;
                }
                file.commit()?;
            }
        }
        write_document(path, &self.to_json())
    }
}

/// Writes a results file, whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write_document(path: &Path, document: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(document).map_err(|error| Error::Invalid(error.to_string()))?;
    write_atomic(path, format!("{text}\n").as_bytes())
}

impl PerplexityOutcome {
    fn to_json(&self) -> Value {
        json!({
            "file": self.file,
            "convention": self.windows.to_string(),
            "tokens_scored": self.sums.tokens,
            "windows": self.sums.windows.len(),
            "perplexity": self.sums.value(),
            "perplexity_stderr": self.sums.stderr(),
        })
    }
}

impl Outcome {
    fn results(&self) -> Value {
        let name = self.run.task.name;
        let mut results = Map::new();
        results.insert("name".into(), json!(name));
        results.insert("alias".into(), json!(name));
        results.insert("sample_len".into(), json!(self.run.items.len()));
        for (metric, estimate) in &self.metrics {
            results.insert(format!("{},none", metric.name()), json!(estimate.value));
            let stderr = estimate.stderr.map_or(json!("N/A"), |stderr| json!(stderr));
            results.insert(format!("{}_stderr,none", metric.name()), stderr);
        }
        results.into()
    }

    fn config(&self) -> Value {
        let task = self.run.task;
        json!({
            "task": task.name,
            "dataset_path": task.dataset,
            "dataset_name": task.dataset_config,
            "split": task.split.name(),
            "data_file": self.run.file,
            "num_fewshot": self.run.num_fewshot,
            "fewshot_split": self.run.fewshot_split.map(Split::name),
            "metadata": { "version": f64::from(task.version) },
        })
    }

    /// One item as the harness's `--log_samples` writes it.
    fn sample(&self, index: usize) -> Value {
        let (item, scores) = (&self.run.items[index], &self.scores.scores[index]);
        let hash = |text: &str| hex(&Sha256::digest(text.as_bytes()));
        let response = |i: usize| {
            let greedy = if scores[i].is_greedy { "True" } else { "False" };
            json!([scores[i].logprob.to_string(), greedy])
        };
        let responses: Vec<Value> = (0..scores.len()).map(response).collect();
        let arguments: Map<String, Value> = item
            .requests
            .iter()
            .enumerate()
            .map(|(i, request)| {
                (format!("gen_args_{i}"), json!({ "arg_0": request.context, "arg_1": request.continuation }))
            })
            .collect();
        let context = item.requests.first().map_or("", |request| &request.context);
        let mut sample = json!({
            "doc_id": item.index,
            "doc": item.row,
            "target": item.target,
            "gold": item.gold,
            "arguments": arguments,
            "resps": responses.iter().map(|response| json!([response])).collect::<Vec<_>>(),
            "filtered_resps": responses,
            "filter": "none",
            "metrics": self.metrics.iter().map(|(metric, _)| metric.name()).collect::<Vec<_>>(),
            "prompt_hash": hash(context),
            "target_hash": hash(&item.target),
        });
        for (metric, _) in &self.metrics {
            sample[metric.name()] = json!(super::metrics::item_value(*metric, item, scores));
        }
        sample
    }
}

/// Where the samples of `task` are, beside the results at `path`.
pub fn samples_path(path: &Path, task: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}.samples_{task}.jsonl"))
}

/// Results read back from a file this program wrote.
#[derive(Clone, Debug)]
pub struct ResultsFile {
    /// Where.
    pub path: PathBuf,
    /// The model, when the file says.
    pub model: Option<ModelCard>,
    /// Metric values by task name and metric name.
    pub metrics: BTreeMap<String, BTreeMap<String, f64>>,
    /// Standard errors, likewise, where they are known.
    pub errors: BTreeMap<String, BTreeMap<String, f64>>,
    /// The first perplexity of a text.
    pub perplexity: Option<f64>,
    /// Its standard error.
    pub perplexity_error: Option<f64>,
    /// The command that wrote it, when the file says.
    pub command: Option<String>,
}

impl ResultsFile {
    /// Reads a results file of this program or of the harness.
    ///
    /// # Errors
    /// Not there, not JSON, or without a `results` object.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = read_regular(path, MAX_RESULTS)?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Error::malformed(path, "results", format!("not JSON ({error})")))?;
        let results = value.get("results").and_then(Value::as_object);
        let results = results.ok_or_else(|| Error::malformed(path, "field 'results'", "missing or not an object"))?;
        let [mut metrics, mut errors] = [const { BTreeMap::<String, BTreeMap<String, f64>>::new() }; 2];
        for (task, values) in results {
            for (key, number) in values.as_object().into_iter().flatten() {
                if let (Some((name, "none")), Some(number)) = (key.split_once(','), number.as_f64()) {
                    let (of, metric) = name.strip_suffix("_stderr").map_or((&mut metrics, name), |m| (&mut errors, m));
                    of.entry(task.clone()).or_default().insert(metric.to_string(), number);
                }
            }
        }
        let sherry = &value["sherry"];
        let text = &sherry["perplexity"][0];
        Ok(Self {
            path: path.to_path_buf(),
            model: serde_json::from_value(sherry["model"].clone()).ok(),
            metrics,
            errors,
            perplexity: text["perplexity"].as_f64(),
            perplexity_error: text["perplexity_stderr"].as_f64(),
            command: sherry["command"].as_str().map(str::to_owned),
        })
    }

    /// A name for tables: the model's file name, or the results file's.
    pub fn label(&self) -> String {
        let path = self.model.as_ref().map_or(self.path.as_path(), |model| Path::new(&model.name));
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Per-item values of `metric` of `run`'s items, from the samples beside the file.
    ///
    /// # Errors
    /// No samples were logged, an item is missing or was asked with another prompt.
    pub fn item_values(&self, run: &TaskRun, metric: Metric) -> Result<Vec<f64>> {
        let path = samples_path(&self.path, run.task.name);
        if !path.is_file() {
            return Err(Error::Invalid(format!(
                "{}: holds no items of {} to compare: {} is missing (write it with --log-samples)",
                self.path.display(),
                run.task.name,
                path.display()
            )));
        }
        let file = DataFile::read(&path)?;
        let mut found = BTreeMap::new();
        for row in &file.rows {
            let value = row.field(&path, metric.name())?.as_f64();
            let value = value.ok_or_else(|| row.problem(&path, metric.name(), "expected a number"))?;
            found.insert(row.index(&path, "doc_id")?, (row.text(&path, "prompt_hash")?, value));
        }
        run.items
            .iter()
            .map(|item| {
                let context = item.requests.first().map_or("", |request| &request.context);
                let hash = hex(&Sha256::digest(context.as_bytes()));
                match found.get(&item.index) {
                    Some((prompt, value)) if *prompt == hash => Ok(*value),
                    Some(_) => {
                        Err(Error::malformed(&path, format!("item {}", item.index), "was asked with another prompt"))
                    }
                    None => Err(Error::malformed(&path, format!("item {}", item.index), "missing: a shorter run")),
                }
            })
            .collect()
    }
}

/// Rows of a table method x task, like the paper's: label, format, bits, size, `acc` of each task, their mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Task columns: every task of which some file has an accuracy, built-in ones first.
    pub tasks: Vec<String>,
    /// One per file.
    pub rows: Vec<ReportRow>,
}

/// One line of a [`Report`].
#[derive(Clone, Debug, PartialEq)]
pub struct ReportRow {
    /// The model.
    pub label: String,
    /// What is known about it.
    pub model: Option<ModelCard>,
    /// One value per task column.
    pub values: Vec<Option<f64>>,
    /// Plain mean over the columns, if every one has a value.
    pub mean: Option<f64>,
    /// Perplexity, if measured.
    pub perplexity: Option<f64>,
}

impl Report {
    /// Lines up `files`, showing `metric` (tasks without it show `acc`).
    pub fn new(files: &[ResultsFile], metric: Metric) -> Self {
        let value = |file: &ResultsFile, task: &str| {
            let metrics = file.metrics.get(task)?;
            metrics.get(metric.name()).or_else(|| metrics.get(Metric::Acc.name())).copied()
        };
        let known = super::tasks::TASKS.iter().map(|task: &Task| task.name);
        let others = files.iter().flat_map(|file| file.metrics.keys().map(String::as_str));
        let mut tasks: Vec<String> = Vec::new();
        for name in known.chain(others) {
            if !tasks.iter().any(|task| task == name) && files.iter().any(|file| value(file, name).is_some()) {
                tasks.push(name.to_owned());
            }
        }
        let rows = files
            .iter()
            .map(|file| {
                let values: Vec<Option<f64>> = tasks.iter().map(|task| value(file, task)).collect();
                let all: Option<Vec<f64>> = values.iter().copied().collect();
                let mean = all.filter(|all| !all.is_empty()).map(|all| super::metrics::mean(&all));
                ReportRow { label: file.label(), model: file.model.clone(), values, mean, perplexity: file.perplexity }
            })
            .collect();
        Self { tasks, rows }
    }
}

#[cfg(test)]
#[path = "results_tests.rs"]
mod tests;
