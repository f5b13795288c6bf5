//! Sherry: read and run 1.25-bit language models.
//!
//! Three calls are what most programs need: [`Llm::load`], [`Llm::generate`] (or a [`Chat`]), and [`Llm::logits`].
//!
//! ```
//! use sherry::{Chat, Generate, Llm};
//!
//! # fn main() -> sherry::Result<()> {
//! let mut llm = Llm::tiny()?; // random weights; Llm::load("model.gguf") or Llm::load("folder/") for a real one
//! let options = Generate { max_tokens: Some(8), ..Generate::default() };
//! for piece in llm.generate("The capital of France is", &options)? {
//!     print!("{}", piece?);
//! }
//! let logits = llm.logits("The capital of France is")?;
//! assert_eq!(logits.len(), llm.decoder().config().vocab);
//!
//! let mut chat = Chat::new(llm)?;
//! chat.options = options;
//! let answer = chat.say("Why is the sky blue?")?.complete()?;
//! println!("{} ({:?})", answer.text, answer.finish);
//! # Ok(())
//! # }
//! ```
//!
//! Everything is computed on the calling thread and the threads of the model's pool, one call at a time; nothing runs in the
//! background. The same seed gives the same text, whatever else the model is asked.
//!
//! | room | what |
//! |---|---|
//! | [`llm`] | a model with everything that using it takes |
//! | [`batch`] | many sequences on one model: for servers |
//! | [`generate`] | sampling, stop strings, log-probabilities |
//! | [`chat`], [`tokenizer`] | conversations to prompts, text to tokens |
//! | [`model`] | opening checkpoints, configuration, the decoder, keys and values |
//! | [`io`] | GGUF, safetensors and native folders |

#![deny(unsafe_code)] // except io/mmap.rs

pub mod batch;
pub mod chat;
mod clock;
mod error;
pub mod generate;
pub mod io;
pub mod llm;
mod memory;
pub mod model;
mod progress;
pub mod threads;
pub mod tokenizer;

pub use batch::{BatchEngine, Finish};
pub use chat::Message;
pub use error::{Error, Result};
pub use generate::SamplingParams;
pub use llm::{Chat, Event, Generate, Generated, Llm, LoadOptions};
pub use memory::available_memory;
pub use model::KvType;
pub use progress::{NoProgress, Progress};
pub use sherry_kernels::{Isa, Precision};
pub use tokenizer::Tokenizer;
