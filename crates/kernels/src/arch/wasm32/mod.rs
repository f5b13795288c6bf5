//! WebAssembly with 128-bit vectors (simd128). There is no detection at run time: a module that uses them does not load
//! where they are missing, so they are chosen when the program is compiled.
//!
//! Without fused multiply-add, and with the lanes of the scalar code: every function gives the scalar bits.

mod ternary;
mod vector;

use crate::generic::limits;
use crate::generic::ternary::ternary_table_of;
use crate::table::{Limits, Table, look_up_gemm_of, table};

/// 128-bit vectors.
pub(crate) static TABLE: Table = table! {
    features;
    floats vector::F32x8;
    ints vector::I32x8;
    ternary ternary_table_of!(
        ternary::Simd128;
        features;
        decoded from 8, 16;
        look_up look_up_gemm_of!(ternary::Simd128; features; from 3, 4; up_to usize::MAX;)
    );
    limits LIMITS;
};

/// Loops to time: the compiler's, in vectors of 128 bits.
const LIMITS: Limits = Limits {
    read: limits::read,
    dots: limits::dots,
    dots_per_round: limits::DOTS_PER_ROUND,
    dots_name: "compiled Rust, less than the peak",
    #[cfg(test)]
    features: "",
};
