//! The kernels of ternary products: one table per instruction set, the same promise from each.
//!
//! All compute, for one block of 64 rows and one token,
//! ```text
//! row scales:    y[r] = w_scale[r] * sum over segments of (d as f32) * a_scale[block]
//! group scales:  y[r] =              sum over segments of (d as f32) * (a_scale[block] * w_scale[r, group])
//! ```
//! where a segment is the part of the columns that lies in one activation block and one scale group, `d` its integer dot
//! product, and the sum goes over ascending columns. Products and sums are separate f32 operations, so every kernel gives
//! the bits of the scalar one.

use crate::Isa;
use crate::format::{sherry, triple};

use super::activations::{ActBlock, Arrangement, BLOCK_CHUNKS, BLOCK_CODES};
use super::matrix::{BLOCK_ROWS, RowBlock};

/// What the 32 codes of a format mean, in the forms the kernels look up.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Codebook {
    /// Lanes 0 and 1 of each code, plus 1: unsigned bytes in pairs.
    pub(crate) pairs_01: [u8; 64],
    /// Lanes 2 and 3 of each code, plus 1.
    pub(crate) pairs_23: [u8; 64],
    /// Lane `p` of each code, plus 1.
    pub(crate) lanes: [[u8; 32]; 4],
}

impl Codebook {
    /// Quads with one zero.
    pub(crate) const SHERRY: &Self = &Self::new(true);
    /// Dense triples; illegal codes are zeros, as is lane 3.
    pub(crate) const TRIPLES: &Self = &Self::new(false);

    const fn new(quads: bool) -> Self {
        let mut book = Self { pairs_01: [1; 64], pairs_23: [1; 64], lanes: [[1; 32]; 4] };
        let mut code = 0;
        while code < 32 {
            let values = if quads {
                sherry::decode_quad(code as u8)
            } else if let Some([a, b, c]) = triple::decode_triple(code as u8) {
                [a, b, c, 0]
            } else {
                [0; 4]
            };
            let mut lane = 0;
            while lane < 4 {
                let byte = (values[lane] + 1) as u8;
                book.lanes[lane][code] = byte;
                if lane < 2 {
                    book.pairs_01[2 * code + lane] = byte;
                } else {
                    book.pairs_23[2 * code + lane - 2] = byte;
                }
                lane += 1;
            }
            code += 1;
        }
        book
    }

    /// The weights of a code below 32.
    pub(crate) fn weights(&self, code: usize) -> [i8; 4] {
        std::array::from_fn(|lane| self.lanes[lane][code] as i8 - 1)
    }
}

/// The activation blocks of one token among those of several.
#[derive(Clone, Copy)]
pub(crate) struct TokenBlocks<'a> {
    /// From the token's first block on.
    pub(crate) blocks: &'a [ActBlock],
    /// Distance from a block of the token to its next: the number of tokens.
    pub(crate) stride: usize,
}

impl<'a> TokenBlocks<'a> {
    /// The block that chunk `chunk` multiplies.
    #[inline(always)]
    pub(crate) fn of_chunk(&self, chunk: usize) -> &'a ActBlock {
        &self.blocks[chunk / BLOCK_CHUNKS * self.stride]
    }
}

/// Values of the 64 rows of a block.
pub(crate) type Rows = [f32; BLOCK_ROWS];

/// The kernels of one instruction set. All are unsafe for one reason only: the processor must have the set.
#[derive(Debug)]
pub(crate) struct TernaryKernels {
    /// Quantizes one block of inputs.
    pub(crate) quantize: unsafe fn(Arrangement, &[f32], &mut ActBlock),
    /// Bytes of look-up tables per 5-bit code.
    pub(crate) table_bytes: usize,
    /// Writes the tables of the 32 codes of an activation block.
    pub(crate) build_tables: unsafe fn(&Codebook, &ActBlock, &mut [u8]),
    /// One token by look-up, 5-bit formats: one or two neighbouring blocks of a matrix, activations, tables of all codes,
    /// results. Two streams of weights use memory better than one, and share the tables.
    pub(crate) gemv_codes: unsafe fn(&[RowBlock<'_>], TokenBlocks<'_>, &[u8], &mut [&mut Rows]),
    /// One token, 2-bit format: one or two neighbouring blocks of a matrix, activations, results.
    pub(crate) gemv_bits: unsafe fn(&[RowBlock<'_>], TokenBlocks<'_>, &mut [&mut Rows]),
    /// Kernels for many tokens, where they pay.
    pub(crate) gemm: Option<GemmKernels>,
    /// Kernels for several and many tokens of the 5-bit formats, where they beat the others.
    pub(crate) look_up: Option<&'static LookUpKernels>,
}

/// Kernels that decode a panel of weights once and multiply it with many tokens.
#[derive(Debug)]
pub(crate) struct GemmKernels {
    /// Fewest tokens from which on they beat look-up tables (measured on Zen 4 with `sherry bench --kernels`).
    pub(crate) min_tokens_codes: usize,
    /// The same for the 2-bit format.
    pub(crate) min_tokens_bits: usize,
    /// Decodes one chunk of a 5-bit format: 8 codes x 64 slots x 4 weights, plus 1.
    pub(crate) decode_codes: unsafe fn(&Codebook, &[u8], &mut [u8]),
    /// Decodes one chunk of the 2-bit format: 8 x 64 slots x 4 weights, plus 1.
    pub(crate) decode_bits: unsafe fn(&[u8], &mut [u8]),
    /// Adds a segment to the sums of several tokens.
    pub(crate) segment: unsafe fn(Segment<'_>, &[ActBlock], &mut [Rows]),
    /// From slots to rows, times the row scales if any: 5-bit formats.
    pub(crate) finish_codes: unsafe fn(&Rows, Option<&Rows>, &mut Rows),
    /// The same for the 2-bit format.
    pub(crate) finish_bits: unsafe fn(&Rows, Option<&Rows>, &mut Rows),
}

/// Kernels that bring the codes of some row blocks into the form of indices once and look them up for many tokens.
///
/// A vector of 32 int16 holds all sums of a code, so a product of four weights costs a fraction of two instructions: less
/// than a dot-product instruction where permutations of words run at full speed.
#[derive(Debug)]
pub(crate) struct LookUpKernels {
    /// Fewest tokens from which on they beat one token after the other (measured as in [`GemmKernels`]).
    pub(crate) min_tokens: usize,
    /// Whether this processor runs them fast.
    pub(crate) pay: fn() -> bool,
    /// Writes the [tables](TABLE_BYTES) of the 32 codes of an activation block.
    pub(crate) build_tables: unsafe fn(&Codebook, &ActBlock, &mut [u8]),
    /// Decodes chunks of one row block: code `c` to `panel[c * blocks]`.
    pub(crate) decode: unsafe fn(&[u8], &mut [Indices], usize),
    /// Adds a segment to the sums of several tokens, which are tokens x blocks and whose rows stand in an order of its own,
    /// which `finish` undoes. The tables of a token are those of the segment's codes; those of the next token begin
    /// [`BLOCK_TABLES`] later.
    pub(crate) segment: unsafe fn(&IndexedSegment<'_>, &[u8], &[ActBlock], &mut [Rows]),
    /// From the order of the sums to rows, times the row scales if any.
    pub(crate) finish: unsafe fn(&Rows, Option<&Rows>, &mut Rows),
}

/// Bytes of the table of one code for [`LookUpKernels`]: 32 int16.
pub(crate) const TABLE_BYTES: usize = 64;
/// Those of the codes of an activation block.
pub(crate) const BLOCK_TABLES: usize = BLOCK_CODES * TABLE_BYTES;
/// Most row blocks that [`LookUpKernels::segment`] takes together.
pub(crate) const LOOK_UP_BLOCKS: usize = 2;

/// What one code of each of 64 rows looks up: 32 words for the even rows, 32 for the odd ones, of which the low five bits
/// count.
pub(crate) type Indices = [u8; 2 * BLOCK_ROWS];

/// Indices that share an activation block and, row block by row block, a scale group.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no kernels for it there
pub(crate) struct IndexedSegment<'a> {
    /// codes x blocks.
    pub(crate) panel: &'a [Indices],
    /// 64 f16 group scales in slot order for each of 1 or 2 blocks.
    pub(crate) scales: &'a [Option<&'a [u8; 2 * BLOCK_ROWS]>],
}

/// Decoded weights that share an activation block and a scale group.
#[derive(Clone, Copy)]
pub(crate) struct Segment<'a> {
    /// chunks x 8 codes x 64 slots x 4 weights, plus 1.
    pub(crate) panel: &'a [u8],
    /// First chunk inside the activation block.
    pub(crate) first_chunk: usize,
    /// Chunks.
    pub(crate) chunks: usize,
    /// 64 f16 group scales in slot order.
    pub(crate) scales: Option<&'a [u8; 2 * BLOCK_ROWS]>,
}

impl TernaryKernels {
    /// The kernels of `isa`, which must be available.
    pub(crate) fn of(isa: Isa) -> &'static Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &crate::x86::avx2::ternary::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Gfni => &crate::x86::avx2::gfni::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni if crate::x86::avx2::vnni::has_vex() => &crate::x86::avx2::vnni::vex::ternary::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => &crate::x86::avx2::vnni::evex::ternary::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &crate::x86::avx512::ternary::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => &crate::x86::avx512::vnni::ternary::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vbmi => &crate::x86::avx512::vbmi::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &crate::aarch64::neon::ternary::products::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => &crate::aarch64::dotprod::products::KERNELS,
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Isa::Simd128 => &crate::wasm32::ternary::products::KERNELS,
            _ => &crate::scalar::ternary::KERNELS,
        }
    }
}
