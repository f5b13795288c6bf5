//! What every command that runs a model lets the user choose, and how a model gets ready to run.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use sherry::Progress;
use sherry::io::ReadMode;
use sherry::model::{Checkpoint, Decoder, KvType};
use sherry_kernels::{Engine, Isa, Precision};

use crate::machine;

/// How a model is run.
#[derive(Args, Clone)]
#[command(next_help_heading = "Performance")]
pub struct EngineArgs {
    /// Threads [default: one per physical core]
    #[arg(short, long)]
    pub threads: Option<usize>,
    /// Kernels to use [default: the best this processor has]
    #[arg(long, value_name = "ISA")]
    pub isa: Option<IsaArg>,
    /// Arithmetic of the products
    #[arg(long, value_enum, default_value_t = PrecisionArg::Int8)]
    pub precision: PrecisionArg,
    /// Element type of the KV cache
    #[arg(long, value_enum, default_value_t = KvArg::F16)]
    pub kv: KvArg,
}

/// Instruction sets, as on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub enum IsaArg {
    /// Plain code, any processor
    Scalar,
    /// x86-64 with AVX2
    Avx2,
    /// x86-64 with AVX-512
    Avx512,
}

/// Arithmetic, as on the command line.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
    /// Activations rounded to 8 bits: fast
    Int8,
    /// Everything in f32: for comparison with references
    F32,
}

/// KV cache types, as on the command line.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvArg {
    /// Half precision
    F16,
    /// Single precision
    F32,
}

impl EngineArgs {
    /// Threads to use.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(machine::physical_cores).max(1)
    }

    /// Kernels to use.
    pub fn isa(&self) -> Result<Isa> {
        let isa = match self.isa {
            None => return Ok(Isa::best()),
            Some(IsaArg::Scalar) => Isa::Scalar,
            Some(IsaArg::Avx2) => Isa::Avx2,
            Some(IsaArg::Avx512) => Isa::Avx512,
        };
        if !isa.is_available() {
            bail!("this processor cannot run {isa} kernels; `sherry doctor` shows what it can");
        }
        Ok(isa)
    }

    /// Type of the KV caches.
    pub fn kv(&self) -> KvType {
        match self.kv {
            KvArg::F16 => KvType::F16,
            KvArg::F32 => KvType::F32,
        }
    }

    /// "int8" or "f32".
    pub fn precision_name(&self) -> &'static str {
        match self.precision {
            PrecisionArg::Int8 => "int8",
            PrecisionArg::F32 => "f32",
        }
    }

    /// Opens the model at `path` and says what it found.
    pub fn open(&self, path: &Path, progress: &dyn Progress) -> Result<Checkpoint> {
        let checkpoint = Checkpoint::open(path, ReadMode::default())?;
        progress.note(&format!("{}: {}", path.display(), checkpoint.describe()));
        Ok(checkpoint)
    }

    /// Loads the weights and gets the kernels ready.
    pub fn decoder(&self, checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<Decoder> {
        let precision = match self.precision {
            PrecisionArg::Int8 => Precision::Int8,
            PrecisionArg::F32 => Precision::F32,
        };
        let engine = Engine::new(self.isa()?, self.threads(), precision);
        Ok(Decoder::new(Arc::new(checkpoint.load(progress)?), engine))
    }
}
