//! Keys and values of the positions a sequence has seen.

use sherry_kernels::{Engine, KvHead, KvTiles, KvType};

use super::ArchConfig;
use crate::{Error, Result};

/// The cache of one sequence: per layer and kv head the positions one after the other, so that what one head attends over
/// is contiguous. Its capacity is fixed when it is made.
#[derive(Debug)]
pub struct KvCache {
    /// layers x kv heads x the tiles of `capacity` positions.
    tiles: Vec<u8>,
    layout: KvTiles,
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
        let layout = KvTiles::new(ty, head_dim);
        let tiles = zeroed(bytes).ok_or_else(refuse)?;
        Ok(Self { tiles, layout, len: 0, capacity, layers, kv_heads, head_dim })
    }

    /// Bytes a cache of `capacity` positions takes; saturates instead of overflowing.
    pub fn bytes_needed(config: &ArchConfig, capacity: usize, ty: KvType) -> u64 {
        let head = KvTiles::new(ty, config.head_dim).bytes(capacity) as u64;
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
        self.layout.ty()
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
        let (at, d, kv_heads, layout) = (self.len, self.head_dim, self.kv_heads, self.layout);
        let tokens = keys.len() / (kv_heads * d);
        let head_bytes = layout.bytes(self.capacity);
        let tiles = &mut self.tiles[layer * kv_heads * head_bytes..][..kv_heads * head_bytes];
        let head = |h: usize, tiles: &mut [u8]| {
            for t in 0..tokens {
                let range = (t * kv_heads + h) * d..(t * kv_heads + h + 1) * d;
                layout.write(tiles, at + t, &keys[range.clone()], &values[range]);
            }
        };
        if tokens < WRITE_ALONE {
            tiles.chunks_exact_mut(head_bytes).enumerate().for_each(|(h, tiles)| head(h, tiles));
        } else {
            engine.pool().for_chunks(tiles, head_bytes, head);
        }
    }

    /// Counts `tokens` more positions as held, once every layer has written them.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// What `layer` and `head` hold at `positions`, which must have been written.
    pub(super) fn head(&self, layer: usize, head: usize, positions: std::ops::Range<usize>) -> KvHead<'_> {
        let head_bytes = self.layout.bytes(self.capacity);
        let tiles = &self.tiles[(layer * self.kv_heads + head) * head_bytes..][..head_bytes];
        KvHead { tiles, first: positions.start, end: positions.end }
    }
}

/// Below this many tokens one thread stores them: sharing the work would cost more.
const WRITE_ALONE: usize = 8;

/// `len` zeros, or `None` when the system refuses. The reservation only asks whether there is room: filling it would
/// touch every page, whereas `vec!` of zeros gets untouched pages from the system.
fn zeroed(len: usize) -> Option<Vec<u8>> {
    Vec::<u8>::new().try_reserve_exact(len).ok()?;
    Some(vec![0; len])
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
        let KvHead { tiles, first: 1, end: 3 } = cache.head(1, 1, 1..3) else { panic!() };
        let (mut key, mut value) = (vec![0.0; d], vec![0.0; d]);
        for t in 1..3 {
            cache.layout.read(tiles, t, &mut key, &mut value);
            for i in 0..d {
                assert_eq!(key[i], ((t * heads + 1) * d + i) as f32);
                assert_eq!(value[i], -key[i]);
            }
        }
        cache.truncate(9);
        assert_eq!(cache.len(), 3);
        cache.truncate(1);
        assert_eq!(cache.len(), 1);
    }
}
