//! `sherry report`: several results in one table, or several training runs on one page.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use sherry::io::write_atomic;
use sherry_measure::eval::{Metric, Report, ResultsFile};
use sherry_train::report::{self, Run};

use super::Context;
use crate::output::{Align, Stdout, Table, bytes};

/// Results of several models as one table, or several training runs as one HTML page
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry report bf16.json q8.json sherry.json
      method x task, with bits and size
  sherry report smol.json other.json --metric acc_norm --json
  sherry report runs/tiny runs/tiny-2
      curves, histograms and warnings into report.html

Inputs that cannot be read are named, the others reported; the exit code is then
2.")]
pub struct ReportArgs {
    /// Result files (of `sherry eval -o` or lm-evaluation-harness), or run folders of `sherry train`
    #[arg(required = true, value_name = "RESULTS.json|RUN")]
    inputs: Vec<PathBuf>,
    /// The page to write about run folders; an older one is replaced
    #[arg(short, long, value_name = "HTML", default_value = "report.html")]
    out: PathBuf,
    /// Metric to show; tasks that lack it show acc
    #[arg(long, value_enum, default_value_t = MetricArg::Acc)]
    metric: MetricArg,
}

/// Metrics, as on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum MetricArg {
    #[value(name = "acc")]
    Acc,
    #[value(name = "acc_norm")]
    AccNorm,
}

pub fn run(args: &ReportArgs, context: &Context) -> Result<ExitCode> {
    let (runs, files): (Vec<&PathBuf>, Vec<&PathBuf>) = args.inputs.iter().partition(|path| path.is_dir());
    match (&runs[..], &files[..]) {
        ([], files) => results(files, args, context),
        (runs, []) => training(runs, &args.out, context),
        ([run, ..], [file, ..]) => {
            bail!("{} is a folder and {} a file: result files or run folders, not both", run.display(), file.display())
        }
    }
}

/// What `read` makes of the `paths`; those it cannot read are named, and the others are reported all the same.
fn readable<T>(paths: &[&PathBuf], read: impl Fn(&Path) -> Result<T>) -> (Vec<T>, ExitCode) {
    let mut found = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for path in paths {
        match read(path) {
            Ok(one) => found.push(one),
            Err(error) => {
                crate::report(&error);
                code = ExitCode::from(2);
            }
        }
    }
    (found, code)
}

fn training(folders: &[&PathBuf], page: &Path, context: &Context) -> Result<ExitCode> {
    let (runs, code) = readable(folders, |folder| {
        if !Run::is_at(folder) {
            bail!("{}: no run folder of sherry train (it holds no metrics.jsonl)", folder.display());
        }
        Ok(Run::read(folder)?)
    });
    if runs.is_empty() {
        return Ok(code);
    }
    for run in &runs {
        run.warnings().iter().for_each(|warning| context.console.say(&format!("warning: {}: {warning}", run.name())));
    }
    write_atomic(page, report::html(&runs).as_bytes())?;
    let mut out = Stdout::lock();
    if context.json {
        out.json_line(&json!({ "path": page }))?;
    } else {
        out.path(page)?;
    }
    Ok(code)
}

fn results(files: &[&PathBuf], args: &ReportArgs, context: &Context) -> Result<ExitCode> {
    let (files, code) = readable(files, |path| Ok(ResultsFile::read(path)?));
    if files.is_empty() {
        return Ok(code);
    }
    let metric = match args.metric {
        MetricArg::Acc => Metric::Acc,
        MetricArg::AccNorm => Metric::AccNorm,
    };
    let report = Report::new(&files, metric);
    let mut out = Stdout::lock();
    if context.json {
        let rows = report.rows.iter().map(|row| {
            let values: serde_json::Map<_, _> =
                report.tasks.iter().zip(&row.values).map(|(task, value)| ((*task).to_string(), json!(value))).collect();
            json!({
                "label": row.label, "model": row.model, "metric": metric.name(), "tasks": values, "mean": row.mean,
                "perplexity": row.perplexity,
            })
        });
        out.json(&rows.collect::<Vec<_>>())?;
        return Ok(code);
    }
    let with_perplexity = report.rows.iter().any(|row| row.perplexity.is_some());
    let mut columns =
        vec![("model", Align::Left), ("format", Align::Left), ("bits", Align::Right), ("size", Align::Right)];
    columns.extend(report.tasks.iter().map(|task| (*task, Align::Right)));
    columns.push(("mean", Align::Right));
    if with_perplexity {
        columns.push(("ppl", Align::Right));
    }
    let mut table = Table::new(&columns);
    let number =
        |value: Option<f64>, decimals: usize| value.map_or("-".to_string(), |value| format!("{value:.decimals$}"));
    for row in &report.rows {
        let model = row.model.as_ref();
        let mut cells = vec![
            row.label.clone(),
            model.map_or("-".to_string(), |model| model.format.clone()),
            number(model.map(|model| model.linear_bits), 2),
            model.map_or("-".to_string(), |model| bytes(model.bytes)),
        ];
        cells.extend(row.values.iter().map(|value| number(*value, 4)));
        cells.push(number(row.mean, 4));
        if with_perplexity {
            cells.push(number(row.perplexity, 2));
        }
        table.row(cells);
    }
    write!(out, "{table}")?;
    Ok(code)
}
