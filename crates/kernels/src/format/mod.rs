//! What the bytes mean: tensor types, block sizes, bit order. Plain safe Rust, no SIMD.

pub mod ggml;
pub mod half;
mod packed;
mod tensor_type;

pub use packed::{PackedLayout, PackedRows, QuadOrder, ScaleGroup, TernaryFormat};
pub use tensor_type::TensorType;
