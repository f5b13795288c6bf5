//! `sherry quantize`: a dense model in, a packed one out, and what that did to every tensor.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use sherry::io::gguf::StqId;
use sherry::io::{AtomicFile, ReadMode};
use sherry::model::Checkpoint;
use sherry_convert::quant::{Projection, QuantSpec};
use sherry_convert::recipe::Recipe;
use sherry_convert::{Container, Embeddings, Linears, Request, STQ1_0_SPEC, Summary, Written, importance};
use sherry_kernels::format::{QuadOrder, ScaleGroup, TensorType, TernaryFormat};

use super::Context;
use super::engine::resolve;
use super::number::positive;
use crate::output::{Align, Stdout, Table, bytes, printable};

/// Weights that were made for it differ from their ternary form by less than this, relative to their norm.
const TRAINED_ERROR: f64 = 0.05;

/// Turn a dense model into a 1.25-bit one (or one of the baselines)
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry quantize smollm2-135m-instruct smol.sherry
      a native folder with one scale per row
  sherry quantize meta-llama/Llama-3.2-1B llama.gguf
      a GGUF file with STQ1_0 tensors, for llama.cpp
  sherry quantize smollm2-135m-instruct smol.gguf --fallback q8_0
      the same where some rows do not fit the blocks of STQ1_0
  sherry quantize model.gguf out.sherry --scale group --group-size 128
  sherry quantize model.gguf two-bit --type ternary-2 --projection twn
  sherry quantize smollm2-135m-instruct mixed.sherry --recipe mixed.json
      a type for every tensor; `sherry calibrate --bits` chooses such recipes

A projection without training loses most of what a dense model knows; it is the
starting point of training and the form in which trained models are packed.
`sherry calibrate` makes a better model of the same size by means of some text.")]
pub struct QuantizeArgs {
    /// The dense model: a Hugging Face folder or a GGUF file
    input: PathBuf,
    /// The output: a GGUF file when it ends in .gguf, a folder otherwise
    output: PathBuf,
    /// Type of the linear layers
    #[arg(long = "type", value_enum, default_value = "sherry-1.25", value_name = "TYPE")]
    ty: TypeArg,
    /// A type for every linear layer, embedding and head, from a JSON file: {"sherry_recipe": 1, "tensors":
    /// {"model.layers.*.mlp.up_proj": "sherry-1.25", ..}}
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["ty", "scale", "group_size", "quad", "projection", "embed", "fallback"]
    )]
    recipe: Option<PathBuf>,
    /// Weights that share a scale [default: row; group of 256 in GGUF]
    #[arg(long, value_enum)]
    scale: Option<ScaleArg>,
    /// Weights per scale with --scale group: 32, 64, 128 or 256 (24, 48, 96 or 192 for ternary-1.67)
    /// [default: 128 or 96]
    #[arg(long, value_name = "N", requires = "scale", value_parser = positive)]
    group_size: Option<usize>,
    /// Which four inputs form a quad [default: contiguous; stride16 in GGUF]
    #[arg(long, value_enum)]
    quad: Option<QuadArg>,
    /// How weights become ternary (the baselines only) [default: absmean]
    #[arg(long, value_enum)]
    projection: Option<ProjectionArg>,
    /// Type of embedding and head
    #[arg(long, value_enum, default_value = "auto", value_name = "TYPE")]
    embed: EmbedArg,
    /// Importance of every input channel, as `sherry calibrate --importance` writes it: JSON,
    /// {"model.layers.0.mlp.up_proj.weight": [..], ..}, or llama.cpp's imatrix (GGUF or .dat)
    #[arg(long, value_name = "FILE")]
    importance: Option<PathBuf>,
    /// For GGUF: the type of linear layers whose rows STQ1_0 cannot hold [default: they are refused]
    #[arg(long, value_enum, value_name = "TYPE")]
    fallback: Option<FallbackArg>,
    /// List what became of every tensor
    #[arg(long)]
    tensors: bool,
    /// Where the JSON report goes [default: OUTPUT.report.json]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Type id of STQ1_0 in GGUF: 43, or 42 for the programs that came with the first 1.25-bit files
    #[arg(long, value_name = "ID", default_value = "43", value_parser = ["42", "43"])]
    stq_id: String,
    /// Replace an existing output
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum TypeArg {
    /// Sherry: 3:4 sparse ternary, 1.25 bits per weight
    #[value(name = "sherry-1.25", alias = "sherry")]
    Sherry,
    /// Dense ternary, three weights in five bits
    #[value(name = "ternary-1.67")]
    Ternary167,
    /// Dense ternary, two bits per weight
    #[value(name = "ternary-2")]
    Ternary2,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "bf16")]
    Bf16,
    #[value(name = "f16")]
    F16,
    #[value(name = "f32")]
    F32,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum ScaleArg {
    Row,
    Group,
}

#[derive(Clone, Copy, ValueEnum)]
enum QuadArg {
    Contiguous,
    Stride16,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProjectionArg {
    Absmean,
    Absmedian,
    Twn,
}

/// Types for what packed codes of a GGUF file cannot hold.
#[derive(Clone, Copy, ValueEnum)]
pub enum FallbackArg {
    /// 8.5 bits per weight, in blocks of 32
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "f16")]
    F16,
}

impl FallbackArg {
    pub fn ty(self) -> TensorType {
        match self {
            Self::Q8_0 => TensorType::Q8_0,
            Self::F16 => TensorType::F16,
        }
    }
}

/// Types of embedding and head.
#[derive(Clone, Copy, ValueEnum)]
pub enum EmbedArg {
    /// Q8_0 in folders, as released files have it in GGUF; quantized ones stay
    Auto,
    Keep,
    #[value(name = "f32")]
    F32,
    #[value(name = "f16")]
    F16,
    #[value(name = "bf16")]
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q6_k")]
    Q6K,
    #[value(name = "q4_k")]
    Q4K,
    /// 4.5 bits in blocks of 32: for rows that the blocks of 256 of the others do not fit
    #[value(name = "q4_0")]
    Q4_0,
}

impl EmbedArg {
    pub fn choice(self) -> Embeddings {
        match self {
            Self::Auto => Embeddings::Auto,
            Self::Keep => Embeddings::Keep,
            Self::F32 => Embeddings::As(TensorType::F32),
            Self::F16 => Embeddings::As(TensorType::F16),
            Self::Bf16 => Embeddings::As(TensorType::BF16),
            Self::Q8_0 => Embeddings::As(TensorType::Q8_0),
            Self::Q6K => Embeddings::As(TensorType::Q6_K),
            Self::Q4K => Embeddings::As(TensorType::Q4_K),
            Self::Q4_0 => Embeddings::As(TensorType::Q4_0),
        }
    }
}

pub fn stq_id(text: &str) -> StqId {
    if text == "42" { StqId::Id42 } else { StqId::Id43 }
}

impl QuantizeArgs {
    /// Refuses options without effect, and results that have no place, before any work is done.
    fn check(&self) -> Result<()> {
        let sherry = self.ty == TypeArg::Sherry;
        let ternary = matches!(self.ty, TypeArg::Ternary167 | TypeArg::Ternary2);
        if self.group_size.is_some() && self.scale != Some(ScaleArg::Group) {
            bail!("--group-size needs --scale group");
        }
        if self.scale.is_some() && !sherry && !ternary {
            bail!("--scale is for ternary types");
        }
        if self.quad.is_some() && !sherry {
            bail!("--quad is for sherry-1.25");
        }
        if self.importance.is_some() && !sherry {
            bail!("--importance is for sherry-1.25");
        }
        if self.projection.is_some() && !ternary {
            bail!("--projection is for ternary-1.67 and ternary-2; sherry-1.25 has its own");
        }
        if self.fallback.is_some() && (!sherry || sherry_convert::container_of(&self.output) != Container::Gguf) {
            bail!("--fallback is for sherry-1.25 in GGUF files (an output that ends in .gguf)");
        }
        let report = self.report();
        let parent = report.parent().filter(|parent| !parent.as_os_str().is_empty());
        if self.report.is_some() && parent.is_some_and(|parent| !parent.is_dir()) {
            bail!("--report {}: no such folder", report.display());
        }
        if report == self.output {
            bail!("--report {}: is the output", report.display());
        }
        let existing = [&self.output, &report].into_iter().find(|path| path.exists());
        match existing.filter(|_| !self.force) {
            Some(path) => bail!("{}: exists already; --force replaces it", path.display()),
            None => Ok(()),
        }
    }

    /// Where the report goes.
    fn report(&self) -> PathBuf {
        self.report.clone().unwrap_or_else(|| {
            let mut name = self.output.file_name().unwrap_or_default().to_os_string();
            name.push(".report.json");
            self.output.with_file_name(name)
        })
    }

    fn linears(&self) -> Linears {
        let projection = match self.projection {
            None | Some(ProjectionArg::Absmean) => Projection::AbsMean,
            Some(ProjectionArg::Absmedian) => Projection::AbsMedian,
            Some(ProjectionArg::Twn) => Projection::Twn,
        };
        let gguf = sherry_convert::container_of(&self.output) == Container::Gguf;
        let scale = match self.scale {
            Some(ScaleArg::Group) => ScaleGroup::Group(self.group_size.unwrap_or(match self.ty {
                TypeArg::Ternary167 => 96,
                _ => 128,
            })),
            Some(ScaleArg::Row) | None => ScaleGroup::Row,
        };
        let spec = |format, projection| QuantSpec { format, order: QuadOrder::Contiguous, scale, projection };
        Linears::Packed(match self.ty {
            TypeArg::Sherry => {
                let base = if gguf { STQ1_0_SPEC } else { QuantSpec::sherry(ScaleGroup::Row) };
                QuantSpec {
                    order: match self.quad {
                        None => base.order,
                        Some(QuadArg::Contiguous) => QuadOrder::Contiguous,
                        Some(QuadArg::Stride16) => QuadOrder::Stride16,
                    },
                    scale: if self.scale.is_some() { scale } else { base.scale },
                    ..base
                }
            }
            TypeArg::Ternary167 => spec(TernaryFormat::Ternary167, projection),
            TypeArg::Ternary2 => spec(TernaryFormat::Ternary2, projection),
            TypeArg::Q8_0 => return Linears::Dense(TensorType::Q8_0),
            TypeArg::Bf16 => return Linears::Dense(TensorType::BF16),
            TypeArg::F16 => return Linears::Dense(TensorType::F16),
            TypeArg::F32 => return Linears::Dense(TensorType::F32),
        })
    }
}

pub fn run(args: &QuantizeArgs, context: &Context) -> Result<ExitCode> {
    args.check()?;
    let start = Instant::now();
    let checkpoint = Checkpoint::open(&resolve(&args.input)?, ReadMode::Map)?;
    context.console.say(&format!("found   {}", checkpoint.describe()));
    let recipe = args.recipe.as_ref().map(|path| Recipe::read(path, checkpoint.config())).transpose()?;
    let request = Request {
        recipe,
        exact: false,
        linears: args.linears(),
        embeddings: args.embed.choice(),
        fallback: args.fallback.map(FallbackArg::ty),
        stq_id: stq_id(&args.stq_id),
        importance: match &args.importance {
            Some(path) => importance::read(path, checkpoint.config().family)?,
            None => importance::Importance::default(),
        },
        overwrite: args.force,
    };
    let summary = sherry_convert::convert(&checkpoint, &args.output, &request, &context.console, |_| {})?;
    let untrained = is_untrained(&checkpoint, &summary);
    let report = args.report();
    let document = json!({
        "input": args.input.display().to_string(),
        "output": summary.path.display().to_string(),
        "input_bytes": summary.input_bytes,
        "sizes": summary.sizes(),
        "linear_bits_per_weight": summary.sizes().linear_bits_per_weight(),
        "bits_per_weight": summary.sizes().bits_per_weight(),
        "seconds": start.elapsed().as_secs_f64(),
        "untrained": untrained,
        "notes": summary.notes,
        "tensors": summary.tensors,
    });
    let mut file = AtomicFile::create(&report)?;
    file.set_replace(args.force);
    file.write((serde_json::to_string_pretty(&document)? + "\n").as_bytes())?;
    file.commit()?;
    let mut out = Stdout::lock();
    if context.json {
        out.json(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !context.quiet {
        if args.tensors {
            write!(out, "{}", tensor_table(&summary.tensors))?;
            writeln!(out)?;
        }
        write!(out, "{}", size_table(&summary))?;
        writeln!(out)?;
        for line in closing_lines(&summary) {
            writeln!(out, "{}", printable::line(&line))?;
        }
    }
    writeln!(
        out,
        "wrote   {} in {:.1} s   report: {}",
        args.output.display(),
        start.elapsed().as_secs_f64(),
        report.display()
    )?;
    if untrained && !context.quiet {
        let input = args.input.to_string_lossy();
        let input = printable::word(&input);
        writeln!(
            out,
            "\nThis is an untrained projection: its weights were rounded one by one, so that\n\
             its answers are mostly nonsense. Post-training by means of some text brings\n\
             back sentences, if few facts, at the same size:\n  \
             sherry calibrate {input} NEW_OUTPUT --data TEXT_FILES"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether weights became ternary that nothing has prepared for it: they are far from the ternary ones, and do not come from
/// a checkpoint of `sherry train`.
fn is_untrained(checkpoint: &Checkpoint, summary: &Summary) -> bool {
    let reports = || summary.tensors.iter().filter_map(|tensor| tensor.report.as_ref());
    let ternary = reports().any(|report| report.relative_error > TRAINED_ERROR);
    ternary && !checkpoint.path().join("state.json").is_file()
}

/// One row per quantized tensor.
pub fn tensor_table(tensors: &[Written]) -> Table {
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("shape", Align::Left),
        ("from", Align::Left),
        ("to", Align::Left),
        ("bits codes+scales", Align::Right),
        ("rel. error", Align::Right),
        ("cosine", Align::Right),
        ("SQNR dB", Align::Right),
        ("-1 / 0 / +1 %", Align::Right),
    ]);
    for tensor in tensors {
        let Some(report) = &tensor.report else { continue };
        table.row([
            short_name(&tensor.name),
            format!("{} x {}", tensor.rows, tensor.cols),
            tensor.from.clone(),
            tensor.to.clone(),
            format!("{:.3}+{:.3}", report.code_bits_per_weight, report.scale_bits_per_weight),
            format!("{:.4}", report.relative_error),
            format!("{:.4}", report.cosine),
            report.sqnr_db.map_or_else(|| "exact".to_owned(), |db| format!("{db:.2}")),
            format!(
                "{:.1} / {:.1} / {:.1}",
                100.0 * report.share_minus,
                100.0 * report.share_zero,
                100.0 * report.share_plus
            ),
        ]);
    }
    table
}

/// "layers.3.mlp.up_proj" of "model.layers.3.mlp.up_proj.weight".
fn short_name(name: &str) -> String {
    name.trim_start_matches("model.").trim_end_matches(".weight").to_owned()
}

fn size_table(summary: &Summary) -> Table {
    let sizes = summary.sizes();
    let mut table = Table::new(&[
        ("part", Align::Left),
        ("type", Align::Left),
        ("size", Align::Right),
        ("bits/weight", Align::Right),
    ]);
    let types = |wanted: &dyn Fn(&Written) -> bool| {
        let mut names: Vec<&str> = summary.tensors.iter().filter(|t| wanted(t)).map(|t| t.to.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    };
    let mut row = |part: &str, wanted: &dyn Fn(&Written) -> bool, size: u64| {
        let weights: u64 = summary.tensors.iter().filter(|t| wanted(t)).map(|t| t.rows as u64 * t.cols as u64).sum();
        let bits = 8.0 * size as f64 / weights.max(1) as f64;
        table.row([part.to_owned(), types(wanted), bytes(size), format!("{bits:.3}")]);
    };
    row("linear layers, scales included", &|t| t.linear, sizes.linears);
    row("embedding and head", &|t| t.embedding, sizes.embeddings);
    row("norms and biases", &|t| !t.linear && !t.embedding, sizes.vectors);
    row("all tensors", &|_| true, sizes.total());
    table
}

/// Totals, the worst tensors and remarks.
fn closing_lines(summary: &Summary) -> Vec<String> {
    let sizes = summary.sizes();
    let mut lines = vec![format!("size    {} -> {}", bytes(summary.input_bytes), bytes(sizes.total()))];
    let mut reports: Vec<(f64, &str)> = summary
        .tensors
        .iter()
        .filter_map(|tensor| Some((tensor.report.as_ref()?.relative_error, tensor.name.as_str())))
        .collect();
    reports.sort_by(|a, b| b.0.total_cmp(&a.0));
    if !reports.is_empty() {
        lines.push("worst   tensors by relative error ||W - Q|| / ||W||:".to_owned());
        lines.extend(reports.iter().take(3).map(|(error, name)| format!("        {error:.3}  {}", short_name(name))));
    }
    lines.extend(summary.notes.iter().map(|note| format!("note    {note}")));
    lines
}
