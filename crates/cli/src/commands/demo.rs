//! `sherry demo`: get a real model, quantize it, run both, and say what happened.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};
use sherry::Progress as _;
use sherry::io::ReadMode;
use sherry::model::Checkpoint;
use sherry_convert::quant::QuantSpec;
use sherry_convert::{Embeddings, Linears, Request, Sizes};
use sherry_kernels::format::ScaleGroup;
use sherry_measure::eval::data::read_text;
use sherry_measure::eval::{DecoderLm, Windows, perplexity};

use super::Context;
use super::engine::{ContextSize, EngineArgs, resolve};
use super::number::count;
use super::pull::pull_demo;
use super::sampling::SamplingArgs;
use crate::commands::speaker::Speaker;
use crate::output::{Align, Stdout, Table, bytes};
use crate::pull::{DEMO_NAME, Release};

/// The whole story on a real model: download, quantize to 1.25 bits, answer with both, measure both
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry demo
  sherry demo --prompt \"Name three rivers.\" --text article.txt
  sherry demo --model meta-llama/Llama-3.2-1B-Instruct

The quantized model is left in models/.")]
pub struct DemoArgs {
    /// The dense model [default: SmolLM2-135M-Instruct, downloaded]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// What both models are asked
    #[arg(long, default_value = "Why is the sky blue?")]
    prompt: String,
    /// Text for perplexity [default: a page about tides]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Most tokens of an answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 48, value_parser = count)]
    max_tokens: usize,
    #[command(flatten)]
    engine: EngineArgs,
}

/// A page in plain English, written for this purpose.
const TEXT: &str = include_str!("../../../../docs/demo.txt");
/// Tokens per window of the perplexity, or what the model was made for if that is less. Windows overlap by half, so that
/// all but the first tokens have at least half a window of context.
const WINDOW: usize = 512;

struct Row {
    label: &'static str,
    model: String,
    window: usize,
    sizes: Sizes,
    answer: String,
    perplexity: f64,
    tokens_per_second: f64,
}

pub fn run(args: &DemoArgs, context: &Context) -> Result<ExitCode> {
    let console = &context.console;
    let dense = match &args.model {
        Some(model) => resolve(model)?,
        None => match Release::find(DEMO_NAME).and_then(Release::local) {
            Some(path) => path,
            None => pull_demo(None, false, true, console)?,
        },
    };
    // Never beside the model, which may lie in the hub's cache.
    let mut name = match &args.model {
        Some(model) if model.extension().is_some_and(|extension| extension == "gguf") => {
            model.file_stem().unwrap_or_default().to_owned()
        }
        Some(model) => model.file_name().unwrap_or_default().to_owned(),
        None => DEMO_NAME.into(),
    };
    name.push(".sherry");
    let packed = Path::new("models").join(name);
    std::fs::create_dir_all("models").context("cannot create models")?;

    let checkpoint = Checkpoint::open(&dense, ReadMode::Map)?;
    console.say(&format!("found     {}", checkpoint.describe()));
    let request = Request {
        linears: Linears::Packed(QuantSpec::sherry(ScaleGroup::Row)),
        embeddings: Embeddings::Auto,
        overwrite: true,
        ..Request::keep()
    };
    let summary = sherry_convert::convert(&checkpoint, &packed, &request, console, |_| {})?;
    console.say(&format!("quantized {} -> {}", dense.display(), packed.display()));
    drop(checkpoint);

    let text = args.text.as_deref().map(read_text).transpose()?;
    let text = text.as_deref().unwrap_or(TEXT);
    let rows = [
        measure("original", &dense, sizes_of(&dense)?, text, args, context)?,
        measure("1.25-bit projection, untrained", &packed, summary.sizes(), text, args, context)?,
    ];
    report(&rows, args, context)
}

fn sizes_of(path: &Path) -> Result<Sizes> {
    let checkpoint = Checkpoint::open(path, ReadMode::Map)?;
    Ok(sherry_convert::sizes_of(&checkpoint))
}

fn measure(
    label: &'static str,
    path: &Path,
    sizes: Sizes,
    text: &str,
    args: &DemoArgs,
    context: &Context,
) -> Result<Row> {
    let console = &context.console;
    let size = ContextSize { asked: None, default: WINDOW };
    let loaded = args.engine.load(Some(path), size, console)?;
    let window = loaded.context;
    let model = loaded.checkpoint.describe();
    let tokenizer = Arc::clone(&loaded.tokenizer);
    let sampling =
        SamplingArgs { max_tokens: Some(args.max_tokens), temperature: Some(0.0), ..SamplingArgs::default() };
    let (mut speaker, _) = Speaker::new(loaded, false, &sampling, &args.engine, true)?;
    let generated = speaker.answer(&args.prompt, |_| Ok(()))?;
    console.say(&format!("{label}: {}", speaker.statistics(&generated)));

    let mut lm = DecoderLm::new(speaker.into_decoder(), tokenizer, args.engine.kv(), window);
    let windows = Windows::Strided { size: window, stride: window.div_ceil(2) };
    let perplexity = perplexity(&mut lm, text, windows, console, &mut |_, _| {})?;
    console.finish();
    Ok(Row {
        label,
        model,
        window,
        sizes,
        answer: generated.text.trim().to_owned(),
        perplexity: perplexity.value(),
        tokens_per_second: generated.statistics.generation_rate(),
    })
}

fn report(rows: &[Row], args: &DemoArgs, context: &Context) -> Result<ExitCode> {
    let mut out = Stdout::lock();
    if context.json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|row| {
                json!({
                    "label": row.label,
                    "model": row.model,
                    "bytes": row.sizes.total(),
                    "linear_bits_per_weight": row.sizes.linear_bits_per_weight(),
                    "bits_per_weight": row.sizes.bits_per_weight(),
                    "perplexity": row.perplexity,
                    "tokens_per_second": row.tokens_per_second,
                    "answer": row.answer,
                })
            })
            .collect();
        out.json(&json!({ "prompt": args.prompt, "rows": rows }))?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "\nprompt: {}", args.prompt)?;
    for row in rows {
        writeln!(out, "\n{}:\n  {}", row.label, row.answer.replace('\n', "\n  "))?;
    }
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("size", Align::Right),
        ("bits/weight, linear layers", Align::Right),
        ("bits/weight, all", Align::Right),
        ("perplexity", Align::Right),
        ("tok/s", Align::Right),
    ]);
    for row in rows {
        table.row([
            row.label.to_owned(),
            bytes(row.sizes.total()),
            format!("{:.3}", row.sizes.linear_bits_per_weight()),
            format!("{:.3}", row.sizes.bits_per_weight()),
            if row.perplexity < 1e5 { format!("{:.2}", row.perplexity) } else { format!("{:.3e}", row.perplexity) },
            format!("{:.1}", row.tokens_per_second),
        ]);
    }
    let text = args.text.as_ref().map_or("docs/demo.txt".to_owned(), |path| path.display().to_string());
    writeln!(out, "\n{table}")?;
    writeln!(
        out,
        "Perplexity: {text}, windows of {} tokens that overlap by half. A projection without training loses most",
        rows.first().map_or(WINDOW, |row| row.window)
    )?;
    writeln!(out, "of what a dense model knows; size and speed are those of a model that was trained to 1.25 bits.")?;
    Ok(ExitCode::SUCCESS)
}
