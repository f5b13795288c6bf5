//! One block, quantized: what it consists of, and how it is rounded.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sherry::model::ArchConfig;
use sherry_kernels::format::{PackedLayout, QuadOrder, ScaleGroup, TensorType, TernaryFormat};

use super::moments::{Fit, Moments};
use super::rounding::{
    Blocks, Effort, Factor, Grid, Rounded, Shape, Sharing, output_error, round, round_to_type, stored_scale,
};
use super::stream::{BlockWeights, Drift, Layer, Shard};
use crate::error::Result;
use crate::layout::Kind;

/// How weights are rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding {
    /// What weights may be.
    pub grid: Grid,
    /// Weights along a row that share a scale; `None`: the whole row.
    pub group: Option<usize>,
    /// What is added to the diagonal of second moments, in units of its mean.
    pub damping: f32,
    /// How much work to do.
    pub effort: Effort,
}

/// What a matrix is rounded to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    /// Values of a grid times scales.
    Grid(Grid),
    /// A float or block type of a file.
    Type(TensorType),
}

/// What the matrices of a block are rounded to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Formats {
    /// In the order of [`Kind::ALL`](crate::layout::Kind::ALL).
    pub of: [Format; 7],
    /// Which inputs form the quads of 3:4-sparse weights.
    pub quads: QuadOrder,
}

impl Formats {
    /// All alike, with contiguous quads.
    pub const fn all(grid: Grid) -> Self {
        Self { of: [Format::Grid(grid); 7], quads: QuadOrder::Contiguous }
    }
}

/// Steps of a latent weight from zero to the scale.
pub const LATENT: f32 = 64.0;

/// A quantized matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// Its dimensions and groups.
    pub shape: Shape,
    /// Twice the grid value of every weight.
    pub codes: Vec<i8>,
    /// Weights in units of the scale, times [`LATENT`], that decide codes; none of types whose codes are not chosen one by one.
    pub latents: Vec<i16>,
    /// f16 values, `rows x groups`; ones of blocks.
    pub scales: Vec<f32>,
    /// What a file of a float or block type holds, in place of codes and scales.
    pub blocks: Option<Blocks>,
}

impl Quantized {
    /// The weights that it stands for.
    pub fn weights(&self) -> Vec<f32> {
        if let Some(blocks) = &self.blocks {
            return blocks.weights(self.shape.cols);
        }
        let groups = self.codes.chunks_exact(self.shape.group).zip(&self.scales);
        groups.flat_map(|(codes, scale)| codes.iter().map(move |code| scale * (0.5 * f32::from(*code)))).collect()
    }

    /// Takes trained scales and, where they were trained, codes and latent weights.
    pub(super) fn learn(&mut self, codes: Option<(Vec<i8>, Vec<i16>)>, scales: &[f32]) {
        if let Some(codes) = codes {
            (self.codes, self.latents) = codes;
        }
        self.scales = scales.iter().map(|scale| stored_scale(*scale)).collect();
    }

    /// Multiplies every row by a factor.
    fn scale_rows(&mut self, factors: &[f32]) {
        if let Some(blocks) = &mut self.blocks {
            return blocks.scale_rows(factors);
        }
        for (scales, factor) in self.scales.chunks_exact_mut(self.shape.groups()).zip(factors) {
            scales.iter_mut().for_each(|scale| *scale = stored_scale(*scale * factor));
        }
    }
}

/// What rounding did to one linear layer, or to several that share their inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapReport {
    /// "q,k,v", "o", "gate,up" or "down".
    pub map: String,
    /// Squared error of the outputs on calibration text, relative to the outputs: of rounding alone.
    pub rounding_error: f64,
}

/// What rounding did to one block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockReport {
    /// Its index.
    pub block: usize,
    /// Its linear layers.
    pub maps: Vec<MapReport>,
    /// How far the streams are apart after the block, on text that it was fitted to.
    pub calibration_error: f64,
    /// The same on text that it has not seen.
    pub held_out_error: f64,
    /// Both after rounding alone, where the block was reconstructed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounded_errors: Option<[f64; 2]>,
    /// Wall-clock time.
    pub seconds: f64,
}

/// A block after rounding.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedBlock {
    /// Linear layers in the order of [`Kind::ALL`](crate::layout::Kind::ALL).
    pub linears: Vec<Quantized>,
    /// What the norm before attention multiplies by.
    pub attn_norm: Vec<f32>,
    /// What the norm before the feed-forward multiplies by.
    pub ffn_norm: Vec<f32>,
    /// Mean squares of the original's inputs of "q,k,v", "o", "gate,up" and "down".
    pub importance: [Vec<f32>; 4],
}

impl QuantizedBlock {
    /// The weights of a norm that multiplies by `gains`.
    pub fn norm_weights(&self, arch: &ArchConfig, gains: &[f32]) -> Vec<f32> {
        gains.iter().map(|gain| if arch.norm_plus_one { gain - 1.0 } else { *gain }).collect()
    }
}

/// What becomes of linear layers that share their inputs.
struct Map {
    linears: Vec<Quantized>,
    /// Of all of them, without the factors of the inputs.
    weights: Vec<f32>,
    /// A factor per input.
    columns: Vec<f32>,
    /// Squared error of the outputs.
    error: f64,
}

/// Rounds the stacked matrices of `fit`, of `rows` rows each, to `formats`. `None` when weights are beyond what a format holds.
fn round_map(
    fit: &Fit,
    cols: usize,
    sharing: &Sharing,
    rows: &[usize],
    formats: &[Format],
    quads: QuadOrder,
    rounding: &Rounding,
) -> Option<Map> {
    let alike = formats.iter().all(|format| *format == formats[0]);
    if let (true, Format::Grid(grid)) = (alike, formats[0]) {
        return Some(round_stack(fit, &fit.weights, cols, sharing, rows, grid, quads, rounding));
    }
    // Factors of inputs go into what makes the inputs, so that all or none of the matrices must have them.
    let without = Rounding { effort: Effort { column_fits: 0, ..rounding.effort }, ..*rounding };
    let mut map = Map { linears: Vec::new(), weights: Vec::new(), columns: vec![1.0; cols], error: 0.0 };
    let mut start = 0;
    for (&rows, &format) in rows.iter().zip(formats) {
        let w = &fit.weights[start * cols..][..rows * cols];
        start += rows;
        let part = match format {
            Format::Grid(grid) => round_stack(fit, w, cols, &Sharing::none(cols), &[rows], grid, quads, &without),
            Format::Type(ty) => {
                let (blocks, latents, error) = round_to_type(w, &fit.hessian, &fit.factor, ty, cols, without.effort)?;
                let shape = Shape { rows, cols, group: cols };
                let weights = blocks.weights(cols);
                let blocks = Some(blocks);
                let (latents, scales) = (kept(&latents), vec![1.0; rows]);
                let linear = Quantized { shape, codes: Vec::new(), latents, scales, blocks };
                Map { linears: vec![linear], weights, columns: Vec::new(), error }
            }
        };
        map.linears.extend(part.linears);
        map.weights.extend(part.weights);
        map.error += part.error;
    }
    Some(map)
}

/// The same where all have one grid.
#[allow(clippy::too_many_arguments)] // a matrix, its metric, and how it is rounded
fn round_stack(
    fit: &Fit,
    w: &[f32],
    cols: usize,
    sharing: &Sharing,
    rows: &[usize],
    grid: Grid,
    quads: QuadOrder,
    rounding: &Rounding,
) -> Map {
    let shape = Shape { rows: w.len() / cols, cols, group: rounding.group.unwrap_or(cols) };
    if grid == Grid::Sparse34 && quads == QuadOrder::Stride16 {
        // Inputs in the order in which neighbours form quads, and back.
        let (format, scale) = (TernaryFormat::Sherry, ScaleGroup::Row);
        let layout = PackedLayout { format, rows: shape.rows, cols, order: quads, scale };
        let order: Vec<usize> = (0..cols).map(|i| layout.input(i / 4, i % 4)).collect();
        let gathered = |row: &[f32]| order.iter().map(|&old| row[old]).collect::<Vec<f32>>();
        let w: Vec<f32> = w.chunks_exact(cols).flat_map(gathered).collect();
        let hessian: Vec<f32> = order.iter().flat_map(|&old| gathered(&fit.hessian[old * cols..][..cols])).collect();
        // Of the same matrix in another order, which is as definite.
        let factor = Factor::new(&hessian, cols).unwrap_or_else(|| fit.factor.clone());
        let sharing = sharing.reordered(&order);
        let mut rounded = round(&w, &hessian, &factor, &sharing, grid, shape, rounding.effort);
        let scattered = |row: &[f32]| {
            let mut out = vec![0.0; cols];
            order.iter().zip(row).for_each(|(&old, value)| out[old] = *value);
            out
        };
        let latents: Vec<f32> = rounded.latents(&w, grid, shape).chunks_exact(cols).flat_map(scattered).collect();
        rounded.values = rounded.values.chunks_exact(cols).flat_map(scattered).collect();
        rounded.columns = scattered(&rounded.columns);
        return Map::of(&rounded, &latents, shape, rows);
    }
    let rounded = round(w, &fit.hessian, &fit.factor, sharing, grid, shape, rounding.effort);
    Map::of(&rounded, &rounded.latents(w, grid, shape), shape, rows)
}

impl Map {
    fn of(rounded: &Rounded, latents: &[f32], shape: Shape, rows: &[usize]) -> Self {
        Self {
            linears: split(rounded, latents, shape, rows),
            weights: rounded.weights(shape),
            columns: rounded.columns.clone(),
            error: rounded.error,
        }
    }

    /// The weights for inputs that do not have their factors yet.
    fn with_columns(&self) -> Vec<f32> {
        let mut weights = self.weights.clone();
        weights.chunks_exact_mut(self.columns.len()).for_each(|row| multiply(row, &self.columns));
        weights
    }
}

/// Rounds the block `original`, of index `layer.index`, and takes the streams in `shards` through it. `None` when hidden
/// states are not finite, or weights beyond what their format holds.
///
/// # Errors
/// [`sherry::Error::Interrupted`]; the streams are then somewhere inside the block.
pub fn round_block(
    layer: Layer<'_>,
    original: &BlockWeights,
    shards: &mut [Shard],
    rounding: &Rounding,
    formats: &Formats,
) -> Result<Option<(QuantizedBlock, BlockReport)>> {
    let start = std::time::Instant::now();
    let arch = layer.arch;
    let (hidden, ffn) = (arch.hidden, arch.ffn);
    let mut now = original.clone();
    let mut maps = Vec::new();
    let mut importance = Vec::new();
    let mut fit = |name: &str, moments: Moments, w: &[f32], crossed: bool, sharing: &Sharing, kinds: &[Kind]| {
        importance.push(moments.importance());
        let cols = if crossed { hidden } else { w.len() / hidden };
        let fit = moments.fit(w, crossed.then_some(w), rounding.damping)?;
        let rows: Vec<usize> = kinds.iter().map(|kind| kind.shape(arch)[0]).collect();
        let of: Vec<Format> = kinds.iter().map(|kind| formats.of[*kind as usize]).collect();
        let map = round_map(&fit, cols, sharing, &rows, &of, formats.quads, rounding)?;
        let whole = output_error(&fit.weights, &vec![0.0; w.len()], &fit.hessian, cols);
        let rounding_error = if whole > 0.0 { map.error / whole } else { 0.0 };
        maps.push(MapReport { map: name.to_owned(), rounding_error });
        Some(map)
    };
    let mut linears = Vec::with_capacity(7);

    let moments = sums(shards, |shard| Ok(layer.before_qkv(shard, original, &now)))?;
    let kinds = [Kind::Q, Kind::K, Kind::V];
    let Some(qkv) = fit("q,k,v", moments, &original.qkv, true, &Sharing::none(hidden), &kinds) else {
        return Ok(None);
    };
    multiply(&mut now.attn_norm, &qkv.columns);
    now.qkv = qkv.weights;
    linears.extend(qkv.linears);

    let moments = sums(shards, |shard| layer.before_o(shard, original, &now))?;
    let sharing = Sharing::heads(arch.heads, arch.kv_heads, arch.head_dim);
    let Some(o) = fit("o", moments, &original.o, false, &sharing, &[Kind::O]) else { return Ok(None) };
    now.o = o.with_columns();
    linears[Kind::V as usize].scale_rows(&sharing.reduce(&o.columns));
    linears.extend(o.linears);
    shards.par_iter_mut().for_each(|shard| layer.after_o(shard, &now));

    let moments = sums(shards, |shard| Ok(layer.before_gate_up(shard, original, &now)))?;
    let kinds = [Kind::Gate, Kind::Up];
    let Some(gate_up) = fit("gate,up", moments, &original.gate_up, true, &Sharing::none(hidden), &kinds) else {
        return Ok(None);
    };
    multiply(&mut now.ffn_norm, &gate_up.columns);
    now.gate_up = gate_up.weights;
    linears.extend(gate_up.linears);

    let moments = sums(shards, |shard| Ok(layer.before_down(shard, original, &now)))?;
    let Some(down) = fit("down", moments, &original.down, false, &Sharing::none(ffn), &[Kind::Down]) else {
        return Ok(None);
    };
    now.down = down.with_columns();
    linears[Kind::Up as usize].scale_rows(&down.columns);
    linears.extend(down.linears);
    let drifts: Vec<(bool, Drift)> =
        shards.par_iter_mut().map(|shard| (shard.held_out, layer.after_down(shard, &now))).collect();
    let mean = |held_out| {
        let parts = drifts.iter().filter(|(of, _)| *of == held_out);
        parts.fold(Drift::default(), |sum, (_, drift)| sum.plus(*drift)).mean()
    };
    let report = BlockReport {
        block: layer.index,
        maps,
        calibration_error: mean(false),
        held_out_error: mean(true),
        rounded_errors: None,
        seconds: start.elapsed().as_secs_f64(),
    };
    let importance = importance.try_into().unwrap_or_else(|_| unreachable!("four maps were fitted"));
    let block = QuantizedBlock { linears, attn_norm: now.attn_norm, ffn_norm: now.ffn_norm, importance };
    Ok(Some((block, report)))
}

/// The sum over all shards.
pub(super) fn sums(
    shards: &mut [Shard],
    moments: impl Fn(&mut Shard) -> Result<Option<Moments>> + Send + Sync,
) -> Result<Moments> {
    let parts: Result<Vec<Option<Moments>>> = shards.par_iter_mut().map(moments).collect();
    Ok(Moments::finish(parts?.into_iter().flatten().collect()))
}

fn multiply(gains: &mut [f32], factors: &[f32]) {
    gains.iter_mut().zip(factors).for_each(|(gain, factor)| *gain *= factor);
}

/// What is kept of latent weights.
pub(super) fn kept(latents: &[f32]) -> Vec<i16> {
    latents.iter().map(|x| (LATENT * x).round() as i16).collect()
}

/// The parts of a stacked matrix.
fn split(rounded: &Rounded, latents: &[f32], shape: Shape, rows: &[usize]) -> Vec<Quantized> {
    let mut start = 0;
    let part = |&rows: &usize| {
        let part = start..start + rows;
        start = part.end;
        let at = part.start * shape.cols..part.end * shape.cols;
        let values = &rounded.values[at.clone()];
        Quantized {
            shape: Shape { rows, ..shape },
            codes: values.iter().map(|value| (2.0 * value) as i8).collect(),
            latents: kept(&latents[at]),
            scales: rounded.scales[part.start * shape.groups()..part.end * shape.groups()].to_vec(),
            blocks: None,
        }
    };
    rows.iter().map(part).collect()
}
