//! Weights of 1 and 2 bits in MLX safetensors, where they are binary or ternary.
//!
//! A matrix is a U32 tensor of codes, from the low bits of each word up, with a scale and a bias per group of columns: `w =
//! scale * code + bias`. It is ternary when every bias is the negative scale (codes 0, 1, 2 are -1, 0, +1), binary when
//! every bias is half of that (codes 0 and 1 are -1 and +1 times the bias).

use super::fields::{first_three, four_a_byte};
use super::half::{bf16_to_f32, f16_to_f32, f32_to_f16};
use super::packed::PackedError;
use super::ternary_rows::TernaryRows;
use super::{ScaleGroup, TensorType};
use crate::Bytes;

/// A ternary or binary matrix of MLX.
#[derive(Clone, Debug)]
pub struct MlxRows {
    bits: usize,
    rows: usize,
    cols: usize,
    group: usize,
    codes: Bytes,
    scales: Floats,
}

/// Numbers of a plain float type.
#[derive(Clone, Debug)]
pub struct Floats {
    /// F32, F16 or BF16.
    pub ty: TensorType,
    /// Their bytes.
    pub bytes: Bytes,
}

impl Floats {
    fn get(&self, index: usize) -> f32 {
        let size = self.ty.block_bytes();
        match self.bytes[index * size..(index + 1) * size] {
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            [a, b] if self.ty == TensorType::F16 => f16_to_f32(u16::from_le_bytes([a, b])),
            [a, b] => bf16_to_f32(u16::from_le_bytes([a, b])),
            _ => f32::NAN,
        }
    }
}

impl MlxRows {
    /// The matrix of `rows` x `cols` weights of `bits` (1 or 2) bits in `codes`, with a scale and a bias per `group` columns.
    ///
    /// # Errors
    /// [`PackedError`] when shape and sizes do not fit or a scale is not finite or not exact in f16;
    /// [`PackedError::NotTernary`] when a bias is not what the scale asks for, or a weight is +2 times its scale.
    ///
    /// # Panics
    /// When `bits` is neither 1 nor 2, or scales and biases are not floats.
    pub fn new(
        bits: usize,
        (rows, cols): (usize, usize),
        group: usize,
        codes: Bytes,
        scales: Floats,
        biases: Floats,
    ) -> Result<Self, PackedError> {
        assert!(matches!(bits, 1 | 2) && scales.ty.is_float() && biases.ty.is_float());
        if rows == 0 || cols == 0 {
            return Err(PackedError::Shape { rows, cols });
        }
        if ![32, 64, 128, 256].contains(&group) {
            return Err(PackedError::Group { size: group });
        }
        if !cols.is_multiple_of(group) {
            return Err(PackedError::Columns { cols, multiple: group });
        }
        let values = rows.checked_mul(cols).ok_or(PackedError::Shape { rows, cols })?;
        let expected = values / 8 * bits;
        if codes.len() != expected {
            return Err(PackedError::CodesSize { expected, found: codes.len() });
        }
        let groups = values / group;
        for floats in [&scales, &biases] {
            let expected = groups * floats.ty.block_bytes();
            if floats.bytes.len() != expected {
                return Err(PackedError::ScalesSize { expected, found: floats.bytes.len() });
            }
        }
        let read = Self { bits, rows, cols, group, codes, scales };
        let (codes, scales) = (&read.codes, &read.scales);
        let per_row = cols / group;
        for i in 0..groups {
            let (row, group) = (i / per_row, i % per_row);
            let (scale, bias) = (scales.get(i), biases.get(i));
            let exact = f16_to_f32(f32_to_f16(read.scale(row, group)));
            if !exact.is_finite() || exact != read.scale(row, group) {
                return Err(PackedError::Scale { row, group });
            }
            if bias != if bits == 2 { -scale } else { -scale / 2.0 } {
                return Err(PackedError::NotTernary { row });
            }
        }
        if bits == 2
            && let Some(at) = first_three(codes)
        {
            return Err(PackedError::NotTernary { row: at / (cols / 4) });
        }
        Ok(read)
    }
}

impl TernaryRows for MlxRows {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn scale_group(&self) -> ScaleGroup {
        ScaleGroup::Group(self.group)
    }

    fn is_binary(&self) -> bool {
        self.bits == 1
    }

    fn values(&self, row: usize, values: &mut [i8]) {
        assert!(row < self.rows && values.len() == self.cols);
        let bytes = self.cols / 8 * self.bits;
        let codes = &self.codes[row * bytes..(row + 1) * bytes];
        // Words are little-endian, so their low bits come first in memory.
        if self.bits == 2 {
            four_a_byte(codes, values);
        } else {
            for (values, byte) in values.as_chunks_mut::<8>().0.iter_mut().zip(codes) {
                *values = [0, 1, 2, 3, 4, 5, 6, 7].map(|bit| ((byte >> bit & 1) << 1) as i8 - 1);
            }
        }
    }

    fn signs(&self, row: usize, signs: &mut [u8]) -> bool {
        if self.bits == 2 {
            return false;
        }
        assert!(row < self.rows);
        signs.copy_from_slice(&self.codes[row * self.cols / 8..(row + 1) * self.cols / 8]);
        true
    }

    fn scale(&self, row: usize, group: usize) -> f32 {
        let scale = self.scales.get(row * (self.cols / self.group) + group);
        if self.bits == 2 { scale } else { scale / 2.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn f32s(bytes: &[u8]) -> Floats {
        Floats { ty: TensorType::F32, bytes: bytes.to_vec().into() }
    }

    #[test]
    fn words_are_read_from_their_low_bits() {
        // Word 0 of row 1: codes 0, 1, 2, 0, 1, 2, ...; all other weights 0, which is code 1.
        let mut words = [0x5555_5555u32; 2 * 4];
        words[4] = (0..16).fold(0, |word, i| word | (i % 3) << (2 * i));
        let codes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let (scales, biases) = (floats(&[0.5, 0.25, 2.0, -1.0]), floats(&[-0.5, -0.25, -2.0, 1.0]));
        let rows = MlxRows::new(2, (2, 64), 32, codes.into(), f32s(&scales), f32s(&biases)).unwrap();
        let mut row = [9.0; 64];
        rows.row_f32(1, &mut row);
        let expected: [f32; 64] = std::array::from_fn(|i| if i < 16 { 2.0 * ((i % 3) as f32 - 1.0) } else { 0.0 });
        assert_eq!(row, expected);
        assert_eq!((rows.scale_group(), rows.scale(1, 1)), (ScaleGroup::Group(32), -1.0));

        let word = 0x8000_0001u32;
        let rows = word.to_le_bytes().to_vec();
        let (scales, biases) = (floats(&[0.5]), floats(&[-0.25]));
        let rows = MlxRows::new(1, (1, 32), 32, rows.into(), f32s(&scales), f32s(&biases)).unwrap();
        let mut row = [9.0; 32];
        rows.row_f32(0, &mut row);
        assert!(rows.is_binary());
        assert_eq!(row, std::array::from_fn(|i| if i == 0 || i == 31 { 0.25 } else { -0.25 }));
    }

    #[test]
    fn what_is_not_ternary_is_refused() {
        let codes = [0x55; 16];
        let new = |codes: &[u8], group: usize, scales: &[f32], biases: &[f32]| {
            let (scales, biases) = (floats(scales), floats(biases));
            MlxRows::new(2, (1, 64), group, codes.to_vec().into(), f32s(&scales), f32s(&biases)).map(drop)
        };
        assert_eq!(new(&codes, 32, &[1.0, 1.0], &[-1.0, -1.0]), Ok(()));
        assert_eq!(new(&codes, 32, &[1.0, 1.0], &[-1.0, -1.5]), Err(PackedError::NotTernary { row: 0 }));
        assert_eq!(new(&codes, 48, &[1.0, 1.0], &[-1.0, -1.0]), Err(PackedError::Group { size: 48 }));
        assert_eq!(new(&codes, 128, &[1.0], &[-1.0]), Err(PackedError::Columns { cols: 64, multiple: 128 }));
        assert_eq!(new(&codes, 64, &[1.0], &[]), Err(PackedError::ScalesSize { expected: 4, found: 0 }));
        assert_eq!(new(&codes[1..], 64, &[1.0], &[-1.0]), Err(PackedError::CodesSize { expected: 16, found: 15 }));
        for scale in [f32::NAN, f32::INFINITY, 0.3, 1e9] {
            assert_eq!(new(&codes, 64, &[scale], &[-scale]), Err(PackedError::Scale { row: 0, group: 0 }), "{scale}");
        }
        let mut codes = codes;
        codes[9] = 0xd5;
        assert_eq!(new(&codes, 64, &[1.0], &[-1.0]), Err(PackedError::NotTernary { row: 0 }));
    }
}
