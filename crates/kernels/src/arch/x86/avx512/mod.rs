//! 512-bit vectors. Three tiers:
//!
//! - [`TABLE`]: AVX-512 F, BW and VL (Skylake-X);
//! - [`VNNI`]: with VNNI (Cascade Lake);
//! - [`VBMI`]: with VNNI and VBMI, whose `vpermb` looks up 64 codes at once (Ice Lake, Zen 4 and later).

mod dot;
mod gemm;
mod look_up;
mod rows;
mod signs;
mod vector;

use crate::arch::x86::probe;
use crate::arch::x86::ternary::tier;
use crate::table::{Table, table};
use dot::{Maddubs, Vnni, ZmmDot};
use look_up::{Bytes, Words};
use signs::ZmmSigns;
use vector::{F32x16, I32x16};

/// AVX-512 F, BW and VL. `vpmaddubsw` on decoded 5-bit codes never catches up with `vpermw` look-ups.
pub(crate) static TABLE: Table = table! {
    features "avx512f,avx512bw,avx512vl,avx2,fma,f16c";
    floats F32x16;
    ints I32x16<Maddubs>;
    ternary tier!(
        "avx512f,avx512bw,avx512vl,avx2,fma,f16c",
        Words,
        ZmmSigns,
        ZmmDot<Maddubs>,
        decoded from usize::MAX, 18, usize::MAX,
        look_up Some(&gemm::LOOK_UP)
    );
    limits probe::AVX512;
};

/// With VNNI.
pub(crate) static VNNI: Table = table! {
    over TABLE;
    features "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c";
    ints I32x16<Vnni>;
    ternary tier!(
        "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c",
        Words,
        ZmmSigns,
        ZmmDot<Vnni>,
        decoded from 32, 24, 48,
        look_up Some(&gemm::LOOK_UP)
    );
    limits probe::VNNI;
};

/// With VNNI and VBMI, which serves ternary weights only.
pub(crate) static VBMI: Table = Table {
    ternary: tier!(
        "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c",
        Bytes,
        ZmmSigns,
        ZmmDot<Vnni>,
        decoded from 20, 24, 48,
        look_up Some(&gemm::LOOK_UP)
    ),
    ..VNNI
};
