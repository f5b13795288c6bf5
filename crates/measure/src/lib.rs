//! Measuring language models: benchmarks and perplexity equal to the reference harness ([`eval`]), speed beside the
//! limits of the machine ([`mod@bench`]), what machine that is ([`doctor`]), and the Parquet files in which data sets come
//! ([`parquet`]).
//!
//! ```
//! use std::sync::Arc;
//!
//! use sherry::model::{Decoder, Family, synthetic};
//! use sherry::tokenizer::{GgufVocab, Tokenizer};
//! use sherry::{Isa, KvType, NoProgress, Precision};
//! use sherry_kernels::Engine;
//! use sherry_measure::eval::{DecoderLm, Windows, perplexity};
//!
//! // Random weights and a vocabulary of letters; a real model comes from `Checkpoint::open`.
//! let tokens = ('a'..='z').map(String::from).collect();
//! let vocab = GgufVocab { model: "gpt2".into(), pre: "gpt-2".into(), tokens, merges: Some(Default::default()), ..Default::default() };
//! let model = synthetic::model(&synthetic::tiny(Family::Llama), 1)?;
//! let decoder = Decoder::new(Arc::new(model), Engine::new(Isa::best(), 2, Precision::Int8));
//! let mut lm = DecoderLm::new(decoder, Arc::new(Tokenizer::from_gguf(&vocab)?), KvType::F16, 16);
//!
//! let windows = Windows::Disjoint { size: 8 };
//! let result = perplexity(&mut lm, "thequickbrownfox", windows, &NoProgress, &mut |_, _| {})?;
//! assert_eq!(result.tokens, 14); // all but the first of each window
//! # Ok::<(), sherry::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod bench;
mod checksum;
pub mod doctor;
pub mod eval;
pub mod machine;
pub mod parquet;

pub use checksum::file_sha256;
