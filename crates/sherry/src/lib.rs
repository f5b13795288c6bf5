//! Sherry: quantize, read, write and run 1.25-bit language models.

#![deny(unsafe_code)] // except io/mmap.rs

pub mod bench;
pub mod chat;
pub mod convert;
mod error;
pub mod eval;
pub mod generate;
pub mod io;
pub mod model;
mod progress;
pub mod quant;
pub mod tokenizer;

pub use error::{Error, Result};
pub use progress::{NoProgress, Progress};
