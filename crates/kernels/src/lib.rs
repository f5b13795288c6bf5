//! Packed ternary weights, and products with them as fast as memory delivers: formats, a set of kernels for every
//! instruction set, and the threads that run them. No dependencies.
//!
//! Weights become a [`Matrix`], whatever they are stored as, and an [`Engine`] multiplies with it:
//!
//! ```
//! use sherry_kernels::format::{PackedLayout, QuadOrder, ScaleGroup, TernaryFormat};
//! use sherry_kernels::{Engine, Isa, Matrix, Precision, Product};
//!
//! // Two rows of eight weights at 1.25 bits: one of each four is zero, and a row shares a scale.
//! let (format, order) = (TernaryFormat::Sherry, QuadOrder::Contiguous);
//! let layout = PackedLayout { format, rows: 2, cols: 8, order, scale: ScaleGroup::Row };
//! let mut codes = vec![0; 2 * layout.row_bytes()];
//! let (first, second) = codes.split_at_mut(layout.row_bytes());
//! layout.encode_row(&[1, 0, -1, 1, 1, 1, 0, 1], first)?;
//! layout.encode_row(&[-1, -1, -1, 0, 0, 1, 1, 1], second)?;
//! let scales = [0x3800u16, 0x3c00].map(u16::to_le_bytes); // 0.5 and 1 as f16
//! let w = Matrix::from_packed(layout, &codes, scales.as_flattened())?;
//!
//! let mut engine = Engine::new(Isa::best(), 2, Precision::Int8);
//! let (x, mut y) = ([1.0; 8], [0.0; 2]);
//! engine.matmul(&x, 1, &mut [Product { w: &w, y: &mut y }]);
//! assert!((y[0] - 2.0).abs() < 1e-5 && y[1].abs() < 1e-5);
//! # Ok::<(), sherry_kernels::MatrixError>(())
//! ```
//!
//! | | |
//! |---|---|
//! | [`Matrix`] | weights in the form that kernels execute |
//! | [`Engine`] | products, attention and the rest of a forward pass, on one instruction set and some threads |
//! | [`Isa`] | the instruction sets; `Isa::Scalar` is the oracle, whose whole-number results all others equal bit for bit |
//! | [`KvTiles`] | the layout of keys and values |
//! | [`Pool`] | threads that enter and leave a region in less than a microsecond |
//! | [`mod@format`] | what the bytes of stored tensors mean, in plain safe Rust |
//! | [`plain`], [`SplitMix64`] | rounding, exponentials and random numbers that give the same bits everywhere |
//! | [`probe`] | what a processor can do at most |
//!
//! Results depend neither on the number of threads nor on what is computed together: a token's product is the same alone
//! and among a thousand.
//!
//! All `unsafe` code of the project lives here, but for one file of the library, which maps memory, and one call in
//! `sherry_sgemm`. This crate never reads files, the environment or clocks.

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

pub use bytes::{Bytes, Memory};
pub use engine::Engine;
pub use engine::attention::{AttentionShape, KvHead};
pub use engine::matmul::{Precision, Product};
pub use engine::top::Largest;
pub use error::MatrixError;
pub use isa::Isa;
pub use kv::{KvTiles, KvType};
pub use matrix::{Matrix, TernaryBits};
pub use pool::Pool;
pub use pool::claims::Claims;
#[cfg(all(target_family = "wasm", target_feature = "atomics"))]
pub use pool::hosted;
pub use splitmix::SplitMix64;
