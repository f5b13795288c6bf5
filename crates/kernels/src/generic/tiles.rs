//! Attention over 8-bit keys and values: whole-number products, softmax in f32, a chunk of positions at a time.
//!
//! Queries are rounded to int8 with a scale per 32 components, as keys are, softmax weights to 16 bits. For one query row
//! and the chunk of [`CHUNK`] positions that starts at a multiple of it:
//!
//! ```text
//! score[p]  = (sum over blocks b of int(b, p) * (key_scale[b, p] * query_scale[b])) * (scale * log2(e))
//! max       = largest score,  e[p] = 2^(score[p] - max),  total = sum e[p]
//! w[p]      = round(e[p] * value_scale[p] * (32512 / largest of e * value_scale))
//! sum[i]    = int(i) * step                                   step = that largest / 32512
//! ```
//!
//! Chunks are then folded in ascending order ([`fold`]). So a row's result depends on nothing but its query, its range of
//! positions and what is cached there.

use std::f32::consts::LN_2;

use super::panel::InputBlock;
use crate::kv::{BLOCK, KvTiles, TILE};
use crate::vector::{Floats, RowLanes};

/// Positions whose softmax is computed together; the unit in which a long context is shared between threads.
pub(crate) const CHUNK: usize = 256;
/// Tiles of a chunk.
const TILES: usize = CHUNK / TILE;
/// Bytes between the codes in use and those to bring to the first-level cache.
const NEAR: usize = 1024;
/// Largest weight: what [`RowLanes::dot_wide`] takes. Sums over [`CHUNK`] positions of products with int8 fit i32.
const LEVELS: f32 = 32512.0;

/// A query head of a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryRow {
    /// `width` integers.
    pub q: *const i8,
    /// Of each 32 of them.
    pub blocks: *const InputBlock,
    /// Absolute positions it sees: `first .. end`.
    pub first: usize,
    pub end: usize,
}

/// Some query rows and one chunk of a kv head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TilesChunk<'a> {
    pub layout: KvTiles,
    pub rows: &'a [QueryRow],
    /// Factor on the scores, times log2(e).
    pub scale: f32,
    /// Tiles of the head from position 0 on.
    pub tiles: *const u8,
    /// Number of the chunk.
    pub chunk: usize,
    /// Bytes between the codes in use and those to ask memory for.
    pub ahead: usize,
    /// rows x ([`partial_len`]): the sums, the largest score, the total.
    pub partials: *mut f32,
}

/// Values of one row's state: `width` sums, the largest score, the total of the weights.
pub(crate) fn partial_len(layout: KvTiles) -> usize {
    layout.width + 2
}

/// Computes the partial results of all rows.
///
/// # Safety
/// The instruction set of `V` is available; `tiles` holds every position below each row's `end`, which is above the start
/// of the chunk for at least one row; the pointers cover what [`TilesChunk`] and [`QueryRow`] say.
#[inline(always)]
pub(crate) unsafe fn chunk<V: RowLanes>(chunk: &TilesChunk<'_>) {
    let mut r = 0;
    while r < chunk.rows.len() {
        let left = chunk.rows.len() - r;
        // SAFETY: as promised by the caller; r + R <= rows.
        r += unsafe {
            if V::Floats::LANES >= 16 && left >= 8 {
                rows::<V, 8, 1>(chunk, r)
            } else if left >= 4 {
                if V::Floats::LANES >= 16 { rows::<V, 4, 2>(chunk, r) } else { rows::<V, 4, 1>(chunk, r) }
            } else if left >= 3 {
                if V::Floats::LANES >= 16 { rows::<V, 3, 2>(chunk, r) } else { rows::<V, 3, 1>(chunk, r) }
            } else if left >= 2 {
                rows::<V, 2, 2>(chunk, r)
            } else {
                rows::<V, 1, 2>(chunk, r)
            }
        };
    }
}

/// Rows `r .. r + R`, `N` vectors of positions or components at a time; returns `R`.
#[inline(always)]
unsafe fn rows<V: RowLanes, const R: usize, const N: usize>(chunk: &TilesChunk<'_>, r: usize) -> usize {
    let layout = chunk.layout;
    let start = chunk.chunk * CHUNK;
    // SAFETY: r + R <= rows.
    let rows: [QueryRow; R] = std::array::from_fn(|i| unsafe { *chunk.rows.get_unchecked(r + i) });
    // What each row sees of the chunk.
    let first: [usize; R] = std::array::from_fn(|i| rows[i].first.saturating_sub(start).min(CHUNK));
    let end: [usize; R] = std::array::from_fn(|i| rows[i].end.saturating_sub(start).min(CHUNK));
    let from = first.iter().fold(CHUNK, |a, b| a.min(*b)) / TILE;
    let until = end.iter().fold(0, |a, b| a.max(*b)).div_ceil(TILE);
    let mut scores = [[0.0f32; CHUNK]; R];
    let mut weights = [[0i16; CHUNK]; R];
    // Only the first group of rows asks memory for the next chunk.
    let ahead = if r == 0 { chunk.ahead } else { 0 };
    // SAFETY: as promised by the caller: tiles from .. until hold positions below some row's end; partials has a place
    // for each row.
    unsafe {
        let tiles = chunk.tiles.add(chunk.chunk * TILES * layout.tile_bytes());
        for tile in from..until {
            let at = tiles.add(tile * layout.tile_bytes());
            // Scales; codes are asked for where they are read.
            for line in (0..layout.key_codes()).step_by(64) {
                V::Floats::prefetch(at.wrapping_add(ahead).wrapping_add(line));
            }
            tile_scores::<V, R, N>(layout, &rows, chunk.scale, at, ahead, tile * TILE, &mut scores);
        }
        let mut steps = [0.0f32; R];
        for i in 0..R {
            let partial = chunk.partials.add((r + i) * partial_len(layout) + layout.width);
            let range = [from * TILE, first[i], end[i], until * TILE];
            let [max, total, step] = softmax::<V::Floats>(layout, tiles, range, &mut scores[i], &mut weights[i]);
            partial.write(max);
            partial.add(1).write(total);
            steps[i] = step;
        }
        let mut component = 0;
        while component < layout.width {
            let sums = mix::<V, R, N>(layout, tiles, ahead, from..until, component, &weights);
            for i in 0..R {
                for n in 0..N {
                    let to = chunk.partials.add((r + i) * partial_len(layout) + component + n * V::Floats::LANES);
                    sums[i][n].to_floats().mul(V::Floats::splat(steps[i])).store(to);
                }
            }
            component += N * V::Floats::LANES;
        }
    }
    R
}

/// Scores of the positions of a tile, position `at` of the chunk and the next 31.
#[inline(always)]
unsafe fn tile_scores<V: RowLanes, const R: usize, const N: usize>(
    layout: KvTiles,
    rows: &[QueryRow; R],
    scale: f32,
    tile: *const u8,
    ahead: usize,
    at: usize,
    scores: &mut [[f32; CHUNK]; R],
) {
    let lanes = const { V::Floats::LANES };
    for p in (0..TILE).step_by(N * lanes) {
        // SAFETY: the caller has the instruction set and gives a whole tile; offsets follow its layout (see `crate::kv`);
        // at + p + N * lanes <= CHUNK. Prefetched addresses may lie anywhere.
        unsafe {
            let mut sums = [[V::Floats::splat(0.0); N]; R];
            for b in 0..layout.width / BLOCK {
                let mut ints = [[V::zero(); N]; R];
                for g in 0..BLOCK / 4 {
                    let mut codes = [V::load_bytes(tile); N];
                    for n in 0..N {
                        let p = p + n * lanes;
                        let line = p / 16 * (layout.width / 4) + b * (BLOCK / 4) + g;
                        let from = tile.add(layout.key_codes() + line * 64 + p % 16 * 4);
                        codes[n] = V::load_bytes(from);
                        if p % 16 == 0 {
                            V::Floats::prefetch(from.wrapping_add(ahead));
                            V::Floats::prefetch_near(from.wrapping_add(NEAR));
                        }
                    }
                    for i in 0..R {
                        let x = rows[i].q.add(b * BLOCK + 4 * g).cast::<i32>().read_unaligned();
                        for n in 0..N {
                            ints[i][n] = ints[i][n].dot_signed(codes[n], x);
                        }
                    }
                }
                let key_scales: [V::Floats; N] =
                    std::array::from_fn(|n| V::Floats::load_f16(tile.add(2 * (b * TILE + p + n * lanes))));
                for i in 0..R {
                    let block = &*rows[i].blocks.add(b);
                    let (excess, scale) =
                        (V::SIGNED_EXCESS * (block.sums[0] + block.sums[1]), V::Floats::splat(block.scale));
                    for n in 0..N {
                        let int = ints[i][n].sub_splat(excess).to_floats();
                        sums[i][n] = int.mul_add(key_scales[n].mul(scale), sums[i][n]);
                    }
                }
            }
            for i in 0..R {
                for n in 0..N {
                    let score = sums[i][n].mul(V::Floats::splat(scale));
                    score.store(scores[i].as_mut_ptr().add(at + p + n * lanes));
                }
            }
        }
    }
}

/// Makes 16-bit weights of the scores of one row. `range`: where tiles begin, what the row sees (twice), where tiles end.
/// Returns the largest score, the sum of the exponentials and the value of a weight's step.
#[inline(always)]
unsafe fn softmax<V: Floats>(
    layout: KvTiles,
    tiles: *const u8,
    range: [usize; 4],
    scores: &mut [f32; CHUNK],
    weights: &mut [i16; CHUNK],
) -> [f32; 3] {
    let [from, first, end, until] = range;
    if first >= end {
        return [f32::NEG_INFINITY, 0.0, 0.0];
    }
    scores[from..first].fill(f32::NEG_INFINITY);
    scores[end..until].fill(f32::NEG_INFINITY);
    // SAFETY: the caller has the instruction set; from and until are multiples of TILE, at most CHUNK, and the tiles
    // between them are readable; a tile is a whole number of vectors.
    unsafe {
        let values = scores.as_mut_ptr();
        let mut largest = V::splat(f32::NEG_INFINITY);
        for p in (from..until).step_by(V::LANES) {
            largest = V::load(values.add(p).cast()).max(largest);
        }
        let max = largest.largest();
        let mut sum = V::splat(0.0);
        let mut top = V::splat(0.0);
        for p in (from..until).step_by(V::LANES) {
            let e = exp2(V::load(values.add(p).cast()).sub(V::splat(max)));
            sum = sum.add(e);
            let scale = tiles.add(p / TILE * layout.tile_bytes() + layout.value_scales() + 2 * (p % TILE));
            let weight = e.mul(V::load_f16(scale));
            top = weight.max(top);
            weight.store(values.add(p));
        }
        let top = top.largest();
        let inverse = LEVELS / top;
        if !inverse.is_finite() {
            // All values are 0 (or next to it).
            weights[from..until].fill(0);
            return [max, sum.sum(), 0.0];
        }
        for p in (from..until).step_by(V::LANES) {
            V::load(values.add(p).cast()).mul(V::splat(inverse)).store_i16(weights.as_mut_ptr().add(p));
        }
        [max, sum.sum(), top / LEVELS]
    }
}

/// 2^x for x <= 0 or NaN, to 3e-7 of it; 0 below -100, which is nothing beside the 1 of the largest score.
#[inline(always)]
unsafe fn exp2<V: Floats>(x: V) -> V {
    // Close to the polynomial with value 1 at 0 of least relative error (1e-7) on -0.5..=0.5.
    const COEFFICIENTS: [f32; 5] = [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, LN_2];
    // SAFETY: the caller has the instruction set; the exponent is an integer from -100 to 0.
    unsafe {
        let low = V::splat(-100.0);
        let clamped = low.max(x);
        let magic = V::splat(12_582_912.0); // 1.5 * 2^23: adding it rounds to the nearest integer
        let n = clamped.add(magic).sub(magic);
        let r = clamped.sub(n);
        let mut p = V::splat(COEFFICIENTS[0]);
        for coefficient in &COEFFICIENTS[1..] {
            p = p.mul_add(r, V::splat(*coefficient));
        }
        x.select_less(low, V::splat(0.0), p.mul_add(r, V::splat(1.0)).mul(n.exp2_integer()))
    }
}

/// Weighted sums of the values of some tiles: components `component ..`, `N` vectors.
#[inline(always)]
unsafe fn mix<V: RowLanes, const R: usize, const N: usize>(
    layout: KvTiles,
    tiles: *const u8,
    ahead: usize,
    range: std::ops::Range<usize>,
    component: usize,
    weights: &[[i16; CHUNK]; R],
) -> [[V; N]; R] {
    let lanes = const { V::Floats::LANES };
    // SAFETY: the caller has the instruction set and gives whole tiles; offsets follow their layout (see `crate::kv`); a
    // tile has a weight for each of its positions. Prefetched addresses may lie anywhere.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        for tile in range {
            let codes_of_tile = tiles.add(tile * layout.tile_bytes() + layout.value_codes());
            for quad in 0..TILE / 4 {
                let mut codes = [V::load_bytes(codes_of_tile); N];
                for n in 0..N {
                    let component = component + n * lanes;
                    let line = component / 16 * (TILE / 4) + quad;
                    let from = codes_of_tile.add(line * 64 + component % 16 * 4);
                    codes[n] = V::load_bytes(from);
                    if component.is_multiple_of(16) {
                        V::Floats::prefetch(from.wrapping_add(ahead));
                        V::Floats::prefetch_near(from.wrapping_add(NEAR));
                    }
                }
                for i in 0..R {
                    let x = weights[i].as_ptr().add(tile * TILE + 4 * quad);
                    for n in 0..N {
                        sums[i][n] = sums[i][n].dot_wide(codes[n], x);
                    }
                }
            }
        }
        sums
    }
}

/// Adds the partial result of the next chunk to `state`, both [`partial_len`] values of one row. An empty state has
/// largest score -inf and total 0.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn fold<V: Floats>(state: &mut [f32], partial: &[f32]) {
    let width = partial.len() - 2;
    assert!(state.len() == partial.len() && width.is_multiple_of(BLOCK));
    if partial[width + 1] == 0.0 {
        return; // nothing seen
    }
    if state[width + 1] == 0.0 {
        state.copy_from_slice(partial);
        return;
    }
    let max = if partial[width] > state[width] { partial[width] } else { state[width] };
    let mut factors = [0.0f32; 16];
    (factors[0], factors[1]) = (state[width] - max, partial[width] - max);
    // SAFETY: the caller has the instruction set; `width` is a multiple of 32 and so of the lanes.
    unsafe {
        exp2(V::load(factors.as_ptr().cast())).store(factors.as_mut_ptr());
        let (old, new) = (V::splat(factors[0]), V::splat(factors[1]));
        for i in (0..width).step_by(V::LANES) {
            let at = state.as_mut_ptr().add(i);
            let sum = V::load(at.cast()).mul(old);
            V::load(partial.as_ptr().add(i).cast()).mul_add(new, sum).store(at);
        }
    }
    state[width + 1] = state[width + 1] * factors[0] + partial[width + 1] * factors[1];
    state[width] = max;
}
