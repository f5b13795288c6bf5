//! Products of block-quantized panels with int8 activations: exact whole numbers per 32 inputs, then f32.
//!
//! For every output, in ascending order of blocks, every operation rounded on its own (no fused multiply-add):
//!
//! ```text
//! int  = sum over 32 inputs of (code - offset) * q            exact
//! sum += int * (d * x_scale)                                  Q2_0, PQ2_0, SQ3_0, Q4_0, Q5_0, Q8_0, IQ4_NL
//! sum += int * (d * x_scale); sum += m * x_min                Q4_1, Q5_1
//! sum += int * ((d * scale) * x_scale); sum -= (dmin * min) * x_min        Q4_K, Q5_K
//! int  = sum over two halves of scale * (sum of (code - offset) * q)       exact
//! sum += int * (d * x_scale)                                  Q3_K, Q6_K, Q2_K
//! min  = sum over two halves of min * (sum of q)                           exact
//! sum -= min * (dmin * x_scale)                               Q2_K
//! ```
//!
//! with `x_min` = `x_scale` times the sum of the 32 `q`. The result is therefore the same on every instruction set. Of 3-bit codes
//! `int` is computed eightfold, and `d * x_scale` divided by 8, which is exact.

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
    /// `cols` of every token.
    pub q: *const i8,
    /// `cols / 32` of every token.
    pub blocks: *const InputBlock,
    /// Inputs from a token to the next, at least `cols` and a multiple of 32; a 32nd of it between their blocks.
    pub stride: usize,
    pub tokens: usize,
    /// Output of the first row and token.
    pub y: *mut f32,
    /// Outputs between two tokens.
    pub y_stride: usize,
}

/// Head and codes of a type.
trait Kind {
    const HEAD: Head;
    /// Inputs per head.
    const HEAD_COLS: usize;
    const BITS: usize;
    const OFFSET: i32;
}

#[derive(PartialEq, Eq)]
enum Head {
    Scale,
    ScaleMin,
    SuperScaleMin,
    SuperScaleMin16,
    SuperScale,
}

macro_rules! kinds {
    ($($name:ident: $head:ident per $cols:literal, $bits:literal bits, offset $offset:literal;)*) => {$(
        struct $name;
        impl Kind for $name {
            const HEAD: Head = Head::$head;
            const HEAD_COLS: usize = $cols;
            const BITS: usize = $bits;
            const OFFSET: i32 = $offset;
        }
    )*};
}

kinds! {
    Q2_0: Scale per 64, 2 bits, offset 1;
    PQ2_0: Scale per 128, 2 bits, offset 1;
    SQ3_0: Scale per 64, 3 bits, offset 4;
    Q4_0: Scale per 32, 4 bits, offset 8;
    Q5_0: Scale per 32, 5 bits, offset 16;
    Q8_0: Scale per 32, 8 bits, offset 0;
    Q4_1: ScaleMin per 32, 4 bits, offset 0;
    Q5_1: ScaleMin per 32, 5 bits, offset 0;
    Q4K: SuperScaleMin per 256, 4 bits, offset 0;
    Q5K: SuperScaleMin per 256, 5 bits, offset 0;
    Q2K: SuperScaleMin16 per 256, 2 bits, offset 0;
    Q3K: SuperScale per 256, 3 bits, offset 4;
    Q6K: SuperScale per 256, 6 bits, offset 32;
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
            TensorType::Q2_0 => all::<V, Q2_0>(block),
            TensorType::PQ2_0 => all::<V, PQ2_0>(block),
            TensorType::SQ3_0 => all::<V, SQ3_0>(block),
            TensorType::Q4_0 => all::<V, Q4_0>(block),
            TensorType::Q5_0 => all::<V, Q5_0>(block),
            TensorType::Q8_0 | TensorType::IQ4_NL => all::<V, Q8_0>(block),
            TensorType::Q4_1 => all::<V, Q4_1>(block),
            TensorType::Q5_1 => all::<V, Q5_1>(block),
            TensorType::Q4_K => all::<V, Q4K>(block),
            TensorType::Q5_K => all::<V, Q5K>(block),
            TensorType::Q2_K => all::<V, Q2K>(block),
            TensorType::Q3_K => all::<V, Q3K>(block),
            TensorType::Q6_K => all::<V, Q6K>(block),
            _ => unreachable!("no panels of this type are made"),
        }
    }
}

/// Tokens that share the decoded codes of a panel.
const TOKENS: usize = 16;

/// [`panels`] of one kind of codes.
///
/// # Safety
/// As for [`panels`], and the panels hold heads and codes of kind `K`.
#[inline(always)]
unsafe fn all<V: RowLanes, K: Kind>(block: &PanelBlock) {
    for panel in 0..block.count {
        for t in (0..block.tokens).step_by(TOKENS) {
            let n = TOKENS.min(block.tokens - t);
            // SAFETY: panel < count and t + n <= tokens; the rest is this function's condition.
            unsafe {
                if n == 1 {
                    tokens::<V, K, 1>(block, panel, t, 1);
                } else {
                    tokens::<V, K, TOKENS>(block, panel, t, n);
                }
            }
        }
    }
}

/// One panel for tokens `t .. t + n`, at most `MOST`. A panel is one vector of rows, or two.
///
/// # Safety
/// As for [`all`], and `panel < block.count`, `t + n <= block.tokens`.
#[inline(always)]
unsafe fn tokens<V: RowLanes, K: Kind, const MOST: usize>(block: &PanelBlock, panel: usize, t: usize, n: usize) {
    let halves = const { ROWS / V::Floats::LANES };
    let PanelShape { cols, code_bytes, code_start, head_bytes, panel_bytes, .. } = block.shape;
    let n = if MOST == 1 { 1 } else { n.min(MOST) };
    // SAFETY: a block covers `count` panels and the inputs of all tokens, of which panel < count and t + j < t + n <= tokens
    // are some. Inside a panel of `panel_bytes` = code_start + cols / 32 * code_bytes the codes of block b < cols / 32 begin
    // at code_start + b * code_bytes. Outputs are written for rows below `rows` only, and the block has one for each row of
    // each token. Prefetched addresses may lie anywhere.
    unsafe {
        let heads = block.panels.add(panel * panel_bytes);
        let mut codes = heads.add(code_start);
        let stride = block.stride;
        let q = block.q.add(t * stride).cast::<u8>();
        let inputs = block.blocks.add(t * (stride / BLOCK));
        let mut sums = [[V::Floats::splat(0.0); 2]; MOST];
        // Lines asked for, per block of inputs, in 1 / 65536: in 64 bits, since a panel may be larger than 4 MiB.
        let ahead_step = ((panel_bytes as u64 / 64) << 16).checked_div((cols / BLOCK) as u64).unwrap_or(0);
        let mut ahead = 0;
        for b in 0..cols / BLOCK {
            // Heads and codes of the stream alike, so that no line is left out.
            let until = ahead + ahead_step;
            for line in (ahead >> 16)..(until >> 16) {
                // Codes are read this much further on than their share of the panel.
                let at = heads.wrapping_add(code_start + 64 * line as usize);
                V::Floats::prefetch(at.wrapping_add(FAR));
                V::Floats::prefetch_near(at.wrapping_add(NEAR));
            }
            ahead = until;
            for half in 0..halves {
                let weights = decode::<V, K>(codes.add(half * 4 * V::Floats::LANES));
                let head = head::<V, K>(heads, b, half * V::Floats::LANES, head_bytes);
                for j in 0..n {
                    let input = &*inputs.add(j * (stride / BLOCK) + b);
                    let sum = &mut sums[j][half];
                    *sum = add_block::<V, K>(*sum, &weights, &head, q.add(j * stride + b * BLOCK), input);
                }
            }
            codes = codes.add(code_bytes);
        }
        for half in 0..halves {
            let row = panel * ROWS + half * V::Floats::LANES;
            let rows = block.rows.saturating_sub(row).min(V::Floats::LANES);
            for j in 0..n {
                if rows == V::Floats::LANES {
                    sums[j][half].store(block.y.add((t + j) * block.y_stride + row));
                } else if rows > 0 {
                    sums[j][half].store_part(block.y.add((t + j) * block.y_stride + row), rows);
                }
            }
        }
    }
}

/// Bytes between what is in use and what is asked for, into the second-level and into the first-level cache.
pub(super) const FAR: usize = 5120;
pub(super) const NEAR: usize = 1280;

/// The codes of 32 inputs, in groups of four. Groups 3 to 7 of 3-bit codes are eightfold.
///
/// # Safety
/// The instruction set of `V` is available. At `codes` the codes of kind `K` of 32 inputs of 16 rows are readable, from
/// the first row of the vector on.
#[inline(always)]
unsafe fn decode<V: RowLanes, K: Kind>(codes: *const u8) -> [V::Bytes; 8] {
    // SAFETY: 32 inputs of 16 rows take K::BITS lines of 64 bytes, and at most line K::BITS - 1 is read: 7 of 8, 1 of 2, 2 (byte
    // 128) of 3, 3 of 4, 4 (byte 256) of 5, 5 (byte 320) of 6.
    unsafe {
        let mut weights = [V::load_bytes(codes); 8];
        if K::BITS == 8 {
            for group in 1..8 {
                weights[group] = V::load_bytes(codes.add(64 * group));
            }
            return weights;
        }
        if K::BITS == 2 {
            for plane in 0..2 {
                let bytes = V::load_bytes(codes.add(64 * plane));
                for group in 0..4 {
                    weights[4 * plane + group] = V::bits(bytes, 2 * group as i32, 3);
                }
            }
            return weights;
        }
        if K::BITS == 3 {
            return threes::<V>([0, 64, 128].map(|line| V::load_bytes(codes.add(line))));
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
            weights[plane] = first;
            weights[plane + 4] = second;
        }
        weights
    }
}

/// The groups of 3-bit codes in three [planes](crate::panel::join_threes): 0 to 2 as they are, 3 to 7 eightfold.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(super) unsafe fn threes<V: RowLanes>([one, two, three]: [V::Bytes; 3]) -> [V::Bytes; 8] {
    // SAFETY: registers only; the instruction set is this function's condition.
    unsafe {
        let [c0, c1, c2] = [one, two, three].map(|plane| V::bits(plane, 0, 7));
        let [c3, c4, c5] = [one, two, three].map(|plane| V::bits(plane, 0, 56));
        let c6 = V::extend_nibbles(V::bits(three, 3, 8), one, 6, 3);
        let c7 = V::extend_nibbles(V::bits(three, 4, 8), two, 6, 3);
        [c0, c1, c2, c3, c4, c5, c6, c7]
    }
}

/// What all tokens multiply the sums of a block by.
struct HeadOf<F> {
    /// Value of a step; of Q4_K and Q5_K times the scale of the block.
    d: F,
    /// What is added or taken off once per block, in the same way; of Q2_K the value of a step of it.
    m: F,
    /// The small scales of the two halves, where they have some.
    scales: [F; 2],
    /// What the sums of the halves are multiplied by, in steps of `m`: Q2_K.
    mins: [F; 2],
}

/// The head of block `b` for `V::LANES` rows from `row` on.
///
/// # Safety
/// The instruction set of `V` is available, `heads` are those of kind `K` of a panel with more than `b` blocks of 32
/// inputs, and `row + V::LANES <= 16`.
#[inline(always)]
unsafe fn head<V: RowLanes, K: Kind>(heads: *const u8, b: usize, row: usize, head_bytes: usize) -> HeadOf<V::Floats> {
    // SAFETY: each head has 2 bytes per row for every f16 and 1 for every small scale, 16 rows side by side (the table in
    // `crate::panel`), so that LANES values from `row` on, row + LANES <= 16, stay in their part. Block b of 32 inputs has
    // the head of its HEAD_COLS inputs; where those are 256, b % 8 counts the small scales, or pairs of them, in it.
    unsafe {
        let none = V::Floats::splat(0.0);
        let head = heads.add(b / const { K::HEAD_COLS / BLOCK } * head_bytes);
        let d = V::Floats::load_f16(head.add(2 * row));
        let second = || V::Floats::load_f16(head.add(2 * (ROWS + row)));
        let small = |line: usize| V::load_u8(head.add(line * ROWS + row)).to_floats();
        let plain = HeadOf { d, m: none, scales: [none; 2], mins: [none; 2] };
        match K::HEAD {
            Head::Scale => plain,
            Head::ScaleMin => HeadOf { m: second(), ..plain },
            Head::SuperScaleMin => {
                HeadOf { d: d.mul(small(4 + b % 8)), m: second().mul(small(4 + 8 + b % 8)), ..plain }
            }
            Head::SuperScaleMin16 => {
                let pair = |from: usize| [0, 1].map(|half| small(from + 2 * (b % 8) + half));
                HeadOf { m: second(), scales: pair(4), mins: pair(4 + 16), ..plain }
            }
            Head::SuperScale => {
                let scales = head.add((2 + 2 * (b % 8)) * ROWS + row);
                let scales = [V::load_i8(scales).to_floats(), V::load_i8(scales.add(ROWS)).to_floats()];
                HeadOf { scales, ..plain }
            }
        }
    }
}

/// The products of the first and of the second 16 inputs; those of 3-bit codes are eightfold.
///
/// # Safety
/// The instruction set of `V` is available, and at `q` 32 inputs are readable.
#[inline(always)]
unsafe fn halves<V: RowLanes, K: Kind>(weights: &[V::Bytes; 8], q: *const u8) -> [V; 2] {
    let [c0, c1, c2, c3, c4, c5, c6, c7] = *weights;
    let (low, high) = ([c0, c1, c2, c3], [c4, c5, c6, c7]);
    // SAFETY: 32 inputs are readable at `q`: 12 and 4, or 16, from it on, and 16 from `q + 16` on; the instruction set is this
    // function's condition.
    unsafe {
        match K::BITS {
            2 => [V::dots_unsigned::<4, 3>(&low, q), V::dots_unsigned::<4, 3>(&high, q.add(16))],
            3 => {
                let mut sums = V::dots_unsigned::<3, 7>(&[c0, c1, c2], q);
                for _ in 0..3 {
                    sums = sums.add(sums);
                }
                [sums.add(V::dots_unsigned::<1, 56>(&[c3], q.add(12))), V::dots_unsigned::<4, 56>(&high, q.add(16))]
            }
            _ => [V::dots_unsigned::<4, 63>(&low, q), V::dots_unsigned::<4, 63>(&high, q.add(16))],
        }
    }
}

/// Adds the products of a block with the inputs of one token to its running sums.
///
/// # Safety
/// The instruction set of `V` is available, and at `q` 32 inputs are readable.
#[inline(always)]
unsafe fn add_block<V: RowLanes, K: Kind>(
    sum: V::Floats,
    weights: &[V::Bytes; 8],
    head: &HeadOf<V::Floats>,
    q: *const u8,
    input: &InputBlock,
) -> V::Floats {
    let [first, second] = input.sums;
    // SAFETY: 32 inputs are readable at `q`, 16 at `q` and 16 at `q + 16`; otherwise registers, and the instruction set is this
    // function's condition.
    unsafe {
        let d = head.d.mul(V::Floats::splat(input.scale));
        // What sums of products are multiplied by.
        let fold = if K::BITS == 3 { 8 } else { 1 };
        let d = if K::BITS == 3 { d.mul(V::Floats::splat(0.125)) } else { d };
        if K::HEAD == Head::SuperScale || K::HEAD == Head::SuperScaleMin16 {
            let [low, high] = halves::<V, K>(weights, q);
            let low = low.sub_splat(fold * K::OFFSET * first);
            let high = high.sub_splat(fold * K::OFFSET * second);
            // Whole numbers below 2 x 16 x 32 x 127 x 128 < 2^24: exact in f32, in whatever order.
            let int = high.to_floats().mul_add(head.scales[1], low.to_floats().mul(head.scales[0]));
            let sum = sum.add(int.mul(d));
            if K::HEAD == Head::SuperScale {
                return sum;
            }
            // Whole numbers below 2 x 16 x 127 x 16 < 2^24.
            let [first, second] = [first, second].map(|sum| V::Floats::splat(sum as f32));
            let min = head.mins[1].mul_add(second, head.mins[0].mul(first));
            return sum.sub(min.mul(head.m.mul(V::Floats::splat(input.scale))));
        }
        let int = match K::BITS {
            2 => V::dots_unsigned::<8, 3>(weights, q),
            3 => {
                let [low, high] = halves::<V, K>(weights, q);
                low.add(high)
            }
            8 => {
                let mut dots = V::zero();
                for group in 0..8 {
                    dots = dots.dot_signed(weights[group], q.add(4 * group).cast::<i32>().read_unaligned());
                }
                dots
            }
            5 => V::dots_unsigned::<8, 31>(weights, q),
            _ => V::dots_unsigned::<8, 15>(weights, q),
        };
        let offset = if K::BITS == 8 { V::SIGNED_EXCESS } else { fold * K::OFFSET };
        let int = if offset == 0 { int } else { int.sub_splat(offset * (first + second)) };
        let sum = sum.add(int.to_floats().mul(d));
        match K::HEAD {
            Head::ScaleMin => sum.add(head.m.mul(V::Floats::splat(input.min))),
            Head::SuperScaleMin => sum.sub(head.m.mul(V::Floats::splat(input.min))),
            _ => sum,
        }
    }
}
