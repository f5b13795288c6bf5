//! `sherry inspect`: what is in a model, whether it is sound, and how its numbers are distributed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use sherry::io::gguf::GgufFile;
use sherry::io::{ReadMode, native};
use sherry::model::names::{Naming, Role};
use sherry::model::{Checkpoint, Stored};
use sherry_convert::inspect::{self, Listings};
use sherry_convert::{Moves, Rows};
use sherry_kernels::format::half::f16_to_f32;
use sherry_kernels::format::{PackedRows, TernaryFormat, read_code};

use super::Context;
use super::engine::resolve;
use crate::output::{Align, Stdout, Table, bytes, printable};

/// Show what is in a model file or folder, and check it
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry inspect smol.sherry
      configuration, sizes, tokenizer
  sherry inspect model.gguf --tensors
      every tensor
  sherry inspect model.gguf --verify
      read everything: codes, padding, scales, NaN; exit code 1 if unsound
  sherry inspect smol.sherry --hist layers.0.mlp.up_proj
      histograms of one tensor; any name that a command prints will do")]
pub struct InspectArgs {
    /// A Hugging Face folder or a GGUF file
    model: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// List all metadata of a GGUF file
    #[arg(long)]
    metadata: bool,
    /// Read all data and check it: exit code 1 when something is wrong
    #[arg(long)]
    verify: bool,
    /// Histograms of one tensor: values, scales, codes. Names of both containers are known, with or without "model." and
    /// ".weight"
    #[arg(long, value_name = "TENSOR")]
    hist: Option<String>,
}

impl InspectArgs {
    fn listings(&self) -> Listings {
        Listings { tensors: self.tensors, metadata: self.metadata }
    }
}

pub fn run(args: &InspectArgs, context: &Context) -> Result<ExitCode> {
    let path = resolve(&args.model)?;
    let checkpoint = match Checkpoint::open(&path, ReadMode::Map) {
        Ok(checkpoint) => checkpoint,
        // Whatever is in it, a sound GGUF file can be looked at.
        Err(error) => match GgufFile::open(&path, ReadMode::Map) {
            Ok(file) if args.hist.is_none() => return run_file(&file, &error, args, context),
            _ => return Err(error.into()),
        },
    };
    let mut report = inspect::report(&checkpoint, args.listings());
    if let Some(name) = &args.hist {
        report["histogram"] = histogram(&checkpoint, name)?;
    }
    let mut sound = true;
    if args.verify {
        let problems = inspect::problems(&checkpoint, &context.console)?;
        sound = problems.is_empty();
        report["problems"] = json!(problems);
    }
    let mut out = Stdout::lock();
    if context.json {
        out.json(&report)?;
    } else {
        write!(out, "{}", text(&report, &checkpoint))?;
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A GGUF file that is no model for this program, because of `problem`: a vocabulary, another architecture, a damaged model.
fn run_file(file: &GgufFile, problem: &sherry::Error, args: &InspectArgs, context: &Context) -> Result<ExitCode> {
    let report = inspect::report_file(file, problem, args.listings());
    let mut out = Stdout::lock();
    if context.json {
        out.json(&report)?;
    } else {
        let line = |text: &Value| printable::line(text.as_str().unwrap_or_default()).into_owned();
        let head = format!("{}\n{}\n", line(&report["path"]), line(&report["description"]));
        write!(out, "{head}cannot be run: {}\n\n{}", line(&report["not_run"]), listings(&report))?;
    }
    // What cannot be run is not sound either, for those who ask.
    Ok(if args.verify { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Bins of a value histogram.
const BINS: usize = 41;

fn histogram(checkpoint: &Checkpoint, name: &str) -> Result<Value> {
    let source = checkpoint.source();
    let wanted = bare_name(name);
    let mut tensors: Vec<(Role, &Stored)> = checkpoint.tensors().iter().collect();
    tensors.sort_by_key(|(_, stored)| stored.name());
    let names: Vec<Vec<String>> = tensors.iter().map(|(role, stored)| names_of(checkpoint, *role, stored)).collect();
    let at = names.iter().position(|names| names.iter().any(|name| bare_name(name) == wanted));
    let Some((role, stored)) = at.map(|at| tensors[at]) else {
        let likeness = |name: &str| strsim::jaro_winkler(bare_name(name), wanted);
        let near = names.iter().flatten().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let hint = near.map_or_else(String::new, |near| format!("; did you mean '{near}'?"));
        bail!(
            "--hist {name}: {} has no such tensor{hint} (`sherry inspect --tensors` lists them)",
            checkpoint.path().display()
        );
    };
    let rows = Rows::open(source, checkpoint.config(), role, stored, Moves::default())?;
    let (row_count, cols) = rows.shape();
    let mut row = vec![0.0; cols];
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    for index in 0..row_count {
        rows.fill(index, &mut row);
        (low, high) = row.iter().fold((low, high), |(low, high), x| (low.min(*x), high.max(*x)));
    }
    let mut counts = vec![0u64; BINS];
    let width = ((high - low) / BINS as f32).max(f32::MIN_POSITIVE);
    for index in 0..row_count {
        rows.fill(index, &mut row);
        for x in &row {
            counts[(((x - low) / width) as usize).min(BINS - 1)] += 1;
        }
    }
    let mut result = json!({ "tensor": stored.name(), "type": stored.type_name(), "rows": row_count, "cols": cols,
                             "values": { "low": low, "high": high, "counts": counts } });
    if let Some(packed) = rows.packed() {
        let scales: Vec<f32> = packed.scales.iter().map(|bits| f16_to_f32(*bits)).collect();
        let (low, high) =
            scales.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
        let mut counts = vec![0u64; BINS];
        let width = ((high - low) / BINS as f32).max(f32::MIN_POSITIVE);
        scales.iter().for_each(|x| counts[(((x - low) / width) as usize).min(BINS - 1)] += 1);
        result["scales"] = json!({ "low": low, "high": high, "counts": counts });
        if matches!(packed.layout.format, TernaryFormat::Sherry | TernaryFormat::Ternary167) {
            result["codes"] = json!(code_uses(&packed));
        }
    }
    Ok(result)
}

/// A tensor's name without what some lists leave out, and without what native folders say of its form.
fn bare_name(name: &str) -> &str {
    let name = name.strip_prefix("model.").unwrap_or(name);
    let forms = [".weight", ".codes", ".scales"].into_iter().find_map(|form| name.strip_suffix(form));
    forms.or_else(|| native::parse_blocks_name(name).map(|(module, _)| module)).unwrap_or(name)
}

/// All names under which commands list a tensor: those it has in the file, and those of the other container.
fn names_of(checkpoint: &Checkpoint, role: Role, stored: &Stored) -> Vec<String> {
    let family = checkpoint.config().family;
    let of_container = [Naming::HuggingFace, Naming::Gguf].into_iter().filter_map(|naming| role.name(family, naming));
    let in_file = stored.tensors().into_iter().chain([stored.name()]).map(str::to_owned);
    in_file.chain(of_container).collect()
}

/// How often each 5-bit code occurs, row padding left out.
fn code_uses(packed: &PackedRows) -> Vec<u64> {
    let mut uses = vec![0; 32];
    let codes = packed.layout.cols.div_ceil(packed.layout.format.lanes());
    for row in packed.codes.chunks(packed.layout.row_bytes()) {
        (0..codes).for_each(|index| uses[usize::from(read_code(row, index))] += 1);
    }
    uses
}

fn sparkline(counts: &Value) -> String {
    const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let counts: Vec<f64> = counts.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    let top = counts.iter().fold(1.0f64, |top, count| top.max(*count));
    counts.iter().map(|count| LEVELS[(count / top * 8.0).ceil() as usize % LEVELS.len()]).collect()
}

/// Tokenizer, metadata and tensors, where they are part of the report.
fn listings(report: &Value) -> String {
    let line = |text: &str| printable::line(text).into_owned();
    let shown = |value: &Value| line(value.as_str().unwrap_or_default());
    let tokenizer = &report["tokenizer"];
    let mut text = match &tokenizer["problem"] {
        Value::String(problem) => format!("tokenizer: {}\n", line(problem)),
        _ => format!(
            "tokenizer: {} tokens, bos {}, eos {}, {} chat template\n",
            tokenizer["tokens"],
            tokenizer["bos"],
            tokenizer["eos"],
            if tokenizer["chat_template"] == true { "with a" } else { "no" }
        ),
    };
    for note in [&tokenizer["notes"], &report["notes"]].into_iter().filter_map(Value::as_array).flatten() {
        text += &format!("note: {}\n", shown(note));
    }
    if let Some(metadata) = report["metadata"].as_object() {
        text += "\nmetadata\n";
        for (key, value) in metadata {
            text += &format!("  {} = {}\n", line(key), shown(value));
        }
    }
    if let Some(tensors) = report["tensors"].as_array() {
        let mut table = Table::new(&[
            ("tensor", Align::Left),
            ("type", Align::Left),
            ("shape", Align::Left),
            ("bytes", Align::Right),
        ]);
        for tensor in tensors {
            let shape: Vec<String> = tensor["shape"].as_array().into_iter().flatten().map(Value::to_string).collect();
            table.row([shown(&tensor["name"]), shown(&tensor["type"]), shape.join(" x "), tensor["bytes"].to_string()]);
        }
        text += &format!("\n{table}");
    }
    text
}

/// The report for people.
fn text(report: &Value, checkpoint: &Checkpoint) -> String {
    let line = |text: &str| printable::line(text).into_owned();
    let shown = |value: &Value| line(value.as_str().unwrap_or_default());
    let path = checkpoint.path().display().to_string();
    let mut text = format!("{}\n{}\n\n", line(&path), line(&checkpoint.describe()));
    let mut table = Table::new(&[("part", Align::Left), ("size", Align::Right), ("bits/weight", Align::Right)]);
    for (kind, entry) in report["sizes"].as_object().into_iter().flatten() {
        table.row([
            kind.clone(),
            bytes(entry["bytes"].as_u64().unwrap_or(0)),
            entry["bits_per_weight"].as_f64().map_or(String::new(), |bits| format!("{bits:.3}")),
        ]);
    }
    text += &table.to_string();
    let config = checkpoint.config();
    text += &format!(
        "\nhidden {}, intermediate {}, {} heads ({} for keys and values) of {}, vocabulary {}, context {}\n",
        config.hidden, config.ffn, config.heads, config.kv_heads, config.head_dim, config.vocab, config.context
    );
    text += &listings(report);
    let histogram = &report["histogram"];
    if histogram.is_object() {
        text += &format!("\n{} ({})\n", shown(&histogram["tensor"]), shown(&histogram["type"]));
        for part in ["values", "scales"] {
            let part_of = &histogram[part];
            if part_of.is_object() {
                text += &format!(
                    "  {part:<7} {:>11.3e} |{}| {:.3e}\n",
                    part_of["low"].as_f64().unwrap_or(0.0),
                    sparkline(&part_of["counts"]),
                    part_of["high"].as_f64().unwrap_or(0.0)
                );
            }
        }
        if histogram["codes"].is_array() {
            text +=
                &format!("  codes             0 |{}| 31   uses of each 5-bit code\n", sparkline(&histogram["codes"]));
        }
    }
    if let Some(problems) = report["problems"].as_array() {
        if problems.is_empty() {
            text += "\nverified: every tensor is sound\n";
        }
        for problem in problems {
            text += &format!("\nproblem: {}", shown(problem));
        }
        text += "\n";
    }
    text
}
