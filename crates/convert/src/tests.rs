//! Whole conversions on tiny models: what must be exact is compared bit for bit, logits to float rounding.

use std::fs;
use std::path::{Path, PathBuf};

use sherry_kernels::format::{QuadOrder, ScaleGroup, TensorType, TernaryFormat, half};
use sherry_kernels::{Engine, Isa, Pool, Precision};
use std::sync::Arc;

use super::*;
use crate::quant::{Projection, QuantSpec};
use crate::recipe::{MatrixType, Recipe, matrices};
use sherry::NoProgress;
use sherry::io::native::PackedScheme;
use sherry::io::{ReadMode, TensorInfo, TensorSource, safetensors};
use sherry::model::names::{Naming, Part};
use sherry::model::{ArchConfig, Decoder, Family, KvCache, KvType, RopeScaling, Stored, Wanted, config_hf, synthetic};

/// A configuration whose every axis is a multiple of 256, so that GGUF blocks and the quad bridge apply.
fn wide(family: Family) -> ArchConfig {
    let mut config = synthetic::tiny(family);
    (config.hidden, config.ffn, config.head_dim) = (256, 512, 64);
    config.attn_scale = 0.125;
    config
}

/// Writes a dense checkpoint of type `ty` as a Hugging Face folder.
fn folder(root: &Path, config: &ArchConfig, ty: TensorType) -> PathBuf {
    let path = root.join("dense");
    fs::create_dir(&path).unwrap();
    let source = synthetic::source(config, Naming::HuggingFace, 7);
    let plan: Vec<TensorInfo> = source
        .tensors()
        .iter()
        .map(|info| TensorInfo { ty, bytes: info.bytes / 4 * ty.block_bytes(), ..info.clone() })
        .collect();
    let mut writer = safetensors::Writer::create(&path.join("model.safetensors"), &plan, &Default::default()).unwrap();
    for info in &plan {
        let bytes = source.data(&info.name).unwrap();
        let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let bytes: Vec<u8> = match ty {
            TensorType::BF16 => values.flat_map(|v| half::f32_to_bf16(v).to_le_bytes()).collect(),
            _ => values.flat_map(f32::to_le_bytes).collect(),
        };
        writer.write(&info.name, &bytes).unwrap();
    }
    writer.finish().unwrap();
    let json = config_hf::write(config).unwrap();
    fs::write(path.join("config.json"), json.to_string()).unwrap();
    path
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, ReadMode::Map).unwrap()
}

fn to(input: &Path, out: &Path, request: &Request) -> Result<Summary> {
    convert(&open(input), out, request, &NoProgress, |_| {})
}

fn packed(scale: ScaleGroup, order: QuadOrder) -> Request {
    let spec = QuantSpec { order, ..QuantSpec::sherry(scale) };
    Request { linears: Linears::Packed(spec), ..Request::keep() }
}

/// Logits of every position, f32 activations.
fn logits(path: &Path) -> Vec<f32> {
    let model = Arc::new(open(path).load(&Pool::new(1), &NoProgress).unwrap());
    let mut cache = KvCache::new(&model.config, 16, KvType::F32).unwrap();
    let mut decoder = Decoder::new(model, Engine::new(Isa::best(), 1, Precision::F32));
    let tokens = [3, 60, 12, 7, 7, 41, 0, 25, 33, 1];
    let logits = decoder.forward_one(&mut cache, &tokens, Wanted::All).unwrap();
    (0..logits.rows()).flat_map(|row| logits.row(row).to_vec()).collect()
}

/// Largest difference relative to the largest logit.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let largest = a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

/// Codes and scales of every linear.
fn codes(path: &Path) -> Vec<(Role, Vec<u8>, Vec<u8>)> {
    let checkpoint = open(path);
    let mut all: Vec<_> = Role::all(checkpoint.config()).filter(|role| role.is_linear()).collect();
    all.sort_by_key(|role| format!("{role:?}"));
    let source = checkpoint.source();
    all.into_iter()
        .map(|role| match checkpoint.tensors().get(role, source).unwrap() {
            Stored::Packed { codes, scales, .. } => {
                (role, source.data(codes).unwrap().to_vec(), source.data(scales).unwrap().to_vec())
            }
            other => panic!("{} is {}", other.name(), other.type_name()),
        })
        .collect()
}

fn scheme(path: &Path) -> PackedScheme {
    let value: serde_json::Value = serde_json::from_slice(&fs::read(path.join("config.json")).unwrap()).unwrap();
    PackedScheme::from_config(path, &value).unwrap().unwrap()
}

#[test]
fn a_contiguous_checkpoint_exports_to_stq1_0_without_loss() {
    for family in [Family::Llama, Family::Qwen3, Family::HunyuanDense, Family::Gemma3] {
        let root = tempfile::tempdir().unwrap();
        let dense = folder(root.path(), &wide(family), TensorType::F32);
        for (scale, id) in [(ScaleGroup::Row, StqId::Id43), (ScaleGroup::Group(256), StqId::Id42)] {
            let name = |suffix: &str| root.path().join(format!("{scale:?}{suffix}"));
            let (native, gguf, back) = (name("native"), name("x.gguf"), name("back"));
            to(&dense, &native, &packed(scale, QuadOrder::Contiguous)).unwrap();
            let summary = to(&native, &gguf, &Request { stq_id: id, ..Request::keep() }).unwrap();
            assert!(summary.notes.iter().any(|note| note.contains("permuted")), "{:?}", summary.notes);
            assert!(summary.tensors.iter().filter(|t| t.linear).all(|t| t.to == "sherry-1.25"));
            let (a, b) = (logits(&native), logits(&gguf));
            assert!(distance(&a, &b) < 2e-5, "{family:?}: {}", distance(&a, &b));

            to(&gguf, &back, &Request::keep()).unwrap();
            assert_eq!(scheme(&back).order, QuadOrder::Contiguous);
            assert_eq!(scheme(&back).scale, ScaleGroup::Group(256));
            for ((role, codes, scales), (_, codes_back, scales_back)) in codes(&native).iter().zip(codes(&back)) {
                assert_eq!(*codes, codes_back, "{role:?}");
                match scale {
                    ScaleGroup::Tensor | ScaleGroup::Row => {
                        let repeat = scales_back.len() / scales.len();
                        let repeated: Vec<u8> = scales.chunks(2).flat_map(|s| s.repeat(repeat)).collect();
                        assert_eq!(repeated, scales_back, "{role:?}");
                    }
                    ScaleGroup::Group(_) => assert_eq!(*scales, scales_back, "{role:?}"),
                }
            }
            assert!(distance(&a, &logits(&back)) < 2e-5);
        }
    }
}

/// Rows, scales and quads that GGUF's packed types cannot hold: with a type to fall back on there is a file all the same,
/// which computes the same and goes back into a folder.
#[test]
fn what_gguf_cannot_hold_exactly_falls_back_on_blocks_when_asked() {
    let with = |change: fn(&mut ArchConfig)| {
        let mut config = wide(Family::Llama);
        change(&mut config);
        config
    };
    let narrow = with(|config| (config.hidden, config.heads, config.kv_heads) = (192, 3, 1));
    let small_heads = with(|config| (config.head_dim, config.heads) = (32, 8));
    let odd = with(|config| (config.hidden, config.ffn, config.heads, config.kv_heads) = (208, 512, 3, 1));
    let contiguous = |scale| packed(scale, QuadOrder::Contiguous);
    let ternary = |scale| {
        let (order, projection) = (QuadOrder::Contiguous, Projection::AbsMean);
        let spec = QuantSpec { format: TernaryFormat::Ternary2, order, scale, projection };
        Request { linears: Linears::Packed(spec), ..Request::keep() }
    };
    // Packed layers of the file: those that can be; down has rows of 512.
    for (config, first, packed_type, packed_count) in [
        (wide(Family::Llama), contiguous(ScaleGroup::Group(128)), "sherry-1.25", 0),
        (narrow.clone(), contiguous(ScaleGroup::Row), "sherry-1.25", narrow.layers),
        (small_heads, contiguous(ScaleGroup::Row), "sherry-1.25", 0),
        (narrow.clone(), ternary(ScaleGroup::Row), "TQ2_0", narrow.layers),
        // Rows of 208 weights are no blocks of 32 either.
        (odd, contiguous(ScaleGroup::Row), "sherry-1.25", 0),
    ] {
        let root = tempfile::tempdir().unwrap();
        let name = |name: &str| root.path().join(name);
        let (native, gguf, back) = (name("native"), name("x.gguf"), name("back"));
        to(&folder(root.path(), &config, TensorType::F32), &native, &first).unwrap();
        assert!(to(&native, &gguf, &Request::keep()).unwrap_err().to_string().contains("--fallback q8_0"));
        let fallback = Request { fallback: Some(TensorType::Q8_0), ..Request::keep() };
        let summary = to(&native, &gguf, &fallback).unwrap();
        let count = |ty: &str| summary.tensors.iter().filter(|t| t.linear && t.to == ty).count();
        assert_eq!(count(packed_type), packed_count);
        assert_eq!(count(packed_type) + count("Q8_0") + count("F16"), 7 * config.layers);
        let said = format!("{} of {} linear layers are ", 7 * config.layers - packed_count, 7 * config.layers);
        assert!(summary.notes.iter().any(|note| note.starts_with(&said)), "{:?}", summary.notes);
        let (a, b) = (logits(&native), logits(&gguf));
        assert!(distance(&a, &b) < 5e-3, "{}", distance(&a, &b));
        to(&gguf, &back, &Request::keep()).unwrap();
        assert!(distance(&b, &logits(&back)) < 2e-5, "{}", distance(&b, &logits(&back)));
    }
    // Straight from floats: what cannot be packed is not rounded to three values.
    let root = tempfile::tempdir().unwrap();
    let dense = folder(root.path(), &narrow, TensorType::F32);
    let out = root.path().join("direct.gguf");
    let request = Request { linears: Linears::Packed(STQ1_0_SPEC), ..Request::keep() };
    let error = to(&dense, &out, &request).unwrap_err().to_string();
    assert!(error.contains("rows of 192 weights") && error.contains("--fallback q8_0"), "{error}");
    let summary = to(&dense, &out, &Request { fallback: Some(TensorType::Q8_0), ..request }).unwrap();
    let packed = summary.tensors.iter().filter(|tensor| tensor.report.is_some());
    assert!(packed.clone().all(|tensor| tensor.name.contains("ffn_down")) && packed.count() == narrow.layers);
    assert!(logits(&out).iter().all(|logit| logit.is_finite()));
}

#[test]
fn what_gguf_cannot_hold_exactly_is_refused_with_the_reason() {
    let root = tempfile::tempdir().unwrap();
    let dense = folder(root.path(), &wide(Family::Llama), TensorType::F32);
    let by_128 = root.path().join("by128");
    to(&dense, &by_128, &packed(ScaleGroup::Group(128), QuadOrder::Contiguous)).unwrap();
    let out = root.path().join("out.gguf");
    let error = to(&by_128, &out, &Request::keep()).unwrap_err().to_string();
    assert!(error.contains("no exact GGUF form") && error.contains("a scale per 128 weights"), "{error}");

    let other = tempfile::tempdir().unwrap();
    let mut narrow = wide(Family::Llama);
    (narrow.hidden, narrow.heads) = (192, 3);
    narrow.kv_heads = 1;
    let dense = folder(other.path(), &narrow, TensorType::F32);
    let native = other.path().join("native");
    to(&dense, &native, &packed(ScaleGroup::Row, QuadOrder::Contiguous)).unwrap();
    let error = to(&native, &out, &Request::keep()).unwrap_err().to_string();
    assert!(error.contains("q_proj.weight has rows of 192 weights, GGUF blocks hold 256"), "{error}");

    // A head of 32 components: values cannot be permuted inside heads.
    let third = tempfile::tempdir().unwrap();
    let mut small_heads = wide(Family::Llama);
    (small_heads.head_dim, small_heads.heads) = (32, 8);
    let dense = folder(third.path(), &small_heads, TensorType::F32);
    let native = third.path().join("native");
    to(&dense, &native, &packed(ScaleGroup::Row, QuadOrder::Contiguous)).unwrap();
    let error = to(&native, &out, &Request::keep()).unwrap_err().to_string();
    assert!(error.contains("its head size 32 is not a multiple of 64"), "{error}");
    // Stride-16 codes need no permutation.
    let strided = third.path().join("strided");
    to(&dense, &strided, &packed(ScaleGroup::Row, QuadOrder::Stride16)).unwrap();
    to(&strided, &out, &Request::keep()).unwrap();
    assert!(distance(&logits(&strided), &logits(&out)) < 2e-5);
}

#[test]
fn dense_weights_survive_the_way_to_gguf_and_back() {
    for family in [Family::Llama, Family::Qwen3, Family::HunyuanDense, Family::Gemma3] {
        let root = tempfile::tempdir().unwrap();
        let dense = folder(root.path(), &wide(family), TensorType::BF16);
        let (gguf, back) = (root.path().join("x.gguf"), root.path().join("back"));
        to(&dense, &gguf, &Request::keep()).unwrap();
        assert!(distance(&logits(&dense), &logits(&gguf)) < 2e-5, "{family:?}");
        to(&gguf, &back, &Request::keep()).unwrap();
        let (a, b) = (open(&dense), open(&back));
        for role in Role::all(a.config()).filter(|role| !role.is_norm()) {
            let data = |c: &Checkpoint| {
                let name = c.tensors().get(role, c.source()).unwrap().name().to_owned();
                c.source().data(&name).unwrap().to_vec()
            };
            assert_eq!(data(&a), data(&b), "{family:?} {role:?}");
        }
        assert_eq!(a.config(), b.config());
    }
}

#[test]
fn llama3_frequencies_reach_gguf() {
    let root = tempfile::tempdir().unwrap();
    let mut config = wide(Family::Llama);
    config.rope.scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    let dense = folder(root.path(), &config, TensorType::F32);
    let (gguf, back) = (root.path().join("x.gguf"), root.path().join("back"));
    to(&dense, &gguf, &Request::keep()).unwrap();
    assert!(open(&gguf).source().find("rope_freqs.weight").is_some());
    assert!(distance(&logits(&dense), &logits(&gguf)) < 2e-5);
    to(&gguf, &back, &Request::keep()).unwrap();
    assert_eq!(open(&back).config(), &config);
}

#[test]
fn every_format_runs_from_a_native_folder() {
    let root = tempfile::tempdir().unwrap();
    let dense = folder(root.path(), &synthetic::tiny(Family::Llama), TensorType::F32);
    let spec = |format, projection, scale| QuantSpec { format, order: QuadOrder::Contiguous, scale, projection };
    let cases = [
        ("sherry", spec(TernaryFormat::Sherry, Projection::SparseAbsMean, ScaleGroup::Group(32)), 1.25),
        ("t167", spec(TernaryFormat::Ternary167, Projection::AbsMean, ScaleGroup::Row), 1.67),
        ("t2", spec(TernaryFormat::Ternary2, Projection::Twn, ScaleGroup::Row), 2.0),
    ];
    let original = logits(&dense);
    for (name, spec, bits) in cases {
        let out = root.path().join(name);
        let request =
            Request { linears: Linears::Packed(spec), embeddings: Embeddings::As(TensorType::Q8_0), ..Request::keep() };
        let summary = to(&dense, &out, &request).unwrap();
        assert!(summary.sizes().linear_bits_per_weight() >= bits);
        let stored = open(&out);
        assert!(stored.source().find("model.embed_tokens.q8_0").is_some(), "{name}");
        let packed = logits(&out);
        assert!(packed.iter().all(|x| x.is_finite()));
        assert!(distance(&original, &packed) > 0.01, "{name} did not quantize");
    }
    let out = root.path().join("q8");
    let request = Request {
        linears: Linears::Dense(TensorType::Q8_0),
        embeddings: Embeddings::As(TensorType::Q8_0),
        ..Request::keep()
    };
    // 56 inputs of down_proj are no whole Q8_0 blocks.
    assert!(to(&dense, &out, &request).unwrap_err().to_string().contains("down_proj.weight has rows of 56"));
}

#[test]
fn baselines_reach_gguf_exactly() {
    let root = tempfile::tempdir().unwrap();
    let dense = folder(root.path(), &wide(Family::Llama), TensorType::F32);
    for (name, format) in [("t2", TernaryFormat::Ternary2), ("t167", TernaryFormat::Ternary167)] {
        let spec =
            QuantSpec { format, order: QuadOrder::Contiguous, scale: ScaleGroup::Row, projection: Projection::AbsMean };
        let (native, gguf) = (root.path().join(name), root.path().join(format!("{name}.gguf")));
        to(&dense, &native, &Request { linears: Linears::Packed(spec), ..Request::keep() }).unwrap();
        to(&native, &gguf, &Request::keep()).unwrap();
        assert!(distance(&logits(&native), &logits(&gguf)) < 2e-5, "{name}");
    }
}

#[test]
fn outputs_are_whole_or_absent_and_never_overwritten_by_accident() {
    let root = tempfile::tempdir().unwrap();
    let dense = folder(root.path(), &wide(Family::Llama), TensorType::F32);
    let entries = || {
        let mut names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "precious").unwrap();
    // Not a model, so not ours to delete, --force or not; neither is what holds the input.
    let force = Request { overwrite: true, ..packed(ScaleGroup::Row, QuadOrder::Contiguous) };
    assert!(to(&dense, &out, &force).unwrap_err().to_string().contains("not a model"));
    assert!(to(&dense, root.path(), &force).unwrap_err().to_string().contains("contains the input"));
    fs::write(out.join("config.json"), "{}").unwrap();
    let before = entries();
    let request = packed(ScaleGroup::Row, QuadOrder::Contiguous);
    assert!(to(&dense, &out, &request).unwrap_err().to_string().contains("exists already"));
    assert!(to(&dense, &dense, &request).unwrap_err().to_string().contains("the output is the input"));
    // A NaN in the last tensor: everything before it was written to the staging folder by then.
    let weights = dense.join("model.safetensors");
    let good = fs::read(&weights).unwrap();
    let mut bad = good.clone();
    let at = bad.len() - 4;
    bad[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, &bad).unwrap();
    let overwrite = Request { overwrite: true, embeddings: Embeddings::As(TensorType::Q8_0), ..request.clone() };
    let error = to(&dense, &out, &overwrite).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") || error.contains("lm_head.weight"), "{error}");
    assert_eq!(fs::read(out.join("mine")).unwrap(), b"precious");
    assert_eq!(entries(), before);
    fs::write(&weights, &good).unwrap();
    to(&dense, &out, &overwrite).unwrap();
    assert!(!out.join("mine").exists());
    assert_eq!(entries(), before);
}

#[test]
fn quantizing_twice_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let dense = folder(root.path(), &wide(Family::Llama), TensorType::F32);
    let native = root.path().join("native");
    let request = packed(ScaleGroup::Row, QuadOrder::Contiguous);
    to(&dense, &native, &request).unwrap();
    let error = to(&native, &root.path().join("again"), &request).unwrap_err().to_string();
    assert!(error.contains("sherry-1.25 already"), "{error}");
}

#[test]
fn importance_must_cover_every_linear() {
    let root = tempfile::tempdir().unwrap();
    let config = wide(Family::Llama);
    let dense = folder(root.path(), &config, TensorType::F32);
    let mut request = packed(ScaleGroup::Row, QuadOrder::Contiguous);
    for role in Role::all(&config).filter(|role| role.is_linear()) {
        let name = role.name(config.family, Naming::HuggingFace).unwrap();
        request.importance.insert(name, (0..role.shape(&config)[1]).map(|i| 1.0 + (i % 7) as f32).collect());
    }
    let summary = to(&dense, &root.path().join("weighted"), &request).unwrap();
    let report = summary.tensors.iter().find_map(|t| t.report.clone()).unwrap();
    assert!(report.weighted_relative_squared_error.is_some());
    let missing = Role::Layer(1, Part::Up).name(config.family, Naming::HuggingFace).unwrap();
    request.importance.remove(&missing);
    let error = to(&dense, &root.path().join("x"), &request).unwrap_err().to_string();
    assert!(error.contains(&missing), "{error}");
}

/// A folder of f32 whose matrices are -1, 0 and +1 (or only -1 and +1) times `scale(tensor, row, column)`.
fn ternary_folder(root: &Path, binary: bool, scale: impl Fn(usize, usize, usize) -> f32) -> PathBuf {
    let config = wide(Family::Llama);
    let path = folder(root, &config, TensorType::F32);
    let mut source = synthetic::source(&config, Naming::HuggingFace, 7);
    for (tensor, role) in Role::all(&config).filter(|role| role.is_linear() || role.is_embedding()).enumerate() {
        let name = role.name(config.family, Naming::HuggingFace).unwrap();
        let [rows, cols] = role.shape(&config)[..] else { panic!("a matrix") };
        let bytes = source.data(&name).unwrap();
        let old = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let largest = old.clone().fold(0.0f32, |max, w| max.max(w.abs()));
        let value = |(at, w): (usize, f32)| {
            let code = if binary || w.abs() > largest / 3.0 { w.signum() } else { 0.0 };
            code * scale(tensor, at / cols, at % cols)
        };
        let values: Vec<f32> = old.enumerate().map(value).collect();
        source.insert_f32(&name, &[rows, cols], &values);
    }
    source.save(&path.join("model.safetensors")).unwrap();
    path
}

#[test]
fn ternary_types_take_what_they_hold_exactly() {
    use TensorType::{I2_S, Q1_0, Q2_0, TQ1_0, TQ2_0};
    const ALL: [TensorType; 5] = [TQ1_0, TQ2_0, Q2_0, Q1_0, I2_S];
    /// A scale of its own for every tensor, row and column.
    type Scale = fn(usize, usize, usize) -> f32;
    let cases: [(&str, bool, Scale, &[TensorType]); 6] = [
        ("one f16 scale", false, |t, _, _| 1.0 / (8 << (t % 3)) as f32, &[TQ1_0, TQ2_0, Q2_0, I2_S]),
        ("one f32 scale", false, |_, _, _| 0.012_345_679, &[I2_S]),
        ("a scale per row", false, |_, r, _| (1 + r % 5) as f32 / 64.0, &[TQ1_0, TQ2_0, Q2_0]),
        ("a scale per 128", false, |_, _, c| (1 + c / 128 % 2) as f32 / 64.0, &[Q2_0]),
        ("a scale per 64", true, |_, _, c| (1 + c / 64 % 2) as f32 / 64.0, &[Q2_0]),
        ("binary", true, |_, r, _| (1 + r % 5) as f32 / 64.0, &[TQ1_0, TQ2_0, Q2_0, Q1_0]),
    ];
    for (case, binary, scale, holds) in cases {
        let root = tempfile::tempdir().unwrap();
        let dense = ternary_folder(root.path(), binary, scale);
        let original = logits(&dense);
        for ty in ALL {
            let out = root.path().join(format!("{ty}.gguf"));
            let request = Request { linears: Linears::Dense(ty), ..Request::keep() };
            let made = to(&dense, &out, &request);
            if !holds.contains(&ty) {
                let error = made.unwrap_err().to_string();
                let reason = if ty == I2_S { "plus or minus one number" } else { "plus or minus one f16 number" };
                for part in [&format!("no exact form in {ty}"), ".weight'", reason] {
                    assert!(error.contains(part), "{case}, {ty}: {error}");
                }
                assert!(!out.exists(), "{case}, {ty}");
                continue;
            }
            let notes = made.unwrap().notes;
            assert_eq!(
                notes.iter().any(|note| note.contains("I2_S is the type of BitNet")),
                ty == I2_S,
                "{case}, {ty}"
            );
            let stored = open(&out);
            let q = stored.tensors().get(Role::Layer(0, Part::Q), stored.source()).unwrap();
            assert_eq!(q.type_name(), ty.to_string(), "{case}");
            assert!(distance(&original, &logits(&out)) < 2e-5, "{case}, {ty}");
            // From there into floats again: every weight as it was.
            let back = root.path().join(format!("{ty}-back"));
            to(&out, &back, &Request { linears: Linears::Dense(TensorType::F32), ..Request::keep() }).unwrap();
            let values = |path: &Path| {
                let folder = open(path);
                let data = folder.source().data("model.layers.1.mlp.down_proj.weight").unwrap();
                data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<_>>()
            };
            assert!(values(&back) == values(&dense), "{case}, {ty}");
        }
    }
}

#[test]
fn packed_codes_become_ternary_types_and_sherry_ones_too() {
    let root = tempfile::tempdir().unwrap();
    let dense = folder(root.path(), &wide(Family::Llama), TensorType::F32);
    let native = root.path().join("native");
    to(&dense, &native, &packed(ScaleGroup::Row, QuadOrder::Contiguous)).unwrap();
    let request = |ty| Request { linears: Linears::Dense(ty), ..Request::keep() };
    let out = root.path().join("tq2.gguf");
    to(&native, &out, &request(TensorType::TQ2_0)).unwrap();
    assert!(distance(&logits(&native), &logits(&out)) < 2e-5);
    let error = to(&native, &root.path().join("q1.gguf"), &request(TensorType::Q1_0)).unwrap_err().to_string();
    assert!(error.contains("all plus or minus one f16 number (column"), "{error}");
    let error = to(&native, &root.path().join("folder"), &request(TensorType::I2_S)).unwrap_err().to_string();
    assert!(error.contains("I2_S is a type of GGUF files"), "{error}");
}

#[test]
fn rounded_heads_and_inverse_scales_are_noted() {
    let made = |scale: f32, embeddings| {
        let root = tempfile::tempdir().unwrap();
        let dense = ternary_folder(root.path(), false, move |_, _, _| scale);
        let out = root.path().join("x.gguf");
        let request = Request { linears: Linears::Dense(TensorType::I2_S), embeddings, ..Request::keep() };
        to(&dense, &out, &request).unwrap();
        open(&out).notes()
    };
    assert_eq!(made(0.05, Embeddings::Keep), [""; 0]);
    let head = made(0.05, Embeddings::As(TensorType::I2_S));
    assert!(head.len() == 1 && head[0].contains("token_embd.weight' is I2_S"), "{head:?}");
    let inverse = made(20.0, Embeddings::Keep);
    assert!(inverse.len() == 1 && inverse[0].contains("scale 20") && inverse[0].contains("inverse"), "{inverse:?}");
}

const THREE_BITS: MatrixType = MatrixType::Dense(TensorType::SQ3_0);

/// A recipe with every type that rows of 256 can have in both containers, in turn.
fn colourful(config: &ArchConfig) -> Recipe {
    let types = MatrixType::ALL.into_iter().filter(|ty| *ty != THREE_BITS).cycle();
    let of = |(role, ty): (Role, MatrixType)| match role.is_embedding() {
        true => (role, MatrixType::Dense(TensorType::Q4_0)),
        false => (role, ty),
    };
    Recipe::new(Path::new("some.json"), config, matrices(config).zip(types).map(of).collect()).unwrap()
}

fn by(recipe: Recipe) -> Request {
    Request { recipe: Some(recipe), ..Request::keep() }
}

#[test]
fn a_recipe_gives_every_matrix_its_type_in_both_containers() {
    for family in [Family::Llama, Family::Qwen3, Family::HunyuanDense, Family::Gemma3] {
        let root = tempfile::tempdir().unwrap();
        let mut config = wide(family);
        config.layers = 3;
        let dense = folder(root.path(), &config, TensorType::F32);
        let recipe = colourful(&config);
        let original = logits(&dense);
        for name in ["native", "x.gguf"] {
            let out = root.path().join(name);
            let summary = to(&dense, &out, &by(recipe.clone())).unwrap();
            let made = open(&out);
            let container = container_of(&out);
            let mut bytes = 0;
            for role in matrices(&config) {
                let ty = recipe.get(role).unwrap();
                let stored = made.tensors().get(role, made.source()).unwrap();
                let expected = match (ty, container) {
                    (MatrixType::Packed(format), Container::Gguf) => ["STQ1_0", "TQ1_0", "TQ2_0"]
                        [usize::from(format != TernaryFormat::Sherry) + usize::from(format == TernaryFormat::Ternary2)]
                    .to_owned(),
                    (MatrixType::Packed(format), Container::Folder) => format.to_string(),
                    (MatrixType::Dense(ty), _) => ty.to_string(),
                };
                assert_eq!(stored.type_name(), expected, "{family:?} {role:?}");
                let [rows, cols] = role.shape(&config)[..] else { panic!("a matrix") };
                assert_eq!(
                    stored.bytes(made.source()),
                    ty.bytes(rows, cols, container).unwrap(),
                    "{family:?} {role:?}"
                );
                bytes += stored.bytes(made.source());
            }
            let [linears, embeddings, weights] = recipe.bytes(&config, container);
            let sizes = summary.sizes();
            assert_eq!([linears, embeddings, weights], [sizes.linears, sizes.embeddings, sizes.linear_weights]);
            assert_eq!(bytes, linears + embeddings);
            let found = logits(&out);
            assert!(found.iter().all(|x| x.is_finite()));
            assert!(distance(&original, &found) > 0.01, "{family:?} {name} did not quantize");
        }
        // Every matrix holds the same values in both; GGUF has ternary scales per 256 weights.
        let same = |role: Role| matches!(recipe.get(role), Some(MatrixType::Dense(_)));
        let (a, b) = (open(&root.path().join("native")), open(&root.path().join("x.gguf")));
        for role in matrices(&config).filter(|role| same(*role)) {
            let rows = |checkpoint: &Checkpoint| {
                let stored = checkpoint.tensors().get(role, checkpoint.source()).unwrap();
                let moves = Moves::for_folder(checkpoint);
                let rows = Rows::open(checkpoint.source(), checkpoint.config(), role, stored, moves).unwrap();
                let (count, cols) = rows.shape();
                let mut values = vec![0.0; count * cols];
                values.chunks_mut(cols).enumerate().for_each(|(row, out)| rows.fill(row, out));
                values
            };
            assert!(rows(&a) == rows(&b), "{family:?} {role:?}");
        }
        // On from there: the codes stay as they are in a folder, floats can be made, a GGUF file is refused.
        let native = root.path().join("native");
        let again = root.path().join("again");
        to(&native, &again, &Request::keep()).unwrap();
        assert_eq!(logits(&native), logits(&again), "{family:?}");
        let floats = root.path().join("floats");
        to(&native, &floats, &Request { linears: Linears::Dense(TensorType::F32), ..Request::keep() }).unwrap();
        assert!(distance(&logits(&native), &logits(&floats)) < 2e-5, "{family:?}");
        let error = to(&native, &root.path().join("y.gguf"), &Request::keep()).unwrap_err().to_string();
        assert!(error.contains("packed in several ways"), "{error}");
        let error = to(&native, &root.path().join("twice"), &by(recipe)).unwrap_err().to_string();
        assert!(error.contains("packed already"), "{error}");
    }
}

#[test]
fn one_packed_type_beside_blocks_is_an_ordinary_folder() {
    let root = tempfile::tempdir().unwrap();
    let config = wide(Family::Llama);
    let dense = folder(root.path(), &config, TensorType::F32);
    let types = matrices(&config).map(|role| match role {
        Role::Layer(_, Part::Down) | Role::Embed | Role::Head => (role, MatrixType::Dense(TensorType::Q8_0)),
        _ => (role, MatrixType::Packed(TernaryFormat::Sherry)),
    });
    let recipe = Recipe::new(Path::new("some.json"), &config, types.collect()).unwrap();
    let out = root.path().join("out");
    to(&dense, &out, &by(recipe)).unwrap();
    assert_eq!(
        scheme(&out),
        PackedScheme { format: TernaryFormat::Sherry, order: QuadOrder::Contiguous, scale: ScaleGroup::Row }
    );
    // The same codes as where all layers are packed alike.
    let all = root.path().join("all");
    to(&dense, &all, &packed(ScaleGroup::Row, QuadOrder::Contiguous)).unwrap();
    for part in [Part::Q, Part::Up] {
        let name = Role::Layer(1, part).name(config.family, Naming::HuggingFace).unwrap().replace("weight", "codes");
        assert_eq!(*open(&out).source().data(&name).unwrap(), *open(&all).source().data(&name).unwrap());
    }
}

#[test]
fn three_bits_are_for_folders() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    // Rows of 192 and 576 are no blocks of 256.
    let mut config = synthetic::tiny(Family::Llama);
    (config.hidden, config.ffn, config.head_dim) = (192, 576, 48);
    let dense = folder(root.path(), &config, TensorType::F32);
    let original = logits(&dense);
    let of = |linears: &str, embeddings: MatrixType| {
        Recipe::uniform(Path::new("some.json"), &config, MatrixType::parse(linears).unwrap(), embeddings)
    };
    let q8 = MatrixType::Dense(TensorType::Q8_0);
    let errors = ["q2_0", "sq3_0", "q4_0"].map(|ty| {
        to(&dense, &at(ty), &by(of(ty, q8))).unwrap();
        distance(&original, &logits(&at(ty)))
    });
    assert!(errors.is_sorted_by(|a, b| a > b) && errors[2] > 0.0, "{errors:?}");
    // The folder can be written again, and its floats.
    let three = at("sq3_0");
    to(&three, &at("again"), &Request::keep()).unwrap();
    let bytes = |name: &str| {
        let made = open(&at(name));
        let stored = matrices(&config).map(|role| made.tensors().get(role, made.source()).unwrap().name().to_owned());
        stored.map(|name| (made.source().data(&name).unwrap().to_vec(), name)).collect::<Vec<_>>()
    };
    assert!(bytes("sq3_0") == bytes("again"));
    let floats = Request { linears: Linears::Dense(TensorType::F32), ..Request::keep() };
    to(&three, &at("floats.gguf"), &floats).unwrap();
    assert!(distance(&logits(&three), &logits(&at("floats.gguf"))) < 2e-5);
    // GGUF has no such type.
    let error = to(&three, &at("x.gguf"), &Request::keep()).unwrap_err().to_string();
    assert!(error.contains("q_proj") && error.contains("only a native folder"), "{error}");
    let error = to(&dense, &at("x.gguf"), &by(of("sq3_0", q8))).unwrap_err().to_string();
    assert!(error.contains("some.json") && error.contains("GGUF has no such type"), "{error}");
    to(&dense, &at("embedding"), &by(of("q4_0", THREE_BITS))).unwrap();
    let error = to(&at("embedding"), &at("x.gguf"), &floats).unwrap_err().to_string();
    assert!(error.contains("embed_tokens") && error.contains("--embed"), "{error}");
    assert!(!at("x.gguf").exists());
}

#[test]
fn what_a_recipe_asks_for_in_vain_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let config = synthetic::tiny(Family::Qwen3);
    let dense = folder(root.path(), &config, TensorType::F32);
    let [sherry, q4] = ["sherry", "q4_0"].map(|name| MatrixType::parse(name).unwrap());
    for (linears, name) in [(q4, "out"), (sherry, "out.gguf")] {
        let recipe = Recipe::uniform(Path::new("some.json"), &config, linears, q4);
        let error = to(&dense, &root.path().join(name), &by(recipe)).unwrap_err().to_string();
        assert!(error.contains("some.json") && error.contains("layers.0."), "{error}");
        assert!(!root.path().join(name).exists());
    }
}

#[test]
fn exact_recipes_keep_what_is_there_and_refuse_the_rest() {
    let root = tempfile::tempdir().unwrap();
    let config = wide(Family::Llama);
    let dense = folder(root.path(), &config, TensorType::F32);
    let recipe = colourful(&config);
    let exactly = Request { exact: true, ..by(recipe.clone()) };
    let error = to(&dense, &root.path().join("x"), &exactly).unwrap_err().to_string();
    assert!(error.contains("proj.weight") && error.contains("times one f16 scale"), "{error}");
    let native = root.path().join("native");
    to(&dense, &native, &by(recipe.clone())).unwrap();
    let error = to(&native, &root.path().join("x"), &exactly).unwrap_err().to_string();
    assert!(error.contains("packed already"), "{error}");
    assert!(!root.path().join("x").exists());
}
