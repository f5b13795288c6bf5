//! From logits to tokens, and from tokens to the text that is shown.

mod config;
mod sampler;
mod session;
mod stop;

pub use config::GenerationConfig;
pub use sampler::{Sampler, SamplingParams};
pub use session::{Event, Finish, Generated, Request, Session, Statistics};
pub use stop::StopStrings;

#[cfg(test)]
mod tests;
