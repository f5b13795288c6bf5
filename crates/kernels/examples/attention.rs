//! Prints what attention of a LLaMA-3.2-1B-shaped model costs (16 layers, 32 heads of 64 on 8), with f16, 8-bit and 4-bit
//! keys and values, one token at a time and for prompts. Every layer has its own cache, so that all of it comes from memory.
//!
//! `cargo run --release -p sherry-kernels --example attention [-- <threads> [<isa> [<prompt>]]]`
#![allow(clippy::print_stdout)]

use std::time::Instant;

use sherry_kernels::{AttentionShape, Engine, Isa, KvHead, KvTiles, KvType, Precision};

const LAYERS: usize = 16;
const SHAPE: AttentionShape = AttentionShape { heads: 32, kv_heads: 8, head_dim: 64, kv: KvType::F16, scale: 0.125 };
const CAPACITY: usize = 4096;

/// Seconds for all layers: the sum of each layer's fastest of `runs` runs.
fn best(runs: usize, mut work: impl FnMut(usize)) -> f64 {
    let mut best = [f64::INFINITY; LAYERS];
    for _ in 0..runs {
        for (layer, best) in best.iter_mut().enumerate() {
            let start = Instant::now();
            work(layer);
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best.iter().sum()
}

fn main() {
    let mut args = std::env::args().skip(1);
    let threads = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(1).max(1);
    let name = args.next();
    let isa = Isa::ALL.into_iter().find(|isa| Some(isa.to_string()) == name).unwrap_or_else(Isa::best);
    let prompt: usize = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(16);
    let engine = Engine::new(isa, threads, Precision::Int8);
    println!("{isa}, {} threads; ms for {LAYERS} layers", engine.pool().threads());
    print!("{:>8} {:>8}", "tokens", "context");
    ["f16", "q8", "q4"].iter().for_each(|kv| print!(" {kv:>10} {:>8}", "GB/s"));
    println!();
    let kinds = [KvType::F16, KvType::Q8, KvType::Q4];
    let caches = kinds.map(|kv| {
        let layout = KvTiles::new(kv, SHAPE.head_dim);
        let row: Vec<f32> = (0..SHAPE.head_dim).map(|i| (i % 7) as f32 - 3.0).collect();
        let bytes = LAYERS * SHAPE.kv_heads * layout.bytes(CAPACITY);
        let mut tiles = KvTiles::zeroed(bytes).expect("memory for the cache");
        for tiles in tiles.chunks_exact_mut(layout.bytes(CAPACITY)) {
            (0..CAPACITY).for_each(|p| layout.write(tiles, p, &row, &row));
        }
        (kv, layout, tiles)
    });
    for (tokens, context) in [(1, 128), (1, 1024), (1, 4096), (prompt, 512), (prompt, 2048), (prompt, 4096)] {
        let q: Vec<f32> = (0..tokens * SHAPE.heads * SHAPE.head_dim).map(|i| (i % 13) as f32 * 0.01).collect();
        let mut out = vec![0.0; q.len()];
        let runs = if tokens == 1 { 30 } else { 5 };
        print!("{tokens:8} {context:8}");
        for (kv, layout, tiles) in &caches {
            let head_bytes = layout.bytes(CAPACITY);
            let chunks: Vec<usize> = (0..CAPACITY / KvTiles::CHUNK).map(|c| c * layout.bytes(KvTiles::CHUNK)).collect();
            let seconds = best(runs, |layer| {
                let see = |token: usize, head: usize| KvHead {
                    slab: tiles,
                    chunks: &chunks,
                    offset: (layer * SHAPE.kv_heads + head) * head_bytes,
                    first: 0,
                    end: context - tokens + token + 1,
                };
                engine.attention(AttentionShape { kv: *kv, ..SHAPE }, &q, see, &mut out);
            });
            let rate = (LAYERS * SHAPE.kv_heads * layout.bytes(context)) as f64 / seconds / 1e9;
            print!(" {:10.3} {rate:8.1}", seconds * 1e3);
        }
        println!();
    }
}
