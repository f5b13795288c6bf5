//! Files: reading and writing tensors and metadata. Every parser treats its input as hostile.

mod atomic;
mod files;
pub mod gguf;
pub mod json;
mod mmap;
pub mod native;
mod ranges;
mod regular;
pub mod safetensors;
mod source;
mod temporary;
mod verify;

pub use atomic::{AtomicFile, AtomicFolder, sync_folder, write_atomic};
pub use files::ModelFiles;
pub use mmap::{FileBytes, ReadMode};
pub use ranges::{FileData, PulledFile, RangeRead};
pub use regular::{open_regular, read_regular};
pub use safetensors::Safetensors;
pub use source::{TensorInfo, TensorSource};
pub use temporary::sweep;
pub use verify::verify_tensor;

/// Lower-case hexadecimal digits, as checksums are written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
