//! x86-64, one room per instruction set.

mod ahead;
pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod probe;
