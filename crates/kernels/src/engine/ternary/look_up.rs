//! Many tokens by look-up: a slice of tokens at a time, whose tables stay in the cache while all weights pass.

use std::sync::{Mutex, PoisonError};

use super::input::{Input, Tokens, for_each_output, quantize};
use super::output::Output;
use crate::Pool;
use crate::table::{LookUpGemm, TernaryTable};
use crate::ternary::activations::{ActBlock, Arrangement, BLOCK_CHUNKS, BLOCK_CODES, CHUNK_CODES};
use crate::ternary::block::{BLOCK_ROWS, SCALE_BYTES, chunk_bytes};
use crate::ternary::codebook::Codebook;
use crate::ternary::segment::{IndexedSegment, Indices, LOOK_UP_BLOCKS};

/// Tokens of a slice: with 512-bit vectors their tables (16 bytes per input and token) take 768 KiB for 2048 inputs, of 1 MiB
/// of L2; with shorter vectors half of that, of 512 KiB.
const SLICE_TOKENS: usize = 24;
/// Units of work per thread, so that a slow thread does not hold up the others.
const UNITS_PER_THREAD: usize = 4;

/// All products of one input. Threads take slices of tokens; where these are few, parts of the rows
/// besides.
pub(super) fn multiply(
    table: &TernaryTable,
    look_up: &LookUpGemm,
    pool: &Pool,
    own: &[Mutex<Vec<Input>>],
    x: Tokens<'_>,
    outputs: &[Output<'_>],
) {
    let tokens = x.count();
    let blocks: usize = outputs.iter().map(|o| o.w.row_blocks()).sum();
    let slices = tokens.div_ceil(SLICE_TOKENS);
    let parts = if pool.threads() == 1 { 1 } else { (UNITS_PER_THREAD * pool.threads()).div_ceil(slices) };
    let parts = parts.min(blocks.div_ceil(LOOK_UP_BLOCKS)).max(1);
    pool.share(slices * parts, 1, &|claims| {
        let mut inputs = own[claims.thread()].lock().unwrap_or_else(PoisonError::into_inner);
        let mut panel = Panel([[0; 2 * BLOCK_ROWS]; BLOCK_CHUNKS * CHUNK_CODES * LOOK_UP_BLOCKS]);
        let mut built = None;
        while let Some(range) = claims.next() {
            for unit in range {
                let (slice, part) = (unit / parts, unit % parts);
                let (first, end) = (tokens * slice / slices, tokens * (slice + 1) / slices);
                if built != Some(slice) {
                    Input::make_room(&mut inputs, x.cols, end - first, outputs);
                    for input in inputs.iter_mut().filter(|input| input.blocks > 0) {
                        build(table, look_up, input, x.slice(first..end));
                    }
                    built = Some(slice);
                }
                let range = blocks * part / parts..blocks * (part + 1) / parts;
                for_each_output(outputs, &inputs, range, |output, input, mut range| {
                    while !range.is_empty() {
                        let count = LOOK_UP_BLOCKS.min(range.len());
                        // SAFETY: every unit, a slice of tokens and a part of all row blocks, is claimed once, so that no other
                        // thread touches these rows for these tokens; the results of different outputs do not overlap, since
                        // each was made of a slice borrowed mutably.
                        unsafe { row_blocks(look_up, &mut panel, input, output, range.start, count, first..end) };
                        range.start += count;
                    }
                });
            }
        }
    });
}

/// Quantizes the inputs of `x` and builds their tables, blocks x tokens.
fn build(table: &TernaryTable, look_up: &LookUpGemm, input: &mut Input, x: Tokens<'_>) {
    let n = x.count();
    let Some(book) = Codebook::of(input.arrangement) else { return };
    let block_tables = BLOCK_CODES * look_up.table_bytes;
    let tables = input.tables.at_least(input.acts.len() * block_tables);
    for ((block, acts), tables) in input.acts.chunks_mut(n).enumerate().zip(tables.chunks_exact_mut(n * block_tables)) {
        quantize(table, input.arrangement, x, block, acts);
        for (act, tables) in acts.iter().zip(tables.chunks_exact_mut(block_tables)) {
            match input.arrangement {
                Arrangement::Signs => look_up.build_sign_tables(act, tables),
                _ => look_up.build_tables(book, act, tables),
            }
        }
    }
}

/// The indices of a segment of up to [`LOOK_UP_BLOCKS`] row blocks.
#[repr(align(64))]
struct Panel([Indices; BLOCK_CHUNKS * CHUNK_CODES * LOOK_UP_BLOCKS]);

/// `count` row blocks, at most [`LOOK_UP_BLOCKS`], from `index` on, for the tokens `tokens` that `input` holds.
///
/// # Safety
/// - No other thread uses the rows of the blocks for these tokens meanwhile.
unsafe fn row_blocks(
    look_up: &LookUpGemm,
    panel: &mut Panel,
    input: &Input,
    output: &Output<'_>,
    index: usize,
    count: usize,
    tokens: std::ops::Range<usize>,
) {
    let n = tokens.len();
    let chunk_bytes = chunk_bytes(output.w.layout().format);
    let blocks: [_; LOOK_UP_BLOCKS] = std::array::from_fn(|b| output.w.block(index + b.min(count - 1)));
    let blocks = &blocks[..count];
    let shape = blocks[0];
    let mut sums = [[0.0; BLOCK_ROWS]; SLICE_TOKENS * LOOK_UP_BLOCKS];
    let sums = &mut sums[..n * count];
    let mut scales = [None; LOOK_UP_BLOCKS];
    let (mut at, mut chunk) = (0, 0);
    while chunk < shape.chunks {
        if shape.starts_group(chunk) {
            for (scales, block) in scales.iter_mut().zip(blocks) {
                *scales = block.stream[at..].first_chunk();
            }
            at += SCALE_BYTES;
        }
        let chunks = shape.segment_chunks().min(shape.chunks - chunk);
        let panel = &mut panel.0[..chunks * CHUNK_CODES * count];
        for (b, block) in blocks.iter().enumerate() {
            let codes = at..at + chunks * chunk_bytes;
            match input.arrangement {
                Arrangement::Signs => look_up.decode_signs(block.stream, codes, &mut panel[b..], count),
                _ => look_up.decode(block.stream, codes, &mut panel[b..], count),
            }
        }
        let (act_block, first_code) = (chunk / BLOCK_CHUNKS, chunk % BLOCK_CHUNKS * CHUNK_CODES);
        let tables = &input.tables.bytes()[(act_block * n * BLOCK_CODES + first_code) * look_up.table_bytes..];
        let acts: &[ActBlock] = &input.acts[act_block * n..][..n];
        let segment =
            IndexedSegment { panel, signs: input.arrangement == Arrangement::Signs, scales: &scales[..count] };
        look_up.segment(&segment, tables, acts, sums);
        at += chunks * chunk_bytes;
        chunk += chunks;
    }
    for (token, sums) in tokens.zip(sums.chunks_exact(count)) {
        for (b, (sums, block)) in sums.iter().zip(blocks).enumerate() {
            // SAFETY: no other thread uses the rows of these blocks for these tokens (this function's condition), and this one
            // has no slice of them besides the one that `write` lends to `finish`.
            unsafe { output.write(token, index + b, |y| look_up.finish(sums, block.row_scales, y)) };
        }
    }
}
