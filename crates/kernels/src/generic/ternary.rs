//! Ternary products with vectors of 128 bits. [`TernaryTable`](crate::table::TernaryTable) says what each function
//! computes.
//!
//! The 5-bit formats run by table look-up for one token: the partial sums of four inputs, |T| <= 381, are split into two
//! signed digits, T = 31 h + l with |l|, |h| <= 15, so that bytes can add up the digits of a whole chunk of eight codes.
//! Bytes then widen to int16 (32 x 381 fits) and, once per segment, to int32. Rows stay in natural order. Codes of four
//! signs are looked up likewise, in [digits](crate::ternary::signs) without sign.

use crate::ternary::activations::{ActBlock, BLOCK_CODES, TokenBlocks};
use crate::ternary::block::{
    BINARY_CHUNK_BYTES, BIT_CHUNK_BYTES, BLOCK_ROWS, CODE_CHUNK_BYTES, RowBlock, Rows, SCALE_BYTES, slot_row,
};
use crate::ternary::codebook::Codebook;
use crate::ternary::segment::{Indices, Segment};
use crate::ternary::signs::{SIGN_CHUNK_OFFSET, SIGN_OFFSET, SIGN_TABLE_BYTES};
use crate::vector::{Floats, RowLanes};

/// Bytes between what is in use and what is asked for. Not measured on any processor that runs this.
const AHEAD: usize = 4096;

/// Sixteen bytes at a time.
///
/// # Safety
/// All methods: the instruction set of the implementation is available.
#[allow(clippy::missing_safety_doc)] // said once, above
pub(crate) trait Vectors {
    /// Eight rows as whole numbers.
    type Ints: RowLanes;
    /// Sixteen bytes.
    type Bytes: Copy;
    /// Eight int16.
    type Shorts: Copy;
    /// What one code of 16 rows looks up.
    type Index: Copy;
    /// Four inputs of type int8, ready for [`multiply`](Self::multiply).
    type Quad: Copy;
    /// Sums of products of four rows, not yet added up inside a row.
    type Dots: Copy;
    /// Bytes of look-up tables per 5-bit code.
    const TABLE_BYTES: usize;
    /// Tokens x 8 rows whose `Dots` fit the registers: 2, 6 or 8.
    const TILE_TOKENS: usize;

    unsafe fn load(bytes: &[u8; 16]) -> Self::Bytes;
    unsafe fn store(bytes: Self::Bytes, out: &mut [u8; 16]);

    /// Writes the tables of the 32 codes of an activation block.
    unsafe fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]);
    unsafe fn no_shorts() -> Self::Shorts;
    /// Adds `31 high + low` of sixteen rows.
    unsafe fn add_digits(sums: [Self::Shorts; 2], digits: [Self::Bytes; 2]) -> [Self::Shorts; 2];
    unsafe fn widen(shorts: Self::Shorts) -> Self::Ints;

    /// Calls `each(code, index)` for the eight codes of the rows `16 quarter ..` of one chunk of a 5-bit format, in any order.
    unsafe fn each_index(codes: &[u8; CODE_CHUNK_BYTES], quarter: usize, each: impl FnMut(usize, Self::Index));
    unsafe fn write_index(indices: &mut Indices, quarter: usize, index: Self::Index);
    unsafe fn read_index(indices: &Indices, quarter: usize) -> Self::Index;
    /// Low and high digits of 16 rows from the table of one code. Where `index` is negative both may be one too small.
    unsafe fn look_up_index(table: &[u8], index: Self::Index) -> [Self::Bytes; 2];
    /// Counts what [`look_up_index`](Self::look_up_index) leaves one too small.
    #[inline(always)]
    unsafe fn count_negatives(count: Self::Bytes, _index: Self::Index) -> Self::Bytes {
        count
    }
    /// Makes up for it in a sum of digits.
    #[inline(always)]
    unsafe fn add_negatives(sum: Self::Bytes, _count: Self::Bytes) -> Self::Bytes {
        sum
    }

    /// Decodes one chunk of a 5-bit format: 8 codes x 64 slots x 4 weights, plus 1.
    unsafe fn decode_codes(book: &Codebook, codes: &[u8; CODE_CHUNK_BYTES], panel: &mut [[u8; 256]; 8]);
    /// The low four bits of each byte, and the high four.
    unsafe fn nibbles(bytes: Self::Bytes) -> [Self::Bytes; 2];
    /// The byte of `table` at each index, which is below 16.
    unsafe fn find(table: Self::Bytes, index: Self::Bytes) -> Self::Bytes;
    unsafe fn no_bytes() -> Self::Bytes;
    unsafe fn add_bytes(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Adds `32 high + low`, digits without sign, of sixteen rows.
    unsafe fn add_unsigned_digits(sums: [Self::Shorts; 2], digits: [Self::Bytes; 2]) -> [Self::Shorts; 2];

    /// The four 2-bit fields of each byte.
    unsafe fn fields(bytes: Self::Bytes) -> [Self::Bytes; 4];

    unsafe fn no_dots() -> Self::Dots;
    unsafe fn quad(q: &[i8; 4]) -> Self::Quad;
    /// Adds the products of four weights (0 to 3) of each of four rows with four inputs: at most 32 times.
    unsafe fn multiply(dots: Self::Dots, weights: Self::Bytes, q: Self::Quad) -> Self::Dots;
    /// The sums of eight rows.
    unsafe fn rows(dots: [Self::Dots; 2]) -> Self::Ints;
}

/// Eight floats.
pub(super) type F<V> = <<V as Vectors>::Ints as RowLanes>::Floats;

/// See [`TernaryTable`](crate::table::TernaryTable).
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn build_tables<V: Vectors>(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
    assert_eq!(out.len(), BLOCK_CODES * V::TABLE_BYTES);
    // SAFETY: the instruction set of `V`, which is this function's condition, is all that it asks for.
    unsafe { V::build_tables(book, acts, out) };
}

/// See [`TernaryTable`](crate::table::TernaryTable).
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn gemv_codes<V: Vectors>(
    blocks: &[RowBlock<'_>],
    acts: TokenBlocks<'_>,
    tables: &[u8],
    out: &mut [&mut Rows],
) {
    // SAFETY: the instruction set of `V`, which is this function's condition, is all that it asks for.
    unsafe { gemv::<V, CODES>(blocks, acts, tables, out) };
}

/// See [`TernaryTable`](crate::table::TernaryTable).
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn gemv_bits<V: Vectors>(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, out: &mut [&mut Rows]) {
    // SAFETY: the instruction set of `V`, which is this function's condition, is all that it asks for.
    unsafe { gemv::<V, BITS>(blocks, acts, &[], out) };
}

/// See [`TernaryTable`](crate::table::TernaryTable).
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn gemv_signs<V: Vectors>(
    blocks: &[RowBlock<'_>],
    acts: TokenBlocks<'_>,
    tables: &[u8],
    out: &mut [&mut Rows],
) {
    // SAFETY: the instruction set of `V`, which is this function's condition, is all that it asks for.
    unsafe { gemv::<V, SIGNS>(blocks, acts, tables, out) };
}

/// What [`gemv`] multiplies: 5-bit codes by look-up.
const CODES: u8 = 0;
/// 2-bit fields, without tables.
const BITS: u8 = 1;
/// Codes of four signs by look-up.
const SIGNS: u8 = 2;

/// One token, blocks of rows one after the other, in the format `KIND`.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn gemv<V: Vectors, const KIND: u8>(
    blocks: &[RowBlock<'_>],
    acts: TokenBlocks<'_>,
    tables: &[u8],
    out: &mut [&mut Rows],
) {
    let chunk_bytes = match KIND {
        CODES => CODE_CHUNK_BYTES,
        BITS => BIT_CHUNK_BYTES,
        _ => BINARY_CHUNK_BYTES,
    };
    for (block, out) in blocks.iter().zip(out) {
        assert_eq!(block.stream.len(), block.stream_bytes(chunk_bytes));
        // SAFETY: registers only, whose instruction set is this function's condition.
        let mut acc = [unsafe { F::<V>::splat(0.0) }; BLOCK_ROWS / 8];
        let mut scales = None;
        let mut at = 0;
        let mut chunk = 0;
        while chunk < block.chunks {
            if block.starts_group(chunk) {
                scales = block.stream[at..].first_chunk().map(|scales| match KIND {
                    // Of all but the 2-bit format they come in slot order.
                    BITS => scales_by(|row| row, scales),
                    _ => in_rows(scales),
                });
                at += SCALE_BYTES;
            }
            let chunks = block.segment_chunks().min(block.chunks - chunk);
            let codes = &block.stream[at..at + chunks * chunk_bytes];
            let acts = acts.of_chunk(chunk);
            // SAFETY: all kinds of segments and `accumulate` take slices and arrays, and ask for the instruction set of `V`,
            // which is this function's condition.
            unsafe {
                let dots = match KIND {
                    CODES => look_up_segment::<V>(codes, &tables[8 * chunk * V::TABLE_BYTES..]),
                    BITS => multiply_segment::<V>(codes, chunk % 4, acts),
                    _ => signs_segment::<V>(codes, &tables[8 * chunk * SIGN_TABLE_BYTES..]),
                };
                for v in 0..BLOCK_ROWS / 8 {
                    let scales = scales.as_ref().map(|scales| &scales[v]);
                    acc[v] = accumulate::<V>(acc[v], dots[v], acts.scale, scales);
                }
            }
            at += chunks * chunk_bytes;
            chunk += chunks;
        }
        for v in 0..BLOCK_ROWS / 8 {
            // SAFETY: `F<V>` has eight lanes (asserted in `accumulate`), and row scales and results are 64 values each: 8 v + 8
            // <= 64 for v < 8. The instruction set is this function's condition.
            unsafe {
                let values = match block.row_scales {
                    Some(scales) => acc[v].mul(F::<V>::load(scales.as_ptr().add(8 * v).cast())),
                    None => acc[v],
                };
                values.store(out.as_mut_ptr().add(8 * v));
            }
        }
    }
}

/// The f16 scales of the 64 rows in natural order, from slot order.
#[inline(always)]
pub(super) fn in_rows(slots: &[u8; SCALE_BYTES]) -> [[u16; 8]; BLOCK_ROWS / 8] {
    scales_by(slot_row, slots)
}

/// The f16 scales of 64 rows, which come in order `row`.
#[inline(always)]
fn scales_by(row: impl Fn(usize) -> usize, scales: &[u8; SCALE_BYTES]) -> [[u16; 8]; BLOCK_ROWS / 8] {
    let mut rows = [[0; 8]; BLOCK_ROWS / 8];
    for (place, scale) in scales.as_chunks::<2>().0.iter().enumerate() {
        let row = row(place);
        rows[row / 8][row % 8] = u16::from_le_bytes(*scale);
    }
    rows
}

/// `acc + dots as f32 * (a_scale * w_scale)`, multiplication and addition apart.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(super) unsafe fn accumulate<V: Vectors>(acc: F<V>, dots: V::Ints, a_scale: f32, scales: Option<&[u16; 8]>) -> F<V> {
    const { assert!(F::<V>::LANES == 8) };
    // SAFETY: eight lanes (asserted just above) are read of eight scales. The instruction set is this function's condition.
    unsafe {
        let a_scale = F::<V>::splat(a_scale);
        let factor = match scales {
            Some(scales) => a_scale.mul(F::<V>::load_f16(scales.as_ptr().cast())),
            None => a_scale,
        };
        acc.add(dots.to_floats().mul(factor))
    }
}

/// Integer products of the 64 rows by look-up; `tables` from those of the first chunk on.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn look_up_segment<V: Vectors>(codes: &[u8], tables: &[u8]) -> [V::Ints; BLOCK_ROWS / 8] {
    // SAFETY: slices, arrays and registers, and prefetched addresses, which may lie anywhere. The instruction set is this
    // function's condition.
    unsafe {
        let mut dots = [V::Ints::zero(); BLOCK_ROWS / 8];
        // Two halves of 32 rows: all 64 at once would need more registers than there are.
        for half in 0..2 {
            let mut sums = [[V::no_shorts(); 2]; 2];
            let (codes, _) = codes.as_chunks::<CODE_CHUNK_BYTES>();
            for (codes, tables) in codes.iter().zip(tables.chunks_exact(8 * V::TABLE_BYTES)) {
                if half == 0 {
                    prefetch::<V>(codes);
                }
                for i in 0..2 {
                    sums[i] = V::add_digits(sums[i], look_up::<V>(codes, 2 * half + i, tables));
                }
            }
            for v in 0..4 {
                dots[4 * half + v] = V::widen(sums[v / 2][v % 2]);
            }
        }
        dots
    }
}

/// Low and high digits of one chunk, added up over its eight codes, of the rows `16 quarter ..`; `tables` are those of the eight
/// codes.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn look_up<V: Vectors>(codes: &[u8; CODE_CHUNK_BYTES], quarter: usize, tables: &[u8]) -> [V::Bytes; 2] {
    assert_eq!(tables.len(), 8 * V::TABLE_BYTES);
    // SAFETY: the instruction set of `V`, which is this function's condition, is all that they ask for.
    unsafe {
        let mut sums = [V::no_bytes(); 2];
        let mut negatives = V::no_bytes();
        V::each_index(codes, quarter, |code, index| {
            negatives = V::count_negatives(negatives, index);
            let digits = V::look_up_index(&tables[code * V::TABLE_BYTES..][..V::TABLE_BYTES], index);
            sums = [V::add_bytes(sums[0], digits[0]), V::add_bytes(sums[1], digits[1])];
        });
        sums.map(|sum| V::add_negatives(sum, negatives))
    }
}

/// Integer products of the 64 rows of the binary format; `tables` from those of the first chunk on.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn signs_segment<V: Vectors>(codes: &[u8], tables: &[u8]) -> [V::Ints; BLOCK_ROWS / 8] {
    let (codes, _) = codes.as_chunks::<BINARY_CHUNK_BYTES>();
    let (tables, _) = tables.as_chunks::<16>().0.as_chunks::<16>();
    let excess = SIGN_CHUNK_OFFSET * codes.len() as i32;
    // SAFETY: slices, arrays and registers, and prefetched addresses, which may lie anywhere. The instruction set is this
    // function's condition.
    unsafe {
        let mut dots = [V::Ints::zero(); BLOCK_ROWS / 8];
        // Two halves of 32 rows, which share the tables in registers.
        for half in 0..2 {
            let mut sums = [[V::no_shorts(); 2]; 2];
            for (codes, tables) in codes.iter().zip(tables) {
                if half == 0 {
                    prefetch::<V>(codes);
                }
                let (lines, _) = codes.as_chunks::<16>();
                let mut digits = [[V::no_bytes(); 2]; 2];
                for pair in 0..4 {
                    let tables: [_; 4] = std::array::from_fn(|i| V::load(&tables[4 * pair + i]));
                    for i in 0..2 {
                        let [even, odd] = V::nibbles(V::load(&lines[4 * pair + 2 * half + i]));
                        for digit in 0..2 {
                            let sum = V::add_bytes(digits[i][digit], V::find(tables[digit], even));
                            digits[i][digit] = V::add_bytes(sum, V::find(tables[2 + digit], odd));
                        }
                    }
                }
                for i in 0..2 {
                    sums[i] = V::add_unsigned_digits(sums[i], digits[i]);
                }
            }
            for v in 0..4 {
                dots[4 * half + v] = V::widen(sums[v / 2][v % 2]).sub_splat(excess);
            }
        }
        dots
    }
}

/// See [`TernaryTable`](crate::table::TernaryTable): a table every `STRIDE` bytes. In plain Rust, which the compiler turns into
/// vectors.
#[inline(always)]
pub(crate) fn build_sign_tables<const STRIDE: usize>(acts: &ActBlock, out: &mut [u8]) {
    const { assert!(STRIDE >= SIGN_TABLE_BYTES) };
    assert_eq!(out.len(), BLOCK_CODES * STRIDE);
    for (q, table) in acts.q.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<STRIDE>().0) {
        let q = q.map(i16::from);
        for code in 0..16 {
            let signed = |lane: usize| if code >> lane & 1 == 1 { q[lane] } else { -q[lane] };
            let total = SIGN_OFFSET as i16 + signed(0) + signed(1) + signed(2) + signed(3);
            table[code] = (total & 31) as u8;
            table[16 + code] = (total >> 5) as u8;
        }
    }
}

/// Integer products of the 64 rows of the 2-bit format; `first` is the place of the first chunk in the activation block.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn multiply_segment<V: Vectors>(codes: &[u8], first: usize, acts: &ActBlock) -> [V::Ints; BLOCK_ROWS / 8] {
    let (halves, _) = codes.as_chunks::<{ BIT_CHUNK_BYTES / 2 }>();
    let (q, _) = acts.q[32 * first..].as_chunks::<16>();
    // The fields hold w + 1: take the sum of the activations off.
    let sum = acts.sums[first..first + halves.len() / 2].iter().sum();
    // SAFETY: slices, arrays and registers, and prefetched addresses, which may lie anywhere. The instruction set is this
    // function's condition.
    unsafe {
        let mut dots = [V::Ints::zero(); BLOCK_ROWS / 8];
        for part in 0..4 {
            let mut sums = [V::no_dots(); 4];
            for (half, q) in halves.iter().zip(q) {
                if part == 0 {
                    prefetch::<V>(half);
                }
                let (q, _) = q.as_chunks::<4>();
                let q = [V::quad(&q[0]), V::quad(&q[1]), V::quad(&q[2]), V::quad(&q[3])];
                let (rows, _) = half.as_chunks::<16>();
                for i in 0..4 {
                    let fields = V::fields(V::load(&rows[4 * part + i]));
                    for j in 0..4 {
                        sums[i] = V::multiply(sums[i], fields[j], q[j]);
                    }
                }
            }
            dots[2 * part] = V::rows([sums[0], sums[1]]).sub_splat(sum);
            dots[2 * part + 1] = V::rows([sums[2], sums[3]]).sub_splat(sum);
        }
        dots
    }
}

/// Asks for as many bytes as `bytes` has, [`AHEAD`] of them.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(super) unsafe fn prefetch<V: Vectors>(bytes: &[u8]) {
    for line in (0..bytes.len()).step_by(64) {
        // SAFETY: any address may be asked for; the instruction set is this function's condition.
        unsafe { F::<V>::prefetch(bytes.as_ptr().wrapping_add(line + AHEAD)) };
    }
}

/// See [`DecodedGemm`](crate::table::DecodedGemm).
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn decode_codes<V: Vectors>(book: &Codebook, codes: &[u8], panel: &mut [u8]) {
    let (Some(codes), Some(panel)) = (codes.as_array(), panel.as_chunks_mut::<256>().0.as_mut_array()) else {
        unreachable!("one chunk of codes into one chunk of a panel");
    };
    // SAFETY: arrays, whose lengths were just found, and the instruction set of `V`, which is this function's condition.
    unsafe { V::decode_codes(book, codes, panel) };
}

/// See [`DecodedGemm`](crate::table::DecodedGemm).
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn decode_bits<V: Vectors>(codes: &[u8], panel: &mut [u8]) {
    let (halves, _) = codes.as_chunks::<{ BIT_CHUNK_BYTES / 2 }>();
    let (panels, _) = panel.as_chunks_mut::<{ 4 * 256 }>();
    for (half, panel) in halves.iter().zip(panels) {
        let (rows, _) = half.as_chunks::<16>();
        let (out, _) = panel.as_chunks_mut::<16>();
        for (v, rows) in rows.iter().enumerate() {
            // SAFETY: arrays of 16 bytes, and the instruction set of `V`, which is this function's condition.
            unsafe {
                let fields = V::fields(V::load(rows));
                for j in 0..4 {
                    V::store(fields[j], &mut out[16 * j + v]);
                }
            }
        }
    }
}

/// See [`DecodedGemm`](crate::table::DecodedGemm). In plain Rust, which the compiler turns into vectors.
#[inline(always)]
pub(crate) fn decode_signs(codes: &[u8], panel: &mut [u8]) {
    let (lines, _) = codes.as_chunks::<BLOCK_ROWS>();
    let (panel, _) = panel.as_chunks_mut::<{ 4 * BLOCK_ROWS }>();
    for (code, out) in panel.iter_mut().enumerate() {
        for (slot, weights) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let signs = lines[code / 2][slot_row(slot)] >> (code % 2 * 4) & 15;
            // Bit j to bit 1 of byte j: 2 or 0, the weight plus 1. The four partial products do not meet.
            let spread = u32::from(signs).wrapping_mul(0x0040_8102) & 0x0202_0202;
            *weights = spread.to_le_bytes();
        }
    }
}

/// See [`DecodedGemm`](crate::table::DecodedGemm).
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn segment<V: Vectors>(segment: Segment<'_>, acts: &[ActBlock], acc: &mut [Rows]) {
    assert_eq!(acts.len(), acc.len());
    let mut t = 0;
    while t < acts.len() {
        let (acts, acc) = (&acts[t..], &mut acc[t..]);
        // SAFETY: `tile` takes slices, and asks for the instruction set of `V`, which is this function's condition.
        t += unsafe {
            if V::TILE_TOKENS >= 8 && acts.len() >= 8 {
                tile::<V, 8>(&segment, acts, acc)
            } else if V::TILE_TOKENS >= 6 && acts.len() >= 6 {
                tile::<V, 6>(&segment, acts, acc)
            } else if V::TILE_TOKENS >= 4 && acts.len() >= 4 {
                tile::<V, 4>(&segment, acts, acc)
            } else if acts.len() >= 2 {
                tile::<V, 2>(&segment, acts, acc)
            } else {
                tile::<V, 1>(&segment, acts, acc)
            }
        };
    }
}

/// The first `T` tokens, eight slots at a time; returns `T`.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn tile<V: Vectors, const T: usize>(segment: &Segment<'_>, acts: &[ActBlock], acc: &mut [Rows]) -> usize {
    let (Some(acts), Some(acc)) = (acts.first_chunk::<T>(), acc.first_chunk_mut::<T>()) else { return T };
    let chunks = segment.first_chunk..segment.first_chunk + segment.chunks;
    let first = 8 * segment.first_chunk;
    let (panel, _) = segment.panel.as_chunks::<256>();
    assert!(first + panel.len() <= BLOCK_CODES);
    for v in 0..BLOCK_ROWS / 8 {
        // SAFETY: `F<V>` has eight lanes (asserted in `accumulate`), and the sums of a token are 64 values: 8 v + 8 <= 64 for
        // v < 8. Everything else is a slice or a register. The instruction set is this function's condition.
        unsafe {
            let mut dots = [[V::no_dots(); 2]; T];
            for (code, w) in panel.iter().enumerate() {
                let (w, _) = w.as_chunks::<16>();
                let w = [V::load(&w[2 * v]), V::load(&w[2 * v + 1])];
                for t in 0..T {
                    let q = V::quad(&acts[t].q.as_chunks::<4>().0[first + code]);
                    dots[t] = [V::multiply(dots[t][0], w[0], q), V::multiply(dots[t][1], w[1], q)];
                }
            }
            for t in 0..T {
                let sum = acts[t].sums[chunks.clone()].iter().sum();
                let dots = V::rows(dots[t]).sub_splat(sum);
                let scales = segment.scales.map(|scales| {
                    let halves = scales.as_chunks::<2>().0.as_chunks::<8>().0;
                    halves[v].map(u16::from_le_bytes)
                });
                let at = acc[t].as_mut_ptr().add(8 * v);
                accumulate::<V>(F::<V>::load(at.cast()), dots, acts[t].scale, scales.as_ref()).store(at);
            }
        }
    }
    T
}

/// See [`DecodedGemm`](crate::table::DecodedGemm).
#[inline(always)]
pub(crate) fn finish_codes(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows) {
    let mut rows = [0.0; BLOCK_ROWS];
    for slot in 0..BLOCK_ROWS {
        rows[slot_row(slot)] = acc[slot];
    }
    finish_bits(&rows, row_scales, out);
}

/// See [`DecodedGemm`](crate::table::DecodedGemm).
#[inline(always)]
pub(crate) fn finish_bits(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows) {
    match row_scales {
        Some(scales) => *out = std::array::from_fn(|row| acc[row] * scales[row]),
        None => *out = *acc,
    }
}

/// The [`TernaryTable`](crate::table::TernaryTable) of every algorithm above for `$vectors`, compiled for the given features.
/// From how many tokens on decoded panels pay is not measured for the 2-bit format: it is what AVX2 takes.
macro_rules! ternary_table_of {
    ($vectors:ty; features $($features:literal)?; decoded from $codes:expr, $signs:expr; look_up $look_up:expr) => {
        $crate::table::ternary_table! {
            features $($features)?;
            transpose $crate::ternary::transpose::transpose;
            table_bytes <$vectors as $crate::generic::ternary::Vectors>::TABLE_BYTES;
            build_tables $crate::generic::ternary::build_tables::<$vectors>;
            gemv_codes $crate::generic::ternary::gemv_codes::<$vectors>;
            gemv_bits $crate::generic::ternary::gemv_bits::<$vectors>;
            build_sign_tables $crate::generic::ternary::build_sign_tables::<
                { $crate::ternary::signs::SIGN_TABLE_BYTES }>;
            gemv_signs $crate::generic::ternary::gemv_signs::<$vectors>;
            decoded from $codes, 6, $signs;
            decode_codes $crate::generic::ternary::decode_codes::<$vectors>;
            decode_bits $crate::generic::ternary::decode_bits::<$vectors>;
            decode_signs $crate::generic::ternary::decode_signs;
            segment $crate::generic::ternary::segment::<$vectors>;
            finish_codes $crate::generic::ternary::finish_codes;
            finish_bits $crate::generic::ternary::finish_bits;
            look_up $look_up;
        }
    };
}
pub(crate) use ternary_table_of;
