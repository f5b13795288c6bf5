//! NEON with the dot-product instructions: four int8 products per lane and instruction.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::LIMITS;
use super::neon::ternary::{TABLE_BYTES, add_digits, add_unsigned_digits, build_tables, decode_codes};
use super::neon::ternary::{each_index, fields, load, look_up_index, quad, store};
use super::neon::vector::{F32x8, row_lanes};
use crate::generic::ternary::{Vectors, ternary_table_of};
use crate::table::{Table, look_up_gemm_of, table};
use crate::ternary::activations::ActBlock;
use crate::ternary::block::CODE_CHUNK_BYTES;
use crate::ternary::codebook::Codebook;
use crate::ternary::segment::Indices;
use crate::vector::RowLanes;

/// NEON with dot products.
pub(crate) static TABLE: Table = table! {
    features "neon,dotprod";
    floats F32x8;
    ints I32x8;
    ternary ternary_table_of!(
        NeonDot;
        features "neon,dotprod";
        decoded from 8, 16;
        look_up look_up_gemm_of!(NeonDot; features "neon,dotprod"; from 2, 4; up_to 7;)
    );
    limits LIMITS;
};

row_lanes!("neon,dotprod", dot);

/// Adds to each sum the products of four weights with four inputs.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(mut sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes the named registers only. (The intrinsic is not stable.)
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {weights:v}.16b, {x:v}.16b",
            sums = inout(vreg) sums,
            weights = in(vreg) weights,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Vectors of 128 bits with dot products.
pub(crate) struct NeonDot;

impl Vectors for NeonDot {
    type Ints = I32x8;
    type Bytes = uint8x16_t;
    type Shorts = int16x8_t;
    type Index = uint8x16_t;
    type Quad = int8x16_t;
    type Dots = int32x4_t;
    const TABLE_BYTES: usize = TABLE_BYTES;
    const TILE_TOKENS: usize = 8;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn load(bytes: &[u8; 16]) -> uint8x16_t {
        load(bytes)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn store(bytes: uint8x16_t, out: &mut [u8; 16]) {
        store(bytes, out);
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
        build_tables(book, acts, out);
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn no_shorts() -> int16x8_t {
        vdupq_n_s16(0)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn add_digits(sums: [int16x8_t; 2], digits: [uint8x16_t; 2]) -> [int16x8_t; 2] {
        add_digits(sums, digits)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn widen(shorts: int16x8_t) -> I32x8 {
        I32x8::new(vmovl_s16(vget_low_s16(shorts)), vmovl_high_s16(shorts))
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn each_index(codes: &[u8; CODE_CHUNK_BYTES], quarter: usize, each: impl FnMut(usize, uint8x16_t)) {
        each_index(codes, quarter, each);
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn write_index(indices: &mut Indices, quarter: usize, index: uint8x16_t) {
        store(index, &mut indices.as_chunks_mut().0[quarter]);
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn read_index(indices: &Indices, quarter: usize) -> uint8x16_t {
        load(&indices.as_chunks().0[quarter])
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn look_up_index(table: &[u8], index: uint8x16_t) -> [uint8x16_t; 2] {
        look_up_index(table, index)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn decode_codes(book: &Codebook, codes: &[u8; CODE_CHUNK_BYTES], panel: &mut [[u8; 256]; 8]) {
        decode_codes(book, codes, panel);
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn nibbles(bytes: uint8x16_t) -> [uint8x16_t; 2] {
        [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn find(table: uint8x16_t, index: uint8x16_t) -> uint8x16_t {
        vqtbl1q_u8(table, index)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn no_bytes() -> uint8x16_t {
        vdupq_n_u8(0)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn add_bytes(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        vaddq_u8(a, b)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn add_unsigned_digits(sums: [int16x8_t; 2], digits: [uint8x16_t; 2]) -> [int16x8_t; 2] {
        add_unsigned_digits(sums, digits)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn fields(bytes: uint8x16_t) -> [uint8x16_t; 4] {
        fields(bytes)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn no_dots() -> int32x4_t {
        vdupq_n_s32(0)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn quad(q: &[i8; 4]) -> int8x16_t {
        quad(q)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn multiply(dots: int32x4_t, weights: uint8x16_t, q: int8x16_t) -> int32x4_t {
        dot(dots, vreinterpretq_s8_u8(weights), q)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn rows(dots: [int32x4_t; 2]) -> I32x8 {
        I32x8::new(dots[0], dots[1])
    }
}
