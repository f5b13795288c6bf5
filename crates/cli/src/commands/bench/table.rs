//! The paper's speed table: one row per method, the same shape and head in each.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use sherry_measure::bench::RandomModel;
use sherry_measure::bench::models::{self, Measurement, Options};
use sherry_measure::bench::statistics::median;
use sherry_measure::bench::{PAPER_FORMATS, ReadProbe, WeightFormat};

use super::output::{self, Record, Subject};
use super::{BenchArgs, one_and_all, usable_memory};
use crate::commands::Context;
use crate::output::{Align, Table, bytes};

/// What `--table` measures without `--synthetic`.
const SHAPE: &str = "llama-3.2-1b";
/// Tokens generated per repetition: enough for a steady rate, few enough for BF16 on one thread.
const GENERATE: usize = 32;

/// A row: what it is, and its measurements, or why there are none.
struct Row {
    subject: Subject,
    measured: Result<Vec<Measurement>, String>,
}

pub fn run(args: &BenchArgs, context: &Context) -> Result<ExitCode> {
    let options = args.options(&[], &[GENERATE], &one_and_all())?;
    let shape = args.synthetic.as_deref().unwrap_or(SHAPE);
    let rows: Vec<(String, WeightFormat)> = if args.types.is_empty() {
        PAPER_FORMATS.iter().map(|method| (method.name.to_owned(), method.format)).collect()
    } else {
        args.types.iter().map(|&format| (name_of(format), format)).collect()
    };
    // Refuse what cannot be before the first row takes its time.
    let mut planned = Vec::new();
    for (name, format) in rows {
        planned.push((name, RandomModel::new(args.config(shape)?, format, args.embed, 1)?));
    }
    for (_, model) in &planned {
        models::check(model.config(), &options.tests)?;
    }
    let read = ReadProbe::new(ReadProbe::BYTES)?;
    let count = planned.len();
    let mut measured = Vec::new();
    for (index, (name, model)) in planned.into_iter().enumerate() {
        let subject = Subject {
            name,
            path: None,
            bytes: model.bytes(),
            parameters: model.config().parameters(),
            linear_bits: model.linear_bits(),
        };
        let label = format!("[{}/{count}] {}", index + 1, subject.name);
        // While a tensor is brought into kernel order it is there twice, the head being the largest by far.
        let cache = models::cache_bytes(model.config(), &options);
        let needed = subject.bytes + subject.bytes / 4 + cache;
        if let Some(available) = usable_memory().filter(|&available| needed > available) {
            let why = format!("needs {}, {} can be had", bytes(needed), bytes(available));
            context.console.say(&format!("{label}: skipped: {why}"));
            measured.push(Row { subject, measured: Err(why) });
            continue;
        }
        context.console.say(&format!("{label}: {} of random weights", bytes(subject.bytes)));
        let model = Arc::new(model.load(&options.pool(), &context.console)?);
        let mut results = models::run(&[model], &options, Some(&read), &context.console)?;
        measured.push(Row { subject, measured: Ok(results.pop().unwrap_or_default()) });
    }
    let all = measured.iter().flat_map(|row| row.measured.as_deref().unwrap_or_default());
    if let Some(said) = output::disturbance(all) {
        context.console.say(&said);
    }
    output::write(args.form(context), &records(&measured, &options), || {
        let config = args.config(shape).map(|config| config.vocab).unwrap_or(0);
        let about = format!(
            "Shapes of {shape}, vocabulary {config}, head {}, {} repetitions, median tokens per second.",
            args.embed, options.repetitions
        );
        format!("{}\n{about}\n{}\n", markdown(&measured, &options), output::footer())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn name_of(format: WeightFormat) -> String {
    let known = PAPER_FORMATS.iter().find(|method| method.format == format);
    known.map_or_else(|| format.to_string(), |method| method.name.to_owned())
}

/// Median tokens per second of case `i`.
fn speed(row: &Row, i: usize) -> Option<f64> {
    row.measured.as_ref().ok()?.get(i).map(|m| median(&m.rates()))
}

/// How many times faster than the first row.
fn ratio(rows: &[Row], row: &Row, i: usize) -> Option<f64> {
    Some(speed(row, i)? / rows.first().and_then(|first| speed(first, i))?)
}

fn records(rows: &[Row], options: &Options) -> Vec<Record> {
    let mut records = Vec::new();
    for row in rows {
        match &row.measured {
            Ok(measurements) => records.extend(measurements.iter().enumerate().map(|(i, m)| {
                let mut record = output::record(&row.subject, options.batch, m);
                record.insert("ratio_to_first".to_owned(), json!(ratio(rows, row, i)));
                record
            })),
            Err(why) => {
                let mut record = output::machine_record();
                record.extend(output::object(json!({
                    "model_type": row.subject.name,
                    "model_size": row.subject.bytes,
                    "model_n_params": row.subject.parameters,
                    "linear_bits_per_weight": row.subject.linear_bits,
                    "skipped": why,
                })));
                records.push(record);
            }
        }
    }
    records
}

fn markdown(rows: &[Row], options: &Options) -> String {
    let isas = options.setups.iter().any(|setup| setup.isa != options.setups[0].isa);
    let types = options.setups.iter().any(|setup| setup.kv != options.setups[0].kv);
    let reference = rows.first().map_or("the first", |row| row.subject.name.as_str());
    let mut heads = vec!["method".to_owned(), "bits per weight".to_owned(), "size".to_owned()];
    for test in &options.tests {
        for setup in &options.setups {
            let noun = if setup.threads == 1 { "thread" } else { "threads" };
            let isa = if isas { format!("{}, ", setup.isa) } else { String::new() };
            let kv = if types { format!("{}, ", output::kv_name(setup.kv)) } else { String::new() };
            heads.push(format!("{test} t/s, {isa}{kv}{} {noun}", setup.threads));
            heads.push(format!("vs {reference}"));
            if test.phase == models::Phase::Generate {
                heads.push("of read limit".to_owned());
            }
        }
    }
    let columns: Vec<(&str, Align)> = heads
        .iter()
        .enumerate()
        .map(|(i, head)| (head.as_str(), if i == 0 { Align::Left } else { Align::Right }))
        .collect();
    let mut table = Table::new(&columns);
    for row in rows {
        let subject = &row.subject;
        let mut cells = vec![subject.name.clone(), format!("{:.2}", subject.linear_bits), bytes(subject.bytes)];
        let cases = options.tests.iter().flat_map(|test| options.setups.iter().map(move |_| test));
        for (i, test) in cases.enumerate() {
            let number = |value: Option<f64>, unit: &str| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}{unit}"))
            };
            cells.push(number(speed(row, i), ""));
            cells.push(number(ratio(rows, row, i), "x"));
            if test.phase == models::Phase::Generate {
                let share = row.measured.as_ref().ok().and_then(|m| m.get(i)).map(output::limit_share);
                cells.push(share.unwrap_or_else(|| "-".to_owned()));
            }
        }
        table.row(cells);
    }
    table.to_string()
}
