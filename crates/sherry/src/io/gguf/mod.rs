//! GGUF, the model container of llama.cpp: versions 2 and 3, little-endian, single files and split ones.
//!
//! The reader treats its input as hostile: every count, length, size and offset is checked before it is used, and
//! nothing is allocated that the file does not pay for. The layout is in FORMAT.md.

mod file;
mod header;
mod layout;
mod limits;
mod split;
mod strings;
mod types;
mod value;
mod write;

pub use file::GgufFile;
pub use strings::Strings;
pub use types::StqId;
pub use value::{Array, Metadata, Value};
pub use write::GgufWriter;
