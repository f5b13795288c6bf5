//! Inputs of ternary products: int8, one scale per token and block, in the order of the codes.

use crate::format::{PackedLayout, QuadOrder, TernaryFormat};
use crate::plain::nearest_i32;

/// Codes per activation block: 128 inputs in quads, 96 in triples.
pub(crate) const BLOCK_CODES: usize = 32;
/// Chunks of eight codes per activation block.
pub(crate) const BLOCK_CHUNKS: usize = 4;
/// Codes of a chunk: bytes can add up so many digits.
pub(crate) const CHUNK_CODES: usize = BLOCK_CODES / BLOCK_CHUNKS;
/// Values per activation block, four a code; the fourth of a triple is 0.
pub(crate) const BLOCK_VALUES: usize = 4 * BLOCK_CODES;

/// One block of one token: `x = q * scale`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct ActBlock {
    /// Quantized inputs, four per code; zeros after the last input of the row.
    pub(crate) q: [i8; BLOCK_VALUES],
    /// Sum of `q` per chunk.
    pub(crate) sums: [i32; BLOCK_CHUNKS],
    /// `amax / 127`; 0 for a block of zeros, NaN for a block with an infinity or NaN in it.
    pub(crate) scale: f32,
}

impl ActBlock {
    pub(crate) const ZERO: Self = Self { q: [0; BLOCK_VALUES], sums: [0; BLOCK_CHUNKS], scale: 0.0 };

    /// Sum of `q` over `chunks` chunks from `first` on.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // other kernels sum on the way
    #[inline(always)]
    pub(crate) fn sum(&self, first: usize, chunks: usize) -> i32 {
        // Without a loop of unknown length, which costs more than the additions.
        let counts = |chunk: usize| chunk >= first && chunk < first + chunks;
        (0..BLOCK_CHUNKS).map(|chunk| if counts(chunk) { self.sums[chunk] } else { 0 }).sum()
    }
}

/// Which input stands where in an activation block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// As they come, four a code.
    Quads,
    /// The same for codes of four signs, whose tables differ.
    Signs,
    /// Inside each 64: `i + 16p` at `4i + p`.
    Stride16,
    /// Three a code and a zero.
    Triples,
    /// Inside each 16: `4i + j` at `4j + i`, the order of the 2-bit fields.
    Fields,
}

impl Arrangement {
    pub(crate) fn of(layout: &PackedLayout) -> Self {
        match (layout.format, layout.order) {
            (TernaryFormat::Sherry, QuadOrder::Contiguous) => Self::Quads,
            (TernaryFormat::Sherry, QuadOrder::Stride16) => Self::Stride16,
            (TernaryFormat::Ternary167, _) => Self::Triples,
            (TernaryFormat::Ternary2, _) => Self::Fields,
            (TernaryFormat::Binary, _) => Self::Signs,
        }
    }

    /// Inputs per activation block.
    pub(crate) const fn block_inputs(self) -> usize {
        match self {
            Self::Triples => 3 * BLOCK_CODES,
            _ => BLOCK_VALUES,
        }
    }

    /// Inputs of one block, at most [`block_inputs`](Self::block_inputs), put where the codes want them.
    #[inline(always)]
    fn arrange(self, x: &[f32]) -> [f32; BLOCK_VALUES] {
        let mut padded = [0.0; BLOCK_VALUES];
        padded[..x.len()].copy_from_slice(x);
        let mut out = [0.0; BLOCK_VALUES];
        match self {
            Self::Quads | Self::Signs => return padded,
            Self::Stride16 => {
                for (out, x) in out.as_chunks_mut::<64>().0.iter_mut().zip(padded.as_chunks::<64>().0) {
                    for i in 0..16 {
                        for p in 0..4 {
                            out[4 * i + p] = x[i + 16 * p];
                        }
                    }
                }
            }
            Self::Triples => {
                for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(padded.as_chunks::<3>().0) {
                    out[..3].copy_from_slice(x);
                }
            }
            Self::Fields => {
                for (out, x) in out.as_chunks_mut::<16>().0.iter_mut().zip(padded.as_chunks::<16>().0) {
                    for j in 0..4 {
                        for i in 0..4 {
                            out[4 * j + i] = x[4 * i + j];
                        }
                    }
                }
            }
        }
        out
    }
}

/// The activation blocks of one token among those of several.
#[derive(Clone, Copy)]
pub(crate) struct TokenBlocks<'a> {
    /// From the token's first block on.
    pub(crate) blocks: &'a [ActBlock],
    /// Distance from a block of the token to its next: the number of tokens.
    pub(crate) stride: usize,
}

impl<'a> TokenBlocks<'a> {
    /// The block that chunk `chunk` multiplies.
    #[inline(always)]
    pub(crate) fn of_chunk(&self, chunk: usize) -> &'a ActBlock {
        &self.blocks[chunk / BLOCK_CHUNKS * self.stride]
    }
}

/// Quantizes one block: `q = round_ties_even(x * (127 / amax))`, `scale = amax / 127`, all in f32.
///
/// A block of zeros, or of values so small that `127 / amax` is infinite (below 3.7e-37), becomes zeros with scale 0. A
/// block with an infinity or NaN becomes zeros with scale NaN, so that every output it enters is NaN.
///
/// Plain Rust without fused operations: the same bits on every instruction set. Inlined into one function per set.
#[inline(always)]
pub(crate) fn quantize_block(arrangement: Arrangement, x: &[f32], out: &mut ActBlock) {
    let x = arrangement.arrange(x);
    // Magnitudes order like their bits, infinity and then NaN last.
    let amax = x.iter().fold(0, |max, x| max.max((x.to_bits() & 0x7fff_ffff) as i32));
    let amax = f32::from_bits(amax as u32);
    if (127.0 / amax).is_infinite() {
        *out = ActBlock::ZERO;
        return;
    }
    round_block(&x, amax, out);
}

/// [`quantize_block`] with the largest magnitude of the whole token, `amax`, in place of the block's own; it is at least 1e-5.
pub(crate) fn quantize_by(arrangement: Arrangement, x: &[f32], amax: f32, out: &mut ActBlock) {
    round_block(&arrangement.arrange(x), amax, out);
}

/// Rounds a block in the order of the codes, none larger than `amax`; where that is not finite, the scale becomes NaN.
#[inline(always)]
fn round_block(x: &[f32; BLOCK_VALUES], amax: f32, out: &mut ActBlock) {
    if !amax.is_finite() {
        *out = ActBlock { scale: f32::NAN, ..ActBlock::ZERO };
        return;
    }
    let inverse = 127.0 / amax;
    for (q, x) in out.q.iter_mut().zip(x) {
        *q = nearest_i32(x * inverse) as i8;
    }
    for (sum, q) in out.sums.iter_mut().zip(out.q.as_chunks::<{ BLOCK_VALUES / BLOCK_CHUNKS }>().0) {
        *sum = q.iter().map(|&q| i32::from(q)).sum();
    }
    out.scale = amax / 127.0;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(arrangement: Arrangement, x: &[f32]) -> ActBlock {
        let mut out = ActBlock { q: [99; BLOCK_VALUES], sums: [99; 4], scale: 99.0 };
        quantize_block(arrangement, x, &mut out);
        out
    }

    #[test]
    fn the_rule_of_quantization() {
        for seed in 0..150u32 {
            let x: Vec<f32> = (0..128u32)
                .map(|i| {
                    let h = (i + 1000 * seed + 1).wrapping_mul(0x9e37_79b9);
                    (h as i32 as f32) * 2.0f32.powi(seed as i32 - 60 - 31)
                })
                .collect();
            let block = quantized(Arrangement::Quads, &x);
            let amax = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            assert_eq!(block.scale, amax / 127.0);
            for (&q, &x) in block.q.iter().zip(&x) {
                assert_eq!(f32::from(q), (x * (127.0 / amax)).round_ties_even());
            }
            assert!(block.q.iter().any(|q| q.abs() == 127));
        }
    }

    #[test]
    fn ties_go_to_even_and_extremes_to_127() {
        let block = quantized(Arrangement::Quads, &[127.0, -127.0, 0.5, 1.5, -0.5, -2.5]);
        assert_eq!(block.q[..7], [127, -127, 0, 2, 0, -2, 0]);
        assert_eq!((block.scale, block.sums), (1.0, [0, 0, 0, 0]));
    }

    #[test]
    fn zeros_tiny_and_not_finite() {
        for (x, scale) in [
            (0.0, Some(0.0)),
            (-0.0, Some(0.0)),
            (f32::from_bits(1), Some(0.0)),
            (1e-37, Some(0.0)),
            (f32::MAX, Some(f32::MAX / 127.0)),
            (f32::INFINITY, None),
            (f32::NEG_INFINITY, None),
            (f32::NAN, None),
            (-f32::NAN, None),
        ] {
            let block = quantized(Arrangement::Quads, &[1e-38, x]);
            match scale {
                Some(scale) => assert_eq!(block.scale, scale),
                None => assert!(block.scale.is_nan()),
            }
            if x != f32::MAX {
                assert_eq!((block.q, block.sums), ([0; 128], [0; 4]));
            }
        }
    }

    #[test]
    fn every_arrangement_is_the_order_of_its_codes() {
        use crate::format::ScaleGroup;
        let x: Vec<f32> = (0..128).map(|i| i as f32 - 64.0).collect();
        for (format, order) in [
            (TernaryFormat::Sherry, QuadOrder::Contiguous),
            (TernaryFormat::Sherry, QuadOrder::Stride16),
            (TernaryFormat::Ternary167, QuadOrder::Contiguous),
            (TernaryFormat::Binary, QuadOrder::Contiguous),
        ] {
            let layout = PackedLayout { format, rows: 1, cols: 128, order, scale: ScaleGroup::Row };
            let arrangement = Arrangement::of(&layout);
            let arranged = arrangement.arrange(&x[..arrangement.block_inputs()]);
            for code in 0..BLOCK_CODES {
                for lane in 0..format.lanes() {
                    assert_eq!(arranged[4 * code + lane], x[layout.input(code, lane)]);
                }
            }
        }
        assert_eq!(Arrangement::Fields.arrange(&x)[..8], [-64.0, -60.0, -56.0, -52.0, -63.0, -59.0, -55.0, -51.0]);
    }
}
