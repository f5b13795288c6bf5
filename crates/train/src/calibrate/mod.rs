//! Post-training to 1.25 bits: from a dense model to a quantized one with a few hundred thousand tokens of text,
//! block by block, without a cluster.
//!
//! Two streams of hidden states run through the model side by side: the original's, and that of the model as quantized so
//! far ([`stream`]). For every linear layer the second moments of its inputs are summed ([`moments`]), and its weights are
//! rounded such that the quantized stream comes as near to the original as it can ([`rounding`]); errors of earlier blocks
//! are part of what later blocks correct. What is done is kept in a work folder ([`work`]), so that a run that was stopped
//! goes on and ends with the same bytes.

mod adam;
pub mod adapt;
pub mod block;
pub mod moments;
mod output;
pub mod own_text;
pub mod reconstruct;
pub mod rounding;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod text;
pub mod tune;
pub mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};
use sherry::Progress;
use sherry::io::{ReadMode, hex};
use sherry::model::names::{Naming, Part, Role};
use sherry::model::{ArchConfig, Checkpoint, Frequencies, Stored};
use sherry_convert::Embeddings;
use sherry_convert::importance::{self, Origin};
use sherry_kernels::format::TensorType;
use sherry_measure::file_sha256;

use crate::data::{Coder, Sources};
use crate::error::{Error, Result};
use crate::layout::Kind;
use crate::loss::{self, IGNORED, Mix, Side};
use crate::ops::rmsnorm;
use crate::ops::rope::Rotation;
use crate::pretrained;

use adapt::{Adaptation, AdaptationReport, Rest};
use block::{BlockReport, Rounding, round_block};
use output::Comparison;
use own_text::Style;
use reconstruct::{Reconstruction, reconstruct};
use rounding::Grid;
use stream::{BlockWeights, Layer, Shard};
use text::Text;
use tune::{Student, Teacher, TuneReport, Tuning};
use work::Work;

/// What to make of a model.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model, dense or of a block type.
    pub model: PathBuf,
    /// Where the quantized model goes, a folder or a `.gguf` file.
    pub out: PathBuf,
    /// The work folder.
    pub work: PathBuf,
    /// Files with text, each with the same share of the tokens.
    pub data: Vec<PathBuf>,
    /// Share of the tokens that the model writes itself, half of them documents, half conversations where it has a chat
    /// template. Without files, all.
    pub own_text: f64,
    /// Field or column that holds the text.
    pub text_field: String,
    /// Tokens to fit to.
    pub tokens: usize,
    /// Tokens to measure on.
    pub held_out: usize,
    /// Tokens per sequence.
    pub length: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// How weights are rounded.
    pub rounding: Rounding,
    /// How every block is trained after it was rounded.
    pub reconstruction: Reconstruction,
    /// How the blocks that are not rounded yet are trained.
    pub adaptation: Adaptation,
    /// How scales and norms are tuned afterwards; its codes stay.
    pub tuning: Tuning,
    /// How everything is trained after that.
    pub training: Tuning,
    /// What embedding and head become.
    pub embeddings: Embeddings,
    /// Stop after this many blocks and write nothing: for trying settings.
    pub blocks: Option<usize>,
    /// Where the importance of the inputs of every linear layer goes; see [`sherry_convert::importance`].
    pub importance: Option<PathBuf>,
    /// Replace an existing output.
    pub overwrite: bool,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Tokens fitted to.
    pub tokens: usize,
    /// Tokens measured on.
    pub held_out: usize,
    /// Block by block.
    pub blocks: Vec<BlockReport>,
    /// How blocks that were not rounded yet were trained in between.
    pub adaptations: Vec<AdaptationReport>,
    /// Perplexity of the original on the text held out.
    pub original_perplexity: f64,
    /// After rounding, on the text held out.
    pub rounded: Option<Measured>,
    /// Tuning step by step.
    pub tuning: Vec<TuneReport>,
    /// After tuning, on the text held out.
    pub tuned: Option<Measured>,
    /// Training of everything step by step.
    pub training: Vec<TuneReport>,
    /// After it, on the text held out.
    pub trained: Option<Measured>,
    /// The written model beside what was fitted; `None` when nothing was written.
    pub written: Option<Comparison>,
    /// Wall-clock seconds of this process.
    pub seconds: f64,
}

/// The quantized model beside the original.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Perplexity.
    pub perplexity: f64,
    /// Divergence of its next-token distributions from the original's, in nats per token.
    pub divergence: f64,
}

impl Measured {
    fn of(sums: loss::Sums) -> Self {
        let tokens = sums.tokens.max(1) as f64;
        Self { perplexity: (sums.cross_entropy / tokens).exp(), divergence: sums.divergence / tokens }
    }
}

/// Something worth telling.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A block was rounded.
    Block(&'a BlockReport),
    /// The blocks that are not rounded yet were trained.
    Adapted(&'a AdaptationReport),
    /// All blocks were rounded.
    Rounded(Measured),
    /// Some steps of tuning were done.
    Tuned(&'a TuneReport),
}

/// Shards of text that is fitted to, at most: as many tasks can run at a time, and each has sums of its own.
const SHARDS: usize = 16;
/// Bytes that the sums of all shards may take.
const SUMS: usize = 2 << 30;

/// Quantizes a model as `request` says, telling `event` how it goes.
///
/// # Errors
/// Whatever is wrong with the model, the data, the work folder or the output, naming it.
pub fn calibrate(request: &Request, progress: &dyn Progress, mut event: impl FnMut(Event<'_>)) -> Result<Report> {
    let start = std::time::Instant::now();
    let checkpoint = Checkpoint::open(&request.model, ReadMode::Map)?;
    let arch = pretrained::architecture(&checkpoint)?;
    check(request, &arch)?;
    let is_packed = |role: Role| match checkpoint.tensors().find(role) {
        Some(Stored::Plain { ty, .. }) => *ty == TensorType::STQ1_0,
        Some(Stored::Packed { .. } | Stored::BitNet { .. } | Stored::Mlx { .. }) => true,
        None => false,
    };
    if Role::all(&arch).any(|role| role.is_linear() && is_packed(role)) {
        let problem = "its linear layers are packed already; give the full-precision model that it was made from";
        return Err(Error::checkpoint(&request.model, problem));
    }
    let texts = gather(request, &checkpoint, progress)?;
    let Texts { fit: text, held_out, .. } = &texts;
    let settings = settings(request, text, held_out, progress)?;
    let mut work = Work::open(&request.work, &settings, progress)?;
    progress.note(&format!(
        "{} tokens to fit to and {} to measure on, in sequences of {}",
        text.tokens.len(),
        held_out.tokens.len(),
        request.length
    ));
    let last = round_blocks(request, &checkpoint, &arch, &mut work, (text, held_out), progress, &mut event)?;
    let mut report = Report {
        tokens: text.tokens.len(),
        held_out: held_out.tokens.len(),
        blocks: work.blocks().to_vec(),
        adaptations: work.adaptations().to_vec(),
        original_perplexity: f64::NAN,
        rounded: None,
        tuning: Vec::new(),
        tuned: None,
        training: Vec::new(),
        trained: None,
        written: None,
        seconds: 0.0,
    };
    if work.blocks().len() == arch.layers {
        if let Some(path) = &request.importance {
            write_importance(request, path, &arch, &work, text, progress)?;
        }
        finish(request, &checkpoint, &arch, &mut work, &texts, &last, &mut report, progress, &mut event)?;
    }
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// Rounds block after block and returns the original's hidden states after the last norm, on the text held out.
fn round_blocks(
    request: &Request,
    checkpoint: &Checkpoint,
    arch: &ArchConfig,
    work: &mut Work,
    (text, held_out): (&Text, &Text),
    progress: &dyn Progress,
    event: &mut impl FnMut(Event<'_>),
) -> Result<Vec<f32>> {
    let mut shards = shards(checkpoint, arch, text, held_out, progress)?;
    let adaptation = &request.adaptation;
    let mut rest = match adaptation.tokens {
        0 => None,
        _ => Some(Rest::new(checkpoint, arch, &shards, request.length, progress)?),
    };
    if !work.blocks().is_empty() {
        progress.note(&format!("going on after block {} of {}", work.blocks().len(), arch.layers));
        work.streams(&mut shards, progress)?;
        work.blocks().iter().for_each(|block| event(Event::Block(block)));
        work.adaptations().iter().for_each(|report| event(Event::Adapted(report)));
    }
    let mut adapted = work.adaptations().last().map_or(0, |report| report.blocks);
    if let (Some(rest), 1..) = (&mut rest, adapted) {
        rest.load(adapted, work, progress)?;
    }
    let frequencies = Frequencies::new(arch);
    let rotation = |sliding| Rotation::new(frequencies.of(sliding), request.length, arch.rope.layout);
    let rotations = [rotation(false), rotation(true)];
    let blocks = request.blocks.map_or(arch.layers, |blocks| blocks.min(arch.layers));
    progress.start("round", blocks.saturating_sub(work.blocks().len()) as u64);
    for index in work.blocks().len()..blocks {
        if progress.is_cancelled() {
            return Err(sherry::Error::Interrupted.into());
        }
        if let Some(rest) = rest.as_mut().filter(|_| adaptation.is_due(index, arch.layers)) {
            if adapted < index {
                let report = rest.train(index, &shards, adaptation, request.seed, progress)?;
                event(Event::Adapted(&report));
                rest.keep(work, report, progress)?;
                adapted = index;
            }
            // What is rounded from here on was made for the quantized stream.
            shards.iter_mut().for_each(|shard| shard.original.copy_from_slice(&shard.quantized));
        }
        let original = match &rest {
            Some(rest) => rest.block(index)?,
            None => {
                let tensor = |part| pretrained::tensor(checkpoint, Role::Layer(index, part), progress);
                block_weights(arch, tensor)?
            }
        };
        let layer = Layer { arch, index, rotations: &rotations, length: request.length, progress };
        let is_trained = request.reconstruction.epochs > 0;
        let streams = |shards: &[Shard]| -> Vec<Vec<f32>> {
            if is_trained { shards.iter().map(|shard| shard.quantized.clone()).collect() } else { Vec::new() }
        };
        let start = std::time::Instant::now();
        let before = streams(&shards);
        let rounded = round_block(layer, &original, &mut shards, &request.rounding)?;
        let (mut block, mut report) = rounded.ok_or_else(|| {
            Error::checkpoint(checkpoint.path(), format!("its hidden states in block {index} are not finite"))
        })?;
        if is_trained {
            let after = streams(&shards);
            let how = &request.reconstruction;
            let (trained, drifts) = reconstruct(layer, &original, &block, &before, &mut shards, how, request.seed)?;
            let [fitted, held_out] = drifts.map(|drift| drift.mean());
            report.rounded_errors = Some([report.calibration_error, report.held_out_error]);
            if held_out < report.held_out_error {
                block = trained;
                (report.calibration_error, report.held_out_error) = (fitted, held_out);
            } else {
                shards.iter_mut().zip(after).for_each(|(shard, after)| shard.quantized = after);
            }
            report.seconds = start.elapsed().as_secs_f64();
        }
        event(Event::Block(&report));
        work.keep(&block, report, &shards, progress)?;
        progress.advance(1);
    }
    progress.finish();
    if let Some(rest) = rest {
        return Ok(rest.into_held_out(&shards));
    }
    let norm = gains(arch, pretrained::tensor(checkpoint, Role::OutputNorm, progress)?);
    let last: Vec<f32> = shards.iter().filter(|shard| shard.held_out).flat_map(|x| &x.original).copied().collect();
    let mut hidden = vec![0.0; last.len()];
    rmsnorm::forward(&mut hidden, &last, &norm, arch.norm_eps);
    Ok(hidden)
}

/// Writes the mean squares of the original's inputs.
fn write_importance(
    request: &Request,
    path: &Path,
    arch: &ArchConfig,
    work: &Work,
    text: &Text,
    progress: &dyn Progress,
) -> Result<()> {
    let mut all = BTreeMap::new();
    for index in 0..arch.layers {
        let [qkv, o, gate_up, down] = work.block(arch, index, progress)?.importance;
        for kind in Kind::ALL {
            let values = match kind {
                Kind::Q | Kind::K | Kind::V => &qkv,
                Kind::O => &o,
                Kind::Gate | Kind::Up => &gate_up,
                Kind::Down => &down,
            };
            let name = Role::Layer(index, kind.part()).name(arch.family, Naming::HuggingFace);
            all.insert(name.unwrap_or_default(), values.clone());
        }
    }
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let origin = Origin {
        datasets: request.data.iter().map(name).collect(),
        chunks: text.sequences() as u32,
        chunk_tokens: text.length as u32,
    };
    Ok(importance::write(path, &all, arch.family, &origin)?)
}

/// Measures, tunes and writes the model whose blocks are all rounded.
#[allow(clippy::too_many_arguments)] // everything that the stages before have made
fn finish(
    request: &Request,
    checkpoint: &Checkpoint,
    arch: &ArchConfig,
    work: &mut Work,
    texts: &Texts,
    hidden: &[f32],
    report: &mut Report,
    progress: &dyn Progress,
    event: &mut impl FnMut(Event<'_>),
) -> Result<()> {
    let head = pretrained::tensor(checkpoint, if arch.tied { Role::Embed } else { Role::Head }, progress)?;
    let held_out = &texts.held_out;
    let side = Side { hidden, head: &head, width: arch.hidden };
    let own = loss::head_loss(side, None, &targets(held_out), &Mix::CROSS_ENTROPY, None, progress)?;
    report.original_perplexity = Measured::of(own).perplexity;
    let mut student = Student::new(checkpoint, arch, work, request.rounding.group, progress)?;
    let rounded = student.measure(held_out, side, progress)?;
    event(Event::Rounded(rounded));
    report.rounded = Some(rounded);
    let mut fitted = rounded;
    let stages = [request.tuning, request.training];
    let mut name = "tuned".to_owned();
    if stages.iter().any(|stage| stage.tokens > 0) {
        let teacher = Teacher::new(checkpoint, arch, progress)?;
        for (i, stage) in stages.iter().enumerate().filter(|(_, stage)| stage.tokens > 0) {
            let Tuning { tokens, batch, rate, code_rate } = *stage;
            if i == 1 {
                student.thaw(work, progress)?;
            }
            let (lines, measured) = match i {
                0 => (&mut report.tuning, &mut report.tuned),
                _ => (&mut report.training, &mut report.trained),
            };
            let done = |line: &TuneReport| {
                event(Event::Tuned(line));
                lines.push(line.clone());
            };
            name += &format!("-{tokens}-{batch}-{rate}-{code_rate}");
            let file = format!("{name}-{}.safetensors", request.seed);
            let seed = request.seed + i as u64;
            student.tune(&texts.tuning, &teacher, stage, seed, (work, &file), progress, done)?;
            fitted = student.measure(held_out, side, progress)?;
            *measured = Some(fitted);
        }
    }
    report.written = Some(output::write(request, checkpoint, arch, &student, held_out, fitted.perplexity, progress)?);
    Ok(())
}

/// Refuses what cannot be done before anything is computed.
fn check(request: &Request, arch: &ArchConfig) -> Result<()> {
    let invalid = |problem: String| Err(sherry::Error::Invalid(problem).into());
    if request.length < 2 || request.length > arch.context {
        return invalid(format!(
            "sequences of {} tokens: expected at least 2, and the model has a context of {}",
            request.length, arch.context
        ));
    }
    let Adaptation { tokens, every, rate, .. } = request.adaptation;
    if tokens > 0 && (every == 0 || !(rate > 0.0 && rate < 1.0)) {
        return invalid(format!(
            "adaptation every {every} blocks at a rate of {rate}: expected at least 1, and 0 to 1"
        ));
    }
    if tokens > 0 && request.importance.is_some() {
        return invalid(
            "importance is that of the original's inputs, which adaptation changes; --adapt-tokens 0 keeps them"
                .to_owned(),
        );
    }
    let trains_codes =
        request.training.tokens > 0 || (request.reconstruction.epochs > 0 && request.reconstruction.code_rate > 0.0);
    if trains_codes && request.rounding.grid != Grid::Sparse34 {
        return invalid("codes can be trained of 3:4-sparse weights only".to_owned());
    }
    if !(0.0..=1.0).contains(&request.own_text) {
        return invalid(format!("a share of own text of {}; expected 0 to 1", request.own_text));
    }
    if request.tokens < request.length || request.held_out < request.length {
        return invalid(format!("fewer tokens than one sequence of {}", request.length));
    }
    // Both streams, the inputs of the map in work, and the networks of tuning: the original, the quantized one, its gradients.
    let tokens = request.tokens.saturating_add(request.held_out) as f64;
    let width = 2 * arch.hidden + arch.ffn.max(arch.q_dim());
    // Adaptation: weights, gradients and two means; the original's last hidden states.
    let (models, width) = if request.adaptation.tokens > 0 { (4.0, width + arch.hidden) } else { (3.0, width) };
    let needed = 4.0 * (tokens * width as f64 + models * arch.parameters() as f64) + SUMS as f64;
    if let Some(available) = sherry::available_memory().filter(|available| needed > *available as f64) {
        let gib = |bytes: f64| bytes / f64::from(1 << 30);
        return invalid(format!(
            "{tokens} tokens need about {:.1} GiB of memory, {:.1} GiB are available; --tokens asks for fewer",
            gib(needed),
            gib(available as f64)
        ));
    }
    for cols in [arch.hidden, arch.q_dim(), arch.ffn] {
        let group = request.rounding.group.unwrap_or(cols);
        if group == 0 || cols % group != 0 || cols % 4 != 0 || (group != cols && !group.is_multiple_of(4)) {
            return invalid(format!("rows of {cols} weights are no whole groups of {group}"));
        }
    }
    Ok(())
}

/// The text of a run. Each part has the same share of every source; a part is the same whatever the size of those after it.
struct Texts {
    /// To measure on.
    held_out: Text,
    /// To round for.
    fit: Text,
    /// To tune on: other text than rounding has fitted the weights to, as far as the files have it.
    tuning: Text,
}

fn gather(request: &Request, checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<Texts> {
    let (length, seed) = (request.length, request.seed);
    let coder = Coder::of_checkpoint(checkpoint)?;
    let tuning = request.tuning.tokens.max(request.training.tokens);
    let counts = [request.held_out, request.tokens, tuning].map(|tokens| tokens / length);
    let own_share = if request.data.is_empty() { 1.0 } else { request.own_text };
    let own = counts.map(|count| (count as f64 * own_share).round() as usize);
    let has_chat = own_text::has_chat(&checkpoint.tokenizer()?);
    let chats = own.map(|own| if has_chat { own / 2 } else { 0 });
    let files = request.data.len();
    let mut parts: [Vec<Text>; 3] = Default::default();
    for (i, file) in request.data.iter().enumerate() {
        let counts = [0, 1, 2].map(|part| {
            let count = counts[part] - own[part];
            count / files + usize::from(i < count % files)
        });
        let sources = Sources::open(std::slice::from_ref(file), &request.text_field, progress)?;
        let text = text::draw(&sources, &coder, length, (counts[0] + counts[1], counts[2]), seed, progress)?;
        let mut sequences = text.tokens.chunks_exact(length);
        for (part, count) in parts.iter_mut().zip(counts) {
            let tokens = sequences.by_ref().take(count).flatten().copied().collect();
            part.push(Text { length, tokens });
        }
    }
    for style in [Style::Documents, Style::Conversations] {
        let mut start = 0;
        for part in 0..3 {
            let count = if style == Style::Conversations { chats[part] } else { own[part] - chats[part] };
            let sequences = start..start + count;
            start += count;
            if count > 0 {
                parts[part].push(own_text::kept(checkpoint, style, length, sequences, seed, &request.work, progress)?);
            }
        }
    }
    let [held_out, fit, tuning] = parts.map(|parts| {
        let sequences = parts.iter().flat_map(|part| part.tokens.chunks_exact(length));
        Text::shuffled(sequences, length, seed)
    });
    // A file may have no text beyond what is fitted to.
    let tuning = if tuning.tokens.is_empty() { fit.clone() } else { tuning };
    Ok(Texts { held_out, fit, tuning })
}

/// Everything that the result depends on.
fn settings(request: &Request, text: &Text, held_out: &Text, progress: &dyn Progress) -> Result<serde_json::Value> {
    let mut hash = Sha256::new();
    for token in text.tokens.iter().chain(&held_out.tokens) {
        hash.update(token.to_le_bytes());
    }
    let Rounding { grid, group, damping, effort } = request.rounding;
    let Reconstruction { epochs, batch, rate, code_rate, residual } = request.reconstruction;
    let Adaptation { tokens, every, batch: adapted_batch, rate: adapted_rate } = request.adaptation;
    let adaptation = (tokens > 0).then_some((tokens, every, adapted_batch, adapted_rate, request.seed));
    let reconstruction = (epochs > 0).then_some((epochs, batch, rate, code_rate, residual, request.seed));
    Ok(serde_json::json!({
        "model": hex(&model_hash(&request.model, progress)?),
        "text": hex(&hash.finalize()),
        "tokens": text.tokens.len(),
        "held_out": held_out.tokens.len(),
        "length": request.length,
        "grid": format!("{grid:?}"),
        "group": group,
        "damping": damping,
        "sweeps": effort.sweeps,
        "column_fits": effort.column_fits,
        "reconstruction": reconstruction,
        "adaptation": adaptation,
    }))
}

/// SHA-256 of a model file, or of all weights and the configuration of a folder.
fn model_hash(path: &Path, progress: &dyn Progress) -> Result<[u8; 32]> {
    if !path.is_dir() {
        return Ok(file_sha256(path, progress)?);
    }
    let mut names: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(sherry::Error::io(path, "list"))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|x| x == "safetensors") || path.ends_with("config.json"))
        .collect();
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        hash.update(file_sha256(&name, progress)?);
    }
    Ok(hash.finalize().into())
}

/// The text as embeddings, cut into shards.
fn shards(
    checkpoint: &Checkpoint,
    arch: &ArchConfig,
    text: &Text,
    held_out: &Text,
    progress: &dyn Progress,
) -> Result<Vec<Shard>> {
    let table = pretrained::tensor(checkpoint, Role::Embed, progress)?;
    let sums = 4 * arch.ffn.max(arch.hidden).pow(2);
    let most = (SUMS / sums.max(1)).clamp(2, SHARDS);
    let mut shards = Vec::new();
    for (text, is_held_out, most) in [(text, false, most), (held_out, true, 4)] {
        let per_shard = text.sequences().div_ceil(most).max(1);
        for tokens in text.tokens.chunks(per_shard * text.length) {
            let mut x = vec![0.0; tokens.len() * arch.hidden];
            crate::ops::embedding::forward(&mut x, &table, tokens, arch.hidden);
            x.iter_mut().for_each(|x| *x *= arch.embed_scale);
            shards.push(Shard { held_out: is_held_out, quantized: x.clone(), original: x, inputs: Vec::new() });
        }
    }
    Ok(shards)
}

/// What a norm multiplies by.
fn gains(arch: &ArchConfig, mut weights: Vec<f32>) -> Vec<f32> {
    if arch.norm_plus_one {
        weights.iter_mut().for_each(|w| *w += 1.0);
    }
    weights
}

/// The weights of a block, given what its tensors hold.
fn block_weights(arch: &ArchConfig, tensor: impl Fn(Part) -> Result<Vec<f32>>) -> Result<BlockWeights> {
    let norm = |part| tensor(part).map(|weights| gains(arch, weights));
    let optional = |part: Part| part.is_in(arch).then(|| norm(part)).transpose();
    let qk_norms = optional(Part::QNorm)?.zip(optional(Part::KNorm)?).map(Into::into);
    Ok(BlockWeights {
        attn_norm: norm(Part::AttnNorm)?,
        qkv: [tensor(Part::Q)?, tensor(Part::K)?, tensor(Part::V)?].concat(),
        qk_norms,
        o: tensor(Part::O)?,
        post_attn_norm: optional(Part::PostAttnNorm)?,
        ffn_norm: norm(Part::FfnNorm)?,
        gate_up: [tensor(Part::Gate)?, tensor(Part::Up)?].concat(),
        down: tensor(Part::Down)?,
        post_ffn_norm: optional(Part::PostFfnNorm)?,
    })
}

/// The token after each; none after the last of a sequence.
fn targets(text: &Text) -> Vec<u32> {
    let sequences = text.tokens.par_chunks(text.length.max(1));
    sequences.flat_map_iter(|tokens| tokens[1..].iter().copied().chain([IGNORED])).collect()
}
