//! The 5-bit codes of three dense ternary weights (the 1.67-bit class of BitNet's TL2, arXiv 2502.11880).
//!
//! A triple `(a, b, c)` is the balanced ternary number `n = 9a + 3b + c`, -13..=13. The low 4 bits of the code are
//! `|n|`, bit 4 is set when `n < 0`. Legal codes: `|n| <= 13`, and no sign on zero (27 of 32).

/// Weights per code.
pub const LANES: usize = 3;

/// The triple of a code below 32, or `None` for the five illegal ones.
pub const fn decode_triple(code: u8) -> Option<[i8; 3]> {
    let magnitude = (code & 15) as i8;
    if code > 31 || magnitude > 13 || code == 16 {
        return None;
    }
    let n = if code & 16 == 0 { magnitude } else { -magnitude };
    // Adding 13 = (1, 1, 1) makes the balanced digits ordinary ones.
    let n = n + 13;
    Some([n / 9 - 1, n / 3 % 3 - 1, n % 3 - 1])
}

/// The code of a triple, or `None` when a value is not -1, 0 or +1.
pub const fn encode_triple(triple: [i8; 3]) -> Option<u8> {
    let [a, b, c] = triple;
    if a < -1 || a > 1 || b < -1 || b > 1 || c < -1 || c > 1 {
        return None;
    }
    let n = 9 * a + 3 * b + c;
    Some(if n < 0 { 16 | (-n) as u8 } else { n as u8 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_triples_are_one_to_one() {
        let mut seen = [false; 32];
        for n in 0..27 {
            let triple = [n / 9, n / 3 % 3, n % 3].map(|v| v as i8 - 1);
            let code = encode_triple(triple).unwrap();
            assert_eq!(decode_triple(code), Some(triple));
            assert!(!std::mem::replace(&mut seen[code as usize], true));
            if code != 0 {
                assert_eq!(decode_triple(code ^ 16), Some(triple.map(|v| -v)));
            }
        }
        for code in 0..=255 {
            assert_eq!(decode_triple(code).is_some(), code < 32 && seen[code as usize], "{code}");
        }
        assert_eq!(encode_triple([2, 0, 0]), None);
        assert_eq!(encode_triple([0, 0, -2]), None);
    }
}
