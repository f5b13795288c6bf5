//! Which logits decide the next token, known before they are.

use sherry_kernels::Largest;

/// The largest logits of a token: all that picking the next one takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidates {
    /// So many of the largest; `usize::MAX` where any number may be drawn.
    pub k: usize,
    /// What is left of these, where that may be found without knowing all of them.
    pub nucleus: Option<Nucleus>,
}

/// What top-p and then min-p leave of the candidates, with probabilities at temperature 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nucleus {
    /// The most likely ones that together have this share of the probability of all candidates. Above 0, up to 1 (all).
    pub top_p: f32,
    /// Only those at least this many times as likely as the most likely one. Above 0, up to 1.
    pub min_p: f32,
}

/// How far below min-p logits are looked at: those below that are missing have so little probability that
/// the cut of top-p can usually be told.
const MARGIN: f32 = 2.0;
/// What sums of probabilities may be off.
const ROUNDING: f64 = 1e-9;

impl From<usize> for Candidates {
    fn from(k: usize) -> Self {
        Self { k, nucleus: None }
    }
}

impl Candidates {
    /// The same when `count` more tokens were picked, each of which penalties may take out of the candidates. There are none
    /// where there is a nucleus.
    #[must_use]
    pub fn and(self, count: usize) -> Self {
        let fallen = if self.nucleus.is_some() { 0 } else { count };
        Self { k: self.k.saturating_add(fallen), ..self }
    }

    /// The logits to be computed.
    pub(crate) fn largest(&self) -> Largest {
        Largest { k: self.k, within: self.nucleus.map_or(f32::INFINITY, |nucleus| nucleus.reach()) }
    }

    /// Whether `logits`, which hold at least those of [`largest`](Self::largest), and -inf for some others, leave the same as
    /// all of them would.
    pub(crate) fn are_decided_by(&self, logits: &[f32]) -> bool {
        let Some(nucleus) = self.nucleus.filter(|nucleus| nucleus.top_p < 1.0) else { return true };
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let least = best - nucleus.reach();
        let mut known: Vec<f64> =
            logits.iter().filter(|logit| **logit >= least).map(|logit| probability(*logit, best)).collect();
        if known.len() >= self.k {
            return true;
        }
        known.sort_unstable_by(|a, b| b.total_cmp(a));
        // The others are at most as likely as what is looked at.
        let sum: f64 = known.iter().sum();
        let others = (self.k - known.len()) as f64 * probability(least, best);
        let left = |total: f64| nucleus.left(&known, total);
        left(sum * (1.0 - ROUNDING)) == left((sum + others) * (1.0 + ROUNDING))
    }
}

impl Nucleus {
    /// How far below the largest logit one may be that counts.
    fn reach(self) -> f32 {
        let margin = if self.top_p < 1.0 { MARGIN } else { 0.0 };
        // Somewhat more, since the logarithm is rounded.
        -self.min_p.ln() + margin + 1e-3
    }

    /// How many are left of candidates with these relative probabilities, in descending order, when those of all candidates add up to
    /// `total`.
    fn left(self, probabilities: &[f64], total: f64) -> usize {
        let mut mass = 0.0;
        let enough = probabilities.iter().position(|probability| {
            mass += probability;
            mass >= f64::from(self.top_p) * total
        });
        let likely = probabilities.partition_point(|probability| *probability >= f64::from(self.min_p));
        enough.map_or(likely, |last| likely.min(last + 1))
    }
}

/// Probability relative to that of the most likely token, whose logit is `best`.
fn probability(logit: f32, best: f32) -> f64 {
    f64::from(logit - best).exp()
}

#[cfg(test)]
mod tests {
    use sherry_kernels::SplitMix64;

    use super::*;

    /// What is left of all logits, by sorting them.
    fn left(candidates: Candidates, logits: &[f32]) -> usize {
        let nucleus = candidates.nucleus.unwrap();
        let mut sorted = logits.to_vec();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        sorted.truncate(candidates.k);
        let probabilities: Vec<f64> = sorted.iter().map(|logit| probability(*logit, sorted[0])).collect();
        nucleus.left(&probabilities, probabilities.iter().sum())
    }

    #[test]
    fn what_is_decided_is_what_all_logits_leave() {
        let mut random = SplitMix64(3);
        let (mut decided, mut not) = (0, 0);
        for round in 0..4000 {
            // From flat to peaked.
            let spread = 1.0 + (round % 8) as f64;
            let logits: Vec<f32> = (0..300)
                .map(|_| {
                    let sum: f64 = (0..3).map(|_| (random.bits() >> 11) as f64 / (1u64 << 53) as f64).sum();
                    (spread * sum) as f32
                })
                .collect();
            let pick = |values: &[f32]| values[round % values.len()];
            let nucleus = Nucleus { top_p: pick(&[0.95, 0.8, 0.5, 0.99, 1.0]), min_p: pick(&[0.05, 0.2, 0.01]) };
            let k = [40, 5, 1, 200, 299, usize::MAX][round % 6];
            let candidates = Candidates { k, nucleus: Some(nucleus) };
            let Largest { k, within } = candidates.largest();
            let mut sorted = logits.clone();
            sorted.sort_unstable_by(|a, b| b.total_cmp(a));
            let least = (sorted[0] - within).max(sorted.get(k - 1).copied().unwrap_or(f32::NEG_INFINITY));
            // Others are there by chance.
            let known: Vec<f32> = logits
                .iter()
                .enumerate()
                .map(|(i, logit)| if *logit >= least || i % 7 == 0 { *logit } else { f32::NEG_INFINITY })
                .collect();
            if candidates.are_decided_by(&known) {
                decided += 1;
                assert_eq!(left(candidates, &known), left(candidates, &logits), "round {round}: {candidates:?}");
            } else {
                not += 1;
            }
        }
        assert!(decided > 1000 && not > 200, "{decided} {not}");
    }
}
