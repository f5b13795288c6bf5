//! Ternary and binary weights in tensors of plain floats: checkpoints that were unpacked, or trained to such values.

use super::ggml::dequantize;
use super::half::{f16_to_f32, f32_to_f16};
use super::ternary_rows::TernaryRows;
use super::{ScaleGroup, TensorType};
use crate::Bytes;

/// A float matrix all of whose weights are -1, 0 or +1 times a scale, exactly.
#[derive(Clone, Debug)]
pub struct FloatRows {
    ty: TensorType,
    rows: usize,
    cols: usize,
    bytes: Bytes,
    scale: ScaleGroup,
    /// The scale of the whole matrix, where there is one.
    tensor: f32,
    binary: bool,
}

/// Columns that may share a scale, when a row does not.
const GROUPS: [usize; 4] = [256, 128, 64, 32];

impl FloatRows {
    /// Looks at the matrix of `rows` x `cols` floats of type `ty` in `bytes`: `None` when it is not ternary, with one
    /// magnitude (compared bit by bit) in the matrix, per row, or per group of 256, 128, 64 or 32 columns. Scales of groups
    /// must be exact in f16. Where a matrix is not ternary, its first row usually tells.
    ///
    /// # Panics
    /// When `ty` is not a type of plain floats, or shape and size do not fit.
    pub fn detect(ty: TensorType, rows: usize, cols: usize, bytes: &Bytes) -> Option<Self> {
        assert!(ty.is_float() && ty.tensor_bytes(rows, cols) == Some(bytes.len()), "{ty}: {rows} x {cols}");
        if rows == 0 || cols == 0 {
            return None;
        }
        let mut row = vec![0.0; cols];
        let mut groups = GROUPS.into_iter();
        let mut scale = ScaleGroup::Tensor;
        let (mut tensor, mut binary) = (0, true);
        let each_row = || bytes.chunks_exact(bytes.len() / rows);
        for bytes in each_row() {
            dequantize(ty, bytes, &mut row);
            binary &= row.iter().all(|w| *w != 0.0);
            loop {
                match scale {
                    ScaleGroup::Group(size) if row.chunks(size).all(|group| magnitude(group).is_some()) => break,
                    ScaleGroup::Group(_) => scale = ScaleGroup::Group(groups.next()?),
                    ScaleGroup::Tensor | ScaleGroup::Row => match magnitude(&row) {
                        None => scale = ScaleGroup::Group(groups.next()?),
                        Some(own) if scale == ScaleGroup::Row || own == 0 || own == tensor => break,
                        Some(own) if tensor == 0 => tensor = own,
                        Some(_) => scale = ScaleGroup::Row,
                    },
                }
            }
        }
        if let ScaleGroup::Group(size) = scale {
            for bytes in each_row() {
                dequantize(ty, bytes, &mut row);
                if !row.chunks(size).all(|group| magnitude(group).is_some_and(is_f16)) {
                    return None;
                }
            }
        }
        Some(Self { ty, rows, cols, bytes: bytes.clone(), scale, tensor: f32::from_bits(tensor), binary })
    }

    fn row(&self, row: usize) -> &[u8] {
        let bytes = self.bytes.len() / self.rows;
        &self.bytes[row * bytes..(row + 1) * bytes]
    }
}

/// The magnitude, as bits, that all weights but zeros have; 0 when all are zeros, `None` when they differ or are not finite.
fn magnitude(weights: &[f32]) -> Option<u32> {
    let bits = weights.iter().map(|w| w.to_bits() & 0x7fff_ffff);
    let largest = bits.clone().max().unwrap_or(0);
    let same = bits.fold(true, |same, bits| same & (bits == largest || bits == 0));
    (same && largest < 0x7f80_0000).then_some(largest)
}

/// Whether the f32 with these bits is one of f16.
fn is_f16(bits: u32) -> bool {
    f16_to_f32(f32_to_f16(f32::from_bits(bits))).to_bits() == bits
}

impl TernaryRows for FloatRows {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn scale_group(&self) -> ScaleGroup {
        self.scale
    }

    fn is_binary(&self) -> bool {
        self.binary
    }

    fn values(&self, row: usize, values: &mut [i8]) {
        let mut weights = vec![0.0; values.len()];
        dequantize(self.ty, self.row(row), &mut weights);
        for (value, w) in values.iter_mut().zip(weights) {
            *value = i8::from(w > 0.0) - i8::from(w < 0.0);
        }
    }

    fn scale(&self, row: usize, group: usize) -> f32 {
        if self.scale == ScaleGroup::Tensor {
            return self.tensor;
        }
        let size = self.ty.block_bytes();
        let columns = self.scale.columns(self.cols);
        let bytes = &self.row(row)[group * columns * size..self.cols.min((group + 1) * columns) * size];
        let mut weights = vec![0.0; bytes.len() / size];
        dequantize(self.ty, bytes, &mut weights);
        weights.into_iter().fold(0.0, |largest, w| largest.max(w.abs()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ggml::quantize;
    use super::*;
    use crate::SplitMix64;

    /// Ternary weights (binary ones without zeros) whose scales are `scale(row, column)`, as `ty`.
    fn matrix(ty: TensorType, rows: usize, cols: usize, zeros: bool, scale: impl Fn(usize, usize) -> f32) -> Bytes {
        let mut random = SplitMix64(rows as u64);
        let mut bytes = vec![0; ty.tensor_bytes(rows, cols).unwrap()];
        let values: Vec<f32> = (0..rows * cols)
            .map(|i| {
                let value = [1.0, -1.0, if zeros { 0.0 } else { 1.0 }, -1.0][random.bits() as usize % 4];
                value * scale(i / cols, i % cols)
            })
            .collect();
        quantize(ty, &values, &mut bytes).unwrap();
        bytes.into()
    }

    #[test]
    fn every_sharing_of_scales_is_found_and_exact() {
        let bf16 = |row: usize, part: usize| 0.01171875 * (1.0 + row as f32 / 64.0 + part as f32 / 4.0);
        for ty in [TensorType::F32, TensorType::F16, TensorType::BF16] {
            for (group, part) in [
                (ScaleGroup::Tensor, 1 << 20),
                (ScaleGroup::Row, 1 << 20),
                (ScaleGroup::Group(256), 256),
                (ScaleGroup::Group(128), 128),
                (ScaleGroup::Group(64), 64),
                (ScaleGroup::Group(32), 32),
            ] {
                for zeros in [true, false] {
                    let (rows, cols) = (5, 800);
                    let bytes = matrix(ty, rows, cols, zeros, |r, c| {
                        bf16(if group == ScaleGroup::Tensor { 0 } else { r }, c / part)
                    });
                    let found = FloatRows::detect(ty, rows, cols, &bytes).unwrap();
                    assert_eq!((found.scale_group(), found.is_binary()), (group, !zeros), "{ty}");
                    let (mut row, mut expected) = (vec![9.0; cols], vec![0.0; cols]);
                    for r in 0..rows {
                        found.row_f32(r, &mut row);
                        dequantize(ty, found.row(r), &mut expected);
                        assert_eq!(row, expected, "{ty} {group:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_other_weight_anywhere_is_noticed() {
        let (rows, cols) = (4, 256);
        let bytes = matrix(TensorType::F32, rows, cols, true, |_, _| 0.3);
        assert_eq!(FloatRows::detect(TensorType::F32, rows, cols, &bytes).unwrap().scale_group(), ScaleGroup::Tensor);
        for at in [0, 255, 256, 1023] {
            for other in [0.3f32.to_bits() + 1, f32::NAN.to_bits(), f32::INFINITY.to_bits()] {
                let mut bytes = bytes.to_vec();
                bytes[4 * at..][..4].copy_from_slice(&other.to_le_bytes());
                assert!(FloatRows::detect(TensorType::F32, rows, cols, &bytes.into()).is_none(), "{at} {other:x}");
            }
        }
    }

    #[test]
    fn scales_of_groups_must_be_f16() {
        // 0.3 is no f16: it can be a row's scale, not a group's; the row that says so comes first or last.
        for odd in [0, 3] {
            let scale = |r: usize, c: usize| if r == odd { 0.3 } else { 0.25 + (c / 128) as f32 };
            let bytes = matrix(TensorType::F32, 4, 256, true, scale);
            assert!(FloatRows::detect(TensorType::F32, 4, 256, &bytes).is_none());
        }
    }

    #[test]
    fn zeros_are_no_scale() {
        let scale = |r: usize, _: usize| if r == 1 { 0.0 } else { 0.3 };
        let bytes = matrix(TensorType::F32, 3, 64, false, scale);
        let found = FloatRows::detect(TensorType::F32, 3, 64, &bytes).unwrap();
        assert_eq!((found.scale_group(), found.is_binary(), found.scale(1, 0)), (ScaleGroup::Tensor, false, 0.3));
        let mut row = [9.0; 64];
        found.row_f32(1, &mut row);
        assert_eq!(row, [0.0; 64]);
        let found = FloatRows::detect(TensorType::F32, 2, 64, &vec![0; 512].into()).unwrap();
        assert_eq!((found.scale_group(), found.scale(0, 0)), (ScaleGroup::Tensor, 0.0));
        assert!(FloatRows::detect(TensorType::F32, 0, 64, &vec![].into()).is_none());
    }
}
