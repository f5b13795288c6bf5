//! Single kernels: products with weights of every format, attention, and the rest of a token.

use std::time::{Duration, Instant};

use sherry_kernels::{AttentionShape, Engine, Isa, KvHead, KvTiles, Matrix, Pool, Precision, Product};

use super::statistics::{fifth, least, median};
use super::{ReadProbe, WeightFormat, limits};
use sherry::model::KvType;
use sherry::{Error, Progress, Result};

/// Timed at most for so long without a pause, per setup and repetition.
const PASS: Duration = Duration::from_millis(300);
/// Of a matrix in cache, the best of so many runs per repetition.
const HOT_RUNS: usize = 20;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Formats of weights.
    pub formats: Vec<WeightFormat>,
    /// Rows x columns.
    pub shapes: Vec<(usize, usize)>,
    /// Instruction sets (available ones) and numbers of threads.
    pub setups: Vec<(Isa, usize)>,
    /// Tokens of the products with several of them; may be empty.
    pub tokens: Vec<usize>,
    /// Positions that attention goes over; may be empty.
    pub contexts: Vec<usize>,
    /// Types of the keys and values it reads.
    pub kv: Vec<KvType>,
    /// Rounds over all setups.
    pub repetitions: usize,
    /// Bytes of the matrices in rotation that are to be read from memory.
    pub cold_bytes: usize,
}

/// A product with one token: every decoded token consists of these.
#[derive(Clone, Copy, Debug)]
pub struct OneToken {
    /// Format of the weights.
    pub format: WeightFormat,
    /// Rows x columns.
    pub shape: (usize, usize),
    /// Instruction set and threads.
    pub setup: (Isa, usize),
    /// Bytes of the matrix as it runs, scales and padding included.
    pub bytes: usize,
    /// Seconds with the same matrix again and again: the best run.
    pub hot: f64,
    /// Seconds with matrices in rotation that exceed the caches: the time that a fifth of the runs do not exceed.
    pub cold: f64,
    /// Bytes per second of plain reading, measured in between.
    pub read_limit: f64,
}

impl OneToken {
    /// Bytes of weights per second from memory.
    pub fn cold_rate(&self) -> f64 {
        self.bytes as f64 / self.cold
    }

    /// Weights per second from memory.
    pub fn cold_weights(&self) -> f64 {
        (self.shape.0 * self.shape.1) as f64 / self.cold
    }

    /// Weights per second from cache.
    pub fn hot_weights(&self) -> f64 {
        (self.shape.0 * self.shape.1) as f64 / self.hot
    }
}

/// A product with several tokens.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Format of the weights.
    pub format: WeightFormat,
    /// Rows x columns.
    pub shape: (usize, usize),
    /// Instruction set and threads.
    pub setup: (Isa, usize),
    /// Tokens.
    pub tokens: usize,
    /// Seconds of the best run.
    pub seconds: f64,
    /// int8 multiply-accumulates per second of dot-product instructions on registers alone.
    pub int8_peak: f64,
}

impl Batch {
    /// Multiply-accumulates per second.
    pub fn rate(&self) -> f64 {
        (self.shape.0 * self.shape.1 * self.tokens) as f64 / self.seconds
    }
}

/// Attention of one token in one layer of LLaMA-3.2-1B: 32 heads of 64 components on 8 kv heads.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Positions.
    pub context: usize,
    /// Keys and values.
    pub kv: KvType,
    /// Instruction set and threads.
    pub setup: (Isa, usize),
    /// Bytes of keys and values read.
    pub bytes: usize,
    /// Seconds of the best run.
    pub seconds: f64,
}

/// Anything else that a token takes.
#[derive(Clone, Copy, Debug)]
pub struct Other {
    /// What.
    pub name: &'static str,
    /// Values it works on; 0 for the pool.
    pub values: usize,
    /// Instruction set and threads.
    pub setup: (Isa, usize),
    /// Seconds of the best run.
    pub seconds: f64,
}

/// All results.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    /// By format, shape, setup.
    pub one_token: Vec<OneToken>,
    /// By format, shape, setup, tokens.
    pub batches: Vec<Batch>,
    /// By type, context, setup.
    pub attention: Vec<Attention>,
    /// By setup.
    pub others: Vec<Other>,
}

/// Seconds of `work`.
fn time(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Seconds of the best of some runs, as many as fit into a short time.
fn best(work: impl FnMut()) -> f64 {
    let mut work = work;
    let start = Instant::now();
    let mut best = f64::INFINITY;
    for run in 0..HOT_RUNS {
        best = best.min(time(&mut work));
        if run > 0 && start.elapsed() > PASS {
            break;
        }
    }
    best
}

/// Inputs of about unit size.
fn inputs(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect()
}

/// Measures everything, the setups of each case in turn.
///
/// # Errors
/// [`Error::Invalid`] when a format cannot have one of the shapes, [`Error::OutOfMemory`], [`Error::Interrupted`].
pub fn run(options: &Options, read: &ReadProbe, progress: &dyn Progress) -> Result<Timings> {
    for format in &options.formats {
        for &(rows, cols) in &options.shapes {
            format.bytes(rows, cols)?;
        }
    }
    let mut engines: Vec<Engine> =
        options.setups.iter().map(|&(isa, threads)| Engine::new(isa, threads, Precision::Int8)).collect();
    let cases = options.formats.len() * options.shapes.len();
    progress.start("bench", (cases * options.repetitions) as u64);
    let mut timings = Timings::default();
    for &format in &options.formats {
        for &shape in &options.shapes {
            products(format, shape, options, &mut engines, read, progress, &mut timings)?;
        }
    }
    for &kv in &options.kv {
        for &context in &options.contexts {
            stop_if_asked(progress)?;
            attention(kv, context, options, &engines, &mut timings);
        }
    }
    for engine in &engines {
        others(engine, &mut timings);
    }
    progress.finish();
    Ok(timings)
}

fn stop_if_asked(progress: &dyn Progress) -> Result<()> {
    if progress.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Times of one setup.
#[derive(Default)]
struct Times {
    hot: Vec<f64>,
    cold: Vec<f64>,
    limits: Vec<f64>,
    /// Per number of tokens.
    batches: Vec<Vec<f64>>,
    peaks: Vec<f64>,
}

fn products(
    format: WeightFormat,
    shape: (usize, usize),
    options: &Options,
    engines: &mut [Engine],
    read: &ReadProbe,
    progress: &dyn Progress,
    timings: &mut Timings,
) -> Result<()> {
    let (rows, cols) = shape;
    let pool = Pool::new(engines.iter().map(|engine| engine.pool().threads()).max().unwrap_or(1));
    let first = format.random_matrix(rows, cols, 0, &pool)?;
    let count = options.cold_bytes / first.bytes().max(1);
    let mut matrices = vec![first];
    for seed in 1..=count as u64 {
        stop_if_asked(progress)?;
        matrices.push(format.random_matrix(rows, cols, seed, &pool)?);
    }
    let most = options.tokens.iter().copied().max().unwrap_or(0).max(1);
    let size = |len: usize| {
        most.checked_mul(len).ok_or_else(|| Error::Invalid(format!("{most} tokens: more than memory can have")))
    };
    let (x, mut y) = (inputs(size(cols)?), vec![0.0; size(rows)?]);
    let mut times: Vec<Times> = engines.iter().map(|_| Times::default()).collect();
    for times in &mut times {
        times.batches.resize(options.tokens.len(), Vec::new());
    }
    for _ in 0..options.repetitions {
        for (engine, times) in engines.iter_mut().zip(&mut times) {
            stop_if_asked(progress)?;
            let mut multiply = |w: &Matrix, tokens: usize| {
                engine.matmul(&x[..tokens * cols], tokens, &mut [Product { w, y: &mut y[..tokens * rows] }]);
            };
            multiply(&matrices[0], 1);
            times.hot.push(best(|| multiply(&matrices[0], 1)));
            let start = Instant::now();
            for w in &matrices {
                times.cold.push(time(|| multiply(w, 1)));
                if start.elapsed() > PASS {
                    break;
                }
            }
            for (&tokens, times) in options.tokens.iter().zip(&mut times.batches) {
                times.push(best(|| multiply(&matrices[0], tokens)));
            }
            times.limits.push(read.bytes_per_second(engine.isa(), engine.pool()));
            if !options.tokens.is_empty() {
                times.peaks.push(limits::int8_peak(engine.isa(), engine.pool()));
            }
        }
        progress.advance(1);
    }
    for (times, &setup) in times.iter().zip(&options.setups) {
        timings.one_token.push(OneToken {
            format,
            shape,
            setup,
            bytes: matrices[0].bytes(),
            hot: least(&times.hot),
            cold: fifth(&times.cold),
            read_limit: median(&times.limits),
        });
        for (&tokens, seconds) in options.tokens.iter().zip(&times.batches) {
            let int8_peak = times.peaks.iter().copied().fold(0.0, f64::max);
            timings.batches.push(Batch { format, shape, setup, tokens, seconds: least(seconds), int8_peak });
        }
    }
    Ok(())
}

fn attention(kv: KvType, context: usize, options: &Options, engines: &[Engine], timings: &mut Timings) {
    let shape = AttentionShape { heads: 32, kv_heads: 8, head_dim: 64, kv, scale: 0.125 };
    let head = context * shape.head_dim;
    let q = inputs(shape.heads * shape.head_dim);
    let mut out = vec![0.0; q.len()];
    let values = inputs(2 * shape.kv_heads * head);
    let layout = KvTiles::new(kv, shape.head_dim);
    let head_bytes = layout.bytes(context);
    let mut tiles = vec![0; shape.kv_heads * head_bytes];
    for (index, tiles) in tiles.chunks_exact_mut(head_bytes).enumerate() {
        let rows = |index: usize| values[index * head..(index + 1) * head].chunks_exact(shape.head_dim);
        for (position, (k, v)) in rows(2 * index).zip(rows(2 * index + 1)).enumerate() {
            layout.write(tiles, position, k, v);
        }
    }
    let chunks: Vec<usize> = (0..context.div_ceil(KvTiles::CHUNK)).map(|c| c * layout.bytes(KvTiles::CHUNK)).collect();
    let see = |_: usize, index: usize| KvHead {
        slab: &tiles,
        chunks: &chunks,
        offset: index * head_bytes,
        first: 0,
        end: context,
    };
    let mut seconds = vec![Vec::new(); engines.len()];
    for _ in 0..options.repetitions {
        for (engine, seconds) in engines.iter().zip(&mut seconds) {
            seconds.push(best(|| engine.attention(shape, &q, see, &mut out)));
        }
    }
    for (&setup, seconds) in options.setups.iter().zip(&seconds) {
        timings.attention.push(Attention { context, kv, setup, bytes: tiles.len(), seconds: least(seconds) });
    }
}

fn others(engine: &Engine, timings: &mut Timings) {
    const WIDTH: usize = 2048;
    const FFN: usize = 8192;
    const HEAD_DIM: usize = 64;
    const KV_HEADS: usize = 8;
    let (x, w) = (inputs(WIDTH), inputs(WIDTH));
    let mut out = vec![0.0; WIDTH];
    let up = inputs(FFN);
    let (cos, sin) = (vec![0.6; HEAD_DIM / 2], vec![0.8; HEAD_DIM / 2]);
    let setup = (engine.isa(), engine.pool().threads());
    let mut add = |name, values, seconds| timings.others.push(Other { name, values, setup, seconds });
    let pool = engine.pool();
    add("fork and join", 0, best(|| (0..100).for_each(|_| pool.run(&|_| {}))) / 100.0);
    add("rms_norm", WIDTH, best(|| engine.rms_norm(&x, &w, 1e-5, 0.0, &mut out)));
    add("rope", WIDTH, best(|| engine.rope_halves(&mut out, HEAD_DIM, &cos, &sin)));
    add("add", WIDTH, best(|| engine.add(&mut out, &x)));
    let layout = KvTiles::new(KvType::F16, HEAD_DIM);
    let mut tiles = vec![0; KV_HEADS * layout.tile_bytes()];
    let store = |(head, tiles): (usize, &mut [u8])| {
        let row = &x[head * HEAD_DIM..][..HEAD_DIM];
        layout.write(tiles, 7, row, row);
    };
    let seconds = best(|| tiles.chunks_exact_mut(layout.tile_bytes()).enumerate().for_each(store));
    add("kv_write f16", 2 * KV_HEADS * HEAD_DIM, seconds);
    // The gate is reset each time: it would vanish otherwise.
    let mut gate = up.clone();
    let copy = best(|| gate.copy_from_slice(&up));
    let mut product = |work: &dyn Fn(&mut [f32])| {
        best(|| {
            gate.copy_from_slice(&up);
            work(&mut gate);
        }) - copy
    };
    let silu = product(&|gate| engine.silu_mul(gate, &up));
    let gelu = product(&|gate| engine.gelu_mul(gate, &up));
    add("silu_mul", FFN, silu.max(0.0));
    add("gelu_mul", FFN, gelu.max(0.0));
}
