//! Numbers on the command line: whatever option has one, what is wrong with it is said in the same words.

use std::ops::RangeInclusive;

/// Largest number that makes sense as a rate, a factor or a divergence.
const LARGEST: f64 = 1e12;

/// A whole number in `range`.
///
/// # Errors
/// What is expected instead of `text`.
pub fn whole<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| match (range.start(), range.end()) {
        (low, &u64::MAX) => format!("expected a whole number, at least {low}"),
        (low, high) => format!("expected a whole number from {low} to {high}"),
    })
}

/// A number in `range`; neither infinities nor NaN are.
///
/// # Errors
/// What is expected instead of `text`.
pub fn real(text: &str, range: RangeInclusive<f64>) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| match (range.start(), range.end()) {
        (low, &LARGEST) => format!("expected a number, at least {low}"),
        (low, high) => format!("expected a number from {low} to {high}"),
    })
}

/// A count of anything, none included.
pub fn count(text: &str) -> Result<usize, String> {
    whole(text, 0..=u64::MAX)
}

/// A count of at least one.
pub fn positive(text: &str) -> Result<usize, String> {
    whole(text, 1..=u64::MAX)
}

/// What a generator of random numbers begins with.
pub fn seed(text: &str) -> Result<u64, String> {
    whole(text, 0..=u64::MAX)
}

/// A port of this machine; 0 stands for any free one.
pub fn port(text: &str) -> Result<u16, String> {
    whole(text, 0..=u64::from(u16::MAX))
}

/// A rate, a factor, a divergence.
pub fn not_negative(text: &str) -> Result<f64, String> {
    real(text, 0.0..=LARGEST)
}

/// The same in single precision.
pub fn not_negative_f32(text: &str) -> Result<f32, String> {
    not_negative(text).map(|number| number as f32)
}

/// A part of a whole.
pub fn share(text: &str) -> Result<f64, String> {
    real(text, 0.0..=1.0)
}

/// Mean bits per weight.
pub fn bits(text: &str) -> Result<f64, String> {
    real(text, 1.0..=32.0)
}

/// Bytes: 40MB, 1.5GB, 38MiB, 40000000.
///
/// # Errors
/// What is expected instead of `text`.
pub fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 7] = [
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("B", 1.0),
    ];
    let unit = |(name, bytes): (&str, f64)| {
        let at = text.len().checked_sub(name.len()).filter(|at| text.is_char_boundary(*at))?;
        let (number, unit) = text.split_at(at);
        unit.eq_ignore_ascii_case(name).then_some((number, bytes))
    };
    let (number, unit) = UNITS.into_iter().find_map(unit).unwrap_or((text, 1.0));
    let expected = || "expected a size such as 40MB, 1.5GB or 38MiB".to_owned();
    let size = real(number.trim_end(), 0.0..=LARGEST).map_err(|_| expected())? * unit;
    if (1.0..=1e15).contains(&size) { Ok(size as u64) } else { Err(expected()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("40MB", 40_000_000),
            ("1.5gb", 1_500_000_000),
            ("2 MiB", 2_097_152),
            ("7KB", 7000),
            ("12345", 12_345),
            ("9B", 9),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MB", "-1MB", "4XB", "0", "NaNMB", "1e99GB", "ü", "4 0MB"] {
            assert!(size(bad).unwrap_err().contains("40MB"), "{bad}");
        }
    }

    #[test]
    fn what_is_expected_is_said() {
        assert_eq!((count("0"), positive("7"), seed("18446744073709551615")), (Ok(0), Ok(7), Ok(u64::MAX)));
        for bad in ["", "x", "-1", "1.5", "1e3", "0x10", " 1", "99999999999999999999"] {
            assert_eq!(count(bad).unwrap_err(), "expected a whole number, at least 0", "{bad}");
            assert_eq!(port(bad).unwrap_err(), "expected a whole number from 0 to 65535", "{bad}");
        }
        assert_eq!(positive("0").unwrap_err(), "expected a whole number, at least 1");
        assert!(port("65536").is_err());
        assert_eq!((not_negative("1e-3"), share("1"), not_negative_f32("0.5")), (Ok(0.001), Ok(1.0), Ok(0.5)));
        for bad in ["", "x", "-0.1", "NaN", "inf", "1e99", "1,5"] {
            assert_eq!(not_negative(bad).unwrap_err(), "expected a number, at least 0", "{bad}");
            assert_eq!(share(bad).unwrap_err(), "expected a number from 0 to 1", "{bad}");
        }
    }
}
