//! How fast products with packed ternary weights run, beside what memory delivers in the same run.
//!
//! `cargo run --release -p sherry-kernels --example ternary [-- threads]`
//!
//! Hot: one matrix again and again. Cold: matrices in rotation that together do not fit the caches. Every product
//! includes quantizing the input and building the look-up tables. GB/s counts packed weights with their scales.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use sherry_kernels::format::{PackedLayout, QuadOrder, ScaleGroup, TernaryFormat};
use sherry_kernels::{Engine, Isa, Matrix, Precision, Product};

/// More than the last-level caches of most machines.
const COLD_BYTES: usize = 320 << 20;

fn main() {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    let words = vec![1u64; COLD_BYTES / 8];
    let isas: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();

    println!("one token, {threads} thread(s)");
    println!(
        "{:>14} {:>6} {:>7} {:>12} {:>9} {:>7} {:>7} {:>7} {:>6}",
        "format", "scale", "isa", "shape", "", "us", "Gw/s", "GB/s", "limit"
    );
    for (format, scale) in [
        (TernaryFormat::Sherry, ScaleGroup::Row),
        (TernaryFormat::Sherry, ScaleGroup::Group(128)),
        (TernaryFormat::Ternary167, ScaleGroup::Row),
        (TernaryFormat::Ternary2, ScaleGroup::Row),
    ] {
        let scale_name = match scale {
            ScaleGroup::Row => "row".to_owned(),
            ScaleGroup::Group(n) => n.to_string(),
        };
        for (rows, cols) in [(2048, 2048), (8192, 2048), (2048, 8192)] {
            let matrix = random_matrix(format, scale, rows, cols, 1);
            let count = COLD_BYTES / matrix.bytes() + 1;
            let matrices: Vec<Matrix> =
                (0..count).map(|seed| random_matrix(format, scale, rows, cols, seed as u32)).collect();
            for &isa in &isas {
                if isa == Isa::Scalar && (rows, cols) != (2048, 2048) {
                    continue;
                }
                let mut engine = Engine::new(isa, threads, Precision::Int8);
                let x: Vec<f32> = (0..cols).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
                let mut y = vec![0.0; rows];
                let mut run = |w: &Matrix| engine.matmul(&x, 1, &mut [Product { w, y: &mut y }]);
                let hot = best_of(60, || run(&matrix));
                let limit = read_limit(&words, threads);
                let rounds = if isa == Isa::Scalar { 1 } else { 3 };
                let cold = fifth((0..rounds).flat_map(|_| &matrices).map(|w| {
                    let start = Instant::now();
                    run(w);
                    start.elapsed()
                }));
                for (name, time, limit) in [("hot", hot, None), ("cold", cold, Some(limit))] {
                    let gb = matrix.bytes() as f64 / time / 1e9;
                    println!(
                        "{:>14} {:>6} {:>7} {:>12} {:>9} {:>7.1} {:>7.1} {:>7.2} {}",
                        format.to_string(),
                        scale_name,
                        isa.to_string(),
                        format!("{rows}x{cols}"),
                        name,
                        time * 1e6,
                        (rows * cols) as f64 / time / 1e9,
                        gb,
                        limit.map_or(String::new(), |l| format!("{:.0}% of {l:.1}", 100.0 * gb / l)),
                    );
                }
            }
        }
    }

    println!("\nmany tokens, 2048x2048, {threads} thread(s), GMAC/s");
    let counts = [1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 96, 192, 384];
    print!("{:>14} {:>6} {:>7}", "format", "scale", "isa");
    counts.iter().for_each(|n| print!(" {n:>6}"));
    println!();
    for (format, scale) in [
        (TernaryFormat::Sherry, ScaleGroup::Row),
        (TernaryFormat::Sherry, ScaleGroup::Group(128)),
        (TernaryFormat::Ternary167, ScaleGroup::Row),
        (TernaryFormat::Ternary2, ScaleGroup::Row),
    ] {
        let matrix = random_matrix(format, scale, 2048, 2048, 1);
        for &isa in isas.iter().filter(|&&isa| isa != Isa::Scalar) {
            let mut engine = Engine::new(isa, threads, Precision::Int8);
            let group = if scale == ScaleGroup::Row { "row" } else { "group" };
            print!("{:>14} {group:>6} {:>7}", format.to_string(), isa.to_string());
            for n in counts {
                let x: Vec<f32> = (0..n * 2048).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
                let mut y = vec![0.0; n * 2048];
                let time = best_of(200 / n + 3, || engine.matmul(&x, n, &mut [Product { w: &matrix, y: &mut y }]));
                print!(" {:>6.0}", (n * 2048 * 2048) as f64 / time / 1e9);
            }
            println!();
        }
    }
}

/// Any weights that are legal in the format.
fn random_matrix(format: TernaryFormat, scale: ScaleGroup, rows: usize, cols: usize, seed: u32) -> Matrix {
    let layout = PackedLayout { format, rows, cols, order: QuadOrder::Contiguous, scale };
    let mut codes = vec![0u8; rows * layout.row_bytes()];
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    match format {
        TernaryFormat::Sherry => codes.iter_mut().for_each(|b| *b = random()),
        TernaryFormat::Ternary2 => codes.iter_mut().for_each(|b| {
            let r = random();
            *b = r & !(r >> 1 & 0x55);
        }),
        TernaryFormat::Ternary167 => {
            for row in codes.chunks_exact_mut(layout.row_bytes()) {
                for code in 0..cols / 3 {
                    let magnitude = random() % 13 + 1;
                    sherry_kernels::format::write_code(row, code, magnitude | random() & 16);
                }
            }
        }
    }
    let scales = [0x00, 0x3c].repeat(rows * layout.row_scales());
    let start = Instant::now();
    let matrix = Matrix::from_packed(layout, &codes, &scales).unwrap_or_else(|e| panic!("{e:?}"));
    if seed == 1 {
        let time = start.elapsed().as_secs_f64();
        println!("repacking {format}, {rows} x {cols}: {:.2} GB/s", codes.len() as f64 / time / 1e9);
    }
    matrix
}

fn best_of(times: usize, mut work: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..times {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed());
    }
    best.as_secs_f64()
}

/// The time that a fifth of all do not exceed: robust where other programs interrupt.
fn fifth(times: impl Iterator<Item = Duration>) -> f64 {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times[times.len() / 5].as_secs_f64()
}

/// GB/s of a plain read of all of `words` in pieces of 4 MiB, each thread its part.
fn read_limit(words: &[u64], threads: usize) -> f64 {
    const PIECE: usize = (4 << 20) / 8;
    let sum = |part: &[u64]| {
        let mut sums = [0u64; 32];
        for words in part.as_chunks::<32>().0 {
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = sum.wrapping_add(*word);
            }
        }
        black_box(sums);
    };
    let one = |part: &[u64]| {
        8.0 * PIECE as f64
            / 1e9
            / fifth((0..2).flat_map(|_| part.chunks_exact(PIECE)).map(|piece| {
                let start = Instant::now();
                sum(piece);
                start.elapsed()
            }))
    };
    std::thread::scope(|scope| {
        let parts = words.chunks(words.len().div_ceil(threads));
        let readers: Vec<_> = parts.map(|part| scope.spawn(move || one(part))).collect();
        readers.into_iter().map(|reader| reader.join().unwrap_or(0.0)).sum()
    })
}
