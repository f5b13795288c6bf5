//! Single kernels beside the limits of memory and processor.

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::json;
use sherry_kernels::format::TensorType;
use sherry_kernels::{Isa, probe};
use sherry_measure::bench::kernels::{self, Options, Timings};
use sherry_measure::bench::{PAPER_FORMATS, ReadProbe, WeightFormat};

use super::output::{self, Record};
use super::{BenchArgs, MAX_TOKENS, distinct, one_and_all, usable_memory};
use crate::commands::Context;
use crate::output::{Align, Table, bytes};

/// More than the last-level caches of most machines.
const COLD_BYTES: usize = 256 << 20;
const SHAPES: [(usize, usize); 3] = [(2048, 2048), (8192, 2048), (2048, 8192)];
/// Those a head may have, beside those of the speed table.
const HEADS: [WeightFormat; 3] = [
    WeightFormat::Plain(TensorType::F16),
    WeightFormat::Plain(TensorType::Q6_K),
    WeightFormat::Plain(TensorType::Q4_K),
];

pub fn run(args: &BenchArgs, context: &Context) -> Result<ExitCode> {
    let formats: Vec<WeightFormat> = PAPER_FORMATS.iter().map(|method| method.format).chain(HEADS).collect();
    let counts = |asked: &[usize], default: &[usize]| -> Result<Vec<usize>> {
        let counts: Vec<usize> = distinct(asked, default).into_iter().filter(|&n| n > 0).collect();
        match counts.iter().find(|&&n| n > MAX_TOKENS) {
            Some(n) => bail!("{n} tokens: at most {MAX_TOKENS}"),
            None => Ok(counts),
        }
    };
    let mut setups = Vec::new();
    for isa in args.isas()? {
        setups.extend(args.thread_counts(&one_and_all()).into_iter().map(|threads| (isa, threads)));
    }
    let options = Options {
        formats: distinct(&args.types, &formats),
        shapes: distinct(&args.shapes, &SHAPES),
        setups,
        tokens: counts(&args.n_prompt, &[8, 64, 512])?,
        contexts: counts(&args.n_depth, &[128, 1024, 4096])?,
        kv: args.kv_types(),
        repetitions: args.repetitions,
        cold_bytes: COLD_BYTES,
    };
    let needed = memory_needed(&options)?;
    if let Some(available) = usable_memory().filter(|&available| needed > available) {
        bail!("this takes {} of memory, {} can be had: ask for smaller shapes", bytes(needed), bytes(available));
    }
    let read = ReadProbe::new(ReadProbe::BYTES)?;
    let timings = kernels::run(&options, &read, &context.console)?;
    output::write(args.form(context), &records(&timings), || markdown(&timings))?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes of the largest case; refuses formats that cannot have one of the shapes.
fn memory_needed(options: &Options) -> Result<u64> {
    let tokens = options.tokens.iter().copied().max().unwrap_or(1) as u64;
    let mut most = 0u64;
    for &(rows, cols) in &options.shapes {
        for format in &options.formats {
            // One matrix more than the caches hold, twice while it is repacked; activations, and int8 copies of them.
            let weights = (options.cold_bytes + 3 * format.bytes(rows, cols)?) as u64;
            most = most.max(weights.saturating_add(tokens.saturating_mul(8 * (rows + cols) as u64)));
        }
    }
    Ok(most.saturating_add(ReadProbe::BYTES as u64))
}

fn shape((rows, cols): (usize, usize)) -> String {
    format!("{rows}x{cols}")
}

fn markdown(timings: &Timings) -> String {
    let mut text = String::from("One token (GB/s: packed weights with their scales, from memory)\n\n");
    let mut table = Table::new(&[
        ("format", Align::Left),
        ("shape", Align::Left),
        ("isa", Align::Left),
        ("threads", Align::Right),
        ("hot us", Align::Right),
        ("hot Gw/s", Align::Right),
        ("cold us", Align::Right),
        ("cold Gw/s", Align::Right),
        ("GB/s", Align::Right),
        ("of read limit", Align::Right),
    ]);
    for t in &timings.one_token {
        table.row([
            t.format.to_string(),
            shape(t.shape),
            t.setup.0.to_string(),
            t.setup.1.to_string(),
            format!("{:.1}", t.hot * 1e6),
            format!("{:.1}", t.hot_weights() / 1e9),
            format!("{:.1}", t.cold * 1e6),
            format!("{:.1}", t.cold_weights() / 1e9),
            format!("{:.2}", t.cold_rate() / 1e9),
            format!("{:.0} % of {:.1}", 100.0 * t.cold_rate() / t.read_limit, t.read_limit / 1e9),
        ]);
    }
    text += &table.to_string();
    if !timings.batches.is_empty() {
        text += "\nMany tokens (peak: int8 dot products on registers alone, measured)\n\n";
        let mut table = Table::new(&[
            ("format", Align::Left),
            ("shape", Align::Left),
            ("isa", Align::Left),
            ("threads", Align::Right),
            ("tokens", Align::Right),
            ("us", Align::Right),
            ("GMAC/s", Align::Right),
            ("of int8 peak", Align::Right),
        ]);
        for t in &timings.batches {
            table.row([
                t.format.to_string(),
                shape(t.shape),
                t.setup.0.to_string(),
                t.setup.1.to_string(),
                t.tokens.to_string(),
                format!("{:.1}", t.seconds * 1e6),
                format!("{:.0}", t.rate() / 1e9),
                format!("{:.0} % of {:.0}", 100.0 * t.rate() / t.int8_peak, t.int8_peak / 1e9),
            ]);
        }
        text += &table.to_string();
    }
    if !timings.attention.is_empty() {
        text += "\nAttention of one token in one layer, 32 heads of 64 on 8 kv heads\n\n";
        let mut table = Table::new(&[
            ("context", Align::Right),
            ("kv", Align::Left),
            ("isa", Align::Left),
            ("threads", Align::Right),
            ("us", Align::Right),
            ("GB/s of keys and values", Align::Right),
        ]);
        for t in &timings.attention {
            table.row([
                t.context.to_string(),
                output::kv_name(t.kv),
                t.setup.0.to_string(),
                t.setup.1.to_string(),
                format!("{:.1}", t.seconds * 1e6),
                format!("{:.1}", t.bytes as f64 / t.seconds / 1e9),
            ]);
        }
        text += &table.to_string();
    }
    text += "\nThe rest of a token\n\n";
    let mut table = Table::new(&[
        ("kernel", Align::Left),
        ("values", Align::Right),
        ("isa", Align::Left),
        ("threads", Align::Right),
        ("us", Align::Right),
    ]);
    for t in &timings.others {
        table.row([
            t.name.to_owned(),
            t.values.to_string(),
            t.setup.0.to_string(),
            t.setup.1.to_string(),
            format!("{:.3}", t.seconds * 1e6),
        ]);
    }
    format!("{text}{table}\nint8 peak by {}\n{}\n", instructions(timings), output::footer())
}

/// What the int8 peaks were measured with.
fn instructions(timings: &Timings) -> String {
    let isas: Vec<Isa> = timings.others.iter().map(|t| t.setup.0).collect();
    let names: Vec<String> =
        distinct(&isas, &[]).into_iter().map(|isa| format!("{isa}: {}", probe::int8_dots_name(isa))).collect();
    names.join("; ")
}

fn records(timings: &Timings) -> Vec<Record> {
    let record = |kind: &str, setup: (Isa, usize), value: serde_json::Value| {
        let mut record = output::machine_record();
        record.insert("kind".to_owned(), json!(kind));
        record.insert("isa".to_owned(), json!(setup.0.to_string()));
        record.insert("n_threads".to_owned(), json!(setup.1));
        record.extend(output::object(value));
        record
    };
    let one_token = timings.one_token.iter().map(|t| {
        record(
            "one_token",
            t.setup,
            json!({
                "format": t.format.to_string(), "rows": t.shape.0, "cols": t.shape.1, "bytes": t.bytes,
                "hot_seconds": t.hot, "cold_seconds": t.cold, "hot_weights_per_second": t.hot_weights(),
                "cold_weights_per_second": t.cold_weights(), "cold_bytes_per_second": t.cold_rate(),
                "read_limit_bytes_per_second": t.read_limit, "read_limit_share": t.cold_rate() / t.read_limit,
            }),
        )
    });
    let batches = timings.batches.iter().map(|t| {
        record(
            "batch",
            t.setup,
            json!({
                "format": t.format.to_string(), "rows": t.shape.0, "cols": t.shape.1, "tokens": t.tokens,
                "seconds": t.seconds, "macs_per_second": t.rate(), "int8_peak_macs_per_second": t.int8_peak,
                "int8_peak_share": t.rate() / t.int8_peak, "int8_peak_by": probe::int8_dots_name(t.setup.0),
            }),
        )
    });
    let attention = timings.attention.iter().map(|t| {
        record(
            "attention",
            t.setup,
            json!({
                "context": t.context, "type_kv": output::kv_name(t.kv), "bytes": t.bytes, "seconds": t.seconds,
                "bytes_per_second": t.bytes as f64 / t.seconds,
            }),
        )
    });
    let others = timings
        .others
        .iter()
        .map(|t| record("other", t.setup, json!({ "name": t.name, "values": t.values, "seconds": t.seconds })));
    one_token.chain(batches).chain(attention).chain(others).collect()
}
