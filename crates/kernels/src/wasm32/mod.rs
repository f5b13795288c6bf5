//! WebAssembly with 128-bit vectors (simd128). There is no detection at run time: a module that uses them does not load
//! where they are missing, so they are chosen when the program is compiled.
//!
//! Without fused multiply-add, and with the lanes of the scalar code: every function gives the scalar bits.

pub(crate) mod ternary;
pub(crate) mod vector;

use crate::generic::{activation, attention, coarse, dense, panel};
use crate::kernels::kernels;

kernels!(vector::F32x8, vector::I32x8);
