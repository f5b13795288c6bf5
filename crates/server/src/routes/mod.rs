//! The interface: one file per group of paths.

pub mod answering;
pub mod chat;
pub mod completions;
pub mod info;
pub mod tokens;
