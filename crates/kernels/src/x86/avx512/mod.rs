//! AVX-512 F/BW/VL/VBMI/VNNI.

pub(crate) mod ternary;
pub(crate) mod vector;

use crate::generic::attention::AttendHead;
use crate::generic::dense::DenseBlock;
use crate::generic::panel::{InputBlock, PanelBlock};
use crate::generic::{activation, attention, dense, panel};
use crate::kernels::{Kernels, kernels};

kernels!(
    vector::F32x16,
    vector::I32x16,
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
);
