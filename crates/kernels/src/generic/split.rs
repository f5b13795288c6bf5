//! Products with split Q8_0 weights (see [`split`](crate::split)): estimates with bounds from the upper parts, and the very
//! sums of [`panel`](super::panel) from both.

use super::panel::InputBlock;
use crate::panel::{BLOCK, ROWS};
use crate::split::{LOWER, SCALES, Split, UPPER};
use crate::vector::{Floats, RowLanes};

/// What an estimate says about a panel of 16 rows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Estimate {
    /// The largest estimate.
    pub best: f32,
    /// What no product is above.
    pub most: f32,
    /// The largest distance between an estimate and its product.
    pub bound: f32,
}

/// Bytes between what is in use and what is asked for, into the second-level and into the first-level cache.
const FAR: usize = 5120;
const NEAR: usize = 1280;

/// Bytes that are 0.
static ZEROS: [u8; 64] = [0; 64];

/// Estimates of panels `first ..`, one token. `norms`: per block of inputs, at least `x_scale |q|`.
///
/// # Safety
/// The instruction set of `V` is available; the matrix has these panels; `q` and `blocks` are one token of its columns.
#[inline(always)]
pub(crate) unsafe fn estimate<V: RowLanes>(
    w: &Split,
    first: usize,
    q: &[i8],
    blocks: &[InputBlock],
    norms: &[f32],
    out: &mut [Estimate],
) {
    let halves = const { ROWS / V::Floats::LANES };
    let count = w.cols / BLOCK;
    assert!(q.len() == w.cols && blocks.len() == count && norms.len() == count && first + out.len() <= w.panels());
    let (upper_bytes, code_start) = (w.upper_bytes(), w.code_start());
    let ahead_step = ((upper_bytes / 64) << 16) / count;
    // SAFETY: the caller has the instruction set; panels lie inside the matrix, and offsets follow their layout.
    // Prefetched addresses may lie anywhere.
    unsafe {
        let tiny = V::Floats::splat(1e-30);
        let zero = V::Floats::splat(0.0);
        for (i, out) in out.iter_mut().enumerate() {
            let scales = w.upper().as_ptr().add((first + i) * upper_bytes);
            let mut codes = scales.add(code_start);
            let mut sums = [zero; 4];
            let mut spread = [zero; 4];
            let mut ahead = 0;
            for b in 0..count {
                let until = ahead + ahead_step;
                for line in (ahead >> 16)..(until >> 16) {
                    let at = scales.wrapping_add(code_start + 64 * line);
                    V::Floats::prefetch(at.wrapping_add(FAR));
                    V::Floats::prefetch_near(at.wrapping_add(NEAR));
                }
                ahead = until;
                let block = blocks.get_unchecked(b);
                let norm = V::Floats::splat(*norms.get_unchecked(b));
                let scale = V::Floats::splat(0.5 * block.scale);
                for half in 0..halves {
                    let at = half * 4 * V::Floats::LANES;
                    let six = upper::<V, 1>(codes.add(at), q.as_ptr().add(b * BLOCK).cast(), 0)[0];
                    // Twice the estimate of the whole number: 2 (4 six + (1.5 - 128) sum).
                    let two = six.add(six);
                    let four = two.add(two);
                    let double = four.add(four).sub_splat(253 * (block.sums[0] + block.sums[1]));
                    let d = V::Floats::load_f16(scales.add(b * SCALES + 2 * half * V::Floats::LANES));
                    sums[half] = sums[half].add(double.to_floats().mul(d.mul(scale)));
                    spread[half] = spread[half].add(d.max(zero.sub(d)).mul(norm));
                }
                codes = codes.add(UPPER);
            }
            let mut best = V::Floats::splat(f32::NEG_INFINITY);
            let mut most = best;
            let mut largest = zero;
            for half in 0..halves {
                let row = (first + i) * ROWS + half * V::Floats::LANES;
                let bound = V::Floats::load(w.bounds().as_ptr().add(row).cast()).mul(spread[half]).add(tiny);
                best = sums[half].max(best);
                most = sums[half].add(bound).max(most);
                largest = bound.max(largest);
            }
            *out = Estimate { best: best.largest(), most: most.largest(), bound: largest.largest() };
        }
    }
}

/// The products of panel `panel` with all tokens, bit for bit those of Q8_0 panels. `y`: the first row of the panel and
/// the first token; only rows of the matrix are written.
///
/// # Safety
/// The instruction set of `V` is available; the matrix has this panel; `q` and `blocks` are `tokens` tokens of its columns;
/// `y` has a place for every row and token, `w.rows` apart per token, that nobody else uses.
#[inline(always)]
pub(crate) unsafe fn exact<V: RowLanes>(
    w: &Split,
    panel: usize,
    q: *const i8,
    blocks: *const InputBlock,
    tokens: usize,
    y: *mut f32,
) {
    let mut t = 0;
    while t < tokens {
        let count = w.cols / BLOCK;
        // SAFETY: as promised by the caller; t + T <= tokens.
        unsafe {
            let (q, blocks, y) = (q.add(t * w.cols), blocks.add(t * count), y.add(t * w.rows));
            t += if V::TILE_TOKENS >= 4 && tokens - t >= 4 {
                tile::<V, 4>(w, panel, q, blocks, y)
            } else if tokens - t >= 2 {
                tile::<V, 2>(w, panel, q, blocks, y)
            } else {
                tile::<V, 1>(w, panel, q, blocks, y)
            };
        }
    }
}

/// `T` tokens; returns `T`.
#[inline(always)]
unsafe fn tile<V: RowLanes, const T: usize>(
    w: &Split,
    panel: usize,
    q: *const i8,
    blocks: *const InputBlock,
    y: *mut f32,
) -> usize {
    let halves = const { ROWS / V::Floats::LANES };
    let count = w.cols / BLOCK;
    // SAFETY: as promised by the caller of `exact`; offsets follow the layout.
    unsafe {
        let scales = w.upper().as_ptr().add(panel * w.upper_bytes());
        let upper_codes = scales.add(w.code_start());
        let lower_codes = w.lower().as_ptr().add(panel * w.lower_bytes());
        let sixteenth = V::Floats::splat(1.0 / 16.0);
        let mut sums = [[V::Floats::splat(0.0); T]; 4];
        for b in 0..count {
            let inputs = q.add(b * BLOCK).cast::<u8>();
            for half in 0..halves {
                let at = half * 4 * V::Floats::LANES;
                let six = upper::<V, T>(upper_codes.add(b * UPPER + at), inputs, w.cols);
                let two = lower::<V, T>(lower_codes.add(b * LOWER + at), inputs, w.cols);
                let d = V::Floats::load_f16(scales.add(b * SCALES + 2 * half * V::Floats::LANES));
                for j in 0..T {
                    let block = &*blocks.add(j * count + b);
                    // 16 times the whole number: 64 six + 16 two - 16 * 128 sum, below 2^24.
                    let mut int = six[j];
                    for _ in 0..6 {
                        int = int.add(int);
                    }
                    let int = int.add(two[j]).sub_splat(2048 * (block.sums[0] + block.sums[1]));
                    let factor = d.mul(V::Floats::splat(block.scale));
                    sums[half][j] = sums[half][j].add(int.to_floats().mul(sixteenth).mul(factor));
                }
            }
        }
        for half in 0..halves {
            let row = half * V::Floats::LANES;
            let rows = (w.rows - panel * ROWS).saturating_sub(row).min(V::Floats::LANES);
            for j in 0..T {
                sums[half][j].store_part(y.add(j * w.rows + row), rows);
            }
        }
    }
    T
}

/// Upper codes times inputs.
#[inline(always)]
unsafe fn upper<V: RowLanes, const T: usize>(codes: *const u8, q: *const u8, cols: usize) -> [V; T] {
    // SAFETY: the caller gives the upper codes of 32 inputs and T tokens of `cols` inputs, 32 of them at q.
    unsafe {
        let mut sums = [V::zero(); T];
        let input = |j: usize, group: usize| q.add(j * cols + 4 * group).cast::<i32>().read_unaligned();
        let bits = [V::load_bytes(codes.add(256)), V::load_bytes(codes.add(320))];
        for plane in 0..4 {
            let bytes = V::load_bytes(codes.add(64 * plane));
            let first = V::extend_nibbles(V::low_nibbles(bytes), bits[0], 2 * plane as i32, 3);
            let second = V::extend_nibbles(V::high_nibbles(bytes), bits[1], 2 * plane as i32, 3);
            for j in 0..T {
                sums[j] = sums[j].dot_unsigned(first, input(j, plane)).dot_unsigned(second, input(j, plane + 4));
            }
        }
        sums
    }
}

/// 16 times lower codes times inputs.
#[inline(always)]
unsafe fn lower<V: RowLanes, const T: usize>(codes: *const u8, q: *const u8, cols: usize) -> [V; T] {
    // SAFETY: the caller gives the lower codes of 32 inputs and T tokens of `cols` inputs, 32 of them at q.
    unsafe {
        let mut sums = [V::zero(); T];
        let input = |j: usize, group: usize| q.add(j * cols + 4 * group).cast::<i32>().read_unaligned();
        let zeros = V::load_bytes(ZEROS.as_ptr());
        for part in 0..2 {
            let bits = V::load_bytes(codes.add(64 * part));
            for g in 0..4 {
                let two = V::extend_nibbles(zeros, bits, 2 * g as i32, 3);
                for j in 0..T {
                    sums[j] = sums[j].dot_unsigned(two, input(j, 4 * part + g));
                }
            }
        }
        sums
    }
}
