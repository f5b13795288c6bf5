//! Writes the folders of `fuzz/seeds` that our own writers can make: `cargo run -p sherry-fuzzing --example make_seeds`.
//! (`fuzz/seeds/gguf` is made by a script, one file per field.)

use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sherry::io::native::PackedScheme;
use sherry::io::{ReadMode, TensorInfo, TensorSource as _, safetensors};
use sherry::model::names::Naming;
use sherry::model::{ArchConfig, Checkpoint, Family, config_hf, synthetic};
use sherry::tokenizer::{GgufVocab, Tokenizer};
use sherry::{Llm, NoProgress};
use sherry_convert::{Embeddings, Linears, Request};
use sherry_kernels::format::{QuadOrder, ScaleGroup, TensorType, TernaryFormat};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let folder = root.join(target);
        fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(name), bytes))
    };
    for family in [Family::Llama, Family::Qwen3, Family::HunyuanDense, Family::Gemma3] {
        let config = config_hf::write(&synthetic::tiny(family)).ok_or("no configuration for it")?;
        put("config_json", &format!("{family:?}.json").to_lowercase(), config.to_string().as_bytes())?;
        let scheme =
            PackedScheme { format: TernaryFormat::Sherry, order: QuadOrder::Contiguous, scale: ScaleGroup::Row };
        let mut packed = config;
        packed["quantization_config"] = scheme.to_json();
        put("config_json", &format!("{family:?}_packed.json").to_lowercase(), packed.to_string().as_bytes())?;
    }
    let (llm, pieces) = (Llm::tiny()?, piece_tokenizer()?);
    let bytes = llm.tokenizer();
    put("tokenizer_json", "bytes.json", bytes.to_json()?.as_bytes())?;
    put("tokenizer_json", "pieces.json", pieces.to_json()?.as_bytes())?;
    put("tiktoken", "three.txt", b"YQ== 0\nYg== 1\nYWI= 2\n")?;
    for (name, template) in TEMPLATES {
        put("chat_template", name, template.as_bytes())?;
    }
    put("safetensors_header", "types.safetensors", &safetensors_file(&root)?)?;
    for (name, bytes) in packed() {
        put("packed_decode", &name, &bytes)?;
    }
    let rows = "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\", \"label\": 0}\n\n{\"choices\": {\"text\": [\"x\"], \"label\": [\"A\"]}}\n";
    put("data_rows", "rows.jsonl", rows.as_bytes())?;
    let results = json!({
        "results": { "piqa": { "acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "piqa" } },
        "sherry": { "perplexity": [{ "perplexity": 12.5 }] },
    });
    put("results_file", "results.json", results.to_string().as_bytes())?;
    put("gguf_model", "llama.gguf", &model(bytes)?)?;
    for (name, quantization) in FOLDERS {
        put("model_folder", name, &model_folder(&serde_json::from_str(quantization)?)?)?;
    }
    Ok(())
}

/// What the configurations of quantized folders say.
const FOLDERS: [(&str, &str); 4] = [
    ("plain", "{}"),
    ("bitnet", r#"{"quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"}}"#),
    ("mlx-1-bit", r#"{"quantization": {"bits": 1, "group_size": 32}}"#),
    ("mlx-2-bit", r#"{"quantization": {"bits": 2, "group_size": 32}}"#),
];

/// A folder as the target `model_folder` takes it: the matrices of a tiny model as `quantization` says.
fn model_folder(quantization: &Value) -> Result<Vec<u8>, Box<dyn Error>> {
    /// Codes 0, 2, 1, 1 of two bits each.
    const CODES: u8 = 0b0101_1000;
    let config = ArchConfig { vocab: 40, hidden: 32, ffn: 64, layers: 1, tied: true, ..synthetic::tiny(Family::Llama) };
    let mut source = synthetic::source(&config, Naming::HuggingFace, 7);
    let mut json = config_hf::write(&config).ok_or("no configuration for it")?;
    let bits = quantization["quantization"]["bits"].as_u64().map(|bits| bits as usize);
    for info in source.tensors().to_vec().iter().filter(|info| info.shape.len() == 2) {
        let [rows, cols] = info.shape[..] else { continue };
        if let Some(bits) = bits {
            let module = info.name.trim_end_matches(".weight");
            let step = if bits == 1 { 0.5 } else { 0.25 };
            let words = cols * bits / 32;
            source.insert(&info.name, TensorType::U32, &[rows, words], vec![CODES; rows * words * 4].into());
            source.insert_f32(&format!("{module}.scales"), &[rows, cols / 32], &vec![step; rows * cols / 32]);
            source.insert_f32(&format!("{module}.biases"), &[rows, cols / 32], &vec![-0.25; rows * cols / 32]);
        } else if quantization.get("quantization_config").is_some() && info.name.contains("_proj.") {
            let stored = rows.div_ceil(4);
            source.insert(&info.name, TensorType::U8, &[stored, cols], vec![CODES; stored * cols].into());
            source.insert_f32(&format!("{}_scale", info.name), &[1], &[0.25]);
        }
    }
    for (field, value) in quantization.as_object().into_iter().flatten() {
        json[field] = value.clone();
    }
    let place = tempfile::tempdir()?;
    let file = place.path().join("model.safetensors");
    source.save(&file)?;
    Ok([json.to_string().as_bytes(), &[0], &fs::read(file)?].concat())
}

const TEMPLATES: [(&str, &str); 5] = [
    (
        "chatml.jinja",
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' \
         + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ),
    (
        "alternating.jinja",
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
         {{ raise_exception('roles must alternate') }}{% endif %}{{ message.content | trim }}{{ eos_token }}{% endfor %}",
    ),
    (
        "macro.jinja",
        "{%- macro one(m, depth=0) -%}{%- if depth < 3 -%}{{ m.content }}{{ one(m, depth + 1) }}{%- endif -%}\
         {%- endmacro -%}{%- for m in messages -%}{{ one(m) }}{%- endfor -%}",
    ),
    (
        "namespace.jinja",
        "{%- set ns = namespace(text='') -%}{%- for m in messages -%}{%- set ns.text = ns.text ~ m.content -%}\
         {%- endfor -%}{{ ns.text | upper | tojson }}{# nothing #}{{ messages[1:] | length }}{{ [1, 2] | join(', ') }}",
    ),
    (
        "grows.jinja",
        "{% set x = 'ab' %}{% for i in range(100000) %}{% set x = x ~ x %}{% endfor %}{{ x * 1000000 }}\0hello",
    ),
];

/// A vocabulary with scores, as SentencePiece has them, without bytes.
fn piece_tokenizer() -> sherry::Result<Tokenizer> {
    let tokens = ["<unk>", "<s>", "</s>", "\u{2581}", "a", "b", "ab", "\u{2581}a"].to_vec();
    Tokenizer::from_gguf(&GgufVocab {
        model: "llama".to_owned(),
        token_types: Some(vec![2, 3, 3, 1, 1, 1, 1, 1]),
        scores: Some((0..8u8).map(|id| -f32::from(id)).collect()),
        tokens: tokens.into(),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocab::default()
    })
}

fn safetensors_file(place: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let plan: Vec<TensorInfo> =
        [("a", TensorType::F32, 4), ("b", TensorType::F16, 2), ("c", TensorType::BF16, 2), ("d", TensorType::U8, 1)]
            .map(|(name, ty, size)| TensorInfo { name: name.to_owned(), ty, shape: vec![2, 3], bytes: 6 * size })
            .into();
    let path = place.join("types.tmp");
    let mut writer = safetensors::Writer::create(&path, &plan, &[("format".to_owned(), "pt".to_owned())].into())?;
    for info in &plan {
        writer.write(&info.name, &vec![1; info.bytes])?;
    }
    writer.finish()?;
    let bytes = fs::read(&path)?;
    fs::remove_file(path)?;
    Ok(bytes)
}

/// Every format and scale, a few shapes.
fn packed() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for kind in [0u8, 1, 2, 128] {
        for scale in 0..5u8 {
            let columns = if kind == 1 { 192u16 } else { 256 };
            let [low, high] = columns.to_le_bytes();
            let mut bytes = vec![kind, scale, 4, low, high];
            bytes.extend((0..64u8).map(|i| i.wrapping_mul(37) & 0x3b));
            files.push((format!("kind{kind}_scale{scale}"), bytes));
        }
    }
    files
}

/// A model of one small layer in GGUF.
fn model(tokenizer: &Tokenizer) -> Result<Vec<u8>, Box<dyn Error>> {
    let place = tempfile::tempdir()?;
    let folder = place.path().join("model");
    fs::create_dir(&folder)?;
    let config = ArchConfig {
        vocab: tokenizer.vocab_size(),
        hidden: 32,
        ffn: 64,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        attn_scale: 0.25,
        context: 64,
        tied: true,
        ..synthetic::tiny(Family::Llama)
    };
    let source = synthetic::source(&config, Naming::HuggingFace, 7);
    fs::write(folder.join("config.json"), config_hf::write(&config).ok_or("no configuration for it")?.to_string())?;
    fs::write(folder.join("tokenizer.json"), tokenizer.to_json()?)?;
    fs::write(folder.join("tokenizer_config.json"), tokenizer.to_config_json())?;
    source.save(&folder.join("model.safetensors"))?;
    let request = Request {
        linears: Linears::Dense(TensorType::Q8_0),
        embeddings: Embeddings::As(TensorType::Q8_0),
        ..Request::keep()
    };
    let out = place.path().join("model.gguf");
    sherry_convert::convert(&Checkpoint::open(&folder, ReadMode::Read)?, &out, &request, &NoProgress, |_| {})?;
    Ok(fs::read(out)?)
}
