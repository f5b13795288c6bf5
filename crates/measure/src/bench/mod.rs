//! How fast models and kernels run, and how near to the limits of the machine.
//!
//! - [`limits`]: what memory and the processor can do at most, measured;
//! - [`models`]: prompts and generation of whole models, repetitions interleaved over all configurations;
//! - [`kernels`]: single products, attention and the rest of a token;
//! - [`WeightFormat`]: any format filled with random weights, so that no model file is needed;
//! - [`PAPER_FORMATS`]: the rows of the paper's speed table.
//!
//! Nothing here prints or asserts times; `sherry bench` shows the results.

mod format;
pub mod kernels;
pub mod limits;
pub mod models;
mod random;
pub mod statistics;
#[cfg(test)]
mod tests;

pub use format::{NamedFormat, PAPER_FORMATS, WeightFormat};
pub use limits::ReadProbe;
pub use random::RandomModel;
