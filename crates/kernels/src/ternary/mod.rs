//! Products with packed ternary weights.
//!
//! - [`matrix`]: weights in kernel order, and how they get there;
//! - [`transpose`]: the byte transposition on that way;
//! - [`activations`]: inputs as int8 in the order of the codes;
//! - [`kernels`]: the table of kernels per instruction set, and what they promise;
//! - [`multiply`]: the driver that cuts products into row blocks and tokens;
//! - [`look_up`]: what it does with many tokens where look-up is the fastest.

pub(crate) mod activations;
pub(crate) mod kernels;
pub(crate) mod lines;
mod look_up;
pub(crate) mod matrix;
pub(crate) mod multiply;
pub(crate) mod transpose;

pub(crate) use matrix::TernaryMatrix;
pub(crate) use multiply::{Scratch, TernaryProduct, multiply};

#[cfg(test)]
mod tests;
