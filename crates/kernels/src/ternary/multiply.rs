//! Cuts products with ternary weights into row blocks and tokens, and runs them on the pool.

use std::cell::RefCell;
use std::ops::Range;

use crate::format::TernaryFormat;
use crate::{Isa, Pool};

use super::TernaryMatrix;
use super::activations::{ActBlock, Arrangement};
use super::kernels::{Codebook, GemmKernels, Rows, Segment, TernaryKernels, TokenBlocks};
use super::lines::Lines;
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
    inputs: Vec<Input>,
}

/// The input of a group of products, as one kind of weights wants it.
#[derive(Debug)]
struct Input {
    arrangement: Arrangement,
    /// Activation blocks per token.
    blocks: usize,
    /// blocks x tokens.
    acts: Vec<ActBlock>,
    /// tokens x blocks x tables of 32 codes.
    tables: Lines,
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
/// Inputs below which the calling thread quantizes alone, about 2 us of work.
const SERIAL_INPUTS: usize = 16 * 1024;

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
    assert!(isa.is_available());
    let kernels = TernaryKernels::of(isa);
    let cols = check_shapes(x, tokens, products);
    if tokens == 0 || products.is_empty() {
        return;
    }
    // Tables are large: with few kernels for many tokens, a slice of tokens at a time.
    let step = if products.iter().all(|p| gemm_for(kernels, p.w, tokens).is_some()) { tokens } else { TABLE_TOKENS };
    let outputs: Vec<Output> = products.iter_mut().map(|p| Output::new(p.w, p.y)).collect();
    let outputs = outputs.as_slice();
    for first in (0..tokens).step_by(step) {
        let slice = first..tokens.min(first + step);
        let n = slice.len();
        prepare(kernels, pool, scratch, &x[first * cols..slice.end * cols], n, tokens, outputs);
        let inputs = &scratch.inputs;
        let blocks: usize = outputs.iter().map(|o| o.w.row_blocks()).sum();
        let threads = pool.threads();
        pool.run(&|worker| {
            let mut range = blocks * worker / threads..blocks * (worker + 1) / threads;
            for output in outputs {
                let own = output.w.row_blocks();
                let arrangement = Arrangement::of(output.w.layout());
                let Some(input) = inputs.iter().find(|i| i.arrangement == arrangement) else { continue };
                let gemm = gemm_for(kernels, output.w, tokens);
                let (mut index, end) = (range.start.min(own), range.end.min(own));
                while index < end {
                    // SAFETY: the processor has `isa`. Each row block index belongs to exactly one worker, so the rows
                    // written are not touched by another thread, and `y` is borrowed for as long as `outputs` lives.
                    index += unsafe { multiply_blocks(kernels, gemm, input, output, index..end, first, n) };
                }
                range = range.start.saturating_sub(own)..range.end.saturating_sub(own);
            }
        });
    }
}

fn check_shapes(x: &[f32], tokens: usize, products: &[TernaryProduct<'_>]) -> usize {
    let cols = products.first().map_or(0, |p| p.w.layout().cols);
    for product in products {
        assert_eq!(product.w.layout().cols, cols);
        assert_eq!(x.len(), tokens * cols);
        assert_eq!(product.y.len(), tokens * product.w.layout().rows);
    }
    cols
}

/// The kernels for many tokens, if `tokens` are many.
fn gemm_for(kernels: &'static TernaryKernels, w: &TernaryMatrix, tokens: usize) -> Option<&'static GemmKernels> {
    kernels.gemm.as_ref().filter(|gemm| {
        tokens
            >= match w.layout().format {
                TernaryFormat::Sherry | TernaryFormat::Ternary167 => gemm.min_tokens_codes,
                TernaryFormat::Ternary2 => gemm.min_tokens_bits,
            }
    })
}

fn codebook(format: TernaryFormat) -> Option<&'static Codebook> {
    match format {
        TernaryFormat::Sherry => Some(Codebook::SHERRY),
        TernaryFormat::Ternary167 => Some(Codebook::TRIPLES),
        TernaryFormat::Ternary2 => None,
    }
}

/// Quantizes `x` (n tokens) for every arrangement the weights want, and builds the tables where look-up will run.
/// `tokens` is the number of tokens that decides between kernels.
fn prepare(
    kernels: &'static TernaryKernels,
    pool: &Pool,
    scratch: &mut Scratch,
    x: &[f32],
    n: usize,
    tokens: usize,
    outputs: &[Output<'_>],
) {
    let cols = x.len() / n;
    scratch.inputs.iter_mut().for_each(|input| input.blocks = 0);
    for output in outputs {
        let arrangement = Arrangement::of(output.w.layout());
        let index = match scratch.inputs.iter().position(|i| i.arrangement == arrangement) {
            Some(index) => index,
            None => {
                let tables = Lines::default();
                scratch.inputs.push(Input { arrangement, blocks: 0, acts: Vec::new(), tables, token_tables: 0 });
                scratch.inputs.len() - 1
            }
        };
        let input = &mut scratch.inputs[index];
        if input.blocks != 0 {
            continue;
        }
        let per_block = arrangement.block_inputs();
        input.blocks = cols.div_ceil(per_block);
        input.acts.resize(input.blocks * n, ActBlock::ZERO);
        let quantize = |block: usize, acts: &mut [ActBlock]| {
            for (t, out) in acts.iter_mut().enumerate() {
                let row = &x[t * cols..(t + 1) * cols];
                let x = &row[block * per_block..cols.min((block + 1) * per_block)];
                // SAFETY: the processor has the instruction set of `kernels` (checked by `multiply`).
                unsafe { (kernels.quantize)(arrangement, x, out) };
            }
        };
        if n * cols <= SERIAL_INPUTS {
            input.acts.chunks_mut(n).enumerate().for_each(|(block, acts)| quantize(block, acts));
        } else {
            pool.for_chunks(&mut input.acts, n, quantize);
        }
        let Some(book) = codebook(output.w.layout().format) else { continue };
        if gemm_for(kernels, output.w, tokens).is_some() {
            continue;
        }
        let block_tables = super::activations::BLOCK_CODES * kernels.table_bytes;
        input.token_tables = input.blocks * block_tables;
        let bytes = n * input.token_tables;
        // A few MiB for what has just been quantized; as with `Vec`, running out of memory here is fatal.
        if input.tables.grow(bytes).is_err() {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; 64]>());
        }
        let (acts, blocks) = (&input.acts, input.blocks);
        let build = |index: usize, tables: &mut [u8]| {
            let (t, block) = (index / blocks, index % blocks);
            // SAFETY: the processor has the instruction set of `kernels` (checked by `multiply`).
            unsafe { (kernels.build_tables)(book, &acts[block * n + t], tables) };
        };
        let tables = &mut input.tables.bytes_mut()[..bytes];
        if n * cols <= SERIAL_INPUTS {
            tables.chunks_mut(block_tables).enumerate().for_each(|(index, tables)| build(index, tables));
        } else {
            pool.for_chunks(tables, block_tables, build);
        }
    }
}

/// Where the rows of a product go, for several threads that write disjoint rows.
struct Output<'a> {
    w: &'a TernaryMatrix,
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
    unsafe fn write(&self, token: usize, index: usize, compute: impl FnOnce(&mut Rows)) {
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

/// The first row blocks of `range`, one or two, for the `n` tokens from `first` on; returns how many.
///
/// # Safety
/// The processor has the instruction set of `kernels`, and no other thread uses the rows of the blocks.
unsafe fn multiply_blocks(
    kernels: &TernaryKernels,
    gemm: Option<&GemmKernels>,
    input: &Input,
    output: &Output<'_>,
    range: Range<usize>,
    first: usize,
    n: usize,
) -> usize {
    let index = range.start;
    let block = output.w.block(index);
    if let Some(gemm) = gemm {
        for tile in (0..n).step_by(PANEL_TOKENS) {
            let mut acc = [[0.0; BLOCK_ROWS]; PANEL_TOKENS];
            let tile = tile..n.min(tile + PANEL_TOKENS);
            let acc = &mut acc[..tile.len()];
            // SAFETY: the caller guarantees the instruction set.
            let finish = unsafe { multiply_panels(gemm, &block, input, output.w, n, tile.clone(), acc) };
            for (t, acc) in tile.zip(acc) {
                // SAFETY: the caller guarantees the instruction set, and the rows to be its own.
                unsafe { output.write(first + t, index, |y| finish(acc, block.row_scales, y)) };
            }
        }
        return 1;
    }
    // Two whole blocks at a time where there are two.
    let count = if index + 2 <= range.end && (index + 2) * BLOCK_ROWS <= output.w.layout().rows { 2 } else { 1 };
    let blocks = [block, output.w.block(index + count - 1)];
    let blocks = &blocks[..count];
    let look_up = codebook(output.w.layout().format).is_some();
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

    let book = codebook(w.layout().format);
    let chunk_bytes = chunk_bytes(w.layout().format);
    let mut stream = block.stream;
    let mut scales = None;
    let mut chunk = 0;
    PANEL.with_borrow_mut(|panel| {
        if panel.grow(PANEL_CHUNKS * CHUNK_PANEL).is_err() {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; 64]>());
        }
        while chunk < block.chunks {
            let mut segments = [None; PANEL_CHUNKS];
            let mut panel = panel.bytes_mut();
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
