//! Attention that ends where documents do: a window of several documents against each of them computed alone.

use sherry::NoProgress;
use sherry::model::{Family, synthetic};
use sherry_train::layout::Learn;
use sherry_train::linear::Pass;
use sherry_train::loss::Mix;
use sherry_train::methods::{Method, Quantizer};
use sherry_train::network::{Examples, Input, Network};

const SEPARATOR: u32 = 60;

/// Windows of two sequences: what is left of a document, whole ones, one without text, and the beginning of one.
fn window() -> Vec<Vec<u32>> {
    let text = |from: u32, len: u32| (from..from + len).map(|i| (i * i * 7 + 3 * i) % 60);
    let document = |from: u32, len: u32| std::iter::once(SEPARATOR).chain(text(from, len)).collect::<Vec<u32>>();
    vec![
        [text(0, 7).collect(), document(7, 11), document(18, 0), document(18, 3)].concat(),
        [document(30, 20), document(50, 2)].concat(),
    ]
}

/// The parts of a sequence that see each other.
fn documents(sequence: &[u32]) -> Vec<&[u32]> {
    let starts = (1..sequence.len()).filter(|&i| sequence[i] == SEPARATOR);
    let bounds: Vec<usize> = std::iter::once(0).chain(starts).chain([sequence.len()]).collect();
    bounds.windows(2).map(|pair| &sequence[pair[0]..pair[1]]).collect()
}

#[test]
fn a_window_of_documents_is_its_documents_one_by_one() {
    let sequences = window();
    let length = sequences[0].len();
    assert!(sequences.iter().all(|sequence| sequence.len() == length));
    let tokens = sequences.concat();
    let targets: Vec<u32> = tokens.iter().map(|token| (token * 5 + 1) % 61).collect();
    for (family, recompute) in
        [(Family::Llama, false), (Family::Llama, true), (Family::Qwen3, false), (Family::Gemma3, true)]
    {
        let quantizer = Quantizer { method: Method::Sherry, ..Quantizer::FULL };
        let network = Network::new(synthetic::tiny(family), quantizer);
        let params = network.layout.init(&quantizer, 1, &NoProgress).unwrap();
        let pass = Pass { params: &params, lambda: 0.3, progress: &NoProgress };
        let train = |tokens: &[u32], targets: &[u32], batch: usize, separator: Option<u32>, grads: &mut [f32]| {
            let mut space = network.workspace(batch, tokens.len() / batch, recompute);
            space.mask_documents(separator);
            let hidden = network.forward(pass, tokens, &mut space).unwrap().to_vec();
            let (mix, scale) = (Mix::CROSS_ENTROPY, 1.0 / 50.0);
            let examples = Examples { input: Input::Tokens(tokens), targets, teacher: None, mix: &mix, scale };
            let sums = network.train(pass, examples, Learn::Everything, grads, &mut space, None).unwrap();
            (hidden, sums.cross_entropy)
        };
        let mut grads = vec![0.0; params.len()];
        let (hidden, loss) = train(&tokens, &targets, 2, Some(SEPARATOR), &mut grads);

        let (mut alone, mut expected, mut expected_grads) = (Vec::new(), 0.0, vec![0.0; params.len()]);
        let mut at = 0;
        for document in sequences.iter().flat_map(|sequence| documents(sequence)) {
            let targets = &targets[at..at + document.len()];
            let (hidden, loss) = train(document, targets, 1, None, &mut expected_grads);
            alone.extend(hidden);
            expected += loss;
            at += document.len();
        }
        // Positions count on through a window, and attention sees differences of positions only: what is left is
        // rounding.
        let close = |found: &[f32], expected: &[f32], what: &str| {
            let top = expected.iter().fold(0.0f32, |top, x| top.max(x.abs()));
            let off = found.iter().zip(expected).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
            assert!(off < 2e-5 * top, "{family:?}, {what}: {off} of {top}");
        };
        close(&hidden, &alone, "hidden states");
        close(&grads, &expected_grads, "gradients");
        assert!((loss / expected - 1.0).abs() < 1e-6, "{family:?}: {loss}, one by one {expected}");

        let mut across = vec![0.0; params.len()];
        let (_, unmasked) = train(&tokens, &targets, 2, None, &mut across);
        assert!((unmasked / expected - 1.0).abs() > 1e-4, "the mask makes no difference: {unmasked}");
    }
}
