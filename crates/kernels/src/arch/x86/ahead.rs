//! Software prefetch for streams of weights.

use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

/// Distances in bytes, into L2 and into L1. Both together read memory at 85 to 95 % of a plain read loop on Zen 4 and on
/// Emerald Rapids; either alone, or none, gives 40 to 60 %.
const FAR: usize = 5120;
const NEAR: usize = 1280;

/// How far ahead of a place in a stream to fetch.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    far: usize,
    near: usize,
}

impl Ahead {
    /// At byte `at` of a stream of `stream_bytes`, one of `streams` that lie one after the other and are read together:
    /// past its end, a stream goes on behind the others.
    #[inline(always)]
    pub(crate) fn of(at: usize, stream_bytes: usize, streams: usize) -> Self {
        let others = (streams - 1) * stream_bytes;
        let skip = |distance| if at + distance < stream_bytes { distance } else { distance + others };
        Self { far: skip(FAR), near: skip(NEAR) }
    }

    /// Fetches as many bytes as `bytes` has.
    #[inline(always)]
    pub(crate) fn prefetch<const BYTES: usize>(self, bytes: &[u8; BYTES]) {
        for line in (0..BYTES).step_by(64) {
            let at = bytes.as_ptr().cast::<i8>().wrapping_add(line);
            // SAFETY: prefetching never faults, whatever the address (past the end of a matrix it means nothing), and
            // every x86-64 processor has it.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(self.far));
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(self.near));
            }
        }
    }
}
