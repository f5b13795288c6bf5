//! Which instruction set runs: found once at start, or forced.

use std::fmt;

/// Whether the scalar kernels are left out.
pub(crate) const LEAN: bool = cfg!(all(feature = "lean", target_arch = "wasm32", target_feature = "simd128"));

/// A tier of kernels.
///
/// ```
/// use sherry_kernels::Isa;
///
/// assert!(Isa::best().is_available() && Isa::Scalar.is_available());
/// let missing = |isa: &Isa| isa.features().iter().any(|(_, found)| !found);
/// assert!(Isa::ALL.iter().all(|isa| isa.is_available() != missing(isa)));
/// ```
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

    /// The processor features that it needs, and whether each is there.
    pub fn features(self) -> Vec<(&'static str, bool)> {
        let names: &[&str] = match self {
            Self::Scalar => &[],
            Self::Avx2 => &["avx2", "fma", "f16c"],
            Self::Avx2Gfni => &["avx2", "fma", "f16c", "gfni"],
            // AVX-512 has the same instructions, where AVX-VNNI is missing.
            Self::AvxVnni if !has("avxvnni") && has("avx512vnni") => {
                &["avx2", "fma", "f16c", "gfni", "avx512f", "avx512vl", "avx512vnni"]
            }
            Self::AvxVnni => &["avx2", "fma", "f16c", "gfni", "avxvnni"],
            Self::Avx512 => &["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl"],
            Self::Avx512Vnni => &["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni"],
            Self::Avx512Vbmi => &["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512vbmi"],
            Self::Neon => &["neon"],
            Self::NeonDot => &["neon", "dotprod"],
            Self::Simd128 => &["simd128"],
        };
        names.iter().map(|&name| (name, has(name))).collect()
    }

    /// Whether this program has it, and this processor.
    pub fn is_available(self) -> bool {
        !(LEAN && self == Self::Scalar) && self.features().iter().all(|(_, found)| *found)
    }

    /// The best tier of this processor.
    pub fn best() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Self::Scalar)
    }
}

/// Whether this processor has the feature called `name`.
fn has(name: &str) -> bool {
    #[cfg(target_arch = "x86_64")]
    macro_rules! find {
        ($($known:tt)*) => { $(name == $known && std::arch::is_x86_feature_detected!($known))||* };
    }
    #[cfg(target_arch = "x86_64")]
    return find!("avx2" "fma" "f16c" "gfni" "avxvnni" "avx512f" "avx512bw" "avx512vl" "avx512vnni" "avx512vbmi");
    #[cfg(target_arch = "aarch64")]
    return name == "neon" && std::arch::is_aarch64_feature_detected!("neon")
        || name == "dotprod" && std::arch::is_aarch64_feature_detected!("dotprod");
    // WebAssembly detects nothing: a module that uses vectors does not load without them.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return name == "simd128" && cfg!(target_feature = "simd128");
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
