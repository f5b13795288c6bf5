//! NEON, which every AArch64 processor with an operating system has.

pub(super) mod ternary;
pub(super) mod vector;

use crate::generic::limits;
use crate::generic::ternary::ternary_table_of;
use crate::table::{Limits, Table, look_up_gemm_of, table};

/// NEON.
pub(crate) static TABLE: Table = table! {
    features "neon";
    floats vector::F32x8;
    ints vector::I32x8;
    ternary ternary_table_of!(
        ternary::Neon;
        features "neon";
        decoded from 8, 16;
        look_up look_up_gemm_of!(ternary::Neon; features "neon"; from 2, 4; up_to usize::MAX;)
    );
    limits LIMITS;
};

/// Loops to time: the compiler's, in vectors of 128 bits.
pub(super) const LIMITS: Limits = Limits {
    read: limits::read,
    dots: limits::dots,
    dots_per_round: limits::DOTS_PER_ROUND,
    dots_name: "compiled Rust, less than the peak",
    #[cfg(test)]
    features: "",
};
