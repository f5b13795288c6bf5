//! Matrices of ternary and binary weights, read a row at a time, whatever holds them.

use std::ops::Range;

use super::fields::first_three;
use super::ggml::{levels, scale_bits};
use super::half::f16_to_f32;
use super::packed::PackedError;
use super::{ScaleGroup, TensorType};
use crate::Bytes;

/// A matrix whose weights are -1, 0 or +1 times a scale, checked when it was made.
pub trait TernaryRows: Sync {
    /// Rows (out features) and columns (in features).
    fn shape(&self) -> (usize, usize);

    /// Which weights share a scale.
    fn scale_group(&self) -> ScaleGroup;

    /// Whether no weight is 0.
    fn is_binary(&self) -> bool {
        false
    }

    /// The values of row `row`, each -1, 0 or +1; `values` is as long as the row.
    ///
    /// # Panics
    /// When there is no such row, or `values` has another length.
    fn values(&self, row: usize, values: &mut [i8]);

    /// Writes the signs of row `row` as [`TernaryFormat::Binary`](super::TernaryFormat::Binary) has them, where they are
    /// stored so and copying them is quicker than going by [`values`](Self::values); tells whether it did.
    ///
    /// # Panics
    /// When there is no such row, or `signs` has another length than the format's rows.
    fn signs(&self, row: usize, signs: &mut [u8]) -> bool {
        let _ = (row, signs);
        false
    }

    /// Says that the values of `rows` will not be asked for again soon.
    fn release(&self, rows: Range<usize>) {
        let _ = rows;
    }

    /// The scale of group `group` of row `row`; 0 is the only group where the row, or the tensor, has one scale.
    ///
    /// # Panics
    /// When there is no such row or group.
    fn scale(&self, row: usize, group: usize) -> f32;

    /// Row `row` as f32: each value times its scale.
    ///
    /// # Panics
    /// As [`values`](Self::values).
    fn row_f32(&self, row: usize, out: &mut [f32]) {
        let mut values = vec![0; out.len()];
        self.values(row, &mut values);
        let group = self.scale_group().columns(out.len());
        for (g, (out, values)) in out.chunks_mut(group).zip(values.chunks(group)).enumerate() {
            let scale = self.scale(row, g);
            for (out, &value) in out.iter_mut().zip(values) {
                *out = f32::from(value) * scale;
            }
        }
    }
}

/// Largest group of columns that packed weights can share a scale in.
const LARGEST_GROUP: usize = 256;

/// A GGUF tensor of a ternary or binary type with a scale per block.
#[derive(Clone, Debug)]
pub struct BlockRows {
    ty: TensorType,
    rows: usize,
    cols: usize,
    bytes: Bytes,
    scale: ScaleGroup,
}

impl BlockRows {
    /// The tensor of `rows` x `cols` weights of type `ty` in `bytes`. Blocks whose scales are the same, all over the
    /// tensor, along every row or in neighbouring blocks, share them.
    ///
    /// # Errors
    /// [`PackedError`] when shape and size do not fit, a scale is not finite or a code is illegal;
    /// [`PackedError::NotTernary`] when a weight of Q2_0 or PQ2_0 is +2 times its scale, which is legal there.
    ///
    /// # Panics
    /// When the type is not one of these.
    pub fn new(ty: TensorType, rows: usize, cols: usize, bytes: Bytes) -> Result<Self, PackedError> {
        assert!(ty.is_ternary() && ty.is_dequantizable(), "{ty} has no ternary blocks");
        let (len, size) = (ty.block_len(), ty.block_bytes());
        if rows == 0 || cols == 0 {
            return Err(PackedError::Shape { rows, cols });
        }
        if !cols.is_multiple_of(len) {
            return Err(PackedError::Columns { cols, multiple: len });
        }
        let expected = ty.tensor_bytes(rows, cols).ok_or(PackedError::Shape { rows, cols })?;
        if bytes.len() != expected {
            return Err(PackedError::CodesSize { expected, found: bytes.len() });
        }
        let per_row = cols / len;
        let first = scale_bits(ty, &bytes);
        let (mut tensor, mut row, mut together) = (true, true, LARGEST_GROUP / len);
        for (r, bytes) in bytes.chunks_exact(per_row * size).enumerate() {
            let bits = |block: usize| scale_bits(ty, &bytes[block * size..]);
            for block in 0..per_row {
                let scale = bits(block);
                if scale & 0x7c00 == 0x7c00 {
                    return Err(PackedError::Scale { row: r, group: block });
                }
                while scale != bits(block / together * together) {
                    together /= 2;
                }
                row &= scale == bits(0);
                tensor &= scale == first;
            }
            // Fields of two bits hold 0, 1, 2; the bytes of the scale, before or after them, are not looked at.
            let fields = match ty {
                TensorType::TQ2_0 => 0..64,
                TensorType::Q2_0 | TensorType::PQ2_0 => 2..size,
                _ => continue,
            };
            for (b, block) in bytes.chunks_exact(size).enumerate() {
                if first_three(&block[fields.clone()]).is_some() {
                    return Err(match ty {
                        TensorType::TQ2_0 => PackedError::IllegalCode { row: r, byte: b * size },
                        _ => PackedError::NotTernary { row: r },
                    });
                }
            }
        }
        // What lies in a file is read again from there.
        bytes.release(0..bytes.len());
        let scale = match (tensor, row) {
            (true, _) => ScaleGroup::Tensor,
            (false, true) => ScaleGroup::Row,
            (false, false) => ScaleGroup::Group(together * len),
        };
        Ok(Self { ty, rows, cols, bytes, scale })
    }

    /// The blocks of row `row`.
    fn row_bytes(&self, row: usize) -> &[u8] {
        let bytes = self.bytes.len() / self.rows;
        &self.bytes[row * bytes..(row + 1) * bytes]
    }
}

impl TernaryRows for BlockRows {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn scale_group(&self) -> ScaleGroup {
        self.scale
    }

    fn is_binary(&self) -> bool {
        self.ty == TensorType::Q1_0
    }

    fn values(&self, row: usize, values: &mut [i8]) {
        levels(self.ty, self.row_bytes(row), values);
    }

    fn signs(&self, row: usize, signs: &mut [u8]) -> bool {
        if self.ty != TensorType::Q1_0 {
            return false;
        }
        let blocks = self.row_bytes(row).as_chunks::<18>().0;
        assert_eq!(signs.len(), 16 * blocks.len());
        for (signs, block) in signs.as_chunks_mut::<16>().0.iter_mut().zip(blocks) {
            signs.copy_from_slice(&block[2..]);
        }
        true
    }

    fn release(&self, rows: Range<usize>) {
        let bytes = self.bytes.len() / self.rows;
        self.bytes.release(rows.start * bytes..rows.end * bytes);
    }

    fn scale(&self, row: usize, group: usize) -> f32 {
        let block = match self.scale {
            ScaleGroup::Tensor | ScaleGroup::Row => 0,
            ScaleGroup::Group(columns) => group * (columns / self.ty.block_len()),
        };
        f16_to_f32(scale_bits(self.ty, &self.row_bytes(row)[block * self.ty.block_bytes()..]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ggml::dequantize;
    use super::super::half::f32_to_f16;
    use super::super::random;
    use super::*;

    const TYPES: [TensorType; 7] = [
        TensorType::TQ1_0,
        TensorType::TQ2_0,
        TensorType::STQ1_0,
        TensorType::Q1_0,
        TensorType::Q2_0,
        TensorType::PQ2_0,
        TensorType::PTQ1_0,
    ];

    fn new(ty: TensorType, rows: usize, cols: usize, bytes: &[u8]) -> Result<BlockRows, PackedError> {
        BlockRows::new(ty, rows, cols, bytes.to_vec().into())
    }

    /// Random legal blocks whose scales are `scale(row, block)`.
    fn blocks(ty: TensorType, rows: usize, cols: usize, scale: impl Fn(usize, usize) -> f32) -> Vec<u8> {
        let mut bytes = random::blocks(ty, rows * cols, 0.02, 3);
        let per_row = cols / ty.block_len();
        for (i, block) in bytes.chunks_mut(ty.block_bytes()).enumerate() {
            let at = match ty {
                TensorType::TQ1_0 => 52,
                TensorType::TQ2_0 => 64,
                TensorType::STQ1_0 => 40,
                TensorType::PTQ1_0 => 26,
                _ => 0,
            };
            block[at..at + 2].copy_from_slice(&f32_to_f16(scale(i / per_row, i % per_row)).to_le_bytes());
        }
        bytes
    }

    #[test]
    fn rows_are_what_decoding_gives() {
        for ty in TYPES {
            let (rows, cols) = (3, 768);
            let bytes = random::blocks(ty, rows * cols, 0.02, 7);
            let read = new(ty, rows, cols, &bytes).unwrap();
            let (mut expected, mut row) = (vec![0.0; rows * cols], vec![9.0; cols]);
            dequantize(ty, &bytes, &mut expected);
            for (r, expected) in expected.chunks(cols).enumerate() {
                read.row_f32(r, &mut row);
                assert_eq!(row, expected, "{ty}");
            }
        }
    }

    #[test]
    fn equal_scales_are_shared() {
        let step = |x: usize| 0.5 + x as f32 / 8.0;
        for ty in TYPES {
            let (rows, cols, len) = (3, 1024, ty.block_len());
            let group = |bytes: &[u8]| new(ty, rows, cols, bytes).unwrap().scale_group();
            assert_eq!(group(&blocks(ty, rows, cols, |_, _| -0.5)), ScaleGroup::Tensor, "{ty}");
            assert_eq!(group(&blocks(ty, rows, cols, |r, _| step(r))), ScaleGroup::Row, "{ty}");
            for size in [256, 128, 64] {
                let bytes = blocks(ty, rows, cols, |_, block| step(block * len / size));
                let read = new(ty, rows, cols, &bytes).unwrap();
                assert_eq!(read.scale_group(), ScaleGroup::Group(size.max(len)), "{ty}");
                assert_eq!(read.scale(1, 1), step(size.max(len) / size), "{ty}");
            }
            // One block that differs, the last of all.
            let last = cols / len - 1;
            let bytes = blocks(ty, rows, cols, |r, block| step(usize::from((r, block) == (2, last))));
            assert_eq!(group(&bytes), ScaleGroup::Group(len), "{ty}");
        }
    }

    #[test]
    fn misfits_are_refused() {
        for ty in TYPES {
            let (len, size) = (ty.block_len(), ty.block_bytes());
            let bytes = blocks(ty, 2, len, |_, _| 1.0);
            let new = |rows, cols, bytes: &[u8]| new(ty, rows, cols, bytes).map(drop);
            assert_eq!(new(2, len, &bytes), Ok(()));
            assert_eq!(new(1, len + 1, &bytes), Err(PackedError::Columns { cols: len + 1, multiple: len }));
            let wrong = Err(PackedError::CodesSize { expected: 3 * size, found: 2 * size });
            assert_eq!(new(3, len, &bytes), wrong);
            assert_eq!(new(0, len, &[]), Err(PackedError::Shape { rows: 0, cols: len }));
            assert!(matches!(new(usize::MAX, len, &bytes), Err(PackedError::Shape { .. })));
            for scale in [f32::NAN, f32::INFINITY] {
                let bytes = blocks(ty, 2, len, |r, _| if r == 1 { scale } else { 1.0 });
                assert_eq!(new(2, len, &bytes), Err(PackedError::Scale { row: 1, group: 0 }), "{ty}");
            }
            let mut bytes = bytes;
            bytes[size + 9] |= 0b11 << 4;
            let expected = match ty {
                TensorType::TQ2_0 => Err(PackedError::IllegalCode { row: 1, byte: 0 }),
                TensorType::Q2_0 | TensorType::PQ2_0 => Err(PackedError::NotTernary { row: 1 }),
                _ => Ok(()),
            };
            assert_eq!(new(2, len, &bytes), expected, "{ty}");
        }
    }
}
