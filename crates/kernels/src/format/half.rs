//! f16 and bf16 bit patterns to and from f32, round to nearest even, subnormals included.

/// IEEE 754 binary16 bits to f32 (exact).
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let value = match magnitude {
        // Subnormal: the integer mantissa times 2^-24 is exact in f32.
        0..=0x03ff => (magnitude as f32 * f32::from_bits(0x3380_0000)).to_bits(),
        0x0400..=0x7bff => (magnitude << 13) + 0x3800_0000,
        _ => (magnitude << 13) | 0x7f80_0000,
    };
    f32::from_bits(sign | value)
}

/// f32 to IEEE 754 binary16 bits, round to nearest even; overflow gives infinity, NaN stays NaN.
#[inline]
pub fn f32_to_f16(value: f32) -> u16 {
    // All cases are computed and one is taken, so that loops become vector instructions.
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let odd = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_sub(0x3800_0000).wrapping_add(0x0fff + odd) >> 13;
    // Adding 0.5 aligns the mantissa so that the FPU rounds it for us.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let number = if magnitude >= 0x477f_f000 { 0x7c00 } else { finite };
    let half = if magnitude > 0x7f80_0000 { 0x7e00 } else { number };
    (half | ((bits >> 16) & 0x8000)) as u16
}

/// bfloat16 bits to f32 (exact).
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// f32 to bfloat16 bits, round to nearest even; NaN stays NaN.
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return ((bits >> 16) | 0x40) as u16;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_round_trips() {
        for bits in 0..=u16::MAX {
            let value = f16_to_f32(bits);
            if value.is_nan() {
                assert!(f16_to_f32(f32_to_f16(value)).is_nan());
            } else {
                assert_eq!(f32_to_f16(value), bits);
            }
        }
    }

    #[test]
    fn f32_to_f16_rounds_to_nearest_even() {
        assert_eq!(f32_to_f16(2049.0), f32_to_f16(2048.0));
        assert_eq!(f32_to_f16(2051.0), f32_to_f16(2052.0));
        assert_eq!(f32_to_f16(65519.0), 0x7bff);
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(2.0f32.powi(-25)), 0);
        assert_eq!(f32_to_f16(2.0f32.powi(-25) * 1.01), 1);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn f32_to_f16_is_that_of_the_processor() {
        use std::arch::x86_64::{_MM_FROUND_TO_NEAREST_INT, _mm_cvtps_ph, _mm_cvtsi128_si32, _mm_set_ss};

        #[target_feature(enable = "f16c")]
        fn processor(value: f32) -> u16 {
            _mm_cvtsi128_si32(_mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(value))) as u16
        }

        if !std::arch::is_x86_feature_detected!("f16c") {
            eprintln!("skipped: no f16c");
            return;
        }
        // Every exponent, with mantissas on both sides of all ties.
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x2fff, 0x3000, 0x3001, 0xffff] {
                let value = f32::from_bits(u32::from(high) << 16 | low);
                // SAFETY: f16c was asked for above.
                let expected = unsafe { processor(value) };
                let found = f32_to_f16(value);
                assert!(found == expected || value.is_nan() && found & 0x7e00 == 0x7e00, "{value:e}");
            }
        }
    }

    #[test]
    fn every_bf16_round_trips() {
        for bits in 0..=u16::MAX {
            let value = bf16_to_f32(bits);
            if !value.is_nan() {
                assert_eq!(f32_to_bf16(value), bits);
            }
        }
    }
}
