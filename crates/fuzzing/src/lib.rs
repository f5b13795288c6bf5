//! What must hold for any input, one function per parser. `fuzz/` lets cargo-fuzz look for inputs that break it;
//! `tests/replay.rs` tries the collected ones, and small changes of them, with every test run.
//!
//! Each function panics where the promise is broken. To take memory or time out of proportion is to break it, too.

#![forbid(unsafe_code)]

mod kernels;
mod models;
mod requests;
mod tables;
mod texts;

pub use kernels::packed_decode;
pub use models::{gguf_header, gguf_model, gguf_roundtrip, model_folder, safetensors_header};
pub use requests::chat_body;
pub use tables::{data_rows, parquet_rows, results_file};
pub use texts::{chat_template, config_json, tiktoken, tokenizer_json};

/// A parser: its name, and what must hold.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 14] = [
    ("chat_body", chat_body),
    ("chat_template", chat_template),
    ("config_json", config_json),
    ("data_rows", data_rows),
    ("gguf_header", gguf_header),
    ("gguf_model", gguf_model),
    ("gguf_roundtrip", gguf_roundtrip),
    ("model_folder", model_folder),
    ("packed_decode", packed_decode),
    ("parquet_rows", parquet_rows),
    ("results_file", results_file),
    ("safetensors_header", safetensors_header),
    ("tiktoken", tiktoken),
    ("tokenizer_json", tokenizer_json),
];

/// A file with these bytes, for parsers that take a path.
fn with_file(name: &str, bytes: &[u8], parse: impl FnOnce(&std::path::Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    parse(&path);
}
