//! One static HTML page about one or several runs: curves, histograms over time, a table, warnings. No scripts, nothing
//! loaded from anywhere.

mod svg;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::metrics::Watchdog;
use crate::run_folder;
use svg::{Chart, Series, heat_map};

/// Numbers per kind of linear layer; `None` where one was not finite.
type PerKind = BTreeMap<String, Option<f64>>;

/// A line of `metrics.jsonl`, read back.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Row {
    step: u64,
    loss: Option<f64>,
    divergence: Option<f64>,
    lr: Option<f64>,
    lambda: Option<f64>,
    grad_norm: Option<f64>,
    tokens_per_second: Option<f64>,
    tokens: Option<u64>,
    valid_loss: Option<f64>,
    flip_rate: Option<f64>,
    effective_rank: PerKind,
    valley_share: PerKind,
    grad_norms: PerKind,
    histogram: BTreeMap<String, Vec<f64>>,
}

/// A run as its folder tells it.
#[derive(Clone, Debug)]
pub struct Run {
    name: String,
    rows: Vec<Row>,
    /// The configuration, from the newest checkpoint.
    config: Value,
    /// Steps that were added to those of the configuration.
    extended: u64,
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
        Ok(Self { name, rows, config: config.unwrap_or_default(), extended })
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
    fn steps(&self) -> Option<u64> {
        Some(self.config["steps"].as_u64()?.saturating_add(self.extended))
    }

    fn done(&self) -> u64 {
        self.rows.last().map_or(0, |row| row.step)
    }

    fn last<T>(&self, value: impl Fn(&Row) -> Option<T>) -> Option<T> {
        self.rows.iter().rev().find_map(value)
    }

    fn series(&self, value: impl Fn(&Row) -> Option<f64>) -> Vec<(f64, f64)> {
        self.rows.iter().filter_map(|row| Some((row.step as f64, value(row)?))).collect()
    }

    /// The quantizer in few words.
    fn method(&self) -> String {
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
fn mean(values: &PerKind) -> Option<f64> {
    let found: Vec<f64> = values.values().filter_map(|value| *value).collect();
    (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
}

/// Text that is safe inside an element or a quoted attribute.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --text: #222; --soft: #666; --back: #fff; --heat: #0072b2 }
@media (prefers-color-scheme: dark) { :root { --text: #ddd; --soft: #999; --back: #161616; --heat: #56b4e9 } }
body { font: 14px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 2em auto; max-width: 1240px; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin: 2em 0 .5em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .25em .8em; border-bottom: 1px solid var(--line); text-align: right }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(380px, 1fr)); gap: 1em }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 1em }
figure { margin: 0 } figcaption { color: var(--soft) } svg { width: 100%; height: auto; display: block }
svg text { fill: var(--soft); font-size: 11px } .axis { stroke: var(--line) } .curve { fill: none; stroke-width: 1.6 }
.legend span { margin-right: 1.4em; white-space: nowrap } .swatch { display: inline-block; width: 1.6em; height: .25em; vertical-align: middle; margin-right: .5em }
.warning { border-left: .3em solid #d55e00; padding: .2em .8em; margin: .5em 0 }
";

/// The page about `runs`.
pub fn html(runs: &[Run]) -> String {
    let mut page = String::from("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page +=
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Sherry training report</title>";
    let names: Vec<String> = runs.iter().map(|run| escape(&run.name)).collect();
    // Writing to a string cannot fail.
    let _ = write!(page, "<style>{STYLE}</style></head><body>\n<h1>{}</h1>\n", names.join(", "));
    for run in runs {
        for warning in run.warnings() {
            let _ = writeln!(page, "<p class=\"warning\">{}: {}</p>", escape(&run.name), escape(&warning));
        }
    }
    table(&mut page, runs);
    page += "<p class=\"legend\">";
    for (index, name) in names.iter().enumerate() {
        let color = svg::color(index);
        let _ = write!(page, "<span><i class=\"swatch\" style=\"background:{color}\"></i>{name}</span>");
    }
    page += "</p>\n<h2>Curves</h2>\n<div class=\"charts\">\n";
    type Value = fn(&Row) -> Option<f64>;
    let curves: [(&str, Value); 10] = [
        ("training loss, nats per token", |row| row.loss),
        ("validation loss of Q(W), nats per token", |row| row.valid_loss),
        ("divergence from the teacher, nats per token", |row| row.divergence),
        ("learning rate", |row| row.lr),
        ("lambda", |row| row.lambda),
        ("effective rank of dL/dX, mean over linear layers", |row| mean(&row.effective_rank)),
        ("share of weights in the valley |w| < alpha/2", |row| mean(&row.valley_share)),
        ("share of codes flipped by one step", |row| row.flip_rate),
        ("gradient norm before clipping", |row| row.grad_norm),
        ("tokens per second", |row| row.tokens_per_second),
    ];
    for (title, value) in curves {
        let series = runs.iter().enumerate().map(|(index, run)| Series {
            name: &run.name,
            color: svg::color(index),
            points: run.series(value),
        });
        page += &Chart { title, series: series.collect() }.svg();
    }
    page += "</div>\n";
    for run in runs {
        details(&mut page, run);
    }
    page += "</body></html>\n";
    page
}

fn table(page: &mut String, runs: &[Run]) {
    *page += "<h2>Runs</h2>\n<table><tr><th>run</th><th>quantizer</th><th>steps</th><th>tokens</th>\
              <th>training loss</th><th>validation loss</th><th>best (step)</th><th>perplexity</th><th>lambda</th>\
              <th>tokens/s</th></tr>\n";
    for run in runs {
        let number =
            |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        let valid = run.last(|row| row.valid_loss);
        let best = run.series(|row| row.valid_loss).into_iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let best = best.map_or("-".to_owned(), |(step, loss)| format!("{loss:.4} ({step:.0})"));
        let steps = run.steps().map_or(run.done().to_string(), |steps| format!("{} / {steps}", run.done()));
        let mut speeds: Vec<f64> = run.rows.iter().filter_map(|row| row.tokens_per_second).collect();
        speeds.sort_by(f64::total_cmp);
        let cells = [
            escape(&run.name),
            escape(&run.method()),
            steps,
            run.last(|row| row.tokens).map_or("-".to_owned(), |tokens| tokens.to_string()),
            number(recent(&run.series(|row| row.loss)), 4),
            number(valid, 4),
            best,
            number(valid.map(f64::exp), 2),
            number(run.last(|row| row.lambda), 3),
            number(speeds.get(speeds.len() / 2).copied(), 0),
        ];
        *page += "<tr>";
        for cell in cells {
            let _ = write!(page, "<td>{cell}</td>");
        }
        *page += "</tr>\n";
    }
    *page += "</table>\n<p class=\"legend\">Training loss: mean of the last twentieth of the lines. Validation loss and \
              perplexity are those of the quantized weights alone, last measured. Tokens per second: median.</p>\n";
}

/// The mean of the last twentieth.
fn recent(points: &[(f64, f64)]) -> Option<f64> {
    let last = &points[points.len() - points.len().div_ceil(20)..];
    (!last.is_empty()).then(|| last.iter().map(|(_, y)| y).sum::<f64>() / last.len() as f64)
}

/// What only makes sense one run at a time.
fn details(page: &mut String, run: &Run) {
    let measured = run.rows.iter().rev().find(|row| !row.grad_norms.is_empty());
    let kinds: Vec<&String> = measured.into_iter().flat_map(|row| row.grad_norms.keys()).collect();
    if kinds.is_empty() {
        return;
    }
    let _ = write!(page, "<h2>{} by linear layer</h2>\n<p class=\"legend\">", escape(&run.name));
    for (index, kind) in kinds.iter().enumerate() {
        let color = svg::color(index);
        let _ = write!(page, "<span><i class=\"swatch\" style=\"background:{color}\"></i>{}</span>", escape(kind));
    }
    *page += "</p>\n<div class=\"charts\">\n";
    type Values = fn(&Row) -> &PerKind;
    let charts: [(&str, Values); 3] = [
        ("effective rank of dL/dX", |row| &row.effective_rank),
        ("share of weights in the valley", |row| &row.valley_share),
        ("gradient norm", |row| &row.grad_norms),
    ];
    for (title, values) in charts {
        let series = kinds.iter().enumerate().map(|(index, kind)| Series {
            name: kind,
            color: svg::color(index),
            points: run.series(|row| values(row).get(*kind).copied().flatten()),
        });
        *page += &Chart { title, series: series.collect() }.svg();
    }
    *page += "</div>\n";
    let maps: Vec<String> = kinds
        .iter()
        .filter_map(|kind| {
            let columns = run.rows.iter().filter_map(|row| Some((row.step, row.histogram.get(*kind)?.as_slice())));
            heat_map(kind, &columns.collect::<Vec<_>>())
        })
        .collect();
    if !maps.is_empty() {
        let caption = "Latent weights by w / alpha (up, -3 to 3) over steps (right); darker: more weights";
        let _ = write!(page, "<p class=\"legend\">{caption}</p>\n<div class=\"maps\">\n{}</div>\n", maps.concat());
    }
}
