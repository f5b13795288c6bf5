//! Reorderings of channels that leave a model's function unchanged.
//!
//! **Quad bridge.** A quad of a contiguous checkpoint holds channels `64c+4i .. 64c+4i+3`, one of a stride-16 file
//! `64c+i, 64c+i+16, 64c+i+32, 64c+i+48`. Moving channel `64c+4i+p` to `64c+i+16p` turns one into the other without
//! touching a code. Decoder models allow it: the residual stream is permuted once (embedding columns, norms, rows of o
//! and down, head columns), the feed-forward intermediate with it (rows of gate and up, columns of down), and values
//! inside each head (rows of v, columns of o). Rows of q and k stay where they are, since RoPE and the norms of query and
//! key act on them. Every axis involved is a whole number of 64-channel chunks, so one map of indices serves all.
//!
//! **RoPE pairing.** Files of the GGUF llama architecture store the rows of q and k so that the pair `(j, j + d/2)` of
//! a head of `d` components sits at `(2j, 2j + 1)`.

use sherry::model::ArchConfig;
use sherry::model::names::{Part, Role};

/// Channels per chunk of the quad bridge.
pub const CHUNK: usize = 64;

/// A permutation of the channels of every chunk of 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridge {
    /// Contiguous quads become stride-16 quads.
    ToStride16,
    /// Stride-16 quads become contiguous quads.
    ToContiguous,
}

impl Bridge {
    /// The old channel that stands at `new` afterwards.
    pub const fn old_channel(self, new: usize) -> usize {
        let (chunk, at) = (new / CHUNK * CHUNK, new % CHUNK);
        chunk
            + match self {
                Self::ToStride16 => at % 16 * 4 + at / 16,
                Self::ToContiguous => at % 4 * 16 + at / 4,
            }
    }

    /// Why this model's channels cannot be permuted; `None` when they can.
    pub fn problem(config: &ArchConfig) -> Option<String> {
        let axes = [("hidden size", config.hidden), ("intermediate size", config.ffn), ("head size", config.head_dim)];
        let (name, size) = axes.into_iter().find(|(_, size)| !size.is_multiple_of(CHUNK))?;
        Some(format!("its {name} {size} is not a multiple of {CHUNK}"))
    }

    /// Whether the rows (or the elements of a vector) of `role` lie along a permuted axis.
    pub const fn moves_rows(role: Role) -> bool {
        match role {
            Role::Embed | Role::Head | Role::RopeFreqs => false,
            Role::OutputNorm => true,
            Role::Layer(_, part) => {
                !matches!(part, Part::Q | Part::K | Part::QBias | Part::KBias | Part::QNorm | Part::KNorm)
            }
        }
    }

    /// Whether the columns of `role` lie along a permuted axis: those of every matrix do.
    pub fn moves_columns(role: Role) -> bool {
        matches!(role, Role::Embed | Role::Head) || role.is_linear()
    }
}

/// Between the row orders of q and k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeRows {
    /// Pairs `(j, j + d/2)` become `(2j, 2j + 1)`: safetensors to GGUF llama.
    ToInterleaved,
    /// Pairs `(2j, 2j + 1)` become `(j, j + d/2)`: GGUF llama to safetensors.
    ToHalves,
}

impl RopeRows {
    /// The old row that stands at `new` afterwards.
    pub const fn old_row(self, new: usize, head_dim: usize) -> usize {
        let (head, at) = (new / head_dim * head_dim, new % head_dim);
        let half = head_dim / 2;
        head + match self {
            Self::ToInterleaved => at % 2 * half + at / 2,
            Self::ToHalves => at % half * 2 + at / half,
        }
    }

    /// Whether it applies to `role`.
    pub const fn moves(role: Role) -> bool {
        matches!(role, Role::Layer(_, Part::Q | Part::K | Part::QBias | Part::KBias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_moves_quads_onto_quads() {
        for chunk in 0..3 {
            for quad in 0..16 {
                for lane in 0..4 {
                    // format.md: 64c+4i+p -> 64c+i+16p
                    let (old, new) = (64 * chunk + 4 * quad + lane, 64 * chunk + quad + 16 * lane);
                    assert_eq!(Bridge::ToStride16.old_channel(new), old);
                    assert_eq!(Bridge::ToContiguous.old_channel(old), new);
                }
            }
        }
    }

    #[test]
    fn rope_rows_are_inverse_permutations() {
        // The reshape-transpose of GGUF converters: new row 2j + s is old row s * d/2 + j.
        assert_eq!(RopeRows::ToInterleaved.old_row(64 + 2 * 5 + 1, 64), 64 + 32 + 5);
        for row in 0..128 {
            assert_eq!(RopeRows::ToHalves.old_row(RopeRows::ToInterleaved.old_row(row, 64), 64), row);
            assert_eq!(RopeRows::ToInterleaved.old_row(RopeRows::ToHalves.old_row(row, 64), 64), row);
        }
    }
}
