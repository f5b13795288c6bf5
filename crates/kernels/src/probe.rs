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
    #[cfg(target_arch = "x86_64")]
    {
        if has(isa, "avx512f") {
            // SAFETY: AVX-512 F is available, checked just now.
            return unsafe { crate::x86::probe::read_512(words) };
        }
        if has(isa, "avx2") {
            // SAFETY: AVX2 is available, checked just now.
            return unsafe { crate::x86::probe::read_256(words) };
        }
    }
    sum(words)
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
    rounds
        * match Dots::of(isa) {
            #[cfg(target_arch = "x86_64")]
            Dots::Vnni512 => {
                // SAFETY: AVX-512 F and VNNI are available, checked by `of`.
                unsafe { crate::x86::probe::dots_512(rounds) };
                12 * 64
            }
            #[cfg(target_arch = "x86_64")]
            Dots::Pairs256 => {
                // SAFETY: AVX2 is available, checked by `of`.
                unsafe { crate::x86::probe::dots_256(rounds) };
                8 * 32
            }
            Dots::Plain => {
                plain_dots(rounds);
                16
            }
        }
}

/// What [`int8_dots`] runs on `isa`.
pub fn int8_dots_name(isa: Isa) -> &'static str {
    match Dots::of(isa) {
        #[cfg(target_arch = "x86_64")]
        Dots::Vnni512 => "vpdpbusd, 512 bits",
        #[cfg(target_arch = "x86_64")]
        Dots::Pairs256 => "vpmaddubsw + vpaddw, 256 bits",
        Dots::Plain => "plain Rust",
    }
}

/// The fastest int8 dot products of a tier.
enum Dots {
    #[cfg(target_arch = "x86_64")]
    Vnni512,
    #[cfg(target_arch = "x86_64")]
    Pairs256,
    Plain,
}

impl Dots {
    fn of(isa: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if has(isa, "avx512f") && has(isa, "avx512vnni") {
                return Self::Vnni512;
            }
            if has(isa, "avx2") {
                return Self::Pairs256;
            }
        }
        let _ = isa;
        Self::Plain
    }
}

/// Whether `isa` needs the feature called `name`, and this processor has it.
#[cfg(target_arch = "x86_64")]
fn has(isa: Isa, name: &str) -> bool {
    features(isa).contains(&(name, true))
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
    #[cfg(target_arch = "x86_64")]
    macro_rules! probe {
        ($($name:tt)*) => { vec![$(($name, std::arch::is_x86_feature_detected!($name))),*] };
    }
    #[cfg(not(target_arch = "x86_64"))]
    macro_rules! probe {
        ($($name:tt)*) => { vec![$(($name, false)),*] };
    }
    match isa {
        Isa::Scalar => Vec::new(),
        Isa::Avx2 => probe!("avx2" "fma" "f16c"),
        Isa::Avx512 => {
            probe!("avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512vbmi" "avx512vnni")
        }
    }
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
    let gemm = TernaryKernels::of(isa).gemm.as_ref();
    let tiles = "tiles decoded once, int8 dot products";
    vec![
        Family {
            formats: names(&[TernaryFormat::Sherry, TernaryFormat::Ternary167]),
            one_token: "look-up tables of partial sums",
            many_tokens: gemm.map(|gemm| (gemm.min_tokens_codes, tiles)),
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
