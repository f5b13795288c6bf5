//! What every type costs, matrix by matrix: how far the model's next-token distributions move when nothing else changes.
//!
//! Linear layers that share their inputs get one type together. Each such group of a block is rounded, alone, to the
//! smallest type that fits it, against the second moments of its inputs; the rest of the model runs from that block on, and
//! the divergence from the original is measured. Divergence is quadratic in small errors, so other types follow by the ratio
//! of the squared errors of the group's outputs, which some of its rows tell. Embedding and head are measured for each type.

use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sherry::Progress;
use sherry::io::{json, write_atomic};
use sherry::model::names::Role;
use sherry::model::{ArchConfig, Checkpoint, Frequencies};
use sherry_convert::Container;
use sherry_convert::recipe::{self, MatrixType};
use sherry_kernels::format::{TensorType, TernaryFormat, ggml};
use sherry_sgemm::MatmulPrecision;

use super::block::{Format, Rounding, sums};
use super::moments::{Fit, Moments};
use super::rounding::{Effort, Grid, Shape, Sharing, output_error, round, round_to_type};
use super::stream::{BlockWeights, Layer, Shard};
use super::text::Text;
use super::work::same_settings;
use super::{block_weights, shards};
use crate::error::{Error, Result};
use crate::layout::Kind;
use crate::linear::Pass;
use crate::loss::{self, Divergence, Mix, Side};
use crate::methods::Quantizer;
use crate::network::{Input, Network};
use crate::ops::rope::Rotation;
use crate::pretrained;

/// What one type costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Its name in recipes.
    #[serde(rename = "type")]
    pub ty: String,
    /// Divergence from the original, nats per token.
    pub loss: f64,
}

/// Matrices that get one type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Their names.
    pub tensors: Vec<String>,
    /// By rising size.
    pub costs: Vec<Cost>,
}

/// What was measured, and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Everything that it depends on.
    pub settings: serde_json::Value,
    /// Every matrix of the model is in one group.
    pub groups: Vec<Group>,
}

/// Tokens whose inputs are summed up, at most.
const MOMENTS: usize = 8192;
/// Rows of a group that tell the ratios of errors, at most.
const ROWS: usize = 128;
/// Of so many positions one is compared.
const STRIDE: usize = 2;
/// Less work than for a model that stays: what counts are ratios.
const EFFORT: Effort = Effort { sweeps: 1, column_fits: 0 };
const MIX: Mix = Mix { cross_entropy: 0.0, distillation: 1.0, divergence: Divergence::Forward, top_k: 0 };
/// The groups of a block.
pub const GROUPS: [&[Kind]; 4] = [&[Kind::Q, Kind::K, Kind::V], &[Kind::O], &[Kind::Gate, Kind::Up], &[Kind::Down]];

impl Losses {
    /// Reads the file `path`, if there is one, which must be of the same settings.
    ///
    /// # Errors
    /// [`Error::Changed`] naming the setting; what is wrong with the file.
    pub fn read(path: &Path, settings: &serde_json::Value) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let found = serde_json::from_value(json::read(path)?);
        let losses: Self =
            found.map_err(|error| Error::checkpoint(path, format!("holds no sensitivities: {error}")))?;
        same_settings(path, &losses.settings, settings)?;
        Ok(Some(losses))
    }

    /// Writes them to `path`.
    ///
    /// # Errors
    /// [`sherry::Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        Ok(write_atomic(path, text.as_bytes())?)
    }
}

/// The types that a matrix can have in some container, by rising size: those that are no larger than another that is as good.
pub(super) fn candidates(role: Role, arch: &ArchConfig) -> Vec<MatrixType> {
    let [rows, cols] = role.shape(arch)[..] else { return Vec::new() };
    let fits = |ty: &MatrixType| {
        let in_some =
            [Container::Folder, Container::Gguf].iter().any(|container| ty.bytes(rows, cols, *container).is_ok());
        let is_double = matches!(
            ty,
            MatrixType::Packed(TernaryFormat::Ternary2) | MatrixType::Dense(TensorType::BF16 | TensorType::F32)
        );
        in_some && !is_double && (role.is_linear() || ty.is_for_embeddings())
    };
    MatrixType::ALL.into_iter().filter(fits).collect()
}

impl From<MatrixType> for Format {
    fn from(ty: MatrixType) -> Self {
        match ty {
            MatrixType::Packed(TernaryFormat::Sherry) => Self::Grid(Grid::Sparse34),
            MatrixType::Packed(_) => Self::Grid(Grid::Ternary),
            MatrixType::Dense(ty) => Self::Type(ty),
        }
    }
}

/// The model, and what it makes of the text that is compared on.
struct Probe<'a> {
    arch: &'a ArchConfig,
    network: Network,
    params: Vec<f32>,
    /// The original's head, which stays when the parameters change.
    head: Vec<f32>,
    /// The original's final hidden states.
    goal: Vec<f32>,
    text: Text,
    precision: MatmulPrecision,
    progress: &'a dyn Progress,
}

impl Probe<'_> {
    /// Divergence from the original, nats per token, of the network as its parameters now are.
    fn divergence(&self, input: Input<'_>) -> Result<f64> {
        let pass = Pass { params: &self.params, lambda: 0.0, progress: self.progress };
        let mut space = self.network.forward_workspace(self.text.sequences(), self.text.length);
        space.set_precision(self.precision);
        let hidden = self.network.forward_from(pass, input, &mut space)?;
        self.compare(hidden)
    }

    fn compare(&self, hidden: &[f32]) -> Result<f64> {
        let width = self.arch.hidden;
        let some = |rows: &[f32]| rows.chunks_exact(width).step_by(STRIDE).flatten().copied().collect::<Vec<f32>>();
        let (hidden, goal) = (some(hidden), some(&self.goal));
        let student = self.network.side(&self.params, &hidden);
        let teacher = Side { hidden: &goal, head: &self.head, width };
        let targets = vec![0; hidden.len() / width];
        let sums = loss::head_loss(student, Some(teacher), &targets, &MIX, None, self.precision, self.progress)?;
        Ok(sums.divergence / sums.tokens.max(1) as f64)
    }

    /// Divergence with the parameters of `range` replaced by `values`, which it takes for a moment.
    fn with(&mut self, range: std::ops::Range<usize>, values: &[f32], input: Input<'_>) -> Result<f64> {
        let kept = self.params[range.clone()].to_vec();
        self.params[range.clone()].copy_from_slice(values);
        let found = self.divergence(input);
        self.params[range].copy_from_slice(&kept);
        found
    }
}

/// Measures the sensitivity of every matrix of `checkpoint`: on `tokens` tokens of `text`, with moments of some more.
///
/// # Errors
/// [`sherry::Error::Interrupted`]; hidden states that are not finite, naming the block.
pub fn measure(
    checkpoint: &Checkpoint,
    arch: &ArchConfig,
    text: &Text,
    tokens: usize,
    damping: f32,
    precision: MatmulPrecision,
    progress: &dyn Progress,
) -> Result<Vec<Group>> {
    let length = text.length;
    let first = |tokens: usize| {
        let sequences = (tokens / length).clamp(1, text.sequences());
        Text { length, tokens: text.tokens[..sequences * length].to_vec() }
    };
    let text = first(tokens);
    let nothing = Text { length, tokens: Vec::new() };
    let mut shards = shards(checkpoint, arch, &first(MOMENTS.max(tokens)), &nothing, progress)?;
    let network = Network::new(arch.clone(), Quantizer::FULL);
    let params = pretrained::parameters(checkpoint, &network.layout, &network.quantizer, progress)?;
    let head = params[network.layout.head.clone()].to_vec();
    let mut probe = Probe { arch, network, params, head, goal: Vec::new(), text, precision, progress };
    let mut space = probe.network.forward_workspace(probe.text.sequences(), length);
    space.set_precision(precision);
    let pass = Pass { params: &probe.params, lambda: 0.0, progress };
    probe.goal = probe.network.forward(pass, &probe.text.tokens, &mut space)?.to_vec();
    drop(space);

    progress.start("measure sensitivity", (GROUPS.len() * arch.layers + 1) as u64);
    let mut groups = embeddings(&mut probe)?;
    progress.advance(1);
    let frequencies = Frequencies::new(arch);
    let rotation = |sliding| Rotation::new(frequencies.of(sliding), length, arch.rope.layout);
    let rotations = [rotation(false), rotation(true)];
    for index in 0..arch.layers {
        let original = block_weights(arch, |part| pretrained::tensor(checkpoint, Role::Layer(index, part), progress))?;
        let layer = Layer { arch, index, rotations: &rotations, length, progress };
        let wanted = probe.text.tokens.len() * arch.hidden;
        let before: Vec<f32> = shards.iter().flat_map(|shard| &shard.original).take(wanted).copied().collect();
        for kinds in GROUPS {
            let (moments, w, crossed) = moments(layer, &original, &mut shards, kinds[0])?;
            let fit = moments.fit(w, crossed.then_some(w), damping).ok_or_else(|| {
                Error::checkpoint(checkpoint.path(), format!("its hidden states in block {index} are not finite"))
            })?;
            groups.push(group(&mut probe, index, kinds, &fit, &before)?);
            progress.advance(1);
        }
        shards.par_iter_mut().for_each(|shard| {
            layer.after_down(shard, &original);
        });
    }
    progress.finish();
    Ok(groups)
}

/// Second moments of the inputs of a group of the original model, its weights, and whether the moments are crossed with the
/// inputs. The streams go on to where they are made.
fn moments<'w>(
    layer: Layer<'_>,
    original: &'w BlockWeights,
    shards: &mut [Shard],
    first: Kind,
) -> Result<(Moments, &'w [f32], bool)> {
    Ok(match first {
        Kind::Q => (sums(shards, |shard| Ok(layer.before_qkv(shard, original, original)))?, &original.qkv, true),
        Kind::O => (sums(shards, |shard| layer.before_o(shard, original, original))?, &original.o, false),
        Kind::Gate => {
            shards.par_iter_mut().for_each(|shard| layer.after_o(shard, original));
            (sums(shards, |shard| Ok(layer.before_gate_up(shard, original, original)))?, &original.gate_up, true)
        }
        _ => (sums(shards, |shard| Ok(layer.before_down(shard, original, original)))?, &original.down, false),
    })
}

/// Rounds `w` for the inputs of `fit`: the weights, and the squared error of the outputs.
fn rounded(w: &[f32], fit: &Fit, cols: usize, ty: MatrixType) -> Option<(Vec<f32>, f64)> {
    match Format::from(ty) {
        Format::Grid(grid) => {
            let shape = Shape { rows: w.len() / cols, cols, group: cols };
            let rounded = round(w, &fit.hessian, &fit.factor, &Sharing::none(cols), grid, shape, EFFORT);
            Some((rounded.weights(shape), rounded.error))
        }
        Format::Type(ty) => {
            let (blocks, _, error) = round_to_type(w, &fit.hessian, &fit.factor, ty, cols, EFFORT)?;
            Some((blocks.weights(cols), error))
        }
    }
}

/// What the types of one group cost.
fn group(probe: &mut Probe<'_>, index: usize, kinds: &[Kind], fit: &Fit, before: &[f32]) -> Result<Group> {
    let role = |kind: &Kind| Role::Layer(index, kind.part());
    let tensors = kinds.iter().map(|kind| recipe::display(probe.arch, role(kind))).collect();
    let [_, cols] = kinds[0].shape(probe.arch);
    let rows = fit.weights.len() / cols;
    let some: Vec<f32> = fit.weights.chunks_exact(cols).step_by(rows.div_ceil(ROWS)).flatten().copied().collect();
    let whole = output_error(&fit.weights, &vec![0.0; fit.weights.len()], &fit.hessian, cols);
    let mut costs = Vec::new();
    let mut reference: Option<(f64, f64)> = None;
    for ty in candidates(role(&kinds[0]), probe.arch) {
        // A type that cannot hold the weights is no candidate.
        let Some((_, error)) = rounded(&some, fit, cols, ty) else { continue };
        let (measured, of) = match reference {
            Some(reference) => reference,
            None => {
                let Some((weights, _)) = rounded(&fit.weights, fit, cols, ty) else { continue };
                let matrix = |kind: Kind| probe.network.layout.blocks[index].linears[kind as usize];
                let start = matrix(kinds[0]).weights;
                let range = start..start + weights.len();
                let input = Input::Stream(index, before);
                let measured = if whole > 0.0 { probe.with(range, &weights, input)? } else { 0.0 };
                *reference.insert((measured, error))
            }
        };
        let share = if of > 0.0 { (error / of).max(0.0) } else { 0.0 };
        costs.push(Cost { ty: ty.to_string(), loss: measured * share });
    }
    Ok(Group { tensors, costs })
}

/// What the types of embedding and head cost: together where they are one matrix.
fn embeddings(probe: &mut Probe<'_>) -> Result<Vec<Group>> {
    let tokens = probe.text.tokens.clone();
    let mut groups = Vec::new();
    for role in recipe::matrices(probe.arch).filter(|role| role.is_embedding()).collect::<Vec<_>>() {
        let layout = &probe.network.layout;
        let range = if role == Role::Embed { layout.embedding.clone() } else { layout.head.clone() };
        let mut costs = Vec::new();
        for ty in candidates(role, probe.arch) {
            let MatrixType::Dense(dense) = ty else { continue };
            let Some(values) = nearest(&probe.params[range.clone()], dense, probe.arch.hidden) else { continue };
            let loss = probe.with(range.clone(), &values, Input::Tokens(&tokens))?;
            costs.push(Cost { ty: ty.to_string(), loss });
        }
        groups.push(Group { tensors: vec![recipe::display(probe.arch, role)], costs });
    }
    Ok(groups)
}

/// What a file of type `ty` holds of `values`; `None` where it cannot.
pub(super) fn nearest(values: &[f32], ty: TensorType, cols: usize) -> Option<Vec<f32>> {
    let row_bytes = ty.row_bytes(cols)?;
    let mut out = vec![0.0; values.len()];
    let good = out.par_chunks_mut(cols).zip(values.par_chunks(cols)).map(|(out, values)| {
        let mut bytes = vec![0; row_bytes];
        let encoded = ggml::quantize_nearest(ty, values, &mut bytes);
        ggml::dequantize(ty, &bytes, out);
        encoded.is_ok()
    });
    good.all(|good| good).then_some(out)
}

/// What the sensitivities depend on besides the text and the model.
pub fn settings(tokens: usize, rounding: &Rounding) -> serde_json::Value {
    serde_json::json!({ "sensitivity_tokens": tokens, "sensitivity_damping": rounding.damping })
}
