//! Coarse copies of matrices (see [`coarse`](crate::coarse)): making them, and estimating products with them.

use super::panel::{FAR, NEAR, threes};
use crate::coarse::{CODE_START, CODES, Coarse};
use crate::panel::{BLOCK, ROWS};
use crate::plain::nearest;
use crate::rotation::rotate;
use crate::vector::{Floats, RowLanes};

/// One token, multiplied by the signs of a copy, [rotated](rotate) and rounded to int8.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoarseInput<'a> {
    /// `cols` values.
    pub q: &'a [i8],
    /// Their sum.
    pub sum: i32,
    /// Value of one step.
    pub scale: f32,
    /// How far from its estimate a product may be, in standard deviations, times the length of the input.
    pub reach: f32,
}

/// What a coarse copy says about a panel of 16 rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Estimate {
    /// The largest estimate.
    pub best: f32,
    /// The largest value that a product may have.
    pub most: f32,
}

/// Steps of the codes over the standard deviation of the weights: least squared error of 8 levels for a normal
/// distribution (Max 1960).
const STEP: f32 = 0.586;
/// The largest input after rotation that [`coarse_row`] reckons with, in standard deviations.
pub(crate) const PEAK: f32 = 6.0;
/// Standard deviation of rounding an input to int8, over that of the inputs: a step is `PEAK / 127`, and the error is
/// spread evenly over it.
const ROUNDING: f32 = PEAK / 127.0 * 0.288_675;

/// The codes of a row, which is multiplied by `signs` and rotated in place, and `[scale, standard deviation of the error per
/// |x|]`, not finite when a weight is not or is too large.
#[inline(always)]
pub(crate) fn coarse_row(row: &mut [f32], signs: &[f32], codes: &mut [u8], factors: &mut [f32; 2]) {
    assert!(row.len() == codes.len() && row.len() == signs.len());
    row.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
    rotate(row);
    let (parts, _) = row.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    let mut largest = [0.0f32; 16];
    for x in parts {
        for i in 0..16 {
            sums[i] += x[i] * x[i];
            largest[i] = largest[i].max(x[i].abs());
        }
    }
    let square: f32 = sums.iter().sum();
    let cols = row.len() as f32;
    let inverse = 1.0 / (STEP * (square / cols).sqrt());
    if square < f32::MIN_POSITIVE * 1e8 || !inverse.is_finite() {
        // Zeros, or next to nothing: estimated as 0, and the error may be all of it. NaN and infinity stay.
        codes.fill(0);
        *factors = [0.0 * square, largest.into_iter().fold(0.0, f32::max) * cols.sqrt() + 0.0 * square];
        return;
    }
    let (mut products, mut squares) = ([0.0f32; 16], [0.0f32; 16]);
    for (x, codes) in parts.iter().zip(codes.as_chunks_mut::<16>().0) {
        for i in 0..16 {
            let code = nearest((x[i] * inverse + 3.5).clamp(0.0, 7.0));
            let level = code - 3.5;
            codes[i] = code as u8;
            products[i] += level * x[i];
            squares[i] += level * level;
        }
    }
    let scale = square / products.iter().sum::<f32>();
    let estimate = scale * scale * squares.iter().sum::<f32>();
    let error = (estimate - square).max(0.0) + estimate * (ROUNDING * ROUNDING);
    *factors = [scale, (error / cols).sqrt()];
}

/// Estimates of panels `first ..`, one token.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn estimate<V: RowLanes>(w: &Coarse, first: usize, x: &CoarseInput<'_>, out: &mut [Estimate]) {
    let halves = const { ROWS / V::Floats::LANES };
    let panel_bytes = w.panel_bytes();
    assert!(x.q.len() == w.cols && first + out.len() <= w.panels());
    let panels = w.bytes()[first * panel_bytes..].chunks_exact(panel_bytes);
    // SAFETY: `chunks_exact` gives panels of CODE_START + cols / 32 * CODES bytes, of which block b < cols / 32 reads its
    // CODES, three lines of which a vector, or two, are a whole. There are `cols` inputs (asserted above), and groups are
    // below 8, so that the four at b * 32 + 4 * group are among them. Lanes from `lane` on are among the 16 of each line of
    // factors and of both arrays. The instruction set is this function's condition; prefetched addresses may lie anywhere.
    unsafe {
        let x_scale = V::Floats::splat(x.scale / 8.0);
        let reach = V::Floats::splat(x.reach);
        for (index, (panel, out)) in panels.zip(out).enumerate() {
            let mut codes = panel.as_ptr().add(CODE_START);
            // Per half of the rows: sums of codes, and of eightfold codes.
            let mut sums = [[V::zero(); 2]; 4];
            for b in 0..w.cols / BLOCK {
                for line in 0..CODES / 64 {
                    V::Floats::prefetch(codes.wrapping_add(FAR + 64 * line));
                    V::Floats::prefetch_near(codes.wrapping_add(NEAR + 64 * line));
                }
                let input = |group: usize| x.q.as_ptr().add(b * BLOCK + 4 * group).cast::<i32>().read_unaligned();
                for half in 0..halves {
                    let at = codes.add(half * 4 * V::Floats::LANES);
                    let codes = threes::<V>([0, 64, 128].map(|line| V::load_bytes(at.add(line))));
                    let [ones, eights] = &mut sums[half];
                    for (group, codes) in codes.into_iter().enumerate() {
                        let sum = if group < 3 { &mut *ones } else { &mut *eights };
                        *sum = sum.dot_unsigned(codes, input(group));
                    }
                }
                codes = codes.add(CODES);
            }
            let rows = w.rows - (first + index) * ROWS;
            let (mut best, mut most) = ([f32::NEG_INFINITY; ROWS], [f32::NEG_INFINITY; ROWS]);
            for half in 0..halves {
                let lane = half * V::Floats::LANES;
                let [ones, eights] = sums[half];
                let mut int = ones;
                for _ in 0..3 {
                    int = int.add(int);
                }
                // 8 (code - 3.5) q, in all.
                let int = int.add(eights).sub_splat(28 * x.sum);
                let scale = V::Floats::load(panel.as_ptr().add(4 * lane)).mul(x_scale);
                let estimate = int.to_floats().mul(scale);
                let error = V::Floats::load(panel.as_ptr().add(64 + 4 * lane)).mul(reach);
                estimate.store(best.as_mut_ptr().add(lane));
                estimate.add(error).store(most.as_mut_ptr().add(lane));
            }
            // The last panel is filled up with rows that do not exist.
            let largest = |values: &[f32; ROWS]| {
                values[..rows.min(ROWS)].iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
            };
            *out = Estimate { best: largest(&best), most: largest(&most) };
        }
    }
}
