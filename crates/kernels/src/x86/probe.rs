//! Loops that find the limits of a core; see [`probe`](crate::probe).
//!
//! The arithmetic ones are written as assembly because the compiler would see that their inputs never change.

use std::arch::asm;
use std::arch::x86_64::{__m256i, __m512i, _mm256_setzero_si256, _mm512_setzero_si512};

/// [`sum`](crate::probe::sum) by 512-bit loads.
///
/// # Safety
/// AVX-512 F is available.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn read_512(words: &[u64]) -> u64 {
    crate::probe::sum(words)
}

/// [`sum`](crate::probe::sum) by 256-bit loads.
///
/// # Safety
/// AVX2 is available.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn read_256(words: &[u64]) -> u64 {
    crate::probe::sum(words)
}

/// `rounds` times 12 independent `vpdpbusd` of 64 multiply-accumulates each.
///
/// # Safety
/// AVX-512 F and VNNI are available.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(crate) unsafe fn dots_512(rounds: u64) {
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

/// `rounds` times 8 independent pairs of `vpmaddubsw` and `vpaddw`, 32 multiply-accumulates each: what the tiles of the
/// AVX2 kernels consist of.
///
/// # Safety
/// AVX2 is available.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn dots_256(rounds: u64) {
    let zero: __m256i = _mm256_setzero_si256();
    for _ in 0..rounds {
        // SAFETY: the instructions touch only the registers named, and the caller has their instruction set.
        unsafe {
            asm!(
                "vpmaddubsw {s}, {z}, {z}", "vpaddw {a}, {a}, {s}", "vpmaddubsw {t}, {z}, {z}", "vpaddw {b}, {b}, {t}",
                "vpmaddubsw {s}, {z}, {z}", "vpaddw {c}, {c}, {s}", "vpmaddubsw {t}, {z}, {z}", "vpaddw {d}, {d}, {t}",
                "vpmaddubsw {s}, {z}, {z}", "vpaddw {e}, {e}, {s}", "vpmaddubsw {t}, {z}, {z}", "vpaddw {f}, {f}, {t}",
                "vpmaddubsw {s}, {z}, {z}", "vpaddw {g}, {g}, {s}", "vpmaddubsw {t}, {z}, {z}", "vpaddw {h}, {h}, {t}",
                z = in(ymm_reg) zero, s = out(ymm_reg) _, t = out(ymm_reg) _,
                a = out(ymm_reg) _, b = out(ymm_reg) _, c = out(ymm_reg) _, d = out(ymm_reg) _,
                e = out(ymm_reg) _, f = out(ymm_reg) _, g = out(ymm_reg) _, h = out(ymm_reg) _,
                options(nomem, nostack, preserves_flags)
            );
        }
    }
}
