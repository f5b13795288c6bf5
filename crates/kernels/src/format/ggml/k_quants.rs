//! The k-quants: blocks of 256 values in groups of 16 or 32, each group with a small integer scale (and minimum) that a
//! f16 `d` (and `dmin`) of the block multiplies.

use super::scale::f16_at;

/// 16 bytes of scales (low nibble) and minima (high nibble) per group of 16, 64 bytes of 2-bit quants, `d`, `dmin`:
/// `(d * scale) * q - dmin * min`. Byte `32h + i` holds values `128h + 32s + i` at bits `2s`.
pub(super) fn decode_q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[group] & 15);
        let min = dmin * f32::from(block[group] >> 4);
        let (half, shift, start) = (group / 8, group % 8 / 2 * 2, group % 2 * 16);
        for (i, o) in out.iter_mut().enumerate() {
            *o = scale * f32::from(block[16 + 32 * half + start + i] >> shift & 3) - min;
        }
    }
}

/// 32 bytes of third bits, 64 bytes of 2-bit quants (as in Q2_K), 12 bytes of 6-bit scales per group of 16, `d`:
/// `(d * (scale - 32)) * (q - 4)`. The third bit of value `32b + i` is bit `b` of byte `i`.
pub(super) fn decode_q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_at(block, 108);
    let scales = &block[96..108];
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        let (half, shift, start) = (group / 8, group % 8 / 2 * 2, group % 2 * 16);
        for (i, o) in out.iter_mut().enumerate() {
            let low = block[32 + 32 * half + start + i] >> shift & 3;
            let high = block[start + i] >> (group / 2) & 1;
            *o = scale * f32::from((low | high << 2) as i8 - 4);
        }
    }
}

/// Scale and minimum (6 bits each) of group `group` of a Q4_K or Q5_K block; `packed` is its 12 bytes.
fn scale_min(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, min) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// `d`, `dmin`, 12 bytes of 6-bit scales and minima per group of 32, 128 bytes of nibbles:
/// `(d * scale) * q - dmin * min`. Byte `32j + i` holds value `64j + i` (low) and `64j + 32 + i` (high).
pub(super) fn decode_q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(&block[4..16], group);
        let (scale, min) = (d * scale, dmin * min);
        let shift = group % 2 * 4;
        for (o, q) in out.iter_mut().zip(&block[16 + group / 2 * 32..]) {
            *o = scale * f32::from(q >> shift & 15) - min;
        }
    }
}

/// As Q4_K with 32 bytes of fifth bits before the nibbles: that of value `32g + i` is bit `g` of byte `i`.
pub(super) fn decode_q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(&block[4..16], group);
        let (scale, min) = (d * scale, dmin * min);
        let shift = group % 2 * 4;
        for (i, o) in out.iter_mut().enumerate() {
            let low = block[48 + group / 2 * 32 + i] >> shift & 15;
            let high = block[16 + i] >> group & 1;
            *o = scale * f32::from(low | high << 4) - min;
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 int8 scales per group of 16, `d`:
/// `(d * scale) * (q - 32)`. In half `h`, values `32s + i` (s = 0..3) take their nibble from byte `64h + 32(s%2) + i`
/// (low for s < 2) and their high bits from byte `32h + i` at bits `2s`.
pub(super) fn decode_q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = f16_at(block, 208);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[192 + group] as i8);
        let (half, strip, start) = (group / 8, group % 8 / 2, group % 2 * 16);
        for (i, o) in out.iter_mut().enumerate() {
            let low = block[64 * half + 32 * (strip % 2) + start + i] >> (strip / 2 * 4) & 15;
            let high = block[128 + 32 * half + start + i] >> (strip * 2) & 3;
            *o = scale * f32::from((low | high << 4) as i8 - 32);
        }
    }
}
