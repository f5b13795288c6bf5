//! Packed ternary formats and the kernels that multiply them. No dependencies.
//!
//! All `unsafe` code of the project lives here (and in one file-mapping module of the library). This crate never reads
//! files, the environment or clocks.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod bytes;
mod coarse;
mod engine;
pub mod format;
mod generic;
#[cfg(all(test, any(target_os = "linux", target_os = "macos")))]
mod guard_tests;
mod huge;
mod isa;
mod kernels;
mod kv;
mod matrix;
mod panel;
mod pool;
pub mod probe;
mod rotation;
mod scalar;
mod ternary;
mod vector;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm32;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use bytes::Bytes;
pub use engine::{AttentionShape, Engine, KvHead, Precision, Product};
pub use isa::Isa;
pub use kv::{KvTiles, KvType};
pub use matrix::{Matrix, MatrixError};
pub use pool::{Claims, Pool};
