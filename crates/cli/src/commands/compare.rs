//! `sherry compare`: how far apart two models are, tensor by tensor and in what they predict.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use rayon::prelude::*;
use serde_json::{Value, json};
use sherry::Progress as _;
use sherry::model::Checkpoint;
use sherry::model::names::{Naming, Role};
use sherry_convert::{Moves, Rows};
use sherry_measure::eval::data::read_text;
use sherry_measure::eval::{DecoderLm, Divergence, Windows, divergence};

use super::Context;
use super::engine::{ContextSize, EngineArgs, Loaded, resolve};
use super::number::{not_negative, positive};
use crate::interrupt;
use crate::output::{Align, Console, Stdout, Table};

/// Compare two models: error of every tensor and, with a text, KL divergence of what they predict
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry compare HuggingFaceTB/SmolLM2-135M-Instruct smol.sherry
  sherry compare model.gguf smol.sherry --text article.txt
  sherry compare model.gguf smol.sherry --text article.txt --max-kld 0.1
      exit 1 when the divergence is larger

The first model is the reference. Differences of layout (row orders of GGUF,
channel permutations of exported STQ1_0 files) are undone before tensors are
compared.")]
pub struct CompareArgs {
    /// The reference model
    reference: PathBuf,
    /// The other model
    model: PathBuf,
    /// A text on which predictions are compared
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens per window of the text
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = positive)]
    window: usize,
    /// List every tensor, not the worst ones alone
    #[arg(long)]
    tensors: bool,
    /// Skip the tensors
    #[arg(long, requires = "text", conflicts_with = "tensors")]
    no_tensors: bool,
    /// Fail (exit code 1) when the mean KL divergence exceeds this
    #[arg(long, value_name = "NATS", requires = "text", value_parser = not_negative)]
    max_kld: Option<f64>,
    #[command(flatten)]
    engine: EngineArgs,
}

pub fn run(args: &CompareArgs, context: &Context) -> Result<ExitCode> {
    if args.max_kld.is_some_and(|limit| !limit.is_finite() || limit < 0.0) {
        bail!("--max-kld: expected a number that is not negative");
    }
    if args.window < 2 {
        bail!("--window {}: a prediction takes two tokens at least", args.window);
    }
    // What can be wrong with the second half of the work is found before the first begins.
    let text_file = args.text.as_deref().map(read_text).transpose()?;
    if text_file.is_some() {
        for model in [&args.reference, &args.model] {
            args.context().of(Checkpoint::open(&resolve(model)?, args.engine.read_mode())?.config())?;
        }
    }
    let mut report =
        json!({ "reference": args.reference.display().to_string(), "model": args.model.display().to_string() });
    let mut text = String::new();
    if !args.no_tensors {
        let (summary, rows) = tensors(args, context)?;
        text += &summary;
        report["tensors"] = rows;
    }
    let mut passed = true;
    if let Some(text_file) = &text_file {
        let found = predictions(args, text_file, context)?;
        let [reference, model] = found.nll();
        report["predictions"] = json!({
            "tokens": found.tokens(),
            "mean_kld": found.mean().value,
            "mean_kld_stderr": found.mean().stderr,
            "median_kld": found.percentile(0.5),
            "p99_kld": found.percentile(0.99),
            "max_kld": found.percentile(1.0),
            "same_top": found.same_top().value,
            "same_top_stderr": found.same_top().stderr,
            "rms_probability_change": found.rms_change().value,
            "reference_perplexity": reference.value.exp(),
            "model_perplexity": model.value.exp(),
        });
        if !text.is_empty() {
            text.push('\n');
        }
        text += &format!("{} tokens\n\n{found}\n", found.tokens());
        passed = args.max_kld.is_none_or(|limit| found.mean().value <= limit);
        if !passed {
            text += &format!(
                "\nfailed: mean KL divergence {:.6} exceeds {}\n",
                found.mean().value,
                args.max_kld.unwrap_or_default()
            );
        }
        report["passed"] = json!(passed);
    }
    let mut out = Stdout::lock();
    if context.json {
        out.json(&report)?;
    } else {
        write!(out, "{text}")?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

impl CompareArgs {
    fn context(&self) -> ContextSize {
        ContextSize { asked: Some(("--window", self.window)), default: self.window }
    }
}

/// Tensors of a summary.
const WORST: usize = 8;

/// A table of the tensors with their mean error, and all of them as JSON.
fn tensors(args: &CompareArgs, context: &Context) -> Result<(String, Value)> {
    let mode = args.engine.read_mode();
    let reference = Checkpoint::open(&resolve(&args.reference)?, mode)?;
    let model = Checkpoint::open(&resolve(&args.model)?, mode)?;
    let roles: Vec<Role> = Role::all(reference.config()).collect();
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("reference", Align::Left),
        ("model", Align::Left),
        ("rel. error", Align::Right),
        ("cosine", Align::Right),
        ("largest", Align::Right),
    ]);
    let (mut rows, mut lines, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    context.console.start("compare tensors", roles.len() as u64);
    for role in roles {
        if interrupt::requested() {
            bail!(sherry::Error::Interrupted);
        }
        let name = role.name(reference.config().family, Naming::HuggingFace).unwrap_or_default();
        let open = |checkpoint: &Checkpoint| -> Result<(String, Vec<usize>)> {
            let stored = checkpoint.tensors().get(role, checkpoint.source())?;
            Ok((stored.type_name(), role.shape(checkpoint.config())))
        };
        let ((a_type, a_shape), (b_type, b_shape)) = (open(&reference)?, open(&model)?);
        if a_shape != b_shape {
            bail!("{name}: shape {a_shape:?} in the reference, {b_shape:?} in the model: not the same architecture");
        }
        let difference = Difference::of(&reference, &model, role)?;
        let line = [
            name.clone(),
            a_type.clone(),
            b_type.clone(),
            format!("{:.5}", difference.relative_error()),
            difference.cosine().map_or("-".to_owned(), |cosine| format!("{cosine:.5}")),
            format!("{:.3e}", difference.largest),
        ];
        lines.push((difference.relative_error(), line));
        errors.extend(role.is_linear().then(|| difference.relative_error()));
        rows.push(json!({
            "tensor": name, "reference_type": a_type, "model_type": b_type,
            "relative_error": difference.relative_error(), "cosine": difference.cosine(),
            "largest_difference": difference.largest,
        }));
        context.console.advance(1);
    }
    context.console.finish();
    let count = lines.len();
    if !args.tensors {
        lines.sort_by(|a, b| b.0.total_cmp(&a.0));
        lines.truncate(WORST);
    }
    lines.into_iter().for_each(|(_, line)| table.row(line));
    let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
    let all = if args.tensors || count <= WORST { "" } else { "; these are the worst, --tensors lists all" };
    Ok((format!("{table}\nmean relative error of {} linear layers {mean:.5}{all}\n", errors.len()), rows.into()))
}

/// Sums over the values of one tensor in two models.
#[derive(Clone, Copy, Default)]
struct Difference {
    /// Squared norms of reference, model and difference; dot product.
    norms: [f64; 4],
    largest: f32,
}

impl Difference {
    fn of(reference: &Checkpoint, model: &Checkpoint, role: Role) -> Result<Self> {
        fn open(checkpoint: &Checkpoint, role: Role) -> Result<Rows<'_>> {
            let stored = checkpoint.tensors().get(role, checkpoint.source())?;
            let moves = Moves::for_folder(checkpoint);
            Ok(Rows::open(checkpoint.source(), checkpoint.config(), role, stored, moves)?)
        }
        let (a, b) = (open(reference, role)?, open(model, role)?);
        let (rows, cols) = a.shape();
        let sums: Vec<Self> = (0..rows)
            .into_par_iter()
            .map_init(
                || (vec![0.0; cols], vec![0.0; cols]),
                |(x, y), row| {
                    a.fill(row, x);
                    b.fill(row, y);
                    Self::of_rows(x, y)
                },
            )
            .collect();
        a.release();
        b.release();
        Ok(sums.iter().fold(Self::default(), Self::plus))
    }

    fn of_rows(x: &[f32], y: &[f32]) -> Self {
        let mut sum = Self::default();
        for (&x, &y) in x.iter().zip(y) {
            let (wide_x, wide_y) = (f64::from(x), f64::from(y));
            let terms = [wide_x * wide_x, wide_y * wide_y, (wide_x - wide_y).powi(2), wide_x * wide_y];
            sum.norms.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            sum.largest = sum.largest.max((x - y).abs());
        }
        sum
    }

    fn plus(mut self, other: &Self) -> Self {
        self.norms.iter_mut().zip(other.norms).for_each(|(sum, term)| *sum += term);
        self.largest = self.largest.max(other.largest);
        self
    }

    fn relative_error(&self) -> f64 {
        let [reference, _, difference, _] = self.norms;
        if difference == 0.0 { 0.0 } else { (difference / reference).sqrt() }
    }

    /// `None` where one of the two is zero: there is no angle then.
    fn cosine(&self) -> Option<f64> {
        let [reference, model, _, dot] = self.norms;
        if reference == 0.0 && model == 0.0 {
            return Some(1.0);
        }
        Some(dot / (reference * model).sqrt()).filter(|cosine| cosine.is_finite())
    }
}

fn predictions(args: &CompareArgs, text: &str, context: &Context) -> Result<Divergence> {
    let lm = |model: &Path| -> Result<DecoderLm> {
        let Loaded { decoder, tokenizer, .. } = args.engine.load(Some(model), args.context(), &context.console)?;
        let lm = DecoderLm::new(decoder, tokenizer, args.engine.kv(), args.window);
        Ok(lm.stopped_by(Console::new(true)))
    };
    let (mut reference, mut model) = (lm(&args.reference)?, lm(&args.model)?);
    let windows = Windows::Strided { size: args.window, stride: args.window };
    Ok(divergence(&mut reference, &mut model, text, windows, &context.console)?)
}
