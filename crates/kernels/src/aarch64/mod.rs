//! AArch64, one room per instruction set.

pub(crate) mod dotprod;
pub(crate) mod neon;
