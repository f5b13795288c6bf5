//! What the two-stage head gains with the usual sampling at the shapes of LLaMA-3.2-1B, where the distributions are those of a
//! real model.
//!
//!     cargo run --release -p sherry-measure --example two_stage -- SmolLM2-135M-Instruct.Q4_1.gguf [THREADS]
//!
//! Nobody's 1B model is needed. A smaller model answers some questions; the states that its head gets are kept. Then a model of
//! the shapes of LLaMA-3.2-1B is made that has random weights, and whose blocks are computed but add nothing: its embedding
//! holds those states, its head the smaller model's rows, both filled up with zeros to 2048 inputs, and the rows repeated (each
//! time 3 % shorter) to 128,256. So its logits are those of the smaller model, and its work that of a 1B model. Both heads
//! sample in turns; their tokens must be the same.
#![allow(clippy::print_stdout)] // a program

use std::sync::Arc;
use std::time::Instant;
use std::{env, error};

use sherry::NoProgress;
use sherry::generate::{Sampler, SamplingParams};
use sherry::io::ReadMode;
use sherry::model::{
    Checkpoint, Decoder, KvCache, KvPages, KvPool, KvType, Model, PAGE, Step, Tap, TapPoint, Wanted, synthetic,
};
use sherry_kernels::format::{ScaleGroup, TensorType, TernaryFormat, ggml};
use sherry_kernels::{Bytes, Engine, Isa, Matrix, Pool, Precision};
use sherry_measure::bench::{RandomModel, WeightFormat};

const QUESTIONS: [&str; 4] = [
    "Write a short story about a dog that finds a key.",
    "Why is the sky blue?",
    "How do I plan a journey by train?",
    "Write a letter to a friend who has moved to another city.",
];
/// Tokens of an answer.
const TOKENS: usize = 100;
const ROUNDS: usize = 5;
/// So large that norms divide by a constant.
const EPS: f32 = 1e10;

/// Keeps the stream after the last block, of the last token.
struct Last {
    layers: usize,
    stream: Vec<f32>,
}

impl Tap for Last {
    fn see(&mut self, layer: usize, point: TapPoint, rows: &[f32]) {
        if layer + 1 == self.layers && point == TapPoint::BlockOutput {
            self.stream = rows.to_vec();
        }
    }
}

fn main() -> Result<(), Box<dyn error::Error>> {
    let mut args = env::args().skip(1);
    let path = args.next().ok_or("usage: two_stage MODEL [THREADS]")?;
    let threads: usize = args.next().map_or(Ok(1), |n| n.parse())?;
    let checkpoint = Checkpoint::open(path.as_ref(), ReadMode::Map)?;
    let pool = Pool::new(threads);
    let model = Arc::new(checkpoint.load(&pool, &NoProgress)?);
    let states = states(&checkpoint, &model, threads)?;

    let base = synthetic::shape("llama-3.2-1b").ok_or("no such shape")?;
    let (hidden, vocab) = (base.hidden, base.vocab);
    let config = sherry::model::ArchConfig { residual_scale: 0.0, norm_eps: EPS, tied: false, ..base };
    let linear = WeightFormat::Packed(TernaryFormat::Sherry, ScaleGroup::Row);
    let mut large = RandomModel::new(config, linear, TensorType::Q6_K, 1)?.load(&pool, &NoProgress)?;
    let table: Vec<u8> = states.iter().flat_map(|state| padded(state, hidden)).flat_map(f32::to_le_bytes).collect();
    large.weights.embed = Matrix::from_rows(TensorType::F32, states.len(), hidden, Bytes::from(table))?;
    large.weights.output_norm = vec![EPS.sqrt(); hidden];
    let mut rows = Vec::new();
    let mut row = vec![0.0; model.config.hidden];
    for index in 0..vocab {
        model.weights.head().row_f32(index % model.config.vocab, &mut row);
        let shorter = 0.97f32.powi((index / model.config.vocab) as i32);
        row.iter_mut().for_each(|x| *x *= shorter);
        let mut packed = vec![0; TensorType::Q6_K.row_bytes(hidden).ok_or("no such rows")?];
        ggml::quantize(TensorType::Q6_K, &padded(&row, hidden), &mut packed)?;
        rows.extend(packed);
    }
    large.weights.head =
        Some(Matrix::from_rows(TensorType::Q6_K, vocab, hidden, Bytes::from(rows))?.repacked_on(&pool));
    if !large.weights.add_coarse_head(&pool) {
        return Err("the head has no coarse copy".into());
    }
    let large = Arc::new(large);

    let sampling = SamplingParams { seed: 1, ..SamplingParams::default() };
    let mut decoder = Decoder::new(Arc::clone(&large), Engine::new(Isa::best(), threads, Precision::Int8));
    let mut cache = KvCache::new(decoder.config(), TOKENS, KvType::F16)?;
    let mut run = |two_stage: bool| -> Result<(f64, Vec<u32>), sherry::Error> {
        let mut sampler = Sampler::new(sampling)?;
        let mut tokens = Vec::new();
        let start = Instant::now();
        for state in 0..states.len() {
            if state % TOKENS == 0 {
                cache.truncate(0);
            }
            let wanted = sampler.candidates(0).filter(|_| two_stage).map_or(Wanted::Last, Wanted::Top);
            let logits = decoder.forward_one(&mut cache, &[state as u32], wanted)?;
            tokens.push(sampler.sample(logits.row(0), &[], None)?);
        }
        Ok((states.len() as f64 / start.elapsed().as_secs_f64(), tokens))
    };
    run(false)?;
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let [whole, two_stage] = [run(false)?, run(true)?];
        if whole.1 != two_stage.1 {
            return Err("the tokens differ".into());
        }
        rates[0].push(whole.0);
        rates[1].push(two_stage.0);
    }
    let [whole, two_stage] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[ROUNDS / 2]
    });
    let head = decoder.head_statistics();
    println!(
        "{} tokens of {} answers, {threads} threads, {}: whole head {whole:.1} tok/s, two-stage {two_stage:.1} ({:.2}x)",
        states.len(),
        QUESTIONS.len(),
        Isa::best(),
        two_stage / whole
    );
    println!(
        "{} tokens found with {:.0} exact logits each, {} in vain, {} not tried",
        head.found,
        head.exact as f64 / head.found.max(1) as f64,
        head.failed,
        head.skipped
    );
    Ok(())
}

/// The inputs of the head while `model` answers.
fn states(checkpoint: &Checkpoint, model: &Arc<Model>, threads: usize) -> Result<Vec<Vec<f32>>, sherry::Error> {
    let tokenizer = checkpoint.tokenizer()?;
    let mut decoder = Decoder::new(Arc::clone(model), Engine::new(Isa::best(), threads, Precision::Int8));
    let mut states = Vec::new();
    for (seed, question) in (0..).zip(QUESTIONS) {
        let prompt = format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n");
        let mut tokens = tokenizer.encode(&prompt, true, true)?;
        let mut pool = KvPool::new(&model.config, (tokens.len() + TOKENS).div_ceil(PAGE), KvType::F16)?;
        let mut cache = KvPages::default();
        let mut sampler = Sampler::new(SamplingParams { seed, ..SamplingParams::default() })?;
        for _ in 0..TOKENS {
            let mut tap = Last { layers: model.config.layers, stream: Vec::new() };
            let step = Step { cache: &mut cache, tokens: &tokens, logits: Wanted::Last };
            let logits = decoder.forward_tapped(&mut pool, &mut [step], &mut tap)?;
            tokens = vec![sampler.sample(logits.row(0), &[], None)?];
            let stream = &tap.stream[tap.stream.len() - model.config.hidden..];
            let square = stream.iter().map(|x| x * x).sum::<f32>() / stream.len() as f32;
            let scale = (square + model.config.norm_eps).sqrt().recip();
            states.push(stream.iter().zip(&model.weights.output_norm).map(|(x, weight)| x * scale * weight).collect());
        }
    }
    Ok(states)
}

/// `values`, then zeros.
fn padded(values: &[f32], len: usize) -> Vec<f32> {
    let mut padded = values.to_vec();
    padded.resize(len, 0.0);
    padded
}
