//! The pieces of the pipeline against the network that the trainer runs, and against plain least squares.

use sherry::NoProgress;
use sherry::model::{Family, config_hf, synthetic};
use sherry_convert::Embeddings;

use super::block::{Format, Formats, QuantizedBlock, Rounding, round_block};
use super::budget::Limit;
use super::moments::Moments;
use super::reconstruct::Reconstruction;
use super::rounding::{Effort, Grid};
use super::*;
use crate::linear::Pass;
use crate::methods::Quantizer;
use crate::network::Network;
use crate::rng::Rng;

/// A folder with a tiny model.
fn model(config: &ArchConfig) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = synthetic::source(config, Naming::HuggingFace, 11);
    std::fs::write(folder.path().join("config.json"), config_hf::write(config).unwrap().to_string()).unwrap();
    source.save(&folder.path().join("model.safetensors")).unwrap();
    folder
}

fn text(sequences: usize, length: usize, seed: u64) -> Text {
    let mut rng = Rng::new(seed, 0);
    Text { length, tokens: (0..sequences * length).map(|_| rng.below(61) as u32).collect() }
}

struct Setting {
    checkpoint: Checkpoint,
    arch: ArchConfig,
    rotations: [Rotation; 2],
    _folder: tempfile::TempDir,
}

fn setting(family: Family, length: usize) -> Setting {
    let folder = model(&synthetic::tiny(family));
    let checkpoint = Checkpoint::open(folder.path(), ReadMode::Read).unwrap();
    let arch = pretrained::architecture(&checkpoint).unwrap();
    let frequencies = Frequencies::new(&arch);
    let rotation = |sliding| Rotation::new(frequencies.of(sliding), length, arch.rope.layout);
    let rotations = [rotation(false), rotation(true)];
    Setting { checkpoint, arch, rotations, _folder: folder }
}

fn weights(checkpoint: &Checkpoint, arch: &ArchConfig, index: usize) -> BlockWeights {
    block_weights(arch, |part| pretrained::tensor(checkpoint, Role::Layer(index, part), &NoProgress)).unwrap()
}

const FAMILIES: [Family; 4] = [Family::Llama, Family::Qwen3, Family::HunyuanDense, Family::Gemma3];

#[test]
fn both_streams_are_the_networks_forward_pass() {
    for family in FAMILIES {
        let length = 13;
        let Setting { checkpoint, arch, rotations, _folder } = setting(family, length);
        let (text, held_out) = (text(5, length, 1), text(2, length, 2));
        let mut shards = shards(&checkpoint, &arch, &text, &held_out, &NoProgress).unwrap();
        for index in 0..arch.layers {
            let original = weights(&checkpoint, &arch, index);
            let layer = Layer { arch: &arch, index, rotations: &rotations, length, progress: &NoProgress };
            for shard in &mut shards {
                let moments = layer.before_qkv(shard, &original, &original);
                assert_eq!(moments.is_none(), shard.held_out);
                layer.before_o(shard, &original, &original).unwrap();
                layer.after_o(shard, &original);
                layer.before_gate_up(shard, &original, &original);
                layer.before_down(shard, &original, &original);
                let drift = layer.after_down(shard, &original).mean();
                assert!(drift < 1e-10, "{family:?}: {drift}");
            }
        }
        let network = Network::new(arch.clone(), Quantizer::FULL);
        let params = pretrained::parameters(&checkpoint, &network.layout, &Quantizer::FULL, &NoProgress).unwrap();
        let norm = gains(&arch, pretrained::tensor(&checkpoint, Role::OutputNorm, &NoProgress).unwrap());
        let found: Vec<f32> = shards.iter().flat_map(|shard| shard.original.clone()).collect();
        let mut normed = vec![0.0; found.len()];
        rmsnorm::forward(&mut normed, &found, &norm, arch.norm_eps);
        let mut space = network.workspace(7, length, true);
        let tokens = [text.tokens, held_out.tokens].concat();
        let pass = Pass { params: &params, lambda: 0.0, progress: &NoProgress };
        let expected = network.forward(pass, &tokens, &mut space).unwrap();
        let off = normed.iter().zip(expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(off < 2e-4, "{family:?}: {off}");
    }
}

#[test]
fn moments_give_the_least_squares_solution() {
    let (tokens, cols, rows) = (300, 12, 7);
    let (mut x, mut v, mut noise) = (vec![0.0; tokens * cols], vec![0.0; rows * cols], vec![0.0; tokens * rows]);
    for (stream, out) in [&mut x, &mut v, &mut noise].into_iter().enumerate() {
        Rng::new(5, stream as u64).fill_normal(out, 1.0);
    }
    let y: Vec<f32> = stream::product(&x, &v, cols);
    let w = vec![0.0; rows * cols];
    // In parts or at once, with targets given or made from the original's inputs.
    let half = tokens / 2;
    let mut parts = vec![Moments::new(cols, rows), Moments::new(cols, rows)];
    parts[0].add(&x[..half * cols], &y[..half * rows], &x[..half * cols]);
    parts[1].add(&x[half * cols..], &y[half * rows..], &x[half * cols..]);
    let moments = Moments::finish(parts);
    assert_eq!(moments.tokens(), tokens as u64);
    let square: f64 = x.iter().step_by(cols).map(|x| f64::from(x * x)).sum();
    assert!((f64::from(moments.importance()[0]) - square / tokens as f64).abs() < 1e-5);
    let close = |found: &[f32], expected: &[f32], bound: f32| {
        found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < bound)
    };
    assert!(close(&moments.clone().fit(&w, None, 1e-6).unwrap().weights, &v, 1e-3));
    // Damping pulls towards the given weights.
    assert!(close(&moments.fit(&w, None, 1e6).unwrap().weights, &w, 1e-3));
    let mut crossed = Moments::new(cols, cols);
    crossed.add(&x, &x, &x);
    let fit = Moments::finish(vec![crossed]).fit(&v, Some(&v), 0.3).unwrap();
    assert!(close(&fit.weights, &v, 1e-4), "equal streams leave the weights as they are");
    let nothing = Moments::finish(vec![Moments::new(cols, cols)]).fit(&v, Some(&v), 0.1).unwrap();
    assert!(close(&nothing.weights, &v, 1e-5), "no inputs at all");
    let mut endless = Moments::new(cols, cols);
    endless.add(&vec![f32::INFINITY; cols], &vec![1.0; cols], &vec![1.0; cols]);
    assert!(Moments::finish(vec![endless]).fit(&v, Some(&v), 0.1).is_none());
}

#[test]
fn rounding_a_block_keeps_the_streams_together_and_folds_column_factors() {
    for family in FAMILIES {
        let length = 16;
        let Setting { checkpoint, arch, rotations, _folder } = setting(family, length);
        let (text, held_out) = (text(64, length, 1), text(8, length, 2));
        let original = weights(&checkpoint, &arch, 0);
        let layer = Layer { arch: &arch, index: 0, rotations: &rotations, length, progress: &NoProgress };
        let run = |grid, column_fits| {
            let mut shards = shards(&checkpoint, &arch, &text, &held_out, &NoProgress).unwrap();
            let rounding = Rounding { grid, group: None, damping: 0.01, effort: Effort { sweeps: 8, column_fits } };
            let formats = Formats::all(grid);
            let (block, report) = round_block(layer, &original, &mut shards, &rounding, &formats).unwrap().unwrap();
            (block, report, shards)
        };
        let errors: Vec<f64> = [(Grid::Steps { bits: 6 }, 0), (Grid::Steps { bits: 4 }, 0), (Grid::Sparse34, 2)]
            .map(|(grid, fits)| run(grid, fits).1.held_out_error)
            .to_vec();
        // Two bits more: a sixteenth of the error, but for what the blocks' non-linearities make of it.
        assert!(errors[0] < 0.2 * errors[1] && errors[1] < errors[2] && errors[2] < 1.0, "{family:?}: {errors:?}");

        let (block, _, after) = run(Grid::Sparse34, 2);
        assert_ne!(block.attn_norm, original.attn_norm);
        let before = shards(&checkpoint, &arch, &text, &held_out, &NoProgress).unwrap();
        takes_streams(layer, &original, &block, before, &after);
    }
}

/// Checks that the block as it is written takes the text to where the quantized streams are `after` it.
fn takes_streams(
    layer: Layer<'_>,
    original: &BlockWeights,
    block: &QuantizedBlock,
    before: Vec<Shard>,
    after: &[Shard],
) {
    let weights = |kind: Kind| block.linears[kind as usize].weights();
    let written = BlockWeights {
        attn_norm: block.attn_norm.clone(),
        ffn_norm: block.ffn_norm.clone(),
        qkv: [weights(Kind::Q), weights(Kind::K), weights(Kind::V)].concat(),
        o: weights(Kind::O),
        gate_up: [weights(Kind::Gate), weights(Kind::Up)].concat(),
        down: weights(Kind::Down),
        ..original.clone()
    };
    for (mut shard, after) in before.into_iter().zip(after) {
        layer.before_o(&mut shard, original, &written).unwrap();
        layer.after_o(&mut shard, &written);
        layer.before_down(&mut shard, original, &written);
        layer.after_down(&mut shard, &written);
        let top = after.quantized.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let off = shard.quantized.iter().zip(&after.quantized).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(off < 4e-3 * top, "{:?}: {off} of {top}", layer.arch.family);
    }
}

/// Of every type that fits its rows, in both orders of quads: the streams go where the block as it is written takes them, and
/// more bits leave less error.
#[test]
fn every_format_rounds_a_block_and_is_written_as_it_was_fitted() {
    for family in FAMILIES {
        let length = 16;
        let mut config = synthetic::tiny(family);
        (config.hidden, config.ffn, config.heads, config.kv_heads, config.head_dim) = (64, 128, 4, 2, 32);
        let folder = model(&config);
        let checkpoint = Checkpoint::open(folder.path(), ReadMode::Read).unwrap();
        let arch = pretrained::architecture(&checkpoint).unwrap();
        let frequencies = Frequencies::new(&arch);
        let rotation = |sliding| Rotation::new(frequencies.of(sliding), length, arch.rope.layout);
        let rotations = [rotation(false), rotation(true)];
        let (text, held_out) = (text(64, length, 1), text(8, length, 2));
        let original = weights(&checkpoint, &arch, 0);
        let layer = Layer { arch: &arch, index: 0, rotations: &rotations, length, progress: &NoProgress };
        let effort = Effort { sweeps: 4, column_fits: 1 };
        let rounding = Rounding { grid: Grid::Sparse34, group: None, damping: 0.01, effort };
        let run = |formats: Formats| {
            let mut after = shards(&checkpoint, &arch, &text, &held_out, &NoProgress).unwrap();
            let (block, report) = round_block(layer, &original, &mut after, &rounding, &formats).unwrap().unwrap();
            let before = shards(&checkpoint, &arch, &text, &held_out, &NoProgress).unwrap();
            takes_streams(layer, &original, &block, before, &after);
            (block, report)
        };
        let sparse = Format::Grid(Grid::Sparse34);
        let errors: Vec<f64> = [
            sparse,
            Format::Grid(Grid::Ternary),
            Format::Type(TensorType::Q2_0),
            Format::Type(TensorType::SQ3_0),
            Format::Type(TensorType::Q4_0),
            Format::Type(TensorType::Q5_0),
            Format::Type(TensorType::Q8_0),
            Format::Type(TensorType::F16),
        ]
        .map(|format| run(Formats { of: [format; 7], quads: QuadOrder::Contiguous }).1.held_out_error)
        .to_vec();
        assert!(errors.is_sorted_by(|a, b| a > b) && errors[7] < 1e-5, "{family:?}: {errors:?}");
        // In the order of a GGUF file, beside blocks in every place.
        for blocks in [TensorType::Q4_0, TensorType::BF16] {
            let mut formats = Formats { of: [sparse; 7], quads: QuadOrder::Stride16 };
            for kind in [Kind::V, Kind::Up, Kind::O] {
                formats.of[kind as usize] = Format::Type(blocks);
            }
            let (block, _) = run(formats);
            for (kind, linear) in Kind::ALL.into_iter().zip(&block.linears) {
                assert_eq!(linear.blocks.is_some(), formats.of[kind as usize] != sparse, "{kind:?}");
                let quads = linear.codes.chunks(64).flat_map(|chunk| {
                    (0..16).map(|i| [0, 16, 32, 48].iter().filter(|lane| chunk[i + **lane] == 0).count())
                });
                assert!(quads.into_iter().all(|zeros| zeros == 1), "{family:?} {kind:?}");
            }
        }
    }
}

#[test]
fn reconstruction_brings_the_streams_of_a_block_together() {
    for family in FAMILIES {
        for group in [None, Some(8)] {
            let length = 16;
            let Setting { checkpoint, arch, rotations, _folder } = setting(family, length);
            let (text, held_out) = (text(66, length, 1), text(9, length, 2));
            let original = weights(&checkpoint, &arch, 0);
            let layer = Layer { arch: &arch, index: 0, rotations: &rotations, length, progress: &NoProgress };
            let start = || shards(&checkpoint, &arch, &text, &held_out, &NoProgress).unwrap();
            let mut shards = start();
            let before: Vec<Vec<f32>> = shards.iter().map(|shard| shard.quantized.clone()).collect();
            let effort = Effort { sweeps: 4, column_fits: 1 };
            let rounding = Rounding { grid: Grid::Sparse34, group, damping: 0.01, effort };
            let formats = Formats::all(Grid::Sparse34);
            let (block, report) = round_block(layer, &original, &mut shards, &rounding, &formats).unwrap().unwrap();
            // No step: the latent weights give the rounded block.
            let rounded = shards.clone();
            let how = Reconstruction { epochs: 0, batch: 8, rate: 0.004, code_rate: 0.0, residual: 0.0 };
            let (same, drifts) =
                reconstruct(layer, &original, (&block, &formats), &before, &mut shards, &how, 1).unwrap();
            assert_eq!(same, block);
            let close = |a: f64, b: f64| (a / b - 1.0).abs() < 2e-3;
            assert!(close(drifts[0].mean(), report.calibration_error), "{drifts:?} {report:?}");
            assert!(close(drifts[1].mean(), report.held_out_error), "{drifts:?} {report:?}");
            for (shard, rounded) in shards.iter_mut().zip(&rounded) {
                shard.quantized.clone_from(&rounded.quantized);
            }
            for (code_rate, residual) in [(0.0, 0.0), (0.05, 0.0), (0.05, 0.3)] {
                let how = Reconstruction { epochs: 6, code_rate, residual, ..how };
                let (trained, drifts) =
                    reconstruct(layer, &original, (&block, &formats), &before, &mut shards, &how, 1).unwrap();
                let share = drifts[0].mean() / report.calibration_error;
                assert_eq!(trained.linears[0].codes == block.linears[0].codes, code_rate == 0.0);
                // Codes that leave the optimum of rounding need more text than this to become better.
                assert!(share < if code_rate == 0.0 { 0.98 } else { 1.5 }, "{family:?} {group:?} {how:?}: {share}");
                let off =
                    |codes: &[i8]| codes.chunks(4).any(|quad| quad.iter().filter(|code| **code == 0).count() != 1);
                assert!(!trained.linears.iter().any(|linear| off(&linear.codes)));
                takes_streams(layer, &original, &trained, start(), &shards);
            }
        }
    }
}

#[test]
fn the_fit_corrects_for_the_errors_of_earlier_blocks() {
    let length = 16;
    let Setting { checkpoint, arch, rotations, _folder } = setting(Family::Llama, length);
    let (text, held_out) = (text(128, length, 1), text(16, length, 2));
    let original = weights(&checkpoint, &arch, 1);
    let layer = Layer { arch: &arch, index: 1, rotations: &rotations, length, progress: &NoProgress };
    let mut shards = shards(&checkpoint, &arch, &text, &held_out, &NoProgress).unwrap();
    // A quantized stream whose components have leaked into their neighbours.
    for shard in &mut shards {
        for x in shard.quantized.chunks_exact_mut(arch.hidden) {
            let old = x.to_vec();
            x.iter_mut().enumerate().for_each(|(i, x)| *x += 0.3 * old[(i + 1) % arch.hidden]);
        }
    }
    let moments = shards.iter().filter_map(|shard| layer.before_qkv(shard, &original, &original)).collect();
    let fit = Moments::finish(moments).fit(&original.qkv, Some(&original.qkv), 0.01).unwrap();
    let error = |w: &[f32]| -> f64 {
        let shard = shards.iter().find(|shard| shard.held_out).unwrap();
        let out = |x: &[f32], w: &[f32]| {
            let mut normed = vec![0.0; x.len()];
            rmsnorm::forward(&mut normed, x, &original.attn_norm, arch.norm_eps);
            stream::product(&normed, w, arch.hidden)
        };
        let (found, wanted) = (out(&shard.quantized, w), out(&shard.original, &original.qkv));
        found.iter().zip(&wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    let (corrected, plain) = (error(&fit.weights), error(&original.qkv));
    assert!(corrected < 0.1 * plain, "{corrected} of {plain}");
}

/// The sensitivities of a tiny model, and the divergence of all of it at once.
#[test]
fn sensitivities_foretell_what_mixtures_cost() {
    for family in [Family::Llama, Family::Gemma3] {
        let folder = model(&synthetic::tiny(family));
        let checkpoint = Checkpoint::open(folder.path(), ReadMode::Read).unwrap();
        let arch = pretrained::architecture(&checkpoint).unwrap();
        let text = text(40, 16, 1);
        let groups =
            sensitivity::measure(&checkpoint, &arch, &text, 640, 0.1, MatmulPrecision::Highest, &NoProgress).unwrap();
        let names: usize = groups.iter().map(|group| group.tensors.len()).sum();
        assert_eq!(names, recipe::matrices(&arch).count());
        for group in &groups {
            let losses: Vec<f64> = group.costs.iter().map(|cost| cost.loss).collect();
            assert!(losses.iter().all(|loss| loss.is_finite() && *loss >= 0.0), "{group:?}");
            let ends = [losses[0], losses[losses.len() - 1]];
            assert!(ends[1] < 0.05 * ends[0], "{family:?}: {group:?}");
        }
        assert_eq!(
            groups,
            sensitivity::measure(&checkpoint, &arch, &text, 640, 0.1, MatmulPrecision::Highest, &NoProgress).unwrap()
        );
        let losses = Losses { settings: serde_json::Value::Null, groups };
        let choose =
            |limit, embeddings| budget::choose(&losses, &checkpoint, &arch, Container::Folder, limit, embeddings);
        let q8 = Embeddings::As(TensorType::Q8_0);
        let mut before = f64::INFINITY;
        for bits in [2.0, 3.0, 5.0, 12.0] {
            let (recipe, mixture) = choose(Limit::Bits(bits), q8).unwrap();
            assert!(mixture.bits <= bits && mixture.loss < before, "{family:?}: {mixture:?}");
            let [linears, _, weights] = recipe.bytes(&arch, Container::Folder);
            assert_eq!(mixture.bits, 8.0 * linears as f64 / weights as f64);
            assert!(mixture.curve.is_sorted_by(|a, b| a.bytes < b.bytes && a.loss > b.loss), "{:?}", mixture.curve);
            before = mixture.loss;
        }
        let problem = choose(Limit::Bits(1.25), q8).unwrap_err().to_string();
        assert!(problem.contains("1.25 bits per weight") && problem.contains("are the least"), "{problem}");
        let problem = choose(Limit::Size(1000), Embeddings::Auto).unwrap_err().to_string();
        assert!(problem.contains("0.001 MB cannot be had"), "{problem}");
        // The same before anything is measured.
        let early = budget::check(&checkpoint, &arch, Container::Folder, Limit::Size(1000), Embeddings::Auto);
        assert_eq!(early.unwrap_err().to_string(), problem);
        let problem = choose(Limit::Bits(3.0), Embeddings::Keep).unwrap_err().to_string();
        assert!(problem.contains("--embed"), "{problem}");
        // The whole file stays within its budget, and uses what it can.
        for size in [40_000u64, 60_000] {
            let (recipe, mixture) = choose(Limit::Size(size), Embeddings::Auto).unwrap();
            let out = tempfile::tempdir().unwrap();
            let path = out.path().join("model");
            let request = sherry_convert::Request { recipe: Some(recipe), ..sherry_convert::Request::keep() };
            sherry_convert::convert(&checkpoint, &path, &request, &NoProgress, |_| {}).unwrap();
            let written = std::fs::metadata(path.join("model.safetensors")).unwrap().len();
            assert!(written <= mixture.bytes && mixture.bytes <= size, "{written} {} {size}", mixture.bytes);
        }
    }
}

#[test]
fn who_draws_more_text_gets_the_same_and_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(3, 0);
    // One file of long documents, one of documents of which a sequence takes many.
    for (name, documents, letters) in [("long", 20, 3000), ("short", 3000, 20)] {
        let path = folder.path().join(format!("{name}.jsonl"));
        let line = |_| {
            let text: String = (0..letters).map(|_| ["a", "b", "c,", "d "][rng.below(4)]).collect();
            serde_json::json!({ "text": text }).to_string() + "\n"
        };
        std::fs::write(&path, (0..documents).map(line).collect::<String>()).unwrap();
        let sources = Sources::open(&[path], "text", &NoProgress).unwrap();
        let spaced =
            |share, needed, more| text::draw(&sources, &Coder::Bytes, 64, (needed, more), share, 5, &NoProgress);
        let draw = |needed, more| spaced(0.3, needed, more);
        let all = draw(10, 100_000).unwrap().tokens;
        assert!(all.len() / 64 > 500, "{name}: {} tokens of about 60000", all.len());
        for (needed, more) in [(10, 0), (10, 30), (200, 0)] {
            let found = draw(needed, more).unwrap();
            assert_eq!(found.sequences(), needed + more);
            assert!(all.starts_with(&found.tokens), "{name}: {needed} + {more}");
        }
        // Blanks around commas and at the ends of lines are what is new in such text.
        let blanks = |share| spaced(share, 10, 400).unwrap().tokens.iter().filter(|token| **token == 32).count();
        let (none, some, all) = (blanks(0.0), blanks(0.3), blanks(1.0));
        assert!(none < some && some < all, "{name}: {none} {some} {all}");
        let problem = draw(10_000, 0).unwrap_err().to_string();
        assert!(problem.contains("--tokens asks for fewer"), "{problem}");
    }
}
