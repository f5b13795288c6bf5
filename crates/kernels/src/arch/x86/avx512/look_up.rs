//! Look-up of 5-bit codes with tables of 32 sums, for 64 rows at a time.

use std::arch::asm;
use std::arch::x86_64::*;

use super::rows::{Zmm, broadcast, load, store};
use crate::arch::x86::ahead::Ahead;
use crate::arch::x86::ternary::{LookUp, Width, last_to_first};
use crate::ternary::activations::{ActBlock, BLOCK_CODES};
use crate::ternary::block::CODE_CHUNK_BYTES;
use crate::ternary::codebook::Codebook;

/// Digits in bytes, by `vpermb` (VBMI): two tables of 32 bytes. 64 rows x 4 weights cost two look-ups, two additions and a
/// flush per eight codes.
pub(crate) enum Bytes {}

/// Whole sums in 16-bit words, by `vpermw` (BW): a table of 32 words, no digits and no flush, but 32 rows at a time.
pub(crate) enum Words {}

impl LookUp for Bytes {
    type Width = Zmm;
    const TABLE_BYTES: usize = 64;
    const CHUNK_BYTES: usize = CODE_CHUNK_BYTES;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
        assert_eq!(out.len(), BLOCK_CODES * Self::TABLE_BYTES);
        let quads = acts.q.as_chunks::<4>().0.iter().zip(sums_of_quads(acts));
        for ((q, sum), table) in quads.zip(out.as_chunks_mut::<64>().0) {
            let total = sums_of_codes(book, q, sum);
            // 1057 / 2^15 rounds to the nearest multiple of 31 for |T| <= 381: |l| <= 15.
            let high = _mm512_mulhrs_epi16(total, _mm512_set1_epi16(1057));
            let low = _mm512_sub_epi16(total, _mm512_mullo_epi16(high, _mm512_set1_epi16(31)));
            // Packing takes eight of either in turn.
            let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
            store(table, _mm512_permutexvar_epi64(order, _mm512_packs_epi16(low, high)));
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx2,fma,f16c")]
    unsafe fn decode_codes(book: &Codebook, codes: &[u8], panel: &mut [u8]) {
        let [lane_0, lane_1, lane_2, lane_3] = &book.lanes;
        let lanes = [broadcast(lane_0), broadcast(lane_1), broadcast(lane_2), broadcast(lane_3)];
        let mut chunk = Chunk::new(shuffled_lines(codes));
        let (panel, _) = panel.as_chunks_mut::<256>();
        assert_eq!(panel.len(), 8);
        last_to_first!(|CODE| {
            let index = chunk.index(CODE);
            let w = [
                _mm512_permutexvar_epi8(index, lanes[0]),
                _mm512_permutexvar_epi8(index, lanes[1]),
                _mm512_permutexvar_epi8(index, lanes[2]),
                _mm512_permutexvar_epi8(index, lanes[3]),
            ];
            store_weights(w, &mut panel[CODE]);
        });
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx2,fma,f16c")]
    unsafe fn segment<const N: usize>(
        codes: [*const u8; N],
        ahead: Ahead,
        chunks: usize,
        tables: *const u8,
    ) -> [<Zmm as Width>::Sums; N] {
        // int16 sums: `first` of rows 16 L + 0..8, `second` of rows 16 L + 8..16, for each 128-bit lane L.
        let mut first = [_mm512_setzero_si512(); N];
        let mut second = [_mm512_setzero_si512(); N];
        for chunk in 0..chunks {
            let mut low = [_mm512_setzero_si512(); N];
            let mut high = [_mm512_setzero_si512(); N];
            // SAFETY: chunk < chunks, of which codes and tables, 8 a chunk, are readable (the condition of `LookUp::segment`).
            let (tables, mut rows) = unsafe {
                let tables = &*tables.add(chunk * 8 * Self::TABLE_BYTES).cast::<[u8; 8 * Self::TABLE_BYTES]>();
                (tables.as_chunks::<32>().0, Chunk::load(codes, chunk, ahead))
            };
            last_to_first!(|CODE| {
                let (low_table, high_table) = (broadcast(&tables[2 * CODE]), broadcast(&tables[2 * CODE + 1]));
                for n in 0..N {
                    let index = rows[n].index(CODE);
                    low[n] = opaque(_mm512_add_epi8(low[n], _mm512_permutexvar_epi8(index, low_table)));
                    high[n] = opaque(_mm512_add_epi8(high[n], _mm512_permutexvar_epi8(index, high_table)));
                }
            });
            // Pairs (l, h) times (1, 31).
            let weights = _mm512_set1_epi16(31 << 8 | 1);
            for n in 0..N {
                let (even, odd) = (_mm512_unpacklo_epi8(low[n], high[n]), _mm512_unpackhi_epi8(low[n], high[n]));
                first[n] = _mm512_add_epi16(first[n], _mm512_maddubs_epi16(weights, even));
                second[n] = _mm512_add_epi16(second[n], _mm512_maddubs_epi16(weights, odd));
            }
        }
        widen(first, second)
    }
}

impl LookUp for Words {
    type Width = Zmm;
    const TABLE_BYTES: usize = 64;
    const CHUNK_BYTES: usize = CODE_CHUNK_BYTES;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
        assert_eq!(out.len(), BLOCK_CODES * Self::TABLE_BYTES);
        let quads = acts.q.as_chunks::<4>().0.iter().zip(sums_of_quads(acts));
        for ((q, sum), table) in quads.zip(out.as_chunks_mut::<64>().0) {
            store(table, sums_of_codes(book, q, sum));
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn decode_codes(book: &Codebook, codes: &[u8], panel: &mut [u8]) {
        // Of the 16 codes without sign; a sign takes w + 1 to 2 - (w + 1).
        let mut lanes = [_mm512_setzero_si512(); 4];
        for lane in 0..4 {
            // SAFETY: the lanes of a codebook are 32 bytes, of which 16 are read.
            let half = unsafe { _mm_loadu_si128(book.lanes[lane].as_ptr().cast()) };
            lanes[lane] = _mm512_broadcast_i32x4(half);
        }
        let [mut signs, lines @ ..] = shuffled_lines(codes);
        let (panel, _) = panel.as_chunks_mut::<256>();
        assert_eq!(panel.len(), 8);
        last_to_first!(|CODE| {
            let line = lines[CODE / 2];
            let line = if CODE % 2 == 1 { _mm512_srli_epi16::<4>(line) } else { line };
            let index = _mm512_and_si512(line, _mm512_set1_epi8(15));
            if CODE < 7 {
                signs = _mm512_add_epi8(signs, signs);
            }
            let sign = _mm512_movepi8_mask(signs);
            let mut w = [_mm512_setzero_si512(); 4];
            for lane in 0..4 {
                let plain = _mm512_shuffle_epi8(lanes[lane], index);
                w[lane] = _mm512_mask_sub_epi8(plain, sign, _mm512_set1_epi8(2), plain);
            }
            store_weights(w, &mut panel[CODE]);
        });
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn segment<const N: usize>(
        codes: [*const u8; N],
        ahead: Ahead,
        chunks: usize,
        tables: *const u8,
    ) -> [<Zmm as Width>::Sums; N] {
        // int16 sums of the even and of the odd rows.
        let mut even = [_mm512_setzero_si512(); N];
        let mut odd = [_mm512_setzero_si512(); N];
        for chunk in 0..chunks {
            // SAFETY: chunk < chunks, of which codes and tables, 8 a chunk, are readable (the condition of `LookUp::segment`).
            let (tables, mut rows) = unsafe {
                let tables = &*tables.add(chunk * 8 * Self::TABLE_BYTES).cast::<[u8; 8 * Self::TABLE_BYTES]>();
                (tables.as_chunks::<64>().0, Chunk::load(codes, chunk, ahead))
            };
            last_to_first!(|CODE| {
                let table = load(&tables[CODE]);
                for n in 0..N {
                    // `vpermw` takes the low five bits of each word.
                    let index = rows[n].index(CODE);
                    even[n] = opaque(_mm512_add_epi16(even[n], _mm512_permutexvar_epi16(index, table)));
                    let index = _mm512_srli_epi16::<8>(index);
                    odd[n] = opaque(_mm512_add_epi16(odd[n], _mm512_permutexvar_epi16(index, table)));
                }
            });
        }
        let (mut first, mut second) = (even, odd);
        for n in 0..N {
            (first[n], second[n]) = (_mm512_unpacklo_epi16(even[n], odd[n]), _mm512_unpackhi_epi16(even[n], odd[n]));
        }
        widen(first, second)
    }
}

/// The sums of `q` with the weights of each of 32 codes, as int16; `sum` is that of `q`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn sums_of_codes(book: &Codebook, q: &[i8; 4], sum: i32) -> __m512i {
    let sum_01 =
        _mm512_maddubs_epi16(load(&book.pairs_01), _mm512_set1_epi16(i16::from_le_bytes([q[0] as u8, q[1] as u8])));
    let sum_23 =
        _mm512_maddubs_epi16(load(&book.pairs_23), _mm512_set1_epi16(i16::from_le_bytes([q[2] as u8, q[3] as u8])));
    // (w + 1) . a - sum of a = w . a
    _mm512_sub_epi16(_mm512_add_epi16(sum_01, sum_23), _mm512_set1_epi16(sum as i16))
}

/// The sums of each four activations of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn sums_of_quads(acts: &ActBlock) -> [i32; BLOCK_CODES] {
    let mut sums = [0i32; BLOCK_CODES];
    for (half, q) in acts.q.as_chunks::<64>().0.iter().enumerate() {
        let quads = _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_set1_epi8(1), load(q)), _mm512_set1_epi16(1));
        // SAFETY: 16 i32 are written at 16 * half, half < 2, of 32.
        unsafe { _mm512_storeu_si512(sums.as_mut_ptr().add(16 * half).cast(), quads) };
    }
    sums
}

/// One chunk of 64 rows, whose codes are taken from the last to the first.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    signs: __m512i,
    nibbles: [__m512i; 4],
    /// Signs with that of the next code at bit 4.
    next: __m512i,
}

impl Chunk {
    /// Lines as they lie in memory.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    fn new([signs, a, b, c, d]: [__m512i; 5]) -> Self {
        Self { signs, nibbles: [a, b, c, d], next: _mm512_srli_epi16::<3>(signs) }
    }

    /// Reads chunk `chunk` of each of `codes`, and asks for one further ahead.
    ///
    /// # Safety
    /// From each of `codes` on chunk `chunk`, the `CODE_CHUNK_BYTES` after as many for each chunk before it, is readable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    pub(super) unsafe fn load<const N: usize>(codes: [*const u8; N], chunk: usize, ahead: Ahead) -> [Self; N] {
        let mut chunks = [Self::new([_mm512_setzero_si512(); 5]); N];
        for n in 0..N {
            // SAFETY: this function's condition: the bytes of chunk `chunk` of each of `codes`. An array of bytes has no alignment.
            let bytes = unsafe { &*codes[n].add(chunk * CODE_CHUNK_BYTES).cast::<[u8; CODE_CHUNK_BYTES]>() };
            ahead.prefetch(bytes);
            let (lines, _) = bytes.as_chunks::<64>();
            chunks[n] =
                Self::new([load(&lines[0]), load(&lines[1]), load(&lines[2]), load(&lines[3]), load(&lines[4])]);
        }
        chunks
    }

    /// Code `code` of 64 rows: bits 0..5 of each byte; the others are junk, which the look-ups ignore. To be called for 7,
    /// 6 ... 0 in turn.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    pub(super) fn index(&mut self, code: usize) -> __m512i {
        if code == 4 {
            self.next = self.signs;
        }
        let line = self.nibbles[code / 2];
        let nibble = if code % 2 == 1 { _mm512_srli_epi16::<4>(line) } else { line };
        // Nibble from the one, sign at bit 4 from the other.
        let index = _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(15), nibble, self.next);
        // Doubling moves the sign of the code before to bit 4.
        self.next = opaque(_mm512_add_epi8(self.next, self.next));
        index
    }
}

/// The lines of a chunk, rows put where [`store_weights`] leaves them in slot order: byte 4 v + k of each lane is row
/// 8 (v / 2) + 2 k + v % 2.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn shuffled_lines(codes: &[u8]) -> [__m512i; 5] {
    let (lines, _) = codes.as_chunks::<64>();
    let line = |i: usize| in_slots(load(&lines[i]));
    [line(0), line(1), line(2), line(3), line(4)]
}

/// One byte of each row, put where [`store_weights`] leaves it in slot order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn in_slots(line: __m512i) -> __m512i {
    let order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    _mm512_shuffle_epi8(line, order)
}

/// Four vectors with a weight of 64 rows each, to four weights of each slot.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn store_weights(w: [__m512i; 4], out: &mut [u8; 256]) {
    let (low_01, high_01) = (_mm512_unpacklo_epi8(w[0], w[1]), _mm512_unpackhi_epi8(w[0], w[1]));
    let (low_23, high_23) = (_mm512_unpacklo_epi8(w[2], w[3]), _mm512_unpackhi_epi8(w[2], w[3]));
    let (out, _) = out.as_chunks_mut::<64>();
    store(&mut out[0], _mm512_unpacklo_epi16(low_01, low_23));
    store(&mut out[1], _mm512_unpackhi_epi16(low_01, low_23));
    store(&mut out[2], _mm512_unpacklo_epi16(high_01, high_23));
    store(&mut out[3], _mm512_unpackhi_epi16(high_01, high_23));
}

/// int16 to i32: the even and the odd words of `first`, then of `second`. Where these hold rows 16 L + 0..8 and 16 L + 8..16 of
/// each 128-bit lane L, that is slot order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn widen<const N: usize>(first: [__m512i; N], second: [__m512i; N]) -> [<Zmm as Width>::Sums; N] {
    let even = _mm512_set1_epi32(1);
    let mut sums = [[_mm512_setzero_si512(); 4]; N];
    for n in 0..N {
        sums[n] = [
            _mm512_madd_epi16(first[n], even),
            _mm512_srai_epi32::<16>(first[n]),
            _mm512_madd_epi16(second[n], even),
            _mm512_srai_epi32::<16>(second[n]),
        ];
    }
    sums
}

/// The value itself, which the compiler cannot see. Left alone, LLVM turns doubling into shifts, of which there are fewer
/// units, and running sums into trees, for which there are too few registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn opaque(mut x: __m512i) -> __m512i {
    // SAFETY: the assembly is a comment: it runs nothing, and leaves `x` in the register it was given in.
    unsafe { asm!("/* {0} */", inout(zmm_reg) x, options(pure, nomem, nostack, preserves_flags)) };
    x
}
