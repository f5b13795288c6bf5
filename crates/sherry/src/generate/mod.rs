//! From logits to tokens, and from tokens to the text that is shown.

mod config;
mod sampler;
mod stop;

pub use config::GenerationConfig;
pub use sampler::{Sampler, SamplingParams};
pub use stop::StopStrings;
