//! Sherry as C functions over opaque handles; `include/sherry.h` says what each does, and a test holds the two together. The same
//! functions are the exports of the browser's module.
//!
//! There is no logic here: pointers become slices and handles references, the library does the work, and what it says
//! becomes numbers and structures. No panic gets out, errors are remembered for the thread that made them.

#![allow(clippy::missing_safety_doc)] // the header says it: one rule for all functions

mod failure;
mod loading;
mod model;
mod pointers;
mod session;
mod text;
#[cfg(target_family = "wasm")]
mod wasm;
