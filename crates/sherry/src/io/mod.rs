//! Files: reading and writing tensors and metadata. Every parser treats its input as hostile.

mod source;

pub use source::{TensorInfo, TensorSource};
