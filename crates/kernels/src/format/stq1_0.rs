//! GGUF's STQ1_0: Sherry codes in blocks of 256 weights, stride-16 quads.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 32 | nibbles: quad `g` in byte `g / 2`, low nibble for even `g` |
//! | 32 | 8 | sign bits: quad `g` at bit `g % 8` of byte `g / 8` |
//! | 40 | 2 | f16 scale, little endian |
//!
//! The bits are those of eight native units; only their places differ, so both directions are exact.

use super::packed::{PackedError, PackedLayout, PackedRows, QuadOrder, ScaleGroup, TernaryFormat, UNIT_BYTES};

/// Weights per block.
pub const BLOCK_LEN: usize = 256;
/// Bytes per block.
pub const BLOCK_BYTES: usize = 42;

/// Bytes of the native codes of one block: eight units.
const CODE_BYTES: usize = 8 * UNIT_BYTES;

/// The native codes of a block, and its scale (f16 bits).
pub fn block_to_codes(block: &[u8; BLOCK_BYTES]) -> ([u8; CODE_BYTES], u16) {
    let mut codes = [0; CODE_BYTES];
    for (u, unit) in codes.as_chunks_mut::<UNIT_BYTES>().0.iter_mut().enumerate() {
        unit[..4].copy_from_slice(&block[4 * u..4 * u + 4]);
        unit[4] = block[32 + u];
    }
    (codes, u16::from_le_bytes([block[40], block[41]]))
}

/// The block of native codes and a scale (f16 bits).
pub fn block_from_codes(codes: &[u8; CODE_BYTES], scale: u16) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    for (u, unit) in codes.as_chunks::<UNIT_BYTES>().0.iter().enumerate() {
        block[4 * u..4 * u + 4].copy_from_slice(&unit[..4]);
        block[32 + u] = unit[4];
    }
    block[40..].copy_from_slice(&scale.to_le_bytes());
    block
}

/// The layout of an STQ1_0 tensor as native rows.
pub fn layout(rows: usize, cols: usize) -> PackedLayout {
    PackedLayout {
        format: TernaryFormat::Sherry,
        rows,
        cols,
        order: QuadOrder::Stride16,
        scale: ScaleGroup::Group(BLOCK_LEN),
    }
}

/// The native codes of consecutive blocks.
///
/// # Panics
/// When `codes` is not as long as the blocks need.
pub fn unpack_codes(blocks: &[[u8; BLOCK_BYTES]], codes: &mut [u8]) {
    assert_eq!(codes.len(), blocks.len() * CODE_BYTES);
    for (block, codes) in blocks.iter().zip(codes.as_chunks_mut::<CODE_BYTES>().0) {
        *codes = block_to_codes(block).0;
    }
}

/// An STQ1_0 tensor as native rows.
///
/// # Errors
/// [`PackedError`] when shape and size do not fit, or a scale is not finite.
pub fn to_packed(rows: usize, cols: usize, blocks: &[u8]) -> Result<PackedRows, PackedError> {
    let count = check_size(rows, cols, blocks.len())?;
    let (blocks, _) = blocks.as_chunks::<BLOCK_BYTES>();
    let mut codes = vec![0; count * CODE_BYTES];
    unpack_codes(blocks, &mut codes);
    let scales = blocks.iter().map(|block| u16::from_le_bytes([block[40], block[41]])).collect();
    let packed = PackedRows { layout: layout(rows, cols), codes, scales };
    packed.validate()?;
    Ok(packed)
}

/// The number of blocks of a tensor of `bytes` bytes.
///
/// # Errors
/// [`PackedError`] when shape and size do not fit.
pub fn check_size(rows: usize, cols: usize, bytes: usize) -> Result<usize, PackedError> {
    if !cols.is_multiple_of(BLOCK_LEN) {
        return Err(PackedError::Columns { cols, multiple: BLOCK_LEN });
    }
    layout(rows, cols).check()?;
    let blocks = rows * (cols / BLOCK_LEN);
    if bytes != blocks * BLOCK_BYTES {
        return Err(PackedError::CodesSize { expected: blocks * BLOCK_BYTES, found: bytes });
    }
    Ok(blocks)
}

/// The STQ1_0 blocks of native rows.
///
/// # Errors
/// [`PackedError`] when the tensor is not valid, not in stride-16 Sherry codes, has groups other than 256, or columns
/// that are not whole blocks.
pub fn from_packed(packed: &PackedRows) -> Result<Vec<u8>, PackedError> {
    packed.validate()?;
    let PackedLayout { format, cols, order, scale, .. } = packed.layout;
    if format != TernaryFormat::Sherry || order != QuadOrder::Stride16 {
        return Err(PackedError::Order);
    }
    if let ScaleGroup::Group(size) = scale
        && size != BLOCK_LEN
    {
        return Err(PackedError::Group { size });
    }
    if !cols.is_multiple_of(BLOCK_LEN) {
        return Err(PackedError::Columns { cols, multiple: BLOCK_LEN });
    }
    let blocks_per_scale = match scale {
        ScaleGroup::Tensor | ScaleGroup::Row => cols / BLOCK_LEN,
        ScaleGroup::Group(_) => 1,
    };
    let (codes, _) = packed.codes.as_chunks::<CODE_BYTES>();
    Ok(codes
        .iter()
        .enumerate()
        .flat_map(|(i, codes)| block_from_codes(codes, packed.scales[i / blocks_per_scale]))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block written out by hand from the table above: every quad is `0+++` (code 0) except
    /// quad 1 = +0-+ (nibble 5), quad 2 = --0+ (nibble 10, sign), quad 63 = -++0 (nibble 15, sign).
    fn block_by_hand() -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[0] = 0x50;
        block[1] = 0x0a;
        block[31] = 0xf0;
        block[32] = 0b0000_0100;
        block[39] = 0b1000_0000;
        block[40] = 0x00; // 0.5 = 0x3800
        block[41] = 0x38;
        block
    }

    #[test]
    fn a_block_by_hand() {
        let packed = to_packed(1, 256, &block_by_hand()).unwrap();
        let mut expected = [0i8; 256];
        for chunk in 0..4 {
            for quad in 0..16 {
                let lanes = match 16 * chunk + quad {
                    1 => [1, 0, -1, 1],
                    2 => [-1, -1, 0, 1],
                    63 => [-1, 1, 1, 0],
                    _ => [0, 1, 1, 1],
                };
                for (lane, value) in lanes.into_iter().enumerate() {
                    expected[64 * chunk + quad + 16 * lane] = value;
                }
            }
        }
        let mut values = [0; 256];
        assert_eq!(packed.decode_row(0, &mut values), [0x3800]);
        assert_eq!(values, expected);
        let mut row = [0.0; 256];
        packed.row_f32(0, &mut row);
        assert!(row.iter().zip(expected).all(|(&row, v)| row == 0.5 * f32::from(v)));
        assert_eq!(from_packed(&packed).unwrap(), block_by_hand());
    }

    #[test]
    fn any_bytes_round_trip() {
        let (rows, cols) = (3, 512);
        let mut bytes: Vec<u8> = (0..6 * BLOCK_BYTES).map(|i| (i * 37 + i / 7) as u8).collect();
        for block in bytes.as_chunks_mut::<BLOCK_BYTES>().0 {
            block[41] &= 0x3f; // a finite scale
        }
        let packed = to_packed(rows, cols, &bytes).unwrap();
        assert_eq!(from_packed(&packed).unwrap(), bytes);
    }

    #[test]
    fn row_scales_are_repeated_in_every_block() {
        let mut packed = to_packed(2, 512, &block_by_hand().repeat(4)).unwrap();
        packed.layout.scale = ScaleGroup::Row;
        packed.scales = vec![0x3c00, 0x4000];
        let blocks = from_packed(&packed).unwrap();
        let scales: Vec<u8> = blocks.as_chunks::<BLOCK_BYTES>().0.iter().map(|b| b[41]).collect();
        assert_eq!(scales, [0x3c, 0x3c, 0x40, 0x40]);
    }

    #[test]
    fn misfits_are_refused() {
        assert_eq!(to_packed(1, 128, &[0; 21]), Err(PackedError::Columns { cols: 128, multiple: 256 }));
        assert_eq!(to_packed(2, 256, &[0; 42]), Err(PackedError::CodesSize { expected: 84, found: 42 }));
        let mut block = block_by_hand();
        block[41] = 0x7e;
        assert_eq!(to_packed(1, 256, &block), Err(PackedError::Scale { row: 0, group: 0 }));
    }
}
