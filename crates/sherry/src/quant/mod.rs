//! Quantization: dense weights in, packed ternary weights and a report out.
//!
//! A pure function of the weights: the same input gives the same bytes for any thread count and on any machine.

mod pack;
mod report;
mod scale;
mod sparse34;
mod ternary;
#[cfg(test)]
mod test_data;
#[cfg(test)]
mod tests;

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;
use sherry_kernels::format::{PackedLayout, PackedRows, QuadOrder, ScaleGroup, TernaryFormat};

use pack::pack_row;
use report::Sums;
pub use report::{GroupError, TensorReport};
use scale::ScaleOverflow;

use crate::{Error, Result};

/// How weights become -1, 0 and +1 times a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Projection {
    /// Sherry's 3:4-sparse projection, the only one that [`TernaryFormat::Sherry`] can hold.
    SparseAbsMean,
    /// BitNet b1.58: round to the nearest multiple of the mean magnitude.
    AbsMean,
    /// Like `AbsMean` with the median magnitude.
    AbsMedian,
    /// Ternary weight networks: threshold 0.75 of the mean magnitude, scale = mean of the kept.
    Twn,
}

/// What to make of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantSpec {
    /// How codes hold weights.
    pub format: TernaryFormat,
    /// Which inputs form a quad; `Contiguous` except for Sherry.
    pub order: QuadOrder,
    /// Which weights share a scale.
    pub scale: ScaleGroup,
    /// How weights become ternary.
    pub projection: Projection,
}

impl QuantSpec {
    /// Sherry as in the paper: contiguous quads, Sparse-AbsMean.
    pub const fn sherry(scale: ScaleGroup) -> Self {
        Self {
            format: TernaryFormat::Sherry,
            order: QuadOrder::Contiguous,
            scale,
            projection: Projection::SparseAbsMean,
        }
    }

    /// Why a matrix of `cols` inputs cannot be quantized this way; `None` when it can.
    pub fn problem(&self, cols: usize) -> Option<String> {
        if (self.format == TernaryFormat::Sherry) != (self.projection == Projection::SparseAbsMean) {
            return Some(format!("{} does not go with the projection {:?}", self.format, self.projection));
        }
        layout_problem(self.format, self.order, self.scale, cols)
    }
}

/// Why no packed tensor of `cols` inputs can have this layout; `None` when it can.
pub(crate) fn layout_problem(
    format: TernaryFormat,
    order: QuadOrder,
    scale: ScaleGroup,
    cols: usize,
) -> Option<String> {
    if cols == 0 {
        return Some("rows of no weights".to_owned());
    }
    if let ScaleGroup::Group(size) = scale {
        if ![32, 64, 128, 256].contains(&size) {
            return Some(format!("scale groups of {size} weights; only 32, 64, 128 and 256 are possible"));
        }
        if format == TernaryFormat::Ternary167 {
            return Some(
                "scale groups with ternary-1.67: its triples would straddle them; use one scale per row".to_owned(),
            );
        }
        if order == QuadOrder::Stride16 && size < 64 {
            return Some("scale groups of 32 weights with stride-16 quads, which span 64; use 64 or more".to_owned());
        }
    }
    if format != TernaryFormat::Sherry && order != QuadOrder::Contiguous {
        return Some(format!("stride-16 quads with {format}, which has no quads"));
    }
    let multiple = match (format, order) {
        (TernaryFormat::Sherry, QuadOrder::Contiguous) => 4,
        (TernaryFormat::Sherry, QuadOrder::Stride16) => 64,
        _ => 1,
    };
    (!cols.is_multiple_of(multiple)).then(|| format!("{cols} inputs are not a multiple of {multiple}"))
}

/// Rows that one task quantizes. Fixed, since the report's sums are merged task by task.
const ROWS_PER_TASK: usize = 16;

/// Quantizes the matrix `values`, row-major, `cols` inputs per row; see [`quantize_rows`].
///
/// # Errors
/// As [`quantize_rows`], or [`Error::Invalid`] when `values` is not a whole number of rows.
pub fn quantize_matrix(
    (path, name): (&Path, &str),
    values: &[f32],
    cols: usize,
    spec: &QuantSpec,
    importance: Option<&[f32]>,
) -> Result<(PackedRows, TensorReport)> {
    let rows = values.len().checked_div(cols).unwrap_or(0);
    if rows.checked_mul(cols) != Some(values.len()) {
        return Err(Error::Invalid(format!("tensor '{name}': {} weights are no rows of {cols}", values.len())));
    }
    let fill = |row: usize, out: &mut [f32]| out.copy_from_slice(&values[row * cols..(row + 1) * cols]);
    quantize_rows((path, name), (rows, cols), fill, spec, importance)
}

/// Quantizes the tensor `name` of the file `path`, `rows` x `cols`, whose row `r` is written by `fill(r, out)` as f32.
/// Runs on the current rayon pool.
///
/// `importance`, one number >= 0 per input, makes the 3:4-sparse projection minimise `sum h (w - q)^2`.
///
/// # Errors
/// - [`Error::Malformed`], naming file and tensor: a weight is NaN or infinite, or a scale exceeds f16.
/// - [`Error::Invalid`]: the matrix is empty or does not fit the spec ([`QuantSpec::problem`]), or the importance has the
///   wrong length, is negative or not finite, or is given for a dense projection.
pub fn quantize_rows(
    (path, name): (&Path, &str),
    (rows, cols): (usize, usize),
    fill: impl Fn(usize, &mut [f32]) + Sync,
    spec: &QuantSpec,
    importance: Option<&[f32]>,
) -> Result<(PackedRows, TensorReport)> {
    let invalid = |problem: String| Error::Invalid(format!("tensor '{name}': cannot quantize: {problem}"));
    if rows == 0 {
        return Err(invalid("it has no rows".to_owned()));
    }
    if let Some(problem) = spec.problem(cols) {
        return Err(invalid(problem));
    }
    if let Some(problem) = importance.and_then(|importance| importance_problem(importance, cols, spec.projection)) {
        return Err(invalid(problem));
    }
    let importance = importance.map(|importance| in_quad_order(importance, spec.order));
    let layout = PackedLayout { format: spec.format, rows, cols, order: spec.order, scale: spec.scale };
    let (row_bytes, per_row) = (spec.format.row_bytes(cols), spec.scale.per_row(cols));
    let (Some(code_bytes), Some(scale_count)) = (row_bytes.checked_mul(rows), per_row.checked_mul(rows)) else {
        return Err(invalid(format!("{rows} x {cols} weights do not fit into memory")));
    };
    let mut codes = vec![0u8; code_bytes];
    let mut scales = vec![0u16; scale_count];

    let tasks = codes.par_chunks_mut(row_bytes * ROWS_PER_TASK).zip(scales.par_chunks_mut(per_row * ROWS_PER_TASK));
    let results: Vec<Result<Sums, Flaw>> = tasks
        .enumerate()
        .map(|(task, (codes, scales))| {
            let mut sums = Sums::default();
            let mut scratch = Scratch { row: vec![0.0; cols], ternary: vec![0; cols] };
            let packed = codes.chunks_mut(row_bytes).zip(scales.chunks_mut(per_row));
            for (row, (codes, scales)) in (task * ROWS_PER_TASK..).zip(packed) {
                fill(row, &mut scratch.row);
                quantize_row(row, &mut scratch, importance.as_deref(), spec, scales, &mut sums)?;
                pack_row(spec.format, &scratch.ternary, codes, &mut sums);
            }
            Ok(sums)
        })
        .collect();
    let mut sums = Sums::default();
    for result in results {
        // In order, so that the message names the first flaw whichever thread met one.
        sums.merge(&result.map_err(|flaw| Error::malformed(path, format!("tensor '{name}'"), flaw.to_string()))?);
    }

    let weights = rows as f64 * cols as f64;
    let mut report = TensorReport {
        tensor: name.to_owned(),
        rows,
        cols,
        format: spec.format.to_string(),
        projection: spec.projection,
        group_size: match spec.scale {
            ScaleGroup::Row => None,
            ScaleGroup::Group(size) => Some(size),
        },
        code_bits_per_weight: 8.0 * code_bytes as f64 / weights,
        scale_bits_per_weight: 16.0 * scale_count as f64 / weights,
        relative_squared_error: 0.0,
        relative_error: 0.0,
        weighted_relative_squared_error: None,
        cosine: 0.0,
        sqnr_db: None,
        share_minus: 0.0,
        share_zero: 0.0,
        share_plus: 0.0,
        code_histogram: (spec.format != TernaryFormat::Ternary2).then(Vec::new),
        worst_group: None,
    };
    sums.finish(&mut report, importance.is_some());
    Ok((PackedRows { layout, codes, scales }, report))
}

/// Why `importance` cannot be used; `None` when it can.
fn importance_problem(importance: &[f32], cols: usize, projection: Projection) -> Option<String> {
    if projection != Projection::SparseAbsMean {
        return Some(format!("the projection {projection:?} knows no importance"));
    }
    if importance.len() != cols {
        return Some(format!("importance of {} inputs for {cols}", importance.len()));
    }
    let bad = importance.iter().position(|h| !(h.is_finite() && *h >= 0.0))?;
    Some(format!("importance of input {bad} is {}", importance[bad]))
}

/// What is wrong with the weights.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Flaw {
    #[error("the weight at row {row}, column {col} is {value}")]
    NotFinite { row: usize, col: usize, value: f32 },
    #[error("the scale {scale:e} of row {row} is beyond f16 (65504)")]
    Scale { row: usize, scale: f64 },
}

/// Buffers of one task.
struct Scratch {
    /// One row of weights.
    row: Vec<f32>,
    /// Its projection, in quad order.
    ternary: Vec<i8>,
}

/// Projects `scratch.row` to `scratch.ternary` (in quad order) and `scales`.
fn quantize_row(
    row: usize,
    scratch: &mut Scratch,
    importance: Option<&[f32]>,
    spec: &QuantSpec,
    scales: &mut [u16],
    sums: &mut Sums,
) -> Result<(), Flaw> {
    if let Some(col) = scratch.row.iter().position(|value| !value.is_finite()) {
        return Err(Flaw::NotFinite { row, col, value: scratch.row[col] });
    }
    if spec.order == QuadOrder::Stride16 {
        scratch.row = in_quad_order(&scratch.row, spec.order);
    }
    let size = match spec.scale {
        ScaleGroup::Row => scratch.row.len(),
        ScaleGroup::Group(size) => size,
    };
    let groups = scratch.row.chunks(size).zip(scratch.ternary.chunks_mut(size)).zip(scales);
    for (group, ((values, ternary), scale)) in groups.enumerate() {
        let importance = importance.map(|importance| &importance[group * size..][..values.len()]);
        let bits = match (spec.projection, importance) {
            (Projection::SparseAbsMean, None) => sparse34::project(values, ternary),
            (Projection::SparseAbsMean, Some(importance)) => sparse34::project_weighted(values, importance, ternary),
            (Projection::AbsMean, _) => ternary::abs_mean(values, ternary),
            (Projection::AbsMedian, _) => ternary::abs_median(values, ternary),
            (Projection::Twn, _) => ternary::twn(values, ternary),
        };
        *scale = bits.map_err(|ScaleOverflow(scale)| Flaw::Scale { row, scale })?;
        sums.add_group((row, group), values, importance, ternary, scale::widen(*scale));
    }
    Ok(())
}

/// The numbers of one row, permuted so that four neighbours form a quad. A scale group of 64 or more stays together.
fn in_quad_order(row: &[f32], order: QuadOrder) -> Vec<f32> {
    match order {
        QuadOrder::Contiguous => row.to_vec(),
        QuadOrder::Stride16 => {
            let chunks = row.as_chunks::<64>().0;
            chunks.iter().flat_map(|chunk| (0..64).map(|j| chunk[j / 4 + 16 * (j % 4)])).collect()
        }
    }
}
