//! Compares a model's logits with those that llama.cpp computed:
//! `llama-perplexity -m MODEL.gguf -f TEXT -c 512 --kl-divergence-base FILE`, then
//! `cargo run --release -p sherry --example llama_logits -- MODEL.gguf FILE`. See `bench/peers/README.md`.

#![allow(clippy::print_stdout)] // a program

use std::path::Path;
use std::sync::Arc;

use sherry::NoProgress;
use sherry::io::ReadMode;
use sherry::model::{Checkpoint, Decoder, KvCache, KvType, Wanted};
use sherry_kernels::{Engine, Isa, Pool, Precision};

/// What llama-perplexity wrote: chunks of tokens, and of the second half of each the logarithms of all probabilities.
struct Logits<'a> {
    context: usize,
    vocab: usize,
    tokens: Vec<u32>,
    rows: &'a [u8],
}

impl<'a> Logits<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let (context, vocab, chunks) = (number(8)? as usize, number(12)? as usize, number(16)? as usize);
        let end = 20 + 4 * context * chunks;
        let tokens = bytes.get(20..end)?.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        bytes.starts_with(b"_logits_").then_some(Self { context, vocab, tokens, rows: &bytes[end..] })
    }

    /// Row `index` of all: a scale, the smallest value, and 16 bits for each token; rows have an even count of those.
    fn row(&self, index: usize) -> Option<Vec<f64>> {
        let size = 2 * (2 * self.vocab.div_ceil(2) + 4);
        let row = self.rows.get(index * size..(index + 1) * size)?;
        let float = |at: usize| row.get(at..)?.first_chunk().map(|b| f64::from(f32::from_le_bytes(*b)));
        let (scale, least) = (float(0)?, float(4)?);
        let steps = row[8..].as_chunks().0.iter().take(self.vocab);
        Some(steps.map(|b| scale * f64::from(u16::from_le_bytes(*b)) + least).collect())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, file] = &arguments[..] else { return Err("expected MODEL and FILE".into()) };
    let bytes = std::fs::read(file)?;
    let theirs = Logits::parse(&bytes).ok_or("not a file of llama-perplexity --kl-divergence-base")?;
    let checkpoint = Checkpoint::open(Path::new(model), ReadMode::Map)?;
    println!("{}", checkpoint.describe());
    // Every chunk begins as a text does.
    let tokenizer = checkpoint.tokenizer()?;
    let begin = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let model = Arc::new(checkpoint.load(&Pool::new(2), &NoProgress)?);
    assert_eq!(model.config.vocab, theirs.vocab, "tokens of the vocabulary");
    for (name, precision) in [("f32", Precision::F32), ("int8", Precision::Int8)] {
        let mut decoder = Decoder::new(Arc::clone(&model), Engine::new(Isa::best(), 2, precision));
        let (mut rows, mut same, mut divergence) = (0, 0, 0.0);
        for chunk in theirs.tokens.chunks(theirs.context) {
            let chunk: Vec<u32> =
                begin.into_iter().chain(chunk[usize::from(begin.is_some())..].iter().copied()).collect();
            let mut cache = KvCache::new(&model.config, chunk.len(), KvType::F32)?;
            let logits = decoder.forward_one(&mut cache, &chunk, Wanted::All)?;
            for position in theirs.context / 2..theirs.context - 1 {
                let theirs = theirs.row(rows).ok_or("the file ends early")?;
                let ours: Vec<f64> = logits.row(position).iter().copied().map(f64::from).collect();
                let largest = ours.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum = ours.iter().map(|x| (x - largest).exp()).sum::<f64>().ln() + largest;
                divergence += theirs.iter().zip(&ours).map(|(t, o)| t.exp() * (t - (o - sum))).sum::<f64>();
                let top = |values: &[f64]| (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]));
                same += usize::from(top(&theirs) == top(&ours));
                rows += 1;
            }
        }
        let (mean, share) = (divergence / rows as f64, 100.0 * same as f64 / rows as f64);
        println!("{name:<5} mean KL {mean:.2e}, same first token {share:.1} % of {rows}");
    }
    Ok(())
}
