//! Quantization: dense weights in, packed ternary weights and a report out.
//!
//! A pure function of the weights: the same input gives the same bytes for any thread count and on any machine.
//!
//! ```
//! use sherry_convert::quant::{QuantSpec, quantize_matrix};
//! use sherry_kernels::format::ScaleGroup;
//!
//! let weights: Vec<f32> = (0..64 * 128).map(|i| (i as f32 * 0.7).sin()).collect();
//! let place = ("memory".as_ref(), "weights"); // for messages
//! let (packed, report) = quantize_matrix(place, &weights, 128, &QuantSpec::sherry(ScaleGroup::Row), None)?;
//! assert_eq!(packed.codes.len(), 64 * 128 * 5 / 4 / 8); // 1.25 bits a weight
//! assert!(report.cosine > 0.8);
//! # Ok::<(), sherry::Error>(())
//! ```

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
use sherry_kernels::format::{PackedError, PackedLayout, PackedRows, QuadOrder, ScaleGroup, TernaryFormat, read_code};

use report::Sums;
pub use report::{GroupError, TensorReport};
use scale::ScaleOverflow;

use sherry::{Error, Result};

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
    /// None: the weights are -1, 0 and +1 times an f16 scale already and are kept exactly, or refused.
    Exact,
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

    /// The layout of a tensor of `rows` x `cols` weights.
    ///
    /// # Errors
    /// Why there is none: the format cannot hold what the projection makes, or [`PackedLayout::check`] fails.
    pub fn layout(&self, rows: usize, cols: usize) -> Result<PackedLayout, String> {
        let sparse = self.projection == Projection::SparseAbsMean;
        let binary = self.format == TernaryFormat::Binary; // no projection makes it
        if self.projection != Projection::Exact && (binary || (self.format == TernaryFormat::Sherry) != sparse) {
            return Err(format!("{} does not go with the projection {:?}", self.format, self.projection));
        }
        let layout = PackedLayout { format: self.format, rows, cols, order: self.order, scale: self.scale };
        layout.check().map_err(|problem| problem.to_string())?;
        Ok(layout)
    }
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
/// - [`Error::Malformed`], naming file and tensor: a weight is NaN or infinite, a scale exceeds f16, or
///   [`Projection::Exact`] cannot be.
/// - [`Error::Invalid`]: the matrix is empty or does not fit the spec ([`QuantSpec::layout`]), or the importance has the
///   wrong length, is negative or not finite, or is given for a dense projection.
pub fn quantize_rows(
    (path, name): (&Path, &str),
    (rows, cols): (usize, usize),
    fill: impl Fn(usize, &mut [f32]) + Sync,
    spec: &QuantSpec,
    importance: Option<&[f32]>,
) -> Result<(PackedRows, TensorReport)> {
    let invalid = |problem: String| Error::Invalid(format!("tensor '{name}': cannot quantize: {problem}"));
    let layout = spec.layout(rows, cols).map_err(invalid)?;
    if let Some(problem) = importance.and_then(|importance| importance_problem(importance, cols, spec.projection)) {
        return Err(invalid(problem));
    }
    let importance = importance.map(|importance| in_quad_order(importance, spec.order));
    let (row_bytes, per_row) = (layout.row_bytes(), layout.row_scales());
    let mut codes = vec![0u8; rows * row_bytes]; // no overflow: the layout is checked
    let mut scales = vec![0u16; rows * per_row];

    let tasks = codes.par_chunks_mut(row_bytes * ROWS_PER_TASK).zip(scales.par_chunks_mut(per_row * ROWS_PER_TASK));
    let results: Vec<Result<Sums, Problem>> = tasks
        .enumerate()
        .map(|(task, (codes, scales))| {
            let mut sums = Sums::default();
            let mut scratch = Scratch::new(cols);
            let packed = codes.chunks_mut(row_bytes).zip(scales.chunks_mut(per_row));
            for (row, (codes, scales)) in (task * ROWS_PER_TASK..).zip(packed) {
                fill(row, &mut scratch.row);
                quantize_row(row, &mut scratch, importance.as_deref(), spec, scales, &mut sums)?;
                layout.encode_row(scratch.in_natural_order(spec.order), codes)?;
                if has_codes(spec.format) {
                    (0..layout.row_codes()).for_each(|code| sums.add_code(read_code(codes, code)));
                }
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
            ScaleGroup::Tensor | ScaleGroup::Row => None,
            ScaleGroup::Group(size) => Some(size),
        },
        code_bits_per_weight: 8.0 * codes.len() as f64 / weights,
        scale_bits_per_weight: 16.0 * scales.len() as f64 / weights,
        relative_squared_error: 0.0,
        relative_error: 0.0,
        weighted_relative_squared_error: None,
        cosine: 0.0,
        sqnr_db: None,
        share_minus: 0.0,
        share_zero: 0.0,
        share_plus: 0.0,
        code_histogram: has_codes(spec.format).then(Vec::new),
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
enum Problem {
    #[error("the weight at row {row}, column {col} is {value}")]
    NotFinite { row: usize, col: usize, value: f32 },
    #[error("the scale {scale:e} of row {row} is beyond f16 (65504)")]
    Scale { row: usize, scale: f64 },
    #[error("{value} in scale group {group} of row {row} is not -1, 0 or +1 times one f16 scale of the group")]
    NotTernary { row: usize, group: usize, value: f32 },
    #[error("{0}")]
    Encode(#[from] PackedError),
}

/// Whether the format is made of 5-bit codes.
fn has_codes(format: TernaryFormat) -> bool {
    matches!(format, TernaryFormat::Sherry | TernaryFormat::Ternary167)
}

/// Buffers of one task, `cols` numbers each.
struct Scratch {
    /// One row of weights as given, then in quad order.
    row: Vec<f32>,
    /// Its projection in quad order.
    ternary: Vec<i8>,
    /// Its projection in the order of the inputs.
    natural: Vec<i8>,
}

impl Scratch {
    fn new(cols: usize) -> Self {
        Self { row: vec![0.0; cols], ternary: vec![0; cols], natural: vec![0; cols] }
    }

    fn in_natural_order(&mut self, order: QuadOrder) -> &[i8] {
        match order {
            QuadOrder::Contiguous => &self.ternary,
            QuadOrder::Stride16 => {
                let chunks = self.natural.as_chunks_mut::<64>().0.iter_mut().zip(self.ternary.as_chunks::<64>().0);
                for (natural, quads) in chunks {
                    (0..64).for_each(|j| natural[stride16(j)] = quads[j]);
                }
                &self.natural
            }
        }
    }
}

/// The input, within a chunk of 64, that comes `j`-th in stride-16 quad order.
const fn stride16(j: usize) -> usize {
    j / 4 + 16 * (j % 4)
}

/// Projects `scratch.row` to `scratch.ternary` (in quad order) and `scales`.
fn quantize_row(
    row: usize,
    scratch: &mut Scratch,
    importance: Option<&[f32]>,
    spec: &QuantSpec,
    scales: &mut [u16],
    sums: &mut Sums,
) -> Result<(), Problem> {
    if let Some(col) = scratch.row.iter().position(|value| !value.is_finite()) {
        return Err(Problem::NotFinite { row, col, value: scratch.row[col] });
    }
    if spec.order == QuadOrder::Stride16 {
        scratch.row = in_quad_order(&scratch.row, spec.order);
    }
    let size = match spec.scale {
        ScaleGroup::Tensor | ScaleGroup::Row => scratch.row.len(),
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
            (Projection::Exact, _) => {
                let exact = ternary::exact(values, ternary, spec.format == TernaryFormat::Sherry);
                Ok(exact.map_err(|at| Problem::NotTernary { row, group, value: values[at] })?)
            }
        };
        *scale = bits.map_err(|ScaleOverflow(scale)| Problem::Scale { row, scale })?;
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
            chunks.iter().flat_map(|chunk| (0..64).map(|j| chunk[stride16(j)])).collect()
        }
    }
}
