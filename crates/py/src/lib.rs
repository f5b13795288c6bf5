//! The Python module `sherry._sherry`: everything of the library that Python programs see. Its other half is written in
//! Python (`crates/py/python/sherry`): results, asyncio, and what `import sherry` names.
//!
//! Rules of this crate:
//! - Work runs detached from the interpreter; whoever holds a lock of ours never waits for the interpreter.
//! - Nothing attaches to the interpreter once per token, but for callbacks that see every token: each attach may wait for
//!   the switch interval of another thread, 5 ms.
//! - What a fork would leave locked belongs to its process ([`process::PerProcess`]).
//! - A panic becomes a `SherryError`: `PanicException` would pass by `except Exception`.

#![deny(unsafe_code)] // except the views of packed.rs

mod arrays;
mod blocks;
mod convert;
mod desk;
mod doctor;
mod errors;
mod evaluate;
mod json;
mod model;
mod options;
mod packed;
mod parts;
mod process;
mod results;
mod sequence;
mod session;
mod stream;
mod tokenizer;
mod work;

use pyo3::prelude::*;

/// Quantize and run 1.25-bit language models.
#[pymodule]
mod _sherry {
    #[pymodule_export]
    use super::blocks::dequantize_blocks;
    #[pymodule_export]
    use super::convert::{convert, inspect, quantize_model};
    #[pymodule_export]
    use super::doctor::doctor;
    #[pymodule_export]
    use super::errors::SherryError;
    #[pymodule_export]
    use super::evaluate::evaluate;
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::packed::{PackedMatrix, quantize};
    #[pymodule_export]
    use super::session::Session;
    #[pymodule_export]
    use super::stream::Stream;
    #[pymodule_export]
    use super::tokenizer::Tokenizer;

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // Not at the first array: there Ctrl-C, or a numpy that is missing, would be a panic of the numpy crate.
        module.py().import("numpy")?;
        numpy::PyArray1::<f32>::from_slice(module.py(), &[]);
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("OPTIONS", crate::options::NAMES.to_vec())
    }
}
