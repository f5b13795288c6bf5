//! BitNet weights in safetensors: packed by transformers (`quant_method: bitnet`), or latent, to be quantized at load.
//!
//! A packed matrix is a U8 tensor of `ceil(rows / 4)` rows. With `R` of them, bits `2 i` and `2 i + 1` of byte `c` of row
//! `r` hold the weight of row `r + i R` and column `c`, plus 1: the four weights of a byte are `R` rows apart. Its scale is
//! a tensor of its own.
//!
//! A latent matrix is what training updates. Its weights are the scale `m`, the mean magnitude of the whole matrix, times
//! the nearest of -1, 0 and +1 to `w / m`.

use super::fields::{first_three, one_a_byte};
use super::ggml::dequantize;
use super::packed::PackedError;
use super::ternary_rows::TernaryRows;
use super::{ScaleGroup, TensorType};
use crate::Bytes;

/// Rows of the U8 tensor that packs `rows` rows.
pub const fn packed_rows(rows: usize) -> usize {
    rows.div_ceil(4)
}

/// A matrix packed by transformers.
#[derive(Clone, Debug)]
pub struct BitnetRows {
    rows: usize,
    cols: usize,
    bytes: Bytes,
    scale: f32,
}

impl BitnetRows {
    /// The matrix of `rows` x `cols` weights in `bytes`, times `scale`.
    ///
    /// # Errors
    /// [`PackedError`] when shape and size do not fit, a code is illegal or the scale is not finite.
    pub fn new(rows: usize, cols: usize, bytes: Bytes, scale: f32) -> Result<Self, PackedError> {
        let shape = PackedError::Shape { rows, cols };
        let expected = packed_rows(rows).checked_mul(cols).filter(|&bytes| bytes > 0).ok_or(shape)?;
        if bytes.len() != expected {
            return Err(PackedError::CodesSize { expected, found: bytes.len() });
        }
        if let Some(at) = first_three(&bytes) {
            let part = (0..4).find(|part| bytes[at] >> (2 * part) & 3 == 3).unwrap_or(0);
            return Err(PackedError::IllegalCode { row: at / cols + part * packed_rows(rows), byte: at });
        }
        if !scale.is_finite() {
            return Err(PackedError::Scale { row: 0, group: 0 });
        }
        Ok(Self { rows, cols, bytes, scale })
    }
}

impl TernaryRows for BitnetRows {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn scale_group(&self) -> ScaleGroup {
        ScaleGroup::Tensor
    }

    fn values(&self, row: usize, values: &mut [i8]) {
        assert!(row < self.rows && values.len() == self.cols);
        let stored = packed_rows(self.rows);
        let bytes = &self.bytes[row % stored * self.cols..][..self.cols];
        one_a_byte(bytes, row / stored * 2, values);
    }

    fn scale(&self, _: usize, _: usize) -> f32 {
        self.scale
    }
}

/// The smallest scale of a latent matrix.
const SMALLEST_SCALE: f32 = 1e-5;

/// A latent matrix, quantized as it is read.
#[derive(Clone, Debug)]
pub struct LatentRows {
    ty: TensorType,
    rows: usize,
    cols: usize,
    bytes: Bytes,
    scale: f32,
}

impl LatentRows {
    /// The matrix of `rows` x `cols` floats of type `ty` in `bytes`.
    ///
    /// # Errors
    /// [`PackedError`] when shape and size do not fit, or a weight is not finite.
    ///
    /// # Panics
    /// When `ty` is not a type of plain floats.
    pub fn new(ty: TensorType, rows: usize, cols: usize, bytes: Bytes) -> Result<Self, PackedError> {
        assert!(ty.is_float(), "{ty} does not hold latent weights");
        let expected = ty.tensor_bytes(rows, cols).filter(|&bytes| bytes > 0);
        let expected = expected.ok_or(PackedError::Shape { rows, cols })?;
        if bytes.len() != expected {
            return Err(PackedError::CodesSize { expected, found: bytes.len() });
        }
        let mut weights = vec![0.0; cols];
        let mut total = 0.0;
        for (row, bytes) in bytes.chunks_exact(expected / rows).enumerate() {
            dequantize(ty, bytes, &mut weights);
            // A sum of finite magnitudes is finite in f64.
            let sum: f64 = weights.iter().map(|w| f64::from(w.abs())).sum();
            if !sum.is_finite() {
                return Err(PackedError::NotFinite { row });
            }
            total += sum;
        }
        let mean = (total / (rows as f64 * cols as f64)) as f32;
        Ok(Self { ty, rows, cols, bytes, scale: mean.max(SMALLEST_SCALE) })
    }
}

impl TernaryRows for LatentRows {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn scale_group(&self) -> ScaleGroup {
        ScaleGroup::Tensor
    }

    fn values(&self, row: usize, values: &mut [i8]) {
        assert!(row < self.rows && values.len() == self.cols);
        let bytes = self.bytes.len() / self.rows;
        let mut latent = vec![0.0; self.cols];
        dequantize(self.ty, &self.bytes[row * bytes..(row + 1) * bytes], &mut latent);
        // As in training: times the inverse, which decides ties.
        let inverse = 1.0 / self.scale;
        for (value, w) in values.iter_mut().zip(latent) {
            *value = (w * inverse).round_ties_even().clamp(-1.0, 1.0) as i8;
        }
    }

    fn scale(&self, _: usize, _: usize) -> f32 {
        self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_example() {
        let rows = BitnetRows::new(8, 2, vec![0xa1, 0x18, 0x90, 0x0a].into(), 0.5).unwrap();
        let mut values = [[9; 2]; 8];
        for (row, values) in values.iter_mut().enumerate() {
            rows.values(row, values);
        }
        assert_eq!(values, [[0, -1], [-1, 1], [-1, 1], [-1, 1], [1, 0], [0, -1], [1, -1], [1, -1]]);
        assert_eq!((rows.scale(3, 0), rows.scale_group()), (0.5, ScaleGroup::Tensor));
    }

    #[test]
    fn the_last_part_may_be_short() {
        // Ten rows in three: row r + 3 i at bits 2 i; the last part has one row.
        let (rows, cols) = (10, 5);
        let value = |r: usize, c: usize| ((r * 7 + c * 3 + r * c) % 3) as i8 - 1;
        let mut bytes = vec![0u8; 3 * cols];
        for r in 0..rows {
            for c in 0..cols {
                bytes[r % 3 * cols + c] |= ((value(r, c) + 1) as u8) << (2 * (r / 3));
            }
        }
        let read = BitnetRows::new(rows, cols, bytes.into(), 1.0).unwrap();
        let mut row = [9; 5];
        for r in 0..rows {
            read.values(r, &mut row);
            assert_eq!(row, std::array::from_fn(|c| value(r, c)));
        }
    }

    #[test]
    fn misfits_are_refused() {
        let new = |rows, cols, bytes: &[u8], scale| BitnetRows::new(rows, cols, bytes.to_vec().into(), scale).map(drop);
        assert_eq!(new(8, 2, &[0; 5], 1.0), Err(PackedError::CodesSize { expected: 4, found: 5 }));
        assert_eq!(new(8, 2, &[0, 0, 0b11_00_00, 0], 1.0), Err(PackedError::IllegalCode { row: 5, byte: 2 }));
        assert_eq!(new(8, 2, &[0; 4], f32::NAN), Err(PackedError::Scale { row: 0, group: 0 }));
        assert!(matches!(new(0, 2, &[], 1.0), Err(PackedError::Shape { .. })));
        assert!(matches!(new(usize::MAX, 8, &[], 1.0), Err(PackedError::Shape { .. })));
        let latent = |values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            LatentRows::new(TensorType::F32, values.len() / 2, 2, bytes.into()).map(|rows| rows.scale)
        };
        assert_eq!(latent(&[1.0, 2.0, f32::NAN, 0.0]), Err(PackedError::NotFinite { row: 1 }));
        assert_eq!(latent(&[f32::MAX; 4]), Ok(f32::MAX));
        assert!(LatentRows::new(TensorType::F32, 2, 2, vec![0; 15].into()).is_err());
    }

    #[test]
    fn latent_weights_round_to_the_nearest_and_ties_to_even() {
        // The mean magnitude is 1, so that weights are their own quotients.
        let values = [0.5f32, -0.5, 1.5, -1.5, 0.50001, -0.50001, 2.5, 1.0 - 0.5 + 0.5, -0.0, 1.0];
        let rest = 10.0 - values.iter().map(|v| v.abs()).sum::<f32>();
        let mut values = values.to_vec();
        values[9] += rest;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let rows = LatentRows::new(TensorType::F32, 2, 5, bytes.into()).unwrap();
        assert_eq!(rows.scale, 1.0);
        let mut found = [9; 10];
        for (row, values) in found.chunks_mut(5).enumerate() {
            rows.values(row, values);
        }
        assert_eq!(found, [0, 0, 1, -1, 1, -1, 1, 1, 0, 1]);
    }

    #[test]
    fn tiny_latent_weights_have_the_smallest_scale() {
        let bytes: Vec<u8> = [1e-6f32, -6e-6, 0.0, 4e-6].iter().flat_map(|v| v.to_le_bytes()).collect();
        let rows = LatentRows::new(TensorType::F32, 1, 4, bytes.into()).unwrap();
        let mut values = [9; 4];
        rows.values(0, &mut values);
        assert_eq!((rows.scale, values), (1e-5, [0, -1, 0, 0]));
    }
}
