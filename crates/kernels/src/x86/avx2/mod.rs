//! 256-bit vectors. Three tiers:
//!
//! - [`KERNELS`]: AVX2 with FMA and F16C;
//! - [`gfni`]: with GFNI in its VEX encoding, which shortens the look-up of ternary codes (Alder Lake, Zen 4);
//! - [`vnni`]: with `vpdpbusd` on 256-bit vectors besides (Alder Lake, Zen 5). The instruction has two encodings: VEX
//!   (AVX-VNNI) and EVEX (AVX-512 VL and VNNI). Processors have one or both, so the same code is compiled for each.

pub(crate) mod dot;
pub(crate) mod look_up;
mod rows;
pub(crate) mod transpose;
pub(crate) mod vector;

use crate::generic::attention::AttendHead;
use crate::generic::dense::DenseBlock;
use crate::generic::panel::{InputBlock, PanelBlock};
use crate::generic::{activation, attention, dense, panel};
use crate::kernels::{Kernels, kernels};

kernels!(vector::F32x8, vector::I32x8<dot::Maddubs>, #[target_feature(enable = "avx2,fma,f16c")]);

/// The ternary kernels of AVX2.
pub(crate) mod ternary {
    use crate::x86::avx2::dot::{Maddubs, YmmDot};
    use crate::x86::avx2::look_up::Signs;
    use crate::x86::ternary::ternary_kernels;

    ternary_kernels!("avx2,fma,f16c", Signs, YmmDot<Maddubs>, gemm from 18, 8);
}

/// The ternary kernels with GFNI; the other kernels are those of AVX2.
pub(crate) mod gfni {
    use crate::x86::avx2::dot::{Maddubs, YmmDot};
    use crate::x86::avx2::look_up::Affine;
    use crate::x86::ternary::ternary_kernels;

    ternary_kernels!("avx2,fma,f16c,gfni", Affine, YmmDot<Maddubs>, gemm from 18, 8);
}

/// Kernels with `vpdpbusd`, in either encoding.
pub(crate) mod vnni {
    macro_rules! encoding {
        ($name:ident, $features:literal, $products:ident) => {
            #[doc = concat!("With ", $features, ".")]
            pub(crate) mod $name {
                use crate::generic::panel::{self, PanelBlock};
                use crate::kernels::Kernels;
                use crate::x86::avx2::dot::$products;
                use crate::x86::avx2::vector::I32x8;

                /// The kernels of AVX2, but for the panels.
                pub(crate) static KERNELS: Kernels = Kernels { panels, ..crate::x86::avx2::KERNELS };

                #[target_feature(enable = $features)]
                unsafe fn panels(block: &PanelBlock) {
                    // SAFETY: the caller has the instructions and fulfils the conditions of the algorithm.
                    unsafe { panel::panels::<I32x8<$products>>(block) }
                }

                /// The ternary kernels.
                pub(crate) mod ternary {
                    use crate::x86::avx2::dot::{$products, YmmDot};
                    use crate::x86::avx2::look_up::Affine;
                    use crate::x86::ternary::ternary_kernels;

                    ternary_kernels!($features, Affine, YmmDot<$products>, gemm from 12, 12);
                }
            }
        };
    }

    encoding!(vex, "avx2,fma,f16c,gfni,avxvnni", Vex);
    encoding!(evex, "avx2,fma,f16c,gfni,avx512f,avx512vl,avx512vnni", Evex);

    /// Whether the VEX encoding is there; else it is EVEX that the tier was found by.
    pub(crate) fn has_vex() -> bool {
        is_x86_feature_detected!("avxvnni")
    }
}
