//! The algorithms, once for every instruction set, over [`Floats`](crate::vector::Floats) and
//! [`RowLanes`](crate::vector::RowLanes).
//!
//! Each is `#[inline(always)]` and becomes part of a function compiled for one instruction set (see
//! [`table`](crate::table)); calling one directly would leave every vector operation a function call.
//!
//! "The instruction set of `V` is available" is the first condition of nearly all `unsafe` functions here. It holds because
//! the only way in is a table, and [`dispatch`](crate::arch::dispatch) gives one out only after asking the processor;
//! inside an algorithm every function passes on what its own `# Safety` section lets it rely on.
//!
//! Order of float sums: fixed by the shape of one output alone. It depends on the number of lanes, so that instruction
//! sets differ in the last bits, but never on how many tokens or rows are computed together or by which thread.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod coarse;
pub(crate) mod dense;
pub(crate) mod limits;
#[cfg(any(target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128")))]
pub(crate) mod look_up;
pub(crate) mod panel;
#[cfg(any(target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128")))]
pub(crate) mod ternary;
