//! What the reader accepts, the writer writes such that it reads back the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sherry::Error;
use sherry::io::gguf::{GgufFile, GgufWriter};
use sherry::io::{ReadMode, TensorSource};

/// Entries but those that the writer sets itself; as text, in which NaN equals NaN.
fn entries(file: &GgufFile) -> Vec<String> {
    let own =
        |key: &str| key == "general.alignment" || key == "general.quantization_version" || key.starts_with("split.");
    let kept = file.metadata().entries().iter().filter(|(key, _)| !own(key));
    kept.map(|entry| format!("{entry:?}")).collect()
}

fuzz_target!(|bytes: &[u8]| {
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
});
