//! Keys and values of the positions a sequence has seen.

use sherry_kernels::{Engine, KvRows};

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
}

impl KvType {
    /// Bytes per element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// One array of layers x kv_heads x capacity x head_dim.
#[derive(Debug)]
enum Store {
    F16(Vec<u16>),
    F32(Vec<f32>),
}

/// The cache of one sequence: per layer, kv heads x positions x head_dim, so that what one head attends over is
/// contiguous. Its capacity is fixed when it is made.
#[derive(Debug)]
pub struct KvCache {
    keys: Store,
    values: Store,
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
        let elements = usize::try_from(bytes / (2 * ty.bytes() as u64)).map_err(|_| refuse())?;
        let store = || -> Option<Store> {
            Some(match ty {
                KvType::F16 => Store::F16(zeroed(0, elements)?),
                KvType::F32 => Store::F32(zeroed(0.0, elements)?),
            })
        };
        let keys = store().ok_or_else(refuse)?;
        let values = store().ok_or_else(refuse)?;
        Ok(Self { keys, values, ty, len: 0, capacity, layers, kv_heads, head_dim })
    }

    /// Bytes a cache of `capacity` positions takes; saturates instead of overflowing.
    pub fn bytes_needed(config: &ArchConfig, capacity: usize, ty: KvType) -> u64 {
        [config.layers, config.kv_heads, capacity, config.head_dim, ty.bytes(), 2]
            .into_iter()
            .fold(1, |product: u64, n| product.saturating_mul(n as u64))
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
        let (at, d) = (self.len, self.head_dim);
        for (store, rows) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (t, row) in rows.chunks_exact(self.kv_heads * d).enumerate() {
                for (h, head) in row.chunks_exact(d).enumerate() {
                    let start = ((layer * self.kv_heads + h) * self.capacity + at + t) * d;
                    match store {
                        Store::F32(to) => to[start..start + d].copy_from_slice(head),
                        Store::F16(to) => engine.to_f16(head, &mut to[start..start + d]),
                    }
                }
            }
        }
    }

    /// Counts `tokens` more positions as held, once every layer has written them.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Keys and values of `layer` and `head` at `positions`, which must have been written.
    pub(super) fn rows(&self, layer: usize, head: usize, positions: std::ops::Range<usize>) -> [KvRows<'_>; 2] {
        let base = (layer * self.kv_heads + head) * self.capacity;
        let range = (base + positions.start) * self.head_dim..(base + positions.end) * self.head_dim;
        [&self.keys, &self.values].map(|store| match store {
            Store::F16(x) => KvRows::F16(&x[range.clone()]),
            Store::F32(x) => KvRows::F32(&x[range.clone()]),
        })
    }
}

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
        let [KvRows::F32(k), KvRows::F32(v)] = cache.rows(1, 1, 1..3) else { panic!() };
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
