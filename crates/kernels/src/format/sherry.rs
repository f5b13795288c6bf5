//! The 5-bit codes of a 3:4-sparse quad (arXiv 2601.07892, section 3.2), in the assignment of GGUF's STQ1_0.
//!
//! A quad is four weights, exactly one of them zero: 4 * 2^3 = 32 patterns, so every code is legal.
//! - code bits 2..3: the lane that is zero;
//! - code bit 4 (the sign bit): the first non-zero lane is -1;
//! - code bit 0: the second non-zero lane has the opposite sign of the first; bit 1: same for the third.
//!
//! Flipping the sign bit negates the quad. Bits 0..3 are stored as the nibble, bit 4 in the plane of sign bits.

/// Weights per code.
pub const LANES: usize = 4;

/// The quad of a code; only the low 5 bits of `code` count.
pub const fn decode_quad(code: u8) -> [i8; 4] {
    let first = if code & 16 == 0 { 1 } else { -1 };
    let second = if code & 1 == 0 { first } else { -first };
    let third = if code & 2 == 0 { first } else { -first };
    match (code >> 2) & 3 {
        0 => [0, first, second, third],
        1 => [first, 0, second, third],
        2 => [first, second, 0, third],
        _ => [first, second, third, 0],
    }
}

/// The code of a quad, or `None` unless exactly one lane is 0 and the others are +1 or -1.
pub const fn encode_quad(quad: [i8; 4]) -> Option<u8> {
    let mut zero_lane = 4;
    let mut kept = [0i8; 3];
    let mut n = 0;
    let mut lane = 0;
    while lane < 4 {
        match quad[lane] {
            0 if zero_lane == 4 => zero_lane = lane,
            1 | -1 if n < 3 => {
                kept[n] = quad[lane];
                n += 1;
            }
            _ => return None,
        }
        lane += 1;
    }
    let sign = (kept[0] < 0) as u8;
    let second = (kept[1] != kept[0]) as u8;
    let third = (kept[2] != kept[0]) as u8;
    Some(sign << 4 | (zero_lane as u8) << 2 | third << 1 | second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_format_document() {
        for (code, quad) in [(0, [0, 1, 1, 1]), (5, [1, 0, -1, 1]), (16 | 10, [-1, -1, 0, 1]), (16 | 15, [-1, 1, 1, 0])]
        {
            assert_eq!(decode_quad(code), quad);
            assert_eq!(encode_quad(quad), Some(code));
        }
    }

    #[test]
    fn codes_and_legal_quads_are_one_to_one() {
        let mut legal = 0;
        for n in 0..625 {
            let quad = [n % 5, n / 5 % 5, n / 25 % 5, n / 125].map(|v| v as i8 - 2);
            let zeros = quad.iter().filter(|&&v| v == 0).count();
            let expected = zeros == 1 && quad.iter().all(|v| v.abs() <= 1);
            assert_eq!(encode_quad(quad).is_some(), expected, "{quad:?}");
            if let Some(code) = encode_quad(quad) {
                assert_eq!(decode_quad(code), quad);
                assert_eq!(decode_quad(code ^ 16), quad.map(|v| -v));
                legal += 1;
            }
        }
        assert_eq!(legal, 32);
        for code in 0..32 {
            assert_eq!(encode_quad(decode_quad(code)), Some(code));
        }
    }
}
