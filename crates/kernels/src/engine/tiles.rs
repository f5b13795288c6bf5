//! Attention over 8-bit caches: what is computed together, and by which worker.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::attention::{AttentionShape, KvHead};
use super::{Engine, partition};
use crate::generic::panel::InputBlock;
use crate::generic::tiles::{CHUNK, QueryRow, TilesChunk, partial_len};
use crate::kv::{BLOCK, KvTiles};
use crate::pool::SharedPtr;

/// Most tokens of a sequence that go through a chunk of keys and values together.
const TOKENS: usize = 16;

/// Reused between calls.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    workers: Vec<Mutex<Worker>>,
    /// Partial results of all chunks, where they are not folded at once.
    partials: Mutex<Vec<f32>>,
}

impl Scratch {
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| Mutex::default()).collect(), partials: Mutex::default() }
    }
}

/// Space of one worker.
#[derive(Debug, Default)]
struct Worker {
    /// Rounded queries, rows x width, and the scales of their blocks.
    q: Vec<i8>,
    blocks: Vec<InputBlock>,
    /// Results of one chunk, rows x `partial_len`.
    partials: Vec<f32>,
    /// Results so far, rows x `partial_len`.
    states: Vec<f32>,
}

/// Some tokens of a sequence and one kv head.
struct Unit<'kv> {
    tokens: Range<usize>,
    kv_head: usize,
    tiles: &'kv [u8],
    /// Chunks that some token sees.
    chunks: Range<usize>,
    /// Number of the unit's first chunk among those of all units.
    at: usize,
}

/// What all workers share.
struct Call<'a> {
    engine: &'a Engine,
    shape: AttentionShape,
    layout: KvTiles,
    q: &'a [f32],
    /// What each token sees.
    seen: &'a [Range<usize>],
}

impl Engine {
    /// [`attention`](Engine::attention) over [`KvHead::Tiles`]. Units of tokens x kv head are spread over the workers; when
    /// they are few (decoding), their chunks are, and the partial results are folded afterwards in the same order.
    pub(super) fn attention_tiles<'kv>(
        &self,
        shape: AttentionShape,
        q: &[f32],
        kv: &(impl Fn(usize, usize) -> KvHead<'kv> + Sync),
        out: &mut [f32],
    ) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let layout = KvTiles::new(head_dim);
        let tokens = q.len() / (heads * head_dim);
        let at = |token: usize, kv_head: usize| {
            let KvHead::Tiles { tiles, first, end } = kv(token, kv_head) else { panic!("caches of different kinds") };
            assert!(first <= end && layout.bytes(end) <= tiles.len(), "the tiles do not hold what is seen");
            (tiles, first..end)
        };
        let seen: Vec<Range<usize>> = (0..tokens).map(|token| at(token, 0).1).collect();
        let mut units = Vec::new();
        let mut chunks = 0;
        let mut token = 0;
        while token < tokens {
            let first = at(token, 0).0.as_ptr();
            let same = (token..tokens.min(token + TOKENS)).take_while(|t| at(*t, 0).0.as_ptr() == first).count();
            let range = token..token + same;
            let start = seen[range.clone()].iter().map(|seen| seen.start).min().unwrap_or(0) / CHUNK;
            let end = seen[range.clone()].iter().map(|seen| seen.end).max().unwrap_or(0).div_ceil(CHUNK);
            for kv_head in 0..kv_heads {
                for token in range.clone() {
                    let (tiles, positions) = at(token, kv_head);
                    assert!(positions == seen[token] && tiles.len() == at(token, 0).0.len(), "kv heads of one token");
                }
                let unit = Unit {
                    tokens: range.clone(),
                    kv_head,
                    tiles: at(token, kv_head).0,
                    chunks: start..end.max(start),
                    at: chunks,
                };
                chunks += unit.chunks.len();
                units.push(unit);
            }
            token += same;
        }
        let call = Call { engine: self, shape, layout, q, seen: &seen };
        let workers = self.pool.threads();
        if workers == 1 || units.len() >= 4 * workers || chunks == units.len() {
            let bounds = partition(units.iter().map(|unit| call.cost(unit)), workers);
            let out = SharedPtr(out.as_mut_ptr());
            self.pool.run(&|worker| {
                // SAFETY: every unit belongs to one worker, units write different outputs, and `out` is borrowed mutably
                // for the whole call and as long as `q`.
                unsafe { call.whole(&units[bounds[worker]..bounds[worker + 1]], worker, out) };
            });
        } else {
            let bounds: Vec<usize> = (0..=workers).map(|worker| chunks * worker / workers).collect();
            let mut partials = self.attention.partials.lock().unwrap_or_else(PoisonError::into_inner);
            let row = partial_len(layout);
            let rows = |unit: &Unit<'_>| unit.tokens.len() * (heads / kv_heads);
            let most = units.iter().map(rows).max().unwrap_or(0);
            partials.resize(chunks * most * row, 0.0);
            let to = SharedPtr(partials.as_mut_ptr());
            self.pool.run(&|worker| {
                let mine = bounds[worker]..bounds[worker + 1];
                // SAFETY: every chunk of a unit belongs to one worker and has room for `most` rows of its own.
                unsafe { call.parts(&units, mine, worker, to, most) };
            });
            let out = SharedPtr(out.as_mut_ptr());
            for unit in &units {
                let rows = rows(unit);
                let (first, rest) =
                    partials[unit.at * most * row..][..unit.chunks.len() * most * row].split_at_mut(most * row);
                for partial in rest.chunks_exact(most * row) {
                    call.fold(&mut first[..rows * row], &partial[..rows * row]);
                }
                // SAFETY: units write different outputs; `out` is borrowed mutably and as long as `q`.
                unsafe { call.finish(unit, &first[..rows * row], out) };
            }
        }
    }
}

impl Call<'_> {
    /// About how much work a unit is.
    fn cost(&self, unit: &Unit<'_>) -> u64 {
        let seen = self.seen[unit.tokens.clone()].iter().map(|seen| 32 + seen.len() as u64);
        seen.sum()
    }

    /// Query heads per kv head.
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Rounds the queries of a unit into `q` and `blocks`: tokens x group rows.
    fn rows(&self, unit: &Unit<'_>, q: &mut Vec<i8>, blocks: &mut Vec<InputBlock>) -> Vec<QueryRow> {
        let AttentionShape { heads, head_dim, .. } = self.shape;
        let (group, width) = (self.group(), self.layout.width);
        let count = unit.tokens.len() * group;
        q.resize(count * width, 0);
        blocks.resize(count * width / BLOCK, InputBlock::default());
        let mut padded = vec![0.0; count * width];
        for (row, padded) in padded.chunks_exact_mut(width).enumerate() {
            let head = (unit.tokens.start + row / group) * heads + unit.kv_head * group + row % group;
            padded[..head_dim].copy_from_slice(&self.q[head * head_dim..][..head_dim]);
        }
        // SAFETY: the engine has checked the instruction set.
        unsafe { (self.engine.kernels.quantize)(&padded, q, blocks) };
        let queries = q.chunks_exact(width).zip(blocks.chunks_exact(width / BLOCK));
        let rows = queries.enumerate().map(|(row, (q, blocks))| {
            let Range { start: first, end } = self.seen[unit.tokens.start + row / group];
            QueryRow { q: q.as_ptr(), blocks: blocks.as_ptr(), first, end }
        });
        rows.collect()
    }

    /// Partial results of one chunk. `next`: the tiles of the chunk that this worker computes after it.
    fn chunk(&self, unit: &Unit<'_>, rows: &[QueryRow], chunk: usize, next: *const u8, partials: &mut [f32]) {
        assert!(partials.len() >= rows.len() * partial_len(self.layout));
        let tiles = unit.tiles.as_ptr();
        let here = tiles.wrapping_add(self.chunk_bytes() * chunk);
        let ahead = (next as usize).wrapping_sub(here as usize);
        let scale = self.shape.scale * std::f32::consts::LOG2_E;
        let chunk =
            TilesChunk { layout: self.layout, rows, scale, tiles, chunk, ahead, partials: partials.as_mut_ptr() };
        // SAFETY: the engine has checked the instruction set; the tiles hold what every row sees (checked at entry), the
        // chunk begins below the end of one of them; rows hold pointers to their queries; `partials` is long enough.
        unsafe { (self.engine.kernels.attend_tiles)(&chunk) };
    }

    fn chunk_bytes(&self) -> usize {
        self.layout.bytes(CHUNK)
    }

    /// Adds the results of a chunk to those of the chunks before it.
    fn fold(&self, states: &mut [f32], partials: &[f32]) {
        let row = partial_len(self.layout);
        for (state, partial) in states.chunks_exact_mut(row).zip(partials.chunks_exact(row)) {
            // SAFETY: the engine has checked the instruction set.
            unsafe { (self.engine.kernels.fold_tiles)(state, partial) };
        }
    }

    /// Writes the outputs of a unit.
    ///
    /// # Safety
    /// `out` is as long as `q`, and nobody else writes the outputs of the unit.
    unsafe fn finish(&self, unit: &Unit<'_>, states: &[f32], out: SharedPtr<f32>) {
        let AttentionShape { heads, head_dim, .. } = self.shape;
        let (group, width) = (self.group(), self.layout.width);
        for (i, state) in states.chunks_exact(partial_len(self.layout)).enumerate() {
            let at = ((unit.tokens.start + i / group) * heads + unit.kv_head * group + i % group) * head_dim;
            // SAFETY: the head of a token of this call; the caller's promise.
            let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(at), head_dim) };
            let total = state[width + 1];
            for (out, sum) in out.iter_mut().zip(state) {
                // Nothing seen: 0.
                *out = if total == 0.0 { 0.0 } else { sum / total };
            }
        }
    }

    /// Computes whole units.
    ///
    /// # Safety
    /// As [`finish`](Self::finish), for all of them.
    unsafe fn whole(&self, units: &[Unit<'_>], worker: usize, out: SharedPtr<f32>) {
        let mut worker = self.engine.attention.workers[worker].lock().unwrap_or_else(PoisonError::into_inner);
        let Worker { q, blocks, partials, states } = &mut *worker;
        let len = partial_len(self.layout);
        for (i, unit) in units.iter().enumerate() {
            let rows = self.rows(unit, q, blocks);
            partials.resize(rows.len() * len, 0.0);
            states.clear();
            states.resize(rows.len() * len, 0.0);
            for chunk in unit.chunks.clone() {
                let next = if chunk + 1 < unit.chunks.end {
                    unit.tiles.as_ptr().wrapping_add((chunk + 1) * self.chunk_bytes())
                } else {
                    units.get(i + 1).map_or(std::ptr::null(), |unit| {
                        unit.tiles.as_ptr().wrapping_add(unit.chunks.start * self.chunk_bytes())
                    })
                };
                self.chunk(unit, &rows, chunk, next, partials);
                self.fold(states, partials);
            }
            // SAFETY: the caller's promise.
            unsafe { self.finish(unit, states, out) };
        }
    }

    /// Computes the chunks `mine` of all units, numbered one after the other; each has room for `most` rows in `to`.
    ///
    /// # Safety
    /// `to` has room for all chunks, and nobody else writes those of `mine`.
    unsafe fn parts(&self, units: &[Unit<'_>], mine: Range<usize>, worker: usize, to: SharedPtr<f32>, most: usize) {
        let mut worker = self.engine.attention.workers[worker].lock().unwrap_or_else(PoisonError::into_inner);
        let Worker { q, blocks, .. } = &mut *worker;
        let len = partial_len(self.layout);
        for (i, unit) in units.iter().enumerate() {
            let part = |n: usize| n.clamp(unit.at, unit.at + unit.chunks.len()) - unit.at + unit.chunks.start;
            let chunks = part(mine.start)..part(mine.end);
            if chunks.is_empty() {
                continue;
            }
            let rows = self.rows(unit, q, blocks);
            for chunk in chunks {
                let next = if chunk + 1 < unit.chunks.end {
                    unit.tiles.as_ptr().wrapping_add((chunk + 1) * self.chunk_bytes())
                } else {
                    units.get(i + 1).map_or(std::ptr::null(), |unit| {
                        unit.tiles.as_ptr().wrapping_add(unit.chunks.start * self.chunk_bytes())
                    })
                };
                let at = (unit.at + chunk - unit.chunks.start) * most * len;
                // SAFETY: the caller's promise.
                let partials = unsafe { std::slice::from_raw_parts_mut(to.get().add(at), most * len) };
                self.chunk(unit, &rows, chunk, next, partials);
            }
        }
    }
}
