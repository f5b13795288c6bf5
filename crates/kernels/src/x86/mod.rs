//! x86-64, one room per instruction set.

pub(crate) mod avx2;
pub(crate) mod avx512;
