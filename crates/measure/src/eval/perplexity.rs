//! Perplexity of a text, with its standard error.

use std::fmt;

use super::lm::{Lm, WindowScore};
use super::windows::Windows;
use sherry::{Error, Progress, Result};

/// Sums over the tokens scored so far.
///
/// ```
/// use sherry_measure::eval::{Perplexity, WindowScore};
///
/// let mut sums = Perplexity::default();
/// sums.push(&WindowScore { index: 0, windows: 1, logprobs: vec![-1.0, -3.0] });
/// assert_eq!((sums.tokens, sums.value()), (2, 2f64.exp()));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Perplexity {
    /// Tokens scored.
    pub tokens: usize,
    /// Negative log-likelihood in nats, summed.
    pub nll: f64,
    /// Its squares per token, summed.
    pub nll_squared: f64,
    /// Negative log-likelihood of each window.
    pub windows: Vec<f64>,
}

impl Perplexity {
    /// Counts the tokens of one window.
    pub fn push(&mut self, window: &WindowScore) {
        for logprob in &window.logprobs {
            self.nll -= logprob;
            self.nll_squared += logprob * logprob;
        }
        self.tokens += window.logprobs.len();
        self.windows.push(-window.logprobs.iter().sum::<f64>());
    }

    /// `exp(nll / tokens)`.
    pub fn value(&self) -> f64 {
        (self.nll / self.tokens as f64).exp()
    }

    /// The standard error llama.cpp prints: that of the mean negative log-likelihood over tokens, times the
    /// perplexity (first-order propagation through the exponential). Tokens are taken as independent. `None` where there
    /// is no such number: with fewer than two tokens, or when the perplexity is infinite.
    pub fn stderr(&self) -> Option<f64> {
        let n = self.tokens as f64;
        let mean = self.nll / n;
        let variance = (self.nll_squared / n - mean * mean).max(0.0);
        let stderr = (variance / (n - 1.0)).sqrt() * self.value();
        Some(stderr).filter(|stderr| self.tokens > 1 && stderr.is_finite())
    }
}

impl fmt::Display for Perplexity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PPL = {:.4}", self.value())?;
        self.stderr().map_or(Ok(()), |stderr| write!(f, " +/- {stderr:.5}"))
    }
}

/// Scores `text` in the convention of `windows`; `running` sees the estimate after every window.
///
/// # Errors
/// As [`Lm::loglikelihood_rolling`]; [`Error::Interrupted`] when the user asked to stop.
pub fn perplexity(
    lm: &mut dyn Lm,
    text: &str,
    windows: Windows,
    progress: &dyn Progress,
    running: &mut dyn FnMut(usize, &Perplexity),
) -> Result<Perplexity> {
    let mut sums = Perplexity::default();
    let mut started = false;
    let result = lm.loglikelihood_rolling(text, windows, &mut |window| {
        if !started {
            progress.start("perplexity", window.windows as u64);
            started = true;
        }
        if window.logprobs.iter().any(|logprob| logprob.is_nan()) {
            return Err(Error::Invalid(format!("window {}: the model's probabilities are not numbers", window.index)));
        }
        sums.push(&window);
        running(window.index + 1, &sums);
        progress.advance(1);
        if progress.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    });
    progress.finish();
    result.map(|()| sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_and_error_follow_llama_cpp() {
        let mut sums = Perplexity::default();
        let scores = [vec![-1.0, -2.0, -4.0], vec![-0.5, -3.0]];
        for (index, logprobs) in scores.iter().enumerate() {
            sums.push(&WindowScore { index, windows: 2, logprobs: logprobs.clone() });
        }
        let (n, mean) = (5.0, 10.5 / 5.0);
        let squares: f64 = [1.0, 4.0, 16.0, 0.25, 9.0].iter().sum();
        assert!((sums.value() - f64::exp(mean)).abs() < 1e-12);
        let expected = ((squares / n - mean * mean) / (n - 1.0)).sqrt() * f64::exp(mean);
        assert!((sums.stderr().unwrap() - expected).abs() < 1e-12);
        assert_eq!(sums.windows, [7.0, 3.5]);
        assert_eq!(sums.to_string(), format!("PPL = {:.4} +/- {:.5}", f64::exp(mean), expected));
    }

    #[test]
    fn an_error_that_does_not_exist_is_not_shown() {
        let of = |logprobs: &[f64]| {
            let mut sums = Perplexity::default();
            sums.push(&WindowScore { index: 0, windows: 1, logprobs: logprobs.to_vec() });
            sums
        };
        assert_eq!((of(&[-2.0]).stderr(), of(&[-2.0]).to_string()), (None, "PPL = 7.3891".to_owned()));
        assert_eq!(of(&[-2.0, -2.0]).stderr(), Some(0.0));
        // A token the model holds impossible, and one so improbable that the perplexity overflows.
        for logprobs in [[-1.0, f64::NEG_INFINITY], [-1.0, -1e5]] {
            assert_eq!(of(&logprobs).to_string(), "PPL = inf");
        }
    }
}
