//! Prints how fast the products, attention and the thread pool are: best of short runs.
//!
//! `cargo run --release -p sherry-kernels --example dense [-- <threads> [<isa>]]`
#![allow(clippy::print_stdout)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sherry_kernels::format::TensorType;
use sherry_kernels::{AttentionShape, Bytes, Engine, Isa, KvHead, KvRows, Matrix, Precision, Product};

/// Seconds of the fastest of `runs` runs.
fn best(runs: usize, mut work: impl FnMut()) -> f64 {
    (0..runs).fold(f64::INFINITY, |best, _| {
        let start = Instant::now();
        work();
        best.min(start.elapsed().as_secs_f64())
    })
}

fn matrix(ty: TensorType, rows: usize, cols: usize, engine: &Engine) -> Matrix {
    // Not zeros, which the system keeps in one page until they are written.
    let bytes = vec![1u8; ty.row_bytes(cols).expect("whole blocks") * rows];
    let matrix = Matrix::from_rows(ty, rows, cols, Bytes::from(bytes)).expect("a legal matrix");
    matrix.repacked_on(engine.pool())
}

fn main() {
    let mut args = std::env::args().skip(1);
    let threads = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(1).max(1);
    let name = args.next();
    let isa = Isa::ALL.into_iter().find(|isa| Some(isa.to_string()) == name).unwrap_or_else(Isa::best);
    let mut engine = Engine::new(isa, threads, Precision::Int8);
    println!("{isa}, {} threads", engine.pool().threads());

    let join = best(5000, || (0..20).for_each(|_| engine.pool().run(&|_| {}))) / 20.0;
    println!("fork and join: {:.2} us", join * 1e6);

    let memory = vec![1u64; 24 << 20];
    let sums: Vec<AtomicU64> = (0..threads).map(|_| AtomicU64::new(0)).collect();
    let read = best(5, || {
        engine.pool().run(&|worker| {
            let part = memory.len() / threads;
            let sum = memory[worker * part..][..part].iter().fold(0u64, |sum, x| sum.wrapping_add(*x));
            sums[worker].store(sum, Ordering::Relaxed);
        });
    });
    println!("reading 192 MiB: {:.1} GB/s", (memory.len() * 8) as f64 / read / 1e9);

    println!("{:6} {:>14} {:>14} {:>14}", "type", "1 token, GB/s", "2 MB, GB/s", "64 t, GMAC/s");
    for ty in [
        TensorType::F32,
        TensorType::F16,
        TensorType::BF16,
        TensorType::Q8_0,
        TensorType::Q6_K,
        TensorType::Q5_K,
        TensorType::Q4_K,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q2_K,
    ] {
        let cols = 2048;
        let mut rate = |rows: usize, tokens: usize, runs: usize| {
            let w = matrix(ty, rows, cols, &engine);
            let x: Vec<f32> = (0..tokens * cols).map(|i| (i % 7) as f32 - 3.0).collect();
            let mut y = vec![0.0; tokens * rows];
            let time = best(runs, || engine.matmul(&x, tokens, &mut [Product { w: &w, y: &mut y }]));
            (w.bytes() as f64 / time / 1e9, (rows * cols * tokens) as f64 / time / 1e9)
        };
        let row_bytes = ty.row_bytes(cols).expect("whole blocks");
        let (cold, _) = rate((192 << 20) / row_bytes, 1, 5);
        let (warm, _) = rate((2 << 20) / row_bytes, 1, 100);
        let (_, macs) = rate(1024, 64, 10);
        println!("{:6} {cold:14.1} {warm:14.1} {macs:14.1}", ty.name());
    }

    let shape = AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125 };
    let kv = vec![0u16; 1024 * 64];
    for tokens in [1, 16] {
        let q = vec![0.1; tokens * 9 * 64];
        let mut out = vec![0.0; q.len()];
        let rows = |_, _| KvHead::Rows { k: KvRows::F16(&kv), v: KvRows::F16(&kv), first: 0 };
        let time = best(50, || engine.attention(shape, &q, rows, &mut out)) / tokens as f64;
        println!("attention, 9 heads of 64 on 3, 1024 positions, {tokens:2} tokens: {:.1} us per token", time * 1e6);
    }
    let x = vec![0.5; 1536];
    let mut gate = vec![0.5; 1536];
    let silu = best(1000, || engine.silu_mul(&mut gate, &x));
    let mut out = vec![0.0; 1536];
    let norm = best(1000, || engine.rms_norm(&x, &x, 1e-5, 0.0, &mut out));
    println!("1536 values: silu_mul {:.2} us, rms_norm {:.2} us", silu * 1e6, norm * 1e6);
}
