//! Attention over the key and value caches: what is computed together, and by which worker.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::generic::attention::int8::Int8Query;
use crate::generic::attention::{QueryRow, TilesChunk, partial_len};
use crate::generic::panel::InputBlock;
use crate::kv::{BLOCK, CHUNK, KvTiles, KvType};
use crate::pool::{Pool, SharedPtr};
use crate::table::Table;

/// What one token sees of one kv head.
#[derive(Clone, Copy, Debug)]
pub struct KvHead<'a> {
    /// The memory in which the [tiles](KvTiles) of all sequences lie.
    pub slab: &'a [u8],
    /// Where each [chunk](KvTiles::CHUNK) of the sequence begins in it, from position 0 on.
    pub chunks: &'a [usize],
    /// Bytes from there to the tiles of the head.
    pub offset: usize,
    /// The first position seen: 0, or the start of the token's sliding window.
    pub first: usize,
    /// The end of the positions seen.
    pub end: usize,
}

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads, a multiple of `kv_heads`; heads `g k .. g (k + 1)` share kv head `k`, `g = heads / kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Components per head.
    pub head_dim: usize,
    /// What keys and values are stored as.
    pub kv: KvType,
    /// Factor on the scores, normally 1 / sqrt(head_dim).
    pub scale: f32,
}

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
    rounded: Rounded,
    /// Results of one chunk, rows x `partial_len`.
    partials: Vec<f32>,
    /// Results so far, rows x `partial_len`.
    states: Vec<f32>,
}

/// Rounded queries, rows x width, and the scales of their blocks.
#[derive(Debug, Default)]
struct Rounded {
    q: Vec<i8>,
    blocks: Vec<InputBlock>,
}

/// The query rows of a unit: tokens x group.
enum Queries {
    Floats(Vec<QueryRow<*const f32>>),
    Int8(Vec<QueryRow<Int8Query>>),
}

impl Queries {
    fn len(&self) -> usize {
        match self {
            Self::Floats(rows) => rows.len(),
            Self::Int8(rows) => rows.len(),
        }
    }
}

/// Some tokens of a sequence and one kv head.
struct Unit<'kv> {
    tokens: Range<usize>,
    kv_head: usize,
    /// Its tiles.
    kv: KvHead<'kv>,
    /// Chunks that some token sees, at least one: the results of a unit that sees nothing are made like those of others.
    chunks: Range<usize>,
    /// Number of the unit's first chunk among those of all units.
    at: usize,
}

impl Unit<'_> {
    /// The tiles of a chunk. A unit that sees nothing may have none; its pointer is not followed.
    fn chunk(&self, chunk: usize) -> *const u8 {
        let KvHead { slab, chunks, offset, .. } = self.kv;
        chunks.get(chunk).map_or(std::ptr::null(), |at| slab.as_ptr().wrapping_add(*at).wrapping_add(offset))
    }
}

impl KvHead<'_> {
    /// What tells sequences and heads apart: tokens for which it is the same go through a chunk together.
    fn place(&self) -> (*const [u8], *const [usize], usize) {
        (self.slab, self.chunks, self.offset)
    }

    /// Whether the slab holds the tiles of `chunks` up to position `end`.
    fn holds(&self, layout: KvTiles, chunks: Range<usize>, end: usize) -> bool {
        chunks.into_iter().all(|chunk| {
            let bytes = layout.bytes(CHUNK.min(end - chunk * CHUNK));
            let start = self.chunks.get(chunk).and_then(|at| at.checked_add(self.offset));
            start.and_then(|start| start.checked_add(bytes)).is_some_and(|end| end <= self.slab.len())
        })
    }
}

/// The tiles that follow those of a chunk of unit `i`: of its next chunk or of the next unit.
fn next(units: &[Unit<'_>], i: usize, chunk: usize) -> *const u8 {
    if chunk + 1 < units[i].chunks.end {
        units[i].chunk(chunk + 1)
    } else {
        units.get(i + 1).map_or(std::ptr::null(), |unit| unit.chunk(unit.chunks.start))
    }
}

/// What all workers share.
struct Call<'a> {
    table: &'a Table,
    scratch: &'a Scratch,
    shape: AttentionShape,
    layout: KvTiles,
    q: &'a [f32],
    /// What each token sees.
    seen: &'a [Range<usize>],
}

/// See [`Engine::attention`](crate::Engine::attention).
pub(super) fn attention<'kv>(
    table: &Table,
    pool: &Pool,
    scratch: &Scratch,
    shape: AttentionShape,
    q: &[f32],
    kv: impl Fn(usize, usize) -> KvHead<'kv>,
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    assert!(heads > 0 && kv_heads > 0 && head_dim > 0 && heads.is_multiple_of(kv_heads));
    let values = heads.checked_mul(head_dim).expect("the values of a token can be counted");
    assert!(q.len() == out.len() && q.len().is_multiple_of(values));
    let layout = KvTiles::new(shape.kv, head_dim);
    let row = partial_len(layout);
    // So that no length of what is kept for a unit overflows.
    let most = row.checked_mul(TOKENS).and_then(|values| values.checked_mul(heads / kv_heads));
    assert!(most.is_some(), "heads that can be counted");
    let tokens = q.len() / values;
    let range = |head: KvHead<'_>| head.first..head.end;
    let seen: Vec<Range<usize>> = (0..tokens).map(|token| range(kv(token, 0))).collect();
    assert!(seen.iter().all(|seen| seen.start <= seen.end), "positions in ascending order");
    let mut units = Vec::new();
    let mut chunks = 0;
    let mut token = 0;
    while token < tokens {
        let first = kv(token, 0).place();
        let same = (token..tokens.min(token + TOKENS)).take_while(|t| kv(*t, 0).place() == first).count();
        let tokens_of_unit = token..token + same;
        let start = seen[tokens_of_unit.clone()].iter().map(|seen| seen.start).min().unwrap_or(0) / CHUNK;
        let end = seen[tokens_of_unit.clone()].iter().map(|seen| seen.end).max().unwrap_or(0);
        let last = end.div_ceil(CHUNK);
        for kv_head in 0..kv_heads {
            let head = kv(token, kv_head);
            for token in tokens_of_unit.clone() {
                let other = kv(token, kv_head);
                assert!(range(other) == seen[token] && other.place() == head.place(), "kv heads of one token");
            }
            assert!(head.holds(layout, start..last, end), "the tiles do not hold what is seen");
            let unit = Unit {
                tokens: tokens_of_unit.clone(),
                kv_head,
                kv: head,
                chunks: start..last.max(start + 1),
                at: chunks,
            };
            chunks += unit.chunks.len();
            units.push(unit);
        }
        token += same;
    }
    let call = Call { table, scratch, shape, layout, q, seen: &seen };
    let workers = pool.threads();
    if workers == 1 || units.len() >= 4 * workers || chunks == units.len() {
        let bounds = partition(units.iter().map(|unit| call.cost(unit)), workers);
        let out = SharedPtr(out.as_mut_ptr());
        pool.run(&|worker| {
            // SAFETY: the units were made above, each with tiles that hold what it sees. `out` is borrowed mutably for the whole
            // call and as long as `q`; `bounds` ascend, so that every unit belongs to one worker, and units are of different
            // tokens or kv heads, so that they write different outputs.
            unsafe { call.whole(&units[bounds[worker]..bounds[worker + 1]], worker, out) };
        });
    } else {
        let bounds: Vec<usize> = (0..=workers).map(|worker| chunks * worker / workers).collect();
        let mut partials = scratch.partials.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = |unit: &Unit<'_>| unit.tokens.len() * (heads / kv_heads);
        let most = units.iter().map(rows).max().unwrap_or(0);
        partials.resize(chunks.checked_mul(most * row).expect("partial results that can be counted"), 0.0);
        let to = SharedPtr(partials.as_mut_ptr());
        pool.run(&|worker| {
            let mine = bounds[worker]..bounds[worker + 1];
            // SAFETY: the units were made above, each with tiles that hold what it sees. `partials` was just made as long as
            // `chunks` times `most` rows, which no unit exceeds; `bounds` ascend, so that every chunk belongs to one worker.
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
            // SAFETY: `out` is borrowed mutably and as long as `q`, and this thread alone writes it now, a unit at a time.
            unsafe { call.finish(unit, &first[..rows * row], out) };
        }
    }
}

/// Where each of `parts` workers starts in `costs.len()` items, so that their costs are about equal; `parts + 1` bounds.
pub(super) fn partition(costs: impl Iterator<Item = u64> + Clone, parts: usize) -> Vec<usize> {
    let total: u64 = costs.clone().sum();
    let mut bounds = vec![0];
    let (mut items, mut before) = (0, 0);
    for cost in costs {
        // An item belongs to the part in which its middle lies.
        let middle = before + cost / 2;
        while bounds.len() < parts && u128::from(middle) * parts as u128 >= u128::from(total) * bounds.len() as u128 {
            bounds.push(items);
        }
        before += cost;
        items += 1;
    }
    bounds.resize(parts + 1, items);
    bounds
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

    /// Index of the query (and output) of a unit's row, in heads.
    fn head(&self, unit: &Unit<'_>, row: usize) -> usize {
        let group = self.group();
        (unit.tokens.start + row / group) * self.shape.heads + unit.kv_head * group + row % group
    }

    /// The query rows of a unit, which point to the queries, or to `rounded` where the cache holds codes: into its memory as it
    /// is now, so that they are of use until `rounded` is given away again.
    fn queries(&self, unit: &Unit<'_>, rounded: &mut Rounded) -> Queries {
        let (group, head_dim, width) = (self.group(), self.shape.head_dim, self.layout.width);
        let count = unit.tokens.len() * group;
        let query = |row: usize| &self.q[self.head(unit, row) * head_dim..][..head_dim];
        let seen = |row: usize| self.seen[unit.tokens.start + row / group].clone();
        if !self.shape.kv.has_codes() {
            let rows = (0..count).map(|row| {
                let Range { start: first, end } = seen(row);
                QueryRow { q: query(row).as_ptr(), first, end }
            });
            return Queries::Floats(rows.collect());
        }
        let Rounded { q, blocks } = rounded;
        q.resize(count * width, 0);
        blocks.resize(count * width / BLOCK, InputBlock::default());
        let mut padded = vec![0.0; count * width];
        for (row, padded) in padded.chunks_exact_mut(width).enumerate() {
            padded[..head_dim].copy_from_slice(query(row));
            if self.shape.kv == KvType::Q4 {
                self.table.rotate(&mut padded[..head_dim]);
            }
        }
        self.table.quantize(&padded, q, blocks);
        let rounded = q.chunks_exact(width).zip(blocks.chunks_exact(width / BLOCK));
        let rows = rounded.enumerate().map(|(row, (q, blocks))| {
            let Range { start: first, end } = seen(row);
            QueryRow { q: Int8Query { q: q.as_ptr(), blocks: blocks.as_ptr() }, first, end }
        });
        Queries::Int8(rows.collect())
    }

    /// Partial results of one chunk. `next`: the tiles of the chunk that this worker computes after it.
    ///
    /// # Safety
    /// - `unit` is one that [`attention`] made, and `chunk` one of its chunks.
    /// - `queries` are those of `unit`, and the queries that they point to are still where they were.
    unsafe fn chunk(&self, unit: &Unit<'_>, queries: &Queries, chunk: usize, next: *const u8, partials: &mut [f32]) {
        assert!(partials.len() >= queries.len() * partial_len(self.layout));
        // SAFETY: a table is given out only where its instruction set is. `attention` made the unit after asking `holds` for
        // the tiles of all that its tokens see, in the layout of the shape's type, for which the function is chosen here. Each
        // row points to its query: `head_dim` floats, or `width` integers with the blocks of each 32 (see `queries`).
        // `partials` has room for all rows (asserted above).
        unsafe {
            match queries {
                Queries::Floats(rows) => {
                    let chunk = self.tiles_chunk(unit, rows, chunk, next, partials);
                    match self.shape.kv {
                        KvType::F32 => (self.table.attend_f32)(&chunk),
                        _ => (self.table.attend_f16)(&chunk),
                    }
                }
                Queries::Int8(rows) => {
                    let chunk = self.tiles_chunk(unit, rows, chunk, next, partials);
                    match self.shape.kv {
                        KvType::Q4 => (self.table.attend_q4)(&chunk),
                        _ => (self.table.attend_q8)(&chunk),
                    }
                }
            }
        }
    }

    fn tiles_chunk<'a, Q>(
        &self,
        unit: &Unit<'_>,
        rows: &'a [QueryRow<Q>],
        chunk: usize,
        next: *const u8,
        partials: &mut [f32],
    ) -> TilesChunk<'a, Q> {
        let tiles = unit.chunk(chunk);
        let ahead = (next as usize).wrapping_sub(tiles as usize);
        let scale = self.shape.scale * std::f32::consts::LOG2_E;
        let partials = partials.as_mut_ptr();
        TilesChunk { layout: self.layout, rows, scale, tiles, start: CHUNK * chunk, ahead, partials }
    }

    /// Adds the results of a chunk to those of the chunks before it.
    fn fold(&self, states: &mut [f32], partials: &[f32]) {
        let row = partial_len(self.layout);
        for (state, partial) in states.chunks_exact_mut(row).zip(partials.chunks_exact(row)) {
            self.table.fold(state, partial);
        }
    }

    /// Writes the outputs of a unit, whose rows have the results `states`.
    ///
    /// # Safety
    /// `states` has no more rows than the unit, `out` is as long as `q`, and nobody else reads or writes the unit's outputs.
    unsafe fn finish(&self, unit: &Unit<'_>, states: &[f32], out: SharedPtr<f32>) {
        let (head_dim, width) = (self.shape.head_dim, self.layout.width);
        for (row, state) in states.chunks_exact(partial_len(self.layout)).enumerate() {
            // SAFETY: `states` has a row for each token and head of the unit, so that this is a head of a token of this call:
            // among the values of `q`, and so of `out`, which is as long. Nobody else writes it (this function's conditions).
            let out =
                unsafe { std::slice::from_raw_parts_mut(out.get().add(self.head(unit, row) * head_dim), head_dim) };
            let total = state[width + 1];
            for (out, sum) in out.iter_mut().zip(state) {
                // Nothing seen: 0.
                *out = if total == 0.0 { 0.0 } else { sum / total };
            }
            if self.shape.kv == KvType::Q4 {
                self.table.rotate(out);
            }
        }
    }

    /// Computes whole units.
    ///
    /// # Safety
    /// The units are some that [`attention`] made; `out` is as long as `q`, and nobody else reads or writes their outputs.
    unsafe fn whole(&self, units: &[Unit<'_>], worker: usize, out: SharedPtr<f32>) {
        let mut worker = self.scratch.workers[worker].lock().unwrap_or_else(PoisonError::into_inner);
        let Worker { rounded, partials, states } = &mut *worker;
        let len = partial_len(self.layout);
        for (i, unit) in units.iter().enumerate() {
            let queries = self.queries(unit, rounded);
            partials.resize(queries.len() * len, 0.0);
            states.clear();
            states.resize(queries.len() * len, 0.0);
            for chunk in unit.chunks.clone() {
                // SAFETY: a unit of `attention` and its chunks; its queries were made above, and `rounded` is as it was.
                unsafe { self.chunk(unit, &queries, chunk, next(units, i, chunk), partials) };
                self.fold(states, partials);
            }
            // SAFETY: `states` was made as long as the unit has rows; the outputs are this function's conditions.
            unsafe { self.finish(unit, states, out) };
        }
    }

    /// Computes the chunks `mine` of all units, numbered one after the other; each has room for `most` rows in `to`.
    ///
    /// # Safety
    /// The units are all that [`attention`] made, none of which has more than `most` rows; `to` has room for all chunks, and
    /// nobody else reads or writes those of `mine`.
    unsafe fn parts(&self, units: &[Unit<'_>], mine: Range<usize>, worker: usize, to: SharedPtr<f32>, most: usize) {
        let mut worker = self.scratch.workers[worker].lock().unwrap_or_else(PoisonError::into_inner);
        let Worker { rounded, .. } = &mut *worker;
        let len = partial_len(self.layout);
        for (i, unit) in units.iter().enumerate() {
            let part = |n: usize| n.clamp(unit.at, unit.at + unit.chunks.len()) - unit.at + unit.chunks.start;
            let chunks = part(mine.start)..part(mine.end);
            if chunks.is_empty() {
                continue;
            }
            let queries = self.queries(unit, rounded);
            for chunk in chunks {
                let at = (unit.at + chunk - unit.chunks.start) * most * len;
                // SAFETY: `part` keeps `chunk` to the chunks of this unit that are in `mine`, so that the `most` rows at `at` are
                // those of a chunk of `mine`: inside what `to` has room for, and ours alone (this function's conditions).
                let partials = unsafe { std::slice::from_raw_parts_mut(to.get().add(at), most * len) };
                // SAFETY: a unit of `attention` and one of its chunks; its queries were made above, and `rounded` is as it was.
                unsafe { self.chunk(unit, &queries, chunk, next(units, i, chunk), partials) };
            }
        }
    }
}
