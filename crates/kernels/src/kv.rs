//! 8-bit keys and values of one kv head, in the order of the kernels.
//!
//! Positions come in tiles of 32, counted from position 0. A head has `width` components, `head_dim` filled up with zeros
//! to a multiple of 32. A tile holds, one after the other:
//!
//! | part | order | bytes |
//! |---|---|---|
//! | key scales, f16 | block of 32 components, position | 2 * width |
//! | value scales, f16 | position | 64 |
//! | key codes, int8 | half tile, 4 components, position of 16, component | 32 * width |
//! | value codes, int8 | 16 components, 4 positions, component of 16, position | 32 * width |
//!
//! A scale covers 32 components of a key, and a whole value (there it becomes part of the softmax weight). The last index
//! of value codes counts in the order 0, 2, 1, 3: the halves of the 16-bit pairs that [`dot_wide`] multiplies.
//!
//! [`dot_wide`]: crate::vector::RowLanes::dot_wide

use crate::format::half::{f16_to_f32, f32_to_f16};

/// Positions per tile.
pub(crate) const TILE: usize = 32;
/// Components that share a scale of a key.
pub(crate) const BLOCK: usize = 32;
/// Largest code.
const LEVELS: f32 = 127.0;
/// f16 NaN.
const NAN: u16 = 0x7e00;

/// The layout of 8-bit keys and values of one kv head: about 8.4 bits per component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvTiles {
    head_dim: usize,
    /// `head_dim`, rounded up to a multiple of 32.
    pub(crate) width: usize,
}

impl KvTiles {
    /// Positions per tile.
    pub const POSITIONS: usize = TILE;

    /// The layout for heads of `head_dim` components.
    pub const fn new(head_dim: usize) -> Self {
        Self { head_dim, width: head_dim.next_multiple_of(BLOCK) }
    }

    /// Bytes of one tile, a multiple of 64.
    pub const fn tile_bytes(self) -> usize {
        self.value_codes() + TILE * self.width
    }

    /// Bytes of the tiles that hold `positions` positions.
    pub const fn bytes(self, positions: usize) -> usize {
        positions.div_ceil(TILE) * self.tile_bytes()
    }

    pub(crate) const fn value_scales(self) -> usize {
        2 * self.width
    }

    pub(crate) const fn key_codes(self) -> usize {
        self.value_scales() + 2 * TILE
    }

    pub(crate) const fn value_codes(self) -> usize {
        self.key_codes() + TILE * self.width
    }

    /// Where code `component` of the key at position `p` of a tile lies.
    const fn key_at(self, p: usize, component: usize) -> usize {
        self.key_codes() + (p / 16 * (self.width / 4) + component / 4) * 64 + p % 16 * 4 + component % 4
    }

    /// Where code `component` of the value at position `p` of a tile lies.
    const fn value_at(self, p: usize, component: usize) -> usize {
        self.value_codes() + (component / 16 * (TILE / 4) + p / 4) * 64 + component % 16 * 4 + swapped(p % 4)
    }

    /// Stores `key` and `value` (head_dim each) at `position` of `tiles`, the tiles of a head from position 0 on. Codes
    /// are rounded to nearest even, scales are the largest magnitude / 127 as f16. A key or value with a NaN, an infinity
    /// or a magnitude above 8 million makes every score of the position NaN.
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn write(self, tiles: &mut [u8], position: usize, key: &[f32], value: &[f32]) {
        assert!(key.len() == self.head_dim && value.len() == self.head_dim, "key and value are head_dim long");
        let tile = &mut tiles[position / TILE * self.tile_bytes()..][..self.tile_bytes()];
        let p = position % TILE;
        let (value_scale, inverse) = scale(value);
        let mut usable = value_scale.is_some();
        tile[self.value_scales() + 2 * p..][..2].copy_from_slice(&value_scale.unwrap_or(0).to_le_bytes());
        for (i, value) in value.iter().enumerate() {
            tile[self.value_at(p, i)] = code(*value, inverse) as u8;
        }
        for (b, key) in key.chunks(BLOCK).enumerate() {
            let (key_scale, inverse) = scale(key);
            usable &= key_scale.is_some();
            tile[2 * (b * TILE + p)..][..2].copy_from_slice(&key_scale.unwrap_or(0).to_le_bytes());
            for (i, key) in key.iter().enumerate() {
                tile[self.key_at(p, b * BLOCK + i)] = code(*key, inverse) as u8;
            }
        }
        if !usable {
            tile[2 * p..][..2].copy_from_slice(&NAN.to_le_bytes());
        }
    }

    /// Key and value at `position` as f32 (head_dim each), for comparison.
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn read(self, tiles: &[u8], position: usize, key: &mut [f32], value: &mut [f32]) {
        assert!(key.len() == self.head_dim && value.len() == self.head_dim, "key and value are head_dim long");
        let tile = &tiles[position / TILE * self.tile_bytes()..][..self.tile_bytes()];
        let p = position % TILE;
        let f16 = |at: usize| f16_to_f32(u16::from_le_bytes([tile[at], tile[at + 1]]));
        for (i, key) in key.iter_mut().enumerate() {
            *key = f16(2 * (i / BLOCK * TILE + p)) * f32::from(tile[self.key_at(p, i)] as i8);
        }
        for (i, value) in value.iter_mut().enumerate() {
            *value = f16(self.value_scales() + 2 * p) * f32::from(tile[self.value_at(p, i)] as i8);
        }
    }
}

/// The order 0, 2, 1, 3, which is its own inverse.
const fn swapped(i: usize) -> usize {
    i % 2 * 2 + i / 2
}

/// The scale of `values` as f16 bits, `None` when it is not finite, and the factor that makes codes of them.
fn scale(values: &[f32]) -> (Option<u16>, f32) {
    // The order of magnitudes is that of their bits; NaN is above everything.
    let amax = f32::from_bits(values.iter().map(|x| x.to_bits() & 0x7fff_ffff).fold(0, u32::max));
    let bits = f32_to_f16(amax / LEVELS);
    let scale = f16_to_f32(bits);
    if !scale.is_finite() {
        return (None, 0.0);
    }
    // Below the smallest f16 everything is 0.
    (Some(bits), if scale > 0.0 { 1.0 / scale } else { 0.0 })
}

/// A value as a multiple of its scale; NaN is 0.
fn code(value: f32, inverse: f32) -> i8 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest integer, ties to even
    ((value * inverse).clamp(-LEVELS, LEVELS) + MAGIC - MAGIC) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back_within_half_a_step() {
        for head_dim in [1, 31, 32, 64, 80, 128] {
            let layout = KvTiles::new(head_dim);
            let mut tiles = vec![0u8; layout.bytes(70)];
            let at = |p: usize, i: usize, sign: f32| sign * ((p * 31 + i * 7) % 101) as f32 - 40.0;
            let row = |p: usize, sign: f32| (0..head_dim).map(|i| at(p, i, sign)).collect::<Vec<f32>>();
            for p in 0..70 {
                layout.write(&mut tiles, p, &row(p, 1.0), &row(p, -1.0));
            }
            let (mut key, mut value) = (vec![0.0; head_dim], vec![0.0; head_dim]);
            for p in 0..70 {
                layout.read(&tiles, p, &mut key, &mut value);
                for (found, wanted) in [(&key, row(p, 1.0)), (&value, row(p, -1.0))] {
                    for (block, wanted) in found.chunks(head_dim).zip(wanted.chunks(head_dim)) {
                        let amax = wanted.iter().fold(0.0, |a: f32, x| a.max(x.abs()));
                        for (x, y) in block.iter().zip(wanted) {
                            // Half a step, and the rounding of the scale to 11 bits.
                            assert!((x - y).abs() <= amax * (0.5 / 127.0 + 1.0 / 2048.0), "{head_dim} {p}: {x} {y}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn unusable_values_are_marked_and_tiny_ones_are_zero() {
        let layout = KvTiles::new(40);
        let mut tiles = vec![0u8; layout.bytes(1)];
        let (mut key, mut value) = (vec![0.0; 40], vec![0.0; 40]);
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            for i in [0, 39] {
                for which in 0..2 {
                    let mut rows = [vec![1.0f32; 40], vec![1.0f32; 40]];
                    rows[which][i] = bad;
                    layout.write(&mut tiles, 0, &rows[0], &rows[1]);
                    layout.read(&tiles, 0, &mut key, &mut value);
                    assert!(key[0].is_nan() && value.iter().all(|x| x.is_finite()));
                }
            }
        }
        layout.write(&mut tiles, 0, &[1e-9; 40], &[0.0; 40]);
        layout.read(&tiles, 0, &mut key, &mut value);
        assert!(key.iter().chain(&value).all(|x| *x == 0.0));
    }
}
