//! One block by itself: the same bits as inside a network, gradients of what is to be learned and of nothing else, and
//! learning to give the outputs of another block.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sherry::model::{ArchConfig, Family, synthetic};
use sherry::{NoProgress, Progress};
use sherry_kernels::format::QuadOrder;
use sherry_train::adamw::{AdamW, Moments};
use sherry_train::block::Block;
use sherry_train::layout::{Layout, Learn, Purpose};
use sherry_train::linear::Pass;
use sherry_train::loss::Mix;
use sherry_train::methods::{Method, Quantizer, Scale};
use sherry_train::network::{Examples, Input, Network};
use sherry_train::rng::Rng;
use sherry_train::simd::sum_of_squares;

const FAMILIES: [Family; 4] = [Family::Llama, Family::Qwen3, Family::HunyuanDense, Family::Gemma3];
const BATCH: usize = 2;
const LENGTH: usize = 11;

fn quantizer(method: Method, scale: Scale) -> Quantizer {
    Quantizer { method, scale, group_size: 4, quads: QuadOrder::Contiguous, tequila: 1e-3 }
}

fn numbers(len: usize, seed: u64, deviation: f64) -> Vec<f32> {
    let mut x = vec![0.0; len];
    Rng::new(seed, 0).fill_normal(&mut x, deviation);
    x
}

/// Random parameters; norms and scales are powers of two apart, so that f16 holds them.
fn parameters(layout: &Layout, arch: &ArchConfig, seed: u64) -> Vec<f32> {
    let mut params = numbers(layout.len, seed, 0.2);
    let mut rng = Rng::new(seed, 1);
    for tensor in layout.tensors.iter().filter(|tensor| !matches!(tensor.purpose, Purpose::Linear(..))) {
        let less = if arch.norm_plus_one && tensor.purpose == Purpose::Norm { 1.0 } else { 0.0 };
        params[tensor.range()].fill_with(|| 0.5 + rng.below(32) as f32 / 32.0 - less);
    }
    params
}

struct Passed {
    y: Vec<f32>,
    dx: Vec<f32>,
    grads: Vec<f32>,
}

/// Forward and backward; gradients are added to `fill`.
fn pass(block: &Block, params: &[f32], learn: Learn, x: &[f32], dy: &[f32], fill: f32) -> Passed {
    let pass = Pass { params, lambda: 0.0, progress: &NoProgress };
    let (mut buffers, mut kept) = (block.buffers(BATCH, LENGTH), block.kept(BATCH, LENGTH));
    let (mut y, mut dx, mut grads) = (vec![9.0; x.len()], dy.to_vec(), vec![fill; params.len()]);
    block.forward(pass, x, &mut y, &mut kept, &mut buffers).unwrap();
    block.backward(pass, learn, x, &mut dx, &mut grads, &mut kept, &mut buffers, None).unwrap();
    Passed { y, dx, grads }
}

#[test]
fn a_block_alone_is_the_block_of_the_network() {
    for family in FAMILIES {
        let arch = Arc::new(synthetic::tiny(family));
        let (x, dy) = (numbers(BATCH * LENGTH * arch.hidden, 1, 1.0), numbers(BATCH * LENGTH * arch.hidden, 2, 1.0));
        for method in [Method::None, Method::Sherry, Method::Dlt] {
            let quantizer = quantizer(method, Scale::Row);
            let network = Network::new(Arc::clone(&arch), quantizer);
            let whole = parameters(&network.layout, &arch, 3);
            for (layer, inside) in network.blocks().iter().enumerate() {
                let (block, layout) = Block::alone(Arc::clone(&arch), &quantizer, layer);
                let places = layout.tensors.iter().map(|tensor| {
                    let same = network.layout.tensors.iter().find(|other| other.name == tensor.name);
                    (tensor.range(), same.unwrap().range())
                });
                let mut params = vec![f32::NAN; layout.len];
                places.clone().for_each(|(own, other)| params[own].copy_from_slice(&whole[other]));
                let expected = pass(inside, &whole, Learn::Everything, &x, &dy, 0.0);
                let found = pass(&block, &params, Learn::Everything, &x, &dy, 0.0);
                assert!(found.y == expected.y && found.dx == expected.dx, "{family:?} {method:?} {layer}");
                for (own, other) in places {
                    assert!(found.grads[own] == expected.grads[other], "{family:?} {method:?} {layer}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_to_be_learned_gets_no_gradient() {
    use Method::{Codes, Dlt, Lsq, None, Seq, Sherry, Tequila};
    let methods = [None, Sherry, Lsq, Seq, Dlt, Tequila, Codes];
    for family in FAMILIES {
        let arch = Arc::new(synthetic::tiny(family));
        let (x, dy) = (numbers(BATCH * LENGTH * arch.hidden, 1, 1.0), numbers(BATCH * LENGTH * arch.hidden, 2, 1.0));
        for method in methods {
            let (block, layout) = Block::alone(Arc::clone(&arch), &quantizer(method, Scale::Row), 1);
            let params = parameters(&layout, &arch, 3);
            let all = pass(&block, &params, Learn::Everything, &x, &dy, 0.0);
            let some = pass(&block, &params, Learn::ScalesAndNorms, &x, &dy, 0.0);
            assert!(all.dx == some.dx && all.y == some.y);
            for tensor in &layout.tensors {
                let (all, some) = (&all.grads[tensor.range()], &some.grads[tensor.range()]);
                if Learn::ScalesAndNorms.includes(tensor.purpose) {
                    assert!(all == some && all.iter().any(|g| *g != 0.0), "{family:?} {method:?} {}", tensor.name);
                } else {
                    assert!(some.iter().all(|g| *g == 0.0), "{family:?} {method:?} {}", tensor.name);
                    assert!(all.iter().any(|g| *g != 0.0), "{family:?} {method:?} {}", tensor.name);
                }
            }
        }
    }
}

/// With the effective weights as parameters of full precision, `da = sum of g w` over the codes `w` of a scale.
#[test]
fn scales_of_codes_get_the_gradients_of_the_effective_weights() {
    for family in FAMILIES {
        let arch = Arc::new(synthetic::tiny(family));
        let (x, dy) = (numbers(BATCH * LENGTH * arch.hidden, 1, 1.0), numbers(BATCH * LENGTH * arch.hidden, 2, 1.0));
        for scale in [Scale::Row, Scale::Group, Scale::Tensor] {
            let quantizer = quantizer(Method::Codes, scale);
            let (block, layout) = Block::alone(Arc::clone(&arch), &quantizer, 0);
            let (full, full_layout) = Block::alone(Arc::clone(&arch), &Quantizer::FULL, 0);
            let params = parameters(&layout, &arch, 5);
            let mut effective = params[..full_layout.len].to_vec();
            for matrix in layout.blocks[0].linears {
                let unit = quantizer.unit(matrix.rows, matrix.cols);
                let weights = effective[matrix.weights..][..matrix.count()].chunks_mut(unit);
                weights.zip(&params[matrix.learned..]).for_each(|(w, a)| w.iter_mut().for_each(|w| *w *= a));
            }
            let expected = pass(&full, &effective, Learn::Everything, &x, &dy, 0.0);
            let found = pass(&block, &params, Learn::ScalesAndNorms, &x, &dy, 0.0);
            let close = |found: &[f32], expected: &[f32], what: &str| {
                let top = expected.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
                let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / top).fold(0.0, f32::max);
                assert!(found.len() == expected.len() && off < 2e-5, "{family:?} {scale:?} {what} is off by {off}");
            };
            close(&found.y, &expected.y, "output");
            close(&found.dx, &expected.dx, "gradient of the input");
            for tensor in layout.tensors.iter().filter(|tensor| tensor.purpose == Purpose::Norm) {
                close(&found.grads[tensor.range()], &expected.grads[tensor.range()], &tensor.name);
            }
            for matrix in layout.blocks[0].linears {
                let unit = quantizer.unit(matrix.rows, matrix.cols);
                let codes = matrix.slice(&params).chunks(unit).zip(matrix.slice(&expected.grads).chunks(unit));
                for (i, (w, g)) in codes.enumerate() {
                    // A norm of heads leaves nothing of the gradient of a scale that a whole head shares.
                    let parts = w.iter().zip(g).map(|(w, g)| w * g);
                    let size: f32 = parts.clone().map(f32::abs).sum();
                    let off = (found.grads[matrix.learned + i] - parts.sum::<f32>()).abs() / size;
                    assert!(off < 2e-5, "{family:?} {scale:?}: gradient of scale {i} is off by {off}");
                }
            }
        }
    }
}

#[test]
fn a_block_learns_the_outputs_of_another() {
    let arch = Arc::new(synthetic::tiny(Family::Llama));
    let (teacher, teacher_layout) = Block::alone(Arc::clone(&arch), &Quantizer::FULL, 0);
    let original = parameters(&teacher_layout, &arch, 7);
    let x = numbers(BATCH * LENGTH * arch.hidden, 1, 1.0);
    let target = pass(&teacher, &original, Learn::Everything, &x, &x, 0.0).y;
    for (method, learn, share) in
        [(Method::Sherry, Learn::Everything, 0.5), (Method::Codes, Learn::ScalesAndNorms, 0.9)]
    {
        let quantizer = quantizer(method, Scale::Row);
        let (block, layout) = Block::alone(Arc::clone(&arch), &quantizer, 0);
        let mut params = original.clone();
        params.resize(layout.len, 0.0);
        for matrix in layout.blocks[0].linears {
            if method == Method::Codes {
                // Codes and scales of the projection.
                let mut effective = vec![0.0; matrix.count()];
                Quantizer { method: Method::Sherry, ..quantizer }.effective(matrix, &original, 0.0, &mut effective);
                for (row, w) in effective.chunks(matrix.cols).enumerate() {
                    params[matrix.learned + row] = w.iter().fold(0.0, |m: f32, w| m.max(w.abs()));
                }
                params[matrix.weights..][..matrix.count()].copy_from_slice(&signs(&effective));
            }
        }
        let learned: Vec<_> = layout.tensors.iter().filter(|t| learn.includes(t.purpose)).cloned().collect();
        let adam = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, clip: 1.0 };
        let (mut moments, mut errors) = (Moments::new(layout.len), Vec::new());
        for step in 1..=60 {
            let y = pass(&block, &params, learn, &x, &x, 0.0).y;
            let dy: Vec<f32> = y.iter().zip(&target).map(|(y, t)| y - t).collect();
            errors.push(sum_of_squares(&dy));
            let grads = pass(&block, &params, learn, &x, &dy, 0.0).grads;
            let norm = sum_of_squares(&grads).sqrt();
            adam.step(&learned, &mut params, &grads, &mut moments, step, 0.01, norm);
        }
        let (first, last) = (errors[0], errors[59]);
        assert!(last < share * first, "{method:?}: {first} became {last}");
    }
}

fn signs(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| if *x == 0.0 { 0.0 } else { x.signum() }).collect()
}

#[test]
fn a_network_learns_scales_and_norms_alone() {
    let arch = Arc::new(synthetic::tiny(Family::Gemma3));
    let network = Network::new(Arc::clone(&arch), quantizer(Method::Codes, Scale::Row));
    let params = parameters(&network.layout, &arch, 3);
    let tokens: Vec<u32> = (0..BATCH * LENGTH).map(|i| (i * i * 7 + 3 * i) as u32 % 61).collect();
    let targets: Vec<u32> = tokens.iter().map(|token| (token * 5 + 1) % 61).collect();
    let gradients = |learn| {
        let mut grads = vec![0.0; params.len()];
        let pass = Pass { params: &params, lambda: 0.0, progress: &NoProgress };
        let mix = Mix::CROSS_ENTROPY;
        let examples =
            Examples { input: Input::Tokens(&tokens), targets: &targets, teacher: None, mix: &mix, scale: 1.0 };
        let mut space = network.workspace(BATCH, LENGTH, false);
        network.train(pass, examples, learn, &mut grads, &mut space, None).unwrap();
        grads
    };
    let (all, some) = (gradients(Learn::Everything), gradients(Learn::ScalesAndNorms));
    for tensor in &network.layout.tensors {
        let (all, some) = (&all[tensor.range()], &some[tensor.range()]);
        if Learn::ScalesAndNorms.includes(tensor.purpose) {
            assert!(all == some && some.iter().any(|g| *g != 0.0), "{}", tensor.name);
        } else {
            assert!(some.iter().all(|g| *g == 0.0), "{}", tensor.name);
        }
    }
}

/// Asks to stop at the n-th question.
struct StopAfter(AtomicUsize);

impl Progress for StopAfter {
    fn start(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
    fn note(&self, _: &str) {}
    fn is_cancelled(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

#[test]
fn a_pass_stops_wherever_it_is_asked_to() {
    let arch = synthetic::tiny(Family::Llama);
    let layers = arch.layers;
    let network = Network::new(arch, Quantizer::FULL);
    let params = parameters(&network.layout, &network.arch, 3);
    let tokens = vec![1; BATCH * LENGTH];
    let (mut grads, mut space) = (vec![0.0; params.len()], network.workspace(BATCH, LENGTH, false));
    let mix = Mix::CROSS_ENTROPY;
    let examples = Examples { input: Input::Tokens(&tokens), targets: &tokens, teacher: None, mix: &mix, scale: 1.0 };
    let mut asked = 0;
    loop {
        let progress = StopAfter(asked.into());
        let pass = Pass { params: &params, lambda: 0.0, progress: &progress };
        match network.train(pass, examples, Learn::Everything, &mut grads, &mut space, None) {
            Err(sherry::Error::Interrupted) => asked += 1,
            Err(error) => panic!("{error}"),
            Ok(_) => break,
        }
    }
    assert!(asked >= 12 * layers, "asked {asked} times only");
}
