//! From a finished run to a model that runs: `Q(W)` packed, then compared with the student that was trained.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use sherry::Progress;
use sherry::convert::{self, Embeddings, Linears, Request};
use sherry::eval::log_prob;
use sherry::io::ReadMode;
use sherry::model::{Checkpoint, Decoder, KvCache, KvType, Step, Wanted};
use sherry::quant::{Projection, QuantSpec};
use sherry_kernels::format::{QuadOrder, ScaleGroup, TernaryFormat};
use sherry_kernels::{Engine, Isa, Precision};
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use crate::checkpoint;
use crate::config::{Config, Quads};
use crate::data::{Coder, Dataset, Sources};
use crate::error::{Error, Result};
use crate::loss::IGNORED;
use crate::methods::{Method, Scale};
use crate::network::Network;
use crate::pretrained;

/// Least share of tokens at which both must rank the same token first.
const SAME_TOP: f64 = 0.9;
/// Most that the mean log-likelihoods may differ, in nats per token.
const LOSS_GAP: f64 = 0.02;

/// The packed model beside the student, on held-out text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What was exported.
    pub checkpoint: PathBuf,
    /// Tokens compared.
    pub tokens: usize,
    /// Share of tokens at which both rank the same token first.
    pub same_top: f64,
    /// Largest difference of a logit.
    pub max_logit_difference: f32,
    /// Perplexity of the student: `Q(W)` in f32.
    pub student_perplexity: f64,
    /// Perplexity of the packed model in the engine, int8 activations.
    pub packed_perplexity: f64,
}

impl Comparison {
    /// Whether the export may be called good.
    pub fn is_good(&self) -> bool {
        let gap = (self.packed_perplexity.ln() - self.student_perplexity.ln()).abs();
        self.same_top >= SAME_TOP && gap <= LOSS_GAP
    }
}

/// The checkpoint to export: `run` itself when it is one, else the newest good one in it.
fn find(run: &Path, progress: &dyn Progress) -> Result<PathBuf> {
    if run.join("manifest.json").is_file() {
        checkpoint::verify(run)?;
        return Ok(run.to_path_buf());
    }
    checkpoint::newest(run, progress)?.ok_or_else(|| Error::checkpoint(run, "holds no good checkpoint"))
}

/// How the weights of a run are packed.
fn spec(path: &Path, config: &Config) -> Result<QuantSpec> {
    let q = &config.quantizer;
    let refuse = |why: String| Error::checkpoint(path, format!("cannot be exported: {why}"));
    let scale = match q.scale {
        Scale::Row => ScaleGroup::Row,
        Scale::Group => ScaleGroup::Group(q.group_size),
        Scale::Tensor => return Err(refuse("no file format holds one scale for a whole tensor".to_owned())),
    };
    let order = match q.quads {
        Quads::Contiguous => QuadOrder::Contiguous,
        Quads::Stride16 => QuadOrder::Stride16,
    };
    let dense = |projection| {
        let format = if scale == ScaleGroup::Row { TernaryFormat::Ternary167 } else { TernaryFormat::Ternary2 };
        QuantSpec { format, order: QuadOrder::Contiguous, scale, projection }
    };
    match q.method {
        Method::Sherry => Ok(QuantSpec { order, ..QuantSpec::sherry(scale) }),
        Method::AbsMean => Ok(dense(Projection::AbsMean)),
        Method::AbsMedian => Ok(dense(Projection::AbsMedian)),
        Method::Twn => Ok(dense(Projection::Twn)),
        other => Err(refuse(format!("the weights of method {other:?} have no packed form"))),
    }
}

/// Packs the run (or checkpoint) `run` into `out`, a folder or a `.gguf` file, and compares `windows` windows of
/// held-out text. The caller decides what to do with a comparison that is not good.
///
/// # Errors
/// [`Error::Checkpoint`] when lambda is not exactly zero yet or the method has no packed form; whatever reading and
/// writing can give. Nothing is left at `out` then.
pub fn export(
    run: &Path,
    out: &Path,
    embeddings: Embeddings,
    overwrite: bool,
    windows: usize,
    progress: &dyn Progress,
) -> Result<Comparison> {
    let path = find(run, progress)?;
    let state = checkpoint::read_state(&path)?;
    if state.lambda != 0.0 {
        let problem = format!(
            "cannot be exported: lambda is still {} at step {}; an export holds Q(W) alone. Train to the end",
            state.lambda, state.step
        );
        return Err(Error::checkpoint(&path, problem));
    }
    let config: Config =
        serde_json::from_value(state.config).map_err(|error| Error::checkpoint(&path, error.to_string()))?;
    let spec = spec(&path, &config)?;
    let latent = Checkpoint::open(&path, ReadMode::Map)?;
    let network = Network::new(pretrained::architecture(&latent)?, config.quantizer.build());
    let params = pretrained::parameters(&latent, &network.layout, &network.quantizer)?;
    let request = Request { linears: Linears::Packed(spec), embeddings, overwrite, ..Request::keep() };
    convert::convert(&latent, out, &request, progress, |_| {})?;

    let coder = Coder::of_run(&path)?;
    let files = if config.data.valid.is_empty() {
        progress.note("no validation files: comparing on training text");
        &config.data.train
    } else {
        &config.data.valid
    };
    let cache = config.data.cache.clone().or_else(|| path.parent().map(|run| run.join("data"))).unwrap_or_default();
    let length = config.batch.length;
    let sources = Sources::open(files, &config.data.text_field)?;
    let text = Dataset::open(&sources, &coder, length, &cache, progress)?;
    compare(&network, &params, &path, out, &text, length, windows, progress)
}

#[allow(clippy::too_many_arguments)]
fn compare(
    network: &Network,
    params: &[f32],
    path: &Path,
    out: &Path,
    text: &Dataset,
    length: usize,
    windows: usize,
    progress: &dyn Progress,
) -> Result<Comparison> {
    let threads = rayon::current_num_threads();
    let packed = Checkpoint::open(out, ReadMode::Map)?;
    let mut decoder =
        Decoder::new(Arc::new(packed.load(progress)?), Engine::new(Isa::best(), threads, Precision::Int8));
    let mut cache = KvCache::new(decoder.config(), length, KvType::F32)?;
    let mut space = network.workspace(1, length, true);
    let vocab = network.arch.vocab;
    let mut expected = vec![0.0f32; length * vocab];
    let (mut student, mut engine, mut same, mut count, mut widest) = (0.0f64, 0.0f64, 0usize, 0usize, 0.0f32);
    let windows = windows.clamp(1, text.windows());
    progress.start("compare", windows as u64);
    for window in 0..windows {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        text.push_window(window, &mut tokens, &mut targets);
        let side = network.side(params, network.forward(params, 0.0, &tokens, &mut space));
        let x = Mat::new(side.hidden, length, side.width, side.width);
        let w = Mat::new(side.head, vocab, side.width, side.width);
        matmul(MatMut::new(&mut expected, length, vocab, vocab), Old::Replace, 1.0, x, w.t(), threads);
        cache.truncate(0);
        let logits = decoder.forward(&mut [Step { cache: &mut cache, tokens: &tokens, logits: Wanted::All }])?;
        for (row, (expected, &target)) in expected.chunks_exact(vocab).zip(&targets).enumerate() {
            if target == IGNORED {
                continue;
            }
            let found = logits.row(row);
            student -= log_prob(expected, target);
            engine -= log_prob(found, target);
            same += usize::from(top(expected) == top(found));
            widest = expected.iter().zip(found).fold(widest, |m, (a, b)| m.max((a - b).abs()));
            count += 1;
        }
        progress.advance(1);
    }
    progress.finish();
    Ok(Comparison {
        checkpoint: path.to_path_buf(),
        tokens: count,
        same_top: same as f64 / count.max(1) as f64,
        max_logit_difference: widest,
        student_perplexity: (student / count.max(1) as f64).exp(),
        packed_perplexity: (engine / count.max(1) as f64).exp(),
    })
}

fn top(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}
