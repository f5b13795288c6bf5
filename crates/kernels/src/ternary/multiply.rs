//! Cuts products with ternary weights into row blocks and tokens, and runs them on the pool.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::format::TernaryFormat;
use crate::{Isa, Pool};

use super::TernaryMatrix;
use super::activations::{ActBlock, Arrangement, BLOCK_CODES};
use super::kernels::{Codebook, GemmKernels, LookUpKernels, Rows, Segment, TernaryKernels, TokenBlocks};
use super::lines::Lines;
use super::look_up;
use super::matrix::{BLOCK_ROWS, RowBlock, SCALE_BYTES, chunk_bytes};

/// One product: `y[t, r] = sum_c w[r, c] x[t, c]`.
pub(crate) struct TernaryProduct<'a> {
    pub(crate) w: &'a TernaryMatrix,
    /// tokens x rows.
    pub(crate) y: &'a mut [f32],
}

/// Memory that products reuse.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Inputs of products by decoded panels, for all threads.
    shared: Vec<Input>,
    /// Inputs and tables of products by look-up, per thread. A core reads what it wrote itself many times faster than
    /// what another one has just written, and building tables takes less time than fetching them.
    own: Vec<Mutex<Vec<Input>>>,
}

/// The input of a group of products, as one kind of weights wants it.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) arrangement: Arrangement,
    /// Activation blocks per token; 0 when the current products do not need this arrangement.
    pub(super) blocks: usize,
    /// blocks x tokens.
    pub(super) acts: Vec<ActBlock>,
    /// tokens x blocks x tables of 32 codes; for [`look_up`] blocks x tokens.
    pub(super) tables: Lines,
    /// Bytes of the tables of one token.
    token_tables: usize,
}

/// Tokens whose look-up tables are built at a time.
const TABLE_TOKENS: usize = 16;
/// Chunks of a panel: 64 KiB of decoded weights of 64 rows, which stay in L2 while all tokens pass.
const PANEL_CHUNKS: usize = 32;
/// Tokens that share a decoded panel: their sums (256 bytes each) stay in L2 beside it.
const PANEL_TOKENS: usize = 192;
/// Tokens that take a segment of a panel (8 KiB) together: it comes to L1 once for all, and their sums (6 KiB) stay there
/// from one segment to the next.
const GROUP_TOKENS: usize = 24;
/// Decoded bytes of one chunk: 8 codes x 64 rows x 4 weights.
const CHUNK_PANEL: usize = 8 * BLOCK_ROWS * 4;

/// All products of one input `x`, tokens x cols.
///
/// # Panics
/// When a shape does not fit.
pub(crate) fn multiply(
    isa: Isa,
    pool: &Pool,
    scratch: &mut Scratch,
    x: &[f32],
    tokens: usize,
    products: &mut [TernaryProduct<'_>],
) {
    multiply_by(isa, pool, scratch, x, tokens, products, &|kernels, w| way(kernels, w, tokens));
}

/// [`multiply`], each product in the way that `way` says; the kernels for it must exist.
pub(super) fn multiply_by(
    isa: Isa,
    pool: &Pool,
    scratch: &mut Scratch,
    x: &[f32],
    tokens: usize,
    products: &mut [TernaryProduct<'_>],
    way: &dyn Fn(&TernaryKernels, &TernaryMatrix) -> Way,
) {
    assert!(isa.is_available());
    let kernels = TernaryKernels::of(isa);
    check_shapes(x, tokens, products);
    if tokens == 0 {
        return;
    }
    let (mut singly, mut look_up, mut panels) = (vec![], vec![], vec![]);
    for product in products {
        let group = match way(kernels, product.w) {
            Way::Singly => &mut singly,
            Way::LookUp => &mut look_up,
            Way::Panels => &mut panels,
        };
        group.push(Output::new(product.w, product.y));
    }
    scratch.own.resize_with(pool.threads().max(scratch.own.len()), Mutex::default);
    if let (Some(gemm), [_, ..]) = (&kernels.gemm, panels.as_slice()) {
        multiply_by_panels(kernels, gemm, pool, &mut scratch.shared, x, tokens, &panels);
    }
    if let (Some(kernel), [_, ..]) = (kernels.look_up, look_up.as_slice()) {
        look_up::multiply(kernels, kernel, pool, &scratch.own, x, tokens, &look_up);
    }
    if !singly.is_empty() {
        multiply_singly(kernels, pool, &scratch.own, x, tokens, &singly);
    }
}

/// How a product is done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// One token after the other.
    Singly,
    /// By look-up, the codes decoded once.
    LookUp,
    /// By decoded panels.
    Panels,
}

/// The fastest way for `tokens` tokens.
fn way(kernels: &TernaryKernels, w: &TernaryMatrix, tokens: usize) -> Way {
    let codes = w.layout().format != TernaryFormat::Ternary2;
    let pays = |look_up: &LookUpKernels| codes && tokens >= look_up.min_tokens && (look_up.pay)();
    let panels = |gemm: &GemmKernels| tokens >= if codes { gemm.min_tokens_codes } else { gemm.min_tokens_bits };
    if kernels.look_up.is_some_and(pays) {
        Way::LookUp
    } else if kernels.gemm.as_ref().is_some_and(panels) {
        Way::Panels
    } else {
        Way::Singly
    }
}

/// Many tokens: the threads share the quantization, then the row blocks.
fn multiply_by_panels(
    kernels: &TernaryKernels,
    gemm: &GemmKernels,
    pool: &Pool,
    inputs: &mut Vec<Input>,
    x: &[f32],
    tokens: usize,
    outputs: &[Output<'_>],
) {
    let cols = x.len() / tokens;
    Input::make_room(inputs, cols, tokens, outputs);
    for input in inputs.iter_mut().filter(|input| input.blocks > 0) {
        let arrangement = input.arrangement;
        pool.for_chunks(&mut input.acts, tokens, |block, acts| {
            // SAFETY: the processor has the instruction set of `kernels` (checked by `multiply`).
            unsafe { quantize(kernels, arrangement, x, cols, block, acts) };
        });
    }
    let inputs = &*inputs;
    pool.share(outputs.iter().map(|o| o.w.row_blocks()).sum(), 1, &|claims| {
        while let Some(range) = claims.next() {
            for_each_output(outputs, inputs, range, |output, input, blocks| {
                for block in blocks {
                    // SAFETY: the processor has the instruction set (checked by `multiply`). Every row block is claimed
                    // once, so no other thread touches its rows, and `y` is borrowed for as long as `outputs` lives.
                    unsafe { block_by_panels(gemm, input, output, block, tokens) };
                }
            });
        }
    });
}

/// Few tokens, one after the other: every thread quantizes the inputs and builds tables for itself, then they share the row blocks.
fn multiply_singly(
    kernels: &TernaryKernels,
    pool: &Pool,
    own: &[Mutex<Vec<Input>>],
    x: &[f32],
    tokens: usize,
    outputs: &[Output<'_>],
) {
    let cols = x.len() / tokens;
    let blocks = outputs.iter().map(|o| o.w.row_blocks()).sum();
    // Tables are large: a slice of tokens at a time.
    for first in (0..tokens).step_by(TABLE_TOKENS) {
        let n = TABLE_TOKENS.min(tokens - first);
        let x = &x[first * cols..(first + n) * cols];
        // The kernels take two blocks at a time.
        pool.share(blocks, 2, &|claims| {
            let Some(mut range) = claims.next() else { return };
            let mut inputs = own[claims.thread()].lock().unwrap_or_else(PoisonError::into_inner);
            Input::make_room(&mut inputs, cols, n, outputs);
            for input in inputs.iter_mut().filter(|input| input.blocks > 0) {
                // SAFETY: the processor has the instruction set of `kernels` (checked by `multiply`).
                unsafe { input.build(kernels, x, n) };
            }
            loop {
                for_each_output(outputs, &inputs, range, |output, input, mut blocks| {
                    while !blocks.is_empty() {
                        // SAFETY: as in `multiply_by_panels`.
                        blocks.start += unsafe { blocks_singly(kernels, input, output, blocks.clone(), first, n) };
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

fn check_shapes(x: &[f32], tokens: usize, products: &[TernaryProduct<'_>]) {
    let cols = products.first().map_or(0, |p| p.w.layout().cols);
    for product in products {
        assert_eq!(product.w.layout().cols, cols);
        assert_eq!(x.len(), tokens * cols);
        assert_eq!(product.y.len(), tokens * product.w.layout().rows);
    }
}

/// What the codes mean that an input is arranged for; `None` for 2-bit fields.
pub(super) fn codebook(arrangement: Arrangement) -> Option<&'static Codebook> {
    match arrangement {
        Arrangement::Quads | Arrangement::Stride16 => Some(Codebook::SHERRY),
        Arrangement::Triples => Some(Codebook::TRIPLES),
        Arrangement::Fields => None,
    }
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
    ///
    /// # Safety
    /// The processor has the instruction set of `kernels`.
    unsafe fn build(&mut self, kernels: &TernaryKernels, x: &[f32], n: usize) {
        let block_tables = BLOCK_CODES * kernels.table_bytes;
        self.token_tables = self.blocks * block_tables;
        let tables = self.tables.at_least(n * self.token_tables);
        for (block, acts) in self.acts.chunks_mut(n).enumerate() {
            // SAFETY: as the caller guarantees.
            unsafe { quantize(kernels, self.arrangement, x, x.len() / n, block, acts) };
            let Some(book) = codebook(self.arrangement) else { continue };
            for (t, act) in acts.iter().enumerate() {
                let tables = &mut tables[t * self.token_tables + block * block_tables..][..block_tables];
                // SAFETY: as the caller guarantees.
                unsafe { (kernels.build_tables)(book, act, tables) };
            }
        }
    }
}

/// Quantizes activation block `block` of every token of `x` (tokens x cols).
///
/// # Safety
/// The processor has the instruction set of `kernels`.
pub(super) unsafe fn quantize(
    kernels: &TernaryKernels,
    arrangement: Arrangement,
    x: &[f32],
    cols: usize,
    block: usize,
    acts: &mut [ActBlock],
) {
    let per_block = arrangement.block_inputs();
    for (row, out) in x.chunks_exact(cols).zip(acts) {
        let x = &row[block * per_block..cols.min((block + 1) * per_block)];
        // SAFETY: as the caller guarantees.
        unsafe { (kernels.quantize)(arrangement, x, out) };
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

/// Where the rows of a product go, for several threads that write disjoint rows.
pub(super) struct Output<'a> {
    pub(super) w: &'a TernaryMatrix,
    y: *mut f32,
    len: usize,
}

// SAFETY: `y` is used only through `rows`, whose callers see to it that no two threads hold the same rows.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    fn new(w: &'a TernaryMatrix, y: &'a mut [f32]) -> Self {
        Self { w, y: y.as_mut_ptr(), len: y.len() }
    }

    /// The values of `n` rows from `row` on, for `token`.
    ///
    /// # Safety
    /// No other thread uses these rows meanwhile, and the caller holds no other slice of them.
    ///
    /// # Panics
    /// When they do not lie in the result.
    #[allow(clippy::mut_from_ref)] // that is what it is for
    unsafe fn rows(&self, token: usize, row: usize, n: usize) -> &mut [f32] {
        let at = token * self.w.layout().rows + row;
        assert!(at + n <= self.len);
        // SAFETY: inside the slice this was made from (just checked), which is mutably borrowed for 'a; the caller
        // guarantees that nobody else uses these elements.
        unsafe { std::slice::from_raw_parts_mut(self.y.add(at), n) }
    }

    /// Lets `compute` write the rows of block `index` for `token`; rows past the last go nowhere.
    ///
    /// # Safety
    /// As for [`rows`](Self::rows).
    pub(super) unsafe fn write(&self, token: usize, index: usize, compute: impl FnOnce(&mut Rows)) {
        let row = index * BLOCK_ROWS;
        let rows = BLOCK_ROWS.min(self.w.layout().rows - row);
        // SAFETY: as the caller guarantees.
        let y = unsafe { self.rows(token, row, rows) };
        match y.as_mut_array() {
            Some(y) => compute(y),
            None => {
                let mut padded = [0.0; BLOCK_ROWS];
                compute(&mut padded);
                y.copy_from_slice(&padded[..rows]);
            }
        }
    }
}

/// Row block `index` for all `tokens`, through decoded panels.
///
/// # Safety
/// The processor has the instruction set of `gemm`, and no other thread uses the rows of the block.
unsafe fn block_by_panels(gemm: &GemmKernels, input: &Input, output: &Output<'_>, index: usize, tokens: usize) {
    let block = output.w.block(index);
    for tile in (0..tokens).step_by(PANEL_TOKENS) {
        let mut acc = [[0.0; BLOCK_ROWS]; PANEL_TOKENS];
        let tile = tile..tokens.min(tile + PANEL_TOKENS);
        let acc = &mut acc[..tile.len()];
        // SAFETY: the caller guarantees the instruction set.
        let finish = unsafe { multiply_panels(gemm, &block, input, output.w, tokens, tile.clone(), acc) };
        for (t, acc) in tile.zip(acc) {
            // SAFETY: the caller guarantees the instruction set, and the rows to be its own.
            unsafe { output.write(t, index, |y| finish(acc, block.row_scales, y)) };
        }
    }
}

/// The first row blocks of `range`, one or two, for the `n` tokens from `first` on, by look-up; returns how many.
///
/// # Safety
/// The processor has the instruction set of `kernels`, and no other thread uses the rows of the blocks.
unsafe fn blocks_singly(
    kernels: &TernaryKernels,
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
    let look_up = codebook(input.arrangement).is_some();
    for t in 0..n {
        let acts = TokenBlocks { blocks: &input.acts[t..], stride: n };
        let compute = |out: &mut [&mut Rows]| {
            // SAFETY: the caller guarantees the instruction set.
            unsafe {
                if look_up {
                    let tables = &input.tables.bytes()[t * input.token_tables..][..input.token_tables];
                    (kernels.gemv_codes)(blocks, acts, tables, out);
                } else {
                    (kernels.gemv_bits)(blocks, acts, out);
                }
            }
        };
        // SAFETY: the caller guarantees the rows to be its own, and the slices are of different blocks.
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

/// The values of one row block for a token.
type Finish = unsafe fn(&Rows, Option<&Rows>, &mut Rows);

/// Sums of one row block for a range of the `n` tokens, by decoded panels, in slot order; returns what finishes them.
///
/// # Safety
/// The processor has the instruction set of `gemm`.
unsafe fn multiply_panels(
    gemm: &GemmKernels,
    block: &RowBlock<'_>,
    input: &Input,
    w: &TernaryMatrix,
    n: usize,
    tokens: Range<usize>,
    acc: &mut [Rows],
) -> Finish {
    thread_local! {
        static PANEL: RefCell<Lines> = RefCell::default();
    }

    let book = codebook(input.arrangement);
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
                    // SAFETY: the caller guarantees the instruction set.
                    unsafe {
                        match book {
                            Some(book) => (gemm.decode_codes)(book, codes, decoded),
                            None => (gemm.decode_bits)(codes, decoded),
                        }
                    }
                }
                *segment = Some((chunk / 4, Segment { panel: decoded, first_chunk: chunk % 4, chunks, scales }));
                chunk += chunks;
            }
            for (group, acc) in acc.chunks_mut(GROUP_TOKENS).enumerate() {
                let start = tokens.start + group * GROUP_TOKENS;
                for (act_block, segment) in segments.iter().map_while(|segment| *segment) {
                    let acts = &input.acts[act_block * n + start..][..acc.len()];
                    // SAFETY: the caller guarantees the instruction set.
                    unsafe { (gemm.segment)(segment, acts, acc) };
                }
            }
        }
    });
    if book.is_some() { gemm.finish_codes } else { gemm.finish_bits }
}
