//! Matrix products.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::ternary::{self, TernaryProduct};
use crate::Pool;
use crate::format::TensorType;
use crate::generic::dense::DenseBlock;
use crate::generic::panel::{InputBlock, PanelBlock};
use crate::matrix::{Matrix, Repr};
use crate::panel::{BLOCK, ROWS};
use crate::pool::SharedPtr;
use crate::table::Table;

/// How activations enter a product with packed weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// int8 activations, one scale per token and block of inputs: exact integer dot products, the fast way. Dense
    /// weights, and block-quantized ones that were not [repacked](Matrix::repacked_on), are multiplied in f32.
    #[default]
    Int8,
    /// The same with one scale per token: `round(x * 127 / max(|x|, 1e-5))`, ties to even, as the models of the BitNet family
    /// are trained (arXiv 2402.17764). Only ternary weights are multiplied so, all others as by [`Int8`](Self::Int8).
    Int8PerToken,
    /// f32 activations against dequantized weights: slow, for comparison with references.
    F32,
}

/// One product of a group that shares its input: `y[t, r] = sum_c w[r, c] x[t, c]`.
#[derive(Debug)]
pub struct Product<'a> {
    /// Weights, rows x cols.
    pub w: &'a Matrix,
    /// Result, tokens x rows.
    pub y: &'a mut [f32],
}

/// From this many tokens on, f16 and bf16 rows are widened once instead of per tile.
pub(crate) const WIDEN_TOKENS: usize = 3;
/// Bytes of weights, times tokens, that a thread claims at a time.
const CLAIM_BYTES: usize = 64 << 10;

/// int8 activations of several tokens, 32 inputs per scale.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// tokens x stride, the first `cols` of each in use.
    pub q: Vec<i8>,
    /// tokens x stride / 32.
    pub blocks: Vec<InputBlock>,
    /// Inputs from a token to the next: a little more than there are, since the same place of many tokens would else fall
    /// into few sets of the cache.
    pub stride: usize,
}

/// Inputs between two tokens that are not in use; their blocks are a line of the cache.
const PADDING: usize = 128;

impl Inputs {
    /// Rounds `x` (tokens x cols, `cols` a positive multiple of 32).
    pub fn quantize(&mut self, table: &Table, pool: &Pool, x: &[f32], cols: usize) {
        let (tokens, stride) = (x.len() / cols, cols + PADDING);
        self.stride = stride;
        self.q.resize(tokens * stride, 0);
        self.blocks.resize(tokens * stride / BLOCK, InputBlock::default());
        let q = SharedPtr(self.q.as_mut_ptr());
        let one = |token: usize, blocks: &mut [InputBlock]| {
            // SAFETY: `q` has `stride` values for each of the tokens, of which `blocks` has a chunk each, and cols < stride;
            // `for_chunks` gives every token to one worker.
            let q = unsafe { std::slice::from_raw_parts_mut(q.get().add(token * stride), cols) };
            table.quantize(&x[token * cols..][..cols], q, &mut blocks[..cols / BLOCK]);
        };
        pool.for_chunks(&mut self.blocks, stride / BLOCK, one);
    }
}

/// A product whose shapes fit; its output is written by several workers, each its own rows.
struct Job<'a> {
    w: &'a Matrix,
    y: SharedPtr<f32>,
    /// Whether the weights are multiplied by int8 activations.
    int8: bool,
}

/// Memory that products reuse.
#[derive(Debug)]
pub(super) struct Scratch {
    /// int8 activations of the current product.
    pub inputs: Inputs,
    /// Per worker: rows as f32.
    rows: Vec<Mutex<Vec<f32>>>,
    ternary: ternary::Scratch,
}

impl Scratch {
    pub fn new(workers: usize) -> Self {
        let rows = (0..workers).map(|_| Mutex::default()).collect();
        Self { inputs: Inputs::default(), rows, ternary: ternary::Scratch::default() }
    }
}

/// What all jobs of a call share.
struct Call<'a> {
    table: &'a Table,
    x: &'a [f32],
    tokens: usize,
    inputs: &'a Inputs,
}

/// See [`Engine::matmul`](crate::Engine::matmul).
pub(super) fn matmul(
    table: &Table,
    pool: &Pool,
    precision: Precision,
    scratch: &mut Scratch,
    x: &[f32],
    tokens: usize,
    products: &mut [Product<'_>],
) {
    for product in products.iter() {
        let (rows, cols) = (product.w.rows(), product.w.cols());
        assert_eq!(Some(x.len()), tokens.checked_mul(cols), "x is tokens x cols");
        assert_eq!(Some(product.y.len()), tokens.checked_mul(rows), "y is tokens x rows");
    }
    if tokens == 0 {
        return;
    }
    let mut jobs = Vec::with_capacity(products.len());
    let mut packed = Vec::new();
    for product in products {
        if let (Repr::Ternary(w), Precision::Int8 | Precision::Int8PerToken) = (&product.w.repr, precision) {
            packed.push(TernaryProduct { w, y: &mut *product.y });
            continue;
        }
        let int8 = precision != Precision::F32 && matches!(product.w.repr, Repr::Panels(_));
        jobs.push(Job { w: product.w, y: SharedPtr(product.y.as_mut_ptr()), int8 });
    }
    if !packed.is_empty() {
        let per_token = precision == Precision::Int8PerToken;
        ternary::multiply(&table.ternary, pool, &mut scratch.ternary, x, tokens, per_token, &mut packed);
    }
    if jobs.is_empty() {
        return;
    }
    let cols = x.len() / tokens;
    if cols > 0 && jobs.iter().any(|job| job.int8) {
        scratch.inputs.quantize(table, pool, x, cols);
    }
    // Units of 16 rows of all products, one after the other; a claim of some microseconds.
    let units = jobs.iter().map(|job| job.w.rows().div_ceil(ROWS)).sum();
    let unit_bytes = jobs.iter().map(|job| job.w.bytes() / job.w.rows().max(1) * ROWS).max().unwrap_or(0);
    let grain = (CLAIM_BYTES / (unit_bytes * tokens).max(1)).max(1);
    let call = Call { table, x, tokens, inputs: &scratch.inputs };
    let rows = &scratch.rows;
    pool.share(units, grain, &|claims| {
        while let Some(Range { start, end }) = claims.next() {
            let mut first = 0;
            for job in &jobs {
                let units = job.w.rows().div_ceil(ROWS);
                let range = start.clamp(first, first + units) - first..end.clamp(first, first + units) - first;
                if !range.is_empty() {
                    // SAFETY: `x` and `y` have the shapes of the product (asserted at the start), and the inputs were rounded
                    // above if a job wants int8 and has any. `range` was cut to the units of this job and is not empty. Every
                    // unit is claimed once, and `products` borrows the outputs for the whole call, so nobody else touches
                    // these rows.
                    unsafe { job.run(&call, range, &rows[claims.thread()]) };
                }
                first += units;
            }
        }
    });
}

impl Job<'_> {
    /// Computes units `units` of 16 rows.
    ///
    /// # Safety
    /// - There are tokens; `call.x` is tokens x cols of the matrix, `y` tokens x rows.
    /// - With `int8`, `call.inputs` are those of `call.x`.
    /// - `units` are not empty and end within the matrix; nobody else touches their rows of the output meanwhile.
    unsafe fn run(&self, call: &Call<'_>, units: Range<usize>, scratch: &Mutex<Vec<f32>>) {
        let (rows, cols) = (self.w.rows(), self.w.cols());
        let range = units.start * ROWS..rows.min(units.end * ROWS);
        // SAFETY: the units are not empty and end within the matrix, so that range.start < rows, and there is a token: the
        // output of the first one has that row.
        let y = unsafe { self.y.get().add(range.start) };
        let dense = |weights: *const u8, rows: usize, y: *mut f32| DenseBlock {
            weights,
            rows,
            cols,
            x: call.x.as_ptr(),
            tokens: call.tokens,
            y,
            y_stride: self.w.rows(),
        };
        let direct = match &self.w.repr {
            Repr::Panels(panels) if self.int8 => {
                let shape = panels.shape;
                let block = PanelBlock {
                    shape,
                    panels: panels.bytes()[units.start * shape.panel_bytes..units.end * shape.panel_bytes].as_ptr(),
                    count: units.len(),
                    rows: rows - range.start,
                    q: call.inputs.q.as_ptr(),
                    blocks: call.inputs.blocks.as_ptr(),
                    stride: call.inputs.stride,
                    tokens: call.tokens,
                    y,
                    y_stride: rows,
                };
                // SAFETY: a unit is a panel, and those of all units were sliced just above. The rounded inputs are those of
                // `x`, `stride` apart, with a block for each 32; the outputs of `rows` rows from `range.start` on follow `y` for each
                // token, `y_stride` apart, and are ours (this function's conditions). A table is given out only where its
                // instruction set is.
                unsafe { (call.table.panels)(&block) };
                return;
            }
            Repr::Rows { ty: TensorType::F32, bytes } => Some((call.table.dense_f32, bytes)),
            Repr::Rows { ty: TensorType::F16, bytes } if call.tokens < WIDEN_TOKENS => {
                Some((call.table.dense_f16, bytes))
            }
            Repr::Rows { ty: TensorType::BF16, bytes } if call.tokens < WIDEN_TOKENS => {
                Some((call.table.dense_bf16, bytes))
            }
            _ => None,
        };
        if let Some((kernel, bytes)) = direct {
            let row_bytes = bytes.len() / rows;
            let step = if call.tokens == 1 { range.len() } else { ROWS };
            for row in range.clone().step_by(step) {
                let rows = step.min(range.end - row);
                let weights = bytes[row * row_bytes..(row + rows) * row_bytes].as_ptr();
                // SAFETY: the weights are `rows` rows of `cols` values of the kernel's type, which was chosen by the matrix's
                // (sliced just above). From `row` on as many rows of the outputs are in `range`, which is ours, for every token,
                // and `x` is tokens x cols (this function's conditions). A table is given out only where its instruction set is.
                unsafe { kernel(&dense(weights, rows, y.add(row - range.start))) };
            }
            return;
        }
        let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
        scratch.resize(ROWS * cols, 0.0);
        for row in range.clone().step_by(ROWS) {
            let rows = ROWS.min(range.end - row);
            for r in 0..rows {
                self.w.row_f32_by(call.table, row + r, &mut scratch[r * cols..][..cols]);
            }
            // SAFETY: the scratch space holds `rows` rows of `cols` f32, written just above; rows, inputs and outputs as for the
            // kernels on rows where they lie.
            unsafe { (call.table.dense_f32)(&dense(scratch.as_ptr().cast(), rows, y.add(row - range.start))) };
        }
    }
}
