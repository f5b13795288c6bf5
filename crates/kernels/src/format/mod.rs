//! What the bytes mean: tensor types, block sizes, bit order. Plain safe Rust, no SIMD.

pub mod bitnet;
mod fields;
mod floats;
pub mod ggml;
pub mod half;
pub mod i2_s;
pub mod mlx;
mod packed;
pub mod random;
pub mod sherry;
pub mod stq1_0;
mod tensor_type;
mod ternary_rows;
pub mod triple;

pub use floats::FloatRows;
pub use packed::{
    PackedError, PackedLayout, PackedRows, QuadOrder, ScaleGroup, TernaryFormat, UNIT_BYTES, UNIT_CODES, read_code,
    write_code,
};
pub use tensor_type::TensorType;
pub use ternary_rows::{BlockRows, TernaryRows};
