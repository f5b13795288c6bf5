//! Ternary products on x86-64: the frames, once for every tier. [`TernaryTable`](crate::table::TernaryTable) says
//! what they compute.
//!
//! A tier puts these things together: how wide its vectors are ([`Width`]), how it looks up 5-bit codes and codes of four
//! signs (a [`LookUp`] each), and how it multiplies small unsigned by signed bytes ([`Dot`]). [`tier!`] compiles the frames for them.
//!
//! The 5-bit formats run by table look-up. For each code the four activations `a` have 32 possible sums `T = w . a`,
//! |T| <= 381. Look-ups of bytes keep each as two signed digits, `T = 31 h + l`, |l| <= 15, |h| <= 12: int8 lanes can add
//! eight codes exactly (8 x 15 < 128), then `l + 31 h` goes to int16, which holds a whole segment (32 x 381 < 2^15).

use super::ahead::Ahead;
use crate::ternary::activations::{ActBlock, TokenBlocks};
use crate::ternary::block::{BIT_CHUNK_BYTES, RowBlock, Rows, SCALE_BYTES};
use crate::ternary::codebook::Codebook;
use crate::ternary::segment::Segment;

/// 64 rows of a block in vectors.
///
/// # Safety
/// All methods: the processor has the instructions of the implementation.
#[allow(clippy::missing_safety_doc)] // said once, above
pub(super) trait Width {
    /// 64 i32.
    type Sums: Copy;
    /// 64 f32.
    type Acc: Copy;

    unsafe fn zero() -> Self::Acc;
    unsafe fn load(rows: &Rows) -> Self::Acc;
    /// `acc += sums as f32 * (a_scale * w_scale)`, multiplication and addition apart; `scales` are 64 f16.
    unsafe fn accumulate(acc: &mut Self::Acc, sums: &Self::Sums, a_scale: f32, scales: Option<&[u8; SCALE_BYTES]>);
    /// Slots to rows (see [`slot_row`](crate::ternary::block::slot_row)), times the row scales.
    unsafe fn store_slots(acc: Self::Acc, row_scales: Option<&Rows>, out: &mut Rows);
    /// Values in order of rows, times the row scales.
    unsafe fn store_natural(acc: Self::Acc, row_scales: Option<&Rows>, out: &mut Rows);
    /// Decodes one chunk of the 2-bit format: 8 x 64 rows x 4 weights, plus 1.
    unsafe fn decode_bits(codes: &[u8], panel: &mut [u8]);
}

/// A way to look up codes of 5 bits, or of four signs.
///
/// # Safety
/// All methods: the processor has the instructions of the implementation.
#[allow(clippy::missing_safety_doc)] // said once, above
pub(super) trait LookUp {
    type Width: Width;
    /// Bytes of tables per code.
    const TABLE_BYTES: usize;
    /// Bytes of codes per chunk of 64 rows.
    const CHUNK_BYTES: usize;

    /// Writes the tables of the 32 codes of a block of activations.
    unsafe fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]);

    /// Decodes one chunk: 8 codes x 64 slots x 4 weights, plus 1.
    unsafe fn decode_codes(book: &Codebook, codes: &[u8], panel: &mut [u8]);

    /// Whole-number sums, in slot order, of `chunks` chunks (1 to 4) of `N` row blocks.
    ///
    /// # Safety
    /// Besides: from `codes[n]` on the chunks of block `n` are readable, from `tables` on the tables of their codes, 8 a
    /// chunk.
    unsafe fn segment<const N: usize>(
        codes: [*const u8; N],
        ahead: Ahead,
        chunks: usize,
        tables: *const u8,
    ) -> [<Self::Width as Width>::Sums; N];
}

/// A way to multiply ternary weights as bytes.
///
/// # Safety
/// All methods: the processor has the instructions of the implementation.
#[allow(clippy::missing_safety_doc)] // said once, above
pub(super) trait Dot {
    type Width: Width;

    /// Sums of the 2-bit chunks `codes` (1 to 4) with their activations, 32 a chunk; `sum` is the sum of these.
    unsafe fn segment(codes: &[u8], ahead: Ahead, q: &[i8], sum: i32) -> <Self::Width as Width>::Sums;

    /// Adds a segment to the sums of `T` tokens, 1 to 6.
    unsafe fn tile<const T: usize>(segment: &Segment<'_>, acts: &[ActBlock; T], acc: &mut [Rows; T]);
}

/// The vectors of a way to multiply.
pub(super) type WidthOf<D> = <D as Dot>::Width;

/// How a vector, an i32 lane per row, takes in four products of bytes per lane.
///
/// # Safety
/// All methods: the processor has the instructions of the implementation.
#[allow(clippy::missing_safety_doc)] // said once, above
pub(crate) trait Products: Copy {
    type Vector: Copy;
    /// What [`signed`](Self::signed) adds for every input of value 1 beyond the true product.
    const SIGNED_EXCESS: i32;

    /// Sums before the first product of a segment of ternary weights, of which `sum` will be taken off. They are exact
    /// for 32 additions with weights up to 2, 16 with weights up to 8, or `128 / (max + 1)` with weights up to `max`.
    unsafe fn start(sum: i32) -> Self::Vector;
    /// Adds products of unsigned bytes with int8 (`>= -127`).
    unsafe fn add(sums: Self::Vector, w: Self::Vector, q: Self::Vector) -> Self::Vector;
    /// The sums, less `sum`, as i32.
    unsafe fn finish(sums: Self::Vector, sum: i32) -> Self::Vector;

    /// Adds products of unsigned bytes (at most 63) with int8 (`>= -127`) to i32 sums.
    unsafe fn unsigned(sums: Self::Vector, w: Self::Vector, q: Self::Vector) -> Self::Vector;
    /// Adds products of signed bytes with int8 (`>= -127`) to i32 sums, plus the excess.
    unsafe fn signed(sums: Self::Vector, w: Self::Vector, q: Self::Vector) -> Self::Vector;
    /// Adds two products of int16 per lane to i32 sums.
    unsafe fn wide(sums: Self::Vector, w: Self::Vector, q: Self::Vector) -> Self::Vector;
}

/// One token by look-up.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn gemv_codes<L: LookUp>(
    blocks: &[RowBlock<'_>],
    acts: TokenBlocks<'_>,
    tables: &[u8],
    out: &mut [&mut Rows],
) {
    // SAFETY: `look_up_blocks` checks its slices, and asks for the instructions of `L`, which is this function's condition.
    unsafe {
        if let (Some(blocks), Some(out)) = (blocks.as_array::<2>(), out.as_mut_array::<2>()) {
            look_up_blocks::<L, 2>(blocks, acts, tables, out);
        } else {
            for (block, out) in blocks.iter().zip(out) {
                look_up_blocks::<L, 1>(&[*block], acts, tables, &mut [out]);
            }
        }
    }
}

/// `N` neighbouring row blocks of one matrix.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn look_up_blocks<L: LookUp, const N: usize>(
    blocks: &[RowBlock<'_>; N],
    acts: TokenBlocks<'_>,
    tables: &[u8],
    out: &mut [&mut Rows; N],
) {
    let all_chunks = blocks[0].chunks;
    let stream_bytes = check_streams(blocks, L::CHUNK_BYTES);
    assert!(tables.len() / (8 * L::TABLE_BYTES) >= all_chunks);
    // SAFETY: every stream has `stream_bytes` bytes (`check_streams`): 128 of scales for each group and CHUNK_BYTES for each chunk.
    // The loop reads the same: the scales at each chunk that starts a group, of which there are as many as groups, since a
    // group is a power of two of chunks; then the chunks of the segment, which ends at `all_chunks`. There are tables for
    // all chunks (asserted above). The instructions are this function's condition.
    unsafe {
        let mut acc = [L::Width::zero(); N];
        let mut scales = [None; N];
        let (mut at, mut chunk) = (0, 0);
        while chunk < all_chunks {
            let ahead = Ahead::of(at, stream_bytes, N);
            if blocks[0].starts_group(chunk) {
                for n in 0..N {
                    let head = &*blocks[n].stream.as_ptr().add(at).cast::<[u8; SCALE_BYTES]>();
                    ahead.prefetch(head);
                    scales[n] = Some(head);
                }
                at += SCALE_BYTES;
            }
            let chunks = blocks[0].segment_chunks().min(all_chunks - chunk);
            let mut codes = [std::ptr::null(); N];
            for n in 0..N {
                codes[n] = blocks[n].stream.as_ptr().add(at);
            }
            let sums = L::segment(codes, ahead, chunks, tables.as_ptr().add(chunk * 8 * L::TABLE_BYTES));
            let a_scale = acts.of_chunk(chunk).scale;
            for n in 0..N {
                L::Width::accumulate(&mut acc[n], &sums[n], a_scale, scales[n]);
            }
            at += chunks * L::CHUNK_BYTES;
            chunk += chunks;
        }
        for (n, out) in out.iter_mut().enumerate() {
            L::Width::store_slots(acc[n], blocks[n].row_scales, out);
        }
    }
}

/// The tables of codes of four signs.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn build_sign_tables<L: LookUp>(acts: &ActBlock, out: &mut [u8]) {
    // SAFETY: the instructions of `L`, which are this function's condition, are all that it asks for.
    unsafe { L::build_tables(Codebook::SIGNS, acts, out) }
}

/// One chunk of signs: 8 codes x 64 slots x 4 weights, plus 1.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn decode_signs<L: LookUp>(codes: &[u8], panel: &mut [u8]) {
    // SAFETY: the instructions of `L`, which are this function's condition, are all that it asks for.
    unsafe { L::decode_codes(Codebook::SIGNS, codes, panel) }
}

/// One token, 2-bit format.
///
/// # Safety
/// The processor has the instructions of `D`.
#[inline(always)]
pub(super) unsafe fn gemv_bits<D: Dot>(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, out: &mut [&mut Rows]) {
    // SAFETY: `multiply_blocks` takes slices, and asks for the instructions of `D`, which is this function's condition.
    unsafe {
        if let (Some(blocks), Some(out)) = (blocks.as_array::<2>(), out.as_mut_array::<2>()) {
            multiply_blocks::<D, 2>(blocks, acts, out);
        } else {
            for (block, out) in blocks.iter().zip(out) {
                multiply_blocks::<D, 1>(&[*block], acts, &mut [out]);
            }
        }
    }
}

/// `N` neighbouring row blocks of one matrix, a segment of each in turn.
///
/// # Safety
/// The processor has the instructions of `D`.
#[inline(always)]
unsafe fn multiply_blocks<D: Dot, const N: usize>(
    blocks: &[RowBlock<'_>; N],
    acts: TokenBlocks<'_>,
    out: &mut [&mut Rows; N],
) {
    let all_chunks = blocks[0].chunks;
    let stream_bytes = check_streams(blocks, BIT_CHUNK_BYTES);
    // SAFETY: slices, arrays and registers; the instructions of `D` are this function's condition.
    unsafe {
        let mut acc = [D::Width::zero(); N];
        let mut scales = [None; N];
        let (mut at, mut chunk) = (0, 0);
        while chunk < all_chunks {
            let ahead = Ahead::of(at, stream_bytes, N);
            if blocks[0].starts_group(chunk) {
                for n in 0..N {
                    if let Some(head) = blocks[n].stream[at..].first_chunk::<SCALE_BYTES>() {
                        ahead.prefetch(head);
                        scales[n] = Some(head);
                    }
                }
                at += SCALE_BYTES;
            }
            let chunks = blocks[0].segment_chunks().min(all_chunks - chunk);
            let block_acts = acts.of_chunk(chunk);
            let first = chunk % 4;
            let sum = block_acts.sum(first, chunks);
            let q = &block_acts.q[32 * first..][..32 * chunks];
            for n in 0..N {
                let codes = &blocks[n].stream[at..at + chunks * BIT_CHUNK_BYTES];
                let sums = D::segment(codes, ahead, q, sum);
                D::Width::accumulate(&mut acc[n], &sums, block_acts.scale, scales[n]);
            }
            at += chunks * BIT_CHUNK_BYTES;
            chunk += chunks;
        }
        for (n, out) in out.iter_mut().enumerate() {
            D::Width::store_natural(acc[n], blocks[n].row_scales, out);
        }
    }
}

/// Bytes of each stream.
///
/// # Panics
/// When the blocks differ in shape, when a group of scales is not a power of two of chunks (so that a segment begins at each
/// group), or when a stream is not as long as its shape says.
#[inline(always)]
fn check_streams<const N: usize>(blocks: &[RowBlock<'_>; N], chunk_bytes: usize) -> usize {
    let stream_bytes = blocks[0].stream_bytes(chunk_bytes);
    assert!(blocks[0].group_chunks == 0 || blocks[0].group_chunks.is_power_of_two());
    for block in blocks {
        assert!(block.stream.len() == stream_bytes && block.chunks == blocks[0].chunks);
        assert!(block.group_chunks == blocks[0].group_chunks);
    }
    stream_bytes
}

/// Adds a segment to the sums of several tokens.
///
/// # Safety
/// The processor has the instructions of `D`.
#[inline(always)]
pub(super) unsafe fn segment<D: Dot>(segment: Segment<'_>, acts: &[ActBlock], acc: &mut [Rows]) {
    assert_eq!(acts.len(), acc.len());
    let (tiles, acts) = acts.as_chunks::<6>();
    let (acc_tiles, acc) = acc.as_chunks_mut::<6>();
    // SAFETY: `tile` takes slices and arrays, and asks for the instructions of `D`, which is this function's condition.
    unsafe {
        for (acts, acc) in tiles.iter().zip(acc_tiles) {
            D::tile::<6>(&segment, acts, acc);
        }
        macro_rules! rest {
            ($($n:literal)*) => {
                $(if let (Some(acts), Some(acc)) = (acts.as_array::<$n>(), acc.as_mut_array::<$n>()) {
                    D::tile::<$n>(&segment, acts, acc);
                })*
            };
        }
        rest!(1 2 3 4 5);
    }
}

/// Repeats a block for the codes 7, 6 ... 0 of a chunk, a constant in it. A loop would not always be unrolled.
macro_rules! last_to_first {
    (|$code:ident| $body:block) => {
        last_to_first!(@ $code $body 7 6 5 4 3 2 1 0)
    };
    (@ $code:ident $body:block $($value:literal)*) => {
        $({
            const $code: usize = $value;
            $body
        })*
    };
}
pub(super) use last_to_first;

/// From slots to rows, times the row scales if any.
///
/// # Safety
/// The processor has the instructions of `W`.
#[inline(always)]
pub(super) unsafe fn finish_slots<W: Width>(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows) {
    // SAFETY: arrays, and the instructions of `W`, which are this function's condition.
    unsafe { W::store_slots(W::load(acc), row_scales, out) }
}

/// Values in order of rows, times the row scales if any.
///
/// # Safety
/// The processor has the instructions of `W`.
#[inline(always)]
pub(super) unsafe fn finish_natural<W: Width>(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows) {
    // SAFETY: arrays, and the instructions of `W`, which are this function's condition.
    unsafe { W::store_natural(W::load(acc), row_scales, out) }
}

/// The [`TernaryTable`](crate::table::TernaryTable) of a tier: its ways to look up 5-bit codes and signs, its way to multiply,
/// and from how many tokens on decoded weights pay for 5-bit codes, for 2 bits and for signs.
macro_rules! tier {
    ($features:literal, $look_up:ty, $signs:ty, $dot:ty, decoded from $codes:expr, $bits:expr, $from:expr, look_up $many:expr) => {
        $crate::table::ternary_table! {
            features $features;
            transpose $crate::arch::x86::transpose::transpose;
            table_bytes <$look_up as $crate::arch::x86::ternary::LookUp>::TABLE_BYTES;
            build_tables <$look_up as $crate::arch::x86::ternary::LookUp>::build_tables;
            gemv_codes $crate::arch::x86::ternary::gemv_codes::<$look_up>;
            gemv_bits $crate::arch::x86::ternary::gemv_bits::<$dot>;
            build_sign_tables $crate::arch::x86::ternary::build_sign_tables::<$signs>;
            gemv_signs $crate::arch::x86::ternary::gemv_codes::<$signs>;
            decoded from $codes, $bits, $from;
            decode_codes <$look_up as $crate::arch::x86::ternary::LookUp>::decode_codes;
            decode_bits <$crate::arch::x86::ternary::WidthOf<$dot> as $crate::arch::x86::ternary::Width>::decode_bits;
            decode_signs $crate::arch::x86::ternary::decode_signs::<$signs>;
            segment $crate::arch::x86::ternary::segment::<$dot>;
            finish_codes $crate::arch::x86::ternary::finish_slots::<$crate::arch::x86::ternary::WidthOf<$dot>>;
            finish_bits $crate::arch::x86::ternary::finish_natural::<$crate::arch::x86::ternary::WidthOf<$dot>>;
            look_up $many;
        }
    };
}
pub(super) use tier;
