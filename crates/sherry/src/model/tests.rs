//! The decoder against its oracle, and its promise of equal bits.

use std::sync::Arc;

use sherry_kernels::format::{ScaleGroup, TensorType, TernaryFormat, ggml};
use sherry_kernels::{Engine, Isa, Matrix, Pool, Precision};

use super::synthetic::{self, tiny};
use super::weights::Layer;
use super::*;
use sherry_convert::quant::{Projection, QuantSpec, quantize_matrix};

fn model(config: &ArchConfig, seed: u64) -> Arc<Model> {
    Arc::new(synthetic::model(config, seed).unwrap())
}

/// Families with their variations: biases, untied heads, interleaved rotation, every scaling.
fn variants() -> Vec<ArchConfig> {
    let mut configs = Family::ALL.map(tiny).to_vec();
    for family in [Family::Qwen3, Family::BitNet] {
        let mut config = tiny(family);
        config.input_norms = Some(1e-3);
        config.residual_scale = 0.6;
        let divisors = |step: f32| (0..config.head_dim / 2).map(|i| 1.0 + step * i as f32).collect();
        let (short, long) = (divisors(0.1), divisors(0.7));
        config.rope.scaling = RopeScaling::LongRope { short, long, original_context: 32, magnitude: 1.2 };
        configs.push(config);
    }
    let mut config = tiny(Family::Llama);
    (config.qkv_bias, config.o_bias, config.tied) = (true, true, true);
    config.rope.layout = RopeLayout::Interleaved;
    config.rope.scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 32 };
    configs.push(config);
    let mut config = tiny(Family::Qwen3);
    (config.heads, config.kv_heads, config.tied) = (6, 1, false);
    config.rope.scaling = RopeScaling::Factors((0..8).map(|i| 1.0 + i as f32).collect());
    configs.push(config);
    let mut config = tiny(Family::Qwen3);
    config.rope.scaling =
        RopeScaling::Yarn { factor: 4.0, original_context: 16, beta_fast: 4.0, beta_slow: 0.5, magnitude: 1.13 };
    configs.push(config);
    let mut config = tiny(Family::Gemma3);
    (config.window, config.window_pattern, config.norm_plus_one) = (Some(1), 2, false);
    config.rope.scaling = RopeScaling::Linear { factor: 8.0 };
    configs.push(config);
    configs
}

fn prompt(config: &ArchConfig, len: usize, salt: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i * 7 + i * 13 + salt) % config.vocab) as u32).collect()
}

fn decoder(model: &Arc<Model>, threads: usize, precision: Precision) -> Decoder {
    Decoder::new(Arc::clone(model), Engine::new(Isa::best(), threads, precision))
}

/// Logits of every token, the prompt cut into steps of the given lengths (the last one repeats).
fn logits(
    model: &Arc<Model>,
    tokens: &[u32],
    steps: &[usize],
    threads: usize,
    precision: Precision,
    kv: KvType,
) -> Vec<Vec<f32>> {
    logits_of(&mut decoder(model, threads, precision), tokens, steps, kv)
}

/// The same, from a decoder.
fn logits_of(decoder: &mut Decoder, tokens: &[u32], steps: &[usize], kv: KvType) -> Vec<Vec<f32>> {
    let mut cache = KvCache::new(decoder.config(), tokens.len(), kv).unwrap();
    let mut rows = Vec::new();
    let mut rest = tokens;
    let mut steps = steps.iter().copied().chain(std::iter::repeat(*steps.last().unwrap()));
    while !rest.is_empty() {
        let (now, later) = rest.split_at(steps.next().unwrap().min(rest.len()));
        let logits = decoder.forward_one(&mut cache, now, Wanted::All).unwrap();
        rows.extend((0..logits.rows()).map(|i| logits.row(i).to_vec()));
        rest = later;
    }
    rows
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let rows = a.iter().zip(b).inspect(|(a, b)| assert_eq!(a.len(), b.len()));
    rows.flat_map(|(a, b)| a.iter().zip(b)).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn decoder_agrees_with_the_oracle() {
    for (seed, config) in variants().iter().enumerate() {
        let model = model(config, seed as u64);
        let tokens = prompt(config, 23, seed);
        let expected = reference::logits(&model, &tokens);
        let spread = expected.iter().flatten().fold(0.0, |max: f64, x| max.max(x.abs()));
        assert!(spread > 1.0, "a flat model tests nothing");
        let exact = largest_difference(&logits(&model, &tokens, &[23], 2, Precision::F32, KvType::F32), &expected);
        assert!(exact < 1e-5 * spread, "{config:?}: {exact} of {spread}");
        let half = largest_difference(&logits(&model, &tokens, &[23], 2, Precision::F32, KvType::F16), &expected);
        assert!(half < 5e-3 * spread, "{config:?}: {half} of {spread}");
        let eight = largest_difference(&logits(&model, &tokens, &[23], 2, Precision::F32, KvType::Q8), &expected);
        assert!(eight < 5e-2 * spread, "{config:?}: {eight} of {spread}");
        let four = largest_difference(&logits(&model, &tokens, &[23], 2, Precision::F32, KvType::Q4), &expected);
        // Squaring doubles what four bits lose.
        let bound = if config.activation == Activation::ReluSquared { 0.3 } else { 0.2 };
        assert!(four < bound * spread, "{config:?}: {four} of {spread}");
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_steps() {
    for (seed, config) in variants().iter().enumerate() {
        let model = model(config, seed as u64);
        let tokens = prompt(config, 19, 3);
        for kv in KvType::ALL {
            let expected = logits(&model, &tokens, &[19], 1, Precision::F32, kv);
            for (steps, threads) in [(&[19][..], 2), (&[1], 1), (&[1], 3), (&[4], 8), (&[7, 1, 3], 2), (&[16], 3)] {
                assert!(
                    logits(&model, &tokens, steps, threads, Precision::F32, kv) == expected,
                    "{steps:?} on {threads} threads"
                );
            }
        }
    }
}

/// Linear layers in every packed format, and an embedding for the int8 kernels: big enough that threads share the work.
fn packed_models() -> Vec<Arc<Model>> {
    let mut config = tiny(Family::Llama);
    (config.hidden, config.ffn, config.vocab, config.tied) = (256, 320, 500, true);
    (config.heads, config.kv_heads, config.head_dim) = (8, 4, 32);
    let sherry = QuantSpec::sherry;
    let other = |format, scale| QuantSpec { format, projection: Projection::AbsMean, ..sherry(scale) };
    let specs = [
        sherry(ScaleGroup::Row),
        sherry(ScaleGroup::Group(64)),
        other(TernaryFormat::Ternary167, ScaleGroup::Row),
        other(TernaryFormat::Ternary2, ScaleGroup::Group(128)),
    ];
    specs
        .iter()
        .map(|spec| {
            let mut weights = synthetic::model(&config, 11).unwrap().weights;
            let values = |w: &Matrix| {
                let mut values = vec![0.0; w.rows() * w.cols()];
                values.chunks_exact_mut(w.cols()).enumerate().for_each(|(row, out)| w.row_f32(row, out));
                values
            };
            for layer in &mut weights.layers {
                let Layer { q, k, v, o, gate, up, down, .. } = layer;
                for w in [q, k, v, o, gate, up, down] {
                    let file = std::path::Path::new("synthetic");
                    let (rows, _) = quantize_matrix((file, "w"), &values(w), w.cols(), spec, None).unwrap();
                    let scales: Vec<u8> = rows.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
                    *w = Matrix::from_packed(rows.layout, &rows.codes, &scales).unwrap();
                }
            }
            let (rows, cols) = (weights.embed.rows(), weights.embed.cols());
            let mut bytes = vec![0; TensorType::Q8_0.row_bytes(cols).unwrap() * rows];
            ggml::quantize(TensorType::Q8_0, &values(&weights.embed), &mut bytes).unwrap();
            let embed = Matrix::from_rows(TensorType::Q8_0, rows, cols, bytes.into()).unwrap();
            weights.embed = embed.repacked_on(&Pool::new(2));
            Arc::new(Model { config: config.clone(), weights })
        })
        .collect()
}

#[test]
fn packed_bits_do_not_depend_on_threads_steps_or_neighbours() {
    for model in packed_models() {
        let (tokens, other) = (prompt(&model.config, 31, 3), prompt(&model.config, 40, 8));
        let isas = Isa::ALL.into_iter().filter(|isa| isa.is_available());
        for (isa, kv) in isas.flat_map(|isa| KvType::ALL.map(|kv| (isa, kv))) {
            let mut expected = Vec::new();
            for threads in [1, 2, 3, 8] {
                let mut decoder = Decoder::new(Arc::clone(&model), Engine::new(isa, threads, Precision::Int8));
                // One token at a time is a look-up, many are a product with decoded weights.
                for steps in [&[1][..], &[31], &[24, 7], &[5, 1, 9]] {
                    let found = logits_of(&mut decoder, &tokens, steps, kv);
                    if expected.is_empty() {
                        expected = found;
                    } else {
                        assert!(found == expected, "{isa}, {kv:?}: {steps:?} on {threads} threads");
                    }
                }
                let mut pool = KvPool::new(&model.config, 3, kv).unwrap();
                let [first, second, third] = &mut [0; 3].map(|_| KvPages::default());
                let step = |cache, tokens| Step { cache, tokens, logits: Wanted::All };
                let steps = &mut [step(first, &other), step(second, &tokens), step(third, &other[..3])];
                let together = decoder.forward(&mut pool, steps).unwrap();
                assert!(
                    (0..31).all(|i| together.row(40 + i) == expected[i]),
                    "{isa}, {kv:?}: in company, on {threads} threads"
                );
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_batch_neighbours() {
    for precision in [Precision::F32, Precision::Int8] {
        for family in Family::ALL {
            let config = tiny(family);
            let model = model(&config, 5);
            let prompts = [prompt(&config, 9, 1), prompt(&config, 1, 2), prompt(&config, 14, 3)];
            let alone: Vec<Vec<f32>> = prompts
                .iter()
                .map(|tokens| {
                    let mut cache = KvCache::new(&config, 32, KvType::F16).unwrap();
                    let mut decoder = decoder(&model, 1, precision);
                    decoder.forward_one(&mut cache, tokens, Wanted::Last).unwrap().last().unwrap().to_vec()
                })
                .collect();
            let mut pool = KvPool::new(&config, 3, KvType::F16).unwrap();
            let mut caches = [0; 3].map(|_| KvPages::default());
            let mut steps: Vec<Step<'_>> = caches
                .iter_mut()
                .zip(&prompts)
                .map(|(cache, tokens)| Step { cache, tokens, logits: Wanted::Last })
                .collect();
            steps[1].logits = Wanted::None;
            let mut decoder = decoder(&model, 3, precision);
            let together = decoder.forward(&mut pool, &mut steps).unwrap();
            assert_eq!(together.rows(), 2);
            assert!(together.row(0) == alone[0] && together.row(1) == alone[2], "{family:?}");
            assert_eq!(caches.each_ref().map(KvPages::len), [9, 1, 14]);
        }
    }
}

#[test]
fn a_truncated_cache_continues_as_if_never_longer() {
    let config = tiny(Family::Gemma3);
    let model = model(&config, 1);
    let mut decoder = decoder(&model, 2, Precision::F32);
    let tokens = prompt(&config, 12, 0);
    let mut run = |cache: &mut KvCache, tokens: &[u32]| {
        decoder.forward_one(cache, tokens, Wanted::Last).unwrap().last().unwrap().to_vec()
    };
    for kv in KvType::ALL {
        let mut cache = KvCache::new(&config, 16, kv).unwrap();
        let expected = run(&mut cache, &tokens);
        cache.truncate(7);
        run(&mut cache, &prompt(&config, 9, 40));
        cache.truncate(7);
        assert!(run(&mut cache, &tokens[7..]) == expected);
    }
}

/// Rows that a tap saw, by layer and point.
#[derive(Default)]
struct Seen(Vec<(usize, TapPoint, Vec<f32>)>);

impl Tap for Seen {
    fn see(&mut self, layer: usize, point: TapPoint, rows: &[f32]) {
        self.0.push((layer, point, rows.to_vec()));
    }
}

/// What a tap sees, put together again by the formula of a block in f64, in one step and in several with neighbours.
#[test]
fn a_tap_sees_the_inputs_of_every_linear_and_changes_nothing() {
    use TapPoint::{BlockInput, BlockOutput, Down, GateUp, O, Qkv};
    for family in [Family::Llama, Family::Qwen3] {
        let config = tiny(family);
        let model = model(&config, 4);
        let (tokens, other) = (prompt(&config, 13, 2), prompt(&config, 5, 9));
        let expected = logits(&model, &tokens, &[13], 2, Precision::F32, KvType::F32);
        let mut decoder = decoder(&model, 2, Precision::F32);
        let mut pool = KvPool::new(&config, 2, KvType::F32).unwrap();
        let [first, second] = &mut [0; 2].map(|_| KvPages::default());
        let mut seen = Seen::default();
        let mut steps = [(first, &tokens), (second, &other)].map(|(cache, tokens)| {
            let logits = Wanted::All;
            Step { cache, tokens, logits }
        });
        let found = decoder.forward_tapped(&mut pool, &mut steps, &mut seen).unwrap();
        assert!((0..13).all(|i| found.row(i) == expected[i]), "{family:?}");

        let points = [BlockInput, Qkv, O, GateUp, Down, BlockOutput];
        let order = (0..config.layers).flat_map(|layer| points.map(|point| (layer, point)));
        assert!(seen.0.iter().map(|(layer, point, _)| (*layer, *point)).eq(order));
        for (index, rows) in seen.0.chunks_exact(points.len()).enumerate() {
            let layer = &model.weights.layers[index];
            let [input, qkv, o, gate_up, down, output] = [0, 1, 2, 3, 4, 5].map(|i| &rows[i].2);
            if let Some((_, _, before)) = (6 * index).checked_sub(1).map(|i| &seen.0[i]) {
                assert_eq!(before, input);
            }
            let widths = [config.hidden, config.hidden, config.q_dim(), config.hidden, config.ffn, config.hidden];
            assert!(rows.iter().zip(widths).all(|(rows, width)| rows.2.len() == 18 * width));
            for token in 0..18 {
                let row = |rows: &[f32], width: usize| -> Vec<f64> {
                    rows[token * width..(token + 1) * width].iter().map(|x| f64::from(*x)).collect()
                };
                let times = |w: &Matrix, x: &[f64]| -> Vec<f64> {
                    let mut values = vec![0.0; w.cols()];
                    let mut dot = |r| {
                        w.row_f32(r, &mut values);
                        values.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()
                    };
                    (0..w.rows()).map(&mut dot).collect()
                };
                let norm = |x: &[f64], w: &[f32]| -> Vec<f64> {
                    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
                    let r = 1.0 / (mean + f64::from(config.norm_eps)).sqrt();
                    x.iter().zip(w).map(|(x, w)| x * r * f64::from(*w)).collect()
                };
                let close = |found: &[f64], expected: &[f64]| {
                    let top = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
                    found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5 * top)
                };
                let add = |x: &[f64], y: &[f64]| -> Vec<f64> { x.iter().zip(y).map(|(x, y)| x + y).collect() };
                let before = row(input, config.hidden);
                assert!(close(&row(qkv, config.hidden), &norm(&before, &layer.attn_norm)));
                let middle = add(&before, &times(&layer.o, &row(o, config.q_dim())));
                let normed = norm(&middle, &layer.ffn_norm);
                assert!(close(&row(gate_up, config.hidden), &normed));
                let (gate, up) = (times(&layer.gate, &normed), times(&layer.up, &normed));
                let h: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                assert!(close(&row(down, config.ffn), &h));
                assert!(close(&row(output, config.hidden), &add(&middle, &times(&layer.down, &h))));
            }
        }
    }
}

#[test]
fn what_cannot_run_is_refused_and_changes_nothing() {
    let config = tiny(Family::Llama);
    let model = model(&config, 1);
    let mut decoder = decoder(&model, 1, Precision::F32);
    let mut cache = KvCache::new(&config, 4, KvType::F16).unwrap();
    let mut refusal =
        |cache: &mut KvCache, tokens: &[u32]| decoder.forward_one(cache, tokens, Wanted::Last).unwrap_err().to_string();
    assert_eq!(refusal(&mut cache, &[1; 5]), "context length exceeded: 5 tokens needed, 4 available");
    assert!(refusal(&mut cache, &[1, 61]).contains("token 61"));
    assert_eq!(cache.len(), 0);
    let mut other = KvCache::new(&tiny(Family::Gemma3), 4, KvType::F16).unwrap();
    assert!(refusal(&mut other, &[1]).contains("another model"));
    assert!(decoder.forward_one(&mut cache, &[], Wanted::Last).unwrap().last().is_none());
    // A pool with too few pages: none of the sequences gets any.
    let mut pool = KvPool::new(&config, 2, KvType::F16).unwrap();
    assert_eq!(decoder.forward(&mut pool, &mut []).unwrap().rows(), 0);
    let (mut one, mut two) = (KvPages::default(), KvPages::default());
    let tokens = vec![1; 257];
    let steps = &mut [
        Step { cache: &mut one, tokens: &tokens, logits: Wanted::Last },
        Step { cache: &mut two, tokens: &[1], logits: Wanted::Last },
    ];
    let message = decoder.forward(&mut pool, steps).unwrap_err().to_string();
    assert_eq!(message, "the KV cache is full: 3 more pages of 256 positions needed, 2 free");
    assert_eq!((pool.free(), one.len(), two.len()), (2, 0, 0));
    let mut elsewhere = KvPool::new(&config, 1, KvType::F16).unwrap();
    elsewhere.reserve(&mut one, 1).unwrap();
    let step = Step { cache: &mut one, tokens: &[1], logits: Wanted::Last };
    assert!(decoder.forward(&mut pool, &mut [step]).unwrap_err().to_string().contains("another pool"));
}
