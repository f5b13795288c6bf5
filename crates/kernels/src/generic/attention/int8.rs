//! 8-bit keys and values, and 6-bit keys with 4-bit values: whole-number products.
//!
//! Queries are rounded to int8 with a scale per 32 components, as keys are, softmax weights to as many levels as [`Codes`]
//! says:
//!
//! ```text
//! query . key[p]  = sum over blocks b of int(b, p) * (key_scale[b, p] * query_scale[b])
//! w[p]            = round(e[p] * value_scale[p] * (levels / largest of e * value_scale))
//! sum[i]          = int(i) * step                                   step = that largest / levels
//! ```

use super::{GOOD, Group, ROUGH, TilesChunk, partial_len, prefetch};
use crate::generic::panel::InputBlock;
use crate::kv::{BLOCK, CHUNK, KvTiles, TILE, ZERO_4, ZERO_6};
use crate::vector::{Floats, RowLanes};

/// A query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8Query {
    /// `width` integers.
    pub q: *const i8,
    /// Of each 32 of them.
    pub blocks: *const InputBlock,
}

/// Codes of keys and values, and what they are multiplied with.
///
/// # Safety
/// All unsafe methods: the instruction set of `V` is available. What pointers must cover is said at each method.
#[allow(clippy::missing_safety_doc)] // said once, above
pub(crate) trait Codes {
    /// Groups of four components of a key, or of four positions of values, that are unpacked together.
    const GROUPS: usize;
    /// Lines of 64 bytes that hold 32 components of 16 keys.
    const KEY_LINES: usize;
    /// What [`dot`](Self::dot) takes a code 0 of a key for.
    fn zero<V: RowLanes>() -> i32;
    /// What [`mix`](Self::mix) takes a code 0 of a value for.
    const VALUE_ZERO: i32;

    /// Group `g` and, of two, group `g + 4` of the 32 components of `LANES` keys. `block` is the place of the first of them
    /// in the first of the [`KEY_LINES`](Self::KEY_LINES) lines of 16 keys.
    unsafe fn keys<V: RowLanes>(block: *const u8, g: usize) -> [V::Bytes; 2];
    /// Adds products of keys with four components of a query.
    unsafe fn dot<V: RowLanes>(sum: V, keys: V::Bytes, x: i32) -> V;

    /// A rounded softmax weight.
    type Weight: Copy + Default;
    /// The largest.
    const LEVELS: f32;
    /// For the exponentials.
    const POLYNOMIAL: &'static [f32];
    /// Rounds `weights * inverse`, of positions from `position` on, a multiple of the lanes, to as many places at `to`.
    unsafe fn round<V: Floats>(weights: V, inverse: V, position: usize, to: *mut Self::Weight);
    /// The sum of rounded weights, if it is needed.
    fn total(weights: &[Self::Weight]) -> i32;
    /// The `4 * LANES` bytes of values at `line`, of four positions or of two times four.
    unsafe fn values<V: RowLanes>(line: *const u8) -> [V::Bytes; 2];
    /// Adds products of values with the four weights at `x`.
    unsafe fn mix<V: RowLanes>(sum: V, values: V::Bytes, x: *const Self::Weight) -> V;
}

/// 8 bits.
pub(crate) enum Eight {}
/// 6 bits of keys, 4 of values.
pub(crate) enum SixFour {}

/// What is added to weights before they are rounded to 8 bits, by position: as many of 16 equal weights are rounded up as
/// keeps their sum, and small ones, which may be many, do not vanish. All are below 1/2, so that 0 stays 0 and the largest
/// weight the largest.
const OFFSETS: [f32; 16] = {
    let mut offsets = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        // Neighbours far apart.
        let reversed = (i as u8).reverse_bits() >> 4;
        offsets[i] = (reversed as f32 - 7.5) / 16.0;
        i += 1;
    }
    offsets
};

impl Codes for Eight {
    const GROUPS: usize = 1;
    const KEY_LINES: usize = 8;
    const VALUE_ZERO: i32 = 0;

    #[inline(always)]
    fn zero<V: RowLanes>() -> i32 {
        V::SIGNED_EXCESS
    }

    #[inline(always)]
    unsafe fn keys<V: RowLanes>(block: *const u8, g: usize) -> [V::Bytes; 2] {
        // SAFETY: g is below BLOCK / 4 = 8 groups, each of which is one of the 8 lines of a block of keys.
        unsafe { [V::load_bytes(block.add(64 * g)); 2] }
    }

    #[inline(always)]
    unsafe fn dot<V: RowLanes>(sum: V, keys: V::Bytes, x: i32) -> V {
        // SAFETY: registers only, whose instruction set is the condition of the trait.
        unsafe { sum.dot_signed(keys, x) }
    }

    type Weight = i16;
    /// What [`RowLanes::dot_wide`] takes. Sums over [`CHUNK`] positions of products with int8 fit i32.
    const LEVELS: f32 = 32512.0;
    const POLYNOMIAL: &'static [f32] = &GOOD;

    #[inline(always)]
    unsafe fn round<V: Floats>(weights: V, inverse: V, _: usize, to: *mut i16) {
        // SAFETY: `to` has room for a vector, which is what `store_i16` writes.
        unsafe { weights.mul(inverse).store_i16(to) }
    }

    #[inline(always)]
    fn total(_: &[i16]) -> i32 {
        0
    }

    #[inline(always)]
    unsafe fn values<V: RowLanes>(line: *const u8) -> [V::Bytes; 2] {
        // SAFETY: `line` has 4 * LANES bytes, which is what `load_bytes` reads.
        unsafe { [V::load_bytes(line); 2] }
    }

    #[inline(always)]
    unsafe fn mix<V: RowLanes>(sum: V, values: V::Bytes, x: *const i16) -> V {
        // SAFETY: `x` has four weights, which is what the product reads.
        unsafe { sum.dot_wide(values, x) }
    }
}

impl Codes for SixFour {
    const GROUPS: usize = 2;
    const KEY_LINES: usize = 6;
    const VALUE_ZERO: i32 = ZERO_4;

    #[inline(always)]
    fn zero<V: RowLanes>() -> i32 {
        ZERO_6
    }

    #[inline(always)]
    unsafe fn keys<V: RowLanes>(block: *const u8, g: usize) -> [V::Bytes; 2] {
        // SAFETY: g is below BLOCK / 4 / 2 = 4, each of which is a line of nibbles; lines 4 and 5 are the last two of a block.
        unsafe {
            let nibbles = V::load_bytes(block.add(64 * g));
            let (first, second) = (V::load_bytes(block.add(64 * 4)), V::load_bytes(block.add(64 * 5)));
            let shift = 2 * g as i32;
            [
                V::extend_nibbles(V::low_nibbles(nibbles), first, shift, 3),
                V::extend_nibbles(V::high_nibbles(nibbles), second, shift, 3),
            ]
        }
    }

    #[inline(always)]
    unsafe fn dot<V: RowLanes>(sum: V, keys: V::Bytes, x: i32) -> V {
        // SAFETY: registers only, whose instruction set is the condition of the trait.
        unsafe { sum.dot_unsigned(keys, x) }
    }

    type Weight = u8;
    /// What [`RowLanes::dot_bytes`] takes.
    const LEVELS: f32 = 254.0;
    const POLYNOMIAL: &'static [f32] = &ROUGH;

    #[inline(always)]
    unsafe fn round<V: Floats>(weights: V, inverse: V, position: usize, to: *mut u8) {
        // SAFETY: `position` is a multiple of the lanes, which divide 16, so that a whole vector of the 16 offsets begins at
        // position % 16; `to` has room for a vector.
        unsafe {
            let offsets = V::load(OFFSETS.as_ptr().add(position % OFFSETS.len()).cast());
            weights.mul_add(inverse, offsets).store_u8(to);
        }
    }

    #[inline(always)]
    fn total(weights: &[u8]) -> i32 {
        weights.iter().map(|weight| i32::from(*weight)).sum()
    }

    #[inline(always)]
    unsafe fn values<V: RowLanes>(line: *const u8) -> [V::Bytes; 2] {
        // SAFETY: `line` has 4 * LANES bytes, which is what `load_bytes` reads.
        unsafe {
            let bytes = V::load_bytes(line);
            [V::low_nibbles(bytes), V::high_nibbles(bytes)]
        }
    }

    #[inline(always)]
    unsafe fn mix<V: RowLanes>(sum: V, values: V::Bytes, x: *const u8) -> V {
        // SAFETY: `x` has four weights, which is what the product reads.
        unsafe { sum.dot_bytes(values, x) }
    }
}

/// Computes the partial results of all rows.
///
/// # Safety
/// The instruction set of `V` is available; `tiles` holds every position of the chunk below each row's `end`; the
/// pointers cover what [`TilesChunk`] and [`Int8Query`] say.
#[inline(always)]
pub(crate) unsafe fn chunk<V: RowLanes, C: Codes>(chunk: &TilesChunk<'_, Int8Query>) {
    let mut r = 0;
    while r < chunk.rows.len() {
        let left = chunk.rows.len() - r;
        // SAFETY: each branch takes at most the `left` rows, so r + R <= rows, and N * LANES is 16 or 32; the rest is this
        // function's condition.
        r += unsafe {
            if V::Floats::LANES >= 16 && left >= 8 {
                rows::<V, C, 8, 1>(chunk, r)
            } else if left >= 4 {
                if V::Floats::LANES >= 16 { rows::<V, C, 4, 2>(chunk, r) } else { rows::<V, C, 4, 1>(chunk, r) }
            } else if left >= 3 {
                if V::Floats::LANES >= 16 { rows::<V, C, 3, 2>(chunk, r) } else { rows::<V, C, 3, 1>(chunk, r) }
            } else if left >= 2 {
                rows::<V, C, 2, 2>(chunk, r)
            } else {
                rows::<V, C, 1, 2>(chunk, r)
            }
        };
    }
}

/// Rows `r .. r + R`, `N` vectors of positions at a time; returns `R`.
///
/// # Safety
/// As for [`chunk`], and `r + R <= chunk.rows.len()`; `N * LANES` divides 32.
#[inline(always)]
unsafe fn rows<V: RowLanes, C: Codes, const R: usize, const N: usize>(
    chunk: &TilesChunk<'_, Int8Query>,
    r: usize,
) -> usize {
    let layout = chunk.layout;
    let group = Group::<_, R>::of(chunk, r);
    let mut scores = [[0.0f32; CHUNK]; R];
    // SAFETY: `Group::of` takes no tile past the one with the last position below some row's end, and `chunk` has all tiles
    // up to there. `partials` has `partial_len` = width + 2 values for each of more than r + i rows. The width is a multiple
    // of 32, so that N vectors, and four where so many are left, end within it.
    unsafe {
        for tile in group.tiles.clone() {
            let at = chunk.tiles.add(tile * layout.tile_bytes());
            // Scales; codes are asked for where they are read.
            for line in (0..layout.keys()).step_by(64) {
                V::Floats::prefetch(at.wrapping_add(group.ahead).wrapping_add(line));
            }
            tile_scores::<V, C, R, N>(layout, &group, chunk.scale, at, tile * TILE, &mut scores);
        }
        let softmax = group.softmax::<V::Floats, true>(&mut scores, C::POLYNOMIAL, layout, chunk.tiles);
        let partials = chunk.partials.add(r * partial_len(layout));
        for (i, [max, total, _]) in softmax.into_iter().enumerate() {
            let partial = partials.add(i * partial_len(layout) + layout.width);
            partial.write(max);
            partial.add(1).write(total);
        }
        let weights = round_weights::<V::Floats, C, R>(&group, softmax.map(|[_, _, top]| top), &scores);
        let mut component = 0;
        while component < layout.width {
            let left = (layout.width - component) / V::Floats::LANES;
            component += V::Floats::LANES
                * if V::Floats::LANES >= 16 && R <= 4 && left >= 4 {
                    mix::<V, C, R, 4>(layout, chunk.tiles, &group, component, &weights, partials)
                } else {
                    // A width is a multiple of 32.
                    mix::<V, C, R, N>(layout, chunk.tiles, &group, component, &weights, partials)
                };
        }
    }
    R
}

/// Scores of the positions of a tile, position `at` of the chunk and the next 31.
///
/// # Safety
/// The instruction set of `V` is available; `tile` is a whole tile of `C`, the group's queries point to what
/// [`Int8Query`] says, `N * LANES` divides 32, and `at + 32 <= CHUNK`.
#[inline(always)]
unsafe fn tile_scores<V: RowLanes, C: Codes, const R: usize, const N: usize>(
    layout: KvTiles,
    group: &Group<Int8Query, R>,
    scale: f32,
    tile: *const u8,
    at: usize,
    scores: &mut [[f32; CHUNK]; R],
) {
    let lanes = const { V::Floats::LANES };
    for p in (0..TILE).step_by(N * lanes) {
        // SAFETY: positions p + n * lanes are below TILE and blocks b below width / BLOCK, so that the offsets, which follow the
        // layout in `crate::kv`, stay in the tile: key scales are TILE f16 per block, keys KEY_LINES lines per block and half
        // tile. Queries have `width` integers and width / BLOCK blocks. Scores are written up to at + p + N * lanes <= CHUNK.
        // Prefetched addresses may lie anywhere.
        unsafe {
            let mut sums = [[V::Floats::splat(0.0); N]; R];
            for b in 0..layout.width / BLOCK {
                let mut ints = [[V::zero(); N]; R];
                for i in 0..R {
                    // What the products have too much.
                    let [first, second] = (*group.q[i].blocks.add(b)).sums;
                    ints[i] = [V::zero().sub_splat(C::zero::<V>() * (first + second)); N];
                }
                let steps = const { BLOCK / 4 / C::GROUPS };
                for g in 0..steps {
                    let mut keys = [[V::load_bytes(tile); 2]; N];
                    for n in 0..N {
                        let p = p + n * lanes;
                        let line = (p / 16 * (layout.width / BLOCK) + b) * C::KEY_LINES;
                        let block = tile.add(layout.keys() + line * 64 + p % 16 * 4);
                        keys[n] = C::keys::<V>(block, g);
                        if p % 16 == 0 {
                            // A line per step, two in every second one where there are half as many more.
                            prefetch::<V::Floats>(block.add(64 * g), 64, group.ahead);
                            if C::KEY_LINES > steps && g % 2 == 1 {
                                prefetch::<V::Floats>(block.add(64 * (steps + g / 2)), 64, group.ahead);
                            }
                        }
                    }
                    for half in 0..C::GROUPS {
                        for i in 0..R {
                            let at = b * BLOCK + half * (BLOCK / 2) + 4 * g;
                            let x = group.q[i].q.add(at).cast::<i32>().read_unaligned();
                            for n in 0..N {
                                ints[i][n] = C::dot(ints[i][n], keys[n][half], x);
                            }
                        }
                    }
                }
                let key_scales: [V::Floats; N] =
                    std::array::from_fn(|n| V::Floats::load_f16(tile.add(2 * (b * TILE + p + n * lanes))));
                for i in 0..R {
                    let scale = V::Floats::splat((*group.q[i].blocks.add(b)).scale);
                    for n in 0..N {
                        sums[i][n] = ints[i][n].to_floats().mul_add(key_scales[n].mul(scale), sums[i][n]);
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

/// Rounded weights of `R` rows.
struct Weights<C: Codes, const R: usize> {
    rounded: [[C::Weight; CHUNK]; R],
    /// The value of a step.
    steps: [f32; R],
    /// Sums of the rounded weights.
    totals: [i32; R],
}

/// Rounds weights, of which `top` are the largest of each row.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn round_weights<V: Floats, C: Codes, const R: usize>(
    group: &Group<Int8Query, R>,
    top: [f32; R],
    floats: &[[f32; CHUNK]; R],
) -> Weights<C, R> {
    let range = group.tiles.start * TILE..group.tiles.end * TILE;
    let inverse = top.map(|top| C::LEVELS / top);
    // All values are 0 (or next to it), or nothing is seen.
    let usable = inverse.map(f32::is_finite);
    let mut weights = Weights::<C, R> {
        rounded: [[C::Weight::default(); CHUNK]; R],
        steps: std::array::from_fn(|i| if usable[i] { top[i] / C::LEVELS } else { 0.0 }),
        totals: [0; R],
    };
    // SAFETY: `Group::of` cuts the tiles off at the chunk, and TILE is a multiple of the lanes: p + LANES <= CHUNK, the length
    // of a row of weights and of rounded ones, and p is a multiple of the lanes.
    unsafe {
        let mut factors = [V::splat(0.0); R];
        for i in 0..R {
            factors[i] = V::splat(if usable[i] { inverse[i] } else { 0.0 });
        }
        for p in range.clone().step_by(V::LANES) {
            for i in 0..R {
                let weight = V::load(floats[i].as_ptr().add(p).cast());
                C::round(weight, factors[i], p, weights.rounded[i].as_mut_ptr().add(p));
            }
        }
    }
    weights.totals = std::array::from_fn(|i| C::total(&weights.rounded[i][range.clone()]));
    weights
}

/// Weighted sums of the values of the group's tiles: components `component ..`, `N` vectors; returns `N`.
///
/// # Safety
/// The instruction set of `V` is available; the group's tiles are readable among `tiles`, as `C`; `partials` has
/// `partial_len` values for each of `R` rows; `component + N * LANES <= layout.width`.
#[inline(always)]
unsafe fn mix<V: RowLanes, C: Codes, const R: usize, const N: usize>(
    layout: KvTiles,
    tiles: *const u8,
    group: &Group<Int8Query, R>,
    component: usize,
    weights: &Weights<C, R>,
    partials: *mut f32,
) -> usize {
    let lanes = const { V::Floats::LANES };
    // SAFETY: the values of a tile are TILE / 4 / GROUPS lines for each 16 components, and lines and components stay below
    // that (the layout in `crate::kv`; this function's condition). The weights of four positions are read at tile * TILE +
    // 4 * (GROUPS * line + half) <= CHUNK - 4. Sums are written up to component + N * LANES <= width. Prefetched addresses
    // may lie anywhere.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        if C::VALUE_ZERO != 0 {
            for i in 0..R {
                sums[i] = [V::zero().sub_splat(C::VALUE_ZERO * weights.totals[i]); N];
            }
        }
        let tile_bytes = layout.tile_bytes();
        for tile in group.tiles.clone() {
            let values_of_tile = tiles.add(tile * tile_bytes + layout.values());
            for line in 0..TILE / 4 / C::GROUPS {
                let mut values = [[V::load_bytes(values_of_tile); 2]; N];
                for n in 0..N {
                    let component = component + n * lanes;
                    let line = component / 16 * (TILE / 4 / C::GROUPS) + line;
                    let from = values_of_tile.add(line * 64 + component % 16 * 4);
                    values[n] = C::values::<V>(from);
                    if component.is_multiple_of(16) {
                        prefetch::<V::Floats>(from, 64, group.ahead);
                    }
                }
                for half in 0..C::GROUPS {
                    for i in 0..R {
                        let x = weights.rounded[i].as_ptr().add(tile * TILE + 4 * (C::GROUPS * line + half));
                        for n in 0..N {
                            sums[i][n] = C::mix(sums[i][n], values[n][half], x);
                        }
                    }
                }
            }
        }
        for i in 0..R {
            for n in 0..N {
                let to = partials.add(i * partial_len(layout) + component + n * lanes);
                sums[i][n].to_floats().mul(V::Floats::splat(weights.steps[i])).store(to);
            }
        }
    }
    N
}
