//! Plain Rust: the oracle of the other rooms, and what runs where they cannot.

mod ternary;
mod vector;

use crate::generic::limits;
use crate::table::{Limits, Table, table};

/// What every processor has.
pub(crate) static TABLE: Table = table! {
    features;
    floats vector::F32x8;
    ints vector::I32x8;
    ternary ternary::TABLE;
    limits Limits {
        read: limits::read,
        dots: limits::dots,
        dots_per_round: limits::DOTS_PER_ROUND,
        dots_name: "plain Rust",
        #[cfg(test)]
        features: "",
    };
};
