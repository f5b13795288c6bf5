//! x86-64, one room per vector width; a room holds several tiers.

mod ahead;
pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod probe;
mod ternary;
