//! Transposition of bytes, for every tier.

use std::arch::x86_64::*;

use crate::ternary::block::BLOCK_ROWS;
use crate::ternary::transpose::{COLUMNS, Columns};

/// Byte `column + c` of row `r` goes to `out[c][r]`; row `r` starts at `r * stride` of `rows`.
///
/// # Panics
/// When `rows` does not reach as far.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn transpose(rows: &[u8], stride: usize, column: usize, out: &mut Columns) {
    for first in (0..BLOCK_ROWS).step_by(32) {
        // Rows `first + i` and `first + 16 + i` in the two 128-bit lanes.
        let mut v = [_mm256_setzero_si256(); 16];
        for (i, v) in v.iter_mut().enumerate() {
            let at = |row: usize| {
                let bytes = &rows[row * stride + column..][..COLUMNS];
                // SAFETY: `bytes` was cut to COLUMNS = 16, as many as are read.
                unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
            };
            *v = _mm256_set_m128i(at(first + 16 + i), at(first + i));
        }
        // Four times a perfect shuffle of the 256 bytes of a lane: rotating the 8 bits of a byte's place by 4.
        for _ in 0..4 {
            let mut shuffled = v;
            for i in 0..8 {
                shuffled[2 * i] = _mm256_unpacklo_epi8(v[i], v[i + 8]);
                shuffled[2 * i + 1] = _mm256_unpackhi_epi8(v[i], v[i + 8]);
            }
            v = shuffled;
        }
        for (line, v) in out.iter_mut().zip(v) {
            let (halves, _) = line.as_chunks_mut::<32>();
            // SAFETY: half a line is an array of 32 bytes, as many as are written.
            unsafe { _mm256_storeu_si256(halves[first / 32].as_mut_ptr().cast(), v) };
        }
    }
}
