//! From an instruction set to its functions: the only room that names those of the instruction sets.

use crate::isa::Isa;
use crate::table::Table;

/// The functions of `isa`; `None` where the processor does not have it.
pub(crate) fn table(isa: Isa) -> Option<&'static Table> {
    isa.is_available().then(|| of(isa))
}

/// [`table`] of an instruction set that must be available.
///
/// # Panics
/// When it is not.
pub(crate) fn expect(isa: Isa) -> &'static Table {
    table(isa).unwrap_or_else(|| panic!("{isa} is not available on this processor"))
}

/// The functions of the best instruction set that this processor has.
pub(crate) fn best() -> &'static Table {
    of(Isa::best())
}

/// The functions that need no particular instruction set.
pub(crate) fn scalar() -> &'static Table {
    of(Isa::Scalar)
}

/// The table of an available instruction set.
fn of(isa: Isa) -> &'static Table {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &super::x86::avx2::TABLE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2Gfni => &super::x86::avx2::GFNI,
        // The tier is found by either encoding of its instructions; without this one it is the other.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni if is_x86_feature_detected!("avxvnni") => &super::x86::avx2::VNNI_VEX,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => &super::x86::avx2::VNNI_EVEX,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &super::x86::avx512::TABLE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => &super::x86::avx512::VNNI,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vbmi => &super::x86::avx512::VBMI,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => &super::aarch64::neon::TABLE,
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => &super::aarch64::dotprod::TABLE,
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::Simd128 => &super::wasm32::TABLE,
        // Those of other architectures are never available.
        #[cfg(not(all(feature = "lean", target_arch = "wasm32", target_feature = "simd128")))]
        _ => &super::scalar::TABLE,
        #[cfg(all(feature = "lean", target_arch = "wasm32", target_feature = "simd128"))]
        _ => &super::wasm32::TABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a table was compiled for, the processor was asked for before it was given out.
    #[test]
    fn every_feature_that_a_table_uses_is_asked_for() {
        for isa in Isa::ALL {
            let Some(table) = table(isa) else { continue };
            let ternary = &table.ternary;
            let decoded = ternary.decoded.as_ref().map(|decoded| decoded.features);
            let look_up = ternary.look_up.map(|look_up| look_up.features);
            let lists = [Some(table.features), Some(ternary.features), Some(table.limits.features), decoded, look_up];
            let found = isa.features();
            for feature in lists.into_iter().flatten().flat_map(|list| list.split(',')).filter(|name| !name.is_empty())
            {
                assert!(found.contains(&(feature, true)), "{isa} uses {feature}");
            }
        }
    }
}
