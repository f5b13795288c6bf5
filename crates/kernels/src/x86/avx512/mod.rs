//! 512-bit vectors. Three tiers:
//!
//! - [`KERNELS`]: AVX-512 F, BW and VL (Skylake-X);
//! - [`vnni`]: with VNNI (Cascade Lake);
//! - [`vbmi`]: with VNNI and VBMI, whose `vpermb` looks up 64 codes at once (Ice Lake, Zen 4 and later).

pub(crate) mod dot;
pub(crate) mod look_up;
mod rows;
pub(crate) mod vector;

use crate::generic::attention::AttendHead;
use crate::generic::dense::DenseBlock;
use crate::generic::panel::{InputBlock, PanelBlock};
use crate::generic::{activation, attention, dense, panel};
use crate::kernels::{Kernels, kernels};

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
        gemm from usize::MAX, 18
    );
}

/// With VNNI.
pub(crate) mod vnni {
    use crate::generic::panel::{self, PanelBlock};
    use crate::kernels::Kernels;
    use crate::x86::avx512::dot::Vnni;
    use crate::x86::avx512::vector::I32x16;

    /// The kernels of AVX-512, but for the panels.
    pub(crate) static KERNELS: Kernels = Kernels { panels, ..crate::x86::avx512::KERNELS };

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn panels(block: &PanelBlock) {
        // SAFETY: the caller has the instructions and fulfils the conditions of the algorithm.
        unsafe { panel::panels::<I32x16<Vnni>>(block) }
    }

    /// The ternary kernels.
    pub(crate) mod ternary {
        use crate::x86::avx512::dot::{Vnni, ZmmDot};
        use crate::x86::avx512::look_up::Words;
        use crate::x86::ternary::ternary_kernels;

        ternary_kernels!(
            "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c",
            Words,
            ZmmDot<Vnni>,
            gemm from 32, 24
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
        gemm from 20, 24
    );
}
