//! How far a model's next-token distributions are from a reference model's: what a quantization changed, token by
//! token. The numbers and their errors are those of llama.cpp's `llama-perplexity --kl-divergence`.

use std::fmt;

use rayon::prelude::*;

use super::windows::{Window, Windows};
use sherry::{Error, Progress, Result};

/// A model whose whole next-token distributions can be read.
pub trait Distributions {
    /// The tokens of a long text, as for perplexity with these windows.
    ///
    /// # Errors
    /// Text the tokenizer refuses, windows longer than the model's context.
    fn tokenize(&mut self, text: &str, windows: Windows) -> Result<Vec<u32>>;

    /// Calls `row` with the logits that predict each token of `window.scored`, in order.
    ///
    /// # Errors
    /// Whatever the model reports.
    fn logits(&mut self, tokens: &[u32], window: &Window, row: &mut dyn FnMut(&[f32])) -> Result<()>;
}

/// A mean with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uncertain {
    /// The mean.
    pub value: f64,
    /// Its standard error.
    pub stderr: f64,
}

/// What one token contributes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Token {
    /// Divergence of the model from the reference, in nats.
    kld: f64,
    /// Negative log-likelihood under the reference and under the model.
    nll: [f64; 2],
    /// Probability of the right token under the model minus that under the reference.
    change: f64,
    same_top: bool,
}

/// Statistics over all scored tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    tokens: Vec<Token>,
    /// Divergences, ascending.
    klds: Vec<f64>,
    /// Probability changes, ascending.
    changes: Vec<f64>,
}

/// Reads `text` with both models.
///
/// # Errors
/// The models tokenize it differently; as [`Windows::over`]; [`Error::Interrupted`] when the user asked to stop.
pub fn divergence(
    reference: &mut dyn Distributions,
    model: &mut dyn Distributions,
    text: &str,
    windows: Windows,
    progress: &dyn Progress,
) -> Result<Divergence> {
    let ids = reference.tokenize(text, windows)?;
    if ids != model.tokenize(text, windows)? {
        return Err(Error::Invalid("the two models tokenize the text differently and cannot be compared".to_string()));
    }
    let windows = windows.over(ids.len())?;
    progress.start("KL divergence", windows.len() as u64);
    let mut tokens = Vec::new();
    let mut base: Vec<f32> = Vec::new();
    let mut other: Vec<f32> = Vec::new();
    for window in &windows {
        base.clear();
        other.clear();
        reference.logits(&ids, window, &mut |row| base.extend_from_slice(row))?;
        model.logits(&ids, window, &mut |row| other.extend_from_slice(row))?;
        let vocab = base.len() / window.scored.len().max(1);
        if base.len() != other.len() || vocab == 0 {
            return Err(Error::Invalid("the two models have different vocabularies".to_string()));
        }
        let rows = base.par_chunks_exact(vocab).zip(other.par_chunks_exact(vocab));
        let found: Vec<Token> =
            rows.zip(&ids[window.scored.clone()]).map(|((base, other), &id)| Token::new(base, other, id)).collect();
        tokens.extend(found);
        progress.advance(1);
        if progress.is_cancelled() {
            progress.finish();
            return Err(Error::Interrupted);
        }
    }
    progress.finish();
    Divergence::new(tokens)
}

impl Token {
    fn new(base: &[f32], other: &[f32], id: u32) -> Self {
        let (base, base_top) = normalizer(base);
        let (other, other_top) = normalizer(other);
        let mut kld = 0.0;
        for (p, q) in base.iter().zip(&other) {
            kld += p.exp() * (p - q);
        }
        let at = |logs: &[f64]| logs.get(id as usize).copied().unwrap_or(f64::NAN);
        let (p, q) = (at(&base), at(&other));
        Self { kld, nll: [-p, -q], change: q.exp() - p.exp(), same_top: base_top == other_top }
    }
}

/// Log-probabilities of one row and the index of the largest.
fn normalizer(logits: &[f32]) -> (Vec<f64>, usize) {
    let mut top = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[top] {
            top = i;
        }
    }
    let max = logits.get(top).map_or(0.0, |&max| f64::from(max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    (logits.iter().map(|&logit| f64::from(logit) - max - sum.ln()).collect(), top)
}

impl Divergence {
    fn new(tokens: Vec<Token>) -> Result<Self> {
        if tokens.len() < 2 || tokens.iter().any(|token| token.kld.is_nan() || token.change.is_nan()) {
            return Err(Error::Invalid(
                "KL divergence: too few tokens, or probabilities that are not numbers".to_string(),
            ));
        }
        let sorted = |of: fn(&Token) -> f64| {
            let mut values: Vec<f64> = tokens.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        Ok(Self { klds: sorted(|token| token.kld), changes: sorted(|token| token.change), tokens })
    }

    /// Tokens compared.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Mean divergence in nats.
    pub fn mean(&self) -> Uncertain {
        uncertain(self.klds.iter().copied())
    }

    /// The divergence below which a `fraction` of the tokens lie; 0.5 is the median, 1 the maximum.
    pub fn percentile(&self, fraction: f64) -> f64 {
        percentile(&self.klds, fraction)
    }

    /// Change of the right token's probability, mean over tokens.
    pub fn mean_change(&self) -> Uncertain {
        uncertain(self.changes.iter().copied())
    }

    /// As [`percentile`](Self::percentile), of the probability changes.
    pub fn change_percentile(&self, fraction: f64) -> f64 {
        percentile(&self.changes, fraction)
    }

    /// Root of the mean squared probability change.
    pub fn rms_change(&self) -> Uncertain {
        let square = uncertain(self.changes.iter().map(|change| change * change));
        let value = square.value.sqrt();
        Uncertain { value, stderr: if value > 0.0 { 0.5 / value * square.stderr } else { 0.0 } }
    }

    /// Share of tokens whose most probable successor is the same.
    pub fn same_top(&self) -> Uncertain {
        let n = self.tokens.len() as f64;
        let value = self.tokens.iter().filter(|token| token.same_top).count() as f64 / n;
        Uncertain { value, stderr: (value * (1.0 - value) / (n - 1.0)).sqrt() }
    }

    /// Mean negative log-likelihoods: of the reference and of the model.
    pub fn nll(&self) -> [Uncertain; 2] {
        [0, 1].map(|i| uncertain(self.tokens.iter().map(|token| token.nll[i])))
    }

    /// Mean of `ln PPL(model) - ln PPL(reference)`, whose error accounts for the correlation of the two.
    pub fn log_ratio(&self) -> Uncertain {
        uncertain(self.tokens.iter().map(|token| token.nll[1] - token.nll[0]))
    }

    /// Correlation of the two models' negative log-likelihoods over tokens; `None` where one of them is the same for every
    /// token.
    pub fn correlation(&self) -> Option<f64> {
        let [base, other] = self.nll();
        let n = self.tokens.len() as f64;
        let covariance: f64 =
            self.tokens.iter().map(|t| (t.nll[0] - base.value) * (t.nll[1] - other.value)).sum::<f64>() / n / (n - 1.0);
        Some(covariance / (base.stderr * other.stderr)).filter(|correlation| correlation.is_finite())
    }
}

fn uncertain(values: impl ExactSizeIterator<Item = f64> + Clone) -> Uncertain {
    let n = values.len() as f64;
    let value = values.clone().sum::<f64>() / n;
    let variance = values.map(|x| (x - value) * (x - value)).sum::<f64>() / n;
    Uncertain { value, stderr: (variance / (n - 1.0)).sqrt() }
}

/// Linear interpolation between neighbours of an ascending list that is not empty.
fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let place = fraction.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let low = place as usize;
    let share = place - low as f64;
    (1.0 - share) * sorted[low] + share * sorted[(low + 1).min(sorted.len() - 1)]
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [base, other] = self.nll();
        let (base_ppl, ppl, ratio) = (base.value.exp(), other.value.exp(), self.log_ratio());
        let difference = {
            let correlation = self.correlation().unwrap_or(0.0);
            let (a, b) = (ppl * other.stderr, base_ppl * base.stderr);
            (a * a + b * b - 2.0 * correlation * a * b).max(0.0).sqrt()
        };
        writeln!(f, "====== Perplexity statistics ======")?;
        writeln!(f, "Mean PPL(Q)                   : {ppl:10.6} ± {:10.6}", ppl * other.stderr)?;
        writeln!(f, "Mean PPL(base)                : {base_ppl:10.6} ± {:10.6}", base_ppl * base.stderr)?;
        match self.correlation() {
            Some(correlation) => writeln!(f, "Cor(ln(PPL(Q)), ln(PPL(base))): {:6.2}%", 100.0 * correlation)?,
            None => writeln!(f, "Cor(ln(PPL(Q)), ln(PPL(base))): none, a model gives every token the same")?,
        }
        writeln!(f, "Mean ln(PPL(Q)/PPL(base))     : {:10.6} ± {:10.6}", ratio.value, ratio.stderr)?;
        let (quotient, error) = (ratio.value.exp(), ratio.value.exp() * ratio.stderr);
        writeln!(f, "Mean PPL(Q)/PPL(base)         : {quotient:10.6} ± {error:10.6}")?;
        writeln!(f, "Mean PPL(Q)-PPL(base)         : {:10.6} ± {difference:10.6}", ppl - base_ppl)?;
        writeln!(f, "\n====== KL divergence statistics ======")?;
        let mean = self.mean();
        writeln!(f, "Mean    KLD: {:10.6} ± {:10.6}", mean.value, mean.stderr)?;
        for (label, fraction) in PERCENTILES {
            writeln!(f, "{label} KLD: {:10.6}", self.percentile(fraction))?;
        }
        writeln!(f, "\n====== Token probability statistics ======")?;
        let mean = self.mean_change();
        writeln!(f, "Mean    Δp: {:6.3} ± {:5.3} %", 100.0 * mean.value, 100.0 * mean.stderr)?;
        for (label, fraction) in PERCENTILES {
            writeln!(f, "{label} Δp: {:6.3}%", 100.0 * self.change_percentile(fraction))?;
        }
        let (rms, top) = (self.rms_change(), self.same_top());
        writeln!(f, "RMS Δp    : {:6.3} ± {:5.3} %", 100.0 * rms.value, 100.0 * rms.stderr)?;
        write!(f, "Same top p: {:6.3} ± {:5.3} %", 100.0 * top.value, 100.0 * top.stderr)
    }
}

const PERCENTILES: [(&str, f64); 10] = [
    ("Maximum", 1.0),
    ("99.9%  ", 0.999),
    ("99.0%  ", 0.99),
    ("95.0%  ", 0.95),
    ("90.0%  ", 0.9),
    ("Median ", 0.5),
    ("10.0%  ", 0.1),
    (" 5.0%  ", 0.05),
    (" 1.0%  ", 0.01),
    ("Minimum", 0.0),
];

#[cfg(test)]
mod tests {
    use super::*;
    use sherry::NoProgress;

    /// Logits are a function of the previous token, sharpened by a factor.
    struct Toy(f32);

    impl Distributions for Toy {
        fn tokenize(&mut self, text: &str, _: Windows) -> Result<Vec<u32>> {
            Ok(text.bytes().map(|byte| u32::from(byte % 4)).collect())
        }

        fn logits(&mut self, tokens: &[u32], window: &Window, row: &mut dyn FnMut(&[f32])) -> Result<()> {
            for i in window.scored.clone() {
                let previous = tokens[i - 1];
                let logits: Vec<f32> = (0..4).map(|t| self.0 * ((previous * 7 + t * 3) % 5) as f32).collect();
                row(&logits);
            }
            Ok(())
        }
    }

    const TEXT: &str = "the quick brown fox jumps over the lazy dog";

    #[test]
    fn a_model_does_not_diverge_from_itself() {
        let found = divergence(&mut Toy(0.5), &mut Toy(0.5), TEXT, Windows::Disjoint { size: 8 }, &NoProgress).unwrap();
        assert_eq!(found.tokens(), 5 * 7);
        assert!(found.mean().value.abs() < 1e-15 && found.rms_change().value < 1e-15);
        assert_eq!(found.same_top().value, 1.0);
        assert!((found.correlation().unwrap() - 1.0).abs() < 1e-12);
        // A model without any opinion: its likelihoods do not vary.
        let windows = Windows::Disjoint { size: 3 };
        let flat = divergence(&mut Toy(0.0), &mut Toy(0.5), "abc", windows, &NoProgress).unwrap();
        assert_eq!(flat.correlation(), None);
        assert!(!flat.to_string().contains("NaN"), "{flat}");
        assert_eq!(found.log_ratio().value, 0.0);
    }

    #[test]
    fn divergence_is_the_definition() {
        let found = divergence(&mut Toy(0.5), &mut Toy(1.0), TEXT, Windows::Disjoint { size: 8 }, &NoProgress).unwrap();
        let ids = Toy(1.0).tokenize(TEXT, Windows::Disjoint { size: 8 }).unwrap();
        let softmax = |previous: u32, factor: f64| {
            let weights: Vec<f64> = (0..4).map(|t| (factor * f64::from((previous * 7 + t * 3) % 5)).exp()).collect();
            let sum: f64 = weights.iter().sum();
            weights.into_iter().map(|w| w / sum).collect::<Vec<_>>()
        };
        let (mut total, mut squares, mut n) = (0.0, 0.0, 0.0);
        for i in (0..40).filter(|i| i % 8 != 0) {
            let (p, q) = (softmax(ids[i - 1], 0.5), softmax(ids[i - 1], 1.0));
            total += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
            squares += (q[ids[i] as usize] - p[ids[i] as usize]).powi(2);
            n += 1.0;
        }
        assert!((found.mean().value - total / n).abs() < 1e-9);
        assert!((found.rms_change().value - (squares / n).sqrt()).abs() < 1e-9);
        assert_eq!(found.same_top().value, 1.0); // sharpening keeps the order
        assert!(found.percentile(1.0) >= found.percentile(0.5) && found.percentile(0.0) >= 0.0);
        assert!(found.to_string().contains("Mean    KLD:"));
    }

    #[test]
    fn different_vocabularies_or_tokens_are_refused() {
        struct Other;
        impl Distributions for Other {
            fn tokenize(&mut self, _: &str, _: Windows) -> Result<Vec<u32>> {
                Ok(vec![1; 9])
            }
            fn logits(&mut self, _: &[u32], _: &Window, _: &mut dyn FnMut(&[f32])) -> Result<()> {
                Ok(())
            }
        }
        let windows = Windows::Disjoint { size: 8 };
        let error = divergence(&mut Toy(1.0), &mut Other, TEXT, windows, &NoProgress).unwrap_err().to_string();
        assert!(error.contains("differently"), "{error}");
    }
}
