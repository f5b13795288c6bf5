//! Attention over tiles of keys and values: softmax in f32, a chunk of positions at a time.
//!
//! For one query row and the chunk of [`CHUNK`] positions that starts at a multiple of it:
//!
//! ```text
//! score[p] = (query . key[p]) * (scale * log2(e))
//! max      = largest score,  e[p] = 2^(score[p] - max),  total = sum e[p]
//! sum[i]   = sum e[p] * value[p][i]
//! ```
//!
//! [`floats`] and [`int8`] say how the products are made. Chunks are then folded in ascending order ([`fold`]). So a row's
//! result depends on nothing but its query, its range of positions and what is cached there.

pub(crate) mod floats;
pub(crate) mod int8;

use std::f32::consts::LN_2;
use std::ops::Range;

use crate::kv::{CHUNK, KvTiles, TILE};
use crate::plain::ROUND;
use crate::vector::Floats;

/// A query head of a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryRow<Q> {
    pub q: Q,
    /// Absolute positions it sees: `first .. end`.
    pub first: usize,
    pub end: usize,
}

/// Some query rows and one chunk of a kv head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TilesChunk<'a, Q> {
    pub layout: KvTiles,
    pub rows: &'a [QueryRow<Q>],
    /// Factor on the scores, times log2(e).
    pub scale: f32,
    /// Tiles of the chunk.
    pub tiles: *const u8,
    /// Its first position.
    pub start: usize,
    /// Bytes between the keys and values in use and those to ask memory for.
    pub ahead: usize,
    /// rows x ([`partial_len`]): the sums, the largest score, the total.
    pub partials: *mut f32,
}

/// Values of one row's state: `width` sums, the largest score, the total of the weights.
pub(crate) fn partial_len(layout: KvTiles) -> usize {
    layout.width + 2
}

/// `R` neighbouring rows and what they see of a chunk.
struct Group<Q, const R: usize> {
    q: [Q; R],
    /// Positions of the chunk.
    first: [usize; R],
    end: [usize; R],
    /// Tiles that some row sees.
    tiles: Range<usize>,
    /// As in [`TilesChunk`]; only the first group of rows asks memory for the next chunk.
    ahead: usize,
}

impl<Q: Copy, const R: usize> Group<Q, R> {
    /// Rows `r .. r + R` of a chunk.
    #[inline(always)]
    fn of(chunk: &TilesChunk<'_, Q>, r: usize) -> Self {
        let rows = &chunk.rows[r..r + R];
        let first: [usize; R] = std::array::from_fn(|i| rows[i].first.saturating_sub(chunk.start).min(CHUNK));
        let end: [usize; R] = std::array::from_fn(|i| rows[i].end.saturating_sub(chunk.start).min(CHUNK));
        let from = first.iter().fold(CHUNK, |a, b| a.min(*b)) / TILE;
        let until = end.iter().fold(0, |a, b| a.max(*b)).div_ceil(TILE).max(from);
        let ahead = if r == 0 { chunk.ahead } else { 0 };
        Self { q: std::array::from_fn(|i| rows[i].q), first, end, tiles: from..until, ahead }
    }

    /// Makes weights of scores: exponentials by `polynomial`, 0 where a row sees nothing, if `SCALED` times the scale of
    /// each position's value. Returns the largest score, the sum of the exponentials and the largest weight of each row.
    ///
    /// # Safety
    /// The instruction set of `V` is available; if `SCALED`, the group's tiles are readable among `tiles`.
    #[inline(always)]
    unsafe fn softmax<V: Floats, const SCALED: bool>(
        &self,
        scores: &mut [[f32; CHUNK]; R],
        polynomial: &[f32],
        layout: KvTiles,
        tiles: *const u8,
    ) -> [[f32; 3]; R] {
        let range = self.tiles.start * TILE..self.tiles.end * TILE;
        // Out of the loops, where it would be computed again and again.
        let (tile_bytes, scales) = (layout.tile_bytes(), tiles.wrapping_add(layout.value_scales()));
        for i in 0..R {
            let (first, end) = (self.first[i], self.end[i]);
            let seen = if first < end { first..end } else { range.end..range.end };
            scores[i][range.start..seen.start].fill(f32::NEG_INFINITY);
            scores[i][seen.end..range.end].fill(f32::NEG_INFINITY);
        }
        // SAFETY: `of` cuts the group's tiles off at the chunk, so that `range` ends at CHUNK at most, and its bounds are
        // multiples of TILE and so of the lanes: every p + LANES <= CHUNK, the length of a row of scores. The scales of the
        // values are TILE f16 of each tile, which the group has.
        unsafe {
            // Rows side by side, whose operations do not wait for each other.
            let values = scores.as_mut_ptr().cast::<f32>();
            let mut largest = [V::splat(f32::NEG_INFINITY); R];
            for p in range.clone().step_by(V::LANES) {
                for i in 0..R {
                    largest[i] = V::load(values.add(i * CHUNK + p).cast()).max(largest[i]);
                }
            }
            let mut results = [[f32::NEG_INFINITY, 0.0, 0.0]; R];
            let mut max = [V::splat(0.0); R];
            for i in 0..R {
                // Where nothing is seen, any number would do.
                if self.first[i] < self.end[i] {
                    results[i][0] = largest[i].largest();
                    max[i] = V::splat(results[i][0]);
                }
            }
            let (mut sums, mut top) = ([V::splat(0.0); R], [V::splat(0.0); R]);
            for p in range.step_by(V::LANES) {
                let mut scale = V::splat(1.0);
                if SCALED {
                    scale = V::load_f16(scales.add(p / TILE * tile_bytes + 2 * (p % TILE)));
                }
                for i in 0..R {
                    let at = values.add(i * CHUNK + p);
                    let e = exp2(V::load(at.cast()).sub(max[i]), polynomial);
                    sums[i] = sums[i].add(e);
                    if SCALED {
                        let weight = e.mul(scale);
                        top[i] = weight.max(top[i]);
                        weight.store(at);
                    } else {
                        e.store(at);
                    }
                }
            }
            for i in 0..R {
                (results[i][1], results[i][2]) = (sums[i].sum(), top[i].largest());
            }
            results
        }
    }
}

/// Asks for what lies `ahead` bytes after the `bytes` from `at` on. (From the second-level cache to the first the processor
/// brings lines by itself, as fast as when asked: 8-bit attention was a tenth slower with a request for each.)
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn prefetch<V: Floats>(at: *const u8, bytes: usize, ahead: usize) {
    for line in (0..bytes).step_by(64) {
        // SAFETY: any address may be asked for; the instruction set is this function's condition.
        unsafe { V::prefetch(at.wrapping_add(ahead).wrapping_add(line)) };
    }
}

/// Polynomials with value 1 at 0 for 2^x on -0.5..=0.5: their coefficients from that of the highest power down to that of x.
/// Relative error 1e-7, hardly more than the best f32 can do;
const EXACT: [f32; 5] = [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, LN_2];
/// 3e-6, for weights that are rounded to 15 bits;
const GOOD: [f32; 4] = [9.582_853e-3, 5.590_642_5e-2, 2.402_409_9e-1, 6.931_242e-1];
/// 1e-4, for weights that are rounded to 8 bits.
const ROUGH: [f32; 3] = [5.500_893e-2, 2.422_096_2e-1, 6.932_829e-1];

/// 2^x for x <= 0 or NaN, by one of the polynomials; 0 where it is too small for f32.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn exp2<V: Floats>(x: V, polynomial: &[f32]) -> V {
    // SAFETY: registers only, whose instruction set is this function's condition.
    unsafe {
        let clamped = V::splat(-200.0).max(x);
        let round = V::splat(ROUND);
        let n = clamped.add(round).sub(round);
        let r = clamped.sub(n);
        let mut p = V::splat(polynomial[0]);
        for coefficient in &polynomial[1..] {
            p = p.mul_add(r, V::splat(*coefficient));
        }
        p.mul_add(r, V::splat(1.0)).times_exp2(n)
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
    assert!(state.len() == partial.len() && width.is_multiple_of(V::LANES));
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
    // SAFETY: `width` is a multiple of the lanes and both slices hold two values more (asserted above), so that every
    // i + LANES <= width; `factors` has 16 values, as many as the widest vector. The instruction set is this function's
    // condition.
    unsafe {
        exp2(V::load(factors.as_ptr().cast()), &EXACT).store(factors.as_mut_ptr());
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
