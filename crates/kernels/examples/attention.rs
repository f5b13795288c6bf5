//! Prints what attention of a LLaMA-3.2-1B-shaped model costs (16 layers, 32 heads of 64 on 8), with f16 and with 8-bit
//! keys and values, one token at a time and for prompts. Every layer has its own cache, so that all of it comes from memory.
//!
//! `cargo run --release -p sherry-kernels --example attention [-- <threads> [<isa> [<prompt>]]]`
#![allow(clippy::print_stdout)]

use std::time::Instant;

use sherry_kernels::{AttentionShape, Engine, Isa, KvHead, KvRows, KvTiles, Precision};

const LAYERS: usize = 16;
const SHAPE: AttentionShape = AttentionShape { heads: 32, kv_heads: 8, head_dim: 64, scale: 0.125 };

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
    println!("{:>8} {:>8} {:>10} {:>10} {:>8}", "tokens", "context", "f16", "q8", "q8 GB/s");
    let (heads, d) = (SHAPE.kv_heads, SHAPE.head_dim);
    let layout = KvTiles::new(d);
    let capacity = 4096;
    let tiles_of_head = layout.bytes(capacity);
    // Not zeros, which the system keeps in one page until they are written.
    let mut tiles = vec![1u8; LAYERS * heads * tiles_of_head];
    let row: Vec<f32> = (0..d).map(|i| (i % 7) as f32 - 3.0).collect();
    for tiles in tiles.chunks_exact_mut(tiles_of_head) {
        (0..capacity).for_each(|p| layout.write(tiles, p, &row, &row));
    }
    let halves = vec![0x3001u16; 2 * LAYERS * heads * capacity * d];
    for (tokens, context) in [(1, 128), (1, 1024), (1, 4096), (prompt, 512), (prompt, 2048), (prompt, 4096)] {
        let q: Vec<f32> = (0..tokens * SHAPE.heads * d).map(|i| (i % 13) as f32 * 0.01).collect();
        let mut out = vec![0.0; q.len()];
        let runs = if tokens == 1 { 30 } else { 5 };
        let f16 = best(runs, |layer| {
            let rows = |token: usize, head: usize| {
                let start = (2 * layer * heads + head) * capacity * d;
                let len = (context - tokens + token + 1) * d;
                let k = KvRows::F16(&halves[start..][..len]);
                KvHead::Rows { k, v: KvRows::F16(&halves[start + heads * capacity * d..][..len]), first: 0 }
            };
            engine.attention(SHAPE, &q, rows, &mut out);
        });
        let q8 = best(runs, |layer| {
            let kv = |token: usize, head: usize| {
                let tiles = &tiles[(layer * heads + head) * tiles_of_head..][..tiles_of_head];
                KvHead::Tiles { tiles, first: 0, end: context - tokens + token + 1 }
            };
            engine.attention(SHAPE, &q, kv, &mut out);
        });
        let rate = (LAYERS * heads * layout.bytes(context)) as f64 / q8 / 1e9;
        println!("{tokens:8} {context:8} {:10.3} {:10.3} {rate:8.1}", f16 * 1e3, q8 * 1e3);
    }
}
