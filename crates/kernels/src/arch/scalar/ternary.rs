//! Ternary products in plain loops. [`TernaryTable`] says what each function computes.

use crate::format::half::f16_to_f32;
use crate::table::TernaryTable;
use crate::ternary::activations::{ActBlock, BLOCK_CODES, TokenBlocks, quantize_block};
use crate::ternary::block::{
    BINARY_CHUNK_BYTES, BIT_CHUNK_BYTES, BLOCK_ROWS, CODE_CHUNK_BYTES, RowBlock, Rows, SCALE_BYTES, slot_row,
};
use crate::ternary::codebook::Codebook;
use crate::ternary::signs::SIGN_TABLE_BYTES;
use crate::ternary::transpose::transpose;

/// i16 sums of the four activations of a code, for each of the 32 codes.
const TABLE_BYTES: usize = 64;

pub(super) const TABLE: TernaryTable = TernaryTable {
    quantize: quantize_block,
    transpose,
    table_bytes: TABLE_BYTES,
    build_tables,
    gemv_codes,
    gemv_bits,
    build_sign_tables,
    gemv_signs,
    decoded: None,
    look_up: None,
    #[cfg(test)]
    features: "",
};

fn build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
    assert_eq!(out.len(), BLOCK_CODES * TABLE_BYTES);
    write_sums::<TABLE_BYTES>(book, acts, out);
}

/// The 16 sums take as many bytes as the digits that other instruction sets keep of them.
fn build_sign_tables(acts: &ActBlock, out: &mut [u8]) {
    assert_eq!(out.len(), BLOCK_CODES * SIGN_TABLE_BYTES);
    write_sums::<SIGN_TABLE_BYTES>(Codebook::SIGNS, acts, out);
}

fn write_sums<const BYTES: usize>(book: &Codebook, acts: &ActBlock, out: &mut [u8]) {
    for (q, table) in acts.q.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
        for (code, entry) in table.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let weights = book.weights(code);
            let sum: i16 = weights.iter().zip(q).map(|(&w, &q)| i16::from(w) * i16::from(q)).sum();
            *entry = sum.to_le_bytes();
        }
    }
}

fn gemv_codes(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, tables: &[u8], out: &mut [&mut Rows]) {
    let chunk_tables = tables.as_chunks::<{ 8 * TABLE_BYTES }>().0;
    gemv(blocks, acts, CODE_CHUNK_BYTES, slot_row, out, |chunk, bytes, row| {
        let mut sum = 0;
        for (g, table) in chunk_tables[chunk].as_chunks::<TABLE_BYTES>().0.iter().enumerate() {
            let nibble = bytes[(1 + g / 2) * BLOCK_ROWS + row] >> (4 * (g % 2)) & 15;
            let sign = bytes[row] >> g & 1;
            let entry = usize::from(nibble | sign << 4);
            sum += i32::from(i16::from_le_bytes([table[2 * entry], table[2 * entry + 1]]));
        }
        sum
    });
}

fn gemv_bits(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, out: &mut [&mut Rows]) {
    gemv(
        blocks,
        acts,
        BIT_CHUNK_BYTES,
        |slot| slot,
        out,
        |chunk, bytes, row| {
            let q = &acts.of_chunk(chunk).q.as_chunks::<32>().0[chunk % 4];
            let mut sum = 0;
            for (half, q) in q.as_chunks::<16>().0.iter().enumerate() {
                let word = &bytes[4 * (half * BLOCK_ROWS + row)..][..4];
                for (i, byte) in word.iter().enumerate() {
                    for j in 0..4 {
                        sum += (i32::from(byte >> (2 * j) & 3) - 1) * i32::from(q[4 * j + i]);
                    }
                }
            }
            sum
        },
    );
}

fn gemv_signs(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, tables: &[u8], out: &mut [&mut Rows]) {
    let chunk_tables = tables.as_chunks::<{ 8 * SIGN_TABLE_BYTES }>().0;
    gemv(blocks, acts, BINARY_CHUNK_BYTES, slot_row, out, |chunk, bytes, row| {
        let mut sum = 0;
        for (g, table) in chunk_tables[chunk].as_chunks::<SIGN_TABLE_BYTES>().0.iter().enumerate() {
            let entry = usize::from(bytes[g / 2 * BLOCK_ROWS + row] >> (4 * (g % 2)) & 15);
            sum += i32::from(i16::from_le_bytes([table[2 * entry], table[2 * entry + 1]]));
        }
        sum
    });
}

/// The frame of all: `dot(chunk, bytes, row)` is the integer dot product of a chunk of `chunk_bytes` for one row,
/// `slot_row(slot)` the row of a group scale.
fn gemv(
    blocks: &[RowBlock<'_>],
    acts: TokenBlocks<'_>,
    chunk_bytes: usize,
    slot_row: impl Fn(usize) -> usize,
    out: &mut [&mut Rows],
    dot: impl Fn(usize, &[u8], usize) -> i32,
) {
    for (block, out) in blocks.iter().zip(out) {
        let mut acc = [0.0f32; BLOCK_ROWS];
        let mut scales = [1.0f32; BLOCK_ROWS];
        let mut stream = block.stream;
        let mut chunk = 0;
        while chunk < block.chunks {
            if block.starts_group(chunk) {
                let (head, rest) = stream.split_at(SCALE_BYTES);
                for (slot, &bits) in head.as_chunks::<2>().0.iter().enumerate() {
                    scales[slot_row(slot)] = f16_to_f32(u16::from_le_bytes(bits));
                }
                stream = rest;
            }
            let a_scale = acts.of_chunk(chunk).scale;
            let mut sums = [0i32; BLOCK_ROWS];
            let end = (chunk + block.segment_chunks()).min(block.chunks);
            while chunk < end {
                let (bytes, rest) = stream.split_at(chunk_bytes);
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum += dot(chunk, bytes, row);
                }
                stream = rest;
                chunk += 1;
            }
            for ((acc, sum), scale) in acc.iter_mut().zip(sums).zip(scales) {
                // With row scales the factor is a_scale itself: a product with 1 changes nothing.
                *acc += sum as f32 * (a_scale * scale);
            }
        }
        match block.row_scales {
            Some(scales) => {
                for ((out, acc), scale) in out.iter_mut().zip(acc).zip(scales) {
                    *out = acc * scale;
                }
            }
            None => **out = acc,
        }
    }
}
