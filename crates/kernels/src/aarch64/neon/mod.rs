//! NEON, which every AArch64 processor with an operating system has.

pub(crate) mod ternary;
pub(crate) mod vector;

use crate::generic::attention::AttendHead;
use crate::generic::dense::DenseBlock;
use crate::generic::panel::{InputBlock, PanelBlock};
use crate::generic::{activation, attention, dense, panel};
use crate::kernels::{Kernels, kernels};

kernels!(vector::F32x8, vector::I32x8, #[target_feature(enable = "neon")]);
