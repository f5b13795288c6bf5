//! Kernels in plain Rust: the oracle of the others, and what runs where they cannot.

pub(crate) mod ternary;
