//! Products with ternary weights: cut into row blocks and tokens, and run on the pool.
//!
//! - [`singly`]: one token after the other;
//! - [`look_up`]: many tokens by look-up, the codes decoded once;
//! - [`decoded`]: many tokens by products of decoded weights;
//! - [`input`], [`output`]: what goes in, and where rows come out.

mod decoded;
mod input;
mod look_up;
mod output;
mod singly;
#[cfg(test)]
mod tests;

use std::sync::Mutex;

use crate::Pool;
use crate::format::TernaryFormat;
use crate::table::{DecodedGemm, LookUpGemm, TernaryTable};
use crate::ternary::matrix::TernaryMatrix;
use input::{Input, Tokens};
use output::Output;

/// One product: `y[t, r] = sum_c w[r, c] x[t, c]`.
pub(super) struct TernaryProduct<'a> {
    pub(super) w: &'a TernaryMatrix,
    /// tokens x rows.
    pub(super) y: &'a mut [f32],
}

/// Memory that products reuse.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Inputs of products by decoded panels, for all threads.
    shared: Vec<Input>,
    /// Inputs and tables of products by look-up, per thread. A core reads what it wrote itself many times faster than
    /// what another one has just written, and building tables takes less time than fetching them.
    own: Vec<Mutex<Vec<Input>>>,
    /// Largest magnitude of every token, where its blocks share a scale.
    largest: Vec<f32>,
}

/// All products of one input `x`, tokens x cols; with `per_token` all blocks of a token have one scale.
///
/// # Panics
/// When a shape does not fit.
pub(super) fn multiply(
    table: &TernaryTable,
    pool: &Pool,
    scratch: &mut Scratch,
    x: &[f32],
    tokens: usize,
    per_token: bool,
    products: &mut [TernaryProduct<'_>],
) {
    multiply_by(table, pool, scratch, x, tokens, per_token, products, &|w| way(table, w, tokens));
}

/// [`multiply`], each product in the way that `way` says; the table must have it.
#[expect(clippy::too_many_arguments, reason = "those of `multiply` and one more")]
fn multiply_by(
    table: &TernaryTable,
    pool: &Pool,
    scratch: &mut Scratch,
    x: &[f32],
    tokens: usize,
    per_token: bool,
    products: &mut [TernaryProduct<'_>],
    way: &dyn Fn(&TernaryMatrix) -> Way,
) {
    check_shapes(x, tokens, products);
    if tokens == 0 {
        return;
    }
    let (mut singly, mut look_up, mut decoded) = (vec![], vec![], vec![]);
    for product in products {
        let group = match way(product.w) {
            Way::Singly => &mut singly,
            Way::LookUp => &mut look_up,
            Way::Decoded => &mut decoded,
        };
        group.push(Output::new(product.w, product.y));
    }
    let cols = x.len() / tokens;
    scratch.largest.clear();
    if per_token {
        scratch.largest.extend(x.chunks_exact(cols).map(input::largest));
    }
    let x = Tokens::new(x, cols, per_token.then_some(&scratch.largest));
    scratch.own.resize_with(pool.threads().max(scratch.own.len()), Mutex::default);
    if let (Some(gemm), [_, ..]) = (&table.decoded, decoded.as_slice()) {
        decoded::multiply(table, gemm, pool, &mut scratch.shared, x, &decoded);
    }
    if let (Some(gemm), [_, ..]) = (table.look_up, look_up.as_slice()) {
        look_up::multiply(table, gemm, pool, &scratch.own, x, &look_up);
    }
    if !singly.is_empty() {
        singly::multiply(table, pool, &scratch.own, x, &singly);
    }
}

/// How a product is done.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// One token after the other.
    Singly,
    /// By look-up, the codes decoded once.
    LookUp,
    /// By decoded weights.
    Decoded,
}

/// The fastest way for `tokens` tokens.
fn way(table: &TernaryTable, w: &TernaryMatrix, tokens: usize) -> Way {
    let format = w.layout().format;
    let look_up = |gemm: &LookUpGemm| {
        let least = match format {
            TernaryFormat::Sherry | TernaryFormat::Ternary167 => gemm.min_tokens,
            TernaryFormat::Binary => gemm.min_tokens_signs,
            TernaryFormat::Ternary2 => return false,
        };
        (least..=gemm.max_tokens).contains(&tokens) && (gemm.pays)()
    };
    let decoded = |gemm: &DecodedGemm| {
        tokens
            >= match format {
                TernaryFormat::Sherry | TernaryFormat::Ternary167 => gemm.min_tokens_codes,
                TernaryFormat::Ternary2 => gemm.min_tokens_bits,
                TernaryFormat::Binary => gemm.min_tokens_signs,
            }
    };
    if table.look_up.is_some_and(look_up) {
        Way::LookUp
    } else if table.decoded.as_ref().is_some_and(decoded) {
        Way::Decoded
    } else {
        Way::Singly
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
