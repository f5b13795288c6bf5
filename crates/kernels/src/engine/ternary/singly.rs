//! Few tokens, one after the other.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::input::{Input, Tokens, for_each_output};
use super::output::Output;
use crate::Pool;
use crate::table::TernaryTable;
use crate::ternary::activations::{Arrangement, TokenBlocks};
use crate::ternary::block::{BLOCK_ROWS, Rows};

/// Tokens whose look-up tables are built at a time.
const TABLE_TOKENS: usize = 16;

/// All products of one input. Every thread quantizes the inputs and builds tables for itself, then they share
/// the row blocks.
pub(super) fn multiply(
    table: &TernaryTable,
    pool: &Pool,
    own: &[Mutex<Vec<Input>>],
    x: Tokens<'_>,
    outputs: &[Output<'_>],
) {
    let tokens = x.count();
    let blocks = outputs.iter().map(|o| o.w.row_blocks()).sum();
    // Tables are large: a slice of tokens at a time.
    for first in (0..tokens).step_by(TABLE_TOKENS) {
        let n = TABLE_TOKENS.min(tokens - first);
        let x = x.slice(first..first + n);
        // The kernels take two blocks at a time.
        pool.share(blocks, 2, &|claims| {
            let Some(mut range) = claims.next() else { return };
            let mut inputs = own[claims.thread()].lock().unwrap_or_else(PoisonError::into_inner);
            Input::make_room(&mut inputs, x.cols, n, outputs);
            for input in inputs.iter_mut().filter(|input| input.blocks > 0) {
                input.build(table, x);
            }
            loop {
                for_each_output(outputs, &inputs, range, |output, input, mut blocks| {
                    while !blocks.is_empty() {
                        // SAFETY: every row block of every output is claimed once, so that no other thread touches its rows;
                        // the results of different outputs do not overlap, since each was made of a slice borrowed mutably.
                        blocks.start += unsafe { row_blocks(table, input, output, blocks.clone(), first, n) };
                    }
                });
                match claims.next() {
                    Some(next) => range = next,
                    None => return,
                }
            }
        });
    }
}

/// The first row blocks of `range`, one or two, for the `n` tokens from `first` on, by look-up; returns how many.
///
/// # Safety
/// - No other thread uses the rows of the blocks of `range` meanwhile.
unsafe fn row_blocks(
    table: &TernaryTable,
    input: &Input,
    output: &Output<'_>,
    range: Range<usize>,
    first: usize,
    n: usize,
) -> usize {
    let index = range.start;
    // Two whole blocks at a time where there are two.
    let count = if index + 2 <= range.end && (index + 2) * BLOCK_ROWS <= output.w.layout().rows { 2 } else { 1 };
    let blocks = [output.w.block(index), output.w.block(index + count - 1)];
    let blocks = &blocks[..count];
    for t in 0..n {
        let acts = TokenBlocks { blocks: &input.acts[t..], stride: n };
        let compute = |out: &mut [&mut Rows]| {
            let tables = || &input.tables.bytes()[t * input.token_tables..][..input.token_tables];
            match input.arrangement {
                Arrangement::Fields => table.gemv_bits(blocks, acts, out),
                Arrangement::Signs => table.gemv_signs(blocks, acts, tables(), out),
                _ => table.gemv_codes(blocks, acts, tables(), out),
            }
        };
        // SAFETY: no other thread uses the rows of these blocks (this function's condition), and the two slices that live at
        // once, in the second case, are of different blocks.
        unsafe {
            if count == 1 {
                output.write(first + t, index, |y| compute(&mut [y]));
            } else {
                output.write(first + t, index, |y| output.write(first + t, index + 1, |z| compute(&mut [y, z])));
            }
        }
    }
    count
}
