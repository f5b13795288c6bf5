//! 8-bit keys and values: whole-number products.
//!
//! Queries are rounded to int8 with a scale per 32 components, as keys are, softmax weights to 16 bits:
//!
//! ```text
//! query . key[p]  = sum over blocks b of int(b, p) * (key_scale[b, p] * query_scale[b])
//! w[p]            = round(e[p] * value_scale[p] * (32512 / largest of e * value_scale))
//! sum[i]          = int(i) * step                                   step = that largest / 32512
//! ```

use super::{Group, TilesChunk, partial_len, prefetch};
use crate::generic::panel::InputBlock;
use crate::kv::{BLOCK, CHUNK, KvTiles, TILE};
use crate::vector::{Floats, RowLanes};

/// Largest weight: what [`RowLanes::dot_wide`] takes. Sums over [`CHUNK`] positions of products with int8 fit i32.
const LEVELS: f32 = 32512.0;

/// A query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8Query {
    /// `width` integers.
    pub q: *const i8,
    /// Of each 32 of them.
    pub blocks: *const InputBlock,
}

/// Computes the partial results of all rows.
///
/// # Safety
/// The instruction set of `V` is available; `tiles` holds every position of the chunk below each row's `end`; the
/// pointers cover what [`TilesChunk`] and [`Int8Query`] say.
#[inline(always)]
pub(crate) unsafe fn chunk<V: RowLanes>(chunk: &TilesChunk<'_, Int8Query>) {
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
unsafe fn rows<V: RowLanes, const R: usize, const N: usize>(chunk: &TilesChunk<'_, Int8Query>, r: usize) -> usize {
    let layout = chunk.layout;
    let group = Group::<_, R>::of(chunk, r);
    let mut scores = [[0.0f32; CHUNK]; R];
    let mut weights = [[0i16; CHUNK]; R];
    // SAFETY: as promised by the caller: the group's tiles hold positions below some row's end; partials has a
    // place for each row.
    unsafe {
        for tile in group.tiles.clone() {
            let at = chunk.tiles.add(tile * layout.tile_bytes());
            // Scales; codes are asked for where they are read.
            for line in (0..layout.keys()).step_by(64) {
                V::Floats::prefetch(at.wrapping_add(group.ahead).wrapping_add(line));
            }
            tile_scores::<V, R, N>(layout, &group, chunk.scale, at, tile * TILE, &mut scores);
        }
        let mut steps = [0.0f32; R];
        for i in 0..R {
            let partial = chunk.partials.add((r + i) * partial_len(layout) + layout.width);
            let [max, total, top] = group.softmax::<V::Floats>(i, &mut scores[i], Some((layout, chunk.tiles)));
            steps[i] = round_weights::<V::Floats, R>(&group, top, &scores[i], &mut weights[i]);
            partial.write(max);
            partial.add(1).write(total);
        }
        let mut component = 0;
        while component < layout.width {
            let sums = mix::<V, R, N>(layout, chunk.tiles, &group, component, &weights);
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
    group: &Group<Int8Query, R>,
    scale: f32,
    tile: *const u8,
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
                        let from = tile.add(layout.keys() + line * 64 + p % 16 * 4);
                        codes[n] = V::load_bytes(from);
                        if p % 16 == 0 {
                            prefetch::<V::Floats>(from, 64, group.ahead);
                        }
                    }
                    for i in 0..R {
                        let x = group.q[i].q.add(b * BLOCK + 4 * g).cast::<i32>().read_unaligned();
                        for n in 0..N {
                            ints[i][n] = ints[i][n].dot_signed(codes[n], x);
                        }
                    }
                }
                let key_scales: [V::Floats; N] =
                    std::array::from_fn(|n| V::Floats::load_f16(tile.add(2 * (b * TILE + p + n * lanes))));
                for i in 0..R {
                    let block = &*group.q[i].blocks.add(b);
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

/// Rounds the weights of one row, of which `top` is the largest, to 16 bits. Returns the value of a step.
#[inline(always)]
unsafe fn round_weights<V: Floats, const R: usize>(
    group: &Group<Int8Query, R>,
    top: f32,
    floats: &[f32; CHUNK],
    weights: &mut [i16; CHUNK],
) -> f32 {
    let range = group.tiles.start * TILE..group.tiles.end * TILE;
    let inverse = LEVELS / top;
    if !inverse.is_finite() {
        // All values are 0 (or next to it), or nothing is seen.
        weights[range].fill(0);
        return 0.0;
    }
    for p in range.step_by(V::LANES) {
        // SAFETY: the caller has the instruction set; tiles end within the chunk, and are a whole number of vectors.
        unsafe {
            V::load(floats.as_ptr().add(p).cast()).mul(V::splat(inverse)).store_i16(weights.as_mut_ptr().add(p));
        }
    }
    top / LEVELS
}

/// Weighted sums of the values of some tiles: components `component ..`, `N` vectors.
#[inline(always)]
unsafe fn mix<V: RowLanes, const R: usize, const N: usize>(
    layout: KvTiles,
    tiles: *const u8,
    group: &Group<Int8Query, R>,
    component: usize,
    weights: &[[i16; CHUNK]; R],
) -> [[V; N]; R] {
    let lanes = const { V::Floats::LANES };
    // SAFETY: the caller has the instruction set and gives whole tiles; offsets follow their layout (see `crate::kv`); a
    // tile has a weight for each of its positions. Prefetched addresses may lie anywhere.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        for tile in group.tiles.clone() {
            let codes_of_tile = tiles.add(tile * layout.tile_bytes() + layout.values());
            for quad in 0..TILE / 4 {
                let mut codes = [V::load_bytes(codes_of_tile); N];
                for n in 0..N {
                    let component = component + n * lanes;
                    let line = component / 16 * (TILE / 4) + quad;
                    let from = codes_of_tile.add(line * 64 + component % 16 * 4);
                    codes[n] = V::load_bytes(from);
                    if component.is_multiple_of(16) {
                        prefetch::<V::Floats>(from, 64, group.ahead);
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
