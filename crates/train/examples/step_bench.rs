//! Tokens per second and memory of training steps, beside the speed of plain matrix products on the same machine.
//!
//! `cargo run --release -p sherry-train --example step_bench -- [hidden layers heads kv_heads ffn vocab seq batch]`
//! Default: 256 6 8 8 768 4096 256 16. `steps=N`, `method=NAME` and `recompute` may follow. See `torch_bench.py` for
//! PyTorch's side. `-- table` measures every method at three sizes, each in a process of its own, and prints a table.

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use sherry::NoProgress;
use sherry::model::{Activation, ArchConfig, Family, Rope, RopeLayout, RopeScaling};
use sherry_kernels::format::QuadOrder;
use sherry_measure::machine;
use sherry_sgemm::{Mat, MatMut, Old, matmul};
use sherry_train::adamw::{AdamW, Moments};
use sherry_train::layout::Learn;
use sherry_train::linear::Pass;
use sherry_train::loss::Mix;
use sherry_train::methods::{Method, Quantizer, Scale};
use sherry_train::network::{Examples, Input, Network};
use sherry_train::rng::Rng;
use sherry_train::simd::sum_of_squares;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut shape, mut steps, mut recompute, mut method) = (vec![], 6, false, Method::Sherry);
    for arg in std::env::args().skip(1) {
        match arg.split_once('=') {
            Some(("steps", count)) => steps = count.parse()?,
            Some(("method", name)) => method = serde_json::from_value(name.into())?,
            _ if arg == "recompute" => recompute = true,
            _ if arg == "table" => return table(),
            _ => shape.push(arg.parse::<usize>()?),
        }
    }
    if shape.is_empty() {
        shape = vec![256, 6, 8, 8, 768, 4096, 256, 16];
    }
    let [hidden, layers, heads, kv_heads, ffn, vocab, length, batch] = shape[..] else {
        return Err("expected 8 numbers: hidden layers heads kv_heads ffn vocab seq batch".into());
    };
    let head_dim = hidden / heads;
    let arch = ArchConfig {
        family: Family::Llama,
        vocab,
        hidden,
        ffn,
        layers,
        heads,
        kv_heads,
        head_dim,
        context: length,
        norm_eps: 1e-5,
        norm_plus_one: false,
        post_norms: false,
        sub_norms: false,
        input_norms: None,
        qk_norm: None,
        qkv_bias: false,
        o_bias: false,
        rope: Rope { theta: 1e4, local_theta: None, scaling: RopeScaling::None, layout: RopeLayout::Halves },
        activation: Activation::Silu,
        embed_scale: 1.0,
        residual_scale: 1.0,
        logit_divisor: 1.0,
        attn_scale: 1.0 / (head_dim as f32).sqrt(),
        window: None,
        window_pattern: 0,
        tied: false,
        int8_per_token: false,
    };
    let quantizer = Quantizer { method, scale: Scale::Row, group_size: 0, quads: QuadOrder::Contiguous, tequila: 1e-3 };
    let mut out = std::io::stdout().lock();
    let threads = rayon_threads();
    let limit = sgemm_limit(batch * length, hidden, ffn);
    let network = Network::new(arch, quantizer);
    let len = network.layout.len;
    let mut params = network.layout.init(&network.quantizer, 1, &NoProgress)?;
    let (mut grads, mut moments) = (vec![0.0f32; len], Moments::new(len));
    let mut space = network.workspace(batch, length, recompute);
    let adam = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, clip: 1.0 };
    let mut rng = Rng::new(1, 2);
    let tokens: Vec<u32> = (0..batch * length).map(|_| rng.below(vocab) as u32).collect();
    let mut targets = tokens.clone();
    targets.rotate_left(1);

    // Matrix products of one step: six floating-point operations per weight and token, twelve per pair of positions
    // and component of the attention (half of them masked).
    let linear: usize = network.layout.blocks.iter().flat_map(|block| block.linears).map(|m| m.count()).sum();
    let flops = (batch * length) as f64 * (6.0 * (linear + vocab * hidden) as f64)
        + (batch * layers * heads * head_dim) as f64 * 12.0 * (length * length) as f64 / 2.0;
    writeln!(out, "{len} parameters, {:.1} GFLOP per step, {threads} threads, sgemm {limit:.0} GFLOP/s", flops / 1e9)?;
    let (mut best, mut best_work) = (f64::INFINITY, f64::INFINITY);
    for step in 1..=steps {
        let (start, work) = (Instant::now(), machine::processor_seconds().unwrap_or(f64::NAN));
        grads.fill(0.0);
        let scale = 1.0 / tokens.len() as f32;
        let mix = Mix::CROSS_ENTROPY;
        let pass = Pass { params: &params, lambda: 0.1, progress: &NoProgress };
        let examples = Examples { input: Input::Tokens(&tokens), targets: &targets, teacher: None, mix: &mix, scale };
        let sums = network.train(pass, examples, Learn::Everything, &mut grads, &mut space, None)?;
        let backward = start.elapsed().as_secs_f64();
        let norm = sum_of_squares(&grads).sqrt();
        adam.step(&network.layout.tensors, &mut params, &grads, &mut moments, step, 1e-3, norm);
        let seconds = start.elapsed().as_secs_f64();
        best = best.min(seconds);
        best_work = best_work.min(machine::processor_seconds().unwrap_or(f64::NAN) - work);
        let loss = sums.cross_entropy / sums.tokens as f64;
        let rate = tokens.len() as f64 / seconds;
        writeln!(
            out,
            "step {step}: loss {loss:.4}, {rate:.0} tokens/s, optimizer {:.1} ms",
            (seconds - backward) * 1e3
        )?;
    }
    let rate = tokens.len() as f64 / best;
    let share = flops / best / 1e9 / limit;
    writeln!(
        out,
        "best {rate:.0} tokens/s, {:.0} per second of a core, {:.0} % of the sgemm limit, peak RSS {}",
        tokens.len() as f64 / best_work,
        share * 100.0,
        peak_rss()
    )?;
    Ok(())
}

/// Every method at three sizes.
fn table() -> Result<(), Box<dyn Error>> {
    let sizes = [
        ("0.9 M, 16 x 256", "128 4 4 4 384 257 256 16", 6),
        ("7 M, 16 x 256", "256 6 8 8 768 4096 256 16", 6),
        ("135 M, 4 x 256", "576 30 9 3 1536 49152 256 4", 3),
    ];
    let mut out = std::io::stdout().lock();
    let heads: String =
        sizes.iter().map(|(name, ..)| format!(" {name}: tokens per core and second | memory, GB |")).collect();
    writeln!(out, "| method |{heads}\n|---|{}", "---:|---:|".repeat(sizes.len()))?;
    for method in ["none", "sherry", "absmean", "absmedian", "twn", "binary", "lsq", "seq", "dlt", "tequila"] {
        write!(out, "| {method} |")?;
        for (_, shape, steps) in sizes {
            // A process of its own: the peak of memory is that of this method alone.
            let mut command = std::process::Command::new(std::env::current_exe()?);
            command.args(shape.split(' ')).args([format!("steps={steps}"), format!("method={method}")]);
            let said = String::from_utf8(command.output()?.stdout)?;
            let best = said.lines().last().and_then(|line| line.strip_prefix("best ")).ok_or("no result")?;
            // Time of the processor: what else the machine does hardly counts.
            let rate = best.split(' ').nth(2).unwrap_or_default();
            let kilobytes = best.rsplit("RSS ").next().and_then(|peak| peak.split(' ').next()?.parse::<f64>().ok());
            write!(out, " {rate} | {:.2} |", kilobytes.unwrap_or(f64::NAN) * 1024.0 / 1e9)?;
            out.flush()?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn rayon_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Best speed of the two shapes of product that dominate a step, GFLOP/s.
fn sgemm_limit(tokens: usize, hidden: usize, ffn: usize) -> f64 {
    let (x, w) = (vec![0.5f32; tokens * hidden], vec![0.5f32; 2 * ffn * hidden]);
    let mut y = vec![0.0f32; tokens * 2 * ffn];
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        let start = Instant::now();
        let (x, w) = (Mat::new(&x, tokens, hidden, hidden), Mat::new(&w, 2 * ffn, hidden, hidden));
        matmul(MatMut::new(&mut y, tokens, 2 * ffn, 2 * ffn), Old::Replace, 1.0, x, w.t(), rayon_threads());
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * (tokens * hidden * 2 * ffn) as f64 / best / 1e9
}

fn peak_rss() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.map_or_else(|| "unknown".to_owned(), |peak| peak.trim().to_owned())
}
