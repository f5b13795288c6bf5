//! A tiny model with packed layers and a tokenizer of letters.

use std::sync::Arc;

use sherry::io::gguf::Strings;
use sherry::model::{ArchConfig, Decoder, Family, Model, synthetic};
use sherry::tokenizer::{GgufVocab, Tokenizer};
use sherry_convert::quant::{QuantSpec, quantize_matrix};
use sherry_kernels::format::{ScaleGroup, TensorType, ggml};
use sherry_kernels::{Engine, Isa, Matrix, Pool, Precision, SplitMix64};

/// Tokens that have a text; the embedding has more rows.
pub const TOKENS: u32 = 766;

/// Every number of a test follows from its seed.
#[derive(Clone)]
pub struct Random(SplitMix64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(SplitMix64(seed))
    }

    pub fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 11) as usize % n
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn token(&mut self) -> u32 {
        self.below(TOKENS as usize) as u32
    }
}

/// Three control tokens, then letters, bytes of characters that take two tokens, and pairs of letters.
pub fn tokenizer() -> Arc<Tokenizer> {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "\u{120}"].map(str::to_owned).to_vec();
    let first_bytes = '\u{C3}'..='\u{C8}';
    let second_bytes = ('\u{A1}'..='\u{AC}').chain('\u{AE}'..='\u{BD}');
    tokens.extend(('a'..='z').chain('A'..='Z').chain(first_bytes).chain(second_bytes).map(String::from));
    tokens.extend(('a'..='z').flat_map(|a| ('a'..='z').map(move |b| String::from_iter([a, b]))));
    assert_eq!(tokens.len(), TOKENS as usize);
    let vocab = GgufVocab {
        model: "gpt2".to_owned(),
        pre: "llama-bpe".to_owned(),
        merges: Some(Strings::default()),
        token_types: Some((0..tokens.len()).map(|i| [2, 3, 3].get(i).copied().unwrap_or(1)).collect()),
        tokens: tokens.into(),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocab::default()
    };
    Arc::new(Tokenizer::from_gguf(&vocab).unwrap())
}

/// A model whose layers are packed at 1.25 bits and whose head is Q8_0 with a coarse copy; `window`: with sliding-window
/// layers.
pub fn model(window: bool) -> Arc<Model> {
    let mut config = synthetic::tiny(if window { Family::Gemma3 } else { Family::Qwen3 });
    let ArchConfig { vocab, hidden, ffn, context, .. } = &mut config;
    (*vocab, *hidden, *ffn, *context) = (TOKENS as usize + 2, 64, 96, 1024);
    if window {
        (config.window, config.embed_scale) = (Some(70), 8.0);
    }
    let mut model = synthetic::model(&config, 11).unwrap();
    let values = |w: &Matrix| {
        let mut values = vec![0.0; w.rows() * w.cols()];
        values.chunks_exact_mut(w.cols()).enumerate().for_each(|(row, out)| w.row_f32(row, out));
        values
    };
    for layer in &mut model.weights.layers {
        for w in
            [&mut layer.q, &mut layer.k, &mut layer.v, &mut layer.o, &mut layer.gate, &mut layer.up, &mut layer.down]
        {
            let place = (std::path::Path::new("synthetic"), "w");
            let (rows, _) =
                quantize_matrix(place, &values(w), w.cols(), &QuantSpec::sherry(ScaleGroup::Row), None).unwrap();
            let scales: Vec<u8> = rows.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
            *w = Matrix::from_packed(rows.layout, &rows.codes, &scales).unwrap();
        }
    }
    let embed = &mut model.weights.embed;
    let (rows, cols) = (embed.rows(), embed.cols());
    let mut bytes = vec![0; TensorType::Q8_0.row_bytes(cols).unwrap() * rows];
    ggml::quantize(TensorType::Q8_0, &values(embed), &mut bytes).unwrap();
    *embed = Matrix::from_rows(TensorType::Q8_0, rows, cols, bytes.into()).unwrap().repacked_on(&Pool::new(1));
    assert!(model.weights.add_coarse_head(&Pool::new(1)));
    Arc::new(model)
}

pub fn decoder(model: &Arc<Model>, isa: Isa, threads: usize) -> Decoder {
    Decoder::new(Arc::clone(model), Engine::new(isa, threads, Precision::Int8))
}
