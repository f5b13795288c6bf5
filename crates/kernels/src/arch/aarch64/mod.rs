//! AArch64, one room per instruction set.

pub(super) mod dotprod;
pub(super) mod neon;
