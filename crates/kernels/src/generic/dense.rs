//! Products of dense rows: a tile of rows x tokens, lanes along the inputs, one accumulator per output.
//!
//! Every output is the sum over one vector accumulator that takes the inputs in ascending order, whatever the tile.

use crate::vector::Floats;

/// How a row stores its values.
pub(crate) trait Element {
    /// Bytes per value.
    const BYTES: usize;
    /// Reads `V::LANES` values.
    ///
    /// # Safety
    /// So many values of this kind are readable at `from`, and the instruction set of `V` is available.
    unsafe fn load<V: Floats>(from: *const u8) -> V;
    /// Reads `n` values; the other lanes are 0.
    ///
    /// # Safety
    /// `n` is at most `V::LANES`, so many values of this kind are readable at `from`, and the instruction set of `V` is
    /// available.
    unsafe fn load_part<V: Floats>(from: *const u8, n: usize) -> V;
}

/// Little-endian f32.
pub(crate) struct F32;
/// f16 bits.
pub(crate) struct F16;
/// bf16 bits.
pub(crate) struct Bf16;

impl Element for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<V: Floats>(from: *const u8) -> V {
        // SAFETY: the vector's own load asks for what this one does: `LANES` values at `from`, and the instruction set.
        unsafe { V::load(from) }
    }

    #[inline(always)]
    unsafe fn load_part<V: Floats>(from: *const u8, n: usize) -> V {
        // SAFETY: the vector's own load asks for what this one does: `n <= LANES` values at `from`, and the instruction set.
        unsafe { V::load_part(from, n) }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<V: Floats>(from: *const u8) -> V {
        // SAFETY: the vector's own load asks for what this one does: `LANES` values at `from`, and the instruction set.
        unsafe { V::load_f16(from) }
    }

    #[inline(always)]
    unsafe fn load_part<V: Floats>(from: *const u8, n: usize) -> V {
        // SAFETY: the vector's own load asks for what this one does: `n <= LANES` values at `from`, and the instruction set.
        unsafe { V::load_f16_part(from, n) }
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<V: Floats>(from: *const u8) -> V {
        // SAFETY: the vector's own load asks for what this one does: `LANES` values at `from`, and the instruction set.
        unsafe { V::load_bf16(from) }
    }

    #[inline(always)]
    unsafe fn load_part<V: Floats>(from: *const u8, n: usize) -> V {
        // SAFETY: the vector's own load asks for what this one does: `n <= LANES` values at `from`, and the instruction set.
        unsafe { V::load_bf16_part(from, n) }
    }
}

/// Some rows of a dense matrix times some tokens: `y[t * y_stride + r] = sum_c weights[r][c] x[t * cols + c]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DenseBlock {
    /// `rows` rows of `cols` values, contiguous, any alignment.
    pub weights: *const u8,
    pub rows: usize,
    pub cols: usize,
    /// tokens x cols.
    pub x: *const f32,
    pub tokens: usize,
    /// Output of the first row and token.
    pub y: *mut f32,
    /// Outputs between two tokens.
    pub y_stride: usize,
}

/// Computes a block.
///
/// # Safety
/// The instruction set of `V` is available; the pointers cover what [`DenseBlock`] says, and nobody else reads or writes
/// the outputs meanwhile.
#[inline(always)]
pub(crate) unsafe fn dense<V: Floats, E: Element>(block: &DenseBlock) {
    let mut t = 0;
    while t < block.tokens {
        let left = block.tokens - t;
        // SAFETY: each branch takes at most the `left` tokens, so t + T <= tokens; the rest is this function's condition.
        t += unsafe {
            if V::TILE_TOKENS >= 6 && left >= 6 {
                token_tile::<V, E, 6>(block, t)
            } else if V::TILE_TOKENS >= 3 && left >= 3 {
                token_tile::<V, E, 3>(block, t)
            } else if V::TILE_TOKENS >= 2 && left >= 2 {
                token_tile::<V, E, 2>(block, t)
            } else {
                token_tile::<V, E, 1>(block, t)
            }
        };
    }
}

/// All rows for tokens `t .. t + T`; returns `T`.
///
/// # Safety
/// As for [`dense`], and `t + T <= block.tokens`.
#[inline(always)]
unsafe fn token_tile<V: Floats, E: Element, const T: usize>(block: &DenseBlock, t: usize) -> usize {
    let mut r = 0;
    // SAFETY: the loops run only while r + 4 and r + 1 are at most `rows`; the tokens are in range by this function's
    // condition.
    unsafe {
        while r + 4 <= block.rows {
            tile::<V, E, 4, T>(block, r, t);
            r += 4;
        }
        while r < block.rows {
            tile::<V, E, 1, T>(block, r, t);
            r += 1;
        }
    }
    T
}

/// Rows `r .. r + R` (`R` 1 or 4) for tokens `t .. t + T`.
///
/// # Safety
/// As for [`dense`], and `r + R <= block.rows`, `t + T <= block.tokens`.
#[inline(always)]
unsafe fn tile<V: Floats, E: Element, const R: usize, const T: usize>(block: &DenseBlock, r: usize, t: usize) {
    let DenseBlock { weights, cols, x, y, y_stride, .. } = *block;
    let row_bytes = cols * E::BYTES;
    // SAFETY: a block covers rows x cols weights, tokens x cols inputs and an output for each row of each token. Rows
    // r + i < r + R <= rows and tokens t + j < t + T <= tokens are among them; c + LANES <= cols in the loop, and the last
    // part covers the cols - c < LANES values that are left. Prefetched addresses may lie anywhere.
    unsafe {
        let weights = weights.add(r * row_bytes);
        let x = x.add(t * cols);
        let mut sums = [[V::splat(0.0); T]; R];
        let mut c = 0;
        while c + V::LANES <= cols {
            let mut inputs = [V::splat(0.0); T];
            for j in 0..T {
                inputs[j] = V::load(x.add(j * cols + c).cast());
            }
            for i in 0..R {
                let from = weights.add(i * row_bytes + c * E::BYTES);
                let weight = E::load::<V>(from);
                if T == 1 {
                    // A streamed matrix: ask for the next tile, which no hardware prefetcher guesses.
                    V::prefetch(from.wrapping_add(R * row_bytes));
                }
                for j in 0..T {
                    sums[i][j] = weight.mul_add(inputs[j], sums[i][j]);
                }
            }
            c += V::LANES;
        }
        if c < cols {
            for i in 0..R {
                let weight = E::load_part::<V>(weights.add(i * row_bytes + c * E::BYTES), cols - c);
                for j in 0..T {
                    let input = V::load_part(x.add(j * cols + c).cast(), cols - c);
                    sums[i][j] = weight.mul_add(input, sums[i][j]);
                }
            }
        }
        for j in 0..T {
            let out = y.add((t + j) * y_stride + r);
            if R == 4 {
                let sums = V::sum4([sums[0][j], sums[1][j], sums[2][j], sums[3][j]]);
                out.cast::<[f32; 4]>().write_unaligned(sums);
            } else {
                out.write(sums[0][j].sum());
            }
        }
    }
}

/// A row as f32. `from`: as many values as `out`.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn widen<V: Floats, E: Element>(from: &[u8], out: &mut [f32]) {
    let len = out.len();
    assert_eq!(from.len(), len * E::BYTES);
    let (from, out) = (from.as_ptr(), out.as_mut_ptr());
    let mut i = 0;
    // SAFETY: both slices hold `len` values (asserted above); i + LANES <= len in the loop, and the last part covers the
    // len - i < LANES values that are left. The instruction set is this function's condition.
    unsafe {
        while i + V::LANES <= len {
            E::load::<V>(from.add(i * E::BYTES)).store(out.add(i));
            i += V::LANES;
        }
        if i < len {
            E::load_part::<V>(from.add(i * E::BYTES), len - i).store_part(out.add(i), len - i);
        }
    }
}
