//! f16 and f32 keys and values: products in f32. Lanes are positions for keys and components for values, so that every
//! sum is one accumulator that takes its terms in ascending order.

use super::{EXACT, Group, TilesChunk, partial_len, prefetch};
use crate::generic::dense::Element;
use crate::kv::{CHUNK, KvTiles, TILE};
use crate::vector::Floats;

/// Computes the partial results of all rows, whose queries are `head_dim` values.
///
/// # Safety
/// The instruction set of `V` is available; `tiles` holds every position of the chunk below each row's `end`, as `E`; the
/// pointers cover what [`TilesChunk`] says.
#[inline(always)]
pub(crate) unsafe fn chunk<V: Floats, E: Element>(chunk: &TilesChunk<'_, *const f32>) {
    let mut r = 0;
    while r < chunk.rows.len() {
        // SAFETY: each arm takes at most as many rows as are left, so r + R <= rows; the rest is this function's condition.
        r += unsafe {
            match chunk.rows.len() - r {
                1 => rows::<V, E, 1>(chunk, r),
                2 => rows::<V, E, 2>(chunk, r),
                3 => rows::<V, E, 3>(chunk, r),
                _ => rows::<V, E, 4>(chunk, r),
            }
        };
    }
}

/// Rows `r .. r + R`; returns `R`.
///
/// # Safety
/// As for [`chunk`], and `r + R <= chunk.rows.len()`.
#[inline(always)]
unsafe fn rows<V: Floats, E: Element, const R: usize>(chunk: &TilesChunk<'_, *const f32>, r: usize) -> usize {
    let layout = chunk.layout;
    let group = Group::<_, R>::of(chunk, r);
    let mut weights = [[0.0f32; CHUNK]; R];
    // SAFETY: `Group::of` takes no tile past the one with the last position below some row's end, and `chunk` has all tiles
    // up to there. `partials` has `partial_len` = width + 2 values for each of more than r + i rows: the sums, whose width is
    // a multiple of 16 and so of the lanes, the largest score and the total. N * LANES <= width - component by `left`.
    unsafe {
        for tile in group.tiles.clone() {
            let keys = chunk.tiles.add(tile * layout.tile_bytes() + layout.keys());
            scores::<V, E, R>(layout, &group, chunk.scale, keys, tile * TILE, &mut weights);
        }
        let partials = chunk.partials.add(r * partial_len(layout));
        for (i, [max, total, _]) in
            group.softmax::<V, false>(&mut weights, &EXACT, layout, chunk.tiles).into_iter().enumerate()
        {
            let partial = partials.add(i * partial_len(layout) + layout.width);
            partial.write(max);
            partial.add(1).write(total);
        }
        let mut component = 0;
        while component < layout.width {
            let left = (layout.width - component) / V::LANES;
            component += V::LANES
                * if V::LANES >= 16 && left >= 4 {
                    mix::<V, E, R, 4>(layout, &group, chunk.tiles, component, &weights, partials)
                } else if left >= 2 {
                    mix::<V, E, R, 2>(layout, &group, chunk.tiles, component, &weights, partials)
                } else {
                    mix::<V, E, R, 1>(layout, &group, chunk.tiles, component, &weights, partials)
                };
        }
    }
    R
}

/// Scores of the positions of a tile, position `at` of the chunk and the next 31.
///
/// # Safety
/// The instruction set of `V` is available; `keys` are those of a tile of `E`, the group's queries point to `head_dim`
/// values each, and `at + 32 <= CHUNK`.
#[inline(always)]
unsafe fn scores<V: Floats, E: Element, const R: usize>(
    layout: KvTiles,
    group: &Group<*const f32, R>,
    scale: f32,
    keys: *const u8,
    at: usize,
    scores: &mut [[f32; CHUNK]; R],
) {
    for p in (0..TILE).step_by(2 * V::LANES) {
        // SAFETY: the keys of a tile are `head_dim` lines of TILE values, of which two vectors from p on are read: p + 2 *
        // LANES <= TILE, since 2 * LANES divides TILE. Queries have a value for each c < head_dim, and the scores are written
        // at at + p .. at + p + 2 * LANES <= CHUNK. Prefetched addresses may lie anywhere.
        unsafe {
            let mut sums = [[V::splat(0.0); 2]; R];
            // Every pass over the keys asks for its share of the lines ahead, in the order in which they lie: all in one pass,
            // or every other line in each, and memory takes a quarter longer to bring them (Zen 3).
            let passes = TILE / (2 * V::LANES);
            let share = p / (2 * V::LANES) * (layout.head_dim / passes);
            for c in 0..layout.head_dim {
                if c % passes == 0 {
                    prefetch::<V>(keys.add((share + c / passes) * TILE * E::BYTES), TILE * E::BYTES, group.ahead);
                }
                let line = keys.add((c * TILE + p) * E::BYTES);
                let keys = [E::load::<V>(line), E::load::<V>(line.add(V::LANES * E::BYTES))];
                for i in 0..R {
                    let query = V::splat(*group.q[i].add(c));
                    for n in 0..2 {
                        sums[i][n] = query.mul_add(keys[n], sums[i][n]);
                    }
                }
            }
            for i in 0..R {
                for n in 0..2 {
                    sums[i][n].mul(V::splat(scale)).store(scores[i].as_mut_ptr().add(at + p + n * V::LANES));
                }
            }
        }
    }
}

/// Weighted sums of the values of the group's tiles: components `component ..`, `N` vectors; returns `N`.
///
/// # Safety
/// The instruction set of `V` is available; the group's tiles are readable among `tiles`, as `E`; `partials` has
/// `partial_len` values for each of `R` rows; `component + N * V::LANES <= layout.width`.
#[inline(always)]
unsafe fn mix<V: Floats, E: Element, const R: usize, const N: usize>(
    layout: KvTiles,
    group: &Group<*const f32, R>,
    tiles: *const u8,
    component: usize,
    weights: &[[f32; CHUNK]; R],
    partials: *mut f32,
) -> usize {
    // SAFETY: the values of a tile are TILE lines of `width` values, of which N vectors from `component` on are read, and as
    // many sums written, which this function's condition keeps below `width`. Weights are indexed with checks. Prefetched
    // addresses may lie anywhere.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        for tile in group.tiles.clone() {
            let values = tiles.add(tile * layout.tile_bytes() + layout.values());
            // As of the keys: passes over all tiles ask for values as they lie, as many bytes as have been used.
            let bytes = N * V::LANES * E::BYTES;
            let used = (component * group.tiles.len() * E::BYTES + (tile - group.tiles.start) * bytes) * TILE;
            let of_tile = layout.width * TILE * E::BYTES;
            let next = group.tiles.start + used / of_tile;
            let next = tiles.wrapping_add(next * layout.tile_bytes() + layout.values() + used % of_tile);
            for p in 0..TILE {
                if bytes >= 64 || p % (64 / bytes) == 0 {
                    prefetch::<V>(next.wrapping_add(p * bytes), bytes, group.ahead);
                }
                let line = values.add((p * layout.width + component) * E::BYTES);
                let values: [V; N] = std::array::from_fn(|n| E::load::<V>(line.add(n * V::LANES * E::BYTES)));
                for i in 0..R {
                    let weight = V::splat(weights[i][tile * TILE + p]);
                    for n in 0..N {
                        sums[i][n] = weight.mul_add(values[n], sums[i][n]);
                    }
                }
            }
        }
        for i in 0..R {
            for n in 0..N {
                sums[i][n].store(partials.add(i * partial_len(layout) + component + n * V::LANES));
            }
        }
    }
    N
}
