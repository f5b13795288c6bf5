//! What a quantized weight may be: a scale times a value of a grid.

use sherry_kernels::format::half::{f16_to_f32, f32_to_f16};
use sherry_kernels::format::{QuadOrder, TensorType, ggml};

use crate::methods::sparse_codes;

/// The values that weights may have, before their scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// -1, 0 and +1 with exactly one zero among four neighbours (arXiv 2601.07892).
    Sparse34,
    /// -1, 0 and +1.
    Ternary,
    /// `2^bits` values one apart, symmetric about zero: -1.5, -0.5, 0.5, 1.5 for two bits.
    Steps {
        /// 2 to 7.
        bits: u32,
    },
    /// The whole numbers of a range; scales may be negative.
    Levels {
        /// The smallest.
        low: i8,
        /// The largest.
        high: i8,
    },
}

/// The sixteen patterns of a quad up to their sign.
pub(super) const PATTERNS: [[f32; 4]; 16] = [
    [0.0, 1.0, 1.0, 1.0],
    [0.0, 1.0, 1.0, -1.0],
    [0.0, 1.0, -1.0, 1.0],
    [0.0, 1.0, -1.0, -1.0],
    [1.0, 0.0, 1.0, 1.0],
    [1.0, 0.0, 1.0, -1.0],
    [1.0, 0.0, -1.0, 1.0],
    [1.0, 0.0, -1.0, -1.0],
    [1.0, 1.0, 0.0, 1.0],
    [1.0, 1.0, 0.0, -1.0],
    [1.0, -1.0, 0.0, 1.0],
    [1.0, -1.0, 0.0, -1.0],
    [1.0, 1.0, 1.0, 0.0],
    [1.0, 1.0, -1.0, 0.0],
    [1.0, -1.0, 1.0, 0.0],
    [1.0, -1.0, -1.0, 0.0],
];

impl Grid {
    /// The whole numbers of a type that has one scale per block, and whose codes are worth choosing with regard to each other:
    /// eight bits are as good as exact.
    pub fn of_type(ty: TensorType) -> Option<Self> {
        let (low, high) = ggml::level_range(ty).filter(|_| ty != TensorType::Q8_0)?;
        Some(Self::Levels { low, high })
    }

    /// The smallest and the largest value.
    pub fn bounds(self) -> (f32, f32) {
        match self {
            Self::Sparse34 | Self::Ternary => (-1.0, 1.0),
            Self::Steps { bits } => (-Self::top(bits), Self::top(bits)),
            Self::Levels { low, high } => (f32::from(low), f32::from(high)),
        }
    }

    fn top(bits: u32) -> f32 {
        (1u32 << (bits - 1)) as f32 - 0.5
    }

    /// The values nearest to `x`, in units of the scale, of a row or a part of one with whole quads in the order `quads`.
    pub fn nearest_row(self, x: &[f32], quads: QuadOrder, out: &mut [f32]) {
        if self == Self::Sparse34 {
            return sparse_codes(x, quads, out);
        }
        out.iter_mut().zip(x).for_each(|(out, x)| *out = self.nearest(*x));
    }

    /// The value nearest to `x`, for grids whose weights are chosen one by one.
    #[inline(always)]
    pub(super) fn nearest(self, x: f32) -> f32 {
        match self {
            Self::Sparse34 | Self::Ternary => {
                let up: f32 = if x > 0.5 { 1.0 } else { 0.0 };
                if x < -0.5 { -1.0 } else { up }
            }
            Self::Steps { bits } => {
                let top = Self::top(bits);
                (x.floor() + 0.5).clamp(-top, top)
            }
            Self::Levels { low, high } => ggml::nearest_level(x, (low, high)),
        }
    }

    /// The grid values nearest to `w / scale` without regard to anything else, and the scale, for weights that share one.
    pub(super) fn project(self, w: &[f32], t: &mut [f32]) -> f32 {
        let mean = w.iter().map(|w| f64::from(w.abs())).sum::<f64>() / w.len() as f64;
        match self {
            Self::Sparse34 => {
                let mut kept = 0.0f64;
                for (w, t) in w.as_chunks::<4>().0.iter().zip(t.as_chunks_mut::<4>().0) {
                    let zero = (1..4).fold(0, |zero, i| if w[i].abs() < w[zero].abs() { i } else { zero });
                    for i in 0..4 {
                        t[i] = if i == zero { 0.0 } else { 1.0f32.copysign(w[i]) };
                        kept += if i == zero { 0.0 } else { f64::from(w[i].abs()) };
                    }
                }
                usable((kept / (0.75 * w.len() as f64)) as f32)
            }
            Self::Ternary => {
                // 1.25 of the mean magnitude is near the best scale of normally distributed weights.
                let scale = usable((1.25 * mean) as f32);
                w.iter().zip(t).for_each(|(w, t)| *t = self.nearest(w / scale));
                scale
            }
            Self::Steps { bits } => {
                // The best steps of a uniform quantizer of normally distributed numbers, in standard deviations
                // (Max 1960, table II), for 2 to 8 bits.
                const STEPS: [f64; 7] = [0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308];
                let square = w.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>() / w.len() as f64;
                let step = STEPS[(bits as usize).clamp(2, 8) - 2];
                let scale = usable((step * square.sqrt()) as f32);
                w.iter().zip(t).for_each(|(w, t)| *t = self.nearest(w / scale));
                scale
            }
            Self::Levels { low, high } => {
                let mut levels = vec![0i8; w.len()];
                // Of weights that no scale holds nothing is known yet; descent fits another.
                let scale = signed(ggml::fit_levels(w, (low, high), &mut levels).unwrap_or(0.0));
                w.iter().zip(t).for_each(|(w, t)| *t = self.nearest(w / scale));
                scale
            }
        }
    }
}

/// The smallest scale: what f16 can hold with all its digits.
const SMALLEST: f32 = 6.2e-5;

/// [`usable`], with the sign of `scale`.
pub(super) fn signed(scale: f32) -> f32 {
    usable(scale.abs()).copysign(scale)
}

/// `scale` as it can be stored: a positive f16.
pub fn usable(scale: f32) -> f32 {
    let scale = if scale.is_finite() { scale.clamp(SMALLEST, 65504.0) } else { SMALLEST };
    f16_to_f32(f32_to_f16(scale))
}
