//! From rows of logits to log-probabilities of single tokens.

use sherry_kernels::Pool;
use sherry_kernels::plain::exp;

use crate::model::{Decoder, KvCache, Wanted};
use crate::{Error, Result};

/// Values treated together: enough independent sums for the widest vectors.
const LANES: usize = 16;
/// Tokens per forward pass.
const STEP: usize = 128;

/// How the exponentials of a row are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summation {
    /// In f64 but for blocks of 256 values.
    Exact,
    /// In 16 f32 sums from the first value to the last, as torch's CPU `log_softmax` does with AVX-512. With a large
    /// vocabulary small terms vanish in large sums: each token comes out about 7e-6 nats too likely (vocabulary 49152).
    /// The harness's numbers contain this, so scores that are to equal them must too.
    AsHarness,
}

impl Summation {
    /// Values summed in f32 before the sum continues in f64.
    const fn block(self) -> usize {
        match self {
            Self::Exact => 256,
            Self::AsHarness => usize::MAX,
        }
    }
}

/// How likely one token, or a run of tokens, is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Natural log-probability; of a run of tokens their sum.
    pub logprob: f64,
    /// Whether every token was the most probable one at its place.
    pub is_greedy: bool,
}

/// How likely a token was, beside the most likely ones.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// The token.
    pub token: u32,
    /// Its natural log-probability by the model itself: before bias, penalties, mask and temperature.
    pub logprob: f64,
    /// The most probable tokens, most probable first (of equals, the lower id), with theirs.
    pub top: Vec<(u32, f64)>,
}

impl TokenScore {
    /// The score of `token` under `logits`, beside the `top` most probable tokens.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a logit is NaN or +infinity, or `token` is not in the vocabulary.
    pub fn new(logits: &[f32], token: u32, top: usize) -> Result<Self> {
        let (Some(own), Some(max)) = (logits.get(token as usize), max(logits)) else {
            let vocab = logits.len();
            return Err(Error::Invalid(format!("the model's output is not usable: {vocab} logits for token {token}")));
        };
        let total = exp_sum(logits, max, Summation::Exact).ln();
        let logprob = |logit: f32| f64::from(logit) - f64::from(max) - total;
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let mut best: Vec<(f32, u32)> = Vec::new();
        if top > 0 {
            best.extend(logits.iter().copied().zip(0..));
            if top < best.len() {
                best.select_nth_unstable_by(top - 1, order);
                best.truncate(top);
            }
            best.sort_unstable_by(order);
        }
        let top = best.into_iter().map(|(logit, id)| (id, logprob(logit))).collect();
        Ok(Self { token, logprob: logprob(*own), top })
    }
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
        decoder.forward_one(cache, chunk, Wanted::All)?;
        let (logits, next) = (decoder.logits(), &tokens[scores.len() + 1..]);
        let rows: Vec<(&[f32], u32)> = (0..logits.rows()).map(|i| logits.row(i)).zip(next.iter().copied()).collect();
        scores.extend(token_scores(decoder.engine().pool(), &rows, Summation::Exact).iter().map(|score| score.logprob));
    }
    Ok(scores)
}

/// Natural log-probability of `token` under `logits`: `logits[token] - ln(sum(exp(logits)))`. Exact to about 2e-7, the
/// rounding of the exponentials; the sum is f64. NaN when a logit is NaN or +infinity or `token` is not in the
/// vocabulary.
///
/// ```
/// let even = [0.5; 4];
/// assert!((sherry::generate::log_prob(&even, 2) - 0.25f64.ln()).abs() < 1e-6);
/// ```
pub fn log_prob(logits: &[f32], token: u32) -> f64 {
    log_prob_by(logits, token, Summation::Exact)
}

fn log_prob_by(logits: &[f32], token: u32, sum: Summation) -> f64 {
    let Some(&own) = logits.get(token as usize) else { return f64::NAN };
    let Some(max) = max(logits) else { return f64::NAN };
    f64::from(own) - f64::from(max) - exp_sum(logits, max, sum).ln()
}

/// Log-probability of `token`, and whether it is the most probable one (of equals, the first).
pub fn token_score(logits: &[f32], token: u32, sum: Summation) -> Score {
    let index = (token as usize).min(logits.len());
    let (before, rest) = logits.split_at(index);
    let is_greedy = match rest.split_first() {
        Some((own, after)) => before.iter().all(|x| x < own) && after.iter().all(|x| x <= own),
        None => false,
    };
    Score { logprob: log_prob_by(logits, token, sum), is_greedy }
}

/// The scores of several rows, spread over the threads of `pool`.
pub fn token_scores(pool: &Pool, rows: &[(&[f32], u32)], sum: Summation) -> Vec<Score> {
    let mut scores = vec![Score { logprob: f64::NAN, is_greedy: false }; rows.len()];
    pool.for_chunks(&mut scores, 1, |row, scores| {
        let (logits, token) = rows[row];
        scores.iter_mut().for_each(|score| *score = token_score(logits, token, sum));
    });
    scores
}

/// The largest value; `None` when one is NaN or +infinity, or none is finite.
fn max(values: &[f32]) -> Option<f32> {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut sound = [true; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut step = |i: usize, x: f32| {
        sound[i] &= x < f32::INFINITY;
        lanes[i] = if x > lanes[i] { x } else { lanes[i] };
    };
    for chunk in chunks {
        for i in 0..LANES {
            step(i, chunk[i]);
        }
    }
    for (i, &x) in rest.iter().enumerate() {
        step(i, x);
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    (sound.into_iter().all(|sound| sound) && max > f32::NEG_INFINITY).then_some(max)
}

/// `sum(exp(values - max))`.
fn exp_sum(values: &[f32], max: f32, sum: Summation) -> f64 {
    let mut total = 0.0;
    for block in values.chunks(sum.block()) {
        let mut lanes = [0f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += exp(chunk[i] - max);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += exp(x - max);
        }
        total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(logits: &[f32], token: usize) -> f64 {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
        f64::from(logits[token] - max) - sum.ln()
    }

    #[test]
    fn log_probabilities_equal_the_definition_in_f64() {
        for n in [1usize, 2, 15, 16, 17, 1023, 1025, 49_152] {
            let logits: Vec<f32> = (0..n).map(|i| ((i * 7919 % 1000) as f32 / 37.0).sin() * 12.0 - 3.0).collect();
            for token in [0, n / 2, n - 1] {
                let found = log_prob(&logits, token as u32);
                assert!((found - exact(&logits, token)).abs() < 1e-6, "{n} {token}: {found}");
            }
        }
    }

    #[test]
    fn log_probabilities_of_a_distribution_sum_to_one() {
        let logits = [1000.0, 998.0, -1e30, f32::NEG_INFINITY];
        let total: f64 = (0..4).map(|token| log_prob(&logits, token).exp()).sum();
        assert!((total - 1.0).abs() < 1e-6);
        assert!((log_prob(&logits, 1) - log_prob(&logits, 0) + 2.0).abs() < 1e-12);
    }

    #[test]
    fn the_harness_sums_lane_by_lane() {
        // One large value per lane, then values too small to change its sum: f32 sums lose them, exact ones do not.
        let mut logits = vec![-17.0f32; 49_152];
        logits[..16].fill(0.0);
        let sixteen = -(16f64.ln());
        let small = 49_136.0 * (-17f64).exp() / 16.0;
        let exact = sixteen - small.ln_1p();
        assert!((log_prob(&logits, 0) - exact).abs() < 1e-6);
        assert!((log_prob_by(&logits, 0, Summation::AsHarness) - sixteen).abs() < 1e-7);
        assert!((exact - sixteen).abs() > 1e-4);
    }

    #[test]
    fn broken_logits_are_not_numbers() {
        assert!(log_prob(&[0.0, f32::NAN, 1.0], 0).is_nan());
        assert!(log_prob(&[0.0, f32::INFINITY], 0).is_nan());
        assert!(log_prob(&[f32::NEG_INFINITY; 3], 0).is_nan());
        assert!(log_prob(&[0.0], 1).is_nan());
        assert!(log_prob(&[], 0).is_nan());
    }

    #[test]
    fn the_most_probable_tokens_come_in_order() {
        let logits = [1.0, 3.0, 3.0, -2.0, 2.5, f32::NEG_INFINITY];
        let score = TokenScore::new(&logits, 4, 3).unwrap();
        let expected: Vec<(u32, f64)> = [1, 2, 4].map(|id| (id, log_prob(&logits, id))).to_vec();
        assert_eq!((score.token, score.logprob, &score.top), (4, log_prob(&logits, 4), &expected));
        let all = TokenScore::new(&logits, 0, 100).unwrap().top;
        assert_eq!(all.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 4, 0, 3, 5]);
        assert_eq!(TokenScore::new(&logits, 5, 0).unwrap().logprob, f64::NEG_INFINITY);
        for bad in [&[0.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 2], &[0.0]] {
            assert!(TokenScore::new(bad, 1, 1).is_err());
        }
    }

    #[test]
    fn of_equal_tokens_the_first_is_greedy() {
        let logits = [1.0, 3.0, 3.0, 2.0];
        let greedy: Vec<bool> = (0..5).map(|token| token_score(&logits, token, Summation::Exact).is_greedy).collect();
        assert_eq!(greedy, [false, true, false, false, false]);
    }
}
