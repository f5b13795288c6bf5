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

/// The id that is STQ1_0 or Q2_0; only the offsets of the tensors tell which.
pub(super) const STQ1_0_OR_Q2_0: u32 = 42;

/// Block shape of ggml's Q2_0: values, bytes.
pub(super) const Q2_0_BLOCK: (u64, u64) = (64, 18);

/// What a type id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A type this program reads.
    Known(TensorType),
    /// [`STQ1_0_OR_Q2_0`].
    Stq1_0OrQ2_0,
    /// A ggml type this program does not read.
    Foreign(&'static str),
    /// No ggml type.
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
        43 => STQ1_0,
        STQ1_0_OR_Q2_0 => return Meaning::Stq1_0OrQ2_0,
        _ => return foreign(id).map_or(Meaning::Unknown, Meaning::Foreign),
    })
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
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => return None,
    })
}

/// The id of `ty` in a file; `None` for types GGUF does not have.
pub(super) fn id_of(ty: TensorType, stq: StqId) -> Option<u32> {
    use TensorType::*;
    Some(match ty {
        U8 => return None,
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
        STQ1_0 => match stq {
            StqId::Id42 => STQ1_0_OR_Q2_0,
            StqId::Id43 => 43,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        let known = (0..1000).filter_map(|id| match meaning(id) {
            Meaning::Known(ty) => Some((id, ty)),
            _ => None,
        });
        let mut count = 0;
        for (id, ty) in known {
            assert_eq!(id_of(ty, StqId::Id43), Some(id));
            count += 1;
        }
        assert_eq!(count, 19);
        assert_eq!(id_of(TensorType::STQ1_0, StqId::Id42), Some(42));
        assert_eq!(id_of(TensorType::U8, StqId::Id43), None);
    }
}
