//! Latent weights: what decides codes where they are trained.
//!
//! A code is the value of its grid nearest to its latent weight, which is in units of the scale. The network multiplies by codes,
//! and their gradients go to the latent weights as if nothing were rounded (straight-through estimate); with the residual path of
//! Arenas (arXiv 2601.07892) it multiplies by codes plus a share of the latent weights.

use rayon::prelude::*;
use sherry_kernels::format::QuadOrder;

use super::block::{Format, LATENT, kept};
use super::rounding::{Blocks, Grid};
use crate::layout::{Learn, Tensor};
use crate::methods::MatrixPlace;

/// The latent weights of several matrices whose codes are parameters of a network, each in its place.
#[derive(Default)]
pub(super) struct Latents(Vec<Matrix>);

struct Matrix {
    place: MatrixPlace,
    grid: Grid,
    quads: QuadOrder,
    /// Of blocks: their scales, which stay, and weights that share one. The network has products of both in place of codes.
    blocks: Option<(Vec<f32>, usize)>,
    /// In units of the scale.
    values: Vec<f32>,
}

impl Latents {
    /// Adds those that rounding left of the matrix at `place`, [as they are kept](super::block::Quantized::latents), and the blocks
    /// that a file holds of it. Of a type whose codes are no whole numbers there are none: its weights stay.
    pub fn add(
        &mut self,
        place: MatrixPlace,
        format: Format,
        quads: QuadOrder,
        latents: &[i16],
        blocks: Option<&Blocks>,
    ) {
        let grid = match format {
            Format::Grid(grid) => Some(grid),
            Format::Type(ty) => Grid::of_type(ty),
        };
        if let Some(grid) = grid {
            let blocks = blocks.map(|blocks| (blocks.scales(), blocks.ty.block_len()));
            let values = latents.iter().map(|latent| f32::from(*latent) / LATENT).collect();
            self.0.push(Matrix { place, grid, quads, blocks, values });
        }
    }

    /// What gradients are wanted of.
    pub fn learn(&self) -> Learn {
        if self.0.is_empty() { Learn::ScalesAndNorms } else { Learn::Blocks }
    }

    /// Whether `tensor` is learned: scales, norms, and codes with latent weights.
    pub fn includes(&self, tensor: &Tensor) -> bool {
        Learn::ScalesAndNorms.includes(tensor.purpose) || self.of(tensor).is_some()
    }

    fn at(&self, weights: usize) -> Option<&Matrix> {
        self.0.iter().find(|matrix| matrix.place.weights == weights)
    }

    /// The latent weights behind the parameters of `tensor`.
    pub fn of(&self, tensor: &Tensor) -> Option<&[f32]> {
        self.at(tensor.offset).map(|matrix| &matrix.values[..])
    }

    /// The same, to be written.
    pub fn of_mut(&mut self, tensor: &Tensor) -> Option<&mut [f32]> {
        self.0.iter_mut().find(|matrix| matrix.place.weights == tensor.offset).map(|matrix| &mut matrix.values[..])
    }

    /// Puts the codes into their places among `params`, plus `lambda` times the latent weights.
    pub fn apply(&self, lambda: f32, params: &mut [f32]) {
        for matrix in &self.0 {
            matrix.codes(lambda, &mut params[matrix.place.weights..][..matrix.place.count()]);
        }
    }

    /// Lets `step` change the latent weights, which take the places of their codes meanwhile, given the gradients of
    /// [codes in use](Self::apply). Codes follow with the next `apply`.
    pub fn step(&mut self, params: &mut [f32], grads: &mut [f32], step: impl FnOnce(&mut [f32], &[f32])) {
        for matrix in &mut self.0 {
            let range = matrix.place.weights..matrix.place.weights + matrix.place.count();
            matrix.multiply(&mut grads[range.clone()]);
            params[range].swap_with_slice(&mut matrix.values);
        }
        step(params, grads);
        for matrix in &mut self.0 {
            let from = &params[matrix.place.weights..][..matrix.place.count()];
            let (low, high) = matrix.grid.bounds();
            // A code that has long been right can still change.
            let near = |(to, from): (&mut f32, &f32)| *to = from.clamp(low - 0.5, high + 0.5);
            matrix.values.par_iter_mut().zip(from).for_each(near);
        }
    }

    /// Makes latent weights what is kept of them.
    pub fn round(&mut self) {
        self.0.par_iter_mut().flat_map(|matrix| &mut matrix.values).for_each(|x| *x = (LATENT * *x).round() / LATENT);
    }

    /// Codes and latent weights of the matrix at `place`, as [`Quantized`](super::block::Quantized) keeps them.
    pub fn learned(&self, place: MatrixPlace) -> Option<(Vec<i8>, Vec<i16>)> {
        let matrix = self.at(place.weights)?;
        Some((matrix.nearest().iter().map(|code| (2.0 * code) as i8).collect(), kept(&matrix.values)))
    }

    /// Puts the codes of the matrix at `place` into the blocks of a file, whose scales stay.
    pub fn pack(&self, place: MatrixPlace, blocks: &mut Blocks) {
        let matrix = self.at(place.weights);
        if let Some((matrix, (scales, _))) = matrix.and_then(|matrix| Some((matrix, matrix.blocks.as_ref()?))) {
            *blocks = Blocks::pack(blocks.ty, &matrix.nearest(), scales);
        }
    }
}

impl Matrix {
    fn nearest(&self) -> Vec<f32> {
        let mut codes = vec![0.0; self.values.len()];
        self.write_nearest(&mut codes);
        codes
    }

    fn write_nearest(&self, out: &mut [f32]) {
        let rows = out.par_chunks_mut(self.place.cols).zip(self.values.par_chunks(self.place.cols));
        rows.for_each(|(out, values)| self.grid.nearest_row(values, self.quads, out));
    }

    fn codes(&self, lambda: f32, out: &mut [f32]) {
        self.write_nearest(out);
        if lambda != 0.0 {
            out.par_iter_mut().zip(&self.values).for_each(|(out, x)| *out += lambda * x);
        }
        self.multiply(out);
    }

    /// Multiplies by the scales of blocks, where the network has none.
    fn multiply(&self, out: &mut [f32]) {
        if let Some((scales, len)) = &self.blocks {
            out.par_chunks_mut(*len).zip(scales).for_each(|(out, scale)| out.iter_mut().for_each(|x| *x *= scale));
        }
    }
}

#[cfg(test)]
mod tests {
    use sherry_kernels::format::TensorType;

    use super::super::block::Quantized;
    use super::super::rounding::Shape;
    use super::*;

    const PLACE: MatrixPlace = MatrixPlace { weights: 3, rows: 2, cols: 128, learned: 0 };

    fn latents(format: Format, quads: QuadOrder) -> (Latents, Quantized) {
        let mut rng = crate::rng::Rng::new(9, 1);
        let (low, high) = match format {
            Format::Grid(grid) => grid.bounds(),
            Format::Type(ty) => Grid::of_type(ty).unwrap().bounds(),
        };
        let mut draw = |low: f32, high: f32| low + (high - low) * rng.uniform() as f32;
        let latents: Vec<i16> = (0..256).map(|_| (LATENT * draw(low, high)) as i16).collect();
        let blocks = match format {
            Format::Grid(_) => None,
            Format::Type(ty) => {
                let scales: Vec<f32> = (0..256 / ty.block_len()).map(|i| [0.5, -0.25, 2.0][i % 3]).collect();
                Some(Blocks::pack(ty, &[0.0; 256], &scales))
            }
        };
        let shape = Shape { rows: 2, cols: 128, group: 128 };
        let linear = Quantized { shape, codes: Vec::new(), latents, scales: vec![1.0; 2], blocks };
        let mut found = Latents::default();
        found.add(PLACE, format, quads, &linear.latents, linear.blocks.as_ref());
        (found, linear)
    }

    /// Codes are the nearest values, of blocks times their scales; what a file then holds are the same weights, and what is kept
    /// of the latent weights gives the same codes.
    #[test]
    fn codes_follow_latent_weights_as_they_are_written() {
        let formats = [
            Format::Grid(Grid::Sparse34),
            Format::Grid(Grid::Ternary),
            Format::Grid(Grid::Steps { bits: 2 }),
            Format::Type(TensorType::Q2_0),
            Format::Type(TensorType::SQ3_0),
            Format::Type(TensorType::Q4_0),
            Format::Type(TensorType::Q5_0),
        ];
        for (format, quads) in formats.iter().flat_map(|f| [QuadOrder::Contiguous, QuadOrder::Stride16].map(|q| (f, q)))
        {
            let (mut latents, mut linear) = latents(*format, quads);
            let mut params = vec![7.0; 3 + 256 + 1];
            latents.apply(0.0, &mut params);
            assert!(params[..3] == [7.0; 3] && params[259] == 7.0);
            let (codes, kept) = latents.learned(PLACE).unwrap();
            assert_eq!(kept, linear.latents);
            let scales = linear.blocks.as_ref().map(|blocks| (blocks.scales(), blocks.ty.block_len()));
            let scale = |i: usize| scales.as_ref().map_or(1.0, |(scales, len)| scales[i / len]);
            for (i, param) in params[3..259].iter().enumerate() {
                assert_eq!(*param, 0.5 * f32::from(codes[i]) * scale(i), "{format:?} {i}");
            }
            let off = |i: usize| (f32::from(kept[i]) / LATENT - 0.5 * f32::from(codes[i])).abs();
            if *format == Format::Grid(Grid::Sparse34) {
                let step = if quads == QuadOrder::Contiguous { 1 } else { 16 };
                for quad in (0..256).filter(|i| i / step % 4 == 0).map(|i| [0, 1, 2, 3].map(|lane| i + lane * step)) {
                    let zero = quad.into_iter().find(|i| codes[*i] == 0).unwrap();
                    assert!(
                        quad.iter().all(|i| (codes[*i] == 0) == (*i == zero) && kept[*i].abs() >= kept[zero].abs())
                    );
                }
            } else {
                assert!((0..256).all(|i| off(i) <= 0.5), "{format:?}");
            }
            if let Some(blocks) = &mut linear.blocks {
                latents.pack(PLACE, blocks);
                assert_eq!(blocks.weights(128), params[3..259], "{format:?}");
            }
            // Gradients reach the latent weights by the chain rule, also where scales are negative, and steps end at the bounds.
            let mut grads = vec![1.0; params.len()];
            latents.step(&mut params, &mut grads, |params, grads| {
                for i in 0..256 {
                    assert_eq!(grads[3 + i], scale(i));
                    params[3 + i] += 100.0 * grads[3 + i];
                }
            });
            latents.round();
            let (codes, _) = latents.learned(PLACE).unwrap();
            let Format::Type(_) = format else { continue };
            assert!((0..256).all(|i| codes[i].signum() == (scale(i).signum() as i8)), "{format:?}");
        }
    }

    #[test]
    fn the_residual_path_adds_latent_weights_in_units_of_the_scale() {
        let (latents, linear) = latents(Format::Type(TensorType::Q4_0), QuadOrder::Contiguous);
        let (mut plain, mut with) = (vec![0.0; 260], vec![0.0; 260]);
        latents.apply(0.0, &mut plain);
        latents.apply(0.25, &mut with);
        let scales = linear.blocks.unwrap().scales();
        for i in 0..256 {
            let expected = plain[3 + i] + 0.25 * scales[i / 32] * f32::from(linear.latents[i]) / LATENT;
            assert!((with[3 + i] - expected).abs() < 1e-5);
        }
    }
}
