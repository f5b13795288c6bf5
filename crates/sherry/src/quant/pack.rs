//! Ternary values of one row to codes (FORMAT.md).

use sherry_kernels::format::TernaryFormat;

use super::report::Sums;

/// Packs one row. `ternary` is in quad order, `codes` has the format's row bytes, all zero. Counts the codes in `sums`.
pub(super) fn pack_row(format: TernaryFormat, ternary: &[i8], codes: &mut [u8], sums: &mut Sums) {
    match format {
        TernaryFormat::Sherry => {
            let quads = ternary.as_chunks::<4>().0.iter();
            put_codes(quads.map(quad_code), codes, sums);
        }
        TernaryFormat::Ternary167 => {
            let (triples, rest) = ternary.as_chunks::<3>();
            let mut last = [0; 3];
            last[..rest.len()].copy_from_slice(rest);
            let rest = (!rest.is_empty()).then_some(last);
            put_codes(triples.iter().chain(&rest).map(triple_code), codes, sums);
        }
        TernaryFormat::Ternary2 => {
            for (j, &t) in ternary.iter().enumerate() {
                codes[j / 4] |= ((t + 1) as u8) << (2 * (j % 4));
            }
        }
    }
}

fn put_codes(stream: impl Iterator<Item = u8>, codes: &mut [u8], sums: &mut Sums) {
    for (g, code) in stream.enumerate() {
        let unit = &mut codes[g / 8 * 5..][..5];
        unit[g % 8 / 2] |= (code & 15) << (4 * (g % 2));
        unit[4] |= (code >> 4) << (g % 8);
        sums.add_code(code);
    }
}

fn quad_code(quad: &[i8; 4]) -> u8 {
    let zero = quad.iter().position(|&t| t == 0).unwrap_or(0);
    let mut kept = quad.iter().filter(|&&t| t != 0).map(|&t| t < 0);
    let first = kept.next().unwrap_or(false);
    let second = kept.next().unwrap_or(false) != first;
    let third = kept.next().unwrap_or(false) != first;
    (zero as u8) << 2 | u8::from(third) << 1 | u8::from(second) | u8::from(first) << 4
}

fn triple_code(triple: &[i8; 3]) -> u8 {
    let value = triple[0] + 3 * triple[1] + 9 * triple[2];
    value.unsigned_abs() | u8::from(value < 0) << 4
}
