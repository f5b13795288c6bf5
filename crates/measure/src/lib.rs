//! Measuring language models: benchmarks and perplexity equal to the reference harness ([`eval`]), speed beside the
//! limits of the machine ([`mod@bench`]), and the Parquet files in which data sets come ([`parquet`]).

#![forbid(unsafe_code)]

pub mod bench;
pub mod eval;
pub mod parquet;
