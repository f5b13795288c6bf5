//! Packed ternary formats and the kernels that multiply them. No dependencies.
//!
//! All `unsafe` code of the project lives here (and in one file-mapping module of the library). This crate never reads
//! files, the environment or clocks.

mod arch;
mod bytes;
mod coarse;
mod engine;
mod error;
pub mod format;
mod generic;
#[cfg(all(test, any(target_os = "linux", target_os = "macos")))]
mod guard_tests;
mod huge;
mod isa;
mod kv;
mod lines;
mod matrix;
mod panel;
pub mod plain;
mod pool;
pub mod probe;
mod rotation;
mod splitmix;
mod table;
mod ternary;
mod vector;

pub use bytes::Bytes;
pub use engine::Engine;
pub use engine::attention::{AttentionShape, KvHead};
pub use engine::matmul::{Precision, Product};
pub use error::MatrixError;
pub use isa::Isa;
pub use kv::{KvTiles, KvType};
pub use matrix::Matrix;
pub use pool::Pool;
pub use pool::claims::Claims;
pub use splitmix::SplitMix64;
