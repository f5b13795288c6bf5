//! What memory delivers and what the processor computes at most.

use std::hint::black_box;
use std::time::{Duration, Instant};

use sherry_kernels::{Isa, Pool, probe};

use super::statistics::fifth;
use sherry::{Error, Result};

/// Words per worker and timed piece: 4 MiB.
const PIECE: usize = (4 << 20) / 8;
/// How long one timing of arithmetic takes at least.
const PEAK_TIME: Duration = Duration::from_micros(500);

/// Memory to read, larger than the caches.
#[derive(Debug)]
pub struct ReadProbe {
    words: Vec<u64>,
}

impl ReadProbe {
    /// More than the last-level caches of most machines, small enough for a phone.
    pub const BYTES: usize = 256 << 20;

    /// A probe of `bytes` bytes, normally [`BYTES`](Self::BYTES).
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the system refuses the memory.
    pub fn new(bytes: usize) -> Result<Self> {
        let mut words = Vec::new();
        let refused = |_| Error::OutOfMemory { what: "measuring memory".to_owned(), needed: bytes as u64 };
        words.try_reserve_exact(bytes / 8).map_err(refused)?;
        // Not zeros, which the system keeps in one page until they are written.
        words.extend((0..bytes / 8).map(|i| i as u64 | 1));
        Ok(Self { words })
    }

    /// Bytes per second of plain reading with the widest loads of `isa` on all workers of `pool`: the rate that four of
    /// five pieces of 4 MiB per worker do not exceed, over one pass.
    ///
    /// # Panics
    /// When `isa` is not available on this processor.
    pub fn bytes_per_second(&self, isa: Isa, pool: &Pool) -> f64 {
        let part = PIECE.min(self.words.len() / pool.threads()).max(1);
        let mut seconds = Vec::new();
        for piece in self.words.chunks_exact(part * pool.threads()) {
            let start = Instant::now();
            pool.run(&|worker| {
                black_box(probe::read(isa, &piece[worker * part..][..part]));
            });
            seconds.push(start.elapsed().as_secs_f64());
        }
        match fifth(&seconds) {
            0.0 => 0.0,
            seconds => (part * pool.threads() * 8) as f64 / seconds,
        }
    }
}

/// int8 multiply-accumulates per second of the dot-product instructions of `isa` on registers alone, all workers of
/// `pool` together: the best of a few short runs.
///
/// # Panics
/// When `isa` is not available on this processor.
pub fn int8_peak(isa: Isa, pool: &Pool) -> f64 {
    let run = |rounds: u64| {
        let start = Instant::now();
        pool.run(&|_| {
            black_box(probe::int8_dots(isa, rounds));
        });
        start.elapsed()
    };
    let mut rounds = 1000;
    while run(rounds) < PEAK_TIME && rounds < 1 << 40 {
        rounds *= 2;
    }
    let best = (0..7).map(|_| run(rounds)).min().unwrap_or(PEAK_TIME);
    let per_round = probe::int8_dots(isa, 1) * pool.threads() as u64;
    (rounds * per_round) as f64 / best.as_secs_f64().max(1e-9)
}
