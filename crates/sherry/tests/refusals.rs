//! Files and folders of ternary and binary models that hold what is not computed here, or what is known to be wrong: each is
//! refused by name, with the way out where there is one. What would be ignored would give wrong answers.

mod fixture;

use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};
use sherry::io::gguf::{GgufWriter, Value};
use sherry::io::{ReadMode, TensorSource};
use sherry::model::names::{Naming, Role};
use sherry::model::synthetic::{self, MemorySource};
use sherry::model::{ArchConfig, Checkpoint, Family, config_gguf, config_hf};
use sherry::{NoProgress, Result};
use sherry_kernels::Pool;
use sherry_kernels::format::TensorType::{self, *};
use sherry_kernels::format::i2_s::I2sWriter;

/// A model whose axes every block type can hold.
fn config(family: Family) -> ArchConfig {
    let mut config = synthetic::tiny(family);
    (config.hidden, config.ffn, config.head_dim) = (256, 512, 64);
    config.attn_scale = 0.125;
    config
}

/// What opening or loading says.
fn message(path: &Path) -> String {
    let loaded = Checkpoint::open(path, ReadMode::Read).and_then(|it| it.load(&Pool::new(1), &NoProgress).map(|_| it));
    match loaded {
        Ok(model) => panic!("{}: runs", model.describe()),
        Err(error) => error.to_string(),
    }
}

/// A refusal must name the file, and have every word.
fn check(case: &str, path: &Path, words: &[&str]) {
    let message = message(path);
    assert!(message.contains(path.to_str().unwrap()), "{case}: {message}");
    for word in words {
        assert!(message.contains(word), "{case}: {word:?} is not in {message:?}");
    }
    assert!(message.lines().count() == 1, "{case}: {message}");
}

// ---------------------------------------------------------------------------------------------------------- folders

/// What is changed in a sound folder.
type Change = fn(&mut Json, &mut MemorySource);

const Q: &str = "model.layers.0.self_attn.q_proj.weight";
const UP: &str = "model.layers.1.mlp.up_proj.weight";

fn norm(source: &mut MemorySource, name: &str) {
    source.insert_f32(name, &[256], &[1.0; 256]);
}

/// The linear layers as transformers packs those of a BitNet, all weights zero.
fn pack_all(source: &mut MemorySource, scale: f32) {
    for info in source.tensors().to_vec().iter().filter(|info| info.name.contains("_proj.weight")) {
        let rows = info.shape[0].div_ceil(4);
        let codes = vec![0b0101_0101; rows * info.shape[1]];
        source.insert(&info.name, U8, &[rows, info.shape[1]], codes.into());
        source.insert_f32(&format!("{}_scale", info.name), &[1], &[scale]);
    }
}

const BITNET: fn(&mut Json) =
    |json| json["quantization_config"] = json!({"quant_method": "bitnet", "linear_class": "bitlinear"});

#[test]
fn folders() {
    let cases: &[(&str, Family, Change, &[&str])] = &[
        // How weights are kept.
        (
            "another method",
            Family::Llama,
            |json, _| json["quantization_config"] = json!({"quant_method": "gptq"}),
            &["quant_method is 'gptq'", "'bitnet' can be read"],
        ),
        (
            "another method of a BitNet",
            Family::BitNet,
            |json, _| {
                json["quantization_config"] = json!({"quant_method": "awq", "linear_class": "autobitlinear"});
            },
            &["quant_method is 'awq'"],
        ),
        (
            "another linear class",
            Family::Llama,
            |json, _| {
                json["quantization_config"] = json!({"quant_method": "bitnet", "linear_class": "bitlinear158"});
            },
            &["quantization_config.linear_class", "bitlinear158", "known are"],
        ),
        (
            "another mode",
            Family::Llama,
            |json, _| {
                json["quantization_config"] = json!({"quant_method": "bitnet", "quantization_mode": "lazy"});
            },
            &["quantization_config.quantization_mode", "lazy"],
        ),
        (
            "layers that are not packed",
            Family::Llama,
            |json, _| {
                json["quantization_config"] = json!({"quant_method": "bitnet", "modules_to_not_convert": ["o_proj"]});
            },
            &["modules_to_not_convert", "o_proj"],
        ),
        (
            "latent weights called packed",
            Family::Llama,
            |json, _| BITNET(json),
            &[".weight'", "neither packed nor", "online"],
        ),
        (
            "a fourth code",
            Family::Llama,
            |json, source| {
                BITNET(json);
                pack_all(source, 20.0);
                source.insert(UP, U8, &[128, 256], vec![0b0101_0111; 128 * 256].into());
            },
            &[UP, "illegal code"],
        ),
        (
            "no scale",
            Family::Llama,
            |json, source| {
                BITNET(json);
                pack_all(source, 20.0);
                source.remove(&format!("{Q}_scale"));
            },
            &["q_proj.weight_scale", "missing"],
        ),
        (
            "a scale of zero, to divide by",
            Family::Llama,
            |json, source| {
                BITNET(json);
                pack_all(source, 0.0);
            },
            &[".weight_scale'", "0 is not the scale"],
        ),
        (
            "a negative scale",
            Family::Llama,
            |json, source| {
                BITNET(json);
                pack_all(source, -2.0);
            },
            &[".weight_scale'", "-2 is not the scale"],
        ),
        (
            "a scale that is no number",
            Family::Llama,
            |json, source| {
                BITNET(json);
                pack_all(source, f32::NAN);
            },
            &[".weight_scale'", "NaN is not the scale"],
        ),
        (
            "MLX with four bits",
            Family::Qwen3,
            |json, _| json["quantization"] = json!({"bits": 4, "group_size": 64}),
            &["quantization.bits", "4 bits", "take the GGUF file"],
        ),
        (
            "MLX of another mode",
            Family::Qwen3,
            |json, _| {
                json["quantization"] = json!({"bits": 2, "group_size": 128, "mode": "mxfp4"});
            },
            &["quantization.mode", "mxfp4"],
        ),
        (
            "a type that is no weight",
            Family::Llama,
            |_, source| {
                source.insert(UP, I32, &[512, 256], vec![0; 512 * 256 * 4].into());
            },
            &[UP, "expected floating-point weights"],
        ),
        // Tensors that are no part of the graph.
        (
            "norms before single layers",
            Family::Qwen3,
            |_, source| {
                norm(source, "model.layers.0.self_attn.q_proj.norm.weight");
            },
            &["q_proj.norm.weight", "no such tensor"],
        ),
        (
            "the same without a configuration that says so",
            Family::Qwen3,
            |_, source| {
                norm(source, "model.layers.0.mlp.up_proj.rms_norm.weight");
            },
            &["up_proj.rms_norm.weight", "no such tensor"],
        ),
        (
            "a configuration that says so, without them",
            Family::Llama,
            |json, source| {
                json["quantization_config"] = json!({"quant_method": "bitnet", "use_rms_norm": true});
                pack_all(source, 20.0);
            },
            &["rms_norm.weight'", "missing"],
        ),
        (
            "sub-norms in another family",
            Family::Llama,
            |_, source| {
                norm(source, "model.layers.1.self_attn.attn_sub_norm.weight");
            },
            &["layers.1.self_attn.attn_sub_norm.weight", "no such tensor"],
        ),
        (
            "the first BitNet's sub-norms in another family",
            Family::Llama,
            |_, source| {
                norm(source, "model.layers.1.self_attn.inner_attn_ln.weight");
            },
            &["inner_attn_ln.weight", "no such tensor"],
        ),
        (
            "a BitNet without its sub-norms",
            Family::BitNet,
            |_, source| {
                source.remove("model.layers.1.mlp.ffn_sub_norm.weight");
            },
            &["ffn_sub_norm.weight", "missing"],
        ),
        (
            "experts",
            Family::Qwen3,
            |_, source| {
                norm(source, "model.layers.0.mlp.experts.3.up_proj.weight");
            },
            &["experts.3.up_proj.weight", "no such tensor"],
        ),
        (
            "recurrent layers",
            Family::Qwen3,
            |_, source| norm(source, "model.layers.0.linear_attn.A_log"),
            &["linear_attn.A_log", "no such tensor"],
        ),
        (
            "a gate of the attention",
            Family::Qwen3,
            |_, source| {
                norm(source, "model.layers.0.self_attn.g_proj.weight");
            },
            &["self_attn.g_proj.weight", "no such tensor"],
        ),
        (
            "a bias that nobody announced",
            Family::Qwen3,
            |_, source| norm(source, "model.layers.0.self_attn.q_proj.bias"),
            &["q_proj.bias", "no such tensor"],
        ),
        (
            "a bias of the feed-forward part",
            Family::Llama,
            |_, source| norm(source, "model.layers.0.mlp.down_proj.bias"),
            &["down_proj.bias", "no such tensor"],
        ),
        (
            "a layer too many",
            Family::Llama,
            |_, source| norm(source, "model.layers.2.input_layernorm.weight"),
            &["layers.2.input_layernorm.weight", "only 2 layers"],
        ),
        (
            "a norm of the embedding",
            Family::Llama,
            |_, source| norm(source, "model.embed_tokens.norm.weight"),
            &["embed_tokens.norm.weight", "no such tensor"],
        ),
        // Fields that change numbers.
        (
            "another class",
            Family::Qwen3,
            |json, _| json["architectures"] = json!(["Qwen3_5ForCausalLM"]),
            &["Qwen3_5ForCausalLM", "hybrid", "1.7B, 4B and 8B", "known are"],
        ),
        (
            "a mixture of experts",
            Family::Llama,
            |json, _| json["architectures"] = json!(["MapleForCausalLM"]),
            &["MapleForCausalLM", "mixture of experts"],
        ),
        (
            "another activation of a BitNet",
            Family::BitNet,
            |json, _| json["hidden_act"] = json!("gelu"),
            &["hidden_act", "gelu", "relu2"],
        ),
        (
            "squared ReLU of another family",
            Family::Llama,
            |json, _| json["hidden_act"] = json!("relu2"),
            &["hidden_act", "relu2"],
        ),
        (
            "coarser activations",
            Family::BitNet,
            |json, _| json["input_bits"] = json!(4),
            &["'input_bits'", "4", "only 8"],
        ),
        ("wider weights", Family::BitNet, |json, _| json["weight_bits"] = json!(2), &["'weight_bits'", "2", "only 1"]),
        (
            "sparse attention",
            Family::MiniCpm,
            |json, _| {
                json["sparse_config"] = json!({"kernel_size": 32, "topk": 64, "dense_len": 8192});
            },
            &["'sparse_config'", "topk"],
        ),
        ("a head that is scaled", Family::Llama, |json, _| json["logit_scale"] = json!(0.5), &["'logit_scale'", "0.5"]),
        (
            "a part of the head that turns",
            Family::Qwen3,
            |json, _| json["partial_rotary_factor"] = json!(0.25),
            &["'partial_rotary_factor'", "0.25"],
        ),
        (
            "YaRN cut otherwise",
            Family::Qwen3,
            |json, _| {
                json["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0, "truncate": false,
                "original_max_position_embeddings": 64});
            },
            &["truncate", "false"],
        ),
        (
            "an unknown scaling",
            Family::Qwen3,
            |json, _| {
                json["rope_scaling"] = json!({"rope_type": "proportional", "factor": 4.0});
            },
            &["rope_scaling", "proportional", "known are"],
        ),
    ];
    let mut names = std::collections::HashSet::new();
    for (case, family, change, words) in cases {
        assert!(names.insert(case));
        let config = ArchConfig { input_norms: None, ..config(*family) };
        let (mut json, mut source) =
            (config_hf::write(&config).unwrap(), synthetic::source(&config, Naming::HuggingFace, 1));
        change(&mut json, &mut source);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
        source.save(&folder.path().join("model.safetensors")).unwrap();
        check(case, folder.path(), words);
    }
}

// ------------------------------------------------------------------------------------------------------- GGUF files

/// What is changed in a sound GGUF file.
type GgufChange = fn(&mut Vec<(String, Value)>, &mut MemorySource);

const DOWN: &str = "blk.1.ffn_down.weight";

fn put(entries: &mut Vec<(String, Value)>, key: &str, value: Value) {
    entries.retain(|(known, _)| known != key);
    entries.push((key.to_owned(), value));
}

fn rename(entries: &mut [(String, Value)], from: &str, to: &str) {
    entries.iter_mut().for_each(|(key, _)| *key = key.replace(&format!("{from}."), &format!("{to}.")));
    entries[0].1 = Value::String(to.to_owned());
}

/// `name` as I2_S: every byte of its codes is `codes`.
fn i2_s(source: &mut MemorySource, name: &str, codes: u8, scale: f32) {
    let shape = source.find(name).unwrap().shape.clone();
    let mut bytes = Vec::new();
    I2sWriter::default().finish(scale, &mut bytes);
    let tail = bytes.split_off(bytes.len() - 32);
    let bytes = [vec![codes; shape.iter().product::<usize>() / 4], tail].concat();
    source.insert(name, I2_S, &shape, bytes.into());
}

/// `name` in blocks of `ty` whose bytes are `bytes`, repeated.
fn blocks(source: &mut MemorySource, name: &str, ty: TensorType, bytes: &[u8]) {
    let shape = source.find(name).unwrap().shape.clone();
    let count = shape.iter().product::<usize>() / ty.block_len();
    source.insert(name, ty, &shape, bytes.repeat(count).into());
}

fn block(ty: TensorType, scale: u16) -> Vec<u8> {
    // The scale stands first, but in PTQ1_0, TQ1_0 and TQ2_0, where it is last.
    let codes = vec![0b0101_0101; ty.block_bytes() - 2];
    match ty {
        PTQ1_0 | TQ1_0 | TQ2_0 => [codes, scale.to_le_bytes().to_vec()].concat(),
        _ => [scale.to_le_bytes().to_vec(), codes].concat(),
    }
}

const INFINITE: u16 = 0x7C00;
const NAN: u16 = 0x7E00;

#[test]
fn gguf_files() {
    let cases: &[(&str, Family, GgufChange, &[&str])] = &[
        // Architectures.
        (
            "hybrids",
            Family::Qwen3,
            |entries, _| rename(entries, "qwen3", "qwen35"),
            &["architecture 'qwen35'", "hybrid", "1.7B, 4B and 8B run here"],
        ),
        (
            "mixtures of experts",
            Family::Llama,
            |entries, _| rename(entries, "llama", "maple"),
            &["architecture 'maple'", "mixture of experts"],
        ),
        (
            "rotated weights",
            Family::Qwen3,
            |entries, _| put(entries, "prism.hadamard.version", Value::U32(1)),
            &["prism.hadamard.version", "rotated", "take the file without rotation"],
        ),
        (
            "a BitNet that does not say its activation",
            Family::BitNet,
            |entries, _| {
                entries.retain(|(key, _)| key != "bitnet.hidden_activation");
            },
            &["'bitnet.hidden_activation'", "missing"],
        ),
        (
            "a BitNet of another activation",
            Family::BitNet,
            |entries, _| {
                put(entries, "bitnet.hidden_activation", Value::String("gelu".to_owned()));
            },
            &["'bitnet.hidden_activation'", "relu2, silu"],
        ),
        // Tensors that are no part of the graph.
        (
            "norms before single layers, some of them",
            Family::Qwen3,
            |_, source| norm(source, "blk.0.attn_q_norm_in.weight"),
            &["_norm_in.weight", "missing"],
        ),
        (
            "sub-norms in another family",
            Family::Llama,
            |_, source| norm(source, "blk.1.attn_sub_norm.weight"),
            &["blk.1.attn_sub_norm.weight", "no such tensor"],
        ),
        (
            "a BitNet without its sub-norms",
            Family::BitNet,
            |_, source| source.remove("blk.1.ffn_sub_norm.weight"),
            &["blk.1.ffn_sub_norm.weight", "missing"],
        ),
        (
            "scales outside of the blocks, mainline's",
            Family::Llama,
            |_, source| {
                source.insert_f32("blk.0.attn_q.scale", &[1], &[0.02]);
            },
            &["blk.0.attn_q.scale", "no such tensor"],
        ),
        (
            "scales outside of the blocks, those of TL files",
            Family::BitNet,
            |_, source| {
                source.insert_f32("blk.0.attn_q.weight_scale", &[1], &[0.02]);
            },
            &["blk.0.attn_q.weight_scale", "no such tensor"],
        ),
        (
            "recurrent layers",
            Family::Qwen3,
            |_, source| norm(source, "blk.0.ssm_a"),
            &["blk.0.ssm_a", "no such tensor"],
        ),
        (
            "fused projections",
            Family::Qwen3,
            |_, source| norm(source, "blk.0.attn_qkv.weight"),
            &["blk.0.attn_qkv.weight", "no such tensor"],
        ),
        (
            "gates of the attention",
            Family::Qwen3,
            |_, source| norm(source, "blk.0.attn_gate.weight"),
            &["blk.0.attn_gate.weight", "no such tensor"],
        ),
        (
            "experts",
            Family::Llama,
            |_, source| norm(source, "blk.0.ffn_gate_exps.weight"),
            &["blk.0.ffn_gate_exps.weight", "no such tensor"],
        ),
        (
            "a router",
            Family::Llama,
            |_, source| norm(source, "blk.0.ffn_gate_inp.weight"),
            &["blk.0.ffn_gate_inp.weight", "no such tensor"],
        ),
        (
            "a norm of the embedding",
            Family::Llama,
            |_, source| norm(source, "token_embd_norm.weight"),
            &["token_embd_norm.weight", "no such tensor"],
        ),
        // Keys that change numbers.
        (
            "a key that nobody knows",
            Family::Qwen3,
            |entries, _| put(entries, "qwen3.attention.hadamard", Value::U32(64)),
            &["'qwen3.attention.hadamard'", "not known"],
        ),
        (
            "YaRN that is blended otherwise",
            Family::Qwen3,
            |entries, _| {
                put(entries, "qwen3.rope.scaling.yarn_ext_factor", Value::F32(0.0));
            },
            &["yarn_ext_factor", "only 1"],
        ),
        (
            "YaRN with a logarithm of its own",
            Family::Qwen3,
            |entries, _| {
                put(entries, "qwen3.rope.scaling.yarn_log_multiplier", Value::F32(0.1));
            },
            &["yarn_log_multiplier", "0.1"],
        ),
        (
            "an unknown scaling",
            Family::Qwen3,
            |entries, _| {
                put(entries, "qwen3.rope.scaling.type", Value::String("su".to_owned()));
            },
            &["rope.scaling.type", "'su'", "known are"],
        ),
        (
            "a part of the head that turns",
            Family::Qwen3,
            |entries, _| {
                put(entries, "qwen3.rope.dimension_count", Value::U32(16));
            },
            &["rope.dimension_count", "16"],
        ),
        (
            "capped logits",
            Family::Llama,
            |entries, _| put(entries, "llama.final_logit_softcapping", Value::F32(30.0)),
            &["final_logit_softcapping", "30"],
        ),
        (
            "scaled logits",
            Family::Llama,
            |entries, _| put(entries, "llama.logit_scale", Value::F32(0.1)),
            &["logit_scale", "0.1"],
        ),
        (
            "a MiniCPM without its factors",
            Family::MiniCpm,
            |entries, _| {
                entries.retain(|(key, _)| key != "minicpm.residual_scale");
            },
            &["'minicpm.residual_scale'", "missing"],
        ),
        (
            "keys of one expert more",
            Family::Qwen3,
            |entries, _| put(entries, "qwen3.expert_count", Value::U32(8)),
            &["expert_count", "8"],
        ),
        // Illegal contents.
        (
            "I2_S with a fourth code",
            Family::BitNet,
            |_, source| i2_s(source, DOWN, 0b0101_0111, 0.02),
            &[DOWN, "illegal code"],
        ),
        (
            "I2_S with a scale that is no number",
            Family::BitNet,
            |_, source| i2_s(source, DOWN, 0b0101_0101, f32::NAN),
            &[DOWN, "not finite"],
        ),
        (
            "TQ1_0 with an infinite scale",
            Family::Llama,
            |_, source| blocks(source, DOWN, TQ1_0, &block(TQ1_0, INFINITE)),
            &[DOWN, "not finite"],
        ),
        (
            "TQ2_0 with a scale that is no number",
            Family::Llama,
            |_, source| {
                blocks(source, DOWN, TQ2_0, &block(TQ2_0, NAN));
            },
            &[DOWN, "not finite"],
        ),
        (
            "Q1_0 with a scale that is no number",
            Family::Qwen3,
            |_, source| blocks(source, DOWN, Q1_0, &block(Q1_0, NAN)),
            &[DOWN, "not finite"],
        ),
        (
            "Q2_0 with an infinite scale",
            Family::Qwen3,
            |_, source| blocks(source, DOWN, Q2_0, &block(Q2_0, INFINITE)),
            &[DOWN, "not finite"],
        ),
        (
            "PQ2_0 with a scale that is no number",
            Family::Qwen3,
            |_, source| {
                blocks(source, DOWN, PQ2_0, &block(PQ2_0, NAN));
            },
            &[DOWN, "not finite"],
        ),
        (
            "PTQ1_0 with an infinite scale",
            Family::Qwen3,
            |_, source| {
                blocks(source, DOWN, PTQ1_0, &block(PTQ1_0, INFINITE));
            },
            &[DOWN, "not finite"],
        ),
        ("floats of a BitNet that are not ternary", Family::BitNet, |_, _| {}, &[".weight'", "neither packed nor"]),
    ];
    let mut names = std::collections::HashSet::new();
    for (case, family, change, words) in cases {
        assert!(names.insert(case));
        let config = config(*family);
        let (mut entries, mut source) = (config_gguf::write(&config), synthetic::source(&config, Naming::Gguf, 1));
        if *family == Family::BitNet && !case.starts_with("floats") {
            for role in Role::all(&config).filter(|role| role.is_linear()) {
                i2_s(&mut source, &role.name(*family, Naming::Gguf).unwrap(), 0b0101_0101, 0.02);
            }
        }
        change(&mut entries, &mut source);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        write(&path, entries, &source).unwrap();
        check(case, &path, words);
    }
}

fn write(path: &Path, entries: Vec<(String, Value)>, source: &MemorySource) -> Result<()> {
    let mut writer = GgufWriter::create(path, entries, source.tensors().to_vec(), Default::default())?;
    for info in source.tensors() {
        writer.write(&info.name, &source.data(&info.name)?)?;
    }
    writer.finish()
}

/// What the cases above change is sound before.
#[test]
fn sound_models_run() {
    for family in Family::ALL {
        let config = ArchConfig { input_norms: None, ..config(family) };
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), config_hf::write(&config).unwrap().to_string()).unwrap();
        synthetic::source(&config, Naming::HuggingFace, 1).save(&folder.path().join("model.safetensors")).unwrap();
        let folder = Checkpoint::open(folder.path(), ReadMode::Read).unwrap();
        folder.load(&Pool::new(1), &NoProgress).unwrap();
        let mut source = synthetic::source(&config, Naming::Gguf, 1);
        for role in Role::all(&config).filter(|role| role.is_linear() && family == Family::BitNet) {
            i2_s(&mut source, &role.name(family, Naming::Gguf).unwrap(), 0b0101_0101, 0.02);
        }
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("model.gguf");
        write(&path, config_gguf::write(&config), &source).unwrap();
        let file = Checkpoint::open(&path, ReadMode::Read).unwrap();
        file.load(&Pool::new(1), &NoProgress).unwrap();
        for ty in [TQ1_0, TQ2_0, Q1_0, Q2_0, PQ2_0, PTQ1_0].into_iter().filter(|_| family == Family::Qwen3) {
            blocks(&mut source, DOWN, ty, &block(ty, 0x2800));
            let path = place.path().join(format!("{ty}.gguf"));
            write(&path, config_gguf::write(&config), &source).unwrap();
            Checkpoint::open(&path, ReadMode::Read).unwrap().load(&Pool::new(1), &NoProgress).unwrap();
        }
    }
}
