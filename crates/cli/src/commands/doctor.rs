//! `sherry doctor`: what this machine is, which kernels would run and why, how fast memory is.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use sherry_kernels::{Isa, Pool, probe};
use sherry_measure::bench::{ReadProbe, limits, statistics};

use super::Context;
use crate::machine;
use crate::output::{Stdout, bytes};
use sherry::threads::{Threads, default_threads};

/// Show processor features, chosen kernels, threads, memory, and the limits of memory and processor
#[derive(Args)]
#[command(after_help = "Examples:\n  sherry doctor\n  sherry doctor --json")]
pub struct DoctorArgs {}

/// Passes over the memory that is read.
const PASSES: usize = 5;

pub fn run(_: &DoctorArgs, context: &Context) -> Result<ExitCode> {
    let best = Isa::best();
    let Threads { threads, reason } = default_threads();
    let memory = machine::memory();
    let read = ReadProbe::new(ReadProbe::BYTES)?;
    let mut counts = vec![1];
    counts.extend((threads > 1).then_some(threads));
    let measured: Vec<(usize, f64, f64)> = counts
        .into_iter()
        .map(|threads| {
            let pool = Pool::new(threads);
            let rates: Vec<f64> = (0..PASSES).map(|_| read.bytes_per_second(best, &pool)).collect();
            (threads, statistics::median(&rates), limits::int8_peak(best, &pool))
        })
        .collect();
    let mut out = Stdout::lock();
    if context.json {
        let by_threads = |value: fn(&(usize, f64, f64)) -> f64| {
            measured.iter().map(|m| (m.0.to_string(), json!(value(m)))).collect::<serde_json::Map<_, _>>()
        };
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "cpu": machine::cpu_name(),
            "features": features(),
            "isa": {
                "chosen": best.to_string(),
                "available": Isa::ALL.iter().filter(|isa| isa.is_available()).map(ToString::to_string).collect::<Vec<_>>(),
                "tiers": tiers(),
            },
            "kernels": kernels(best),
            "threads": {
                "default": threads, "reason": reason, "logical": machine::logical_cpus(),
            },
            "memory": memory.map(|(total, available)| json!({ "total": total, "available": available })),
            "streaming_read_bytes_per_second": by_threads(|m| m.1),
            "int8_macs_per_second": by_threads(|m| m.2),
        });
        out.json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "sherry    {} ({}, {})", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH)?;
    writeln!(out, "cpu       {}", machine::cpu_name())?;
    writeln!(out, "features  {}", features().join(" "))?;
    for isa in Isa::ALL.into_iter().rev() {
        let features = isa.features();
        let names = |wanted: bool| {
            let names: Vec<&str> =
                features.iter().filter(|(_, found)| *found == wanted).map(|(name, _)| *name).collect();
            names.join(" ")
        };
        let state = match (isa.is_available(), isa == best) {
            (true, true) => "chosen: the best this processor has".to_owned(),
            (true, false) => "available (force it with --isa)".to_owned(),
            (false, _) => format!("not on this processor: needs {}", names(false)),
        };
        let has = names(true);
        let has = if has.is_empty() || !isa.is_available() { String::new() } else { format!(" [{has}]") };
        writeln!(out, "tier      {:<12} {state}{has}", isa.to_string())?;
    }
    for family in probe::families(best) {
        let many =
            family.many_tokens.map_or(String::new(), |(tokens, name)| format!("; from {tokens} tokens on: {name}"));
        writeln!(out, "kernels   {}: {}{many}", family.formats.join(" "), family.one_token)?;
    }
    writeln!(out, "threads   {threads}: {reason}")?;
    if let Some((total, available)) = memory {
        writeln!(out, "memory    {} total, {} available", bytes(total), bytes(available))?;
    }
    let noun = |threads| if threads == 1 { "thread" } else { "threads" };
    for (threads, rate, _) in &measured {
        let (rate, size) = (rate / 1e9, bytes(ReadProbe::BYTES as u64));
        let noun = noun(*threads);
        writeln!(out, "read      {rate:.1} GB/s with {threads} {noun} (streaming {size}): the limit of decoding")?;
    }
    for (threads, _, peak) in &measured {
        let (peak, noun, by) = (peak / 1e9, noun(*threads), probe::int8_dots_name(best));
        writeln!(out, "int8      {peak:.0} GMAC/s with {threads} {noun} ({by}): the measure of prompts")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What every tier needs and has.
fn tiers() -> Vec<Value> {
    let tier = |isa: Isa| {
        let (found, missing): (Vec<_>, Vec<_>) = isa.features().into_iter().partition(|(_, found)| *found);
        let names =
            |features: Vec<(&'static str, bool)>| features.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        json!({
            "isa": isa.to_string(), "available": isa.is_available(), "found": names(found), "missing": names(missing),
        })
    };
    Isa::ALL.into_iter().map(tier).collect()
}

/// What would multiply weights of each format.
fn kernels(isa: Isa) -> Vec<Value> {
    let family = |family: probe::Family| {
        json!({
            "formats": family.formats,
            "one_token": family.one_token,
            "many_tokens": family.many_tokens.map(|(tokens, name)| json!({ "from": tokens, "kernel": name })),
        })
    };
    probe::families(isa).into_iter().map(family).collect()
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
