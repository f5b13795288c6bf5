//! Any bytes as a safetensors file: an error or a model whose every tensor can be read.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sherry::io::{Safetensors, TensorSource};

fuzz_target!(|data: &[u8]| {
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
});
