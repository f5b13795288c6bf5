//! Rounding to the types of files, as the bytes that a file holds.
//!
//! Types with whole numbers of a range times a scale per block go through error feedback and coordinate descent like every
//! grid. Of the others the encoder chooses scales and levels of one block at a time; errors are passed on from block to
//! block.

use rayon::prelude::*;
use sherry_kernels::format::half::{f16_to_f32, f32_to_f16};
use sherry_kernels::format::{TensorType, ggml};
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use super::factor::Factor;
use super::{Effort, Grid, ROWS, Shape, Sharing, output_error, round};

/// A matrix as blocks of a type.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// The type.
    pub ty: TensorType,
    /// Row after row.
    pub bytes: Vec<u8>,
}

impl Blocks {
    /// The weights, of rows of `cols`.
    pub fn weights(&self, cols: usize) -> Vec<f32> {
        let row_bytes = self.ty.row_bytes(cols).unwrap_or_else(|| unreachable!("rows are whole blocks"));
        let mut out = vec![0.0; self.bytes.len() / row_bytes * cols];
        let rows = out.par_chunks_mut(cols).zip(self.bytes.par_chunks(row_bytes));
        rows.for_each(|(out, bytes)| ggml::dequantize(self.ty, bytes, out));
        out
    }

    /// Blocks of the uniform type `ty` ([`Grid::of_type`]) with these whole numbers, and a scale for each block.
    pub fn pack(ty: TensorType, values: &[f32], scales: &[f32]) -> Self {
        let mut bytes = vec![0; scales.len() * ty.block_bytes()];
        let blocks = bytes.par_chunks_mut(ty.block_bytes()).zip(values.par_chunks(ty.block_len()));
        blocks.zip(scales).for_each(|((out, values), scale)| {
            let levels: Vec<i8> = values.iter().map(|value| *value as i8).collect();
            ggml::pack_levels(ty, f32_to_f16(*scale), &levels, out);
        });
        Self { ty, bytes }
    }

    /// The scales of blocks of a uniform type, with which every block begins.
    pub fn scales(&self) -> Vec<f32> {
        let blocks = self.bytes.chunks_exact(self.ty.block_bytes());
        blocks.map(|block| f16_to_f32(u16::from_le_bytes([block[0], block[1]]))).collect()
    }

    /// Multiplies every row by a factor, as nearly as the scales of its blocks hold it.
    pub fn scale_rows(&mut self, factors: &[f32]) {
        let row_bytes = self.bytes.len() / factors.len();
        let rows = self.bytes.par_chunks_mut(row_bytes).zip(factors);
        rows.filter(|(_, factor)| **factor != 1.0).for_each(|(row, factor)| ggml::scale_blocks(self.ty, row, *factor));
    }
}

/// Rounds `w`, rows of `cols`, to `ty` for inputs of second moments `hessian`, whose factor is `factor`. Returns latent weights
/// in units of the scales, of types whose whole numbers are chosen, and the error of the outputs; `None` when a weight is beyond the
/// type.
///
/// # Panics
/// When rows are no whole blocks.
pub fn round_to_type(
    w: &[f32],
    hessian: &[f32],
    factor: &Factor,
    ty: TensorType,
    cols: usize,
    effort: Effort,
) -> Option<(Blocks, Vec<f32>, f64)> {
    match Grid::of_type(ty) {
        Some(grid) => {
            let shape = Shape { rows: w.len() / cols, cols, group: ty.block_len() };
            let effort = Effort { column_fits: 0, ..effort };
            let rounded = round(w, hessian, factor, &Sharing::none(cols), grid, shape, effort);
            let latents = rounded.latents(w, grid, shape);
            Some((Blocks::pack(ty, &rounded.values, &rounded.scales), latents, rounded.error))
        }
        None => {
            let blocks = encode(w, factor, ty, cols)?;
            let error = output_error(w, &blocks.weights(cols), hessian, cols);
            Some((blocks, Vec::new(), error))
        }
    }
}

/// Columns that are encoded before their errors reach the others.
const STEP: usize = 32;

fn encode(w: &[f32], factor: &Factor, ty: TensorType, cols: usize) -> Option<Blocks> {
    let row_bytes = ty.row_bytes(cols).unwrap_or_else(|| unreachable!("rows are whole blocks"));
    let mut bytes = vec![0; w.len() / cols * row_bytes];
    let step = if ty.is_float() { cols } else { STEP.max(ty.block_len()) };
    let (unit, _) = factor.unit();
    let good = bytes.par_chunks_mut(ROWS * row_bytes).zip(w.par_chunks(ROWS * cols)).map(|(bytes, w)| {
        let rows = w.len() / cols;
        let mut errors = vec![0.0f32; w.len()];
        let mut decoded = vec![0.0; step];
        for start in (0..cols).step_by(step) {
            let width = step.min(cols - start);
            let mut target = vec![0.0f32; rows * width];
            for (target, w) in target.chunks_exact_mut(width).zip(w.chunks_exact(cols)) {
                target.copy_from_slice(&w[start..start + width]);
            }
            if start > 0 {
                let (done, u) = (Mat::new(&errors, rows, start, cols), Mat::new(&unit[start..], start, width, cols));
                matmul(MatMut::new(&mut target, rows, width, width), Old::Add, 1.0, done, u, 1);
            }
            let at = start / ty.block_len() * ty.block_bytes();
            let len = width / ty.block_len() * ty.block_bytes();
            for (row, target) in target.chunks_exact(width).enumerate() {
                let out = &mut bytes[row * row_bytes + at..][..len];
                if ggml::quantize_nearest(ty, target, out).is_err() {
                    return false;
                }
                ggml::dequantize(ty, out, &mut decoded[..width]);
                let from = row * cols + start;
                for (i, decoded) in decoded[..width].iter().enumerate() {
                    errors[from + i] = w[from + i] - decoded;
                }
            }
        }
        true
    });
    good.all(|good| good).then_some(Blocks { ty, bytes })
}
