//! Products with packed ternary weights.
//!
//! - [`block`]: the order of weights;
//! - [`matrix`]: weights in that order, and how they get there;
//! - [`transpose`]: the byte transposition on that way;
//! - [`codebook`]: what codes mean;
//! - [`signs`]: the tables that codes of four signs are looked up in;
//! - [`activations`]: inputs as int8 in the order of the codes;
//! - [`segment`]: parts of weights brought into another form for many tokens.
//!
//! What every instruction set does with them says [`TernaryTable`](crate::table::TernaryTable); how products are cut into
//! row blocks and tokens says [`engine`](crate::engine).

pub(crate) mod activations;
pub(crate) mod block;
pub(crate) mod codebook;
pub(crate) mod matrix;
pub(crate) mod segment;
pub(crate) mod signs;
pub(crate) mod transpose;
