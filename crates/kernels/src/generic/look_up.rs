//! Products of several tokens by look-up with vectors of 128 bits. [`LookUpGemm`](crate::table::LookUpGemm) says what each
//! function computes.
//!
//! What a look-up needs of the codes is made once for all tokens. Then up to four tokens pass together, 16 rows at a time: an
//! index serves all of them, and their sums fill eight registers.

use std::ops::Range;

use super::ternary::{F, Vectors, accumulate, in_rows, prefetch};
use crate::ternary::activations::{ActBlock, BLOCK_CODES, CHUNK_CODES};
use crate::ternary::block::{BINARY_CHUNK_BYTES, CODE_CHUNK_BYTES, Rows};
use crate::ternary::segment::{IndexedSegment, Indices};
use crate::ternary::signs::{SIGN_CHUNK_OFFSET, SIGN_TABLE_BYTES};
use crate::vector::{Floats, RowLanes};

/// See [`LookUpGemm`](crate::table::LookUpGemm).
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn decode<V: Vectors>(stream: &[u8], codes: Range<usize>, panel: &mut [Indices], blocks: usize) {
    let (chunks, _) = stream[codes].as_chunks::<CODE_CHUNK_BYTES>();
    for (chunk, panel) in chunks.iter().zip(panel.chunks_mut(CHUNK_CODES * blocks)) {
        // SAFETY: slices, arrays and registers, and prefetched addresses, which may lie anywhere. The instruction set is this
        // function's condition.
        unsafe {
            prefetch::<V>(chunk);
            for quarter in 0..4 {
                V::each_index(chunk, quarter, |code, index| V::write_index(&mut panel[code * blocks], quarter, index));
            }
        }
    }
}

/// See [`LookUpGemm`](crate::table::LookUpGemm). Of the indices the first 64 bytes are used.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn decode_signs<V: Vectors>(
    stream: &[u8],
    codes: Range<usize>,
    panel: &mut [Indices],
    blocks: usize,
) {
    let (chunks, _) = stream[codes].as_chunks::<BINARY_CHUNK_BYTES>();
    for (chunk, panel) in chunks.iter().zip(panel.chunks_mut(CHUNK_CODES * blocks)) {
        // SAFETY: as in `decode`.
        unsafe {
            prefetch::<V>(chunk);
            for (line, bytes) in chunk.as_chunks::<16>().0.iter().enumerate() {
                let nibbles = V::nibbles(V::load(bytes));
                for odd in 0..2 {
                    let (out, _) = panel[(2 * (line / 4) + odd) * blocks].as_chunks_mut();
                    V::store(nibbles[odd], &mut out[line % 4]);
                }
            }
        }
    }
}

/// See [`LookUpGemm`](crate::table::LookUpGemm). The rows of `acc` are in natural order.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn segment<V: Vectors>(
    segment: &IndexedSegment<'_>,
    tables: &[u8],
    acts: &[ActBlock],
    acc: &mut [Rows],
) {
    // SAFETY: the instruction set of `V`, which is this function's condition, is all that it asks for.
    unsafe {
        match segment.signs {
            false => tokens::<V, false>(segment, tables, acts, acc),
            true => tokens::<V, true>(segment, tables, acts, acc),
        }
    }
}

/// All tokens, four at a time.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn tokens<V: Vectors, const SIGNS: bool>(
    segment: &IndexedSegment<'_>,
    tables: &[u8],
    acts: &[ActBlock],
    acc: &mut [Rows],
) {
    let blocks = segment.scales.len();
    assert_eq!(acc.len(), acts.len() * blocks);
    let mut t = 0;
    while t < acts.len() {
        let tables = &tables[t * BLOCK_CODES * V::TABLE_BYTES..];
        let (acts, acc) = (&acts[t..], &mut acc[t * blocks..]);
        // SAFETY: the instruction set of `V`, which is this function's condition, is all that they ask for.
        t += unsafe {
            match acts.len() {
                1 => tile::<V, SIGNS, 1>(segment, tables, acts, acc),
                2 => tile::<V, SIGNS, 2>(segment, tables, acts, acc),
                3 => tile::<V, SIGNS, 3>(segment, tables, acts, acc),
                _ => tile::<V, SIGNS, 4>(segment, tables, acts, acc),
            }
        };
    }
}

/// The first `T` tokens; returns `T`.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn tile<V: Vectors, const SIGNS: bool, const T: usize>(
    segment: &IndexedSegment<'_>,
    tables: &[u8],
    acts: &[ActBlock],
    acc: &mut [Rows],
) -> usize {
    let blocks = segment.scales.len();
    for (block, scales) in segment.scales.iter().enumerate() {
        let scales = scales.map(in_rows);
        for quarter in 0..4 {
            // SAFETY: `F<V>` has eight lanes (asserted in `accumulate`), and the sums of a token are 64 values: 8 v + 8 <= 64
            // for v < 8. Everything else is a slice or a register. The instruction set is this function's condition.
            unsafe {
                let sums = quarter_block::<V, SIGNS, T>(segment.panel, blocks, block, quarter, tables);
                for t in 0..T {
                    for half in 0..2 {
                        let v = 2 * quarter + half;
                        let at = acc[t * blocks + block].as_mut_ptr().add(8 * v);
                        let scales = scales.as_ref().map(|scales| &scales[v]);
                        accumulate::<V>(F::<V>::load(at.cast()), sums[t][half], acts[t].scale, scales).store(at);
                    }
                }
            }
        }
    }
    T
}

/// Whole-number sums of 16 rows for `T` tokens.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn quarter_block<V: Vectors, const SIGNS: bool, const T: usize>(
    panel: &[Indices],
    blocks: usize,
    block: usize,
    quarter: usize,
    tables: &[u8],
) -> [[V::Ints; 2]; T] {
    let chunks = panel.len() / (CHUNK_CODES * blocks);
    let tables: [&[u8]; T] =
        std::array::from_fn(|t| &tables[t * BLOCK_CODES * V::TABLE_BYTES..][..CHUNK_CODES * chunks * V::TABLE_BYTES]);
    let excess = if SIGNS { SIGN_CHUNK_OFFSET * chunks as i32 } else { 0 };
    // SAFETY: slices, arrays and registers. The instruction set is this function's condition.
    unsafe {
        let mut sums = [[V::no_shorts(); 2]; T];
        for (chunk, panel) in panel.chunks_exact(CHUNK_CODES * blocks).enumerate() {
            let mut digits = [[V::no_bytes(); 2]; T];
            let mut negatives = V::no_bytes();
            for code in 0..CHUNK_CODES {
                let indices = &panel[code * blocks + block];
                let at = (chunk * CHUNK_CODES + code) * V::TABLE_BYTES;
                if SIGNS {
                    let index = V::load(&indices.as_chunks().0[quarter]);
                    for t in 0..T {
                        let (table, _) = tables[t][at..at + SIGN_TABLE_BYTES].as_chunks();
                        for digit in 0..2 {
                            let value = V::find(V::load(&table[digit]), index);
                            digits[t][digit] = V::add_bytes(digits[t][digit], value);
                        }
                    }
                } else {
                    let index = V::read_index(indices, quarter);
                    negatives = V::count_negatives(negatives, index);
                    for t in 0..T {
                        let values = V::look_up_index(&tables[t][at..at + V::TABLE_BYTES], index);
                        for digit in 0..2 {
                            digits[t][digit] = V::add_bytes(digits[t][digit], values[digit]);
                        }
                    }
                }
            }
            for t in 0..T {
                sums[t] = match SIGNS {
                    true => V::add_unsigned_digits(sums[t], digits[t]),
                    false => V::add_digits(sums[t], digits[t].map(|sum| V::add_negatives(sum, negatives))),
                };
            }
        }
        sums.map(|sums| sums.map(|shorts| V::widen(shorts).sub_splat(excess)))
    }
}
