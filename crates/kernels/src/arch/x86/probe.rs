//! Loops that find the limits of a core; see [`probe`](crate::probe).
//!
//! The arithmetic ones are written as assembly because the compiler would see that their inputs never change.

use std::arch::asm;
use std::arch::x86_64::{
    __m256i, __m512i, _mm256_add_epi64, _mm256_loadu_si256, _mm256_setzero_si256, _mm256_storeu_si256,
    _mm512_add_epi64, _mm512_loadu_si512, _mm512_reduce_add_epi64, _mm512_setzero_si512,
};

use crate::table::Limits;

/// What a core does with 256-bit vectors, `vpmaddubsw` being what the tiles of AVX2 consist of.
pub(super) const AVX2: Limits = Limits {
    read: read_256,
    dots: pairs_256,
    dots_per_round: 8 * 32,
    dots_name: "vpmaddubsw + vpaddw, 256 bits",
    #[cfg(test)]
    features: "avx2",
};

/// With AVX-VNNI.
pub(super) const VNNI_VEX: Limits = Limits {
    dots: dots_256_vex,
    dots_per_round: 10 * 32,
    dots_name: "vpdpbusd, 256 bits",
    #[cfg(test)]
    features: "avx2,avxvnni",
    ..AVX2
};

/// With the VL and VNNI of AVX-512.
pub(super) const VNNI_EVEX: Limits = Limits {
    dots: dots_256_evex,
    #[cfg(test)]
    features: "avx2,avx512f,avx512vl,avx512vnni",
    ..VNNI_VEX
};

/// With 512-bit vectors.
pub(super) const AVX512: Limits = Limits {
    read: read_512,
    dots: pairs_512,
    dots_per_round: 8 * 64,
    dots_name: "vpmaddubsw + vpaddw, 512 bits",
    #[cfg(test)]
    features: "avx512f,avx512bw",
};

/// With VNNI on them.
pub(super) const VNNI: Limits = Limits {
    dots: dots_512,
    dots_per_round: 12 * 64,
    dots_name: "vpdpbusd, 512 bits",
    #[cfg(test)]
    features: "avx512f,avx512bw,avx512vnni",
    ..AVX512
};

/// The wrapping sum of `words` by 512-bit loads.
///
/// # Safety
/// AVX-512 F is available.
#[target_feature(enable = "avx512f")]
unsafe fn read_512(words: &[u64]) -> u64 {
    let (lines, rest) = words.as_chunks::<32>();
    let mut sums = [_mm512_setzero_si512(); 4];
    for line in lines {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: eight words from 8 i on lie inside the 32 of `line`.
            *sum = _mm512_add_epi64(*sum, unsafe { _mm512_loadu_si512(line.as_ptr().add(8 * i).cast()) });
        }
    }
    let [a, b, c, d] = sums;
    let sum = _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d))) as u64;
    rest.iter().fold(sum, |sum, word| sum.wrapping_add(*word))
}

/// The wrapping sum of `words` by 256-bit loads.
///
/// # Safety
/// AVX2 is available.
#[target_feature(enable = "avx2")]
unsafe fn read_256(words: &[u64]) -> u64 {
    let (lines, rest) = words.as_chunks::<16>();
    let mut sums = [_mm256_setzero_si256(); 4];
    for line in lines {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: four words from 4 i on lie inside the 16 of `line`.
            *sum = _mm256_add_epi64(*sum, unsafe { _mm256_loadu_si256(line.as_ptr().add(4 * i).cast()) });
        }
    }
    let [a, b, c, d] = sums;
    let mut lanes = [0u64; 4];
    let sum = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
    // SAFETY: the array has room for the four words of a vector.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
    lanes.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

/// `rounds` times 12 independent `vpdpbusd` of 64 multiply-accumulates each.
///
/// # Safety
/// AVX-512 F and VNNI are available.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dots_512(rounds: u64) {
    let zero: __m512i = _mm512_setzero_si512();
    for _ in 0..rounds {
        // SAFETY: the instructions touch only the registers named, and the caller has their instruction set.
        unsafe {
            asm!(
                "vpdpbusd {a}, {z}, {z}", "vpdpbusd {b}, {z}, {z}", "vpdpbusd {c}, {z}, {z}",
                "vpdpbusd {d}, {z}, {z}", "vpdpbusd {e}, {z}, {z}", "vpdpbusd {f}, {z}, {z}",
                "vpdpbusd {g}, {z}, {z}", "vpdpbusd {h}, {z}, {z}", "vpdpbusd {i}, {z}, {z}",
                "vpdpbusd {j}, {z}, {z}", "vpdpbusd {k}, {z}, {z}", "vpdpbusd {l}, {z}, {z}",
                z = in(zmm_reg) zero,
                a = out(zmm_reg) _, b = out(zmm_reg) _, c = out(zmm_reg) _, d = out(zmm_reg) _,
                e = out(zmm_reg) _, f = out(zmm_reg) _, g = out(zmm_reg) _, h = out(zmm_reg) _,
                i = out(zmm_reg) _, j = out(zmm_reg) _, k = out(zmm_reg) _, l = out(zmm_reg) _,
                options(nomem, nostack, preserves_flags)
            );
        }
    }
}

/// Defines a loop of 8 independent pairs of `vpmaddubsw` and `vpaddw` a round.
macro_rules! pairs {
    ($(#[$attribute:meta])* $name:ident, $class:ident, $vector:ty, $zero:ident) => {
        $(#[$attribute])*
        unsafe fn $name(rounds: u64) {
            let zero: $vector = $zero();
            for _ in 0..rounds {
                // SAFETY: the instructions touch only the registers named, and the caller has their instruction set.
                unsafe {
                    asm!(
                        "vpmaddubsw {s}, {z}, {z}", "vpaddw {a}, {a}, {s}",
                        "vpmaddubsw {t}, {z}, {z}", "vpaddw {b}, {b}, {t}",
                        "vpmaddubsw {s}, {z}, {z}", "vpaddw {c}, {c}, {s}",
                        "vpmaddubsw {t}, {z}, {z}", "vpaddw {d}, {d}, {t}",
                        "vpmaddubsw {s}, {z}, {z}", "vpaddw {e}, {e}, {s}",
                        "vpmaddubsw {t}, {z}, {z}", "vpaddw {f}, {f}, {t}",
                        "vpmaddubsw {s}, {z}, {z}", "vpaddw {g}, {g}, {s}",
                        "vpmaddubsw {t}, {z}, {z}", "vpaddw {h}, {h}, {t}",
                        z = in($class) zero, s = out($class) _, t = out($class) _,
                        a = out($class) _, b = out($class) _, c = out($class) _, d = out($class) _,
                        e = out($class) _, f = out($class) _, g = out($class) _, h = out($class) _,
                        options(nomem, nostack, preserves_flags)
                    );
                }
            }
        }
    };
}

pairs! {
    /// `rounds` times 8 pairs of 32 multiply-accumulates.
    ///
    /// # Safety
    /// AVX2 is available.
    #[target_feature(enable = "avx2")]
    pairs_256, ymm_reg, __m256i, _mm256_setzero_si256
}

pairs! {
    /// `rounds` times 8 pairs of 64 multiply-accumulates.
    ///
    /// # Safety
    /// AVX-512 F and BW are available.
    #[target_feature(enable = "avx512f,avx512bw")]
    pairs_512, zmm_reg, __m512i, _mm512_setzero_si512
}

/// Defines a loop of independent 256-bit `vpdpbusd`, 10 a round, in one of its two encodings.
macro_rules! dots_256 {
    ($(#[$attribute:meta])* $name:ident, $instruction:literal) => {
        $(#[$attribute])*
        unsafe fn $name(rounds: u64) {
            let zero = _mm256_setzero_si256();
            for _ in 0..rounds {
                // SAFETY: the instructions touch only the registers named, and the caller has their instruction set.
                unsafe {
                    asm!(
                        concat!($instruction, " {a}, {z}, {z}"), concat!($instruction, " {b}, {z}, {z}"),
                        concat!($instruction, " {c}, {z}, {z}"), concat!($instruction, " {d}, {z}, {z}"),
                        concat!($instruction, " {e}, {z}, {z}"), concat!($instruction, " {f}, {z}, {z}"),
                        concat!($instruction, " {g}, {z}, {z}"), concat!($instruction, " {h}, {z}, {z}"),
                        concat!($instruction, " {i}, {z}, {z}"), concat!($instruction, " {j}, {z}, {z}"),
                        z = in(ymm_reg) zero,
                        a = out(ymm_reg) _, b = out(ymm_reg) _, c = out(ymm_reg) _, d = out(ymm_reg) _,
                        e = out(ymm_reg) _, f = out(ymm_reg) _, g = out(ymm_reg) _, h = out(ymm_reg) _,
                        i = out(ymm_reg) _, j = out(ymm_reg) _,
                        options(nomem, nostack, preserves_flags)
                    );
                }
            }
        }
    };
}

dots_256! {
    /// `rounds` times 10 `vpdpbusd` of 32 multiply-accumulates, as AVX-VNNI encodes it.
    ///
    /// # Safety
    /// AVX2 and AVX-VNNI are available.
    #[target_feature(enable = "avx2,avxvnni")]
    dots_256_vex, "{{vex}} vpdpbusd"
}

dots_256! {
    /// `rounds` times 10 `vpdpbusd` of 32 multiply-accumulates, as AVX-512 encodes it.
    ///
    /// # Safety
    /// AVX-512 VL and VNNI are available.
    #[target_feature(enable = "avx2,avx512f,avx512vl,avx512vnni")]
    dots_256_evex, "{{evex}} vpdpbusd"
}
