//! Sherry: read and run 1.25-bit language models.

#![deny(unsafe_code)] // except io/mmap.rs

pub mod chat;
mod error;
pub mod generate;
pub mod io;
mod memory;
pub mod model;
mod progress;
pub mod tokenizer;

pub use error::{Error, Result};
pub use memory::available_memory;
pub use progress::{NoProgress, Progress};
