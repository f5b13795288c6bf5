//! Many tokens by panels of weights that are decoded once for all of them.

use std::cell::RefCell;
use std::ops::Range;

use super::input::{Input, Tokens, for_each_output, quantize};
use super::output::Output;
use crate::Pool;
use crate::lines::Lines;
use crate::table::{DecodedGemm, TernaryTable};
use crate::ternary::activations::Arrangement;
use crate::ternary::block::{BLOCK_ROWS, RowBlock, Rows, SCALE_BYTES, chunk_bytes};
use crate::ternary::codebook::Codebook;
use crate::ternary::matrix::TernaryMatrix;
use crate::ternary::segment::Segment;

/// Chunks of a panel: 64 KiB of decoded weights of 64 rows, which stay in L2 while all tokens pass.
const PANEL_CHUNKS: usize = 32;
/// Tokens that share a decoded panel: their sums (256 bytes each) stay in L2 beside it.
const PANEL_TOKENS: usize = 192;
/// Tokens that take a segment of a panel (8 KiB) together: it comes to L1 once for all, and their sums (6 KiB) stay there
/// from one segment to the next.
const GROUP_TOKENS: usize = 24;
/// Decoded bytes of one chunk: 8 codes x 64 rows x 4 weights.
const CHUNK_PANEL: usize = 8 * BLOCK_ROWS * 4;

/// All products of one input. The threads share the quantization, then the row blocks.
pub(super) fn multiply(
    table: &TernaryTable,
    gemm: &DecodedGemm,
    pool: &Pool,
    inputs: &mut Vec<Input>,
    x: Tokens<'_>,
    outputs: &[Output<'_>],
) {
    let tokens = x.count();
    Input::make_room(inputs, x.cols, tokens, outputs);
    for input in inputs.iter_mut().filter(|input| input.blocks > 0) {
        let arrangement = input.arrangement;
        pool.for_chunks(&mut input.acts, tokens, |block, acts| {
            quantize(table, arrangement, x, block, acts);
        });
    }
    let inputs = &*inputs;
    pool.share(outputs.iter().map(|o| o.w.row_blocks()).sum(), 1, &|claims| {
        while let Some(range) = claims.next() {
            for_each_output(outputs, inputs, range, |output, input, blocks| {
                for block in blocks {
                    // SAFETY: every row block of every output is claimed once, so that no other thread touches its rows; the
                    // results of different outputs do not overlap, since each was made of a slice borrowed mutably.
                    unsafe { row_block(gemm, input, output, block, tokens) };
                }
            });
        }
    });
}

/// Row block `index` for all `tokens`, through decoded panels.
///
/// # Safety
/// - No other thread uses the rows of the block meanwhile.
unsafe fn row_block(gemm: &DecodedGemm, input: &Input, output: &Output<'_>, index: usize, tokens: usize) {
    let block = output.w.block(index);
    for tile in (0..tokens).step_by(PANEL_TOKENS) {
        let mut acc = [[0.0; BLOCK_ROWS]; PANEL_TOKENS];
        let tile = tile..tokens.min(tile + PANEL_TOKENS);
        let acc = &mut acc[..tile.len()];
        sums(gemm, &block, input, output.w, tokens, tile.clone(), acc);
        for (t, acc) in tile.zip(acc) {
            let finish = |y: &mut Rows| match input.arrangement {
                Arrangement::Fields => gemm.finish_bits(acc, block.row_scales, y),
                _ => gemm.finish_codes(acc, block.row_scales, y),
            };
            // SAFETY: no other thread uses the rows of this block (this function's condition), and this one has no slice of them
            // besides the one that `write` lends to `finish`.
            unsafe { output.write(t, index, finish) };
        }
    }
}

/// Sums of one row block for a range of the `n` tokens, in slot order.
fn sums(
    gemm: &DecodedGemm,
    block: &RowBlock<'_>,
    input: &Input,
    w: &TernaryMatrix,
    n: usize,
    tokens: Range<usize>,
    acc: &mut [Rows],
) {
    thread_local! {
        static PANEL: RefCell<Lines> = RefCell::default();
    }

    let book = Codebook::of(input.arrangement);
    let chunk_bytes = chunk_bytes(w.layout().format);
    let mut stream = block.stream;
    let mut scales = None;
    let mut chunk = 0;
    PANEL.with_borrow_mut(|panel| {
        while chunk < block.chunks {
            let mut segments = [None; PANEL_CHUNKS];
            let mut panel = panel.at_least(PANEL_CHUNKS * CHUNK_PANEL);
            for segment in &mut segments {
                let chunks = block.segment_chunks().min(block.chunks - chunk);
                if chunks == 0 || panel.len() < chunks * CHUNK_PANEL {
                    break;
                }
                if block.starts_group(chunk)
                    && let Some((head, rest)) = stream.split_first_chunk::<SCALE_BYTES>()
                {
                    scales = Some(head);
                    stream = rest;
                }
                let (codes, rest) = stream.split_at(chunks * chunk_bytes);
                stream = rest;
                let (decoded, rest) = std::mem::take(&mut panel).split_at_mut(chunks * CHUNK_PANEL);
                panel = rest;
                for (codes, decoded) in codes.chunks_exact(chunk_bytes).zip(decoded.chunks_exact_mut(CHUNK_PANEL)) {
                    match (input.arrangement, book) {
                        (Arrangement::Signs, _) => gemm.decode_signs(codes, decoded),
                        (_, Some(book)) => gemm.decode_codes(book, codes, decoded),
                        (_, None) => gemm.decode_bits(codes, decoded),
                    }
                }
                *segment = Some((chunk / 4, Segment { panel: decoded, first_chunk: chunk % 4, chunks, scales }));
                chunk += chunks;
            }
            for (group, acc) in acc.chunks_mut(GROUP_TOKENS).enumerate() {
                let start = tokens.start + group * GROUP_TOKENS;
                for (act_block, segment) in segments.iter().map_while(|segment| *segment) {
                    let acts = &input.acts[act_block * n + start..][..acc.len()];
                    gemm.segment(segment, acts, acc);
                }
            }
        }
    });
}
