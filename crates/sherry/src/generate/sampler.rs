//! Picking the next token.
//!
//! The order of steps is llama.cpp's: bias, penalties, then the mask of allowed tokens, top-k, top-p, min-p, temperature,
//! draw. At temperature 0 the token with the largest logit is taken, of equal ones the lowest id.
//!
//! Draws use a counter-based generator: the random number of step `n` of a request is a function of the request's seed
//! and `n` alone (SplitMix64: the `n+1`-th output of the generator seeded with `seed`). So a request gives the same
//! tokens whatever else runs, and can be resumed at any step.

use std::collections::HashMap;
use std::sync::Arc;

use sherry_kernels::SplitMix64;

use super::TokenSet;
use crate::model::{Candidates, Nucleus};
use crate::{Error, Result};

/// How the next token is picked. Made by [`SamplingParams::check`] or a preset; the fields are public for reading and
/// `..` updates, and checked again by [`Sampler::new`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 takes the most likely token; higher is more random. 0 to 100.
    pub temperature: f32,
    /// Only the `top_k` most likely tokens; 0 means all.
    pub top_k: usize,
    /// Only the most likely tokens that together have this probability. Above 0, up to 1 (all).
    pub top_p: f32,
    /// Only tokens at least `min_p` times as likely as the most likely one. 0 (all) to 1.
    pub min_p: f32,
    /// Logits of recent tokens are divided by this if positive, multiplied if negative. 1 is off; above 0, up to 100.
    pub repetition_penalty: f32,
    /// How many tokens back the repetition penalty looks, the prompt included; 0 is off.
    pub repetition_window: usize,
    /// Taken from the logit of every token that was generated already. 0 is off; -2 to 2.
    pub presence_penalty: f32,
    /// Taken from the logit of a token each time that it was generated. 0 is off; -2 to 2.
    pub frequency_penalty: f32,
    /// Same seed, same tokens.
    pub seed: u64,
}

impl SamplingParams {
    /// Always the most likely token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        repetition_window: 64,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seed: 0,
    };

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first field out of range, its value and the range.
    pub fn check(self) -> Result<Self> {
        let range = |field: &str, value: f32, good: bool, range: &str| {
            if good { Ok(()) } else { Err(Error::Invalid(format!("{field} is {value}; expected {range}"))) }
        };
        let t = self.temperature;
        range("temperature", t, (0.0..=100.0).contains(&t), "0 to 100")?;
        range("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1")?;
        range("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1")?;
        let r = self.repetition_penalty;
        range("repetition_penalty", r, r > 0.0 && r <= 100.0, "above 0, at most 100")?;
        for (field, value) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            range(field, value, (-2.0..=2.0).contains(&value), "-2 to 2")?;
        }
        Ok(self)
    }

    /// The parameters of choice `choice` of several: the first has the seed, choice `i` the `i`-th output of SplitMix64
    /// seeded with it.
    #[must_use]
    pub fn for_choice(self, choice: usize) -> Self {
        let seed = if choice == 0 { self.seed } else { SplitMix64::output(self.seed, choice as u64) };
        Self { seed, ..self }
    }
}

impl Default for SamplingParams {
    /// llama.cpp's: temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, no penalty.
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..Self::GREEDY }
    }
}

/// Picks tokens for one sequence.
///
/// ```
/// use sherry::generate::{Sampler, SamplingParams};
/// let mut sampler = Sampler::new(SamplingParams::GREEDY)?;
/// assert_eq!(sampler.sample(&[0.1, 2.5, -1.0], &[], None)?, 1);
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    /// What is added to logits, sorted by id.
    bias: Arc<[(u32, f32)]>,
    step: u64,
    /// How often each token was picked, while a penalty asks.
    picked: HashMap<u32, u32>,
    /// Logits after bias, penalties and mask, where there are any.
    logits: Vec<f32>,
    /// Candidates that are left, as (logit, id).
    candidates: Vec<(f32, u32)>,
}

/// The largest bias of a token.
const MAX_BIAS: f32 = 100.0;

impl Sampler {
    /// A sampler at step 0.
    ///
    /// # Errors
    /// As [`SamplingParams::check`].
    pub fn new(params: SamplingParams) -> Result<Self> {
        Self::with_bias(params, &[])
    }

    /// A sampler that adds a number from -100 to 100 to the logits of some tokens first.
    ///
    /// # Errors
    /// As [`SamplingParams::check`]; [`Error::Invalid`] naming a token whose bias is out of range.
    pub fn with_bias(params: SamplingParams, bias: &[(u32, f32)]) -> Result<Self> {
        if let Some((id, bias)) = bias.iter().find(|(_, bias)| !(-MAX_BIAS..=MAX_BIAS).contains(bias)) {
            return Err(Error::Invalid(format!("the bias of token {id} is {bias}; expected -100 to 100")));
        }
        let mut bias = bias.to_vec();
        bias.sort_by_key(|(id, _)| *id);
        Ok(Self {
            params: params.check()?,
            bias: bias.into(),
            step: 0,
            picked: HashMap::new(),
            logits: Vec::new(),
            candidates: Vec::new(),
        })
    }

    /// The same sampler with another seed.
    #[must_use]
    pub fn reseeded(&self, seed: u64) -> Self {
        Self { params: SamplingParams { seed, ..self.params }, ..self.clone() }
    }

    /// The parameters.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The logits that decide the next token, if that is known before they are, when `masked` tokens are not allowed: the
    /// token is the same when all others are -inf. `None` when every token may be drawn, or one that is not among them may
    /// rise.
    pub fn candidates(&self, masked: usize) -> Option<Candidates> {
        let SamplingParams { temperature, top_k, top_p, min_p, repetition_penalty, repetition_window, .. } =
            self.params;
        let (presence, frequency) = (self.params.presence_penalty, self.params.frequency_penalty);
        if repetition_penalty < 1.0
            || presence < 0.0
            || frequency < 0.0
            || self.bias.iter().any(|(_, bias)| *bias > 0.0)
        {
            return None;
        }
        // Every token that falls makes room for one that does not.
        let window = if repetition_penalty > 1.0 { repetition_window } else { 0 };
        let fallen = masked.checked_add(window)?.checked_add(self.bias.len() + self.picked.len())?;
        let falls = fallen > 0 || presence > 0.0 || frequency > 0.0;
        let nucleus = (temperature > 0.0 && min_p > 0.0 && !falls).then_some(Nucleus { top_p, min_p });
        let k = match top_k {
            _ if temperature == 0.0 => 1,
            0 if nucleus.is_some() && top_p == 1.0 => usize::MAX,
            0 => return None,
            k => k,
        };
        Some(Candidates { k: k.checked_add(fallen)?, nucleus })
    }

    /// The next token: `logits` has one entry per id, `history` is what came before, prompt included, and only ids in
    /// `allowed` are chosen, where there is such a set.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no logit is a finite number, or one is +inf: the model is broken and no token would mean
    /// anything. Single NaN count as never. Also if no allowed token has a finite logit.
    pub fn sample(&mut self, logits: &[f32], history: &[u32], allowed: Option<&TokenSet>) -> Result<u32> {
        let step = self.step;
        self.step += 1;
        let token = self.pick(logits, history, allowed, step)?;
        if self.params.presence_penalty != 0.0 || self.params.frequency_penalty != 0.0 {
            *self.picked.entry(token).or_default() += 1;
        }
        Ok(token)
    }

    fn pick(&mut self, logits: &[f32], history: &[u32], allowed: Option<&TokenSet>, step: u64) -> Result<u32> {
        let Self { params, bias, picked, logits: adjusted, candidates, .. } = self;
        let logits = adjust(params, bias, picked, logits, history, allowed, adjusted);
        let (best_id, best) = largest(logits)?;
        if params.temperature == 0.0 {
            return Ok(best_id);
        }

        // Top-k without sorting the rest; unlikelier than e^-104 of the best is 0 in f32 at any temperature up to 1.
        candidates.clear();
        let usable = logits.iter().enumerate().filter(|(_, logit)| logit.is_finite());
        candidates.extend(usable.map(|(id, logit)| (*logit, id as u32)));
        let k = if params.top_k == 0 { candidates.len() } else { params.top_k.min(candidates.len()) };
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if k < candidates.len() {
            candidates.select_nth_unstable_by(k - 1, order);
            candidates.truncate(k);
        }

        // Top-p and min-p look at probabilities at temperature 1, as llama.cpp does in this order.
        let probability = |logit: f32| f64::from(logit - best).exp();
        if params.top_p < 1.0 {
            let total: f64 = candidates.iter().map(|(logit, _)| probability(*logit)).sum();
            let mut mass = 0.0;
            let mut kept = 0;
            // Sorting in growing chunks: usually a few candidates hold the mass.
            while kept < candidates.len() {
                let chunk = (candidates.len() - kept).min(kept.max(64));
                let rest = &mut candidates[kept..];
                if chunk < rest.len() {
                    rest.select_nth_unstable_by(chunk - 1, order);
                }
                rest[..chunk].sort_unstable_by(order);
                let enough = rest[..chunk].iter().position(|(logit, _)| {
                    mass += probability(*logit);
                    mass >= f64::from(params.top_p) * total
                });
                if let Some(last) = enough {
                    kept += last + 1;
                    break;
                }
                kept += chunk;
            }
            candidates.truncate(kept.max(1));
        }
        if params.min_p > 0.0 {
            candidates.retain(|(logit, _)| probability(*logit) >= f64::from(params.min_p));
        }

        // Drawing by id order, so that the result does not depend on how the selection shuffled them.
        candidates.sort_unstable_by_key(|(_, id)| *id);
        let weight = |logit: f32| (f64::from(logit - best) / f64::from(params.temperature)).exp();
        let total: f64 = candidates.iter().map(|(logit, _)| weight(*logit)).sum();
        let mut left = uniform(params.seed, step) * total;
        for (logit, id) in candidates.iter() {
            left -= weight(*logit);
            if left < 0.0 {
                return Ok(*id);
            }
        }
        Ok(best_id) // only by rounding
    }
}

/// Logits after bias, penalties and mask; `out` holds them where they differ from those of the model.
fn adjust<'l>(
    params: &SamplingParams,
    bias: &[(u32, f32)],
    picked: &HashMap<u32, u32>,
    logits: &'l [f32],
    history: &[u32],
    allowed: Option<&TokenSet>,
    out: &'l mut Vec<f32>,
) -> &'l [f32] {
    let window = if params.repetition_penalty == 1.0 { 0 } else { params.repetition_window };
    if bias.is_empty() && window == 0 && picked.is_empty() && allowed.is_none() {
        return logits;
    }
    out.clear();
    out.extend_from_slice(logits);
    let biased = |id: u32| {
        let at = bias.partition_point(|(other, _)| *other < id);
        let bias = bias[at..].iter().take_while(|(other, _)| *other == id).map(|(_, bias)| bias).sum::<f32>();
        logits.get(id as usize).map(|logit| logit + bias)
    };
    for (id, _) in bias {
        if let (Some(value), Some(logit)) = (biased(*id), out.get_mut(*id as usize)) {
            *logit = value;
        }
    }
    // From what was before the penalty, so that a token of the window counts once.
    for id in &history[history.len().saturating_sub(window)..] {
        let (Some(value), Some(logit)) = (biased(*id), out.get_mut(*id as usize)) else { continue };
        *logit = if value > 0.0 { value / params.repetition_penalty } else { value * params.repetition_penalty };
    }
    for (id, count) in picked {
        if let Some(logit) = out.get_mut(*id as usize) {
            *logit -= params.presence_penalty + params.frequency_penalty * *count as f32;
        }
    }
    if let Some(allowed) = allowed {
        let banned = out.iter_mut().enumerate().filter(|(id, _)| !allowed.contains(*id as u32));
        banned.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
    }
    out
}

/// Id and value of the largest logit; of equal ones the lowest id. NaN is never the largest.
fn largest(logits: &[f32]) -> Result<(u32, f32)> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in logits.iter().enumerate() {
        if *logit > best.1 {
            best = (id as u32, *logit);
        }
    }
    if !best.1.is_finite() {
        return Err(Error::Invalid(format!(
            "the model's output is not usable: of {} logits none that may be chosen is finite, or one is infinite",
            logits.len()
        )));
    }
    Ok(best)
}

/// The random number in [0, 1) of `step`: the upper 53 bits of an output.
fn uniform(seed: u64, step: u64) -> f64 {
    (SplitMix64::output(seed, step.wrapping_add(1)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
#[expect(clippy::type_complexity, reason = "a table of changes")]
mod tests {
    use sherry_kernels::Largest;

    use super::*;

    fn params() -> SamplingParams {
        SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY }
    }

    /// How often each id is drawn in `n` steps.
    fn counts(params: SamplingParams, logits: &[f32], n: u32) -> Vec<u32> {
        let mut sampler = Sampler::new(params).unwrap();
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(logits, &[], None).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn fields_out_of_range_are_named() {
        let cases: [(&str, fn(&mut SamplingParams)); 15] = [
            ("temperature is NaN", |p| p.temperature = f32::NAN),
            ("temperature is -1", |p| p.temperature = -1.0),
            ("temperature is 1000000000", |p| p.temperature = 1e9),
            ("temperature is inf", |p| p.temperature = f32::INFINITY),
            ("top_p is -1", |p| p.top_p = -1.0),
            ("top_p is 0", |p| p.top_p = 0.0),
            ("top_p is 2", |p| p.top_p = 2.0),
            ("min_p is 1.5", |p| p.min_p = 1.5),
            ("min_p is NaN", |p| p.min_p = f32::NAN),
            ("repetition_penalty is 0", |p| p.repetition_penalty = 0.0),
            ("repetition_penalty is -2", |p| p.repetition_penalty = -2.0),
            ("repetition_penalty is NaN", |p| p.repetition_penalty = f32::NAN),
            ("presence_penalty is 2.1", |p| p.presence_penalty = 2.1),
            ("frequency_penalty is -3", |p| p.frequency_penalty = -3.0),
            ("frequency_penalty is NaN", |p| p.frequency_penalty = f32::NAN),
        ];
        for (expected, change) in cases {
            let mut params = SamplingParams::default();
            change(&mut params);
            let err = params.check().unwrap_err().to_string();
            assert!(err.starts_with(expected), "{err}");
            assert!(Sampler::new(params).is_err());
        }
        assert!(SamplingParams::default().check().is_ok());
        assert!(SamplingParams { temperature: 1e-30, ..params() }.check().is_ok());
    }

    #[test]
    fn greedy_takes_the_largest_and_the_lowest_id() {
        let mut sampler = Sampler::new(SamplingParams::GREEDY).unwrap();
        assert_eq!(sampler.sample(&[1.0, f32::NAN, 3.0, 3.0, f32::NEG_INFINITY], &[], None).unwrap(), 2);
        assert_eq!(sampler.sample(&[-5.0], &[], None).unwrap(), 0);
        // A temperature of next to nothing is greedy, not NaN.
        let mut cold = Sampler::new(SamplingParams { temperature: 1e-30, ..params() }).unwrap();
        assert_eq!(cold.sample(&[1.0, 1.5, -2.0], &[], None).unwrap(), 1);
    }

    #[test]
    fn broken_logits_are_an_error() {
        for params in [SamplingParams::GREEDY, SamplingParams::default()] {
            let mut sampler = Sampler::new(params).unwrap();
            for logits in [&[][..], &[f32::NAN; 4], &[f32::NEG_INFINITY; 4], &[0.0, f32::INFINITY]] {
                assert!(sampler.sample(logits, &[], None).is_err(), "{logits:?}");
            }
        }
    }

    #[test]
    fn generator_is_splitmix64() {
        // First outputs of the reference implementation for seed 1234567.
        let expected = [6457827717110365317u64, 3203168211198807973, 9817491932198370423];
        for (step, value) in expected.into_iter().enumerate() {
            assert_eq!(uniform(1_234_567, step as u64), (value >> 11) as f64 / (1u64 << 53) as f64);
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        for temperature in [0.5, 1.0, 2.0] {
            let n = 40_000;
            let drawn = counts(SamplingParams { temperature, ..params() }, &logits, n);
            let weights: Vec<f64> = logits.iter().map(|l| (f64::from(*l) / f64::from(temperature)).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (count, weight) in drawn.iter().zip(weights) {
                let p = weight / total;
                let sigma = (f64::from(n) * p * (1.0 - p)).sqrt();
                assert!((f64::from(*count) - f64::from(n) * p).abs() < 5.0 * sigma, "{drawn:?}");
            }
        }
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits: Vec<f32> = [0.5, 0.2, 0.15, 0.1, 0.05].iter().map(|p: &f32| p.ln()).collect();
        let kept = |params| counts(params, &logits, 5000).iter().filter(|count| **count > 0).count();
        assert_eq!(kept(params()), 5);
        assert_eq!(kept(SamplingParams { top_k: 2, ..params() }), 2);
        assert_eq!(kept(SamplingParams { top_k: 99, ..params() }), 5);
        assert_eq!(kept(SamplingParams { top_p: 0.6, ..params() }), 2);
        assert_eq!(kept(SamplingParams { top_p: 1e-9, ..params() }), 1);
        assert_eq!(kept(SamplingParams { min_p: 0.25, ..params() }), 3);
        assert_eq!(kept(SamplingParams { min_p: 1.0, ..params() }), 1);
        // Top-p looks at what top-k left: 0.5 and 0.2 of 0.7.
        assert_eq!(kept(SamplingParams { top_k: 2, top_p: 0.7, ..params() }), 1);
    }

    #[test]
    fn top_p_over_many_candidates_equals_a_full_sort() {
        let logits: Vec<f32> = (0..20_000u64).map(|i| (uniform(7, i) * 4.0) as f32).collect();
        let params = SamplingParams { top_p: 0.9, ..params() };
        let mut sampler = Sampler::new(params).unwrap();
        sampler.sample(&logits, &[], None).unwrap();
        let mut sorted: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let total: f64 = sorted.iter().map(|(l, _)| f64::from(*l).exp()).sum();
        let mut mass = 0.0;
        let count = 1 + sorted
            .iter()
            .take_while(|(l, _)| {
                mass += f64::from(*l).exp();
                mass < 0.9 * total
            })
            .count();
        let mut expected: Vec<u32> = sorted[..count].iter().map(|(_, id)| *id).collect();
        expected.sort_unstable();
        let kept: Vec<u32> = sampler.candidates.iter().map(|(_, id)| *id).collect();
        assert!(kept.len().abs_diff(expected.len()) <= 1, "{} {}", kept.len(), expected.len());
        assert!(kept.iter().all(|id| expected.binary_search(id).is_ok()) || kept.len() > expected.len());
    }

    #[test]
    fn same_seed_same_tokens_and_steps_are_independent() {
        let logits = [0.0f32; 50];
        let draw = |seed| {
            let mut sampler = Sampler::new(SamplingParams { seed, ..params() }).unwrap();
            (0..20).map(|_| sampler.sample(&logits, &[], None).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn penalty_lowers_recent_tokens_once() {
        let penalised = |history: &[u32], window| {
            let params =
                SamplingParams { repetition_penalty: 2.0, repetition_window: window, ..SamplingParams::GREEDY };
            adjust(&params, &[], &HashMap::new(), &[2.0, -1.0, 1.5], history, None, &mut Vec::new()).to_vec()
        };
        assert_eq!(penalised(&[0, 0, 1], 64), [1.0, -2.0, 1.5]);
        assert_eq!(penalised(&[0, 1], 1), [2.0, -2.0, 1.5]);
        assert_eq!(penalised(&[0, 99], 0), [2.0, -1.0, 1.5]);
        assert_eq!(penalised(&[99, u32::MAX], 64), [2.0, -1.0, 1.5]);
    }

    #[test]
    fn bias_penalties_and_mask_change_logits_as_they_say() {
        let logits = [2.0, -1.0, 1.5, 0.5];
        let greedy = SamplingParams::GREEDY;
        let biased =
            |bias: &[(u32, f32)]| Sampler::with_bias(greedy, bias).unwrap().sample(&logits, &[], None).unwrap();
        assert_eq!([biased(&[]), biased(&[(0, -1.0)]), biased(&[(1, 99.0)])], [0, 2, 1]);
        assert_eq!(biased(&[(3, 1.0), (9, 5.0), (3, 1.0)]), 3, "ids outside change nothing, several add up");
        for bad in [101.0, -101.0, f32::NAN, f32::INFINITY] {
            assert!(Sampler::with_bias(greedy, &[(1, bad)]).unwrap_err().to_string().contains("token 1"));
        }
        // Every id at -100: still the largest.
        assert_eq!(biased(&[0, 1, 2, 3].map(|id| (id, -100.0))), 0);

        let picks = |params: SamplingParams, n: usize| {
            let mut sampler = Sampler::new(params).unwrap();
            (0..n).map(|_| sampler.sample(&logits, &[0, 0, 0], None).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(
            picks(SamplingParams { presence_penalty: 1.0, ..greedy }, 4),
            [0, 2, 0, 0],
            "the prompt does not count"
        );
        assert_eq!(picks(SamplingParams { frequency_penalty: 1.0, ..greedy }, 5), [0, 2, 0, 2, 3]);
        assert_eq!(picks(SamplingParams { frequency_penalty: -1.0, ..greedy }, 3), [0, 0, 0]);

        let masked = |allowed: &TokenSet, params| Sampler::new(params).unwrap().sample(&logits, &[], Some(allowed));
        for params in [greedy, SamplingParams { temperature: 5.0, ..greedy }] {
            assert_eq!(masked(&TokenSet::of(4, |id| id == 1), params).unwrap(), 1);
            assert!(masked(&TokenSet::none(4), params).unwrap_err().to_string().contains("none that may be chosen"));
            assert!(masked(&TokenSet::all(0), params).is_err(), "ids beyond the set are not allowed");
        }
    }

    /// The logits that `candidates` promises to be enough give the token that all of them give.
    #[test]
    fn the_largest_logits_are_enough() {
        let (mut partial, mut near) = (0, 0);
        for round in 0..800u64 {
            let random = |i: u64| uniform(round, 1000 + i);
            let logits: Vec<f32> =
                (0..60).map(|i| (random(i) * [8.0, 30.0][(round / 2 % 2) as usize]) as f32).collect();
            let params = SamplingParams {
                temperature: if round % 3 == 0 { 0.0 } else { 1.5 },
                top_k: [0, 1, 2, 3, 4, 20][(random(100) * 6.0) as usize],
                top_p: [1.0, 0.95, 0.7][(random(106) * 3.0) as usize],
                min_p: [0.0, 0.05, 0.3][(random(107) * 3.0) as usize],
                repetition_penalty: [1.0, 1.0, 1.3, 0.9][(random(101) * 4.0) as usize],
                repetition_window: 4,
                presence_penalty: [0.0, 0.0, 0.7, -0.3][(random(102) * 4.0) as usize],
                frequency_penalty: [0.0, 0.5][(random(103) * 2.0) as usize],
                seed: round,
            };
            let bias: Vec<(u32, f32)> =
                (0..(random(104) * 3.0) as u64).map(|i| ((random(105 + i) * 60.0) as u32, -2.0)).collect();
            let plain = round % 2 == 0;
            let allowed = TokenSet::of(60, |id| plain || random(200 + u64::from(id)) > 0.1);
            let bias = if plain { &[] } else { bias.as_slice() };
            let mut samplers = [0; 2].map(|_| Sampler::with_bias(params, bias).unwrap());
            let mut history = vec![5, 6, 7];
            for _ in 0..12 {
                let expected = samplers[0].sample(&logits, &history, Some(&allowed)).unwrap();
                let mut known = logits.clone();
                let candidates = samplers[1].candidates(60 - allowed.count());
                if let Some(candidates) =
                    candidates.filter(|candidates| candidates.k < 60 || candidates.nucleus.is_some())
                {
                    let Largest { k, within } = candidates.largest();
                    let mut sorted = logits.clone();
                    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
                    let least = sorted.get(k - 1).copied().unwrap_or(f32::NEG_INFINITY).max(sorted[0] - within);
                    known.iter_mut().filter(|x| **x < least).for_each(|x| *x = f32::NEG_INFINITY);
                    if candidates.are_decided_by(&known) {
                        partial += 1;
                        near += usize::from(candidates.nucleus.is_some());
                    } else {
                        known.clone_from(&logits);
                    }
                }
                assert_eq!(samplers[1].sample(&known, &history, Some(&allowed)).unwrap(), expected, "{params:?}");
                history.push(expected);
            }
        }
        assert!(partial > 1000 && near > 100, "{partial}, {near}: too few cases");
    }

    #[test]
    fn choices_have_seeds_of_their_own() {
        let params = SamplingParams { seed: 1_234_567, ..SamplingParams::GREEDY };
        let seeds: Vec<u64> = (0..3).map(|choice| params.for_choice(choice).seed).collect();
        assert_eq!(seeds, [1_234_567, 6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }
}
