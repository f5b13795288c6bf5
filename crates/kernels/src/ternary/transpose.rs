//! Bytes of 64 rows side by side: the work of loading 5-bit codes.

use super::block::BLOCK_ROWS;

/// Columns transposed at a time.
pub(crate) const COLUMNS: usize = 16;

/// Line `c` holds one byte of each of 64 rows.
pub(crate) type Columns = [[u8; BLOCK_ROWS]; COLUMNS];

/// Byte `column + c` of row `r` goes to `out[c][r]`; row `r` starts at `r * stride` of `rows`. In words of 8 x 8 bytes.
///
/// # Panics
/// When `rows` does not reach as far.
pub(crate) fn transpose(rows: &[u8], stride: usize, column: usize, out: &mut Columns) {
    for row in (0..BLOCK_ROWS).step_by(8) {
        for half in [0, 8] {
            let mut words = [0u64; 8];
            for (i, word) in words.iter_mut().enumerate() {
                let at = (row + i) * stride + column + half;
                *word = rows[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
            }
            for (line, word) in out[half..].iter_mut().zip(transpose_8x8(words)) {
                line[row..row + 8].copy_from_slice(&word.to_le_bytes());
            }
        }
    }
}

/// Byte `i` of word `j` becomes byte `j` of word `i`.
fn transpose_8x8(mut w: [u64; 8]) -> [u64; 8] {
    for (step, mask) in [(4, 0x0000_0000_ffff_ffff_u64), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff)] {
        for i in 0..8 {
            if i & step == 0 {
                let (a, b) = (w[i], w[i + step]);
                let shift = 8 * step as u32;
                w[i] = (a & mask) | (b & mask) << shift;
                w[i + step] = (a >> shift) & mask | (b & !mask);
            }
        }
    }
    w
}
