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

use crate::generic::{activation, attention, coarse, dense, panel};
use crate::kernels::kernels;

kernels!(vector::F32x8, vector::I32x8<dot::Maddubs>, #[target_feature(enable = "avx2,fma,f16c")]);

/// The ternary kernels of AVX2.
pub(crate) mod ternary {
    use crate::x86::avx2::dot::{Maddubs, YmmDot};
    use crate::x86::avx2::look_up::Signs;
    use crate::x86::ternary::ternary_kernels;

    ternary_kernels!("avx2,fma,f16c", Signs, YmmDot<Maddubs>, gemm from 18, 8, look_up None);
}

/// The ternary kernels with GFNI; the other kernels are those of AVX2.
pub(crate) mod gfni {
    use crate::x86::avx2::dot::{Maddubs, YmmDot};
    use crate::x86::avx2::look_up::Affine;
    use crate::x86::ternary::ternary_kernels;

    ternary_kernels!("avx2,fma,f16c,gfni", Affine, YmmDot<Maddubs>, gemm from 18, 8, look_up None);
}

/// Kernels with `vpdpbusd`, in either encoding.
pub(crate) mod vnni {
    macro_rules! encoding {
        ($name:ident, $features:literal, $products:ident) => {
            #[doc = concat!("With ", $features, ".")]
            pub(crate) mod $name {
                use crate::generic::{attention, coarse, panel};
                use crate::kernels::kernels;
                use crate::x86::avx2::dot::$products;
                use crate::x86::avx2::vector::I32x8;

                kernels!(
                    over crate::x86::avx2::KERNELS,
                    I32x8<$products>,
                    #[target_feature(enable = $features)]
                );

                /// The ternary kernels.
                pub(crate) mod ternary {
                    use crate::x86::avx2::dot::{$products, YmmDot};
                    use crate::x86::avx2::look_up::Affine;
                    use crate::x86::ternary::ternary_kernels;

                    ternary_kernels!($features, Affine, YmmDot<$products>, gemm from 12, 12, look_up None);
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
