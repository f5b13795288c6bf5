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
use crate::vector::Floats;

/// Bytes between the keys or values in use and those to bring to the first-level cache.
const NEAR: usize = 1024;

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

    /// Makes weights of the scores of row `i`: exponentials, 0 where it sees nothing, times a scale per position if
    /// `scales` gives those of 8-bit values. Returns the largest score, the sum of the exponentials and the largest weight.
    #[inline(always)]
    unsafe fn softmax<V: Floats>(
        &self,
        i: usize,
        scores: &mut [f32; CHUNK],
        scales: Option<(KvTiles, *const u8)>,
    ) -> [f32; 3] {
        let range = self.tiles.start * TILE..self.tiles.end * TILE;
        let (first, end) = (self.first[i], self.end[i]);
        if first >= end {
            scores[range].fill(0.0);
            return [f32::NEG_INFINITY, 0.0, 0.0];
        }
        scores[range.start..first].fill(f32::NEG_INFINITY);
        scores[end..range.end].fill(f32::NEG_INFINITY);
        // SAFETY: the caller has the instruction set and gives the tiles of the chunk; those of the group end within it, and
        // are a whole number of vectors.
        unsafe {
            let values = scores.as_mut_ptr();
            let mut largest = V::splat(f32::NEG_INFINITY);
            for p in range.clone().step_by(V::LANES) {
                largest = V::load(values.add(p).cast()).max(largest);
            }
            let max = largest.largest();
            let (mut sum, mut top) = (V::splat(0.0), V::splat(0.0));
            for p in range.step_by(V::LANES) {
                let e = exp2(V::load(values.add(p).cast()).sub(V::splat(max)));
                sum = sum.add(e);
                let weight = match scales {
                    None => e,
                    Some((layout, tiles)) => {
                        let tile = tiles.add(p / TILE * layout.tile_bytes());
                        let weight = e.mul(V::load_f16(tile.add(layout.value_scales() + 2 * (p % TILE))));
                        top = weight.max(top);
                        weight
                    }
                };
                weight.store(values.add(p));
            }
            [max, sum.sum(), top.largest()]
        }
    }
}

/// Asks for the `bytes` from `at` on of what comes next, and of what comes `ahead` bytes later.
#[inline(always)]
unsafe fn prefetch<V: Floats>(at: *const u8, bytes: usize, ahead: usize) {
    for line in (0..bytes).step_by(64) {
        // SAFETY: the caller has the instruction set; any address may be asked for.
        unsafe {
            V::prefetch(at.wrapping_add(ahead).wrapping_add(line));
            V::prefetch_near(at.wrapping_add(NEAR + line));
        }
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
    // SAFETY: the caller has the instruction set; `width` is a multiple of the lanes.
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
