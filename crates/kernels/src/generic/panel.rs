//! Products of block-quantized panels with int8 activations: exact whole numbers per 32 inputs, then f32.
//!
//! For every output, in ascending order of blocks, every operation rounded on its own (no fused multiply-add):
//!
//! ```text
//! int  = sum over 32 inputs of (code - offset) * q            exact
//! sum += int * (d * x_scale)                                  Q4_0, Q5_0, Q8_0, IQ4_NL
//! sum += int * (d * x_scale); sum += m * x_min                Q4_1, Q5_1
//! sum += int * ((d * scale) * x_scale); sum -= (dmin * min) * x_min        Q4_K, Q5_K
//! int  = sum over two halves of scale * (sum of (code - 32) * q)           exact
//! sum += int * (d * x_scale)                                  Q6_K, Q3_K
//! ```
//!
//! with `x_min` = `x_scale` times the sum of the 32 `q`. The result is therefore the same on every instruction set.

use crate::format::TensorType;
use crate::panel::{BLOCK, PanelShape, ROWS};
use crate::plain::nearest_i32;
use crate::vector::{Floats, RowLanes};

/// What a block of 32 int8 activations needs besides its values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct InputBlock {
    /// Value of one step.
    pub scale: f32,
    /// `scale` times the sum of all values.
    pub min: f32,
    /// Sums of the first and the second 16 values.
    pub sums: [i32; 2],
}

/// Rounds one token to int8, a scale per 32 values: `q = round_ties_even(x * (127 / amax))`, `scale = amax / 127`.
/// A block with an infinity or a NaN has zeros and an infinite or NaN scale, so that its outputs are NaN.
#[inline(always)]
pub(crate) fn quantize(x: &[f32], q: &mut [i8], blocks: &mut [InputBlock]) {
    for ((x, q), block) in x.chunks_exact(BLOCK).zip(q.chunks_exact_mut(BLOCK)).zip(blocks) {
        // The order of magnitudes is that of their bits; NaN is above everything.
        let amax = f32::from_bits(x.iter().map(|x| x.to_bits() & 0x7fff_ffff).fold(0, u32::max));
        let inverse = 127.0 / amax;
        let usable = amax.is_finite() && inverse.is_finite();
        let inverse = if usable { inverse } else { 0.0 };
        let mut sums = [0i32; 2];
        for (half, sum) in sums.iter_mut().enumerate() {
            for (q, x) in q[16 * half..][..16].iter_mut().zip(&x[16 * half..][..16]) {
                let rounded = nearest_i32(x * inverse);
                let rounded = if usable { rounded } else { 0 };
                *q = rounded as i8;
                *sum += rounded;
            }
        }
        let scale = if amax.is_finite() && !usable { 0.0 } else { amax / 127.0 };
        *block = InputBlock { scale, min: scale * (sums[0] + sums[1]) as f32, sums };
    }
}

/// Some panels times all tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelBlock {
    pub shape: PanelShape,
    /// The first panel.
    pub panels: *const u8,
    /// Panels to compute.
    pub count: usize,
    /// Rows from the first panel on to the end of the matrix.
    pub rows: usize,
    /// tokens x cols.
    pub q: *const i8,
    /// tokens x cols / 32.
    pub blocks: *const InputBlock,
    pub tokens: usize,
    /// Output of the first row and token.
    pub y: *mut f32,
    /// Outputs between two tokens.
    pub y_stride: usize,
}

/// Head and codes of a type.
trait Kind {
    const HEAD: Head;
    const BITS: usize;
    const OFFSET: i32;
}

#[derive(PartialEq, Eq)]
enum Head {
    Scale,
    ScaleMin,
    SuperScaleMin,
    SuperScale,
}

macro_rules! kinds {
    ($($name:ident: $head:ident, $bits:literal bits, offset $offset:literal;)*) => {$(
        struct $name;
        impl Kind for $name {
            const HEAD: Head = Head::$head;
            const BITS: usize = $bits;
            const OFFSET: i32 = $offset;
        }
    )*};
}

kinds! {
    Q4_0: Scale, 4 bits, offset 8;
    Q5_0: Scale, 5 bits, offset 16;
    Q8_0: Scale, 8 bits, offset 0;
    Q4_1: ScaleMin, 4 bits, offset 0;
    Q5_1: ScaleMin, 5 bits, offset 0;
    Q4K: SuperScaleMin, 4 bits, offset 0;
    Q5K: SuperScaleMin, 5 bits, offset 0;
    Q6K: SuperScale, 6 bits, offset 32;
}

/// Computes a block.
///
/// # Safety
/// The instruction set of `V` is available; the pointers cover what [`PanelBlock`] says, and nobody else reads or writes
/// the outputs meanwhile.
#[inline(always)]
pub(crate) unsafe fn panels<V: RowLanes>(block: &PanelBlock) {
    // SAFETY: `all` asks for what this function does, and for codes of the kind `K`: those of the type, as `PanelShape`
    // lays them out (the table in `crate::panel`).
    unsafe {
        match block.shape.ty {
            TensorType::Q4_0 => all::<V, Q4_0>(block),
            TensorType::Q5_0 => all::<V, Q5_0>(block),
            TensorType::Q8_0 | TensorType::IQ4_NL => all::<V, Q8_0>(block),
            TensorType::Q4_1 => all::<V, Q4_1>(block),
            TensorType::Q5_1 => all::<V, Q5_1>(block),
            TensorType::Q4_K => all::<V, Q4K>(block),
            TensorType::Q5_K => all::<V, Q5K>(block),
            TensorType::Q6_K | TensorType::Q3_K => all::<V, Q6K>(block),
            _ => unreachable!("no panels of this type are made"),
        }
    }
}

/// [`panels`] of one kind of codes.
///
/// # Safety
/// As for [`panels`], and the panels hold heads and codes of kind `K`.
#[inline(always)]
unsafe fn all<V: RowLanes, K: Kind>(block: &PanelBlock) {
    for panel in 0..block.count {
        let mut t = 0;
        while t < block.tokens {
            let left = block.tokens - t;
            // SAFETY: panel < count by the loop, and each branch takes at most the `left` tokens, so t + T <= tokens; the
            // rest is this function's condition.
            t += unsafe {
                if V::TILE_TOKENS >= 8 && left >= 8 {
                    tile::<V, K, 8>(block, panel, t)
                } else if V::TILE_TOKENS >= 4 && left >= 4 {
                    tile::<V, K, 4>(block, panel, t)
                } else if V::TILE_TOKENS >= 2 && left >= 2 {
                    tile::<V, K, 2>(block, panel, t)
                } else {
                    tile::<V, K, 1>(block, panel, t)
                }
            };
        }
    }
}

/// One panel for tokens `t .. t + T`; returns `T`. A panel is one vector of rows, or two.
///
/// # Safety
/// As for [`all`], and `panel < block.count`, `t + T <= block.tokens`.
#[inline(always)]
unsafe fn tile<V: RowLanes, K: Kind, const T: usize>(block: &PanelBlock, panel: usize, t: usize) -> usize {
    let halves = const { ROWS / V::Floats::LANES };
    let PanelShape { cols, code_bytes, code_start, head_bytes, panel_bytes, .. } = block.shape;
    // SAFETY: a block covers `count` panels and the inputs of all tokens, of which panel < count and t + j < t + T <= tokens
    // are some. Inside a panel of `panel_bytes` = code_start + cols / 32 * code_bytes the codes of block b < cols / 32 begin
    // at code_start + b * code_bytes. Outputs are written for rows below `rows` only, and the block has one for each row of
    // each token. Prefetched addresses may lie anywhere.
    unsafe {
        let heads = block.panels.add(panel * panel_bytes);
        let mut codes = heads.add(code_start);
        let q = block.q.add(t * cols).cast::<u8>();
        let inputs = block.blocks.add(t * (cols / BLOCK));
        let mut sums = [[V::Floats::splat(0.0); T]; 2];
        // Lines asked for, per block of inputs, in 1 / 65536: in 64 bits, since a panel may be larger than 4 MiB.
        let ahead_step = ((panel_bytes as u64 / 64) << 16).checked_div((cols / BLOCK) as u64).unwrap_or(0);
        let mut ahead = 0;
        for b in 0..cols / BLOCK {
            if T == 1 {
                // Heads and codes of the stream alike, so that no line is left out.
                let until = ahead + ahead_step;
                for line in (ahead >> 16)..(until >> 16) {
                    // Codes are read this much further on than their share of the panel.
                    let at = heads.wrapping_add(code_start + 64 * line as usize);
                    V::Floats::prefetch(at.wrapping_add(FAR));
                    V::Floats::prefetch_near(at.wrapping_add(NEAR));
                }
                ahead = until;
            }
            for half in 0..halves {
                let at = half * 4 * V::Floats::LANES;
                let (ints, high) = dot::<V, K, T>(codes.add(at), q.add(b * BLOCK), cols);
                for j in 0..T {
                    let input = &*inputs.add(j * (cols / BLOCK) + b);
                    let row = half * V::Floats::LANES;
                    let sum = &mut sums[half][j];
                    *sum = scale::<V, K>(*sum, ints[j], high[j], input, heads, b, row, head_bytes);
                }
            }
            codes = codes.add(code_bytes);
        }
        for half in 0..halves {
            let row = panel * ROWS + half * V::Floats::LANES;
            let rows = block.rows.saturating_sub(row).min(V::Floats::LANES);
            for j in 0..T {
                if rows == V::Floats::LANES {
                    sums[half][j].store(block.y.add((t + j) * block.y_stride + row));
                } else if rows > 0 {
                    sums[half][j].store_part(block.y.add((t + j) * block.y_stride + row), rows);
                }
            }
        }
    }
    T
}

/// Bytes between what is in use and what is asked for, into the second-level and into the first-level cache.
pub(super) const FAR: usize = 5120;
pub(super) const NEAR: usize = 1280;

/// Code products of 32 inputs for `T` tokens. Q6_K: of the first and of the second 16 inputs.
///
/// # Safety
/// The instruction set of `V` is available. At `codes` the codes of kind `K` of 32 inputs of 16 rows are readable, from
/// the first row of the vector on; at `q + j * cols`, for each of `T` tokens `j`, 32 inputs.
#[inline(always)]
unsafe fn dot<V: RowLanes, K: Kind, const T: usize>(codes: *const u8, q: *const u8, cols: usize) -> ([V; T], [V; T]) {
    // SAFETY: 32 inputs of 16 rows take K::BITS lines of 64 bytes, and at most line K::BITS - 1 is read: 7 of 8, 3 of 4, 4
    // (byte 256) of 5, 5 (byte 320) of 6. Groups are below 8, so that the four inputs at 4 * group are among the 32.
    unsafe {
        let mut low = [V::zero(); T];
        let mut high = [V::zero(); T];
        let input = |j: usize, group: usize| q.add(j * cols + 4 * group).cast::<i32>().read_unaligned();
        if K::BITS == 8 {
            for group in 0..8 {
                let weights = V::load_bytes(codes.add(64 * group));
                for j in 0..T {
                    low[j] = low[j].dot_signed(weights, input(j, group));
                }
            }
            return (low, high);
        }
        for plane in 0..4 {
            let bytes = V::load_bytes(codes.add(64 * plane));
            let (mut first, mut second) = (V::low_nibbles(bytes), V::high_nibbles(bytes));
            let shift = plane as i32;
            if K::BITS == 5 {
                let bits = V::load_bytes(codes.add(256));
                first = V::extend_nibbles(first, bits, shift, 1);
                second = V::extend_nibbles(second, bits, shift + 4, 1);
            }
            if K::BITS == 6 {
                first = V::extend_nibbles(first, V::load_bytes(codes.add(256)), 2 * shift, 3);
                second = V::extend_nibbles(second, V::load_bytes(codes.add(320)), 2 * shift, 3);
            }
            for j in 0..T {
                low[j] = low[j].dot_unsigned(first, input(j, plane));
                if K::HEAD == Head::SuperScale {
                    high[j] = high[j].dot_unsigned(second, input(j, plane + 4));
                } else {
                    low[j] = low[j].dot_unsigned(second, input(j, plane + 4));
                }
            }
        }
        (low, high)
    }
}

/// Adds block `b` of `V::LANES` rows from `row` on to their running sums.
///
/// # Safety
/// The instruction set of `V` is available, `heads` are those of kind `K` of a panel with more than `b` blocks of 32
/// inputs, and `row + V::LANES <= 16`.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // a step of one loop, inlined
unsafe fn scale<V: RowLanes, K: Kind>(
    sum: V::Floats,
    low: V,
    high: V,
    input: &InputBlock,
    heads: *const u8,
    b: usize,
    row: usize,
    head_bytes: usize,
) -> V::Floats {
    let [first, second] = input.sums;
    // SAFETY: each head has 2 bytes per row for every f16 and 1 for every small scale, 16 rows side by side (the table in
    // `crate::panel`), so that LANES values from `row` on, row + LANES <= 16, stay in their part. Block b of 32 inputs has
    // head b, or head b / 8 where a head covers 256; b % 8 counts the small scales in it.
    unsafe {
        let x_scale = V::Floats::splat(input.scale);
        match K::HEAD {
            Head::Scale | Head::ScaleMin => {
                let head = heads.add(b * head_bytes + 2 * row);
                let offset = if K::BITS == 8 { V::SIGNED_EXCESS } else { K::OFFSET };
                let int = if offset == 0 { low } else { low.sub_splat(offset * (first + second)) };
                let sum = sum.add(int.to_floats().mul(V::Floats::load_f16(head).mul(x_scale)));
                if K::HEAD == Head::Scale {
                    return sum;
                }
                sum.add(V::Floats::load_f16(head.add(2 * ROWS)).mul(V::Floats::splat(input.min)))
            }
            Head::SuperScaleMin => {
                let head = heads.add(b / 8 * head_bytes);
                let (d, dmin) = (head.add(2 * row), head.add(2 * (ROWS + row)));
                let scales = V::load_u8(head.add((4 + b % 8) * ROWS + row));
                let mins = V::load_u8(head.add((4 + 8 + b % 8) * ROWS + row));
                let d = V::Floats::load_f16(d).mul(scales.to_floats());
                let m = V::Floats::load_f16(dmin).mul(mins.to_floats());
                let sum = sum.add(low.to_floats().mul(d.mul(x_scale)));
                sum.sub(m.mul(V::Floats::splat(input.min)))
            }
            Head::SuperScale => {
                let head = heads.add(b / 8 * head_bytes);
                let scales = head.add((2 + 2 * (b % 8)) * ROWS + row);
                let low = low.sub_splat(K::OFFSET * first).mul(V::load_i8(scales));
                let high = high.sub_splat(K::OFFSET * second).mul(V::load_i8(scales.add(ROWS)));
                let d = V::Floats::load_f16(head.add(2 * row));
                sum.add(low.add(high).to_floats().mul(d.mul(x_scale)))
            }
        }
    }
}
