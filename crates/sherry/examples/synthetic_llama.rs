//! Writes a checkpoint with the shapes of LLaMA-3.2-1B, or of another model, and random bf16 weights: for measuring speed and
//! memory without anybody's weights. The tokenizer file makes it runnable.
//!
//!     cargo run --release -p sherry --example synthetic_llama -- OUT [VOCAB [TIKTOKEN_FILE [SHAPE]]]
#![allow(clippy::print_stdout)] // a program

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

use sherry::io::{TensorInfo, safetensors};
use sherry::model::names::{Naming, Role};
use sherry::model::{ArchConfig, config_hf, synthetic};
use sherry::tokenizer::Tokenizer;
use sherry_kernels::format::TensorType;
use sherry_kernels::format::half::f32_to_bf16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let out = args.next().ok_or("usage: synthetic_llama OUT [VOCAB [TIKTOKEN_FILE [SHAPE]]]")?;
    let vocab = args.next().map_or(Ok(128_256), |n| n.parse())?;
    let out = Path::new(&out);
    fs::create_dir_all(out)?;
    let ranks = args.next();
    let shape = args.next().unwrap_or_else(|| "llama-3.2-1b".to_owned());
    let config = ArchConfig { vocab, ..synthetic::shape(&shape).ok_or("an unknown shape")? };
    let json = config_hf::write(&config).ok_or("no config.json for this configuration")?;
    fs::write(out.join("config.json"), serde_json::to_string_pretty(&json)?)?;
    if let Some(ranks) = ranks {
        let control: Vec<String> = (0..256).map(|i| format!("<|reserved_special_token_{i}|>")).collect();
        // As many ranks as the vocabulary has room for; a rank's parts come before it.
        let ranks = fs::read_to_string(ranks)?;
        let count = vocab.checked_sub(control.len()).filter(|n| *n >= 256).ok_or("the vocabulary needs 512 tokens")?;
        let ranks: Vec<&str> = ranks.lines().take(count).collect();
        if ranks.len() < count {
            return Err("the file has fewer ranks than the vocabulary needs".into());
        }
        let tokenizer = Tokenizer::from_tiktoken(ranks.join("\n").as_bytes(), "llama-bpe", &control)?;
        fs::write(out.join("tokenizer.json"), tokenizer.to_json()?)?;
    }

    let ty = TensorType::BF16;
    let plan: Vec<(Role, TensorInfo)> = Role::all(&config)
        .map(|role| {
            let name = role.name(config.family, Naming::HuggingFace).unwrap_or_default();
            let shape = role.shape(&config);
            let bytes = shape.iter().product::<usize>() * 2;
            (role, TensorInfo { name, ty, shape, bytes })
        })
        .collect();
    let infos: Vec<TensorInfo> = plan.iter().map(|(_, info)| info.clone()).collect();
    let mut writer = safetensors::Writer::create(&out.join("model.safetensors"), &infos, &BTreeMap::new())?;
    let mut state = 1u64;
    for (role, info) in &plan {
        // Sums of four uniform numbers are close enough to a bell curve.
        let spread = (info.shape.last().copied().unwrap_or(1) as f32).sqrt().recip();
        let mut left = info.bytes / 2;
        while left > 0 {
            let count = left.min(1 << 20);
            let mut bytes = Vec::with_capacity(2 * count);
            for _ in 0..count {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let sum: i32 = state.to_be_bytes()[..4].iter().map(|b| i32::from(*b) - 128).sum();
                let value = if role.is_norm() { 1.0 } else { sum as f32 / 148.0 * spread };
                bytes.extend_from_slice(&f32_to_bf16(value).to_le_bytes());
            }
            writer.write(&info.name, &bytes)?;
            left -= count;
        }
    }
    writer.finish()?;
    println!("{}", out.display());
    Ok(())
}
