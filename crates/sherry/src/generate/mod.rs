//! From logits to tokens, and from tokens to the text that is shown.

mod logprob;
mod recommended;
mod sampler;
mod stop;
mod token_set;

pub use logprob::{Score, Summation, TokenScore, log_prob, log_probs, token_score, token_scores};
pub use sampler::{Sampler, SamplingParams};
pub use stop::StopStrings;
pub use token_set::TokenSet;
