//! `sherry doctor`: what this machine is, which kernels would run and why, how fast memory is.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use sherry_kernels::{Isa, probe};
use sherry_measure::bench::ReadProbe;
use sherry_measure::doctor::{self, Limits};
use sherry_measure::machine;

use super::Context;
use crate::output::{Stdout, bytes};
use sherry::threads::{Threads, default_threads};

/// Show processor features, chosen kernels, threads, memory, and the limits of memory and processor
#[derive(Args)]
#[command(after_help = "Examples:\n  sherry doctor\n  sherry doctor --json")]
pub struct DoctorArgs {}

pub fn run(_: &DoctorArgs, context: &Context) -> Result<ExitCode> {
    let best = Isa::best();
    let Threads { threads, reason } = default_threads();
    let memory = machine::memory();
    let measured = doctor::measure()?;
    let mut out = Stdout::lock();
    if context.json {
        out.json(&doctor::report(&measured))?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "sherry    {} ({}, {})", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH)?;
    writeln!(out, "cpu       {}", machine::cpu_name())?;
    writeln!(out, "features  {}", doctor::features().join(" "))?;
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
    for Limits { threads, read, .. } in &measured {
        let (rate, size) = (read / 1e9, bytes(ReadProbe::BYTES as u64));
        let noun = noun(*threads);
        writeln!(out, "read      {rate:.1} GB/s with {threads} {noun} (streaming {size}): the limit of decoding")?;
    }
    for Limits { threads, int8, .. } in &measured {
        let (peak, noun, by) = (int8 / 1e9, noun(*threads), probe::int8_dots_name(best));
        writeln!(out, "int8      {peak:.0} GMAC/s with {threads} {noun} ({by}): the measure of prompts")?;
    }
    Ok(ExitCode::SUCCESS)
}
