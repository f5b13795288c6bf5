//! Prompts and generation, in the manner of llama-bench: `pp512` reads 512 tokens at once, `tg128` makes 128 one after
//! the other, `tg128 x4` makes 128 of each of four sequences, one of each at a time, `@ d4096` does so behind 4096 tokens of
//! context. Tokens are random; there is no sampling.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use sherry_kernels::{Engine, Isa, Pool, Precision};

use super::ReadProbe;
use super::statistics::median;
use crate::machine::OthersProbe;
use sherry::model::{ArchConfig, Decoder, KvCache, KvPages, KvPool, KvType, Model, PAGE, Step, Wanted};
use sherry::{Error, Progress, Result};

/// What a test does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Reads a prompt; logits of its last token only.
    Prompt,
    /// Makes tokens one after the other.
    Generate,
}

/// One thing to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Test {
    /// What it does.
    pub phase: Phase,
    /// Tokens it reads or makes, of each sequence; at least 1.
    pub tokens: usize,
    /// Sequences that are continued together; at least 1, and 1 for prompts.
    pub sequences: usize,
    /// Tokens already in the context.
    pub depth: usize,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.phase {
            Phase::Prompt => "pp",
            Phase::Generate => "tg",
        };
        write!(f, "{name}{}", self.tokens)?;
        if self.sequences > 1 {
            write!(f, " x{}", self.sequences)?;
        }
        if self.depth > 0 { write!(f, " @ d{}", self.depth) } else { Ok(()) }
    }
}

/// Cores that others may use before a repetition counts as [disturbed](Measurement::disturbed).
pub const OTHERS: f64 = 0.1;

/// How a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Instruction set; must be available.
    pub isa: Isa,
    /// Worker threads.
    pub threads: usize,
    /// Keys and values.
    pub kv: KvType,
    /// How many of the largest logits generation asks for ([`Wanted::Top`]); 0: all.
    pub top: usize,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Every test runs in each.
    pub setups: Vec<Setup>,
    /// In this order.
    pub tests: Vec<Test>,
    /// Timed runs per test and setup.
    pub repetitions: usize,
    /// Whether each test runs, shortened, once before it is timed.
    pub warm_up: bool,
    /// Most prompt tokens per pass over the weights.
    pub batch: usize,
}

impl Options {
    /// Whether `test` says anything new in setup `s`: prompts want all logits of their last token, whatever generation asks
    /// for.
    fn runs(&self, s: usize, test: &Test) -> bool {
        let same = |other: &Setup| Setup { top: self.setups[s].top, ..*other } == self.setups[s];
        test.phase == Phase::Generate || !self.setups[..s].iter().any(same)
    }

    /// As many threads as the largest setup: what models are loaded on.
    pub fn pool(&self) -> Pool {
        Pool::new(self.setups.iter().map(|setup| setup.threads).max().unwrap_or(1))
    }
}

/// All repetitions of one test in one setup.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// How it ran.
    pub setup: Setup,
    /// What ran.
    pub test: Test,
    /// Duration of each repetition.
    pub seconds: Vec<f64>,
    /// Bytes per second of plain reading, measured just before each repetition of a generating test.
    pub read_limits: Vec<f64>,
    /// Cores that other programs used during each repetition, where the system tells.
    pub others: Vec<f64>,
    /// Bytes of weights that one generated token reads.
    pub token_bytes: u64,
}

impl Measurement {
    /// Tokens per second of each repetition, of all sequences together.
    pub fn rates(&self) -> Vec<f64> {
        let tokens = (self.test.tokens * self.test.sequences) as f64;
        self.seconds.iter().map(|seconds| tokens / seconds).collect()
    }

    /// Bytes of weights read per second, by the median rate, where sequences share each reading; `None` for prompts, whose
    /// tokens share it, too, and where only a part of the head is read.
    pub fn weight_rate(&self) -> Option<f64> {
        (self.test.phase == Phase::Generate && self.setup.top == 0)
            .then(|| median(&self.rates()) / self.test.sequences as f64 * self.token_bytes as f64)
    }

    /// Repetitions during which others used more than a tenth of a core.
    pub fn disturbed(&self) -> usize {
        self.others.iter().filter(|cores| **cores > OTHERS).count()
    }

    /// The median read limit, where one was measured.
    pub fn read_limit(&self) -> Option<f64> {
        (!self.read_limits.is_empty()).then(|| median(&self.read_limits))
    }
}

/// Bytes of weights that one generated token reads: everything but an embedding that is not the head as well.
pub fn token_bytes(model: &Model) -> u64 {
    let weights = &model.weights;
    let lookup = if weights.head.is_some() { weights.embed.bytes() as u64 } else { 0 };
    weights.bytes() - lookup
}

/// Bytes of the caches that [`run`] makes for one model.
pub fn cache_bytes(model: &ArchConfig, options: &Options) -> u64 {
    let mut kinds: Vec<(KvType, usize, usize)> = Vec::new();
    for setup in &options.setups {
        for test in &options.tests {
            let kind = (setup.kv, test.depth, test.sequences);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }
    kinds.into_iter().fold(0u64, |sum, (kv, depth, sequences)| {
        let one = KvCache::bytes_needed(model, depth.saturating_add(longest(options, depth, sequences)), kv);
        sum.saturating_add(one.saturating_mul(sequences as u64))
    })
}

/// Most tokens of any test at this depth of so many sequences.
fn longest(options: &Options, depth: usize, sequences: usize) -> usize {
    let same = options.tests.iter().filter(|test| (test.depth, test.sequences) == (depth, sequences));
    same.map(|test| test.tokens).max().unwrap_or(0)
}

/// Whether a model has room for all tests.
///
/// # Errors
/// [`Error::Invalid`] naming the first test that does not fit the context the model was made for.
pub fn check(config: &ArchConfig, tests: &[Test]) -> Result<()> {
    let context = config.context;
    match tests.iter().find(|test| test.depth.saturating_add(test.tokens) > context) {
        Some(test) => Err(Error::Invalid(format!("{test}: the model was made for {context} tokens at most"))),
        None => Ok(()),
    }
}

/// Runs all tests of `options` on all `models`: the first repetition of everything, then the second, and so on, so that
/// whatever else the machine does hits all configurations alike. Gives the measurements of each model, by test, then
/// setup; setups that differ in the logits of generation alone share those of prompts.
///
/// # Errors
/// [`Error::Invalid`] when a test does not fit the context a model was made for, [`Error::OutOfMemory`],
/// [`Error::Interrupted`].
pub fn run(
    models: &[Arc<Model>],
    options: &Options,
    read: Option<&ReadProbe>,
    progress: &dyn Progress,
) -> Result<Vec<Vec<Measurement>>> {
    for model in models {
        check(&model.config, &options.tests)?;
    }
    let cases = options.tests.iter().flat_map(|test| (0..options.setups.len()).map(move |s| options.runs(s, test)));
    let cases = models.len() as u64 * cases.filter(|runs| *runs).count() as u64;
    progress.start("bench", cases * (options.repetitions as u64 + u64::from(options.warm_up)));
    let mut runners = models.iter().map(|model| Runner::new(model, options)).collect::<Vec<_>>();
    let mut results: Vec<Vec<Measurement>> = runners.iter().map(|runner| runner.measurements(options)).collect();
    let rounds = usize::from(options.warm_up) + options.repetitions;
    for round in 0..rounds {
        let warm_up = options.warm_up && round == 0;
        for (t, test) in options.tests.iter().enumerate() {
            for (runner, results) in runners.iter_mut().zip(&mut results) {
                for (s, setup) in options.setups.iter().enumerate().filter(|(s, _)| options.runs(*s, test)) {
                    let result = &mut results[t * options.setups.len() + s];
                    if warm_up {
                        let tokens = if test.phase == Phase::Prompt { test.tokens.min(options.batch) } else { 1 };
                        runner.time(s, Test { tokens, ..*test }, options, progress)?;
                    } else {
                        if let (Phase::Generate, Some(read)) = (test.phase, read) {
                            let pool = runner.decoders[s].engine().pool();
                            result.read_limits.push(read.bytes_per_second(setup.isa, pool));
                        }
                        let others = OthersProbe::start();
                        result.seconds.push(runner.time(s, *test, options, progress)?);
                        result.others.extend(others.cores());
                    }
                    progress.advance(1);
                }
            }
        }
    }
    progress.finish();
    results.iter_mut().for_each(|results| results.retain(|result| !result.seconds.is_empty()));
    Ok(results)
}

/// A model with a decoder for every setup.
struct Runner {
    decoders: Vec<Decoder>,
    /// By element type, depth and sequences, filled up to that depth.
    caches: HashMap<(usize, usize, usize), Cache>,
    token_bytes: u64,
}

/// Keys and values of sequences that are continued together.
struct Cache {
    pool: KvPool,
    sequences: Vec<KvPages>,
}

impl Cache {
    /// Empty ones with room for so many tokens each.
    fn new(config: &ArchConfig, sequences: usize, tokens: usize, kv: KvType) -> Result<Self> {
        let pool = KvPool::new(config, sequences * tokens.div_ceil(PAGE), kv)?;
        Ok(Self { pool, sequences: (0..sequences).map(|_| KvPages::default()).collect() })
    }

    /// Appends `tokens` random tokens to each sequence, at most `batch` of each at a time, with the `wanted` logits at the
    /// end.
    fn extend(
        &mut self,
        decoder: &mut Decoder,
        tokens: usize,
        batch: usize,
        wanted: Wanted,
        progress: &dyn Progress,
    ) -> Result<()> {
        let vocab = decoder.config().vocab as u64;
        let begin = self.sequences[0].len();
        let end = begin + tokens;
        let mut at = begin;
        while at < end {
            if progress.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let next = end.min(at + batch.max(1));
            let random = |i: usize, sequence: usize| {
                let place = ((sequence as u64) << 32) + i as u64 + 1;
                ((place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % vocab) as u32
            };
            let tokens: Vec<Vec<u32>> =
                (0..self.sequences.len()).map(|sequence| (at..next).map(|i| random(i, sequence)).collect()).collect();
            let logits = if next == end { wanted } else { Wanted::None };
            let steps = self.sequences.iter_mut().zip(&tokens).map(|(cache, tokens)| Step { cache, tokens, logits });
            decoder.forward(&mut self.pool, &mut steps.collect::<Vec<_>>())?;
            at = next;
        }
        Ok(())
    }
}

impl Runner {
    fn new(model: &Arc<Model>, options: &Options) -> Self {
        let engine = |setup: &Setup| Engine::new(setup.isa, setup.threads, Precision::Int8);
        let decoders = options.setups.iter().map(|setup| Decoder::new(Arc::clone(model), engine(setup)));
        Self { decoders: decoders.collect(), caches: HashMap::new(), token_bytes: token_bytes(model) }
    }

    /// One empty measurement per test and setup.
    fn measurements(&self, options: &Options) -> Vec<Measurement> {
        let of = |test: &Test, setup: &Setup| Measurement {
            setup: *setup,
            test: *test,
            seconds: Vec::new(),
            read_limits: Vec::new(),
            others: Vec::new(),
            token_bytes: self.token_bytes,
        };
        options.tests.iter().flat_map(|test| options.setups.iter().map(move |setup| of(test, setup))).collect()
    }

    /// Seconds that `test` takes in setup `s`.
    fn time(&mut self, s: usize, test: Test, options: &Options, progress: &dyn Progress) -> Result<f64> {
        let setup = options.setups[s];
        // Setups with the same type share the cache.
        let kind = options.setups.iter().position(|other| other.kv == setup.kv).unwrap_or(s);
        let cache = match self.caches.entry((kind, test.depth, test.sequences)) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let tokens = test.depth.saturating_add(longest(options, test.depth, test.sequences).max(test.tokens));
                let mut cache = Cache::new(self.decoders[s].config(), test.sequences, tokens, setup.kv)?;
                // The fastest decoder fills it.
                let fastest =
                    (0..options.setups.len()).max_by_key(|&i| (options.setups[i].isa, options.setups[i].threads));
                let decoder = &mut self.decoders[fastest.unwrap_or(s)];
                let batch = options.batch.div_ceil(test.sequences);
                cache.extend(decoder, test.depth, batch, Wanted::None, progress)?;
                entry.insert(cache)
            }
        };
        cache.sequences.iter_mut().for_each(|sequence| sequence.truncate(test.depth));
        let decoder = &mut self.decoders[s];
        let start = Instant::now();
        match test.phase {
            Phase::Prompt => cache.extend(decoder, test.tokens, options.batch, Wanted::Last, progress)?,
            Phase::Generate => {
                let logits = if setup.top == 0 { Wanted::Last } else { Wanted::Top(setup.top.into()) };
                for _ in 0..test.tokens {
                    cache.extend(decoder, 1, 1, logits, progress)?;
                }
            }
        }
        Ok(start.elapsed().as_secs_f64())
    }
}
