//! Keys and values of the positions a sequence has seen.

use sherry_kernels::{Engine, KvHead, KvRows, KvTiles};

use super::ArchConfig;
use crate::{Error, Result};

/// Element type of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KvType {
    /// Half the memory; the rounding is far below that of 8-bit activations.
    #[default]
    F16,
    /// For comparison with references.
    F32,
    /// int8 with a scale per 32 components of a key and per value: about 8.4 bits.
    Q8,
}

impl KvType {
    /// Bytes of keys and values of one kv head for `positions` positions; saturates instead of overflowing.
    fn bytes(self, positions: usize, head_dim: usize) -> u64 {
        let (units, unit) = match self {
            Self::F16 => (positions, 4 * head_dim as u64),
            Self::F32 => (positions, 8 * head_dim as u64),
            Self::Q8 => (positions.div_ceil(KvTiles::POSITIONS), KvTiles::new(head_dim).tile_bytes() as u64),
        };
        unit.saturating_mul(units as u64)
    }
}

/// Layers x kv heads x what a head holds.
#[derive(Debug)]
enum Store {
    /// Keys and values, capacity x head_dim each.
    F16([Vec<u16>; 2]),
    /// Keys and values, capacity x head_dim each.
    F32([Vec<f32>; 2]),
    /// Tiles of both.
    Q8(Vec<u8>),
}

/// The cache of one sequence: per layer and kv head the positions one after the other, so that what one head attends over
/// is contiguous. Its capacity is fixed when it is made.
#[derive(Debug)]
pub struct KvCache {
    store: Store,
    ty: KvType,
    len: usize,
    capacity: usize,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl KvCache {
    /// An empty cache for `capacity` positions. Pages are not touched before they are used, so a long context costs
    /// resident memory only as it fills.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the system refuses the allocation; [`Error::Invalid`] when `capacity` is 0.
    pub fn new(config: &ArchConfig, capacity: usize, ty: KvType) -> Result<Self> {
        if capacity == 0 {
            return Err(Error::Invalid("context length: must be at least 1, found 0".to_owned()));
        }
        let bytes = Self::bytes_needed(config, capacity, ty);
        let refuse = || Error::OutOfMemory { what: format!("the KV cache of {capacity} positions"), needed: bytes };
        let (layers, kv_heads, head_dim) = (config.layers, config.kv_heads, config.head_dim);
        let bytes = usize::try_from(bytes).map_err(|_| refuse())?;
        let store = || -> Option<Store> {
            Some(match ty {
                KvType::F16 => Store::F16([zeroed(0, bytes / 4)?, zeroed(0, bytes / 4)?]),
                KvType::F32 => Store::F32([zeroed(0.0, bytes / 8)?, zeroed(0.0, bytes / 8)?]),
                KvType::Q8 => Store::Q8(zeroed(0, bytes)?),
            })
        };
        let store = store().ok_or_else(refuse)?;
        Ok(Self { store, ty, len: 0, capacity, layers, kv_heads, head_dim })
    }

    /// Bytes a cache of `capacity` positions takes; saturates instead of overflowing.
    pub fn bytes_needed(config: &ArchConfig, capacity: usize, ty: KvType) -> u64 {
        let head = ty.bytes(capacity, config.head_dim);
        head.saturating_mul(config.layers as u64).saturating_mul(config.kv_heads as u64)
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Element type.
    pub fn ty(&self) -> KvType {
        self.ty
    }

    /// Forgets every position from `len` on; longer than held changes nothing. The next tokens continue from there.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Whether the cache was made for a model of this shape.
    pub(super) fn fits(&self, config: &ArchConfig) -> bool {
        (self.layers, self.kv_heads, self.head_dim) == (config.layers, config.kv_heads, config.head_dim)
    }

    /// Stores keys and values (tokens x kv_heads x head_dim) of `layer` after the positions held.
    pub(super) fn write(&mut self, engine: &Engine, layer: usize, keys: &[f32], values: &[f32]) {
        let (at, d, kv_heads, capacity) = (self.len, self.head_dim, self.kv_heads, self.capacity);
        let tokens = keys.len() / (kv_heads * d);
        let range = |t: usize, h: usize| (t * kv_heads + h) * d..(t * kv_heads + h + 1) * d;
        match &mut self.store {
            Store::F16(to) => {
                for (to, rows) in to.iter_mut().zip([keys, values]) {
                    for (t, h) in (0..tokens).flat_map(|t| (0..kv_heads).map(move |h| (t, h))) {
                        let start = ((layer * kv_heads + h) * capacity + at + t) * d;
                        engine.to_f16(&rows[range(t, h)], &mut to[start..start + d]);
                    }
                }
            }
            Store::F32(to) => {
                for (to, rows) in to.iter_mut().zip([keys, values]) {
                    for (t, h) in (0..tokens).flat_map(|t| (0..kv_heads).map(move |h| (t, h))) {
                        let start = ((layer * kv_heads + h) * capacity + at + t) * d;
                        to[start..start + d].copy_from_slice(&rows[range(t, h)]);
                    }
                }
            }
            Store::Q8(tiles) => {
                let layout = KvTiles::new(d);
                let head_bytes = layout.bytes(capacity);
                let tiles = &mut tiles[layer * kv_heads * head_bytes..][..kv_heads * head_bytes];
                let head = |h: usize, tiles: &mut [u8]| {
                    for t in 0..tokens {
                        layout.write(tiles, at + t, &keys[range(t, h)], &values[range(t, h)]);
                    }
                };
                if tokens < WRITE_ALONE {
                    tiles.chunks_exact_mut(head_bytes).enumerate().for_each(|(h, tiles)| head(h, tiles));
                } else {
                    engine.pool().for_chunks(tiles, head_bytes, head);
                }
            }
        }
    }

    /// Counts `tokens` more positions as held, once every layer has written them.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Keys and values of `layer` and `head` at `positions`, which must have been written.
    pub(super) fn rows(&self, layer: usize, head: usize, positions: std::ops::Range<usize>) -> KvHead<'_> {
        let head = layer * self.kv_heads + head;
        let base = head * self.capacity;
        let range = (base + positions.start) * self.head_dim..(base + positions.end) * self.head_dim;
        let first = positions.start;
        match &self.store {
            Store::F16([k, v]) => KvHead::Rows { k: KvRows::F16(&k[range.clone()]), v: KvRows::F16(&v[range]), first },
            Store::F32([k, v]) => KvHead::Rows { k: KvRows::F32(&k[range.clone()]), v: KvRows::F32(&v[range]), first },
            Store::Q8(tiles) => {
                let head_bytes = KvTiles::new(self.head_dim).bytes(self.capacity);
                let tiles = &tiles[head * head_bytes..(head + 1) * head_bytes];
                KvHead::Tiles { tiles, first, end: positions.end }
            }
        }
    }
}

/// Below this many tokens one thread stores them: sharing the work would cost more.
const WRITE_ALONE: usize = 8;

/// `len` zeros, or `None` when the system refuses. The reservation only asks whether there is room: filling it would
/// touch every page, whereas `vec!` of zeros gets untouched pages from the system.
fn zeroed<T: Clone>(zero: T, len: usize) -> Option<Vec<T>> {
    Vec::<T>::new().try_reserve_exact(len).ok()?;
    Some(vec![zero; len])
}

#[cfg(test)]
mod tests {
    use sherry_kernels::{Isa, Precision};

    use super::*;
    use crate::model::{Family, synthetic::tiny};

    #[test]
    fn an_impossible_cache_is_refused_with_its_size() {
        let mut config = tiny(Family::Llama);
        config.layers = 4096;
        let error = KvCache::new(&config, 1 << 28, KvType::F32).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        assert!(error.to_string().contains("GiB"), "{error}");
        assert!(KvCache::new(&config, usize::MAX, KvType::F32).is_err());
        assert!(KvCache::new(&config, 0, KvType::F32).is_err());
    }

    #[test]
    fn rows_come_back_in_order() {
        let config = tiny(Family::Llama);
        let (d, heads) = (config.head_dim, config.kv_heads);
        let mut cache = KvCache::new(&config, 4, KvType::F32).unwrap();
        let keys: Vec<f32> = (0..3 * heads * d).map(|i| i as f32).collect();
        let values: Vec<f32> = keys.iter().map(|x| -x).collect();
        let engine = Engine::new(Isa::Scalar, 1, Precision::F32);
        cache.write(&engine, 1, &keys, &values);
        cache.advance(3);
        let KvHead::Rows { k: KvRows::F32(k), v: KvRows::F32(v), first: 1 } = cache.rows(1, 1, 1..3) else { panic!() };
        for t in 0..2 {
            for i in 0..d {
                assert_eq!(k[t * d + i], (((t + 1) * heads + 1) * d + i) as f32);
                assert_eq!(v[t * d + i], -k[t * d + i]);
            }
        }
        cache.truncate(9);
        assert_eq!(cache.len(), 3);
        cache.truncate(1);
        assert_eq!(cache.len(), 1);
    }
}
