//! `sherry calibrate`: a full-precision model in, a 1.25-bit one that still speaks out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use sherry::io::AtomicFile;
use sherry_train::MatmulPrecision;
use sherry_train::calibrate::adapt::{Adaptation, AdaptationReport};
use sherry_train::calibrate::block::{BlockReport, Rounding};
use sherry_train::calibrate::budget::{Limit, Mixture, PLACES};
use sherry_train::calibrate::reconstruct::Reconstruction;
use sherry_train::calibrate::rounding::{Effort, Grid};
use sherry_train::calibrate::tune::Tuning;
use sherry_train::calibrate::{Event, Report, Request, Types, calibrate};

use super::Context;
use super::engine::resolve;
use super::number::{bits, count, not_negative, not_negative_f32, positive, seed, share, size};
use super::quantize::EmbedArg;
use crate::output::{Align, Stdout, Table, bytes, printable};
use sherry::threads::default_threads;

/// Turn a full-precision model into a 1.25-bit one by means of some text, block by block
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry calibrate smollm2-135m-instruct smol.sherry --data books.jsonl.zst
  sherry calibrate model.gguf out.sherry --data text.txt --tokens 65536
  sherry calibrate model.gguf none --data text.txt --blocks 3 --damping 0.05
      try a setting on three blocks
  sherry calibrate smollm2-135m-instruct mixed.sherry --data text.txt --bits 2
      types from 1.25 to 16 bits, two bits per weight on average
  sherry calibrate smollm2-135m-instruct small.gguf --data text.txt --size 40MB

A run that was stopped or killed goes on where it was, in its work folder, and
ends with the same bytes.")]
pub struct CalibrateArgs {
    /// The full-precision model: a Hugging Face folder or a GGUF file
    model: PathBuf,
    /// The output: a GGUF file when it ends in .gguf, a folder otherwise
    output: PathBuf,
    /// Text to calibrate on: .txt, .jsonl or .parquet files, .gz and .zst too; each gives the same share of the tokens
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    data: Vec<PathBuf>,
    /// Share of the tokens that the model writes itself, documents and conversations; all without --data
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    own_text: f64,
    /// Share of the text of files that is written with blanks around punctuation marks, as WikiText and the like are
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    spaced_text: f64,
    /// Field or column that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_field: String,
    /// Tokens to fit to
    #[arg(long, value_name = "N", default_value_t = 131_072, value_parser = positive)]
    tokens: usize,
    /// Tokens that only measure
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = count)]
    held_out: usize,
    /// Tokens per sequence
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = positive)]
    length: usize,
    /// What weights become
    #[arg(long = "type", value_enum, default_value = "sherry-1.25", value_name = "TYPE")]
    ty: TypeArg,
    /// A type for every linear layer, embedding and head, from a JSON file as `sherry quantize --recipe` reads it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ty", "embed"])]
    recipe: Option<PathBuf>,
    /// Choose the types: so many bits per weight of the linear layers on average, scales included
    #[arg(long, value_name = "N", value_parser = bits, conflicts_with_all = ["ty", "recipe"])]
    bits: Option<f64>,
    /// Choose the types: so many bytes for the whole file (40MB, 38MiB), of a folder for model.safetensors
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with_all = ["ty", "recipe", "bits"])]
    size: Option<u64>,
    /// Tokens on which it is measured what each type costs
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = positive)]
    sensitivity_tokens: usize,
    /// Where that is kept, and read when it is there [default: in the work folder]
    #[arg(long, value_name = "FILE")]
    sensitivity: Option<PathBuf>,
    /// Write the recipe that was chosen (OUTPUT.recipe.json), and stop
    #[arg(long)]
    only_recipe: bool,
    /// Weights along a row that share a scale [default: the whole row]
    #[arg(long, value_name = "N", value_parser = positive)]
    group_size: Option<usize>,
    /// Added to the diagonal of second moments, in units of its mean
    #[arg(long, value_name = "X", default_value_t = 0.1, value_parser = not_negative_f32)]
    damping: f32,
    /// Sweeps of coordinate descent at a time, at most
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = count)]
    sweeps: usize,
    /// Fits of a factor per input, folded into norms and other rows; 0: none
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count)]
    column_fits: usize,
    /// Passes over the text in which every block is trained after it was rounded; 0: none
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count)]
    reconstruct: usize,
    /// Sequences per step of it
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive)]
    reconstruct_batch: usize,
    /// Largest relative step of it of scales and norms
    #[arg(long, value_name = "X", default_value_t = 0.004, value_parser = not_negative)]
    reconstruct_rate: f64,
    /// Largest step of it of a latent weight, in units of the scale, where codes are trained too; 0: codes stay
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = not_negative)]
    reconstruct_code_rate: f64,
    /// Strength of the residual path of latent weights at its beginning (Arenas), where codes are trained
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = not_negative_f32)]
    reconstruct_residual: f32,
    /// Tokens on which the blocks that are not rounded yet are trained as floats, each time; 0: they stay as they are
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count)]
    adapt_tokens: usize,
    /// Blocks that are rounded between two times
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = positive)]
    adapt_every: usize,
    /// Sequences per step of it
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = positive)]
    adapt_batch: usize,
    /// Largest step of a weight in it, relative to the mean magnitude of its tensor
    #[arg(long, value_name = "X", default_value_t = 0.002, value_parser = not_negative)]
    adapt_rate: f64,
    /// Tokens on which scales and norms are tuned after rounding, with repetition; 0: none
    #[arg(long, value_name = "N", default_value_t = 131_072, value_parser = count)]
    tune_tokens: usize,
    /// Sequences per step of tuning
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = positive)]
    tune_batch: usize,
    /// Largest relative step of a scale in tuning
    #[arg(long, value_name = "X", default_value_t = 0.008, value_parser = not_negative)]
    tune_rate: f64,
    /// Tokens on which everything but embedding and head is trained after that, codes too; 0: none
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count)]
    train_tokens: usize,
    /// Sequences per step of it
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    train_batch: usize,
    /// Largest relative step of a scale in it
    #[arg(long, value_name = "X", default_value_t = 0.002, value_parser = not_negative)]
    train_rate: f64,
    /// Largest step of a latent weight in it, in units of the scale
    #[arg(long, value_name = "X", default_value_t = 0.005, value_parser = not_negative)]
    train_code_rate: f64,
    /// Strength of the residual path of latent weights at its beginning (Arenas); falls to zero over half of the steps
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = not_negative_f32)]
    train_residual: f32,
    /// How exact matrix products are where the model is run and trained, on processors that are faster at less than f32 (Intel's
    /// AMX); on others it makes no difference
    #[arg(long, value_enum, default_value = "high", value_name = "PRECISION")]
    matmul_precision: PrecisionArg,
    /// Type of embedding and head
    #[arg(long, value_enum, default_value = "auto", value_name = "TYPE")]
    embed: EmbedArg,
    /// Seed of the text that is drawn
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = seed)]
    seed: u64,
    /// The work folder [default: OUTPUT.calibration]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Stop after so many blocks and write no model
    #[arg(long, value_name = "N", value_parser = positive)]
    blocks: Option<usize>,
    /// Also write the importance of every input channel: as JSON for `sherry quantize --importance`, or as llama.cpp's
    /// imatrix when the name ends in .gguf or .dat
    #[arg(long, value_name = "FILE")]
    importance: Option<PathBuf>,
    /// Where the JSON report goes [default: OUTPUT.report.json]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Threads [default: all]
    #[arg(short, long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
    /// Replace an existing output
    #[arg(long)]
    force: bool,
}

/// How exact matrix products are.
#[derive(Clone, Copy, ValueEnum)]
enum PrecisionArg {
    /// f32 everywhere
    Highest,
    /// Pairs of bfloat16 (right to 2^-16)
    High,
    /// bfloat16 (right to 2^-8)
    Medium,
}

impl From<PrecisionArg> for MatmulPrecision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::Highest => Self::Highest,
            PrecisionArg::High => Self::High,
            PrecisionArg::Medium => Self::Medium,
        }
    }
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum TypeArg {
    /// Sherry: 3:4 sparse ternary, 1.25 bits per weight
    #[value(name = "sherry-1.25", alias = "sherry")]
    Sherry,
    /// Ternary without that constraint: 1.67 bits with a scale per row, 2 bits with groups
    #[value(name = "ternary")]
    Ternary,
    /// Four values, for comparison: written as floats, since no file type holds them
    #[value(name = "steps-2")]
    Steps2,
    /// Eight values, for comparison
    #[value(name = "steps-3")]
    Steps3,
    /// Sixteen values, for comparison
    #[value(name = "steps-4")]
    Steps4,
}

/// The report, and how it came about.
#[derive(Serialize)]
struct Document<'a> {
    command: String,
    #[serde(flatten)]
    report: &'a Report,
}

impl<'a> Document<'a> {
    fn of(report: &'a Report) -> Self {
        Self { command: printable::typed(), report }
    }
}

impl CalibrateArgs {
    fn request(&self) -> Result<Request> {
        let grid = match self.ty {
            TypeArg::Sherry => Grid::Sparse34,
            TypeArg::Ternary => Grid::Ternary,
            TypeArg::Steps2 => Grid::Steps { bits: 2 },
            TypeArg::Steps3 => Grid::Steps { bits: 3 },
            TypeArg::Steps4 => Grid::Steps { bits: 4 },
        };
        if !(self.damping > 0.0 && self.damping <= 1000.0) {
            bail!("--damping is {}; expected a number above 0, at most 1000", self.damping);
        }
        let limit = self.bits.map(Limit::Bits).or(self.size.map(Limit::Size));
        if self.only_recipe && limit.is_none() {
            bail!("--only-recipe needs --bits or --size");
        }
        if self.sensitivity.is_some() && limit.is_none() {
            bail!("--sensitivity needs --bits or --size");
        }
        let effort = Effort { sweeps: self.sweeps, column_fits: self.column_fits };
        Ok(Request {
            model: resolve(&self.model)?,
            out: self.output.clone(),
            work: self.work.clone().unwrap_or_else(|| beside(&self.output, ".calibration")),
            data: self.data.clone(),
            own_text: self.own_text,
            spaced_text: self.spaced_text,
            text_field: self.text_field.clone(),
            tokens: self.tokens,
            held_out: self.held_out,
            length: self.length,
            seed: self.seed,
            types: match (&self.recipe, limit) {
                (Some(path), _) => Types::Recipe(path.clone()),
                (None, Some(limit)) => Types::Budget(limit),
                (None, None) => Types::Alike,
            },
            sensitivity_tokens: self.sensitivity_tokens,
            sensitivity: self.sensitivity.clone(),
            recipe_out: beside(&self.output, ".recipe.json"),
            only_recipe: self.only_recipe,
            rounding: Rounding { grid, group: self.group_size, damping: self.damping, effort },
            reconstruction: Reconstruction {
                epochs: self.reconstruct,
                batch: self.reconstruct_batch,
                rate: self.reconstruct_rate,
                code_rate: self.reconstruct_code_rate,
                residual: self.reconstruct_residual,
            },
            adaptation: Adaptation {
                tokens: self.adapt_tokens,
                every: self.adapt_every,
                batch: self.adapt_batch,
                rate: self.adapt_rate,
            },
            tuning: Tuning {
                tokens: self.tune_tokens,
                batch: self.tune_batch,
                rate: self.tune_rate,
                code_rate: 0.0,
                residual: 0.0,
            },
            training: Tuning {
                tokens: self.train_tokens,
                batch: self.train_batch,
                rate: self.train_rate,
                code_rate: self.train_code_rate,
                residual: self.train_residual,
            },
            precision: self.matmul_precision.into(),
            embeddings: self.embed.choice(),
            blocks: self.blocks,
            importance: self.importance.clone(),
            overwrite: self.force,
        })
    }
}

fn beside(output: &Path, suffix: &str) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    output.with_file_name(name)
}

pub fn run(args: &CalibrateArgs, context: &Context) -> Result<ExitCode> {
    let request = args.request()?;
    let path = args.report.clone().unwrap_or_else(|| beside(&args.output, ".report.json"));
    // What would be refused in the end is refused before hours of work.
    for (option, path) in [
        ("--report", Some(&path)),
        ("--importance", args.importance.as_ref()),
        ("--sensitivity", args.sensitivity.as_ref()),
    ] {
        if let Some(path) = path
            && let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir())
        {
            bail!("{option} {}: no such folder '{}'", path.display(), parent.display());
        }
    }
    let targets = [&args.output, &path];
    let writes = args.blocks.is_none() && !args.only_recipe;
    let existing = targets.into_iter().find(|path| path.exists() && !args.force && writes);
    if let Some(existing) = existing {
        bail!("{}: exists already; --force replaces it", existing.display());
    }
    let threads = args.threads.unwrap_or_else(|| default_threads().threads);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let report = pool.install(|| calibrate(&request, &context.console, |event| context.console.say(&line(event))))?;
    if report.written.is_some() {
        let mut file = AtomicFile::create(&path)?;
        file.set_replace(args.force);
        file.write((serde_json::to_string_pretty(&Document::of(&report))? + "\n").as_bytes())?;
        file.commit()?;
    }
    let mut out = Stdout::lock();
    if context.json {
        out.json(&Document::of(&report))?;
    } else {
        if let Some(mixture) = &report.mixture
            && !context.quiet
        {
            write!(out, "{}", types_table(mixture))?;
            writeln!(out)?;
            write!(out, "{}", curve_table(mixture))?;
            writeln!(out)?;
        }
        if args.only_recipe {
            writeln!(out, "wrote     {}", request.recipe_out.display())?;
            return Ok(ExitCode::SUCCESS);
        }
        if !context.quiet {
            write!(out, "{}", table(&report))?;
            writeln!(out)?;
        }
        closing(&mut out, args, &report, &path)?;
    }
    let good = report.written.as_ref().is_none_or(|written| written.is_good());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What happened, in a line.
fn line(event: Event<'_>) -> String {
    match event {
        Event::Chosen(mixture) => format!(
            "chosen    {:.3} bits per weight of the linear layers, {}; predicted divergence {:.3} nats per token",
            mixture.bits,
            bytes(mixture.bytes),
            mixture.loss
        ),
        Event::Block(block) => block_line(block),
        Event::Adapted(report) => adaptation_line(report),
        Event::Rounded(rounded) => format!(
            "rounded   held out: perplexity {:.2}, divergence {:.3} nats per token",
            rounded.perplexity, rounded.divergence
        ),
        Event::Tuned(line) => {
            format!("step {:4}   {} tokens   divergence {:.3}", line.step, line.tokens, line.divergence)
        }
    }
}

fn block_line(block: &BlockReport) -> String {
    let maps: Vec<String> = block.maps.iter().map(|map| format!("{} {:.4}", map.map, map.rounding_error)).collect();
    format!(
        "block {:3}   {}   streams apart {:.4}, held out {:.4}   {:.1} s",
        block.block,
        maps.join("   "),
        block.calibration_error,
        block.held_out_error,
        block.seconds
    )
}

fn adaptation_line(report: &AdaptationReport) -> String {
    format!(
        "{:3} blocks rounded   divergence held out {:.3}, after adapting the others {:.3} (fitted {:.3})   {:.1} s",
        report.blocks, report.before, report.after, report.fitted, report.seconds
    )
}

/// How many matrices of which kind have which type.
fn types_table(mixture: &Mixture) -> Table {
    let mut columns = vec![("type".to_owned(), Align::Left)];
    columns.extend(PLACES.iter().map(|place| ((*place).to_owned(), Align::Right)));
    columns.push(("size".to_owned(), Align::Right));
    let mut table = Table::new(&columns);
    for share in &mixture.shares {
        let count = |place: &&str| share.matrices.get(place).map_or_else(String::new, ToString::to_string);
        let mut cells = vec![share.ty.clone()];
        cells.extend(PLACES.iter().map(count));
        cells.push(bytes(share.bytes));
        table.row(cells);
    }
    table
}

/// What other budgets would lead to.
fn curve_table(mixture: &Mixture) -> Table {
    let columns = ["bits/weight of linear layers", "all matrices", "predicted divergence"];
    let mut table = Table::new(&columns.map(|name| (name, Align::Right)));
    for point in &mixture.curve {
        table.row([format!("{:.3}", point.bits), bytes(point.bytes), format!("{:.4}", point.loss)]);
    }
    table
}

/// One row per block.
fn table(report: &Report) -> Table {
    let maps = report.blocks.first().map_or(&[][..], |block| &block.maps);
    let mut columns = vec![("block".to_owned(), Align::Right)];
    columns.extend(maps.iter().map(|map| (map.map.clone(), Align::Right)));
    columns.extend(["apart", "held out", "s"].map(|name| (name.to_owned(), Align::Right)));
    let mut table = Table::new(&columns);
    for block in &report.blocks {
        let mut cells = vec![block.block.to_string()];
        cells.extend(block.maps.iter().map(|map| format!("{:.4}", map.rounding_error)));
        cells.push(format!("{:.4}", block.calibration_error));
        cells.push(format!("{:.4}", block.held_out_error));
        cells.push(format!("{:.1}", block.seconds));
        table.row(cells);
    }
    table
}

fn closing(out: &mut Stdout, args: &CalibrateArgs, report: &Report, path: &Path) -> Result<()> {
    let Some(written) = &report.written else {
        writeln!(out, "stopped after {} blocks; nothing was written", report.blocks.len())?;
        return Ok(());
    };
    writeln!(
        out,
        "held out  perplexity {:.2} of the original ({} tokens)",
        report.original_perplexity, report.held_out
    )?;
    let stages = [("rounded", report.rounded), ("tuned", report.tuned), ("trained", report.trained)];
    for (name, measured) in stages {
        let Some(measured) = measured else { continue };
        let (perplexity, divergence) = (measured.perplexity, measured.divergence);
        writeln!(out, "{name:9} perplexity {perplexity:.2}; divergence {divergence:.3} nats per token")?;
    }
    let verdict = if written.is_good() { "as fitted" } else { "NOT AS FITTED" };
    writeln!(
        out,
        "wrote     {} in {:.0} s, perplexity {:.2}: {verdict} (int8 activations: {:.2})   report: {}",
        args.output.display(),
        report.seconds,
        written.written_perplexity,
        written.int8_perplexity,
        path.display()
    )?;
    Ok(())
}
