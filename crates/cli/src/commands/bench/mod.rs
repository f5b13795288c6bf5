//! `sherry bench`: how fast models and kernels run here, beside what this machine can do at most.

mod earlier;
mod kernels;
mod models;
mod output;
mod table;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use sherry::model::{ArchConfig, KvType, synthetic};
use sherry_kernels::Isa;
use sherry_kernels::format::TensorType;
use sherry_measure::bench::WeightFormat;
use sherry_measure::bench::models::{Options, Phase, Setup, Test};
use sherry_measure::machine;

use super::Context;
use super::engine::{KvArg, TernaryBitsArg, threads};
use super::number::{self, count, positive};
use sherry::threads::default_threads;

/// Measure prompts, generation and kernels: llama-bench's table, the paper's speed table
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry bench model.gguf
      pp512 and tg128
  sherry bench a.gguf b.sherry -p 128,512 -n 64 -d 0,4096 -t 1,2 -r 5
  sherry bench --synthetic llama-3.2-1b --vocab 2048
      random weights: no model needed
  sherry bench model.gguf -p 0 -b 1,4,16 --head whole,two-stage
      several sequences together, both heads
  sherry bench model.gguf --vs before.json
      ratios to what `--json > before.json` wrote
  sherry bench --table
      the paper's speed table, on this machine
  sherry bench --kernels --isa all
      every kernel beside the limits of memory and processor

Lists multiply: every test runs with every instruction set, number of threads
and cache type, one repetition of each after the other. BENCHMARKS.md explains
the columns.")]
pub struct BenchArgs {
    /// Hugging Face folders or GGUF files
    #[arg(value_name = "MODEL")]
    models: Vec<std::path::PathBuf>,
    /// The paper's speed table: BF16, Q8_0, Q4_0, ternary 2-bit, 1.67-bit and Sherry in one run, random weights
    #[arg(long, conflicts_with_all = ["models", "kernels"])]
    table: bool,
    /// Single kernels instead of models
    #[arg(long, conflicts_with_all = ["models", "synthetic"])]
    kernels: bool,

    /// Random weights of this shape instead of files [with --table: llama-3.2-1b]
    #[arg(long, value_name = "SHAPE", value_parser = PossibleValuesParser::new(synthetic::SHAPES),
          conflicts_with = "models", help_heading = "Random weights")]
    synthetic: Option<String>,
    /// Formats of the linear layers: bf16, q8_0, ..., ternary-2, ternary-1.67, sherry-1.25, sherry-1.25/128 [default:
    /// sherry-1.25; all with --table and --kernels]
    #[arg(
        long = "type",
        value_name = "FORMAT",
        value_delimiter = ',',
        conflicts_with = "models",
        help_heading = "Random weights"
    )]
    types: Vec<WeightFormat>,
    /// Type of embedding and head
    #[arg(long, value_name = "TYPE", default_value = "q6_k", value_parser = embedding, help_heading = "Random weights")]
    embed: TensorType,
    /// Tokens in the vocabulary [default: the shape's]
    #[arg(long, value_name = "N", value_parser = vocabulary, help_heading = "Random weights")]
    vocab: Option<usize>,
    /// Matrices of --kernels [default: 2048x2048,8192x2048,2048x8192]
    #[arg(long = "shape", value_name = "ROWSxCOLS", value_delimiter = ',', value_parser = shape,
          help_heading = "Random weights")]
    shapes: Vec<(usize, usize)>,

    /// Tokens of the prompt; 0: no such test [default: 512; none with --table; 8,64,512 with --kernels]
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', help_heading = "Tests", value_parser = count)]
    n_prompt: Vec<usize>,
    /// Tokens to generate; 0: no such test [default: 128; 32 with --table]
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', help_heading = "Tests", value_parser = count)]
    n_gen: Vec<usize>,
    /// Tokens already in the context [default: 0; 128,1024,4096 with --kernels]
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', help_heading = "Tests", value_parser = count)]
    n_depth: Vec<usize>,
    /// Worker threads [default: physical cores; 1 and that with --table and --kernels]
    #[arg(short, long, value_name = "N", value_delimiter = ',', value_parser = threads, help_heading = "Tests")]
    threads: Vec<usize>,
    /// Instruction sets by name, or all [default: the best this processor has]
    #[arg(long, value_name = "ISA", value_delimiter = ',', help_heading = "Tests")]
    isa: Vec<String>,
    /// Types of keys and values in the cache
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f16", help_heading = "Tests")]
    kv: Vec<KvArg>,
    /// Bits per ternary weight in memory, where a tensor or a row of a file has one scale
    #[arg(long, value_enum, value_name = "BITS", value_delimiter = ',', default_value = "auto", help_heading = "Tests",
          conflicts_with_all = ["table", "kernels", "synthetic"])]
    ternary_bits: Vec<TernaryBitsArg>,
    /// Heads that generation uses: all logits (whole), or the largest by way of a coarse copy (two-stage)
    #[arg(long, value_enum, value_name = "HEAD", value_delimiter = ',', default_value = "whole", help_heading = "Tests",
          conflicts_with_all = ["table", "kernels"])]
    head: Vec<Head>,
    /// Largest logits that generation asks the two-stage head for: 1 is greedy decoding
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "1", value_parser = positive,
          help_heading = "Tests", conflicts_with_all = ["table", "kernels"])]
    top_k: Vec<usize>,
    /// Sequences that are continued together
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = sequences,
          help_heading = "Tests", conflicts_with = "kernels")]
    batch: Vec<usize>,
    /// Most prompt tokens per pass over the weights
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = positive, help_heading = "Tests")]
    ubatch: usize,
    /// Repetitions
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = positive, help_heading = "Tests")]
    repetitions: usize,
    /// Time from the first run on
    #[arg(long, help_heading = "Tests")]
    no_warmup: bool,

    /// Print ratios to this earlier result of --json
    #[arg(long, value_name = "FILE", help_heading = "Output", conflicts_with_all = ["table", "kernels"])]
    vs: Option<std::path::PathBuf>,
    /// Form of the results; --json means json
    #[arg(short, long, value_enum, default_value_t = Form::Md, help_heading = "Output")]
    output: Form,
}

/// How generation finds its logits.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Head {
    Whole,
    TwoStage,
}

/// Forms of output.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A Markdown table
    Md,
    /// An array of objects
    Json,
    /// An object per line
    Jsonl,
    /// Comma-separated values
    Csv,
}

/// Most tokens that make sense to ask for; more is a typing error.
const MAX_TOKENS: usize = 1 << 24;
const MAX_VOCAB: usize = 1 << 24;
const MAX_SEQUENCES: usize = 1024;
const MAX_SIDE: usize = 1 << 20;
/// A machine with less left over for other programs would swap.
const MEMORY_SHARE: f64 = 0.9;

fn embedding(text: &str) -> Result<TensorType, String> {
    match text.parse() {
        Ok(WeightFormat::Plain(ty)) => Ok(ty),
        _ => Err("expected a type of embeddings: bf16, f16, q8_0, q6_k, q4_k, q4_0, ...".to_owned()),
    }
}

fn vocabulary(text: &str) -> Result<usize, String> {
    number::whole(text, 1..=MAX_VOCAB as u64)
}

fn sequences(text: &str) -> Result<usize, String> {
    number::whole(text, 1..=MAX_SEQUENCES as u64)
}

fn shape(text: &str) -> Result<(usize, usize), String> {
    let side = |text: &str| text.parse().ok().filter(|n| (1..=MAX_SIDE).contains(n));
    let sides = text.split_once('x').and_then(|(rows, cols)| Some((side(rows)?, side(cols)?)));
    sides.ok_or_else(|| format!("expected ROWSxCOLS, each from 1 to {MAX_SIDE}"))
}

pub fn run(args: &BenchArgs, context: &Context) -> Result<ExitCode> {
    if !args.kernels && !args.shapes.is_empty() {
        bail!("--shape is for --kernels");
    }
    if args.table {
        table::run(args, context)
    } else if args.kernels {
        kernels::run(args, context)
    } else {
        models::run(args, context)
    }
}

impl BenchArgs {
    /// The form of the results.
    fn form(&self, context: &Context) -> Form {
        if context.json { Form::Json } else { self.output }
    }

    /// The instruction sets asked for.
    fn isas(&self) -> Result<Vec<Isa>> {
        let mut isas = Vec::new();
        for name in &self.isa {
            let found: Vec<Isa> = match name.as_str() {
                "auto" => vec![Isa::best()],
                "all" => Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect(),
                name => Isa::ALL.into_iter().filter(|isa| isa.to_string() == name).collect(),
            };
            if found.is_empty() {
                let known: Vec<String> = Isa::ALL.iter().map(ToString::to_string).collect();
                bail!("--isa {name}: expected auto, all, {}", known.join(", "));
            }
            for isa in found {
                if !isa.is_available() {
                    bail!("--isa {isa} is not available on this processor ({})", machine::cpu_name());
                }
                if !isas.contains(&isa) {
                    isas.push(isa);
                }
            }
        }
        Ok(if isas.is_empty() { vec![Isa::best()] } else { isas })
    }

    /// The numbers of threads asked for.
    fn thread_counts(&self, default: &[usize]) -> Vec<usize> {
        distinct(&self.threads, default)
    }

    /// The types of keys and values asked for.
    fn kv_types(&self) -> Vec<KvType> {
        let types: Vec<KvType> = self.kv.iter().map(|kv| kv.ty()).collect();
        distinct(&types, &[])
    }

    /// Tests and setups of whole models, with the defaults for prompts, generation and threads.
    fn options(&self, prompt: &[usize], generate: &[usize], threads: &[usize]) -> Result<Options> {
        let depths = distinct(&self.n_depth, &[0]);
        let mut tests = Vec::new();
        for &depth in &depths {
            for (phase, asked, default) in
                [(Phase::Prompt, &self.n_prompt, prompt), (Phase::Generate, &self.n_gen, generate)]
            {
                for tokens in distinct(asked, default).into_iter().filter(|&tokens| tokens > 0) {
                    if tokens > MAX_TOKENS || depth > MAX_TOKENS {
                        bail!("{tokens} tokens at depth {depth}: at most {MAX_TOKENS}");
                    }
                    let sequences = if phase == Phase::Generate { distinct(&self.batch, &[]) } else { vec![1] };
                    tests.extend(sequences.into_iter().map(|sequences| Test { phase, tokens, sequences, depth }));
                }
            }
        }
        if tests.is_empty() {
            bail!("nothing to measure: -p and -n are 0");
        }
        let mut setups = Vec::new();
        for isa in self.isas()? {
            for &threads in &self.thread_counts(threads) {
                for kv in self.kv_types() {
                    setups.extend(self.tops().into_iter().map(|top| Setup { isa, threads, kv, top }));
                }
            }
        }
        Ok(Options { setups, tests, repetitions: self.repetitions, warm_up: !self.no_warmup, batch: self.ubatch })
    }

    /// How many logits generation asks for, in each way that it is asked for; 0: all.
    fn tops(&self) -> Vec<usize> {
        let of = |head: Head| match head {
            Head::Whole => vec![0],
            Head::TwoStage => distinct(&self.top_k, &[]),
        };
        distinct(&self.head, &[]).into_iter().flat_map(of).collect()
    }

    /// The configuration of random weights called `shape`.
    fn config(&self, shape: &str) -> Result<ArchConfig> {
        let Some(mut config) = synthetic::shape(shape) else { bail!("--synthetic {shape}: an unknown shape") };
        config.vocab = self.vocab.unwrap_or(config.vocab);
        Ok(config)
    }
}

/// `asked` without repetitions, or `default` when nothing was asked for.
fn distinct<T: Copy + PartialEq>(asked: &[T], default: &[T]) -> Vec<T> {
    let mut values = Vec::new();
    for &value in if asked.is_empty() { default } else { asked } {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

/// One thread, and as many as there are cores.
fn one_and_all() -> Vec<usize> {
    distinct(&[1, default_threads().threads], &[])
}

/// Bytes that may be used, where the system tells.
fn usable_memory() -> Option<u64> {
    machine::memory().map(|(_, available)| (available as f64 * MEMORY_SHARE) as u64)
}
