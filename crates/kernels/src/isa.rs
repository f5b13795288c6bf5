//! Which instruction set runs: found once at start, or forced.

use std::fmt;

/// A tier of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust: the oracle and the fallback.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C (Haswell, Zen 1).
    Avx2,
    /// AVX2 and GFNI (Gracemont, Zen 4).
    Avx2Gfni,
    /// AVX2, GFNI and VNNI on 256-bit vectors: AVX-VNNI (Alder Lake, Zen 5), or AVX-512 VL and VNNI, whose instructions
    /// do the same.
    AvxVnni,
    /// AVX-512 F, BW and VL (Skylake-X).
    Avx512,
    /// AVX-512 with VNNI (Cascade Lake).
    Avx512Vnni,
    /// AVX-512 with VNNI and VBMI (Ice Lake, Zen 4).
    Avx512Vbmi,
    /// AArch64 with NEON.
    Neon,
    /// AArch64 with NEON and its dot-product instructions.
    NeonDot,
    /// WebAssembly with 128-bit vectors; chosen when the program is compiled.
    Simd128,
}

impl Isa {
    /// Every tier this program knows, best last among those of one architecture.
    pub const ALL: [Self; 10] = [
        Self::Scalar,
        Self::Avx2,
        Self::Avx2Gfni,
        Self::AvxVnni,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Vbmi,
        Self::Neon,
        Self::NeonDot,
        Self::Simd128,
    ];

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2Gfni => Self::Avx2.is_available() && is_x86_feature_detected!("gfni"),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => {
                let evex = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni");
                Self::Avx2Gfni.is_available() && (is_x86_feature_detected!("avxvnni") || evex)
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Self::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vbmi => Self::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512vbmi"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => Self::Neon.is_available() && std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "wasm32")]
            Self::Simd128 => cfg!(target_feature = "simd128"),
            // Those of other architectures.
            _ => false,
        }
    }

    /// The best tier of this processor.
    pub fn best() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Self::Scalar)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx2Gfni => "avx2-gfni",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Vbmi => "avx512-vbmi",
            Self::Neon => "neon",
            Self::NeonDot => "neon-dotprod",
            Self::Simd128 => "simd128",
        })
    }
}
