//! What this processor can do at most and what would run on it: the yardsticks of benchmarks.
//!
//! Nothing here looks at a clock: a probe does a known amount of work, and the caller times it.

use crate::Isa;
use crate::arch::dispatch;
use crate::engine::matmul::WIDEN_TOKENS;
use crate::format::TensorType;
use crate::format::TernaryFormat;
use crate::table::Limits;

/// Reads `words` once with the widest loads of `isa` and returns their wrapping sum: as fast as memory delivers.
///
/// # Panics
/// When `isa` is not available on this processor.
pub fn read(isa: Isa, words: &[u64]) -> u64 {
    limits(isa).read(words)
}

/// Runs `rounds` rounds of the int8 dot-product instructions of `isa` on registers alone, with enough independent sums
/// to hide their latency, and returns the multiply-accumulates done: timed, the arithmetic peak of one thread.
///
/// # Panics
/// When `isa` is not available on this processor.
pub fn int8_dots(isa: Isa, rounds: u64) -> u64 {
    let limits = limits(isa);
    limits.dots(rounds);
    rounds * limits.dots_per_round
}

/// What [`int8_dots`] runs on `isa`.
///
/// # Panics
/// When `isa` is not available on this processor.
pub fn int8_dots_name(isa: Isa) -> &'static str {
    limits(isa).dots_name
}

fn limits(isa: Isa) -> &'static Limits {
    &dispatch::expect(isa).limits
}

/// How a group of weight formats is multiplied.
///
/// ```
/// use sherry_kernels::{Isa, probe};
///
/// let families = probe::families(Isa::best());
/// let family = families.iter().find(|family| family.formats.iter().any(|name| name == "Q8_0")).unwrap();
/// assert_eq!(family.one_token, "panels of 16 rows, int8 dot products");
/// ```
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
///
/// # Panics
/// When `isa` is not available on this processor.
pub fn families(isa: Isa) -> Vec<Family> {
    // The types of files that become these formats when they are loaded stand behind them.
    let names = |formats: &[TernaryFormat], types: &[TensorType]| {
        formats.iter().map(ToString::to_string).chain(types.iter().map(ToString::to_string)).collect()
    };
    let ternary = &dispatch::expect(isa).ternary;
    let decoded = ternary.decoded.as_ref();
    let tiles = "tiles decoded once, int8 dot products";
    let look_up = ternary.look_up.filter(|look_up| (look_up.pays)());
    vec![
        Family {
            formats: names(
                &[TernaryFormat::Sherry, TernaryFormat::Ternary167],
                &[TensorType::STQ1_0, TensorType::I2_S],
            ),
            one_token: "look-up tables of partial sums",
            many_tokens: match look_up {
                Some(look_up) => {
                    let way = match look_up.max_tokens {
                        usize::MAX => "codes decoded once, look-up tables",
                        _ => "codes decoded once, look-up tables; for many, int8 dot products on decoded tiles",
                    };
                    Some((look_up.min_tokens, way))
                }
                None => decoded.map(|decoded| (decoded.min_tokens_codes, tiles)),
            },
        },
        Family {
            formats: names(&[TernaryFormat::Binary], &[TensorType::Q1_0]),
            one_token: "look-up tables of partial sums",
            many_tokens: match look_up {
                Some(look_up) => Some((look_up.min_tokens_signs, "codes decoded once, look-up tables")),
                None => decoded
                    .filter(|decoded| decoded.min_tokens_signs != usize::MAX)
                    .map(|decoded| (decoded.min_tokens_signs, tiles)),
            },
        },
        Family {
            formats: names(
                &[TernaryFormat::Ternary2],
                &[TensorType::TQ1_0, TensorType::TQ2_0, TensorType::Q2_0, TensorType::PQ2_0, TensorType::PTQ1_0],
            ),
            one_token: "int8 dot products on unpacked bits",
            many_tokens: decoded.map(|decoded| (decoded.min_tokens_bits, tiles)),
        },
        Family {
            formats: [
                "Q8_0",
                "Q6_K",
                "Q5_K",
                "Q4_K",
                "Q3_K",
                "Q2_K",
                "Q5_0",
                "Q5_1",
                "Q4_0",
                "Q4_1",
                "IQ4_NL",
                "SQ3_0",
                "Q2_0 and PQ2_0 of four values",
            ]
            .map(str::to_owned)
            .to_vec(),
            one_token: "panels of 16 rows, int8 dot products",
            many_tokens: None,
        },
        Family {
            formats: ["F32", "F16", "BF16"].map(str::to_owned).to_vec(),
            one_token: "f32 dot products on rows where they lie",
            many_tokens: Some((WIDEN_TOKENS, "F16 and BF16 rows widened once per batch")),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::TensorType;
    use crate::{Bytes, Matrix, Pool};

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

    /// The families name what the engine does: a type that is not ternary has a panel kernel exactly where they say so.
    #[test]
    fn families_name_every_type_once() {
        let families = families(Isa::Scalar);
        for ty in TensorType::ALL.into_iter().filter(|ty| ty.is_dequantizable() && *ty != TensorType::STQ1_0) {
            let family: Vec<_> = families.iter().filter(|f| f.formats.iter().any(|name| name == ty.name())).collect();
            assert_eq!(family.len(), 1, "{ty}");
            let bytes = Bytes::from(vec![0; ty.row_bytes(256).unwrap()]);
            let matrix = Matrix::from_rows(ty, 1, 256, bytes).unwrap().repacked_on(&Pool::new(1));
            let panels = !ty.is_ternary() && matches!(matrix.repr, crate::matrix::Repr::Panels(_));
            assert_eq!(panels, family[0].one_token.starts_with("panels"), "{ty}");
        }
    }
}
