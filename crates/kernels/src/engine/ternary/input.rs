//! Inputs of products with ternary weights: int8, and the tables that are looked up.

use std::ops::Range;

use super::output::Output;
use crate::lines::Lines;
use crate::table::TernaryTable;
use crate::ternary::activations::{ActBlock, Arrangement, BLOCK_CODES, quantize_by};
use crate::ternary::codebook::Codebook;
use crate::ternary::signs::SIGN_TABLE_BYTES;

/// Inputs of products as they come, and how they are rounded.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    /// tokens x cols.
    pub(super) x: &'a [f32],
    pub(super) cols: usize,
    /// The [largest magnitude](largest) of every token, where all of its blocks have one scale.
    pub(super) largest: Option<&'a Vec<f32>>,
    /// The first token of `x` in `largest`.
    pub(super) first: usize,
}

impl<'a> Tokens<'a> {
    /// All tokens of `x`.
    pub(super) fn new(x: &'a [f32], cols: usize, largest: Option<&'a Vec<f32>>) -> Self {
        Self { x, cols, largest, first: 0 }
    }

    pub(super) fn count(&self) -> usize {
        self.x.len() / self.cols
    }

    /// Some of them.
    pub(super) fn slice(&self, tokens: Range<usize>) -> Self {
        let first = self.first + tokens.start;
        Self { x: &self.x[tokens.start * self.cols..tokens.end * self.cols], first, ..*self }
    }
}

/// The largest magnitude of a token's inputs, what is not finite the largest of all, and at least 1e-5.
pub(super) fn largest(x: &[f32]) -> f32 {
    // Magnitudes order like their bits, infinity and then NaN last.
    f32::from_bits(x.iter().fold(1e-5f32.to_bits(), |max, x| max.max(x.to_bits() & 0x7fff_ffff)))
}

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
    pub(super) fn build(&mut self, table: &TernaryTable, x: Tokens<'_>) {
        let n = x.count();
        let signs = self.arrangement == Arrangement::Signs;
        let block_tables = BLOCK_CODES * if signs { SIGN_TABLE_BYTES } else { table.table_bytes };
        self.token_tables = self.blocks * block_tables;
        let tables = self.tables.at_least(n * self.token_tables);
        for (block, acts) in self.acts.chunks_mut(n).enumerate() {
            quantize(table, self.arrangement, x, block, acts);
            let Some(book) = Codebook::of(self.arrangement) else { continue };
            for (t, act) in acts.iter().enumerate() {
                let tables = &mut tables[t * self.token_tables + block * block_tables..][..block_tables];
                if signs {
                    table.build_sign_tables(act, tables);
                } else {
                    table.build_tables(book, act, tables);
                }
            }
        }
    }
}

/// Quantizes activation block `block` of every token of `x`.
pub(super) fn quantize(
    table: &TernaryTable,
    arrangement: Arrangement,
    x: Tokens<'_>,
    block: usize,
    acts: &mut [ActBlock],
) {
    let per_block = arrangement.block_inputs();
    let part = block * per_block..x.cols.min((block + 1) * per_block);
    for (token, (row, out)) in x.x.chunks_exact(x.cols).zip(acts).enumerate() {
        let row = &row[part.clone()];
        match x.largest {
            None => table.quantize(arrangement, row, out),
            Some(largest) => quantize_by(arrangement, row, largest[x.first + token], out),
        }
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
