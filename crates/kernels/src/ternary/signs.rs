//! Look-up of four signs at a time, the codes of the binary format: what its tables hold.
//!
//! The sum of four inputs under 16 patterns of signs, |T| <= 508, is kept as two digits of `T + 508` in base 32. Neither
//! is above 31, so that the digits of the eight codes of a chunk add up in unsigned bytes (8 x 31 < 256), and `low + 32
//! high` of a whole segment in int16 (32 x 1016 < 2^15). Signed digits would need one more bit: T = +-508 eight times over
//! goes past what int8 holds in any base.

/// Bytes of the tables of one code: the low digits of the 16 patterns, then the high ones.
pub(crate) const SIGN_TABLE_BYTES: usize = 32;
/// What is added to the sum of a code.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "wasm32")), allow(dead_code))]
pub(crate) const SIGN_OFFSET: i32 = 4 * 127;
/// What is added to the sum of a chunk of eight codes.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "wasm32")), allow(dead_code))]
pub(crate) const SIGN_CHUNK_OFFSET: i32 = 8 * SIGN_OFFSET;
