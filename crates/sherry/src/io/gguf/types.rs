//! Tensor type ids of GGUF files and what they mean here.

use sherry_kernels::format::TensorType;

/// The id under which STQ1_0 is written.
///
/// Files made before ggml gave 42 to its own Q2_0 use 42; readers of today's mainline expect 43. This crate reads both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StqId {
    /// 42, for the programs that came with the first 1.25-bit files (Hy-MT1.5).
    Id42,
    /// 43.
    #[default]
    Id43,
}

/// One meaning of a type id that stands for several in circulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// What messages call it.
    pub name: &'static str,
    /// The type, or what to do about one that this program does not read.
    pub ty: Result<TensorType, &'static str>,
    /// Values and bytes of a block.
    pub block: (u64, u64),
    /// Whether it is a fork's meaning, and not that of mainline llama.cpp.
    pub fork: bool,
}

/// A type this program reads.
const fn read(ty: TensorType, fork: bool) -> Candidate {
    let block = (ty.block_len() as u64, ty.block_bytes() as u64);
    Candidate { name: ty.name(), ty: Ok(ty), block, fork }
}

/// A type that it does not read.
const fn other(name: &'static str, block: (u64, u64), fork: bool, advice: &'static str) -> Candidate {
    Candidate { name, ty: Err(advice), block, fork }
}

/// What to do about a model whose weights another program has arranged for one build of itself.
const TAKE_I2_S: &str = "TL1 and TL2 tensors can be read only by the build of bitnet.cpp that made them; take the I2_S file of the model, or \
     its safetensors";

/// Meanings of 36: removed from mainline, and the ternary type of bitnet.cpp.
const ID_36: [Candidate; 2] = [other("IQ4_NL_4_4", (32, 18), false, ""), read(TensorType::I2_S, true)];
/// Of 39: bitnet.cpp's TL2 has no size that could be told.
const ID_39: [Candidate; 1] = [other("MXFP4", (32, 17), false, "")];
/// Of 40.
const ID_40: [Candidate; 2] = [
    other("NVFP4", (64, 36), false, ""),
    other("Q1_0 with 32 weights in 6 bytes", (32, 6), true, "take the Q1_0 file with 128 weights in 18 bytes"),
];
/// Of 42: mainline's, Prism ML's before that, and the first 1.25-bit files.
const ID_42: [Candidate; 3] =
    [read(TensorType::Q2_0, false), read(TensorType::PQ2_0, true), read(TensorType::STQ1_0, true)];
/// Of 43.
const ID_43: [Candidate; 2] = [read(TensorType::STQ1_0, false), read(TensorType::Q1_0, true)];
/// Of 48 and 253, one fork each.
const FORKS: [Candidate; 2] = [read(TensorType::Q2_0, true), read(TensorType::STQ1_0, true)];
/// Of 142: Prism ML's, and a deprecated type of ik_llama.cpp.
const ID_142: [Candidate; 2] = [read(TensorType::PQ2_0, true), other("IQ2_TN", (256, 66), true, "")];
/// Of 143, likewise.
const ID_143: [Candidate; 2] = [read(TensorType::PTQ1_0, true), other("IQ1_TN", (256, 54), true, "")];

/// What a type id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A type this program reads.
    Known(TensorType),
    /// One of several types, the likeliest first, the same for all tensors of a file; only their sizes tell which.
    Disputed(&'static [Candidate]),
    /// A type this program does not read: its name, and what to do about it.
    Foreign(&'static str, &'static str),
    /// No known type.
    Unknown,
}

/// What type id `id` stands for.
pub(super) fn meaning(id: u32) -> Meaning {
    use TensorType::*;
    Meaning::Known(match id {
        0 => F32,
        1 => F16,
        2 => Q4_0,
        3 => Q4_1,
        6 => Q5_0,
        7 => Q5_1,
        8 => Q8_0,
        10 => Q2_K,
        11 => Q3_K,
        12 => Q4_K,
        13 => Q5_K,
        14 => Q6_K,
        20 => IQ4_NL,
        26 => I32,
        27 => I64,
        30 => BF16,
        34 => TQ1_0,
        35 => TQ2_0,
        41 => Q1_0,
        36 => return Meaning::Disputed(&ID_36),
        38 => return Meaning::Foreign("TL1", TAKE_I2_S),
        39 => return Meaning::Disputed(&ID_39),
        40 => return Meaning::Disputed(&ID_40),
        42 => return Meaning::Disputed(&ID_42),
        43 => return Meaning::Disputed(&ID_43),
        48 | 253 => return Meaning::Disputed(&FORKS),
        142 => return Meaning::Disputed(&ID_142),
        143 => return Meaning::Disputed(&ID_143),
        _ => return foreign(id).map_or(Meaning::Unknown, |name| Meaning::Foreign(name, "")),
    })
}

/// What it is when none of the candidates of `id` fits.
pub(super) fn without_size(id: u32) -> Option<(&'static str, &'static str)> {
    (id == 39).then_some(("TL2", TAKE_I2_S))
}

fn foreign(id: u32) -> Option<&'static str> {
    Some(match id {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        28 => "F64",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        37 => "IQ4_NL_4_8",
        133 => "Q6_0",
        134 => "IQ1_BN",
        135 => "IQ2_BN",
        144 => "IQ4_KS",
        335 => "IQ2_BN_R4",
        _ => return None,
    })
}

/// The id of `ty` in a file; `None` for types GGUF does not have.
pub(super) fn id_of(ty: TensorType, stq: StqId) -> Option<u32> {
    use TensorType::*;
    Some(match ty {
        U8 | U32 | SQ3_0 => return None,
        F32 => 0,
        F16 => 1,
        Q4_0 => 2,
        Q4_1 => 3,
        Q5_0 => 6,
        Q5_1 => 7,
        Q8_0 => 8,
        Q2_K => 10,
        Q3_K => 11,
        Q4_K => 12,
        Q5_K => 13,
        Q6_K => 14,
        IQ4_NL => 20,
        I32 => 26,
        I64 => 27,
        BF16 => 30,
        TQ1_0 => 34,
        TQ2_0 => 35,
        I2_S => 36,
        Q1_0 => 41,
        Q2_0 => 42,
        STQ1_0 => match stq {
            StqId::Id42 => 42,
            StqId::Id43 => 43,
        },
        PQ2_0 => 142,
        PTQ1_0 => 143,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        for ty in TensorType::ALL {
            for stq in [StqId::Id42, StqId::Id43] {
                match id_of(ty, stq).map(meaning) {
                    None => assert!(matches!(ty, TensorType::U8 | TensorType::U32 | TensorType::SQ3_0)),
                    Some(Meaning::Known(read)) => assert_eq!(read, ty),
                    Some(Meaning::Disputed(candidates)) => {
                        assert!(candidates.iter().any(|candidate| candidate.ty == Ok(ty)), "{ty}");
                    }
                    other => panic!("{ty}: {other:?}"),
                }
            }
        }
        assert_eq!(id_of(TensorType::STQ1_0, StqId::Id42), Some(42));
        assert_eq!(id_of(TensorType::STQ1_0, StqId::Id43), Some(43));
    }

    #[test]
    fn candidates_of_an_id_differ_in_size() {
        for id in 0..1000 {
            let Meaning::Disputed(candidates) = meaning(id) else { continue };
            let sizes: Vec<u64> = candidates.iter().map(|c| c.block.1 * (256 / c.block.0)).collect();
            for (i, size) in sizes.iter().enumerate() {
                assert!(!sizes[..i].contains(size), "{id}: {candidates:?}");
            }
            assert!(candidates.iter().filter(|candidate| !candidate.fork).count() <= 1);
        }
    }
}
