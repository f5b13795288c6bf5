//! AVX2.

pub(crate) mod ternary;
