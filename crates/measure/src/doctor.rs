//! What a machine is, which kernels would run on it, and how fast it reads and multiplies; as JSON for programs.

use serde_json::{Map, Value, json};
use sherry::Result;
use sherry::threads::{Threads, default_threads};
use sherry_kernels::{Isa, Pool, probe};

use crate::bench::{ReadProbe, limits, statistics};
use crate::machine;

/// Passes over the memory that is read.
const PASSES: usize = 5;

/// What so many threads can do at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Threads.
    pub threads: usize,
    /// Bytes read from memory per second: the limit of decoding.
    pub read: f64,
    /// int8 multiplications per second, in cache: the measure of prompts.
    pub int8: f64,
}

/// Measures the limits of one thread, and of as many as models run on by default. Takes a second or two.
///
/// # Errors
/// [`OutOfMemory`](sherry::Error::OutOfMemory): there is no room for what is read.
pub fn measure() -> Result<Vec<Limits>> {
    let isa = Isa::best();
    let memory = ReadProbe::new(ReadProbe::BYTES)?;
    let threads = default_threads().threads;
    let counts = [1].into_iter().chain((threads > 1).then_some(threads));
    let measured = counts.map(|threads| {
        let pool = Pool::new(threads);
        let rates: Vec<f64> = (0..PASSES).map(|_| memory.bytes_per_second(isa, &pool)).collect();
        Limits { threads, read: statistics::median(&rates), int8: limits::int8_peak(isa, &pool) }
    });
    Ok(measured.collect())
}

/// Everything together.
pub fn report(measured: &[Limits]) -> Value {
    let best = Isa::best();
    let Threads { threads, reason } = default_threads();
    let by_threads = |value: fn(&Limits) -> f64| {
        measured.iter().map(|limits| (limits.threads.to_string(), json!(value(limits)))).collect::<Map<_, _>>()
    };
    json!({
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
        "threads": { "default": threads, "reason": reason, "logical": machine::logical_cpus() },
        "memory": machine::memory().map(|(total, available)| json!({ "total": total, "available": available })),
        "streaming_read_bytes_per_second": by_threads(|limits| limits.read),
        "int8_macs_per_second": by_threads(|limits| limits.int8),
    })
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
pub fn features() -> Vec<&'static str> {
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
