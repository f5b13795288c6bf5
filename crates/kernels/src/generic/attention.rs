//! Attention of one token and one kv head: softmax over the positions, computed online in fixed tiles.

use super::activation::exp;
use super::dense::Element;
use crate::vector::Floats;

/// Positions per tile. Tiles start at multiples of it, counted from absolute position 0.
pub(crate) const TILE: usize = 32;

/// One token's query heads that share a kv head.
#[derive(Debug)]
pub(crate) struct AttendHead<'a> {
    /// group x head_dim.
    pub q: &'a [f32],
    /// positions x head_dim elements.
    pub k: *const u8,
    /// positions x head_dim elements.
    pub v: *const u8,
    pub head_dim: usize,
    pub positions: usize,
    /// Absolute position of the first row of `k` and `v`.
    pub first: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// group x head_dim.
    pub out: &'a mut [f32],
}

/// Computes `out`; zeros when there are no positions.
///
/// # Safety
/// The instruction set of `V` is available; `k` and `v` cover positions x head_dim values of `E`; `q` and `out` are
/// equally long and a multiple of `head_dim`.
#[inline(always)]
pub(crate) unsafe fn attend<V: Floats, E: Element>(head: &mut AttendHead<'_>) {
    let group = head.q.len() / head.head_dim;
    head.out.fill(0.0);
    if head.positions == 0 {
        return;
    }
    let mut g = 0;
    while g < group {
        let left = group - g;
        // SAFETY: the caller's promise; g + G <= group.
        g += unsafe {
            if V::LANES >= 16 && left >= 4 {
                heads::<V, E, 4>(head, g)
            } else if V::LANES >= 16 && left >= 3 {
                heads::<V, E, 3>(head, g)
            } else if left >= 2 {
                heads::<V, E, 2>(head, g)
            } else {
                heads::<V, E, 1>(head, g)
            }
        };
    }
}

/// Query heads `g .. g + G`; returns `G`. Which heads are computed together does not change their results.
#[inline(always)]
unsafe fn heads<V: Floats, E: Element, const G: usize>(head: &mut AttendHead<'_>, g: usize) -> usize {
    let AttendHead { head_dim, positions, first, .. } = *head;
    // SAFETY: g + G <= group, so q and out have G x head_dim values from here on.
    let (q, out) = unsafe { (head.q.as_ptr().add(g * head_dim), head.out.as_mut_ptr().add(g * head_dim)) };
    let mut max = [f32::NEG_INFINITY; G];
    let mut total = [0.0f32; G];
    let mut start = 0;
    while start < positions {
        let len = (TILE - (first + start) % TILE).min(positions - start);
        let mut weights = [[f32::NEG_INFINITY; TILE]; G];
        let mut rescale = [0.0f32; G];
        // SAFETY: the caller has the instruction set; start + len <= positions, so the rows of this tile lie inside k and
        // v; a tile of weights holds a whole number of vectors.
        unsafe {
            let row = start * head_dim * E::BYTES;
            scores::<V, E, G>(q, head.k.add(row), head_dim, len, head.scale, &mut weights);
            for g in 0..G {
                let mut tile_max = V::splat(max[g]);
                for i in (0..TILE).step_by(V::LANES) {
                    tile_max = V::load(weights[g].as_ptr().add(i).cast()).max(tile_max);
                }
                let mut lanes = [f32::NEG_INFINITY; 16];
                tile_max.store(lanes.as_mut_ptr());
                let new_max = lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut sum = V::splat(0.0);
                for i in (0..TILE).step_by(V::LANES) {
                    let at = weights[g].as_mut_ptr().add(i);
                    let weight = exp(V::load(at.cast()).sub(V::splat(new_max)));
                    sum = sum.add(weight);
                    weight.store(at);
                }
                exp(V::splat(max[g] - new_max)).store(lanes.as_mut_ptr());
                rescale[g] = lanes[0];
                total[g] = total[g] * rescale[g] + sum.sum();
                max[g] = new_max;
            }
            mix::<V, E, G>(&weights, &rescale, head.v.add(row), head_dim, len, out);
        }
        start += len;
    }
    for g in 0..G {
        for i in 0..head_dim {
            // SAFETY: g < G and i < head_dim.
            unsafe { *out.add(g * head_dim + i) /= total[g] };
        }
    }
    G
}

/// `scores[g][p] = q[g] . k[p] * scale` for `len` positions.
#[inline(always)]
unsafe fn scores<V: Floats, E: Element, const G: usize>(
    q: *const f32,
    k: *const u8,
    head_dim: usize,
    len: usize,
    scale: f32,
    scores: &mut [[f32; TILE]; G],
) {
    let row_bytes = head_dim * E::BYTES;
    for p in (0..len).step_by(4) {
        // SAFETY: the caller has the instruction set.
        let mut sums = [[unsafe { V::splat(0.0) }; 4]; G];
        // Past the end the last row is taken again, and its scores are dropped.
        let rows: [usize; 4] = std::array::from_fn(|i| (p + i).min(len - 1) * row_bytes);
        let mut c = 0;
        // SAFETY: the caller's promise: `len` rows of head_dim values at k, G rows at q.
        unsafe {
            while c + V::LANES <= head_dim {
                let mut keys = [V::splat(0.0); 4];
                for i in 0..4 {
                    keys[i] = E::load::<V>(k.add(rows[i] + c * E::BYTES));
                }
                for g in 0..G {
                    let query = V::load(q.add(g * head_dim + c).cast());
                    for i in 0..4 {
                        sums[g][i] = query.mul_add(keys[i], sums[g][i]);
                    }
                }
                c += V::LANES;
            }
            if c < head_dim {
                let n = head_dim - c;
                for i in 0..4 {
                    let key = E::load_part::<V>(k.add(rows[i] + c * E::BYTES), n);
                    for g in 0..G {
                        let query = V::load_part(q.add(g * head_dim + c).cast(), n);
                        sums[g][i] = query.mul_add(key, sums[g][i]);
                    }
                }
            }
            for g in 0..G {
                let sums = V::sum4(sums[g]);
                for i in 0..4.min(len - p) {
                    scores[g][p + i] = sums[i] * scale;
                }
            }
        }
    }
}

/// `out[g] = out[g] * rescale[g] + sum_p weights[g][p] v[p]` for `len` positions in ascending order.
#[inline(always)]
unsafe fn mix<V: Floats, E: Element, const G: usize>(
    weights: &[[f32; TILE]; G],
    rescale: &[f32; G],
    v: *const u8,
    head_dim: usize,
    len: usize,
    out: *mut f32,
) {
    let row_bytes = head_dim * E::BYTES;
    let mut c = 0;
    // SAFETY: the caller's promise: `len <= TILE` rows of head_dim values at v, G rows at out.
    unsafe {
        while c + 2 * V::LANES <= head_dim {
            let mut sums = [[V::splat(0.0); 2]; G];
            for g in 0..G {
                for i in 0..2 {
                    let old = V::load(out.add(g * head_dim + c + i * V::LANES).cast());
                    sums[g][i] = old.mul(V::splat(rescale[g]));
                }
            }
            for p in 0..len {
                let from = v.add(p * row_bytes + c * E::BYTES);
                let values = [E::load::<V>(from), E::load::<V>(from.add(V::LANES * E::BYTES))];
                for g in 0..G {
                    let weight = V::splat(weights[g][p]);
                    for i in 0..2 {
                        sums[g][i] = weight.mul_add(values[i], sums[g][i]);
                    }
                }
            }
            for g in 0..G {
                for i in 0..2 {
                    sums[g][i].store(out.add(g * head_dim + c + i * V::LANES));
                }
            }
            c += 2 * V::LANES;
        }
        while c < head_dim {
            let n = V::LANES.min(head_dim - c);
            for g in 0..G {
                let at = out.add(g * head_dim + c);
                let mut sum = V::load_part(at.cast(), n).mul(V::splat(rescale[g]));
                for p in 0..len {
                    let value = E::load_part::<V>(v.add(p * row_bytes + c * E::BYTES), n);
                    sum = V::splat(weights[g][p]).mul_add(value, sum);
                }
                sum.store_part(at, n);
            }
            c += V::LANES;
        }
    }
}
