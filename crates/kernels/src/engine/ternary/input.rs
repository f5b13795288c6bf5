//! Inputs of products with ternary weights: int8, and the tables that are looked up.

use std::ops::Range;

use super::output::Output;
use crate::lines::Lines;
use crate::table::TernaryTable;
use crate::ternary::activations::{ActBlock, Arrangement, BLOCK_CODES};
use crate::ternary::codebook::Codebook;

/// The input of a group of products, as one kind of weights wants it.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) arrangement: Arrangement,
    /// Activation blocks per token; 0 when the current products do not need this arrangement.
    pub(super) blocks: usize,
    /// blocks x tokens.
    pub(super) acts: Vec<ActBlock>,
    /// tokens x blocks x tables of 32 codes; for [`look_up`](super::look_up) blocks x tokens.
    pub(super) tables: Lines,
    /// Bytes of the tables of one token.
    pub(super) token_tables: usize,
}

impl Input {
    /// Sees to one input per arrangement that `outputs` want, with room for the activations of `n` tokens.
    pub(super) fn make_room(inputs: &mut Vec<Self>, cols: usize, n: usize, outputs: &[Output<'_>]) {
        inputs.iter_mut().for_each(|input| input.blocks = 0);
        for output in outputs {
            let arrangement = Arrangement::of(output.w.layout());
            let index = inputs.iter().position(|input| input.arrangement == arrangement).unwrap_or_else(|| {
                let tables = Lines::default();
                inputs.push(Self { arrangement, blocks: 0, acts: Vec::new(), tables, token_tables: 0 });
                inputs.len() - 1
            });
            let input = &mut inputs[index];
            input.blocks = cols.div_ceil(arrangement.block_inputs());
            input.acts.resize(input.blocks * n, ActBlock::ZERO);
        }
    }

    /// Quantizes the inputs of `n` tokens and builds their tables.
    pub(super) fn build(&mut self, table: &TernaryTable, x: &[f32], n: usize) {
        let block_tables = BLOCK_CODES * table.table_bytes;
        self.token_tables = self.blocks * block_tables;
        let tables = self.tables.at_least(n * self.token_tables);
        for (block, acts) in self.acts.chunks_mut(n).enumerate() {
            quantize(table, self.arrangement, x, x.len() / n, block, acts);
            let Some(book) = Codebook::of(self.arrangement) else { continue };
            for (t, act) in acts.iter().enumerate() {
                let tables = &mut tables[t * self.token_tables + block * block_tables..][..block_tables];
                table.build_tables(book, act, tables);
            }
        }
    }
}

/// Quantizes activation block `block` of every token of `x` (tokens x cols).
pub(super) fn quantize(
    table: &TernaryTable,
    arrangement: Arrangement,
    x: &[f32],
    cols: usize,
    block: usize,
    acts: &mut [ActBlock],
) {
    let per_block = arrangement.block_inputs();
    for (row, out) in x.chunks_exact(cols).zip(acts) {
        let x = &row[block * per_block..cols.min((block + 1) * per_block)];
        table.quantize(arrangement, x, out);
    }
}

/// Calls `work(output, its input, its row blocks)` for the part of `range`, row blocks of all outputs one after the
/// other, that lies in each output.
pub(super) fn for_each_output(
    outputs: &[Output<'_>],
    inputs: &[Input],
    mut range: Range<usize>,
    mut work: impl FnMut(&Output<'_>, &Input, Range<usize>),
) {
    for output in outputs {
        let own = output.w.row_blocks();
        let arrangement = Arrangement::of(output.w.layout());
        let blocks = range.start.min(own)..range.end.min(own);
        if let (false, Some(input)) = (blocks.is_empty(), inputs.iter().find(|i| i.arrangement == arrangement)) {
            work(output, input, blocks);
        }
        range = range.start.saturating_sub(own)..range.end.saturating_sub(own);
    }
}
