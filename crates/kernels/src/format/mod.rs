//! What the bytes mean: tensor types, block sizes, bit order. Plain safe Rust, no SIMD.
//!
//! ```
//! use sherry_kernels::format::{TensorType, ggml};
//!
//! let values: [f32; 32] = std::array::from_fn(|i| i as f32 / 31.0);
//! let mut block = vec![0; TensorType::Q8_0.row_bytes(32).unwrap()];
//! ggml::quantize(TensorType::Q8_0, &values, &mut block)?;
//! let mut back = [0.0; 32];
//! ggml::dequantize(TensorType::Q8_0, &block, &mut back);
//! assert!(values.iter().zip(back).all(|(value, back)| (value - back).abs() < 0.005));
//! # Ok::<(), ggml::QuantizeError>(())
//! ```

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
