//! What this processor can do at most and what would run on it: the yardsticks of benchmarks.
//!
//! Nothing here looks at a clock: a probe does a known amount of work, and the caller times it.

use crate::format::TernaryFormat;
use crate::ternary::kernels::TernaryKernels;
use crate::{Isa, engine};

/// Reads `words` once with the widest loads of `isa` and returns their wrapping sum: as fast as memory delivers.
///
/// # Panics
/// When `isa` is not available on this processor.
pub fn read(isa: Isa, words: &[u64]) -> u64 {
    assert!(isa.is_available(), "{isa} is not available on this processor");
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: AVX-512 F is available, checked above.
        Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Vbmi => unsafe { crate::x86::probe::read_512(words) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: AVX2 is available, checked above.
        Isa::Avx2 | Isa::Avx2Gfni | Isa::AvxVnni => unsafe { crate::x86::probe::read_256(words) },
        // Vectors of 128 bits belong to the base of the other architectures.
        _ => sum(words),
    }
}

/// The sum in independent lanes, which the compiler puts into vectors.
fn sum(words: &[u64]) -> u64 {
    let (chunks, rest) = words.as_chunks::<8>();
    let lanes = chunks.iter().fold([0u64; 8], |lanes, chunk| std::array::from_fn(|i| lanes[i].wrapping_add(chunk[i])));
    lanes.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

/// Runs `rounds` rounds of the int8 dot-product instructions of `isa` on registers alone, with enough independent sums
/// to hide their latency, and returns the multiply-accumulates done: timed, the arithmetic peak of one thread.
///
/// # Panics
/// When `isa` is not available on this processor.
pub fn int8_dots(isa: Isa, rounds: u64) -> u64 {
    assert!(isa.is_available(), "{isa} is not available on this processor");
    let per_round = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Avx512Vbmi => {
            // SAFETY: AVX-512 F and VNNI are available, checked above.
            unsafe { crate::x86::probe::dots_512(rounds) };
            12 * 64
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            // SAFETY: AVX-512 F and BW are available, checked above.
            unsafe { crate::x86::probe::pairs_512(rounds) };
            8 * 64
        }
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => {
            if std::arch::is_x86_feature_detected!("avxvnni") {
                // SAFETY: AVX2 and AVX-VNNI are available, checked just now.
                unsafe { crate::x86::probe::dots_256_vex(rounds) };
            } else {
                // SAFETY: without AVX-VNNI the tier needs AVX-512 VL and VNNI, checked above.
                unsafe { crate::x86::probe::dots_256_evex(rounds) };
            }
            10 * 32
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx2Gfni => {
            // SAFETY: AVX2 is available, checked above.
            unsafe { crate::x86::probe::pairs_256(rounds) };
            8 * 32
        }
        _ => {
            plain_dots(rounds);
            16
        }
    };
    rounds * per_round
}

/// What [`int8_dots`] runs on `isa`.
pub fn int8_dots_name(isa: Isa) -> &'static str {
    match isa {
        Isa::Avx512Vnni | Isa::Avx512Vbmi => "vpdpbusd, 512 bits",
        Isa::Avx512 => "vpmaddubsw + vpaddw, 512 bits",
        Isa::AvxVnni => "vpdpbusd, 256 bits",
        Isa::Avx2 | Isa::Avx2Gfni => "vpmaddubsw + vpaddw, 256 bits",
        Isa::Neon | Isa::NeonDot | Isa::Simd128 => "compiled Rust, less than the peak",
        Isa::Scalar => "plain Rust",
    }
}

fn plain_dots(rounds: u64) {
    let mut sums = [0i32; 16];
    let weights: [i8; 16] = std::hint::black_box([1, -1, 0, 1, 1, -1, 1, 0, 1, -1, 0, 1, 1, -1, 1, 0]);
    for round in 0..rounds {
        let x = std::hint::black_box(round as i8);
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum = sum.wrapping_add(i32::from(weight) * i32::from(x));
        }
    }
    std::hint::black_box(sums);
}

/// The processor features that `isa` needs, and whether each is there.
pub fn features(isa: Isa) -> Vec<(&'static str, bool)> {
    let names: &[&str] = match isa {
        Isa::Scalar => &[],
        Isa::Avx2 => &["avx2", "fma", "f16c"],
        Isa::Avx2Gfni => &["avx2", "fma", "f16c", "gfni"],
        // AVX-512 has the same instructions, where AVX-VNNI is missing.
        Isa::AvxVnni if !has("avxvnni") && has("avx512vnni") => {
            &["avx2", "fma", "f16c", "gfni", "avx512f", "avx512vl", "avx512vnni"]
        }
        Isa::AvxVnni => &["avx2", "fma", "f16c", "gfni", "avxvnni"],
        Isa::Avx512 => &["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl"],
        Isa::Avx512Vnni => &["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni"],
        Isa::Avx512Vbmi => &["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512vbmi"],
        Isa::Neon => &["neon"],
        Isa::NeonDot => &["neon", "dotprod"],
        Isa::Simd128 => &["simd128"],
    };
    names.iter().map(|&name| (name, has(name))).collect()
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
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return name == "simd128" && cfg!(target_feature = "simd128");
}

/// How a group of weight formats is multiplied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// The formats.
    pub formats: Vec<String>,
    /// For one token.
    pub one_token: &'static str,
    /// The number of tokens from which on another kernel takes over, and which; `None` where the first serves them all.
    pub many_tokens: Option<(usize, &'static str)>,
}

/// The kernel families that [`Engine`](crate::Engine) would use on `isa`.
pub fn families(isa: Isa) -> Vec<Family> {
    let names = |formats: &[TernaryFormat]| formats.iter().map(ToString::to_string).collect();
    let kernels = TernaryKernels::of(isa);
    let gemm = kernels.gemm.as_ref();
    let tiles = "tiles decoded once, int8 dot products";
    let look_up = kernels.look_up.as_ref().filter(|look_up| (look_up.pay)());
    vec![
        Family {
            formats: names(&[TernaryFormat::Sherry, TernaryFormat::Ternary167]),
            one_token: "look-up tables of partial sums",
            many_tokens: match look_up {
                Some(look_up) => Some((look_up.min_tokens, "codes decoded once, 16-bit look-up tables")),
                None => gemm.map(|gemm| (gemm.min_tokens_codes, tiles)),
            },
        },
        Family {
            formats: names(&[TernaryFormat::Ternary2]),
            one_token: "int8 dot products on unpacked bits",
            many_tokens: gemm.map(|gemm| (gemm.min_tokens_bits, tiles)),
        },
        Family {
            formats: ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "IQ4_NL"]
                .map(str::to_owned)
                .to_vec(),
            one_token: "panels of 16 rows, int8 dot products",
            many_tokens: None,
        },
        Family {
            formats: ["F32", "F16", "BF16"].map(str::to_owned).to_vec(),
            one_token: "f32 dot products on rows where they lie",
            many_tokens: Some((engine::WIDEN_TOKENS, "F16 and BF16 rows widened once per batch")),
        },
        Family {
            formats: ["Q2_K", "TQ1_0", "TQ2_0"].map(str::to_owned).to_vec(),
            one_token: "f32 dot products on dequantized rows (slow)",
            many_tokens: None,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::TensorType;
    use crate::{Bytes, Matrix, Pool};

    #[test]
    fn an_isa_is_available_when_all_its_features_are() {
        for isa in Isa::ALL {
            assert_eq!(isa.is_available(), features(isa).iter().all(|(_, found)| *found), "{isa}");
            assert_eq!(features(isa).is_empty(), isa == Isa::Scalar, "{isa}");
        }
    }

    #[test]
    fn every_word_is_read() {
        for len in [0, 1, 31, 32, 33, 1000] {
            let words: Vec<u64> = (0..len).map(|i| (u64::MAX / 3).wrapping_mul(i + 1)).collect();
            let expected = words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                assert_eq!(read(isa, &words), expected, "{isa}, {len} words");
            }
        }
    }

    #[test]
    fn dots_are_counted() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            assert_eq!(int8_dots(isa, 0), 0);
            assert_eq!(int8_dots(isa, 300), 300 * int8_dots(isa, 1), "{isa}");
        }
    }

    /// The families name what the engine does: a type has a panel kernel exactly where they say so.
    #[test]
    fn families_name_every_type_once() {
        let families = families(Isa::Scalar);
        for ty in TensorType::ALL.into_iter().filter(|ty| ty.is_dequantizable() && *ty != TensorType::STQ1_0) {
            let family: Vec<_> = families.iter().filter(|f| f.formats.iter().any(|name| name == ty.name())).collect();
            assert_eq!(family.len(), 1, "{ty}");
            let bytes = Bytes::from(vec![0; ty.row_bytes(256).unwrap()]);
            let matrix = Matrix::from_rows(ty, 1, 256, bytes).unwrap().repacked_on(&Pool::new(1));
            let panels = matches!(matrix.repr, crate::matrix::Repr::Panels(_));
            assert_eq!(panels, family[0].one_token.starts_with("panels"), "{ty}");
        }
    }
}
