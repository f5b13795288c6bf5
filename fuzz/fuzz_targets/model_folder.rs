#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sherry_fuzzing::model_folder(data));
