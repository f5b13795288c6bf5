//! Keys and values of one kv head, in the order of the kernels.
//!
//! Positions come in tiles of 32, counted from position 0. A head has `width` components: `head_dim` filled up with zeros to a
//! multiple of 32 (floats: 16). A tile of floats holds, one after the other:
//!
//! | part | order | values |
//! |---|---|---|
//! | keys | component of `head_dim`, position | 32 * head_dim |
//! | values | position, component of `width` | 32 * width |
//!
//! So a vector holds a component of many keys, or many components of a value, and nothing is summed across lanes. A tile of
//! 8-bit values holds:
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
//! The third type has 6 bits for a component of a key, which needs more of them, and 4 for one of a value. Codes are
//! stored plus 32 and plus 8. Before they are rounded, keys and values are [rotated](crate::rotation); so are the queries,
//! and the sums of values back again.
//!
//! | part | order | bytes |
//! |---|---|---|
//! | key scales, f16 | block of 32 components, position | 2 * width |
//! | value scales, f16 | position | 64 |
//! | keys | half tile, block of 32 components, six lines of 64 bytes | 24 * width |
//! | value codes | 16 components, 8 positions, component of 16, position of 4 | 16 * width |
//!
//! Four lines of keys hold the lower four bits in the order 4 components of 16, position of 16, component: those of the
//! first 16 components in the low half of a byte, of the others in the high half. Then a line with the upper two bits of the
//! first 16 components, two each of 4 components of 16, in the order position of 16, component; and one with those of the
//! others. Of the values a byte holds positions `p` and `p + 4` of eight, the first in its low half.
//!
//! [`dot_wide`]: crate::vector::RowLanes::dot_wide

use crate::format::half::{f16_to_f32, f32_to_f16};
use crate::huge;
use crate::plain::nearest;
use crate::rotation::rotate;

/// Positions per tile.
pub(crate) const TILE: usize = 32;
/// Positions whose softmax is computed together; the unit in which a long context is shared between threads.
pub(crate) const CHUNK: usize = 256;
/// Components that share a scale of an 8-bit key.
pub(crate) const BLOCK: usize = 32;
/// `width` of floats is a multiple of this: the most lanes of a vector.
const LANES: usize = 16;
/// Largest code of 8 bits.
const LEVELS_8: f32 = 127.0;
/// Largest code of 6 bits.
const LEVELS_6: f32 = 31.0;
/// Largest code of 4 bits.
const LEVELS_4: f32 = 7.0;
/// What 6 bits hold for code 0.
pub(crate) const ZERO_6: i32 = 32;
/// What 4 bits hold for code 0.
pub(crate) const ZERO_4: i32 = 8;
/// f16 NaN.
const NAN: u16 = 0x7e00;

/// What keys and values are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KvType {
    /// Half the memory; the rounding is far below that of 8-bit activations.
    #[default]
    F16,
    /// For comparison with references.
    F32,
    /// int8 with a scale per 32 components of a key and per value: about 8.4 bits.
    Q8,
    /// 6 bits for a component of a key and 4 for one of a value, both rotated, with scales as those of int8: about 5.4 bits.
    Q4,
}

impl KvType {
    /// All types.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Q8, Self::Q4];

    /// Whether keys and values are whole numbers with scales.
    pub(crate) const fn has_codes(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4)
    }
}

/// The layout of keys and values of one kv head.
///
/// ```
/// use sherry_kernels::{KvTiles, KvType};
///
/// let layout = KvTiles::new(KvType::F16, 4);
/// let mut tiles = vec![0; layout.bytes(1)];
/// layout.write(&mut tiles, 0, &[1.0, 2.0, 3.0, 4.0], &[0.5; 4]);
/// let (mut key, mut value) = ([0.0; 4], [0.0; 4]);
/// layout.read(&tiles, 0, &mut key, &mut value);
/// assert_eq!((key, value), ([1.0, 2.0, 3.0, 4.0], [0.5; 4]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvTiles {
    ty: KvType,
    pub(crate) head_dim: usize,
    /// `head_dim`, filled up.
    pub(crate) width: usize,
}

impl KvTiles {
    /// Positions per chunk: the tiles of so many lie together.
    pub const CHUNK: usize = CHUNK;

    /// The layout for heads of `head_dim` components.
    pub const fn new(ty: KvType, head_dim: usize) -> Self {
        let multiple = if ty.has_codes() { BLOCK } else { LANES };
        Self { ty, head_dim, width: head_dim.next_multiple_of(multiple) }
    }

    /// Components per head.
    pub const fn head_dim(self) -> usize {
        self.head_dim
    }

    /// What it holds.
    pub const fn ty(self) -> KvType {
        self.ty
    }

    /// Bits of a key's and of a value's component.
    const fn bits(self) -> (usize, usize) {
        match self.ty {
            KvType::F16 => (16, 16),
            KvType::F32 => (32, 32),
            KvType::Q8 => (8, 8),
            KvType::Q4 => (6, 4),
        }
    }

    /// Bytes of one tile, a multiple of 64; saturates instead of overflowing.
    pub const fn tile_bytes(self) -> usize {
        self.values().saturating_add((TILE / 8 * self.bits().1).saturating_mul(self.width))
    }

    /// Bytes of the tiles that hold `positions` positions; saturates instead of overflowing.
    pub const fn bytes(self, positions: usize) -> usize {
        positions.div_ceil(TILE).saturating_mul(self.tile_bytes())
    }

    /// Offset of the scales of values, where there are codes.
    pub(crate) const fn value_scales(self) -> usize {
        2 * self.width
    }

    /// Offset of the keys.
    pub(crate) const fn keys(self) -> usize {
        if self.ty.has_codes() { self.value_scales() + 2 * TILE } else { 0 }
    }

    /// Offset of the values.
    pub(crate) const fn values(self) -> usize {
        let components = if self.ty.has_codes() { self.width } else { self.head_dim };
        self.keys().saturating_add((TILE / 8 * self.bits().0).saturating_mul(components))
    }

    /// Where component `i` of the key at position `p` of a tile lies. Of 6 bits: the lower four, [and](Self::key_bits_at).
    const fn key_at(self, p: usize, i: usize) -> usize {
        let at = match self.ty {
            KvType::F16 | KvType::F32 => (i * TILE + p) * (self.bits().0 / 8),
            KvType::Q8 => (p / 16 * (self.width / 4) + i / 4) * 64 + p % 16 * 4 + i % 4,
            KvType::Q4 => self.key_block(p, i / BLOCK) + i / 4 % 4 * 64 + p % 16 * 4 + i % 4,
        };
        self.keys() + at
    }

    /// Where the upper two of 6 bits lie.
    const fn key_bits_at(self, p: usize, i: usize) -> usize {
        self.keys() + self.key_block(p, i / BLOCK) + (4 + i / 16 % 2) * 64 + p % 16 * 4 + i % 4
    }

    /// Offset from the first key of the lines of block `b`, where keys have 6 bits.
    const fn key_block(self, p: usize, b: usize) -> usize {
        (p / 16 * (self.width / BLOCK) + b) * 6 * 64
    }

    /// Where component `i` of the value at position `p` of a tile lies.
    const fn value_at(self, p: usize, i: usize) -> usize {
        let at = match self.ty {
            KvType::F16 | KvType::F32 => (p * self.width + i) * (self.bits().1 / 8),
            KvType::Q8 => (i / 16 * (TILE / 4) + p / 4) * 64 + i % 16 * 4 + swapped(p % 4),
            KvType::Q4 => (i / 16 * (TILE / 8) + p / 8) * 64 + i % 16 * 4 + p % 4,
        };
        self.values() + at
    }

    /// `bytes` zeros, in large pages where the system has some: attention reads all of a cache for every token. Nothing is
    /// touched yet. `None` when the system refuses.
    pub fn zeroed(bytes: usize) -> Option<Vec<u8>> {
        // The reservation only asks whether there is room: filling it would touch every page, whereas `vec!` of zeros gets
        // untouched pages from the system.
        Vec::<u8>::new().try_reserve_exact(bytes).ok()?;
        let zeros = vec![0; bytes];
        huge::advise(&zeros);
        Some(zeros)
    }

    /// Stores `key` and `value` (head_dim each) at `position` of `tiles`, the tiles of a head from position 0 on. Floats are
    /// rounded to nearest even; so are codes, whose scales are the largest magnitude / the largest code, as f16. A value that
    /// the type cannot hold (NaN, infinity, f16: 65520 and more, 8 bits: above 8 million, 4 bits: when a rotated component is
    /// above 458 000, of a key 2 million) makes every score of the position NaN and so everything that sees it; a component
    /// of a key does where it counts.
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn write(self, tiles: &mut [u8], position: usize, key: &[f32], value: &[f32]) {
        assert!(key.len() == self.head_dim && value.len() == self.head_dim, "key and value are head_dim long");
        let tile = &mut tiles[position / TILE * self.tile_bytes()..][..self.tile_bytes()];
        let p = position % TILE;
        match self.ty {
            KvType::F16 => self.write_floats(tile, p, key, value, 65520.0, |x| f32_to_f16(x).to_le_bytes()),
            KvType::F32 => self.write_floats(tile, p, key, value, f32::INFINITY, f32::to_le_bytes),
            KvType::Q8 => self.write_codes(tile, p, key, value),
            KvType::Q4 => {
                let (mut key, mut value) = (key.to_vec(), value.to_vec());
                rotate(&mut key);
                rotate(&mut value);
                self.write_codes(tile, p, &key, &value);
            }
        }
    }

    /// Magnitudes from `limit` on cannot be held.
    fn write_floats<const N: usize>(
        self,
        tile: &mut [u8],
        p: usize,
        key: &[f32],
        value: &[f32],
        limit: f32,
        round: impl Fn(f32) -> [u8; N],
    ) {
        // Values have weights of 0 where they are not seen, so they must be finite.
        let usable = value.iter().all(|x| x.abs() < limit);
        for (i, x) in key.iter().enumerate() {
            tile[self.key_at(p, i)..][..N].copy_from_slice(&round(if usable { *x } else { f32::NAN }));
        }
        let at = self.value_at(p, 0);
        let (values, _) = tile[at..at + N * self.head_dim].as_chunks_mut::<N>();
        for (to, x) in values.iter_mut().zip(value) {
            *to = round(if usable { *x } else { 0.0 });
        }
    }

    /// Rounds to codes first, a vector at a time, and then stores them, four at a time where they lie side by side.
    fn write_codes(self, tile: &mut [u8], p: usize, key: &[f32], value: &[f32]) {
        let (key_levels, value_levels) =
            if self.ty == KvType::Q8 { (LEVELS_8, LEVELS_8) } else { (LEVELS_6, LEVELS_4) };
        let mut codes = [0i8; BLOCK];
        let (value_scale, inverse) = scale(value, value_levels);
        let mut usable = value_scale.is_some();
        tile[self.value_scales() + 2 * p..][..2].copy_from_slice(&value_scale.unwrap_or(0).to_le_bytes());
        for (b, value) in value.chunks(BLOCK).enumerate() {
            codes.iter_mut().zip(value).for_each(|(to, value)| *to = code(*value, inverse, value_levels));
            for (part, codes) in codes[..value.len()].chunks(16).enumerate() {
                // The components of a line are four bytes apart.
                let bytes = tile[self.value_at(p, b * BLOCK + part * 16)..].iter_mut().step_by(4);
                match self.ty {
                    KvType::Q4 => {
                        let shift = p / 4 % 2 * 4;
                        bytes.zip(codes).for_each(|(byte, code)| {
                            *byte = *byte & !(15 << shift) | ((code + ZERO_4 as i8) as u8) << shift;
                        });
                    }
                    _ => bytes.zip(codes).for_each(|(byte, code)| *byte = *code as u8),
                }
            }
        }
        for (b, key) in key.chunks(BLOCK).enumerate() {
            let (key_scale, inverse) = scale(key, key_levels);
            usable &= key_scale.is_some();
            tile[2 * (b * TILE + p)..][..2].copy_from_slice(&key_scale.unwrap_or(0).to_le_bytes());
            codes.iter_mut().zip(key).for_each(|(to, key)| *to = code(*key, inverse, key_levels));
            for (part, codes) in codes[..key.len()].chunks(4).enumerate() {
                let i = b * BLOCK + part * 4;
                // Components that do not exist get the code 0.
                let mut word = [0u8; 4];
                word.iter_mut().zip(codes).for_each(|(to, code)| *to = *code as u8);
                if self.ty == KvType::Q4 {
                    let unsigned = u32::from_le_bytes(word.map(|code| code.wrapping_add(ZERO_6 as u8)));
                    put(&mut tile[self.key_at(p, i)..], i / 16 % 2 * 4, 0x0f0f_0f0f, unsigned);
                    put(&mut tile[self.key_bits_at(p, i)..], i / 4 % 4 * 2, 0x0303_0303, unsigned >> 4);
                } else {
                    tile[self.key_at(p, i)..][..4].copy_from_slice(&word);
                }
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
        let read = |at: usize, scale: usize, code: i32| match self.ty {
            KvType::F16 => f16(at),
            KvType::F32 => f32::from_le_bytes([tile[at], tile[at + 1], tile[at + 2], tile[at + 3]]),
            KvType::Q8 => f16(scale) * f32::from(tile[at] as i8),
            KvType::Q4 => f16(scale) * code as f32,
        };
        let bits = |at: usize, shift: usize, mask: u8| i32::from(tile[at] >> shift & mask);
        for (i, key) in key.iter_mut().enumerate() {
            let at = self.key_at(p, i);
            let code = match self.ty {
                KvType::Q4 => {
                    let high = bits(self.key_bits_at(p, i), i / 4 % 4 * 2, 3);
                    bits(at, i / 16 % 2 * 4, 15) + 16 * high - ZERO_6
                }
                _ => 0,
            };
            *key = read(at, 2 * (i / BLOCK * TILE + p), code);
        }
        for (i, value) in value.iter_mut().enumerate() {
            let at = self.value_at(p, i);
            *value = read(at, self.value_scales() + 2 * p, bits(at, p / 4 % 2 * 4, 15) - ZERO_4);
        }
        if self.ty == KvType::Q4 {
            // The rotation is its own inverse.
            rotate(key);
            rotate(value);
        }
    }
}

/// Stores the bits that `mask` covers in some bits of the first four bytes.
fn put(bytes: &mut [u8], shift: usize, mask: u32, bits: u32) {
    let Some((word, _)) = bytes.split_first_chunk_mut::<4>() else { unreachable!("the lines of a tile are whole") };
    *word = (u32::from_le_bytes(*word) & !(mask << shift) | (bits & mask) << shift).to_le_bytes();
}

/// The order 0, 2, 1, 3, which is its own inverse.
const fn swapped(i: usize) -> usize {
    i % 2 * 2 + i / 2
}

/// The scale of `values` in codes up to `levels` as f16 bits, `None` when it is not finite, and the factor that makes codes of
/// them.
fn scale(values: &[f32], levels: f32) -> (Option<u16>, f32) {
    // The order of magnitudes is that of their bits; NaN is above everything.
    let amax = f32::from_bits(values.iter().map(|x| x.to_bits() & 0x7fff_ffff).fold(0, u32::max));
    let bits = f32_to_f16(amax / levels);
    let scale = f16_to_f32(bits);
    if !scale.is_finite() {
        return (None, 0.0);
    }
    // Below the smallest f16 everything is 0.
    (Some(bits), if scale > 0.0 { 1.0 / scale } else { 0.0 })
}

/// A value as a multiple of its scale; NaN is 0.
fn code(value: f32, inverse: f32, levels: f32) -> i8 {
    nearest((value * inverse).clamp(-levels, levels)) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back_within_half_a_step() {
        for (kv, head_dim) in KvType::ALL.iter().flat_map(|kv| [1, 31, 32, 64, 80, 128].map(|head_dim| (*kv, head_dim)))
        {
            let layout = KvTiles::new(kv, head_dim);
            assert!(layout.tile_bytes().is_multiple_of(64));
            let mut tiles = vec![0u8; layout.bytes(70)];
            let at = |p: usize, i: usize, sign: f32| sign * ((p * 31 + i * 7) % 101) as f32 - 40.3;
            let row = |p: usize, sign: f32| (0..head_dim).map(|i| at(p, i, sign)).collect::<Vec<f32>>();
            for p in 0..70 {
                layout.write(&mut tiles, p, &row(p, 1.0), &row(p, -1.0));
            }
            let (mut key, mut value) = (vec![0.0; head_dim], vec![0.0; head_dim]);
            for p in 0..70 {
                layout.read(&tiles, p, &mut key, &mut value);
                for (found, wanted, levels) in [(&key, row(p, 1.0), LEVELS_6), (&value, row(p, -1.0), LEVELS_4)] {
                    let mut rotated = wanted.clone();
                    rotate(&mut rotated);
                    let rotated = rotated.iter().fold(0.0, |a: f32, x| a.max(x.abs()));
                    for (block, wanted) in found.chunks(head_dim).zip(wanted.chunks(head_dim)) {
                        let amax = wanted.iter().fold(0.0, |a: f32, x| a.max(x.abs()));
                        for (x, y) in block.iter().zip(wanted) {
                            let bound = match kv {
                                KvType::F32 => 0.0,
                                KvType::F16 => y.abs() / 2048.0,
                                // Half a step, and the rounding of the scale to 11 bits.
                                KvType::Q8 => amax * (0.5 / 127.0 + 1.0 / 2048.0),
                                // The same of every rotated component, and they may add up.
                                KvType::Q4 => rotated * (0.5 / levels + 1.0 / 2048.0) * (head_dim as f32).sqrt(),
                            };
                            assert!((x - y).abs() <= bound, "{kv:?} {head_dim} {p}: {x} {y}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn unusable_values_are_marked_and_tiny_ones_are_zero() {
        for kv in KvType::ALL {
            let layout = KvTiles::new(kv, 40);
            let mut tiles = vec![0u8; layout.bytes(1)];
            let (mut key, mut value) = (vec![0.0; 40], vec![0.0; 40]);
            for bad in [f32::NAN, f32::INFINITY, 1e30] {
                if kv == KvType::F32 && bad.is_finite() {
                    continue;
                }
                for i in [0, 39] {
                    let mut broken = [1.0f32; 40];
                    broken[i] = bad;
                    layout.write(&mut tiles, 0, &[1.0; 40], &broken);
                    layout.read(&tiles, 0, &mut key, &mut value);
                    assert!(key[0].is_nan() && value.iter().all(|x| x.is_finite()), "{kv:?}");
                    layout.write(&mut tiles, 0, &broken, &[1.0; 40]);
                    layout.read(&tiles, 0, &mut key, &mut value);
                    assert!(!key[i].is_finite() || key[0].is_nan(), "{kv:?}");
                    assert!(value.iter().all(|x| (x - 1.0).abs() < 1e-3), "{kv:?}");
                }
            }
        }
        for kv in [KvType::F16, KvType::Q8, KvType::Q4] {
            let layout = KvTiles::new(kv, 40);
            let mut tiles = vec![0u8; layout.bytes(1)];
            let (mut key, mut value) = (vec![1.0; 40], vec![1.0; 40]);
            layout.write(&mut tiles, 0, &[1e-9; 40], &[0.0; 40]);
            layout.read(&tiles, 0, &mut key, &mut value);
            assert!(key.iter().chain(&value).all(|x| *x == 0.0));
        }
    }
}
