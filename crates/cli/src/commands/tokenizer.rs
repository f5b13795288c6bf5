//! `sherry tokenizer`: a vocabulary of one's own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use sherry_train::data::{Sources, learn, save_tokenizer};

use super::Context;
use super::number::positive;
use crate::output::Stdout;

/// Learn a byte-level BPE tokenizer from text
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry tokenizer tok/ books.jsonl.zst notes.txt --vocab 8192
  sherry train config.toml data.tokenizer=tok/

A training configuration can ask for one as well:
  data.tokenizer = { vocab = 4096 }")]
pub struct TokenizerArgs {
    /// Folder for tokenizer.json and tokenizer_config.json
    out: PathBuf,
    /// Text, JSONL or Parquet files (.txt, .jsonl; plain, .gz or .zst; .parquet)
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Tokens in all: three control tokens, 256 bytes, and merges
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = positive)]
    vocab: usize,
    /// The field of a JSONL line, or the Parquet column, that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_field: String,
    /// Replace an existing tokenizer
    #[arg(long)]
    force: bool,
}

pub fn run(args: &TokenizerArgs, context: &Context) -> Result<ExitCode> {
    let files = ["tokenizer.json", "tokenizer_config.json"].map(|name| args.out.join(name));
    if let Some(existing) = files.iter().find(|path| path.exists() && !args.force) {
        bail!("{}: exists; --force replaces it", existing.display());
    }
    let sources = Sources::open(&args.files, &args.text_field, &context.console)?;
    let tokenizer = learn(&sources, args.vocab, &context.console)?;
    let paths = save_tokenizer(&tokenizer, &args.out, args.force)?;
    let mut out = Stdout::lock();
    if context.json {
        out.json_line(&json!({ "path": paths[0], "vocab": tokenizer.vocab_size() }))?;
    } else {
        writeln!(out, "{}: {} tokens", paths[0].display(), tokenizer.vocab_size())?;
    }
    Ok(ExitCode::SUCCESS)
}
