//! Any bytes as a GGUF file: an error or a source whose tensors can all be read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sherry::io::gguf::GgufFile;
use sherry::io::{TensorSource, verify_tensor};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = GgufFile::from_bytes("fuzz.gguf", bytes.to_vec().into()) else { return };
    for (key, value) in file.metadata().entries() {
        assert_eq!(file.metadata().find(key).map(ToString::to_string), Some(value.to_string()));
    }
    for info in file.tensors() {
        assert_eq!(file.data(&info.name).unwrap().len(), info.bytes);
        let _ = verify_tensor(&file, info);
    }
});
