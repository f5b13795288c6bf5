//! One HTML page about runs, evaluations and post-training: what a person wants to see, and to show. It loads nothing from
//! anywhere, and its figures are there without scripts; a script of its own shows the values under the pointer.

mod bars;
mod calibration;
mod chart;
mod html;
mod run;
mod scale;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;
use sherry_measure::eval::{Metric, Report, ResultsFile};

use crate::metrics::REACH;
use bars::{Bar, Bars};
pub use calibration::Calibration;
use chart::{Chart, HeatMap, Series};
use html::{color, escape, legend, table};
pub use run::Run;
use run::{PerKind, Row, mean, recent};
use scale::{fixed, short};

/// What a page is about; any of the lists may be empty.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Training runs.
    pub runs: &'a [Run],
    /// Results of `sherry eval` or lm-evaluation-harness.
    pub evaluations: &'a [ResultsFile],
    /// Reports of `sherry calibrate`.
    pub calibrations: &'a [Calibration],
    /// What bars of evaluations show; tasks that lack it show `acc`.
    pub metric: Metric,
}

impl Page<'_> {
    /// The page.
    pub fn html(&self) -> String {
        let calibrated: Vec<String> = self.calibrations.iter().map(Calibration::name).collect();
        let evaluated = labels(self.evaluations);
        let mut subjects: Vec<&str> = self.runs.iter().map(Run::name).collect();
        for name in calibrated.iter().chain(&evaluated) {
            if !subjects.contains(&name.as_str()) {
                subjects.push(name);
            }
        }
        let title = escape(&subjects.join(" · "));
        let mut page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
             script-src 'unsafe-inline'; img-src data:\"><link rel=\"icon\" href=\"data:,\">\
             <title>{title} - Sherry report</title><style>{}</style></head>\n<body><header><p class=\"brand\">Sherry \
             report</p><h1>{title}</h1></header>\n<main>\n",
            include_str!("page.css")
        );
        // A model has its colour wherever it is drawn.
        let of = |name: &str| subjects.iter().position(|subject| *subject == name).unwrap_or_default();
        training(&mut page, self.runs, &self.runs.iter().map(|run| of(run.name())).collect::<Vec<_>>());
        if !self.calibrations.is_empty() {
            let names: Vec<_> = calibrated.iter().map(|name| (name.as_str(), of(name))).collect();
            post_training(&mut page, self.calibrations, &names);
        }
        if !self.evaluations.is_empty() {
            let names: Vec<_> = evaluated.iter().map(|name| (name.as_str(), of(name))).collect();
            evaluation(&mut page, self.evaluations, &names, self.metric);
        }
        configurations(&mut page, self.runs);
        commands(&mut page, self, &calibrated, &evaluated);
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "</main>\n<footer>Written by sherry {}.</footer>\n<div id=\"tip\" role=\"status\" hidden></div>\n\
             <script>{}</script></body></html>\n",
            env!("CARGO_PKG_VERSION"),
            include_str!("page.js")
        );
        page
    }
}

/// Names of evaluations; those of equal names get that of their file, too.
fn labels(files: &[ResultsFile]) -> Vec<String> {
    let all: Vec<String> = files.iter().map(ResultsFile::label).collect();
    let name = |at: usize| {
        if all.iter().filter(|label| **label == all[at]).count() == 1 {
            return all[at].clone();
        }
        format!("{} ({})", all[at], files[at].path.file_stem().unwrap_or_default().to_string_lossy())
    };
    (0..all.len()).map(name).collect()
}

/// A card: a name, the number that counts, and further ones.
fn card(
    index: usize,
    name: &str,
    about: &str,
    main: (&str, Option<String>),
    facts: &[(&str, Option<String>)],
) -> String {
    let mut out = format!(
        "<article class=\"card\"><h3><i class=\"swatch\" style=\"background:{}\"></i>{}</h3><p class=\"about\">{}</p>",
        color(index),
        escape(name),
        escape(about)
    );
    if let (what, Some(number)) = main {
        let _ = write!(out, "<p class=\"number\"><b>{}</b> {what}</p>", escape(&number));
    }
    out += "<dl>";
    for (what, value) in facts {
        if let Some(value) = value {
            let _ = write!(out, "<div><dt>{what}</dt><dd>{}</dd></div>", escape(value));
        }
    }
    out + "</dl></article>\n"
}

fn training(page: &mut String, runs: &[Run], colors: &[usize]) {
    if runs.is_empty() {
        return;
    }
    *page += "<section><h2>Training</h2>\n";
    for run in runs {
        for warning in run.warnings() {
            let _ = writeln!(page, "<p class=\"warning\"><b>{}</b>: {}</p>", escape(run.name()), escape(&warning));
        }
    }
    *page += "<div class=\"cards\">\n";
    for (run, color) in runs.iter().zip(colors) {
        let valid = run.last(|row| row.valid_loss);
        let loss = recent(&run.series(|row| row.loss));
        let best = run.series(|row| row.valid_loss).into_iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let steps = run.steps().map_or(run.done().to_string(), |steps| format!("{} of {steps}", run.done()));
        let mut speeds: Vec<f64> = run.rows.iter().filter_map(|row| row.tokens_per_second).collect();
        speeds.sort_by(f64::total_cmp);
        let number = |value: Option<f64>| value.map(|value| format!("{value:.4}"));
        let main = match valid {
            Some(valid) => ("validation perplexity", Some(fixed(valid.exp(), 2))),
            None => ("training loss", number(loss)),
        };
        let facts = [
            ("validation loss", number(valid)),
            ("best validation loss", best.map(|(step, loss)| format!("{loss:.4} at step {step:.0}"))),
            ("training loss", number(loss)),
            ("steps", Some(steps)),
            ("tokens", run.last(|row| row.tokens).map(|tokens| short(tokens as f64))),
            ("tokens per second", speeds.get(speeds.len() / 2).map(|speed| short(*speed))),
            ("lambda at the end", run.last(|row| row.lambda).map(short)),
        ];
        *page += &card(*color, run.name(), &run.method(), main, &facts);
    }
    *page += "</div>\n<p class=\"note\">Losses are in nats per token. Validation loss and perplexity are those of the quantized \
              weights alone, as an export has them, last measured; the training loss is the mean of the last twentieth of the \
              lines; tokens per second is the median. Where a curve is noisy, the thin line is what was measured and the thick \
              one a running mean.</p>\n";
    if runs.len() > 1 {
        *page += &legend(runs.iter().map(Run::name).zip(colors.iter().copied()));
    }
    *page += "<div class=\"charts\">\n";
    type Measure = fn(&Row) -> Option<f64>;
    let curves: [(&str, &str, bool, Measure); 11] = [
        ("Training loss", "nats per token", true, |row| row.loss),
        ("Validation loss", "nats per token, of Q(W)", false, |row| row.valid_loss),
        ("Validation loss with lambda", "nats per token, of Q(W) + λW", false, |row| row.valid_loss_with_lambda),
        ("Divergence from the teacher", "nats per token", true, |row| row.divergence),
        ("Learning rate", "AdamW step size", false, |row| row.lr),
        ("Arenas strength", "λ", false, |row| row.lambda),
        ("Effective rank", "of dL/dX, mean over linear layers", false, |row| mean(&row.effective_rank)),
        ("Weights in the valley", "share with |w| < α/2", false, |row| mean(&row.valley_share)),
        ("Codes flipped by a step", "share of all codes", false, |row| row.flip_rate),
        ("Gradient norm", "before clipping", true, |row| row.grad_norm),
        ("Speed", "tokens per second", true, |row| row.tokens_per_second),
    ];
    for (title, unit, noisy, value) in curves {
        let series =
            runs.iter().zip(colors).map(|(run, &color)| Series { name: run.name(), color, points: run.series(value) });
        *page += &Chart { title, unit, over: "step", noisy, series: series.collect() }.html();
    }
    *page += "</div>\n</section>\n";
    runs.iter().for_each(|run| layers(page, run));
}

/// What only makes sense one run at a time.
fn layers(page: &mut String, run: &Run) {
    let measured = run.rows.iter().rev().find(|row| !row.grad_norms.is_empty());
    let kinds: Vec<&String> = measured.into_iter().flat_map(|row| row.grad_norms.keys()).collect();
    if kinds.is_empty() {
        return;
    }
    let _ = writeln!(page, "<section><h2>Linear layers of {}</h2>", escape(run.name()));
    *page += &legend(kinds.iter().enumerate().map(|(color, kind)| (kind.as_str(), color)));
    *page += "<div class=\"charts\">\n";
    type Measures = fn(&Row) -> &PerKind;
    let charts: [(&str, &str, Measures); 3] = [
        ("Effective rank", "of dL/dX", |row| &row.effective_rank),
        ("Weights in the valley", "share with |w| < α/2", |row| &row.valley_share),
        ("Gradient norm", "by kind of layer", |row| &row.grad_norms),
    ];
    for (title, unit, values) in charts {
        let series = kinds.iter().enumerate().map(|(color, kind)| Series {
            name: kind,
            color,
            points: run.series(|row| values(row).get(*kind).copied().flatten()),
        });
        *page += &Chart { title, unit, over: "step", noisy: false, series: series.collect() }.html();
    }
    *page += "</div>\n";
    let maps: String = kinds
        .iter()
        .map(|kind| {
            let columns = run.rows.iter().filter_map(|row| Some((row.step, row.histogram.get(*kind)?.as_slice())));
            HeatMap { title: kind, unit: "w / α", reach: REACH, columns: columns.collect() }.html()
        })
        .collect();
    if !maps.is_empty() {
        let _ = write!(
            page,
            "<h3>Where the latent weights lie</h3>\n<p class=\"note\">Shares of weights by their value in units of α, the \
             magnitude of a code; stronger colour: more weights. Weights between -0.5 and 0.5 lie in the valley.</p>\n\
             <div class=\"maps\">\n{maps}</div>\n"
        );
    }
    *page += "</section>\n";
}

fn post_training(page: &mut String, all: &[Calibration], names: &[(&str, usize)]) {
    *page += "<section><h2>Post-training</h2>\n<div class=\"cards\">\n";
    for (one, (name, color)) in all.iter().zip(names) {
        let tokens = |count: Option<u64>| count.map(|count| short(count as f64));
        let facts = [
            ("original perplexity", one.original_perplexity.map(|x| fixed(x, 2))),
            ("divergence, nats per token", one.divergence().map(|x| format!("{x:.3}"))),
            ("tokens fitted to", tokens(one.tokens)),
            ("tokens held out", tokens(one.held_out)),
            ("time", one.seconds.map(crate::metrics::duration)),
        ];
        let main = ("perplexity", one.perplexity().map(|x| fixed(x, 2)));
        *page += &card(*color, name, "on text held out", main, &facts);
    }
    *page += "</div>\n";
    *page += &calibration::figures(all, names);
    *page += &calibration::layers(all, names);
    *page += "</section>\n";
}

fn evaluation(page: &mut String, files: &[ResultsFile], names: &[(&str, usize)], metric: Metric) {
    *page += "<section><h2>Evaluation</h2>\n";
    *page += &legend(names.iter().copied());
    *page += "<div class=\"charts wide\">\n";
    let bar = |file: &ResultsFile, task: &str, metric: &str| {
        let value = *file.metrics.get(task)?.get(metric)?;
        Some(Bar { value, error: file.errors.get(task).and_then(|errors| errors.get(metric)).copied() })
    };
    let mut tasks = Report::new(files, metric).tasks;
    for task in files.iter().flat_map(|file| file.metrics.keys()) {
        if !tasks.contains(task) {
            tasks.push(task.clone());
        }
    }
    let shown =
        |file: &ResultsFile, task: &str| bar(file, task, metric.name()).or_else(|| bar(file, task, Metric::Acc.name()));
    let group = |name: &str, bars: Vec<Option<Bar>>| bars.iter().any(Option::is_some).then(|| (name.to_owned(), bars));
    let accuracy = Bars {
        title: "Accuracy",
        unit: if metric == Metric::AccNorm {
            "acc_norm, or acc where a task has no other; whiskers: ± one standard error; higher is better"
        } else {
            "acc; whiskers: ± one standard error; higher is better"
        },
        end: Some(1.0),
        digits: 3,
        names: names.to_vec(),
        groups: tasks
            .iter()
            .filter_map(|task| group(task, files.iter().map(|file| shown(file, task)).collect()))
            .collect(),
    };
    *page += &accuracy.html();
    let perplexity = |file: &ResultsFile| Some(Bar { value: file.perplexity?, error: file.perplexity_error });
    let mut groups: Vec<(String, Vec<Option<Bar>>)> = tasks
        .iter()
        .filter_map(|task| group(task, files.iter().map(|file| bar(file, task, Metric::Perplexity.name())).collect()))
        .collect();
    groups.extend(group("text", files.iter().map(perplexity).collect()));
    *page += &Bars {
        title: "Perplexity",
        unit: "whiskers: ± one standard error; lower is better",
        end: None,
        digits: 2,
        names: names.to_vec(),
        groups,
    }
    .html();
    *page += "</div>\n";
    let mut head = vec!["task".to_owned(), "metric".to_owned()];
    head.extend(names.iter().map(|(name, _)| escape(name)));
    let mut rows = Vec::new();
    let cell = |bar: Option<Bar>| {
        let digits = |x: f64| fixed(x, if x >= 10.0 { 2 } else { 4 });
        bar.map_or("-".to_owned(), |bar| match bar.error {
            Some(error) => format!("{} <small>± {}</small>", digits(bar.value), digits(error)),
            None => digits(bar.value),
        })
    };
    let fact = |name: &str, value: &dyn Fn(&ResultsFile) -> Option<String>| {
        let cells: Vec<Option<String>> = files.iter().map(value).collect();
        cells.iter().any(Option::is_some).then(|| {
            let cells = cells.into_iter().map(|cell| cell.map_or("-".to_owned(), |cell| escape(&cell)));
            [name.to_owned(), String::new()].into_iter().chain(cells).collect::<Vec<_>>()
        })
    };
    rows.extend(fact("format", &|file| Some(file.model.as_ref()?.format.clone())));
    rows.extend(fact("bits per weight", &|file| Some(format!("{:.2}", file.model.as_ref()?.linear_bits))));
    rows.extend(fact("megabytes", &|file| Some(format!("{:.1}", file.model.as_ref()?.bytes as f64 / 1e6))));
    for task in &tasks {
        let metrics: BTreeMap<&str, ()> = files
            .iter()
            .filter_map(|file| file.metrics.get(task))
            .flatten()
            .map(|(name, _)| (name.as_str(), ()))
            .collect();
        for metric in metrics.keys() {
            let cells = files.iter().map(|file| cell(bar(file, task, metric)));
            rows.push([escape(task), escape(metric)].into_iter().chain(cells).collect());
        }
    }
    if files.iter().any(|file| file.perplexity.is_some()) {
        let cells = files.iter().map(|file| cell(perplexity(file)));
        rows.push(["text".to_owned(), "perplexity".to_owned()].into_iter().chain(cells).collect());
    }
    *page += &table("Results", &head, &rows);
    *page += "</section>\n";
}

/// The fields of a configuration by their dotted names.
fn flat(value: &Value, name: &str, fields: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(inside) if !inside.is_empty() => {
            for (key, value) in inside {
                flat(value, &if name.is_empty() { key.clone() } else { format!("{name}.{key}") }, fields);
            }
        }
        Value::Null => {}
        Value::String(text) => drop(fields.insert(name.to_owned(), text.clone())),
        other => drop(fields.insert(name.to_owned(), other.to_string())),
    }
}

fn configurations(page: &mut String, runs: &[Run]) {
    let known: Vec<(&Run, BTreeMap<String, String>)> = runs
        .iter()
        .filter(|run| !run.config.is_null())
        .map(|run| {
            let mut fields = BTreeMap::new();
            flat(&run.config, "", &mut fields);
            (run, fields)
        })
        .collect();
    if known.is_empty() {
        return;
    }
    let mut head = vec!["field".to_owned()];
    head.extend(known.iter().map(|(run, _)| escape(run.name())));
    let names: BTreeMap<&String, ()> =
        known.iter().flat_map(|(_, fields)| fields.keys()).map(|name| (name, ())).collect();
    let differs = |name: &String| known.iter().any(|(_, fields)| fields.get(name) != known[0].1.get(name));
    let row = |name: &&String| {
        let cells = known.iter().map(|(_, fields)| fields.get(*name).map_or("-".to_owned(), |value| escape(value)));
        [escape(name)].into_iter().chain(cells).collect::<Vec<_>>()
    };
    *page += "<section><h2>Configuration</h2>\n";
    let different: Vec<_> = names.keys().filter(|name| differs(name)).map(row).collect();
    if known.len() > 1 {
        *page += "<h3>What differs</h3>\n";
        if different.is_empty() {
            *page += "<p class=\"note\">The configurations are equal.</p>\n";
        } else {
            *page += &table("What differs", &head, &different);
        }
    }
    let rows: Vec<_> = names.keys().map(row).collect();
    let _ = write!(
        page,
        "<details><summary>All {} fields</summary>\n{}</details>\n",
        rows.len(),
        table("All fields", &head, &rows)
    );
    *page += "</section>\n";
}

/// How everything on the page was made.
fn commands(page: &mut String, all: &Page<'_>, calibrated: &[String], evaluated: &[String]) {
    let mut found: Vec<(&str, String)> = Vec::new();
    found.extend(all.runs.iter().map(|run| (run.name(), run.commands.join("\n"))));
    let command = |command: &Option<String>| command.clone().unwrap_or_default();
    found.extend(all.calibrations.iter().zip(calibrated).map(|(one, name)| (name.as_str(), command(&one.command))));
    found.extend(all.evaluations.iter().zip(evaluated).map(|(one, name)| (name.as_str(), command(&one.command))));
    found.retain(|(_, command)| !command.is_empty());
    if found.is_empty() {
        return;
    }
    *page += "<section><h2>Commands</h2>\n";
    for (name, command) in found {
        let _ = write!(page, "<h3>{}</h3>\n<pre><code>{}</code></pre>\n", escape(name), escape(&command));
    }
    *page += "</section>\n";
}
