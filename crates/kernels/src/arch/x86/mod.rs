//! x86-64, one room per vector width; a room holds several tiers.

mod ahead;
pub(super) mod avx2;
pub(super) mod avx512;
mod probe;
mod ternary;
mod transpose;
