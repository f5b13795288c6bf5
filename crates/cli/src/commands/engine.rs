//! Options shared by every command that runs a model, and loading one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use sherry::Progress;
use sherry::io::ReadMode;
use sherry::model::{ArchConfig, Checkpoint, Decoder, KvType};
use sherry::tokenizer::Tokenizer;
use sherry_kernels::{Engine, Isa, Matrix, Pool, Precision, TernaryBits};
use sherry_measure::machine;

use super::number;
use super::pull::pull_release;
use crate::builtin;
use crate::pull::{Cache, Release, Repo, Settings, is_plain_path, model_in};
use sherry::threads::default_threads;

/// How a model runs.
#[derive(Args, Clone)]
#[command(next_help_heading = "Performance")]
pub struct EngineArgs {
    /// Worker threads [default: the physical cores this process may use; `sherry doctor` says which]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Instruction set [default: the best this processor has]
    #[arg(long, value_enum, value_name = "ISA")]
    pub isa: Option<IsaArg>,
    /// Activations in products with packed weights: int8 is fast, f32 compares with references
    #[arg(long, value_enum, default_value = "int8")]
    pub precision: PrecisionArg,
    /// Type of keys and values in the cache
    #[arg(long, value_enum, default_value = "f16")]
    pub kv: KvArg,
    /// Head: full computes every logit; two-stage reads a copy of 3 bits a weight first, then only the rows that can be chosen
    /// (greedy and top-k sampling; a different token once in 10^9)
    #[arg(long, value_enum, default_value = "full")]
    pub head: HeadArg,
    /// Bits per ternary weight in memory, where a tensor or a row has one scale: 1.67 is smaller, 2 quicker to unpack; the
    /// results are the same. Weights with a scale per group take 2, binary ones 1
    #[arg(long, value_enum, default_value = "auto", value_name = "BITS")]
    pub ternary_bits: TernaryBitsArg,
    /// Read files into memory instead of mapping them
    #[arg(long)]
    pub no_mmap: bool,
}

/// Instruction sets by name.
#[derive(Clone, Copy, ValueEnum)]
pub enum IsaArg {
    /// What `sherry doctor` says
    Auto,
    Scalar,
    Avx2,
    Avx2Gfni,
    AvxVnni,
    Avx512,
    Avx512Vnni,
    Avx512Vbmi,
    Neon,
    NeonDotprod,
    Simd128,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum PrecisionArg {
    Int8,
    F32,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum KvArg {
    F16,
    F32,
    /// Half of f16: for long contexts
    Q8,
    /// A third of f16 (6-bit keys, 4-bit values): faster still, a little less exact
    Q4,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum HeadArg {
    Full,
    TwoStage,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum TernaryBitsArg {
    /// 1.67: decoding is limited by what memory delivers
    Auto,
    #[value(name = "1.67")]
    OneTwoThirds,
    #[value(name = "2")]
    Two,
}

impl TernaryBitsArg {
    /// How ternary weights lie in memory.
    pub fn bits(self) -> TernaryBits {
        match self {
            Self::Auto => TernaryBits::Auto,
            Self::OneTwoThirds => TernaryBits::OneTwoThirds,
            Self::Two => TernaryBits::Two,
        }
    }
}

impl KvArg {
    /// The type of cached keys and values.
    pub fn ty(self) -> KvType {
        match self {
            Self::F16 => KvType::F16,
            Self::F32 => KvType::F32,
            Self::Q8 => KvType::Q8,
            Self::Q4 => KvType::Q4,
        }
    }
}

/// A number of worker threads.
pub fn threads(text: &str) -> Result<usize, String> {
    number::whole(text, 1..=Pool::MAX_THREADS as u64)
}

/// How many tokens of context a command is to have.
#[derive(Clone, Copy)]
pub struct ContextSize {
    /// What was asked for, and the option that asked.
    pub asked: Option<(&'static str, usize)>,
    /// What is taken when nobody asks, if the model was made for that many.
    pub default: usize,
}

impl ContextSize {
    /// The size for a model of configuration `config`.
    ///
    /// # Errors
    /// More was asked for than the model was made for.
    pub fn of(self, config: &ArchConfig) -> Result<usize> {
        let trained = config.context;
        match self.asked {
            Some((option, n)) if n > trained => bail!("{option} {n}: the model was made for {trained} tokens at most"),
            Some((_, n)) => Ok(n),
            None => Ok(trained.min(self.default)),
        }
    }
}

/// A model ready to run.
pub struct Loaded {
    pub checkpoint: Checkpoint,
    pub decoder: Decoder,
    pub tokenizer: Arc<Tokenizer>,
    /// Tokens of context.
    pub context: usize,
    pub load_time: Duration,
}

impl EngineArgs {
    /// How files are opened.
    pub fn read_mode(&self) -> ReadMode {
        if self.no_mmap { ReadMode::Read } else { ReadMode::Map }
    }

    /// The type of cached keys and values.
    pub fn kv(&self) -> KvType {
        self.kv.ty()
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| default_threads().threads)
    }

    /// The chosen instruction set.
    pub fn isa(&self) -> Result<Isa> {
        let isa = match self.isa {
            None | Some(IsaArg::Auto) => return Ok(Isa::best()),
            Some(IsaArg::Scalar) => Isa::Scalar,
            Some(IsaArg::Avx2) => Isa::Avx2,
            Some(IsaArg::Avx2Gfni) => Isa::Avx2Gfni,
            Some(IsaArg::AvxVnni) => Isa::AvxVnni,
            Some(IsaArg::Avx512) => Isa::Avx512,
            Some(IsaArg::Avx512Vnni) => Isa::Avx512Vnni,
            Some(IsaArg::Avx512Vbmi) => Isa::Avx512Vbmi,
            Some(IsaArg::Neon) => Isa::Neon,
            Some(IsaArg::NeonDotprod) => Isa::NeonDot,
            Some(IsaArg::Simd128) => Isa::Simd128,
        };
        if !isa.is_available() {
            bail!("--isa {isa} is not available on this processor ({})", machine::cpu_name());
        }
        Ok(isa)
    }

    /// An engine as asked for.
    pub fn engine(&self) -> Result<Engine> {
        let precision = match self.precision {
            PrecisionArg::Int8 => Precision::Int8,
            PrecisionArg::F32 => Precision::F32,
        };
        let (engine, asked) = (Engine::new(self.isa()?, self.threads(), precision), self.threads());
        let started = engine.pool().threads();
        if started < asked {
            bail!("--threads {asked}: the system starts no more than {started} here");
        }
        Ok(engine)
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
        let path = resolve(path)?;
        let checkpoint = Checkpoint::open(&path, self.read_mode())?;
        progress.note(&format!("{}: {}", path.display(), checkpoint.describe()));
        checkpoint.notes().iter().for_each(|note| progress.note(note));
        Ok(checkpoint)
    }

    /// Loads the weights and gets the kernels ready; refuses a model that does not fit into memory with a cache of
    /// `context` positions before loading anything.
    pub fn decoder(&self, checkpoint: &Checkpoint, context: usize, progress: &dyn Progress) -> Result<Decoder> {
        let engine = self.engine()?;
        if let Some((_, available)) = machine::memory() {
            let mut estimate = checkpoint.estimate(context, 1, self.kv());
            if self.head == HeadArg::TwoStage {
                let config = checkpoint.config();
                let copy = Matrix::coarse_bytes(config.vocab, config.hidden) as u64;
                estimate.weights = estimate.weights.saturating_add(copy);
            }
            estimate.check(available).with_context(|| checkpoint.path().display().to_string())?;
        }
        let mut model = checkpoint.load_as(self.ternary_bits.bits(), engine.pool(), progress)?;
        if self.head == HeadArg::TwoStage && !model.weights.add_coarse_head(engine.pool()) {
            progress
                .note("--head two-stage: only for block-quantized heads (Q8_0, Q6_K, ...); every logit is computed");
        }
        Ok(Decoder::new(Arc::new(model), engine).with_context(context))
    }

    /// All of it, timed; without a path the model inside this program.
    pub fn load(&self, path: Option<&Path>, context: ContextSize, progress: &dyn Progress) -> Result<Loaded> {
        let start = Instant::now();
        let checkpoint = match path {
            Some(path) => self.open(path, progress)?,
            None => builtin::open(progress)?,
        };
        let context = context.of(checkpoint.config())?;
        let (tokenizer, decoder) = if self.threads() == 1 {
            (checkpoint.tokenizer(), self.decoder(&checkpoint, context, progress))
        } else {
            // A vocabulary of 128k tokens takes a good part of a second.
            std::thread::scope(|scope| {
                let tokenizer = scope.spawn(|| checkpoint.tokenizer());
                let decoder = self.decoder(&checkpoint, context, progress);
                (tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), decoder)
            })
        };
        let (tokenizer, decoder) = (Arc::new(tokenizer?), decoder?);
        tokenizer.notes().iter().for_each(|note| progress.note(note));
        Ok(Loaded { checkpoint, decoder, tokenizer, context, load_time: start.elapsed() })
    }
}

/// What the user called the model: a path, something in models/, a released model that is on this machine, or
/// OWNER/NAME[@REVISION][/FILE] in the hub's cache.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    let pulled = Path::new("models").join(path);
    if path.is_relative() && pulled.exists() {
        return Ok(pulled);
    }
    if let Some(release) = path.to_str().and_then(Release::find) {
        return release.local().ok_or_else(|| {
            let size = release.megabytes.map_or(String::new(), |megabytes| format!(" ({megabytes} MB)"));
            anyhow::anyhow!("{} is not on this machine; `sherry pull {0}` gets it{size}", release.name)
        });
    }
    if let Some((repo, found)) = path.to_str().and_then(in_cache) {
        return found.with_context(|| {
            format!("{repo}: several GGUF files or none of it are in the hub's cache; say which as {repo}/FILE")
        });
    }
    let near = path.to_str().and_then(Release::near).map_or(String::new(), |name| format!("; did you mean {name}?"));
    bail!(
        "{}: no such file or folder (expected a GGUF file, a Hugging Face folder, a name that `sherry models` lists, or \
         OWNER/NAME after `sherry pull OWNER/NAME`){near}",
        path.display()
    )
}

/// The repository that `name` names and the model in it, if the hub's cache has the repository.
fn in_cache(name: &str) -> Option<(&str, Option<PathBuf>)> {
    let (owner, rest) = name.split_once('/')?;
    let (repo, file) = match rest.split_once('/') {
        Some((repo, file)) => (&name[..owner.len() + 1 + repo.len()], Some(file)),
        None => (name, None),
    };
    if !is_plain_path(name) {
        return None;
    }
    let (repo, revision) = repo.split_once('@').unwrap_or((repo, "main"));
    let snapshot = Cache::new(&Settings::from_env().ok()?)?.snapshot(Repo::Model(repo), revision)?;
    Some((repo, model_in(&snapshot, file)))
}

/// [`resolve`]; a released model that is not here is downloaded, after a question where somebody can answer.
pub fn obtain(path: &Path, yes: bool, progress: &dyn Progress) -> Result<PathBuf> {
    match path.to_str().and_then(Release::find) {
        Some(release) if !path.exists() && !Path::new("models").join(path).exists() && release.local().is_none() => {
            progress
                .note(&format!("{}: {}, {}, licence {}", release.name, release.repo, release.purpose, release.licence));
            pull_release(release, yes, progress)
        }
        _ => resolve(path),
    }
}
