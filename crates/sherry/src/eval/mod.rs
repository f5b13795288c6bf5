//! How well a model predicts text.

mod perplexity;

pub use perplexity::{WindowScores, log_prob, log_probs, score_windows};
