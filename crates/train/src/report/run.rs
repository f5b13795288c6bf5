//! Runs, read back from their folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::metrics::Watchdog;
use crate::run_folder;

/// Numbers per kind of linear layer; `None` where one was not finite.
pub(super) type PerKind = BTreeMap<String, Option<f64>>;

/// A line of `metrics.jsonl`, read back.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Row {
    pub step: u64,
    pub loss: Option<f64>,
    pub divergence: Option<f64>,
    pub lr: Option<f64>,
    pub lambda: Option<f64>,
    pub grad_norm: Option<f64>,
    pub tokens_per_second: Option<f64>,
    pub tokens: Option<u64>,
    pub valid_loss: Option<f64>,
    pub valid_loss_with_lambda: Option<f64>,
    pub flip_rate: Option<f64>,
    pub effective_rank: PerKind,
    pub valley_share: PerKind,
    pub grad_norms: PerKind,
    pub histogram: BTreeMap<String, Vec<f64>>,
}

/// A run as its folder tells it.
#[derive(Clone, Debug)]
pub struct Run {
    name: String,
    pub(super) rows: Vec<Row>,
    /// The configuration, from the newest checkpoint.
    pub(super) config: Value,
    /// Steps that were added to those of the configuration.
    extended: u64,
    /// The commands that trained here, as they were typed.
    pub(super) commands: Vec<String>,
}

impl Run {
    /// Whether `path` looks like a run folder.
    pub fn is_at(path: &Path) -> bool {
        path.join("metrics.jsonl").is_file()
    }

    /// Reads the run folder `folder`. A last line that is still being written is left out.
    ///
    /// # Errors
    /// [`sherry::Error::Io`]; [`Error::Data`] naming the line that is no metrics.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("metrics.jsonl");
        let text = fs::read_to_string(&path).map_err(sherry::Error::io(&path, "read"))?;
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let rows = whole
            .enumerate()
            .map(|(at, line)| {
                serde_json::from_str(line).map_err(|error| Error::data(&path, format!("line {}: {error}", at + 1)))
            })
            .collect::<Result<Vec<Row>>>()?;
        if rows.is_empty() {
            return Err(Error::data(&path, "holds no metrics yet"));
        }
        let newest = run_folder::checkpoints(folder)?.into_iter().next();
        let state = newest.and_then(|(_, path)| checkpoint::read_state(&path).ok());
        let extended = state
            .as_ref()
            .map_or(0, |state| state.extensions.iter().fold(0, |sum: u64, more| sum.saturating_add(*more)));
        let config = state.map(|state| state.config);
        let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let name = absolute.file_name().map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into());
        Ok(Self { name, rows, config: config.unwrap_or_default(), extended, commands: run_folder::commands(folder) })
    }

    /// The name of its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the user should know about the run.
    pub fn warnings(&self) -> Vec<String> {
        let mut watchdog = Watchdog::default();
        let ranks = |row: &Row| row.effective_rank.values().filter_map(|rank| *rank).collect::<Vec<_>>();
        let mut found: Vec<String> =
            self.rows.iter().filter_map(|row| watchdog.ranks(row.step, ranks(row).into_iter())).collect();
        if let (Some(steps), Some(lambda)) = (self.steps(), self.last(|row| row.lambda)) {
            found.extend(Watchdog::end(self.done(), steps, lambda));
        }
        found
    }

    /// Training loss of every line that has one, and its step.
    pub fn losses(&self) -> Vec<(f64, f64)> {
        self.series(|row| row.loss)
    }

    /// The same for the validation loss of the quantized model.
    pub fn valid_losses(&self) -> Vec<(f64, f64)> {
        self.series(|row| row.valid_loss)
    }

    /// Steps that were asked for.
    pub(super) fn steps(&self) -> Option<u64> {
        Some(self.config["steps"].as_u64()?.saturating_add(self.extended))
    }

    pub(super) fn done(&self) -> u64 {
        self.rows.last().map_or(0, |row| row.step)
    }

    pub(super) fn last<T>(&self, value: impl Fn(&Row) -> Option<T>) -> Option<T> {
        self.rows.iter().rev().find_map(value)
    }

    pub(super) fn series(&self, value: impl Fn(&Row) -> Option<f64>) -> Vec<(f64, f64)> {
        self.rows.iter().filter_map(|row| Some((row.step as f64, value(row)?))).collect()
    }

    /// The quantizer in few words.
    pub(super) fn method(&self) -> String {
        let text = |section: &str, field: &str| self.config[section][field].as_str().unwrap_or("?").to_owned();
        if self.config.is_null() {
            return "?".to_owned();
        }
        let method = text("quantizer", "method");
        let scale = match text("quantizer", "scale").as_str() {
            "group" => format!("group {}", self.config["quantizer"]["group_size"]),
            other => other.to_owned(),
        };
        match (method.as_str(), text("arenas", "shape").as_str()) {
            ("none", _) => method,
            (_, "off") => format!("{method}, per {scale}, no Arenas"),
            (_, shape) => format!("{method}, per {scale}, Arenas {shape}"),
        }
    }
}

/// Mean over the kinds of linear layer.
pub(super) fn mean(values: &PerKind) -> Option<f64> {
    let found: Vec<f64> = values.values().filter_map(|value| *value).collect();
    (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
}

/// The mean of the last twentieth.
pub(super) fn recent(points: &[(f64, f64)]) -> Option<f64> {
    let last = &points[points.len() - points.len().div_ceil(20)..];
    (!last.is_empty()).then(|| last.iter().map(|(_, y)| y).sum::<f64>() / last.len() as f64)
}
