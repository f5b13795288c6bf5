//! Model files.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use sherry::io::gguf::{GgufFile, GgufWriter};
use sherry::io::{ReadMode, Safetensors, TensorSource, verify_tensor};
use sherry::model::{Checkpoint, Decoder, KvCache, KvType, Wanted};
use sherry::{Error, NoProgress};
use sherry_kernels::{Engine, Isa, Pool, Precision};

/// Any bytes as a GGUF file: an error, or a source whose tensors can all be read.
pub fn gguf_header(bytes: &[u8]) {
    let Ok(file) = GgufFile::from_bytes("fuzz.gguf", bytes.to_vec().into()) else { return };
    for (key, value) in file.metadata().entries() {
        assert_eq!(file.metadata().find(key).map(ToString::to_string), Some(value.to_string()));
    }
    for info in file.tensors() {
        assert_eq!(file.data(&info.name).unwrap().len(), info.bytes);
        let _ = verify_tensor(&file, info);
    }
}

/// Any bytes as a model in GGUF: an error, or a configuration, a tokenizer and tensors that fit together.
pub fn gguf_model(bytes: &[u8]) {
    let Ok(file) = GgufFile::from_bytes("fuzz.gguf", bytes.to_vec().into()) else { return };
    let Ok(checkpoint) = Checkpoint::from_gguf(Path::new("fuzz.gguf"), file) else { return };
    assert!(!checkpoint.describe().is_empty());
    assert!(checkpoint.tensors().iter().all(|(role, _)| !role.shape(checkpoint.config()).is_empty()));
    let _ = checkpoint.config_json();
    if let Ok(tokenizer) = checkpoint.tokenizer()
        && let Ok(ids) = tokenizer.encode("ab <|x|> \u{0}é", true, true)
    {
        tokenizer.decode(&ids, true);
    }
}

/// A `config.json`, a zero byte and a safetensors file as a folder (plain, native, BitNet's or MLX's): an error, or a model that
/// computes.
pub fn model_folder(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == 0) else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), &bytes[..end]).unwrap();
    fs::write(folder.path().join("model.safetensors"), &bytes[end + 1..]).unwrap();
    let Ok(checkpoint) = Checkpoint::open(folder.path(), ReadMode::Read) else { return };
    assert!(!checkpoint.describe().is_empty());
    checkpoint.notes();
    let Ok(model) = checkpoint.load(&Pool::new(1), &NoProgress) else { return };
    let vocab = model.config.vocab;
    let mut cache = KvCache::new(&model.config, 1, KvType::F32).unwrap();
    let mut decoder = Decoder::new(Arc::new(model), Engine::new(Isa::best(), 1, Precision::Int8));
    let logits = decoder.forward_one(&mut cache, &[0], Wanted::Last).unwrap();
    assert_eq!(logits.last().map(<[f32]>::len), Some(vocab));
}

/// Entries but those that the writer sets itself; as text, in which NaN equals NaN.
fn entries(file: &GgufFile) -> Vec<String> {
    let own =
        |key: &str| key == "general.alignment" || key == "general.quantization_version" || key.starts_with("split.");
    let kept = file.metadata().entries().iter().filter(|(key, _)| !own(key));
    kept.map(|entry| format!("{entry:?}")).collect()
}

/// What the reader of GGUF accepts, the writer writes such that it reads back the same.
pub fn gguf_roundtrip(bytes: &[u8]) {
    let Ok(file) = GgufFile::from_bytes("fuzz.gguf", bytes.to_vec().into()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.gguf");
    let (metadata, tensors) = (file.metadata().entries().to_vec(), file.tensors().to_vec());
    let mut writer = match GgufWriter::create(&path, metadata, tensors, file.stq_id().unwrap_or_default()) {
        Ok(writer) => writer,
        Err(Error::Invalid(_)) => return, // stricter than the reader, for example in the length of names
        Err(other) => panic!("{other}"),
    };
    for info in file.tensors() {
        writer.write(&info.name, &file.data(&info.name).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let copy = GgufFile::open(&path, ReadMode::Read).unwrap();
    assert_eq!(entries(&copy), entries(&file));
    assert_eq!(copy.tensors(), file.tensors());
    assert!(file.tensors().iter().all(|t| *copy.data(&t.name).unwrap() == *file.data(&t.name).unwrap()));
}

/// Any bytes as a safetensors file: an error, or a model whose every tensor can be read.
pub fn safetensors_header(data: &[u8]) {
    let Ok(model) = Safetensors::from_bytes(Path::new("fuzz.safetensors"), data.to_vec()) else { return };
    let mut total = 0;
    for info in model.tensors() {
        let bytes = model.data(&info.name).expect("a listed tensor has data");
        assert_eq!(bytes.len(), info.bytes);
        assert_eq!(info.shape.iter().product::<usize>() * info.ty.block_bytes(), info.bytes);
        total += bytes.len();
    }
    for other in model.other_tensors() {
        assert!(model.data(&other.name).is_err());
        total += other.bytes;
    }
    assert!(total + 8 <= data.len());
}
