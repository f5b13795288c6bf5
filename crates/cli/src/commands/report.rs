//! `sherry report`: several results in one table, or runs, post-training and evaluations on one page.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sherry::io::AtomicFile;
use sherry_measure::eval::{Metric, Report, ReportRow, ResultsFile};
use sherry_train::report::{Calibration, Page, Run};

use super::Context;
use crate::output::{Align, Stdout, Table, bytes};

/// Results of several models as one table; training runs, post-training and evaluations as one HTML page
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry report bf16.json q8.json sherry.json
      method x task, with bits and size
  sherry report smol.json other.json --metric acc_norm --json
  sherry report runs/tiny runs/tiny-2
      curves, histograms, what differs and warnings into report.html;
      --force replaces the page of yesterday
  sherry report runs/tiny tiny.json other.json -o tiny.html
      a run and evaluations on one page; bars with standard errors
  sherry report smol.sherry.report.json
      what sherry calibrate did, stage by stage and block by block

The page needs no network and no other file. Inputs that cannot be read are
named, the others reported; the exit code is then 2.")]
pub struct ReportArgs {
    /// Run folders of `sherry train`, reports of `sherry calibrate`, result files (of `sherry eval -o` or lm-evaluation-harness)
    #[arg(required = true, value_name = "RUN|REPORT.json|RESULTS.json")]
    inputs: Vec<PathBuf>,
    /// The page to write [default: report.html; none where all inputs are result files]
    #[arg(short, long, value_name = "HTML")]
    out: Option<PathBuf>,
    /// Replace an existing page
    #[arg(long)]
    force: bool,
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

/// What the inputs are.
#[derive(Default)]
struct Inputs {
    runs: Vec<Run>,
    calibrations: Vec<Calibration>,
    results: Vec<ResultsFile>,
}

impl Inputs {
    fn read(&mut self, path: &Path) -> Result<()> {
        if path.is_dir() {
            if !Run::is_at(path) {
                bail!("{}: no run folder of sherry train (it holds no metrics.jsonl)", path.display());
            }
            self.runs.push(Run::read(path)?);
        } else if let Some(calibration) = Calibration::read(path)? {
            self.calibrations.push(calibration);
        } else {
            self.results.push(ResultsFile::read(path)?);
        }
        Ok(())
    }
}

pub fn run(args: &ReportArgs, context: &Context) -> Result<ExitCode> {
    let mut inputs = Inputs::default();
    let mut code = ExitCode::SUCCESS;
    for path in &args.inputs {
        if let Err(error) = inputs.read(path) {
            crate::report(&error);
            code = ExitCode::from(2);
        }
    }
    let Inputs { runs, calibrations, results } = &inputs;
    let metric = match args.metric {
        MetricArg::Acc => Metric::Acc,
        MetricArg::AccNorm => Metric::AccNorm,
    };
    for run in runs {
        run.warnings().iter().for_each(|warning| context.console.say(&format!("warning: {}: {warning}", run.name())));
    }
    let is_about_more = !runs.is_empty() || !calibrations.is_empty();
    let page = args.out.clone().or_else(|| is_about_more.then(|| "report.html".into()));
    let page = page.filter(|_| is_about_more || !results.is_empty());
    if let Some(path) = page.as_ref().filter(|path| path.exists() && !args.force) {
        bail!("{}: exists already; --force replaces it, and -o names another file", path.display());
    }
    if let Some(path) = &page {
        let mut file = AtomicFile::create(path)?;
        file.set_replace(args.force);
        file.write(Page { runs, evaluations: results, calibrations, metric }.html().as_bytes())?;
        file.commit()?;
    }
    let report = (!results.is_empty()).then(|| Report::new(results, metric));
    let mut out = Stdout::lock();
    if context.json {
        let rows = report.map(|report| rows(&report, metric));
        match (page, rows) {
            (Some(path), Some(rows)) => out.json(&json!({ "path": path, "results": rows }))?,
            (Some(path), None) => out.json_line(&json!({ "path": path }))?,
            (None, Some(rows)) => out.json(&rows)?,
            (None, None) => {}
        }
        return Ok(code);
    }
    if let Some(report) = report {
        write!(out, "{}", table(&report))?;
    }
    if let Some(path) = &page {
        out.path(path)?;
    }
    Ok(code)
}

/// The table as JSON.
fn rows(report: &Report, metric: Metric) -> Vec<Value> {
    let row = |row: &ReportRow| {
        let values: serde_json::Map<_, _> =
            report.tasks.iter().zip(&row.values).map(|(task, value)| (task.clone(), json!(value))).collect();
        json!({
            "label": row.label, "model": row.model, "metric": metric.name(), "tasks": values, "mean": row.mean,
            "perplexity": row.perplexity,
        })
    };
    report.rows.iter().map(row).collect()
}

/// The table for people.
fn table(report: &Report) -> Table {
    let with_perplexity = report.rows.iter().any(|row| row.perplexity.is_some());
    let mut columns =
        vec![("model", Align::Left), ("format", Align::Left), ("bits", Align::Right), ("size", Align::Right)];
    columns.extend(report.tasks.iter().map(|task| (task.as_str(), Align::Right)));
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
    table
}
