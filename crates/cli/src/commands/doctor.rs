//! `sherry doctor`: what this machine is, which kernels would run and why, how fast memory is.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use sherry_kernels::{Isa, Pool};

use super::Context;
use crate::machine;
use crate::output::bytes;

/// Show processor features, chosen kernels, memory and memory bandwidth
#[derive(Args)]
#[command(after_help = "Examples:\n  sherry doctor\n  sherry doctor --json")]
pub struct DoctorArgs {}

/// Large enough to leave every cache, small enough for a phone.
const PROBE_BYTES: usize = 256 << 20;
const PROBE_PASSES: usize = 5;

pub fn run(_: &DoctorArgs, context: &Context) -> Result<ExitCode> {
    let features = features();
    let best = Isa::best();
    let threads = machine::physical_cores();
    let memory = machine::memory();
    let bandwidth: Vec<(usize, f64)> = match threads {
        1 => vec![(1, streaming_read(1))],
        n => vec![(1, streaming_read(1)), (n, streaming_read(n))],
    };
    let mut out = io::stdout().lock();
    if context.json {
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "cpu": machine::cpu_name(),
            "features": features,
            "isa": { "chosen": best.to_string(),
                     "available": Isa::ALL.iter().filter(|isa| isa.is_available()).map(ToString::to_string).collect::<Vec<_>>() },
            "threads": { "default": threads, "logical": machine::logical_cpus() },
            "memory": memory.map(|(total, available)| json!({ "total": total, "available": available })),
            "streaming_read_bytes_per_second":
                bandwidth.iter().map(|(n, rate)| (n.to_string(), json!(rate))).collect::<serde_json::Map<_, _>>(),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "sherry    {} ({}, {})", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH)?;
    writeln!(out, "cpu       {}", machine::cpu_name())?;
    writeln!(out, "features  {}", features.join(" "))?;
    for isa in Isa::ALL.into_iter().rev() {
        let state = match (isa.is_available(), isa == best) {
            (true, true) => "chosen: the best this processor has",
            (true, false) => "available (force it with --isa)",
            (false, _) => "not on this processor",
        };
        writeln!(out, "kernels   {:<12} {state}", isa.to_string())?;
    }
    writeln!(out, "threads   {threads} (physical cores usable; {} logical)", machine::logical_cpus())?;
    if let Some((total, available)) = memory {
        writeln!(out, "memory    {} total, {} available", bytes(total), bytes(available))?;
    }
    for (threads, rate) in bandwidth {
        let noun = if threads == 1 { "thread" } else { "threads" };
        writeln!(
            out,
            "read      {:.1} GB/s with {threads} {noun} (streaming, {} passes over {}): the limit of decoding",
            rate / 1e9,
            PROBE_PASSES,
            bytes(PROBE_BYTES as u64)
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The processor features that kernels use or could use, as the system names them.
fn features() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! probe {
            ($($name:tt)*) => { $( if is_x86_feature_detected!($name) { found.push($name); } )* };
        }
        probe!("sse4.1" "avx2" "fma" "f16c" "avxvnni" "gfni" "avx512f" "avx512bw" "avx512vl" "avx512vbmi" "avx512vnni" "avx512bf16");
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! probe {
            ($($name:tt)*) => { $( if std::arch::is_aarch64_feature_detected!($name) { found.push($name); } )* };
        }
        probe!("neon" "dotprod" "i8mm" "fp16" "sve");
    }
    found
}

/// Best of several passes of plain reading, in bytes per second.
fn streaming_read(threads: usize) -> f64 {
    let data: Vec<u64> = (0..(PROBE_BYTES / 8) as u64).collect();
    let pool = Pool::new(threads);
    let mut sums = vec![0u64; threads];
    let mut best = f64::INFINITY;
    for _ in 0..PROBE_PASSES {
        let start = Instant::now();
        pool.for_chunks(&mut sums, 1, |index, sum| {
            let part = data.len() / threads;
            let mut lanes = [0u64; 32];
            for chunk in data[index * part..(index + 1) * part].chunks_exact(32) {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *lane = lane.wrapping_add(*value);
                }
            }
            sum[0] = sum[0].wrapping_add(lanes.iter().fold(0, |a, b| a.wrapping_add(*b)));
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    std::hint::black_box(&sums);
    PROBE_BYTES as f64 / best
}
