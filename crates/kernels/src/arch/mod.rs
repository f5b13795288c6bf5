//! The instruction sets, one room each, with the same function names in all, and the [`dispatch`] that chooses among them.
//!
//! The rooms are private, so that [`dispatch`] is the only way to what is compiled for a processor, and it asks the
//! processor first. `scalar` is the oracle.

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub(crate) mod dispatch;
// Of which a small program uses little.
#[cfg_attr(all(feature = "lean", target_arch = "wasm32", target_feature = "simd128"), allow(dead_code))]
mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm32;
#[cfg(target_arch = "x86_64")]
mod x86;
