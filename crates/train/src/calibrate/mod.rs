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
pub mod budget;
mod knapsack;
mod latent;
pub mod moments;
mod output;
pub mod own_text;
pub mod reconstruct;
mod request;
pub mod rounding;
pub mod sensitivity;
pub mod spaced;
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
use sherry::Progress;
use sherry::io::ReadMode;
use sherry::model::names::{Naming, Part, Role};
use sherry::model::{ArchConfig, Checkpoint, Frequencies, Stored};
use sherry_convert::importance::{self, Origin};
use sherry_convert::recipe::{self, MatrixType, Recipe};
use sherry_convert::{Container, container_of};
use sherry_kernels::format::{QuadOrder, TensorType};
use sherry_sgemm::MatmulPrecision;

use crate::data::{Coder, Sources};
use crate::error::{Error, Result};
use crate::layout::Kind;
use crate::loss::{self, IGNORED, Mix, Side};
use crate::ops::rmsnorm;
use crate::ops::rope::Rotation;
use crate::pretrained;

use adapt::{AdaptationReport, Rest};
use block::{BlockReport, Formats, round_block};
use budget::Mixture;
use output::Comparison;
use own_text::Style;
use reconstruct::reconstruct;
pub use request::{Request, Types};
use request::{check, described, settings};
use sensitivity::Losses;
use stream::{BlockWeights, Layer, Shard};
use text::Text;
use tune::{Student, Teacher, TuneReport, Tuning};
use work::Work;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Tokens fitted to.
    pub tokens: usize,
    /// Tokens measured on.
    pub held_out: usize,
    /// What products were computed in where the model was run and trained: `f32`, `bf16x3` or `bf16`.
    pub matmul_arithmetic: &'static str,
    /// How a budget was spent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixture: Option<Mixture>,
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
    /// The types within a budget were chosen.
    Chosen(&'a Mixture),
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
    let container = container_of(&request.out);
    let given = match &request.types {
        Types::Recipe(path) => {
            let recipe = Recipe::read(path, &arch)?;
            recipe.check(&arch, container)?;
            Some(recipe)
        }
        Types::Budget(limit) => {
            budget::check(&checkpoint, &arch, container, *limit, request.embeddings)?;
            None
        }
        Types::Alike => None,
    };
    let texts = gather(request, &checkpoint, progress)?;
    let Texts { fit: text, held_out, .. } = &texts;
    let mut settings = settings(request, text, held_out, progress)?;
    let mut mixture = None;
    let recipe = match request.types {
        Types::Budget(limit) => {
            let losses = sensitivities(request, &checkpoint, &arch, text, &settings, progress)?;
            let (mut recipe, found) =
                budget::choose(&losses, &checkpoint, &arch, container, limit, request.embeddings)?;
            recipe.write(
                &request.recipe_out,
                &arch,
                serde_json::json!({ "budget": limit, "predicted_loss": found.loss }),
                request.overwrite,
            )?;
            event(Event::Chosen(&found));
            mixture = Some(found);
            Some(recipe)
        }
        _ => given,
    };
    if request.only_recipe {
        let (tokens, held_out) = (text.tokens.len(), held_out.tokens.len());
        return Ok(Report {
            mixture,
            seconds: start.elapsed().as_secs_f64(),
            ..Report::nothing(tokens, held_out, request.precision)
        });
    }
    if let Some(recipe) = &recipe {
        settings["recipe"] = described(recipe, &arch).into();
        settings["container"] = (if container == Container::Gguf { "gguf" } else { "folder" }).into();
    }
    let mut work = Work::open(&request.work, &settings, progress)?;
    progress.note(&format!(
        "{} tokens to fit to and {} to measure on, in sequences of {}",
        text.tokens.len(),
        held_out.tokens.len(),
        request.length
    ));
    let model = Model { checkpoint: &checkpoint, arch: &arch, recipe: recipe.as_ref() };
    let last = round_blocks(request, model, &mut work, (text, held_out), progress, &mut event)?;
    let mut report = Report {
        mixture,
        blocks: work.blocks().to_vec(),
        adaptations: work.adaptations().to_vec(),
        ..Report::nothing(text.tokens.len(), held_out.tokens.len(), request.precision)
    };
    if work.blocks().len() == arch.layers {
        if let Some(path) = &request.importance {
            write_importance(request, path, &arch, &work, text, progress)?;
        }
        finish(request, model, &mut work, &texts, &last, &mut report, progress, &mut event)?;
    }
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// What is quantized, and to what.
#[derive(Clone, Copy)]
struct Model<'a> {
    checkpoint: &'a Checkpoint,
    arch: &'a ArchConfig,
    /// The types of all matrices; `None` where linear layers are alike.
    recipe: Option<&'a Recipe>,
}

impl Model<'_> {
    /// Embedding or head as the written file holds it, where a recipe says how.
    fn held(&self, role: Role, progress: &dyn Progress) -> Result<Vec<f32>> {
        let values = pretrained::tensor(self.checkpoint, role, progress)?;
        match self.recipe.and_then(|recipe| recipe.get(role)) {
            Some(MatrixType::Dense(ty)) => sensitivity::nearest(&values, ty, self.arch.hidden).ok_or_else(|| {
                let name = recipe::display(self.arch, role);
                Error::checkpoint(self.checkpoint.path(), format!("tensor '{name}' is beyond the range of {ty}"))
            }),
            _ => Ok(values),
        }
    }

    /// What the linear layers of a block are rounded to.
    fn formats(&self, index: usize, request: &Request) -> Formats {
        let mut formats = Formats::all(request.rounding.grid);
        let Some(recipe) = self.recipe else { return formats };
        for kind in Kind::ALL {
            if let Some(ty) = recipe.get(Role::Layer(index, kind.part())) {
                formats.of[kind as usize] = ty.into();
            }
        }
        // Blocks of a file stay where they are, so that quads are made as the file has them.
        if container_of(&request.out) == Container::Gguf {
            formats.quads = QuadOrder::Stride16;
        }
        formats
    }
}

impl Report {
    fn nothing(tokens: usize, held_out: usize, precision: MatmulPrecision) -> Self {
        Self {
            tokens,
            held_out,
            matmul_arithmetic: precision.arithmetic(),
            mixture: None,
            blocks: Vec::new(),
            adaptations: Vec::new(),
            original_perplexity: f64::NAN,
            rounded: None,
            tuning: Vec::new(),
            tuned: None,
            training: Vec::new(),
            trained: None,
            written: None,
            seconds: 0.0,
        }
    }
}

/// Sensitivities of all matrices, from their file or measured and kept.
fn sensitivities(
    request: &Request,
    checkpoint: &Checkpoint,
    arch: &ArchConfig,
    text: &Text,
    settings: &serde_json::Value,
    progress: &dyn Progress,
) -> Result<Losses> {
    let mut own = sensitivity::settings(request.sensitivity_tokens, &request.rounding);
    for field in ["model", "text", "tokens", "length"] {
        own[field] = settings[field].clone();
    }
    let path = request.sensitivity.clone().unwrap_or_else(|| request.work.join("sensitivity.json"));
    if let Some(found) = Losses::read(&path, &own)? {
        return Ok(found);
    }
    let damping = request.rounding.damping;
    let groups =
        sensitivity::measure(checkpoint, arch, text, request.sensitivity_tokens, damping, request.precision, progress)?;
    let losses = Losses { settings: own, groups };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(sherry::Error::io(parent, "create"))?;
    }
    losses.write(&path)?;
    // As they are read again, so that the recipe is the same whoever measured.
    Ok(Losses::read(&path, &losses.settings)?.unwrap_or(losses))
}

/// Rounds block after block and returns the original's hidden states after the last norm, on the text held out.
fn round_blocks(
    request: &Request,
    model: Model<'_>,
    work: &mut Work,
    (text, held_out): (&Text, &Text),
    progress: &dyn Progress,
    event: &mut impl FnMut(Event<'_>),
) -> Result<Vec<f32>> {
    let Model { checkpoint, arch, .. } = model;
    let original = pretrained::tensor(checkpoint, Role::Embed, progress)?;
    let mut shards = shards_of([&original, &model.held(Role::Embed, progress)?], arch, text, held_out);
    drop(original);
    let adaptation = &request.adaptation;
    let mut rest = match adaptation.tokens {
        0 => None,
        _ => Some(Rest::new(checkpoint, arch, &shards, request.length, request.precision, progress)?),
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
        let formats = model.formats(index, request);
        let rounded = round_block(layer, &original, &mut shards, &request.rounding, &formats)?;
        let (mut block, mut report) = rounded.ok_or_else(|| {
            let problem = format!("its hidden states in block {index} are not finite, or weights too large for a type");
            Error::checkpoint(checkpoint.path(), problem)
        })?;
        if is_trained {
            let after = streams(&shards);
            let how = &request.reconstruction;
            let rounded = (&block, &formats);
            let (trained, drifts) = reconstruct(layer, &original, rounded, &before, &mut shards, how, request.seed)?;
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
    model: Model<'_>,
    work: &mut Work,
    texts: &Texts,
    hidden: &[f32],
    report: &mut Report,
    progress: &dyn Progress,
    event: &mut impl FnMut(Event<'_>),
) -> Result<()> {
    let Model { checkpoint, arch, .. } = model;
    let head = pretrained::tensor(checkpoint, if arch.tied { Role::Embed } else { Role::Head }, progress)?;
    let held_out = &texts.held_out;
    let side = Side { hidden, head: &head, width: arch.hidden };
    let own = loss::head_loss(side, None, &targets(held_out), &Mix::CROSS_ENTROPY, None, request.precision, progress)?;
    report.original_perplexity = Measured::of(own).perplexity;
    let mut student = Student::new(model, work, request.rounding.group, progress)?;
    let rounded = student.measure(held_out, side, request.precision, progress)?;
    event(Event::Rounded(rounded));
    report.rounded = Some(rounded);
    let mut fitted = rounded;
    let stages = [(request.tuning, &texts.tuning), (request.training, &texts.training)];
    let mut name = "tuned".to_owned();
    if stages.iter().any(|(stage, _)| stage.tokens > 0) {
        let teacher = Teacher::new(checkpoint, arch, progress)?;
        for (i, (stage, text)) in stages.iter().enumerate().filter(|(_, (stage, _))| stage.tokens > 0) {
            let Tuning { tokens, batch, rate, code_rate, residual } = *stage;
            if i == 1 {
                let formats = |index| model.formats(index, request);
                student.thaw(work, formats, progress)?;
            }
            let (lines, measured) = match i {
                0 => (&mut report.tuning, &mut report.tuned),
                _ => (&mut report.training, &mut report.trained),
            };
            let done = |line: &TuneReport| {
                event(Event::Tuned(line));
                lines.push(line.clone());
            };
            name += &format!("-{tokens}-{batch}-{rate}-{code_rate}-{residual}");
            let file = format!("{name}-{}.safetensors", request.seed);
            let seed = request.seed + i as u64;
            student.tune(text, &teacher, stage, seed, request.precision, (work, &file), progress, done)?;
            fitted = student.measure(held_out, side, request.precision, progress)?;
            *measured = Some(fitted);
        }
    }
    report.written = Some(output::write(request, model, &student, held_out, fitted.perplexity, progress)?);
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
    /// To train on: that and, where it takes more, further text.
    training: Text,
}

fn gather(request: &Request, checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<Texts> {
    let (length, seed) = (request.length, request.seed);
    let coder = Coder::of_checkpoint(checkpoint)?;
    let (tuning, training) = (request.tuning.tokens, request.training.tokens);
    // What tuning uses must not depend on whether more is trained on.
    let counts =
        [request.held_out, request.tokens, tuning, training.saturating_sub(tuning)].map(|tokens| tokens / length);
    let own_share = if request.data.is_empty() { 1.0 } else { request.own_text };
    let own = counts.map(|count| (count as f64 * own_share).round() as usize);
    let has_chat = own_text::has_chat(&checkpoint.tokenizer()?);
    let chats = own.map(|own| if has_chat { own / 2 } else { 0 });
    let files = request.data.len();
    let mut parts: [Vec<Text>; 4] = Default::default();
    for (i, file) in request.data.iter().enumerate() {
        let counts = [0, 1, 2, 3].map(|part| {
            let count = counts[part] - own[part];
            count / files + usize::from(i < count % files)
        });
        let sources = Sources::open(std::slice::from_ref(file), &request.text_field, progress)?;
        let (needed, more) = (counts[0] + counts[1], counts[2] + counts[3]);
        let text = text::draw(&sources, &coder, length, (needed, more), request.spaced_text, seed, progress)?;
        let mut sequences = text.tokens.chunks_exact(length);
        for (part, count) in parts.iter_mut().zip(counts) {
            let tokens = sequences.by_ref().take(count).flatten().copied().collect();
            part.push(Text { length, tokens });
        }
    }
    for style in [Style::Documents, Style::Conversations] {
        let mut start = 0;
        for (part, (own, chats)) in parts.iter_mut().zip(own.into_iter().zip(chats)) {
            let count = if style == Style::Conversations { chats } else { own - chats };
            let sequences = start..start + count;
            start += count;
            if count > 0 {
                part.push(own_text::kept(checkpoint, style, length, sequences, seed, &request.work, progress)?);
            }
        }
    }
    let shuffled = |parts: &[&[Text]]| {
        let sequences = parts.iter().copied().flatten().flat_map(|part| part.tokens.chunks_exact(length));
        Text::shuffled(sequences, length, seed)
    };
    let [held_out, fit, tuning, further] = &parts;
    let (fit, held_out) = (shuffled(&[fit]), shuffled(&[held_out]));
    // A file may have no text beyond what is fitted to.
    let or_fit = |text: Text| if text.tokens.is_empty() { fit.clone() } else { text };
    let (tuning, training) = (or_fit(shuffled(&[tuning])), or_fit(shuffled(&[tuning, further])));
    Ok(Texts { held_out, fit, tuning, training })
}

/// The original's embeddings of the text, cut into shards.
fn shards(
    checkpoint: &Checkpoint,
    arch: &ArchConfig,
    text: &Text,
    held_out: &Text,
    progress: &dyn Progress,
) -> Result<Vec<Shard>> {
    let table = pretrained::tensor(checkpoint, Role::Embed, progress)?;
    Ok(shards_of([&table, &table], arch, text, held_out))
}

/// The same with the table of embeddings of each stream.
fn shards_of(tables: [&[f32]; 2], arch: &ArchConfig, text: &Text, held_out: &Text) -> Vec<Shard> {
    let sums = 4 * arch.ffn.max(arch.hidden).pow(2);
    let most = (SUMS / sums.max(1)).clamp(2, SHARDS);
    let mut shards = Vec::new();
    for (text, is_held_out, most) in [(text, false, most), (held_out, true, 4)] {
        let per_shard = text.sequences().div_ceil(most).max(1);
        for tokens in text.tokens.chunks(per_shard * text.length) {
            let [original, quantized] = tables.map(|table| {
                let mut x = vec![0.0; tokens.len() * arch.hidden];
                crate::ops::embedding::forward(&mut x, table, tokens, arch.hidden);
                x.iter_mut().for_each(|x| *x *= arch.embed_scale);
                x
            });
            shards.push(Shard { held_out: is_held_out, quantized, original, inputs: Vec::new() });
        }
    }
    shards
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
