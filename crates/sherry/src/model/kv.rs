//! Keys and values of all sequences, in pages of one slab.
//!
//! A page holds a [chunk](KvTiles::CHUNK) of 256 positions of one sequence, all layers and heads: the unit that attention
//! works on, so that a list of pages is as fast as one piece of memory. Full pages never change again, and any number of
//! sequences may hold them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sherry_kernels::{Engine, KvHead, KvTiles, KvType};

use super::ArchConfig;
use crate::{Error, Result};

/// Positions per page.
pub const PAGE: usize = KvTiles::CHUNK;

/// The memory for the keys and values of every sequence that a decoder runs together, cut into pages.
///
/// ```
/// use sherry::model::{Family, KvPages, KvPool, KvType, synthetic};
/// let mut pool = KvPool::new(&synthetic::tiny(Family::Llama), 4, KvType::F16)?;
/// let mut sequence = KvPages::default();
/// pool.reserve(&mut sequence, 300)?; // two pages of 256 positions
/// assert_eq!(pool.free(), 2);
/// drop(sequence);
/// assert_eq!(pool.free(), 4);
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Debug)]
pub struct KvPool {
    slab: Vec<u8>,
    layout: KvTiles,
    layers: usize,
    kv_heads: usize,
    ledger: Arc<Ledger>,
}

/// The positions of one sequence: the pages they are in, and how many there are. Dropping it gives the pages back that no
/// other sequence holds.
#[derive(Debug, Default)]
pub struct KvPages {
    pages: Vec<KvPage>,
    /// Where each page begins in the slab.
    starts: Vec<usize>,
    len: usize,
}

/// A page in use, and free again when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct KvPage(Arc<Page>);

#[derive(Debug)]
struct Page {
    number: usize,
    ledger: Arc<Ledger>,
}

/// Which pages are free; the last one is taken next, so that memory that was in use is used again first.
#[derive(Debug)]
struct Ledger {
    free: Mutex<Vec<usize>>,
    pages: usize,
}

impl Ledger {
    fn free(&self) -> MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.ledger.free().push(self.number);
    }
}

impl KvPage {
    /// Whether somebody else holds the page, so that it must not change.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Which page it is.
    #[cfg(test)]
    pub(crate) fn number(&self) -> usize {
        self.0.number
    }
}

impl KvPool {
    /// A pool of `pages` pages. Memory that was never used is not touched, so a large pool costs resident memory only as it
    /// fills.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the system refuses the allocation; [`Error::Invalid`] when `pages` is 0.
    pub fn new(config: &ArchConfig, pages: usize, ty: KvType) -> Result<Self> {
        if pages == 0 {
            return Err(Error::Invalid("a pool for keys and values needs at least one page".to_owned()));
        }
        let needed = Self::page_bytes(config, ty).saturating_mul(pages as u64);
        let refuse = || Error::OutOfMemory { what: format!("the KV cache of {pages} x {PAGE} positions"), needed };
        let bytes = usize::try_from(needed).map_err(|_| refuse())?;
        let slab = KvTiles::zeroed(bytes).ok_or_else(refuse)?;
        let layout = KvTiles::new(ty, config.head_dim);
        let ledger = Ledger { free: Mutex::new((0..pages).rev().collect()), pages };
        Ok(Self { slab, layout, layers: config.layers, kv_heads: config.kv_heads, ledger: Arc::new(ledger) })
    }

    /// Bytes of a page; saturates instead of overflowing.
    pub fn page_bytes(config: &ArchConfig, ty: KvType) -> u64 {
        let head = KvTiles::new(ty, config.head_dim).bytes(PAGE) as u64;
        head.saturating_mul(config.layers as u64).saturating_mul(config.kv_heads as u64)
    }

    /// Pages there are.
    pub fn pages(&self) -> usize {
        self.ledger.pages
    }

    /// Pages that nobody holds.
    pub fn free(&self) -> usize {
        self.ledger.free().len()
    }

    /// Element type.
    pub fn ty(&self) -> KvType {
        self.layout.ty()
    }

    /// Pages that `tokens` more positions of `sequence` take from those that are free.
    pub fn needed(&self, sequence: &KvPages, tokens: usize) -> usize {
        if tokens == 0 {
            return 0;
        }
        let more = sequence.len.saturating_add(tokens).div_ceil(PAGE).saturating_sub(sequence.pages.len());
        more + usize::from(sequence.must_copy())
    }

    /// Makes room for `tokens` more positions of `sequence`. A page that is not full and held by others as well is copied.
    ///
    /// # Errors
    /// [`Error::KvFull`] when too few pages are free; [`Error::Invalid`] when the sequence is in another pool. Nothing has
    /// changed then.
    pub fn reserve(&mut self, sequence: &mut KvPages, tokens: usize) -> Result<()> {
        self.check(sequence)?;
        let (needed, free) = (self.needed(sequence, tokens), self.free());
        if needed > free {
            return Err(Error::KvFull { needed, free });
        }
        if tokens > 0 && sequence.must_copy() {
            let (index, used) = (sequence.len / PAGE, sequence.len % PAGE);
            let (copy, start) = self.take()?;
            self.copy(sequence.starts[index], start, used);
            (sequence.pages[index], sequence.starts[index]) = (copy, start);
        }
        while tokens > 0 && sequence.pages.len() < (sequence.len + tokens).div_ceil(PAGE) {
            let (page, start) = self.take()?;
            sequence.pages.push(page);
            sequence.starts.push(start);
        }
        Ok(())
    }

    /// A second sequence with the positions of `sequence`: full pages are shared, the last one is copied.
    ///
    /// # Errors
    /// [`Error::KvFull`] when the copy finds no free page; [`Error::Invalid`] when the sequence is in another pool.
    pub fn fork(&mut self, sequence: &KvPages) -> Result<KvPages> {
        self.check(sequence)?;
        let mut fork = KvPages::default();
        for page in &sequence.pages[..sequence.len / PAGE] {
            self.append_shared(&mut fork, page.clone());
        }
        let rest = sequence.len % PAGE;
        if rest > 0 {
            self.append_copy(&mut fork, &sequence.pages[sequence.len / PAGE], rest)?;
        }
        Ok(fork)
    }

    /// Continues a sequence of whole pages by a full page that others hold as well. A page reserved for these positions is
    /// given back.
    pub(crate) fn append_shared(&self, sequence: &mut KvPages, page: KvPage) {
        assert!(sequence.len.is_multiple_of(PAGE), "the page follows whole pages");
        let (index, start) = (sequence.len / PAGE, self.start(&page));
        if index < sequence.pages.len() {
            (sequence.pages[index], sequence.starts[index]) = (page, start);
        } else {
            sequence.pages.push(page);
            sequence.starts.push(start);
        }
        sequence.len += PAGE;
    }

    /// Continues a sequence of whole pages by a copy of the first `positions` of `page`, less than all.
    ///
    /// # Errors
    /// [`Error::KvFull`] when no page is free.
    pub(crate) fn append_copy(&mut self, sequence: &mut KvPages, page: &KvPage, positions: usize) -> Result<()> {
        assert!(sequence.len.is_multiple_of(PAGE) && positions < PAGE, "a part of a page follows whole pages");
        self.reserve(sequence, positions)?;
        let to = sequence.starts[sequence.len / PAGE];
        self.copy(self.start(page), to, positions);
        sequence.len += positions;
        Ok(())
    }

    /// Makes a sequence hold `page` in place of its own full page `index`, which holds the same keys and values.
    pub(crate) fn replace(&self, sequence: &mut KvPages, index: usize, page: KvPage) {
        assert!((index + 1) * PAGE <= sequence.len, "the page is full");
        (sequence.starts[index], sequence.pages[index]) = (self.start(&page), page);
    }

    fn start(&self, page: &KvPage) -> usize {
        assert!(Arc::ptr_eq(&page.0.ledger, &self.ledger), "the page is of this pool");
        page.0.number * self.stride()
    }

    /// A page that was free, and where it begins.
    fn take(&mut self) -> Result<(KvPage, usize)> {
        let number = self.ledger.free().pop().ok_or(Error::KvFull { needed: 1, free: 0 })?;
        let page = KvPage(Arc::new(Page { number, ledger: Arc::clone(&self.ledger) }));
        Ok((page, number * self.stride()))
    }

    /// Copies the tiles of the first `positions` of a page, of all layers and heads.
    fn copy(&mut self, from: usize, to: usize, positions: usize) {
        let (head, used) = (self.layout.bytes(PAGE), self.layout.bytes(positions));
        for offset in (0..self.stride()).step_by(head) {
            self.slab.copy_within(from + offset..from + offset + used, to + offset);
        }
    }

    /// Bytes of a page.
    fn stride(&self) -> usize {
        self.layers * self.kv_heads * self.layout.bytes(PAGE)
    }

    /// Whether the pool was made for a model of this shape.
    pub(super) fn fits(&self, config: &ArchConfig) -> bool {
        (self.layers, self.kv_heads, self.layout.head_dim()) == (config.layers, config.kv_heads, config.head_dim)
    }

    /// Refuses a sequence with pages of another pool.
    pub(super) fn check(&self, sequence: &KvPages) -> Result<()> {
        // All pages of a sequence come from one pool.
        match sequence.pages.first() {
            Some(page) if !Arc::ptr_eq(&page.0.ledger, &self.ledger) => {
                Err(Error::Invalid("the sequence is in another pool".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Stores keys and values (tokens x kv_heads x head_dim) of `layer` after the positions held, where room was
    /// [reserved](Self::reserve).
    pub(super) fn write(&mut self, engine: &Engine, sequence: &KvPages, layer: usize, keys: &[f32], values: &[f32]) {
        let (d, kv_heads, layout) = (self.layout.head_dim(), self.kv_heads, self.layout);
        let (at, end) = (sequence.len, sequence.len + keys.len() / (kv_heads * d));
        let head_bytes = layout.bytes(PAGE);
        let mut start = at;
        while start < end {
            let index = start / PAGE;
            assert!(!sequence.pages[index].is_shared(), "a page that others hold does not change");
            let positions = start..end.min((index + 1) * PAGE);
            let tiles =
                &mut self.slab[sequence.starts[index] + layer * kv_heads * head_bytes..][..kv_heads * head_bytes];
            let head = |h: usize, tiles: &mut [u8]| {
                for p in positions.clone() {
                    let range = ((p - at) * kv_heads + h) * d..((p - at) * kv_heads + h + 1) * d;
                    layout.write(tiles, p % PAGE, &keys[range.clone()], &values[range]);
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

    /// What `layer` and `head` hold at `positions`, which must have been written.
    pub(super) fn head<'a>(
        &'a self,
        sequence: &'a KvPages,
        layer: usize,
        head: usize,
        positions: Range<usize>,
    ) -> KvHead<'a> {
        KvHead {
            slab: &self.slab,
            chunks: &sequence.starts,
            offset: (layer * self.kv_heads + head) * self.layout.bytes(PAGE),
            first: positions.start,
            end: positions.end,
        }
    }
}

impl KvPages {
    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets every position from `len` on, and gives back the pages that are no longer needed; longer than held changes
    /// nothing. The next tokens continue from there.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = len;
            self.pages.truncate(len.div_ceil(PAGE));
            self.starts.truncate(self.pages.len());
        }
    }

    /// The pages that hold positions, the last one perhaps in part.
    pub(crate) fn held(&self) -> &[KvPage] {
        &self.pages[..self.len.div_ceil(PAGE)]
    }

    /// Whether the page that the next position goes to is in use by others.
    fn must_copy(&self) -> bool {
        !self.len.is_multiple_of(PAGE) && self.pages[self.len / PAGE].is_shared()
    }

    /// Counts `tokens` more positions as held, once every layer has written them.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

/// Below this many tokens one thread stores them: sharing the work would cost more.
const WRITE_ALONE: usize = 8;

/// The keys and values of a single sequence with memory of its own: for programs that run one at a time.
///
/// ```
/// # use std::sync::Arc;
/// # use sherry::model::{Decoder, Family, KvCache, KvType, Model, Wanted, synthetic};
/// # use sherry_kernels::{Engine, Isa, Precision};
/// # let model = synthetic::model(&synthetic::tiny(Family::Llama), 1)?;
/// let mut decoder = Decoder::new(Arc::new(model), Engine::new(Isa::best(), 1, Precision::Int8));
/// let mut cache = KvCache::new(decoder.config(), 64, KvType::F16)?;
/// let logits = decoder.forward_one(&mut cache, &[3, 14, 15], Wanted::Last)?;
/// assert_eq!(logits.rows(), 1);
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Debug)]
pub struct KvCache {
    pub(super) pool: KvPool,
    pub(super) pages: KvPages,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for `capacity` positions, which are in whole pages. Memory is not touched before it is used, so a long
    /// context costs resident memory only as it fills.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the system refuses the allocation; [`Error::Invalid`] when `capacity` is 0.
    pub fn new(config: &ArchConfig, capacity: usize, ty: KvType) -> Result<Self> {
        if capacity == 0 {
            return Err(Error::Invalid("context length: must be at least 1, found 0".to_owned()));
        }
        let pool = KvPool::new(config, capacity.div_ceil(PAGE), ty)?;
        Ok(Self { pool, pages: KvPages::default(), capacity })
    }

    /// Bytes a cache of `capacity` positions takes; saturates instead of overflowing.
    pub fn bytes_needed(config: &ArchConfig, capacity: usize, ty: KvType) -> u64 {
        KvPool::page_bytes(config, ty).saturating_mul(capacity.div_ceil(PAGE) as u64)
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Positions it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Element type.
    pub fn ty(&self) -> KvType {
        self.pool.ty()
    }

    /// Forgets every position from `len` on; longer than held changes nothing. The next tokens continue from there.
    pub fn truncate(&mut self, len: usize) {
        self.pages.truncate(len);
    }
}

#[cfg(test)]
#[path = "kv_tests.rs"]
mod tests;
