//! 256-bit vectors. Three tiers:
//!
//! - [`TABLE`]: AVX2 with FMA and F16C;
//! - [`GFNI`]: with GFNI in its VEX encoding, which shortens the look-up of ternary codes (Alder Lake, Zen 4);
//! - [`VNNI_VEX`] and [`VNNI_EVEX`]: with `vpdpbusd` on 256-bit vectors besides (Alder Lake, Zen 5). The instruction has two
//!   encodings: VEX (AVX-VNNI) and EVEX (AVX-512 VL and VNNI). Processors have one or both, so the same code is compiled for
//!   each.

mod dot;
mod gemm;
mod look_up;
mod rows;
pub(super) mod signs;
mod vector;

use crate::arch::x86::probe;
use crate::arch::x86::ternary::tier;
use crate::table::{Table, table};
use dot::{Evex, Maddubs, Vex, YmmDot};
use look_up::{Affine, Signs};
use signs::YmmSigns;
use vector::{F32x8, I32x8};

/// AVX2, FMA and F16C.
pub(crate) static TABLE: Table = table! {
    features "avx2,fma,f16c";
    floats F32x8;
    ints I32x8<Maddubs>;
    ternary tier!(
        "avx2,fma,f16c",
        Signs,
        YmmSigns,
        YmmDot<Maddubs>,
        decoded from usize::MAX, 8, usize::MAX,
        look_up Some(&gemm::LOOK_UP)
    );
    limits probe::AVX2;
};

/// With GFNI, which serves ternary weights only.
pub(crate) static GFNI: Table = Table {
    ternary: tier!(
        "avx2,fma,f16c,gfni",
        Affine,
        YmmSigns,
        YmmDot<Maddubs>,
        decoded from usize::MAX, 8, usize::MAX,
        look_up Some(&gemm::LOOK_UP_BESIDE_GFNI)
    ),
    ..TABLE
};

/// With GFNI and AVX-VNNI.
pub(crate) static VNNI_VEX: Table = table! {
    over TABLE;
    features "avx2,fma,f16c,gfni,avxvnni";
    ints I32x8<Vex>;
    ternary tier!(
        "avx2,fma,f16c,gfni,avxvnni",
        Affine,
        YmmSigns,
        YmmDot<Vex>,
        decoded from usize::MAX, 12, usize::MAX,
        look_up Some(&gemm::LOOK_UP_BESIDE_GFNI)
    );
    limits probe::VNNI_VEX;
};

/// With GFNI and the VL and VNNI of AVX-512.
pub(crate) static VNNI_EVEX: Table = table! {
    over TABLE;
    features "avx2,fma,f16c,gfni,avx512f,avx512vl,avx512vnni";
    ints I32x8<Evex>;
    ternary tier!(
        "avx2,fma,f16c,gfni,avx512f,avx512vl,avx512vnni",
        Affine,
        YmmSigns,
        YmmDot<Evex>,
        decoded from usize::MAX, 12, usize::MAX,
        look_up Some(&gemm::LOOK_UP_BESIDE_GFNI)
    );
    limits probe::VNNI_EVEX;
};
