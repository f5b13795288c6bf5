//! Checkpoints of every container, whole and damaged.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use sherry_kernels::format::i2_s::I2sWriter;
use sherry_kernels::format::{QuadOrder, ScaleGroup, TensorType, TernaryFormat, ggml, random};
use sherry_kernels::{Engine, Isa, Pool, Precision};

use super::names::{Naming, Part, Role};
use super::synthetic::{self, MemorySource, tiny};
use super::*;
use crate::io::gguf::{GgufFile, GgufWriter, StqId};
use crate::io::native::PackedScheme;
use crate::io::{ReadMode, TensorSource};
use crate::{Error, NoProgress, Result};

/// Writes an HF folder of `config` (with `change` applied to its JSON) and the tensors of `source`.
fn folder(config: &ArchConfig, source: &MemorySource, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut json = config_hf::write(config).unwrap();
    change(&mut json);
    fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
    source.save(&folder.path().join("model.safetensors")).unwrap();
    folder
}

fn open(path: &Path) -> Result<Checkpoint> {
    Checkpoint::open(path, ReadMode::Map)
}

/// The message of opening or loading; it must name the file or folder.
fn refusal(folder: &Path) -> String {
    let result = open(folder).and_then(|checkpoint| checkpoint.load(&Pool::new(1), &NoProgress));
    let message = result.map(|_| ()).unwrap_err().to_string();
    assert!(message.contains(&folder.display().to_string()), "{message}");
    message
}

fn logits(model: Model, tokens: &[u32], precision: Precision) -> Vec<f32> {
    let mut cache = KvCache::new(&model.config, tokens.len(), KvType::F32).unwrap();
    let mut decoder = Decoder::new(Arc::new(model), Engine::new(Isa::best(), 1, precision));
    decoder.forward_one(&mut cache, tokens, Wanted::Last).unwrap().last().unwrap().to_vec()
}

#[test]
fn a_dense_folder_opens_describes_itself_and_loads() {
    let config = tiny(Family::Llama);
    let source = synthetic::source(&config, Naming::HuggingFace, 1);
    let dir = folder(&config, &source, |json| json["eos_token_id"] = json!([2, 7]));
    fs::write(dir.path().join("generation_config.json"), r#"{"temperature": 0.6, "eos_token_id": null}"#).unwrap();
    let checkpoint = open(dir.path()).unwrap();
    assert_eq!(checkpoint.config(), &config);
    assert_eq!(checkpoint.describe(), "HF folder, LLaMA, 2 layers, 21.0 k parameters, F32, untied embeddings");
    assert_eq!(checkpoint.generation().eos_token_ids, [2, 7]);
    assert_eq!(checkpoint.generation().temperature, Some(0.6));
    assert!(!checkpoint.is_packed());
    let estimate = checkpoint.estimate(64, 3, KvType::F16);
    assert_eq!(estimate.weights, config.parameters() * 4);
    // Whole pages; keys of 8 components, values filled up to 16.
    assert_eq!(estimate.kv_cache, (3 * 2 * 2 * PAGE * (8 + 16) * 2) as u64);
    let model = checkpoint.load(&Pool::new(1), &NoProgress).unwrap();
    assert_eq!(logits(model, &[1, 2, 3], Precision::F32).len(), 61);
}

#[test]
fn memory_that_is_not_there_is_refused_before_loading() {
    let config = tiny(Family::Llama);
    let dir = folder(&config, &synthetic::source(&config, Naming::HuggingFace, 1), |_| {});
    let checkpoint = open(dir.path()).unwrap();
    assert!(checkpoint.estimate(64, 1, KvType::F16).check(1 << 30).is_ok());
    let error = checkpoint.estimate(usize::MAX / 4, 1, KvType::F16).check(1 << 30).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { needed, .. } if needed > 1 << 40), "{error}");
    assert!(error.to_string().contains("1.00 GiB are available"), "{error}");
    assert_eq!(checkpoint.estimate(usize::MAX, usize::MAX, KvType::F32).total(), u64::MAX);
}

/// A safetensors file with zeros of any type, as other programs write it.
fn write_raw(path: &Path, tensors: &[(&str, &str, usize, &[usize])]) {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, dtype, width, shape) in tensors {
        let end = at + width * shape.iter().product::<usize>();
        header.insert((*name).to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + at, 0);
    fs::write(path, bytes).unwrap();
}

#[test]
fn tensors_of_types_that_are_not_read_are_named_with_their_type() {
    let config = tiny(Family::Llama);
    let shapes: Vec<(String, Vec<usize>)> = Role::all(&config)
        .map(|role| (role.name(Family::Llama, Naming::HuggingFace).unwrap(), role.shape(&config)))
        .collect();
    let types =
        [("F64", 8), ("I8", 1), ("I32", 4), ("I64", 8), ("U16", 2), ("BOOL", 1), ("F8_E4M3", 1), ("F8_E5M2", 1)];
    for (dtype, width) in types {
        for (place, (name, _)) in shapes.iter().enumerate() {
            let dir = folder(&config, &synthetic::source(&config, Naming::HuggingFace, 1), |_| {});
            let tensors = shapes.iter().enumerate().map(|(i, (name, shape))| match i == place {
                true => (name.as_str(), dtype, width, shape.as_slice()),
                false => (name.as_str(), "F32", 4, shape.as_slice()),
            });
            write_raw(&dir.path().join("model.safetensors"), &tensors.collect::<Vec<_>>());
            let message = refusal(dir.path());
            assert!(message.contains(&format!("tensor '{name}': ")) && message.contains(dtype), "{message}");
        }
    }
    // Outside of the text model anything may stand, and so may tables that only repeat the configuration.
    let mut tensors: Vec<_> = shapes.iter().map(|(name, shape)| (name.as_str(), "F32", 4, shape.as_slice())).collect();
    tensors.push(("vision_tower.layers.0.weight", "F64", 8, &[4, 4]));
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq", "F64", 8, &[4]));
    let dir = folder(&config, &synthetic::source(&config, Naming::HuggingFace, 1), |_| {});
    write_raw(&dir.path().join("model.safetensors"), &tensors);
    open(dir.path()).unwrap();
}

#[test]
fn tensors_that_a_family_does_not_have_are_named() {
    for family in [Family::Llama, Family::Qwen3, Family::HunyuanDense, Family::Gemma3] {
        let config = tiny(family);
        let good = || synthetic::source(&config, Naming::HuggingFace, 1);
        let unknown = [
            "model.layers.0.self_attn.q_proj.lora_A.weight",
            "model.layers.1.self_attn.sinks",
            "model.layers.0.mlp.experts.0.up_proj.weight",
            "model.layers.0.mlp.gate_proj.bias",
            "model.layers.0.input_layernorm.bias",
            "model.layers.0.self_attn.attn_sub_norm.weight",
            "model.layers.0.self_attn.q_proj.weight_scale",
            "model.layers.0.self_attn.q_proj.qzeros",
            "model.norm.bias",
            "lm_head.bias",
        ];
        for name in unknown {
            let mut source = good();
            source.insert_f32(name, &[4], &[0.5; 4]);
            let message = refusal(folder(&config, &source, |_| {}).path());
            assert!(message.contains(&format!("tensor '{name}'")), "{family:?}: {message}");
        }
        let harmless = [
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "vision_tower.encoder.layers.0.self_attn.q_proj.weight",
            "multi_modal_projector.mm_soft_emb_norm.weight",
        ];
        let mut source = good();
        harmless.into_iter().for_each(|name| source.insert_f32(name, &[4], &[0.5; 4]));
        open(folder(&config, &source, |_| {}).path()).unwrap();
    }
}

#[test]
fn tensors_that_contradict_the_configuration_are_named() {
    let config = tiny(Family::Llama);
    let good = || synthetic::source(&config, Naming::HuggingFace, 1);
    let gate = "model.layers.1.mlp.gate_proj.weight";

    let mut source = good();
    source.remove(gate);
    let message = refusal(folder(&config, &source, |_| {}).path());
    assert!(message.contains(&format!("tensor '{gate}': missing")), "{message}");

    let mut source = good();
    source.insert_f32(gate, &[32, 56], &[0.0; 32 * 56]);
    let message = refusal(folder(&config, &source, |_| {}).path());
    assert!(message.contains(gate) && message.contains("[56, 32]") && message.contains("[32, 56]"), "{message}");

    let mut source = good();
    source.remove("lm_head.weight");
    let message = refusal(folder(&config, &source, |_| {}).path());
    assert!(message.contains("'lm_head.weight'") && message.contains("not tied"), "{message}");

    // A head beside a tied embedding: refused when it differs, harmless when it is the same.
    let tied = |json: &mut Value| json["tie_word_embeddings"] = json!(true);
    let message = refusal(folder(&config, &good(), tied).path());
    assert!(message.contains("'lm_head.weight'") && message.contains("tie_word_embeddings"), "{message}");
    let mut source = good();
    let embed = source.data("model.embed_tokens.weight").unwrap();
    source.insert("lm_head.weight", TensorType::F32, &[61, 32], embed);
    open(folder(&config, &source, tied).path()).unwrap().load(&Pool::new(1), &NoProgress).unwrap();

    let mut source = good();
    source.insert_f32("model.layers.0.self_attn.q_proj.bias", &[32], &[0.0; 32]);
    let message = refusal(folder(&config, &source, |_| {}).path());
    assert!(message.contains("q_proj.bias"), "{message}");

    let message = refusal(folder(&config, &good(), |json| json["num_hidden_layers"] = json!(1)).path());
    assert!(message.contains("'model.layers.1.") && message.contains("only 1 layers"), "{message}");

    let mut source = good();
    source.insert("model.norm.weight", TensorType::I32, &[32], vec![0; 128].into());
    let message = refusal(folder(&config, &source, |_| {}).path());
    assert!(message.contains("'model.norm.weight'") && message.contains("I32"), "{message}");

    let mut source = good();
    source.insert_f32("model.norm.weight", &[32], &[f32::NAN; 32]);
    let message = refusal(folder(&config, &source, |_| {}).path());
    assert!(message.contains("'model.norm.weight'") && message.contains("NaN"), "{message}");

    let mut source = good();
    source.insert_f32("language_model.model.norm.weight", &[32], &[1.0; 32]);
    let message = refusal(folder(&config, &source, |_| {}).path());
    assert!(message.contains("there twice"), "{message}");
}

#[test]
fn paths_that_are_no_models_say_what_to_give() {
    let config = tiny(Family::Llama);
    let dir = folder(&config, &synthetic::source(&config, Naming::HuggingFace, 1), |_| {});
    assert!(refusal(&dir.path().join("model.safetensors")).contains("give the folder"));
    assert!(refusal(&dir.path().join("config.json")).contains("give the folder"));
    assert!(matches!(open(&dir.path().join("none.gguf")).unwrap_err(), Error::Io { .. }));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(refusal(dir.path()).contains("config.json"));
}

/// A LLaMA wide enough for blocks of 256.
fn wide() -> ArchConfig {
    let mut config = tiny(Family::Llama);
    (config.hidden, config.ffn, config.head_dim, config.attn_scale) = (256, 512, 64, 0.125);
    config.layers = 1;
    config
}

/// STQ1_0 blocks of every linear layer of `source`.
fn blocks(config: &ArchConfig, source: &MemorySource, naming: Naming) -> Vec<(Role, String, Vec<u8>)> {
    let linears = Role::all(config).filter(|role| role.is_linear());
    linears
        .map(|role| {
            let name = role.name(config.family, naming).unwrap();
            let bytes = source.data(&name).unwrap();
            let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let mut blocks = vec![0; values.len() / 256 * 42];
            ggml::quantize(TensorType::STQ1_0, &values, &mut blocks).unwrap();
            (role, name, blocks)
        })
        .collect()
}

#[test]
fn packed_weights_run_alike_from_gguf_and_from_a_native_folder() {
    let mut config = wide();
    config.rope.layout = RopeLayout::Interleaved;
    let dense = synthetic::source(&config, Naming::Gguf, 4);
    let mut packed = synthetic::source(&config, Naming::Gguf, 4);
    let mut rounded = synthetic::source(&config, Naming::Gguf, 4);
    let mut native = synthetic::source(&config, Naming::HuggingFace, 4);
    for (role, name, blocks) in blocks(&config, &dense, Naming::Gguf) {
        let shape = role.shape(&config);
        let mut values = vec![0.0; shape.iter().product()];
        ggml::dequantize(TensorType::STQ1_0, &blocks, &mut values);
        rounded.insert_f32(&name, &shape, &values);
        let rows = sherry_kernels::format::stq1_0::to_packed(shape[0], shape[1], &blocks).unwrap();
        packed.insert(&name, TensorType::STQ1_0, &shape, blocks.into());
        let hf = role.name(config.family, Naming::HuggingFace).unwrap();
        let module = hf.strip_suffix(".weight").unwrap();
        native.remove(&hf);
        let [codes, scales] = crate::io::native::plan(module, crate::io::native::codes_name(module), &rows.layout);
        native.insert(&codes.name, codes.ty, &codes.shape, rows.codes.into());
        let bytes: Vec<u8> = rows.scales.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        native.insert(&scales.name, scales.ty, &scales.shape, bytes.into());
    }
    let tokens = [1, 5, 9, 60];
    let gguf = |source: &MemorySource| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let metadata = config_gguf::write(&config);
        let mut writer = GgufWriter::create(&path, metadata, source.tensors().to_vec(), StqId::Id43).unwrap();
        for info in source.tensors() {
            writer.write(&info.name, &source.data(&info.name).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        assert!(GgufFile::open(&path, ReadMode::Map).is_ok());
        let checkpoint = open(&path).unwrap();
        (checkpoint.is_packed(), checkpoint.load(&Pool::new(1), &NoProgress).unwrap())
    };
    let (is_packed, packed) = gguf(&packed);
    assert!(is_packed);
    let (_, rounded) = gguf(&rounded);
    let from_gguf = logits(packed, &tokens, Precision::F32);
    let expected = logits(rounded, &tokens, Precision::F32);
    for (found, expected) in from_gguf.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-3, "{found} instead of {expected}");
    }

    // The folder's Q and K rows are in the other order, so compare under the same rotation.
    config.rope.layout = RopeLayout::Halves;
    let scheme =
        PackedScheme { format: TernaryFormat::Sherry, order: QuadOrder::Stride16, scale: ScaleGroup::Group(256) };
    let dir = folder(&config, &native, |json| json["quantization_config"] = scheme.to_json());
    let checkpoint = open(dir.path()).unwrap();
    assert!(checkpoint.is_packed());
    assert!(checkpoint.describe().contains("sherry-1.25"), "{}", checkpoint.describe());
    let mut model = checkpoint.load(&Pool::new(1), &NoProgress).unwrap();
    model.config.rope.layout = RopeLayout::Interleaved;
    assert!(logits(model, &tokens, Precision::F32) == from_gguf);
}

#[test]
fn damaged_packed_tensors_are_named() {
    let config = wide();
    let scheme = PackedScheme { format: TernaryFormat::Sherry, order: QuadOrder::Contiguous, scale: ScaleGroup::Row };
    let down = "model.layers.0.mlp.down_proj";
    let up = Role::Layer(0, Part::Up).name(config.family, Naming::HuggingFace).unwrap();
    let case = |change: &dyn Fn(&mut MemorySource)| {
        let mut source = synthetic::source(&config, Naming::HuggingFace, 4);
        source.remove(&format!("{down}.weight"));
        source.insert(&format!("{down}.codes"), TensorType::U8, &[256, 80], vec![0; 256 * 80].into());
        source.insert(&format!("{down}.scales"), TensorType::F16, &[256, 1], vec![0; 512].into());
        change(&mut source);
        let dir = folder(&config, &source, |json| json["quantization_config"] = scheme.to_json());
        open(dir.path())
            .and_then(|checkpoint| checkpoint.load(&Pool::new(1), &NoProgress))
            .map_err(|error| error.to_string())
    };
    assert!(case(&|_| {}).is_ok(), "dense and packed layers may be mixed");
    let refused = |part: &str, change: &dyn Fn(&mut MemorySource)| {
        let message = case(change).unwrap_err();
        assert!(message.contains(down) && message.contains(part), "{message}");
    };
    refused("missing", &|s| s.remove(&format!("{down}.scales")));
    refused("missing", &|s| s.remove(&format!("{down}.codes")));
    refused("[256, 80]", &|s| {
        s.insert(&format!("{down}.codes"), TensorType::U8, &[256, 75], vec![0; 256 * 75].into());
    });
    refused("F16", &|s| s.insert_f32(&format!("{down}.scales"), &[256, 1], &[0.0; 256]));
    refused("not finite", &|s| {
        s.insert(&format!("{down}.scales"), TensorType::F16, &[256, 1], [0, 0x7c].repeat(256).into());
    });
    refused("there twice", &|s| s.insert_f32(&format!("{down}.weight"), &[256, 512], &[0.0; 256 * 512]));
    assert!(case(&|s| s.remove(&up)).unwrap_err().contains(&up));
}

#[test]
fn ternary_types_of_gguf_run_as_what_they_hold() {
    use TensorType::{I2_S, PQ2_0, PTQ1_0, Q1_0, Q2_0, TQ1_0, TQ2_0};
    let mut config = wide();
    config.rope.layout = RopeLayout::Interleaved;
    let dense = synthetic::source(&config, Naming::Gguf, 4);
    for ty in [TQ1_0, TQ2_0, Q1_0, Q2_0, PQ2_0, PTQ1_0, I2_S] {
        let (mut packed, mut exact, mut rounded) = (dense.clone(), dense.clone(), dense.clone());
        for (seed, role) in Role::all(&config).filter(|role| role.is_linear()).enumerate() {
            let (name, shape) = (role.name(config.family, Naming::Gguf).unwrap(), role.shape(&config));
            let count = shape.iter().product();
            let mut values = vec![0.0; count];
            let bytes = if ty == I2_S {
                let ternary: Vec<i8> = (0..count).map(|i| ((i * 7 + i / 5 + seed) % 3) as i8 - 1).collect();
                let (mut writer, mut bytes, scale) = (I2sWriter::default(), Vec::new(), 0.031_234_567);
                writer.push(&ternary, &mut bytes);
                writer.finish(scale, &mut bytes);
                values.iter_mut().zip(&ternary).for_each(|(value, t)| *value = f32::from(*t) * scale);
                bytes
            } else {
                let bytes = random::blocks(ty, count, 0.03, seed as u64);
                ggml::dequantize(ty, &bytes, &mut values);
                bytes
            };
            exact.insert_f32(&name, &shape, &values);
            // One weight that differs in its last bit, and a matrix is no longer ternary.
            let last = values.iter_mut().rfind(|value| **value != 0.0).unwrap();
            *last = f32::from_bits(last.to_bits() ^ 1);
            rounded.insert_f32(&name, &shape, &values);
            packed.insert(&name, ty, &shape, bytes.into());
        }
        let run = |source: &MemorySource| {
            let tensors = TensorMap::new(source, &config, Naming::Gguf, None).unwrap();
            let weights = Weights::load(source, &tensors, &config, &Pool::new(2), &NoProgress).unwrap();
            let bytes = weights.layers.iter().map(|layer| layer.down.bytes()).sum::<usize>();
            (logits(Model { config: config.clone(), weights }, &[1, 5, 9, 60], Precision::F32), bytes)
        };
        let ((found, bytes), (expected, dense_bytes)) = (run(&packed), run(&rounded));
        assert!(bytes * 12 < dense_bytes, "{ty} runs from {bytes} bytes, floats are {dense_bytes}");
        // Floats that hold the same are found to.
        assert!(run(&exact) == (found.clone(), bytes), "{ty} in floats runs otherwise");
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-3, "{ty}: {found} instead of {expected}");
        }
    }
}

/// A BitNet wide enough that packed rows do not end evenly, and its weights.
fn bitnet() -> (ArchConfig, MemorySource) {
    let mut config = tiny(Family::BitNet);
    (config.hidden, config.ffn, config.head_dim, config.attn_scale) = (64, 104, 16, 0.25);
    let source = synthetic::source(&config, Naming::HuggingFace, 9);
    (config, source)
}

/// What transformers makes of a latent matrix: codes, and the mean magnitude.
fn projected(source: &MemorySource, name: &str) -> (Vec<i8>, f32) {
    let bytes = source.data(name).unwrap();
    let weights: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mean = weights.iter().map(|w| f64::from(w.abs())).sum::<f64>() / weights.len() as f64;
    let inverse = 1.0 / (mean as f32);
    (weights.iter().map(|w| (w * inverse).round_ties_even().clamp(-1.0, 1.0) as i8).collect(), mean as f32)
}

#[test]
fn bitnet_folders_of_every_kind_and_i2_s_are_one_model() {
    let (config, latent) = bitnet();
    let tokens = [1, 5, 9, 60, 2];
    let run = |path: &Path| {
        let model = open(path).unwrap().load(&Pool::new(2), &NoProgress).unwrap();
        let expected = reference::logits(&model, &tokens);
        (logits(model, &tokens, Precision::F32), expected.last().unwrap().clone())
    };
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let scheme = |class: &'static str, mode: &'static str| {
        move |json: &mut Value| {
            json["quantization_config"] =
                json!({"quant_method": "bitnet", "linear_class": class, "quantization_mode": mode})
        }
    };
    let online = folder(&config, &latent, scheme("autobitlinear", "online"));
    let (expected, oracle) = run(online.path());
    for (found, oracle) in expected.iter().zip(&oracle) {
        assert!((f64::from(*found) - oracle).abs() < 1e-3, "{found} instead of {oracle}");
    }
    // A model of this class that says nothing was trained so.
    assert_eq!(bits(&run(folder(&config, &latent, |_| {}).path()).0), bits(&expected));

    let (mut multiply, mut floats, mut gguf) =
        (latent.clone(), latent.clone(), synthetic::source(&config, Naming::Gguf, 9));
    let mut divide = latent.clone();
    for role in Role::all(&config).filter(|role| role.is_linear()) {
        let [rows, cols] = role.shape(&config)[..] else { panic!("a matrix") };
        let name = role.name(config.family, Naming::HuggingFace).unwrap();
        let (codes, scale) = projected(&latent, &name);
        let stored = rows.div_ceil(4);
        let mut bytes = vec![0b0101_0101u8; stored * cols];
        for (at, code) in codes.iter().enumerate() {
            let (row, column) = (at / cols, at % cols);
            let byte = &mut bytes[row % stored * cols + column];
            let shift = row / stored * 2;
            *byte = *byte & !(3 << shift) | ((code + 1) as u8) << shift;
        }
        for (source, scale) in [(&mut multiply, scale), (&mut divide, 1.0 / scale)] {
            source.insert(&name, TensorType::U8, &[stored, cols], bytes.clone().into());
            source.insert_f32(&format!("{name}_scale"), &[1], &[scale]);
        }
        let values: Vec<f32> = codes.iter().map(|code| f32::from(*code) * scale).collect();
        floats.insert_f32(&name, &[rows, cols], &values);
        let (mut writer, mut blocks) = (I2sWriter::default(), Vec::new());
        writer.push(&codes, &mut blocks);
        writer.finish(scale, &mut blocks);
        gguf.insert(&role.name(config.family, Naming::Gguf).unwrap(), TensorType::I2_S, &[rows, cols], blocks.into());
    }
    for (source, class) in [(&multiply, "autobitlinear"), (&floats, "autobitlinear")] {
        assert_eq!(bits(&run(folder(&config, source, scheme(class, "offline")).path()).0), bits(&expected), "{class}");
    }
    // The inverse of a scale is rounded once more.
    let (found, _) = run(folder(&config, &divide, scheme("bitlinear", "offline")).path());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-4, "{found} instead of {expected}");
    }
    for arch in ["bitnet", "bitnet-b1.58", "bitnet-25"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let mut metadata = config_gguf::write(&config);
        metadata.iter_mut().for_each(|(key, _)| *key = key.replace("bitnet.", &format!("{arch}.")));
        metadata[0].1 = crate::io::gguf::Value::String(arch.to_owned());
        let mut writer = GgufWriter::create(&path, metadata, gguf.tensors().to_vec(), StqId::Id43).unwrap();
        gguf.tensors().iter().for_each(|info| writer.write(&info.name, &gguf.data(&info.name).unwrap()).unwrap());
        writer.finish().unwrap();
        assert_eq!(bits(&run(&path).0), bits(&expected), "{arch}");
    }
}

#[test]
fn bitnet_weights_that_are_not_what_the_folder_says_are_refused() {
    let (config, latent) = bitnet();
    let offline = |json: &mut Value| {
        json["quantization_config"] = json!({"quant_method": "bitnet", "linear_class": "autobitlinear"})
    };
    let gate = "model.layers.1.mlp.gate_proj.weight";
    let message = refusal(folder(&config, &latent, offline).path());
    assert!(message.contains("neither packed nor") && message.contains("online"), "{message}");
    let packed = |codes: u8, scale: Option<&[f32]>, shape: &[usize]| {
        let mut source = latent.clone();
        for role in Role::all(&config).filter(|role| role.is_linear()) {
            let [rows, cols] = role.shape(&config)[..] else { panic!("a matrix") };
            let name = role.name(config.family, Naming::HuggingFace).unwrap();
            source.insert(
                &name,
                TensorType::U8,
                &[rows.div_ceil(4), cols],
                vec![0b0101_0101; rows.div_ceil(4) * cols].into(),
            );
            source.insert_f32(&format!("{name}_scale"), &[1], &[0.5]);
        }
        source.insert(gate, TensorType::U8, shape, vec![codes; shape.iter().product()].into());
        source.remove(&format!("{gate}_scale"));
        if let Some(scale) = scale {
            source.insert_f32(&format!("{gate}_scale"), &[scale.len()], scale);
        }
        refusal(folder(&config, &source, offline).path())
    };
    for (codes, scale, shape, part) in [
        (0b0101_0111, Some(&[0.5][..]), &[26, 64][..], "illegal code"),
        (0b0101_0101, None, &[26, 64], "missing, the scale"),
        (0b0101_0101, Some(&[0.5, 0.5]), &[26, 64], "one floating-point number"),
        (0b0101_0101, Some(&[0.0]), &[26, 64], "0 is not the scale"),
        (0b0101_0101, Some(&[-1.0]), &[26, 64], "-1 is not the scale"),
        (0b0101_0101, Some(&[f32::NAN]), &[26, 64], "NaN is not the scale"),
        (0b0101_0101, Some(&[0.5]), &[104, 64], "expected shape [26, 64]"),
    ] {
        let message = packed(codes, scale, shape);
        assert!(message.contains(gate) && message.contains(part), "{part}: {message}");
    }
}

/// `source` with its matrices as MLX keeps binary or ternary weights, and the same weights as plain floats.
fn as_mlx(config: &ArchConfig, source: &MemorySource, bits: usize) -> (MemorySource, MemorySource) {
    const GROUP: usize = 128;
    let (mut mlx, mut plain) = (source.clone(), source.clone());
    for role in Role::all(config).filter(|role| role.is_linear() || role.is_embedding()) {
        let name = role.name(config.family, Naming::HuggingFace).unwrap();
        let Ok(bytes) = source.data(&name) else { continue };
        let [rows, cols] = role.shape(config)[..] else { panic!("a matrix") };
        let weights: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let (mut words, mut scales, mut biases) = (vec![0u32; rows * cols * bits / 32], vec![], vec![]);
        let mut values = Vec::new();
        for (g, group) in weights.chunks(GROUP).enumerate() {
            // Exact in f16, and another one in every group.
            let d = (1 + g % 7) as f32 / 64.0;
            scales.push(if bits == 1 { 2.0 * d } else { d });
            biases.push(-d);
            for (i, w) in group.iter().enumerate() {
                let value =
                    if bits == 1 { f32::from(*w >= 0.0) * 2.0 - 1.0 } else { (w * 20.0).round().clamp(-1.0, 1.0) };
                let code = if bits == 1 { u32::from(value > 0.0) } else { (value + 1.0) as u32 };
                let at = (g * GROUP + i) * bits;
                words[at / 32] |= code << (at % 32);
                values.push(value * d);
            }
        }
        plain.insert_f32(&name, &[rows, cols], &values);
        let module = name.strip_suffix(".weight").unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        mlx.insert(&name, TensorType::U32, &[rows, cols * bits / 32], bytes.into());
        mlx.insert_f32(&format!("{module}.scales"), &[rows, cols / GROUP], &scales);
        mlx.insert_f32(&format!("{module}.biases"), &[rows, cols / GROUP], &biases);
    }
    (mlx, plain)
}

#[test]
fn folders_of_mlx_with_one_and_two_bits_run_exactly() {
    let config = wide();
    let source = synthetic::source(&config, Naming::HuggingFace, 6);
    for bits in [1, 2] {
        let (mlx, plain) = as_mlx(&config, &source, bits);
        let quantization = json!({"bits": bits, "group_size": 128});
        let mlx_dir = folder(&config, &mlx, |json| {
            json["quantization"] = quantization.clone();
            json["quantization_config"] = quantization.clone();
        });
        let checkpoint = open(mlx_dir.path()).unwrap();
        assert!(checkpoint.describe().contains(&format!("MLX {bits}-bit")), "{}", checkpoint.describe());
        let found = logits(checkpoint.load(&Pool::new(2), &NoProgress).unwrap(), &[1, 7, 20], Precision::F32);
        let plain_dir = folder(&config, &plain, |_| {});
        let model = open(plain_dir.path()).unwrap().load(&Pool::new(2), &NoProgress).unwrap();
        let expected = logits(model, &[1, 7, 20], Precision::F32);
        let largest = expected.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5 * largest, "{bits}: {found} instead of {expected}");
        }

        // One bias that is no multiple of its scale; a scale that is missing; a width that is not that of the tensors.
        let name = "model.layers.0.mlp.up_proj";
        let refused = |change: &dyn Fn(&mut MemorySource), bits: usize, part: &str| {
            let mut source = mlx.clone();
            change(&mut source);
            let dir = folder(&config, &source, |json| json["quantization"] = json!({"bits": bits, "group_size": 128}));
            let message = refusal(dir.path());
            assert!(message.contains(part), "{message}");
        };
        let biases = |source: &mut MemorySource| {
            let shape = source.find(&format!("{name}.biases")).unwrap().shape.clone();
            source.insert_f32(&format!("{name}.biases"), &shape, &vec![-0.3; shape.iter().product()]);
        };
        refused(&biases, bits, "take the GGUF file");
        refused(&|source| source.remove(&format!("{name}.scales")), bits, "up_proj.scales");
        refused(&|_| {}, 3 - bits, "expected shape");
        refused(&|_| {}, 4, "quantization.bits");
    }
}

#[test]
fn bitnet_speaks_by_the_template_it_was_trained_with() {
    let messages = [crate::chat::Message::new("user", " Hi ")];
    let right = "User: Hi<|eot_id|>Assistant: ";
    let wrong = "{% for m in messages %}Human: {{ m.content }}\n\nBITNETAssistant: {{ eos_token }}{% endfor %}";
    let own = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
    let own_json: Value = serde_json::from_str(&crate::Llm::tiny().unwrap().tokenizer().to_json().unwrap()).unwrap();
    let control = ["<|start_header_id|>", "<|eot_id|>"];
    for (family, llama3, template, expected) in [
        (Family::BitNet, true, Some(wrong), Some(right)),
        (Family::Llama, true, Some(wrong), Some(right)),
        (Family::BitNet, true, None, Some(right)),
        (Family::BitNet, true, Some(own), Some("[ Hi ]")),
        (Family::BitNet, false, None, None),
        (Family::Llama, true, None, None),
    ] {
        let config = ArchConfig { vocab: 261, ..tiny(family) };
        let dir = folder(&config, &synthetic::source(&config, Naming::HuggingFace, 1), |_| {});
        let mut json = own_json.clone();
        // The control tokens of ChatML give way to those of LLaMA 3, or to none.
        let added = |(at, text): (usize, &&str)| {
            json!({"id": 259 + at, "content": text, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
        };
        json["added_tokens"] = control.iter().enumerate().filter(|_| llama3).map(added).collect();
        fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        fs::write(dir.path().join("tokenizer_config.json"), json!({"chat_template": template}).to_string()).unwrap();
        let tokenizer = open(dir.path()).unwrap().tokenizer().unwrap();
        let found = tokenizer.chat_template().map(|template| {
            crate::chat::ChatTemplate::new(template, None, None).unwrap().render(&messages, true).unwrap().text
        });
        assert_eq!(found.as_deref(), expected, "{family:?} {template:?}");
    }
}
