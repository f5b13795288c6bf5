//! How much a step may do, and how long it will take.

use std::time::Duration;

use crate::model::ArchConfig;

/// How much prompt a step reads beside the tokens that it generates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// At most so many prompt tokens: for programs that do not measure time.
    Tokens(usize),
    /// As many as make the step take `target`, and three times as long while nothing is being generated.
    Time {
        /// The time since any fixed moment.
        now: Duration,
        /// How long the step before this one took; zero when nobody knows.
        last: Duration,
        /// How long a step should take.
        target: Duration,
    },
}

/// What a step does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Tokens, of prompts and generated ones.
    pub tokens: usize,
    /// Positions that they attend to, in all.
    pub attended: u64,
    /// Rows of logits.
    pub rows: usize,
}

impl Work {
    /// `tokens` tokens after `start` positions, with `rows` rows of logits.
    pub(super) fn part(start: usize, tokens: usize, rows: usize) -> Self {
        let (start, count) = (start as u64, tokens as u64);
        Self { tokens, attended: count * start + count * (count + 1) / 2, rows }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.attended += other.attended;
        self.rows += other.rows;
    }
}

/// Predicts how long a step takes: a sum of what a pass over the weights, a token, an attended position and a row of logits
/// cost. Where these costs start follows from the shape of the model; they are fitted to the steps that were measured.
#[derive(Debug)]
pub(super) struct Pace {
    /// Seconds for a pass over the weights, and per token, attended position and row, before anything was measured.
    prior: [f64; 4],
    /// By how much each of them is larger.
    factors: [f64; 4],
    measured: bool,
    /// Steps that only generate, and steps that read prompts as well. Each kind forgets when it is measured again: hours of
    /// generating say nothing about prompts.
    seen: [Seen; 2],
}

/// Sums over measured steps, recent ones above all; a step counts by its relative error.
#[derive(Debug, Default)]
struct Seen {
    products: [[f64; 4]; 4],
    sums: [f64; 4],
    steps: u64,
}

/// Seconds per multiplication before anything has been measured.
const UNKNOWN: f64 = 1e-10;
/// How much of what was measured remains after another step.
const MEMORY: f64 = 0.97;
/// How much the shape of the model counts beside measured steps.
const TRUST: f64 = 1e-3;
/// Steps that only generate from which on their cost is known.
const KNOWN: u64 = 4;
/// No cost is less than this part of what the shape of the model says.
const LEAST: f64 = 1e-3;

impl Pace {
    pub fn new(config: &ArchConfig) -> Self {
        let head = (config.vocab * config.hidden) as f64;
        let layer = config.hidden * (2 * config.q_dim() + 2 * config.kv_dim() + 3 * config.ffn);
        let body = (config.layers * layer) as f64;
        let attention = (2 * config.layers * config.q_dim()) as f64;
        // Reading weights takes about as long as multiplying two tokens by them.
        let prior = [2.0 * body, body, attention, head].map(|products| products * UNKNOWN);
        Self { prior, factors: [1.0; 4], measured: false, seen: Default::default() }
    }

    /// What each cost makes of a step, before anything was measured.
    fn shares(&self, work: Work) -> [f64; 4] {
        let [pass, token, position, row] = self.prior;
        [pass, token * work.tokens as f64, position * work.attended as f64, row * work.rows as f64]
    }

    /// Seconds that a step will take.
    pub fn predict(&self, work: Work) -> f64 {
        if work.tokens == 0 { 0.0 } else { dot(&self.shares(work), &self.factors) }
    }

    /// Whether it has seen what generating costs.
    pub fn knows_generating(&self) -> bool {
        self.seen[0].steps >= KNOWN
    }

    /// Learns from a step that took `seconds`.
    pub fn observe(&mut self, work: Work, seconds: f64) {
        if work.tokens == 0 || seconds <= 0.0 || !seconds.is_finite() {
            return;
        }
        let predicted = self.predict(work);
        if !self.measured {
            self.measured = true;
            self.prior = self.prior.map(|cost| cost * seconds / predicted);
            return;
        }
        // A step during which the machine did something else counts as one that took twice as long.
        let seconds = seconds.clamp(predicted / 2.0, predicted * 2.0);
        let relative = self.shares(work).map(|share| share / seconds);
        let seen = &mut self.seen[usize::from(work.tokens > work.rows)];
        seen.steps += 1;
        for i in 0..4 {
            for j in 0..4 {
                seen.products[i][j] = MEMORY * seen.products[i][j] + relative[i] * relative[j];
            }
            seen.sums[i] = MEMORY * seen.sums[i] + relative[i];
        }
        self.fit();
    }

    /// The factors with the least squared error, none of them below [`LEAST`].
    fn fit(&mut self) {
        let [one, two] = &self.seen;
        let mut fixed = [false; 4];
        loop {
            let mut rows = [[0.0; 5]; 4];
            for i in 0..4 {
                for j in 0..4 {
                    rows[i][j] = one.products[i][j] + two.products[i][j] + if i == j { TRUST } else { 0.0 };
                }
                rows[i][4] = one.sums[i] + two.sums[i] + TRUST;
                if fixed[i] {
                    rows[i] = [0.0; 5];
                    (rows[i][i], rows[i][4]) = (1.0, LEAST);
                }
            }
            let factors = solve(rows);
            let low = (0..4).filter(|&i| !fixed[i] && factors[i] < LEAST);
            let Some(lowest) = low.min_by(|&i, &j| factors[i].total_cmp(&factors[j])) else {
                if factors.iter().all(|factor| factor.is_finite()) {
                    self.factors = factors;
                }
                return;
            };
            fixed[lowest] = true;
        }
    }
}

fn dot(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves four linear equations (coefficients, right side) by Gaussian elimination with row exchange.
fn solve(mut rows: [[f64; 5]; 4]) -> [f64; 4] {
    for i in 0..4 {
        let pivot = (i..4).fold(i, |best, j| if rows[j][i].abs() > rows[best][i].abs() { j } else { best });
        rows.swap(i, pivot);
        for j in i + 1..4 {
            let factor = rows[j][i] / rows[i][i];
            for k in i..5 {
                rows[j][k] -= factor * rows[i][k];
            }
        }
    }
    let mut x = [0.0; 4];
    for i in (0..4).rev() {
        let known: f64 = (i + 1..4).map(|j| rows[i][j] * x[j]).sum();
        x[i] = (rows[i][4] - known) / rows[i][i];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::synthetic;

    /// Prediction becomes right for every kind of step, whatever the machine's costs are.
    #[test]
    fn predictions_approach_what_is_measured() {
        let config = synthetic::shape("llama-3.2-1b").unwrap();
        for truth in [[5.6e-3, 2.4e-3, 2e-6, 1.2e-3], [2e-4, 5e-5, 1e-8, 4e-5], [0.1, 0.3, 1e-5, 0.02]] {
            let seconds = |work: Work| {
                truth[0] + truth[1] * work.tokens as f64 + truth[2] * work.attended as f64 + truth[3] * work.rows as f64
            };
            let kinds =
                [(1, 100, 1), (1, 4000, 1), (16, 1000, 1), (64, 0, 0), (128, 3000, 1), (8, 500, 8), (32, 600, 32)];
            let kinds = kinds.map(|(tokens, start, rows)| Work::part(start, tokens, rows));
            let mut pace = Pace::new(&config);
            for round in 0..600 {
                let work = kinds[(round * 5 + round / 7) % kinds.len()];
                // Now and then the machine is busy with something else.
                let noise = if round % 50 == 49 { 10.0 } else { 1.0 + 0.05 * (round as f64).sin() };
                pace.observe(work, seconds(work) * noise);
            }
            for work in kinds {
                let ratio = pace.predict(work) / seconds(work);
                assert!((0.85..1.2).contains(&ratio), "{work:?}: {ratio}");
            }
            // After an hour of generating it still knows what prompts cost.
            for step in 0..40_000 {
                let work = Work::part(step, 4, 4);
                pace.observe(work, seconds(work));
            }
            let work = Work::part(3000, 128, 1);
            let ratio = pace.predict(work) / seconds(work);
            assert!((0.7..1.4).contains(&ratio), "{work:?}: {ratio}");
        }
    }

    #[test]
    fn equations_are_solved() {
        let x = solve([
            [0.0, 2.0, 0.0, 1.0, 8.0],
            [1.0, 0.0, 0.0, 0.0, 1.0],
            [0.0, 0.0, 3.0, 0.0, 9.0],
            [1.0, 1.0, 1.0, 1.0, 10.0],
        ]);
        assert_eq!(x, [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn nonsense_is_not_learnt() {
        let mut pace = Pace::new(&synthetic::tiny(crate::model::Family::Llama));
        let work = Work::part(0, 10, 1);
        pace.observe(work, 1.0);
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            pace.observe(work, seconds);
        }
        pace.observe(Work::default(), 5.0);
        assert!((pace.predict(work) - 1.0).abs() < 1e-9);
        assert_eq!(pace.predict(Work::default()), 0.0);
    }

    #[test]
    fn attended_positions_are_those_before_and_itself() {
        assert_eq!(Work::part(0, 1, 1).attended, 1);
        assert_eq!(Work::part(10, 3, 1).attended, 11 + 12 + 13);
    }
}
