//! Log-probabilities of given tokens, and perplexity over windows of a text.

use crate::model::{Decoder, KvCache, KvType, Step, Wanted};
use crate::{Progress, Result};

/// Tokens per step: enough to read the weights rarely, few enough that their logits stay small (64 rows of a
/// 128k vocabulary are 33 MB).
const STEP: usize = 64;

/// Natural log-probability of `token` under `logits`, in f64: `logits[token] - ln(sum(exp(logits)))`.
///
/// # Panics
/// When `token` is not in the vocabulary.
pub fn log_prob(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    f64::from(logits[token as usize] - max) - sum.ln()
}

/// Natural log-probabilities of `tokens[1..]`, each given all tokens before it; empty for fewer than two tokens.
/// `cache` is emptied first and holds the sequence but for its last token afterwards.
///
/// # Errors
/// As [`Decoder::forward`].
pub fn log_probs(decoder: &mut Decoder, cache: &mut KvCache, tokens: &[u32]) -> Result<Vec<f64>> {
    cache.truncate(0);
    let Some(inputs) = tokens.len().checked_sub(1) else { return Ok(Vec::new()) };
    let mut scores = Vec::with_capacity(inputs);
    for chunk in tokens[..inputs].chunks(STEP) {
        let step = Step { cache, tokens: chunk, logits: Wanted::All };
        let logits = decoder.forward(&mut [step])?;
        for i in 0..logits.rows() {
            scores.push(log_prob(logits.row(i), tokens[scores.len() + 1]));
        }
    }
    Ok(scores)
}

/// What [`score_windows`] measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowScores {
    /// Negative log-likelihood of each window in nats, summed over its scored tokens.
    pub sums: Vec<f64>,
    /// Tokens scored in each window.
    pub scored: Vec<usize>,
}

impl WindowScores {
    /// Perplexity over all windows: `exp(total nll / total tokens)`; NaN without any.
    pub fn perplexity(&self) -> f64 {
        (self.sums.iter().sum::<f64>() / self.scored.iter().sum::<usize>() as f64).exp()
    }
}

/// Scores consecutive, non-overlapping windows of `window` tokens, each from an empty cache, tokens 2 to `window` of each
/// given those before it in the window. A rest shorter than a window is left out.
///
/// # Errors
/// As [`Decoder::forward`]; [`crate::Error::Invalid`] for a window of fewer than two tokens.
pub fn score_windows(
    decoder: &mut Decoder,
    tokens: &[u32],
    window: usize,
    progress: &dyn Progress,
) -> Result<WindowScores> {
    if window < 2 {
        return Err(crate::Error::Invalid(format!("window: must be at least 2 tokens, found {window}")));
    }
    let mut cache = KvCache::new(decoder.config(), window, KvType::F32)?;
    let mut scores = WindowScores::default();
    progress.start("perplexity", (tokens.len() / window) as u64);
    for window in tokens.chunks_exact(window) {
        let log_probs = log_probs(decoder, &mut cache, window)?;
        scores.sums.push(-log_probs.iter().sum::<f64>());
        scores.scored.push(log_probs.len());
        progress.advance(1);
    }
    progress.finish();
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_of_a_distribution_sum_to_one() {
        let logits = [1000.0, 998.0, -1e30, f32::NEG_INFINITY];
        let total: f64 = (0..4).map(|token| log_prob(&logits, token).exp()).sum();
        assert!((total - 1.0).abs() < 1e-12);
        assert!((log_prob(&logits, 1) - log_prob(&logits, 0) + 2.0).abs() < 1e-12);
    }
}
