//! Benchmarks.

use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::{Map, Value, json};
use sherry_measure::eval::data::DataSource;
use sherry_measure::eval::metrics::Estimate;
use sherry_measure::eval::results::{Outcome, paper_mean};
use sherry_measure::eval::{Limit, Task, harness};

use crate::json;
use crate::model::Model;
use crate::work::long_job;

/// Runs benchmarks as lm-evaluation-harness does: `tasks` is a list like "arc_easy,piqa", or "sherry5" for the paper's five.
/// `limit`: the first so many items of each, or a share below 1. `data`: the folder with the data sets.
#[pyfunction]
#[pyo3(signature = (model, *, tasks = "sherry5", data, limit = None, num_fewshot = 0, fewshot_seed = 1234, progress = None))]
#[allow(clippy::too_many_arguments)] // they are keyword arguments
pub fn evaluate<'py>(
    py: Python<'py>,
    model: &Model,
    tasks: &str,
    data: PathBuf,
    limit: Option<f64>,
    num_fewshot: usize,
    fewshot_seed: u64,
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let limit = match limit {
        None => Limit::All,
        Some(limit) if limit > 0.0 && limit < 1.0 => Limit::Share(limit),
        Some(limit) if limit >= 1.0 && limit.is_finite() => Limit::Items(limit as usize),
        Some(limit) => {
            return Err(PyValueError::new_err(format!(
                "limit is {limit}; expected a number of items, or a share between 0 and 1"
            )));
        }
    };
    let outcomes = long_job(py, progress, |progress| {
        let sources = [DataSource::Folder(data)];
        let tasks = Task::find_all(tasks)?;
        let runs: Vec<_> = tasks
            .iter()
            .map(|task| task.prepare(&sources, limit, num_fewshot, fewshot_seed))
            .collect::<Result<_, _>>()?;
        let mut lm = model.parts.lm();
        let mut outcomes = Vec::with_capacity(runs.len());
        for run in runs {
            let scores = harness::run(&mut lm, &run, None, progress)?;
            outcomes.push(Outcome::new(run, scores));
        }
        Ok(outcomes)
    })?;
    json::to_python(py, &document(&outcomes))
}

fn document(outcomes: &[Outcome]) -> Value {
    let estimate = |estimate: &Estimate| json!({ "value": estimate.value, "stderr": estimate.stderr });
    let tasks: Map<String, Value> = outcomes
        .iter()
        .map(|outcome| {
            let metrics = outcome.metrics.iter().map(|(metric, value)| (metric.name().to_owned(), estimate(value)));
            let mut task: Map<String, Value> = metrics.collect();
            task.insert("items".to_owned(), json!(outcome.run.items.len()));
            (outcome.run.task.name.to_owned(), task.into())
        })
        .collect();
    json!({ "tasks": tasks, "mean": paper_mean(outcomes).as_ref().map(estimate) })
}
