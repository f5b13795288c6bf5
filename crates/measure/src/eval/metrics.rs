//! From scores to numbers, as the harness computes them.

use rayon::prelude::*;

use super::lm::Score;
use super::python::Random;
use super::tasks::{Item, Metric};

/// Resamples of a bootstrapped standard error: the harness's default.
pub const BOOTSTRAP_ITERATIONS: usize = 100_000;
/// Resamples that share one seed in the harness.
const BOOTSTRAP_CHUNK: usize = 1000;

/// A number over all items with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Its standard error; `None` with fewer than two items.
    pub stderr: Option<f64>,
}

/// The mean over groups of items, each given by its number of items and its own mean. The standard error is that of the
/// pooled variance of the items (`pooled_sample_stderr` of the harness).
pub fn weighted_mean(parts: &[(usize, Estimate)]) -> Estimate {
    let items: usize = parts.iter().map(|(items, _)| items).sum();
    let value = parts.iter().map(|(items, part)| *items as f64 * part.value).sum::<f64>() / items as f64;
    let square = |(items, part): &(usize, Estimate)| Some((*items as f64 - 1.0) * part.stderr?.powi(2) * *items as f64);
    let squares = parts.iter().map(square).sum::<Option<f64>>();
    let variance = squares.filter(|_| items > parts.len()).map(|squares| squares / (items - parts.len()) as f64);
    Estimate { value, stderr: variance.map(|variance| (variance / items as f64).sqrt()) }
}

/// The value of `metric` for one item: 0 or 1, or the log-likelihood for perplexity. `scores` holds one score per
/// request.
pub fn item_value(metric: Metric, item: &Item, scores: &[Score]) -> f64 {
    let hit = |right: bool| if right { 1.0 } else { 0.0 };
    match metric {
        Metric::Perplexity => scores.first().map_or(f64::NAN, |score| score.logprob),
        Metric::Acc if scores.len() == 1 => hit(scores[0].is_greedy),
        Metric::Acc => hit(first_largest(scores.iter().map(|score| score.logprob)) == Some(item.gold)),
        Metric::AccNorm => {
            let normed = scores.iter().zip(&item.lengths).map(|(score, &length)| score.logprob / length as f64);
            hit(first_largest(normed) == Some(item.gold))
        }
    }
}

/// Index of the largest value; of equal ones the first, as in NumPy.
pub fn first_largest(values: impl IntoIterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (i, value) in values.into_iter().enumerate() {
        if best.is_none_or(|(_, largest)| value > largest) {
            best = Some((i, value));
        }
    }
    best.map(|(i, _)| i)
}

/// The metric over all items' values. The error of a perplexity is bootstrapped with `bootstrap` resamples (none: no
/// error), drawn exactly as the harness draws them.
pub fn aggregate(metric: Metric, values: &[f64], bootstrap: usize) -> Estimate {
    let enough = values.len() > 1;
    match metric {
        Metric::Acc | Metric::AccNorm => Estimate { value: mean(values), stderr: enough.then(|| mean_stderr(values)) },
        Metric::Perplexity => Estimate {
            value: (-mean(values)).exp(),
            stderr: (enough && bootstrap > 0).then(|| bootstrap_perplexity(values, bootstrap)),
        },
    }
}

/// Arithmetic mean; NaN for none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sample standard deviation (n - 1).
pub fn sample_stddev(values: &[f64]) -> f64 {
    let center = mean(values);
    let squares: f64 = values.iter().map(|value| (value - center) * (value - center)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}

/// Standard error of the mean: sample standard deviation over the root of the count.
pub fn mean_stderr(values: &[f64]) -> f64 {
    sample_stddev(values) / (values.len() as f64).sqrt()
}

fn bootstrap_perplexity(values: &[f64], iterations: usize) -> f64 {
    let chunk = BOOTSTRAP_CHUNK.min(iterations);
    let resampled: Vec<f64> = (0..iterations / chunk)
        .into_par_iter()
        .flat_map_iter(|seed| {
            let mut random = Random::new(seed as u64);
            (0..chunk).map(move |_| {
                let n = values.len();
                let sum: f64 = (0..n).map(|_| values[(random.uniform() * n as f64) as usize]).sum();
                (-sum / n as f64).exp()
            })
        })
        .collect();
    sample_stddev(&resampled)
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn item(gold: usize, lengths: &[usize]) -> Item {
        Item { index: 0, row: Map::new(), requests: Vec::new(), lengths: lengths.to_vec(), gold, target: String::new() }
    }

    fn scores(logprobs: &[f64]) -> Vec<Score> {
        logprobs.iter().map(|&logprob| Score { logprob, is_greedy: false }).collect()
    }

    #[test]
    fn groups_are_averaged_as_by_the_harness() {
        // `aggregate_subtask_metrics` and `pooled_sample_stderr` of lm-evaluation-harness 0.4.13.
        let part = |items, value, stderr| (items, Estimate { value, stderr: Some(stderr) });
        let parts = [part(100, 0.25, 0.043_519_4), part(135, 0.61, 0.042_136_5), part(20, 0.4, 0.112_390_3)];
        let mean = weighted_mean(&parts);
        assert!((mean.value - 0.452_352_941_176_470_57).abs() < 1e-15, "{mean:?}");
        assert!((mean.stderr.unwrap() - 0.029_432_992_461_309_877).abs() < 1e-15, "{mean:?}");
        let one = [(1, Estimate { value: 1.0, stderr: None }), part(100, 0.25, 0.04)];
        assert_eq!(weighted_mean(&one).stderr, None);
    }

    #[test]
    fn length_counts_only_for_acc_norm() {
        let item = item(1, &[2, 10]);
        let scores = scores(&[-3.0, -9.0]);
        assert_eq!(item_value(Metric::Acc, &item, &scores), 0.0);
        assert_eq!(item_value(Metric::AccNorm, &item, &scores), 1.0);
    }

    #[test]
    fn ties_go_to_the_first_choice() {
        assert_eq!(item_value(Metric::Acc, &item(0, &[1, 1]), &scores(&[-2.0, -2.0])), 1.0);
        assert_eq!(item_value(Metric::Acc, &item(1, &[1, 1]), &scores(&[-2.0, -2.0])), 0.0);
    }

    #[test]
    fn without_choices_acc_means_greedy() {
        let greedy = [Score { logprob: -1.0, is_greedy: true }];
        assert_eq!(item_value(Metric::Acc, &item(0, &[1]), &greedy), 1.0);
        assert_eq!(item_value(Metric::Acc, &item(0, &[1]), &scores(&[-1.0])), 0.0);
    }

    #[test]
    fn standard_errors_are_the_harnesses() {
        // 102 of 200 right: the reference file's acc_stderr for ARC-Easy.
        let values: Vec<f64> = (0..200).map(|i| if i < 102 { 1.0 } else { 0.0 }).collect();
        let estimate = aggregate(Metric::Acc, &values, 0);
        assert!((estimate.value - 0.51).abs() < 1e-15);
        assert!((estimate.stderr.unwrap() - 0.035_436_970_729_343_674).abs() < 1e-15);
        assert_eq!(aggregate(Metric::Acc, &[1.0], 0).stderr, None);
    }

    #[test]
    fn bootstrapped_errors_are_the_harnesses() {
        // python3: xs = [-(i * i % 17) / 3 for i in range(50)]; bootstrap_stderr of api/metrics.py with iters=2000:
        // seeds 0 and 1, 1000 draws each of rnd.choices(xs, k=50), perplexity = exp(-mean).
        let values: Vec<f64> = (0..50).map(|i| -f64::from(i * i % 17) / 3.0).collect();
        let estimate = aggregate(Metric::Perplexity, &values, 2000);
        assert!((estimate.value - PERPLEXITY).abs() < 1e-12);
        assert!((estimate.stderr.unwrap() - PERPLEXITY_STDERR).abs() < 1e-9, "{estimate:?}");
    }

    const PERPLEXITY: f64 = 15.079456688750732;
    const PERPLEXITY_STDERR: f64 = 4.150321074130581;
}
