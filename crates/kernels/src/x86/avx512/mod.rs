//! 512-bit vectors. Three tiers:
//!
//! - [`KERNELS`]: AVX-512 F, BW and VL (Skylake-X);
//! - [`vnni`]: with VNNI (Cascade Lake);
//! - [`vbmi`]: with VNNI and VBMI, whose `vpermb` looks up 64 codes at once (Ice Lake, Zen 4 and later).

pub(crate) mod dot;
mod gemm;
pub(crate) mod look_up;
mod rows;
pub(crate) mod vector;

use crate::generic::{activation, attention, coarse, dense, panel};
use crate::kernels::kernels;

kernels!(
    vector::F32x16,
    vector::I32x16<dot::Maddubs>,
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
);

/// The ternary kernels of AVX-512 F, BW and VL. `vpmaddubsw` on decoded weights never catches up with `vpermw` look-ups.
pub(crate) mod ternary {
    use crate::x86::avx512::dot::{Maddubs, ZmmDot};
    use crate::x86::avx512::look_up::Words;
    use crate::x86::ternary::ternary_kernels;

    ternary_kernels!(
        "avx512f,avx512bw,avx512vl,avx2,fma,f16c",
        Words,
        ZmmDot<Maddubs>,
        gemm from usize::MAX, 18,
        look_up Some(&crate::x86::avx512::gemm::KERNELS)
    );
}

/// With VNNI.
pub(crate) mod vnni {
    use crate::generic::{attention, coarse, panel};
    use crate::kernels::kernels;
    use crate::x86::avx512::dot::Vnni;
    use crate::x86::avx512::vector::I32x16;

    kernels!(
        over crate::x86::avx512::KERNELS,
        I32x16<Vnni>,
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    );

    /// The ternary kernels.
    pub(crate) mod ternary {
        use crate::x86::avx512::dot::{Vnni, ZmmDot};
        use crate::x86::avx512::look_up::Words;
        use crate::x86::ternary::ternary_kernels;

        ternary_kernels!(
            "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c",
            Words,
            ZmmDot<Vnni>,
            gemm from 32, 24,
            look_up Some(&crate::x86::avx512::gemm::KERNELS)
        );
    }
}

/// The ternary kernels with VNNI and VBMI; the other kernels are those of [`vnni`].
pub(crate) mod vbmi {
    use crate::x86::avx512::dot::{Vnni, ZmmDot};
    use crate::x86::avx512::look_up::Bytes;
    use crate::x86::ternary::ternary_kernels;

    ternary_kernels!(
        "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c",
        Bytes,
        ZmmDot<Vnni>,
        gemm from 20, 24,
        look_up Some(&crate::x86::avx512::gemm::KERNELS)
    );
}
