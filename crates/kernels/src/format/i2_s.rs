//! I2_S of bitnet.cpp (GGUF type id 36): ternary weights with one f32 scale for the whole tensor.
//!
//! The weights, row after row, form blocks of 128 in 32 bytes that run across the ends of rows. Byte `p` of a block holds
//! weights `p`, `32 + p`, `64 + p` and `96 + p`, each plus 1, at bits 6, 4, 2 and 0. After the last block come the scale
//! and 28 bytes that mean nothing.
//!
//! Files made on ARM, and by an older version on x86, use other places for the same weights. Nothing in a file tells them
//! apart; published files are as described here.

use super::fields::{first_three, one_a_byte};
use super::packed::PackedError;
use super::ternary_rows::TernaryRows;
use super::{ScaleGroup, TensorType};
use crate::Bytes;

/// Weights per block.
const BLOCK_LEN: usize = TensorType::I2_S.block_len();
/// Bytes per block.
const BLOCK_BYTES: usize = TensorType::I2_S.block_bytes();
/// Bytes after the last block: the scale, and what fills them up.
const TAIL_BYTES: usize = 32;
/// Weights of a block that stand at the same bits.
const STRIP: usize = BLOCK_LEN / 4;

/// The scale of the tensor in `bytes`; `None` where they are too short to have one.
pub fn scale(bytes: &[u8]) -> Option<f32> {
    bytes.last_chunk().map(scale_of)
}

/// The scale at the start of what follows the last block.
pub(super) fn scale_of(tail: &[u8; TAIL_BYTES]) -> f32 {
    f32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]])
}

/// An I2_S tensor.
#[derive(Clone, Debug)]
pub struct I2sRows {
    rows: usize,
    cols: usize,
    codes: Bytes,
    scale: f32,
}

impl I2sRows {
    /// The tensor of `rows` x `cols` weights in `bytes`.
    ///
    /// # Errors
    /// [`PackedError`] when shape and size do not fit, a code is illegal or the scale is not finite.
    pub fn new(rows: usize, cols: usize, bytes: Bytes) -> Result<Self, PackedError> {
        let values = rows.checked_mul(cols).filter(|&values| values > 0);
        let expected = values
            .and_then(|values| TensorType::I2_S.tensor_bytes(1, values))
            .ok_or(PackedError::Shape { rows, cols })?;
        let (codes, tail): (&[u8], &[u8; TAIL_BYTES]) = match bytes.split_last_chunk() {
            Some((codes, tail)) if bytes.len() == expected => (codes, tail),
            _ => return Err(PackedError::CodesSize { expected, found: bytes.len() }),
        };
        if let Some(at) = first_three(codes) {
            let strip = (0..4).find(|strip| codes[at] >> (6 - 2 * strip) & 3 == 3).unwrap_or(0);
            let weight = at / BLOCK_BYTES * BLOCK_LEN + strip * STRIP + at % BLOCK_BYTES;
            return Err(PackedError::IllegalCode { row: weight / cols, byte: at });
        }
        let scale = scale_of(tail);
        if !scale.is_finite() {
            return Err(PackedError::Scale { row: 0, group: 0 });
        }
        let codes = bytes.slice(0..codes.len()).ok_or(PackedError::Shape { rows, cols })?;
        Ok(Self { rows, cols, codes, scale })
    }
}

impl TernaryRows for I2sRows {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn scale_group(&self) -> ScaleGroup {
        ScaleGroup::Tensor
    }

    fn values(&self, row: usize, values: &mut [i8]) {
        assert!(row < self.rows && values.len() == self.cols);
        let mut at = row * self.cols;
        let mut rest = values;
        // As far as the weights stand side by side at the same bits.
        while !rest.is_empty() {
            let (block, strip, place) = (at / BLOCK_LEN, at % BLOCK_LEN / STRIP, at % STRIP);
            let (now, later) = rest.split_at_mut((STRIP - place).min(rest.len()));
            let bytes = &self.codes[block * BLOCK_BYTES + place..][..now.len()];
            one_a_byte(bytes, 6 - 2 * strip, now);
            at += now.len();
            rest = later;
        }
    }

    fn scale(&self, _: usize, _: usize) -> f32 {
        self.scale
    }
}

/// Writes a tensor row after row.
#[derive(Clone, Debug)]
pub struct I2sWriter {
    /// The block that is being filled; the places of missing weights hold zeros.
    block: [u8; BLOCK_BYTES],
    filled: usize,
}

/// A block of zero weights: the code of each is 1.
const ZEROS: [u8; BLOCK_BYTES] = [0b0101_0101; BLOCK_BYTES];

impl Default for I2sWriter {
    fn default() -> Self {
        Self { block: ZEROS, filled: 0 }
    }
}

impl I2sWriter {
    /// Appends the blocks that `values` (each -1, 0 or +1) complete to `out`.
    ///
    /// # Panics
    /// When a value is not ternary.
    pub fn push(&mut self, values: &[i8], out: &mut Vec<u8>) {
        for &value in values {
            assert!((-1..=1).contains(&value), "{value} is not ternary");
            let (strip, place) = (self.filled / STRIP, self.filled % STRIP);
            let shift = 6 - 2 * strip;
            self.block[place] = self.block[place] & !(3 << shift) | ((value + 1) as u8) << shift;
            self.filled += 1;
            if self.filled == BLOCK_LEN {
                out.extend(std::mem::take(self).block);
            }
        }
    }

    /// Appends what is left: the last block, if it is not full, and the scale.
    pub fn finish(self, scale: f32, out: &mut Vec<u8>) {
        if self.filled > 0 {
            out.extend(self.block);
        }
        out.extend(scale.to_le_bytes());
        out.extend([0; TAIL_BYTES - 4]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(rows: usize, cols: usize, bytes: &[u8]) -> Result<I2sRows, PackedError> {
        I2sRows::new(rows, cols, bytes.to_vec().into())
    }

    fn with_scale(codes: &[u8], scale: f32) -> Vec<u8> {
        let mut bytes = codes.to_vec();
        bytes.extend(scale.to_le_bytes());
        bytes.resize(codes.len() + 32, 0xee); // what fills up is of no meaning
        bytes
    }

    #[test]
    fn one_weight_at_every_place() {
        for place in 0..128 {
            // By hand: all zeros but for one +1, whose code is 2.
            let mut codes = [0x55u8; 32];
            codes[place % 32] ^= 0b11 << [6, 4, 2, 0][place / 32];
            let bytes = with_scale(&codes, 0.3);
            let mut expected = [0; 128];
            expected[place] = 1;
            for cols in [128, 64, 2, 1] {
                let rows = new(128 / cols, cols, &bytes).unwrap();
                let mut values = [9; 128];
                for (row, values) in values.chunks_mut(cols).enumerate() {
                    rows.values(row, values);
                }
                assert_eq!(values, expected, "weight {place} in rows of {cols}");
                assert_eq!(rows.scale(0, 0), 0.3);
            }
            let mut written = Vec::new();
            let mut writer = I2sWriter::default();
            writer.push(&expected, &mut written);
            writer.finish(0.3, &mut written);
            assert_eq!(written[..36], bytes[..36]);
        }
    }

    #[test]
    fn rows_of_any_length_round_trip() {
        for (rows, cols) in [(3, 100), (5, 8640 / 64), (7, 33), (1, 1), (2, 5460)] {
            let values: Vec<i8> = (0..rows * cols).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
            let (mut bytes, mut writer) = (Vec::new(), I2sWriter::default());
            for row in values.chunks(cols) {
                writer.push(row, &mut bytes);
            }
            writer.finish(-1.5e-7, &mut bytes);
            assert_eq!(Some(bytes.len()), TensorType::I2_S.tensor_bytes(rows, cols));
            let read = new(rows, cols, &bytes).unwrap();
            let mut row = vec![9; cols];
            for (r, expected) in values.chunks(cols).enumerate() {
                read.values(r, &mut row);
                assert_eq!(row, expected);
            }
            assert_eq!(read.scale(0, 0), -1.5e-7);
        }
    }

    #[test]
    fn misfits_are_refused() {
        let good = with_scale(&[0x55; 64], 1.0);
        assert!(new(2, 128, &good).is_ok());
        assert!(new(3, 50, &good).is_ok());
        let size = |expected, found| Err(PackedError::CodesSize { expected, found });
        assert_eq!(new(2, 64, &good).map(drop), size(64, 96));
        assert_eq!(new(2, 128, &good[..95]).map(drop), size(96, 95));
        assert_eq!(new(2, 128, &[]).map(drop), size(96, 0));
        for shape in [(0, 128), (2, 0), (usize::MAX, 2), (1, usize::MAX)] {
            assert!(matches!(
                new(shape.0, shape.1, &good),
                Err(PackedError::Shape { .. } | PackedError::CodesSize { .. })
            ));
        }
        let mut bad = good.clone();
        bad[33] = 0b01_11_01_01;
        assert_eq!(new(2, 128, &bad).map(drop), Err(PackedError::IllegalCode { row: 1, byte: 33 }));
        for scale in [f32::NAN, f32::INFINITY] {
            let bad = with_scale(&[0x55; 64], scale);
            assert_eq!(new(2, 128, &bad).map(drop), Err(PackedError::Scale { row: 0, group: 0 }));
        }
    }
}
