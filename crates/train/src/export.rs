//! From a finished run to a model that runs: `Q(W)` packed, then compared with the student that was trained.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use sherry::Progress;
use sherry::generate::log_prob;
use sherry::io::{AtomicFolder, ReadMode, json};
use sherry::model::{Checkpoint, Decoder, KvCache, KvType, Wanted, config_hf};
use sherry_convert::quant::{Projection, QuantSpec};
use sherry_convert::{Container, Embeddings, Linears};
use sherry_kernels::format::{QuadOrder, ScaleGroup, TensorType, TernaryFormat};
use sherry_kernels::{Engine, Isa, Precision};
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use crate::checkpoint::{self, Verified};
use crate::config::{Config, Quads, QuantizerConfig};
use crate::data::{Coder, Dataset, Sources};
use crate::error::{Error, Result, uninterrupted};
use crate::layout::Purpose;
use crate::linear::Pass;
use crate::loss::IGNORED;
use crate::methods::{Method, Scale};
use crate::network::Network;
use crate::run_folder;

/// Least share of tokens at which both must rank the same token first.
const SAME_TOP: f64 = 0.9;
/// The folder inside a temporary one that holds the packed model on its way to GGUF.
const PACKED: &str = "packed";
/// Tokens whose logits are held at once while comparing.
const PIECE: usize = 256;
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
fn find(run: &Path, progress: &dyn Progress) -> Result<Verified> {
    if run.join("manifest.json").is_file() {
        return Verified::open(run, progress);
    }
    run_folder::newest(run, progress)?.ok_or_else(|| Error::checkpoint(run, "holds no good checkpoint"))
}

/// What a run becomes.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// Packed by a projection of the library that equals the trainer's.
    Projected(QuantSpec),
    /// `Q(W)` computed by the trainer, packed as it is.
    Exact(QuantSpec),
    /// `Q(W)` as f32.
    Dense,
}

/// How the weights of a run can be packed without changing them, or why they cannot.
fn packed_form(q: &QuantizerConfig) -> Result<Form, &'static str> {
    let scale = match q.scale {
        // Learned ranges belong to rows, and rows may all have the scale of the tensor.
        _ if matches!(q.method, Method::Lsq | Method::Seq) => ScaleGroup::Row,
        Scale::Row | Scale::Tensor => ScaleGroup::Row,
        Scale::Group => ScaleGroup::Group(q.group_size),
    };
    let order = match q.quads {
        Quads::Contiguous => QuadOrder::Contiguous,
        Quads::Stride16 => QuadOrder::Stride16,
    };
    let format = if scale == ScaleGroup::Row { TernaryFormat::Ternary167 } else { TernaryFormat::Ternary2 };
    let dense = |projection| QuantSpec { format, order: QuadOrder::Contiguous, scale, projection };
    let spec = match q.method {
        Method::Sherry => QuantSpec { order, ..QuantSpec::sherry(scale) },
        Method::AbsMean => dense(Projection::AbsMean),
        Method::AbsMedian => dense(Projection::AbsMedian),
        Method::Twn => dense(Projection::Twn),
        Method::Tequila if q.tequila == 0.0 => dense(Projection::AbsMean),
        Method::Binary | Method::Lsq | Method::Seq => dense(Projection::Exact),
        Method::Codes => return Err("its codes come from post-training, not from the trainer"),
        Method::None => return Err("its weights are not quantized"),
        Method::Dlt => return Err("DLT shifts every group of weights, and packed types hold no shift"),
        Method::Tequila => return Err("Tequila adds a bias to every row, which model files have no place for"),
    };
    Ok(match (spec.projection, q.scale) {
        (Projection::Exact, _) => Form::Exact(spec),
        (_, Scale::Tensor) => Form::Exact(QuantSpec { projection: Projection::Exact, ..spec }),
        _ => Form::Projected(spec),
    })
}

/// Writes the checkpoint `path` with `Q(W)` in place of the latent weights, all f32, into `folder`.
fn write_effective(network: &Network, params: &[f32], path: &Path, folder: &Path) -> Result<()> {
    let tensors = network.layout.tensors.iter().filter(|tensor| tensor.purpose != Purpose::Learned);
    let mut effective = Vec::new();
    checkpoint::write_weights(folder, tensors, |tensor, writer| {
        let values = match tensor.purpose {
            Purpose::Linear(layer, kind) => {
                let matrix = network.layout.blocks[layer].linears[kind as usize];
                effective.resize(matrix.count(), 0.0);
                network.quantizer.effective(matrix, params, 0.0, &mut effective);
                &effective
            }
            _ => &params[tensor.range()],
        };
        checkpoint::write_floats(writer, &tensor.name, values)
    })?;
    let known = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"];
    for entry in fs::read_dir(path).map_err(sherry::Error::io(path, "list"))?.flatten() {
        if !known.iter().any(|name| entry.file_name() == *name) {
            let target = folder.join(entry.file_name());
            fs::copy(entry.path(), &target).map_err(sherry::Error::io(&target, "create"))?;
        }
    }
    Ok(())
}

/// What to export and how.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Embedding and head.
    pub embeddings: Embeddings,
    /// What becomes of linear layers that packed codes of a GGUF file cannot hold; `None`: the export is refused.
    pub fallback: Option<TensorType>,
    /// Write `Q(W)` as f32 instead of packing it.
    pub dense: bool,
    /// Replace an existing output.
    pub overwrite: bool,
    /// Windows of held-out text to compare on.
    pub windows: usize,
}

/// Packs the run (or checkpoint) `run` into `out`, a folder or a `.gguf` file, and compares it with the student on
/// held-out text. The caller decides what to do with a comparison that is not good.
///
/// # Errors
/// [`Error::Checkpoint`] when lambda is not exactly zero yet or the weights have no packed form; whatever reading and
/// writing can give. Nothing is left at `out` then.
pub fn export(run: &Path, out: &Path, request: &Request, progress: &dyn Progress) -> Result<Comparison> {
    let checkpoint = find(run, progress)?;
    let (path, state) = (checkpoint.path().to_path_buf(), checkpoint.state().clone());
    let refuse = |why: String| Error::checkpoint(&path, format!("cannot be exported: {why}"));
    if state.lambda != 0.0 {
        let (lambda, step) = (state.lambda, state.step);
        return Err(refuse(format!(
            "lambda is still {lambda} at step {step}; an export holds Q(W) alone. Train to the end"
        )));
    }
    let config: Config =
        serde_json::from_value(state.config).map_err(|error| Error::checkpoint(&path, error.to_string()))?;
    let biased = config.quantizer.method == Method::Tequila && config.quantizer.tequila != 0.0;
    let form = match packed_form(&config.quantizer) {
        _ if request.dense && !biased => Form::Dense,
        Ok(form) => form,
        Err(why) if biased => return Err(refuse(why.to_owned())),
        Err(why) => return Err(refuse(format!("{why}; --dense writes its effective weights as f32"))),
    };
    // Of the methods that learn numbers beside the weights these are no model yet, so only the configuration is read here.
    let file = path.join("config.json");
    let arch = config_hf::parse(&file, &json::read(&file)?)?;
    let network = Network::new(arch, config.quantizer.build());
    let params = checkpoint.params(&network.layout, progress)?;

    let (effective, base) = match form {
        Form::Projected(_) => (None, Checkpoint::open(&path, ReadMode::Map)?),
        Form::Exact(_) | Form::Dense => {
            let folder = AtomicFolder::create(out)?; // never given its name
            write_effective(&network, &params, &path, folder.path())?;
            let base = Checkpoint::open(folder.path(), ReadMode::Map)?;
            (Some(folder), base)
        }
    };
    let linears = match form {
        Form::Projected(spec) | Form::Exact(spec) => Linears::Packed(spec),
        Form::Dense => Linears::Keep,
    };
    let named_base = |error| match &effective {
        Some(folder) => named(error, folder.path(), &path),
        None => error,
    };
    let Request { embeddings, fallback, overwrite, .. } = *request;
    let last = sherry_convert::Request { embeddings, fallback, overwrite, ..sherry_convert::Request::keep() };
    if sherry_convert::container_of(out) == Container::Gguf && form.is_packed() {
        // What a GGUF file can hold of a packed model is decided, and said, where packed models are converted.
        let folder = AtomicFolder::create(out)?;
        let packed = folder.path().join(PACKED);
        let first = sherry_convert::Request { linears, ..sherry_convert::Request::keep() };
        let through_packed = || {
            sherry_convert::convert(&base, &packed, &first, progress, |_| {})?;
            let packed = Checkpoint::open(&packed, ReadMode::Map)?;
            sherry_convert::convert(&packed, out, &last, progress, |_| {})
        };
        through_packed().map_err(|error| named(error, folder.path(), &path)).map_err(named_base)?;
    } else {
        let last = sherry_convert::Request { linears, ..last };
        sherry_convert::convert(&base, out, &last, progress, |_| {}).map_err(named_base)?;
    }
    drop(effective);

    let coder = Coder::of_run(&path)?;
    let (train, valid) = Sources::of_run(&config.data, progress)?;
    let sources = valid.unwrap_or_else(|| {
        progress.note("no validation text: comparing on training text");
        train
    });
    let cache = config.data.cache.clone().or_else(|| path.parent().map(|run| run.join("data"))).unwrap_or_default();
    let length = config.batch.length;
    let text = Dataset::open(&sources, &coder, length, &cache, progress)?;
    compare(&network, &params, &path, out, &text, length, request.windows, progress)
}

/// `error` with the checkpoint `path` in place of a temporary folder and what lies in it, which say nothing to anybody.
fn named(error: sherry::Error, temporary: &Path, path: &Path) -> sherry::Error {
    let own = |at: PathBuf| if at.starts_with(temporary) { path.to_path_buf() } else { at };
    match error {
        sherry::Error::Io { path, action, source } => sherry::Error::Io { path: own(path), action, source },
        sherry::Error::Malformed { path, place, problem } => {
            sherry::Error::Malformed { path: own(path), place, problem }
        }
        sherry::Error::Unsupported { path, what } => sherry::Error::Unsupported { path: own(path), what },
        sherry::Error::Invalid(problem) => {
            let inside = [temporary.join(PACKED), temporary.to_path_buf()];
            let shown = path.display().to_string();
            let problem = inside.iter().fold(problem, |text, at| text.replace(&*at.to_string_lossy(), &shown));
            sherry::Error::Invalid(problem)
        }
        other => other,
    }
}

impl Form {
    fn is_packed(self) -> bool {
        !matches!(self, Self::Dense)
    }
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
    let kernels = Engine::new(Isa::best(), threads, Precision::Int8);
    let mut decoder = Decoder::new(Arc::new(packed.load(kernels.pool(), progress)?), kernels);
    let mut cache = KvCache::new(decoder.config(), length, KvType::F32)?;
    let mut space = network.forward_workspace(1, length);
    let vocab = network.arch.vocab;
    let mut expected = vec![0.0f32; PIECE.min(length) * vocab];
    let (mut student, mut engine, mut same, mut count, mut widest) = (0.0f64, 0.0f64, 0usize, 0usize, 0.0f32);
    let windows = windows.clamp(1, text.windows());
    progress.start("compare", windows as u64);
    for window in 0..windows {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        text.push_window(window, &mut tokens, &mut targets);
        let pass = Pass { params, lambda: 0.0, progress };
        let side = network.side(params, network.forward(pass, &tokens, &mut space)?);
        let w = Mat::new(side.head, vocab, side.width, side.width);
        cache.truncate(0);
        let hidden = side.hidden.chunks(PIECE * side.width);
        for (hidden, (tokens, targets)) in hidden.zip(tokens.chunks(PIECE).zip(targets.chunks(PIECE))) {
            uninterrupted(progress)?;
            let x = Mat::new(hidden, tokens.len(), side.width, side.width);
            let logits = MatMut::new(&mut expected, tokens.len(), vocab, vocab);
            matmul(logits, Old::Replace, 1.0, x, w.t(), threads);
            let logits = decoder.forward_one(&mut cache, tokens, Wanted::All)?;
            for (row, (expected, &target)) in expected.chunks_exact(vocab).zip(targets).enumerate() {
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
