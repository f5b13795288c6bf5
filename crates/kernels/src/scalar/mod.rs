//! Plain Rust: the oracle of the other rooms, and what runs where they cannot.

pub(crate) mod ternary;
pub(crate) mod vector;

use crate::generic::{activation, attention, coarse, dense, panel};
use crate::kernels::kernels;

kernels!(vector::F32x8, vector::I32x8);
