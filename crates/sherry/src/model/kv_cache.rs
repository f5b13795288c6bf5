//! Keys and values of the positions a sequence has seen.

use sherry_kernels::{Engine, KvHead, KvTiles, KvType};

use super::ArchConfig;
use crate::{Error, Result};

/// The cache of one sequence. Its capacity is fixed when it is made.
#[derive(Debug)]
pub struct KvCache {
    /// Chunks of positions x layers x kv heads x the tiles of a chunk: what is in use lies together, in few large pages.
    tiles: Vec<u8>,
    layout: KvTiles,
    len: usize,
    capacity: usize,
    layers: usize,
    kv_heads: usize,
}

impl KvCache {
    /// An empty cache for `capacity` positions. Memory is not touched before it is used, so a long context costs resident
    /// memory only as it fills, a [chunk](KvTiles::CHUNK) at a time.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the system refuses the allocation; [`Error::Invalid`] when `capacity` is 0.
    pub fn new(config: &ArchConfig, capacity: usize, ty: KvType) -> Result<Self> {
        if capacity == 0 {
            return Err(Error::Invalid("context length: must be at least 1, found 0".to_owned()));
        }
        let bytes = Self::bytes_needed(config, capacity, ty);
        let refuse = || Error::OutOfMemory { what: format!("the KV cache of {capacity} positions"), needed: bytes };
        let bytes = usize::try_from(bytes).map_err(|_| refuse())?;
        let layout = KvTiles::new(ty, config.head_dim);
        let tiles = KvTiles::zeroed(bytes).ok_or_else(refuse)?;
        Ok(Self { tiles, layout, len: 0, capacity, layers: config.layers, kv_heads: config.kv_heads })
    }

    /// Bytes a cache of `capacity` positions takes; saturates instead of overflowing.
    pub fn bytes_needed(config: &ArchConfig, capacity: usize, ty: KvType) -> u64 {
        let head = head_bytes(KvTiles::new(ty, config.head_dim), capacity) as u64;
        let chunks = capacity.div_ceil(KvTiles::CHUNK) as u64;
        head.saturating_mul(config.layers as u64).saturating_mul(config.kv_heads as u64).saturating_mul(chunks)
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
        (self.layers, self.kv_heads, self.layout.head_dim()) == (config.layers, config.kv_heads, config.head_dim)
    }

    /// Stores keys and values (tokens x kv_heads x head_dim) of `layer` after the positions held.
    pub(super) fn write(&mut self, engine: &Engine, layer: usize, keys: &[f32], values: &[f32]) {
        let (d, kv_heads, layout) = (self.layout.head_dim(), self.kv_heads, self.layout);
        let (at, end) = (self.len, self.len + keys.len() / (kv_heads * d));
        let (head_bytes, stride) = (head_bytes(layout, self.capacity), self.stride());
        let mut start = at;
        while start < end {
            let chunk = start / KvTiles::CHUNK;
            let positions = start..end.min((chunk + 1) * KvTiles::CHUNK);
            let tiles = &mut self.tiles[chunk * stride + layer * kv_heads * head_bytes..][..kv_heads * head_bytes];
            let head = |h: usize, tiles: &mut [u8]| {
                for p in positions.clone() {
                    let range = ((p - at) * kv_heads + h) * d..((p - at) * kv_heads + h + 1) * d;
                    layout.write(tiles, p % KvTiles::CHUNK, &keys[range.clone()], &values[range]);
                }
            };
            if positions.len() < WRITE_ALONE {
                tiles.chunks_exact_mut(head_bytes).enumerate().for_each(|(h, tiles)| head(h, tiles));
            } else {
                engine.pool().for_chunks(tiles, head_bytes, head);
            }
            start = positions.end;
        }
    }

    /// Bytes of a chunk of all layers.
    fn stride(&self) -> usize {
        self.layers * self.kv_heads * head_bytes(self.layout, self.capacity)
    }

    /// Counts `tokens` more positions as held, once every layer has written them.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// What `layer` and `head` hold at `positions`, which must have been written.
    pub(super) fn head(&self, layer: usize, head: usize, positions: std::ops::Range<usize>) -> KvHead<'_> {
        let at = (layer * self.kv_heads + head) * head_bytes(self.layout, self.capacity);
        KvHead { tiles: &self.tiles[at..], stride: self.stride(), first: positions.start, end: positions.end }
    }
}

/// Bytes of a head's tiles in a chunk: a cache of less than a chunk is no longer than it must be.
fn head_bytes(layout: KvTiles, capacity: usize) -> usize {
    layout.bytes(capacity.min(KvTiles::CHUNK))
}

/// Below this many tokens one thread stores them: sharing the work would cost more.
const WRITE_ALONE: usize = 8;

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
    fn positions_come_back_in_order() {
        let config = tiny(Family::Llama);
        let (d, heads) = (config.head_dim, config.kv_heads);
        let engine = Engine::new(Isa::Scalar, 2, Precision::F32);
        // Less than a chunk of positions, and several, written across their borders.
        for (capacity, batches) in [(4, [1, 2, 1].as_slice()), (700, &[1, 254, 2, 300, 120])] {
            let mut cache = KvCache::new(&config, capacity, KvType::F32).unwrap();
            let mut written = 0;
            for &tokens in batches {
                for layer in 0..config.layers {
                    let at = |i: usize| (1000 * layer + (written * heads * d + i)) as f32;
                    let keys: Vec<f32> = (0..tokens * heads * d).map(at).collect();
                    let values: Vec<f32> = keys.iter().map(|x| -x).collect();
                    cache.write(&engine, layer, &keys, &values);
                }
                cache.advance(tokens);
                written += tokens;
            }
            let (mut key, mut value) = (vec![0.0; d], vec![0.0; d]);
            for layer in 0..config.layers {
                for head in 0..heads {
                    let kv = cache.head(layer, head, 1..written);
                    assert_eq!((kv.first, kv.end), (1, written));
                    for p in 0..written {
                        let tiles = &kv.tiles[p / KvTiles::CHUNK * kv.stride..];
                        cache.layout.read(tiles, p % KvTiles::CHUNK, &mut key, &mut value);
                        for i in 0..d {
                            assert_eq!(key[i], (1000 * layer + (p * heads + head) * d + i) as f32);
                            assert_eq!(value[i], -key[i]);
                        }
                    }
                }
            }
            cache.truncate(capacity + 1);
            assert_eq!(cache.len(), written);
            cache.truncate(1);
            assert_eq!(cache.len(), 1);
        }
    }
}
