//! One block, quantized: what it consists of, and how it is rounded.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sherry::model::ArchConfig;

use super::moments::Moments;
use super::rounding::{Effort, Grid, Rounded, Shape, Sharing, output_error, round, stored_scale};
use super::stream::{BlockWeights, Drift, Layer, Shard};
use crate::error::Result;
use crate::methods::sparse_codes;

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

/// Steps of a latent weight from zero to the scale.
pub const LATENT: f32 = 64.0;

/// A quantized matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// Its dimensions and groups.
    pub shape: Shape,
    /// Twice the grid value of every weight.
    pub codes: Vec<i8>,
    /// Weights in units of the scale, times [`LATENT`], that decide 3:4-sparse codes; none of other grids.
    pub latents: Vec<i8>,
    /// f16 values, `rows x groups`.
    pub scales: Vec<f32>,
}

impl Quantized {
    /// The weights that it stands for.
    pub fn weights(&self) -> Vec<f32> {
        let groups = self.codes.chunks_exact(self.shape.group).zip(&self.scales);
        groups.flat_map(|(codes, scale)| codes.iter().map(move |code| scale * (0.5 * f32::from(*code)))).collect()
    }

    /// Takes trained scales and, where they were trained, codes from latent weights in units of the scale.
    pub(super) fn learn(&mut self, latents: Option<&[f32]>, scales: &[f32]) {
        if let Some(latents) = latents {
            self.codes = sparse_codes(latents).iter().map(|code| (2.0 * code) as i8).collect();
            self.latents = latents.iter().map(|x| (LATENT * x).round() as i8).collect();
        }
        self.scales = scales.iter().map(|scale| stored_scale(*scale)).collect();
    }

    /// Multiplies every row by a factor.
    fn scale_rows(&mut self, factors: &[f32]) {
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

/// Rounds the block `original`, of index `layer.index`, and takes the streams in `shards` through it. `None` when hidden
/// states are not finite.
///
/// # Errors
/// [`sherry::Error::Interrupted`]; the streams are then somewhere inside the block.
pub fn round_block(
    layer: Layer<'_>,
    original: &BlockWeights,
    shards: &mut [Shard],
    rounding: &Rounding,
) -> Result<Option<(QuantizedBlock, BlockReport)>> {
    let start = std::time::Instant::now();
    let arch = layer.arch;
    let (hidden, ffn) = (arch.hidden, arch.ffn);
    let mut now = original.clone();
    let mut maps = Vec::new();
    let mut importance = Vec::new();
    let mut fit = |name: &str, moments: Moments, w: &[f32], crossed: bool, sharing: Sharing| {
        importance.push(moments.importance());
        let cols = if crossed { hidden } else { w.len() / hidden };
        let shape = Shape { rows: w.len() / cols, cols, group: rounding.group.unwrap_or(cols) };
        let fit = moments.fit(w, crossed.then_some(w), rounding.damping)?;
        let Rounding { grid, effort, .. } = *rounding;
        let rounded = round(&fit.weights, &fit.hessian, &fit.factor, &sharing, grid, shape, effort);
        let latents = if grid == Grid::Sparse34 { rounded.latents(&fit.weights, shape) } else { Vec::new() };
        let whole = output_error(&fit.weights, &vec![0.0; w.len()], &fit.hessian, cols);
        let rounding_error = if whole > 0.0 { rounded.error / whole } else { 0.0 };
        maps.push(MapReport { map: name.to_owned(), rounding_error });
        Some((rounded, latents, shape))
    };

    let moments = sums(shards, |shard| Ok(layer.before_qkv(shard, original, &now)))?;
    let Some((qkv, latents, shape)) = fit("q,k,v", moments, &original.qkv, true, Sharing::none(hidden)) else {
        return Ok(None);
    };
    multiply(&mut now.attn_norm, &qkv.columns);
    now.qkv = qkv.weights(shape);
    let [q, k, v] = split(&qkv, &latents, shape, [arch.q_dim(), arch.kv_dim(), arch.kv_dim()]);

    let moments = sums(shards, |shard| layer.before_o(shard, original, &now))?;
    let sharing = Sharing::heads(arch.heads, arch.kv_heads, arch.head_dim);
    let Some((o, latents, shape)) = fit("o", moments, &original.o, false, sharing.clone()) else { return Ok(None) };
    now.o = with_columns(&o, shape);
    let mut v = v;
    v.scale_rows(&sharing.reduce(&o.columns));
    let [o] = split(&o, &latents, shape, [hidden]);
    shards.par_iter_mut().for_each(|shard| layer.after_o(shard, &now));

    let moments = sums(shards, |shard| Ok(layer.before_gate_up(shard, original, &now)))?;
    let Some((gate_up, latents, shape)) = fit("gate,up", moments, &original.gate_up, true, Sharing::none(hidden))
    else {
        return Ok(None);
    };
    multiply(&mut now.ffn_norm, &gate_up.columns);
    now.gate_up = gate_up.weights(shape);
    let [gate, mut up] = split(&gate_up, &latents, shape, [ffn, ffn]);

    let moments = sums(shards, |shard| Ok(layer.before_down(shard, original, &now)))?;
    let Some((down, latents, shape)) = fit("down", moments, &original.down, false, Sharing::none(ffn)) else {
        return Ok(None);
    };
    now.down = with_columns(&down, shape);
    up.scale_rows(&down.columns);
    let [down] = split(&down, &latents, shape, [hidden]);
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
    let linears = vec![q, k, v, o, gate, up, down];
    let block = QuantizedBlock { linears, attn_norm: now.attn_norm, ffn_norm: now.ffn_norm, importance };
    Ok(Some((block, report)))
}

/// The sum over all shards.
fn sums(
    shards: &mut [Shard],
    moments: impl Fn(&mut Shard) -> Result<Option<Moments>> + Send + Sync,
) -> Result<Moments> {
    let parts: Result<Vec<Option<Moments>>> = shards.par_iter_mut().map(moments).collect();
    Ok(Moments::finish(parts?.into_iter().flatten().collect()))
}

fn multiply(gains: &mut [f32], factors: &[f32]) {
    gains.iter_mut().zip(factors).for_each(|(gain, factor)| *gain *= factor);
}

/// The rounded weights with their column factors, for inputs that do not have these yet.
fn with_columns(rounded: &Rounded, shape: Shape) -> Vec<f32> {
    let mut weights = rounded.weights(shape);
    weights.chunks_exact_mut(shape.cols).for_each(|row| multiply(row, &rounded.columns));
    weights
}

/// The parts of a stacked matrix.
fn split<const N: usize>(rounded: &Rounded, latents: &[f32], shape: Shape, rows: [usize; N]) -> [Quantized; N] {
    let mut start = 0;
    rows.map(|rows| {
        let part = start..start + rows;
        start = part.end;
        let at = part.start * shape.cols..part.end * shape.cols;
        let values = &rounded.values[at.clone()];
        Quantized {
            shape: Shape { rows, ..shape },
            codes: values.iter().map(|value| (2.0 * value) as i8).collect(),
            latents: latents.get(at).unwrap_or_default().iter().map(|x| (LATENT * x).round() as i8).collect(),
            scales: rounded.scales[part.start * shape.groups()..part.end * shape.groups()].to_vec(),
        }
    })
}
