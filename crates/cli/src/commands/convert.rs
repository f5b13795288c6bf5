//! `sherry convert`: between containers, without touching what the weights mean.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;
use sherry::io::ReadMode;
use sherry::model::Checkpoint;
use sherry_convert::{Linears, Request};
use sherry_kernels::format::TensorType;

use super::Context;
use super::engine::resolve;
use super::quantize::{EmbedArg, FallbackArg, stq_id};
use crate::output::{Stdout, bytes};

/// Change the container: Hugging Face folder <-> GGUF, packed models included
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry convert smol.sherry smol.gguf
      a native 1.25-bit folder to GGUF (STQ1_0), where that is exact
  sherry convert smol.sherry smol.gguf --fallback q8_0
      the same where it is not: what does not fit takes 8 bits
  sherry convert hy-mt.gguf hy-mt.sherry
      STQ1_0 to a native folder, codes unchanged
  sherry convert falcon-e-1b fe.gguf --dtype i2_s
      a ternary model to a file for bitnet.cpp; tq2_0 and q2_0: for llama.cpp
  sherry convert model.gguf folder --dtype bf16
      a dense GGUF file to a folder for other tools

Packed weights keep every code, and ternary types take only what they hold
exactly. A contiguous checkpoint becomes STQ1_0 (stride-16 quads) by a
permutation of channels that leaves the model's function unchanged; where no
exact form exists, the conversion is refused with the reason, unless --fallback
says what such layers become.")]
pub struct ConvertArgs {
    /// The model: a Hugging Face folder or a GGUF file
    input: PathBuf,
    /// The output: a GGUF file when it ends in .gguf, a folder otherwise
    output: PathBuf,
    /// Type of linear layers [default: as they are; block types become f32 in folders]. The ternary and binary types only take
    /// weights that they hold exactly
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
    /// Type of embedding and head
    #[arg(long, value_enum, default_value = "keep", value_name = "TYPE")]
    embed: EmbedArg,
    /// For GGUF: the type of packed linear layers that have no exact form there [default: they are refused]
    #[arg(long, value_enum, value_name = "TYPE")]
    fallback: Option<FallbackArg>,
    /// Type id of STQ1_0 in GGUF: 43, or 42 for the programs that came with the first 1.25-bit files
    #[arg(long, value_name = "ID", default_value = "43", value_parser = ["42", "43"])]
    stq_id: String,
    /// Replace an existing output
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum DtypeArg {
    #[value(name = "f32")]
    F32,
    #[value(name = "f16")]
    F16,
    #[value(name = "bf16")]
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    /// Ternary, a scale per 256 weights
    #[value(name = "tq1_0")]
    Tq1_0,
    /// Ternary, a scale per 256 weights
    #[value(name = "tq2_0")]
    Tq2_0,
    /// Ternary, a scale per 64 weights
    #[value(name = "q2_0")]
    Q2_0,
    /// Binary, a scale per 128 weights
    #[value(name = "q1_0")]
    Q1_0,
    /// Ternary, one f32 scale per tensor; GGUF only
    #[value(name = "i2_s")]
    I2S,
}

impl DtypeArg {
    fn ty(self) -> TensorType {
        match self {
            Self::F32 => TensorType::F32,
            Self::F16 => TensorType::F16,
            Self::Bf16 => TensorType::BF16,
            Self::Q8_0 => TensorType::Q8_0,
            Self::Tq1_0 => TensorType::TQ1_0,
            Self::Tq2_0 => TensorType::TQ2_0,
            Self::Q2_0 => TensorType::Q2_0,
            Self::Q1_0 => TensorType::Q1_0,
            Self::I2S => TensorType::I2_S,
        }
    }
}

pub fn run(args: &ConvertArgs, context: &Context) -> Result<ExitCode> {
    let start = Instant::now();
    let checkpoint = Checkpoint::open(&resolve(&args.input)?, ReadMode::Map)?;
    context.console.say(&format!("found   {}", checkpoint.describe()));
    let request = Request {
        linears: args.dtype.map_or(Linears::Keep, |dtype| Linears::Dense(dtype.ty())),
        embeddings: args.embed.choice(),
        fallback: args.fallback.map(FallbackArg::ty),
        stq_id: stq_id(&args.stq_id),
        overwrite: args.force,
        ..Request::keep()
    };
    let summary = sherry_convert::convert(&checkpoint, &args.output, &request, &context.console, |_| {})?;
    let sizes = summary.sizes();
    let mut out = Stdout::lock();
    if context.json {
        let document = json!({
            "output": summary.path.display().to_string(),
            "input_bytes": summary.input_bytes,
            "sizes": sizes,
            "notes": summary.notes,
            "tensors": summary.tensors,
        });
        out.json(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    for note in &summary.notes {
        context.console.say(&format!("note    {note}"));
    }
    writeln!(
        out,
        "wrote   {} in {:.1} s   {} -> {}   bits per weight: {:.3} in linear layers, {:.3} over all tensors",
        args.output.display(),
        start.elapsed().as_secs_f64(),
        bytes(summary.input_bytes),
        bytes(sizes.total()),
        sizes.linear_bits_per_weight(),
        sizes.bits_per_weight()
    )?;
    Ok(ExitCode::SUCCESS)
}
