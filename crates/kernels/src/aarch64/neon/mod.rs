//! NEON, which every AArch64 processor with an operating system has.

pub(crate) mod ternary;
pub(crate) mod vector;

use crate::generic::{activation, attention, coarse, dense, panel};
use crate::kernels::kernels;

kernels!(vector::F32x8, vector::I32x8, #[target_feature(enable = "neon")]);
