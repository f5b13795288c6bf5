//! `sherry export`: a trained run as a packed model.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use sherry_convert::Embeddings;
use sherry_train::export::{Request, export};

use super::Context;
use super::number::positive;
use super::quantize::FallbackArg;
use crate::output::{Stdout, printable};

/// Write a trained run as a packed model and compare it with what was trained
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry export runs/tiny tiny.sherry
      a folder that sherry run takes
  sherry export runs/tiny tiny.gguf
      STQ1_0 or TQ1_0, where that is exact: rows of 256s, one scale per row
  sherry export runs/tiny tiny.gguf --fallback q8_0
      the same; rows that do not fit become Q8_0

Exit code 1: written, but the packed model does not behave like the trained one.")]
pub struct ExportArgs {
    /// Run folder, or one checkpoint in it
    run: PathBuf,
    /// Folder or .gguf file to write
    out: PathBuf,
    /// Keep embedding and head in f32
    #[arg(long)]
    keep_embeddings: bool,
    /// Write the quantized weights as f32, for methods without a packed type and for other programs
    #[arg(long)]
    dense: bool,
    /// For GGUF: the type of linear layers that have no exact form there [default: they are refused]
    #[arg(long, value_enum, value_name = "TYPE", conflicts_with = "dense")]
    fallback: Option<FallbackArg>,
    /// Replace an existing output
    #[arg(long)]
    force: bool,
    /// Windows of held-out text to compare on
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    windows: usize,
}

pub fn run(args: &ExportArgs, context: &Context) -> Result<ExitCode> {
    let embeddings = if args.keep_embeddings || args.dense { Embeddings::Keep } else { Embeddings::Auto };
    let fallback = args.fallback.map(FallbackArg::ty);
    let request = Request { embeddings, fallback, dense: args.dense, overwrite: args.force, windows: args.windows };
    let found = export(&args.run, &args.out, &request, &context.console)?;
    let good = found.is_good();
    let mut out = Stdout::lock();
    if context.json {
        out.json_line(&found)?;
    } else {
        let verdict = if good { "packed and trained model agree" } else { "NOT GOOD: they differ" };
        writeln!(
            out,
            "{verdict} on {} tokens: same top token {:.1} %, perplexity {:.3} packed, {:.3} as trained, largest logit \
             difference {:.3}",
            found.tokens,
            100.0 * found.same_top,
            found.packed_perplexity,
            found.student_perplexity,
            found.max_logit_difference
        )?;
        writeln!(out, "wrote {0}; next: sherry run {0}", printable::word(&args.out.to_string_lossy()))?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
