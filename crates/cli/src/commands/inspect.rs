//! `sherry inspect`: what is in a model, whether it is sound, and how its numbers are distributed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use sherry::Progress as _;
use sherry::io::gguf::{self, GgufFile};
use sherry::io::{ReadMode, TensorInfo, TensorSource, native, verify_tensor};
use sherry::model::names::{Naming, Role};
use sherry::model::{Checkpoint, Container, Stored};
use sherry::tokenizer::Tokenizer;
use sherry_convert::{Moves, Rows};
use sherry_kernels::format::half::f16_to_f32;
use sherry_kernels::format::{PackedRows, TernaryFormat, read_code};

use super::Context;
use super::engine::resolve;
use crate::interrupt;
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
    let mut report = json!({
        "path": path.display().to_string(),
        "description": checkpoint.describe(),
        "sizes": sizes(&checkpoint),
        "config": checkpoint.config_json().ok(),
        "tokenizer": tokenizer(checkpoint.tokenizer()),
        "notes": notes(&checkpoint),
    });
    if args.metadata
        && let Container::Gguf(file) = checkpoint.container()
    {
        report["metadata"] = metadata(file);
    }
    if args.tensors {
        report["tensors"] = tensors(checkpoint.source());
    }
    if let Some(name) = &args.hist {
        report["histogram"] = histogram(&checkpoint, name)?;
    }
    let mut sound = true;
    if args.verify {
        let problems = verify(&checkpoint, context)?;
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
    let infos = file.tensors();
    let total: u64 = infos.iter().map(|info| info.bytes as u64).sum();
    let architecture = match file.metadata().find("general.architecture") {
        Some(gguf::Value::String(name)) => format!("architecture {}", printable::line(name)),
        _ => "no architecture".to_owned(),
    };
    let holds = match infos.len() {
        0 => "no tensors".to_owned(),
        count => format!("{count} tensors of {}", bytes(total)),
    };
    let found = Tokenizer::from_metadata(file.metadata(), None)
        .and_then(|found| found.ok_or_else(|| sherry::Error::unsupported(file.path(), "the file has no tokenizer")));
    let mut report = json!({
        "path": file.path().display().to_string(),
        "description": format!("GGUF file, {architecture}, {holds}"),
        "not_run": problem.to_string(),
        "tokenizer": tokenizer(found),
    });
    if args.metadata {
        report["metadata"] = metadata(file);
    }
    if args.tensors {
        report["tensors"] = tensors(file);
    }
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

fn metadata(file: &GgufFile) -> Value {
    let entries = file.metadata().entries().iter();
    entries.map(|(key, value)| (key.clone(), json!(shown(value)))).collect::<serde_json::Map<_, _>>().into()
}

/// Bytes and bits per weight by kind of tensor.
fn sizes(checkpoint: &Checkpoint) -> Value {
    let sizes = sherry_convert::sizes_of(checkpoint);
    json!({
        "linear layers": { "bytes": sizes.linears, "bits_per_weight": sizes.linear_bits_per_weight() },
        "embedding and head": { "bytes": sizes.embeddings },
        "norms and biases": { "bytes": sizes.vectors },
        "all": { "bytes": sizes.total(), "bits_per_weight": sizes.bits_per_weight() },
    })
}

/// What is doubtful about the weights, and what could not be understood of the recommendations.
fn notes(checkpoint: &Checkpoint) -> Vec<String> {
    let faults = checkpoint.generation().faults.iter().map(|fault| fault.problem.clone());
    checkpoint.notes().into_iter().chain(faults).collect()
}

fn tokenizer(found: sherry::Result<Tokenizer>) -> Value {
    match found {
        Ok(tokenizer) => json!({
            "tokens": tokenizer.vocab_size(),
            "bos": tokenizer.bos().and_then(|id| tokenizer.id_to_token(id)),
            "eos": tokenizer.eos().and_then(|id| tokenizer.id_to_token(id)),
            "adds_bos": tokenizer.adds_bos(),
            "chat_template": tokenizer.chat_template().is_some(),
            "notes": tokenizer.notes(),
        }),
        Err(error) => json!({ "problem": error.to_string() }),
    }
}

fn tensors(source: &dyn TensorSource) -> Value {
    let infos = source.tensors().iter();
    infos
        .map(|info| json!({ "name": info.name, "type": info.ty.name(), "shape": info.shape, "bytes": info.bytes }))
        .collect()
}

/// Everything wrong with the data, one line each.
fn verify(checkpoint: &Checkpoint, context: &Context) -> Result<Vec<String>> {
    let source = checkpoint.source();
    let mut problems = Vec::new();
    if let Err(error) = checkpoint.tokenizer() {
        problems.push(format!("tokenizer: {error}"));
    }
    let mut roles: Vec<(Role, &Stored)> = checkpoint.tensors().iter().collect();
    roles.sort_by_key(|(_, stored)| stored.name().to_owned());
    context.console.start("verify", roles.len() as u64);
    for (role, stored) in roles {
        if interrupt::requested() {
            bail!(sherry::Error::Interrupted);
        }
        let problem = match stored {
            Stored::Plain { name, ty } => {
                let (shape, bytes) = (role.shape(checkpoint.config()), source.data(name)?.len());
                verify_tensor(source, &TensorInfo { name: name.clone(), ty: *ty, shape, bytes }).err()
            }
            // Opening packed rows checks codes, padding and scales.
            Stored::Packed { .. } | Stored::BitNet { .. } | Stored::Mlx { .. } => {
                Rows::open(source, checkpoint.config(), role, stored, Moves::default()).err()
            }
        };
        problems.extend(problem.map(|error| error.to_string()));
        context.console.advance(1);
    }
    context.console.finish();
    Ok(problems)
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

/// A GGUF value in one line.
fn shown(value: &gguf::Value) -> String {
    match value {
        gguf::Value::String(text) if text.chars().count() > 80 => {
            format!("{:?}... ({} bytes)", text.chars().take(77).collect::<String>(), text.len())
        }
        gguf::Value::String(text) => format!("{text:?}"),
        gguf::Value::Array(array) => format!("{} of {}", value.type_name(), array.len()),
        number => number.to_string(),
    }
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
