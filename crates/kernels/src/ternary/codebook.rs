//! What codes mean.

use super::activations::Arrangement;
use crate::format::{sherry, triple};

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
    pub(crate) const SHERRY: &Self = &Self::new(&{
        let (mut codes, mut code) = ([[0; 4]; 32], 0);
        while code < 32 {
            codes[code] = sherry::decode_quad(code as u8);
            code += 1;
        }
        codes
    });
    /// Dense triples; illegal codes are zeros, as is lane 3.
    pub(crate) const TRIPLES: &Self = &Self::new(&{
        let (mut codes, mut code) = ([[0; 4]; 32], 0);
        while code < 32 {
            if let Some([a, b, c]) = triple::decode_triple(code as u8) {
                codes[code] = [a, b, c, 0];
            }
            code += 1;
        }
        codes
    });
    /// Four signs. These codes have four bits; a fifth, junk of the look-up, changes nothing.
    pub(crate) const SIGNS: &Self = &Self::new(&{
        let (mut codes, mut code) = ([[-1; 4]; 32], 0);
        while code < 32 {
            let mut lane = 0;
            while lane < 4 {
                if code >> lane & 1 == 1 {
                    codes[code][lane] = 1;
                }
                lane += 1;
            }
            code += 1;
        }
        codes
    });

    const fn new(codes: &[[i8; 4]; 32]) -> Self {
        let mut book = Self { pairs_01: [1; 64], pairs_23: [1; 64], lanes: [[1; 32]; 4] };
        let mut code = 0;
        while code < 32 {
            let mut lane = 0;
            while lane < 4 {
                let byte = (codes[code][lane] + 1) as u8;
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

    /// What the codes mean that an input is arranged for; `None` for 2-bit fields.
    pub(crate) fn of(arrangement: Arrangement) -> Option<&'static Self> {
        match arrangement {
            Arrangement::Quads | Arrangement::Stride16 => Some(Self::SHERRY),
            Arrangement::Triples => Some(Self::TRIPLES),
            Arrangement::Signs => Some(Self::SIGNS),
            Arrangement::Fields => None,
        }
    }

    /// The weights of a code below 32.
    pub(crate) fn weights(&self, code: usize) -> [i8; 4] {
        std::array::from_fn(|lane| self.lanes[lane][code] as i8 - 1)
    }
}
