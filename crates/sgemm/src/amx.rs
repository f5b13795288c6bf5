//! Products of f32 on the tile unit of Intel's Xeons (AMX): every number as one bfloat16, or as a sum of two.
//!
//! `x = hi + lo` with both rounded to nearest, and `x y` as `hi hi + hi lo + lo hi`, added up in f32. What is left out,
//! `lo lo` and the rest of both splits, is below 2^-16 of the product. The unit multiplies bfloat16 sixteen times as fast as
//! AVX-512 f32, so that three products still leave a factor of up to five.
//!
//! A *tile* is 1 KiB in a register: 16 rows of 16 f32, or 16 rows of 32 bfloat16. Of the left matrix a row of a tile holds
//! 32 inner places of one row; of the right one it holds two inner places of 16 columns, side by side (Intel's "VNNI"
//! layout). The two differ by a transposition of 16 x 16 pairs, so that either is packed from rows or columns that lie
//! together in memory. A *step* is 32 inner places of 32 lines: hi of lines 0 to 15 and 16 to 31, and where there is lo, lo of
//! both.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::Old;

/// Lines, rows or columns, of a block of the result.
const LINES: usize = 32;
/// Inner places of a step.
const DEPTH: usize = 32;
/// Inner places that are packed at once: 20 steps, with lo 80 KiB of a strip of 32 lines.
const PLACES: usize = 20 * DEPTH;
/// Rows that are packed at once: 10 MiB.
const ROWS: usize = 4096;
/// Strips of rows that stay in L2 (1.25 MiB) while strips of columns pass.
const STRIPS: usize = 16;
/// Columns that are packed at once: 3.75 MiB.
const COLUMNS: usize = 1536;
/// Multiplications below which splitting and packing are not worth their time.
const LEAST: usize = 1 << 21;

/// Of how many bfloat16 a number is the sum.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Parts {
    One,
    Two,
}

impl Parts {
    /// Tiles of a step.
    fn tiles(self) -> usize {
        match self {
            Self::One => 2,
            Self::Two => 4,
        }
    }
}

/// A tile in memory.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tile([u16; 512]);

const ZERO: Tile = Tile([0; 512]);

/// What `ldtilecfg` reads: all eight tiles have 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Shapes([u8; 64]);

static SHAPES: Shapes = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    Shapes(bytes)
};

/// Whether this processor has the unit and the system lets this process use it, which is asked for here.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let vectors = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        // Leaf 7: AMX-BF16 and AMX-TILE.
        let tiles = (1 << 22) | (1 << 24);
        vectors && __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & tiles == tiles && permitted()
    })
}

/// Asks Linux to save tiles, for all threads of this process: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
fn permitted() -> bool {
    const REQUEST: libc::c_ulong = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers, and changes nothing but what the process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

/// A matrix as [`super::Mat`] has it, `lines` of `inner` places: rows of the left one, columns of the right one.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub data: *const f32,
    pub lines: usize,
    pub line_stride: usize,
    pub inner_stride: usize,
}

/// Where the result goes.
#[derive(Clone, Copy)]
pub(crate) struct Destination {
    pub data: *mut f32,
    pub row_stride: usize,
}

// SAFETY: a pointer and strides of a slice that `multiply`'s caller has borrowed for as long as the call lasts; it is read only.
unsafe impl Sync for Side {}
// SAFETY: the same, exclusively borrowed; every task of `multiply` writes columns of its own.
unsafe impl Sync for Destination {}

/// Whether [`multiply`] takes these matrices: large enough, and each with neighbours in memory along one dimension.
pub(crate) fn takes(left: Side, right: Side, inner: usize) -> bool {
    let together = |side: Side| side.line_stride == 1 || side.inner_stride == 1;
    let work = left.lines.saturating_mul(right.lines).saturating_mul(inner);
    together(left) && together(right) && work >= LEAST && left.lines >= 8 && right.lines >= 8 && inner >= 8
}

/// `dst = scale * left * right^T`, or added to it; each element is the same whatever the number of threads.
///
/// # Safety
/// [`available`]; every place of the three matrices lies in memory that is borrowed for this call, exclusively for `dst`;
/// [`takes`] these matrices.
#[allow(clippy::too_many_arguments)] // what goes where, and how
pub(crate) unsafe fn multiply(
    dst: Destination,
    old: Old,
    scale: f32,
    left: Side,
    right: Side,
    inner: usize,
    parts: Parts,
    threads: usize,
) {
    // Taken out of the thread's hands: while it waits for others it may be given another product.
    let (mut packed_left, mut packed_right) = (LEFT.take(), RIGHT.take());
    let pieces = |end: usize, step: usize| (0..end).step_by(step).map(move |start| start..end.min(start + step));
    for (rows, places) in
        pieces(left.lines, ROWS).flat_map(|rows| pieces(inner, PLACES).map(move |at| (rows.clone(), at)))
    {
        let tiles = parts.tiles() * places.len().div_ceil(DEPTH);
        let strips = rows.len().div_ceil(LINES);
        let replace = old == Old::Replace && places.start == 0;
        // SAFETY: the caller vouches for `left`.
        let packed_left = unsafe { pack(&mut packed_left, left, &rows, &places, scale, parts, Rows::Lines, threads) };
        for columns in pieces(right.lines, COLUMNS) {
            let across = columns.len().div_ceil(LINES);
            // SAFETY: the caller vouches for `right`.
            let packed_right =
                unsafe { pack(&mut packed_right, right, &columns, &places, 1.0, parts, Rows::Pairs, threads) };
            // Each task takes a strip of columns and some strips of rows: as many of these as stay in its core's cache while
            // strips of columns pass.
            let task = |task: usize| {
                let (some, strip) = (task / across, task % across);
                let column = columns.start + strip * LINES;
                let width = LINES.min(columns.end - column);
                let right = &packed_right[strip * tiles..][..tiles];
                let _unit = Unit::new();
                let mut block = Block([MaybeUninit::uninit(); LINES * LINES]);
                for strip in some * STRIPS..strips.min((some + 1) * STRIPS) {
                    let row = rows.start + strip * LINES;
                    let height = LINES.min(rows.end - row);
                    let left = &packed_left[strip * tiles..][..tiles];
                    // SAFETY: the tile unit is set up for this thread as long as `_unit` lives, and these places of the
                    // result are of its rows and columns; no other task touches them.
                    unsafe {
                        if !replace {
                            fetch(dst, row, column, height);
                        }
                        multiply_strips(&mut block, left, right, parts);
                        store(dst, row, column, &block, height, width, replace);
                    }
                }
            };
            let tasks = 0..strips.div_ceil(STRIPS) * across;
            if threads > 1 { tasks.into_par_iter().for_each(task) } else { tasks.for_each(task) }
        }
    }
    LEFT.set(packed_left);
    RIGHT.set(packed_right);
}

thread_local! {
    /// The packed matrices, kept from call to call: asking for megabytes each time costs as much as packing them.
    static LEFT: Cell<Vec<Tile>> = const { Cell::new(Vec::new()) };
    static RIGHT: Cell<Vec<Tile>> = const { Cell::new(Vec::new()) };
}

/// The tile unit, set up for this thread; put back to its initial state at the end, in which switching between threads costs
/// nothing.
struct Unit {
    /// Of one thread.
    _stays: std::marker::PhantomData<*const ()>,
}

impl Unit {
    fn new() -> Self {
        // SAFETY: only called where the unit is `available`; `SHAPES` is a valid configuration of 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, readonly, preserves_flags)) };
        Self { _stays: std::marker::PhantomData }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: only made where the unit is `available`; nothing else in this process uses tiles.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// 32 x 32 places of the result, row by row.
#[repr(C, align(64))]
struct Block([MaybeUninit<f32>; LINES * LINES]);

/// Runs the instructions of a step, which add products to tiles 0 to 3 and advance `l` and `r`, `steps` times from zeros on, and
/// writes these tiles to the quarters of `block`.
macro_rules! add_up {
    ($block:ident, $left:ident, $right:ident, $steps:ident: $($instruction:literal),* $(,)?) => {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            $($instruction,)*
            "dec {steps}",
            "jnz 2b",
            "mov {stride}, 128",
            "tilestored [{out} + {stride}], tmm0",
            "tilestored [{out} + {stride} + 64], tmm1",
            "tilestored [{out} + {stride} + 2048], tmm2",
            "tilestored [{out} + {stride} + 2112], tmm3",
            l = inout(reg) $left.as_ptr() => _,
            r = inout(reg) $right.as_ptr() => _,
            steps = inout(reg) $steps => _,
            stride = inout(reg) 64usize => _,
            out = in(reg) $block.0.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// The product of two packed strips of the same number of steps.
///
/// # Safety
/// The unit is set up for this thread.
unsafe fn multiply_strips(block: &mut Block, left: &[Tile], right: &[Tile], parts: Parts) {
    let steps = left.len() / parts.tiles();
    assert!(steps > 0 && left.len() == parts.tiles() * steps && right.len() == left.len());
    // SAFETY: each step reads its 2 or 4 tiles of 1 KiB at either pointer and advances both by as much, so that `steps` of them
    // read the two slices; the stores write 16 rows of 64 bytes, 128 apart, at the four quarters of the block.
    unsafe {
        match parts {
            Parts::One => add_up!(block, left, right, steps:
                "tileloadd tmm4, [{l} + {stride}]",
                "tileloadd tmm6, [{r} + {stride}]",
                "tileloadd tmm7, [{r} + {stride} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{l} + {stride} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {l}, 2048",
                "add {r}, 2048",
            ),
            Parts::Two => add_up!(block, left, right, steps:
                // lo of the left with hi of the right
                "tileloadd tmm4, [{l} + {stride} + 2048]",
                "tileloadd tmm6, [{r} + {stride}]",
                "tileloadd tmm7, [{r} + {stride} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{l} + {stride} + 3072]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm4, [{l} + {stride}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // hi with hi
                "tileloadd tmm5, [{l} + {stride} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm6, [{r} + {stride} + 2048]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // hi with lo
                "tileloadd tmm7, [{r} + {stride} + 3072]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {l}, 4096",
                "add {r}, 4096",
            ),
        }
    }
}

/// Writes `height` rows of `width` of the block to the result from `first` and `column` on, or adds them.
///
/// # Safety
/// AVX-512; those places may be written.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn store(
    dst: Destination,
    top: usize,
    column: usize,
    block: &Block,
    height: usize,
    width: usize,
    replace: bool,
) {
    for row in 0..height {
        for half in (0..width).step_by(16) {
            let mask = first(width - half);
            // SAFETY: the caller's places, no more than the mask lets through.
            unsafe {
                let out = dst.data.add((top + row) * dst.row_stride + column + half);
                let mut sum = _mm512_load_ps(block.0.as_ptr().add(row * LINES + half).cast());
                if !replace {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, out));
                }
                _mm512_mask_storeu_ps(out, mask, sum);
            }
        }
    }
}

/// Asks for the places of a block of the result while the block is computed.
fn fetch(dst: Destination, top: usize, column: usize, height: usize) {
    for row in top..top + height {
        let at = dst.data.wrapping_add(row * dst.row_stride + column);
        prefetch(at);
        prefetch(at.wrapping_add(LINES / 2));
    }
}

/// A mask of the first `count` of sixteen.
fn first(count: usize) -> u16 {
    if count >= 16 { u16::MAX } else { (1 << count) - 1 }
}

/// What a row of a tile holds.
#[derive(Clone, Copy, PartialEq)]
enum Rows {
    /// Places of one line: the left matrix.
    Lines,
    /// Two places of sixteen lines: the right one.
    Pairs,
}

/// Packs the lines and places that are named, times `factor`, 32 lines a strip; zeros fill what is not there.
///
/// # Safety
/// [`available`]; the lines and places may be read.
#[allow(clippy::too_many_arguments)] // what, which part of it, and how
unsafe fn pack<'a>(
    packed: &'a mut Vec<Tile>,
    side: Side,
    lines: &Range<usize>,
    places: &Range<usize>,
    factor: f32,
    parts: Parts,
    rows: Rows,
    threads: usize,
) -> &'a [Tile] {
    let tiles = parts.tiles() * places.len().div_ceil(DEPTH);
    let count = lines.len().div_ceil(LINES) * tiles;
    if packed.len() < count {
        packed.resize(count, ZERO);
    }
    let packed = &mut packed[..count];
    let strip = |(strip, tiles): (usize, &mut [Tile])| {
        // SAFETY: as this function's.
        unsafe { pack_strip(tiles, side, lines.start + strip * LINES..lines.end, places, factor, parts, rows) }
    };
    if threads > 1 {
        packed.par_chunks_mut(tiles).enumerate().for_each(strip);
    } else {
        packed.chunks_mut(tiles).enumerate().for_each(strip);
    }
    packed
}

/// Packs the first 32 of `lines`, or all where there are fewer.
///
/// # Safety
/// AVX-512; the lines and places may be read.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_strip(
    tiles: &mut [Tile],
    side: Side,
    lines: Range<usize>,
    places: &Range<usize>,
    factor: f32,
    parts: Parts,
    rows: Rows,
) {
    let factor = _mm512_set1_ps(factor);
    for (tiles, place) in tiles.chunks_exact_mut(parts.tiles()).zip(places.clone().step_by(DEPTH)) {
        let here = DEPTH.min(places.end - place);
        for half in 0..2 {
            let line = lines.start + half * 16;
            let lines = lines.end.saturating_sub(line).min(16);
            let data = side.data.wrapping_add(line * side.line_stride + place * side.inner_stride);
            // SAFETY: no line from `lines` on and no place from `here` on is touched.
            let ((mut hi, mut lo), found) = unsafe {
                if side.inner_stride == 1 {
                    (along(data, side.line_stride, lines, here, factor), Rows::Lines)
                } else {
                    (across(data, side.inner_stride, lines, here, factor), Rows::Pairs)
                }
            };
            if found != rows {
                transpose(&mut hi);
                if parts == Parts::Two {
                    transpose(&mut lo);
                }
            }
            for (tile, rows) in [(half, &hi), (2 + half, &lo)].into_iter().take(parts.tiles() / 2) {
                for (row, at) in rows.iter().zip(tiles[tile].0.chunks_exact_mut(32)) {
                    // SAFETY: a row of a tile has 64 bytes, aligned to as many.
                    unsafe { _mm512_store_si512(at.as_mut_ptr().cast(), *row) };
                }
            }
        }
    }
}

/// hi and lo of sixteen numbers, as f32 whose lower halves are to be dropped.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split(x: __m512) -> (__m512i, __m512i) {
    // To nearest, away from zero where two are as near. What is no number stays so if nothing is added to it.
    let (half, bits) = (_mm512_set1_epi32(0x8000), _mm512_castps_si512(x));
    let rounded = _mm512_mask_add_epi32(bits, _mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x), bits, half);
    let hi = _mm512_and_si512(rounded, _mm512_set1_epi32(!0xffff));
    let lo = _mm512_sub_ps(x, _mm512_castsi512_ps(hi));
    (hi, _mm512_add_epi32(_mm512_castps_si512(lo), half))
}

/// Upper halves of the numbers of `even` and `odd`, in turns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn in_turns(even: __m512i, odd: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(even), odd)
}

/// Rows of a line each: 32 places side by side in memory.
///
/// # Safety
/// AVX-512; `lines` times `places` numbers, lines `stride` apart, may be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn along(data: *const f32, stride: usize, lines: usize, places: usize, factor: __m512) -> Pair {
    let (mut hi, mut lo) = ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
    let masks = [first(places), first(places.saturating_sub(16))];
    // Upper halves of the numbers of two registers, one after the other: 1, 3, ..., 63.
    let uppers: [i16; 32] = std::array::from_fn(|i| 2 * i as i16 + 1);
    // SAFETY: 64 bytes.
    let uppers = unsafe { _mm512_loadu_si512(uppers.as_ptr().cast()) };
    for line in 0..lines {
        let load = |part: usize| {
            let at = data.wrapping_add(line * stride + 16 * part);
            prefetch(at.wrapping_add(AHEAD * DEPTH));
            // SAFETY: the mask lets through what the caller allows.
            split(_mm512_mul_ps(unsafe { _mm512_maskz_loadu_ps(masks[part], at) }, factor))
        };
        let ((hi0, lo0), (hi1, lo1)) = (load(0), load(1));
        hi[line] = _mm512_permutex2var_epi16(hi0, uppers, hi1);
        lo[line] = _mm512_permutex2var_epi16(lo0, uppers, lo1);
    }
    (hi, lo)
}

/// Rows of two places of sixteen lines, which lie side by side in memory.
///
/// # Safety
/// AVX-512; `lines` times `places` numbers, places `stride` apart, may be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn across(data: *const f32, stride: usize, lines: usize, places: usize, factor: __m512) -> Pair {
    let (mut hi, mut lo) = ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
    let load = |place: usize| {
        let mask = if place < places { first(lines) } else { 0 };
        let at = data.wrapping_add(place * stride);
        prefetch(at.wrapping_add(AHEAD * DEPTH * stride));
        // SAFETY: the mask lets through what the caller allows.
        split(_mm512_mul_ps(unsafe { _mm512_maskz_loadu_ps(mask, at) }, factor))
    };
    for row in 0..places.div_ceil(2) {
        let ((hi0, lo0), (hi1, lo1)) = (load(2 * row), load(2 * row + 1));
        hi[row] = in_turns(hi0, hi1);
        lo[row] = in_turns(lo0, lo1);
    }
    (hi, lo)
}

/// Steps ahead of which memory is asked for: packing waits for little else.
const AHEAD: usize = 2;

#[inline]
fn prefetch(at: *const f32) {
    // SAFETY: an address that may not be read is no error.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// hi and lo of the sixteen rows of a tile.
type Pair = ([__m512i; 16], [__m512i; 16]);

/// Transposes 16 x 16 numbers of 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose(rows: &mut [__m512i; 16]) {
    let mut by2 = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        let (a, b) = (rows[2 * i], rows[2 * i + 1]);
        by2[2 * i] = _mm512_unpacklo_epi32(a, b);
        by2[2 * i + 1] = _mm512_unpackhi_epi32(a, b);
    }
    // Of four rows each: the quarters of `by4[4 i + j]` hold columns `j`, `j + 4`, `j + 8` and `j + 12`.
    let mut by4 = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        for j in 0..2 {
            let (a, b) = (by2[4 * i + j], by2[4 * i + 2 + j]);
            by4[4 * i + 2 * j] = _mm512_unpacklo_epi64(a, b);
            by4[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a, b);
        }
    }
    for j in 0..4 {
        let (a, b, c, d) = (by4[j], by4[4 + j], by4[8 + j], by4[12 + j]);
        let (even0, odd0) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (even1, odd1) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        rows[j] = _mm512_shuffle_i32x4::<0x88>(even0, even1);
        rows[j + 4] = _mm512_shuffle_i32x4::<0x88>(odd0, odd1);
        rows[j + 8] = _mm512_shuffle_i32x4::<0xdd>(even0, even1);
        rows[j + 12] = _mm512_shuffle_i32x4::<0xdd>(odd0, odd1);
    }
}
